"""Measures every row of `rows.py`, two at a time, appending each result as it is done; run again to go on.

    FACTORY_DEMOS_DIR=... python -m tests.benchmarks.run --jobs 2

Results go to docs/benchmarks/rates.jsonl; `python -m tests.benchmarks.table` turns them into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.benchmarks.rows import ROWS, Row
from workers.processes import SPAWN, single_threaded

RESULTS = Path("docs/benchmarks/rates.jsonl")


def main() -> None:
    """Measure what is not yet measured."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="only rows whose name starts with this")
    arguments = parser.parse_args()
    single_threaded()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    done = {json.loads(line)["name"] for line in RESULTS.read_text().splitlines()} if RESULTS.exists() else set()
    todo = [row for row in ROWS if row.name not in done and row.name.startswith(arguments.only)]
    with (
        ProcessPoolExecutor(arguments.jobs, mp_context=SPAWN, max_tasks_per_child=1) as pool,
        RESULTS.open("a") as file,
    ):
        for future in as_completed([pool.submit(measure, row) for row in todo]):
            result = future.result()
            file.write(json.dumps(result) + "\n")
            file.flush()
            print(
                f"{result['name']}: held {result['held']}, touched {result['touched']} of {result['attempts']}",
                flush=True,
            )


def measure(row: Row) -> dict[str, Any]:
    """Run one row's attempts in this process."""
    from factory.demos import read_demos
    from factory.replay import run_attempts
    from factory.sources import prepare_sources
    from factory.specs import GenerationSpec, Selection
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from sim_tasks.catalog import find_task
    from tests.benchmarks.faults import EXPECTED, FaultyBackend
    from workers.generate import seeds_path

    settings = dict(row.settings)
    if "selection" in settings:
        settings["selection"] = Selection(**settings["selection"])
    spec = GenerationSpec(variant=row.variant, seed=2026, **settings)
    task = find_task(row.task, row.robot)
    backend = FaultyBackend(task) if row.fault else RobosuiteBackend(task)
    if isinstance(backend, FaultyBackend):
        backend.fault = row.fault
    files = [Path(os.environ["FACTORY_DEMOS_DIR"]) / name for name in row.demos] or [seeds_path(row.task)]
    prepared = prepare_sources(backend, task, [d for f in files for d in read_demos(f)], spec)
    began, cpu, in_simulator = time.perf_counter(), time.process_time(), backend.simulator_seconds
    held, touched, steps = "", "", 0
    failures: Counter[str] = Counter()
    for result in run_attempts(backend, task, prepared.sources, spec, range(row.attempts)):
        held += "1" if result.held else "0"
        touched += "1" if result.touched else "0"
        steps += len(result)
        if result.failure is not None:
            failures[f"{result.failure.subtask}: {result.failure.reason}"] += 1
    wall = time.perf_counter() - began
    named = sum(n for key, n in failures.items() if key.split(": ")[1] in EXPECTED.get(row.fault, ()))
    return {
        "name": row.name,
        "sources": len(prepared.sources),
        "refused": len(prepared.refused),
        "attempts": row.attempts,
        "held": held.count("1"),
        "touched": touched.count("1"),
        "named": named,
        "held_bits": held,
        "failures": dict(failures.most_common()),
        "steps_per_attempt": steps / row.attempts,
        "cpu_s_per_attempt": (time.process_time() - cpu) / row.attempts,
        "overhead": 1.0 - (backend.simulator_seconds - in_simulator) / wall,
        "executor": dict(backend.describe()),
    }


if __name__ == "__main__":
    main()
