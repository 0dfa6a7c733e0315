"""LeRobot sets made elsewhere, for people: facts, findings in sentences, a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from factory.errors import BackendError, DatasetError
from factory.foreign import foreign_episodes
from factory.foreign_set import ForeignSet
from workers.pictures import Image, frames_at

_TILE_PX, _GAP_PX, _LABEL_PX = 192, 8, 18
_INK, _PAPER = (24, 28, 36), (250, 250, 248)
_SUFFIXES = (".png", ".jpg", ".jpeg")
_EPISODES = 6
"""Rows of a contact sheet; a set that is wrong somewhere is seldom wrong in one of a thousand."""


def foreign_facts(found: ForeignSet) -> dict[str, Any]:
    """Return what was found as JSON values."""
    return {
        "root": str(found.root),
        "version": found.version,
        "robot_type": found.robot_type,
        "fps": found.fps,
        "episodes": len(found.lengths),
        "frames": sum(found.lengths),
        "hours": sum(found.lengths) / found.fps / 3600.0,
        "lengths": {"min": min(found.lengths), "max": max(found.lengths)},
        "cameras": {name: asdict(picture) for name, picture in found.cameras.items()},
        "columns": [
            {"name": name, "dtype": dtype, "shape": list(shape or (1,))}
            for name, (dtype, shape) in found.columns.items()
        ],
        "tasks": {str(number): text for number, text in found.tasks.items()},
        "findings": list(found.findings),
    }


def foreign_sentences(facts: dict[str, Any]) -> list[str]:
    """Return the same as lines to read."""
    shortest, longest = facts["lengths"]["min"], facts["lengths"]["max"]
    lines = [
        f"{facts['root']}: LeRobot {facts['version']}, robot {facts['robot_type'] or '?'}, {facts['fps']} Hz",
        f"{facts['episodes']} episodes of {shortest} to {longest} rows",
        f"{facts['frames']} frames, {facts['hours']:.2f} h",
    ]
    for name, picture in facts["cameras"].items():
        lines.append(f"camera {name}: {picture['width']} x {picture['height']}, {picture['codec']}")
    lines += [f"column {c['name']}: {c['dtype']}{c['shape']}" for c in facts["columns"]]
    lines += [f"task {number}: {text}" for number, text in facts["tasks"].items()]
    lines.append(f"{len(facts['findings'])} findings" + (":" if facts["findings"] else ""))
    return lines + [f"  - {finding}" for finding in facts["findings"]]


def foreign_sheet(found: ForeignSet, path: Path) -> int:
    """Write first, middle and last frame of a few episodes, every camera, as one picture; return how many episodes.

    Raises:
        DatasetError: a video cannot be decoded, there is none, or `path` is no PNG or JPEG.
        BackendError: Pillow is missing.
    """
    try:
        from PIL import Image as Pillow  # noqa: PLC0415 - the `sim` extra's
        from PIL import ImageDraw  # noqa: PLC0415
    except ImportError as error:
        raise BackendError(f"a contact sheet needs Pillow: pip install 'trajectory-factory[sim]' ({error})") from error

    if path.suffix.lower() not in _SUFFIXES:
        raise DatasetError(
            f"a contact sheet cannot be written to {path}; a name that ends in {', '.join(_SUFFIXES)} can"
        )
    if not found.cameras:
        raise DatasetError(f"{found.root} has no videos, so there are no pictures to show; leave out --pictures")
    rows = list(_rows(found))
    width = _GAP_PX + max(1, *(len(row) for row in rows)) * (_TILE_PX + _GAP_PX)
    height = _GAP_PX + len(rows) * (_TILE_PX + _LABEL_PX + _GAP_PX)
    sheet = Pillow.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for i, row in enumerate(rows):
        for j, (label, frame) in enumerate(row):
            x, y = _GAP_PX + j * (_TILE_PX + _GAP_PX), _GAP_PX + i * (_TILE_PX + _LABEL_PX + _GAP_PX)
            picture = Pillow.fromarray(frame)
            picture.thumbnail((_TILE_PX, _TILE_PX))
            sheet.paste(picture, (x, y + _LABEL_PX))
            draw.text((x, y), label, fill=_INK)
    sheet.save(path)
    return len(rows)


def _rows(found: ForeignSet) -> Iterator[list[tuple[str, Image]]]:
    """Yield, for a few episodes evenly spread, labels and pictures."""
    count = len(found.lengths)
    chosen = {round(i) for i in np.linspace(0, count - 1, min(_EPISODES, count))}
    for number, episode in enumerate(foreign_episodes(found.root)):
        if number not in chosen:
            continue
        row: list[tuple[str, Image]] = []
        for camera, film in episode.films.items():
            if not film.frames:
                continue
            last = film.frames - 1
            moments = {"first": 0, "middle": last // 2, "last": last}
            frames = frames_at(film.path, [film.first + at for at in moments.values()], fps=found.fps)
            labels = (f"episode {episode.index} {camera} {moment}" for moment in moments)
            row += zip(labels, frames, strict=True)
        yield row
