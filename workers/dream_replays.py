"""The stage of a run of dreams in which labels are carried out in the simulator."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np

from dreams.frame_book import read_frames
from dreams.frames import FirstFrame
from dreams.motion import Labels
from dreams.prompts import Proposal
from factory import poses
from factory.errors import SpecError
from factory.sim import SimBackend
from sim_tasks.backends import open_backend
from sim_tasks.catalog import find_task
from sim_tasks.tasks import tabletop_events
from workers.dream_folder import Run, Said, each_wish, file_name, label_version, number_of, read_labels, silent
from workers.dream_starts import roles_of

if TYPE_CHECKING:
    from dreams.verify import Mode


def hand_starts(run: Run, *, of: Collection[str] | None = None) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Return where the hands are in each first frame whose state is known, hand -> pose in its base frame.

    Only frames of the tasks `of`, where those are given.
    """
    found: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    todo: dict[str, list[FirstFrame]] = {}
    for frame in read_frames(run.frames):
        if not frame.replayable or frame.task is None or (of is not None and frame.task not in of):
            continue
        kept = run.arrays("starts", file_name(frame.name))
        if kept is None:
            todo.setdefault(frame.task, []).append(frame)
        else:
            found[frame.name] = kept
    for task, frames in todo.items():
        with closing(open_backend(find_task(task))) as backend:
            for frame in frames:
                if frame.state is None or backend.describe()["model_sha"] != frame.model_sha:
                    continue
                scene = backend.restore(0, frame.state)
                hands = {
                    eef: (poses.inverse(scene.T_world_base[eef]) @ scene.T_world_eef[eef])[0]
                    for eef in backend.task.robot.eefs
                }
                run.keep("starts", file_name(frame.name), hands)
                found[frame.name] = hands
    return found


def verify_all(run: Run, *, mode: Mode, names: Collection[str] | None = None, said: Said = silent) -> int:
    """Carry every dream's labels out from its first frame's state; return how many verifications are new.

    What a dream was told decides what success is; one whose words the task does not know is tried against the task's
    own goal only if it was asked for that.
    """
    every = [(name, proposal, frame, read_labels(run, name)) for name, proposal, frame in each_wish(run, names)]
    if missing := [name for name, _, _, labels in every if labels is None]:
        raise SpecError(f"{missing[0]} has no labels; `factory dream label {run.root}` reads them")
    new = done = 0
    tasks: dict[str | None, list[tuple[str, Proposal, FirstFrame, Labels]]] = {}
    for name, proposal, frame, labels in every:
        kept = run.record("verified", name)
        if kept is not None and kept["mode"] == mode and kept["labels"] == label_version(run, name):
            done += 1
        elif labels is not None:
            tasks.setdefault(frame.task if frame.replayable else None, []).append((name, proposal, frame, labels))
    for task, waiting in tasks.items():
        backend = open_backend(find_task(task)) if task else None
        try:
            for name, proposal, frame, labels in waiting:
                _verify_one(run, name, proposal, frame, labels, backend, mode)
                new, done = new + 1, done + 1
                said(done, len(every))
        finally:
            if backend is not None:
                backend.close()
    return new


def _verify_one(
    run: Run, name: str, proposal: Proposal, frame: FirstFrame, labels: Labels, backend: SimBackend | None, mode: Mode
) -> None:
    from dreams import verify as verifying  # noqa: PLC0415
    from factory.episodes import write_shard  # noqa: PLC0415

    document: dict[str, Any] = {"mode": mode, "labels": label_version(run, name)}
    roles = roles_of(frame.task, proposal.instruction) if frame.task else None
    if backend is None or frame.state is None:
        found = _not_replayable("its start is not known: the first frame has no simulator state", mode)
    elif roles is None:
        found = _not_replayable(f"task {frame.task!r} cannot say whether {proposal.instruction.text!r} was done", mode)
    else:
        found = verifying.verify(
            labels,
            frame.state,
            backend,
            model_sha=frame.model_sha,
            mode=mode,
            success=tabletop_events.goal(*roles),
        )
    if found.execution is not None and backend is not None:
        episode = verifying.episode_of_verification(
            found, backend.task, index=number_of(name), instruction=proposal.instruction.text,
            provenance={"dream": name, "frame": frame.name}, executor=backend.describe(),
        )  # fmt: skip
        folder = run.root / "shards" / mode / file_name(str(document["labels"]))
        document["shard"] = str(write_shard(folder, episode).relative_to(run.root))
    run.keep("verified", name, {**document, "verification": verifying.record_of(found)})


def _not_replayable(why: str, mode: Mode) -> Any:
    from dreams.verify import Verification  # noqa: PLC0415

    return Verification(tier="not_replayable", reason=why, mode=mode)
