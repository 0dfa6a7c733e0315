"""What a small network sees in a picture: patch tokens, their digest, and where things are to a fraction of a pixel.

Blocks and the pooling by learned queries are those of a SigLIP-like vision transformer (Zhai et al. 2023, "Sigmoid Loss
for Language Image Pre-Training"; Dosovitskiy et al. 2021). Patches come from a few convolutions, which learn from
thousands of pictures what a linear patch embedding learns from millions (Xiao et al. 2021, "Early Convolutions Help
Transformers See Better"). Points are expected coordinates under a softmax over the picture (Levine et al. 2016,
"End-to-End Training of Deep Visuomotor Policies"): a hand's motion between two pictures is often less than a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from factory.errors import SpecError

_SHARPNESS = 4.0
"""Logits of points are so much larger than a convolution's first outputs: a flat softmax sees the middle everywhere."""


@dataclass(frozen=True, kw_only=True)
class EyeSpec:
    """Size of the part that sees.

    Attributes:
        width: numbers of a token, a multiple of `heads`; the stem has half of it.
        heads: of attention.
        layers: transformer blocks over a picture's tokens; 0 leaves convolutions and points.
        points: coordinates found in each picture; 0 for none.
        digest: tokens that a picture is pooled into.
        patch_px: side of the patch that a token stands for, a multiple of 8; views are cut at multiples of it. Larger
            pictures cost the same with a larger one: the first convolution then strides over more pixels.
    """

    width: int = 64
    heads: int = 4
    layers: int = 0
    points: int = 64
    digest: int = 4
    patch_px: int = 8

    def __post_init__(self) -> None:
        if self.width < 8 or self.width % (2 * self.heads) or self.layers < 0 or self.points < 0 or self.digest < 1:
            raise SpecError(f"an eye needs a width that twice its heads divide, and a digest of 1 or more: {self}")
        if self.patch_px < 8 or self.patch_px % 8:
            raise SpecError(f"patches of {self.patch_px} pixels; expected a multiple of 8")


class Block(nn.Module):
    """A transformer block, normalised first; keys and values come from `context` where one is given."""

    def __init__(self, width: int, heads: int) -> None:
        """Make it with random weights."""
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.pair, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Return ``(b, n, width)`` from that shape; context is ``(b, k, width)``."""
        h = self.before(x)
        key, value = self.pair(h if context is None else self.before(context)).chunk(2, dim=-1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.query(h), key, value))
        x = x + self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.between(x))


class Patches(nn.Module):
    """Turns pictures of one size into a fine map and tokens, one a patch."""

    def __init__(self, spec: EyeSpec, shape_px: tuple[int, int]) -> None:
        """Make it with random weights. Raises SpecError for pictures that patches do not tile."""
        super().__init__()
        patch, first = spec.patch_px, spec.patch_px // 4
        if any(side % patch for side in shape_px):
            raise SpecError(f"pictures of {shape_px[1]}x{shape_px[0]} pixels: both must be multiples of {patch}")
        half, width = spec.width // 2, spec.width
        self.fine = nn.Sequential(
            nn.Conv2d(3, half // 2, 2 * first + 1, stride=first, padding=first), nn.GELU("tanh"),
            nn.Conv2d(half // 2, half, 5, stride=2, padding=2), nn.GELU("tanh"),
            nn.Conv2d(half, half, 3, padding=1), nn.GELU("tanh"),
            nn.GroupNorm(1, half),
        )  # fmt: skip
        self.coarse = nn.Conv2d(half, width, 2, stride=2)
        rows, columns = shape_px[0] // patch, shape_px[1] // patch
        self.place = nn.Parameter(torch.randn(1, rows * columns, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, spec.heads) for _ in range(spec.layers))

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Return the map ``(b, width / 2, 2 h / patch, 2 w / patch)`` and tokens ``(b, n, width)``.

        Pictures ``(b, 3, h, w)`` are in [-1, 1].
        """
        fine = self.fine(pictures)
        tokens = self.coarse(fine).flatten(2).transpose(1, 2) + self.place
        for block in self.blocks:
            tokens = block(tokens)
        return fine, tokens


class Eye(nn.Module):
    """Sees single pictures of one size."""

    def __init__(self, spec: EyeSpec, shape_px: tuple[int, int]) -> None:
        """Make it with random weights. Raises SpecError for pictures that patches do not tile."""
        super().__init__()
        self.patches = Patches(spec, shape_px)
        self.query = nn.Parameter(torch.randn(1, spec.digest, spec.width) * 0.02)
        self.pool = Block(spec.width, spec.heads)
        self.points = nn.Conv2d(spec.width // 2, spec.points, 1) if spec.points else None
        self.point_token = nn.Linear(2 * spec.points, spec.width) if spec.points else None

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the digest ``(b, k, width)`` of pictures ``(b, 3, h, w)``; with points, their token is the last."""
        fine, tokens = self.patches(pictures)
        digest = self.pool(self.query.expand(len(tokens), -1, -1), tokens)
        if self.points is None or self.point_token is None:
            return digest
        token = self.point_token(_expected(self.points(fine)).flatten(1))
        return torch.cat([digest, token[:, None]], dim=1)


def _expected(maps: Tensor) -> Tensor:
    """Return the mean coordinates ``(b, k, 2)`` in [-1, 1] under each map's softmax over the picture."""
    rows, columns = maps.shape[2:]
    y = torch.linspace(-1.0, 1.0, rows, device=maps.device, dtype=maps.dtype)
    x = torch.linspace(-1.0, 1.0, columns, device=maps.device, dtype=maps.dtype)
    share = (_SHARPNESS * maps).flatten(2).softmax(-1).unflatten(-1, (rows, columns))
    return torch.stack([(share.sum(2) * x).sum(-1), (share.sum(3) * y).sum(-1)], dim=-1)


def patch_of(size_px: int) -> int:
    """Return the patch for views of so many pixels a side: an eighth, at which cost does not depend on the size.

    Where that is no multiple of 8 that divides them, the next smaller one that is.
    """
    return next((8 * k for k in range(size_px // 64, 1, -1) if size_px % (8 * k) == 0), 8)


def as_input(frames: Tensor) -> Tensor:
    """Return uint8 pictures ``(..., h, w, 3)`` as float32 ``(..., 3, h, w)`` in [-1, 1]."""
    return frames.movedim(-1, -3).float() / 127.5 - 1.0


def varied(pictures: Tensor, generator: torch.Generator, *, jitter: float, noise: float) -> Tensor:
    """Return pictures ``(b, t, 3, h, w)`` in other light: contrast and colour of each sequence, grain of each pixel.

    One sequence keeps one light, for light does not change within a clip. Values may leave [-1, 1] a little.
    """
    if jitter:
        shape = (len(pictures), 1, 3, 1, 1)
        gain = 1.0 + jitter * (2.0 * torch.rand(shape, generator=generator) - 1.0)
        shift = jitter * (2.0 * torch.rand(shape, generator=generator) - 1.0)
        pictures = pictures * gain.to(pictures.device) + shift.to(pictures.device)
    if noise:
        pictures = pictures + noise * torch.randn(pictures.shape, generator=generator).to(pictures.device)
    return pictures
