"""Any folder of mp4 files as clips: nobody's actions, only what is to be seen."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image

from dreams.clips import Clip
from dreams.timebase import TimeBase
from dreams.views import Frames, Grid
from factory.errors import DatasetError, SpecError

LAPA = "lapa"
"""Embodiment of clips that show nobody in particular: latent actions alone are known of them."""


def film_clips(folder: Path, *, stride: int, frames: int, height_px: int, width_px: int) -> Iterator[Clip]:
    """Yield what the mp4 files below a folder show, in the order of their paths, cut into clips one after the other.

    A film has its own rate: a clip's clock counts its pictures, of which every `stride`-th is taken. Pictures keep
    their shape and are made to fit the view, black beside them. Where a film ends within a clip, its last picture
    stays; a rest of fewer than two pictures is left out.

    Raises:
        DatasetError: there are no such files, or one cannot be decoded.
        SpecError: stride or sizes make no clip.
    """
    paths = sorted(folder.rglob("*.mp4"))
    if not paths:
        raise DatasetError(f"{folder} has no mp4 file in it")
    grid = Grid(views=("film",), height_px=height_px, width_px=width_px)
    for path in paths:
        hz, pictures = _decoded(path, stride, grid)
        time = TimeBase(control_hz=hz, stride=stride, frames=frames)
        for first in range(0, len(pictures) - 1, frames - 1):
            part = pictures[first : first + frames]
            stay = np.repeat(part[-1:], frames - len(part), axis=0)
            yield Clip(
                name=f"{path.relative_to(folder)}@{first * stride}",
                frames=np.concatenate([part, stay]),
                grid=grid,
                time=time,
                instruction="",
                length=(len(part) - 1) * stride,
                embodiment=LAPA,
                hands={},
            )


def _decoded(path: Path, stride: int, grid: Grid) -> tuple[int, Frames]:
    """Return the film's rate, whole pictures a second, and every `stride`-th picture."""
    if stride < 1:
        raise SpecError(f"every {stride}-th picture was asked for; expected 1 or more")
    found: list[NDArray[np.uint8]] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate
            if not rate:
                raise DatasetError(f"{path} does not say its frame rate")
            for number, frame in enumerate(container.decode(stream)):
                if number % stride == 0:
                    found.append(fitted(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), grid))
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"{path} cannot be decoded: {error}") from error
    if not found:
        raise DatasetError(f"{path} has no pictures")
    return max(1, round(rate)), np.stack(found)


def fitted(picture: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    """Return a picture of any size in the middle of one view, its shape kept, black beside it."""
    height, width = picture.shape[:2]
    scale = min(grid.height_px / height, grid.width_px / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    out = np.zeros((grid.height_px, grid.width_px, 3), np.uint8)
    top, left = (grid.height_px - size[1]) // 2, (grid.width_px - size[0]) // 2
    small = Image.fromarray(picture).resize(size, Image.Resampling.BOX if scale < 1.0 else Image.Resampling.BILINEAR)
    out[top : top + size[1], left : left + size[0]] = np.asarray(small)
    return out
