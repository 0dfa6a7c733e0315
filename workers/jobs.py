"""A job on one machine: what was asked, and the folder its work lives in until the dataset is finished.

<out>.work/
    job.json            the job; the same command finds it and goes on
    sources.hdf5        the demos, embedded, so that a resumed job does not depend on the files it was given
    records.jsonl       one line per finished attempt, synced; the line is the commit
    shards/             kept attempts, see factory.episodes
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.demos import Demo, read_demos, write_demos
from factory.durable import json_bytes
from factory.errors import SpecError
from factory.specs import GenerationSpec, RenderSpec, Selection
from factory.statistics import AttemptRecord


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What one `factory generate` asks for; equal jobs make equal datasets.

    Attributes:
        task: task name.
        generation: variant, seed and every setting of the recipe.
        episodes: stop after this many successes in index order; None with `attempts`.
        attempts: run exactly this many attempts; None with `episodes`.
        max_attempts: give up after this many.
        keep_failed: keep failed attempts too, as negatives beside the dataset.
        render: cameras and quality; None makes a dataset without images.
        backend: which simulator runs it.
        sources_sha256: content of the embedded demos.
    """

    task: str
    generation: GenerationSpec
    backend: str = "robosuite"
    episodes: int | None = None
    attempts: int | None = None
    max_attempts: int
    keep_failed: bool = False
    render: RenderSpec | None = field(default_factory=RenderSpec)
    sources_sha256: str = ""

    def __post_init__(self) -> None:
        if (self.episodes is None) == (self.attempts is None):
            raise SpecError("give either episodes (successes wanted) or attempts (exactly that many tried)")
        for name in ("episodes", "attempts", "max_attempts"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecError(f"{name} is {value}; it must be at least 1")

    @property
    def limit(self) -> int:
        """Attempts never exceed this."""
        return self.attempts if self.attempts is not None else self.max_attempts

    def to_json(self) -> dict[str, Any]:
        """Return the job as JSON values."""
        return json.loads(json.dumps(dataclasses.asdict(self)))

    def digest(self) -> str:
        """Return the SHA-256 of what was asked."""
        return hashlib.sha256(json_bytes(self.to_json())).hexdigest()


def job_from_json(value: Mapping[str, Any]) -> JobSpec:
    """Return the job that `JobSpec.to_json` wrote."""
    fields: dict[str, Any] = {**value, "generation": generation_from_json(value["generation"])}
    if value["render"] is not None:
        render: dict[str, Any] = {**value["render"], "cameras": tuple(value["render"]["cameras"])}
        fields["render"] = RenderSpec(**render)
    return JobSpec(**fields)


def generation_from_json(value: Mapping[str, Any]) -> GenerationSpec:
    """Return generation settings from their JSON form."""
    fields = dict(value)
    if fields["end_jitter_steps"] is not None:
        fields["end_jitter_steps"] = tuple(fields["end_jitter_steps"])
    if fields["selection"] is not None:
        fields["selection"] = Selection(**fields["selection"])
    return GenerationSpec(**fields)


@dataclass(frozen=True, kw_only=True)
class WorkFolder:
    """The paths of one job's work; see the module's picture."""

    root: Path

    @property
    def job_file(self) -> Path:
        """The job as asked."""
        return self.root / "job.json"

    @property
    def sources_file(self) -> Path:
        """The embedded demos."""
        return self.root / "sources.hdf5"

    @property
    def records_file(self) -> Path:
        """One line per finished attempt."""
        return self.root / "records.jsonl"

    @property
    def shards(self) -> Path:
        """Kept attempts."""
        return self.root / "shards"

    def read_job(self) -> JobSpec:
        """Return the job this folder works on."""
        return job_from_json(json.loads(self.job_file.read_bytes()))


def work_folder_of(out: Path) -> WorkFolder:
    """Return where the work for a dataset at `out` is kept: beside it, so that finishing is a rename on one disk."""
    return WorkFolder(root=out.with_name(out.name + ".work"))


def open_work(out: Path, job: JobSpec, demos: tuple[Demo, ...]) -> tuple[WorkFolder, JobSpec]:
    """Create the work folder of a job, or find the one that an interrupted run of the same job left.

    Raises:
        SpecError: the folder belongs to another job; says which settings differ.
    """
    work = work_folder_of(out)
    work.shards.mkdir(parents=True, exist_ok=True)
    fresh = work.root / "sources.new.hdf5"
    job = dataclasses.replace(job, sources_sha256=embed_sources(fresh, demos))
    if work.job_file.exists():
        fresh.unlink()
        there = work.read_job()
        # Stop rules may change: what was tried stays valid whatever is asked of it.
        asked = dataclasses.replace(
            job, episodes=there.episodes, attempts=there.attempts, max_attempts=there.max_attempts
        )
        if there == asked and there != job:
            _write_job(work, job)
        elif there != job:
            differing = differences(there.to_json(), job.to_json())
            raise SpecError(
                f"{work.root} holds unfinished work of another job (differs in: {', '.join(differing)}); run "
                f"that command again to finish it, choose another --out, or remove the folder"
            )
        return work, job
    fresh.replace(work.sources_file)
    _write_job(work, job)
    return work, job


def _write_job(work: WorkFolder, job: JobSpec) -> None:
    temporary = work.job_file.with_suffix(".new")
    temporary.write_bytes(json_bytes(job.to_json()))
    temporary.replace(work.job_file)


def embed_sources(path: Path, demos: Sequence[Demo]) -> str:
    """Write the demos a job uses and return the file's SHA-256; the folders they lay in do not count."""
    write_demos(path, [dataclasses.replace(demo, path=Path(demo.path).name) for demo in demos])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the settings that differ between two jobs as JSON, sorted."""
    found: list[str] = []
    for key in a.keys() | b.keys():
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(prefix + key)
    return sorted(found)


def read_sources(work: WorkFolder) -> tuple[Demo, ...]:
    """Return the embedded demos."""
    return read_demos(work.sources_file)


class Records:
    """The attempts finished so far, one synced line each; a torn last line is work to be done again."""

    def __init__(self, path: Path) -> None:
        """Read what is there and open for appending."""
        self.by_index: dict[int, AttemptRecord] = {}
        whole = b""
        if path.exists():
            lines = path.read_bytes().split(b"\n")
            complete = lines[:-1]
            whole = b"".join(line + b"\n" for line in complete)
            for line in complete:
                record = record_from_json(json.loads(line))
                self.by_index[record.index] = record
            if len(whole) != path.stat().st_size:
                with path.open("r+b") as file:
                    file.truncate(len(whole))
        self._file = path.open("ab")

    def add(self, record: AttemptRecord) -> None:
        """Commit one attempt: the line is on the disk when this returns."""
        self._file.write(json_bytes(dataclasses.asdict(record)) + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.by_index[record.index] = record

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def record_from_json(value: Mapping[str, Any]) -> AttemptRecord:
    """Return an attempt record from its JSON form."""
    fields: dict[str, Any] = {**value, "sources": tuple(value["sources"])}
    fields["start_poses"] = {name: tuple(pose) for name, pose in value["start_poses"].items()}
    return AttemptRecord(**fields)
