"""Makes small video models from nothing, and writes models into folders as diffusers lays them out."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.pipelines.wan.pipeline_wan_i2v import WanImageToVideoPipeline
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers.models.umt5.configuration_umt5 import UMT5Config
from transformers.models.umt5.modeling_umt5 import UMT5EncoderModel
from transformers.tokenization_utils_tokenizers import PreTrainedTokenizerFast

from dreams import model_folder
from dreams.codec import PatchCodec
from dreams.model_folder import ModelCard
from dreams.quiet import quietly
from dreams.small_autoencoder import SmallAutoencoder
from dreams.timebase import TimeBase
from dreams.video import DreamModel, open_model
from dreams.views import Grid
from factory import durable
from factory.errors import SpecError

SHARD = "14MB"
"""Of a small model's weight files: a repository without large-file storage takes them."""

_TOKENS, _SPELT, _WORDS = 48, 96, 512
"""Tokens of a sentence at most, the same where no words are known, and kinds of tokens at most: a word of the training
sentences is one, others are spelt."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large a network made from scratch is.

    Attributes:
        width: of a token; heads have 32 each, or 16 where that is all there is.
        layers: of the video network.
        text_width: of the text encoder.
        text_layers: of the text encoder.
    """

    width: int
    layers: int
    text_width: int
    text_layers: int


SIZES: Mapping[str, Size] = {
    "tiny": Size(width=32, layers=2, text_width=32, text_layers=1),  # for trying a road out: learns next to nothing
    "small": Size(width=192, layers=6, text_width=128, text_layers=2),  # trains on a CPU
    "base": Size(width=256, layers=10, text_width=192, text_layers=3),  # trains on a GPU in minutes
}


def new_model(
    folder: Path,
    *,
    size: str,
    codec: PatchCodec | SmallAutoencoder | AutoencoderKLWan,
    time: TimeBase,
    grid: Grid,
    embodiment: str,
    seed: int,
    sentences: Collection[str] = (),
    trained_on: str = "",
) -> DreamModel:
    """Make a model with random weights around a codec, keep it in a folder, and return it as read from there.

    Args:
        folder: must not exist.
        size: a key of `SIZES`.
        codec: a fitted `PatchCodec`, a trained `SmallAutoencoder`, or Wan's autoencoder of any size.
        time: the clock of its clips.
        grid: the views in its pictures.
        embodiment: the robot.
        seed: of the weights.
        sentences: whose words become tokens (byte pairs, Sennrich et al. 2016); anything else is spelt in bytes.
        trained_on: what codec and tokens were fitted on.
    """
    if size not in SIZES:
        raise SpecError(f"a model's size is one of {', '.join(SIZES)}, not {size!r}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = _assembled(SIZES[size], codec, sentences)
    card = ModelCard(
        time=time, grid=grid, embodiment=embodiment, text_tokens=_TOKENS if sentences else _SPELT, seed=seed,
        training=({"part": "codec, tokens", "data": trained_on},) if trained_on else (),
    )  # fmt: skip
    save_model(pipeline, card, folder)
    return open_model(folder)


def save_model(pipeline: Any, card: ModelCard, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a pipeline and its card, weights as safetensors of this type, all or nothing.

    A closed-form codec's weights are written as they are.

    Raises SpecError when the folder exists already.
    """
    if folder.exists():
        raise SpecError(f"{folder} exists already; choose another folder for the model")
    parts = dict(pipeline.components)
    for name in ("transformer", "text_encoder", *(["vae"] if isinstance(parts["vae"], SmallAutoencoder) else [])):
        parts[name] = copy.deepcopy(parts[name])
        for weight in parts[name].parameters():
            weight.data = weight.data.to(dtype)
    whole = WanImageToVideoPipeline(**parts, expand_timesteps=pipeline.config.expand_timesteps)
    card = replace(card, versions={name: version(name) for name in ("torch", "diffusers", "transformers")})
    with durable.staging(folder) as staged, quietly():
        whole.save_pretrained(staged, safe_serialization=True, max_shard_size=SHARD)
        for config in staged.glob("*/config.json"):  # where the parts were read from is nobody's business
            said = json.loads(config.read_text(encoding="utf-8"))
            if said.pop("_name_or_path", None) is not None:
                durable.write_json(config, said)
        model_folder.write_card(staged, card)
        if not durable.rename_into_place(staged, folder):
            raise SpecError(f"{folder} was made by somebody else meanwhile; choose another folder for the model")


def _assembled(size: Size, codec: Any, sentences: Collection[str]) -> Any:
    z, head = codec.config.z_dim, 32 if size.width >= 64 else 16
    text = UMT5Config(
        vocab_size=_WORDS, d_model=size.text_width, d_kv=32, d_ff=2 * size.text_width, num_layers=size.text_layers,
        num_heads=size.text_width // 32, feed_forward_proj="gated-gelu", dropout_rate=0.0,
    )  # fmt: skip
    network = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=size.width // head, attention_head_dim=head, in_channels=z,
        out_channels=z, text_dim=size.text_width, freq_dim=128, ffn_dim=4 * size.width, num_layers=size.layers,
        rope_max_seq_len=128,
    )  # fmt: skip
    torch.nn.init.zeros_(network.proj_out.weight)  # training then begins at a picture that stands still
    # The network says the clean latent, see `DreamModel.cleaned`; Wan2.2's own scheduler takes that as well.
    scheduler: Any = UniPCMultistepScheduler(prediction_type="sample", use_flow_sigmas=True, flow_shift=3.0)
    return WanImageToVideoPipeline(
        tokenizer=_tokenizer(sentences), text_encoder=UMT5EncoderModel(text), vae=codec, transformer=network,
        scheduler=scheduler, expand_timesteps=True,
    )  # fmt: skip


def _tokenizer(sentences: Collection[str]) -> Any:
    """Return a tokenizer to which each word of the sentences is one token; it spells other words in bytes."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    found.decoder = decoders.ByteLevel()
    found.train_from_iterator(
        sorted(set(sentences)),
        trainers.BpeTrainer(
            vocab_size=_WORDS, special_tokens=["<pad>", "</s>"], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )  # fmt: skip
    found.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=found, pad_token="<pad>", eos_token="</s>")  # noqa: S106 - no secret
