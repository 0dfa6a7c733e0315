"""The network of the embedded judge: pictures and words in, a logit for each event and for the whole out.

Words point. A thing's words and a target's each ask every place of every picture whether it is them, and where they
point is a coordinate, as sharp as a pixel; what is seen there, and how the coordinates of thing, target and hand change
beside each other, is what events are told from. So "is the thing that was named on the target that was named" is asked
where colours still are pixels, and not of a digest of the picture. Pointing is attention with one head a question
(Vaswani et al. 2017), its coordinates the expected ones of Levine et al. 2016, "End-to-End Training of Deep Visuomotor
Policies"; words add up, so a pair of colour and kind that was never seen together points too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dreams.judge import EVENTS, sampled
from dreams.views import Frames, Grid
from dreams.vision import Block, as_input
from dreams.words import numbers_of
from factory.errors import SpecError

CELL_PX = 2
"""Side of the square of pixels that words can point at."""
_TILE_PX = 16
"""Pictures are cut at multiples of it."""
_PART = 16
"""Clips that are judged at once."""
_SHARPNESS = 4.0
"""Logits of pointing are so much larger than a convolution's first outputs; a flat softmax sees the middle always."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """Sizes of the network.

    Attributes:
        width: numbers of a token and of a word.
        blocks: transformer blocks over all pictures and the words.
        channels: numbers of a place in a picture.
        landmarks: places that are pointed at in every picture whatever was said, such as the hand.
        counts: numbers of pictures it is trained to be shown; the first is the one it judges by.
    """

    width: int = 96
    blocks: int = 2
    channels: int = 24
    landmarks: int = 8
    counts: tuple[int, ...] = (8, 4, 16)

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 2 or self.blocks < 1 or self.width % 16:
            raise SpecError(f"a classifier needs 2 pictures, a block, and a width that 16 divides: {self}")
        if self.channels < 8 or self.landmarks < 1:
            raise SpecError(f"a classifier needs 8 channels and a landmark at least: {self}")


class Pointing(nn.Module):
    """Where questions point in pictures, and what is seen there."""

    def forward(self, questions: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Return what was found ``(..., k, 3 + c)`` and the logits of every cell ``(..., k, h * w)``.

        Found are x and y in [-1, 1], right and down, how clear the answer is, and what is seen there.

        Args:
            questions: ``(..., k, c)``.
            seen: ``(..., h, w, c)``; leading axes broadcast.
        """
        rows, columns, channels = seen.shape[-3:]
        flat = seen.flatten(-3, -2)
        logits = (questions @ flat.transpose(-1, -2)) * (_SHARPNESS / math.sqrt(channels))
        share = logits.softmax(-1)
        x, y = (torch.linspace(1.0 / n - 1.0, 1.0 - 1.0 / n, n, device=seen.device) for n in (columns, rows))
        at = torch.stack([x.expand(rows, columns), y[:, None].expand(rows, columns)], dim=-1).flatten(0, 1)
        clear = logits.logsumexp(-1, keepdim=True) - math.log(rows * columns)
        return torch.cat([share @ at, 0.3 * clear, share @ flat], dim=-1), logits


class Network(nn.Module):
    """Pictures and words -> logits of the events and of following the instruction, and of where words point."""

    def __init__(self, spec: ClassifierSpec, grid: Grid, words: int) -> None:
        """Make it with random weights, for so many words. Raises SpecError for pictures that it cannot tile."""
        super().__init__()
        if any(side % _TILE_PX for side in grid.shape):
            raise SpecError(f"pictures of {grid.shape[1]}x{grid.shape[0]} pixels: both must be multiples of {_TILE_PX}")
        width, c, asked = spec.width, spec.channels, len(EVENTS) + 1
        self.words = nn.Embedding(words + 1, width, padding_idx=0)
        self.eye = nn.Sequential(
            nn.Conv2d(6, c, 5, stride=CELL_PX, padding=2), nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1), nn.ReLU(),
            nn.Conv2d(c, c, 3, padding=1), nn.GroupNorm(1, c),
        )  # fmt: skip
        self.around = nn.Sequential(
            nn.ReLU(), nn.Conv2d(c, c, 3, stride=2, padding=1),
            nn.ReLU(), nn.Conv2d(c, 2 * c, 3, stride=2, padding=1),
            nn.ReLU(), nn.Conv2d(2 * c, 2 * c, 3, stride=2, padding=1), nn.ReLU(),
        )  # fmt: skip
        self.whole = nn.Linear(2 * c * (grid.shape[0] // _TILE_PX) * (grid.shape[1] // _TILE_PX), width)
        self.point = Pointing()
        self.landmarks = nn.Parameter(torch.randn(spec.landmarks, c) * 0.2)
        self.questions = nn.ModuleList(nn.Linear(width, 2 * c) for _ in range(2))
        self.gates = nn.ModuleList(nn.Linear(width, c) for _ in range(2))
        self.found = nn.Linear(spec.landmarks * (c + 3), width)
        self.named = nn.Linear(4 * (c + 3) + 2 * c, width)
        self.places = nn.Sequential(nn.Linear(2 * (spec.landmarks + 4), width), nn.ReLU(), nn.Linear(width, width))
        self.when = nn.Linear(16, width)
        self.asks = nn.Parameter(torch.randn(1, 1, asked, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(spec.blocks))
        self.normal = nn.LayerNorm(width)
        self.answers = nn.Parameter(torch.randn(asked, width) * 0.02)
        self.offset = nn.Parameter(torch.zeros(asked))

    def forward(self, pictures: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(b, s, events + 1)``, and where thing and target are pointed at ``(b, s, n, 2, cells)``.

        The last logit is of following the instruction. A picture costs the same however many sentences are asked of it.

        Args:
            pictures: ``(b, n, 3, h, w)`` in [-1, 1].
            numbers: ``(b, s, 2, SLOTS)``: s sentences of each clip, as `dreams.words.numbers_of` has them.
        """
        (b, n), s = pictures.shape[:2], numbers.shape[1]
        changed = torch.cat([pictures, pictures - pictures[:, :1]], dim=2)
        seen = self.eye(changed.flatten(0, 1))
        whole = self.whole(self.around(seen).flatten(1)).unflatten(0, (b, n))
        seen = seen.permute(0, 2, 3, 1).unflatten(0, (b, n))
        marks = self.point(self.landmarks, seen)[0]
        every = whole + self.found(marks.flatten(2)) + self.when(_waves(n).to(whole))
        said = self.words(numbers).sum(3)  # thing and target are the sums of their words
        asked = [ask(said[:, :, i]).unflatten(-1, (2, -1)) for i, ask in enumerate(self.questions)]
        named, cells = self.point(torch.cat(asked, dim=2).flatten(1, 2)[:, None], seen)
        named, cells = (each.unflatten(2, (s, 4)).transpose(1, 2) for each in (named, cells))
        agree = [named[..., 2 * i, 3:] * gate(said[:, :, i])[:, :, None] for i, gate in enumerate(self.gates)]
        where = torch.cat([named[..., :2], marks[:, None, ..., :2].expand(-1, s, -1, -1, -1)], dim=3)
        tokens = self.named(torch.cat([named.flatten(3), *agree], dim=-1)) + self.places(where.flatten(3))
        tokens = torch.cat([self.asks.expand(b, s, -1, -1), said, tokens + every[:, None]], dim=2).flatten(0, 1)
        for block in self.blocks:
            tokens = block(tokens)
        logits = (self.normal(tokens[:, : len(self.offset)]) * self.answers).sum(-1) + self.offset
        return logits.unflatten(0, (b, s)), cells[:, :, :, ::2]


def _waves(count: int) -> Tensor:
    """Return ``(count, 16)``: where in the clip each picture is, as sines and cosines; the same for every count."""
    at = torch.linspace(0.0, 1.0, count)[:, None] * torch.pi * 2.0 ** torch.arange(8)[None] / 4.0
    return torch.cat([at.sin(), at.cos()], dim=1)


def logits_of(
    network: Network, clips: Sequence[tuple[Frames, str]], words: Sequence[str], *, count: int
) -> NDArray[np.float64]:
    """Return ``(n, events + 1)`` logits of clips and their instructions, shown so many pictures of each."""
    found: list[NDArray[np.float64]] = []
    network.eval()
    with torch.inference_mode():
        for at in range(0, len(clips), _PART):
            part = clips[at : at + _PART]
            pictures = torch.from_numpy(np.stack([frames[list(sampled(len(frames), count))] for frames, _ in part]))
            numbers = numbers_of([instruction for _, instruction in part], words)
            found.append(network(as_input(pictures), numbers[:, None])[0][:, 0].double().numpy())
    return np.concatenate(found) if found else np.zeros((0, len(EVENTS) + 1))
