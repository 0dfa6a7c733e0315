r"""The job book: jobs, their states, their events, and what can be asked about them.

    validating -> queued -> running <-> paused -> rendering -> finalizing -> succeeded | failed | cancelled | expired
                                \-> cancelling ----^

A job ends by a rule. Rules look at the unbroken prefix of finished attempts 0, 1, 2, ..., so that the same job ends at
the same attempt whatever the number of workers and whatever happened to them; only the wall clock and people do not.
Every function takes the session of the transaction it belongs to.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import ColumnElement, Integer, cast, delete, func, insert, update
from sqlalchemy import select as sa_select
from sqlmodel import Session, col, select

from api.database import now
from api.specs import RUN_AGAIN, Format, JobSpec, job_from_json
from api.tables import Attempt, CoursePoint, Delivery, Event, FailureCount, File, Job, Unit, Webhook
from factory.diagnosis import REASONS
from factory.durable import json_bytes
from factory.errors import ServiceError
from factory.failpoints import reached
from factory.statistics import evenly, wilson

State = Literal[
    "validating",
    "queued",
    "running",
    "paused",
    "cancelling",
    "rendering",
    "finalizing",
    "succeeded",
    "failed",
    "cancelled",
    "expired",
]
ACTIVE: tuple[State, ...] = ("validating", "queued", "running", "paused", "cancelling", "rendering", "finalizing")
FINAL: tuple[State, ...] = ("succeeded", "failed", "cancelled", "expired")
TRYING: tuple[State, ...] = ("queued", "running")
"""States in which attempts are handed out."""

ANNOUNCED = ("job.paused", *(f"job.{state}" for state in FINAL))
"""Events that webhooks may ask for; their messages are entered with them, so that none is ever missing."""

SHARDS_A_UNIT = 4
"""Episodes drawn under one lease: a renderer opens in seconds, and a lost lease should not cost minutes."""

_FIRST_PAGE, _PAGE = 64, 1000
"""Rows looked at together."""

_STRIDE = 1024
"""Attempts from one point of a job's course to the next, until it has so many that fewer do."""

_NEW_UNIT = {"stop": 0, "state": "waiting", "epoch": 0, "until": 0.0, "tries": 0}

_ENDS: dict[str, State] = {
    "target": "succeeded",
    "attempts": "succeeded",
    "max_attempts": "failed",
    "min_success_rate": "failed",
    "max_wall_s": "expired",
    "cancelled": "cancelled",
    "error": "failed",
}
"""Rule that ended a job -> its last state."""


def new_id(kind: str) -> str:
    """Return a fresh id: "job_1f0c..."."""
    return f"{kind}_{secrets.token_hex(8)}"


def create(
    session: Session,
    spec: JobSpec,
    *,
    purpose: str = "generate",
    name: str = "",
    file_ids: Sequence[str] = (),
    labels: dict[str, Any] | None = None,
    key_id: str | None = None,
    weight: float = 1.0,
    command: str = "",
    parent_id: str | None = None,
    job_id: str | None = None,
) -> Job:
    """Enter a job; it is queued at once unless one of its files is still being checked."""
    at = now(session)
    job = Job(
        id=job_id or new_id("job"),
        purpose=purpose,
        name=name,
        spec=spec.to_json(),
        spec_sha256=spec.digest(),
        labels=labels or {},
        file_ids=list(file_ids),
        parent_id=parent_id,
        key_id=key_id,
        weight=weight,
        created_at=at,
        command=command,
    )
    session.add(job)
    tell(session, job, "job.created", {"task": spec.task, "purpose": purpose})
    _enter(session, job, "validating", at)
    session.flush()
    if not _waits_for_files(session, job):
        _enter(session, job, "queued", at)
    return job


def export(
    session: Session,
    parent_id: str,
    spec: JobSpec,
    *,
    to: Format,
    name: str = "",
    key_id: str | None = None,
    command: str = "",
    job_id: str | None = None,
) -> Job:
    """Enter a job that writes a finished dataset in another form or drawn anew, without a single attempt.

    Args:
        session: of the caller's transaction.
        parent_id: the dataset.
        spec: of the job that made it, with the rendering that is wanted now.
        to: "lerobot"; "robomimic", which has no pictures; or "gr00t", with the pictures that are there.
        name: for people.
        key_id: who asked.
        command: how it was asked, for the dataset's record.
        job_id: an id of the caller's choice.
    """
    at = now(session)
    job = Job(
        id=job_id or new_id("job"),
        purpose="export",
        name=name,
        spec=spec.to_json(),
        spec_sha256=spec.digest(),
        parent_id=parent_id,
        key_id=key_id,
        created_at=at,
        command=command,
        result={"to": to},
    )
    session.add(job)
    tell(session, job, "job.created", {"task": spec.task, "purpose": "export", "parent": parent_id, "to": to})
    _enter(session, job, "queued", at)
    session.flush()
    if to != "lerobot":
        start_finalizing(session, job)
    else:
        payload = {"key": f"datasets/{parent_id}"}
        session.add(Unit(kind="unpack", job_id=job.id, remaining=1, payload=payload, created_at=at))
    return job


def get(session: Session, job_id: str, *, lock: bool = False) -> Job:
    """Return a job.

    Args:
        session: of the caller's transaction.
        job_id: its id.
        lock: keep everybody else from changing it until the transaction ends.

    Raises:
        ServiceError: 404, there is no such job.
    """
    query = select(Job).where(Job.id == job_id)
    found = session.exec(query.with_for_update() if lock else query).first()
    if found is None:
        raise ServiceError(f"there is no job {job_id!r}", status=404, code="not_found", field="job_id", found=job_id)
    return found


def spec_of(job: Job) -> JobSpec:
    """Return what a job asks for."""
    return _parsed(json_bytes(job.spec))


@lru_cache(maxsize=256)
def _parsed(spec: bytes) -> JobSpec:
    """Return a specification; it is asked for with every answer, and building it costs more than naming it."""
    return job_from_json(json.loads(spec))


def listed(
    session: Session,
    *,
    after: str | None = None,
    limit: int = 20,
    status: Sequence[str] = (),
    purpose: str | Sequence[str] | None = "generate",
) -> tuple[list[Job], bool]:
    """Return jobs, newest first, and whether there are more; `after` is the id of the last one seen.

    Raises:
        ServiceError: 422, `after` is no job.
    """
    query = select(Job).order_by(col(Job.created_at).desc(), col(Job.id).desc()).limit(limit + 1)
    if status:
        query = query.where(col(Job.status).in_(status))
    if purpose is not None:
        query = query.where(col(Job.purpose).in_([purpose] if isinstance(purpose, str) else purpose))
    if after is not None:
        last = session.get(Job, after)
        if last is None:
            raise ServiceError(
                f"after={after!r} is not a job; give the id of the last job of the previous page",
                status=422,
                code="bad_cursor",
                field="after",
                found=after,
            )
        query = query.where(_older(last))
    rows = list(session.exec(query))
    return rows[:limit], len(rows) > limit


def _older(job: Job) -> ColumnElement[bool]:
    same = (col(Job.created_at) == job.created_at) & (col(Job.id) < job.id)
    return (col(Job.created_at) < job.created_at) | same


# --- what people ask for ----------------------------------------------------------------------------------------------


def cancel(session: Session, job_id: str) -> Job:
    """Stop a job and keep what it has: the unbroken prefix of its attempts becomes a smaller dataset.

    Cancelling a job that is being cancelled changes nothing.

    Raises:
        ServiceError: 409, it is already being finished or has ended.
    """
    job = get(session, job_id, lock=True)
    if job.ended_by == "cancelled":
        return job
    exporting = job.purpose == "export" and job.status in ACTIVE
    if not exporting and job.status not in ("validating", "queued", "running", "paused"):
        raise _conflict(job, "cancelled", "validating, queued, running or paused")
    _enter(session, job, "cancelling", now(session))
    reached("cancel.entered")
    end(session, job, "cancelled")
    reached("cancel.ended")
    return job


def pause(session: Session, job_id: str, *, reason: str = "asked") -> Job:
    """Hand out no more attempts of a job; those in progress are committed. Pausing twice changes nothing.

    Raises:
        ServiceError: 409, it is neither queued nor running.
    """
    job = get(session, job_id, lock=True)
    if job.status == "paused":
        return job
    if job.status not in TRYING:
        raise _conflict(job, "paused", "queued or running")
    job.paused_for = reason
    _enter(session, job, "paused", now(session), {"reason": reason})
    return job


def resume(session: Session, job_id: str) -> Job:
    """Go on with a paused job. Resuming one that runs changes nothing.

    Raises:
        ServiceError: 409, it is not paused.
    """
    job = get(session, job_id, lock=True)
    if job.status in TRYING:
        return job
    if job.status != "paused":
        raise _conflict(job, "resumed", "paused")
    job.paused_for = ""
    _enter(session, job, "queued", now(session))
    return job


def _conflict(job: Job, verb: str, states: str) -> ServiceError:
    return ServiceError(
        f"job {job.id} is {job.status} and cannot be {verb}; only a job that is {states} can",
        status=409,
        code="wrong_state",
        field="status",
        found=job.status,
        allowed=states,
    )


# --- states -----------------------------------------------------------------------------------------------------------


def tell(session: Session, job: Job, kind: str, data: dict[str, Any]) -> None:
    """Append an event to a job."""
    job.last_event += 1
    at = now(session)
    session.add(Event(job_id=job.id, seq=job.last_event, at=at, type=kind, data=data))
    if kind in ANNOUNCED:
        for hook in session.exec(select(Webhook).where(col(Webhook.disabled_at).is_(None))):
            if kind in hook.events:
                told = Delivery(id=new_id("msg"), webhook_id=hook.id, job_id=job.id, seq=job.last_event)
                told.due_at = told.created_at = at
                session.add(told)


def started(session: Session, job: Job) -> None:
    """Note that a worker took up a queued job; it begins as served as the others, not as the most neglected one."""
    if job.status != "queued":
        return
    at = now(session)
    busy = col(Job.status).in_(("running", "rendering"))
    least = session.exec(select(func.min(Job.virtual_s)).where(busy)).one()
    job.virtual_s = max(job.virtual_s, least or 0.0)
    job.started_at = job.started_at or at
    _enter(session, job, "running", at)


def advance(session: Session, job: Job) -> bool:
    """Move a job's prefix over what has been committed, and end the job where a rule holds; true when one did.

    A rule that counts holds at one attempt index, whenever it is noticed.
    """
    if job.status not in (*TRYING, "paused"):
        return False
    spec, page = spec_of(job), _FIRST_PAGE
    while True:
        # Most often a few attempts are new, or none because of a gap; a job that is taken up again has many.
        query = select(Attempt.idx, Attempt.outcome).where(Attempt.job_id == job.id, col(Attempt.idx) >= job.prefix)
        rows = session.exec(query.order_by(col(Attempt.idx)).limit(page)).all()
        prefix, successes, rule = job.prefix, job.prefix_successes, ""
        for idx, outcome in rows:
            if idx != prefix or rule:
                break
            prefix, successes = prefix + 1, successes + (outcome == "success")
            rule = rule_at(spec, prefix, successes)
        whole, before = prefix == job.prefix + page, job.prefix
        job.prefix, job.prefix_successes = prefix, successes
        _note_course(session, job, before)
        if rule:
            end(session, job, rule)
        if rule or not whole:
            return bool(rule)
        page = _PAGE


def _note_course(session: Session, job: Job, before: int) -> None:
    """Enter the points of a job's course that its prefix has just reached."""
    for mark in _marks(before, job.prefix):
        last = _points(session, job, newest=1)
        start = last[-1] if last else CoursePoint(job_id=job.id, attempts=0)
        session.add(_after(session, job, start, mark))
        session.flush()


def _marks(before: int, prefix: int) -> Iterator[int]:
    """Yield where points lie above `before`: every 1024 attempts at first, in growing jobs ever farther apart."""
    at = before
    while True:
        stride = max(_STRIDE, 1 << max(0, at.bit_length() - 6))
        at = (at // stride + 1) * stride
        if at > prefix:
            return
        yield at


def _points(session: Session, job: Job, *, newest: int | None = None) -> list[CoursePoint]:
    query = select(CoursePoint).where(CoursePoint.job_id == job.id).order_by(col(CoursePoint.attempts).desc())
    return list(session.exec(query.limit(newest) if newest else query))[::-1]


def _after(session: Session, job: Job, start: CoursePoint, stop: int) -> CoursePoint:
    """Return the point at `stop`, from an earlier one and the attempts between them."""
    kept = func.count().filter(col(Attempt.outcome) == "success")
    query = sa_select(kept, func.max(Attempt.committed_at), func.sum(Attempt.seconds)).where(
        col(Attempt.job_id) == job.id, col(Attempt.idx) >= start.attempts, col(Attempt.idx) < stop
    )
    successes, at, seconds = session.connection().execute(query).one()
    return CoursePoint(
        job_id=job.id,
        attempts=stop,
        successes=start.successes + successes,
        at=max(start.at, at or 0.0),
        worker_s=start.worker_s + (seconds or 0.0),
    )


def rule_at(spec: JobSpec, attempts: int, successes: int) -> str:
    """Return the rule that ends a job at this many attempts with this many successes, or "" when none does."""
    if spec.episodes is not None and successes >= spec.episodes:
        return "target"
    if attempts >= spec.limit:
        return "attempts" if spec.attempts is not None else "max_attempts"
    floor = spec.min_success_rate
    if floor is not None and attempts >= spec.min_success_after and successes < floor * attempts:
        return "min_success_rate"
    return ""


def overdue(session: Session, job: Job) -> bool:
    """End a job whose time is up; true when it was."""
    spec = spec_of(job)
    if spec.max_wall_s is None or job.status != "running" or job.running_since is None:
        return False
    if job.ran_s + now(session) - job.running_since < spec.max_wall_s:
        return False
    end(session, job, "max_wall_s")
    return True


def end(session: Session, job: Job, rule: str) -> None:
    """Let no more attempts count than the prefix has, and pass on to the next stage."""
    if job.purpose == "dream":
        from api import dreams  # noqa: PLC0415 - it stands on this file

        dreams.end(session, job, rule)
        return
    job.end_index, job.ended_by = job.prefix, rule
    job.advice = advice(job, rule)
    _drop_surplus(session, job)
    spec = spec_of(job)
    tell(session, job, "job.attempts_done", {"rule": rule, "attempts": job.prefix, "episodes": job.succeeded})
    session.flush()
    if not job.succeeded or (job.purpose == "export" and rule == "cancelled"):
        finish(session, job)
    elif job.purpose == "estimate":
        # One episode is enough to learn what drawing costs.
        some = _kept(session, job, failed=False)[:1]
        start_rendering(session, job, some) if spec.render is not None else finish(session, job)
    elif spec.render is not None:
        start_rendering(session, job, _kept(session, job, failed=spec.keep_failed))
    else:
        start_finalizing(session, job)


def _kept(session: Session, job: Job, *, failed: bool) -> list[int]:
    query = select(Attempt.idx).where(Attempt.job_id == job.id, Attempt.shard_sha256 != "")
    if not failed:
        query = query.where(Attempt.outcome == "success")
    return list(session.exec(query.order_by(col(Attempt.idx))))


def start_rendering(session: Session, job: Job, indices: Sequence[int]) -> None:
    """Draw the episodes of these attempts, a few under each lease."""
    at = now(session)
    _enter(session, job, "rendering", at)
    job.to_render, job.rendered = len(indices), 0
    parts = [list(indices[i : i + SHARDS_A_UNIT]) for i in range(0, len(indices), SHARDS_A_UNIT)]
    session.flush()
    for i in range(0, len(parts), _PAGE):
        # `start` is what they are handed out by: with an index for it, the last of many is found as soon as the first.
        rows = [
            {"kind": "render", "job_id": job.id, "start": p[0], "remaining": len(p), "payload": {"indices": p}}
            for p in parts[i : i + _PAGE]
        ]
        session.connection().execute(insert(Unit), [{**_NEW_UNIT, **row, "created_at": at} for row in rows])
    if not indices:
        drawn(session, job)


def drawn(session: Session, job: Job) -> None:
    """All episodes have their clips."""
    if job.purpose == "estimate":
        finish(session, job)
    else:
        start_finalizing(session, job)


def revise(session: Session, job: Job, spec: JobSpec) -> None:
    """Give a job other stop rules: what was tried stays, and the new rules are applied to it from its first attempt.

    A job that had ended, or whose attempts had, is taken up again.
    """
    job.spec, job.spec_sha256 = spec.to_json(), spec.digest()
    job.prefix = job.prefix_successes = 0
    session.exec(delete(CoursePoint).where(col(CoursePoint.job_id) == job.id))
    if job.status not in (*TRYING, "paused"):
        session.flush()
        session.exec(delete(Unit).where(col(Unit.job_id) == job.id))
        job.end_index, job.ended_by, job.advice, job.error, job.finished_at = None, "", "", None, None
        job.to_render = job.rendered = 0
        _enter(session, job, "queued", now(session))
    session.flush()
    advance(session, job)


def start_finalizing(session: Session, job: Job) -> None:
    """Everything is there: make the dataset; of what a statistical backend made, run some again on the CPU first."""
    at = now(session)
    _enter(session, job, "finalizing", at)
    if job.purpose == "generate" and spec_of(job).statistical:
        session.flush()
        kept = _kept(session, job, failed=False)
        payload = {"indices": [kept[i] for i in evenly(len(kept), RUN_AGAIN)], "of": len(kept)}
        session.add(Unit(kind="verify", job_id=job.id, remaining=1, payload=payload, created_at=at))
    else:
        start_writing(session, job)


def start_exporting(session: Session, job: Job) -> None:
    """Everything is dreamt: what becomes a dataset is drawn and put together."""
    _enter(session, job, "rendering", now(session))


def start_writing(session: Session, job: Job) -> None:
    """Write the dataset: nothing else is missing."""
    session.add(Unit(kind="finalize", job_id=job.id, remaining=1, created_at=now(session)))


def finish(session: Session, job: Job, *, error: dict[str, Any] | None = None) -> None:
    """Enter the last state: the one of the rule that ended the job, or "failed" when it ended in an error.

    A job that was to make episodes and made none has failed, whatever ended it; one that was cancelled stays so.
    """
    if error is not None and job.status in (*TRYING, "paused"):
        _drop_surplus(session, job)  # units disappear with what they had not done; nothing may be left behind the gap
    session.flush()
    session.exec(delete(Unit).where(col(Unit.job_id) == job.id))
    job.paused_for = ""
    if error is not None:
        job.error, job.ended_by = error, job.ended_by or "error"
        job.end_index = job.prefix if job.end_index is None else job.end_index
        state: State = "failed"
    else:
        job.ended_by = job.ended_by or "target"  # a job without attempts has no other rule
        state = _ENDS[job.ended_by]
        none = (job.purpose == "generate" and not job.succeeded) or (job.purpose == "dream" and not job.dataset_id)
        if none and state == "succeeded":
            state = "failed"
    job.finished_at = now(session)
    _enter(session, job, state, job.finished_at, {"rule": job.ended_by, "advice": job.advice})


def _drop_surplus(session: Session, job: Job) -> None:
    """Forget what was done beyond the end: another run might not have got there."""
    session.flush()
    surplus = (col(Attempt.job_id) == job.id) & (col(Attempt.idx) >= job.prefix)
    columns = (Attempt.subtask, Attempt.eef, Attempt.reason)
    # What is too much is subtracted: it is a few attempts, what stays may be a million.
    failures = select(*columns, func.count()).where(surplus, Attempt.outcome == "failure").group_by(*columns)
    for subtask, eef, reason, count in session.exec(failures).all():
        there = session.get(FailureCount, (job.id, subtask, eef, reason), populate_existing=True)
        if there is not None:
            there.count -= count
            if there.count > 0:
                session.add(there)
            else:
                session.delete(there)
    sums = select(
        func.coalesce(func.sum(cast(Attempt.touched, Integer)), 0), func.coalesce(func.sum(Attempt.shard_bytes), 0)
    )
    touched, shard_bytes = session.exec(sums.where(surplus)).one()
    job.touched, job.shard_bytes = job.touched - touched, job.shard_bytes - int(shard_bytes)
    session.exec(delete(Attempt).where(surplus))
    session.exec(delete(Unit).where(col(Unit.job_id) == job.id, col(Unit.kind) == "simulate"))
    job.attempted, job.succeeded = job.prefix, job.prefix_successes
    job.failed = job.attempted - job.succeeded
    job.next_index = job.prefix


def advice(job: Job, rule: str) -> str:
    """Return what a person can do about the way a job ended; empty when it ended as wanted."""
    spec = spec_of(job)
    rate, low, high = wilson(job.prefix_successes, job.prefix)
    seen = f"{job.prefix_successes} of {job.prefix} attempts succeeded"
    if job.prefix:
        seen += f" ({100 * rate:.0f} %, 95 % interval {100 * low:.0f}-{100 * high:.0f} %)"
    remedy = (
        "Look at the failures below and at a failure's clip, check the demonstrations, or try a narrower variant or "
        "less noise"
    )
    if rule == "max_attempts":
        return f"{seen}, fewer than the {spec.episodes} wanted. {remedy}; or ask again with a larger max_attempts."
    if rule == "min_success_rate":
        return f"{seen}; the job asked to stop below {100 * (spec.min_success_rate or 0):.0f} %. {remedy}."
    if rule == "max_wall_s":
        return (
            f"The time of {spec.max_wall_s:g} s was up after {job.prefix} attempts. The dataset holds what was there; "
            "ask again with a larger max_wall_s or more workers for the rest."
        )
    if rule == "cancelled":
        return f"It was cancelled after {job.prefix} attempts." + (
            " The dataset holds what was there." if job.prefix_successes else ""
        )
    if not job.prefix_successes and job.purpose == "generate":
        return f"{seen}, so there is no dataset. {remedy}."
    return ""


def _waits_for_files(session: Session, job: Job) -> bool:
    if not job.file_ids:
        return False
    states = session.exec(select(File.status).where(col(File.id).in_(job.file_ids))).all()
    return any(state == "checking" for state in states)


def file_settled(session: Session, file: File) -> None:
    """A file's check ended: jobs that waited for it are queued, or fail with the file's reason."""
    waiting = session.exec(select(Job).where(Job.status == "validating").with_for_update()).all()
    for job in waiting:
        if file.id not in job.file_ids:
            continue
        if file.status == "refused":
            message = (file.error or {}).get("message", "the file cannot be used")
            job.advice = "Upload a file that `GET /v1/files/{id}` reports as ready, and ask again."
            finish(session, job, error={"code": "file_refused", "message": f"{file.name}: {message}", "param": file.id})
        elif not _waits_for_files(session, job):
            _enter(session, job, "queued", now(session))


def _enter(session: Session, job: Job, state: State, at: float, data: dict[str, Any] | None = None) -> None:
    if job.running_since is not None and state != "running":
        job.ran_s, job.running_since = job.ran_s + at - job.running_since, None
    if state == "running":
        job.running_since = at
    job.status = state
    job.state_times = {**job.state_times, state: at}
    tell(session, job, f"job.{state}", data or {})


# --- questions --------------------------------------------------------------------------------------------------------


def failures(session: Session, job: Job) -> list[dict[str, Any]]:
    """Return failures by subtask, end effector and reason, most frequent first."""
    rows = session.exec(select(FailureCount).where(FailureCount.job_id == job.id, col(FailureCount.count) > 0)).all()
    found = [
        {"subtask": r.subtask, "eef": r.eef, "reason": r.reason, "count": r.count, "words": REASONS.get(r.reason, "")}
        for r in rows
    ]
    return sorted(found, key=lambda row: (-row["count"], row["subtask"], row["eef"], row["reason"]))


def events(session: Session, job_id: str, *, after: int = 0, limit: int = 100) -> list[Event]:
    """Return events numbered above `after`, in order."""
    query = select(Event).where(Event.job_id == job_id, col(Event.seq) > after)
    return list(session.exec(query.order_by(col(Event.seq)).limit(limit)))


def attempts(
    session: Session,
    job_id: str,
    *,
    after: int = -1,
    limit: int = 100,
    outcome: str | None = None,
    subtask: str | None = None,
    reason: str | None = None,
) -> list[Attempt]:
    """Return attempts with an index above `after`, in order."""
    query = select(Attempt).where(Attempt.job_id == job_id, col(Attempt.idx) > after)
    for column, wanted in ((Attempt.outcome, outcome), (Attempt.subtask, subtask), (Attempt.reason, reason)):
        if wanted is not None:
            query = query.where(col(column) == wanted)
    return list(session.exec(query.order_by(col(Attempt.idx)).limit(limit)))


def in_flight(session: Session, job_id: str) -> int:
    """Return how many attempts are handed out and not yet committed."""
    query = select(func.coalesce(func.sum(Unit.remaining), 0)).where(
        Unit.job_id == job_id, Unit.kind == "simulate", Unit.state == "leased"
    )
    return int(session.exec(query).one())


def rate_over_time(session: Session, job: Job, *, points: int = 60) -> list[dict[str, Any]]:
    """Return the course of a job in at most about `points` steps: attempts, successes, seconds since its start.

    Only a few thousand attempts are looked at, however many there are.
    """
    if not job.prefix or job.started_at is None:
        return []
    known = _points(session, job) if job.prefix > 4 * _STRIDE else []
    if known:
        if known[-1].attempts < job.prefix:
            known.append(_after(session, job, known[-1], job.prefix))
        step = -(-len(known) // points)
        course = [(p.attempts, p.successes, p.at, p.worker_s) for p in known[::-1][::step][::-1]]
    else:
        course = _counted_course(session, job, points)
    found: list[dict[str, Any]] = []
    for attempted, succeeded, at, worker_s in course:
        rate, low, high = wilson(succeeded, attempted)
        found.append(
            {
                "attempts": attempted,
                "successes": succeeded,
                "rate": rate,
                "low": low,
                "high": high,
                "elapsed_s": max(0.0, at - job.started_at),
                "worker_s": worker_s,
            }
        )
    return found


def _counted_course(session: Session, job: Job, points: int) -> list[tuple[int, int, float, float]]:
    """Return attempts, successes, time of the last, and worker seconds, of a job of few attempts."""
    width = max(1, -(-job.prefix // points))
    bucket = (col(Attempt.idx) // width).label("bucket")
    successes = func.count().filter(col(Attempt.outcome) == "success")
    query = (
        sa_select(bucket, func.count(), successes, func.max(Attempt.committed_at), func.sum(Attempt.seconds))
        .where(col(Attempt.job_id) == job.id, col(Attempt.idx) < job.prefix)
        .group_by(bucket)
        .order_by(bucket)
    )
    course: list[tuple[int, int, float, float]] = []
    total = kept = 0
    seconds = 0.0
    for _, count, succeeded, last, spent in session.connection().execute(query).all():
        total, kept, seconds = total + count, kept + succeeded, seconds + (spent or 0.0)
        course.append((total, kept, last, seconds))
    return course


def release_owner(session: Session, owner: str) -> int:
    """Give back everything a dispatcher held that is gone; return how many units those were."""
    gone = update(Unit).where(col(Unit.owner) == owner, col(Unit.state) == "leased")
    return session.exec(gone.values(state="waiting", owner=None, worker=None, until=0.0, epoch=Unit.epoch + 1)).rowcount
