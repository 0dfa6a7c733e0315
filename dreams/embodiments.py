"""What a label model keeps of each embodiment: whose motion it is, and how large its numbers usually are.

Sizes are quantiles, not extremes: one collision in a thousand episodes would otherwise make all other motion small.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dreams.clips import Clip, hands_of_dataset
from dreams.motion import Hands, names, poses_of
from factory import poses
from factory.errors import DatasetError
from factory.foreign import foreign_episodes
from factory.foreign_meta import read_info

Array = NDArray[np.float64]
Starts = Mapping[str, Mapping[str, Array]]
"""Clip -> end effector -> pose ``(4, 4)`` at its first picture, base frame of the arm."""
_EDGE = 0.02
"""Share of the rows beyond either end of what counts as usual."""
_POSE = ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")
_LEAST = {"_m": 5e-4, "_rad": 5e-3}
"""Smallest usual size of motion in one control step: what stands still must not become a scale for noise."""
_LEAST_PLACE = (5e-3,) * 3 + (5e-2,) * 6
"""Likewise of a hand's place: metres, elements of a rotation."""


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """One robot, or one way of moving it.

    Attributes:
        name: the robot's name.
        hands: end effectors, each with the numbers in its fingers' command.
        middle: ``(m,)`` middle of the usual motion, in its units.
        scale: ``(m,)`` half its width, positive.
        commands: ``(g, 3)`` of each finger command: least, greatest, and 1 where there are only these two.
        place_middle: ``(9 n,)`` likewise of the hands' poses, position and rot6d; empty where they were not learned.
        place_scale: see place_middle.
    """

    name: str
    hands: tuple[tuple[str, int], ...]
    middle: Array
    scale: Array
    commands: Array
    place_middle: Array
    place_scale: Array

    @property
    def sees_poses(self) -> bool:
        """Whether where the hands are was learned."""
        return len(self.place_middle) > 0

    def normal(self, motion: Array) -> Array:
        """Return motion ``(..., m)`` without unit; `physical` is the inverse."""
        return (motion - self.middle) / self.scale

    def physical(self, values: Array) -> Array:
        """Return motion in metres, radians and commands."""
        return values * self.scale + self.middle

    def unplaced(self, places: Array) -> Array:
        """Return poses ``(..., 9 n)`` without unit; `placed` is the inverse."""
        return (places - self.place_middle) / self.place_scale

    def placed(self, values: Array) -> Array:
        """Return poses in metres, and rot6d."""
        return values * self.place_scale + self.place_middle

    def json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(self).items()}

    @classmethod
    def of_json(cls, said: Mapping[str, Any]) -> Embodiment:
        """Return what `json` wrote."""
        arrays = {k: np.asarray(v, np.float64) for k, v in said.items() if k not in ("name", "hands")}
        return cls(name=said["name"], hands=tuple((eef, int(count)) for eef, count in said["hands"]), **arrays)


def key_of(name: str, hands: Hands) -> str:
    """Return what tells embodiments apart: the name, and the hands with their fingers' numbers."""
    return f"{name}[{','.join(f'{eef}:{count}' for eef, count in hands.items())}]"


def starts_of(root: Path) -> Starts:
    """Return where the hands of each episode of a LeRobot dataset are at its first row, by the names of its clips.

    Raises DatasetError when its columns name no hands.
    """
    info = read_info(root)
    hands, columns = hands_of_dataset(info), list(info.features["observation.state"].names)
    if not hands:
        raise DatasetError(f"{root}: the columns of observation.state name no hand (HAND_eef_x_m, ...)")
    at = {eef: [columns.index(f"{eef}_eef_{part}") for part in _POSE] for eef in hands}
    found: dict[str, dict[str, Array]] = {}
    for episode in foreign_episodes(root):
        row = np.asarray(episode.columns["observation.state"][0], np.float64)
        found[f"{root.name}/{episode.index}"] = {
            eef: poses.pose(poses.matrix_from_rot6d(row[where][3:]), row[where][:3]) for eef, where in at.items()
        }
    return found


def embodiments_of(clips: Sequence[Clip], starts: Starts | None) -> tuple[Embodiment, ...]:
    """Return the embodiments of clips with motion, in the order of their first clip.

    Poses are learned of those of which every clip has its start in `starts`.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(key_of(clip.embodiment, clip.hands), []).append(clip)
    return tuple(_embodiment(group, starts or {}) for group in groups.values())


def _embodiment(clips: Sequence[Clip], starts: Starts) -> Embodiment:
    hands = clips[0].hands
    rows = np.concatenate([clip.motion for clip in clips if clip.motion is not None])
    units = names(hands)
    least = np.array([next((v for end, v in _LEAST.items() if name.endswith(end)), 0.1) for name in units])
    middle, scale = _usual(rows, least)
    fingers = [i for i, name in enumerate(units) if not name.endswith(tuple(_LEAST))]
    for i in fingers:  # commands come in all sizes equally often, or in two
        middle[i], scale[i] = _between(rows[:, i])
    commands = np.array([[rows[:, i].min(), rows[:, i].max(), len(np.unique(rows[:, i])) <= 2] for i in fingers])
    place = (np.zeros(0), np.zeros(0))
    if all(clip.name in starts for clip in clips):
        paths = [poses_of(c.motion, starts[c.name], hands) for c in clips if c.motion is not None]
        places = [np.concatenate([poses.xyz_rot6d_from_pose(path[eef]) for eef in hands], axis=1) for path in paths]
        place = _usual(np.concatenate(places), np.tile(_LEAST_PLACE, len(hands)))
    return Embodiment(
        name=clips[0].embodiment, hands=tuple(hands.items()), middle=middle, scale=scale,
        commands=commands.astype(np.float64).reshape(len(fingers), 3), place_middle=place[0], place_scale=place[1],
    )  # fmt: skip


def _usual(rows: Array, least: Array) -> tuple[Array, Array]:
    low, high = np.quantile(rows, (_EDGE, 1.0 - _EDGE), axis=0)
    return 0.5 * (low + high), np.maximum(0.5 * (high - low), least)


def _between(values: Array) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return 0.5 * (low + high), max(0.5 * (high - low), 1e-3)
