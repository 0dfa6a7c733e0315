"""Report cards: what labels and dreams are worth, measured where the truth is known or can be tried out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreams.clips import Clip
from dreams.embodiments import starts_of
from dreams.idm import open_idm
from dreams.label_card import idm_card
from dreams.labelling import label
from dreams.motion import Labels, poses_of
from dreams.pixel_checks import PixelLimits, look
from factory.errors import SpecError
from factory.statistics import wilson
from workers import dream_folder
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


def dream_card(
    run: dream_folder.Run, beside: Mapping[str, dream_folder.Run], *, out: Path | None = None
) -> dict[str, Any]:
    """Return what a run of dreams is worth, beside its controls, and draw it; see `workers.dream_controls`.

    "follows" is the share of all dreams that came true when they were carried out: one that could not be is none. The
    tiers' shares are of all dreams as well. Things are kept where no coloured thing jumps or vanishes.

    Args:
        run: verified.
        beside: what it is called -> a verified control.
        out: a PNG.

    Raises:
        SpecError: a run was not verified, or a control has another number of dreams.
    """
    figures = {"dreams": _worth(run)} | {name: _worth(each) for name, each in beside.items()}
    counts = {name: each["dreams"] for name, each in figures.items()}
    if len(set(counts.values())) > 1:
        raise SpecError(f"runs of different sizes cannot stand beside each other: {counts}")
    if out is not None:
        _draw_shares({name: each["follows"] for name, each in figures.items()}, out)
    return figures


def _worth(run: dream_folder.Run) -> dict[str, Any]:
    from dreams.generate import leakage, seam_change  # noqa: PLC0415 - brings torch

    found = dream_folder.summary(run)
    if found["tiers"]["not_tried"]:
        raise SpecError(f"{run.root} has dreams that were not tried; `factory dream verify {run.root}` goes on with it")
    count = found["dreams"]
    looks, light, seams = [], [], []
    for _, _, frame, dreamt in dream_folder.each_dream(run):
        looks.append(look(dreamt.rounds()[0], dreamt.grid, first=frame.picture))
        light.append(leakage(dreamt.frames, dreamt.grid))
        seams.append(seam_change(dreamt.frames, dreamt.grid))
    limits = PixelLimits()
    kept = sum(each.jump <= limits.most_jump and each.left >= limits.least_left for each in looks)
    return {
        "dreams": count,
        "follows": _share(found["tiers"]["executed_success"], count),
        "tiers": {name: _share(number, count) for name, number in found["tiers"].items() if name != "not_tried"},
        "things_kept": _share(kept, count),
        "first_error": float(np.mean([each.first_error for each in looks])),
        "leakage": _mean(light),
        "seam_change": _mean(seams),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _share(number: int, of: int) -> dict[str, Any]:
    value, low, high = wilson(number, of)
    return {"value": value, "low": low, "high": high, "n": of}


def _draw_shares(shares: Mapping[str, dict[str, Any]], out: Path) -> None:
    """Draw shares as bars with their intervals, the first one in colour."""
    left, width, row = 140, 460, 30
    sheet = Image.new("RGB", (left + width + 130, _TEXT * 2 + row * len(shares) + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    draw.text((_GAP, 4), "came true when carried out, of all dreams; lines: 95 % intervals", font=font, fill=_INK)
    for number, (name, share) in enumerate(shares.items()):
        top = 2 * _TEXT + number * row
        draw.text((_GAP, top + 3), name, font=font, fill=_INK)
        draw.rectangle((left, top, left + width, top + row - 10), fill=(232, 235, 239))
        draw.rectangle((left, top, left + width * share["value"], top + row - 10), fill=_READ if number == 0 else _TRUE)
        middle = top + (row - 10) // 2
        draw.line((left + width * share["low"], middle, left + width * share["high"], middle), fill=_INK, width=2)
        said = f"{share['value']:.0%} ({share['low']:.0%} to {share['high']:.0%})"
        draw.text((left + width + _GAP, top + 3), said, font=font, fill=_PALE)
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
