"""Reading a dataset as its users will, before anybody calls it finished."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from numpy.typing import NDArray

from factory import lerobot
from factory.durable import sha256_file
from factory.errors import DatasetError
from factory.extras import ABOUT_PATH, check_layer, layer_paths
from factory.provenance import DOCUMENTS_PATH, MANIFEST_PATH, read_documents, states_path
from factory.statistics import QUANTILES
from factory.tables import numpy_column
from factory.video import count_frames

_EPISODES_AT_ONCE = 1000
_ROWS_AT_ONCE = 1 << 12
"""Rows of data held together: a few megabytes, whatever the size of the file."""

STAT_NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a verification went through."""

    episodes: int
    frames: int
    videos: int
    files: int


def verify_dataset(root: Path, *, decode: bool = True) -> Verified:
    """Check every file of a dataset: hashes, indices, times, ranges, statistics, and every picture by decoding it.

    Without `decode` the frames of a video are counted and their times read, but no picture is made of them: enough for
    one that was just joined from clips whose bytes were checked. The same holds for segmentation and depth.

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
            _check_video(root, number, rows, info, key, decode=decode)
    about = read_json(root, ABOUT_PATH) if (root / ABOUT_PATH).exists() else {}
    for number, rows in groups.items():
        for kind, _, path in layer_paths(about, lerobot.place(number)):
            lengths = rows.column("length").tolist()
            check_layer(root / path, kind=kind, about=about, lengths=lengths, decode=decode)
    _check_stats(root, info)
    _check_sidecar(root, episodes, groups)
    return Verified(episodes=len(episodes), frames=info["total_frames"], videos=len(videos) * len(groups), files=files)


def read_json(root: Path, path: str) -> Any:
    """Return a JSON file of a dataset. Raises DatasetError when it is missing or is not JSON."""
    try:
        return json.loads((root / path).read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{root / path} cannot be read: {error}; is {root} a finished dataset?") from error


class EpisodeRows(Sequence[Mapping[str, Any]]):
    """Rows of `meta/episodes`, without their statistics, held as the columns they are stored in.

    As dictionaries, those of ten thousand episodes are thirty megabytes.
    """

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> EpisodeRows: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | EpisodeRows:
        if isinstance(index, slice):
            start, stop, _ = index.indices(len(self))
            return EpisodeRows(self.table.slice(start, max(0, stop - start)))
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)} episodes")
        return self.table.slice(index % len(self), 1).to_pylist()[0]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for batch in self.table.to_batches(_EPISODES_AT_ONCE):
            yield from batch.to_pylist()

    def column(self, name: str) -> NDArray[Any]:
        """Return one number of every row: ``(n,)``."""
        return numpy_column(self.table.column(name))


def read_episodes_table(root: Path) -> EpisodeRows:
    """Return the rows of `meta/episodes` in order, without their statistics."""
    paths = sorted((root / "meta/episodes").glob("*/*.parquet"))
    if not paths:
        raise DatasetError(f"{root}/meta/episodes holds no table; is {root} a finished dataset?")
    tables: list[pa.Table] = []
    for path in paths:
        schema = pq.read_schema(path)
        tables.append(read_parquet(path, [name for name in schema.names if not name.startswith("stats/")]))
    return EpisodeRows(pa.concat_tables(tables))


def read_parquet(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Return a parquet file. Raises DatasetError when it cannot be read."""
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def files_of(episodes: EpisodeRows) -> dict[int, EpisodeRows]:
    """Return file number -> the episodes in it; files follow each other, as episodes do."""
    chunk, file = (episodes.column(f"data/{name}") for name in ("chunk_index", "file_index"))
    numbers = chunk * lerobot.CHUNKS_SIZE + file
    starts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(episodes)]
    return {int(numbers[start]): episodes[start:stop] for start, stop in pairwise(starts) if start < stop}


def row_batches(path: Path, *, columns: list[str] | None = None) -> Iterator[tuple[range, pa.Table]]:
    """Yield a data file's row groups, which are its episodes, some tens of thousands of rows at a time.

    Each time the numbers of the groups and their rows. Raises DatasetError when the file cannot be read.
    """
    try:
        with pq.ParquetFile(path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            start = 0
            while start < len(sizes):
                stop, rows = start, 0
                while stop < len(sizes) and (stop == start or rows + sizes[stop] <= _ROWS_AT_ONCE):
                    rows, stop = rows + sizes[stop], stop + 1
                yield range(start, stop), file.read_row_groups(list(range(start, stop)), columns=columns)
                start = stop
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def _check_manifest(root: Path) -> int:
    files: Mapping[str, str] = read_json(root, MANIFEST_PATH)["files"]
    for name, expected in files.items():
        if not (root / name).is_file():
            raise DatasetError(f"{root / name} is missing")
        if (found := sha256_file(root / name)) != expected:
            raise DatasetError(f"{root / name} is damaged: SHA-256 is {found[:12]}, the manifest has {expected[:12]}")
    return len(files)


def _check_episodes(root: Path, info: Mapping[str, Any], episodes: EpisodeRows) -> None:
    where = f"{root}/meta/episodes"
    index, lengths = episodes.column("episode_index"), episodes.column("length")
    if (wrong := np.flatnonzero(index != np.arange(len(index)))).size:
        position = int(wrong[0])
        raise DatasetError(f"{where}: row {position} is episode {index[position]}; readers go by position")
    ends = np.cumsum(lengths)
    first, last = (episodes.column(f"dataset_{name}_index") for name in ("from", "to"))
    if (wrong := np.flatnonzero((first != ends - lengths) | (last != ends))).size:
        i = int(wrong[0])
        found, wanted = (int(first[i]), int(last[i])), (int(ends[i] - lengths[i]), int(ends[i]))
        raise DatasetError(f"{where}: episode {i} spans {found}, expected {wanted}")
    for name, found in (("total_episodes", len(index)), ("total_frames", int(lengths.sum()))):
        if info[name] != found:
            raise DatasetError(f"{root / lerobot.INFO_PATH}: {name} is {info[name]}, the tables hold {found}")


def _check_names(path: Path, index: str, total: int) -> int:
    numbers = read_parquet(path).column(f"{index}_index").to_pylist()
    if numbers != list(range(total)):
        raise DatasetError(f"{path}: {index}_index is {numbers}, expected 0 to {total - 1} in order")
    return total


def _check_data(root: Path, number: int, rows: EpisodeRows, info: Mapping[str, Any], tasks: int) -> None:
    path = root / lerobot.DATA_PATH.format(**lerobot.place(number))
    ranges = {"task_index": tasks}
    if "subtask_index" in info["features"]:
        ranges["subtask_index"] = len(read_parquet(root / lerobot.SUBTASKS_PATH))
    for name in info["features"]:
        eef = name.removeprefix("subtask_index.")
        if eef != name and (named := root / lerobot.ARM_SUBTASKS_PATH.format(eef=eef)).exists():
            ranges[name] = len(read_parquet(named))
    lengths = rows.column("length").tolist()
    groups = [group.num_rows for group in _row_groups(path)]
    if groups != lengths:
        raise DatasetError(f"{path} has row groups of {groups} rows, its episodes have {lengths}")
    for within, table in row_batches(path):
        _check_rows(path, table, rows[within.start : within.stop], info, ranges, before=sum(lengths[: within.start]))


def _row_groups(path: Path) -> Iterator[Any]:
    try:
        layout = pq.read_metadata(path)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error
    return (layout.row_group(i) for i in range(layout.num_row_groups))


def _check_rows(
    path: Path, table: pa.Table, rows: EpisodeRows, info: Mapping[str, Any], ranges: Mapping[str, int], *, before: int
) -> None:
    """Check the rows of a few episodes; `before` counts those ahead of them in the file."""
    lengths, start = rows.column("length"), int(rows.column("dataset_from_index")[0])
    frame = np.concatenate([np.arange(length) for length in lengths])
    expected = {
        "frame_index": frame,
        "episode_index": np.repeat(rows.column("episode_index"), lengths),
        "index": start + np.arange(len(frame)),
        "timestamp": (frame / info["fps"]).astype(np.float32),
    }
    for name, feature in info["features"].items():
        if feature["dtype"] == "video":
            continue
        if name not in table.column_names:
            raise DatasetError(f"{path} has no column {name!r}")
        values = numpy_column(table.column(name))
        if values.dtype.name != feature["dtype"] or list(values.shape[1:] or (1,)) != feature["shape"]:
            raise DatasetError(f"{path}: column {name!r} is {values.dtype} {values.shape}, info.json has {feature}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = before + np.argwhere(~np.isfinite(values))[0][0]
            raise DatasetError(f"{path}: column {name!r} is not finite in row {row}")
        if name in expected and (wrong := np.flatnonzero(values != expected[name])).size:
            found, wanted = values[wrong[0]], expected[name][wrong[0]]
            raise DatasetError(f"{path}: {name} is {found} in row {before + wrong[0]}, expected {wanted}")
        if name in ranges and (values.min() < 0 or values.max() >= ranges[name]):
            limit = ranges[name]
            raise DatasetError(f"{path}: {name} reaches {values.max()}, the table of names has {limit} rows")


def _check_video(
    root: Path, number: int, rows: EpisodeRows, info: Mapping[str, Any], key: str, *, decode: bool
) -> None:
    path = root / lerobot.VIDEO_PATH.format(video_key=key, **lerobot.place(number))
    fps, lengths = info["fps"], rows.column("length")
    ends = np.cumsum(lengths)
    same = [
        rows.column(f"videos/{key}/{part}") == rows.column(f"data/{part}") for part in ("chunk_index", "file_index")
    ]
    span = [rows.column(f"videos/{key}/{name}_timestamp") for name in ("from", "to")]
    wanted = [(ends - lengths) / fps, ends / fps]
    close = np.isclose(span, wanted, rtol=0, atol=1e-9).all(axis=0)
    if (wrong := np.flatnonzero(~(close & same[0] & same[1]))).size:
        i = int(wrong[0])
        index, found = rows[i]["episode_index"], (float(span[0][i]), float(span[1][i]))
        expected = (float(wanted[0][i]), float(wanted[1][i]))
        raise DatasetError(f"{path}: episode {index} is said to span {found} s of it, expected {expected}")
    before = int(ends[-1])
    found = count_frames(path, fps=fps) if decode else count_packets(path, fps=fps)
    if found != before:
        raise DatasetError(
            f"{path} {'decodes to' if decode else 'holds'} {found} frames, its episodes have {before} rows"
        )


def count_packets(path: Path, *, fps: int) -> int:
    """Return the number of frames of a video without decoding any.

    Raises DatasetError when the file cannot be read, or a frame is not shown at exactly its number / fps.
    """
    count = 0
    try:
        with av.open(str(path)) as container:
            for packet in container.demux(video=0):
                if packet.pts is None:  # the flush packet
                    continue
                base = packet.time_base or Fraction(1, fps)
                # In whole numbers: there may be millions of packets, and fractions are slow.
                if packet.pts * base.numerator * fps != count * base.denominator:
                    raise DatasetError(f"video {path}: frame {count} is shown at {float(packet.pts * base):.6f} s")
                count += 1
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be read after frame {count}: {error}") from error
    return count


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


def _check_sidecar(root: Path, episodes: EpisodeRows, groups: Mapping[int, EpisodeRows]) -> None:
    firsts = {int(rows.column("episode_index")[0]): number for number, rows in groups.items()}
    count, with_states = 0, set[int]()
    for document in read_documents(root):
        if document["episode_index"] != count:
            raise DatasetError(f"{root / DOCUMENTS_PATH}: line {count} is episode {document['episode_index']}")
        if count in firsts and document["document"]["sim_states"]:
            with_states.add(firsts[count])
        count += 1
    if count != len(episodes):
        raise DatasetError(f"{root / DOCUMENTS_PATH} has {count} lines for {len(episodes)} episodes")
    for number in sorted(with_states):
        path, rows = root / states_path(number), groups[number]
        found = read_parquet(path, ["episode_index"]).column("episode_index").to_numpy()
        wanted = np.repeat(rows.column("episode_index"), rows.column("length") + 1)
        if not np.array_equal(found, wanted):
            raise DatasetError(
                f"{path} has {len(found)} states, expected one more per episode than rows: {len(wanted)}"
            )
