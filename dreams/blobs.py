"""Things by their colour: where each clearly coloured patch of the first picture is in every later one.

No network and no segmentation: hues of the first picture that cover a small part of it are things, and are followed by
hue. It is blind to grey, to two things of one colour, and to what the hand hides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreams.views import Frames
from factory.errors import SpecError

Mask = NDArray[np.bool_]

_HUES = 12
"""Bins of hue, 30 degrees each: paints that people call by different names."""
_LEAST_SATURATION, _LEAST_VALUE = 0.35, 0.2
"""Wood, skin and shadows are below."""
_LEAST_SHARE, _MOST_SHARE = 0.002, 0.08
"""Of the picture: below is noise (8 of 64 x 64 pixels), above is a table, a wall or a robot."""


@dataclass(frozen=True, kw_only=True)
class Blob:
    """One coloured thing over time.

    Attributes:
        hue: bin of its colour, of 12.
        mask: ``(t, h, w)`` bool: where it is.
    """

    hue: int
    mask: Mask

    @property
    def area_px(self) -> NDArray[np.int64]:
        """Return ``(t,)``: how much of it can be seen."""
        return self.mask.sum(axis=(1, 2))

    @property
    def middle_px(self) -> NDArray[np.float64]:
        """Return ``(t, 2)``: row and column of its middle, the median; NaN where it cannot be seen."""
        found = [np.median(np.argwhere(each), axis=0) if each.any() else (np.nan, np.nan) for each in self.mask]
        return np.array(found, np.float64)


def blobs_of(frames: Frames) -> tuple[Blob, ...]:
    """Return the coloured things of one view's pictures ``(t, h, w, 3)``, by hue; none where nothing is coloured."""
    if frames.ndim != 4 or not len(frames) or frames.shape[3] != 3:
        raise SpecError(f"pictures have shape {frames.shape}, expected (t, h, w, 3)")
    hue = _hues(frames)
    share = np.bincount(hue[0].ravel() + 1, minlength=_HUES + 1)[1:] / hue[0].size
    # A thing at the border of two bins is one thing: bins beside each other count together, from the fuller one.
    found: list[Blob] = []
    taken: set[int] = set()
    for at in np.argsort(-share, kind="stable"):
        beside = {(int(at) + step) % _HUES for step in (-1, 0, 1)} - taken
        together = sum(share[each] for each in beside)
        if int(at) in taken or share[at] == 0.0:
            continue
        taken |= beside
        if _LEAST_SHARE <= together <= _MOST_SHARE:
            found.append(Blob(hue=int(at), mask=np.isin(hue, sorted(beside))))
    return tuple(sorted(found, key=lambda each: each.hue))


def _hues(frames: Frames) -> NDArray[np.int64]:
    """Return ``(t, h, w)``: the bin of each pixel's hue, -1 where it has no clear one."""
    rgb = frames.astype(np.float32) / 255.0
    high, low = rgb.max(axis=-1), rgb.min(axis=-1)
    spread = np.maximum(high - low, 1e-6)
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    sixth = np.where(
        high == r, ((g - b) / spread) % 6.0, np.where(high == g, (b - r) / spread + 2, (r - g) / spread + 4)
    )
    clear = (high >= _LEAST_VALUE) & (high - low >= _LEAST_SATURATION * high)
    return np.where(clear, np.round(sixth * (_HUES / 6)).astype(np.int64) % _HUES, -1)
