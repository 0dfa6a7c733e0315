"""Statistics as LeRobot v2.1 and GR00T want them: of each episode, of all rows, and of relative actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory.errors import DatasetError
from factory.statistics import Statistics, feature_statistics, image_statistics, streamed_statistics
from factory.tables import numpy_column
from factory.video import decode

Slice = tuple[str, int, int]
"""A column, where a part of it starts, and where it stops."""

_EVERY = 5
"""Of clips whose pictures nobody has described yet, every so many frames are counted: neighbours look alike."""

_EPISODE_STATS = ("min", "max", "mean", "std", "count")
_STATS = ("mean", "std", "min", "max", "q01", "q99")
"""Exactly what GR00T N1.5 accepts; one entry more or less and it makes the file anew."""


def episode_statistics(table: pa.Table, pictures: Mapping[str, Statistics]) -> dict[str, Any]:
    """Return statistics of one episode. Quantiles of parts do not merge, so v2.1 has none and none are given."""
    found = {
        name: feature_statistics(_numbers(numpy_column(table.column(name)))) for name in table.column_names
    } | dict(pictures)
    return {name: {key: stats[key].tolist() for key in _EPISODE_STATS} for name, stats in found.items()}


def clip_statistics(path: Path) -> Statistics:
    """Return statistics of a clip's pictures, of every few frames only where there are many, as lerobot has them."""
    histogram, shown, seen = np.zeros((3, 256), np.int64), 0, 0
    for number, frame in enumerate(decode(path)):
        shown = number + 1
        if number % _EVERY == 0:
            seen += 1
            for channel in range(3):
                histogram[channel] += np.bincount(frame[..., channel].ravel(), minlength=256)
    if not shown:
        raise DatasetError(f"video {path} has no frames")
    return {**image_statistics(histogram, frames=seen), "count": np.array([shown])}


def _numbers(values: NDArray[Any]) -> NDArray[Any]:
    table = values.reshape(len(values), -1)
    return table.astype(np.float64) if table.dtype.kind in "biu" else table


def column_statistics(paths: Sequence[Path], features: Mapping[str, Any]) -> dict[str, Any]:
    """Return `meta/stats.json`: exact statistics of all rows of the data files, for every column that is in them."""
    found: dict[str, Any] = {}
    columns = {name: feature for name, feature in features.items() if feature["dtype"] != "video"}
    for dtype in dict.fromkeys(feature["dtype"] for feature in columns.values()):
        widths = {n: int(np.prod(f["shape"])) for n, f in columns.items() if f["dtype"] == dtype}
        stats = streamed_statistics(_side_by_side(paths, list(widths)))
        stops = np.cumsum(list(widths.values())).tolist()
        for (name, width), stop in zip(widths.items(), stops, strict=True):
            found[name] = {key: stats[key][stop - width : stop].tolist() for key in _STATS}
    return {name: found[name] for name in columns}


def _side_by_side(paths: Sequence[Path], names: list[str]) -> Callable[[], Iterator[NDArray[Any]]]:
    def blocks() -> Iterator[NDArray[Any]]:
        for path in paths:
            table = pq.read_table(path, columns=names)
            yield np.concatenate([_numbers(numpy_column(table.column(name))) for name in names], axis=1)

    return blocks


def relative_statistics(paths: Sequence[Path], keys: Mapping[str, tuple[Slice, Slice]], horizon: int) -> dict[str, Any]:
    """Return how far actions 0 to `horizon` - 1 steps ahead are from the present state: ``(horizon, n)`` per key.

    Only windows that lie whole within an episode count, as in GR00T's own script; {} where no episode is that long.

    Args:
        paths: data files, an episode each.
        keys: key -> where its state and its action are.
        horizon: how many steps ahead.
    """
    found: dict[str, Any] = {}
    for key, (state, action) in keys.items():
        blocks = _differences(paths, state, action, horizon)
        if not any(len(block) for block in blocks()):
            continue  # every episode is shorter than the horizon
        stats = streamed_statistics(blocks)
        found[key] = {name: stats[name].reshape(horizon, -1).tolist() for name in _STATS}
    return found


def _differences(
    paths: Sequence[Path], state: Slice, action: Slice, horizon: int
) -> Callable[[], Iterator[NDArray[np.float32]]]:
    def blocks() -> Iterator[NDArray[np.float32]]:
        for path in paths:
            table = pq.read_table(path, columns=list(dict.fromkeys((state[0], action[0]))))
            seen, done = (numpy_column(table.column(c))[:, a:b].astype(np.float32) for c, a, b in (state, action))
            count = max(0, len(seen) - horizon + 1)
            ahead = [done[k : k + count] - seen[:count] for k in range(horizon)]
            yield np.concatenate(ahead, axis=1)

    return blocks
