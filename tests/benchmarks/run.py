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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from factory.replay import AttemptResult
from factory.sim import SimBackend
from sim_tasks.catalog import FAMILIES, find_task
from tests.benchmarks.faults import EXPECTED
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
    """Run one row's attempts in this process; a family's are dealt out to its tasks in turn."""
    names = list(FAMILIES[row.task]) if row.task in FAMILIES and row.stratified else [row.task]
    tally = Tally()
    for turn, name in enumerate(names):
        _run(row, name, range(turn, row.attempts, len(names)), tally)
    named = sum(n for key, n in tally.failures.items() if key.split(": ")[1] in EXPECTED.get(row.fault, ()))
    held, touched = (
        "".join("1" if bits[i] else "0" for i in range(row.attempts)) for bits in (tally.held, tally.touched)
    )
    result = {
        "name": row.name,
        "sources": tally.sources,
        "refused": tally.refused,
        "attempts": row.attempts,
        "held": held.count("1"),
        "touched": touched.count("1"),
        "named": named,
        "held_bits": held,
        "failures": dict(tally.failures.most_common()),
        "steps_per_attempt": tally.steps / row.attempts,
        "cpu_s_per_attempt": tally.cpu_s / row.attempts,
        "overhead": 1.0 - tally.simulator_s / tally.wall_s,
        "executor": tally.executor,
    }
    if row.replay:
        result["replayed"], result["replayed_bit_equal"] = tally.replayed, tally.replayed_bit_equal
    if len(names) > 1:
        result["held_by_task"] = dict(tally.held_by_task)
    return result


@dataclass
class Tally:
    """What a row's attempts add up to."""

    held: dict[int, bool] = field(default_factory=dict)
    touched: dict[int, bool] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    held_by_task: Counter[str] = field(default_factory=Counter)
    sources: int = 0
    refused: int = 0
    steps: int = 0
    replayed: int = 0
    replayed_bit_equal: int = 0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    simulator_s: float = 0.0
    executor: dict[str, Any] = field(default_factory=dict)


def _run(row: Row, name: str, indices: range, tally: Tally) -> None:
    from factory.demos import read_demos
    from factory.replay import run_attempts
    from factory.sources import prepare_sources
    from factory.specs import GenerationSpec, Selection
    from sim_tasks.backends import open_backend
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from tests.benchmarks.faults import FaultyBackend
    from workers.generate import seeds_path

    settings = dict(row.settings)
    if "selection" in settings:
        settings["selection"] = Selection(**settings["selection"])
    spec = GenerationSpec(variant=row.variant, seed=2026, **settings)
    task = find_task(name, row.robot)
    backend = FaultyBackend(task) if row.fault else RobosuiteBackend(task)
    if isinstance(backend, FaultyBackend):
        backend.fault = row.fault
    files = [Path(os.environ["FACTORY_DEMOS_DIR"]) / each for each in row.demos] or [seeds_path(name)]
    prepared = prepare_sources(backend, task, [d for f in files for d in read_demos(f)], spec)
    again = open_backend(task) if row.replay else None
    replaying = 0.0, 0.0
    began, cpu, in_simulator = time.perf_counter(), time.process_time(), backend.simulator_seconds
    for result in run_attempts(backend, task, prepared.sources, spec, indices):
        tally.held[result.index], tally.touched[result.index] = result.held, result.touched
        tally.held_by_task[name] += result.held
        tally.steps += len(result)
        if result.failure is not None:
            tally.failures[f"{result.failure.subtask}: {result.failure.reason}"] += 1
        if again is not None and result.held and tally.replayed < row.replay:
            before = time.perf_counter(), time.process_time()
            tally.replayed += 1
            tally.replayed_bit_equal += _replays_bit_equal(again, result)
            replaying = (
                replaying[0] + time.perf_counter() - before[0],
                replaying[1] + time.process_time() - before[1],
            )
    tally.wall_s += time.perf_counter() - began - replaying[0]
    tally.cpu_s += time.process_time() - cpu - replaying[1]
    tally.simulator_s += backend.simulator_seconds - in_simulator
    tally.sources, tally.refused = len(prepared.sources), len(prepared.refused)
    tally.executor = dict(backend.describe())


def _replays_bit_equal(backend: SimBackend, episode: AttemptResult) -> bool:
    """Play the actions from the start state in another environment and compare every state."""
    backend.restore(0, episode.start)
    states = backend.play(0, episode.actions).sim_states
    return all(np.array_equal(states[name], rows[1:]) for name, rows in episode.sim_states.items())


if __name__ == "__main__":
    main()
