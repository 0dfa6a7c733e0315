"""From a request on the command line to a dataset: the same job book, dispatcher and workers as the service.

<out>.work/
    book.db                 the job book
    files/, jobs/           the store: canonical demonstrations, kept attempts
The folder is removed when the dataset is finished. Until then the same command finds it and goes on.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Protocol

from sqlmodel import Session, col, select

from api import jobs
from api.database import Database, sqlite_url
from api.sources import distinct
from api.specs import Cuts, JobSpec, SourceFile, differences, job_from_json
from api.store import Store
from api.tables import FailureCount, Job
from factory.dataset_reading import open_dataset
from factory.demos import canonical_image, read_demos
from factory.diagnosis import REASONS
from factory.durable import sha256_file, sweep_place
from factory.errors import BackendError, DatasetError, DemoError, SpecError, StorageError
from factory.provenance import read_attempts
from factory.specs import GenerationSpec, RenderSpec
from factory.statistics import wilson
from sim_tasks.catalog import find_task
from workers.dispatcher import Dispatcher
from workers.finish import FAILED_SUFFIX
from workers.local import LocalTransport
from workers.report import FILE as REPORT_FILE
from workers.sharing import shared
from workers.worker import source_key

_PATIENCE_S = 2.0
"""On the command line a disk that takes no more is told to the person who can free it, not waited for."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for; see `factory generate --help`."""

    task: str
    out: Path
    demos: tuple[Path, ...] = ()
    cuts: Mapping[str, Cuts] = field(default_factory=dict)
    episodes: int | None = None
    attempts: int | None = None
    max_attempts: int | None = None
    max_wall_s: float | None = None
    min_success_rate: float | None = None
    keep_failed: bool = False
    generation: GenerationSpec
    render: RenderSpec | None
    backend: str = "robosuite"
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a job left behind.

    Attributes:
        root: the dataset.
        report: its page.
        failed_root: the dataset of kept failures, when asked for and when there were any.
        episodes: successes kept.
        attempts: attempts that count.
        rule: the stop rule that ended the job.
        advice: what to do about it; empty when it ended as wanted.
        refused: one sentence for every demo that could not be a source.
    """

    root: Path
    report: Path
    failed_root: Path | None
    episodes: int
    attempts: int
    rule: str
    advice: str = ""
    refused: tuple[str, ...] = ()


class Watcher(Protocol):
    """Hears how far a job is."""

    def attempts(self, attempted: int, succeeded: int) -> None:
        """Called when there are more attempts than before."""

    def rendering(self, done: int, total: int) -> None:
        """Called with the number of episodes rendered, and how many there are."""

    def resumed(self, finished: int) -> None:
        """Called once when earlier work was found."""


def seeds_path(task: str) -> Path:
    """Return the shipped demonstrations of a task. Raises DemoError when there are none."""
    path = Path(str(resources.files("sim_tasks") / "seeds" / f"{task}.hdf5"))
    if not path.exists():
        raise DemoError(f"no demonstrations are shipped for task {task!r}; give some with --demos FILE")
    return path


def work_folder_of(out: Path) -> Path:
    """Return where the work for a dataset at `out` is kept: beside it, so that finishing is a rename on one disk."""
    return out.with_name(out.name + ".work")


def generate(request: Request, *, workers: int, watcher: Watcher) -> Finished:
    """Make the dataset that was asked for, going on where an interrupted run of the same request stopped.

    Raises:
        FactoryError: the request, the demos or the disk do not allow it; the sentence says what would.
    """
    find_task(request.task).reset(request.generation.variant)
    work = work_folder_of(request.out)
    if request.out.exists() and not (work / "book.db").exists():
        return _already_there(request)
    with tempfile.TemporaryDirectory() as folder:
        # Before anything is made: a request that cannot be read leaves nothing behind.
        staged = _canonical(request, Path(folder))
        spec = asked_for(request, [source for source, _ in staged])
        with shared(work) as remove:
            if request.out.exists() and not (work / "book.db").exists():
                remove()
                return _already_there(request)  # another run was a moment faster
            store = Store(work)
            for source, path in staged:
                if not store.exists(source_key(source.sha256)):
                    store.put(path, source_key(source.sha256))
            database = Database(sqlite_url(work / "book.db"))
            try:
                database.migrate()
                job_id = _job(database, spec, request, watcher)
                job = run_job(database, store, job_id, workers, watcher)
                finished = _finished(request, job, database)
            finally:
                database.close()
            for suffix in ("", FAILED_SUFFIX):  # what killed writers left
                sweep_place(request.out.with_name(request.out.name + suffix))
            remove()
            return finished


def _canonical(request: Request, folder: Path) -> list[tuple[SourceFile, Path]]:
    """Write each file of demonstrations as the service would; its hash names its content, wherever it lay."""
    paths = request.demos or (seeds_path(request.task),)
    if unknown := sorted(set(request.cuts) - {path.name for path in paths}):
        raise SpecError(f"cuts are given for {unknown[0]!r}; the files are {', '.join(path.name for path in paths)}")
    if not request.demos:
        (seeds,) = paths
        cuts = request.cuts.get(seeds.name, {})
        return [(SourceFile(name=seeds.name, sha256=sha256_file(seeds), cuts=cuts), Path(shutil.copy(seeds, folder)))]
    staged: list[tuple[SourceFile, Path]] = []
    for i, path in enumerate(paths):
        place = folder / f"{i}.hdf5"
        place.write_bytes(canonical_image(read_demos(path), name=str(path)))
        sha256 = sha256_file(place)
        name = distinct(path.name, sha256, [source.name for source, _ in staged])
        staged.append((SourceFile(name=name, sha256=sha256, cuts=request.cuts.get(path.name, {})), place))
    return staged


def asked_for(request: Request, sources: Sequence[SourceFile]) -> JobSpec:
    """Return the job a request describes. Raises SpecError when it contradicts itself."""
    if request.episodes is None and request.attempts is None:
        raise SpecError("say how much you want: --episodes N (successes) or --attempts N (exactly that many tried)")
    if request.episodes and request.max_attempts and request.max_attempts < request.episodes:
        raise SpecError(
            f"--max-attempts {request.max_attempts} cannot give --episodes {request.episodes}; it must be at least "
            "as large"
        )
    return JobSpec(
        task=request.task,
        sources=tuple(sources),
        generation=request.generation,
        backend=request.backend,
        episodes=request.episodes,
        attempts=request.attempts,
        max_attempts=request.max_attempts or 0,
        max_wall_s=request.max_wall_s,
        min_success_rate=request.min_success_rate,
        keep_failed=request.keep_failed,
        render=request.render,
    )


def _job(database: Database, spec: JobSpec, request: Request, watcher: Watcher) -> str:
    """Enter the job, or find the one that an interrupted run of the same request left."""
    work = work_folder_of(request.out)
    with database.transaction() as session:
        there = session.exec(select(Job).order_by(col(Job.created_at)).with_for_update()).first()
        if there is None:
            job_id = _id_of(request.out)
            job = jobs.create(session, spec, name=request.out.name, command=request.command, job_id=job_id)
            job.out = str(request.out.absolute())
            return job.id
        before = job_from_json(there.spec)
        same = replace(before, **_stop_rules(spec))
        if same != spec:
            differing = differences(before.to_json(), spec.to_json())
            differing = [name for name in differing if name.split(".")[0] not in _stop_rules(spec)]
            raise SpecError(
                f"{work} holds unfinished work of another job (differs in: {', '.join(differing)}); run that command "
                "again to finish it, choose another --out, or remove the folder"
            )
        watcher.resumed(there.attempted)
        # Stop rules may change: what was tried stays valid whatever is asked of it.
        if before != spec or there.status == "failed":
            jobs.revise(session, there, spec)
        elif there.status == "paused":
            jobs.resume(session, there.id)
        there.out, there.command, there.paused_for = str(request.out.absolute()), request.command, ""
        return there.id


def _id_of(out: Path) -> str:
    """Return the id of a command line's job: the same for the same folder, so that nothing depends on the hour."""
    return f"job_{hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:16]}"


def _stop_rules(spec: JobSpec) -> dict[str, Any]:
    names = ("episodes", "attempts", "max_attempts", "max_wall_s", "min_success_rate", "min_success_after")
    return {name: getattr(spec, name) for name in names}


def run_job(database: Database, store: Store, job_id: str, workers: int, watcher: Watcher) -> Job:
    """Dispatch until the job has ended, and return it."""
    url = database.url.render_as_string(hide_password=False)
    dispatcher = Dispatcher(
        database, store, [LocalTransport(store.url, workers=workers, database_url=url)], patience_s=_PATIENCE_S
    )
    told = _Told()

    def ended(session: Session) -> bool:
        job = jobs.get(session, job_id)
        told.tell(job, watcher)
        if job.paused_for == "storage":
            raise StorageError(_storage_sentence(session, job, store))
        if dispatcher.refuses(job_id):
            raise BackendError(_unlike_sentence(session, job, store))
        return job.status in jobs.FINAL

    try:
        dispatcher.run(ended)
    finally:
        dispatcher.close()
    with database.reading() as session:
        return jobs.get(session, job_id)


def _unlike_sentence(session: Session, job: Job, store: Store) -> str:
    told = [e.data["differs_in"] for e in jobs.events(session, job.id, limit=100_000) if e.type == "worker.unlike"]
    return (
        f"the job in {store.url} was begun by another installation (differs in: {', '.join(told[-1])}), and its "
        "attempts would not be the same here; go on there, or remove the folder and begin again"
    )


def _storage_sentence(session: Session, job: Job, store: Store) -> str:
    said = [e.data["message"] for e in jobs.events(session, job.id, limit=100_000) if e.type == "storage.failed"]
    why = said[-1] if said else "the disk takes no more"
    return f"an attempt could not be stored in {store.url}: {why}; the same command goes on from there"


class _Told:
    """Tells a watcher what changed since it was last told."""

    def __init__(self) -> None:
        self._attempted = self._rendered = -1

    def tell(self, job: Job, watcher: Watcher) -> None:
        """Tell what is new."""
        if job.attempted and job.attempted != self._attempted:
            self._attempted = job.attempted
            watcher.attempts(job.attempted, job.succeeded)
        if job.status in ("rendering", "finalizing") and job.to_render and job.rendered != self._rendered:
            self._rendered = job.rendered
            watcher.rendering(job.rendered, job.to_render)


def _finished(request: Request, job: Job, database: Database) -> Finished:
    if job.dataset_id is None:
        with database.reading() as session:
            raise _why_nothing(session, job, request)
    failed = request.out.with_name(request.out.name + FAILED_SUFFIX)
    return Finished(
        root=request.out,
        report=request.out / REPORT_FILE,
        failed_root=failed if request.keep_failed and failed.exists() else None,
        episodes=job.succeeded,
        attempts=job.attempted,
        rule=job.ended_by,
        advice=job.advice,
        refused=tuple(job.refused),
    )


def _why_nothing(session: Session, job: Job, request: Request) -> Exception:
    if job.error is not None:
        message = job.error["message"]
        if not job.attempted:
            shutil.rmtree(work_folder_of(request.out), ignore_errors=True)  # nothing to go on with
        known = job.error["code"].endswith("_request")
        return (DemoError if known else BackendError)(message)
    _, _, high = wilson(0, job.attempted)
    rows = session.exec(select(FailureCount).where(FailureCount.job_id == job.id)).all()
    worst = sorted(rows, key=lambda row: -row.count)[:3]
    causes = "; ".join(f"{row.count} x {row.subtask or '-'}: {REASONS.get(row.reason, row.reason)}" for row in worst)
    return DatasetError(
        f"none of {job.attempted} attempts at {request.task} {request.generation.variant} succeeded (the true rate is "
        f"below {100 * high:.0f} %), so there is no dataset to write. What went wrong: {causes}. Try `factory demos "
        "check` on your demonstrations, a narrower variant, or less noise. The attempts are "
        "kept: a larger limit goes on from here."
    )


def _already_there(request: Request) -> Finished:
    facts = open_dataset(request.out)
    with tempfile.TemporaryDirectory() as folder:
        spec = asked_for(request, [source for source, _ in _canonical(request, Path(folder))])
    asked = spec.to_json()
    if differing := differences({k: facts.job.get(k) for k in asked}, asked):
        raise DatasetError(
            f"{request.out} already holds another dataset (differs in: {', '.join(differing)}); choose another --out, "
            "or remove it"
        )
    failed = request.out.with_name(request.out.name + FAILED_SUFFIX)
    return Finished(
        root=request.out,
        report=request.out / REPORT_FILE,
        failed_root=failed if request.keep_failed and failed.exists() else None,
        episodes=facts.episodes,
        attempts=len(read_attempts(request.out)),
        rule="already finished",
    )


def describe(finished: Finished) -> dict[str, Any]:
    """Return the facts as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(finished).items()}
