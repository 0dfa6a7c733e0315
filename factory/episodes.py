"""The episode: the one currency of both roads, and its shard on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.sim import Snapshot


@dataclass(frozen=True, kw_only=True)
class Column:
    """One dataset column of an episode.

    Attributes:
        values: ``(T, ...)``; float32, float64, int64 or bool, as it will be stored.
        names: one name per element of a row, units included where not obvious; empty for scalars.
    """

    values: NDArray[Any]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One attempt worth keeping: T rows for learning, T + 1 states for replay and rendering, and where it came from.

    Attributes:
        index: attempt index within its job; the episode's identity.
        success: held to the end.
        task: task name.
        instruction: what the robot was told.
        control_hz: rows per second.
        columns: dataset column name ("observation.state", "action", "target.right_eef_pose", "subtask_index") ->
            values; everything but images, timestamps and indices, which the writer adds.
        subtasks: names that `subtask_index` counts.
        sim_states: named arrays ``(T + 1, ...)`` float64: "time", "qpos", "qvel"; empty for dreams.
        start: the snapshot the first row continues from; None for dreams.
        provenance: JSON-ready facts: seed, sources and segments, noise, placements, executor and versions, outcome.
    """

    index: int
    success: bool
    task: str
    instruction: str
    control_hz: float
    columns: Mapping[str, Column]
    subtasks: tuple[str, ...]
    sim_states: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    start: Snapshot | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).values)
