"""Report cards: what a model's word is worth, measured on episodes of which the truth is known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreams.clips import Clip
from dreams.embodiments import starts_of
from dreams.idm import open_idm
from dreams.label_card import idm_card
from dreams.labelling import Labels, label
from dreams.motion import poses_of
from factory.errors import SpecError
from workers.dream_training import clips_of

_TILE, _GAP, _TEXT, _COLUMNS = 240, 8, 16, 4
_INK, _PALE, _PAPER, _TRUE, _READ = (24, 28, 36), (104, 112, 126), (250, 250, 248), (150, 156, 166), (36, 92, 166)


def label_card(model: Path, datasets: Sequence[Path], *, out: Path | None = None) -> dict[str, Any]:
    """Return how well an inverse dynamics model reads episodes whose motion is known, and draw their paths.

    Their hands' first poses are given, as they are for dreams whose first frame has a state. Episodes should be ones
    that the model was not trained on; which those were is in its folder.

    Raises:
        SpecError: the episodes do not say how their hands moved.
        DatasetError: model or dataset cannot be read.
    """
    idm = open_idm(model)
    clips = clips_of(datasets, idm.card.grid, frames=33, stride=idm.card.stride)[0]
    starts = {name: hands for root in datasets for name, hands in starts_of(root).items()}
    if not clips or any(clip.motion is None for clip in clips):
        raise SpecError("a card needs episodes whose motion is known; columns must name the hands")
    pairs = [(clip, label(clip, idm, start=starts[clip.name])) for clip in clips]
    figures = idm_card(pairs)
    if out is not None:
        _draw(pairs, starts, out)
        figures["picture"] = str(out)
    return figures


def _draw(pairs: Sequence[tuple[Clip, Labels]], starts: dict[str, Any], out: Path) -> None:
    """Draw the paths of the first hand from above, evenly chosen episodes: true ones grey, read ones blue."""
    chosen = [pairs[int(i)] for i in np.unique(np.linspace(0, len(pairs) - 1, 8).round().astype(int))]
    rows = -(-len(chosen) // _COLUMNS)
    size = (_COLUMNS * (_TILE + _GAP) + _GAP, rows * (_TILE + _TEXT + _GAP) + _TEXT + _GAP)
    sheet = Image.new("RGB", size, _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    draw.text((_GAP, 2), "hand from above, 60 x 60 cm: grey as it was, blue as read from the pictures", font=font,
              fill=_INK)  # fmt: skip
    for number, (clip, read) in enumerate(chosen):
        row, column = divmod(number, _COLUMNS)
        left, top = _GAP + column * (_TILE + _GAP), _TEXT + _GAP + row * (_TILE + _TEXT + _GAP)
        draw.rectangle((left, top, left + _TILE, top + _TILE), outline=(225, 228, 232))
        assert clip.motion is not None  # noqa: S101 - checked before
        eef = next(iter(clip.hands))
        true = poses_of(clip.motion, starts[clip.name], clip.hands)[eef][:, :3, 3]
        found = (read.T_base_eef or poses_of(read.motion, starts[clip.name], clip.hands))[eef][:, :3, 3]
        middle = true.mean(axis=0)
        for path, colour, width in ((true, _TRUE, 4), (found, _READ, 2)):
            points = [
                (left + _TILE * (0.5 + (y - middle[1]) / 0.6), top + _TILE * (0.5 + (x - middle[0]) / 0.6))
                for x, y in path[:, :2]
            ]
            draw.line(points, fill=colour, width=width)
        off = 1e3 * np.linalg.norm(found - true, axis=1)
        draw.text((left, top + _TILE + 1), f"{off[-1]:.0f} mm off at the end, {off.max():.0f} at most", font=font,
                  fill=_PALE)  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
