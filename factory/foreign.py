"""Reading LeRobot sets made elsewhere, v2.0 to v3.0: their rows as stored, and where each episode's frames are.

Paths are the layouts' own; those a set's `info.json` asks for are not followed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from av.error import FFmpegError
from numpy.typing import NDArray

from factory import lerobot, lerobot_v21
from factory.errors import DatasetError
from factory.foreign_meta import Info, parsing, read_info, read_lines, read_parquet

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
        frames: how many the episode has; of a file it shares with others, never more than it has rows.
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
        said: how many rows `meta/` says it has; None where it says nothing.
        columns: column -> ``(T,)`` or ``(T, n)``, every column of numbers there is.
        films: camera, without "observation.images.", -> its frames.
    """

    index: int
    said: int | None
    columns: Mapping[str, NDArray[Any]]
    films: Mapping[str, Film]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


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
    """Yield the episodes of a set by number. Raises DatasetError when a file of it cannot be read."""
    info = read_info(root)
    yield from _episodes_v3(root, info) if info.is_v3 else _episodes_v2(root)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the numbers of a data file; columns of text, structures or pictures are left out."""
    table = read_parquet(path)
    found: dict[str, NDArray[Any]] = {}
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        kind = column.type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
            flat = column.flatten()
            if not len(column) or not _is_number(flat.type):
                continue
            lengths = np.diff(column.offsets) if not pa.types.is_fixed_size_list(kind) else np.zeros(1)
            if len(flat) % len(column) or (lengths != lengths[0]).any():
                raise DatasetError(f"{path}: rows of column {name!r} are of different lengths")
            found[name] = flat.to_numpy(zero_copy_only=False).reshape(len(column), -1)
        elif _is_number(kind):
            found[name] = column.to_numpy(zero_copy_only=False)
    return found


def _is_number(kind: Any) -> bool:
    return pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)


# --- v2: a file for each episode --------------------------------------------------------------------------------------


def _episodes_v2(root: Path) -> Iterator[ForeignEpisode]:
    lines = root / lerobot_v21.EPISODES_PATH
    with parsing(lines):
        said = {int(line["episode_index"]): int(line["length"]) for line in read_lines(lines)}
    films: dict[int, dict[str, Path]] = {}
    for path in sorted(root.glob("videos/*/*/episode_*.mp4")):
        films.setdefault(_number(path), {})[path.parent.name.removeprefix(lerobot.video_key(""))] = path
    for path in sorted(root.glob("data/*/episode_*.parquet"), key=_number):
        index = _number(path)
        yield ForeignEpisode(
            index=index,
            said=said.get(index),
            columns=_arrays(path),
            films={
                camera: Film(path=film, first=0, frames=_count_packets(film), alone=True)
                for camera, film in sorted(films.get(index, {}).items())
            },
        )


def _number(path: Path) -> int:
    return int(re.sub(r"\D", "", path.stem) or -1)


# --- v3: files that episodes share ------------------------------------------------------------------------------------

_At = tuple[str, int, int]
"""A feature of a camera, its chunk and its file."""


def _episodes_v3(root: Path, info: Info) -> Iterator[ForeignEpisode]:
    tables = sorted((root / "meta/episodes").glob("*/*.parquet"))
    rows = [row for path in tables for row in _without_stats(path).to_pylist()]
    cameras = [name for name, feature in info.features.items() if feature.dtype == "video"]
    with parsing(root / "meta/episodes"):
        crowd = Counter(at for row in rows for key in cameras if (at := _place(row, key)))
        counted: dict[_At, int] = {}
        data: tuple[Path, dict[str, NDArray[Any]]] | None = None
        for row in rows:
            path = root / lerobot.DATA_PATH.format(**{n: row[f"data/{n}"] for n in ("chunk_index", "file_index")})
            if data is None or data[0] != path:
                data = path, _arrays(path)
            mine = np.flatnonzero(data[1]["episode_index"] == row["episode_index"])
            films: dict[str, Film] = {}
            for key in cameras:
                at = _place(row, key)
                if at is None:
                    continue
                film = root / lerobot.VIDEO_PATH.format(video_key=key, chunk_index=at[1], file_index=at[2])
                if not film.is_file():
                    continue
                if at not in counted:
                    counted[at] = _count_packets(film)
                first = round(row[f"videos/{key}/from_timestamp"] * info.fps)
                left = max(0, counted[at] - first)
                alone = crowd[at] == 1 and first == 0
                films[key.removeprefix(lerobot.video_key(""))] = Film(
                    path=film, first=first, frames=left if alone else min(left, len(mine)), alone=alone
                )
            yield ForeignEpisode(
                index=int(row["episode_index"]),
                said=None if row.get("length") is None else int(row["length"]),
                columns={name: values[mine] for name, values in data[1].items()},
                films=films,
            )


def _without_stats(path: Path) -> pa.Table:
    table = read_parquet(path)
    return table.select([name for name in table.column_names if not name.startswith("stats/")])


def _place(row: Mapping[str, Any], key: str) -> _At | None:
    chunk, file = (row.get(f"videos/{key}/{name}") for name in ("chunk_index", "file_index"))
    return None if chunk is None or file is None else (key, int(chunk), int(file))


# --- videos -----------------------------------------------------------------------------------------------------------


def _count_packets(path: Path) -> int:
    """Return the number of frames of a video without decoding any."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            return stream.frames or sum(1 for packet in container.demux(stream) if packet.size)
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be read: {error}") from error


def read_picture(path: Path) -> Picture:
    """Return what a video says of itself, without decoding it. Raises DatasetError when it cannot be read."""
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            begins = [packet.is_keyframe for packet in container.demux(stream) if packet.size]
            keys = [*(i for i, key in enumerate(begins) if key), len(begins)]
            context = stream.codec_context
            return Picture(
                width=context.width,
                height=context.height,
                fps=float(stream.average_rate or 0),
                codec=context.name if context.name != "libdav1d" else "av1",
                key_frames_every=max((b - a for a, b in pairwise(keys)), default=len(begins)),
            )
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be read: {error}") from error
