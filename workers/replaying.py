"""Plays finished episodes again: from their stored actions, and from the job's seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from api.specs import cuts_of, generation_from_json, source_from_json
from factory.dataset_reading import open_dataset, read_episode, read_episodes
from factory.demos import read_demos
from factory.episodes import Episode
from factory.errors import BackendError
from factory.provenance import SOURCES_PATH
from factory.recording import episode_of
from factory.replay import run_attempts
from factory.sim import SimBackend
from factory.sources import prepare_sources
from factory.specs import TaskSpec
from sim_tasks.backends import executor_name, open_backend
from sim_tasks.catalog import find_task


@dataclass(frozen=True, kw_only=True)
class Replay:
    """How one episode compared.

    Attributes:
        episode: index in the dataset; likewise the attempt it was.
        attempt: see episode.
        way: "actions" or "seed".
        equal: every bit of every state (and, from the seed, of every column) is the same.
        difference: where it first differs, in words; empty when equal.
        success: whether the replayed states hold the task's success to the end.
        same_machine: the recorded runtime fingerprint is this machine's; bits are only promised then.
    """

    episode: int
    attempt: int
    way: str
    equal: bool
    difference: str
    success: bool
    same_machine: bool


def replay_dataset(
    root: Path, *, episode: int | None = None, ways: tuple[str, ...] = ("actions", "seed")
) -> Iterator[Replay]:
    """Yield a comparison for each episode and way.

    Raises:
        DatasetError: the dataset is damaged; an episode whose stored bytes changed is named.
        BackendError: its task's simulator cannot be opened, or would not make the same from the seed.
    """
    facts = open_dataset(root)
    task = find_task(facts.job["task"], facts.job.get("robot", ""))
    executor = facts.job.get("executor", {})
    statistical = executor.get("determinism") == "statistical"
    if "seed" in ways and statistical:
        raise BackendError(
            f"{root} was made by the backend {executor_name(executor)}, which never makes the same attempt twice: from "
            "its seed come other episodes, not these. `--way actions` plays the stored actions on the CPU"
        )
    backend = open_backend(task, name="robosuite" if statistical else executor_name(executor))
    try:
        chosen = enumerate(read_episodes(root)) if episode is None else [(episode, read_episode(root, episode))]
        regenerate = _Regenerator(root, task, backend, facts.job) if "seed" in ways else None
        for index, stored in chosen:
            if "actions" in ways:
                yield _from_actions(index, stored, task, backend)
            if regenerate is not None:
                yield regenerate(index, stored)
    finally:
        backend.close()


def _same_machine(stored: Episode, backend: SimBackend) -> bool:
    recorded = stored.provenance.get("executor", {}).get("fingerprint")
    return recorded == backend.describe().get("fingerprint")


def _from_actions(index: int, stored: Episode, task: TaskSpec, backend: SimBackend) -> Replay:
    if stored.start is None:
        return Replay(
            episode=index, attempt=stored.index, way="actions", equal=False, difference="it has no start state",
            success=False, same_machine=False,
        )  # fmt: skip
    backend.restore(0, stored.start)
    result = backend.play(0, stored.columns["action"].values)
    difference = ""
    for name, states in result.sim_states.items():
        difference = difference or _first_difference(f"state {name!r}", stored.sim_states[name][1:], states)
    hold = int(stored.provenance.get("hold_steps", 1))
    held = np.asarray(task.success(result.scene), bool)[-hold:]
    return Replay(
        episode=index,
        attempt=stored.index,
        way="actions",
        equal=not difference,
        difference=difference,
        success=bool(len(held) and held.all()),
        same_machine=_same_machine(stored, backend),
    )


class _Regenerator:
    """Makes attempts again from what the dataset embeds: sources, settings, seed."""

    def __init__(self, root: Path, task: TaskSpec, backend: SimBackend, job: Mapping[str, Any]) -> None:
        self._task, self._backend = task, backend
        # Whole, because failed episodes are stored whole; of a success no byte depends on it.
        self._spec = replace(generation_from_json(job["generation"]), early_ending=False)
        demos = read_demos(root / SOURCES_PATH)
        cuts = cuts_of([source_from_json(source) for source in job.get("sources", ())])
        self._sources = prepare_sources(backend, task, demos, self._spec, cuts).sources

    def __call__(self, index: int, stored: Episode) -> Replay:
        result = next(run_attempts(self._backend, self._task, self._sources, self._spec, [stored.index]))
        again = episode_of(result, self._task, self._spec, self._backend.describe())
        difference = ""
        for name, column in stored.columns.items():
            difference = difference or _first_difference(f"column {name!r}", column.values, again.columns[name].values)
        for name, states in stored.sim_states.items():
            difference = difference or _first_difference(f"state {name!r}", states, again.sim_states[name])
        return Replay(
            episode=index,
            attempt=stored.index,
            way="seed",
            equal=not difference,
            difference=difference,
            success=result.held,
            same_machine=_same_machine(stored, self._backend),
        )


def _first_difference(what: str, stored: np.ndarray, again: np.ndarray) -> str:
    if len(stored) != len(again):
        return f"{what} has {len(again)} rows, stored are {len(stored)}"
    # Compared as bytes: -0.0 and 0.0, or two kinds of NaN, are different bits.
    same = (np.ascontiguousarray(stored).view(np.uint8) == np.ascontiguousarray(again).view(np.uint8)).reshape(
        len(stored), -1
    )
    if same.all():
        return ""
    row = int(np.flatnonzero(~same.all(axis=1))[0])
    worst = float(np.abs(np.asarray(stored, float) - np.asarray(again, float)).max())
    return f"{what} differs from step {row} on, by at most {worst:.3g}"
