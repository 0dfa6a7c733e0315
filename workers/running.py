"""A job of the command line in its book: entered or found again, run to its end, explained when nothing came of it."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from api import jobs
from api.database import Database
from api.specs import JobSpec, differences, job_from_json
from api.store import Store
from api.tables import FailureCount, Job
from factory.diagnosis import REASONS
from factory.errors import BackendError, DatasetError, DemoError, SpecError, StorageError
from factory.statistics import wilson
from workers.dispatcher import Dispatcher
from workers.generate import Request, Watcher, work_folder_of
from workers.transport import Transport

_PATIENCE_S = 2.0
"""On the command line a disk that takes no more is told to the person who can free it, not waited for."""


def enter_job(database: Database, spec: JobSpec, request: Request, watcher: Watcher) -> str:
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


def run_job(database: Database, store: Store, job_id: str, crew: Transport, watcher: Watcher) -> Job:
    """Dispatch to the crew until the job has ended, and return it; the crew is gone afterwards."""
    dispatcher = Dispatcher(database, store, [crew], patience_s=_PATIENCE_S)
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
        if job.purpose != "export" and job.attempted and job.attempted != self._attempted:
            self._attempted = job.attempted
            watcher.attempts(job.attempted, job.succeeded)
        if job.status in ("rendering", "finalizing") and job.to_render and job.rendered != self._rendered:
            self._rendered = job.rendered
            watcher.rendering(job.rendered, job.to_render)


def why_nothing(session: Session, job: Job, request: Request) -> Exception:
    """Return what to tell a person whose job ended without a dataset."""
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
