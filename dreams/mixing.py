"""Clips of which the truth is known, good and bad, mixed as a judge is trained and tested on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dreams.blobs import blobs_of
from dreams.corruption import CORRUPTIONS, NEEDS_A_THING, corrupted
from dreams.examples import Example
from dreams.instructions import read
from dreams.telling import TOLD, wrongly_told
from dreams.views import Grid
from factory.errors import SpecError

GOOD, WRONGLY_TOLD = 0.4, 0.25
"""Shares of a mixture: clips that follow their instruction, and good clips under a wrong one, as many of each kind of
`telling.TOLD`. The rest is bad clips, as many of each kind: failures of the simulator and every corruption."""


def mixed(
    examples: Sequence[Example], grid: Grid, *, size: int, seed: int, things: Sequence[str] = ()
) -> list[Example]:
    """Return a mixture of so many examples, the same for the same seed; see `GOOD`.

    No good clip is there twice as it is. Spoilt ones are made from good ones, by a seed of their own each; a corruption
    that needs a coloured thing, where a clip shows none, is left out. A wrong sentence that a clip's scene has no words
    for gives way to one that names a thing from elsewhere.

    Args:
        examples: good clips, and failures of several kinds.
        grid: how their pictures are laid out.
        size: how many are wanted; fewer are returned, in the same shares, where there are too few good clips.
        seed: of every draw.
        things: that clips may be told of beside those of the examples.

    Raises:
        SpecError: no good clip is among the examples, or they all are about one thing and no other is given.
    """
    rng = np.random.default_rng(seed)
    good = [example for example in examples if example.follows]
    if not good:
        raise SpecError(f"a mixture is made from good clips; there is none among {len(examples)}")
    size = min(size, int(len(good) / GOOD))
    named = named_in(good, things)
    kept = [good[i] for i in rng.permutation(len(good))[: round(GOOD * size)]]
    wrong = [
        _told(good[int(i)], TOLD[number % len(TOLD)], named, rng)
        for number, i in enumerate(rng.integers(len(good), size=round(WRONGLY_TOLD * size)))
    ]
    failed = failures(examples)
    kinds = [*failed, *CORRUPTIONS]
    each = -(-(size - len(kept) - len(wrong)) // len(kinds))
    bad: list[Example] = []
    for kind in kinds:
        if kind in failed:
            bad += [failed[kind][i] for i in rng.permutation(len(failed[kind]))[:each]]
        else:
            bad += spoilt_of(good, grid, kind, each, rng)
    return [*kept, *wrong, *bad]


def lessons(examples: Sequence[Example], grid: Grid, *, spoilt: int, seed: int) -> list[Example]:
    """Return all examples, and so many good ones spoilt in each way: what a judge is trained on."""
    rng = np.random.default_rng(seed)
    good = [example for example in examples if example.follows]
    return [*examples, *(each for kind in CORRUPTIONS for each in spoilt_of(good, grid, kind, spoilt, rng))]


def named_in(examples: Sequence[Example], things: Sequence[str] = ()) -> list[str]:
    """Return the names of all things of the examples and those given, sorted."""
    return sorted({*things, *(each for e in examples for each in (*e.things, read(e.instruction).thing))})


def failures(examples: Sequence[Example]) -> dict[str, list[Example]]:
    """Return the examples that do not follow their instruction, by kind, sorted."""
    kinds = sorted({example.kind for example in examples if not example.follows})
    return {kind: [e for e in examples if not e.follows and e.kind == kind] for kind in kinds}


def spoilt_of(good: Sequence[Example], grid: Grid, kind: str, count: int, rng: np.random.Generator) -> list[Example]:
    """Return so many of the good examples spoilt in one way, or a few less; see `spoilt`."""
    draws = [(good[int(i)], int(rng.integers(1 << 31))) for i in rng.integers(len(good), size=count)]
    return [found for example, own in draws if (found := spoilt(example, grid, kind, seed=own)) is not None]


def spoilt(example: Example, grid: Grid, kind: str, *, seed: int) -> Example | None:
    """Return a good example with its pictures corrupted; None where that needs a coloured thing and none is there.

    No event of it is known any more, nor where things are.

    Raises:
        SpecError: no such corruption, or pictures of another layout.
    """
    views = grid.split(example.frames).values()
    if kind in NEEDS_A_THING and not any(blobs_of(view) for view in views):
        return None
    frames = corrupted(example.frames, grid, kind, seed=seed)
    return replace(example, frames=frames, follows=False, kind=kind, events={}, where={})


def _told(example: Example, kind: str, things: Sequence[str], rng: np.random.Generator) -> Example:
    kinds = (kind, *(each for each in reversed(TOLD) if each != kind))
    found = (wrongly_told(example, each, things, rng) for each in kinds)
    told = next((each for each in found if each is not None), None)
    if told is None:
        raise SpecError(f"there is no thing other than that of {example.instruction!r} to be wrong with")
    return told
