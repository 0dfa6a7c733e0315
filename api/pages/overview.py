"""What the dashboard says about a job: numbers of its row and its events, put in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlmodel import Session, col, func, select

from api import answers, jobs
from api.database import now
from api.pages import curves, words
from api.specs import JobSpec
from api.tables import Dataset, Event, Job
from factory.statistics import wilson

_MOST_FOR_SPARK = 20_000
"""The course of more attempts than this takes too long for a list; such a job shows its rate alone."""
_EVERY_S = ((20_000, 2), (200_000, 5), (2_000_000, 15))
"""How often an open page asks about a job of at most so many attempts: its course is counted anew each time."""

LISTED = ("generate", "dream")
"""Purposes of the jobs that the list shows; pilots and exports are seen where they were asked for."""

FILTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "": ("All", ()),
    "active": ("Active", jobs.ACTIVE),
    "succeeded": ("Succeeded", ("succeeded",)),
    "failed": ("Failed", ("failed", "expired")),
    "cancelled": ("Cancelled", ("cancelled",)),
}
"""What the list of jobs can be narrowed to: value in the address -> name, states."""


def cards(session: Session, rows: Sequence[Job], *, points: int = 0) -> list[dict[str, Any]]:
    """Return what a list says about jobs; `points` > 0 adds the path of each one's success rate."""
    return [_card(session, row, job, points) for row, job in zip(rows, answers.of_jobs(session, rows), strict=True)]


def _card(session: Session, job: Job, answer: answers.Job, points: int) -> dict[str, Any]:
    spec = jobs.spec_of(job)
    rate, low, high = wilson(job.prefix_successes, job.prefix)
    spark = points and job.prefix and job.attempted <= _MOST_FOR_SPARK
    return {
        "id": job.id,
        "title": title(job, spec),
        "what": f"{'dreams' if spec.dream else spec.task} {spec.generation.variant}",
        "purpose": job.purpose,
        "status": job.status,
        "ended": words.rule(job.ended_by)[0] if job.status in jobs.FINAL else "",
        "ended_by": job.ended_by if job.status in jobs.FINAL else "",
        "created_at": job.created_at,
        "finished_at": job.finished_at,
        "took_s": answer.ran_s,
        "eta_s": answer.eta_s,
        "attempts": job.prefix,
        "active": job.status in jobs.ACTIVE,
        "advice": job.advice,
        "in_flight": answer.request_counts.in_flight,
        "rate": rate,
        "low": low,
        "high": high,
        "spark": curves.sparkline(jobs.rate_over_time(session, job, points=points)) if spark else "",
        **progress(job, spec),
    }


def title(job: Job, spec: JobSpec) -> str:
    """Return what people call a job: its name, or else what it asks for."""
    if job.name:
        return job.name
    if spec.dream is not None:
        return f"{spec.limit:,} dreams of {', '.join(spec.dream.tasks[:2]) or spec.dream.dataset}"
    wanted = f"{spec.episodes:,} episodes" if spec.episodes is not None else f"{spec.attempts or 0:,} attempts"
    return f"{wanted} of {spec.task} {spec.generation.variant}"


def progress(job: Job, spec: JobSpec) -> dict[str, Any]:
    """Return how far a job is: `done` of `wanted` things called `unit`, and the share of them."""
    if spec.dream is not None:
        share = answers.progress_of(job)
        return {"done": round(share * spec.limit), "wanted": spec.limit, "unit": "dreams", "share": share}
    if job.status == "rendering" and job.to_render:
        done, wanted, unit = job.rendered, job.to_render, "drawn"
    elif job.purpose == "export":
        done, wanted, unit = job.rendered, max(job.to_render, 1), "drawn"
    elif spec.episodes is not None:
        done, wanted, unit = job.prefix_successes, spec.episodes, "episodes"
    else:
        done, wanted, unit = job.prefix, spec.limit, "attempts"
    return {"done": done, "wanted": wanted, "unit": unit, "share": min(1.0, done / wanted)}


def counts(session: Session) -> dict[str, int]:
    """Return how many jobs each filter of the list shows."""
    query = select(Job.status, func.count()).where(col(Job.purpose).in_(LISTED)).group_by(Job.status)
    found = dict(session.exec(query).all())
    return {
        key: sum(n for state, n in found.items() if not states or state in states)
        for key, (_, states) in FILTERS.items()
    }


# --- one job ----------------------------------------------------------------------------------------------------------


def live(session: Session, job: Job) -> dict[str, Any]:
    """Return everything about a job that changes while it runs."""
    at, spec = now(session), jobs.spec_of(job)
    course = jobs.rate_over_time(session, job)
    failures = jobs.failures(session, job)
    most = max((row["count"] for row in failures), default=1)
    arms = {row["eef"] for row in failures if row["eef"]}
    recent = list(session.exec(select(Event).where(Event.job_id == job.id).order_by(col(Event.seq).desc()).limit(60)))
    return {
        "job": cards(session, [job])[0],
        "row": job,
        "spec": spec,
        "active": job.status in jobs.ACTIVE,
        "every_s": next((every for most, every in _EVERY_S if job.attempted <= most), 60),
        "course": curves.course(course),
        "speed": curves.speed(course),
        "failures": [
            {
                **row,
                "where": " · ".join(p for p in (row["subtask"], row["eef"] if len(arms) > 1 else "") if p)
                or "anywhere",
                "share": row["count"] / most,
            }
            for row in failures
        ],
        "events": [event(e, job) for e in recent],
        "stages": stages(job, at),
        "rule": words.rule(job.ended_by),
        "waiting_for": answers.waiting_for(session, job),
        "datasets": list(session.exec(select(Dataset).where(Dataset.job_id == job.id).order_by(col(Dataset.kind)))),
    }


def event(row: Event, job: Job) -> dict[str, Any]:
    """Return an event in words: what happened, what belongs to it, when, and how long after the job was asked for."""
    details: list[str] = []
    for name, value in row.data.items():
        if name in ("executor", "advice", "cameras", "rows") or value in ("", None, [], {}):
            continue
        if isinstance(value, list):
            details.append(f"{len(value)} {name}")
        elif not isinstance(value, dict):
            details.append(f"{name} {value}")
    return {
        "seq": row.seq,
        "type": row.type,
        "words": words.event(row.type),
        "details": ", ".join(details),
        "at": row.at,
        "after_s": max(0.0, row.at - job.created_at),
    }


def stages(job: Job, at: float) -> list[tuple[str, float]]:
    """Return the stages a job has passed and how long it was last in each, in order of time."""
    entered = sorted(((when, state) for state, when in job.state_times.items()), key=lambda item: item[0])
    ends = [when for when, _ in entered[1:]] + [job.finished_at or at]
    return [
        (words.state(state)[0], max(0.0, end - when))
        for (when, state), end in zip(entered, ends, strict=True)
        if state in words.STAGES
    ]
