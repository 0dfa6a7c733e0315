"""The LeRobot v2.1 layout, as GR00T reads it: one parquet file and one clip a camera for each episode.

What readers trip over is avoided here: time starts at 0, features of cameras carry both blocks about their video and
"channel" among their names, every statistic that GR00T asks for is there (or it would overwrite the file), and files
of videos are links to, or packet copies of, what was encoded before.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory.durable import make_parent, write_json
from factory.errors import DatasetError
from factory.lerobot import INDEX_FEATURES, huggingface_note
from factory.lerobot_v21_stats import (
    Slice,
    clip_statistics,
    column_statistics,
    episode_statistics,
    relative_statistics,
)
from factory.statistics import Statistics
from factory.tables import arrow_column, numpy_column
from factory.video import excerpt

VERSION = "v2.1"
CHUNK = 1000
"""Episodes per chunk folder."""

DATA_PATH = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_PATH = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
INFO_PATH, STATS_PATH, MODALITY_PATH = "meta/info.json", "meta/stats.json", "meta/modality.json"
TASKS_PATH, EPISODES_PATH = "meta/tasks.jsonl", "meta/episodes.jsonl"
EPISODE_STATS_PATH, RELATIVE_STATS_PATH = "meta/episodes_stats.jsonl", "meta/relative_stats.json"


@dataclass(frozen=True, kw_only=True)
class Footage:
    """Where the frames of one episode and camera are.

    Attributes:
        path: a video.
        first: number of the episode's first frame in it.
        alone: whether the file holds nothing but this episode.
    """

    path: Path
    first: int = 0
    alone: bool = False


@dataclass(frozen=True, kw_only=True)
class Rows:
    """One episode on its way into a v2.1 set.

    Attributes:
        columns: column -> ``(T, n)`` or ``(T,)``; what the writer adds (time stamps, indices) is not among them.
        annotations: name without the "annotation." prefix -> the text that holds for all rows, or one for each.
        instruction: what the robot was told; `task_index` counts it.
        footage: feature of a camera -> its frames.
        picture_stats: feature of a camera -> statistics of its frames; those of a camera without any are made from
            its decoded frames.
    """

    columns: Mapping[str, NDArray[Any]]
    annotations: Mapping[str, str | Sequence[str]]
    instruction: str
    footage: Mapping[str, Footage]
    picture_stats: Mapping[str, Statistics] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def video_feature(*, height: int, width: int, fps: int, codec: str = "h264") -> dict[str, Any]:
    """Return the feature of a camera, with LeRobot's block about its video and with the older one."""
    facts = {
        "video.fps": float(fps),
        "video.height": height,
        "video.width": width,
        "video.channels": 3,
        "video.codec": codec,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "has_audio": False,
    }
    # "channel" sends GR00T to video_info, where it finds the rate; lerobot wants info.
    names = ["height", "width", "channel"]
    return {"dtype": "video", "shape": [height, width, 3], "names": names, "info": facts, "video_info": facts}


def write_set(
    folder: Path,
    episodes: Iterable[Rows],
    *,
    robot_type: str,
    fps: int,
    names: Mapping[str, Sequence[str]],
    cameras: Mapping[str, Mapping[str, Any]],
    modality: Mapping[str, Any],
    relative: Mapping[str, tuple[Slice, Slice]],
    horizon: int,
) -> int:
    """Write episodes, one after the other, into an empty folder and return how many; `info.json` comes last.

    Args:
        folder: where; see `durable.staging`.
        episodes: in the order they get their numbers; all with the same columns and cameras.
        robot_type: as info.json names it.
        fps: rows per second.
        names: column -> names of its elements.
        cameras: feature of a camera -> its description, see `video_feature`.
        modality: `meta/modality.json`; {} writes none.
        relative: key -> where its state and its action are: column, start, stop. Their difference is described for
            each of `horizon` steps ahead.
        horizon: see relative.

    Raises:
        DatasetError: there is no episode, or a video that is cut or decoded does not have the frames it should.
    """
    tasks: dict[str, int] = {}
    features: dict[str, Any] = {}
    paths: list[Path] = []
    index = total = 0
    with _lines(folder / EPISODES_PATH) as lines, _lines(folder / EPISODE_STATS_PATH) as stats:
        for rows in episodes:
            table = _table(rows, tasks, fps=fps, index=index, first=total)
            features = features or _features(table, rows, names, cameras)
            note = {"huggingface": json.dumps(huggingface_note(features))}
            paths.append(make_parent(folder / DATA_PATH.format(episode_chunk=index // CHUNK, episode_index=index)))
            pq.write_table(table.replace_schema_metadata(note), paths[-1], use_dictionary=False)
            pictures = _write_films(folder, index, rows)
            lines.write(_line({"episode_index": index, "tasks": [rows.instruction], "length": len(rows)}))
            stats.write(_line({"episode_index": index, "stats": episode_statistics(table, pictures)}))
            index, total = index + 1, total + len(rows)
    if not index:
        raise DatasetError("there is no episode to write; at least one is needed")
    with _lines(folder / TASKS_PATH) as file:
        file.writelines(_line({"task_index": number, "task": text}) for text, number in tasks.items())
    if modality:
        write_json(folder / MODALITY_PATH, dict(modality))
    write_json(folder / STATS_PATH, column_statistics(paths, features))
    if described := relative_statistics(paths, relative, horizon):
        write_json(folder / RELATIVE_STATS_PATH, described)
    info = {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": index,
        "total_frames": total,
        "total_tasks": len(tasks),
        "total_videos": index * len(cameras),
        "total_chunks": -(-index // CHUNK),
        "chunks_size": CHUNK,
        "fps": fps,
        "splits": {"train": f"0:{index}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if cameras else None,
        "features": features,
    }
    write_json(folder / INFO_PATH, info)
    return index


def _lines(path: Path) -> TextIO:
    return make_parent(path).open("w", encoding="utf-8")


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


def _table(rows: Rows, tasks: dict[str, int], *, fps: int, index: int, first: int) -> pa.Table:
    """Return an episode's rows; texts it is the first to use are entered into `tasks`."""
    count = len(rows)
    frame = np.arange(count, dtype=np.int64)

    def number(text: str | Sequence[str]) -> NDArray[np.int64]:
        texts = (text,) if isinstance(text, str) else text
        return np.resize(np.array([tasks.setdefault(t, len(tasks)) for t in texts], np.int64), count)

    task_index = number(rows.instruction)
    columns = {
        **rows.columns,
        **{f"annotation.{name}": number(text) for name, text in rows.annotations.items()},
        "timestamp": (frame / fps).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(count, index, np.int64),
        "index": first + frame,
        "task_index": task_index,
    }
    return pa.table({name: arrow_column(values) for name, values in columns.items()})


def _features(
    table: pa.Table, rows: Rows, names: Mapping[str, Sequence[str]], cameras: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    features: dict[str, Any] = {}
    for name in table.column_names:
        if name in INDEX_FEATURES:
            features[name] = dict(INDEX_FEATURES[name])
            continue
        values = numpy_column(table.column(name))
        shape = list(values.shape[1:]) or [1]
        called = list(names[name]) if name in names else None
        features[name] = {"dtype": values.dtype.name, "shape": shape, "names": called}
    for key, feature in cameras.items():
        if key not in rows.footage:
            raise DatasetError(f"the first episode has no frames of {key!r}; found {', '.join(rows.footage) or 'none'}")
        features[key] = dict(feature)
    return features


def _write_films(folder: Path, index: int, rows: Rows) -> dict[str, Statistics]:
    """Write an episode's clips and return feature of each camera -> statistics of its pictures."""
    pictures = dict(rows.picture_stats)
    for key, footage in rows.footage.items():
        place = VIDEO_PATH.format(episode_chunk=index // CHUNK, video_key=key, episode_index=index)
        clip = make_parent(folder / place)
        _film(footage, clip, frames=len(rows))
        if key not in pictures:
            pictures[key] = clip_statistics(clip)
    return pictures


def _film(footage: Footage, out: Path, *, frames: int) -> None:
    """Make a clip of an episode's frames: the same file under another name, or a copy of its packets."""
    if not footage.alone:
        excerpt(footage.path, out, first=footage.first, frames=frames)
        return
    try:
        os.link(footage.path.resolve(), out)
    except OSError:  # another disk, or one that knows no links
        shutil.copyfile(footage.path, out)
