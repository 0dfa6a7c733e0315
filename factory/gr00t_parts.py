"""What a layout for GR00T consists of: keys, each a slice of a column, and what reads its values from an episode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.episodes import Episode
from factory.errors import DatasetError

Array = NDArray[np.float32]
Values = Callable[[Episode], Array]
"""Episode -> rows ``(T, n)``."""

STATE, ACTION = "observation.state", "action"
ROT6D = ("r11", "r12", "r13", "r21", "r22", "r23")


@dataclass(frozen=True, kw_only=True)
class Part:
    """One key of a modality.

    Attributes:
        key: as GR00T's data configuration names it.
        names: one per element, units included.
        values: episode -> ``(T, len(names))``.
        column: where it is stored; parts of one column stand side by side in order.
        rotation: GR00T's `rotation_type`, "" for what is no rotation.
        absolute: False for displacements, which are padded with zeros and not with the last row.
        relative: whether the same key exists in state and action, both absolute joint positions, so that a policy may
            be trained on their difference.
    """

    key: str
    names: tuple[str, ...]
    values: Values
    column: str
    rotation: str = ""
    absolute: bool = True
    relative: bool = False

    @property
    def is_hand(self) -> bool:
        """Whether it is about fingers."""
        return self.key.endswith(("hand", "gripper_qpos", "gripper_close"))


@dataclass(frozen=True, kw_only=True)
class Layout:
    """All keys of one kind of robot.

    Attributes:
        data_config: name of GR00T's own configuration with these keys.
        embodiment_tag: as GR00T N1.5 names the robot.
        state: parts of what is seen.
        action: parts of what is done.
        views: name of a view -> cameras that may show it, the best first.
        task_annotations: annotations that hold the instruction, without the "annotation." prefix.
    """

    data_config: str
    embodiment_tag: str
    state: tuple[Part, ...]
    action: tuple[Part, ...]
    views: Mapping[str, tuple[str, ...]]
    task_annotations: tuple[str, ...] = ("human.action.task_description",)

    def columns(self, episode: Episode) -> dict[str, tuple[tuple[str, ...], Array]]:
        """Return column -> names of its elements and rows ``(T, n)`` of an episode."""
        found: dict[str, tuple[tuple[str, ...], list[Array]]] = {}
        for part in (*self.state, *self.action):
            names, rows = found.get(part.column, ((), []))
            found[part.column] = (names + part.names, [*rows, part.values(episode)])
        return {column: (names, np.concatenate(rows, axis=1)) for column, (names, rows) in found.items()}

    def slices(self) -> dict[str, tuple[str, int, int]]:
        """Return "state.<key>" and "action.<key>" -> column, start and stop."""
        widths: dict[str, int] = {}
        found: dict[str, tuple[str, int, int]] = {}
        for modality, parts in (("state", self.state), ("action", self.action)):
            for part in parts:
                start = widths.get(part.column, 0)
                widths[part.column] = start + len(part.names)
                found[f"{modality}.{part.key}"] = (part.column, start, widths[part.column])
        return found

    def modality(self, views: Mapping[str, str], annotations: tuple[str, ...]) -> dict[str, Any]:
        """Return `meta/modality.json`; `views` maps names of views to the features that hold them."""
        slices = self.slices()
        document: dict[str, Any] = {"state": {}, "action": {}}
        for modality, parts in (("state", self.state), ("action", self.action)):
            for part in parts:
                column, start, stop = slices[f"{modality}.{part.key}"]
                entry = {"start": start, "end": stop, "original_key": column, "absolute": part.absolute}
                turned = {"rotation_type": part.rotation} if part.rotation else {}
                document[modality][part.key] = {**entry, "dtype": "float32", **turned}
        document["video"] = {view: {"original_key": feature} for view, feature in views.items()}
        document["annotation"] = {name: {"original_key": f"annotation.{name}"} for name in annotations}
        return document


# --- values -----------------------------------------------------------------------------------------------------------


def taken(column: str, names: tuple[str, ...]) -> Values:
    """Return what reads elements of a column by their names; it raises DatasetError where an episode lacks one."""

    def values(episode: Episode) -> Array:
        found = episode.columns.get(column)
        missing = [name for name in names if found is None or name not in found.names]
        if found is None or missing:
            has = "no such column" if found is None else ", ".join(found.names)
            raise DatasetError(
                f"episode {episode.index}: the GR00T view needs {', '.join(missing)} in column {column!r}; found {has}"
            )
        return found.values[:, [found.names.index(name) for name in names]].astype(np.float32)

    return values


def constant(row: tuple[float, ...]) -> Values:
    """Return what gives the same row again and again, for parts that a robot does not have or does not move."""
    return lambda episode: np.tile(np.array(row, np.float32), (len(episode), 1))


def rotation_of(eef: str) -> Values:
    """Return what reads a hand's rotation as a quaternion, real part first."""
    rows = taken(STATE, tuple(f"{eef}_eef_{name}" for name in ROT6D))

    def values(episode: Episode) -> Array:
        matrix = poses.matrix_from_rot6d(rows(episode).astype(np.float64))
        quat = poses.quat_wxyz_from_matrix(matrix)
        # Both signs mean the same rotation; a policy should not see them change from row to row.
        turned = np.where((quat[1:] * quat[:-1]).sum(1) < 0, -1.0, 1.0)
        return (quat * np.concatenate([[1.0], np.cumprod(turned)])[:, None]).astype(np.float32)

    return values


def scaled(values: Values, scale: tuple[float, ...]) -> Values:
    """Return what reads the same values, each element times its own factor."""
    return lambda episode: values(episode) * np.array(scale, np.float32)


def closes(eef: str) -> Values:
    """Return what says 1 where the gripper is told to close and 0 where to open, GR00T's "binary"."""
    command = taken(ACTION, (f"{eef}_gripper",))
    return lambda episode: (command(episode) > 0).astype(np.float32)
