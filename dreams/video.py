"""A video model that continues a first picture as a sentence says: an adapter over diffusers' WanImageToVideoPipeline.

One class serves this project's small models, Wan2.2-TI2V-5B and Wan2.1-I2V-14B; the folder's configuration decides.
Weights are read from folders and never fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dreams import model_folder
from dreams.clips import Clip
from dreams.codec import PatchCodec, pictures_to_tensor, tensor_to_pictures
from dreams.model_folder import Layout, ModelCard
from dreams.quiet import quietly
from dreams.small_autoencoder import SmallAutoencoder
from dreams.timebase import TimeBase
from dreams.views import Grid
from factory.errors import SpecError

LORA = "adaptation.safetensors"
"""The file of a low-rank adaptation, in its folder."""

_CODECS = {"PatchCodec": PatchCodec, "SmallAutoencoder": SmallAutoencoder}
"""Video autoencoders of this project; any other is Wan's."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a clip is drawn.

    Attributes:
        steps: evaluations of the network, but for guidance.
        guidance: how strongly the sentence counts (Ho and Salimans 2022, w of Imagen's equation 2); above 1 every step
            costs two evaluations.
    """

    steps: int = 12
    guidance: float = 2.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.guidance < 0.0:
            raise SpecError(f"sampling needs a step or more and no negative guidance: {self.steps}, {self.guidance}")


class DreamModel:
    """An open video model.

    Attributes:
        pipeline: diffusers' pipeline, its parts on `device`.
        card: what its pictures show, and when.
        layout: how it takes its first picture.
        digest: short name of its weights.
    """

    def __init__(self, pipeline: Any, card: ModelCard, layout: Layout, digest: str) -> None:
        """Hold an assembled pipeline; `open_model` makes one."""
        height, width = card.grid.shape
        if height % layout.multiple_px or width % layout.multiple_px:
            raise SpecError(f"pictures of {width}x{height} pixels; this model takes multiples of {layout.multiple_px}")
        self.pipeline, self.card, self.layout, self.digest = pipeline, card, layout, digest
        pipeline.set_progress_bar_config(disable=True)
        for part in (pipeline.vae, pipeline.transformer, pipeline.text_encoder, pipeline.image_encoder):
            if part is not None:
                part.eval().requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return cast("torch.device", self.pipeline.transformer.device)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """``(z, t, h, w)`` of one clip's latent."""
        config, (height, width) = self.pipeline.vae.config, self.card.grid.shape
        pictures = (self.card.time.frames - 1) // config.get("scale_factor_temporal", 4) + 1
        factor = config.get("scale_factor_spatial", 8)
        return config.z_dim, pictures, height // factor, width // factor

    @torch.no_grad()
    def latents(self, clips: NDArray[np.uint8]) -> Tensor:
        """Return normalised latents ``(b, z, t, h, w)`` float32 of clips ``(b, frames, h, w, 3)``, on the device."""
        vae, found = self.pipeline.vae, []
        mean, std = self._scale()
        for clip in clips:  # one by one: a clip's latent then depends on no other, and full-size ones fill the memory
            x = pictures_to_tensor(clip[None]).to(vae.device, vae.dtype)
            coded = vae.encode(x).latent_dist.mode().float()
            found.append((coded - mean) * (1.0 / std))  # not divided: so has the pipeline it, to the bit
        return torch.cat(found)

    @torch.no_grad()
    def pictures(self, latents: Tensor, first: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return clips ``(b, frames, h, w, 3)`` of normalised latents.

        Where first pictures ``(b, h, w, 3)`` are given, an autoencoder that can decode beside them does.
        """
        vae: Any = self.pipeline.vae
        mean, std = self._scale()
        coded = (latents.float() / (1.0 / std) + mean).to(vae.dtype)
        known: list[dict[str, Tensor]] = [{} for _ in coded]
        if first is not None and isinstance(self.pipeline.vae, SmallAutoencoder):
            known = [{"first": x} for x in pictures_to_tensor(first[:, None])[:, :, 0].to(vae.device)[:, None]]
        shown = [vae.decode(each[None], return_dict=False, **more)[0] for each, more in zip(coded, known, strict=True)]
        return np.concatenate([tensor_to_pictures(each) for each in shown])

    def seen_through(self, clip: Clip) -> Clip:
        """Return a clip as the autoencoder leaves it, its first picture given: what the best of dreams would show.

        Raises SpecError for a clip of another clock or grid than the model's.
        """
        self.card.expect(clip.time, clip.grid, where=f"the model that clip {clip.name!r} is seen through")
        return replace(clip, frames=self.pictures(self.latents(clip.frames[None]), clip.frames[:1])[0])

    def embedded(self, texts: Sequence[str]) -> Tensor:
        """Return the embeddings ``(b, text_tokens, d)`` of sentences, zero beyond their end, with gradients.

        Raises SpecError for a sentence with more tokens than the model takes: none is cut silently.
        """
        # Not the pipeline's own: that one needs a library for mending broken characters, and cuts without a word.
        tokenizer, encoder, most = self.pipeline.tokenizer, self.pipeline.text_encoder, self.card.text_tokens
        ids = torch.full((len(texts), most), tokenizer.pad_token_id)
        known = torch.zeros_like(ids)
        for row, text in enumerate(texts):
            found = tokenizer(" ".join(text.split())).input_ids
            if len(found) > most:
                raise SpecError(f"{text!r} has {len(found)} tokens; this model takes {most}")
            ids[row, : len(found)], known[row, : len(found)] = torch.tensor(found), 1
        known = known.to(encoder.device)
        hidden = encoder(ids.to(encoder.device), known).last_hidden_state
        return cast("Tensor", hidden * known[:, :, None].to(hidden.dtype))

    @torch.no_grad()
    def condition(self, picture: NDArray[np.uint8]) -> tuple[Tensor, Tensor | None]:
        """Return what a first picture ``(h, w, 3)`` gives the network beside noise, as the pipeline has it.

        The one is ``(1, c, t, h, w)``: its clean latent with t = 1, or the channels to append; the other its embedding
        by an image encoder, where there is one.
        """
        self._check(picture)
        height, width = self.card.grid.shape
        shape = (1, *self.latent_shape)
        found = self.pipeline.prepare_latents(
            pictures_to_tensor(picture[None, None])[:, :, 0].to(self.device), 1, shape[1], height, width,
            self.card.time.frames, torch.float32, self.device, None, torch.zeros(shape),
        )  # fmt: skip
        embedding = (
            self.pipeline.encode_image(Image.fromarray(picture), self.device) if self.layout.image_encoder else None
        )
        return found[1].float(), embedding

    def cleaned(
        self, noised: Tensor, level: Tensor, texts: Tensor, condition: Tensor, embedding: Tensor | None = None
    ) -> Tensor:
        """Return the network's estimate of the latent, ``(b, z, t, h, w)``, exactly as sampling asks for it.

        Where the scheduler's `prediction_type` is "sample" the network says the latent itself (Li and He 2025: what
        lies on a manifold fits through a narrow network, noise does not), else noise minus latent, as Wan's do.

        Args:
            noised: ``(b, z, t, h, w)``: (1 - level) latent + level noise.
            level: ``(b,)`` in [0, 1].
            texts: as `embedded` gives them.
            condition: as `condition` gives it, ``(b, c, t, h, w)``.
            embedding: likewise.
        """
        network = self.pipeline.transformer
        times = level * self.pipeline.scheduler.config.num_train_timesteps
        if self.layout.conditioning == "latent_replace":
            x = torch.cat([condition[:, :, :1], noised[:, :, 1:]], dim=2)
            # A noise level a token of 2x2 latent pixels; those of the first picture are clean and say so.
            a_picture = (noised.shape[3] // 2) * (noised.shape[4] // 2)
            times = times[:, None].repeat(1, noised.shape[2] * a_picture)
            times[:, :a_picture] = 0.0
        else:
            x = torch.cat([noised, condition], dim=1)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            found = network(
                hidden_states=x.to(network.dtype),
                timestep=times,
                encoder_hidden_states=texts.to(network.dtype),
                encoder_hidden_states_image=None if embedding is None else embedding.to(network.dtype),
                return_dict=False,
            )[0].float()
        if self.pipeline.scheduler.config.get("prediction_type") == "sample":
            return found
        return noised - level[:, None, None, None, None] * found

    @torch.no_grad()
    def dream(
        self, pictures: NDArray[np.uint8], texts: Sequence[str], noise: Tensor, sampling: Sampling
    ) -> NDArray[np.uint8]:
        """Return clips ``(b, frames, h, w, 3)`` that begin with the given pictures and follow the sentences.

        Args:
            pictures: ``(b, h, w, 3)``, laid out as the card's grid.
            texts: one a picture.
            noise: ``(b, z, t, h, w)`` standard normal, float32; nothing else is random.
            sampling: how.
        """
        if not len(pictures) == len(texts) == len(noise) or noise.shape[1:] != self.latent_shape:
            raise SpecError(
                f"{len(pictures)} pictures, {len(texts)} sentences, noise {tuple(noise.shape)}; expected as many of "
                f"each, noise of {self.latent_shape}"
            )
        for picture in pictures:
            self._check(picture)
        if self.layout.image_encoder and len(pictures) > 1:
            # The pipeline repeats one embedding over the batch, so pictures that differ go one by one.
            ones = [self.dream(pictures[i : i + 1], [texts[i]], noise[i : i + 1], sampling) for i in range(len(texts))]
            return np.concatenate(ones)
        guided = sampling.guidance > 1.0
        embedded = self.embedded([*texts, *([""] * len(texts) if guided else [])])
        height, width = self.card.grid.shape
        shown = Image.fromarray(pictures[0]) if self.layout.image_encoder else _unit(pictures)
        latents = self.pipeline(
            image=shown,
            prompt_embeds=embedded[: len(texts)],
            negative_prompt_embeds=embedded[len(texts) :] if guided else None,
            height=height,
            width=width,
            num_frames=self.card.time.frames,
            num_inference_steps=sampling.steps,
            guidance_scale=sampling.guidance,
            latents=noise,
            output_type="latent",
            max_sequence_length=self.card.text_tokens,
        ).frames
        return self.pictures(latents, pictures)

    def _scale(self) -> tuple[Tensor, Tensor]:
        config = self.pipeline.vae.config
        return tuple(  # type: ignore[return-value]
            torch.tensor(each, device=self.pipeline.vae.device).view(1, -1, 1, 1, 1)
            for each in (config.latents_mean, config.latents_std)
        )

    def _check(self, picture: NDArray[np.uint8]) -> None:
        if picture.shape != (*self.card.grid.shape, 3) or picture.dtype != np.uint8:
            raise SpecError(
                f"a first picture is {picture.dtype} {picture.shape}; expected uint8 {(*self.card.grid.shape, 3)}"
            )


class _ManyPictures(WanImageToVideoPipeline):
    """The pipeline for a batch of different first pictures; diffusers' own repeats one."""

    def prepare_latents(self, image: Tensor, batch_size: int, *args: Any, **kwargs: Any) -> Any:
        """Return noise, condition and mask of each picture, stacked."""
        one: Any = super().prepare_latents
        if len(image) == 1 or batch_size != len(image):
            return one(image, batch_size, *args, **kwargs)
        *before, latents, last = args
        rows = [one(image[i : i + 1], 1, *before, latents[i : i + 1], last, **kwargs) for i in range(batch_size)]
        noise, condition = (torch.cat([row[k] for row in rows]) for k in (0, 1))
        return (noise, condition, *rows[0][2:])


def open_model(
    folder: Path,
    *,
    time: TimeBase | None = None,
    grid: Grid | None = None,
    embodiment: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    lora: Path | None = None,
) -> DreamModel:
    """Return the model in a folder: one of this project's, or in the layout of Wan2.2-TI2V-5B or Wan2.1-I2V-14B.

    Args:
        folder: as diffusers lays it out.
        time: the clock; needed where the folder has no `dream.json`, otherwise it must agree.
        grid: the views; likewise.
        embodiment: the robot; needed where the folder has no `dream.json`.
        device: "cpu", or "cuda".
        dtype: of weights in memory.
        lora: folder of a low-rank adaptation, as `dreams.finetune` leaves it; it brings its own card.

    Raises:
        SpecError: the folder is missing or incomplete (the message says which command or download provides it), cannot
            continue a first picture, or is made for another clock or other views.
    """
    layout = model_folder.read_layout(folder)
    card = model_folder.read_card(lora or folder) or model_folder.read_card(folder)
    if card is None:
        if time is None or grid is None or embodiment is None:
            raise SpecError(f"{folder} has no {model_folder.CARD}: say for which clock, views and robot it is opened")
        card = ModelCard(time=time, grid=grid, embodiment=embodiment)
    card.expect(time, grid, where=str(folder))
    try:
        with quietly():
            # The codec stays in float32: it is small, and what it loses no training brings back.
            kind: Any = _CODECS.get(layout.codec, AutoencoderKLWan)
            vae = kind.from_pretrained(folder / "vae", dtype=torch.float32, local_files_only=True)
            pipeline: Any = _ManyPictures.from_pretrained(folder, vae=vae, dtype=dtype, local_files_only=True)
            if lora is not None:
                pipeline.load_lora_weights(str(lora), weight_name=LORA, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        adapted = f" with the adaptation in {lora}" if lora else ""
        raise SpecError(
            f"the video model in {folder}{adapted} cannot be read: {error}. Make or download it again; nothing is "
            "downloaded here"
        ) from error
    name = model_folder.digest(folder, *([lora] if lora else []))
    return DreamModel(pipeline.to(device), card, layout, name)


def _unit(pictures: NDArray[np.uint8]) -> Tensor:
    """Return pictures ``(b, 3, h, w)`` in [0, 1], as diffusers' image processor takes them."""
    return torch.from_numpy(np.ascontiguousarray(pictures)).float().permute(0, 3, 1, 2) / 255.0
