"""How a request becomes a job in the book: its sources, its quotas, its name when it is asked twice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from sqlalchemy import delete
from sqlmodel import Session, col

from api import jobs
from api.context import Service
from api.database import now
from api.keys import Caller
from api.quotas import check_jobs
from api.requests import WEIGHTS, EstimateRequest, JobRequest
from api.sources import shipped_source, uploaded_sources
from api.specs import JobSpec, Purpose
from api.tables import Idempotency, Job
from factory.durable import json_bytes
from factory.errors import ServiceError, SpecError
from factory.gr00t_layouts import LAYOUTS
from sim_tasks.catalog import capability_of, find_task

_NAME = re.compile(r"[!-~]{1,255}")
_REMEMBERED_S = 7 * 86400.0


@dataclass(frozen=True, kw_only=True)
class Entered:
    """A job in the book; `replayed` when the same request had made it before."""

    job: Job
    replayed: bool = False


def enter(service: Service, asked: JobRequest, caller: Caller, *, name: str | None, purpose: Purpose) -> Entered:
    """Enter the job that is asked for, or return the one that the same named request made before.

    Args:
        service: the open service.
        asked: the request.
        caller: who asks.
        name: value of the Idempotency-Key header, None when there is none.
        purpose: "generate" or "estimate".

    Raises:
        ServiceError: 400 the name is none, 409 a request of this name is in progress, 422 it was another request or a
            file cannot be used, 429 or 403 a quota is used up.
        SpecError: the task or variant does not exist, or settings contradict each other.
    """
    body = hashlib.sha256(json_bytes([purpose, asked.model_dump(mode="json")])).hexdigest()

    def begin() -> Callable[[Session], Job]:
        shipped = () if asked.files else (shipped_source(service.store, _task(asked)),)

        def make(session: Session) -> Job:
            wanted = asked.spec(shipped or uploaded_sources(session, asked.files, _task(asked)))
            check_limit(service, wanted)
            spec = _pilot(wanted, asked.pilot) if isinstance(asked, EstimateRequest) else wanted
            check_jobs(session, caller, spec.limit)
            job = jobs.create(
                session,
                spec,
                purpose=purpose,
                name=asked.name,
                file_ids=asked.files,
                labels=dict(asked.metadata),
                key_id=caller.key_id,
                weight=WEIGHTS[asked.priority],
            )
            if purpose == "estimate":
                job.result = {"wanted": wanted.to_json()}
            return job

        return make

    return once(service, caller, name=name, body=body, begin=begin)


def once(
    service: Service, caller: Caller, *, name: str | None, body: str, begin: Callable[[], Callable[[Session], Job]]
) -> Entered:
    """Enter a job, or return the one that the same named request made before.

    Args:
        service: the open service.
        caller: who asks.
        name: value of the Idempotency-Key header, None when there is none.
        body: digest of the request.
        begin: called for a new request; returns what enters the job in a transaction.

    Raises:
        ServiceError: 400 the name is none, 409 a request of this name is in progress, 422 it was another request; and
            what `begin` raises.
    """
    if name is not None and not _NAME.fullmatch(name):
        raise ServiceError(
            "Idempotency-Key is empty or not plain ASCII",
            status=400,
            code="bad_idempotency_key",
            field="Idempotency-Key",
            found=name,
            allowed="1 to 255 visible ASCII characters",
        )
    with _in_progress(service, caller, name):
        if name is not None and (job := _replayed(service, caller, name, body)):
            return Entered(job=job, replayed=True)
        make = begin()
        with service.database.transaction() as session:
            # Another process may have entered it since.
            if name is not None and (job := _known(session, caller, name, body)):
                return Entered(job=job, replayed=True)
            job = make(session)
            if name is not None:
                _remember(session, caller, name, body, job)
            session.flush()
            return Entered(job=job)


def _task(asked: JobRequest) -> str:
    """Check that task and variant exist, and that the robot can do the task."""
    try:
        task = find_task(asked.task)
    except SpecError as error:
        raise ServiceError(str(error), status=422, code="unknown_task", field="task", found=asked.task) from error
    if (capability_of(task) == "isaac") != (asked.backend == "isaaclab"):
        message = (
            f"task {asked.task!r} does not run on the backend {asked.backend!r}: Isaac Lab's tasks run on isaaclab"
        )
        raise ServiceError(message, status=422, code="unfit_backend", field="backend", found=asked.backend)
    try:
        robot = find_task(asked.task, asked.robot).robot.lerobot_type
    except SpecError as error:
        raise ServiceError(str(error), status=422, code="unfit_robot", field="robot", found=asked.robot) from error
    if "gr00t" in asked.formats and robot not in LAYOUTS:
        message = f"GR00T's keys are not known for robot type {robot!r}; leave out the format 'gr00t'"
        raise ServiceError(message, status=422, code="unfit_robot", field="formats", found=robot, allowed=[*LAYOUTS])
    variant = asked.variant or asked.generation.variant
    try:
        task.reset(variant)
    except SpecError as error:
        allowed = sorted(task.resets)
        message, code = str(error), "unknown_variant"
        raise ServiceError(message, status=422, code=code, field="variant", found=variant, allowed=allowed) from error
    return task.name


def check_limit(service: Service, spec: JobSpec) -> None:
    """Raise ServiceError 422 when a job may make more attempts than the service allows."""
    most = service.settings.max_attempts
    if spec.limit > most:
        raise ServiceError(
            f"the job may make {spec.limit} attempts; this service allows {most}",
            status=422,
            code="too_many_attempts",
            field="max_attempts",
            found=spec.limit,
            allowed=most,
        )


def _pilot(wanted: JobSpec, attempts: int) -> JobSpec:
    """Return the first attempts of a job as a job of its own."""
    count = min(attempts, wanted.limit)
    return replace(
        wanted,
        episodes=None,
        attempts=count,
        max_attempts=count,
        max_wall_s=None,
        min_success_rate=None,
        keep_failed=False,
        formats=("lerobot",),
    )


@contextmanager
def _in_progress(service: Service, caller: Caller, name: str | None) -> Generator[None]:
    if name is None:
        yield
        return
    entry = (caller.key_id or "", name)
    with service.files_lock:
        if entry in service.naming:
            raise ServiceError(
                "a request with this Idempotency-Key is in progress; ask again in a moment",
                status=409,
                code="in_progress",
                field="Idempotency-Key",
                found=name,
            )
        service.naming.add(entry)
    try:
        yield
    finally:
        service.naming.discard(entry)


def _replayed(service: Service, caller: Caller, name: str, body: str) -> Job | None:
    with service.database.reading() as session:
        return _known(session, caller, name, body)


def _known(session: Session, caller: Caller, name: str, body: str) -> Job | None:
    known = session.get(Idempotency, (caller.key_id or "", name))
    if known is None:
        return None
    if known.body_sha256 != body:
        raise ServiceError(
            "this Idempotency-Key was used for another request",
            status=422,
            code="idempotency_key_reused",
            field="Idempotency-Key",
            found=name,
            allowed="a fresh key for a new request, or the same request again",
        )
    return jobs.get(session, known.job_id)


def _remember(session: Session, caller: Caller, name: str, body: str, job: Job) -> None:
    at = now(session)
    session.exec(delete(Idempotency).where(col(Idempotency.created_at) < at - _REMEMBERED_S))
    session.add(Idempotency(key_id=caller.key_id or "", name=name, body_sha256=body, job_id=job.id, created_at=at))
