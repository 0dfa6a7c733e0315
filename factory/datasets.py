"""Shards become a dataset: LeRobot v3.0, with everything needed to make it again beside it.

`data/`, `videos/` and `meta/` are what lerobot reads; `provenance/` is what it ignores (see `provenance.py`).
Finalising is a pure function of committed shards: the same shards give the same files, in whatever order they came.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from numpy.typing import NDArray

from factory import lerobot
from factory.dataset_checks import row_batches, verify_dataset
from factory.durable import json_bytes, make_parent, rename_into_place, staging, write_json
from factory.episodes import list_renders, read_clips, read_document, read_layers, read_rows
from factory.errors import DatasetError
from factory.extras import ABOUT_PATH, describe_layers, join_layers, layer_paths
from factory.provenance import (
    DOCUMENTS_PATH,
    document_line,
    states_path,
    states_table,
    write_attempts,
    write_job,
    write_manifest,
    write_sources,
)
from factory.statistics import (
    AttemptRecord,
    Statistics,
    feature_statistics,
    image_statistics,
    merge_histograms,
    streamed_statistics,
)
from factory.tables import numpy_column
from factory.video import Clip, concatenate

MB = 1024 * 1024

_EPISODES_AT_ONCE = 100
"""Rows of `meta/episodes` held together; with their statistics each is some tens of kilobytes."""


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What all episodes of a dataset must have in common.

    Attributes:
        features: column name -> LeRobot's description, cameras included.
        control_hz: rows per second.
        sim_states: layout of the simulator's states.
        clip_fps: camera -> frames per second.
        extras: what `meta/extras.json` will say of segmentation and depth; empty without them.
    """

    features: Mapping[str, Any]
    control_hz: float
    sim_states: Mapping[str, Any]
    clip_fps: Mapping[str, int]
    extras: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One shard as the plan sees it; nothing that grows with its rows, for there may be a hundred thousand.

    Attributes:
        shard: its folder.
        index: attempt index.
        look: shared by all shards that look alike.
        instruction: likewise shared.
        subtasks: likewise shared.
        arm_subtasks: likewise shared; of each end effector, where there are several.
        sizes: bytes of its rows, then of each camera's clip, then of each layer.
    """

    shard: Path
    index: int
    look: _Look
    instruction: str
    subtasks: tuple[str, ...]
    arm_subtasks: tuple[tuple[str, tuple[str, ...]], ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Names:
    """What all episodes share."""

    features: Mapping[str, Any]
    fps: int
    tasks: Sequence[str]
    subtasks: Sequence[str]
    arm_subtasks: Mapping[str, Sequence[str]]
    cameras: Sequence[str]
    render: str | None
    extras: Mapping[str, Any]


def write_dataset(
    root: Path,
    shards: Iterable[Path],
    *,
    robot_type: str,
    job: Mapping[str, Any],
    attempts: Iterable[AttemptRecord] = (),
    source_demos: Path | None = None,
    models: Mapping[str, str] | None = None,
    render: str | None = None,
    data_mb: int = 100,
    video_mb: int = 200,
) -> Path:
    """Write the shards as one verified dataset at `root` and return it; nothing exists there before it is complete.

    Shards are read one by one, twice: for the plan, and for the files. Memory does not grow with their number but for
    some hundred bytes each. Pictures are neither encoded nor decoded.

    Args:
        root: the folder to make; it must not exist.
        shards: committed shard folders; they are sorted by attempt index, which becomes the order of episodes.
        robot_type: as LeRobot's info.json names it.
        job: what was asked for, JSON.
        attempts: every attempt's record, failures included, by index.
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
    entries, render = _entries(shards, render)
    names = _agree(entries, render)
    files = _plan(entries, data_bytes=data_mb * MB, video_bytes=video_mb * MB)
    try:
        with staging(root) as folder:
            written = _write_files(folder, files, names, data_bytes=data_mb * MB)
            _write_meta(folder, written, names, robot_type=robot_type, data_mb=data_mb, video_mb=video_mb)
            write_job(folder, job)
            write_attempts(folder, attempts)
            write_sources(folder, source_demos, models or {})
            write_manifest(folder)
            verify_dataset(folder, decode=False)
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


def _entries(shards: Iterable[Path], render: str | None) -> tuple[list[_Entry], str | None]:
    """Return the shards by attempt index, and the rendering whose clips are taken."""
    looks: dict[bytes, _Look] = {}
    words: dict[Any, Any] = {}
    renders: set[str] = set()
    entries: list[_Entry] = []
    paths = list(shards)
    if not paths:
        raise DatasetError("there is no episode to write; at least one shard is needed")
    if render is None:
        renders = {name for shard in paths for name in list_renders(shard)}
        if len(renders) > 1:
            raise DatasetError(f"the shards hold {len(renders)} renderings; name one of {', '.join(sorted(renders))}")
        render = next(iter(renders), None)
    for shard in paths:
        document = read_document(shard)
        clips, settings = ({}, {}) if render is None else read_clips(shard, render, check=False)
        layers, about = read_layers(shard, str(render), check=False) if settings.get("extras") else ([], {})
        look = _look_of(document, clips, describe_layers(layers, about) if layers else {})
        instruction, subtasks = document["instruction"], tuple(document["subtasks"])
        chains = document["provenance"].get("subtasks", {})
        arm_subtasks = tuple((eef, tuple(chain)) for eef, chain in sorted(chains.items()))
        entries.append(
            _Entry(
                shard=shard,
                index=document["index"],
                look=looks.setdefault(json_bytes(vars(look)), look),
                instruction=words.setdefault(instruction, instruction),
                subtasks=words.setdefault(subtasks, subtasks),
                arm_subtasks=words.setdefault(arm_subtasks, arm_subtasks),
                sizes=(
                    _data_bytes(document),
                    *(clip.path.stat().st_size for _, clip in sorted(clips.items())),
                    *(layer.path.stat().st_size for layer in layers),
                ),
            )
        )
    entries.sort(key=lambda entry: entry.index)
    for one, other in pairwise(entries):
        if one.index == other.index:
            raise DatasetError(f"attempt {one.index} comes twice: {one.shard} and {other.shard}")
    return entries, render


def _data_bytes(document: Mapping[str, Any]) -> int:
    width = sum(
        np.dtype(c["dtype"]).itemsize * int(np.prod(c["shape"], dtype=int)) for c in document["columns"].values()
    )
    return document["rows"] * (width + 37)  # the writer's own six columns are 37 bytes


def _look_of(document: Mapping[str, Any], clips: Mapping[str, Clip], extras: Mapping[str, Any]) -> _Look:
    videos = {lerobot.video_key(camera): lerobot.video_feature(clip) for camera, clip in sorted(clips.items())}
    return _Look(
        features={**lerobot.column_features(document), **videos},
        control_hz=document["control_hz"],
        sim_states=document["sim_states"],
        clip_fps={camera: clip.fps for camera, clip in sorted(clips.items())},
        extras=extras,
    )


def _agree(entries: Sequence[_Entry], render: str | None) -> _Names:
    """Return what all episodes share, or say where two of them differ."""
    first = entries[0]
    features, rate = first.look.features, first.look.control_hz
    if rate != int(rate) or rate < 1:
        raise DatasetError(f"shard {first.shard} has {rate} rows per second; LeRobot needs a whole number")
    if "action" not in features:
        raise DatasetError(f"shard {first.shard} has no column 'action'; found {', '.join(features)}")
    for name, feature in features.items():
        if name.startswith(("observation.", "action")) and feature["dtype"] not in ("float32", "video"):
            raise DatasetError(f"column {name!r} is {feature['dtype']}; what policies read and write must be float32")
    for entry in entries:
        if entry.arm_subtasks != first.arm_subtasks:
            found, wanted = dict(entry.arm_subtasks), dict(first.arm_subtasks)
            raise DatasetError(f"shard {entry.shard}: the arms' subtasks are {found}, in {first.shard} {wanted}")
        if entry is first or entry.look is not first.look:
            _check_alike(entry, first)
    return _Names(
        features={**features, **lerobot.INDEX_FEATURES},
        fps=int(rate),
        tasks=list(dict.fromkeys(entry.instruction for entry in entries)),
        subtasks=list(dict.fromkeys(name for entry in entries for name in entry.subtasks)),
        arm_subtasks=dict(entries[0].arm_subtasks),
        cameras=sorted(first.look.clip_fps),
        render=render,
        extras=first.look.extras,
    )


def _check_alike(entry: _Entry, first: _Entry) -> None:
    where, found, look = f"shard {entry.shard}", entry.look, first.look
    if found.control_hz != look.control_hz:
        raise DatasetError(f"{where} has {found.control_hz} rows per second, {first.shard} has {look.control_hz}")
    if found.sim_states != look.sim_states:
        raise DatasetError(f"{where} and {first.shard} do not store the same simulator states")
    if found.extras != look.extras:
        raise DatasetError(f"{where} has extras {dict(found.extras)}, {first.shard} has {dict(look.extras)}")
    for name in sorted(look.features.keys() ^ found.features.keys()):
        raise DatasetError(f"{where} and {first.shard} do not both have column {name!r}")
    for name, feature in found.features.items():
        if feature != look.features[name]:
            raise DatasetError(f"{where}: column {name!r} is {feature}, in {first.shard} it is {look.features[name]}")
    for camera, fps in found.clip_fps.items():
        if fps != look.control_hz:
            raise DatasetError(f"{where}: camera {camera!r} has {fps} frames per second for {look.control_hz} rows")


def _plan(entries: Sequence[_Entry], *, data_bytes: int, video_bytes: int) -> list[list[_Entry]]:
    """Return which episodes share a file: in order, a new file before any of data or videos would grow too large.

    One cut for all, because some readers take the data file's number for the videos' too.
    """
    files: list[list[_Entry]] = []
    sizes: tuple[int, ...] = ()
    limits = (data_bytes, *[video_bytes] * (len(entries[0].sizes) - 1))
    for entry in entries:
        grown = tuple(a + b for a, b in zip(sizes, entry.sizes, strict=True)) if files else entry.sizes
        if not files or any(size > limit for size, limit in zip(grown, limits, strict=True)):
            files.append([])
            grown = entry.sizes
        files[-1].append(entry)
        sizes = grown
    return files


@dataclass(frozen=True, kw_only=True)
class _Written:
    """What is known once every row and picture is in its file.

    Attributes:
        files: data files, and video files of each camera.
        episodes: how many.
        frames: rows of all of them.
        histograms: camera -> of all pictures.
    """

    files: int
    episodes: int
    frames: int
    histograms: Mapping[str, NDArray[np.int64]]


def _write_files(folder: Path, files: Sequence[Sequence[_Entry]], names: _Names, *, data_bytes: int) -> _Written:
    """Write data, states, videos, documents and `meta/episodes`, one episode at a time."""
    histograms = {camera: np.zeros((3, 256), np.int64) for camera in names.cameras}
    index = total = 0
    with ExitStack() as stack:
        lines = stack.enter_context(make_parent(folder / DOCUMENTS_PATH).open("wb"))
        described = stack.enter_context(closing(_EpisodeTables(folder, data_bytes)))
        for number, entries in enumerate(files):
            before = 0
            with _RowFiles(folder, number) as rows:
                for entry in entries:
                    document = read_document(entry.shard)
                    clips, settings = ({}, {}) if names.render is None else read_clips(entry.shard, names.render)
                    if settings.get("extras"):
                        read_layers(entry.shard, str(names.render))  # checks that their bytes are what was committed
                    episode = read_rows(entry.shard, document)
                    table = lerobot.data_table(
                        episode,
                        features=names.features,
                        episode_index=index,
                        first_row=total,
                        task_index=names.tasks.index(episode.instruction),
                        subtasks=names.subtasks,
                    )
                    rows.write(table, states_table(episode, index) if episode.sim_states else None)
                    described.add(
                        _episode_row(
                            entry,
                            table,
                            clips,
                            names,
                            index=index,
                            total=total,
                            before=before,
                            at=lerobot.place(number),
                        )
                    )
                    lines.write(document_line(index, document, settings))
                    for camera, clip in clips.items():
                        histograms[camera] = merge_histograms([histograms[camera], clip.histogram])
                    index, total, before = index + 1, total + len(episode), before + len(episode)
            for camera in names.cameras:
                place = lerobot.VIDEO_PATH.format(video_key=lerobot.video_key(camera), **lerobot.place(number))
                clip_name = f"clips-{names.render}/{lerobot.video_key(camera)}.mp4"
                concatenate([entry.shard / clip_name for entry in entries], make_parent(folder / place))
            for kind, camera, layer in layer_paths(names.extras, lerobot.place(number)):
                layer_name = f"clips-{names.render}/{kind}.{camera}.parquet"
                join_layers([entry.shard / layer_name for entry in entries], make_parent(folder / layer))
    return _Written(files=len(files), episodes=index, frames=total, histograms=histograms)


class _RowFiles:
    """A data file being written, and the file of its episodes' states; a row group for each episode."""

    def __init__(self, folder: Path, number: int) -> None:
        self._data = make_parent(folder / lerobot.DATA_PATH.format(**lerobot.place(number)))
        self._states = folder / states_path(number)
        self._writers: dict[Path, pq.ParquetWriter] = {}

    def write(self, rows: pa.Table, states: pa.Table | None) -> None:
        """Append an episode."""
        # No dictionaries: they may merge floats that compare equal, and rows must read back bit for bit.
        if self._data not in self._writers:
            self._writers[self._data] = pq.ParquetWriter(self._data, rows.schema, use_dictionary=False)
        self._writers[self._data].write_table(rows, row_group_size=rows.num_rows)
        if states is None:
            return
        if self._states not in self._writers:
            self._writers[self._states] = pq.ParquetWriter(
                make_parent(self._states), states.schema, use_dictionary=False, compression="zstd"
            )
        self._writers[self._states].write_table(states, row_group_size=states.num_rows)

    def __enter__(self) -> _RowFiles:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()


class _EpisodeTables:
    """`meta/episodes` being written: a few rows are held, and a file grows to its size before the next begins."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder, self._limit = folder, limit_bytes
        self._rows: list[Mapping[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None
        self._number = self._bytes = 0

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the row of an episode; see `lerobot.episodes_table`."""
        self._rows.append(row)
        if len(self._rows) == _EPISODES_AT_ONCE:
            self._flush()

    def close(self) -> None:
        """Write what is held."""
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def _flush(self) -> None:
        table = lerobot.episodes_table(self._rows)
        each = max(1, table.nbytes // table.num_rows)
        self._rows.clear()
        while table.num_rows:
            fits = max(0, self._limit - self._bytes) // each
            if fits == 0 and self._bytes:
                self._next_file()
                continue
            part, table = table.slice(0, max(1, fits)), table.slice(max(1, fits))
            self._write(part)
            self._bytes += part.num_rows * each

    def _write(self, part: pa.Table) -> None:
        where = lerobot.place(self._number)
        for name, value in where.items():
            part = part.append_column(f"meta/episodes/{name}", pa.array([value] * part.num_rows, pa.int64()))
        if self._writer is None:
            path = make_parent(self._folder / lerobot.EPISODES_PATH.format(**where))
            self._writer = pq.ParquetWriter(path, part.schema)
        self._writer.write_table(part)

    def _next_file(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._number, self._bytes = None, self._number + 1, 0


def _episode_row(
    entry: _Entry,
    table: pa.Table,
    clips: Mapping[str, Clip],
    names: _Names,
    *,
    index: int,
    total: int,
    before: int,
    at: Mapping[str, int],
) -> dict[str, Any]:
    """Return one row of `meta/episodes`; `before` counts the frames ahead of this episode in its video file."""
    rows = table.num_rows
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": [entry.instruction],
        "length": rows,
        "data/chunk_index": at["chunk_index"],
        "data/file_index": at["file_index"],
        "dataset_from_index": total,
        "dataset_to_index": total + rows,
    }
    columns = {name: numpy_column(table.column(name)).reshape(rows, -1) for name in table.column_names}
    side_by_side = np.concatenate([column.astype(np.float64) for column in columns.values()], axis=1)
    # Together, because a call costs more than the hundred rows of one column.
    stats = _apart(feature_statistics(side_by_side), {name: column.shape[1] for name, column in columns.items()})
    for camera in names.cameras:
        key = lerobot.video_key(camera)
        row |= {f"videos/{key}/{name}": value for name, value in at.items()}
        row |= {f"videos/{key}/from_timestamp": before / names.fps}
        row |= {f"videos/{key}/to_timestamp": (before + rows) / names.fps}
        stats[key] = image_statistics(clips[camera].histogram, frames=rows)
    return {**row, "stats": stats}


def _write_meta(
    folder: Path, written: _Written, names: _Names, *, robot_type: str, data_mb: int, video_mb: int
) -> None:
    """Write what describes the whole, `info.json` last. Statistics of numbers come from the written files."""
    found: dict[str, Statistics] = {}
    for camera in names.cameras:
        found[lerobot.video_key(camera)] = image_statistics(written.histograms[camera], frames=written.frames)
    paths = [folder / lerobot.DATA_PATH.format(**lerobot.place(number)) for number in range(written.files)]
    numbers = {name: feature for name, feature in names.features.items() if feature["dtype"] != "video"}
    for dtype in {feature["dtype"]: None for feature in numbers.values()}:
        widths = {name: math.prod(f["shape"]) for name, f in numbers.items() if f["dtype"] == dtype}
        found |= _apart(streamed_statistics(_columns_of(paths, list(widths))), widths)
    stats = {name: found[name] for name in names.features}
    pq.write_table(lerobot.names_table(names.tasks, index="task"), folder / lerobot.TASKS_PATH)
    if names.subtasks:
        pq.write_table(lerobot.names_table(names.subtasks, index="subtask"), folder / lerobot.SUBTASKS_PATH)
    for eef, chain in names.arm_subtasks.items():
        path = folder / lerobot.ARM_SUBTASKS_PATH.format(eef=eef)
        pq.write_table(lerobot.names_table(chain, index="subtask"), path)
    if modality := lerobot.modality_document(names.features):
        write_json(folder / lerobot.MODALITY_PATH, modality)
    info = lerobot.info_document(
        features=names.features,
        fps=names.fps,
        robot_type=robot_type,
        episodes=written.episodes,
        frames=written.frames,
        tasks=len(names.tasks),
        data_mb=data_mb,
        video_mb=video_mb,
    )
    if names.extras:
        write_json(folder / ABOUT_PATH, names.extras)
    write_json(folder / lerobot.STATS_PATH, lerobot.stats_document(stats))
    write_json(folder / lerobot.INFO_PATH, info)


def _columns_of(paths: Sequence[Path], names: Sequence[str]) -> Callable[[], Iterator[NDArray[Any]]]:
    """Return what yields columns of several data files side by side in blocks, from the beginning whenever called."""

    def blocks() -> Iterator[NDArray[Any]]:
        for path in paths:
            for _, table in row_batches(path, columns=list(names)):
                columns = [numpy_column(table.column(name)) for name in names]
                yield np.concatenate([column.reshape(table.num_rows, -1) for column in columns], axis=1)

    return blocks


def _apart(stats: Statistics, widths: Mapping[str, int]) -> dict[str, Statistics]:
    """Return the statistics of each of several columns that were described side by side."""
    stops = np.cumsum(list(widths.values()))
    return {
        name: {key: value if key == "count" else value[stop - width : stop] for key, value in stats.items()}
        for (name, width), stop in zip(widths.items(), stops, strict=True)
    }
