"""Several cameras in one picture: a grid of sub-images for a video model, and the way back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.errors import SpecError

Frames = NDArray[np.uint8]
"""``(t, h, w, 3)`` sRGB, in the order of time."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where each camera's picture lies: row by row from the top left, what is left over black.

    Attributes:
        views: camera names in their places' order.
        height_px: of one view; likewise width_px.
        width_px: see height_px.
    """

    views: tuple[str, ...]
    height_px: int
    width_px: int

    def __post_init__(self) -> None:
        if not self.views or len(set(self.views)) != len(self.views):
            raise SpecError(f"a grid needs views with different names, not {self.views}")
        if min(self.height_px, self.width_px) < 8 or self.height_px % 2 or self.width_px % 2:
            raise SpecError(f"views of {self.width_px}x{self.height_px} pixels: both must be even and at least 8")

    @property
    def columns(self) -> int:
        """Views beside each other: the grid is as wide as high, or one wider."""
        return math.ceil(math.sqrt(len(self.views)))

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the whole picture, pixels."""
        return math.ceil(len(self.views) / self.columns) * self.height_px, self.columns * self.width_px

    def rectangles(self) -> dict[str, tuple[int, int, int, int]]:
        """Return view -> ``(top, left, height, width)`` in pixels, as the metadata of a video says it."""
        at = (divmod(number, self.columns) for number in range(len(self.views)))
        return {
            view: (row * self.height_px, column * self.width_px, self.height_px, self.width_px)
            for view, (row, column) in zip(self.views, at, strict=True)
        }

    def joined(self, frames: Mapping[str, Frames]) -> Frames:
        """Return one video of all views. Raises SpecError for a view that is missing, too many, or of another size."""
        if set(frames) != set(self.views):
            raise SpecError(f"the grid shows {', '.join(self.views)}; found {', '.join(frames) or 'nothing'}")
        length = {view: len(each) for view, each in frames.items()}
        expected = (next(iter(length.values())), self.height_px, self.width_px, 3)
        out = np.zeros((expected[0], *self.shape, 3), np.uint8)
        for view, (top, left, height, width) in self.rectangles().items():
            if frames[view].shape != expected:
                raise SpecError(f"view {view!r} has shape {frames[view].shape}, expected {expected}")
            out[:, top : top + height, left : left + width] = frames[view]
        return out

    def split(self, frames: Frames) -> dict[str, Frames]:
        """Return each view's video; the inverse of `joined`. Raises SpecError when the pictures have another size."""
        if frames.ndim != 4 or frames.shape[1:] != (*self.shape, 3):
            raise SpecError(f"pictures have shape {frames.shape[1:]}, this grid's have {(*self.shape, 3)}")
        return {view: frames[:, t : t + h, x : x + w].copy() for view, (t, x, h, w) in self.rectangles().items()}

    def spare(self, frames: Frames) -> Frames:
        """Return the pixels that belong to no view, ``(t, n, 3)``: black unless views leak into them."""
        free = np.ones(self.shape, bool)
        for top, left, height, width in self.rectangles().values():
            free[top : top + height, left : left + width] = False
        return frames[:, free]

    def seams(self) -> NDArray[np.bool_]:
        """Return ``(h, w)``: which pixels lie beside a border that two views share, a sixteenth of a view deep."""
        near = np.zeros(self.shape, bool)
        deep = (max(1, self.height_px // 16), max(1, self.width_px // 16))
        tops_lefts = [(top, left) for top, left, _, _ in self.rectangles().values()]
        for top, left in tops_lefts:
            if (top, left + self.width_px) in tops_lefts:
                x = left + self.width_px
                near[top : top + self.height_px, x - deep[1] : x + deep[1]] = True
            if (top + self.height_px, left) in tops_lefts:
                y = top + self.height_px
                near[y - deep[0] : y + deep[0], left : left + self.width_px] = True
        return near


def holds(grid: Grid, wanted: Grid) -> bool:
    """Return whether a grid's pictures can be seen as those of another: all its views, as large or so many times."""
    times, rest = divmod(grid.height_px, wanted.height_px)
    return set(wanted.views) <= set(grid.views) and not rest and grid.width_px == times * wanted.width_px


def seen_as(frames: Frames, grid: Grid, wanted: Grid) -> Frames:
    """Return pictures of a grid as those of another: its views alone, made smaller by averaging squares of pixels.

    Args:
        frames: ``(t, h, w, 3)`` as `grid` lays them out.
        grid: what they show.
        wanted: views that it shows, of its size or a whole fraction of it.

    Raises:
        SpecError: a view is missing, or sizes do not divide.
    """
    if grid == wanted:
        return frames
    if not holds(grid, wanted):
        raise SpecError(f"pictures show {in_words(grid)}, which cannot be seen as {in_words(wanted)}")
    views, k = grid.split(frames), grid.height_px // wanted.height_px
    cells = (wanted.height_px, k, wanted.width_px, k, 3)
    small = {view: views[view].reshape(-1, *cells).mean(axis=(2, 4)).round().astype(np.uint8) for view in wanted.views}
    return wanted.joined(small)


def in_words(grid: Grid) -> str:
    """Return what a grid shows, for people."""
    return f"{', '.join(grid.views)} at {grid.width_px}x{grid.height_px} pixels"
