"""What can be said of a clip without knowing what it should show.

Does anything move, does it begin where it was told to, do coloured things stay? Deterministic, and blind to all else.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dreams.blobs import blobs_of
from dreams.views import Frames, Grid
from factory.errors import SpecError

_CHANGED = 24
"""Of 255: a pixel that differs by more shows something else, not a codec's or an autoencoder's noise."""
_STILL_SEEN = 0.5
"""Share of a thing's first area that must be seen before and after for its middle to be trusted."""


@dataclass(frozen=True, kw_only=True)
class PixelLimits:
    """What a clip must keep to.

    Attributes:
        least_motion: share of pixels that must change at some time; an arm covers several per cent of a picture.
        most_first_error: mean absolute difference of the first picture from the frame it was made from, of 1.
        most_jump: of the picture's sides, that a thing may move from one picture to the next while it is seen.
        least_left: share of a thing's first area that must be seen once in the clip's last quarter.
    """

    least_motion: float = 0.005
    most_first_error: float = 0.1
    most_jump: float = 0.2
    least_left: float = 0.1


@dataclass(frozen=True, kw_only=True)
class PixelFindings:
    """What was found.

    Attributes:
        motion: largest share of pixels, over time, that differ from the first picture.
        first_error: see `PixelLimits.most_first_error`; NaN without a frame to compare with.
        jump: see `PixelLimits.most_jump`: the largest over all things and views; 0 without any.
        left: see `PixelLimits.least_left`: the least over all things and views; 1 without any.
        things: coloured things followed.
    """

    motion: float
    first_error: float
    jump: float
    left: float
    things: int

    def objection(self, limits: PixelLimits) -> str:
        """Return why the clip cannot be right, in words; empty when it can."""
        if self.motion < limits.least_motion:
            return f"nothing moves: at most {self.motion:.2%} of the pixels change, {limits.least_motion:.2%} expected"
        if self.first_error > limits.most_first_error:
            return f"it does not begin with its first frame: {self.first_error:.3f} away on average"
        return ""

    def doubt(self, limits: PixelLimits) -> str:
        """Return what may be wrong with the clip, in words; empty when nothing.

        An arm in front of a thing looks like that as well, so it only makes a good clip less probable.
        """
        if self.jump > limits.most_jump:
            return f"a coloured thing jumps by {self.jump:.2f} of the picture"
        if self.left < limits.least_left:
            return f"a coloured thing vanishes: {self.left:.0%} of it is left at the end"
        return ""


def look(frames: Frames, grid: Grid, *, first: Frames | None = None) -> PixelFindings:
    """Return what the pixels of a clip ``(t, h, w, 3)`` say.

    Args:
        frames: the clip, in the grid's layout.
        grid: its views, each of which is looked at by itself.
        first: ``(h, w, 3)``, the frame that it was made from.
    """
    if first is not None and first.shape != frames.shape[1:]:
        raise SpecError(f"the first frame has shape {first.shape}, the clip's pictures {frames.shape[1:]}")
    away = np.abs(frames.astype(np.int16) - frames[:1].astype(np.int16)).max(axis=-1) > _CHANGED
    jumps, left = [0.0], [1.0]
    views = [(view, blob) for view in grid.split(frames).values() for blob in blobs_of(view)]
    for view, blob in views:
        area = blob.area_px / blob.area_px[0]
        moved = np.linalg.norm(np.diff(blob.middle_px, axis=0) / view.shape[1:3], axis=1)
        seen = (area[1:] >= _STILL_SEEN) & (area[:-1] >= _STILL_SEEN)
        jumps.append(float(moved[seen].max(initial=0.0)))
        left.append(float(area[-max(len(area) // 4, 1) :].max()))
    error = float("nan") if first is None else np.abs(frames[0].astype(float) - first).mean() / 255.0
    return PixelFindings(
        motion=float(away.mean(axis=(1, 2)).max()),
        first_error=float(error),
        jump=max(jumps),
        left=min(left),
        things=len(views),
    )
