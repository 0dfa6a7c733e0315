"""Teaches a video model the episodes of a dataset: all of its weights, or a low-rank adaptation of them.

Flow matching (Lipman et al. 2023; Liu et al. 2023, rectified flow): at noise level s the network sees
(1 - s) latent + s noise; the loss is that of noise - latent, whichever of the two it says. Levels are logit-normal and
shifted towards noise (Esser et al. 2024, section 3.1 and equation 23). Where the first picture enters as a clean latent
it is clean here too, at level 0 and out of the loss: a network that saw it noised would not know it when sampling.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from peft import LoraConfig, get_peft_model_state_dict
from torch import Tensor, nn

from dreams import model_folder
from dreams.clips import Clip
from dreams.descent import Schedule, descend, generator_of
from dreams.encoding import Encodings, encode, encoded
from dreams.new_models import save_model
from dreams.path_head import PathHead, watched
from dreams.video import LORA, DreamModel
from factory import durable
from factory.errors import SpecError

MODEL = "model"
"""The folder, in a run's folder, of what came out."""

_LEVEL_DRAWS, _HELD_OUT_STREAM = 8, 2
_LEAST_LEVEL = 0.05
_ADAPTED = ("to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2")


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a video model is fine-tuned.

    Attributes:
        schedule: steps, batch, rate, running mean, seed.
        lora_rank: of the adaptation (Hu et al. 2021), scaled by 1; None tunes every weight of the video network.
        text: whether the text encoder learns too; with an adaptation it never does.
        drop_caption: share of examples without a sentence, for guidance (Ho and Salimans 2022).
        shift: of noise levels towards noise; 1 for none.
        path: weight of the error of the hand's path, that a head says in training, see `dreams.path_head`; 0 for none.
            Without effect where a clip's motion is not known.
    """

    schedule: Schedule
    lora_rank: int | None = None
    text: bool = True
    drop_caption: float = 0.1
    shift: float = 3.0
    path: float = 0.0

    def __post_init__(self) -> None:
        if self.lora_rank is not None and self.lora_rank < 1:
            raise SpecError(f"an adaptation has rank 1 or more, not {self.lora_rank}")
        if not 0.0 <= self.drop_caption < 1.0 or self.shift <= 0.0 or self.path < 0.0:
            raise SpecError(
                f"captions dropped {self.drop_caption}, shift {self.shift}, weight of paths {self.path}; expected "
                "0 to 1, above 0, not negative"
            )


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """How far a fine-tuning came.

    Attributes:
        steps: done in all.
        held_out: mean loss on clips that were not trained on; NaN where there are none.
        folder: of the finished model or adaptation; None while steps are left.
    """

    steps: int
    held_out: float
    folder: Path | None


def finetune(
    model: DreamModel,
    clips: Iterable[Clip],
    tuning: Tuning,
    run: Path,
    *,
    held_out: Sequence[Clip] = (),
    data: str = "",
    max_s: float = math.inf,
) -> Tuned:
    """Train the model on clips from where the run's folder says it was left.

    Afterwards `model` holds the running mean of its weights, and where all steps are done the run's folder has it, with
    its card, as ``model``: in the layout of diffusers, or an adaptation's weights alone. Killed at any moment and
    called again with the same arguments it goes on; on a CPU with the same bits as if it had never stopped.

    Args:
        model: as it was opened; full tuning needs float32 weights.
        clips: the pictures are needed once: latents are kept in the run's folder.
        tuning: how.
        run: folder of this training.
        held_out: clips to measure the loss on.
        data: what the clips are, for the card.
        max_s: seconds after which it stops at the next step.

    Raises:
        SpecError: clips are made for another clock or grid than the model, or the model cannot be tuned this way.
        DatasetError: the run's folder holds another training.
    """
    examples = encode(model, clips, run)
    about = {
        "model": model.digest,
        "clips": examples.digest,
        **{key: value for key, value in asdict(tuning).items() if key != "schedule"},
        "schedule": asdict(tuning.schedule),
    }
    head = _path_head(model, examples, tuning)
    learning = _learning(model, tuning, head)
    frozen = None if _learns_text(tuning) else _embedded(model, examples.texts)

    def loss(draw: torch.Generator) -> dict[str, Tensor]:
        rows = torch.randint(len(examples.latents), (tuning.schedule.batch,), generator=draw)
        dropped = torch.rand(len(rows), generator=draw) < tuning.drop_caption
        level = noise_levels(len(rows), tuning.shift, draw)
        texts = ["" if drop else examples.texts[row] for row, drop in zip(rows.tolist(), dropped.tolist(), strict=True)]
        embedded = model.embedded(texts) if frozen is None else torch.stack([frozen[text] for text in texts])
        with watched(model.pipeline.transformer) as tokens:
            parts = {"loss": flow_loss(model, examples, rows, embedded, level, draw)}
        if head is not None and examples.paths is not None:
            parts["path"] = (
                tuning.path * (head(tokens[0].float()) - examples.paths[rows].to(model.device)).square().mean()
            )
        return parts

    done = descend(learning, loss, run, tuning.schedule, about=about, max_s=max_s)
    measured = held_out_loss(model, held_out, tuning) if held_out else math.nan
    if done < tuning.schedule.steps:
        return Tuned(steps=done, held_out=measured, folder=None)
    said = {"data": data, "count": len(examples.latents), **about}
    if not (run / MODEL).exists():
        save_tuned(model, said, run / MODEL)
    return Tuned(steps=done, held_out=measured, folder=run / MODEL)


def noise_levels(count: int, shift: float, draw: torch.Generator) -> Tensor:
    """Return levels ``(count,)`` in (0, 1): logit-normal, then moved towards 1 by the shift."""
    level = torch.sigmoid(torch.randn(count, generator=draw))
    return shift * level / (1.0 + (shift - 1.0) * level)


def flow_loss(
    model: DreamModel, examples: Encodings, rows: Tensor, texts: Tensor, level: Tensor, draw: torch.Generator
) -> Tensor:
    """Return the mean squared error of the velocity that the network sees in some examples.

    Args:
        model: its network.
        examples: all examples.
        rows: ``(b,)``: which of them.
        texts: embedded sentences ``(b, k, d)``.
        level: ``(b,)`` noise levels.
        draw: where the noise comes from.
    """
    device = model.device
    latents = examples.latents[rows]
    noise = torch.randn(latents.shape, generator=draw).to(device)
    latents, level = latents.to(device), level.to(device)
    at = level[:, None, None, None, None]
    condition = latents[:, :, :1] if examples.conditions is None else examples.conditions[rows].to(device)
    seen = None if examples.embeddings is None else examples.embeddings[rows].to(device)
    found = model.cleaned((1.0 - at) * latents + at * noise, level, texts, condition, seen)
    first = 1 if model.layout.conditioning == "latent_replace" else 0
    # An error of the latent is one of the velocity divided by the level; hardly any level is below the least one.
    return ((found - latents) / at.clamp(min=_LEAST_LEVEL))[:, :, first:].square().mean()


@torch.no_grad()
def held_out_loss(model: DreamModel, clips: Sequence[Clip], tuning: Tuning) -> float:
    """Return the mean loss on clips, at noise levels and with noise that the seed alone decides."""
    examples = encoded(model, clips)
    texts = _embedded(model, examples.texts)
    losses: list[float] = []
    for row, text in enumerate(examples.texts):
        draw = generator_of(tuning.schedule.seed, _HELD_OUT_STREAM, row)
        rows = torch.full((_LEVEL_DRAWS,), row)
        level = noise_levels(_LEVEL_DRAWS, tuning.shift, draw)
        many = texts[text][None].repeat(_LEVEL_DRAWS, 1, 1)
        losses.append(flow_loss(model, examples, rows, many, level, draw).item())
    return math.fsum(losses) / len(losses)


def save_tuned(model: DreamModel, said: dict[str, Any], folder: Path) -> None:
    """Write what was tuned, with `said` added to its card: the whole model, or its adaptation alone."""
    card = replace(model.card, training=(*model.card.training, said))
    network = model.pipeline.transformer
    if not getattr(network, "peft_config", None):
        save_model(model.pipeline, card, folder)
        return
    with durable.staging(folder) as staged:
        # Without the library's description of the adapter: its order changes from run to run, and as the scale is
        # always 1, ranks and places say all there is.
        WanImageToVideoPipeline.save_lora_weights(
            staged,
            transformer_lora_layers={**get_peft_model_state_dict(network)},
            weight_name=LORA,
        )
        model_folder.write_card(staged, card)
        durable.rename_into_place(staged, folder)


def _path_head(model: DreamModel, examples: Encodings, tuning: Tuning) -> PathHead | None:
    if not tuning.path or examples.paths is None:
        return None
    network = model.pipeline.transformer
    width = network.config.num_attention_heads * network.config.attention_head_dim
    a_picture = (examples.latents.shape[3] // 2) * (examples.latents.shape[4] // 2)
    return PathHead(width, a_picture, examples.paths.shape[2] // 3, tuning.schedule.seed).to(model.device)


def _learning(model: DreamModel, tuning: Tuning, head: PathHead | None) -> nn.Module:
    """Return what learns, as one module that shares its weights with the model."""
    network = model.pipeline.transformer
    if model.layout.experts > 1:
        raise SpecError("a model of two experts can dream here but not be tuned: each knows a part of the noise levels")
    if tuning.lora_rank is not None:
        if not getattr(network, "peft_config", None):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(tuning.schedule.seed)
                network.add_adapter(
                    LoraConfig(r=tuning.lora_rank, lora_alpha=tuning.lora_rank, target_modules=list(_ADAPTED))
                )
        elif "default" not in network.peft_config:
            raise SpecError("this model was opened with an adaptation; a further one needs it merged into the weights")
        learning = {name: weight for name, weight in network.named_parameters() if "lora_" in name}
        for weight in learning.values():
            weight.data = weight.data.float()
    else:
        learning = {f"transformer.{name}": weight for name, weight in network.named_parameters()}
        if tuning.text:
            encoder = model.pipeline.text_encoder
            learning |= {f"text_encoder.{name}": weight for name, weight in encoder.named_parameters()}
        if kinds := {weight.dtype for weight in learning.values()} - {torch.float32}:
            raise SpecError(f"tuning every weight needs float32 in memory, found {kinds}; open the model that way")
    if head is not None:
        learning |= {f"path.{name}": weight for name, weight in head.named_parameters()}
    module = nn.Module()
    for name, weight in learning.items():
        module.register_parameter(name.replace(".", "/"), weight.requires_grad_(True))
    return module


def _learns_text(tuning: Tuning) -> bool:
    return tuning.text and tuning.lora_rank is None


@torch.no_grad()
def _embedded(model: DreamModel, texts: Iterable[str]) -> dict[str, Tensor]:
    """Return every sentence's embedding, and that of none."""
    return {text: model.embedded([text])[0] for text in {"", *texts}}
