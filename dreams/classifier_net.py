"""The network of the embedded judge: pictures and letters in, a logit for each event and for the whole out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dreams.examples import LETTERS
from dreams.judge import EVENTS, sampled
from dreams.views import Frames, Grid
from dreams.vision import Block, Eye, EyeSpec, as_input
from factory.errors import SpecError

_PART = 16
"""Clips that are judged at once."""


@dataclass(frozen=True, kw_only=True)
class ClassifierSpec:
    """Sizes of the network.

    Attributes:
        width: numbers of a token.
        blocks: transformer blocks over all pictures and the instruction.
        points: coordinates found in each picture.
        counts: numbers of pictures it is trained to be shown; the first is the one it judges by.
    """

    width: int = 96
    blocks: int = 3
    points: int = 24
    counts: tuple[int, ...] = (8, 4, 16)

    def __post_init__(self) -> None:
        if not self.counts or min(self.counts) < 2 or self.blocks < 1 or self.width % 16:
            raise SpecError(f"a classifier needs 2 pictures, a block, and a width that 16 divides: {self}")


class Network(nn.Module):
    """Pictures and letters -> logits of the events and of following the instruction."""

    def __init__(self, spec: ClassifierSpec, grid: Grid) -> None:
        """Make it with random weights."""
        super().__init__()
        width = spec.width
        self.eye = Eye(EyeSpec(width=width, heads=4, layers=1, points=spec.points, digest=3), grid.shape)
        self.letters = nn.Embedding(256, width)
        self.words = nn.Sequential(
            nn.Conv1d(width, width, 5, stride=2, padding=2), nn.GELU("tanh"),
            nn.Conv1d(width, width, 5, stride=2, padding=2),
        )  # fmt: skip
        self.place = nn.Parameter(torch.randn(1, LETTERS // 4, width) * 0.02)
        self.when = nn.Linear(16, width)
        self.asks = nn.Parameter(torch.randn(1, len(EVENTS) + 1, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, 4) for _ in range(spec.blocks))
        self.normal = nn.LayerNorm(width)
        self.answers = nn.Parameter(torch.randn(len(EVENTS) + 1, width) * 0.02)
        self.offset = nn.Parameter(torch.zeros(len(EVENTS) + 1))

    def forward(self, pictures: Tensor, letters: Tensor) -> Tensor:
        """Return logits ``(b, events + 1)`` of pictures ``(b, n, 3, h, w)`` in [-1, 1] and letters ``(b, LETTERS)``.

        The last one is of following the instruction.
        """
        b, n = pictures.shape[:2]
        seen = self.eye(pictures.flatten(0, 1)).unflatten(0, (b, n))
        seen = seen + self.when(_waves(n).to(seen))[None, :, None]
        said = self.words(self.letters(letters).transpose(1, 2)).transpose(1, 2) + self.place
        tokens = torch.cat([self.asks.expand(b, -1, -1), seen.flatten(1, 2), said], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return (self.normal(tokens[:, : self.asks.shape[1]]) * self.answers).sum(-1) + self.offset


def _waves(count: int) -> Tensor:
    """Return ``(count, 16)``: where in the clip each picture is, as sines and cosines; the same for every count."""
    at = torch.linspace(0.0, 1.0, count)[:, None] * torch.pi * 2.0 ** torch.arange(8)[None] / 4.0
    return torch.cat([at.sin(), at.cos()], dim=1)


def letters_of(instructions: Sequence[str]) -> Tensor:
    """Return ``(n, LETTERS)``: the bytes of instructions, zeros behind them."""
    rows = [list(each.encode()[:LETTERS].ljust(LETTERS, b"\0")) for each in instructions]
    return torch.tensor(rows, dtype=torch.long)


def logits_of(network: Network, clips: Sequence[tuple[Frames, str]], *, count: int) -> NDArray[np.float64]:
    """Return ``(n, events + 1)`` logits of clips and their instructions, shown so many pictures of each."""
    found: list[NDArray[np.float64]] = []
    network.eval()
    with torch.inference_mode():
        for at in range(0, len(clips), _PART):
            part = clips[at : at + _PART]
            pictures = torch.from_numpy(np.stack([frames[list(sampled(len(frames), count))] for frames, _ in part]))
            letters = letters_of([instruction for _, instruction in part])
            found.append(network(as_input(pictures), letters).double().numpy())
    return np.concatenate(found) if found else np.zeros((0, len(EVENTS) + 1))
