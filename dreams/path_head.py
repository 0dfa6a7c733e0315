"""A head that training alone has: it says from the video network's tokens where the hand goes.

A network that must say so finds the named thing and its place sooner than one that has to conclude from pixels that
they matter. The head reads the tokens in the middle of the network and is gone when the model is saved. Aligning what
is inside such a network with something known is the idea of REPA (Yu et al. 2024), motion as a second target beside
appearance that of VideoJAM (Chefer et al. 2025); here the known is the motion that episodes come with.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dreams.clips import Clip
from dreams.codec import GROUP
from dreams.motion import parted

UNIT_M = 0.1
"""Paths are told in it: hands of a tabletop robot go one or two of it."""
_NARROW = 64


class PathHead(nn.Module):
    """Reads the tokens of each latent picture: where the hands are in its four pictures, from where they began."""

    def __init__(self, width: int, a_picture: int, hands: int, seed: int) -> None:
        """Make it with random weights, for `a_picture` tokens of this width a latent picture."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.read = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, _NARROW), nn.GELU("tanh"), nn.Flatten(2),
                nn.Linear(_NARROW * a_picture, 3 * GROUP * hands),
            )  # fmt: skip
        self.a_picture = a_picture

    def forward(self, tokens: Tensor) -> Tensor:
        """Return paths ``(b, frames - 1, 3 hands)`` from tokens ``(b, t a_picture, width)`` of t latent pictures."""
        said = self.read(tokens.unflatten(1, (-1, self.a_picture))[:, 1:])
        return said.unflatten(2, (GROUP, -1)).flatten(1, 2)


def path_of(clip: Clip) -> Tensor | None:
    """Return where the hands are in each picture but the first, minus where they began; None where nobody knows.

    ``(frames - 1, 3 hands)`` float32, in `UNIT_M`, each hand's in the base frame of its arm.
    """
    if clip.motion is None or not clip.hands:
        return None
    moves = np.concatenate([part[:, :3] for part in parted(clip.motion, clip.hands).values()], axis=1)
    path = np.concatenate([np.zeros((1, moves.shape[1])), np.cumsum(moves, axis=0)])
    return torch.from_numpy((path[clip.time.rows(clip.length)[1:]] / UNIT_M).astype(np.float32))


@contextmanager
def watched(network: Any) -> Generator[list[Tensor]]:
    """Collect what the middle block of a video network says, ``(b, tokens, width)``, each time it runs."""
    found: list[Tensor] = []
    handle = network.blocks[len(network.blocks) // 2].register_forward_hook(lambda _, __, said: found.append(said))
    try:
        yield found
    finally:
        handle.remove()
