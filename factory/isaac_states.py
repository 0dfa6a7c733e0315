"""States of an Isaac Lab scene as rows of numbers: which arrays there are, and the order of their quaternions.

Isaac Lab keeps a state as a tree of arrays with a leading axis: "articulation/robot/joint_position",
"rigid_object/cube_1/root_pose". A root pose is xyz in metres about the environment's origin and a quaternion: w first
in Isaac Lab 2 and in files without a format version, w last as of Isaac Lab 3 and in files of format version 1. Here,
and nowhere else, the one becomes the other; everywhere else in this project a stored quaternion has w first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.errors import DemoError, SpecError

Array = NDArray[np.float64]
QuaternionOrder = Literal["wxyz", "xyzw"]

ACTION = "env_action"
"""Name under which the environment's own last action is kept beside the arrays of its scene."""
_ROOT_POSE = "root_pose"
_POSE_WIDTH = 7


def order_of_file(format_version: object) -> QuaternionOrder:
    """Return the order of quaternions in a file, from its root attribute `format_version`; old files have none."""
    return "xyzw" if isinstance(format_version, int | float) and format_version >= 1 else "wxyz"


def reordered(name: str, values: NDArray[Any], found: QuaternionOrder, wanted: QuaternionOrder) -> Array:
    """Return an array ``(N, ...)`` of a state with its quaternions in another order; most arrays hold none."""
    array = np.asarray(values, np.float64)
    if found == wanted or not name.endswith(_ROOT_POSE):
        return array
    if array.shape[-1] != _POSE_WIDTH:
        raise DemoError(f"the state {name!r} has shape {array.shape}; a pose of 7 numbers was expected")
    turn = poses.quat_wxyz_from_xyzw if wanted == "wxyz" else poses.quat_xyzw_from_wxyz
    return np.concatenate([array[..., :3], turn(array[..., 3:])], axis=-1)


def leaves(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """Return the arrays of a tree by their paths, sorted; a group without arrays leaves nothing."""
    found: dict[str, Any] = {}
    for key in sorted(tree):
        path = f"{at}/{key}" if at else key
        found |= leaves(tree[key], path) if isinstance(tree[key], Mapping) else {path: tree[key]}
    return found


def tree_of(arrays: Mapping[str, Any], groups: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the tree that `leaves` would take apart; `groups` are there even when they hold nothing."""
    tree: dict[str, Any] = {group: {} for group in groups}
    for path, array in arrays.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = array
    return tree


@dataclass(frozen=True, kw_only=True)
class StateLayout:
    """Which arrays a row of numbers holds, in order.

    Attributes:
        shapes: array name -> its shape without the leading axis; names are sorted.
    """

    shapes: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        if list(self.shapes) != sorted(self.shapes):
            raise SpecError(f"a state's arrays are kept in the order of their names; found {list(self.shapes)}")

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    def flat(self, arrays: Mapping[str, Array]) -> Array:
        """Return arrays ``(N, *shape)`` as rows ``(N, width)``."""
        count = len(next(iter(arrays.values())))
        return np.concatenate([arrays[name].reshape(count, -1) for name in self.shapes], axis=1)

    def named(self, rows: Array) -> dict[str, Array]:
        """Return rows ``(N, width)`` as arrays ``(N, *shape)``."""
        found: dict[str, Array] = {}
        at = 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            found[name] = rows[:, at : at + size].reshape(len(rows), *shape)
            at += size
        return found
