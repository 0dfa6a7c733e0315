"""Geometry of curves that stretch with the page: paths in a square of 1000 x 1000 units, labels in per cent of it.

A template draws the paths inside an SVG that may be stretched to any shape, lines of constant width, and the labels in
one that is not, so that a figure is as wide as its column and its text is never larger or smaller than the text around.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.charts import Tick

UNIT = 1000.0
_SPEED_BARS = 48
"""Bars of the speed figure: wide enough on a telephone to be seen as bars."""


@dataclass(frozen=True, kw_only=True)
class Course:
    """A rate between 0 and 1 that settles, and how well it is known.

    Attributes:
        line: path of the rate; likewise band, of its interval.
        band: see line.
        x_ticks: labels along the bottom, per cent from the left; likewise y_ticks, per cent from the top.
        y_ticks: see x_ticks.
        last_x: where the line ends, per cent; likewise last_y.
        last_y: see last_x.
    """

    line: str
    band: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    last_x: float
    last_y: float


@dataclass(frozen=True, kw_only=True)
class Step:
    """One bar: per cent of the figure's width and height from its top left corner, and what it says."""

    x: float
    y: float
    width: float
    height: float
    words: str


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Attempts per second over the time since a job's start."""

    steps: tuple[Step, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    mean: float


def course(rows: Sequence[Mapping[str, Any]]) -> Course | None:
    """Return the figure of `jobs.rate_over_time`; None when there is nothing to draw yet.

    The interval of the first handful of attempts fills the whole figure and says nothing; it is drawn all the same.
    """
    if not rows:
        return None
    most = float(rows[-1]["attempts"])
    xs = [UNIT * row["attempts"] / most for row in rows]
    if len(rows) == 1:  # one point is no line; let it span the figure
        rows, xs = [rows[0], rows[0]], [0.0, UNIT]
    line = _path([(x, row["rate"]) for x, row in zip(xs, rows, strict=True)])
    there = [(x, row["high"]) for x, row in zip(xs, rows, strict=True)]
    back = [(x, row["low"]) for x, row in zip(reversed(xs), reversed(rows), strict=True)]
    return Course(
        line=line,
        band=f"{_path([*there, *back])}Z",
        x_ticks=tuple(Tick(at=round(100 * v / most, 2), label=f"{v:,.0f}") for v in round_values(most, 5, whole=True)),
        y_ticks=tuple(Tick(at=100.0 - p, label=f"{p} %" if p == 100 else str(p)) for p in (0, 50, 100)),
        last_x=100.0,
        last_y=round(100.0 * (1.0 - rows[-1]["rate"]), 2),
    )


def sparkline(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the path of a rate over attempts, small; empty when there are fewer than two points."""
    if len(rows) < 2:
        return ""
    most = float(rows[-1]["attempts"])
    return _path([(UNIT * row["attempts"] / most, row["rate"]) for row in rows])


def speed(rows: Sequence[Mapping[str, Any]]) -> Speed | None:
    """Return the figure of attempts per second from `jobs.rate_over_time`; None when nothing can be said yet.

    Attempts are committed in groups, so they are counted in equal spans of time.
    """
    if len(rows) < 2 or rows[-1]["elapsed_s"] <= 0:
        return None
    span = float(rows[-1]["elapsed_s"])
    count = max(2, min(_SPEED_BARS, len(rows), int(rows[-1]["attempts"]) // 4))
    times = [0.0, *(min(float(row["elapsed_s"]), span) for row in rows)]
    totals = [0.0, *(float(row["attempts"]) for row in rows)]
    made = [_at(times, totals, span * i / count) for i in range(count + 1)]
    rates = [(b - a) * count / span for a, b in itertools.pairwise(made)]
    ticks = round_values(max(rates), 2)
    top = max(*rates, ticks[-1]) or 1.0
    width = 100.0 / count
    return Speed(
        steps=tuple(
            Step(
                x=round(i * width + 0.1 * width, 3),
                y=round(100.0 * (1.0 - rate / top), 2),
                width=round(0.8 * width, 3),
                height=round(100.0 * rate / top, 2),
                words=f"{span * i / count:.0f} to {span * (i + 1) / count:.0f} s: {rate:.2f} attempts per second",
            )
            for i, rate in enumerate(rates)
        ),
        x_ticks=tuple(Tick(at=round(100 * v / span, 2), label=_seconds(v)) for v in round_values(span, 4)),
        y_ticks=tuple(Tick(at=round(100 * (1 - v / top), 2), label=f"{v:g}") for v in ticks),
        mean=float(rows[-1]["attempts"]) / span,
    )


def trace(values: Sequence[float], *, low: float | None = None, high: float | None = None) -> str:
    """Return the path of evenly spaced values between `low` (bottom) and `high` (top); by default what they span."""
    if len(values) < 2:
        return ""
    bottom = min(values) if low is None else low
    top = max(values) if high is None else high
    height = (top - bottom) or 1.0
    return _path([(UNIT * i / (len(values) - 1), (v - bottom) / height) for i, v in enumerate(values)])


def round_values(most: float, wanted: int, *, whole: bool = False) -> list[float]:
    """Return 0 and the round values up to `most`, about `wanted` of them; at least 0 and one more."""
    if most <= 0:
        return [0.0, 1.0]
    raw = most / wanted
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1.0 - 1e-9))
    step = max(step, 1.0) if whole else step
    return [i * step for i in range(math.floor(most / step * (1 + 1e-9)) + 1)] or [0.0]


def _path(points: Sequence[tuple[float, float]]) -> str:
    """Return a path through points (x in units, share of the height from below)."""
    return "M" + "L".join(f"{x:.1f} {UNIT * (1.0 - min(1.0, max(0.0, y))):.1f}" for x, y in points)


def _at(times: Sequence[float], totals: Sequence[float], moment: float) -> float:
    """Return the total at a moment, linearly between the known ones."""
    for i in range(1, len(times)):
        if moment <= times[i]:
            width = times[i] - times[i - 1]
            share = (moment - times[i - 1]) / width if width > 0 else 1.0
            return totals[i - 1] + share * (totals[i] - totals[i - 1])
    return totals[-1]


def _seconds(value: float) -> str:
    return "0" if value == 0 else f"{value:g} s" if value < 600 else f"{value / 60:g} min"
