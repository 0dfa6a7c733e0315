"""Planned transit: a way into a segment that touches nothing, where the recipe's own would.

The SkillGen idea (Garrett et al. 2024, arXiv 2410.18907): what a demonstration shows at an object is carried to where
the object is now; how the hand came there need not be. The planner is RRT-Connect (Kuffner and LaValle 2000) over poses
of the hand, with shortcuts afterwards. It knows no simulator: it asks a gauge how much room a hand has at a pose.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from factory import poses

Array = NDArray[np.float64]

PACE_M, PACE_RAD = 0.02, 0.10
"""What a hand is told to travel in one control step at most, as on a paced bridge: 0.4 m/s and 2 rad/s at 20 Hz."""

Gauge = Callable[[Array], Array]
"""Hand poses ``(n, 4, 4)`` -> ``(n,)`` metres to the nearest thing that may not be touched there: negative inside it,
-inf for a pose out of the arm's reach. Beyond `LOOK_M` more room need not be told."""
Survey = Callable[[str, Collection[str], Array, Array], Gauge]
"""Looks around, as everything is now: which end effector, the objects in its hand, and two poses ``(4, 4)``, where it
comes from and where it goes: what is near at one of them may be as near on the way."""

LOOK_M = 0.03
FREE_M = PACE_M / 2
"""A way with this much room at every step touches nothing between two steps either."""
ROOMY_M = PACE_M
"""What a planned way keeps: a hand that lags cuts its corners."""
APPROACH_M = 0.05
"""From this near to where its work is done, a segment is followed as it was shown."""
CHECKS = 6000
"""Poses that are asked about, at most, for one way: about a second where collisions of a whole arm are computed."""

_REACH_STEPS = 4.0
"""How far, in control steps at full pace, a tree grows towards a sample: coarser misses gaps, finer wastes checks."""
_PIECE = 4
"""Poses that are asked about at once: of a long leg most are blocked early."""
_AROUND_M = 0.35
"""Samples lie in the box about both ends, widened by this to every side: half of what a table-top arm reaches."""
_TILT_RAD = 0.3
"""Standard deviation of the tilt, per axis, of every other sample; the rest turn only as the straight way would."""
_SHORTCUTS = 60
_SLOWER = 2
"""A planned way is travelled at half the pace of a bridge: hands lag 3 cm behind then, at full pace 8 to 10 cm, and cut
corners by as much (medians of `tests/benchmarks/transit.py`)."""


@dataclass(frozen=True, kw_only=True)
class Detour:
    """What was found instead of the straight way.

    Attributes:
        T_world_eef: ``(m, 4, 4)`` poses between the two ends, one per control step; None when no way was found.
        skipped: leading rows of the segment that are left out, because they would have touched something.
        checks: poses that were asked about.
        why_not: what kept it from being found; empty when it was.
    """

    T_world_eef: Array | None
    skipped: int
    checks: int
    why_not: str = ""


@dataclass(frozen=True, kw_only=True)
class TransitUse:
    """A bridge that was planned.

    Attributes:
        eef: end effector.
        subtask: index in its chain.
        first_step: control step of the episode at which the way began.
        steps: its control steps.
        skipped: rows at the source segment's beginning that it replaced.
        checks: poses that were asked about.
    """

    eef: str
    subtask: int
    first_step: int
    steps: int
    skipped: int
    checks: int


def approach_rows(mover: Array) -> int:
    """Return how many leading rows of a segment are on the way only: until what moves is near where it ends.

    Args:
        mover: ``(t, 3)`` positions in the source of what the segment moves: what the hand carries, or the hand.
    """
    return int(np.argmax(np.linalg.norm(mover - mover[-1], axis=-1) <= APPROACH_M))


def around(
    T_from: Array,
    targets: Array,
    approach: int,
    look: Callable[[Array, Array], Gauge],
    rng: np.random.Generator,
    *,
    most_checks: int = CHECKS,
) -> Detour | None:
    """Return a way from a pose into a segment, or None where the straight one, and the segment's approach, are free.

    As much of the approach is kept as is free up to its end: only rows up to the last one that would touch something
    are replaced. An end out of reach is none of the planner's business; the answer is None then too.

    Args:
        T_from: ``(4, 4)`` where the hand comes from.
        targets: ``(t, 4, 4)`` the segment where it was carried to.
        approach: rows that may be left out, fewer than t.
        look: surveys for two ends, see `Survey`.
        rng: the attempt's stream for transit.
        most_checks: poses that may be asked about.
    """
    gauge = _Counting(look(T_from, targets[approach]))
    bridge = _steps_between(T_from, targets[0])
    shown = np.concatenate([bridge[1:], targets[1 : approach + 1]])
    if not np.isfinite(gauge(np.stack([T_from, targets[approach]]))).all():
        return None
    room = gauge(shown)
    if (room >= FREE_M).all():
        return None
    rows = room[len(bridge) - 2 :]
    if rows[approach] < 0:
        why_not = "there is something where it begins"
        return Detour(T_world_eef=None, skipped=approach, checks=gauge.checks, why_not=why_not)
    blocked = np.flatnonzero(rows < FREE_M)
    first = int(blocked[-1]) + 1 if len(blocked) else 0
    entry = next((row for row in range(first, approach) if rows[row] >= ROOMY_M), approach)
    way = plan(T_from, targets[entry], gauge, rng, most_checks=most_checks)
    if way is None:
        why_not = f"none was found among {gauge.checks} poses"
        return Detour(T_world_eef=None, skipped=entry, checks=gauge.checks, why_not=why_not)
    return Detour(T_world_eef=_slowed(way)[1:-1], skipped=entry, checks=gauge.checks)


def plan(
    T_start: Array, T_goal: Array, gauge: Gauge, rng: np.random.Generator, *, most_checks: int = CHECKS
) -> Array | None:
    """Return poses ``(m, 4, 4)`` from start to goal, both included, or None when none was found in time.

    Neighbours are at most `PACE_M` and `PACE_RAD` apart; all but the ends have `ROOMY_M` of room. The same arguments
    give the same way.
    """
    counting = gauge if isinstance(gauge, _Counting) else _Counting(gauge)
    low = np.minimum(T_start[:3, 3], T_goal[:3, 3]) - _AROUND_M
    high = np.maximum(T_start[:3, 3], T_goal[:3, 3]) + _AROUND_M
    here, there = _Tree(T_start, counting), _Tree(T_goal, counting)
    backward = False
    sample = T_goal
    while counting.checks < most_checks:
        grown = here.grow(sample, _REACH_STEPS)
        if grown is not None:
            met = there.grow(here.nodes[grown], np.inf)
            if met is not None and np.array_equal(there.nodes[met], here.nodes[grown]):
                way = np.concatenate([here.branch(grown), there.branch(met)[::-1][1:]])
                return _shortened(way[::-1] if backward else way, counting, rng)
        here, there, backward = there, here, not backward
        sample = poses.interpolate(T_start, T_goal, rng.random(1))[0]
        sample[:3, 3] = rng.uniform(low, high)
        if rng.random() < 0.5:
            sample[:3, :3] = sample[:3, :3] @ poses.matrix_from_axis_angle(rng.normal(0.0, _TILT_RAD, 3))
    return None


class _Counting:
    """A gauge that counts what it was asked."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self.checks = 0

    def __call__(self, T: Array) -> Array:
        self.checks += len(T)
        return self._gauge(T) if len(T) else np.empty(0)


class _Tree:
    """Poses that are known to be free, each with the one it was reached from, a control step apart."""

    def __init__(self, root: Array, gauge: Gauge) -> None:
        self._room, self._parents, self._gauge = root[None], [-1], gauge

    @property
    def nodes(self) -> Array:
        """Their poses, ``(n, 4, 4)``."""
        return self._room[: len(self._parents)]

    def grow(self, T_towards: Array, most_steps: float) -> int | None:
        """Go straight from the nearest node towards a pose as far as it is free; return the last node, None if none."""
        node = int(np.argmin(_apart(self.nodes, T_towards)))
        leg = _steps_between(self.nodes[node], T_towards)[1:]
        leg = leg[: int(min(most_steps, len(leg)))]
        free = _leading_free(leg, self._gauge)
        for T in leg[:free]:
            node = self._add(T, node)
        return node if free else None

    def _add(self, T: Array, parent: int) -> int:
        node = len(self._parents)
        if node == len(self._room):
            self._room = np.concatenate([self._room, np.empty_like(self._room)])
        self._room[node] = T
        self._parents.append(parent)
        return node

    def branch(self, node: int) -> Array:
        """Return the poses from the root to a node."""
        chain: list[int] = []
        while node >= 0:
            chain.append(node)
            node = self._parents[node]
        return self.nodes[chain[::-1]]


def _apart(T: Array, T_to: Array) -> Array:
    """Return the distance of poses ``(..., 4, 4)`` to one, in control steps at full pace."""
    shift = np.linalg.norm(T[..., :3, 3] - T_to[:3, 3], axis=-1)
    cosine = (np.einsum("...ij,ij->...", T[..., :3, :3], T_to[:3, :3]) - 1.0) / 2.0
    turn = np.arccos(np.clip(cosine, -1.0, 1.0))
    return np.maximum(shift / PACE_M, turn / PACE_RAD)


def _steps_between(T_from: Array, T_to: Array) -> Array:
    """Return the straight way ``(n, 4, 4)`` at full pace, both ends included exactly."""
    n = max(1, int(np.ceil(float(_apart(T_from, T_to)) - 1e-6)))
    way = poses.interpolate(T_from, T_to, np.arange(n + 1) / n)
    way[0], way[-1] = T_from, T_to
    return way


def _leading_free(way: Array, gauge: Gauge) -> int:
    """Return how many poses can be passed before the first without room."""
    for first in range(0, len(way), _PIECE):
        free = gauge(way[first : first + _PIECE]) >= ROOMY_M
        if not free.all():
            return first + int(np.argmin(free))
    return len(way)


def _slowed(way: Array) -> Array:
    """Return a way with `_SLOWER` steps for each of its own."""
    fractions = np.arange(1, _SLOWER + 1) / _SLOWER
    legs = [poses.interpolate(T, T_next, fractions) for T, T_next in pairwise(way)]
    return np.concatenate([way[:1], *legs])


def _shortened(way: Array, gauge: Gauge, rng: np.random.Generator) -> Array:
    """Return a way with pieces replaced by straight ones where those are shorter and free."""
    for _ in range(_SHORTCUTS):
        if len(way) < 3:
            break
        i, j = sorted(rng.choice(len(way), 2, replace=False).tolist())
        straight = _steps_between(way[i], way[j])
        if len(straight) < j - i + 1 and _leading_free(straight[1:-1], gauge) == len(straight) - 2:
            way = np.concatenate([way[:i], straight, way[j + 1 :]])
    return way
