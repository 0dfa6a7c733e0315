"""What a video model's folder says of itself: which pictures at which times it was made for, and how it is conditioned.

A folder has the layout of diffusers (`model_index.json` and a folder a part) and, where this project made it, a
`dream.json` beside it. Everything is decided from these files; nothing here loads a weight or asks the network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from dreams.timebase import TimeBase
from dreams.views import Grid, in_words
from factory import durable
from factory.errors import SpecError

Conditioning = Literal["latent_replace", "channel_concat"]
"""How a model is given its first picture: as the clean first latent at noise level 0 (Wan2.2-TI2V-5B and the small
models of this project), or as further input channels, with an embedding by CLIP where it has one (Wan2.1-I2V-14B)."""

CARD = "dream.json"
_FORMAT = 1
_SAMPLE_BYTES = 1 << 20
_DOWNLOADS = ("Wan-AI/Wan2.2-TI2V-5B-Diffusers", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers")


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What pins a video model's pictures to the world.

    Attributes:
        time: the clock of its clips.
        grid: what its pictures show.
        embodiment: the robot's name.
        text_tokens: the instruction's tokens; longer ones are refused.
        seed: of its first weights.
        training: what it was trained on, in order: each a JSON object.
        versions: of the libraries that made it.
    """

    time: TimeBase
    grid: Grid
    embodiment: str
    text_tokens: int = 512
    seed: int = 0
    training: tuple[Mapping[str, Any], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        height, width = self.grid.shape
        if height % 16 or width % 16:
            raise SpecError(f"a video model's pictures have sides of multiples of 16 pixels, not {width}x{height}")
        if self.text_tokens < 8:
            raise SpecError(f"an instruction needs 8 tokens or more, not {self.text_tokens}")

    def expect(self, time: TimeBase | None, grid: Grid | None, *, where: str) -> None:
        """Raise SpecError unless this clock and this grid are the model's."""
        if time is not None and time != self.time:
            raise SpecError(f"{where} is made for {_clock(self.time)}; asked for was {_clock(time)}")
        if grid is not None and grid != self.grid:
            raise SpecError(f"{where} shows {in_words(self.grid)}; asked for was {in_words(grid)}")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What the configurations in a folder decide.

    Attributes:
        conditioning: how the first picture enters.
        codec: the autoencoder's class: `PatchCodec` or `SmallAutoencoder` of this project, or Wan's.
        multiple_px: sides of pictures are multiples of this.
        image_encoder: whether an image encoder embeds the first picture as well.
        experts: networks that share the noise levels: 1, or 2 as in Wan2.2-I2V-A14B.
    """

    conditioning: Conditioning
    codec: str
    multiple_px: int
    image_encoder: bool
    experts: int


def read_layout(folder: Path) -> Layout:
    """Return what the folder holds.

    Raises:
        SpecError: there is no model, with the command or download that provides one; or it is of a kind that cannot
            continue a first picture, with the field that says so.
    """
    index = _read(folder, "model_index.json")
    network, codec = _read(folder, "transformer/config.json"), _read(folder, "vae/config.json")
    z, in_channels = codec.get("z_dim", 16), network.get("in_channels", 16)
    temporal = codec.get("scale_factor_temporal", 4)
    where = folder / "transformer/config.json"
    if index.get("expand_timesteps"):
        if network.get("image_dim") is not None:
            raise SpecError(
                f"{where}: image_dim is {network['image_dim']}; a model whose model_index.json has expand_timesteps "
                "takes its first picture as a clean latent and has no image encoder: set image_dim to null"
            )
        if in_channels != z:
            raise SpecError(f"{where}: in_channels is {in_channels}, expected the autoencoder's z_dim {z}")
        if list(network.get("patch_size", (1, 2, 2))) != [1, 2, 2]:
            raise SpecError(f"{where}: patch_size is {network['patch_size']}; noise levels a token need [1, 2, 2]")
        conditioning: Conditioning = "latent_replace"
    elif in_channels == 2 * z + temporal:
        conditioning = "channel_concat"
        if network.get("image_dim") is not None and not (folder / "image_encoder/config.json").is_file():
            raise SpecError(f"{where}: image_dim is {network['image_dim']}, but {folder} has no image_encoder")
    else:
        raise SpecError(
            f"{where}: in_channels is {in_channels} for a z_dim of {z}, and model_index.json has no expand_timesteps: "
            f"a model that cannot continue a first picture. Expected expand_timesteps, or {2 * z + temporal} channels"
        )
    second = index.get("transformer_2") or (None,)
    return Layout(
        conditioning=conditioning,
        codec=str(codec.get("_class_name")),
        multiple_px=max(16, 2 * codec.get("scale_factor_spatial", 8)),
        image_encoder=network.get("image_dim") is not None,
        experts=2 if second[0] else 1,
    )


def read_card(folder: Path) -> ModelCard | None:
    """Return the folder's card, or None where it has none. Raises SpecError for one that is not of this format."""
    path = folder / CARD
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != _FORMAT:
            raise SpecError(f"{path} has format {found['format']}; this version reads {_FORMAT}")
        views = tuple(found["grid"].pop("views"))
        return ModelCard(
            time=TimeBase(**found["time"]),
            grid=Grid(views=views, **found["grid"]),
            embodiment=found["embodiment"],
            text_tokens=found["text_tokens"],
            seed=found["seed"],
            training=tuple(found["training"]),
            versions=found["versions"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SpecError(f"{path} is not a model's card: {error!r}") from error


def write_card(folder: Path, card: ModelCard) -> None:
    """Write the card into a folder."""
    durable.write_json(folder / CARD, {"format": _FORMAT, **asdict(card), "training": list(card.training)})


def digest(*folders: Path) -> str:
    """Return a short name of folders' configurations and weights: another one whenever training went on.

    Of each weight file it reads the size and a megabyte at both ends, as full-size models have tens of gigabytes.
    """
    found = hashlib.sha256()
    files = [(folder, path) for folder in folders for path in sorted(folder.rglob("*"))]
    for folder, path in files:
        if path.suffix not in (".json", ".safetensors") or path.name == CARD:
            continue
        size = path.stat().st_size
        found.update(f"{path.relative_to(folder).as_posix()}:{size}:".encode())
        with path.open("rb") as file:
            found.update(file.read(_SAMPLE_BYTES))
            file.seek(max(size - _SAMPLE_BYTES, 0))
            found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()[:16]


def _read(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        downloads = " or ".join(f"`hf download {repo} --local-dir {folder}`" for repo in _DOWNLOADS)
        raise SpecError(
            f"no video model in {folder}: {name} is missing. `factory dream finetune DATASET --out {folder}` trains a "
            f"small one; {downloads} fetches a large one. Nothing is downloaded here"
        ) from None
    except ValueError as error:
        raise SpecError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise SpecError(f"{path} holds {type(found).__name__}, expected a JSON object")
    return found


def _clock(time: TimeBase) -> str:
    return f"{time.frames} pictures, one every {time.stride} of {time.control_hz} control steps a second"
