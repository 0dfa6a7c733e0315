"""Turns what was measured into docs/benchmarks.md. It computes nothing that is not in the two result files.

python -m tests.benchmarks.table
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from factory.statistics import paired_difference, wilson
from tests.benchmarks.rows import ROWS, Row
from tests.benchmarks.run import RESULTS

PAGE = Path("docs/benchmarks.md")
ENGINE = Path("docs/benchmarks/engine.json")
REMARKS = Path("docs/benchmarks/remarks.md")
SPEED = Path("docs/benchmarks/bench.json")

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
            first = rows[0]
            layout = _faults if first.fault else _pairs if first.beside else _beside_control if first.replay else _rates
            parts.append(f"## {group}\n\n{layout(rows, results)}\n")
    if ENGINE.exists():
        parts.append(_engine(json.loads(ENGINE.read_text())))
    if SPEED.exists():
        parts.insert(1, _speed(json.loads(SPEED.read_text())))
    if REMARKS.exists():
        parts.append(REMARKS.read_text())
    some = next(iter(results.values()))
    made_by = ", ".join(f"{k} {v}" for k, v in some["executor"].items() if k not in ("model_sha", "determinism"))
    parts.append(f"\nMeasured with {made_by}; two cores of a shared machine, no GPU.\n")
    PAGE.write_text("\n".join(parts))


def _speed(runs: dict[str, Any]) -> str:
    """Return the section that `factory bench` fills: ratios within a run, and rates through `factory generate`."""
    lines = [
        "## Speed",
        "",
        "Each line is one run of `factory bench`; ratios are medians over its alternations, with least and most.",
        "CPU time, all processes. `python -m tests.benchmarks.speed` repeats it.",
        "",
        "![cost of a control step, and episodes per CPU-second](images/bench.svg)",
        "",
        "| along | mj_step, us a control step | compiled / mj_step | robosuite / compiled | exact / compiled |",
        "|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        for scene, c in ({f"attempts of {name}": run["control"]} if "control" in run else {}).items():
            lines.append(_control(scene, c))
        lines += [_control(scene, c) for scene, c in run.get("scenes", {}).items()]
    lines += [
        "",
        "| run | episodes | attempts | episodes a CPU-second | of the limit | x MimicGen | first, s | KiB each |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        made = {"states only": run["generate"]} if "generate" in run else {}
        made |= {f"two cameras, {preset}": m for preset, m in run.get("cameras", {}).items()}
        for what, m in made.items():
            over = run.get("over_mimicgen", {}).get("states" if what == "states only" else what.split(", ")[-1])
            lines.append(
                f"| {name}, {what} | {m['episodes']} | {m['attempts']} | {m['successes_per_cpu_s']:.2f} | "
                + (f"{100 * m['share_of_limit']:.0f} %" if "share_of_limit" in m else "")
                + f" | {'' if over is None else f'{over:.1f}'} | {m['first_attempt_s']:.1f} | "
                f"{m['bytes_per_episode'] / 1024:.0f} |"
            )
    for name, run in runs.items():
        if "engine" in run:
            parts = ", ".join(f"{part} {ms:.1f}" for part, ms in run["engine"]["cpu_ms_per_attempt"].items())
            share = 100 * run["engine"]["engine_share"]
            lines += ["", f"Engine share of an attempt of {name}: {share:.1f} % (CPU ms: {parts})."]
        for preset, drawn in run.get("render", {}).items():
            lines += [
                "",
                f"Pictures of {name} at 84 x 84, {preset}, on {drawn['device']}, a CPU-second:",
                f"{drawn['draw_per_cpu_s']:.1f} drawn, {drawn['encode_per_cpu_s']:.0f} encoded.",
                f"{drawn['bytes_per_frame']:.0f} bytes a picture.",
            ]
    machine = next(iter(runs.values()))["machine"]
    lines += [
        "",
        "The limit is what bare mj_step would take for the same control steps.",
        "MimicGen's known rate is 0.57 successful Stack episodes a CPU-second without images, 0.03 with two cameras,",
        "on one Xeon core on another day: a scale, not a race. `--mimicgen-python` runs it beside, where there is one.",
        "",
        "Measured on " + ", ".join(f"{k} {v}" for k, v in machine.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _control(scene: str, control: dict[str, Any]) -> str:
    def spread(pair: str) -> str:
        r = control["ratios"].get(pair)
        return "" if r is None else f"{r['median']:.2f} ({r['low']:.2f}-{r['high']:.2f})"

    cost = control["cpu_us_per_control_step"]["mj_step"]["median"]
    pairs = ("compiled_to_mj_step", "robosuite_to_compiled", "exact_to_compiled")
    return f"| {scene} | {cost:.0f} | " + " | ".join(spread(pair) for pair in pairs) + " |"


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


def _beside_control(rows: list[Row], results: dict[str, Any]) -> str:
    lines = [
        "Beside each row a random source demonstration played untransformed on the same starts. *Replayed*: kept",
        "episodes that, played again from start and actions in another environment, were equal in every bit.",
        "",
        "| row | attempts | held | target | reached | untransformed | under a third | replayed | failures | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in (row for row in rows if row.target is not None):
        r, control = results[row.name], results.get(f"{row.name}: untransformed replay")
        reached = "yes" if 100 * wilson(r["held"], r["attempts"])[2] >= (row.target or 0.0) else "**no**"
        replayed = f"{r['replayed_bit_equal']} of {r['replayed']}" if "replayed" in r else ""
        beside, third = "", ""
        if control is not None:
            beside = _rate(control["held"], control["attempts"])
            third = "yes" if 3 * control["held"] * r["attempts"] < r["held"] * control["attempts"] else "**no**"
        failures = ", ".join(f"{k} {n}" for k, n in list(r["failures"].items())[:3])
        lines.append(
            f"| {row.name} | {r['attempts']} | {_rate(r['held'], r['attempts'])} | {row.target:g} % | {reached} "
            f"| {beside} | {third} | {replayed} | {failures} "
            f"| {r['cpu_s_per_attempt']:.2f} |"
        )
    for row in (row for row in rows if row.target is not None):
        if by_task := results[row.name].get("held_by_task"):
            each = results[row.name]["attempts"] // len(by_task)
            worst = ", ".join(f"{name} {k}" for name, k in sorted(by_task.items(), key=lambda item: item[1])[:6])
            lines += ["", f"{row.name}: {len(by_task)} tasks, {each} attempts each; fewest held: {worst}."]
    return "\n".join(lines)


def _pairs(rows: list[Row], results: dict[str, Any]) -> str:
    lines = [
        "Points are percentage points against the row named beside it, on the same starts and seeds, with the 95 %",
        "interval of the paired difference (Bonett and Price 2012).",
        "",
        "| row | attempts | held | beside it | points | failures (subtask: reason) |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        r, whole = results[row.name], results.get(row.beside)
        beside, points = "", ""
        if whole is not None:
            n = min(r["attempts"], whole["attempts"])
            pairs = list(zip(r["held_bits"][:n], whole["held_bits"][:n], strict=True))
            mean, low, high = paired_difference(pairs.count(("1", "0")), pairs.count(("0", "1")), n)
            beside = f"{row.beside}: {_rate(whole['held'], whole['attempts'])}"
            points = f"{100 * mean:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        failures = ", ".join(f"{k} {n}" for k, n in list(r["failures"].items())[:3])
        lines.append(
            f"| {row.name} | {r['attempts']} | {_rate(r['held'], r['attempts'])} | {beside} | {points} | {failures} |"
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
