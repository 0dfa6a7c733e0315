"""robosuite's OSC_POSE and Panda gripper as Warp kernels: from targets to actions, goals and torques, on the device.

Two kernels over (world, arm). `_aim` runs once per control step: it turns a target pose into the float32 action that is
executed, and the action into a goal. `_drive` runs at every physics substep: it turns the goal into joint torques, the
operational-space law of Khatib (1987) as robosuite writes it, with position and orientation uncoupled and the start
posture pulled at in the null space.

Goals are kept in the world frame. robosuite keeps them in the base frame; as the bases here cannot move, both say the
same. Small matrices are factored in double precision: their conditioning would cost a float32 its last three digits.
"""

# No `from __future__ import annotations`: Warp reads the annotations of kernels as types.
# pyright: basic, reportReturnType=false, reportAssignmentType=false, reportAttributeAccessIssue=false
# pyright: reportInvalidTypeForm=false, reportGeneralTypeIssues=false
# pyright: reportIndexIssue=false, reportOperatorIssue=false, reportCallIssue=false, reportArgumentType=false
from dataclasses import dataclass
from typing import Any

import warp as wp

from sim_tasks.backends.mjwarp.arms import JOINTS, Arm, Column, Six, Square

wp.set_module_options({"enable_backward": False, "max_unroll": 4})

NULLSPACE_KP = wp.constant(wp.float64(10.0))
"""Stiffness of the pull towards the start posture, 1/s^2: robosuite's default `joint_kp`; damping is critical."""

TINY_PIVOT = wp.constant(wp.float64(1e-13))
"""A pivot below this share of the largest diagonal is a direction the arm cannot move in; robosuite's pseudo-inverse
drops singular values there as well."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What the worlds are told for some control steps, and what the arms remember; arrays on the device.

    S control steps, W worlds, A arms.

    Attributes:
        clock: ``(1,)`` the present control step, counted from the beginning of the orders.
        lengths: ``(W,)`` control steps each world takes part in.
        recorded: ``(W,)`` 1 where `actions` are given, 0 where they follow from the targets.
        positions: ``(S, W, A)`` target positions of the grip frames, world frame, metres.
        rotations: ``(S, W, A)`` target rotations.
        grippers: ``(S, W, A)`` gripper commands.
        noise: ``(S, W, A)`` added to the clipped pose action.
        actions: ``(S, W, a)`` actions as executed.
        goal_position: ``(W, A)`` where the controller pulls, world frame; likewise goal_rotation.
        goal_rotation: see goal_position.
        posture: ``(W, A)`` joint positions the null space pulls towards, rad.
        fingers: ``(W, A)`` the gripper's ramp, -1 to 1 for each finger.
    """

    clock: wp.array
    lengths: wp.array
    recorded: wp.array
    positions: wp.array
    rotations: wp.array
    grippers: wp.array
    noise: wp.array
    actions: wp.array
    goal_position: wp.array
    goal_rotation: wp.array
    posture: wp.array
    fingers: wp.array


def allocate_orders(steps: int, worlds: int, arms: int, action_dim: int) -> Orders:
    """Return zeroed orders on Warp's current device."""
    return Orders(
        clock=wp.zeros(1, dtype=wp.int32),
        lengths=wp.zeros(worlds, dtype=wp.int32),
        recorded=wp.zeros(worlds, dtype=wp.int32),
        positions=wp.zeros((steps, worlds, arms), dtype=wp.vec3),
        rotations=wp.zeros((steps, worlds, arms), dtype=wp.mat33),
        grippers=wp.zeros((steps, worlds, arms), dtype=wp.float32),
        noise=wp.zeros((steps, worlds, arms), dtype=Six),
        actions=wp.zeros((steps, worlds, action_dim), dtype=wp.float32),
        goal_position=wp.zeros((worlds, arms), dtype=wp.vec3),
        goal_rotation=wp.zeros((worlds, arms), dtype=wp.mat33),
        posture=wp.zeros((worlds, arms), dtype=Column),
        fingers=wp.zeros((worlds, arms), dtype=wp.vec2),
    )


def launch_aim(arms: wp.array, orders: Orders, data: Any) -> None:
    """Set actions, goals and finger controls of the present control step; poses must be up to date."""
    o = orders
    wp.launch(
        _aim,
        dim=o.goal_position.shape,
        inputs=[arms, o.clock, o.lengths, o.recorded, o.positions, o.rotations, o.grippers, o.noise]
        + [data.site_xpos, data.site_xmat],
        outputs=[o.actions, o.goal_position, o.goal_rotation, o.fingers, data.ctrl],
    )


def launch_drive(arms: wp.array, orders: Orders, data: Any) -> None:
    """Write the torques that pull towards the goals; positions, velocities and bias forces must be up to date."""
    wp.launch(
        _drive,
        dim=orders.goal_position.shape,
        inputs=[arms, orders.goal_position, orders.goal_rotation, orders.posture, data.qpos, data.qvel]
        + [data.site_xpos, data.site_xmat, data.subtree_com, data.cdof, data.M, data.qfrc_bias],
        outputs=[data.ctrl],
    )


# --- the law ----------------------------------------------------------------------------------------------------------


@wp.func
def _rotation_vector(R: wp.mat33) -> wp.vec3:
    q = wp.quat_from_matrix(R)
    v = wp.vec3(q[0], q[1], q[2])
    if q[3] < 0.0:
        v = -v
    sine = wp.length(v)
    if sine < 1e-7:
        return 2.0 * v
    return v * (2.0 * wp.atan2(sine, wp.abs(q[3])) / sine)


@wp.func
def _rotation(v: wp.vec3) -> wp.mat33:
    angle = wp.length(v)
    if angle < 1e-9:
        return wp.identity(n=3, dtype=wp.float32)
    return wp.quat_to_matrix(wp.quat_from_axis_angle(v / angle, angle))


@wp.kernel
def _aim(
    arms: wp.array(dtype=Arm),
    clock: wp.array(dtype=wp.int32),
    lengths: wp.array(dtype=wp.int32),
    recorded: wp.array(dtype=wp.int32),
    positions: wp.array3d(dtype=wp.vec3),
    rotations: wp.array3d(dtype=wp.mat33),
    grippers: wp.array3d(dtype=wp.float32),
    noise: wp.array3d(dtype=Six),
    site_xpos: wp.array2d(dtype=wp.vec3),
    site_xmat: wp.array2d(dtype=wp.mat33),
    actions: wp.array3d(dtype=wp.float32),
    goal_position: wp.array2d(dtype=wp.vec3),
    goal_rotation: wp.array2d(dtype=wp.mat33),
    fingers: wp.array2d(dtype=wp.vec2),
    ctrl: wp.array2d(dtype=wp.float32),
):
    world, a = wp.tid()
    step = clock[0]
    if step >= lengths[world]:
        return
    arm = arms[a]
    position = site_xpos[world, arm.site]
    rotation = site_xmat[world, arm.site]
    base = site_xmat[world, arm.origin]
    if recorded[world] == 0:
        shift = wp.transpose(base) * (positions[step, world, a] - position)
        turn = wp.transpose(base) * _rotation_vector(rotations[step, world, a] * wp.transpose(rotation))
        for i in range(3):
            wanted_shift = wp.clamp(shift[i] / arm.target_scale[i], -1.0, 1.0) + noise[step, world, a][i]
            wanted_turn = wp.clamp(turn[i] / arm.target_scale[3 + i], -1.0, 1.0) + noise[step, world, a][3 + i]
            actions[step, world, arm.action + i] = wp.clamp(wanted_shift, -1.0, 1.0)
            actions[step, world, arm.action + 3 + i] = wp.clamp(wanted_turn, -1.0, 1.0)
        actions[step, world, arm.gripper_action] = grippers[step, world, a]
    move = wp.vec3()
    spin = wp.vec3()
    for i in range(3):
        move[i] = wp.clamp(actions[step, world, arm.action + i], -1.0, 1.0) * arm.goal_scale[i]
        spin[i] = wp.clamp(actions[step, world, arm.action + 3 + i], -1.0, 1.0) * arm.goal_scale[3 + i]
    goal_position[world, a] = position + base * move
    goal_rotation[world, a] = base * _rotation(spin) * wp.transpose(base) * rotation
    # wp.sign(0) is 1, but a command of zero leaves the fingers where they are.
    command = actions[step, world, arm.gripper_action]
    sign = wp.where(command > 0.0, 1.0, 0.0) - wp.where(command < 0.0, 1.0, 0.0)
    ramp = fingers[world, a]
    for i in range(2):
        ramp[i] = wp.clamp(ramp[i] + arm.finger_direction[i] * arm.finger_step * sign, -1.0, 1.0)
        ctrl[world, arm.fingers[i]] = arm.finger_middle[i] + arm.finger_half_range[i] * ramp[i]
    fingers[world, a] = ramp


@wp.func
def _factor(A: Square, first: int, n: int) -> Square:
    """Return the lower Cholesky factor of the block of n rows from `first`; a dropped direction has pivot 0."""
    L = Square()
    largest = wp.float64(0.0)
    for i in range(n):
        largest = wp.max(largest, A[first + i, first + i])
    for j in range(n):
        pivot = A[first + j, first + j]
        for k in range(j):
            pivot -= L[j, k] * L[j, k]
        if pivot > TINY_PIVOT * largest:
            L[j, j] = wp.sqrt(pivot)
            for i in range(j + 1, n):
                value = A[first + i, first + j]
                for k in range(j):
                    value -= L[i, k] * L[j, k]
                L[i, j] = value / L[j, j]
    return L


@wp.func
def _forward(L: Square, b: Column, first: int, n: int) -> Column:
    """Return y with L y = b, where b is read from `first` on."""
    y = Column()
    for i in range(n):
        if L[i, i] > wp.float64(0.0):
            value = b[first + i]
            for k in range(i):
                value -= L[i, k] * y[k]
            y[i] = value / L[i, i]
    return y


@wp.func
def _solve(A: Square, b: Column, first: int, n: int) -> Column:
    """Return x with A x = b within the block of n rows from `first`; x begins at 0."""
    L = _factor(A, first, n)
    y = _forward(L, b, first, n)
    x = Column()
    for back in range(n):
        i = n - 1 - back
        if L[i, i] > wp.float64(0.0):
            value = y[i]
            for k in range(i + 1, n):
                value -= L[k, i] * x[k]
            x[i] = value / L[i, i]
    return x


@wp.func
def _jacobian(arm: Arm, axes: wp.array(dtype=wp.spatial_vector), offset: wp.vec3) -> Square:
    """Return the grip site's Jacobian, rows 0-2 linear and 3-5 angular, row 6 zero.

    MuJoCo keeps joint axes about the centre of mass of the whole tree; `offset` leads from there to the site.
    """
    J = Square()
    for i in range(JOINTS):
        spin = wp.spatial_top(axes[arm.dofs[i]])
        shift = wp.spatial_bottom(axes[arm.dofs[i]]) + wp.cross(spin, offset)
        for r in range(3):
            J[r, i] = wp.float64(shift[r])
            J[3 + r, i] = wp.float64(spin[r])
    return J


@wp.func
def _turn_left(goal: wp.mat33, now: wp.mat33) -> wp.vec3:
    """Return half the sum of the cross products of the axes: about an axis, the sine of the turn that is left."""
    turn = wp.vec3()
    for c in range(3):
        turn += 0.5 * wp.cross(wp.vec3(now[0, c], now[1, c], now[2, c]), wp.vec3(goal[0, c], goal[1, c], goal[2, c]))
    return turn


@wp.func
def _mobility(J: Square, inertia: Square) -> Square:
    """Return J M^-1 J^T as X^T X with M = L L^T and X = L^-1 J^T: symmetric, whatever is rounded."""
    L = _factor(inertia, 0, JOINTS)
    X = Square()
    for r in range(6):
        X[r] = _forward(L, J[r], 0, JOINTS)
    mobility = Square()
    for r in range(6):
        for s in range(r + 1):
            value = wp.dot(X[r], X[s])
            mobility[r, s] = value
            mobility[s, r] = value
    return mobility


@wp.kernel
def _drive(
    arms: wp.array(dtype=Arm),
    goal_position: wp.array2d(dtype=wp.vec3),
    goal_rotation: wp.array2d(dtype=wp.mat33),
    posture: wp.array2d(dtype=Column),
    qpos: wp.array2d(dtype=wp.float32),
    qvel: wp.array2d(dtype=wp.float32),
    site_xpos: wp.array2d(dtype=wp.vec3),
    site_xmat: wp.array2d(dtype=wp.mat33),
    subtree_com: wp.array2d(dtype=wp.vec3),
    cdof: wp.array2d(dtype=wp.spatial_vector),
    M: wp.array2d(dtype=wp.float32),
    qfrc_bias: wp.array2d(dtype=wp.float32),
    ctrl: wp.array2d(dtype=wp.float32),
):
    world, a = wp.tid()
    arm = arms[a]
    position = site_xpos[world, arm.site]
    J = _jacobian(arm, cdof[world], position - subtree_com[world, arm.root])
    inertia = Square()
    speed = Column()
    pull = Column()
    for i in range(JOINTS):
        speed[i] = wp.float64(qvel[world, arm.dofs[i]])
        away = posture[world, a][i] - wp.float64(qpos[world, arm.qpos[i]])
        pull[i] = NULLSPACE_KP * away - wp.float64(2.0) * wp.sqrt(NULLSPACE_KP) * speed[i]
        for j in range(JOINTS):
            inertia[i, j] = wp.float64(M[world, arm.inertia[i, j]])

    shift = goal_position[world, a] - position
    turn = _turn_left(goal_rotation[world, a], site_xmat[world, arm.site])
    velocity = J * speed
    wrench = Column()
    for r in range(3):
        wrench[r] = wp.float64(shift[r]) * arm.kp[r] - velocity[r] * arm.kd[r]
        wrench[3 + r] = wp.float64(turn[r]) * arm.kp[3 + r] - velocity[3 + r] * arm.kd[3 + r]

    mobility = _mobility(J, inertia)
    force = _solve(mobility, wrench, 0, 3)
    torque = _solve(mobility, wrench, 3, 3)
    # The posture's pull minus what of it would be felt at the hand: (I - J^T lambda J M^-1) M pull.
    felt = _solve(mobility, J * pull, 0, 6)
    at_hand = Column()
    for r in range(3):
        at_hand[r] = force[r] - felt[r]
        at_hand[3 + r] = torque[r] - felt[3 + r]
    drive = wp.transpose(J) * at_hand + inertia * pull
    for i in range(JOINTS):
        value = drive[i] + wp.float64(qfrc_bias[world, arm.dofs[i]])
        ctrl[world, arm.actuators[i]] = wp.float32(wp.clamp(value, arm.low[i], arm.high[i]))
