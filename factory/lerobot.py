"""The LeRobot v3.0 layout as data: paths, feature descriptions, and the tables under `meta/`.

Checked against lerobot 0.4.4. Tables that lerobot reads with pandas carry pandas' own note about their index, written
here by hand, so that pandas is not needed to write them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory.episodes import Episode
from factory.statistics import Statistics
from factory.tables import arrow_column
from factory.video import Clip

VERSION = "v3.0"
CHUNKS_SIZE = 1000
"""Files per chunk folder."""

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
INFO_PATH, STATS_PATH = "meta/info.json", "meta/stats.json"
TASKS_PATH, SUBTASKS_PATH = "meta/tasks.parquet", "meta/subtasks.parquet"
ARM_SUBTASKS_PATH = "meta/subtasks.{eef}.parquet"
"""Names that `subtask_index.<eef>` counts, for robots with several arms."""
MODALITY_PATH = "meta/modality.json"

VALID = "annotation.valid"
"""Whether the episode is one to learn from: its success held. False in datasets of failures."""

INDEX_FEATURES: dict[str, dict[str, Any]] = {
    "timestamp": {"dtype": "float32", "shape": [1], "names": None},
    "frame_index": {"dtype": "int64", "shape": [1], "names": None},
    "episode_index": {"dtype": "int64", "shape": [1], "names": None},
    "index": {"dtype": "int64", "shape": [1], "names": None},
    "task_index": {"dtype": "int64", "shape": [1], "names": None},
    VALID: {"dtype": "bool", "shape": [1], "names": None},
}
"""Columns that the writer adds to those of the episodes."""


def video_key(camera: str) -> str:
    """Return the feature name of a camera."""
    return f"observation.images.{camera}"


def place(number: int) -> dict[str, int]:
    """Return the chunk and file index of the `number`-th file of a kind."""
    return {"chunk_index": number // CHUNKS_SIZE, "file_index": number % CHUNKS_SIZE}


def column_features(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the features of an episode document's columns; a width of one is a scalar, as LeRobot has it."""
    features: dict[str, dict[str, Any]] = {}
    for name, entry in document["columns"].items():
        names = document["names"][name] or None
        features[name] = {"dtype": entry["dtype"], "shape": entry["shape"] or [1], "names": names}
    return features


def video_feature(clip: Clip) -> dict[str, Any]:
    """Return the feature of a camera."""
    return {
        "dtype": "video",
        "shape": [clip.height, clip.width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": clip.height,
            "video.width": clip.width,
            "video.codec": clip.codec,
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": clip.fps,
            "video.channels": 3,
            "has_audio": False,
            **clip.options,
        },
    }


def modality_document(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return `meta/modality.json`: which part of which column is which arm's, in GR00T's notation.

    Per end effector, in state and action: `<eef>_arm` (joint positions; in action those after the step), `<eef>_eef_9d`
    (pose in its base frame: metres, rot6d; in action the one asked for), `<eef>_hand` (fingers; in action their
    commands), and in action `<eef>_eef_delta` as executed. {} where columns do not name their elements so.
    """
    state: Sequence[str] = features.get("observation.state", {}).get("names") or ()
    action: Sequence[str] = features["action"]["names"] or ()
    eefs = [name.removesuffix("_joint1_rad") for name in state if name.endswith("_joint1_rad")]

    def part(column: str, names: Sequence[str], prefix: str) -> dict[str, Any]:
        at = [i for i, name in enumerate(names) if name.startswith(prefix)]
        return {"start": at[0], "end": at[-1] + 1, "original_key": column, "absolute": True} if at else {}

    def whole(column: str) -> dict[str, Any]:
        feature = features.get(column)
        return {"start": 0, "end": feature["shape"][0], "original_key": column, "absolute": True} if feature else {}

    document: dict[str, Any] = {"state": {}, "action": {}, "video": {}, "annotation": {}}
    for eef in eefs:
        document["state"][f"{eef}_arm"] = part("observation.state", state, f"{eef}_joint")
        document["state"][f"{eef}_hand"] = part("observation.state", state, f"{eef}_finger")
        document["state"][f"{eef}_eef_9d"] = part("observation.state", state, f"{eef}_eef_")
        document["action"][f"{eef}_arm"] = whole(f"target.{eef}_next_joint_positions")
        document["action"][f"{eef}_eef_9d"] = whole(f"target.{eef}_eef_pose")
        delta = part("action", action, f"{eef}_dx")
        document["action"][f"{eef}_eef_delta"] = delta and {**delta, "end": delta["start"] + 6, "absolute": False}
        document["action"][f"{eef}_hand"] = part("action", action, f"{eef}_gripper")
    for kind in ("state", "action"):
        document[kind] = {key: entry for key, entry in document[kind].items() if entry}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            document["video"][name.removeprefix(video_key(""))] = {"original_key": name}
    document["annotation"] = {
        "human.action.task_description": {"original_key": "task_index"},
        "valid": {"original_key": VALID},
        "subtask": {"original_key": "subtask_index"},
        **{f"subtask.{eef}": {"original_key": f"subtask_index.{eef}"} for eef in eefs},
    }
    document["annotation"] = {k: v for k, v in document["annotation"].items() if v["original_key"] in features}
    return document if eefs else {}


def info_document(
    *,
    features: Mapping[str, Any],
    fps: int,
    robot_type: str,
    episodes: int,
    frames: int,
    tasks: int,
    data_mb: int,
    video_mb: int,
) -> dict[str, Any]:
    """Return `meta/info.json`."""
    has_video = any(feature["dtype"] == "video" for feature in features.values())
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": CHUNKS_SIZE,
        "data_files_size_in_mb": data_mb,
        "video_files_size_in_mb": video_mb,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if has_video else None,
        "features": dict(features),
    }


def data_table(
    episode: Episode,
    *,
    features: Mapping[str, Any],
    episode_index: int,
    first_row: int,
    task_index: int,
    subtasks: Sequence[str],
) -> pa.Table:
    """Return one episode's rows as `features` orders them, its subtasks renumbered to the dataset's `subtasks`.

    Time starts at 0: row i is at i / control_hz.
    """
    rows = len(episode)
    frame = np.arange(rows, dtype=np.int64)
    added: dict[str, NDArray[Any]] = {
        "timestamp": (frame / episode.control_hz).astype(np.float32),
        "frame_index": frame,
        "episode_index": np.full(rows, episode_index, np.int64),
        "index": first_row + frame,
        "task_index": np.full(rows, task_index, np.int64),
        VALID: np.full(rows, episode.success),
    }
    columns: dict[str, pa.Array] = {}
    for name, feature in features.items():
        if feature["dtype"] == "video":
            continue
        values = added[name] if name in added else episode.columns[name].values
        if name == "subtask_index":
            values = np.array([subtasks.index(subtask) for subtask in episode.subtasks], np.int64)[values]
        columns[name] = arrow_column(values.reshape(rows) if feature["shape"] == [1] else values)
    return pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(huggingface_note(features))})


def huggingface_note(features: Mapping[str, Any]) -> dict[str, Any]:
    """Return the note by which `datasets` knows fixed lists; "Sequence" is understood before and after datasets 4."""
    described: dict[str, Any] = {}
    for name, feature in features.items():
        value = {"dtype": feature["dtype"], "_type": "Value"}
        if feature["dtype"] != "video":
            scalar = feature["shape"] == [1]
            described[name] = (
                value if scalar else {"feature": value, "length": feature["shape"][0], "_type": "Sequence"}
            )
    return {"info": {"features": described}}


def names_table(names: Sequence[str], *, index: str) -> pa.Table:
    """Return a table that pandas reads as index `index` with the one column `<index>_index` = 0, 1, 2, ..."""
    number = f"{index}_index"
    note = {
        "index_columns": [index],
        "column_indexes": [
            {"name": None, "field_name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
        ],
        "columns": [
            {"name": n, "field_name": n, "pandas_type": p, "numpy_type": t, "metadata": None}
            for n, p, t in ((number, "int64", "int64"), (index, "unicode", "object"))
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    table = pa.table({number: pa.array(range(len(names)), pa.int64()), index: pa.array(names, pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(note)})


def episodes_table(rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    """Return the table of `meta/episodes`, one row per episode in order.

    Each row holds plain values and "stats", feature -> statistics, which are flattened to stats/<feature>/<name>.
    """
    flat = [
        {
            **{name: value for name, value in row.items() if name != "stats"},
            **{f"stats/{f}/{n}": v.tolist() for f, stats in row["stats"].items() for n, v in stats.items()},
        }
        for row in rows
    ]
    return pa.table({name: pa.array([row[name] for row in flat]) for name in flat[0]})


def stats_document(stats: Mapping[str, Statistics]) -> dict[str, Any]:
    """Return `meta/stats.json`."""
    return {feature: {name: value.tolist() for name, value in entry.items()} for feature, entry in stats.items()}


def read_picture_stats(root: Path, keys: Sequence[str]) -> Iterator[dict[str, Statistics]]:
    """Yield, for every episode in order, the statistics of its pictures by feature of the camera."""
    for path in sorted((root / "meta/episodes").glob("*/*.parquet")):
        with pq.ParquetFile(path) as file:
            names = [name for name in file.schema_arrow.names if name.startswith(tuple(f"stats/{k}/" for k in keys))]
            for batch in file.iter_batches(100, columns=names):
                for row in batch.to_pylist():
                    found: dict[str, Statistics] = {key: {} for key in keys}
                    for name, value in row.items():
                        feature, _, stat = name.removeprefix("stats/").rpartition("/")
                        found[feature][stat] = np.array(value)
                    yield found
