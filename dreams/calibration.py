"""From a classifier's logits to probabilities that mean what they say, and to a verdict with a known precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreams.judge import Verdict
from factory.errors import SpecError

Array = NDArray[np.float64]

_NEWTON_STEPS = 50
NEVER = 1.0
"""An acceptance threshold that no probability reaches: the judge has not shown the precision wanted."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits are read.

    Attributes:
        slope: of Platt's sigmoid: probability = 1 / (1 + exp(-(slope x logit + offset))).
        offset: see slope.
        accept: least probability that is accepted; 1 accepts nothing.
        reject: most that is rejected; between the two the judge abstains.
        clips: how many the numbers come from.
    """

    slope: float
    offset: float
    accept: float
    reject: float
    clips: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.reject < self.accept <= 1.0:
            raise SpecError(f"expected 0 <= reject < accept <= 1, not {self.reject} and {self.accept}")

    def probability(self, logits: Array) -> Array:
        """Return what the logits mean."""
        return _sigmoid(self.slope * np.asarray(logits, np.float64) + self.offset)

    def verdict(self, probability: float) -> Verdict:
        """Return what is made of a probability."""
        if probability >= self.accept and self.accept < NEVER:
            return "accept"
        return "reject" if probability <= self.reject else "abstain"


def calibrated(logits: Array, follows: NDArray[np.bool_], *, precision: float = 0.9) -> Calibration:
    """Fit a calibration on clips that the classifier was not trained on.

    The sigmoid is Platt's (1999, "Probabilistic Outputs for Support Vector Machines"), with his smoothed targets so
    that separable clips do not drive it to infinity. `accept` is the least threshold that, and every higher one down
    to it, keeps the precision; `reject` the highest below it under which at most one clip in ten is good.

    Args:
        logits: ``(n,)``.
        follows: ``(n,)``: whether the clip follows its instruction.
        precision: share of accepted clips that must be good, in (0, 1).

    Raises:
        SpecError: no good clip among them, or no bad one: nothing can be calibrated.
    """
    x, y = np.asarray(logits, np.float64), np.asarray(follows, bool)
    if x.shape != y.shape or x.ndim != 1 or not np.isfinite(x).all():
        raise SpecError(f"logits {x.shape} and truths {y.shape}; expected the same (n,), finite")
    if y.all() or not y.any():
        raise SpecError(f"{len(y)} clips to calibrate with, {int(y.sum())} of them good; both kinds are needed")
    slope, offset = _platt(x, y)
    p = _sigmoid(slope * x + offset)
    accept = _least_accepted(p, y, precision)
    return Calibration(slope=slope, offset=offset, accept=accept, reject=_most_rejected(p, y, accept), clips=len(y))


def _platt(x: Array, y: NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and offset by Newton's method on the logistic loss; the slope is never negative."""
    good, bad = int(y.sum()), int((~y).sum())
    aim = np.where(y, (good + 1) / (good + 2), 1 / (bad + 2))
    scale = max(float(x.std()), 1e-9)
    X = np.stack([x / scale, np.ones_like(x)], axis=1)
    w = np.array([1.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(X @ w)
        slope = X.T @ (p - aim)
        curve = X.T @ (X * (p * (1 - p))[:, None]) + 1e-6 * np.eye(2)
        w = w - np.clip(np.linalg.solve(curve, slope), -2.0, 2.0)
    if w[0] <= 0.0:  # worse than chance: its logits say nothing, the share of good clips is all there is to say
        share = (good + 1) / (len(y) + 2)
        return 0.0, float(np.log(share / (1 - share)))
    return float(w[0] / scale), float(w[1])


def _least_accepted(p: Array, y: NDArray[np.bool_], precision: float) -> float:
    order = np.argsort(-p, kind="stable")
    right = np.cumsum(y[order]) / np.arange(1, len(y) + 1)
    # Equal probabilities are accepted together or not at all.
    last_of_equals = np.append(np.diff(p[order]) < 0, [True])
    ends = np.flatnonzero(last_of_equals)
    keeps = right[ends] >= precision
    kept = int(np.argmin(keeps)) if not keeps.all() else len(keeps)
    if kept == 0:
        return NEVER
    return float(p[order][ends[kept - 1]])


def _most_rejected(p: Array, y: NDArray[np.bool_], accept: float) -> float:
    """Return the highest probability below `accept` at and below which at most one clip in ten is good."""
    values = np.unique(p[p < accept])
    good = [y[p <= value].mean() for value in values]
    fine = [float(value) for value, share in zip(values, good, strict=True) if share <= 0.1]
    return min(max(fine, default=0.0), np.nextafter(accept, 0.0))


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
