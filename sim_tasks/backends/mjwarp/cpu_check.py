"""Runs a share of the episodes a GPU made again on the CPU, and says how often both come to the same end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factory.episodes import Episode
from factory.errors import BackendError, SpecError
from factory.sim import SimBackend
from factory.statistics import wilson

SHARE = 0.02
"""Part of the episodes that is run again unless told otherwise."""


@dataclass(frozen=True, kw_only=True)
class CpuRun:
    """One episode run again.

    Attributes:
        index: attempt index.
        stored: whether success held where it was made.
        held: whether it held on the CPU, from the same start under the same actions.
        apart_m: how far the object that ended furthest from its stored place ended from it.
    """

    index: int
    stored: bool
    held: bool
    apart_m: float


@dataclass(frozen=True, kw_only=True)
class CpuAgreement:
    """What running some episodes again showed.

    Attributes:
        runs: one per episode run again, in the order of their attempt indices.
        episodes: how many there were to choose from.
        rate: share of the runs that came to the stored end; nan when there were none.
        low: lower end of the rate's 95 % interval (Wilson); likewise high.
        high: see low.
    """

    runs: tuple[CpuRun, ...]
    episodes: int
    rate: float
    low: float
    high: float

    def summary(self) -> dict[str, float | int]:
        """Return what a report publishes, JSON-ready."""
        agreed = sum(run.stored == run.held for run in self.runs)
        return {
            "episodes": self.episodes,
            "run_again": len(self.runs),
            "agreed": agreed,
            "rate": self.rate if self.runs else 0.0,
            "low": self.low,
            "high": self.high,
            "worst_apart_m": max((run.apart_m for run in self.runs), default=0.0),
        }


def verify_on_cpu(episodes: Sequence[Episode], cpu: SimBackend, *, share: float = SHARE) -> CpuAgreement:
    """Play the recorded actions of some episodes from their start snapshots on a CPU backend of their task.

    The episodes are taken evenly over the attempt indices, and at least one is: no draw decides, so the same dataset
    is always checked at the same places.

    Raises:
        SpecError: the share is not within (0, 1].
        BackendError: an episode is of another task, or has no start.
    """
    if not 0.0 < share <= 1.0:
        raise SpecError(f"a share of {share} of the episodes was to be run again; it must be within (0, 1]")
    ordered = sorted(episodes, key=lambda episode: episode.index)
    count = math.ceil(share * len(ordered) - 1e-9)
    chosen = [ordered[(2 * k + 1) * len(ordered) // (2 * count)] for k in range(count)]
    runs = tuple(_run_again(episode, cpu) for episode in chosen)
    rate, low, high = wilson(sum(run.stored == run.held for run in runs), len(runs))
    return CpuAgreement(runs=runs, episodes=len(ordered), rate=rate, low=low, high=high)


def _run_again(episode: Episode, cpu: SimBackend) -> CpuRun:
    if episode.start is None or episode.task != cpu.task.name:
        raise BackendError(
            f"episode {episode.index} is of task {episode.task!r} and {'has a' if episode.start else 'has no'} start; "
            f"it can be run again on {cpu.task.name!r}, from a start snapshot"
        )
    cpu.restore(0, episode.start)
    result = cpu.play(0, episode.columns["action"].values)
    hold = max(1, int(episode.provenance.get("hold_steps", 1)))
    ok = np.asarray(cpu.task.success(result.scene), bool)[-hold:]
    # Row t of a column was seen before action t; the scene's row t is what came after it.
    ends = [
        float(np.linalg.norm(result.scene.position(name)[-2] - episode.columns[f"sim.object.{name}"].values[-1, :3]))
        for name in result.scene.T_world_object
        if len(result.scene) >= 2
    ]
    return CpuRun(
        index=episode.index,
        stored=episode.success,
        held=bool(result.stable and len(ok) and ok.all()),
        apart_m=max(ends, default=math.inf),
    )
