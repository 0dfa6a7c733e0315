"""What the dashboard says about a dataset: its facts, where its episodes started, what they were made from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
from sqlmodel import Session, col, select

from api import charts, jobs
from api.pages import overview
from api.records import records_of
from api.store import Store
from api.tables import Dataset, Job
from factory.errors import FactoryError
from factory.statistics import AttemptRecord, source_diversity, start_coverage, wilson
from factory.training import training_commands

_MOST_ATTEMPTS = 20_000
"""Attempts that figures look at; more would only make the same picture slower."""
_STILL_M = 1e-3
"""Starts that differ by less than this are one start; a figure of it would only show rounding."""
_MOST_DEMOS = 20
_NO_FACTS: Mapping[str, Any] = {
    "training": {},
    "columns": [],
    "ignored": [],
    "instructions": [],
    "cameras": [],
    "fps": None,
}


def attempts_of(session: Session, job: Job) -> list[AttemptRecord]:
    """Return the attempts that count, failures included."""
    return list(islice(records_of(session, job), _MOST_ATTEMPTS))


def made_by(job: Job) -> dict[str, Any]:
    """Return what is worth knowing of the job that made a dataset."""
    spec = jobs.spec_of(job)
    rate, low, high = wilson(job.prefix_successes, job.prefix)
    return {
        "id": job.id,
        "title": overview.title(job, spec),
        "task": spec.task,
        "variant": spec.generation.variant,
        "attempts": job.prefix,
        "rate": rate,
        "low": low,
        "high": high,
    }


def facts(store: Store, row: Dataset) -> dict[str, Any]:
    """Return what the dataset's own files say: cameras, columns, training commands; little for other forms."""
    found: dict[str, Any] = {**_NO_FACTS, **row.facts}
    if row.kind != "lerobot":
        return found
    root = store.path(row.key)
    if root is None:
        return found
    try:
        training = training_commands(root, repo_id=f"local/{row.id}")
    except FactoryError:
        return found
    columns = [(name, "read", shape) for name, shape in training.inputs.items()]
    columns += [(name, "predicted", shape) for name, shape in training.outputs.items()]
    local = {name: command.replace(str(root), f"./{row.id}") for name, command in training.commands.items()}
    return {**found, "training": local, "columns": columns, "ignored": training.ignored}


def starts(attempts: Sequence[AttemptRecord]) -> list[dict[str, Any]]:
    """Return, for each object, where it was asked to start and where that succeeded."""
    coverage = start_coverage(attempts)
    found: list[dict[str, Any]] = []
    for name, cells in coverage.items():
        chosen = [a for a in attempts if name in a.start_poses]
        xy = [(a.start_poses[name][0], a.start_poses[name][1]) for a in chosen]
        good = [a.outcome == "success" for a in chosen]
        low, high = np.min(xy, axis=0), np.max(xy, axis=0)
        moves = float((high - low).max()) > _STILL_M
        found.append(
            {
                "object": name,
                "figure": charts.scatter(xy, good) if moves else None,
                "asked": len(xy),
                "good": sum(good),
                "low": low.tolist(),
                "high": high.tolist(),
                "covered": cells.covered,
            }
        )
    return found


def demos(attempts: Sequence[AttemptRecord]) -> dict[str, Any]:
    """Return how often each demo was used and how often that went well; an attempt counts once per demo."""
    diversity = source_diversity(attempts)
    good = Counter(d for a in attempts if a.outcome == "success" for d in {str(s["demo"]) for s in a.sources})
    most = max(diversity.counts.values(), default=1)
    bars = [
        {"demo": demo, "used": used, "good": good[demo], "share": used / most, "rate": good[demo] / used}
        for demo, used in sorted(diversity.counts.items(), key=lambda item: (-item[1], item[0]))
        if used
    ]
    return {"bars": bars[:_MOST_DEMOS], "left_out": len(bars[_MOST_DEMOS:]), "effective": diversity.effective}


def lengths(attempts: Sequence[AttemptRecord]) -> charts.Histogram | None:
    """Return the histogram of the episodes' lengths."""
    values = [a.steps for a in attempts if a.outcome == "success" and a.steps]
    return charts.histogram(values) if values else None


def exports_of(session: Session, dataset_id: str) -> list[Job]:
    """Return the jobs that make further forms of a dataset, newest first."""
    query = select(Job).where(Job.purpose == "export", Job.parent_id == dataset_id)
    return list(session.exec(query.order_by(col(Job.created_at).desc()).limit(10)))


def figure(attempts: Sequence[AttemptRecord], name: str) -> tuple[Sequence[str], Sequence[Mapping[str, Any]]]:
    """Return a figure of a dataset as a table: its columns and rows; unknown names have none."""
    if name == "starts":
        rows: list[Mapping[str, Any]] = [
            {"attempt": a.index, "object": o, "x_m": p[0], "y_m": p[1], "z_m": p[2], "outcome": a.outcome}
            for a in attempts
            for o, p in a.start_poses.items()
        ]
        return ("attempt", "object", "x_m", "y_m", "z_m", "outcome"), rows
    if name == "lengths":
        good = [a for a in attempts if a.outcome == "success"]
        return ("episode", "attempt", "steps"), [
            {"episode": i, "attempt": a.index, "steps": a.steps} for i, a in enumerate(good)
        ]
    if name == "demos":
        return ("demo", "used", "good", "rate"), list(demos(attempts)["bars"])
    return (), []
