"""Runs a share of the episodes a GPU made again on the CPU, and says how often both come to the same end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factory.episodes import Episode
from factory.errors import BackendError
from factory.sim import SimBackend
from factory.statistics import evenly, wilson


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

    def summary(self) -> dict[str, Any]:
        """Return what is published, JSON-ready; "differed" are attempt indices."""
        differed = [run.index for run in self.runs if run.stored != run.held]
        return {
            "episodes": self.episodes,
            "run_again": len(self.runs),
            "agreed": len(self.runs) - len(differed),
            "differed": differed,
            "rate": self.rate if self.runs else 0.0,
            "low": self.low,
            "high": self.high,
            "worst_apart_m": max((run.apart_m for run in self.runs), default=0.0),
        }


def verify_on_cpu(episodes: Sequence[Episode], cpu: SimBackend, *, share: float) -> CpuAgreement:
    """Run a share of the episodes again, taken evenly over their attempt indices; see `factory.statistics.evenly`.

    Raises:
        SpecError: the share is not within (0, 1].
        BackendError: an episode is of another task, or has no start.
    """
    ordered = sorted(episodes, key=lambda episode: episode.index)
    runs = [run_again(ordered[i], cpu) for i in evenly(len(ordered), share)]
    return agreement_of(runs, episodes=len(ordered))


def agreement_of(runs: Sequence[CpuRun], *, episodes: int) -> CpuAgreement:
    """Return what some runs out of so many episodes say together."""
    rate, low, high = wilson(sum(run.stored == run.held for run in runs), len(runs))
    return CpuAgreement(runs=tuple(runs), episodes=episodes, rate=rate, low=low, high=high)


def run_again(episode: Episode, cpu: SimBackend) -> CpuRun:
    """Play the recorded actions of an episode from its start snapshot on a CPU backend of its task.

    Raises:
        BackendError: the episode is of another task, or has no start.
    """
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
