"""Looks into finished LeRobot datasets: which episodes there are, from which demos, with which subtasks."""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from api.answers import Clip, Episode, Span
from api.store import Store
from api.tables import Dataset
from factory import lerobot
from factory.dataset_checks import read_json
from factory.errors import ServiceError
from factory.provenance import ATTEMPTS_PATH, DOCUMENTS_PATH

_KEPT = 8
_VIDEO = "videos/"
_ATTEMPT = re.compile(rb'\{"attempt_index":(\d+)')


@dataclass(frozen=True, kw_only=True)
class _Index:
    """What is read of a dataset once: a row of meta/episodes for each episode, and what belongs to them."""

    fps: int
    rows: Sequence[dict[str, Any]]
    cameras: tuple[str, ...]
    subtasks: tuple[str, ...]
    attempts: Sequence[int | None]
    sources: Sequence[list[str]]


class Library:
    """Datasets that somebody looked into lately."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: OrderedDict[str, _Index] = OrderedDict()

    def count(self, dataset: Dataset) -> int:
        """Return the number of episodes."""
        return len(self._index(dataset).rows)

    def episodes(
        self, dataset: Dataset, *, after: int = -1, limit: int = 50, source: str | None = None
    ) -> list[Episode]:
        """Return episodes with an index above `after`, in order; only those made from demo `source`, if given."""
        index = self._index(dataset)
        chosen = [i for i in range(after + 1, len(index.rows)) if source is None or source in index.sources[i]][:limit]
        spans = self._spans(dataset, index, chosen)
        return [self._episode(dataset, index, i, spans.get(i, [])) for i in chosen]

    def episode(self, dataset: Dataset, number: int) -> Episode:
        """Return one episode. Raises ServiceError 404."""
        total = self.count(dataset)
        if not 0 <= number < total:
            raise ServiceError(
                f"dataset {dataset.id} has no episode {number}; it has {total}",
                status=404,
                code="not_found",
                field="index",
                found=number,
                allowed=f"0 to {total - 1}",
            )
        return self.episodes(dataset, after=number - 1, limit=1)[0]

    def sources(self, dataset: Dataset) -> list[str]:
        """Return the demos that its episodes were made from, sorted."""
        return sorted({name for names in self._index(dataset).sources for name in names})

    def _episode(self, dataset: Dataset, index: _Index, number: int, spans: list[Span]) -> Episode:
        row = index.rows[number]
        videos: dict[str, Clip] = {}
        for camera in index.cameras:
            key = lerobot.video_key(camera)
            at = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
            path = lerobot.VIDEO_PATH.format(video_key=key, **at)
            videos[camera] = Clip(
                url=f"/v1/datasets/{dataset.id}/files/{path}",
                from_s=row[f"videos/{key}/from_timestamp"],
                to_s=row[f"videos/{key}/to_timestamp"],
            )
        return Episode(
            index=number,
            attempt_index=index.attempts[number],
            length=row["length"],
            seconds=row["length"] / index.fps,
            instruction=row["tasks"][0] if row["tasks"] else "",
            sources=index.sources[number],
            subtasks=spans,
            videos=videos,
        )

    def _index(self, dataset: Dataset) -> _Index:
        if dataset.kind != "lerobot":
            raise ServiceError(
                f"dataset {dataset.id} is one {dataset.kind} file; its episodes are not listed",
                status=409,
                code="not_lerobot",
                field="dataset_id",
                found=dataset.kind,
                allowed="lerobot",
            )
        with self._lock:
            if dataset.id in self._known:
                self._known.move_to_end(dataset.id)
                return self._known[dataset.id]
        index = self._read(dataset)
        with self._lock:
            self._known[dataset.id] = index
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
        return index

    def _read(self, dataset: Dataset) -> _Index:
        with self._store.checkout(f"{dataset.key}/meta") as meta:
            info = read_json(meta.parent, lerobot.INFO_PATH)
            files = sorted(meta.glob("episodes/*/*.parquet"))
            names = _columns(pq.read_schema(files[0]).names)
            rows = [row for file in files for row in pq.read_table(file, columns=names).to_pylist()]
            subtasks: tuple[str, ...] = ()
            if (meta / "subtasks.parquet").exists():
                subtasks = tuple(pq.read_table(meta / "subtasks.parquet").column("subtask").to_pylist())
        prefix = lerobot.video_key("")
        cameras = [n.removeprefix(prefix) for n, f in info["features"].items() if f["dtype"] == "video"]
        attempts, sources = self._origins(dataset, len(rows))
        return _Index(
            fps=info["fps"], rows=rows, cameras=tuple(cameras), subtasks=subtasks, attempts=attempts, sources=sources
        )

    def _origins(self, dataset: Dataset, episodes: int) -> tuple[list[int | None], list[list[str]]]:
        """Return of each episode the attempt it was and the demos it was made from; episodes are in attempt order."""
        attempts: list[int | None] = [None] * episodes
        sources: list[list[str]] = [[] for _ in range(episodes)]
        if not self._store.exists(f"{dataset.key}/{ATTEMPTS_PATH}"):
            return attempts, sources
        with self._store.checkout(f"{dataset.key}/{DOCUMENTS_PATH}") as path, path.open("rb") as lines:
            for i, line in zip(range(episodes), lines, strict=False):
                attempts[i] = _attempt_index(line)
        with self._store.checkout(f"{dataset.key}/{ATTEMPTS_PATH}") as path:
            table = pq.read_table(path, columns=["index", "sources"]).to_pylist()
        used = {row["index"]: row["sources"] for row in table}
        for i, index in enumerate(attempts):
            sources[i] = sorted({str(source["demo"]) for source in json.loads(used.get(index, "[]"))})
        return attempts, sources

    def _spans(self, dataset: Dataset, index: _Index, chosen: Sequence[int]) -> dict[int, list[Span]]:
        """Return the subtasks of some episodes, from one column of the files they lie in; a row group is an episode."""
        if not index.subtasks:
            return {}
        groups: dict[tuple[int, int], int] = {}
        wanted: dict[tuple[int, int], list[tuple[int, int]]] = {}
        asked, last = set(chosen), max(chosen, default=-1)
        for i, row in enumerate(index.rows[: last + 1]):
            file = (row["data/chunk_index"], row["data/file_index"])
            group = groups[file] = groups.get(file, -1) + 1
            if i in asked:
                wanted.setdefault(file, []).append((i, group))
        spans: dict[int, list[Span]] = {}
        for (chunk, number), entries in wanted.items():
            path = lerobot.DATA_PATH.format(chunk_index=chunk, file_index=number)
            with self._store.checkout(f"{dataset.key}/{path}") as place, pq.ParquetFile(place) as file:
                if "subtask_index" in file.schema_arrow.names:
                    for i, group in entries:
                        column = file.read_row_group(group, columns=["subtask_index"]).column(0)
                        spans[i] = _runs(column.to_numpy(), index.subtasks)
        return spans


def _attempt_index(line: bytes) -> int | None:
    """Return the attempt that a line of the documents is about; its keys are sorted, and most of it is long."""
    found = _ATTEMPT.match(line)
    return int(found[1]) if found else None


def _columns(names: Sequence[str]) -> list[str]:
    kept = ("length", "tasks", "data/chunk_index", "data/file_index")
    return [name for name in names if name in kept or name.startswith(_VIDEO)]


def _runs(values: np.ndarray, names: Sequence[str]) -> list[Span]:
    """Return the stretches of equal subtasks."""
    if not len(values):
        return []
    edges = np.flatnonzero(np.diff(values)) + 1
    starts, stops = [0, *edges.tolist()], [*edges.tolist(), len(values)]
    return [Span(subtask=names[int(values[a])], start=a, stop=b) for a, b in zip(starts, stops, strict=True)]
