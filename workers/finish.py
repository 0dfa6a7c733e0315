"""The last part of a job: committed attempts become one dataset in each form that was asked for, and a report.

A pure function of committed rows and their shards: doing it again, after a kill at any moment, gives the same files.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from api import jobs
from api.database import Database
from api.records import records_of
from api.specs import JobSpec
from api.store import NotStoredError, Store
from api.tables import Attempt, Job
from factory.dataset_checks import read_json
from factory.dataset_reading import dataset_digest, open_dataset, read_episodes
from factory.datasets import write_dataset
from factory.demos import Demo, write_demos
from factory.durable import json_bytes, sha256_file, sync_tree
from factory.episodes import EPISODE_FILE, lasting, read_document, render_digest, shard_path, write_shard
from factory.errors import DatasetError, EpisodeError
from factory.failpoints import reached
from factory.gr00t import Clips, export_gr00t
from factory.lerobot import INFO_PATH, video_key
from factory.provenance import MANIFEST_PATH, SOURCES_PATH, StoredAttempts, read_documents
from factory.robomimic import export_robomimic
from factory.statistics import AttemptRecord, wilson
from sim_tasks.catalog import find_task
from workers.dream_finish import finalize_dreams
from workers.generate import FAILED_SUFFIX
from workers.render import render_info
from workers.report import write_report
from workers.worker import load_sources, shards_key

_PAGE = 2000
"""Attempts read from the job book together."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What is to be written, read from the job book in one moment.

    Attributes:
        job: whose dataset it is.
        spec: what it asked for.
        records: every attempt that counts, by index; read anew whenever they are gone through.
        attempts: how many those are.
        kept: attempt index -> SHA-256 of its shard, "" where none was committed; the episodes.
        failed: likewise of the failures that are kept beside them.
    """

    job: Job
    spec: JobSpec
    records: Iterable[AttemptRecord]
    attempts: int
    kept: Mapping[int, str]
    failed: Mapping[int, str]


@dataclass(frozen=True)
class _Records:
    """The attempts that count of a job, read from its book a page at a time; no transaction outlives a page."""

    database: Database
    job: Job

    def __iter__(self) -> Iterator[AttemptRecord]:
        after = -1
        while page := self._page(after):
            yield from page
            after = page[-1].index

    def _page(self, after: int) -> list[AttemptRecord]:
        with self.database.reading() as session:
            return list(islice(records_of(session, self.job, after=after), _PAGE))


def finalize(database: Database, store: Store, job_id: str) -> dict[str, Any]:
    """Write a job's datasets and return the rows that make them known: "dataset_id", "datasets" and "files".

    Raises:
        DatasetError: shards do not fit together, or the result does not verify.
        EpisodeError: a shard is not what was committed.
        StorageError: the store or the disk failed; nothing half-made is left.
    """
    with database.reading() as session:
        job = jobs.get(session, job_id)
    if job.purpose == "dream":
        return finalize_dreams(store, job)
    plan = _plan(database, store, job_id)
    name = f"ds_{job_id.removeprefix('job_')}"
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{job_id}-", dir=_beside(store))))
        place = Path(plan.job.out) if plan.job.out else store.path(f"datasets/{name}") or scratch / name
        place.parent.mkdir(parents=True, exist_ok=True)
        to = str((plan.job.result or {}).get("to", ""))
        if to in _VIEWS:
            parent = stack.enter_context(store.checkout(f"datasets/{plan.job.parent_id}"))
            roots = {name: (to, _VIEWS[to](parent, place, None))}
        else:
            roots = _lerobot(plan, store, place, scratch, name, stack)
            for form in (form for form in _VIEWS if form in plan.spec.formats):
                beside = place.with_name(f"{place.name}_{form}")
                roots[f"{name}_{form}"] = (form, _VIEWS[form](place, beside, _clips(plan, store)))
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
    again = (plan.job.result or {}).get("run_again_on_cpu")
    checked = {"run_again_on_cpu": again} if again and plan.job.purpose != "export" else {}
    _write(place, _shards(store, plan, plan.kept, stack), plan, store, scratch, checked)
    roots = {name: ("lerobot", place)}
    if plan.job.purpose != "export" and plan.spec.keep_failed and plan.failed:
        beside = place.with_name(place.name + FAILED_SUFFIX)
        failed = _shards(store, plan, plan.failed, stack)
        _write(beside, failed, plan, store, scratch, {"episodes_are": "failed attempts"})
        roots[f"{name}_failed"] = ("lerobot", beside)
    return roots


def _plan(database: Database, store: Store, job_id: str) -> _Plan:
    with database.reading() as session:
        job = jobs.get(session, job_id)
        spec = jobs.spec_of(job)
        if job.purpose != "export":
            query = select(Attempt.idx, Attempt.shard_sha256).where(
                Attempt.job_id == job_id, col(Attempt.idx) < job.prefix
            )
            query = query.order_by(col(Attempt.idx))
            kept = dict(session.exec(query.where(Attempt.outcome == "success")).all())
            failures = query.where(Attempt.outcome == "failure", Attempt.shard_sha256 != "")
            failed = dict(session.exec(failures).all()) if spec.keep_failed else {}
            return _Plan(
                job=job, spec=spec, records=_Records(database, job), attempts=job.prefix, kept=kept, failed=failed
            )
    with store.checkout(f"datasets/{job.parent_id}") as root:
        attempts = StoredAttempts(root)
        there = {int(line["attempt_index"]): "" for line in read_documents(root)}
        return _Plan(job=job, spec=spec, records=attempts, attempts=len(attempts), kept=there, failed={})


def _shards(store: Store, plan: _Plan, wanted: Mapping[int, str], stack: ExitStack) -> Iterator[Path]:
    """Yield shards on this machine, each after checking that it is the one that was committed."""
    for index, expected in wanted.items():
        key = f"{shards_key(plan.job.id)}/{shard_path(Path(), index).name}"
        # A folder of ours needs nobody to give it back, and there may be a hundred thousand.
        shard = store.path(key) or stack.enter_context(store.checkout(key))
        if not shard.exists():
            raise NotStoredError(f"{key} is not in the store {store.url}")
        found = sha256_file(shard / EPISODE_FILE) if expected else ""
        if found != expected:
            raise EpisodeError(f"{key} is damaged: SHA-256 is {found[:12]}, committed was {expected[:12]}")
        yield shard


def _write(
    root: Path, shards: Iterable[Path], plan: _Plan, store: Store, scratch: Path, more: Mapping[str, Any]
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
        there = list(shards)
        try:
            write_dataset(
                root,
                there,
                robot_type=find_task(spec.task, spec.robot).robot.lerobot_type,
                job=facts,
                attempts=plan.records,
                source_demos=_sources(plan, store, scratch),
                models=_models(plan, store, there),
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
    if plan.job.purpose != "export" and not plan.spec.mixed and plan.job.executor:
        used = {str(plan.job.executor["model_sha"])}  # nobody else was let work on it
    else:
        used = {read_document(shard)["provenance"]["executor"]["model_sha"] for shard in shards}
    found: dict[str, str] = {}
    for sha in sorted(used):
        own = f"jobs/{plan.job.id}/models/{sha}.xml"
        key = own if plan.job.purpose != "export" else f"datasets/{plan.job.parent_id}/provenance/models/{sha}.xml"
        found[sha] = b"".join(store.read(key)).decode()
    return found


def _robomimic(root: Path, folder: Path, _: Clips | None) -> Path:
    path = folder / "dataset.hdf5"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        export_robomimic(root, path)
    return folder


def _gr00t(root: Path, folder: Path, clips: Clips | None) -> Path:
    return folder if folder.exists() else export_gr00t(root, folder, clips=clips)


_VIEWS: Mapping[str, Callable[[Path, Path, Clips | None], Path]] = {"robomimic": _robomimic, "gr00t": _gr00t}
"""Forms that are made from a finished dataset: the dataset, where to, and clips that may be linked."""


def _clips(plan: _Plan, store: Store) -> Clips:
    """Return where the clips of single episodes are, as long as their shards are on this machine."""
    render = None if plan.spec.render is None else render_digest(render_info(plan.spec.render))

    def clip(index: int, camera: str) -> Path | None:
        shard = store.path(f"{shards_key(plan.job.id)}/{shard_path(Path(), index).name}")
        path = None if shard is None else shard / f"clips-{render}" / f"{video_key(camera)}.mp4"
        return path if path is not None and path.is_file() else None

    return clip


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
        rate, low, high = wilson(len(plan.kept), plan.attempts)
        facts |= {
            "fps": dataset.fps,
            "robot_type": dataset.robot_type,
            "cameras": list(dataset.cameras),
            "instructions": list(dataset.tasks),
            "subtasks": list(dataset.subtasks),
            "hours": dataset.frames / dataset.fps / 3600.0,
            "attempts": plan.attempts,
            "success_rate": {"rate": rate, "low": low, "high": high},
        }
        if again := dataset.job.get("run_again_on_cpu"):
            facts["run_again_on_cpu"] = again
    if kind == "gr00t":
        frames = read_json(root, INFO_PATH)["total_frames"]
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
