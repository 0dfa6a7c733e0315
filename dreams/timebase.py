"""The one clock of a dream: which control step a picture shows, and which actions lie between two pictures.

Row t of an episode holds the state before action t, so picture k of a clip with stride s shows row k s, and the actions
between pictures j and k are rows j s to k s - 1. Rates, stride and padding are said here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from factory.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class TimeBase:
    """How a clip's pictures lie on an episode's control steps.

    Attributes:
        control_hz: rate of actions.
        stride: control steps from one picture to the next.
        frames: pictures of a clip, 4 k + 1: video autoencoders keep the first and fold the others by four.
    """

    control_hz: int
    stride: int
    frames: int

    def __post_init__(self) -> None:
        if self.control_hz < 1 or self.stride < 1:
            raise SpecError(f"expected a control rate and a stride of 1 or more, not {self.control_hz}, {self.stride}")
        if self.frames < 5 or self.frames % 4 != 1:
            raise SpecError(f"a clip has 4 k + 1 pictures (5, 9, ... 33, ...), not {self.frames}")

    @property
    def video_hz(self) -> Fraction:
        """Pictures a second, exactly."""
        return Fraction(self.control_hz, self.stride)

    @property
    def steps(self) -> int:
        """Control steps from the first picture to the last."""
        return (self.frames - 1) * self.stride

    def rows(self, length: int) -> NDArray[np.int64]:
        """Return the row that each picture shows, ``(frames,)``, of an episode with `length` actions.

        An episode that ends earlier stays at its last row; `valid_steps` says until where the clip is its own.

        Raises:
            SpecError: the clip would end before the episode does, so it could not show how it turned out.
        """
        if length > self.steps:
            raise SpecError(
                f"an episode of {length} control steps does not fit into a clip of {self.frames} pictures at stride "
                f"{self.stride} ({self.steps} steps); it needs a stride of {-(-length // (self.frames - 1))}"
            )
        return np.minimum(np.arange(self.frames) * self.stride, length)

    def valid_steps(self, length: int) -> NDArray[np.bool_]:
        """Return ``(steps,)``: whether the clip's control step is one of an episode with `length` actions."""
        return np.arange(self.steps) < length


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Pairs of pictures a fixed number of control steps apart.

    Attributes:
        first: ``(w,)`` index of the earlier picture, ascending.
        last: ``(w,)`` index of the later one.
        start: ``(w,)`` control step of the earlier one: the first action of the window.
        horizon: actions in a window.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    start: NDArray[np.int64]
    horizon: int


def windows(time: TimeBase, *, horizon: int) -> Windows:
    """Return every pair of pictures that lie `horizon` control steps apart, within the clip.

    No window reaches beyond the last picture: one that did would show a model a gap it was never trained on.

    Raises:
        SpecError: the horizon is no multiple of the stride, or longer than the clip.
    """
    apart, rest = divmod(horizon, time.stride)
    if rest or not 0 < apart < time.frames:
        raise SpecError(
            f"windows of {horizon} control steps do not begin and end on pictures of a clip of {time.frames} at stride "
            f"{time.stride}; expected a multiple of {time.stride} up to {time.steps}"
        )
    first = np.arange(time.frames - apart)
    return Windows(first=first, last=first + apart, start=first * time.stride, horizon=horizon)


def merged(values: NDArray[np.float64], where: Windows, steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return one value per control step from overlapping windows, and how far they differ.

    Args:
        values: ``(w, horizon, d)``: what each window says of its steps.
        where: the windows.
        steps: control steps of the clip.

    Returns:
        Means ``(steps, d)``, and spreads ``(steps,)``: the root mean square over d of the standard deviation between
        windows; NaN where a step has one window or none. Steps without a window have NaN means.
    """
    if values.shape[:2] != (len(where.start), where.horizon):
        raise SpecError(f"values have shape {values.shape}, expected ({len(where.start)}, {where.horizon}, d)")
    rows = (where.start[:, None] + np.arange(where.horizon)).ravel()
    flat = np.asarray(values, np.float64).reshape(len(rows), -1)
    count = np.bincount(rows, minlength=steps)[:steps]
    total, squares = np.zeros((steps, flat.shape[1])), np.zeros((steps, flat.shape[1]))
    np.add.at(total, rows, flat)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / count[:, None]
        np.add.at(squares, rows, (flat - mean[rows]) ** 2)
        spread = np.sqrt((squares / (count - 1)[:, None]).mean(axis=1))
    mean[count == 0], spread[count < 2] = np.nan, np.nan
    return mean, spread
