"""How far a hand would miss a pose: inverse kinematics of one arm by itself, in well under a millisecond a pose.

Only the arm's own joints move; whatever carries it (a waist) stays as it is. Neither collisions nor forces are asked
about: what this calls unreachable no controller can reach, what it calls reachable may still collide with something.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from factory.errors import BackendError
from sim_tasks.backends.compiling import compiled

Array = NDArray[np.float64]

CLOSE_M, CLOSE_RAD = 1e-3, 1e-2
"""Nearer than this a pose is reached: an order of magnitude below what operational-space control lags behind."""

METRES_PER_RAD = 0.1
"""What a radian counts against a metre while a compromise is looked for: the lever from wrist to finger tip."""

STARTS, STEPS = 12, 60
"""Postures from which a pose is tried, and steps from each. A pose that can be reached is nearly always reached from
the first; the others, spread over the joints' ranges, tell a limit of the joints from a bad way there. Once a pose was
missed the rest of a path is tried from the first alone."""


class Chain(NamedTuple):
    """What lies between the world and a hand, in order: fixed steps, and joints that turn or slide after them."""

    shift: Array  # (k, 3) fixed step, in the frame so far
    turn: Array  # (k, 3, 3)
    axis: Array  # (k, 3) of the joint after it; zeros where there is none
    slides: NDArray[np.bool_]  # (k,)
    qpos: NDArray[np.int64]  # (k,) where the joint's value is in qpos, -1 for none
    joint: NDArray[np.int64]  # (k,) column among the joints that may move, -1 for the others
    low: Array  # (n,) of the joints that may move
    high: Array  # (n,)


class Reach:
    """The arms of a compiled model, ready to be asked."""

    def __init__(self, model: mujoco.MjModel, hands: dict[str, tuple[tuple[bool, int], Sequence[int]]]) -> None:
        """Read the arms' kinematics.

        Args:
            model: the compiled scene.
            hands: name -> whether the hand's frame is a site and that site's or body's id, and where the arm's joints
                lie in qpos.

        Raises:
            BackendError: an arm has joints that neither turn nor slide.
        """
        self._chains = {name: _chain(model, frame, list(joints)) for name, (frame, joints) in hands.items()}

    def misses(self, hand: str, qpos: Array, T_world_eef: Array) -> tuple[Array, Array]:
        """Return by how much a hand misses poses at best, ``(n,)`` metres and ``(n,)`` radians.

        Args:
            hand: its name.
            qpos: ``(nq,)`` where everything is now; the arm starts from here, and for each pose from the one before.
            T_world_eef: ``(n, 4, 4)`` poses of its grip frame, world frame.
        """
        targets = np.ascontiguousarray(T_world_eef, np.float64)
        spread = np.random.default_rng(0).random((STARTS, len(self._chains[hand].low)))
        return _misses(self._chains[hand], np.ascontiguousarray(qpos, np.float64), targets, spread)

    def postures(self, hand: str, qpos: Array, T_world_eef: Array) -> tuple[Array, Array, Array]:
        """Return the postures ``(n, joints)`` the present one leads to at poses, and what they miss them by.

        Each is looked for from the present posture, so a pose has one answer whatever was asked before. It is where
        the arm would be after going there straight; a pose that takes another posture counts as missed.

        Args:
            hand: its name.
            qpos: ``(nq,)`` where everything is now.
            T_world_eef: ``(n, 4, 4)`` poses of its grip frame, world frame.
        """
        targets = np.ascontiguousarray(T_world_eef, np.float64)
        return _postures(self._chains[hand], np.ascontiguousarray(qpos, np.float64), targets)


def _chain(model: mujoco.MjModel, frame: tuple[bool, int], movable: list[int]) -> Chain:
    is_site, index = frame
    bodies: list[int] = []
    body = int(model.site_bodyid[index]) if is_site else index
    while body:
        bodies.insert(0, body)
        body = int(model.body_parentid[body])
    rows: list[tuple[Array, Array, Array, bool, int, int]] = []
    nothing = np.zeros(3)
    for body in bodies:
        rows.append((model.body_pos[body], _matrix(model.body_quat[body]), nothing, False, -1, -1))
        first, count = int(model.body_jntadr[body]), int(model.body_jntnum[body])
        for joint in range(first, first + count) if count else ():
            kind, at, address = model.jnt_type[joint], model.jnt_pos[joint], int(model.jnt_qposadr[joint])
            if kind not in (mujoco.mjtJoint.mjJNT_HINGE.value, mujoco.mjtJoint.mjJNT_SLIDE.value):
                raise BackendError(f"the joint {model.joint(joint).name!r} neither turns nor slides")
            slides = kind == mujoco.mjtJoint.mjJNT_SLIDE.value
            column = movable.index(address) if address in movable else -1
            rows.append((at, np.eye(3), model.jnt_axis[joint], slides, address, column))
            rows.append((-at, np.eye(3), nothing, False, -1, -1))
    if is_site:
        rows.append((model.site_pos[index], _matrix(model.site_quat[index]), nothing, False, -1, -1))
    shift, turn, axis, slides, qpos, column = (np.array(part) for part in zip(*rows, strict=True))
    limits = {int(model.jnt_qposadr[j]): j for j in range(model.njnt)}
    joints = [limits[address] for address in movable]
    # A joint without limits may go once around to either side.
    reach = [model.jnt_range[j] if model.jnt_limited[j] else (-math.pi, math.pi) for j in joints]
    low, high = np.array(reach, float).T
    return Chain(
        shift=shift,
        turn=turn,
        axis=axis,
        slides=slides,
        qpos=qpos.astype(np.int64),
        joint=column.astype(np.int64),
        low=low.copy(),
        high=high.copy(),
    )


def _matrix(quat_wxyz: Array) -> Array:
    flat = np.empty(9)
    mujoco.mju_quat2Mat(flat, quat_wxyz)
    return flat.reshape(3, 3)


class Scratch(NamedTuple):
    """Room for one descent."""

    J: Array  # (6, n)
    error: Array  # (6,)
    A: Array  # (6, 6)
    y: Array  # (6,)
    trial: Array  # (n,)
    held: NDArray[np.bool_]  # (n,)
    anchor: Array  # (n, 3)
    direction: Array  # (n, 3)
    p: Array  # (3,)
    R: Array  # (3, 3)
    next: Array  # (3, 3)
    joint: Array  # (3, 3)


@compiled
def _scratch(n: int) -> Scratch:
    return Scratch(
        np.zeros((6, n)),
        np.empty(6),
        np.empty((6, 6)),
        np.empty(6),
        np.empty(n),
        np.zeros(n, np.bool_),
        np.empty((n, 3)),
        np.empty((n, 3)),
        np.empty(3),
        np.empty((3, 3)),
        np.empty((3, 3)),
        np.empty((3, 3)),
    )


@compiled
def _present(chain: Chain, qpos: Array) -> Array:
    start = np.empty(len(chain.low))
    for k in range(len(chain.joint)):
        if chain.joint[k] >= 0:
            start[chain.joint[k]] = qpos[chain.qpos[k]]
    return start


@compiled
def _postures(chain: Chain, qpos: Array, targets: Array) -> tuple[Array, Array, Array]:
    n = len(chain.low)
    metres, radians, q = np.empty(len(targets)), np.empty(len(targets)), np.empty((len(targets), n))
    room, start = _scratch(n), _present(chain, qpos)
    for t in range(len(targets)):
        q[t] = start
        metres[t], radians[t] = _descend(chain, qpos, q[t], targets[t], room)
    return q, metres, radians


@compiled
def _misses(chain: Chain, qpos: Array, targets: Array, spread: Array) -> tuple[Array, Array]:
    n = len(chain.low)
    metres, radians, q = np.empty(len(targets)), np.empty(len(targets)), np.empty(n)
    room, start = _scratch(n), _present(chain, qpos)
    others = len(spread)
    for t in range(len(targets)):
        best = np.inf
        metres[t] = radians[t] = np.inf
        for s in range(others + 1):
            for i in range(n):
                q[i] = start[i] if s == 0 else chain.low[i] + spread[s - 1, i] * (chain.high[i] - chain.low[i])
            off_m, off_rad = _descend(chain, qpos, q, targets[t], room)
            cost = math.hypot(off_m, METRES_PER_RAD * off_rad)
            if cost < best:
                best, metres[t], radians[t] = cost, off_m, off_rad
            if off_m < CLOSE_M and off_rad < CLOSE_RAD:
                for i in range(n):
                    start[i] = q[i]
                break
        if metres[t] >= CLOSE_M or radians[t] >= CLOSE_RAD:
            others = 0
    return metres, radians


@compiled
def _descend(chain: Chain, qpos: Array, q: Array, target: Array, room: Scratch) -> tuple[float, float]:
    """Move q towards a pose by damped least squares (Wampler 1986) within the limits; return what is left."""
    off_m, off_rad = _look(chain, qpos, q, target, room)
    cost, damping = off_m**2 + (METRES_PER_RAD * off_rad) ** 2, 1e-3
    for _ in range(STEPS):
        if (off_m < 0.1 * CLOSE_M and off_rad < 0.1 * CLOSE_RAD) or damping > 1e3:
            break
        _step(chain, q, damping, room)
        trial_m, trial_rad = _look(chain, qpos, room.trial, target, room)
        now = trial_m**2 + (METRES_PER_RAD * trial_rad) ** 2
        if now < cost:
            slow = cost - now < 1e-5 * cost
            for i in range(len(q)):
                q[i] = room.trial[i]
            off_m, off_rad, cost, damping = trial_m, trial_rad, now, max(damping * 0.3, 1e-8)
            if slow:
                break
        else:
            _look(chain, qpos, q, target, room)
            damping *= 5.0
    return off_m, off_rad


@compiled
def _step(chain: Chain, q: Array, damping: float, room: Scratch) -> None:
    """Fill `trial`. Joints a step would push through their limits are held there, and the others do without them."""
    n, J, A, y = len(q), room.J, room.A, room.y
    for i in range(n):
        room.held[i] = False
    for _ in range(n):
        for r in range(6):
            y[r] = room.error[r]
            for c in range(r + 1):
                total = damping if r == c else 0.0
                for i in range(n):
                    if not room.held[i]:
                        total += J[r, i] * J[c, i]
                A[r, c] = total
        _solve(A, y)
        pushed = False
        for i in range(n):
            step = 0.0
            if not room.held[i]:
                for r in range(6):
                    step += J[r, i] * y[r]
            # Half a radian: the Jacobian is worth nothing farther away.
            wanted = q[i] + min(max(step, -0.5), 0.5)
            room.trial[i] = min(max(wanted, chain.low[i]), chain.high[i])
            if wanted != room.trial[i]:
                pushed = pushed or not room.held[i]
                room.held[i] = True
        if not pushed:
            return


@compiled
def _solve(A: Array, y: Array) -> None:
    """Solve A x = y in place of y by Cholesky's factors, for a positive definite A given by its lower half."""
    for r in range(6):
        for c in range(r + 1):
            total = A[r, c]
            for k in range(c):
                total -= A[r, k] * A[c, k]
            A[r, c] = math.sqrt(max(total, 1e-300)) if r == c else total / A[c, c]
        for k in range(r):
            y[r] -= A[r, k] * y[k]
        y[r] /= A[r, r]
    for back in range(6):
        r = 5 - back
        for k in range(r + 1, 6):
            y[r] -= A[k, r] * y[k]
        y[r] /= A[r, r]


@compiled
def _look(chain: Chain, qpos: Array, q: Array, target: Array, room: Scratch) -> tuple[float, float]:
    """Fill Jacobian and error, linear and then angular times METRES_PER_RAD; return the distance in metres, radians."""
    p, R, error = room.p, room.R, room.error
    for i in range(3):
        p[i] = 0.0
        for j in range(3):
            R[i, j] = 1.0 if i == j else 0.0
    for k in range(len(chain.joint)):
        for i in range(3):
            for m in range(3):
                p[i] += R[i, m] * chain.shift[k, m]
        _then(R, chain.turn[k], room.next)
        if chain.qpos[k] >= 0:
            _move(chain, k, qpos, q, room)
    off_m = 0.0
    for i in range(3):
        error[i] = target[i, 3] - p[i]
        off_m += error[i] ** 2
    x = y = z = 0.0
    trace = 0.0
    for k in range(3):
        # The turn that is left, target R^T: what is odd of it, and its trace.
        x += target[2, k] * R[1, k] - target[1, k] * R[2, k]
        y += target[0, k] * R[2, k] - target[2, k] * R[0, k]
        z += target[1, k] * R[0, k] - target[0, k] * R[1, k]
        for i in range(3):
            trace += target[i, k] * R[i, k]
    # The angle by its sine and cosine: exact near 0, and of the right size at half a turn.
    sine = 0.5 * math.sqrt(x * x + y * y + z * z)
    off_rad = math.atan2(sine, 0.5 * (trace - 1.0))
    scale = 0.5 * METRES_PER_RAD * (off_rad / sine if sine > 1e-9 else 1.0)
    error[3], error[4], error[5] = x * scale, y * scale, z * scale
    _jacobian(chain, room)
    return math.sqrt(off_m), off_rad


@compiled
def _jacobian(chain: Chain, room: Scratch) -> None:
    """Fill J from where the joints are and the hand is."""
    p, J = room.p, room.J
    for column in range(len(chain.low)):
        a, d = room.anchor[column], room.direction[column]
        for i in range(3):
            j, k = (i + 1) % 3, (i + 2) % 3
            J[i, column] = d[j] * (p[k] - a[k]) - d[k] * (p[j] - a[j])
            J[3 + i, column] = METRES_PER_RAD * d[i]
    for k in range(len(chain.joint)):
        if chain.slides[k] and chain.joint[k] >= 0:
            for i in range(3):
                J[i, chain.joint[k]] = room.direction[chain.joint[k], i]
                J[3 + i, chain.joint[k]] = 0.0


@compiled
def _move(chain: Chain, k: int, qpos: Array, q: Array, room: Scratch) -> None:
    """Turn or slide with the joint of row k, and remember where it is and where it points."""
    column, p, R = chain.joint[k], room.p, room.R
    value = q[column] if column >= 0 else qpos[chain.qpos[k]]
    x, y, z = chain.axis[k, 0], chain.axis[k, 1], chain.axis[k, 2]
    for i in range(3):
        along = R[i, 0] * x + R[i, 1] * y + R[i, 2] * z
        if column >= 0:
            room.anchor[column, i], room.direction[column, i] = p[i], along
        if chain.slides[k]:
            p[i] += along * value
    if chain.slides[k]:
        return
    c, s = math.cos(value), math.sin(value)
    d, turn = 1.0 - c, room.joint
    turn[0, 0], turn[0, 1], turn[0, 2] = c + x * x * d, x * y * d - z * s, x * z * d + y * s
    turn[1, 0], turn[1, 1], turn[1, 2] = y * x * d + z * s, c + y * y * d, y * z * d - x * s
    turn[2, 0], turn[2, 1], turn[2, 2] = z * x * d - y * s, z * y * d + x * s, c + z * z * d
    _then(R, turn, room.next)


@compiled
def _then(R: Array, turn: Array, spare: Array) -> None:
    """Replace R by R times a turn."""
    for i in range(3):
        for j in range(3):
            spare[i, j] = R[i, 0] * turn[0, j] + R[i, 1] * turn[1, j] + R[i, 2] * turn[2, j]
    for i in range(3):
        for j in range(3):
            R[i, j] = spare[i, j]
