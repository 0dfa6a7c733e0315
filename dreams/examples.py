"""Clips of which the truth is known, good and bad, mixed as a judge is trained and tested on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dreams.blobs import blobs_of
from dreams.corruption import CORRUPTIONS, NEEDS_A_THING, WRONG_INSTRUCTION, corrupted, wrong_instruction
from dreams.judge import EVENTS
from dreams.views import Frames, Grid
from factory.errors import SpecError

LETTERS = 128
"""Bytes of an instruction that are read; instructions of `dreams.instructions` are shorter."""
GOOD, WRONGLY_TOLD = 0.4, 0.25
"""Shares of a mixture: clips that follow their instruction, and good clips under a wrong one. The rest is bad clips, as
many of each kind: failures of the simulator and every corruption."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clip of which it is known what it shows.

    Attributes:
        frames: ``(t, h, w, 3)`` in the layout of the grid it is used with.
        instruction: what it was told to show.
        follows: whether it does.
        kind: "success", or the name of the failure: "dropped", "reversed", "wrong_instruction".
        events: event -> whether it happened to the thing that the instruction names; what is not known is left out.
    """

    frames: Frames
    instruction: str
    follows: bool
    kind: str
    events: Mapping[str, bool] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := set(self.events) - set(EVENTS):
            raise SpecError(f"example {self.kind!r} has events {sorted(unknown)}; known are {', '.join(EVENTS)}")
        if len(self.instruction.encode()) > LETTERS:
            raise SpecError(f"an instruction of {len(self.instruction.encode())} bytes; {LETTERS} are read")


def mixed(
    examples: Sequence[Example], grid: Grid, *, size: int, seed: int, instructions: Sequence[str] = ()
) -> list[Example]:
    """Return a mixture of so many examples, the same for the same seed; see `GOOD`.

    No good clip is there twice as it is. Spoilt ones are made from good ones, by a seed of their own each; a corruption
    that needs a coloured thing, where a clip shows none, is left out. Of clips that are spoilt or wrongly told no event
    is known.

    Args:
        examples: good clips, and failures of several kinds.
        grid: how their pictures are laid out.
        size: how many are wanted; fewer are returned, in the same shares, where there are too few good clips.
        seed: of every draw.
        instructions: what clips may be wrongly told beside each other's instructions.

    Raises:
        SpecError: no good clip is among the examples, or they all have one instruction and no other is given.
    """
    rng = np.random.default_rng(seed)
    good = [example for example in examples if example.follows]
    if not good:
        raise SpecError(f"a mixture is made from good clips; there is none among {len(examples)}")
    size = min(size, int(len(good) / GOOD))
    told = sorted({*instructions, *(example.instruction for example in good)})
    kept = [good[i] for i in rng.permutation(len(good))[: round(GOOD * size)]]
    wrong = [
        _wrongly_told(good[int(i)], told, int(rng.integers(1 << 31)))
        for i in rng.integers(len(good), size=round(WRONGLY_TOLD * size))
    ]
    failed = {
        kind: [e for e in examples if not e.follows and e.kind == kind]
        for kind in sorted({e.kind for e in examples if not e.follows})
    }
    kinds = [*failed, *CORRUPTIONS]
    each = -(-(size - len(kept) - len(wrong)) // len(kinds))
    bad: list[Example] = []
    for kind in kinds:
        if kind in failed:
            bad += [failed[kind][i] for i in rng.permutation(len(failed[kind]))[:each]]
        else:
            draws = [(good[int(i)], int(rng.integers(1 << 31))) for i in rng.integers(len(good), size=each)]
            bad += [found for example, own in draws if (found := spoilt(example, grid, kind, seed=own)) is not None]
    return [*kept, *wrong, *bad]


def spoilt(example: Example, grid: Grid, kind: str, *, seed: int) -> Example | None:
    """Return a good example with its pictures corrupted; None where that needs a coloured thing and none is there.

    Raises:
        SpecError: no such corruption, or pictures of another layout.
    """
    views = grid.split(example.frames).values()
    if kind in NEEDS_A_THING and not any(blobs_of(view) for view in views):
        return None
    frames = corrupted(example.frames, grid, kind, seed=seed)
    return replace(example, frames=frames, follows=False, kind=kind, events={})


def _wrongly_told(example: Example, told: Sequence[str], seed: int) -> Example:
    other = wrong_instruction(example.instruction, told, seed=seed)
    return replace(example, instruction=other, follows=False, kind=WRONG_INSTRUCTION, events={})
