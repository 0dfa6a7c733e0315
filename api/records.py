"""How an attempt's record lies in the job book: what has a column of its own is not said twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlmodel import Session, col, select

from api.tables import Attempt, Job
from factory.statistics import AttemptRecord

_PAGE = 2000
"""Rows read at once; a few megabytes, however many attempts a job has."""

_COLUMNS = ("idx", "outcome", "touched", "subtask", "eef", "reason", "steps", "record")


def to_row(record: AttemptRecord) -> dict[str, Any]:
    """Return the values of a record's columns; `from_row` gives the record back."""
    kept = record.outcome == "success"
    touched = record.touched or record.held
    rest: dict[str, Any] = {"sources": record.sources, "start_poses": record.start_poses, "executor": record.executor}
    if (record.held, record.touched) != (kept, touched):
        rest |= {"held": record.held, "touched": record.touched}
    return {
        "idx": record.index,
        "outcome": record.outcome,
        "touched": touched,
        "subtask": record.subtask,
        "eef": record.eef,
        "reason": record.reason,
        "steps": record.steps,
        "record": rest,
    }


def from_row(row: Any) -> AttemptRecord:
    """Return the record of a row, an `Attempt` or anything with its columns; rows of earlier versions say it all."""
    rest = row.record
    return AttemptRecord(
        index=row.idx,
        outcome="success" if row.outcome == "success" else "failure",
        held=rest.get("held", row.outcome == "success"),
        touched=rest.get("touched", row.touched),
        subtask=row.subtask,
        eef=row.eef,
        reason=row.reason,
        sources=tuple(rest.get("sources", ())),
        start_poses={name: tuple(pose) for name, pose in rest.get("start_poses", {}).items()},
        steps=row.steps,
        executor=rest.get("executor", ""),
    )


def records_of(session: Session, job: Job, *, after: int = -1) -> Iterator[AttemptRecord]:
    """Yield the records that count of a job, by index, above `after`; only a page of them is held at a time."""
    query = select(*(getattr(Attempt, name) for name in _COLUMNS)).where(Attempt.job_id == job.id)
    while (
        rows := session.connection()
        .execute(
            query.where(col(Attempt.idx) > after, col(Attempt.idx) < job.prefix).order_by(col(Attempt.idx)).limit(_PAGE)
        )
        .all()
    ):
        yield from map(from_row, rows)
        after = rows[-1].idx
