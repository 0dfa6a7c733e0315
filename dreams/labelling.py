"""Labels a clip with the motion it shows: what windows of it say, merged in the order of time.

Values are arrays indexed by window and by control step, so nothing can be put at a time that it was not read at. Steps
after the last whole window repeat the last motion, at no confidence. Where a model also sees where the hands *are*,
increments and places are reconciled: increments are precise from step to step and drift, places do not drift.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dreams.clips import Clip
from dreams.motion import Hands, Labels, motion_of, parted, poses_of
from dreams.timebase import Windows, merged
from factory import poses
from factory.errors import SpecError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Where a model sees the hands, and how well it and its increments held on clips it was not trained on.

    Attributes:
        T_base_eef: end effector -> ``(frames, 4, 4)``, base frame of its arm.
        place_m: ``(3,)`` root mean square error of one picture's position along each axis, metres: a camera sees depth
            several times worse than what lies across. Likewise place_rad, radians.
        place_rad: see place_m.
        drift_m: ``(3,)`` root mean square error of position that increments gather in one control step, along each
            axis; it grows with the square root of steps. Likewise drift_rad.
        drift_rad: see drift_m.
    """

    T_base_eef: Mapping[str, Array]
    place_m: Array
    place_rad: Array
    drift_m: Array
    drift_rad: Array

    def __post_init__(self) -> None:
        errors = np.stack([self.place_m, self.place_rad, self.drift_m, self.drift_rad])
        if errors.shape != (4, 3) or not (errors > 0.0).all():
            raise SpecError("errors of places and increments must be positive: they are the weights of both")


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a model says of a clip, window by window.

    Attributes:
        where: the windows, wholly within the clip's own steps.
        motion: ``(k, w, horizon, m)``: `k` samples for each window, metres, radians, commands.
        scale: ``(m,)``: how large each element usually is, in its unit; spreads are told in it.
        commands: ``(g, 3)`` for each element that is a finger's command, in their order: least, greatest, and 1 where
            only these two are valid.
        seen: where the hands are; None where the model does not say.
        error: ``(w, horizon, m)``: standard deviation of the motion's error as the model expects it, in its units; None
            where the model does not say.
    """

    where: Windows
    motion: Array
    scale: Array
    commands: Array
    seen: Seen | None = None
    error: Array | None = None


class Reads(Protocol):
    """A model that reads motion from a clip's pictures, or one in a test that knows it."""

    @property
    def name(self) -> str:
        """What it is called."""
        ...

    @property
    def version(self) -> str:
        """Which weights it has."""
        ...

    def read(self, clip: Clip) -> Reading:
        """Return what it says of each window."""
        ...


def label(clip: Clip, model: Reads, *, start: Mapping[str, Array] | None = None) -> Labels:
    """Return the labels of a clip.

    Args:
        clip: its pictures are read; its motion, if it has one, is not looked at.
        model: who reads.
        start: end effector -> pose ``(4, 4)`` at the first picture, where it is known: the hands then start there.

    Raises:
        SpecError: the clip is shorter than a window, or the model knows another embodiment.
    """
    reading = model.read(clip)
    if not len(reading.where.start):
        raise SpecError(
            f"clip {clip.name!r} has {clip.length} steps of its own; a window of {model.name} has "
            f"{reading.where.horizon}, so none of it can be labelled"
        )
    mean, confidence = merged_reading(reading, clip.length)
    motion = _valid(mean, reading.commands, clip.hands)
    said = Labels(motion=motion, T_base_eef=None, confidence=confidence, model=model.name, version=model.version)
    if reading.seen is None and start is None:
        return said
    T_base_eef = _reconciled(motion, reading.seen, start, clip)
    fingers = {eef: part[:, 6:] for eef, part in parted(motion, clip.hands).items()}
    return replace(said, motion=motion_of(T_base_eef, fingers), T_base_eef=T_base_eef)


def merged_reading(reading: Reading, steps: int) -> tuple[Array, Array]:
    """Return motion ``(steps, m)`` and confidence ``(steps,)`` of windows merged in the order of time.

    Confidence is 1 / (1 + d), d the root of the sum of two squares in usual sizes of motion: what windows or samples
    differ by, and the error that the model expects, averaged over windows.
    """
    scaled = reading.motion / reading.scale
    mean, between = merged(scaled.mean(axis=0), reading.where, steps)
    spread = np.nan_to_num(between, nan=-1.0)
    if len(scaled) > 1:
        among = np.sqrt(scaled.var(axis=0, ddof=1).mean(axis=-1, keepdims=True))
        within, _ = merged(among, reading.where, steps)
        spread = np.maximum(spread, np.nan_to_num(within[:, 0], nan=-1.0))
    shown = np.flatnonzero(~np.isnan(mean[:, 0]))
    known = np.flatnonzero(spread >= 0.0)
    # A step that one window alone shows is as uncertain as the nearest step that several show.
    nearest = known[np.abs(known[:, None] - np.arange(steps)).argmin(axis=0)] if len(known) else None
    doubt = np.full(steps, 1.0) if nearest is None else spread[nearest]
    if reading.error is not None:
        expected, _ = merged(((reading.error / reading.scale) ** 2).mean(axis=-1, keepdims=True), reading.where, steps)
        doubt = np.sqrt((0.0 if nearest is None else doubt**2) + np.nan_to_num(expected[:, 0]))
    confidence = 1.0 / (1.0 + doubt)
    confidence[shown[-1] + 1 :] = 0.0
    mean[shown[-1] + 1 :] = mean[shown[-1]]
    return mean * reading.scale, confidence


def _valid(motion: Array, commands: Array, hands: Hands) -> Array:
    """Return motion whose finger commands are ones that may be given."""
    out = motion.copy()
    fingers = [i for i, name in enumerate(_names(hands)) if name == "finger"]
    for column, (least, greatest, two) in zip(fingers, commands, strict=True):
        middle = 0.5 * (least + greatest)
        out[:, column] = (
            np.where(out[:, column] > middle, greatest, least) if two else np.clip(out[:, column], least, greatest)
        )
    return out


def _names(hands: Hands) -> list[str]:
    return [name for count in hands.values() for name in ["move"] * 6 + ["finger"] * count]


def _reconciled(motion: Array, seen: Seen | None, start: Mapping[str, Array] | None, clip: Clip) -> dict[str, Array]:
    """Return each hand's poses: the path of the increments, corrected where places say it drifted."""
    rows = clip.time.rows(clip.length)
    first = {eef: start[eef] if start is not None else _first(seen, eef) for eef in clip.hands}
    paths = poses_of(motion, first, clip.hands)
    if seen is None:
        return paths
    out: dict[str, Array] = {}
    for eef, path in paths.items():
        places, kept = seen.T_base_eef[eef], np.append(True, np.diff(rows) > 0)
        off = np.concatenate(
            [
                places[:, :3, 3] - path[rows, :3, 3],
                poses.axis_angle_from_matrix(places[:, :3, :3] @ np.swapaxes(path[rows, :3, :3], -1, -2)),
            ],
            axis=1,
        )[kept]
        at, known = rows[kept], start is not None
        place, drift = np.append(seen.place_m, seen.place_rad), np.append(seen.drift_m, seen.drift_rad)
        added = [
            correction(off[:, [i]], at, len(path), place=place[i], drift=drift[i], known_start=known) for i in range(6)
        ]
        d_m, d_rad = np.split(np.concatenate(added, axis=1), 2, axis=1)
        T = path.copy()
        T[:, :3, 3] += d_m
        T[:, :3, :3] = poses.matrix_from_axis_angle(d_rad) @ path[:, :3, :3]
        out[eef] = T
    return out


def _first(seen: Seen | None, eef: str) -> Array:
    assert seen is not None  # noqa: S101 - one of the two is there, or nobody asks
    return seen.T_base_eef[eef][0]


def correction(
    off: Array, rows: NDArray[np.int64], count: int, *, place: float, drift: float, known_start: bool
) -> Array:
    """Return how much to add to a path ``(count, d)`` that is `off` at some rows, by weighted least squares.

    The path's error walks at random, by `drift` a step; a place is wrong by `place`, each time anew. The sum of
    ``|d_r - off|^2 / place^2`` and ``|d_t+1 - d_t|^2 / drift^2`` is least: the smoother of Rauch, Tung and Striebel
    (1965) for a random walk, solved as one linear system. Turns are treated as vectors, exact for small corrections.

    Args:
        off: ``(k, d)``: place minus path.
        rows: ``(k,)``: at which rows of the path, ascending.
        count: rows of the path.
        place: standard deviation of a place's error.
        drift: standard deviation of the path's error gained in one step.
        known_start: the path starts where it should: nothing is added to its first row.
    """
    normal, right = np.zeros((count, count)), np.zeros((count, off.shape[1]))
    step = np.arange(count - 1)
    normal[step, step] += drift**-2
    normal[step + 1, step + 1] += drift**-2
    normal[step, step + 1] = normal[step + 1, step] = -(drift**-2)
    normal[rows, rows] += place**-2
    right[rows] += off * place**-2
    free = slice(1 if known_start else 0, None)
    out = np.zeros_like(right)
    out[free] = np.linalg.solve(normal[free, free], right[free])
    return out
