"""From a request on the command line to a dataset: the same job book, dispatcher and workers as the service.

<out>.work/
    book.db                 the job book
    files/, jobs/           the store: canonical demonstrations, kept attempts
The folder is removed when the dataset is finished. Until then the same command finds it and goes on.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import h5py

from api.specs import Cuts, Device, JobSpec, SourceFile, differences, job_from_json
from api.store import Store
from factory.dataset_reading import open_dataset
from factory.demos import canonical_image, read_demos
from factory.durable import sha256_file, sweep_place
from factory.errors import BackendError, DatasetError, DemoError, SpecError
from factory.provenance import StoredAttempts
from factory.specs import GenerationSpec, RenderSpec
from sim_tasks.catalog import family_of, find_task
from workers.devices import cuda_devices
from workers.local import LocalTransport
from workers.sharing import shared
from workers.worker import source_key

if TYPE_CHECKING:
    from api.database import Database
    from api.tables import Job

FAILED_SUFFIX = "-failed"
"""The dataset of failed attempts lies beside the dataset, its name with this at the end."""
REPORT = "report.html"
"""The page in a dataset's folder."""


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
    worlds: int | None = None
    device: Device | None = None
    robot: str = ""
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
        run_again_on_cpu: what running a share of a statistical backend's episodes again showed; None for others.
    """

    root: Path
    report: Path
    failed_root: Path | None
    episodes: int
    attempts: int
    rule: str
    advice: str = ""
    refused: tuple[str, ...] = ()
    run_again_on_cpu: Mapping[str, Any] | None = None


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
    path = Path(str(resources.files("sim_tasks") / "seeds" / f"{family_of(task)}.hdf5"))
    if not path.exists():
        raise DemoError(f"no demonstrations are shipped for task {task!r}; give some with --demos FILE")
    return path


def seeds_count(task: str) -> int:
    """Return how many demonstrations of a task are shipped."""
    try:
        with h5py.File(seeds_path(task), "r") as file:
            return len(cast("h5py.Group", file["data"]))
    except DemoError:
        return 0


def work_folder_of(out: Path) -> Path:
    """Return where the work for a dataset at `out` is kept: beside it, so that finishing is a rename on one disk."""
    return out.with_name(out.name + ".work")


def generate(request: Request, *, workers: int, watcher: Watcher) -> Finished:
    """Make the dataset that was asked for, going on where an interrupted run of the same request stopped.

    Raises:
        FactoryError: the request, the demos or the disk do not allow it; the sentence says what would.
    """
    find_task(request.task, request.robot).reset(request.generation.variant)
    work = work_folder_of(request.out)
    if request.out.exists() and not (work / "book.db").exists():
        return _already_there(request)
    with tempfile.TemporaryDirectory() as folder:
        # Before anything is made: a request that cannot be read leaves nothing behind.
        staged = _canonical(request, Path(folder))
        spec = asked_for(request, [source for source, _ in staged])
        devices = cuda_devices(os.environ) if spec.needs == "gpu" else ()
        if spec.needs == "gpu" and not devices:
            raise BackendError(
                "no CUDA device was found on this machine; --device cpu runs the same kernels without one, slowly"
            )
        with shared(work) as remove:
            if request.out.exists() and not (work / "book.db").exists():
                remove()
                return _already_there(request)  # another run was a moment faster
            store = Store(work)
            for source, path in staged:
                if not store.exists(source_key(source.sha256)):
                    store.put(path, source_key(source.sha256))
            book = f"sqlite:///{work / 'book.db'}"
            # Workers take seconds to import and compile what they need; meanwhile this process does the same.
            crew = LocalTransport(store.url, workers=workers, database_url=book, devices=devices)
            try:
                finished = _run(request, spec, store, book, crew, watcher)
            finally:
                crew.close()
            for suffix in ("", FAILED_SUFFIX):  # what killed writers left
                sweep_place(request.out.with_name(request.out.name + suffix))
            remove()
            return finished


def _run(request: Request, spec: JobSpec, store: Store, book: str, crew: LocalTransport, watcher: Watcher) -> Finished:
    """Open the job book, enter the job or find it there, and work on it until it has ended."""
    from api.database import Database  # noqa: PLC0415 - see where the workers are started
    from workers.running import enter_job, run_job  # noqa: PLC0415 - likewise

    database = Database(book)
    try:
        database.migrate()
        job_id = enter_job(database, spec, request, watcher)
        return _finished(request, run_job(database, store, job_id, crew, watcher), database)
    finally:
        database.close()


def _canonical(request: Request, folder: Path) -> list[tuple[SourceFile, Path]]:
    """Write each file of demonstrations as the service would; its hash names its content, wherever it lay."""
    paths = request.demos or (seeds_path(request.task),)
    if unknown := sorted(set(request.cuts) - {path.name for path in paths}):
        raise SpecError(f"cuts are given for {unknown[0]!r}; the files are {', '.join(path.name for path in paths)}")
    if not request.demos:
        (seeds,) = paths
        cuts = request.cuts.get(seeds.name, {})
        return [(SourceFile(name=seeds.name, sha256=sha256_file(seeds), cuts=cuts), Path(shutil.copy(seeds, folder)))]
    from api.sources import distinct  # noqa: PLC0415 - see `_run`

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
        robot=request.robot,
        sources=tuple(sources),
        generation=request.generation,
        backend=request.backend,
        worlds=request.worlds,
        device=request.device,
        episodes=request.episodes,
        attempts=request.attempts,
        max_attempts=request.max_attempts or 0,
        max_wall_s=request.max_wall_s,
        min_success_rate=request.min_success_rate,
        keep_failed=request.keep_failed,
        render=request.render,
    )


def _finished(request: Request, job: Job, database: Database) -> Finished:
    if job.dataset_id is None:
        from workers.running import why_nothing  # noqa: PLC0415 - see `_run`

        with database.reading() as session:
            raise why_nothing(session, job, request)
    failed = request.out.with_name(request.out.name + FAILED_SUFFIX)
    return Finished(
        root=request.out,
        report=request.out / REPORT,
        failed_root=failed if request.keep_failed and failed.exists() else None,
        episodes=job.succeeded,
        attempts=job.attempted,
        rule=job.ended_by,
        advice=job.advice,
        refused=tuple(job.refused),
        run_again_on_cpu=(job.result or {}).get("run_again_on_cpu"),
    )


def _already_there(request: Request) -> Finished:
    facts = open_dataset(request.out)
    with tempfile.TemporaryDirectory() as folder:
        spec = asked_for(request, [source for source, _ in _canonical(request, Path(folder))])
    asked = spec.to_json()
    # Through the door and out again, so that a setting that was unknown then has the value it stands for.
    before = job_from_json({k: facts.job[k] for k in asked if k in facts.job}).to_json()
    if differing := differences(before, asked):
        raise DatasetError(
            f"{request.out} already holds another dataset (differs in: {', '.join(differing)}); choose another --out, "
            "or remove it"
        )
    failed = request.out.with_name(request.out.name + FAILED_SUFFIX)
    return Finished(
        root=request.out,
        report=request.out / REPORT,
        failed_root=failed if request.keep_failed and failed.exists() else None,
        episodes=facts.episodes,
        attempts=len(StoredAttempts(request.out)),
        rule="already finished",
        run_again_on_cpu=facts.job.get("run_again_on_cpu"),
    )


def describe(finished: Finished) -> dict[str, Any]:
    """Return the facts as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(finished).items()}
