"""What a pilot of a few attempts says about a whole job.

The pilot is the job's own first attempts, so they count. Of the others each succeeds with an unknown probability p;
after s of n attempts p follows Beta(s + 1/2, n - s + 1/2), Jeffreys' prior updated, and the number of successes among m
further attempts is beta-binomial. The interval is of the final rate, not of p: a job of few attempts may end far from
its p, and a job that stops at its N-th success ends at N / (attempts it took).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field

_TAIL = 0.025
_LARGE = 50_000
"""With so many attempts ahead the share of successes differs from p by nothing that matters, and is scaled down."""


class Range(BaseModel):
    """A value with its 95 % interval."""

    expected: float
    low: float
    high: float


class Estimate(BaseModel):
    """What to expect of a job. `min_success_rate` and `max_wall_s` are not considered.

    Attributes:
        pilot_attempts: attempts tried; likewise pilot_successes.
        success_rate: the rate it ends with.
        attempts: attempts it takes.
        episodes: successes it ends with.
        reaches_target: probability that it gets its episodes within its limit of attempts.
        workers: simulating now; with none, the time is that of one.
        seconds: until the dataset is there; likewise worker_s.
        worker_s: seconds of all workers together.
        bytes: of the dataset; null when no episode succeeded, so that none could be weighed.
        notes: what the figures leave out.
    """

    pilot_attempts: int
    pilot_successes: int
    success_rate: Range
    attempts: Range
    episodes: Range
    reaches_target: Annotated[float, Field(ge=0, le=1)]
    workers: int
    seconds: Range
    worker_s: Range
    bytes: Range | None
    notes: list[str]


class Posterior:
    """What n attempts with s successes say about how many of further ones succeed."""

    def __init__(self, successes: int, attempts: int) -> None:
        self.a, self.b = successes + 0.5, attempts - successes + 0.5

    @property
    def rate(self) -> float:
        """The expected probability of success."""
        return self.a / (self.a + self.b)

    def at_most(self, k: float, m: int) -> float:
        """Return the probability of at most `k` successes among `m` further attempts."""
        if m > _LARGE:
            k, m = k * _LARGE / m, _LARGE
        k = math.floor(k)
        if k < 0:
            return 0.0
        if k >= m:
            return 1.0
        return float(self._cumulative(m)[k])

    def quantile(self, q: float, m: int) -> float:
        """Return the least number of successes among `m` that is not exceeded with probability `q`."""
        scaled = min(m, _LARGE)
        k = int(np.searchsorted(self._cumulative(scaled), q))
        return min(k, scaled) * m / scaled if scaled else 0.0

    def _cumulative(self, m: int) -> np.ndarray:
        k = np.arange(m)
        steps = np.log((m - k) * (self.a + k)) - np.log((k + 1.0) * (self.b + m - k - 1.0))
        start = math.lgamma(self.b + m) + math.lgamma(self.a + self.b)
        start -= math.lgamma(self.b) + math.lgamma(self.a + self.b + m)
        return np.cumsum(np.exp(start + np.concatenate([[0.0], np.cumsum(steps)])))


def final_rate(outcomes: Sequence[bool], *, episodes: int | None, limit: int) -> Range:
    """Return the rate a job ends with, given its first attempts.

    Args:
        outcomes: of its first attempts, in index order; at least one.
        episodes: it ends at so many successes; None when only `limit` ends it.
        limit: it ends after so many attempts at the latest.
    """
    if (ended := _ended(outcomes, episodes, limit)) is not None:
        rate = sum(outcomes[:ended]) / ended
        return Range(expected=rate, low=rate, high=rate)
    posterior, s, left = Posterior(sum(outcomes), len(outcomes)), sum(outcomes), limit - len(outcomes)
    low = _rate_at(posterior, _TAIL, outcomes, episodes, limit)
    high = _rate_at(posterior, 1 - _TAIL, outcomes, episodes, limit)
    expected = (s + posterior.rate * left) / limit if episodes is None else posterior.rate
    return Range(expected=min(max(expected, low), high), low=low, high=high)


def needed(outcomes: Sequence[bool], *, episodes: int | None, limit: int) -> Range:
    """Return how many attempts a job takes: the median and a 95 % interval; arguments as of `final_rate`."""
    ended = _ended(outcomes, episodes, limit)
    if ended is not None or episodes is None:
        count = float(ended or limit)
        return Range(expected=count, low=count, high=count)
    posterior = Posterior(sum(outcomes), len(outcomes))
    low, middle, high = (float(_attempts_at(posterior, q, outcomes, episodes, limit)) for q in (_TAIL, 0.5, 1 - _TAIL))
    return Range(expected=middle, low=low, high=high)


def estimate(
    outcomes: Sequence[bool],
    *,
    episodes: int | None,
    limit: int,
    workers: int,
    attempt_s: float,
    episode_bytes: float | None,
    drawing_s: float | None,
    drawing_bytes: float | None,
    draws: bool,
) -> Estimate:
    """Return what to expect of a job.

    Args:
        outcomes: of its first attempts, in index order; at least one.
        episodes: successes wanted; None when exactly `limit` attempts are.
        limit: attempts at most.
        workers: that simulate now.
        attempt_s: worker seconds of one attempt.
        episode_bytes: of one episode without videos; None when none was kept.
        drawing_s: worker seconds that drawing one episode takes; None when none was drawn.
        drawing_bytes: of one episode's videos.
        draws: whether the job draws its episodes.
    """
    rate, attempts = (f(outcomes, episodes=episodes, limit=limit) for f in (final_rate, needed))
    reached = 1.0
    if episodes is not None and _ended(outcomes, episodes, limit) is None:
        posterior = Posterior(sum(outcomes), len(outcomes))
        reached = 1.0 - posterior.at_most(episodes - sum(outcomes) - 1, limit - len(outcomes))
    if episodes is None:
        made = _scaled(rate, float(limit))
    else:
        made = Range(expected=float(episodes), low=min(episodes, rate.low * limit), high=float(episodes))
        if reached < 0.5:
            made.expected = min(made.expected, rate.expected * limit)
    drawn = drawing_s or 0.0
    worker_s = Range(
        expected=attempts.expected * attempt_s + made.expected * drawn,
        low=attempts.low * attempt_s + made.low * drawn,
        high=attempts.high * attempt_s + made.high * drawn,
    )
    size = None if episode_bytes is None else _scaled(made, episode_bytes + (drawing_bytes or 0.0))
    notes: list[str] = []
    if not workers:
        notes.append("No worker is there now; the time is that of one.")
    if draws and drawing_s is None:
        notes.append("No episode of the pilot was drawn, so that drawing is not in the time and the bytes.")
    if episode_bytes is None:
        notes.append("No attempt of the pilot succeeded; the bytes of an episode are not known.")
    return Estimate(
        pilot_attempts=len(outcomes),
        pilot_successes=sum(outcomes),
        success_rate=rate,
        attempts=attempts,
        episodes=made,
        reaches_target=min(1.0, max(0.0, reached)),
        workers=workers,
        seconds=_scaled(worker_s, 1.0 / max(1, workers)),
        worker_s=worker_s,
        bytes=size,
        notes=notes,
    )


def _ended(outcomes: Sequence[bool], episodes: int | None, limit: int) -> int | None:
    """Return after how many attempts the job has ended within the pilot already, or None."""
    made = 0
    for count, success in enumerate(outcomes[:limit], 1):
        made += success
        if count == limit or made == episodes:
            return count
    return None


def _attempts_at(posterior: Posterior, q: float, outcomes: Sequence[bool], episodes: int, limit: int) -> int:
    """Return the least number of attempts that is not exceeded with probability `q`; at most `limit`."""
    missing = episodes - sum(outcomes)
    low, high = len(outcomes) + missing, limit
    while low < high:
        middle = (low + high) // 2
        if 1.0 - posterior.at_most(missing - 1, middle - len(outcomes)) >= q:
            high = middle
        else:
            low = middle + 1
    return min(low, limit)


def _rate_at(posterior: Posterior, q: float, outcomes: Sequence[bool], episodes: int | None, limit: int) -> float:
    """Return a quantile of the final rate."""
    s, left = sum(outcomes), limit - len(outcomes)
    if episodes is None or posterior.at_most(episodes - s - 1, left) >= q:
        # The limit ends it: few successes, so the low end of the rates.
        return (s + posterior.quantile(q, left)) / limit
    return episodes / _attempts_at(posterior, 1 - q, outcomes, episodes, limit)


def _scaled(value: Range, by: float) -> Range:
    return Range(expected=value.expected * by, low=value.low * by, high=value.high * by)
