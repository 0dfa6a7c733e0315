"""The last part of a job: committed attempts become one dataset in each form that was asked for, and a report.

A pure function of committed rows and their shards: doing it again, after a kill at any moment, gives the same files.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from api import jobs
from api.database import Database
from api.specs import JobSpec
from api.store import Store
from api.tables import Attempt, Job
from factory.dataset_checks import read_json
from factory.dataset_reading import dataset_digest, open_dataset, read_episodes
from factory.datasets import write_dataset
from factory.demos import Demo, write_demos
from factory.durable import json_bytes, sha256_file, sync_tree
from factory.episodes import EPISODE_FILE, lasting, read_document, render_digest, shard_path, write_shard
from factory.errors import DatasetError, EpisodeError
from factory.failpoints import reached
from factory.provenance import MANIFEST_PATH, SOURCES_PATH, read_attempts, read_documents
from factory.robomimic import export_robomimic
from factory.statistics import AttemptRecord, wilson
from sim_tasks.catalog import find_task
from workers.render import render_info
from workers.report import write_report
from workers.worker import load_sources, shards_key

FAILED_SUFFIX = "-failed"
"""The dataset of failed attempts lies beside the dataset, its name with this at the end."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be written, read from the job book in one moment."""

    job: Job
    spec: JobSpec
    records: tuple[AttemptRecord, ...]
    shards: Mapping[int, str]

    @property
    def kept(self) -> list[int]:
        if self.job.purpose == "export":  # whatever the parent holds, which may be the failures
            return sorted(self.shards)
        return [r.index for r in self.records if r.outcome == "success"]

    @property
    def failed(self) -> list[int]:
        return [r.index for r in self.records if r.outcome == "failure" and r.index in self.shards]


def finalize(database: Database, store: Store, job_id: str) -> dict[str, Any]:
    """Write a job's datasets and return the rows that make them known: "dataset_id", "datasets" and "files".

    Raises:
        DatasetError: shards do not fit together, or the result does not verify.
        EpisodeError: a shard is not what was committed.
        StorageError: the store or the disk failed; nothing half-made is left.
    """
    plan = _plan(database, store, job_id)
    name = f"ds_{job_id.removeprefix('job_')}"
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{job_id}-", dir=_beside(store))))
        place = Path(plan.job.out) if plan.job.out else store.path(f"datasets/{name}") or scratch / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if (plan.job.result or {}).get("to") == "robomimic":
            parent = stack.enter_context(store.checkout(f"datasets/{plan.job.parent_id}"))
            roots = {name: ("robomimic", _robomimic(parent, place))}
        else:
            roots = _lerobot(plan, store, place, scratch, name, stack)
            if "robomimic" in plan.spec.formats:
                beside = place.with_name(f"{place.name}_robomimic")
                roots[f"{name}_robomimic"] = ("robomimic", _robomimic(place, beside))
        reached("finalize.written")
        found: dict[str, Any] = {"dataset_id": name, "datasets": [], "files": []}
        for known_as, (kind, root) in roots.items():
            rows = _describe(known_as, kind, root, plan)
            found["datasets"].append(rows["dataset"])
            found["files"] += rows["files"]
            if not plan.job.out and not store.is_local:
                store.put(root, f"datasets/{root.name}")
            else:
                sync_tree(root)  # the report is new
        return found


def unpack(store: Store, job_id: str, payload: Mapping[str, Any]) -> dict[str, Any]:
    """Put the episodes of a finished dataset back into shards, for a job that draws or writes them anew."""
    with store.checkout(payload["key"]) as root, ExitStack() as stack:
        place = store.path(shards_key(job_id))
        if place is None:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="factory-")))
        place.mkdir(parents=True, exist_ok=True)
        indices: list[int] = []
        for episode in read_episodes(root):
            shard = write_shard(place, episode)
            indices.append(episode.index)
            if not store.is_local:
                store.put(shard, f"{shards_key(job_id)}/{shard.name}")
        return {"indices": indices, "executor": dict(open_dataset(root).job.get("executor", {}))}


def _lerobot(
    plan: _Plan, store: Store, place: Path, scratch: Path, name: str, stack: ExitStack
) -> dict[str, tuple[str, Path]]:
    """Write the dataset of successes and, when asked for, that of failures; return id -> (kind, folder)."""
    kept = [_shard(store, plan, index, stack) for index in plan.kept]
    _write(place, kept, plan, store, scratch, {})
    roots = {name: ("lerobot", place)}
    if plan.job.purpose != "export" and plan.spec.keep_failed and plan.failed:
        beside = place.with_name(place.name + FAILED_SUFFIX)
        failed = [_shard(store, plan, index, stack) for index in plan.failed]
        _write(beside, failed, plan, store, scratch, {"episodes_are": "failed attempts"})
        roots[f"{name}_failed"] = ("lerobot", beside)
    return roots


def _plan(database: Database, store: Store, job_id: str) -> _Plan:
    with database.reading() as session:
        job = jobs.get(session, job_id)
        spec = jobs.spec_of(job)
        if job.purpose != "export":
            query = select(Attempt.record, Attempt.shard_sha256).where(
                Attempt.job_id == job_id, col(Attempt.idx) < job.prefix
            )
            rows = session.exec(query.order_by(col(Attempt.idx))).all()
            records = tuple(record_from_json(record) for record, _ in rows)
            shards = {r.index: sha for r, (_, sha) in zip(records, rows, strict=True) if sha}
            return _Plan(job=job, spec=spec, records=records, shards=shards)
    with store.checkout(f"datasets/{job.parent_id}") as root:
        records = tuple(read_attempts(root))
        documents = read_documents(root)
        there = [int(line["attempt_index"]) for line in documents]
        return _Plan(job=job, spec=spec, records=records, shards=dict.fromkeys(there, ""))


def _shard(store: Store, plan: _Plan, index: int, stack: ExitStack) -> Path:
    """Return a shard on this machine, after checking that it is the one that was committed."""
    key = f"{shards_key(plan.job.id)}/{shard_path(Path(), index).name}"
    shard = stack.enter_context(store.checkout(key))
    found = sha256_file(shard / EPISODE_FILE)
    if plan.shards[index] and found != plan.shards[index]:
        raise EpisodeError(f"{key} is damaged: SHA-256 is {found[:12]}, committed was {plan.shards[index][:12]}")
    return shard


def _write(
    root: Path, shards: Sequence[Path], plan: _Plan, store: Store, scratch: Path, more: Mapping[str, Any]
) -> None:
    spec, job = plan.spec, plan.job
    facts = {
        **spec.to_json(),
        "command": job.command,
        "stopped_by": job.ended_by,
        "executor": job.executor or {},
        **more,
    }
    if job.purpose == "export":
        with store.checkout(f"datasets/{job.parent_id}") as parent:
            made = open_dataset(parent).job
        facts = {**made, "render": facts["render"], "formats": facts["formats"], "exported_by": job.command}
    if not _is_there(root, facts):
        render = None if spec.render is None else render_digest(render_info(spec.render))
        try:
            write_dataset(
                root,
                shards,
                robot_type=find_task(spec.task).robot.lerobot_type,
                job=facts,
                attempts=plan.records,
                source_demos=_sources(plan, store, scratch),
                models=_models(plan, store, shards),
                render=render,
            )
        except DatasetError:
            if not _is_there(root, facts):  # a worker whose lease was lost may have been a moment faster
                raise
    reached("finalize.before_report")
    write_report(root)


def _is_there(root: Path, facts: Mapping[str, Any]) -> bool:
    return root.exists() and lasting(open_dataset(root).job) == lasting(facts)


def _sources(plan: _Plan, store: Store, scratch: Path) -> Path | None:
    path = scratch / "sources.hdf5"
    if path.exists():
        return path
    if plan.job.purpose == "export":
        with store.checkout(f"datasets/{plan.job.parent_id}") as root:
            if not (root / SOURCES_PATH).exists():
                return None
            shutil.copyfile(root / SOURCES_PATH, path)
        return path
    embed_sources(path, load_sources(store, plan.spec))
    return path


def embed_sources(path: Path, demos: Sequence[Demo]) -> str:
    """Write the demos a job uses and return the file's SHA-256."""
    write_demos(path, demos)
    return sha256_file(path)


def _models(plan: _Plan, store: Store, shards: Sequence[Path]) -> dict[str, str]:
    used = {read_document(shard)["provenance"]["executor"]["model_sha"] for shard in shards}
    found: dict[str, str] = {}
    for sha in sorted(used):
        own = f"jobs/{plan.job.id}/models/{sha}.xml"
        key = own if plan.job.purpose != "export" else f"datasets/{plan.job.parent_id}/provenance/models/{sha}.xml"
        found[sha] = b"".join(store.read(key)).decode()
    return found


def _robomimic(root: Path, folder: Path) -> Path:
    path = folder / "dataset.hdf5"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        export_robomimic(root, path)
    return folder


def _describe(name: str, kind: str, root: Path, plan: _Plan) -> dict[str, Any]:
    """Return the rows of a dataset and of its files."""
    known: Mapping[str, str] = {}
    if kind == "lerobot":
        known = read_json(root, MANIFEST_PATH)["files"]
    files: list[dict[str, Any]] = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        relative = path.relative_to(root).as_posix()
        sha = known.get(relative) or sha256_file(path)
        files.append({"dataset_id": name, "path": relative, "sha256": sha, "bytes": path.stat().st_size})
    facts: dict[str, Any] = {"task": plan.spec.task, "variant": plan.spec.generation.variant}
    digest, episodes, frames = "", len(plan.kept), 0
    if kind == "lerobot":
        dataset = open_dataset(root)
        digest, episodes, frames = dataset_digest(root), dataset.episodes, dataset.frames
        rate, low, high = wilson(len(plan.kept), len(plan.records))
        facts |= {
            "fps": dataset.fps,
            "robot_type": dataset.robot_type,
            "cameras": list(dataset.cameras),
            "instructions": list(dataset.tasks),
            "subtasks": list(dataset.subtasks),
            "hours": dataset.frames / dataset.fps / 3600.0,
            "attempts": len(plan.records),
            "success_rate": {"rate": rate, "low": low, "high": high},
        }
    row = {
        "id": name,
        "job_id": plan.job.id,
        "kind": kind,
        "name": plan.job.name or plan.spec.task,
        "key": f"datasets/{root.name}",
        "episodes": episodes,
        "frames": frames,
        "bytes": sum(file["bytes"] for file in files),
        "digest": digest,
        "manifest_sha256": _sha256([[f["path"], f["sha256"]] for f in files]),
        "facts": facts,
        "parent_id": plan.job.parent_id,
    }
    return {"dataset": row, "files": files}


def _sha256(value: Any) -> str:
    return hashlib.sha256(json_bytes(value)).hexdigest()


def _beside(store: Store) -> Path | None:
    """Return a folder on the store's disk for what is renamed into it later; the system's own for a remote store."""
    place = store.path("scratch")
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    return place


def record_from_json(value: Mapping[str, Any]) -> AttemptRecord:
    """Return an attempt record from its JSON form."""
    fields: dict[str, Any] = {**value, "sources": tuple(value["sources"])}
    fields["start_poses"] = {name: tuple(pose) for name, pose in value["start_poses"].items()}
    return AttemptRecord(**fields)
