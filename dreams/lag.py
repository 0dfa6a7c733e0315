"""How a hand follows what it is told, and what it must be told to go where a video shows it.

A controller that pulls a hand towards a target, like robosuite's OSC_POSE, makes it a damped spring. With critical
damping and natural frequency w a hand at distance e from a target that stays, moving at speed v, has after a time t
come nearer by ``(1 - (1 + w t) exp(-w t)) e + t exp(-w t) v``, the solution of ``x'' = w^2 (c - x) - 2 w x'``. A hand
that moves evenly is behind its target by 2 / w whatever its speed: 163 ms, or 3.3 steps of 20 Hz, at robosuite's
stiffness of 150 / s^2. Labels say where hands were, so the spring is solved for the target.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.errors import SpecError
from factory.sim import SimBackend

Array = NDArray[np.float64]

_LEADS = np.arange(0.0, 12.01, 0.25)
"""Leads that are tried, control steps."""
_FEWEST = 10
"""Steps without which two numbers cannot be told."""


@dataclass(frozen=True, kw_only=True)
class Lag:
    """How a hand follows.

    Attributes:
        lead_steps: control steps by which a hand in even motion is behind its target; 0 for one that arrives at once.
        gain: how much of the displacement that the spring promises really comes; 1 for an ideal one.
    """

    lead_steps: float
    gain: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lead_steps) and self.lead_steps >= 0 and np.isfinite(self.gain) and self.gain > 0):
            raise SpecError(f"a lag of {self.lead_steps} steps with gain {self.gain}; expected 0 or more, and above 0")

    @property
    def ahead(self) -> int:
        """Steps after which a hand is to be where it should be then.

        One step asks a slow hand for jerks that amplify every label's error (by 8 at robosuite's stiffness), two for
        a third of that and track as well.
        """
        return 2 if self.lead_steps else 1


OSC = Lag(lead_steps=3.27)
"""Robosuite's OSC_POSE at its defaults, 20 Hz, which all robots here have: 2 / sqrt(150) s."""
EXACT = Lag(lead_steps=0.0)
"""A hand that is where it was sent at the end of the step."""


def default_lag(backend: SimBackend) -> Lag:
    """Return how hands follow on a backend."""
    return EXACT if backend.describe().get("backend") == "kinematic" else OSC


def between(T_from: Array, T_to: Array) -> Array:
    """Return ``(..., 6)``: displacement in metres and turn as a rotation vector on the left that lead to a pose."""
    turn = T_to[..., :3, :3] @ np.swapaxes(T_from[..., :3, :3], -1, -2)
    return np.concatenate([T_to[..., :3, 3] - T_from[..., :3, 3], poses.axis_angle_from_matrix(turn)], axis=-1)


def moved(T: Array, by: Array) -> Array:
    """Return the pose that `between` says leads from `T` by so much; its inverse."""
    return poses.pose(poses.matrix_from_axis_angle(by[..., 3:]) @ T[..., :3, :3], T[..., :3, 3] + by[..., :3])


def target_for(T_here: Array, last: Array, T_goal: Array, lag: Lag) -> Array:
    """Return where a hand is sent that shall be at `T_goal` in `lag.ahead` steps.

    Args:
        T_here: ``(4, 4)`` where it is.
        last: ``(6,)`` how it moved during the last control step, as `between` says it.
        T_goal: ``(4, 4)`` in the same frame.
        lag: how it follows.
    """
    arrives, glides = _response(lag, lag.ahead)
    return moved(T_here, (between(T_here, T_goal) - glides * last) / arrives)


def followed(last: Array, asked: Array, lag: Lag) -> Array:
    """Return how a hand moves in one step, by the model: after `last`, sent away from where it is by `asked`."""
    arrives, glides = _response(lag, 1)
    return arrives * asked + glides * last


def measured_lag(paths: Iterable[tuple[Array, Array]]) -> Lag:
    """Return the lead and gain that predict best, in least squares, how hands answered their commands.

    Args:
        paths: of each episode and hand, poses ``(T, 4, 4)`` at which steps began, and the commanded poses
            ``(T, 4, 4)``, in one frame.

    Raises:
        SpecError: the arrays disagree, or tell nothing: too few steps, or hands that do not follow.
    """
    went, before, asked = [np.zeros((0, 3))], [np.zeros((0, 3))], [np.zeros((0, 3))]
    for T, C in paths:
        if T.shape != C.shape or T.shape[1:] != (4, 4):
            raise SpecError(f"poses {T.shape} and commands {C.shape}; expected the same (T, 4, 4)")
        steps = np.diff(T[:, :3, 3], axis=0)
        went.append(steps[1:])
        before.append(steps[:-1])
        asked.append((C - T)[1:-1, :3, 3])
    y, v, u = np.concatenate(went), np.concatenate(before), np.concatenate(asked)
    best: tuple[float, Lag] | None = None
    for lead in _LEADS:
        arrives, glides = _response(Lag(lead_steps=float(lead)), 1)
        rest, square = y - glides * v, float(((arrives * u) ** 2).sum())
        gain = float((rest * arrives * u).sum()) / square if square else 0.0
        left = float(((rest - gain * arrives * u) ** 2).sum())
        if gain > 0 and (best is None or left < best[0]):
            best = left, Lag(lead_steps=float(lead), gain=gain)
    if best is None or len(y) < _FEWEST:
        raise SpecError(f"{len(y)} steps in which hands do not follow their commands tell no lag")
    return best[1]


def _response(lag: Lag, steps: int) -> tuple[float, float]:
    """Return what share of its way to a target, and how many of its last steps' displacement, a hand comes on."""
    if not lag.lead_steps:
        return lag.gain, 0.0
    phase = 2.0 * steps / lag.lead_steps
    return lag.gain * (1.0 - (1.0 + phase) * math.exp(-phase)), steps * math.exp(-phase)
