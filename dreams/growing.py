"""A video model for larger pictures, or other views, that begins with what one of smaller pictures knows.

A small autoencoder grows with its latents' meaning kept (`dreams.small_autoencoder.grown`), so the network above it
sees the sizes that it knows, and more of them where views are added; it knows places by rotations of its queries, which
have no end. Wan's autoencoder and network take pictures of any size as they are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dreams.codec import PatchCodec
from dreams.new_models import save_model
from dreams.small_autoencoder import SmallAutoencoder, grown
from dreams.video import DreamModel, open_model
from dreams.views import Grid
from factory.errors import SpecError


def codec_for(model: DreamModel, grid: Grid) -> Any:
    """Return the autoencoder that a model needs to show a grid: its own, or a copy that is grown.

    Raises SpecError where its kind does not grow so.
    """
    codec, old = model.pipeline.vae, model.card.grid
    if not isinstance(codec, SmallAutoencoder | PatchCodec):
        return codec
    times, rest = divmod(grid.height_px, old.height_px)
    if rest or times < 1 or grid.width_px != times * old.width_px:
        raise SpecError(
            f"a model of views of {old.width_px}x{old.height_px} pixels grows by a whole number of times, not to "
            f"{grid.width_px}x{grid.height_px}; make a new one: without --model"
        )
    if isinstance(codec, SmallAutoencoder):
        return grown(codec, times)
    if times > 1:
        raise SpecError("a tiny model's autoencoder is in closed form and does not grow; make a new one: --new tiny")
    return codec


def regridded(model: DreamModel, codec: Any, grid: Grid, folder: Path, *, data: str) -> DreamModel:
    """Return a model with another autoencoder for another grid, everything else as it is.

    It is kept in a folder, where a training goes on with it; not so a model whose autoencoder stays, which is large.

    Args:
        model: whose network, words and clock are kept; it is not to be used any more.
        codec: as `codec_for` gives it, trained further or not.
        grid: what its pictures will show.
        folder: must not exist.
        data: what the autoencoder was trained on, for the card.
    """
    if codec is model.pipeline.vae:
        return DreamModel(model.pipeline, replace(model.card, grid=grid), model.layout, model.digest)
    said = {
        "part": "autoencoder",
        "data": data,
        "begun_with": model.digest,
        "views_before": list(model.card.grid.views),
    }
    said |= {"size_before_px": [model.card.grid.height_px, model.card.grid.width_px]}
    device = model.device
    model.pipeline.register_modules(vae=codec)
    save_model(model.pipeline, replace(model.card, grid=grid, training=(*model.card.training, said)), folder)
    return open_model(folder, device=str(device))
