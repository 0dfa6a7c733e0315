"""Trains the small autoencoder on clips: what it shows should be what was there, above all where something moved."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dreams.codec import GROUP, pictures_to_tensor
from dreams.descent import Schedule, descend
from dreams.small_autoencoder import PATCH, SmallAutoencoder
from dreams.views import Frames
from factory.errors import SpecError

_NOISE = 0.1
"""Standard deviation of what is added to a latent before it is decoded; latents are of the size of 1."""
_STILL, _MOVED = 0.2, 0.1
"""Weight of a pixel that is as in the first picture, beside 1; and from what difference on it is not, of 2."""
_FIRST, _ABSOLUTE, _SMALL = 0.3, 0.1, 3e-4
"""Weights of the first picture's error; of absolute errors beside squares, which keep edges; of a latent's square."""
_MEASURED = 256
"""Clips that the scale of latents is measured on."""


@dataclass(frozen=True, kw_only=True)
class Coding:
    """How a small autoencoder is trained.

    Attributes:
        schedule: steps, batch (clips in a step), rate, running mean, seed.
        z_dim: channels of a new autoencoder's latent pixel of 8x8, before they are folded.
        width: channels of a new one's maps.
        groups: groups of each clip in a step.
        fold: side of the squares of a new one's latent pixels that are folded into channels.
    """

    schedule: Schedule
    z_dim: int = 16
    width: int = 96
    groups: int = 2
    fold: int = 2

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise SpecError(f"a step needs one group of each clip or more, not {self.groups}")


def train_autoencoder(
    clips: Sequence[Frames],
    coding: Coding,
    run: Path,
    *,
    begin: SmallAutoencoder | None = None,
    max_s: float = math.inf,
) -> SmallAutoencoder | None:
    """Return an autoencoder trained from where the run's folder says it was left; None while steps are left.

    Killed at any moment and called again with the same arguments it goes on; with the same bits on one machine.

    Args:
        clips: ``(t, h, w, 3)`` uint8, all of one size.
        coding: how.
        run: folder of this training.
        begin: an autoencoder to go on with, which has its own shape; None for a new one. It is trained in place.
        max_s: seconds after which it stops at the next step.

    Raises:
        SpecError: there is no clip with a group, clips differ in size, or their sides do not divide.
        DatasetError: the run's folder holds another training.
    """
    shapes = {clip.shape for clip in clips}
    if len(shapes) != 1 or (length := next(iter(shapes))[0]) <= GROUP or length % GROUP != 1:
        raise SpecError(f"an autoencoder is trained on clips of one size, of 4 k + 1 pictures, 5 at least: {shapes}")
    net = begin or _new(coding)
    multiple = 2 * net.config["scale_factor_spatial"]  # a video network joins two by two latent pixels
    if any(side % multiple for side in next(iter(shapes))[1:3]):
        raise SpecError(f"clips of {shapes}; this autoencoder takes pictures with sides of multiples of {multiple}")
    net.train().requires_grad_(True)
    cast("Any", net).to(memory_format=torch.channels_last)  # a fifth faster on a processor

    def loss(draw: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(clips), (coding.schedule.batch,), generator=draw).tolist()
        groups = torch.randint((length - 1) // GROUP, (len(rows), coding.groups), generator=draw)
        return {"loss": _loss(net, *_drawn(clips, rows, groups), draw)}

    found = hashlib.sha256()
    for clip in clips:
        found.update(clip.tobytes())
    about = {key: value for key, value in asdict(coding).items() if key != "fold"}  # which changes no weight
    about |= {"clips": found.hexdigest()[:16]} | ({} if begin is None else {"begin": _digest(begin)})
    if descend(net, loss, run, coding.schedule, about=about, max_s=max_s) < coding.schedule.steps:
        return None
    net.eval().requires_grad_(False)
    measured = [clips[int(i)] for i in np.linspace(0, len(clips) - 1, min(_MEASURED, len(clips))).round()]
    _scale(net, measured, (net.config["scale_factor_spatial"] // net.config["patch"]) ** 2)
    return net


def _new(coding: Coding) -> SmallAutoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(coding.schedule.seed)
        return SmallAutoencoder(
            z_dim=coding.z_dim * coding.fold**2, width=coding.width, scale_factor_spatial=PATCH * coding.fold
        )


def _digest(net: SmallAutoencoder) -> str:
    found = hashlib.sha256()
    for name, weight in net.state_dict().items():
        found.update(name.encode() + weight.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _drawn(clips: Sequence[Frames], rows: Sequence[int], groups: Tensor) -> tuple[Tensor, Tensor]:
    """Return first pictures ``(b, 3, h, w)`` and groups ``(b, 3, 4 k, h, w)`` of some clips."""
    where = 1 + (groups[:, :, None] * GROUP + torch.arange(GROUP)).flatten(1)
    x = pictures_to_tensor(np.stack([clips[row][[0, *at]] for row, at in zip(rows, where.tolist(), strict=True)]))
    return x[:, :, 0], x[:, :, 1:]


def _loss(net: SmallAutoencoder, first: Tensor, rest: Tensor, draw: torch.Generator) -> Tensor:
    seen = net.see_first(first)
    z_first, z = net.code_first(seen), net.code(rest, seen)
    missed_first = net.show_first(_noised(z_first, draw)) - first
    missed = net.show(_noised(z, draw), first, seen) - rest
    moved = (rest - first[:, :, None]).abs().amax(dim=1, keepdim=True) > _MOVED
    weighed = (_error(missed) * (_STILL + moved)).mean()
    return weighed + _FIRST * _error(missed_first).mean() + _SMALL * (z.square().mean() + z_first.square().mean())


def _error(missed: Tensor) -> Tensor:
    return missed.square() + _ABSOLUTE * missed.abs()


def _noised(z: Tensor, draw: torch.Generator) -> Tensor:
    return z + _NOISE * torch.randn(z.shape, generator=draw)


@torch.no_grad()
def _scale(net: SmallAutoencoder, clips: Sequence[Frames], folded: int) -> None:
    """Write the mean and standard deviation of each latent channel into the configuration.

    `folded` neighbouring channels are one before they are folded, and have one scale.
    """
    z = torch.cat([net.encode(pictures_to_tensor(clip[None])).latent_dist.mode() for clip in clips])
    rows = z.transpose(0, 1).unflatten(0, (-1, folded)).flatten(1)
    mean, std = (each.repeat_interleave(folded) for each in (rows.mean(dim=1), rows.std(dim=1).clamp(min=1e-3)))
    net.register_to_config(latents_mean=tuple(mean.tolist()), latents_std=tuple(std.tolist()))
