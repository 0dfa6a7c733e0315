"""robosuite's controllers as compiled functions: tables in, torques out, nothing allocated.

Operational-space control after Khatib 1987, "A unified approach for motion and force control of robot manipulators",
with robosuite's choices: position and orientation decoupled from one another, the arm's start posture pulled at in the
null space, gravity and Coriolis forces compensated. With M the arm's mass matrix, J the hand's Jacobian, X = M^-1 J^T
and K = J X, robosuite forms K^-1 by pseudo-inverses; here Cholesky factors of M, K and K's two diagonal blocks do the
same for a tenth of the cost, and near a singularity, where the two would differ, robosuite's way is taken.

A row of a table is one controlled part. Rows have room for the largest robot met; `count` says how many columns are
real. Tables are record arrays because compiled code takes each as a single argument of one type, whatever the robot:
machine code is made once and serves all.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices
from robosuite.utils.transform_utils import quat2mat

from sim_tasks.backends.compiling import compiled
from sim_tasks.backends.libmujoco import Memory, mj_jacSite

Array = NDArray[np.float64]
Table = NDArray[np.void]

NULLSPACE_KP = 10.0
"""robosuite's stiffness towards the start posture, 1/s^2; damping is critical."""

SINGULAR = 0.02
"""What may be left of a diagonal element once the rows before it are accounted for; less is near enough to a
singularity. Rounding, in both ways of computing, grows with the inverse of this share and with the torques: at 0.02
torques of some 100 Nm agree to 1e-10 Nm, at 3e-4 only to 1e-8. Two Pandas waving about wildly fall below it in one
physics step of a hundred, at work hardly ever."""

IMMOBILE = 1e-3
"""The same for a direction in which the hand cannot move at all, against the direction in which it moves best."""

DERIVATIVE_STEPS = 5
"""Length of the average over a velocity controller's error differences, robosuite's number."""

MOST_JOINTS = 16
"""Room for the joints, or the actuators of the hand, of one part; the largest so far is an Inspire hand's 12."""
MOST_CHAIN = 24
"""Room for the joints between the world and a hand; a GR-1 with waist has 10."""

_N, _C = (MOST_JOINTS,), (MOST_CHAIN,)


def _part(numbers: tuple[int]) -> list[tuple[Any, ...]]:
    """Return the fields all kinds of parts have: joints, actuators, and how numbers of an action become a goal.

    goal = (clip(action, low, high) - middle) * gain + offset; controls are clipped to [ctrl_low, ctrl_high].
    """
    return [
        ("count", np.int32),
        ("action", np.int32),  # first column of the action
        ("qpos", np.int32, _N),
        ("dof", np.int32, _N),
        ("actuator", np.int32, _N),
        ("ctrl_low", np.float64, _N),
        ("ctrl_high", np.float64, _N),
        ("low", np.float64, numbers),
        ("high", np.float64, numbers),
        ("middle", np.float64, numbers),
        ("gain", np.float64, numbers),
        ("offset", np.float64, numbers),
    ]


ARM = np.dtype(
    [
        *_part((6,)),
        ("site", np.int32),
        ("origin", np.int32),  # site of the arm's base
        ("site_chain", np.int32),  # how many of the joints below move the hand; likewise the base
        ("origin_chain", np.int32),
        ("chain_joint", np.int32, _C),  # joints from the world to the hand
        ("chain_dof", np.int32, _C),
        ("chain_slides", np.int32, _C),  # 1 for a sliding joint
        ("chain_column", np.int32, _C),  # column of the arm's Jacobian, -1 for joints of a torso
        ("mass", np.int32, _N + _N),  # where M's elements lie in MuJoCo's sparse matrix, -1 for zeros
        ("kp", np.float64, (6,)),
        ("kd", np.float64, (6,)),
        ("posture", np.float64, _N),  # memory: where the null space pulls to
        ("goal_position", np.float64, (3,)),  # memory within a control step, frame of the base
        ("goal_rotation", np.float64, (3, 3)),
    ],
    align=True,
)
"""Operational-space control of a site; the action is a displacement in the frame of the arm's base."""

SERVO = np.dtype(
    [
        *_part(_N),
        ("absolute", np.int32),  # 1: the action is the goal, 0: a displacement
        ("compensated", np.int32),  # 1: multiply by M and compensate gravity
        ("goal_low", np.float64, _N),  # limits of the goal, infinite where there are none
        ("goal_high", np.float64, _N),
        ("kp", np.float64, _N),
        ("kd", np.float64, _N),
        ("mass", np.int32, _N + _N),
        ("goal", np.float64, _N),  # memory within a control step
    ],
    align=True,
)
"""Joint position control: torque = M (kp error - kd velocity) + compensation."""

SPINNER = np.dtype(
    [
        *_part(_N),
        ("compensated", np.int32),
        ("goal_low", np.float64, _N),
        ("goal_high", np.float64, _N),
        ("kp", np.float64, _N),
        ("ki", np.float64, _N),
        ("kd", np.float64, _N),
        ("goal", np.float64, _N),
        ("last", np.float64, _N),  # memory, like everything below
        ("total", np.float64, _N),
        ("differences", np.float64, (DERIVATIVE_STEPS, *_N)),
        ("seen", np.int32),  # how many differences were stored, at most 5
        ("saturated", np.int32),
    ],
    align=True,
)
"""Joint velocity control: a PID controller on the joint's velocity, its integral stopped while saturated."""

GRIP = np.dtype(
    [
        *_part(_N),
        ("source", np.int32, _N),  # which number of the hand's action an actuator follows
        ("pace", np.float64, _N),  # signed; 0: at once
        ("bias", np.float64, _N),  # control = bias + weight * goal
        ("weight", np.float64, _N),
        ("now", np.float64, _N),  # memory: where a paced hand is, in [-1, 1]
    ],
    align=True,
)
"""A hand: each actuator follows one number of the action, at once or, as robosuite's parallel grippers do, by `pace`
towards its sign at every control step."""


class Controllers(NamedTuple):
    """Everything that writes controls, and scratch space."""

    arms: Table  # (a,) ARM
    servos: Table  # (s,) SERVO
    spinners: Table  # (v,) SPINNER
    grips: Table  # (g,) GRIP
    mass: Array  # (n, n) scratch, likewise the rest
    J: Array  # (6, n)
    Y: Array  # (n, 6)
    K: Array  # (6, 6)
    Kp: Array  # (3, 3)
    Ko: Array  # (3, 3)
    v: Array  # (n,)
    torques: Array  # (n,)
    wrench: Array  # (6,)
    velocity: Array  # (6,)
    pull: Array  # (6,)
    jac: Array  # (2, 3, nv)


@compiled
def set_goals(sim: Memory, parts: Controllers, action: NDArray[np.float32]) -> None:
    """Turn one action into goals; call once per control step, after `mj_step1`."""
    for a in range(len(parts.arms)):
        _set_arm_goal(sim, parts.arms[a], action)
    for s in range(len(parts.servos)):
        servo = parts.servos[s]
        for i in range(servo.count):
            number = float(action[servo.action + i])
            goal = number
            if not servo.absolute:
                goal = sim.qpos[servo.qpos[i]] + _scaled(servo, i, number)
                goal = min(max(goal, servo.goal_low[i]), servo.goal_high[i])
            servo.goal[i] = goal
    for v in range(len(parts.spinners)):
        spinner = parts.spinners[v]
        for i in range(spinner.count):
            goal = _scaled(spinner, i, float(action[spinner.action + i]))
            spinner.goal[i] = min(max(goal, spinner.goal_low[i]), spinner.goal_high[i])
    for g in range(len(parts.grips)):
        # A hand's controls do not depend on the state, so they are written with the goals.
        grip = parts.grips[g]
        for i in range(grip.count):
            number = float(action[grip.action + grip.source[i]])
            if grip.pace[i] != 0.0:
                number = min(max(grip.now[i] + grip.pace[i] * np.sign(number), -1.0), 1.0)
                grip.now[i] = number
            control = grip.bias[i] + grip.weight[i] * _scaled(grip, i, number)
            sim.ctrl[grip.actuator[i]] = min(max(control, grip.ctrl_low[i]), grip.ctrl_high[i])


@compiled
def apply_controls(sim: Memory, parts: Controllers) -> None:
    """Write this substep's controls; call after `mj_step1`."""
    for a in range(len(parts.arms)):
        _drive_arm(sim, parts, parts.arms[a])
    for s in range(len(parts.servos)):
        _drive_servo(sim, parts.servos[s], parts.v)
    for v in range(len(parts.spinners)):
        _drive_spinner(sim, parts.spinners[v])


@compiled
def _scaled(part: Any, i: int, number: float) -> float:
    return (min(max(number, part.low[i]), part.high[i]) - part.middle[i]) * part.gain[i] + part.offset[i]


# --- arms -------------------------------------------------------------------------------------------------------------


@compiled
def _set_arm_goal(sim: Memory, arm: Any, action: NDArray[np.float32]) -> None:
    delta = np.empty(6)
    for i in range(6):
        delta[i] = _scaled(arm, i, float(action[arm.action + i]))
    R_origin, R = sim.site_xmat[arm.origin], sim.site_xmat[arm.site]
    for i in range(3):
        shift = 0.0
        for k in range(3):
            shift += R_origin[3 * k + i] * (sim.site_xpos[arm.site, k] - sim.site_xpos[arm.origin, k])
        arm.goal_position[i] = shift + delta[i]
    # robosuite turns the displacement into a matrix by way of float32; its own function gives its very bits.
    angle = math.sqrt(delta[3] * delta[3] + delta[4] * delta[4] + delta[5] * delta[5])
    quaternion = np.zeros(4)
    quaternion[3] = 1.0
    if angle != 0.0:
        for i in range(3):
            quaternion[i] = delta[3 + i] / angle * math.sin(angle / 2.0)
        quaternion[3] = math.cos(angle / 2.0)
    turn = quat2mat(quaternion)
    for i in range(3):
        for j in range(3):
            total = 0.0
            for k in range(3):
                here = 0.0
                for m in range(3):
                    here += R_origin[3 * m + k] * R[3 * m + j]
                total += turn[i, k] * here
            arm.goal_rotation[i, j] = total


@compiled
def _drive_arm(sim: Memory, parts: Controllers, arm: Any) -> None:
    n, wrench, velocity = arm.count, parts.wrench, parts.velocity
    R_origin, R = sim.site_xmat[arm.origin], sim.site_xmat[arm.site]
    _jacobian(sim, arm, parts.J, velocity)
    for i in range(3):
        goal = sim.site_xpos[arm.origin, i]
        for k in range(3):
            goal += R_origin[3 * i + k] * arm.goal_position[k]
        wrench[i] = (goal - sim.site_xpos[arm.site, i]) * arm.kp[i] - velocity[i] * arm.kd[i]
    # Half the sum of the cross products of the columns: the sine of the angle times the axis (Luh et al. 1980).
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        error = 0.0
        for column in range(3):
            wanted_j = wanted_k = 0.0
            for m in range(3):
                wanted_j += R_origin[3 * j + m] * arm.goal_rotation[m, column]
                wanted_k += R_origin[3 * k + m] * arm.goal_rotation[m, column]
            error += R[3 * j + column] * wanted_k - R[3 * k + column] * wanted_j
        wrench[3 + i] = 0.5 * error * arm.kp[3 + i] - velocity[3 + i] * arm.kd[3 + i]
    damping = 2.0 * math.sqrt(NULLSPACE_KP)
    for i in range(n):
        pull = arm.posture[i] - sim.qpos[arm.qpos[i]]
        parts.v[i] = NULLSPACE_KP * pull - damping * sim.qvel[arm.dof[i]]
        for j in range(n):
            where = arm.mass[i, j]
            parts.mass[i, j] = sim.M[where] if where >= 0 else 0.0
        for r in range(6):
            parts.Y[i, r] = parts.J[r, i]
    if not _decoupled(parts, n):
        _decoupled_by_pseudo_inverse(sim, parts, arm)
    for i in range(n):
        total = parts.torques[i] + sim.qfrc_bias[arm.dof[i]]
        sim.ctrl[arm.actuator[i]] = min(max(total, arm.ctrl_low[i]), arm.ctrl_high[i])


@compiled
def _jacobian(sim: Memory, arm: Any, J: Array, velocity: Array) -> None:
    """Fill the arm's Jacobian and the velocity of the hand against the base, linear then angular, world frame."""
    for i in range(6):
        velocity[i] = 0.0
    for k in range(arm.site_chain):
        joint, column, speed = arm.chain_joint[k], arm.chain_column[k], sim.qvel[arm.chain_dof[k]]
        for i in range(3):
            linear, angular = _moves(sim, arm.site, joint, arm.chain_slides[k], i)
            velocity[i] += linear * speed
            velocity[3 + i] += angular * speed
            if column >= 0:
                J[i, column], J[3 + i, column] = linear, angular
            if k < arm.origin_chain:
                linear, angular = _moves(sim, arm.origin, joint, arm.chain_slides[k], i)
                velocity[i] -= linear * speed
                velocity[3 + i] -= angular * speed


@compiled
def _moves(sim: Memory, site: int, joint: int, slides: int, i: int) -> tuple[float, float]:
    """Return component i of a site's linear and angular velocity for a joint moving at unit speed."""
    if slides:
        return sim.xaxis[joint, i], 0.0
    j, k = (i + 1) % 3, (i + 2) % 3
    arm_j = sim.site_xpos[site, j] - sim.xanchor[joint, j]
    arm_k = sim.site_xpos[site, k] - sim.xanchor[joint, k]
    return sim.xaxis[joint, j] * arm_k - sim.xaxis[joint, k] * arm_j, sim.xaxis[joint, i]


@compiled
def _decoupled(parts: Controllers, n: int) -> bool:
    """Return whether the torques could be found by Cholesky factors; `mass` and `Y` (J^T at first) are overwritten.

    torques = J^T ([Kp^-1 F; Ko^-1 T] - K^-1 J v) + M v
    """
    M, J, Y, K, Kp, Ko, v = parts.mass, parts.J, parts.Y, parts.K, parts.Kp, parts.Ko, parts.v
    _product(M, v, n, n, parts.torques)
    if not _cholesky(M, n, 0.0, 0.0):
        return False
    _forward(M, n, Y)
    # Y is now L^-1 J^T, so that K = Y^T Y.
    for r in range(6):
        for c in range(r + 1):
            total = 0.0
            for k in range(n):
                total += Y[k, r] * Y[k, c]
            K[r, c] = total
    for r in range(3):
        for c in range(r + 1):
            Kp[r, c], Ko[r, c] = K[r, c], K[3 + r, 3 + c]
    # Metres and radians must not be held against each other, so the whole matrix is only asked for dependence.
    if not (_cholesky(Kp, 3, SINGULAR, IMMOBILE) and _cholesky(Ko, 3, SINGULAR, IMMOBILE)):
        return False
    if not _cholesky(K, 6, SINGULAR, 0.0):
        return False
    force, torque = parts.wrench[:3], parts.wrench[3:]
    _product(J, v, 6, n, parts.pull)
    _solve(K, 6, parts.pull)
    _solve(Kp, 3, force)
    _solve(Ko, 3, torque)
    for i in range(n):
        for r in range(6):
            parts.torques[i] += J[r, i] * (parts.wrench[r] - parts.pull[r])
    return True


@compiled
def _product(A: Array, b: Array, rows: int, columns: int, into: Array) -> None:
    for i in range(rows):
        total = 0.0
        for j in range(columns):
            total += A[i, j] * b[j]
        into[i] = total


@compiled
def _forward(L: Array, n: int, B: Array) -> None:
    """Replace B ``(n, 6)`` by the solution of L X = B."""
    for c in range(6):
        for i in range(n):
            total = B[i, c]
            for k in range(i):
                total -= L[i, k] * B[k, c]
            B[i, c] = total / L[i, i]


@compiled
def _decoupled_by_pseudo_inverse(sim: Memory, parts: Controllers, arm: Any) -> None:
    """Take robosuite's own matrices and functions, for the few substeps near a singularity."""
    n, jac = arm.count, parts.jac
    mj_jacSite(sim.model, sim.data, jac[0].ctypes.data, jac[1].ctypes.data, arm.site)
    # robosuite's mass matrix is stored by columns, and the linear algebra of a singular matrix depends on that.
    mass, J, posture = np.empty((n, n)).T, np.empty((6, n)), np.empty(n)
    q, qd = np.empty(n), np.empty(n)
    for i in range(n):
        dof = arm.dof[i]
        q[i], qd[i], posture[i] = sim.qpos[arm.qpos[i]], sim.qvel[dof], arm.posture[i]
        for r in range(3):
            J[r, i], J[3 + r, i] = jac[0, r, dof], jac[1, r, dof]
        for j in range(n):
            where = arm.mass[i, j]
            mass[i, j] = sim.M[where] if where >= 0 else 0.0
    _, inertia_pos, inertia_ori, nullspace = opspace_matrices(mass, J, J[:3], J[3:])
    wrench = np.concatenate((np.dot(inertia_pos, parts.wrench[:3]), np.dot(inertia_ori, parts.wrench[3:])))
    torques = np.dot(J.T, wrench) + nullspace_torques(mass, nullspace, posture, q, qd)
    for i in range(n):
        parts.torques[i] = torques[i]


@compiled
def _cholesky(A: Array, n: int, dependent: float, immobile: float) -> bool:
    """Replace the lower triangle of a symmetric matrix by its Cholesky factor; False when it is (nearly) singular.

    Pivots must be larger than the share `dependent` of their diagonal element, and `immobile` of the largest one.
    """
    largest = 0.0
    for i in range(n):
        largest = max(largest, A[i, i])
    for j in range(n):
        pivot = A[j, j]
        for k in range(j):
            pivot -= A[j, k] * A[j, k]
        if not (pivot > dependent * A[j, j] and pivot > immobile * largest):
            return False
        root = math.sqrt(pivot)
        A[j, j] = root
        for i in range(j + 1, n):
            total = A[i, j]
            for k in range(j):
                total -= A[i, k] * A[j, k]
            A[i, j] = total / root
    return True


@compiled
def _solve(L: Array, n: int, b: Array) -> None:
    """Replace b by the solution of L L^T x = b."""
    for i in range(n):
        total = b[i]
        for k in range(i):
            total -= L[i, k] * b[k]
        b[i] = total / L[i, i]
    for i in range(n - 1, -1, -1):
        total = b[i]
        for k in range(i + 1, n):
            total -= L[k, i] * b[k]
        b[i] = total / L[i, i]


# --- joints -----------------------------------------------------------------------------------------------------------


@compiled
def _drive_servo(sim: Memory, servo: Any, wanted: Array) -> None:
    n = servo.count
    for i in range(n):
        error = servo.goal[i] - sim.qpos[servo.qpos[i]]
        wanted[i] = error * servo.kp[i] - sim.qvel[servo.dof[i]] * servo.kd[i]
    for i in range(n):
        total = wanted[i]
        if servo.compensated:
            total = sim.qfrc_bias[servo.dof[i]]
            for j in range(n):
                where = servo.mass[i, j]
                if where >= 0:
                    total += sim.M[where] * wanted[j]
        sim.ctrl[servo.actuator[i]] = min(max(total, servo.ctrl_low[i]), servo.ctrl_high[i])


@compiled
def _drive_spinner(sim: Memory, spinner: Any) -> None:
    saturated, count = spinner.saturated, min(spinner.seen + 1, DERIVATIVE_STEPS)
    spinner.saturated = 0
    for i in range(spinner.count):
        error = spinner.goal[i] - sim.qvel[spinner.dof[i]]
        for k in range(DERIVATIVE_STEPS - 1, 0, -1):
            spinner.differences[k, i] = spinner.differences[k - 1, i]
        spinner.differences[0, i] = error - spinner.last[i]
        spinner.last[i] = error
        if not saturated:
            spinner.total[i] += error
        average = 0.0
        for k in range(count):
            average += spinner.differences[k, i]
        average /= count
        torque = spinner.kp[i] * error + spinner.ki[i] * spinner.total[i] + spinner.kd[i] * average
        if spinner.compensated:
            torque += sim.qfrc_bias[spinner.dof[i]]
        clipped = min(max(torque, spinner.ctrl_low[i]), spinner.ctrl_high[i])
        if clipped != torque:
            spinner.saturated = 1
        sim.ctrl[spinner.actuator[i]] = clipped
    spinner.seen = count
