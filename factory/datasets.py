"""Shards become a dataset: LeRobot v3.0, with everything needed to make it again beside it.

`data/`, `videos/` and `meta/` are what lerobot reads; `provenance/` is what it ignores (see `provenance.py`).
Finalising is a pure function of committed shards: the same shards give the same files, in whatever order they came.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError

from factory import lerobot
from factory.dataset_checks import verify_dataset
from factory.durable import make_parent, rename_into_place, staging, write_json
from factory.episodes import list_renders, read_clips, read_document, read_shard
from factory.errors import DatasetError
from factory.provenance import (
    states_path,
    states_table,
    write_attempts,
    write_documents,
    write_job,
    write_manifest,
    write_sources,
)
from factory.statistics import AttemptRecord, Statistics, feature_statistics, image_statistics, merge_histograms
from factory.tables import numpy_column
from factory.video import Clip, concatenate

MB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """One shard as the plan sees it, before its rows are read."""

    shard: Path
    document: Mapping[str, Any]
    clips: Mapping[str, Clip]
    render: Mapping[str, Any]

    @property
    def data_bytes(self) -> int:
        columns = self.document["columns"].values()
        width = sum(np.dtype(c["dtype"]).itemsize * int(np.prod(c["shape"], dtype=int)) for c in columns)
        return self.document["rows"] * (width + 36)  # the writer's own five columns are 36 bytes


@dataclass(frozen=True, kw_only=True)
class _Names:
    """What all episodes share."""

    features: Mapping[str, Any]
    fps: int
    tasks: Sequence[str]
    subtasks: Sequence[str]
    cameras: Sequence[str]


def write_dataset(
    root: Path,
    shards: Sequence[Path],
    *,
    robot_type: str,
    job: Mapping[str, Any],
    attempts: Sequence[AttemptRecord] = (),
    source_demos: Path | None = None,
    models: Mapping[str, str] | None = None,
    render: str | None = None,
    data_mb: int = 100,
    video_mb: int = 200,
) -> Path:
    """Write the shards as one verified dataset at `root` and return it; nothing exists there before it is complete.

    Args:
        root: the folder to make; it must not exist.
        shards: committed shard folders; they are sorted by attempt index, which becomes the order of episodes.
        robot_type: as LeRobot's info.json names it.
        job: what was asked for, JSON.
        attempts: every attempt's record, failures included.
        source_demos: a file of demonstrations to keep beside the dataset.
        models: model hash -> source text of the scene.
        render: which rendering becomes the videos; None takes the only one, or makes a dataset without videos.
        data_mb: size at which a new data file begins; likewise video_mb. Data and all cameras are cut together.
        video_mb: see data_mb.

    Raises:
        DatasetError: shards do not fit together, the result fails verification, or the disk is full.
        EpisodeError: a shard is damaged. In every case the shards stay and nothing is left at `root`.
    """
    if root.exists():
        raise DatasetError(f"{root} already exists; choose another folder or remove it first")
    entries = _entries(shards, render)
    names = _agree(entries)
    files = _plan(entries, data_bytes=data_mb * MB, video_bytes=video_mb * MB)
    try:
        with staging(root) as folder:
            rows = _write_files(folder, files, names)
            _write_meta(folder, rows, files, names, robot_type=robot_type, data_mb=data_mb, video_mb=video_mb)
            write_job(folder, job)
            write_attempts(folder, attempts)
            write_documents(folder, [(entry.document, entry.render) for entry in entries])
            write_sources(folder, source_demos, models or {})
            write_manifest(folder)
            verify_dataset(folder)
            if not rename_into_place(folder, root):
                raise DatasetError(f"{root} was made by someone else in the meantime; nothing was written")
    except (OSError, FFmpegError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "the disk is full" if full else f"{type(error).__name__}: {error}"
        raise DatasetError(
            f"dataset {root} was not written: {why}. The unfinished folder was removed; the {len(entries)} shards are "
            "untouched, so finalising can simply be repeated."
        ) from error
    return root


def _entries(shards: Sequence[Path], render: str | None) -> list[_Entry]:
    """Return the shards by attempt index, with the clips of one rendering."""
    if not shards:
        raise DatasetError("there is no episode to write; at least one shard is needed")
    renders = sorted({name for shard in shards for name in list_renders(shard)})
    if render is None and len(renders) > 1:
        raise DatasetError(f"the shards hold {len(renders)} renderings; name one of {', '.join(renders)}")
    chosen = render if render is not None else next(iter(renders), None)
    entries: list[_Entry] = []
    for shard in shards:
        clips, settings = ({}, {}) if chosen is None else read_clips(shard, chosen)
        entries.append(_Entry(shard=shard, document=read_document(shard), clips=clips, render=settings))
    entries.sort(key=lambda entry: entry.document["index"])
    for one, other in pairwise(entries):
        if one.document["index"] == other.document["index"]:
            raise DatasetError(f"attempt {one.document['index']} comes twice: {one.shard} and {other.shard}")
    return entries


def _agree(entries: Sequence[_Entry]) -> _Names:
    """Return what all episodes share, or say where two of them differ."""
    first = entries[0]
    features, rate = _features(first), first.document["control_hz"]
    if rate != int(rate) or rate < 1:
        raise DatasetError(f"shard {first.shard} has {rate} rows per second; LeRobot needs a whole number")
    if "action" not in features:
        raise DatasetError(f"shard {first.shard} has no column 'action'; found {', '.join(features)}")
    for name, feature in features.items():
        if name.startswith(("observation.", "action")) and feature["dtype"] not in ("float32", "video"):
            raise DatasetError(f"column {name!r} is {feature['dtype']}; what policies read and write must be float32")
    for entry in entries:
        _check_alike(entry, first, features)
    return _Names(
        features={**features, **lerobot.INDEX_FEATURES},
        fps=int(rate),
        tasks=list(dict.fromkeys(entry.document["instruction"] for entry in entries)),
        subtasks=list(dict.fromkeys(name for entry in entries for name in entry.document["subtasks"])),
        cameras=sorted(first.clips),
    )


def _features(entry: _Entry) -> dict[str, Any]:
    videos = {lerobot.video_key(camera): lerobot.video_feature(clip) for camera, clip in sorted(entry.clips.items())}
    return {**lerobot.column_features(entry.document), **videos}


def _check_alike(entry: _Entry, first: _Entry, features: Mapping[str, Any]) -> None:
    where, rate = f"shard {entry.shard}", first.document["control_hz"]
    if entry.document["control_hz"] != rate:
        raise DatasetError(f"{where} has {entry.document['control_hz']} rows per second, {first.shard} has {rate}")
    if entry.document["sim_states"] != first.document["sim_states"]:
        raise DatasetError(f"{where} and {first.shard} do not store the same simulator states")
    found = _features(entry)
    for name in sorted(features.keys() ^ found.keys()):
        raise DatasetError(f"{where} and {first.shard} do not both have column {name!r}")
    for name, feature in found.items():
        if feature != features[name]:
            raise DatasetError(f"{where}: column {name!r} is {feature}, in {first.shard} it is {features[name]}")
    for camera, clip in entry.clips.items():
        if clip.fps != rate:
            raise DatasetError(f"{where}: camera {camera!r} has {clip.fps} frames per second for {rate} rows")


def _plan(entries: Sequence[_Entry], *, data_bytes: int, video_bytes: int) -> list[list[_Entry]]:
    """Return which episodes share a file: in order, a new file before any of data or videos would grow too large.

    One cut for all, because some readers take the data file's number for the videos' too.
    """
    files: list[list[_Entry]] = []
    sizes: list[int] = []
    limits = [data_bytes, *[video_bytes] * len(entries[0].clips)]
    for entry in entries:
        extra = [entry.data_bytes, *(clip.path.stat().st_size for _, clip in sorted(entry.clips.items()))]
        grown = [a + b for a, b in zip(sizes, extra, strict=True)] if files else extra
        if not files or any(size > limit for size, limit in zip(grown, limits, strict=True)):
            files.append([])
            grown = extra
        files[-1].append(entry)
        sizes = grown
    return files


def _write_files(folder: Path, files: Sequence[Sequence[_Entry]], names: _Names) -> list[dict[str, Any]]:
    """Write data, states and videos; return the rows of `meta/episodes` that describe them."""
    described: list[dict[str, Any]] = []
    total = 0
    for number, entries in enumerate(files):
        where = lerobot.place(number)
        data = make_parent(folder / lerobot.DATA_PATH.format(**where))
        data_writer: pq.ParquetWriter | None = None
        states_writer: pq.ParquetWriter | None = None
        before = 0
        try:
            for entry in entries:
                episode, index = read_shard(entry.shard), len(described)
                table = lerobot.data_table(
                    episode,
                    features=names.features,
                    episode_index=index,
                    first_row=total,
                    task_index=names.tasks.index(episode.instruction),
                    subtasks=names.subtasks,
                )
                # No dictionaries: they may merge floats that compare equal, and rows must read back bit for bit.
                data_writer = data_writer or pq.ParquetWriter(data, table.schema, use_dictionary=False)
                data_writer.write_table(table, row_group_size=table.num_rows)
                if episode.sim_states:
                    after = states_table(episode, index)
                    states_writer = states_writer or pq.ParquetWriter(
                        make_parent(folder / states_path(number)),
                        after.schema,
                        use_dictionary=False,
                        compression="zstd",
                    )
                    states_writer.write_table(after, row_group_size=after.num_rows)
                described.append(_episode_row(entry, table, names, index=index, total=total, before=before, at=where))
                total, before = total + len(episode), before + len(episode)
        finally:
            for writer in (data_writer, states_writer):
                if writer is not None:
                    writer.close()
        for camera in names.cameras:
            video = make_parent(folder / lerobot.VIDEO_PATH.format(video_key=lerobot.video_key(camera), **where))
            concatenate([entry.clips[camera].path for entry in entries], video)
    return described


def _episode_row(
    entry: _Entry, table: pa.Table, names: _Names, *, index: int, total: int, before: int, at: Mapping[str, int]
) -> dict[str, Any]:
    """Return one row of `meta/episodes`; `before` counts the frames ahead of this episode in its video file."""
    rows = table.num_rows
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": [entry.document["instruction"]],
        "length": rows,
        "data/chunk_index": at["chunk_index"],
        "data/file_index": at["file_index"],
        "dataset_from_index": total,
        "dataset_to_index": total + rows,
    }
    stats: dict[str, Statistics] = {
        name: feature_statistics(numpy_column(table.column(name))) for name in table.column_names
    }
    for camera in names.cameras:
        key = lerobot.video_key(camera)
        row |= {f"videos/{key}/{name}": value for name, value in at.items()}
        row |= {f"videos/{key}/from_timestamp": before / names.fps}
        row |= {f"videos/{key}/to_timestamp": (before + rows) / names.fps}
        stats[key] = image_statistics(entry.clips[camera].histogram, frames=rows)
    return {**row, "stats": stats}


def _write_meta(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    files: Sequence[Sequence[_Entry]],
    names: _Names,
    *,
    robot_type: str,
    data_mb: int,
    video_mb: int,
) -> None:
    """Write `meta/`, `info.json` last. Statistics of numbers come from a second pass over the written files."""
    stats: dict[str, Statistics] = {}
    frames = rows[-1]["dataset_to_index"]
    paths = [folder / lerobot.DATA_PATH.format(**lerobot.place(number)) for number in range(len(files))]
    for name, feature in names.features.items():
        if feature["dtype"] == "video":
            camera = name.removeprefix(lerobot.video_key(""))
            merged = merge_histograms([entry.clips[camera].histogram for entries in files for entry in entries])
            stats[name] = image_statistics(merged, frames=frames)
        else:
            columns = [pq.read_table(path, columns=[name]).column(name) for path in paths]
            stats[name] = feature_statistics(np.concatenate([numpy_column(column) for column in columns]))
    table = lerobot.episodes_table(rows)
    per_file = max(1, int(len(rows) * data_mb * MB / max(1, table.nbytes)))
    for number, start in enumerate(range(0, len(rows), per_file)):
        part, where = table.slice(start, per_file), lerobot.place(number)
        for name, value in where.items():
            part = part.append_column(f"meta/episodes/{name}", pa.array([value] * part.num_rows, pa.int64()))
        pq.write_table(part, make_parent(folder / lerobot.EPISODES_PATH.format(**where)))
    pq.write_table(lerobot.names_table(names.tasks, index="task"), folder / lerobot.TASKS_PATH)
    if names.subtasks:
        pq.write_table(lerobot.names_table(names.subtasks, index="subtask"), folder / lerobot.SUBTASKS_PATH)
    info = lerobot.info_document(
        features=names.features,
        fps=names.fps,
        robot_type=robot_type,
        episodes=len(rows),
        frames=frames,
        tasks=len(names.tasks),
        data_mb=data_mb,
        video_mb=video_mb,
    )
    write_json(folder / lerobot.STATS_PATH, lerobot.stats_document(stats))
    write_json(folder / lerobot.INFO_PATH, info)
