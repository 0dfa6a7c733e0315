"""Spoils good clips in ways that video models spoil them, so that a judge learns what it must not accept.

Each way has a name, which becomes the kind of failure on the judge's card. What is cut out and moved are the coloured
things that `dreams.blobs` finds, in every view of the grid alike.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from dreams.blobs import Blob, Mask, blobs_of
from dreams.views import Frames, Grid
from factory.errors import SpecError, unknown_name

_BEGINS = (0.3, 0.7)
"""Part of the clip at which something happens to a thing: neither at once nor at the end, where nobody would see it."""
_JUMP = (0.25, 0.45)
"""How far a thing is teleported, of the picture's sides: farther than it could have been carried between pictures, and
less than half, because what leaves the picture comes back into it."""


def _frozen(frames: Frames, _grid: Grid, rng: np.random.Generator) -> Frames:
    """Nothing moves after at most a fifth of the clip."""
    stays = int(rng.integers(0, max(len(frames) // 5, 1)))
    return frames[np.minimum(np.arange(len(frames)), stays)]


def _reversed(frames: Frames, _grid: Grid, _rng: np.random.Generator) -> Frames:
    """Time runs backwards."""
    return frames[::-1].copy()


def _shuffled(frames: Frames, _grid: Grid, rng: np.random.Generator) -> Frames:
    """Pieces of the clip, the first picture excepted, come in another order."""
    pieces = np.array_split(np.arange(1, len(frames)), min(6, len(frames) - 1))
    order = rng.permutation(len(pieces))
    while len(pieces) > 1 and (np.diff(order) == 1).all():
        order = rng.permutation(len(pieces))
    return frames[np.concatenate([[0], *(pieces[i] for i in order)])]


def _teleported(frames: Frames, grid: Grid, rng: np.random.Generator) -> Frames:
    """A thing is somewhere else from one picture to the next."""
    far, angle = rng.uniform(*_JUMP), rng.uniform(0.0, 2.0 * np.pi)

    def moved(view: Frames, blob: Blob, at: int) -> Frames:
        emptied = _emptied(view, blob, at)
        height, width = view.shape[1:3]
        down, right = round(far * height * np.sin(angle)), round(far * width * np.cos(angle))
        for t in range(at, len(view)):
            row, column = np.nonzero(blob.mask[t])
            # What would leave the picture comes back into it: a thing that is gone is another failure.
            emptied[t, (row + down) % height, (column + right) % width] = view[t, row, column]
        return emptied

    return _with_a_thing(frames, grid, rng, moved)


def _vanished(frames: Frames, grid: Grid, rng: np.random.Generator) -> Frames:
    """A thing is not there any more."""
    return _with_a_thing(frames, grid, rng, _emptied)


def _recoloured(frames: Frames, grid: Grid, rng: np.random.Generator) -> Frames:
    """A thing has another colour."""
    turn = int(rng.integers(1, 3))

    def painted(view: Frames, blob: Blob, at: int) -> Frames:
        out = view.copy()
        for t in range(at, len(view)):
            out[t][blob.mask[t]] = np.roll(view[t][blob.mask[t]], turn, axis=-1)
        return out

    return _with_a_thing(frames, grid, rng, painted)


CORRUPTIONS: Mapping[str, Callable[[Frames, Grid, np.random.Generator], Frames]] = {
    "frozen": _frozen,
    "reversed": _reversed,
    "shuffled": _shuffled,
    "teleported": _teleported,
    "vanished": _vanished,
    "recoloured": _recoloured,
}
"""Name -> what is done to a good clip's pictures."""
NEEDS_A_THING = ("teleported", "vanished", "recoloured")
"""Corruptions of pictures in which something coloured is to be seen."""


def corrupted(frames: Frames, grid: Grid, kind: str, *, seed: int) -> Frames:
    """Return a spoilt copy of a clip's pictures ``(t, h, w, 3)``; the same seed, the same bytes.

    Raises:
        SpecError: no such kind; a clip of fewer than three pictures; or nothing coloured is in its first picture.
    """
    if kind not in CORRUPTIONS:
        raise SpecError(unknown_name("corruption", kind, CORRUPTIONS))
    if len(frames) < 3:
        raise SpecError(f"a clip of {len(frames)} pictures is too short to be spoilt; 3 are needed")
    grid.split(frames)  # refuses pictures that are not this grid's
    return CORRUPTIONS[kind](frames, grid, np.random.default_rng(seed))


def _with_a_thing(
    frames: Frames, grid: Grid, rng: np.random.Generator, change: Callable[[Frames, Blob, int], Frames]
) -> Frames:
    """Change one thing, in every view that shows its colour, from one moment on."""
    views = grid.split(frames)
    found = {name: {blob.hue: blob for blob in blobs_of(view)} for name, view in views.items()}
    hues = sorted({hue for blobs in found.values() for hue in blobs})
    if not hues:
        raise SpecError("nothing in the clip's first picture has a clear colour, so no thing can be changed in it")
    hue = hues[int(rng.integers(len(hues)))]
    at = round(rng.uniform(*_BEGINS) * (len(frames) - 1))
    return grid.joined(
        {name: change(view, found[name][hue], at) if hue in found[name] else view for name, view in views.items()}
    )


def _emptied(view: Frames, blob: Blob, at: int) -> Frames:
    """Return the view with a thing replaced, from a moment on, by what is behind it."""
    behind = _background(view, blob.mask)
    out = view.copy()
    for t in range(at, len(view)):
        gone = _grown(blob.mask[t])  # its edge is mixed with its colour
        out[t][gone] = behind[gone]
    return out


def _background(view: Frames, mask: Mask) -> Frames:
    """Return ``(h, w, 3)``: each pixel's median over the pictures in which the thing does not cover it.

    Where it always does, the median of what is around it.
    """
    covered = np.stack([_grown(each) for each in mask])
    values = np.ma.masked_array(view, np.repeat(covered[..., None], 3, axis=-1))
    behind = np.ma.median(values, axis=0)
    around = np.median(view[~covered], axis=0) if not covered.all() else np.zeros(3)
    return np.where(np.ma.getmaskarray(behind), around, behind.filled(0)).astype(np.uint8)


def _grown(mask: Mask) -> Mask:
    """Return the mask with the pixels beside it."""
    out = mask.copy()
    out[1:] |= mask[:-1]
    out[:-1] |= mask[1:]
    out[:, 1:] |= mask[:, :-1]
    out[:, :-1] |= mask[:, 1:]
    return out
