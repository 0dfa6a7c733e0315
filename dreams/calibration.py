"""From a classifier's logits to probabilities that mean what they say, and to a verdict with a known precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dreams.judge import Verdict
from factory.errors import SpecError
from factory.statistics import wilson

Array = NDArray[np.float64]

_NEWTON_STEPS = 50
NEVER = 1.0
"""An acceptance threshold that no probability reaches: the judge has not shown the precision wanted."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """How logits are read.

    Attributes:
        slope: of Platt's sigmoid: probability = 1 / (1 + exp(-(slope x logit + offset - doubt))).
        offset: see slope.
        doubt: what a clip loses whose pixels gave rise to doubt, at least 0; 0 for all others.
        accept: least probability that is accepted; 1 accepts nothing.
        reject: most that is rejected; between the two the judge abstains.
        clips: how many the numbers come from.
    """

    slope: float
    offset: float
    doubt: float
    accept: float
    reject: float
    clips: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.reject < self.accept <= 1.0:
            raise SpecError(f"expected 0 <= reject < accept <= 1, not {self.reject} and {self.accept}")
        if self.doubt < 0.0:
            raise SpecError(f"doubt makes no clip more probable; it is {self.doubt}, expected 0 or more")

    def probability(self, logits: Array, doubted: NDArray[np.bool_]) -> Array:
        """Return what the logits of clips mean, some of whose pixels gave rise to doubt."""
        x = self.slope * np.asarray(logits, np.float64) + self.offset
        return _sigmoid(x - self.doubt * np.asarray(doubted, np.float64))

    def verdict(self, probability: float) -> Verdict:
        """Return what is made of a probability."""
        if probability >= self.accept and self.accept < NEVER:
            return "accept"
        return "reject" if probability <= self.reject else "abstain"


def calibrated(
    logits: Array, follows: NDArray[np.bool_], *, doubted: NDArray[np.bool_], precision: float = 0.9
) -> Calibration:
    """Fit a calibration on clips that the classifier was not trained on.

    The sigmoid is Platt's (1999, "Probabilistic Outputs for Support Vector Machines"), with his smoothed targets so
    that separable clips do not drive it to infinity. What is accepted is at least as probable as the precision that is
    wanted, and all clips from there on have shown it: the lower end of their share's 95 % interval (Wilson 1927) keeps
    it too. What is as improbable is rejected.

    Args:
        logits: ``(n,)``.
        follows: ``(n,)``: whether the clip follows its instruction.
        doubted: ``(n,)``: whether its pixels gave rise to doubt; how much that counts is fitted as well.
        precision: share of accepted clips that must be good, in (0.5, 1).

    Raises:
        SpecError: no good clip among them, or no bad one: nothing can be calibrated.
    """
    x, y = np.asarray(logits, np.float64), np.asarray(follows, bool)
    seen = np.asarray(doubted, bool)
    if not x.shape == y.shape == seen.shape or x.ndim != 1 or not np.isfinite(x).all():
        raise SpecError(f"logits {x.shape}, truths {y.shape}, doubts {seen.shape}; expected the same (n,), finite")
    if y.all() or not y.any():
        raise SpecError(f"{len(y)} clips to calibrate with, {int(y.sum())} of them good; both kinds are needed")
    slope, offset, doubt = _platt(x, y, seen)
    p = _sigmoid(slope * x + offset - doubt * seen)
    accept = _least_accepted(p, y, precision)
    return Calibration(slope=slope, offset=offset, doubt=doubt, accept=accept, reject=1.0 - precision, clips=len(y))


def _platt(x: Array, y: NDArray[np.bool_], doubted: NDArray[np.bool_]) -> tuple[float, float, float]:
    """Return slope, offset and doubt by Newton's method on the logistic loss; slope and doubt are never negative."""
    good, bad = int(y.sum()), int((~y).sum())
    aim = np.where(y, (good + 1) / (good + 2), 1 / (bad + 2))
    middle, scale = float(x.mean()), max(float(x.std()), 1e-9)
    X = np.stack([(x - middle) / scale, np.ones_like(x), -doubted.astype(np.float64)], axis=1)
    # A ridge on doubt: where no clip is doubted, the data say nothing of it; it should be 0 then.
    ridge = np.array([1e-6, 1e-6, 0.1])
    w = np.array([1.0, 0.0, 0.0])
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(X @ w)
        slope = X.T @ (p - aim) + ridge * w
        curve = X.T @ (X * (p * (1 - p))[:, None]) + np.diag(ridge)
        w = w - np.clip(np.linalg.solve(curve, slope), -2.0, 2.0)
    if w[2] < 0.0:
        return _platt(x, y, np.zeros_like(doubted))
    if w[0] <= 0.0:  # worse than chance: its logits say nothing, the share of good clips is all there is to say
        share = (good + 1) / (len(y) + 2)
        return 0.0, float(np.log(share / (1 - share))), 0.0
    return float(w[0] / scale), float(w[1] - w[0] * middle / scale), float(w[2])


def _least_accepted(p: Array, y: NDArray[np.bool_], precision: float) -> float:
    """Return the least probability, not below the precision, from which on clips showed that they keep it."""
    for least in np.unique(p[p >= precision]).tolist():
        above = y[p >= least]
        if wilson(int(above.sum()), len(above))[1] >= precision:
            return least
    return NEVER


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))
