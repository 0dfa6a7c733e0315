"""Where the time of attempts goes: the simulator's share, and what is left for everything around it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from factory.demos import AnnotatedDemo, Demo
from factory.recording import episode_of
from factory.replay import AttemptResult, run_attempts
from factory.retargeting import Source
from factory.scene import SceneState
from factory.sim import BlockResult, Commands, SimBackend, Snapshot
from factory.specs import GenerationSpec, TaskSpec

Array = NDArray[np.float64]
Clock = Callable[[], float]
"""Returns seconds; `time.process_time` is told nothing by other processes on the machine."""

SIMULATOR = ("reset", "advance", "snapshot")
"""Parts of an attempt that are spent in the simulator; the rest is the engine's."""


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """Seconds of the clock by part, over a number of attempts.

    Attributes:
        attempts: how many were run; likewise held and steps.
        held: see attempts.
        steps: control steps, settling not counted.
        seconds: part -> seconds: "reset", "advance", "snapshot" in the simulator; "recipe" (selecting, carrying,
            judging, joining), "episode" (columns and provenance) and "write" (the shard), which are the engine's.
    """

    attempts: int
    held: int
    steps: int
    seconds: Mapping[str, float]

    @property
    def engine_share(self) -> float:
        """Share of the time that is not the simulator's."""
        total = sum(self.seconds.values())
        return 1.0 - sum(self.seconds.get(part, 0.0) for part in SIMULATOR) / total if total else 0.0


def break_down(
    backend: SimBackend,
    task: TaskSpec,
    sources: Sequence[Source],
    spec: GenerationSpec,
    indices: Iterable[int],
    *,
    clock: Clock,
    write: Callable[[Any], object] | None = None,
) -> Breakdown:
    """Run attempts as a job does and return where the time went; run one before, because simulators compile.

    Args:
        backend: what runs them.
        task: what to do.
        sources: demos with their cuts.
        spec: settings.
        indices: which attempts.
        clock: what tells the time.
        write: stores the episode of an attempt that held, for instance ``partial(write_shard, folder)``; without it
            neither making nor writing episodes is measured.
    """
    metered = _Metered(backend, clock)
    executor = backend.describe()
    held = attempts = steps = 0
    begun = clock()
    outside = 0.0
    for result in run_attempts(metered, task, sources, spec, indices):
        paused = clock()
        attempts, held, steps = attempts + 1, held + result.held, steps + len(result)
        if write is not None and result.held:
            _keep(result, task, spec, executor, metered.seconds, clock, write)
        outside += clock() - paused
    total = clock() - begun - outside
    seconds = dict(metered.seconds)
    seconds["recipe"] = total - sum(seconds.get(part, 0.0) for part in SIMULATOR)
    return Breakdown(attempts=attempts, held=held, steps=steps, seconds=seconds)


def _keep(
    result: AttemptResult,
    task: TaskSpec,
    spec: GenerationSpec,
    executor: Mapping[str, str],
    seconds: dict[str, float],
    clock: Clock,
    write: Callable[[Any], object],
) -> None:
    began = clock()
    episode = episode_of(result, task, spec, executor)
    made = clock()
    write(episode)
    seconds["episode"] += made - began
    seconds["write"] += clock() - made


class _Metered:
    """A backend whose calls are timed; see `factory.sim.SimBackend`."""

    def __init__(self, backend: SimBackend, clock: Clock) -> None:
        self._backend, self._clock = backend, clock
        self.task, self.num_envs = backend.task, backend.num_envs
        self.determinism: Literal["bitwise", "statistical"] = backend.determinism
        self.seconds: dict[str, float] = defaultdict(float)

    def reset(
        self, env: int, placements: Mapping[str, Array], rng: np.random.Generator, *, joint_noise_rad: float = 0.02
    ) -> SceneState:
        with self._part("reset"):
            return self._backend.reset(env, placements, rng, joint_noise_rad=joint_noise_rad)

    def reset_to(self, env: int, demo: Demo) -> SceneState:
        with self._part("reset"):
            return self._backend.reset_to(env, demo)

    def snapshot(self, env: int) -> Snapshot:
        with self._part("snapshot"):
            return self._backend.snapshot(env)

    def restore(self, env: int, snapshot: Snapshot) -> SceneState:
        with self._part("reset"):
            return self._backend.restore(env, snapshot)

    def sim_state(self, env: int) -> Mapping[str, Array]:
        with self._part("snapshot"):
            return self._backend.sim_state(env)

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        with self._part("advance"):
            return self._backend.advance(commands)

    def play(self, env: int, actions: NDArray[np.float32]) -> BlockResult:
        with self._part("advance"):
            return self._backend.play(env, actions)

    def annotate(self, demo: Demo) -> AnnotatedDemo:
        return self._backend.annotate(demo)

    def describe(self) -> Mapping[str, str]:
        return self._backend.describe()

    def model_source(self) -> str:
        return self._backend.model_source()

    def close(self) -> None:
        self._backend.close()

    @contextmanager
    def _part(self, name: str) -> Generator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self.seconds[name] += self._clock() - began
