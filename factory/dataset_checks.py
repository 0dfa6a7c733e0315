"""Reading a dataset as its users will, before anybody calls it finished."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory import lerobot
from factory.durable import sha256_file
from factory.errors import DatasetError
from factory.provenance import DOCUMENTS_PATH, MANIFEST_PATH, read_documents, states_path
from factory.statistics import QUANTILES
from factory.tables import numpy_column
from factory.video import count_frames

STAT_NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a verification went through."""

    episodes: int
    frames: int
    videos: int
    files: int


def verify_dataset(root: Path) -> Verified:
    """Check every file of a dataset: hashes, indices, times, ranges, statistics, and each video by decoding it whole.

    Raises DatasetError naming the file and what is wrong with it.
    """
    files = _check_manifest(root)
    info = read_json(root, lerobot.INFO_PATH)
    if info.get("codebase_version") != lerobot.VERSION:
        found = info.get("codebase_version")
        raise DatasetError(f"{root / lerobot.INFO_PATH}: codebase_version is {found!r}, expected {lerobot.VERSION!r}")
    episodes = read_episodes_table(root)
    _check_episodes(root, info, episodes)
    groups = files_of(episodes)
    tasks = _check_names(root / lerobot.TASKS_PATH, "task", info["total_tasks"])
    for number, rows in groups.items():
        _check_data(root, number, rows, info, tasks)
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    for key in videos:
        for number, rows in groups.items():
            _check_video(root, number, rows, info, key)
    _check_stats(root, info)
    _check_sidecar(root, episodes, groups)
    frames = sum(row["length"] for row in episodes)
    return Verified(episodes=len(episodes), frames=frames, videos=len(videos) * len(groups), files=files)


def read_json(root: Path, path: str) -> Any:
    """Return a JSON file of a dataset. Raises DatasetError when it is missing or is not JSON."""
    try:
        return json.loads((root / path).read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{root / path} cannot be read: {error}; is {root} a finished dataset?") from error


def read_episodes_table(root: Path) -> list[dict[str, Any]]:
    """Return the rows of `meta/episodes` in order, without their statistics."""
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not paths:
        raise DatasetError(f"{root}/meta/episodes holds no table; is {root} a finished dataset?")
    rows: list[dict[str, Any]] = []
    for path in paths:
        schema = pq.read_schema(path)
        rows += read_parquet(path, [name for name in schema.names if not name.startswith("stats/")]).to_pylist()
    return rows


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return a parquet file. Raises DatasetError when it cannot be read."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def files_of(episodes: list[dict[str, Any]]) -> dict[int, list[dict[str, Any]]]:
    """Return file number -> the episodes in it, in order."""
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in episodes:
        number = row["data/chunk_index"] * lerobot.CHUNKS_SIZE + row["data/file_index"]
        groups.setdefault(number, []).append(row)
    return groups


def _check_manifest(root: Path) -> int:
    files: Mapping[str, str] = read_json(root, MANIFEST_PATH)["files"]
    for name, expected in files.items():
        if not (root / name).is_file():
            raise DatasetError(f"{root / name} is missing")
        if (found := sha256_file(root / name)) != expected:
            raise DatasetError(f"{root / name} is damaged: SHA-256 is {found[:12]}, the manifest has {expected[:12]}")
    return len(files)


def _check_episodes(root: Path, info: Mapping[str, Any], episodes: list[dict[str, Any]]) -> None:
    where = f"{root}/meta/episodes"
    total = 0
    for position, row in enumerate(episodes):
        if row["episode_index"] != position:
            raise DatasetError(f"{where}: row {position} is episode {row['episode_index']}; readers go by position")
        if row["dataset_from_index"] != total or row["dataset_to_index"] != total + row["length"]:
            found = (row["dataset_from_index"], row["dataset_to_index"])
            raise DatasetError(f"{where}: episode {position} spans {found}, expected {(total, total + row['length'])}")
        total += row["length"]
    for name, found in (("total_episodes", len(episodes)), ("total_frames", total)):
        if info[name] != found:
            raise DatasetError(f"{root / lerobot.INFO_PATH}: {name} is {info[name]}, the tables hold {found}")


def _check_names(path: Path, index: str, total: int) -> int:
    numbers = read_parquet(path).column(f"{index}_index").to_pylist()
    if numbers != list(range(total)):
        raise DatasetError(f"{path}: {index}_index is {numbers}, expected 0 to {total - 1} in order")
    return total


def _check_data(root: Path, number: int, rows: list[dict[str, Any]], info: Mapping[str, Any], tasks: int) -> None:
    path = root / lerobot.DATA_PATH.format(**lerobot.place(number))
    table = read_parquet(path)
    lengths = [row["length"] for row in rows]
    layout = pq.read_metadata(path)
    groups = [layout.row_group(i).num_rows for i in range(layout.num_row_groups)]
    if groups != lengths:
        raise DatasetError(f"{path} has row groups of {groups} rows, its episodes have {lengths}")
    columns: dict[str, NDArray[Any]] = {}
    for name, feature in info["features"].items():
        if feature["dtype"] == "video":
            continue
        if name not in table.column_names:
            raise DatasetError(f"{path} has no column {name!r}")
        values = columns[name] = numpy_column(table.column(name))
        if values.dtype.name != feature["dtype"] or list(values.shape[1:] or (1,)) != feature["shape"]:
            raise DatasetError(f"{path}: column {name!r} is {values.dtype} {values.shape}, info.json has {feature}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DatasetError(
                f"{path}: column {name!r} is not finite in row {np.argwhere(~np.isfinite(values))[0][0]}"
            )
    frame = np.concatenate([np.arange(length) for length in lengths])
    expected = {
        "frame_index": frame,
        "episode_index": np.repeat([row["episode_index"] for row in rows], lengths),
        "index": rows[0]["dataset_from_index"] + np.arange(len(frame)),
        "timestamp": (frame / info["fps"]).astype(np.float32),
    }
    for name, wanted in expected.items():
        wrong = np.flatnonzero(columns[name] != wanted)
        if wrong.size:
            found = columns[name][wrong[0]]
            raise DatasetError(f"{path}: {name} is {found} in row {wrong[0]}, expected {wanted[wrong[0]]}")
    ranges = {"task_index": tasks}
    if "subtask_index" in columns:
        ranges["subtask_index"] = len(read_parquet(root / lerobot.SUBTASKS_PATH))
    for name, limit in ranges.items():
        if columns[name].min() < 0 or columns[name].max() >= limit:
            raise DatasetError(f"{path}: {name} reaches {columns[name].max()}, the table of names has {limit} rows")


def _check_video(root: Path, number: int, rows: list[dict[str, Any]], info: Mapping[str, Any], key: str) -> None:
    path = root / lerobot.VIDEO_PATH.format(video_key=key, **lerobot.place(number))
    fps, before = info["fps"], 0
    for row in rows:
        index = row["episode_index"]
        same_file = all(row[f"videos/{key}/{part}"] == row[f"data/{part}"] for part in ("chunk_index", "file_index"))
        span = (row[f"videos/{key}/from_timestamp"], row[f"videos/{key}/to_timestamp"])
        wanted = (before / fps, (before + row["length"]) / fps)
        if not same_file or not np.allclose(span, wanted, rtol=0, atol=1e-9):
            raise DatasetError(f"{path}: episode {index} is said to span {span} s of it, expected {wanted}")
        before += row["length"]
    if (found := count_frames(path, fps=fps)) != before:
        raise DatasetError(f"{path} decodes to {found} frames, its episodes have {before} rows")


def _check_stats(root: Path, info: Mapping[str, Any]) -> None:
    path, stats = root / lerobot.STATS_PATH, read_json(root, lerobot.STATS_PATH)
    for name, feature in info["features"].items():
        shape = (3, 1, 1) if feature["dtype"] == "video" else tuple(feature["shape"])
        for stat in STAT_NAMES:
            value = np.array(stats.get(name, {}).get(stat, []), float)
            wanted = (1,) if stat == "count" else shape
            if value.shape != wanted or not np.isfinite(value).all():
                raise DatasetError(f"{path}: {stat} of {name!r} is {value.tolist()}, expected finite numbers {wanted}")
        if stats[name]["count"] != [info["total_frames"]]:
            raise DatasetError(f"{path}: {name!r} counts {stats[name]['count']} of {info['total_frames']} frames")


def _check_sidecar(root: Path, episodes: list[dict[str, Any]], groups: Mapping[int, list[dict[str, Any]]]) -> None:
    documents = list(read_documents(root))
    if [d["episode_index"] for d in documents] != list(range(len(episodes))):
        raise DatasetError(f"{root / DOCUMENTS_PATH} has {len(documents)} lines for {len(episodes)} episodes")
    for number, rows in groups.items():
        if not documents[rows[0]["episode_index"]]["document"]["sim_states"]:
            continue
        path = root / states_path(number)
        found = read_parquet(path, ["episode_index"]).column("episode_index").to_numpy()
        wanted = np.repeat([row["episode_index"] for row in rows], [row["length"] + 1 for row in rows])
        if not np.array_equal(found, wanted):
            raise DatasetError(
                f"{path} has {len(found)} states, expected one more per episode than rows: {len(wanted)}"
            )
