"""Runs the same attempts with and without early ending and compares what came of them.

    python -m tests.benchmarks.early_ending [--only "square D2"] [--share 0.1]

Writes docs/benchmarks/early_ending.json. A false ending is an attempt that was ended early and, run to its end,
succeeds or touches success later. Endings in which the two runs disagree about the failure's name are listed one by
one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workers.processes import single_threaded

RESULTS = Path("docs/benchmarks/early_ending.json")


@dataclass(frozen=True, kw_only=True)
class Row:
    """Attempts of one kind; those with more noise than usual are there for their failures."""

    task: str
    variant: str
    attempts: int
    noise_normalised: float = 0.05
    untransformed: bool = False

    @property
    def name(self) -> str:
        """Unique among the rows."""
        how = "untransformed" if self.untransformed else f"noise {self.noise_normalised:g}"
        return f"{self.task} {self.variant}, {how}"


ROWS = (
    Row(task="lift", variant="D1", attempts=100, noise_normalised=0.4),
    Row(task="stack", variant="D1", attempts=200),
    Row(task="stack", variant="D1", attempts=150, noise_normalised=0.4),
    Row(task="stack", variant="D0", attempts=50, untransformed=True),
    Row(task="square", variant="D1", attempts=150),
    Row(task="square", variant="D2", attempts=150),
    Row(task="can", variant="D1", attempts=100, noise_normalised=0.4),
    Row(task="stack_three", variant="D1", attempts=100),
)


def main() -> None:
    """Measure all rows, or those asked for, and write the table."""
    single_threaded()
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="only rows whose name starts with this")
    parser.add_argument("--share", type=float, default=1.0, help="share of each row's attempts")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for row in ROWS:
        if row.name.startswith(arguments.only):
            rows.append(measure(replace(row, attempts=math.ceil(arguments.share * row.attempts))))
            print(json.dumps(rows[-1]), flush=True)
            RESULTS.write_text(json.dumps(summary(rows), indent=1) + "\n")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows with their sums."""
    endings, false = sum(r["ended_early"] for r in rows), sum(len(r["false_endings"]) for r in rows)
    failed, failed_with = sum(r["failed_steps"] for r in rows), sum(r["failed_steps_with"] for r in rows)
    return {
        "attempts": sum(r["attempts"] for r in rows),
        "held": sum(r["held"] for r in rows),
        "successes_equal": all(r["successes_equal"] for r in rows),
        "ended_early": endings,
        "false_endings": false,
        # Exact one-sided bound of a binomial share when none was seen: (1 - p)^n = 0.05.
        "false_endings_95_percent_upper_bound": 1.0 - 0.05 ** (1.0 / endings) if endings and not false else None,
        "other_name": sum(len(r["other_name"]) for r in rows),
        "share_of_failed_steps_saved": 1.0 - failed_with / failed if failed else 0.0,
        "share_of_steps_saved": (failed - failed_with) / sum(r["steps"] for r in rows),
        "rows": rows,
    }


def measure(row: Row) -> dict[str, Any]:
    """Run one row's attempts both ways, side by side."""
    pairs = list(both_ways(row))
    without, ended = [a for a, _ in pairs], [(a, b) for a, b in pairs if b["saved"]]
    failed = [(a, b) for a, b in pairs if not a["held"]]
    return {
        "name": row.name,
        "attempts": row.attempts,
        "held": sum(a["held"] for a in without),
        "touched": sum(a["touched"] for a in without),
        "successes_equal": all(a["digest"] == b["digest"] and a["held"] == b["held"] for a, b in pairs),
        "ended_early": len(ended),
        "false_endings": [a["index"] for a, b in ended if a["held"] or a["touched"] != b["touched"]],
        "other_name": [[a["index"], a["failure"], b["failure"]] for a, b in pairs if a["failure"] != b["failure"]],
        "failures": dict(Counter(a["failure"] for a, _ in failed).most_common()),
        "ended_early_by_failure": dict(Counter(b["failure"] for _, b in ended).most_common()),
        "failed_steps": sum(a["steps"] for a, _ in failed),
        "failed_steps_with": sum(b["steps"] for _, b in failed),
        "steps": sum(a["steps"] for a in without),
        "cpu_s": sum(a["cpu_s"] for a in without),
        "cpu_s_with": sum(b["cpu_s"] for _, b in pairs),
        "needs_hold_in_successes": all(a["needs"] for a in without),
    }


def both_ways(row: Row) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield what came of each attempt without and with early ending."""
    from factory.demos import read_demos
    from factory.episodes import digest
    from factory.recording import episode_of
    from factory.replay import run_attempts
    from factory.sources import prepare_sources
    from factory.specs import GenerationSpec
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from sim_tasks.catalog import find_task
    from workers.generate import seeds_path

    task = find_task(row.task)
    spec = GenerationSpec(
        variant=row.variant,
        seed=2026,
        noise_normalised=row.noise_normalised,
        untransformed=row.untransformed,
        use_symmetry=True,
        paced_bridge=True,
    )
    backend = RobosuiteBackend(task)
    sources = prepare_sources(backend, task, read_demos(seeds_path(row.task)), spec).sources
    executor = backend.describe()

    def one(index: int, *, early: bool) -> dict[str, Any]:
        chosen = replace(spec, early_ending=early)
        began = time.process_time()
        (result,) = run_attempts(backend, task, sources, chosen, [index])
        cpu_s = time.process_time() - began
        done = task.success(result.scene)
        return {
            "index": index,
            "held": result.held,
            "touched": result.touched,
            "failure": f"{result.failure.subtask}: {result.failure.reason}" if result.failure else "",
            "steps": len(result),
            "saved": result.steps_saved,
            "digest": digest(episode_of(result, task, chosen, executor)) if result.held else "",
            "cpu_s": cpu_s,
            "needs": all(need(result.scene)[done].all() for need in task.needs.values()),
        }

    one(row.attempts, early=False)  # the first attempt compiles
    for index in range(row.attempts):
        yield one(index, early=False), one(index, early=True)
    backend.close()


if __name__ == "__main__":
    main()
