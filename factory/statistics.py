"""What a job's attempts and a dataset's numbers say about themselves.

Two kinds of statistics of features, both exact, neither sampled:

- numbers (state, action, ...): one pass over all rows at once; quantiles are of all rows. Quantiles of parts cannot be
  merged into the quantile of the whole, so nothing here tries;
- pictures: 256-bin histograms per channel, which the encoder counts; they merge by addition and lose nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from factory.errors import SpecError

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the standard normal distribution."""

_BLOCK = 1 << 22
"""Numbers looked at together by `feature_statistics`: 32 MB in float64."""

Statistics = dict[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class AttemptRecord:
    """How one attempt went, in the few words that every attempt leaves, kept or not.

    Attributes:
        index: attempt index within its job.
        outcome: what was decided.
        held: success was true to the end of the hold.
        touched: success was true at least once, held or not.
        subtask: name of the subtask the failure happened in; empty for a success. Likewise `eef` and `reason`.
        eef: see subtask.
        reason: see subtask.
        sources: the pieces of demos used, JSON-ready, each with at least "demo".
        start_poses: object -> requested start pose, (x, y, z, qw, qx, qy, qz), metres, world frame.
        steps: control steps of the episode; settling is not among them.
        executor: who ran it.
    """

    index: int
    outcome: Literal["success", "failure"]
    held: bool = False
    touched: bool = False
    subtask: str = ""
    eef: str = ""
    reason: str = ""
    sources: tuple[Mapping[str, Any], ...] = ()
    start_poses: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    steps: int = 0
    executor: str = ""

    def __post_init__(self) -> None:
        if self.index < 0 or self.outcome not in ("success", "failure"):
            raise SpecError(f"attempt record {self.index}: outcome {self.outcome!r}; known: success, failure")
        if (self.outcome == "success") == bool(self.reason):
            raise SpecError(f"attempt {self.index} is a {self.outcome} with reason {self.reason!r}")
        for name, pose in self.start_poses.items():
            if len(pose) != 7:
                raise SpecError(f"attempt {self.index}: start pose of {name!r} has {len(pose)} numbers, expected 7")


def wilson(successes: int, n: int) -> tuple[float, float, float]:
    """Return (rate, low, high): the 95 % score interval of Wilson (1927) for `successes` out of `n`.

    With n = 0 nothing is known: (nan, 0, 1). Raises SpecError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise SpecError(f"{successes} successes out of {n} attempts")
    if n == 0:
        return math.nan, 0.0, 1.0
    rate, z2 = successes / n, Z95 * Z95
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return rate, low, high


@dataclass(frozen=True, kw_only=True)
class FailureRow:
    """How often attempts failed in one subtask of one arm for one reason."""

    subtask: str
    eef: str
    reason: str
    count: int


def failure_table(attempts: Sequence[AttemptRecord]) -> list[FailureRow]:
    """Return failures by subtask, arm and reason, most frequent first; the counts add up to the failures."""
    counts = Counter((a.subtask, a.eef, a.reason) for a in attempts if a.outcome == "failure")
    rows = [FailureRow(subtask=s, eef=e, reason=r, count=n) for (s, e, r), n in counts.items()]
    return sorted(rows, key=lambda row: (-row.count, row.subtask, row.eef, row.reason))


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Where an object was asked to start, and where starting there led to success.

    Attributes:
        x_edges_m: ``(bins + 1,)`` edges over the requested starts; likewise y_edges_m.
        y_edges_m: see x_edges_m.
        requested: ``(bins, bins)`` attempts per cell, x first.
        succeeded: ``(bins, bins)`` successes per cell; nowhere more than requested.
    """

    x_edges_m: NDArray[np.float64]
    y_edges_m: NDArray[np.float64]
    requested: NDArray[np.int64]
    succeeded: NDArray[np.int64]

    @property
    def covered(self) -> float:
        """Share of the cells asked for that have at least one success."""
        asked = self.requested > 0
        return float((self.succeeded[asked] > 0).mean()) if asked.any() else 0.0


def start_coverage(attempts: Sequence[AttemptRecord], *, bins: int = 8) -> dict[str, Coverage]:
    """Return the coverage of start positions of every object, over a grid that spans its requested positions."""
    result: dict[str, Coverage] = {}
    for name in sorted({name for attempt in attempts for name in attempt.start_poses}):
        chosen = [a for a in attempts if name in a.start_poses]
        xy = np.array([a.start_poses[name][:2] for a in chosen], np.float64)
        good = np.array([a.outcome == "success" for a in chosen], bool)
        requested, (x_edges, y_edges) = np.histogramdd(xy, bins=bins)
        succeeded, _ = np.histogramdd(xy[good], bins=(x_edges, y_edges))
        result[name] = Coverage(
            x_edges_m=x_edges,
            y_edges_m=y_edges,
            requested=requested.astype(np.int64),
            succeeded=succeeded.astype(np.int64),
        )
    return result


@dataclass(frozen=True, kw_only=True)
class Diversity:
    """How evenly demos were used.

    Attributes:
        counts: demo -> in how many attempts it was used.
        entropy: Shannon entropy of the shares over its maximum, 0 (one demo) to 1 (all alike); 0 when there is one.
        effective: exp(entropy): as many equally used demos would be as diverse.
    """

    counts: Mapping[str, int]
    entropy: float
    effective: float


def source_diversity(attempts: Sequence[AttemptRecord], *, available: Sequence[str] = ()) -> Diversity:
    """Return how evenly demos were used; `available` names demos that count although none may have been used."""
    counts = Counter(dict.fromkeys(available, 0))
    for attempt in attempts:
        counts.update({str(source["demo"]) for source in attempt.sources})
    used = np.array([n for n in counts.values() if n], float)
    if used.size == 0:
        return Diversity(counts=dict(counts), entropy=0.0, effective=0.0)
    shares = used / used.sum()
    entropy = max(0.0, float(-(shares * np.log(shares)).sum()))
    relative = entropy / math.log(len(counts)) if len(counts) > 1 else 0.0
    return Diversity(counts=dict(sorted(counts.items())), entropy=min(1.0, relative), effective=math.exp(entropy))


def feature_statistics(rows: NDArray[Any]) -> Statistics:
    """Return exact statistics of ``(n, k)`` or ``(n,)`` rows, n >= 1: each ``(k,)``, `count` ``(1,)``.

    Quantiles are those of all rows, linearly interpolated; `std` is the population's. Computed in float64, a few
    elements at a time, so that a large column is never copied whole.
    """
    table = rows.reshape(len(rows), -1)
    names = ("min", "max", "mean", "std", *QUANTILES)
    found = np.empty((len(names), table.shape[1]))
    width = max(1, _BLOCK // len(rows))
    for k in range(0, table.shape[1], width):
        block = table[:, k : k + width].astype(np.float64)
        found[:4, k : k + width] = block.min(0), block.max(0), block.mean(0), block.std(0)
        found[4:, k : k + width] = np.quantile(block, list(QUANTILES.values()), axis=0)
    return {**dict(zip(names, found, strict=True)), "count": np.array([len(rows)])}


def merge_histograms(parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the histogram ``(3, 256)`` of all pictures together; exact, in any order and grouping."""
    return np.sum(np.stack(parts), axis=0)


def image_statistics(histogram: NDArray[np.int64], *, frames: int) -> Statistics:
    """Return exact statistics of the pictures a histogram ``(3, 256)`` counts: each ``(3, 1, 1)``, in [0, 1].

    `count` is the number of frames. Quantiles agree with `numpy.quantile` over all pixels.
    """
    levels = np.arange(256) / 255.0
    names = ("min", "max", "mean", "std", *QUANTILES)
    found = np.empty((len(names), 3))
    for channel, counts in enumerate(histogram):
        seen = np.flatnonzero(counts)
        mean = float(counts @ levels / counts.sum())
        std = math.sqrt(float(counts @ (levels - mean) ** 2 / counts.sum()))
        quantiles = [_histogram_quantile(counts, q) for q in QUANTILES.values()]
        found[:, channel] = [levels[seen[0]], levels[seen[-1]], mean, std, *quantiles]
    return {**{n: row.reshape(3, 1, 1) for n, row in zip(names, found, strict=True)}, "count": np.array([frames])}


def _histogram_quantile(counts: NDArray[np.int64], q: float) -> float:
    """Return the linearly interpolated quantile of 8-bit values given their counts, in [0, 1]."""
    cumulative = np.cumsum(counts)
    position = q * (int(cumulative[-1]) - 1)
    below = math.floor(position)
    low, high = np.searchsorted(cumulative, [below, min(below + 1, int(cumulative[-1]) - 1)], side="right")
    return float(low + (high - low) * (position - below)) / 255.0
