"""The network of the inverse dynamics model: pictures in, the motion between them and the hands' poses out.

The shape is that of the model which labelled GR00T N1's dreams (NVIDIA 2025, section 2.2; DreamGen, Jang et al. 2025):
an image encoder, a transformer over both pictures and action tokens, weights of its own for each embodiment. It knows
no language and no joint angles: what it says must be in the pictures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from dreams.vision import Block, Eye, EyeSpec
from factory.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class IdmSpec:
    """What an inverse dynamics model is like.

    Attributes:
        eye: the part that sees.
        layers: blocks over the digests of a window's pictures and its actions.
        head: "regression" says the expected motion; "flow" draws it by flow matching, so that samples can differ.
        between: whether a window shows all of the clip's pictures from its first to its last, or only these two.
        near: control steps that a window should have; it gets the multiple of the clip's stride next to it.
        flow_steps: Euler steps from noise to motion.
        jitter: how far light and colour vary in training, as a share of full white.
        noise: standard deviation of the grain added in training, of pictures in [-1, 1].
    """

    eye: EyeSpec = field(default_factory=EyeSpec)
    layers: int = 2
    head: Literal["regression", "flow"] = "regression"
    between: bool = True
    near: int = 16
    flow_steps: int = 8
    jitter: float = 0.1
    noise: float = 0.03

    def __post_init__(self) -> None:
        if min(self.layers, self.near, self.flow_steps) < 1 or min(self.jitter, self.noise) < 0.0:
            raise SpecError(f"layers, horizon and flow steps are 1 or more, jitter and noise not negative: {self}")
        if self.head not in ("regression", "flow"):
            raise SpecError(f"head {self.head!r}; known: regression, flow")


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Numbers that one embodiment's head has.

    Attributes:
        motion: of a row of motion.
        pose: of the hands' poses, 9 a hand: position and rot6d.
    """

    motion: int
    pose: int


class Head(nn.Module):
    """What belongs to one embodiment: its rows into tokens, tokens into rows, digests into poses."""

    def __init__(self, width: int, digest: int, widths: Widths, *, doubts: bool = False) -> None:
        """Make it with random weights; with `doubts` it can say how large its errors are."""
        super().__init__()
        self.into = nn.Linear(widths.motion, width)
        self.out = nn.Linear(width, widths.motion)
        self.pose = nn.Sequential(
            nn.Linear(digest * width, 2 * width), nn.GELU("tanh"), nn.Linear(2 * width, widths.pose)
        )
        self.doubt = Doubt(width, widths.motion) if doubts else None


class Doubt(nn.Sequential):
    """Says the logarithm of the standard deviation of each number's error, from the tokens it was read from."""

    def __init__(self, width: int, motion: int) -> None:
        """Make it; at first every error is of the size of usual motion."""
        last = nn.Linear(width, motion)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(width, width), nn.GELU("tanh"), last)


class IdmNet(nn.Module):
    """Eye, reader and heads."""

    def __init__(
        self,
        spec: IdmSpec,
        shape_px: tuple[int, int],
        horizon: int,
        pictures: int,
        heads: list[Widths],
        *,
        doubts: bool = False,
    ) -> None:
        """Make it with random weights, for windows of `horizon` actions that show so many pictures."""
        super().__init__()
        width = spec.eye.width
        self.digest_tokens = spec.eye.digest + (1 if spec.eye.points else 0)
        self.horizon, self.flow_steps = horizon, spec.flow_steps
        self.eye = Eye(spec.eye, shape_px)
        self.when = nn.Parameter(torch.randn(1, pictures, 1, width) * 0.02)
        self.action = nn.Parameter(torch.randn(1, horizon, width) * 0.02)
        self.noisiness = nn.Sequential(nn.Linear(width, width), nn.GELU("tanh"), nn.Linear(width, width))
        self.blocks = nn.ModuleList(Block(width, spec.eye.heads) for _ in range(spec.layers))
        self.last = nn.LayerNorm(width)
        self.heads = nn.ModuleList(Head(width, self.digest_tokens, widths, doubts=doubts) for widths in heads)

    def digest(self, pictures: Tensor) -> Tensor:
        """Return ``(..., k, width)`` of pictures ``(..., 3, h, w)``, each seen alone."""
        flat = self.eye(pictures.flatten(0, -4))
        return flat.unflatten(0, pictures.shape[:-3])

    def poses(self, digest: Tensor, head: int) -> Tensor:
        """Return normalised poses ``(..., 9 n)`` from digests ``(..., k, width)``."""
        return self._head(head).pose(digest.flatten(-2))

    def motion(self, digest: Tensor, head: int, noisy: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """Return normalised motion ``(b, horizon, m)``, or its velocity where noisy motion and times are given.

        Args:
            digest: ``(b, pictures, k, width)``.
            head: number of the embodiment.
            noisy: ``(b, horizon, m)``: where flow matching is.
            times: ``(b,)``: its time.
        """
        return self._head(head).out(self.read(digest, head, noisy, times))

    def read(self, digest: Tensor, head: int, noisy: Tensor | None = None, times: Tensor | None = None) -> Tensor:
        """Return the tokens ``(b, horizon, width)`` that `motion` is said from; arguments likewise."""
        part = self._head(head)
        seen = (digest + self.when).flatten(1, 2)
        asked = self.action.expand(len(digest), -1, -1)
        if noisy is not None and times is not None:
            asked = asked + part.into(noisy) + self.noisiness(_waves(times, asked.shape[-1]))[:, None]
        tokens = torch.cat([seen, asked], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        return self.last(tokens[:, -self.horizon :])

    def said(self, tokens: Tensor, head: int) -> tuple[Tensor, Tensor | None]:
        """Return normalised motion ``(b, horizon, m)`` and the standard deviation of its error, where that is known.

        Args:
            tokens: as `read` gives them.
            head: number of the embodiment.
        """
        part = self._head(head)
        return part.out(tokens), None if part.doubt is None else part.doubt(tokens).exp()

    def doubts(self) -> nn.Module:
        """Return the parts that say how large errors are, as one module."""
        return nn.ModuleList(head.doubt for head in self.heads if isinstance(head, Head) and head.doubt is not None)

    def _head(self, number: int) -> Head:
        head = self.heads[number]
        assert isinstance(head, Head)  # noqa: S101 - what the list was made of
        return head


def _waves(times: Tensor, width: int) -> Tensor:
    """Return ``(b, width)`` sines and cosines of times in [0, 1] (Vaswani et al. 2017), 1 to 1000 radians."""
    rates = torch.exp(torch.linspace(0.0, math.log(1000.0), width // 2, device=times.device))
    angles = times[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
