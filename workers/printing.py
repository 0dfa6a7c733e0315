"""What people see in the terminal, and the same facts as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from factory.diagnosis import REASONS
from factory.specs import PlacementSpec, TaskSpec
from factory.statistics import wilson
from factory.suggestions import snippet, source_of
from sim_tasks.catalog import FAMILIES, find_task
from workers.checks import DemoCheck, FileCheck
from workers.generate import Finished, seeds_count
from workers.replaying import Replay

out = Console()
err = Console(stderr=True)

_MARKS = {"error": "[red]error[/]", "warning": "[yellow]warning[/]", "note": "[dim]note[/]"}


# --- tasks ------------------------------------------------------------------------------------------------------------


def task_facts(task: TaskSpec) -> dict[str, Any]:
    """Return what `factory tasks --json` says of a task."""
    return {
        "name": task.name,
        "description": task.description,
        "instruction": task.instruction,
        "paraphrases": list(task.paraphrases),
        "robot": task.robot.name,
        "subtasks": {eef: [s.name for s in chain] for eef, chain in task.subtasks.items()},
        "variants": {name: [_range_of(p) for p in reset.placements] for name, reset in task.resets.items()},
        "constraints": [source_of(constraint) for constraint in task.constraints],
        "clearances_mm": {what: round(mm, 1) for what, mm in task.scene.clearances_mm.items()},
        "cameras": list(task.views),
        "seeds": seeds_count(task.name),
        "family": list(FAMILIES.get(task.name, ())),
    }


def print_tasks(tasks: Mapping[str, TaskSpec], problems: Sequence[str]) -> None:
    """Print the tasks, robot after robot."""
    for robot in dict.fromkeys(task.robot.name for task in tasks.values()):
        out.print(f"[bold]{robot}[/]")
        for task in tasks.values():
            if task.robot.name == robot:
                _print_task(task)
    for problem in problems:
        err.print(f"[yellow]warning[/]: {problem}")


def _print_task(task: TaskSpec) -> None:
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", min_width=11, no_wrap=True)
    table.add_column(overflow="fold")
    for eef, chain in task.subtasks.items():
        table.add_row(eef, " > ".join(subtask.name for subtask in chain))
    for constraint in task.constraints:
        table.add_row("constraint", source_of(constraint))
    for variant, reset in task.resets.items():
        table.add_row(variant, "; ".join(_range_of(p) for p in reset.placements))
    for what, mm in task.scene.clearances_mm.items():
        table.add_row("clearance", f"{what}: {round(mm, 1):g} mm")
    table.add_row("seeds", str(seeds_count(task.name)))
    if family := list(FAMILIES.get(task.name, ())):
        few = ", ".join(family[:2]) + (f", ... {len(family)} in all" if len(family) > 2 else "")
        table.add_row("family", f"{few}: further tasks, done with these seeds")
    out.print(f"  [bold cyan]{task.name}[/]  {task.description}")
    out.print(Padding(table, (0, 0, 1, 4)))


def _range_of(p: PlacementSpec) -> str:
    yaw = math.degrees(p.yaw_rad[1] - p.yaw_rad[0])
    turn = f", turn {yaw:.0f}°" if yaw else ""
    where = f"{p.object} on {p.on}" if p.on else p.object
    return f"{where} {100 * (p.x_m[1] - p.x_m[0]):.1f} x {100 * (p.y_m[1] - p.y_m[0]):.1f} cm{turn}"


# --- demos ------------------------------------------------------------------------------------------------------------


def check_facts(check: FileCheck) -> dict[str, Any]:
    """Return what `factory demos check --json` says."""
    return {
        "path": check.path,
        "format": check.format,
        "environment": check.environment,
        "task": check.task or None,
        "usable": check.usable,
        "demos": [_demo_facts(demo) for demo in check.demos],
        "suggestions": [
            {
                "constraint": source_of(s.constraint),
                "why": s.why,
                "seen": s.seen,
                "demos": s.demos,
                "declared": s.declared,
                "problem": s.problem or None,
            }
            for s in check.suggestions
        ],
    }


def _demo_facts(demo: DemoCheck) -> dict[str, Any]:
    return {
        "name": demo.name,
        "steps": demo.steps,
        "success_by_state": demo.success_by_state,
        "success_by_replay": demo.success_by_replay,
        "problem": demo.problem or None,
        "segments": {
            eef: [{"start": s.start, "stop": s.stop, "confidence": s.confidence, "origin": s.origin} for s in cuts]
            for eef, cuts in demo.segments.items()
        },
        "findings": [
            {"severity": f.severity, "code": f.code, "subtask": f.subtask, "step": f.step, "message": f.message}
            for f in demo.findings
        ],
    }


def print_check(check: FileCheck) -> None:
    """Print what was found in a demonstration file."""
    out.print(
        f"[bold]{check.path}[/]: {len(check.demos)} demonstrations, {check.format} format, "
        f"environment {check.environment!r}"
    )
    table = Table()
    for heading in ("demo", "steps", "ends in success", "replays", "cut at", "sources"):
        table.add_column(heading)
    for demo in check.demos:
        cuts = "; ".join(
            " | ".join(f"{s.stop}" + (f" ({s.confidence:.2f})" if s.origin == "automatic" else "") for s in segments)
            for segments in demo.segments.values()
        )
        usable = "[red]no[/]" if demo.problem else "yes"
        table.add_row(
            demo.name, str(demo.steps), _yes(demo.success_by_state), _yes(demo.success_by_replay), cuts or "-", usable
        )
    out.print(table)
    for demo in check.demos:
        if demo.problem:
            out.print(f"{_MARKS['error']} {demo.problem}", soft_wrap=True)
        for finding in demo.findings:
            out.print(f"{_MARKS[finding.severity]} {demo.name}: {finding.message}", soft_wrap=True)
    tried = [d for d in check.demos if d.success_by_replay is not None]
    if tried:
        again = sum(bool(d.success_by_replay) for d in tried)
        out.print(
            f"Actions replayed open loop reach success again in {again} of {len(tried)}. Generation reads "
            "poses from states, so a demo that does not replay can still be a good source."
        )
    out.print(
        f"{check.usable} of {len(check.demos)} can be sources"
        + (f" for task [bold]{check.task}[/]." if check.task else ".")
    )
    _print_suggestions(check)


def _print_suggestions(check: FileCheck) -> None:
    for suggestion in check.suggestions:
        if suggestion.declared:
            out.print(f"as the task says: {suggestion.why} ({suggestion.seen} of {suggestion.demos} demos)")
    if text := snippet(find_task(check.task), check.suggestions) if check.suggestions else "":
        out.print("These demonstrations suggest, for the task's file:")
        out.print(text, markup=False, highlight=False, soft_wrap=True)


def _yes(value: bool | None) -> str:
    return "?" if value is None else "[green]yes[/]" if value else "[red]no[/]"


# --- generate ---------------------------------------------------------------------------------------------------------


class Progress:
    """Progress bars of a job: attempts with the success rate so far, then rendering."""

    def __init__(self, name: str, *, wanted: int | None = None, count_attempts: bool = False, quiet: bool) -> None:
        self._count_attempts = count_attempts
        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=err,
            disable=quiet,
        )
        self._trying: Any = None
        if wanted is not None:
            self._trying = self._bars.add_task(name, total=wanted, note="starting workers")
        self._drawing: Any = None

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def attempts(self, attempted: int, succeeded: int) -> None:
        """Show attempts and the rate with its interval."""
        rate, low, high = wilson(succeeded, attempted)
        done = attempted if self._count_attempts else succeeded
        note = f"{succeeded}/{attempted} succeed, {100 * rate:.0f} % ({100 * low:.0f}-{100 * high:.0f})"
        self._bars.update(self._trying, completed=done, note=note)

    def rendering(self, done: int, total: int) -> None:
        """Show rendered episodes."""
        if self._drawing is None:
            self._drawing = self._bars.add_task("rendering", total=total, note="")
        self._bars.update(self._drawing, completed=done)

    def resumed(self, finished: int) -> None:
        """Say that earlier work goes on."""
        err.print(f"going on: {finished} attempts of this job were finished before")


def print_finished(finished: Finished) -> None:
    """Say what was made and what to do next."""
    if finished.rule == "already finished":
        out.print(f"{finished.root} is this dataset already: {finished.episodes} episodes. Nothing to do.")
    else:
        rate, low, high = wilson(finished.episodes, finished.attempts)
        out.print(
            f"[bold green]{finished.episodes} episodes[/] from {finished.attempts} attempts "
            f"({100 * rate:.0f} %, 95 % interval {100 * low:.0f}-{100 * high:.0f} %)"
        )
        if finished.advice:
            out.print(f"[yellow]ended by {finished.rule}[/]: {finished.advice}", soft_wrap=True)
    if finished.run_again_on_cpu is not None:
        out.print(run_again_sentence(finished.run_again_on_cpu), soft_wrap=True)
    for sentence in finished.refused:
        out.print(f"[yellow]not used as a source[/]: {sentence}", soft_wrap=True)
    out.print(f"  dataset  {finished.root}\n  report   {finished.report}")
    if finished.failed_root is not None:
        out.print(f"  failures {finished.failed_root}")
    out.print(
        "Try next:\n"
        f"  factory inspect {finished.root}\n"
        f"  factory replay {finished.root}:0{' --way actions' if finished.run_again_on_cpu else ''}\n"
        f"  factory export {finished.root} --to robomimic --out {finished.root}.hdf5"
    )


def run_again_sentence(found: Mapping[str, Any]) -> str:
    """Return what running a share of a statistical backend's episodes again showed."""
    return (
        f"{found['run_again']} of {found['episodes']} episodes run again on the CPU: {found['agreed']} came to the "
        f"same end ({100 * found['rate']:.1f} %, 95 % interval {100 * found['low']:.1f}-{100 * found['high']:.1f} %)"
    )


# --- datasets ---------------------------------------------------------------------------------------------------------


def print_replay(result: Replay) -> None:
    """Print how one episode compared."""
    verdict = "[green]bit-equal[/]" if result.equal else f"[red]differs[/]: {result.difference}"
    elsewhere = "" if result.same_machine else " [yellow](recorded under another runtime fingerprint)[/]"
    out.print(f"episode {result.episode} (attempt {result.attempt}) from its {result.way}: {verdict}{elsewhere}")


def print_inspection(facts: Mapping[str, Any]) -> None:
    """Print what a dataset holds."""
    out.print(
        f"[bold]{facts['root']}[/]  {facts['task']} {facts['variant']}, robot {facts['robot_type']}, {facts['fps']} Hz"
    )
    out.print(
        f"{facts['episodes']} episodes, {facts['frames']} frames, {facts['hours']:.2f} h; cameras: "
        f"{', '.join(facts['cameras']) or 'none'}"
    )
    rate = facts["success_rate"]
    out.print(
        f"success held {100 * rate['held']:.1f} % (95 % interval {100 * rate['low']:.1f}-{100 * rate['high']:.1f} %), "
        f"touched {100 * rate['touched']:.1f} % of {rate['attempts']} attempts"
    )
    if facts["failures"]:
        table = Table(title="Failures", title_justify="left")
        for heading in ("subtask", "arm", "why", "attempts"):
            table.add_column(heading)
        for row in facts["failures"]:
            table.add_row(row["subtask"], row["eef"], REASONS.get(row["reason"], row["reason"]), str(row["count"]))
        out.print(table)
    table = Table(title="Columns", title_justify="left")
    for heading in ("column", "type", "min", "mean", "max"):
        table.add_column(heading, overflow="fold")
    for row in facts["columns"]:
        table.add_row(
            row["name"], f"{row['dtype']}{row['shape']}", *(_numbers(row.get(k)) for k in ("min", "mean", "max"))
        )
    out.print(table)
    for executor, count in facts["made_by"].items():
        out.print(f"{count} episodes simulated by {executor}")
    if facts["run_again_on_cpu"] is not None:
        out.print(run_again_sentence(facts["run_again_on_cpu"]))
    out.print("made with " + ", ".join(f"{k} {v}" for k, v in facts["executor"].items()))
    if facts["verified"]:
        out.print("[green]verified[/]: every file, video frame, time stamp and index is as it should be")


def _numbers(values: Any) -> str:
    if values is None:
        return "-"
    flat = values if isinstance(values, list) else [values]
    shown = [f"{v:.3g}" for v in flat[:4]] if flat and not isinstance(flat[0], list) else ["..."]
    return " ".join(shown) + (" ..." if len(flat) > 4 else "")


# --- bench ------------------------------------------------------------------------------------------------------------


def print_bench(facts: Mapping[str, Any]) -> None:
    """Print what `factory bench` measured."""
    table = Table(title=f"Control of {facts['task']}, CPU time per control step", title_justify="left")
    for heading in ("scene", "mj_step, us", "compiled", "robosuite", "compiled / mj_step", "robosuite / compiled"):
        table.add_column(heading, overflow="fold")
    measured = {facts["task"]: facts["control"]} if "control" in facts else {}
    for name, control in (measured | facts.get("scenes", {})).items():
        cost, ratio = control["cpu_us_per_control_step"], control["ratios"]
        table.add_row(
            name,
            *(f"{cost[way]['median']:.0f}" for way in ("mj_step", "compiled", "robosuite")),
            *(_range(ratio[pair]) for pair in ("compiled_to_mj_step", "robosuite_to_compiled")),
        )
    if table.row_count:
        out.print(table)
    runs = {"states only": facts["generate"]} if "generate" in facts else {}
    runs |= {f"two cameras, {preset}": made for preset, made in facts.get("cameras", {}).items()}
    for name, made in runs.items():
        out.print(
            f"[bold]{name}[/]: {made['successes_per_cpu_s']:.2f} episodes a CPU-second "
            f"({made['episodes']} of {made['attempts']} attempts, {made['cpu_s']:.0f} CPU-s), "
            f"{made['bytes_per_episode'] / 1024:.0f} KiB each"
            + (f", {100 * made['share_of_limit']:.0f} % of what mj_step allows" if "share_of_limit" in made else "")
        )
    if "engine" in facts:
        parts = ", ".join(f"{part} {ms:.1f}" for part, ms in facts["engine"]["cpu_ms_per_attempt"].items())
        out.print(f"engine share of an attempt: {100 * facts['engine']['engine_share']:.1f} % (CPU ms: {parts})")
    if "generate" in facts:
        out.print(f"first attempt after {facts['generate']['first_attempt_s']:.1f} s")
    for name, times in facts.get("over_mimicgen", {}).items():
        if name != "reference":
            out.print(f"{name}: {times:.1f} x MimicGen ({'side by side' if 'mimicgen' in facts else 'its known rate'})")
    for part in ("render", "gpu"):
        if part in facts:
            out.print(f"[bold]{part}[/]", facts[part])


def _range(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.2f} ({spread['low']:.2f}-{spread['high']:.2f})"
