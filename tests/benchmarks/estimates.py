"""Do estimates keep their word? Fifty jobs of real attempts, each estimated from its own first twelve.

    python -m tests.benchmarks.estimates --workers 2

Appends a row per job to docs/benchmarks/estimates.jsonl and skips those that are there; prints the coverage of both
kinds of jobs: "exactly 60 attempts", and "20 episodes, at most 60 attempts".
"""

from __future__ import annotations

import argparse
import itertools
import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from api.estimates import final_rate
from factory.statistics import wilson

ROWS = Path("docs/benchmarks/estimates.jsonl")
PILOT, ATTEMPTS, EPISODES = 12, 60, 20
TASKS = (("lift", "D1"), ("stack", "D0"), ("stack", "D1"), ("square", "D0"), ("door", "D1"))
NOISES = (0.05, 0.1, 0.2, 0.3, 0.4)
JOBS = [
    {"task": task, "variant": variant, "noise": noise, "seed": seed}
    for (task, variant), noise, seed in itertools.product(TASKS, NOISES, (101, 102))
]


def outcomes_of(job: dict[str, Any]) -> dict[str, Any]:
    """Run a job's attempts and return it with their outcomes, as a text of S and dots."""
    from factory.demos import read_demos
    from factory.replay import run_attempts
    from factory.sources import prepare_sources
    from factory.specs import GenerationSpec
    from sim_tasks.backends import open_backend
    from sim_tasks.catalog import find_task
    from workers.generate import seeds_path

    task = find_task(job["task"])
    spec = GenerationSpec(variant=job["variant"], seed=job["seed"], noise_normalised=job["noise"])
    backend = open_backend(task)
    try:
        sources = prepare_sources(backend, task, read_demos(seeds_path(task.name)), spec).sources
        held = [result.held for result in run_attempts(backend, task, sources, spec, range(ATTEMPTS))]
    finally:
        backend.close()
    return {**job, "outcomes": "".join("S" if good else "." for good in held)}


def judge(row: dict[str, Any]) -> dict[str, Any]:
    """Return what the first attempts promised and what the job came to, for both kinds of jobs."""
    good = [letter == "S" for letter in row["outcomes"]]
    judged: dict[str, Any] = {}
    for kind, episodes in (("attempts", None), ("episodes", EPISODES)):
        promised = final_rate(good[:PILOT], episodes=episodes, limit=ATTEMPTS)
        ended = ATTEMPTS
        if episodes is not None:
            ended = next((n for n in range(1, ATTEMPTS + 1) if sum(good[:n]) >= episodes), ATTEMPTS)
        came = sum(good[:ended]) / ended
        inside = promised.low - 1e-9 <= came <= promised.high + 1e-9
        judged[kind] = {"low": promised.low, "high": promised.high, "came": came, "inside": inside}
    return judged


def main() -> None:
    """Run what is missing, then print the coverage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    there = [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []
    known = [{k: row[k] for k in JOBS[0]} for row in there]
    todo = [job for job in JOBS if job not in known]
    with get_context("spawn").Pool(options.workers) as pool, ROWS.open("a") as file:
        for row in pool.imap_unordered(outcomes_of, todo):
            file.write(json.dumps(row) + "\n")
            file.flush()
            there.append(row)
            print(
                f"{len(there)}/{len(JOBS)} {row['task']} {row['variant']} {row['noise']} {row['outcomes'].count('S')}"
            )
    for kind in ("attempts", "episodes"):
        inside = sum(judge(row)[kind]["inside"] for row in there)
        _, low, high = wilson(inside, len(there))
        print(f"{kind}: {inside} of {len(there)} jobs inside their interval (95 %: {100 * low:.0f}-{100 * high:.0f} %)")


if __name__ == "__main__":
    main()
