"""From a request to a dataset: reads demos, runs the job, finishes it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Protocol

from factory.dataset_reading import open_dataset
from factory.demos import Demo, read_demos
from factory.errors import DatasetError, DemoError, FactoryError, SpecError
from factory.provenance import read_attempts
from factory.specs import GenerationSpec, RenderSpec
from factory.statistics import AttemptRecord
from sim_tasks.catalog import find_task
from workers.dispatcher import run_job
from workers.finish import FAILED_SUFFIX, Finished, finish_job
from workers.jobs import JobSpec, differences, embed_sources, open_work, work_folder_of
from workers.report import FILE as REPORT_FILE

_PATIENCE = 20
"""Attempts allowed per wanted success by default: below a rate of 5 % something is wrong, and waiting does not help."""
_LEAST_ATTEMPTS = 100
"""... but never fewer than this, so that small jobs are not ended by bad luck."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked for; see `factory generate --help`."""

    task: str
    out: Path
    demos: tuple[Path, ...] = ()
    episodes: int | None = None
    attempts: int | None = None
    max_attempts: int | None = None
    keep_failed: bool = False
    generation: GenerationSpec
    render: RenderSpec | None
    backend: str = "robosuite"
    command: str = ""


class Watcher(Protocol):
    """Hears how far a job is."""

    def attempts(self, records: Mapping[int, AttemptRecord]) -> None:
        """Called with all records after each new one."""

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


def load_demos(task: str, files: Sequence[Path]) -> tuple[Demo, ...]:
    """Return the demos of the given files, or the shipped seeds when there are none."""
    # A demo is known by the file it is read from now, whatever file it was first written to.
    return tuple(replace(demo, path=str(path)) for path in files or [seeds_path(task)] for demo in read_demos(path))


def generate(request: Request, *, workers: int, watcher: Watcher) -> Finished:
    """Make the dataset that was asked for, going on where an interrupted run of the same request stopped.

    Raises:
        FactoryError: the request, the demos or the disk do not allow it; the sentence says what would.
    """
    task = find_task(request.task)
    task.reset(request.generation.variant)
    job = _job(request)
    demos = load_demos(request.task, request.demos)
    if request.out.exists() and not work_folder_of(request.out).job_file.exists():
        return _already_there(request.out, job, demos)
    if request.out.parent != Path() and not request.out.parent.exists():
        request.out.parent.mkdir(parents=True)
    resumed = work_folder_of(request.out).job_file.exists()
    work, job = open_work(request.out, job, demos)
    if resumed and work.records_file.exists():
        watcher.resumed(work.records_file.read_bytes().count(b"\n"))
    try:
        outcome = run_job(work, job, workers=workers, progress=watcher.attempts)
    except FactoryError:
        if not work.records_file.stat().st_size:  # nothing to go on with
            shutil.rmtree(work.root)
        raise
    return finish_job(
        request.out, work, job, outcome, command=request.command, workers=workers, progress=watcher.rendering
    )


def _job(request: Request) -> JobSpec:
    wanted = request.episodes
    if wanted is None and request.attempts is None:
        raise SpecError("say how much you want: --episodes N (successes) or --attempts N (exactly that many tried)")
    limit = request.max_attempts or max(_LEAST_ATTEMPTS, _PATIENCE * (wanted or 0), request.attempts or 0)
    if wanted is not None and limit < wanted:
        raise SpecError(f"--max-attempts {limit} cannot give --episodes {wanted}; it must be at least as large")
    return JobSpec(
        task=request.task,
        generation=request.generation,
        episodes=wanted,
        attempts=request.attempts,
        max_attempts=limit,
        keep_failed=request.keep_failed,
        render=request.render,
        backend=request.backend,
    )


def _already_there(out: Path, job: JobSpec, demos: Sequence[Demo]) -> Finished:
    facts = open_dataset(out)
    with tempfile.TemporaryDirectory() as folder:
        job = replace(job, sources_sha256=embed_sources(Path(folder, "sources.hdf5"), demos))
    asked = job.to_json()
    if differing := differences({k: facts.job.get(k) for k in asked}, asked):
        raise DatasetError(
            f"{out} already holds another dataset (differs in: {', '.join(differing)}); choose another --out, or "
            f"remove it"
        )
    failed = out.with_name(out.name + FAILED_SUFFIX)
    return Finished(
        root=out,
        report=out / REPORT_FILE,
        failed_root=failed if job.keep_failed and failed.exists() else None,
        episodes=facts.episodes,
        attempts=len(read_attempts(out)),
        rule="already finished",
    )
