"""A video codec in closed form: principal components of patches, with the interface of Wan's autoencoder.

The first picture is coded alone. Each following group of four is coded as its difference from the first picture as that
is decoded, so what stands still is next to nothing in latent space. All is linear, so fitting is one eigenvalue problem
per kind of patch (Pearson 1901; Hotelling 1933) and takes seconds on a CPU where a learned autoencoder takes hours. It
blurs what no principal component holds: for full-size work Wan's own autoencoder takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor, nn

from dreams.views import Frames
from factory.errors import SpecError

GROUP = 4
"""Pictures in one latent picture, but for the first; as in Wan's autoencoder."""

_LEAST_STD = 1e-3
"""Of a latent channel, where pictures are in [-1, 1]: an eighth of a grey level. Less is rounding, not content."""


@dataclass(frozen=True, kw_only=True)
class Coded:
    """A latent that is known exactly, where a variational autoencoder has a distribution.

    Attributes:
        mean: ``(b, z, t, h, w)``.
    """

    mean: Tensor

    def mode(self) -> Tensor:
        """Return the latent."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:  # noqa: ARG002 - nothing is random here
        """Return the latent."""
        return self.mean


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What `PatchCodec.encode` returns, as `AutoencoderKLWan.encode` does.

    Attributes:
        latent_dist: the latent.
    """

    latent_dist: Coded


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What `PatchCodec.decode` returns, as `AutoencoderKLWan.decode` does.

    Attributes:
        sample: ``(b, 3, t, h, w)`` in [-1, 1].
    """

    sample: Tensor


class PatchCodec(ModelMixin, ConfigMixin):
    """Codes square patches by their principal components; `fit_codec` makes one.

    `config.latents_std` is half the way to equal variances, in logarithm: the root of each channel's standard deviation
    times the mean of all. Equal ones would make every detail as loud as what moves; a network would learn them first.
    """

    @register_to_config
    def __init__(
        self,
        z_dim: int = 48,
        patch: int = 8,
        scale_factor_spatial: int = 8,
        scale_factor_temporal: int = GROUP,
        latents_mean: tuple[float, ...] = (),  # noqa: ARG002 - kept in the configuration, where pipelines look
        latents_std: tuple[float, ...] = (),  # noqa: ARG002
    ) -> None:
        """Make a codec that knows no pictures yet: all its components are zero.

        Args:
            z_dim: latent channels.
            patch: side of a patch, pixels.
            scale_factor_spatial: the same, under the name that pipelines look for.
            scale_factor_temporal: pictures of a group; always 4.
            latents_mean: of each channel; zeros.
            latents_std: of each channel.
        """
        super().__init__()
        self._patch = patch
        if scale_factor_spatial != patch or scale_factor_temporal != GROUP or not 0 < z_dim <= 3 * GROUP * patch**2:
            raise SpecError(
                f"a patch codec with z_dim {z_dim}, patch {patch}, factors {scale_factor_spatial} and "
                f"{scale_factor_temporal}; expected the patch as spatial factor, {GROUP} as temporal, and 1 to "
                f"{3 * GROUP * patch**2} channels"
            )
        for name, size in (("first", 3 * patch**2), ("group", 3 * GROUP * patch**2)):
            self.register_parameter(f"{name}_mean", nn.Parameter(torch.zeros(size), requires_grad=False))
            self.register_parameter(f"{name}_basis", nn.Parameter(torch.zeros(size, z_dim), requires_grad=False))
        self.register_parameter("first_gain", nn.Parameter(torch.ones(z_dim), requires_grad=False))

    def encode(self, x: Tensor) -> Encoded:
        """Return the latent ``(b, z, 1 + (t - 1) / 4, h / patch, w / patch)`` of pictures ``(b, 3, t, h, w)``.

        Raises SpecError for sizes that are no multiple of the patch, or t that is not 4 k + 1.
        """
        patch = self._patch
        if x.shape[2] % GROUP != 1 or x.shape[3] % patch or x.shape[4] % patch:
            raise SpecError(
                f"{x.shape[2]} pictures of {x.shape[4]}x{x.shape[3]} pixels; expected 4 k + 1, and multiples of {patch}"
            )
        coded = (_patches(x[:, :, :1], 1, patch) - self.first_mean) @ self.first_basis * self.first_gain
        if x.shape[2] > 1:
            rest = _patches(x[:, :, 1:] - self._first(coded), GROUP, patch)
            coded = torch.cat([coded, (rest - self.group_mean) @ self.group_basis], dim=1)
        return Encoded(latent_dist=Coded(mean=coded.permute(0, 4, 1, 2, 3).contiguous()))

    def decode(self, z: Tensor, return_dict: bool = True) -> Decoded | tuple[Tensor]:
        """Return the pictures of a latent, clamped to [-1, 1]; in a tuple where no `Decoded` is wanted."""
        coded = z.permute(0, 2, 3, 4, 1)
        x = first = self._first(coded[:, :1])
        if coded.shape[1] > 1:
            rest = _pictures(coded[:, 1:] @ self.group_basis.T + self.group_mean, GROUP, self._patch)
            x = torch.cat([first, first + rest], dim=2)
        x = x.clamp(-1.0, 1.0)
        return Decoded(sample=x) if return_dict else (x,)

    def _first(self, coded: Tensor) -> Tensor:
        patches = (coded / self.first_gain) @ self.first_basis.T + self.first_mean
        return _pictures(patches, 1, self._patch)


def fit_codec(clips: Iterable[Frames], *, z_dim: int = 48, patch: int = 8) -> PatchCodec:
    """Return the codec of this size that loses least on the given clips, in the sense of squares; order matters not.

    Args:
        clips: videos ``(t, h, w, 3)`` uint8; some hundred are plenty.
        z_dim: latent channels.
        patch: side of a patch, pixels.

    Raises:
        SpecError: there is no clip, or one does not divide into patches and groups.
    """
    kept = list(clips)
    if not kept:
        raise SpecError("a codec is fitted on clips; none was given")
    codec = PatchCodec(z_dim=z_dim, patch=patch, scale_factor_spatial=patch)
    first = _Moments(3 * patch**2)
    for frames in kept:
        first.add(_patches(pictures_to_tensor(frames[None, :1]), 1, patch))
    mean, basis, std = first.components(z_dim)
    _set(codec, first_mean=mean, first_basis=basis)
    group = _Moments(3 * GROUP * patch**2)
    for frames in kept:
        x = pictures_to_tensor(frames[None])
        shown = cast("Tensor", codec.decode(codec.encode(x[:, :, :1]).latent_dist.mode(), return_dict=False)[0])  # type: ignore[index]
        group.add(_patches(x[:, :, 1:] - shown, GROUP, patch))
    mean, basis, group_std = group.components(z_dim)
    # One number a channel is kept for both kinds of latent picture, so the first is brought to the groups' scale.
    gain = np.where(std > _LEAST_STD, group_std / np.maximum(std, _LEAST_STD), 1.0)
    _set(codec, group_mean=mean, group_basis=basis, first_gain=gain)
    scale = np.sqrt(group_std * np.sqrt(np.mean(np.square(group_std))))
    codec.register_to_config(latents_mean=(0.0,) * z_dim, latents_std=tuple(float(each) for each in scale))
    return codec


def pictures_to_tensor(frames: NDArray[np.uint8]) -> Tensor:
    """Return pictures ``(b, t, h, w, 3)`` as ``(b, 3, t, h, w)`` in [-1, 1], the same bits as a pipeline's own."""
    return 2.0 * (torch.from_numpy(np.ascontiguousarray(frames)).float() / 255.0).permute(0, 4, 1, 2, 3) - 1.0


def tensor_to_pictures(x: Tensor) -> NDArray[np.uint8]:
    """Return the inverse of `pictures_to_tensor`, to the nearest grey level."""
    levels = (x.detach().float().clamp(-1.0, 1.0) * 0.5 + 0.5) * 255.0
    return levels.round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().cpu().numpy()


def psnr_db(found: NDArray[np.uint8], expected: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio of pictures, decibels; infinite where they are the same."""
    error = float(np.mean((found.astype(np.float64) - expected) ** 2))
    return float("inf") if error == 0.0 else 10.0 * float(np.log10(255.0**2 / error))


class _Moments:
    """Sums from which mean and principal components of patches follow, without keeping the patches."""

    def __init__(self, size: int) -> None:
        self.count, self.total, self.squares = 0, np.zeros(size), np.zeros((size, size))

    def add(self, patches: Tensor) -> None:
        rows = patches.reshape(-1, len(self.total)).double().numpy()
        self.count += len(rows)
        self.total += rows.sum(axis=0)
        self.squares += rows.T @ rows

    def components(self, wanted: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Return mean ``(d,)``, basis ``(d, wanted)`` with zeros beyond d, and standard deviations ``(wanted,)``."""
        mean = self.total / self.count
        values, vectors = np.linalg.eigh(self.squares / self.count - np.outer(mean, mean))
        size = min(wanted, len(mean))
        vectors = vectors[:, ::-1][:, :size]
        # A component's sign is arbitrary; its greatest element is made positive so that every fit agrees.
        vectors = vectors * np.sign(np.take_along_axis(vectors, np.abs(vectors).argmax(axis=0)[None], axis=0))
        basis, std = np.zeros((len(mean), wanted)), np.zeros(wanted)
        basis[:, :size] = vectors
        std[:size] = np.sqrt(np.maximum(values[::-1][:size], 0.0))
        return mean, basis, np.maximum(std, _LEAST_STD)


def _set(codec: PatchCodec, **values: NDArray[Any]) -> None:
    for name, value in values.items():
        getattr(codec, name).copy_(torch.from_numpy(value))


def _patches(x: Tensor, group: int, patch: int) -> Tensor:
    """Return ``(b, 3, t, h, w)`` as ``(b, t / group, h / patch, w / patch, 3 group patch patch)``."""
    b, c, t, h, w = x.shape
    x = x.reshape(b, c, t // group, group, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def _pictures(patches: Tensor, group: int, patch: int) -> Tensor:
    """Return the inverse of `_patches`."""
    b, t, h, w, _ = patches.shape
    x = patches.reshape(b, t, h, w, 3, group, patch, patch).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.reshape(b, 3, t * group, h * patch, w * patch)
