"""Geometry of the report's figures: numbers in, positions in drawing units out; the template draws them as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SIDE, LEFT, BOTTOM, PAD = 320.0, 46.0, 40.0, 10.0
"""A square figure's side, and what is kept free for labels, in drawing units (about a pixel)."""

_MOST_POINTS = 1500
"""Points drawn per figure; beyond that a scatter is a blot and the page grows by megabytes."""


@dataclass(frozen=True, kw_only=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One start of one object."""

    x: float
    y: float
    good: bool


@dataclass(frozen=True, kw_only=True)
class Scatter:
    """Starts of one object from above, the same scale on both axes.

    Attributes:
        points: failures first, so that successes lie on top.
        radius: of a point.
        x_ticks: along the bottom; likewise y_ticks along the left.
        y_ticks: see x_ticks.
        left_out: points not drawn because there are too many.
    """

    points: tuple[Point, ...]
    radius: float
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One bar of a histogram: values in [low, high), `count` of them, drawn at x with a width and a height."""

    low: int
    high: int
    count: int
    x: float
    width: float
    height: float


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Bars side by side above a common floor, and where the median stands."""

    bars: tuple[Bar, ...]
    ticks: tuple[Tick, ...]
    median: float
    median_at: float
    width: float
    height: float


def scatter(xy_m: Sequence[tuple[float, float]], good: Sequence[bool]) -> Scatter:
    """Return the figure of at least one start position, metres, seen from above: x to the right, y up."""
    xy, kept = np.array(xy_m, float), np.array(good, bool)
    left_out = max(0, len(xy) - _MOST_POINTS)
    shown = np.arange(len(xy))[:_MOST_POINTS]
    middle = (xy.min(axis=0) + xy.max(axis=0)) / 2.0
    half = max(float((xy.max(axis=0) - xy.min(axis=0)).max()) / 2.0 * 1.08, 0.005)
    scale = (SIDE - LEFT - PAD) / (2.0 * half)

    def across(x: float) -> float:
        return round(LEFT + (x - middle[0] + half) * scale, 1)

    def down(y: float) -> float:
        return round(PAD + (middle[1] + half - y) * scale, 1)

    order = sorted(shown, key=lambda i: bool(kept[i]))
    return Scatter(
        points=tuple(Point(x=across(xy[i, 0]), y=down(xy[i, 1]), good=bool(kept[i])) for i in order),
        radius=4.0 if len(shown) <= 120 else 3.0 if len(shown) <= 500 else 2.0,
        x_ticks=tuple(Tick(at=across(v), label=label) for v, label in _ticks(middle[0] - half, middle[0] + half, 5)),
        y_ticks=tuple(Tick(at=down(v), label=label) for v, label in _ticks(middle[1] - half, middle[1] + half, 5)),
        left_out=left_out,
    )


def histogram(values: Sequence[int], *, width: float = 480.0, height: float = 190.0) -> Histogram:
    """Return the figure of at least one whole number, with bins of a round width."""
    low, high = min(values), max(values)
    bars = min(18.0, max(4.0, 2.0 * math.sqrt(len(values))))  # fewer values, wider bins: no comb with gaps
    step = max(1, round(_nice((high - low + 1) / bars)))
    start = low // step * step
    edges = np.arange(start, high + step + 1, step)
    counts, _ = np.histogram(values, edges)
    scale = width / float(edges[-1] - edges[0])
    tallest = float(counts.max())
    every = max(1, math.ceil(len(edges) / 7))
    median = float(np.median(values))
    return Histogram(
        bars=tuple(
            Bar(
                low=int(edges[i]),
                high=int(edges[i + 1]),
                count=int(count),
                x=round((edges[i] - start) * scale, 1),
                width=round(step * scale, 1),
                height=round(height * count / tallest, 1),
            )
            for i, count in enumerate(counts)
        ),
        ticks=tuple(Tick(at=round((e - start) * scale, 1), label=f"{e:,}") for e in edges[::every]),
        median=median,
        median_at=round((median - start) * scale, 1),
        width=width,
        height=height,
    )


def _nice(step: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50, ... (or 0.5, 0.2, ...) that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= step * (1.0 - 1e-9))


def _ticks(low: float, high: float, wanted: int) -> list[tuple[float, str]]:
    """Return round values within [low, high], about `wanted` of them, with labels of equal precision."""
    step = _nice((high - low) / wanted)
    digits = max(0, -math.floor(math.log10(step)))
    first = math.ceil(low / step)
    values = [i * step for i in range(first, math.floor(high / step) + 1)]
    return [(value, f"{value + 0.0:.{digits}f}".replace("-", "−")) for value in values]
