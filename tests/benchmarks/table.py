"""Turns what was measured into docs/benchmarks.md. It computes nothing that is not in the two result files.

python -m tests.benchmarks.table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.statistics import wilson
from tests.benchmarks.rows import ROWS, Row
from tests.benchmarks.run import RESULTS

PAGE = Path("docs/benchmarks.md")
ENGINE = Path("docs/benchmarks/engine.json")
REMARKS = Path("docs/benchmarks/remarks.md")

HEAD = """# Benchmarks

What was measured, with the command that measures it. Rates carry 95 % Wilson intervals; a target is *reached* when the
interval contains or exceeds it. "Held" is our count: success true through the last half second. "Touched" is
MimicGen's: true at any step. Every row runs attempts 0, 1, 2, ... of seed 2026, so a row can be repeated bit for bit on
the same runtime. Results are kept as measured in [benchmarks/rates.jsonl](benchmarks/rates.jsonl).

```
FACTORY_DEMOS_DIR=... python -m tests.benchmarks.run --jobs 2     # success rates, resumable, row by row
FACTORY_DEMOS_DIR=... python -m tests.benchmarks.engine           # digests, replay, memory, overhead, boundaries
python -m tests.benchmarks.table                                  # this page
```
"""


def main() -> None:
    """Write the page."""
    results = {r["name"]: r for r in map(json.loads, RESULTS.read_text().splitlines())}
    parts = [HEAD]
    for group in dict.fromkeys(row.group for row in ROWS):
        rows = [row for row in ROWS if row.group == group and row.name in results]
        if rows:
            parts.append(f"## {group}\n\n{_faults(rows, results) if rows[0].fault else _rates(rows, results)}\n")
    if ENGINE.exists():
        parts.append(_engine(json.loads(ENGINE.read_text())))
    if REMARKS.exists():
        parts.append(REMARKS.read_text())
    some = next(iter(results.values()))
    made_by = ", ".join(f"{k} {v}" for k, v in some["executor"].items() if k not in ("model_sha", "determinism"))
    parts.append(f"\nMeasured with {made_by}; two cores of a shared machine, no GPU.\n")
    PAGE.write_text("\n".join(parts))


def _rates(rows: list[Row], results: dict[str, Any]) -> str:
    lines = [
        "| row | attempts | held | touched | target | reached | failures (subtask: reason) | steps | CPU s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        r = results[row.name]
        reached = ""
        if row.target is not None:
            high = 100 * wilson(r[row.counting], r["attempts"])[2]
            reached = ("yes" if high >= row.target else "**no**") + f" ({row.counting})"
        failures = ", ".join(f"{k} {n}" for k, n in list(r["failures"].items())[:3])
        target = "" if row.target is None else f"{row.target:g} %"
        lines.append(
            f"| {row.name} | {r['attempts']} | {_rate(r['held'], r['attempts'])} "
            f"| {_rate(r['touched'], r['attempts'])} | {target} | {reached} | {failures} "
            f"| {r['steps_per_attempt']:.0f} | {r['cpu_s_per_attempt']:.2f} |"
        )
    return "\n".join(lines)


def _faults(rows: list[Row], results: dict[str, Any]) -> str:
    lines = ["| fault | named correctly | target | as |", "|---|---|---|---|"]
    for row in rows:
        r = results[row.name]
        named = ", ".join(f"{k} {n}" for k, n in r["failures"].items())
        lines.append(
            f"| {row.fault.replace('_', ' ')} | {_rate(r['named'], r['attempts'])} | {row.target:g} % | {named} |"
        )
    return "\n".join(lines)


def _rate(k: int, n: int) -> str:
    rate, low, high = wilson(k, n)
    return f"{k} = {100 * rate:.1f} % ({100 * low:.1f}-{100 * high:.1f})"


def _engine(facts: dict[str, Any]) -> str:
    lines = ["## Engine\n", "| what | measured |", "|---|---|"]
    lines += [f"| {what} | {value} |" for what, value in facts["facts"].items()]
    lines += ["\n### Automatic boundaries against stored or predicate ones, in control steps\n"]
    lines += ["| file | boundaries | within 5 steps | errors |", "|---|---|---|---|"]
    for row in facts["boundaries"]:
        errors = ", ".join(f"{step:+d} x {n}" for step, n in row["errors"])
        lines.append(f"| {row['file']} | {row['boundaries']} | {row['within']} | {errors} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
