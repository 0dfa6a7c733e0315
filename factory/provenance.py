"""The sidecar of a dataset: where every episode came from, and enough to make it again.

provenance/
  manifest.json               SHA-256 of every file of the dataset but itself
  job.json                    what was asked for
  attempts.parquet            one row per attempt, failures included
  episodes.jsonl              per episode: its document (start snapshot, sources, versions), digest, render settings
  states/file-NNN.parquet     T + 1 simulator states per episode, one row group each, cut where data/ is cut
  sources.hdf5                the demonstrations it was made from
  models/<sha>.xml            the scenes' source text
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from factory.durable import json_bytes, make_parent, sha256_file, write_json
from factory.episodes import Episode
from factory.errors import DatasetError
from factory.statistics import AttemptRecord
from factory.tables import table_from

FOLDER = "provenance"
MANIFEST_PATH, JOB_PATH = f"{FOLDER}/manifest.json", f"{FOLDER}/job.json"
ATTEMPTS_PATH, DOCUMENTS_PATH = f"{FOLDER}/attempts.parquet", f"{FOLDER}/episodes.jsonl"
SOURCES_PATH = f"{FOLDER}/sources.hdf5"

_ATTEMPTS_SCHEMA = pa.schema(
    [("index", pa.int64()), ("outcome", pa.string()), ("held", pa.bool_()), ("touched", pa.bool_())]
    + [(name, pa.string()) for name in ("subtask", "eef", "reason", "sources", "start_poses")]
    + [("steps", pa.int64()), ("executor", pa.string())]
)

_ATTEMPTS_AT_ONCE = 10_000
"""Rows of attempts held together, and a row group of their file; ten megabytes or so."""


def states_path(number: int) -> str:
    """Return where the states of the `number`-th data file's episodes lie."""
    return f"{FOLDER}/states/file-{number:03d}.parquet"


def model_path(sha: str) -> str:
    """Return where a scene's source text lies."""
    return f"{FOLDER}/models/{sha}.xml"


def states_table(episode: Episode, episode_index: int) -> pa.Table:
    """Return the T + 1 states of an episode, float64, after a column with its index in the dataset."""
    numbers = pa.array([episode_index] * (len(episode) + 1), pa.int64())
    return table_from(episode.sim_states).add_column(0, "episode_index", numbers)


def write_job(root: Path, job: Mapping[str, Any]) -> None:
    """Write what was asked for. Raises DatasetError when it is not JSON."""
    try:
        write_json(root / JOB_PATH, dict(job))
    except (TypeError, ValueError) as error:
        raise DatasetError(f"the job is not JSON: {error}") from error


def write_attempts(root: Path, attempts: Iterable[AttemptRecord]) -> None:
    """Write one row per attempt; `sources` and `start_poses` are JSON text.

    Raises DatasetError when they do not come by index: nobody can sort what is not held.
    """
    last = -1
    with pq.ParquetWriter(make_parent(root / ATTEMPTS_PATH), _ATTEMPTS_SCHEMA) as writer:
        rows: list[dict[str, Any]] = []
        for attempt in attempts:
            if attempt.index <= last:
                raise DatasetError(f"attempt {attempt.index} comes after {last}; attempts are written by index")
            last = attempt.index
            rows.append(_row_of(attempt))
            if len(rows) == _ATTEMPTS_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema=_ATTEMPTS_SCHEMA))
                rows.clear()
        if rows or last < 0:
            writer.write_table(pa.Table.from_pylist(rows, schema=_ATTEMPTS_SCHEMA))


def _row_of(attempt: AttemptRecord) -> dict[str, Any]:
    row = {name: getattr(attempt, name) for name in _ATTEMPTS_SCHEMA.names}
    row["sources"] = json_bytes(attempt.sources).decode()
    row["start_poses"] = json_bytes(attempt.start_poses).decode()
    return row


def read_attempts(root: Path) -> list[AttemptRecord]:
    """Return the attempts that `write_attempts` wrote, by index."""
    return list(StoredAttempts(root))


class StoredAttempts(Collection[AttemptRecord]):
    """The attempts of a dataset, read anew, a few thousand at a time, whenever they are gone through."""

    def __init__(self, root: Path) -> None:
        self._path = root / ATTEMPTS_PATH

    def __len__(self) -> int:
        return pq.read_metadata(self._path).num_rows

    def __iter__(self) -> Iterator[AttemptRecord]:
        return self.every(1)

    def __contains__(self, item: object) -> bool:
        return any(record == item for record in self)

    def every(self, step: int) -> Iterator[AttemptRecord]:
        """Yield each `step`-th attempt, from the first; what is left out costs next to nothing."""
        with pq.ParquetFile(self._path) as file:
            at = 0
            for batch in file.iter_batches(_ATTEMPTS_AT_ONCE):
                chosen = range(-at % step, batch.num_rows, step)
                at += batch.num_rows
                for row in batch.to_pylist() if step == 1 else batch.take(pa.array(chosen, pa.int64())).to_pylist():
                    fields: dict[str, Any] = dict(row)
                    fields["sources"] = tuple(json.loads(row["sources"]))
                    poses = json.loads(row["start_poses"])
                    fields["start_poses"] = {name: tuple(pose) for name, pose in poses.items()}
                    yield AttemptRecord(**fields)


def document_line(episode_index: int, document: Mapping[str, Any], render: Mapping[str, Any]) -> bytes:
    """Return the line of `DOCUMENTS_PATH` of one episode: its shard's document and the settings it was drawn with."""
    kept = {name: value for name, value in document.items() if name not in ("digest", "files")}
    head = {"episode_index": episode_index, "attempt_index": document["index"], "digest": document["digest"]}
    return json_bytes({**head, "render": render, "document": kept}) + b"\n"


def read_documents(root: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines that `document_line` made, in order."""
    with (root / DOCUMENTS_PATH).open("rb") as lines:
        for line in lines:
            yield json.loads(line)


def write_sources(root: Path, demos: Path | None, models: Mapping[str, str]) -> None:
    """Copy the demonstrations and write the scenes' source texts (hash -> text)."""
    if demos is not None:
        shutil.copyfile(demos, make_parent(root / SOURCES_PATH))
    for sha, text in models.items():
        if not sha.isalnum():
            raise DatasetError(f"model hash {sha!r} cannot be a file name; letters and digits are accepted")
        make_parent(root / model_path(sha)).write_text(text, encoding="utf-8")


def write_manifest(root: Path) -> None:
    """Write the hash of every file of a dataset into its manifest."""
    paths = sorted(path for path in root.rglob("*") if path.is_file() and path != root / MANIFEST_PATH)
    hashes = {path.relative_to(root).as_posix(): sha256_file(path) for path in paths}
    write_json(root / MANIFEST_PATH, {"format": 1, "files": hashes})
