"""Pictures of a training: its loss, and clips it was not trained on beside what the model dreams in their place."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dreams.clips import Clip
from dreams.judge import sampled
from dreams.views import Frames
from factory.errors import DatasetError, SpecError

if TYPE_CHECKING:
    from dreams.video import DreamModel, Sampling

_INK, _PALE, _PAPER, _LINE = (24, 28, 36), (104, 112, 126), (250, 250, 248), (36, 92, 166)
_WIDTH, _HEIGHT, _MARGIN, _GAP, _TEXT = 720, 360, 56, 4, 18
_POINTS = 200
"""Points of the smoothed line; each is the mean of its share of the steps."""


def draw_loss(log: Path, out: Path) -> None:
    """Draw the losses of a training's log, one step a line, as a PNG: every step pale, means over them on top.

    The axis of losses is logarithmic. Raises DatasetError for a log without a step.
    """
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    if not lines:
        raise DatasetError(f"{log} has no step to draw")
    steps = np.array([line["step"] for line in lines], np.float64)
    losses = np.log10(np.maximum([line["loss"] for line in lines], 1e-9))
    low, high = math.floor(losses.min() * 10) / 10, math.ceil(losses.max() * 10) / 10
    high = max(high, low + 0.1)
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), _PAPER)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)

    def place(step: float, loss: float) -> tuple[float, float]:
        across = (step - steps[0]) / max(steps[-1] - steps[0], 1.0)
        up = (loss - low) / (high - low)
        return _MARGIN + across * (_WIDTH - 1.5 * _MARGIN), _HEIGHT - _MARGIN - up * (_HEIGHT - 1.5 * _MARGIN)

    for share in np.linspace(low, high, 5):
        left, right = place(steps[0], share), place(steps[-1], share)
        draw.line([left, right], fill=(225, 228, 232))
        draw.text((6, left[1] - 8), f"{10**share:.3g}", font=font, fill=_PALE)
    for step in np.linspace(steps[0], steps[-1], 5):
        draw.text((place(step, low)[0] - 12, _HEIGHT - _MARGIN + 8), f"{step:.0f}", font=font, fill=_PALE)
    draw.point([place(*each) for each in zip(steps, losses, strict=True)], fill=_PALE)
    means = [(part[0].mean(), part[1].mean()) for part in _parts(steps, losses)]
    draw.line([place(*each) for each in means], fill=_LINE, width=2)
    draw.text((_MARGIN, 8), "loss by training step", font=font, fill=_INK)
    picture.save(out)


def draw_strips(rows: Sequence[tuple[str, Frames, Frames]], out: Path, *, pictures: int = 8) -> None:
    """Draw (sentence, real clip, dreamt clip), evenly spaced pictures of both below each other, as a PNG."""
    if not rows:
        raise SpecError("there is no clip to draw")
    height, width = rows[0][1].shape[1:3]
    scale = max(1, 96 // width)
    across, down = scale * width + _GAP, 2 * (scale * height + _GAP) + _TEXT
    sheet = Image.new("RGB", (_MARGIN + pictures * across, len(rows) * down + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for i, (sentence, real, dreamt) in enumerate(rows):
        draw.text((_MARGIN, i * down + 2), sentence, font=font, fill=_INK)
        for j, (name, clip) in enumerate((("real", real), ("dream", dreamt))):
            top = i * down + _TEXT + j * (scale * height + _GAP)
            draw.text((6, top + scale * height // 2 - 8), name, font=font, fill=_PALE)
            for k, number in enumerate(sampled(len(clip), pictures)):
                tile: Any = Image.fromarray(clip[number]).resize(
                    (scale * width, scale * height), Image.Resampling.NEAREST
                )
                sheet.paste(tile, (_MARGIN + k * across, top))
    sheet.save(out)


def dream_strips(model: DreamModel, clips: Sequence[Clip], out: Path, *, sampling: Sampling, seed: int = 0) -> None:
    """Dream on from the first picture of each clip under its own sentence and draw both; none is left out."""
    from dreams.generate import noise_of  # noqa: PLC0415 - brings torch; drawing alone needs none

    rows: list[tuple[str, Frames, Frames]] = []
    for number, clip in enumerate(clips):
        noise = noise_of(seed, number, model.latent_shape)[None]
        dreamt = model.dream(clip.frames[:1], [clip.instruction], noise, sampling)
        rows.append((clip.instruction, clip.frames, dreamt[0]))
    draw_strips(rows, out)


def _parts(steps: Any, losses: Any) -> list[tuple[Any, Any]]:
    edges = np.linspace(0, len(steps), min(_POINTS, len(steps)) + 1).astype(int)
    return [(steps[a:b], losses[a:b]) for a, b in pairwise(edges)]
