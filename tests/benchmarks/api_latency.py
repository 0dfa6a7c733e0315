"""How long the service takes to answer when its job book is full.

    python -m tests.benchmarks.api_latency --jobs 10000 --attempts 1000000 [--database postgresql://...]

Fills a fresh book, serves it on loopback, asks one question after another, and while somebody writes at a usual pace.
Writes docs/benchmarks/api_latency.json, one entry for each kind of database.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from sqlalchemy import insert, text

from api import jobs
from api.database import Database
from api.specs import JobSpec
from api.tables import Attempt, Event, FailureCount, Job
from factory.specs import GenerationSpec
from tests.site import Site, on_a_port, open_site

OUT = Path(__file__).resolve().parents[2] / "docs/benchmarks/api_latency.json"
_BATCH = 20_000
_WRITES_PER_S = 20.0
_WARM = 100


def fill(database: Database, *, count: int, attempts: int) -> list[str]:
    """Enter so many jobs with so many attempts among them; return the jobs' ids. The last one holds a tenth of them."""
    spec = JobSpec(task="stack", generation=GenerationSpec(), attempts=max(1, attempts), render=None)
    ids = [f"job_{i:016x}" for i in range(count)]
    share = [attempts * 9 // (10 * max(1, count - 1))] * (count - 1)
    share.append(attempts - sum(share))
    with database.transaction() as session:
        for start in range(0, count, _BATCH):
            rows = [_job(ids[i], spec, i, share[i]) for i in range(start, min(count, start + _BATCH))]
            session.execute(insert(Job), rows)
            session.execute(
                insert(Event),
                [
                    {"job_id": r["id"], "seq": s, "at": 1.0, "type": "note", "data": {}}
                    for r in rows
                    for s in range(1, 6)
                ],
            )
            counts = {"subtask": "place", "eef": "right", "reason": "dropped"}
            session.execute(insert(FailureCount), [{"job_id": r["id"], "count": r["failed"], **counts} for r in rows])
    pending: list[dict[str, Any]] = []
    for job_id, made in zip(ids, share, strict=True):
        pending += [_attempt(job_id, index) for index in range(made)]
        if len(pending) >= _BATCH:
            _enter(database, pending)
            pending = []
    _enter(database, pending)
    with database.transaction() as session:
        session.execute(text("ANALYZE"))
    return ids


def _job(job_id: str, spec: JobSpec, i: int, made: int) -> dict[str, Any]:
    values: dict[str, Any] = {
        "id": job_id, "purpose": "generate", "name": f"job {i}", "status": "running" if i % 100 == 0 else "succeeded",
        "spec": spec.to_json(), "spec_sha256": spec.digest(), "labels": {}, "file_ids": [], "weight": 1.0,
        "created_at": float(i // 3), "started_at": float(i), "state_times": {"queued": float(i)}, "attempted": made,
        "succeeded": made // 2, "failed": made - made // 2, "prefix": made, "prefix_successes": made // 2,
        "worker_s": made * 0.5, "last_event": 5,
    }  # fmt: skip
    return Job(**values).model_dump()


def _attempt(job_id: str, index: int) -> dict[str, Any]:
    good = index % 2 == 0
    values: dict[str, Any] = {
        "job_id": job_id, "idx": index, "outcome": "success" if good else "failure", "subtask": "" if good else "place",
        "eef": "" if good else "right", "reason": "" if good else "dropped", "steps": 100, "seconds": 0.5,
        "record": {"index": index, "sources": [{"demo": "stack/demo_0"}], "start_poses": {"cubeA": [0.1] * 7}},
        "committed_at": float(index),
    }  # fmt: skip
    return Attempt(**values).model_dump()


def _enter(database: Database, rows: list[dict[str, Any]]) -> None:
    if rows:
        with database.transaction() as session:
            session.execute(insert(Attempt), rows)


def measure(url: str, ids: list[str], *, requests: int, seed: int) -> dict[str, dict[str, float]]:
    """Ask each question so many times, about jobs drawn at random, and return quantiles in milliseconds."""
    rng = random.Random(seed)  # noqa: S311
    big = ids[-1]
    questions: dict[str, tuple[int, Callable[[], str]]] = {
        "GET job": (requests, lambda: f"/v1/jobs/{rng.choice(ids)}"),
        "GET job, the largest": (requests, lambda: f"/v1/jobs/{big}"),
        "list jobs, first page": (requests, lambda: "/v1/jobs?limit=20"),
        "list jobs, any page": (requests, lambda: f"/v1/jobs?limit=20&after={rng.choice(ids)}"),
        "list running jobs": (requests, lambda: "/v1/jobs?limit=20&status=running"),
        "attempts, any page": (requests, lambda: f"/v1/jobs/{big}/attempts?after={rng.randrange(10_000)}&limit=100"),
        "failed attempts": (requests, lambda: f"/v1/jobs/{big}/attempts?outcome=failure&after={rng.randrange(10_000)}"),
        "events": (requests, lambda: f"/v1/jobs/{rng.choice(ids)}/events"),
        "statistics of the largest job": (5, lambda: f"/v1/jobs/{big}/stats"),
        "metrics": (20, lambda: "/metrics"),
    }
    found: dict[str, dict[str, float]] = {}
    with httpx.Client(base_url=url, timeout=120.0) as http:
        for name, (count, path) in questions.items():
            for _ in range(min(count, _WARM)):
                http.get(path()).raise_for_status()
            spent = []
            for _ in range(count):
                begun = time.perf_counter()
                http.get(path()).raise_for_status()
                spent.append(1000 * (time.perf_counter() - begun))
            p50, p99 = np.quantile(spent, [0.5, 0.99])
            found[name] = {"requests": count, "p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2)}
    return found


def _write(site: Site, job_id: str, ending: threading.Event) -> None:
    """Commit as a dispatcher does, so many times a second."""
    while not ending.wait(1 / _WRITES_PER_S):
        with site.database.transaction() as session:
            jobs.tell(session, jobs.get(session, job_id, lock=True), "note", {})


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--attempts", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--database", default="", help="an empty PostgreSQL database; else SQLite")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_site(Path(folder), url=asked.database, requests_per_s=1e9) as site,
    ):
        begun = time.perf_counter()
        ids = fill(site.database, count=asked.jobs, attempts=asked.attempts)
        filled = time.perf_counter() - begun
        with on_a_port(site.app) as url:
            quiet = measure(url, ids, requests=asked.requests, seed=asked.seed)
            ending = threading.Event()
            writer = threading.Thread(target=_write, args=(site, ids[0], ending))
            writer.start()
            busy = measure(url, ids, requests=asked.requests, seed=asked.seed)
            ending.set()
            writer.join()
        kind = site.database.kind
    known = json.loads(OUT.read_text()) if OUT.exists() else {}
    known[kind] = {
        "jobs": asked.jobs,
        "attempts": asked.attempts,
        "filling_s": round(filled, 1),
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "quiet": quiet,
        f"with {_WRITES_PER_S:g} commits a second": busy,
    }
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(known, indent=2) + "\n")
    print(json.dumps(known[kind], indent=2))


if __name__ == "__main__":
    main()
