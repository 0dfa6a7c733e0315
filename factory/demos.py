"""Demonstrations: what a file holds, and what it means once a backend has read its states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from factory.errors import DemoError
from factory.scene import SceneState

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demonstration as stored; what the file does not hold is empty.

    Attributes:
        name: the demo's key in its file ("demo_3").
        path: the file it came from.
        format: "robosuite", "robomimic", "isaaclab" or "seeds".
        environment: the environment's name as written in the file.
        control_hz: rate of actions, when the file says it.
        actions: ``(T, a)``.
        states: flat simulator states ``(T, n)`` or ``(T + 1, n)``: time, qpos, qvel; empty when not stored.
        T_world_eef: end effector -> ``(T, 4, 4)``, when stored; likewise the next ones.
        T_world_eef_target: end effector -> ``(T, 4, 4)``.
        gripper: end effector -> ``(T, g)`` commands.
        T_world_object: object name as in the file -> ``(T, 4, 4)``.
        signals: signal name as in the file -> ``(T,)`` bool.
        attributes: other facts worth showing (date, versions, success flag), as text.
    """

    name: str
    path: str
    format: str
    environment: str
    control_hz: float | None = None
    actions: Array
    states: Array = field(default_factory=lambda: np.empty((0, 0)))
    T_world_eef: Mapping[str, Array] = field(default_factory=dict)
    T_world_eef_target: Mapping[str, Array] = field(default_factory=dict)
    gripper: Mapping[str, Array] = field(default_factory=dict)
    T_world_object: Mapping[str, Array] = field(default_factory=dict)
    signals: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.actions)


@dataclass(frozen=True, kw_only=True)
class AnnotatedDemo:
    """A demo in the task's own names, ready to be cut and carried. All arrays have length T.

    Row t holds what was measured *before* action t and what action t asked for.

    Attributes:
        name: unique among the sources of a job.
        T_world_eef: end effector -> ``(T, 4, 4)`` measured hand poses.
        T_world_eef_target: end effector -> ``(T, 4, 4)``: measured pose composed with the recorded, unclipped action.
        gripper: end effector -> ``(T, g)`` commands.
        T_world_object: object -> ``(T, 4, 4)``.
        signals: task signal -> ``(T,)`` bool; stored ones under the task's names, or evaluated predicates.
        stored_signals: names of the signals that came from the file.
        scene: full states, when the demo's simulator states could be read; None for pose-only files.
        success: whether the task's success predicate is true at the last state; None when unknown.
    """

    name: str
    T_world_eef: Mapping[str, Array]
    T_world_eef_target: Mapping[str, Array]
    gripper: Mapping[str, Array]
    T_world_object: Mapping[str, Array]
    signals: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    stored_signals: frozenset[str] = frozenset()
    scene: SceneState | None = None
    success: bool | None = None

    def __post_init__(self) -> None:
        n = len(self)
        groups = {
            "T_world_eef": self.T_world_eef,
            "T_world_eef_target": self.T_world_eef_target,
            "gripper": self.gripper,
            "T_world_object": self.T_world_object,
            "signals": self.signals,
        }
        for group, arrays in groups.items():
            for key, array in arrays.items():
                if len(array) != n:
                    raise DemoError(f"demo {self.name!r}: {group}[{key!r}] has {len(array)} rows where {n} are expected")

    def __len__(self) -> int:
        return len(next(iter(self.T_world_eef.values())))
