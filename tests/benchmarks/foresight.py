"""How often a target that was foreseen as out of reach is followed by success all the same, and what asking costs.

    python -m tests.benchmarks.foresight [--only stack] [--attempts 100]

Prints one line a task: attempts; how many held; how many met a target missed by more than 1 mm or 0.01 rad, and by
more than what names a failure; how many of each held; failures that were named so; and the share of CPU time that
asking took.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from factory.demos import read_demos
from factory.replay import run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from sim_tasks.backends.robosuite import RobosuiteBackend
from sim_tasks.catalog import find_task
from tests.benchmarks.rows import OURS
from workers.generate import seeds_path
from workers.processes import single_threaded

TASKS = (("stack", "D0"), ("stack", "D1"), ("square", "D0"), ("square", "D1"), ("door", "D1"), ("two_arm_lift", "D1"))


class Timed(RobosuiteBackend):
    """Adds up what asking costs."""

    asking_s = 0.0

    def reach(self, env: int, eef: str, T_world_eef: Any) -> Any:
        """Ask, and look at the clock."""
        began = time.process_time()
        try:
            return super().reach(env, eef, T_world_eef)
        finally:
            self.asking_s += time.process_time() - began


def main() -> None:
    """Measure all tasks, or those asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="only tasks whose name starts with this")
    parser.add_argument("--attempts", type=int, default=100)
    arguments = parser.parse_args()
    single_threaded()
    for name, variant in TASKS:
        if name.startswith(arguments.only):
            print(measure(name, variant, arguments.attempts), flush=True)


def measure(name: str, variant: str, attempts: int) -> str:
    """Run one task's attempts and say what came of them."""
    task = find_task(name)
    backend = Timed(task)
    spec = GenerationSpec(variant=variant, seed=2026, **OURS)
    sources = prepare_sources(backend, task, read_demos(seeds_path(name)), spec).sources
    next(iter(run_attempts(backend, task, sources, spec, [0])))  # whatever is made once is made now
    backend.asking_s, began = 0.0, time.process_time()
    results = list(run_attempts(backend, task, sources, spec, range(attempts)))
    spent = time.process_time() - began
    missed = [r for r in results if r.misses]
    matter = [r for r in missed if any(miss.matters for miss in r.misses.values())]
    named = sum(r.failure is not None and r.failure.reason == "unreachable" for r in results)
    share = 100 * backend.asking_s / spent
    backend.close()
    return (
        f"{name} {variant}: {attempts} attempts, {sum(r.held for r in results)} held; missed {len(missed)}, of which "
        f"{sum(r.held for r in missed)} held; by much {len(matter)}, of which {sum(r.held for r in matter)} held; "
        f"named unreachable {named}; asking took {share:.2f} % of {1e3 * spent / attempts:.0f} ms"
    )


if __name__ == "__main__":
    main()
