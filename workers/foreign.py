"""LeRobot sets made elsewhere, for people: facts, findings in sentences, a contact sheet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from factory.errors import BackendError
from factory.foreign import foreign_episodes
from factory.foreign_findings import ForeignSet, look
from workers.pictures import Image, frames_at

_TILE_PX, _GAP_PX, _LABEL_PX = 192, 8, 18
_INK, _PAPER = (24, 28, 36), (250, 250, 248)
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


def foreign_sheet(root: Path, path: Path) -> int:
    """Write first, middle and last frame of a few episodes, every camera, as one picture; return how many episodes.

    Raises:
        DatasetError: a video cannot be decoded.
        BackendError: Pillow is missing.
    """
    try:
        from PIL import Image as Pillow  # noqa: PLC0415 - the `sim` extra's
        from PIL import ImageDraw  # noqa: PLC0415
    except ImportError as error:
        raise BackendError(f"a contact sheet needs Pillow: pip install 'trajectory-factory[sim]' ({error})") from error

    found = look(root)
    chosen = {round(i) for i in np.linspace(0, len(found.lengths) - 1, min(_EPISODES, len(found.lengths)))}
    tiles: list[tuple[int, int, str, Image]] = []
    row = 0
    for number, episode in enumerate(foreign_episodes(root)):
        if number not in chosen:
            continue
        column = 0
        for camera, film in episode.films.items():
            last = (film.frames if film.frames > 0 else len(episode)) - 1
            moments = {"first": 0, "middle": last // 2, "last": last}
            frames = frames_at(film.path, [film.first + at for at in moments.values()], fps=found.fps)
            for moment, frame in zip(moments, frames, strict=True):
                tiles.append((row, column, f"episode {episode.index} {camera} {moment}", frame))
                column += 1
        row += 1
    width = _GAP_PX + (1 + max((column for _, column, _, _ in tiles), default=0)) * (_TILE_PX + _GAP_PX)
    height = _GAP_PX + max(row, 1) * (_TILE_PX + _LABEL_PX + _GAP_PX)
    sheet = Pillow.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for row_at, column_at, label, frame in tiles:
        x = _GAP_PX + column_at * (_TILE_PX + _GAP_PX)
        y = _GAP_PX + row_at * (_TILE_PX + _LABEL_PX + _GAP_PX)
        picture = Pillow.fromarray(frame)
        picture.thumbnail((_TILE_PX, _TILE_PX))
        sheet.paste(picture, (x, y + _LABEL_PX))
        draw.text((x, y), label, fill=_INK)
    sheet.save(path)
    return row
