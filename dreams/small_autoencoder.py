"""A small learned video autoencoder with the interface of Wan's, for pictures in which most of the scene stands still.

The first picture is coded alone. Each following group of four is coded given the first, as the difference from what
four pictures in which nothing moves are coded as; and it is decoded given the first too: the decoder says where
something else is seen than there, and what. So what stands still is zero in latent space, and exact where the first
picture is known, and latents speak of what moved. Groups know nothing of each other.

Convolutions run on maps of a quarter and an eighth of the pictures' sides, which a processor can train in minutes. What
is decoded in training is the latent with noise added (as in Rombach et al. 2022, section 3.1, with a fixed variance
instead of a learned one), so that neighbouring latents mean neighbouring pictures and a network may err a little.

One that is trained on small pictures can be grown to larger ones: it then sees and shows them as if they were small,
with latents of the old meaning, and learns the details from there (Karras et al. 2018, "Progressive Growing of GANs",
grow networks by layers; here the outermost layers alone change, so that larger pictures cost little more).
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional

from dreams.codec import GROUP, Coded, Decoded, Encoded
from factory.errors import SpecError

PATCH = 8
"""Side of the square of pixels that a pixel of the finest latent map stands for, where the model was not grown."""


class SmallAutoencoder(ModelMixin, ConfigMixin):
    """Codes pictures by convolutions; `dreams.autoencoder_training` trains one."""

    @register_to_config
    def __init__(
        self,
        z_dim: int = 64,
        width: int = 96,
        scale_factor_spatial: int = 2 * PATCH,
        scale_factor_temporal: int = GROUP,
        patch: int = PATCH,
        latents_mean: tuple[float, ...] = (),  # noqa: ARG002 - kept in the configuration, where pipelines look
        latents_std: tuple[float, ...] = (),  # noqa: ARG002
    ) -> None:
        """Make one with random weights.

        Args:
            z_dim: latent channels, folded ones counted.
            width: channels of the maps at an eighth; those at a quarter have half of it.
            scale_factor_spatial: `patch`, or a multiple: then squares of latent pixels are folded into channels. A
                video network then has fewer tokens that say more each.
            scale_factor_temporal: pictures of a group; always 4.
            patch: side of the square of pixels that a latent pixel stands for, before any are folded; a multiple of 8.
                The maps are at a patch's and half a patch's distance.
            latents_mean: of each channel over the pictures it was trained on.
            latents_std: likewise.
        """
        super().__init__()
        fold, rest = divmod(scale_factor_spatial, max(patch, 1))
        if (
            patch < PATCH
            or patch % PATCH
            or rest
            or fold < 1
            or scale_factor_temporal != GROUP
            or z_dim < 1
            or z_dim % fold**2
            or width < 8
            or width % 4
        ):
            raise SpecError(
                f"a small autoencoder with z_dim {z_dim}, width {width}, patches of {patch} pixels, factors "
                f"{scale_factor_spatial} and {scale_factor_temporal}; expected patches of a multiple of {PATCH}, k of "
                f"them as spatial factor, a z_dim of a multiple of k^2, a width of 4, and {GROUP} as temporal factor"
            )
        self._fold, self._multiple = fold, scale_factor_spatial
        z_dim //= fold**2
        self.see_first = _inwards(3, width, patch)
        self.code_first = nn.Conv2d(width, z_dim, 1)
        self.see_group = _inwards(3 * GROUP, width, patch)
        self.beside = nn.Conv2d(width, width, 1)
        self.code_group = nn.Sequential(_Block(width), _Block(width), nn.Conv2d(width, z_dim, 1))
        self.show_first = nn.Sequential(
            nn.Conv2d(z_dim, width, 1), _Block(width), _Block(width), _outwards(width, 3, patch)
        )
        self.behind = nn.Conv2d(width, width, 1)
        self.read_group = nn.Conv2d(z_dim, width, 1)
        self.show_group = nn.Sequential(_Block(width), _Block(width), _Block(width), _outwards(width, 4 * GROUP, patch))

    def encode(self, x: Tensor) -> Encoded:
        """Return the latent ``(b, z, 1 + (t - 1) / 4, h / f, w / f)`` of pictures ``(b, 3, t, h, w)`` in [-1, 1].

        Raises SpecError for sizes that are no multiple of f, the spatial factor, or t that is not 4 k + 1.
        """
        if x.shape[2] % GROUP != 1 or x.shape[3] % self._multiple or x.shape[4] % self._multiple:
            raise SpecError(
                f"{x.shape[2]} pictures of {x.shape[4]}x{x.shape[3]} pixels; expected 4 k + 1, and multiples of "
                f"{self._multiple}"
            )
        seen = self.see_first(x[:, :, 0])
        coded = self.code_first(seen)[:, :, None]
        if x.shape[2] > 1:
            coded = torch.cat([coded, self.code(x[:, :, 1:], seen) - self._still(x[:, :, 0], seen)], dim=2)
        folded = functional.pixel_unshuffle(coded.transpose(1, 2), self._fold).transpose(1, 2)
        return Encoded(latent_dist=Coded(mean=folded.contiguous()))

    def decode(self, z: Tensor, return_dict: bool = True, first: Tensor | None = None) -> Decoded | tuple[Tensor]:
        """Return the pictures of a latent, clamped to [-1, 1]; in a tuple where no `Decoded` is wanted.

        Args:
            z: ``(b, z, t, h, w)``.
            return_dict: whether a `Decoded` is wanted.
            first: ``(b, 3, h, w)``: the first picture where it is known; else it is what its latent shows.
        """
        z = functional.pixel_shuffle(z.transpose(1, 2), self._fold).transpose(1, 2)
        shown = self.show_first(z[:, :, 0]).clamp(-1.0, 1.0) if first is None else first
        x = shown[:, :, None]
        if z.shape[2] > 1:
            seen = self.see_first(shown)
            x = torch.cat([x, self.show(z[:, :, 1:] + self._still(shown, seen), shown, seen)], dim=2)
        x = x.clamp(-1.0, 1.0)
        return Decoded(sample=x) if return_dict else (x,)

    def code(self, x: Tensor, seen: Tensor) -> Tensor:
        """Return the latent ``(b, z, k, h / patch, w / patch)`` of k groups ``(b, 3, 4 k, h, w)``.

        They are given the first picture as seen. Latents of `encode` are relative to the latent of what stands still;
        this one is not.
        """
        b, _, t, h, w = x.shape
        groups = x.reshape(b, 3, t // GROUP, GROUP, h, w).transpose(1, 2).reshape(-1, 3 * GROUP, h, w)
        beside = self.beside(seen).repeat_interleave(t // GROUP, dim=0)
        coded = self.code_group(self.see_group(groups) + beside)
        return coded.unflatten(0, (b, -1)).transpose(1, 2)

    def show(self, z: Tensor, first: Tensor, seen: Tensor) -> Tensor:
        """Return the pictures ``(b, 3, 4 k, h, w)``, not clamped, of k groups' latents, given the first, also as seen.

        Each pixel is a mixture of what is there in the first picture and of what the latent shows.
        """
        b, _, k = z.shape[:3]
        behind = self.behind(seen).repeat_interleave(k, dim=0)
        found = self.show_group(self.read_group(z.transpose(1, 2).flatten(0, 1)) + behind)
        found = found.unflatten(1, (4, GROUP)).unflatten(0, (b, k))
        what, where = found[:, :, :3], torch.sigmoid(found[:, :, 3:])
        shown = where * what + (1.0 - where) * first[:, None, :, None]
        return shown.transpose(1, 2).flatten(2, 3)

    def _still(self, first: Tensor, seen: Tensor) -> Tensor:
        return self.code(first[:, :, None].expand(-1, -1, GROUP, -1, -1), seen)


class _Block(nn.Module):
    """Adds what a convolution sees; nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.look, self.say = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.say.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.say(functional.gelu(self.look(x), approximate="tanh"))


def grown(net: SmallAutoencoder, times: int) -> SmallAutoencoder:
    """Return an autoencoder of pictures so many times as large that does as the given one does with small ones.

    Large pictures are averaged over squares of `times` pixels as they come in, and each pixel is repeated as it goes
    out: so ``grown(a, k).encode(x)`` is ``a.encode`` of x made smaller, and decoded pictures are a's enlarged.

    Raises SpecError for less than once.
    """
    if times < 1:
        raise SpecError(f"an autoencoder grows by a whole number of times, 1 or more, not {times}")
    config = {name: net.config[name] for name in ("z_dim", "width", "scale_factor_temporal", "latents_mean")}
    found = SmallAutoencoder(
        **config, latents_std=net.config["latents_std"], patch=net.config["patch"] * times,
        scale_factor_spatial=net.config["scale_factor_spatial"] * times,
    )  # fmt: skip
    weights = dict(net.state_dict())
    for name in ("see_first.0.weight", "see_group.0.weight"):
        weights[name] = weights[name].repeat_interleave(times, 2).repeat_interleave(times, 3) / times**2
    side = net.config["patch"] // 2
    for name in (f"{part}.{kind}" for part in ("show_first.3.5", "show_group.3.5") for kind in ("weight", "bias")):
        pixels = weights[name].unflatten(0, (-1, side, side))
        weights[name] = pixels.repeat_interleave(times, 1).repeat_interleave(times, 2).flatten(0, 2)
    found.load_state_dict(weights)
    return found


def _inwards(channels: int, width: int, patch: int) -> nn.Module:
    """Return layers from pictures to maps of which a pixel is a patch."""
    return nn.Sequential(
        nn.Conv2d(channels, width // 2, patch // 2, stride=patch // 2), nn.GELU("tanh"),
        nn.Conv2d(width // 2, width, 4, stride=2, padding=1), _Block(width), _Block(width),
    )  # fmt: skip


def _outwards(width: int, channels: int, patch: int) -> nn.Module:
    """Return layers from maps of which a pixel is a patch to pictures."""
    half, side = width // 2, patch // 2
    return nn.Sequential(
        nn.Conv2d(width, 4 * half, 1), nn.PixelShuffle(2), nn.GELU("tanh"),
        nn.Conv2d(half, half, 3, padding=1), nn.GELU("tanh"),
        nn.Conv2d(half, side**2 * channels, 1), nn.PixelShuffle(side),
    )  # fmt: skip
