"""What a key may use up. Checked in the transaction that uses it, so that two requests cannot share the rest."""

from __future__ import annotations

from sqlalchemy import func
from sqlmodel import Session, col, select

from api.database import now
from api.jobs import ACTIVE
from api.keys import Caller
from api.problems import TooManyError
from api.tables import Dataset, File, Job, Key
from factory.errors import ServiceError

_DAY_S = 86400.0


def check_stored(session: Session, caller: Caller, more_bytes: int) -> None:
    """Raise ServiceError 403 when a caller's files and datasets would take more room than it has."""
    most = caller.quotas.get("stored_bytes")
    if most is None:
        return
    files = session.exec(select(func.coalesce(func.sum(File.bytes), 0)).where(File.key_id == caller.key_id)).one()
    query = select(func.coalesce(func.sum(Dataset.bytes), 0)).join(Job, col(Job.id) == col(Dataset.job_id))
    stored = int(files) + int(session.exec(query.where(Job.key_id == caller.key_id)).one())
    if stored + more_bytes > most:
        raise ServiceError(
            f"{stored} bytes are stored for {caller.key_id}; {more_bytes} more would exceed its quota of {most:g}",
            status=403,
            code="quota_stored_bytes",
            found=stored + more_bytes,
            field="stored_bytes",
            allowed=most,
        )


def check_jobs(session: Session, caller: Caller, attempts: int) -> None:
    """Raise when a caller has too many jobs, or would make too many attempts within a day.

    A job counts with all the attempts it may make until it has ended, then with those it made.

    Raises:
        TooManyError: 429.
    """
    if caller.key_id is None or not caller.quotas:
        return
    session.exec(select(Key.id).where(Key.id == caller.key_id).with_for_update()).first()
    check_stored(session, caller, 0)
    mine = Job.key_id == caller.key_id
    most = caller.quotas.get("active_jobs")
    if most is not None:
        active = session.exec(select(func.count()).select_from(Job).where(mine, col(Job.status).in_(ACTIVE))).one()
        if active + 1 > most:
            raise TooManyError(
                f"{active} jobs of {caller.key_id} have not ended; its quota is {most:g}",
                code="quota_active_jobs",
                retry_after_s=60.0,
                field="active_jobs",
                found=active + 1,
                allowed=most,
            )
    most = caller.quotas.get("attempts_per_day")
    if most is not None:
        recent = select(Job).where(mine, col(Job.created_at) > now(session) - _DAY_S)
        used = sum(_charged(job) for job in session.exec(recent))
        if used + attempts > most:
            raise TooManyError(
                f"{used} attempts were asked for within a day; {attempts} more would exceed the quota of {most:g}",
                code="quota_attempts_per_day",
                retry_after_s=3600.0,
                field="attempts_per_day",
                found=used + attempts,
                allowed=most,
            )


def _charged(job: Job) -> int:
    if job.purpose == "export":
        return 0
    if job.status in ACTIVE and job.end_index is None:
        return int(job.spec.get("attempts") or job.spec["max_attempts"])
    return job.attempted
