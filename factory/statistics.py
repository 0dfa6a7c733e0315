"""What a job's attempts and a dataset's numbers say about themselves.

Two kinds of statistics of features, both exact, neither sampled:

- numbers (state, action, ...): quantiles are of all rows. Quantiles of parts cannot be merged into the quantile of the
  whole, so nothing here tries: a few rows are looked at all at once, many in several passes over blocks of them;
- pictures: 256-bin histograms per channel, which the encoder counts; they merge by addition and lose nothing.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
_DIGIT_BITS = 12
"""Bits of a number that one pass of `streamed_statistics` settles: three passes for float32, and small counters."""

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


def paired_difference(gained: int, lost: int, n: int) -> tuple[float, float, float]:
    """Return the difference of two success rates on the same n cases and its 95 % interval, all in [-1, 1].

    Args:
        gained: cases where the first succeeded and the second did not; `lost`: the other way round.
        lost: see gained.
        n: all cases, at least `gained + lost`.

    Raises:
        SpecError: counts do not fit.

    The interval is Bonett and Price's adjusted Wald interval for paired proportions (2012), good for small n.
    """
    if n <= 0 or gained < 0 or lost < 0 or gained + lost > n:
        raise SpecError(f"a difference was asked of {gained} gained and {lost} lost of {n} pairs")
    p, q = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    reach = Z95 * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    return (gained - lost) / n, max(p - q - reach, -1.0), min(p - q + reach, 1.0)


def evenly(total: int, share: float) -> tuple[int, ...]:
    """Return which of `total` things make up a share of them, evenly over them, at least one unless there are none.

    No draw decides, so the same things are always looked at. Raises SpecError unless 0 < share <= 1.
    """
    if not 0.0 < share <= 1.0:
        raise SpecError(f"a share of {share} was asked for; it must be above 0 and not above 1")
    count = math.ceil(share * total - 1e-9)
    return tuple((2 * k + 1) * total // (2 * count) for k in range(count))


@dataclass(frozen=True, kw_only=True)
class FailureRow:
    """How often attempts failed in one subtask of one arm for one reason."""

    subtask: str
    eef: str
    reason: str
    count: int


def failure_table(attempts: Iterable[AttemptRecord]) -> list[FailureRow]:
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


def start_coverage(attempts: Iterable[AttemptRecord], *, bins: int = 8) -> dict[str, Coverage]:
    """Return the coverage of start positions of every object, over a grid that spans its requested positions."""
    positions: dict[str, array[float]] = {}
    outcomes: dict[str, bytearray] = {}
    for attempt in attempts:
        for name, pose in attempt.start_poses.items():
            positions.setdefault(name, array("d")).extend(pose[:2])
            outcomes.setdefault(name, bytearray()).append(attempt.outcome == "success")
    result: dict[str, Coverage] = {}
    for name in sorted(positions):
        xy = np.frombuffer(positions[name]).reshape(-1, 2)
        good = np.frombuffer(outcomes[name], bool)
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


def source_diversity(attempts: Iterable[AttemptRecord], *, available: Sequence[str] = ()) -> Diversity:
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


def streamed_statistics(blocks: Callable[[], Iterable[NDArray[Any]]]) -> Statistics:
    """Return what `feature_statistics` returns for rows that come in blocks, in memory for one block of them.

    Quantiles are exact: each pass counts the next twelve bits of the values that may still be the ones looked for.
    Mean and deviation are sums over blocks, so their last bits depend on how rows were cut.

    Args:
        blocks: begins a pass: yields arrays ``(n, k)`` or ``(n,)`` of one type, the same ones each time.

    Raises:
        SpecError: there is no row.
    """
    count, low, high, total = 0, np.inf, -np.inf, 0.0
    for block in _numbers(blocks):
        count += len(block)
        low, high = np.minimum(low, block.min(0)), np.maximum(high, block.max(0))
        total = total + block.sum(0, dtype=np.float64)
    if not count:
        raise SpecError("there are no rows to describe; at least one is needed")
    mean = np.atleast_1d(total / count)
    positions = (count - 1) * np.array(list(QUANTILES.values()))
    below = np.floor(positions).astype(np.int64)
    wanted = np.concatenate([below, np.minimum(below + 1, count - 1)])
    search: _RankSearch | None = None
    squares = np.zeros(len(mean))
    while search is None or not search.is_done:
        first = search is None
        for block in _numbers(blocks):
            search = search or _RankSearch(wanted, columns=len(mean), bits=8 * block.dtype.itemsize)
            if first:
                squares += ((block - mean) ** 2).sum(0)
            search.count(block)
        assert search is not None  # noqa: S101 - there was a row in the first pass
        search.narrow()
    left, right = search.values().reshape(2, len(below), -1)
    share = (positions - below)[:, None]
    # As numpy interpolates, from the nearer side, so that both agree in every bit.
    step = right - left
    quantiles = np.where(share < 0.5, left + step * share, right - step * (1.0 - share))
    names = ("min", "max", "mean", "std", *QUANTILES)
    moments = np.broadcast_arrays(low, high, mean, np.sqrt(squares / count))
    found = np.concatenate([np.stack(moments).astype(np.float64), quantiles])
    return {**dict(zip(names, found, strict=True)), "count": np.array([count])}


def _numbers(blocks: Callable[[], Iterable[NDArray[Any]]]) -> Iterator[NDArray[Any]]:
    """Yield blocks that have rows as ``(n, k)`` of float32 or float64."""
    for block in blocks():
        if len(block):
            table = block.reshape(len(block), -1)
            # Minus zero is zero: they compare equal but their bits do not.
            yield (table if table.dtype == np.float32 else table.astype(np.float64)) + np.float32(0.0)


class _RankSearch:
    """Looks for the values of given ranks in each column, from their highest bits to their lowest.

    Floats become unsigned integers in the same order; a prefix of their bits then stands for an interval.
    """

    def __init__(self, ranks: NDArray[np.int64], *, columns: int, bits: int) -> None:
        self._bits = self._left = bits
        self._step = 0
        # Column by column: intervals that hold a rank looked for; for each rank which one, and its rank within it.
        self._prefixes = [np.zeros(1, np.uint64) for _ in range(columns)]
        self._which = [np.zeros(len(ranks), np.int64) for _ in range(columns)]
        self._ranks = [ranks.copy() for _ in range(columns)]
        self._begin()

    @property
    def is_done(self) -> bool:
        """Whether every value is known to its last bit."""
        return self._left == 0

    def count(self, block: NDArray[Any]) -> None:
        """Count the next bits of ``(n, k)`` values."""
        keys = _ordered_bits(block) >> np.uint64(self._left - self._step)
        digits = (keys & np.uint64((1 << self._step) - 1)).astype(np.int64)
        above = keys >> np.uint64(self._step)
        for column, prefixes in enumerate(self._prefixes):
            at = np.minimum(np.searchsorted(prefixes, above[:, column]), len(prefixes) - 1)
            inside = prefixes[at] == above[:, column]
            cells = (at[inside] << self._step) | digits[inside, column]
            self._counts[column] += np.bincount(cells, minlength=len(prefixes) << self._step)

    def narrow(self) -> None:
        """Take the bits that were counted as settled."""
        for column, counts in enumerate(self._counts):
            cumulative = counts.reshape(-1, 1 << self._step).cumsum(axis=1)
            found = np.empty(len(self._ranks[column]), np.uint64)
            for i, (which, rank) in enumerate(zip(self._which[column], self._ranks[column], strict=True)):
                digit = int(np.searchsorted(cumulative[which], rank, side="right"))
                self._ranks[column][i] = rank - (cumulative[which, digit - 1] if digit else 0)
                found[i] = (int(self._prefixes[column][which]) << self._step) | digit
            self._prefixes[column], self._which[column] = np.unique(found, return_inverse=True)
        self._left -= self._step
        self._begin()

    def values(self) -> NDArray[np.float64]:
        """Return the values found: ``(ranks, k)``."""
        keys = np.stack([p[w] for p, w in zip(self._prefixes, self._which, strict=True)], axis=1)
        return _from_ordered_bits(keys, self._bits).astype(np.float64)

    def _begin(self) -> None:
        self._step = min(_DIGIT_BITS, self._left)
        self._counts = [np.zeros(len(prefixes) << self._step, np.int64) for prefixes in self._prefixes]


def _ordered_bits(values: NDArray[Any]) -> NDArray[np.uint64]:
    """Return unsigned integers in the order of the floats: negative ones with all bits turned, others with the sign."""
    bits = 8 * values.dtype.itemsize
    raw = np.ascontiguousarray(values).view(f"u{bits // 8}").astype(np.uint64)
    sign, whole = np.uint64(1 << (bits - 1)), np.uint64((1 << bits) - 1)
    return raw ^ np.where(raw & sign, whole, sign)


def _from_ordered_bits(keys: NDArray[np.uint64], bits: int) -> NDArray[Any]:
    sign, whole = np.uint64(1 << (bits - 1)), np.uint64((1 << bits) - 1)
    raw = keys ^ np.where(keys & sign, sign, whole)
    return raw.astype(f"u{bits // 8}").view(f"f{bits // 8}")


def merge_histograms(parts: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the histogram ``(3, 256)`` of all pictures together; exact, in any order and grouping."""
    total = np.zeros((3, 256), np.int64)
    for part in parts:
        total += part
    return total


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
