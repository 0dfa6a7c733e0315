"""The page beside a dataset: how many attempts succeeded, where the others failed, and what to do with the episodes.

One HTML file that needs nothing else: styles, figures and pictures are inside, no script runs, nothing is fetched.
"""

from __future__ import annotations

import base64
import math
import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from api import charts
from factory.dataset_reading import open_dataset
from factory.diagnosis import REASONS
from factory.provenance import StoredAttempts
from factory.statistics import AttemptRecord, failure_table, source_diversity, start_coverage, wilson
from factory.training import Training, training_commands
from workers.generate import REPORT
from workers.pictures import Thumbnail, dataset_thumbnails

_STILL_M = 1e-3
"""Starts that differ by less than this are one start; a figure of it would only show rounding."""

_SHORT_COMMAND = 100
"""Characters of a command that still fit one line of the page."""

_MOST_DRAWN = 20_000
"""Attempts that figures look at; more would make the same picture, and a page that no browser opens."""

_MOST_DEMOS = 20
"""Bars of source demos before the rest goes to the table alone."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Everything the page says, as plain values.

    Attributes:
        name: the dataset's name.
        instructions: what the robot was told, most usual first.
        attempts: every attempt that counts, failures included.
        lengths: rows per episode; may be empty.
        fps: rows per second.
        frames: rows of all episodes together.
        robot: robot type.
        cameras: camera name -> "256 x 256" or the like.
        subtasks: names of the subtasks, in order, for one-armed tasks.
        job: what was asked for, possibly nested.
        thumbnails: pictures to show; may be empty.
        training: how to train on it; None leaves the section out.
    """

    name: str
    instructions: tuple[str, ...]
    attempts: Collection[AttemptRecord]
    lengths: Sequence[int]
    fps: int
    frames: int
    robot: str
    cameras: Mapping[str, str] = field(default_factory=dict)
    subtasks: tuple[str, ...] = ()
    job: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: Sequence[Thumbnail] = ()
    training: Training | None = None


def write_report(root: Path) -> Path:
    """Write `report.html` into a finished dataset and return its path; writing it again gives the same page.

    Raises DatasetError when `root` is not a dataset of ours.
    """
    page = render_page(read_report(root))
    path = root / REPORT
    temporary = path.with_suffix(".new")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def read_report(root: Path) -> Report:
    """Collect from a finished dataset what its page says. Raises DatasetError when it is not one of ours."""
    dataset = open_dataset(root)
    shapes = {name: dataset.features[f"observation.images.{name}"]["shape"] for name in dataset.cameras}
    return Report(
        name=root.resolve().name,
        instructions=dataset.tasks,
        attempts=StoredAttempts(root),
        lengths=dataset.lengths,
        fps=dataset.fps,
        frames=dataset.frames,
        robot=dataset.robot_type,
        cameras={name: f"{shape[1]} × {shape[0]}" for name, shape in shapes.items()},
        subtasks=dataset.subtasks,
        job=dataset.job,
        thumbnails=dataset_thumbnails(root),
        training=training_commands(root),
    )


def render_page(report: Report) -> str:
    """Return the HTML page. Every text in it is escaped."""
    # Counts are of all attempts, gone through one by one; figures and tables of pieces are of some, evenly spread.
    step = -(-len(report.attempts) // _MOST_DRAWN)
    some = list(report.attempts) if step <= 1 else list(islice(report.attempts, 0, None, step))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "thousands": lambda n: f"{n:,}", "folded": _folded}
    template = resources.files("workers").joinpath("templates/report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(template).render(
        report=report,
        outcome=_outcome(report.attempts),
        failures=_failures(report.attempts),
        starts=_starts(some),
        demos=_demos(some),
        most_demos=_MOST_DEMOS,
        segments=_segments(report.subtasks, some),
        lengths=charts.histogram(report.lengths) if report.lengths else None,
        episodes=_episodes(report.thumbnails),
        again=report.job.get("run_again_on_cpu"),
        facts=[(k, v) for k, v in _flat(report.job) if k != "command" and not k.startswith("run_again_on_cpu.")],
        executors=sorted({attempt.executor for attempt in some if attempt.executor}),
        side=charts.SIDE,
        left=charts.LEFT,
        bottom=charts.BOTTOM,
        pad=charts.PAD,
    )


def _outcome(attempts: Collection[AttemptRecord]) -> dict[str, Any]:
    """Count, and say what most failures have in common."""
    n, held, touched, steps = len(attempts), 0, 0, 0
    for attempt in attempts:
        held += attempt.outcome == "success"
        touched += attempt.touched or attempt.held
        steps += attempt.steps
    rate, low, high = wilson(held, n)
    return {
        "n": n,
        "held": held,
        "failed": n - held,
        "touched": touched,
        "rate": rate,
        "low": low,
        "high": high,
        "steps": steps,
    }


def _failures(attempts: Collection[AttemptRecord]) -> list[dict[str, Any]]:
    rows = failure_table(attempts)
    arms = {row.eef for row in rows if row.eef}
    most = max((row.count for row in rows), default=1)
    return [
        {
            "where": " · ".join(part for part in (row.subtask, row.eef if len(arms) > 1 else "") if part) or "anywhere",
            "eef": row.eef,
            "reason": row.reason.replace("_", " "),
            "words": REASONS.get(row.reason, ""),
            "count": row.count,
            "width": 100.0 * row.count / most,
        }
        for row in rows
    ]


def _starts(attempts: Sequence[AttemptRecord]) -> list[dict[str, Any]]:
    coverage = start_coverage(attempts)
    found: list[dict[str, Any]] = []
    for name in sorted({name for a in attempts for name in a.start_poses}):
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
                "covered": coverage[name].covered,
            }
        )
    return found


def _demos(attempts: Sequence[AttemptRecord]) -> dict[str, Any]:
    """Return how often each demo was used and how often that went well; an attempt counts once per demo."""
    diversity = source_diversity(attempts)
    good = Counter(d for a in attempts if a.outcome == "success" for d in {str(s["demo"]) for s in a.sources})
    most = max(diversity.counts.values(), default=1)
    bars = [
        {"demo": demo, "used": used, "good": good[demo], "width": 100.0 * used / most, "share": good[demo] / used}
        for demo, used in sorted(diversity.counts.items(), key=lambda item: (-item[1], item[0]))
        if used
    ]
    return {"bars": bars, "effective": diversity.effective}


def _segments(subtasks: Sequence[str], attempts: Sequence[AttemptRecord]) -> list[dict[str, Any]]:
    """Return which rows of which demo were used for which subtask, most used first."""
    one_arm = len({str(s.get("eef", "")) for a in attempts for s in a.sources}) <= 1
    pieces: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for use in (s for a in attempts for s in a.sources if "subtask" in s):
        number = use["subtask"]
        named = one_arm and isinstance(number, int) and number < len(subtasks)
        subtask = subtasks[number] if named else f"{use.get('eef', '')} {number}".strip()
        pieces.setdefault((str(use["demo"]), subtask), []).append(use)
    rows = [
        {
            "demo": demo,
            "subtask": subtask,
            "used": len(uses),
            "rows": f"{min(u['start'] for u in uses)}–{max(u['stop'] for u in uses)}" if "start" in uses[0] else "",
        }
        for (demo, subtask), uses in pieces.items()
    ]
    return sorted(rows, key=lambda row: (-row["used"], row["demo"], row["subtask"]))


def _episodes(thumbnails: Sequence[Thumbnail]) -> dict[int, dict[str, list[tuple[str, int, str]]]]:
    """Return episode -> camera -> (moment, row, data URL)."""
    found: dict[int, dict[str, list[tuple[str, int, str]]]] = {}
    for picture in thumbnails:
        url = "data:image/jpeg;base64," + base64.b64encode(picture.jpeg).decode()
        row = (picture.moment, picture.row, url)
        found.setdefault(picture.episode, {}).setdefault(picture.camera, []).append(row)
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the leaves of nested settings as (dotted name, text)."""
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        elif isinstance(item, list | tuple):
            yield prefix + name, ", ".join(str(part) for part in item)
        elif item is not None and item != "":
            yield prefix + name, str(item)


def _folded(command: str) -> str:
    """Return a shell command with one option a line; pasted into a shell it is the same command."""
    try:
        parts = shlex.split(command)
    except ValueError:  # not a command a shell would take; show it as it is
        return command
    lines: list[str] = []
    for part in parts:
        if lines and not part.startswith("--"):
            lines[-1] += " " + shlex.quote(part)
        else:
            lines.append(shlex.quote(part))
    return command if len(command) < _SHORT_COMMAND else " \\\n  ".join(lines)


def _percent(share: float, digits: int = 1) -> str:
    return "–" if math.isnan(share) else f"{100.0 * share:.{digits}f}"
