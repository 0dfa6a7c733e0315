"""What the attempts of a job add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel
from sqlmodel import Session, col, select

from api import jobs
from api.database import now
from api.tables import Attempt, Job
from factory.statistics import AttemptRecord, source_diversity, start_coverage

AttemptIndex = Annotated[int, Path(ge=0, le=1_000_000_000)]
Figure = Literal["course", "failures", "coverage", "sources"]

_MOST = 5_000
"""Attempts whose starts and sources are looked at; of more, every second, third, ... one."""


class Coverage(BaseModel):
    """Where an object was asked to start, and where that led to success: a grid, x first, edges in metres."""

    covered: float
    x_edges_m: list[float]
    y_edges_m: list[float]
    requested: list[list[int]]
    succeeded: list[list[int]]


class Diversity(BaseModel):
    """How evenly demos were used; `effective` equally used demos would be as diverse."""

    counts: dict[str, int]
    entropy: float
    effective: float


class Stats(BaseModel):
    """What the attempts of a job add up to.

    Attributes:
        course: attempts, successes and their rate with its interval, after so many seconds.
        failures: by subtask, arm and reason.
        attempts_per_s: over the time it ran; null before it did.
        wall_s: time it ran; likewise worker_s of all workers together.
        worker_s: see wall_s.
        coverage: object -> where it started.
        diversity: of the demos used.
        looked_at: attempts that coverage and diversity are about.
    """

    course: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    attempts_per_s: float | None
    wall_s: float
    worker_s: float
    coverage: dict[str, Coverage]
    diversity: Diversity
    looked_at: int


def stats_of(session: Session, job: Job) -> Stats:
    """Return everything at once."""
    records = _records(session, job)
    diversity = source_diversity(records)
    wall_s = _wall_s(session, job)
    return Stats(
        course=jobs.rate_over_time(session, job),
        failures=jobs.failures(session, job),
        attempts_per_s=job.attempted / wall_s if wall_s > 0 else None,
        wall_s=wall_s,
        worker_s=job.worker_s,
        coverage={
            name: Coverage(
                covered=found.covered,
                x_edges_m=found.x_edges_m.tolist(),
                y_edges_m=found.y_edges_m.tolist(),
                requested=found.requested.tolist(),
                succeeded=found.succeeded.tolist(),
            )
            for name, found in start_coverage(records).items()
        },
        diversity=Diversity(counts=dict(diversity.counts), entropy=diversity.entropy, effective=diversity.effective),
        looked_at=len(records),
    )


def rows_of(session: Session, job: Job, figure: Figure) -> list[dict[str, Any]]:
    """Return one figure as rows of plain values."""
    if figure == "course":
        return jobs.rate_over_time(session, job)
    if figure == "failures":
        return jobs.failures(session, job)
    records = _records(session, job)
    if figure == "sources":
        counts = source_diversity(records).counts
        return [{"demo": name, "attempts": count} for name, count in counts.items()]
    return [
        {
            "object": name,
            "x_low_m": float(found.x_edges_m[i]),
            "x_high_m": float(found.x_edges_m[i + 1]),
            "y_low_m": float(found.y_edges_m[j]),
            "y_high_m": float(found.y_edges_m[j + 1]),
            "requested": int(found.requested[i, j]),
            "succeeded": int(found.succeeded[i, j]),
        }
        for name, found in start_coverage(records).items()
        for i in range(found.requested.shape[0])
        for j in range(found.requested.shape[1])
    ]


def _records(session: Session, job: Job) -> Sequence[AttemptRecord]:
    step = max(1, -(-job.attempted // _MOST))
    query = select(Attempt.idx, Attempt.outcome, Attempt.reason, Attempt.record).where(Attempt.job_id == job.id)
    if step > 1:
        query = query.where(col(Attempt.idx) % step == 0)
    return [
        AttemptRecord(
            index=idx,
            outcome="success" if outcome == "success" else "failure",
            reason=reason,
            sources=tuple(record.get("sources", ())),
            start_poses={name: tuple(pose) for name, pose in record.get("start_poses", {}).items()},
        )
        for idx, outcome, reason, record in session.exec(query)
    ]


def _wall_s(session: Session, job: Job) -> float:
    if job.running_since is None:
        return job.ran_s
    return job.ran_s + now(session) - job.running_since
