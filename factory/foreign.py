"""Reading LeRobot sets made elsewhere, v2.0 to v3.0: their rows as stored, and where each episode's frames are.

Paths are the layouts' own; those a set's `info.json` asks for are not followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from numpy.typing import NDArray

from factory import lerobot, lerobot_v21
from factory.errors import DatasetError

ADDED = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns every set has beside what was recorded."""
ANNOTATION = "annotation."
"""Columns that begin so count texts."""


@dataclass(frozen=True, kw_only=True)
class Film:
    """One episode's frames of one camera, as the file says without decoding them.

    Attributes:
        path: the video.
        first: number of the episode's first frame in it.
        frames: how many the episode has; -1 where the file holds other episodes too and nobody counted.
        alone: whether the file holds this episode alone.
    """

    path: Path
    first: int
    frames: int
    alone: bool


@dataclass(frozen=True, kw_only=True)
class ForeignEpisode:
    """One episode: its rows as they are stored, and where its pictures are.

    Attributes:
        index: its number in the set.
        columns: column -> ``(T,)`` or ``(T, n)``, every column there is.
        films: camera, without "observation.images.", -> its frames.
    """

    index: int
    columns: Mapping[str, NDArray[Any]]
    films: Mapping[str, Film]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


@dataclass(frozen=True, kw_only=True)
class Picture:
    """What a camera's first video says of itself."""

    width: int
    height: int
    fps: float
    codec: str
    key_frames_every: int


def is_foreign(root: Path) -> bool:
    """Return whether a folder is a LeRobot set that this project did not make."""
    return (root / lerobot.INFO_PATH).is_file() and not (root / "provenance").exists()


def foreign_episodes(root: Path) -> Iterator[ForeignEpisode]:
    """Yield the episodes of a set by number. Raises like `look`."""
    _, version = read_info(root)
    yield from _episodes_v3(root) if version == lerobot.VERSION else _episodes_v2(root)


def read_info(root: Path) -> tuple[Mapping[str, Any], str]:
    """Return `info.json` and its version. Raises DatasetError when it is none that can be read."""
    try:
        info = json.loads((root / lerobot.INFO_PATH).read_bytes())
        version = info["codebase_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{root / lerobot.INFO_PATH} cannot be read: {error}; is {root} a LeRobot set?") from error
    if version not in ("v2.0", "v2.1", lerobot.VERSION):
        raise DatasetError(f"{root}: codebase_version is {version!r}; v2.0, v2.1 and v3.0 can be read")
    return info, version


def read_tasks(root: Path, version: str) -> dict[int, str]:
    """Return texts by their number; {} where there is no table of them."""
    if version == lerobot.VERSION:
        path = root / lerobot.TASKS_PATH
        table = _parquet(path) if path.is_file() else None
        # pandas keeps its index under this name when it has none of its own.
        text = next((n for n in ("task", "__index_level_0__") if table and n in table.column_names), None)
        if table is None or text is None:
            return {}
        return dict(zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True))
    return {int(line["task_index"]): str(line["task"]) for line in _lines(root / lerobot_v21.TASKS_PATH)}


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _parquet(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _arrays(path: Path, table: pa.Table) -> dict[str, NDArray[Any]]:
    """Return the numbers of a table; columns of text or structures are left out."""
    found: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            flat = column.flatten()
            if not len(column) or len(flat) % len(column) or not _is_number(flat.type):
                if pa.types.is_nested(flat.type):
                    continue
                raise DatasetError(f"{path}: rows of column {name!r} are of different lengths")
            found[name] = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        elif _is_number(kind):
            found[name] = column.to_numpy(zero_copy_only=False)
    return found


def _is_number(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


def _episodes_v2(root: Path) -> Iterator[ForeignEpisode]:
    def number(path: Path) -> int:
        return int(re.sub(r"\D", "", path.stem) or -1)

    films: dict[int, dict[str, Path]] = {}
    for path in sorted(root.glob("videos/*/*/episode_*.mp4")):
        films.setdefault(number(path), {})[path.parent.name.removeprefix(lerobot.video_key(""))] = path
    for path in sorted(root.glob("data/*/episode_*.parquet"), key=number):
        index = number(path)
        yield ForeignEpisode(
            index=index,
            columns=_arrays(path, _parquet(path)),
            films={
                camera: Film(path=film, first=0, frames=_frames(film), alone=True)
                for camera, film in sorted(films.get(index, {}).items())
            },
        )


def _episodes_v3(root: Path) -> Iterator[ForeignEpisode]:
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    rows = [row for path in paths for row in _parquet(path).to_pylist()]
    info = read_info(root)[0]
    cameras = [name for name, f in info["features"].items() if f["dtype"] == "video"]
    fps = int(info["fps"])
    opened: tuple[Path, dict[str, NDArray[Any]]] | None = None
    crowd: dict[tuple[Any, ...], int] = {}
    for row in rows:
        for key in cameras:
            place = (key, row.get(f"videos/{key}/chunk_index"), row.get(f"videos/{key}/file_index"))
            crowd[place] = crowd.get(place, 0) + 1
    for row in rows:
        at = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
        path = root / lerobot.DATA_PATH.format(**at)
        if opened is None or opened[0] != path:
            opened = path, _arrays(path, _parquet(path))
        mine = np.flatnonzero(opened[1]["episode_index"] == row["episode_index"])
        films: dict[str, Film] = {}
        for key in cameras:
            place = {name: row.get(f"videos/{key}/{name}") for name in ("chunk_index", "file_index")}
            if None in place.values():
                continue
            film = root / lerobot.VIDEO_PATH.format(video_key=key, **place)
            if film.is_file():
                alone = crowd[key, *place.values()] == 1
                films[key.removeprefix(lerobot.video_key(""))] = Film(
                    path=film,
                    first=round(row[f"videos/{key}/from_timestamp"] * fps),
                    frames=_frames(film) if alone else -1,
                    alone=alone,
                )
        yield ForeignEpisode(
            index=row["episode_index"], columns={n: v[mine] for n, v in opened[1].items()}, films=films
        )


def _frames(path: Path) -> int:
    """Return the number of frames of a video without decoding any."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be read: {error}") from error


def read_picture(path: Path) -> Picture:
    """Return what a video says of itself, without decoding it."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            keys = [i for i, p in enumerate(p for p in container.demux(stream) if p.size) if p.is_keyframe]
            context, count = stream.codec_context, stream.frames
            return Picture(
                width=context.width,
                height=context.height,
                fps=float(stream.average_rate or 0),
                codec=context.name if context.name != "libdav1d" else "av1",
                key_frames_every=max((b - a for a, b in pairwise([*keys, count])), default=count),
            )
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be read: {error}") from error


def read_modality(root: Path) -> dict[str, Any]:
    """Return `meta/modality.json`, {} without one."""
    path = root / lerobot_v21.MODALITY_PATH
    return json.loads(path.read_bytes()) if path.is_file() else {}
