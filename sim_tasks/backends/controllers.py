"""Reads robosuite's controllers into the tables of `control_laws`, and says which cannot be."""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from robosuite.controllers.parts.arm.osc import OperationalSpaceController
from robosuite.controllers.parts.generic.joint_pos import JointPositionController
from robosuite.controllers.parts.generic.joint_vel import JointVelocityController
from robosuite.controllers.parts.gripper.simple_grip import SimpleGripController

from factory.errors import BackendError
from sim_tasks.backends.control_laws import (
    ARM,
    DERIVATIVE_STEPS,
    GRIP,
    MOST_CHAIN,
    MOST_JOINTS,
    SERVO,
    SPINNER,
    Controllers,
    Table,
)

Array = NDArray[np.float64]
Ints = NDArray[np.int32]


class UnsupportedControlError(BackendError):
    """A robot is driven in a way that is not compiled; robosuite's own step still can."""


@dataclass(frozen=True, kw_only=True)
class _Part:
    """One of a robot's controllers: `key` is its name in a snapshot, `action` its first column."""

    robot: Any
    name: str
    key: str
    controller: Any
    action: int
    actuators: Ints

    @property
    def dofs(self) -> Ints:
        return np.asarray(self.controller.qvel_index, np.int32)


def tables(model: mujoco.MjModel, robots: Sequence[Any]) -> Controllers:
    """Return the tables of all robots' controllers, memory as robosuite's controllers have it now.

    Raises:
        UnsupportedControlError: naming the part and what it is.
    """
    parts = _parts(robots)
    arms = [p for p in parts if isinstance(p.controller, OperationalSpaceController)]
    servos = [p for p in parts if isinstance(p.controller, JointPositionController)]
    spinners = [p for p in parts if isinstance(p.controller, JointVelocityController)]
    grips = [p for p in parts if isinstance(p.controller, SimpleGripController)]
    for part in parts:
        if part not in (*arms, *servos, *spinners, *grips):
            raise _unsupported(part, f"its controller is a {type(part.controller).__name__}")
    where = _mass_matrix(model)
    n = MOST_JOINTS
    return Controllers(
        arms=_arms(model, arms, where),
        servos=_servos(model, servos, where),
        spinners=_spinners(model, spinners),
        grips=_grips(model, grips),
        mass=np.zeros((n, n)),
        J=np.zeros((6, n)),
        Y=np.zeros((n, 6)),
        K=np.zeros((6, 6)),
        Kp=np.zeros((3, 3)),
        Ko=np.zeros((3, 3)),
        v=np.zeros(n),
        torques=np.zeros(n),
        wrench=np.zeros(6),
        velocity=np.zeros(6),
        pull=np.zeros(6),
        jac=np.zeros((2, 3, model.nv)),
    )


def part_names(robots: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    """Return the snapshot names of the rows of each kind of table."""
    parts = _parts(robots)
    kinds = {
        "arms": OperationalSpaceController,
        "spinners": JointVelocityController,
        "grips": SimpleGripController,
    }
    return {kind: tuple(p.key for p in parts if isinstance(p.controller, cls)) for kind, cls in kinds.items()}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm among all robots: the prefix of its names in a snapshot, robosuite's controller and gripper.

    `remembers` is whether the gripper's next command depends on its last one.
    """

    key: str
    controller: Any
    gripper: Any
    remembers: bool


def arms(robots: Sequence[Any]) -> list[Arm]:
    """Return the arms of all robots, named as the snapshots of `memory` name them."""
    return [
        Arm(
            key=_prefix(robot, robots) + name,
            controller=robot.part_controllers[name],
            gripper=robot.gripper[name],
            remembers=_remembers(robot.gripper[name]),
        )
        for robot in robots
        for name in robot.arms
    ]


def begin(parts: Controllers, qpos: Array) -> None:
    """Set the controllers' memory to that of a fresh episode that starts in this state."""
    for arm in parts.arms:
        n = arm["count"]
        arm["posture"][:n] = qpos[arm["qpos"][:n]]
    parts.grips["now"] = 0.0
    for field in ("last", "total", "differences", "seen", "saturated"):
        parts.spinners[field] = 0


def memory(parts: Controllers, names: Mapping[str, Sequence[str]]) -> dict[str, Array]:
    """Return what the controllers remember from one control step to the next."""
    kept: dict[str, Array] = {}
    for name, arm in zip(names["arms"], parts.arms, strict=True):
        kept[f"{name}.initial_joint"] = arm["posture"][: arm["count"]].copy()
    for name, grip in zip(names["grips"], parts.grips, strict=True):
        if grip["pace"].any():
            kept[_gripper_key(name)] = grip["now"][: grip["count"]].copy()
    for name, spinner in zip(names["spinners"], parts.spinners, strict=True):
        n = spinner["count"]
        facts = [[spinner["seen"], spinner["saturated"]], spinner["last"][:n], spinner["total"][:n]]
        kept[f"{name}.velocity_memory"] = np.concatenate([*facts, spinner["differences"][:, :n].ravel()])
    return kept


def recall(parts: Controllers, names: Mapping[str, Sequence[str]], kept: Mapping[str, Array]) -> None:
    """Put back what `memory` returned.

    Raises:
        BackendError: something is missing, so the snapshot is of another robot.
    """
    try:
        for name, arm in zip(names["arms"], parts.arms, strict=True):
            arm["posture"][: arm["count"]] = kept[f"{name}.initial_joint"]
        for name, grip in zip(names["grips"], parts.grips, strict=True):
            if grip["pace"].any():
                grip["now"][: grip["count"]] = kept[_gripper_key(name)]
        for name, spinner in zip(names["spinners"], parts.spinners, strict=True):
            n, row = int(spinner["count"]), kept[f"{name}.velocity_memory"]
            spinner["seen"], spinner["saturated"] = row[:2]
            spinner["last"][:n], spinner["total"][:n] = row[2 : 2 + n], row[2 + n : 2 + 2 * n]
            spinner["differences"][:, :n] = row[2 + 2 * n :].reshape(DERIVATIVE_STEPS, n)
    except KeyError as error:
        raise BackendError(f"the snapshot has {sorted(kept)}, not {error}; was it taken of this robot?") from error


def _gripper_key(part: str) -> str:
    return f"{part.removesuffix('_gripper')}.gripper_action"


# --- robosuite's parts ------------------------------------------------------------------------------------------------


def _parts(robots: Sequence[Any]) -> list[_Part]:
    parts: list[_Part] = []
    first = 0
    for robot in robots:
        if robot.composite_controller.name != "BASIC":
            raise UnsupportedControlError(
                f"robot {robot.name!r} is driven by {robot.composite_controller.name}; compiled are parts under BASIC"
            )
        prefix = _prefix(robot, robots)
        for name, controller in robot.part_controllers.items():
            if not robot._enabled_parts.get(name, False):  # noqa: SLF001 - robosuite has no accessor
                continue
            start, _ = robot._action_split_indexes[name]  # noqa: SLF001
            actuators = np.asarray(robot._ref_actuators_indexes_dict[name], np.int32)  # noqa: SLF001
            if not len(actuators):
                continue
            part = _Part(
                robot=robot,
                name=name,
                key=prefix + name,
                controller=controller,
                action=first + start,
                actuators=actuators,
            )
            if getattr(controller, "interpolator", None) is not None:
                raise _unsupported(part, "it interpolates its goals")
            parts.append(part)
        first += int(robot.action_dim)
    return parts


def _prefix(robot: Any, robots: Sequence[Any]) -> str:
    """Return what tells a robot's parts apart from the first one's, for robots share part names."""
    return "" if robot is robots[0] else robot.robot_model.naming_prefix


def _remembers(gripper: Any) -> bool:
    """Whether a gripper moves from where it was last told to be: found out by telling it twice the same."""
    hand = copy.copy(gripper)
    hand.current_action = np.zeros_like(np.asarray(gripper.current_action, float))
    first, again = (np.array(hand.format_action(np.full(gripper.dof, 1.0))) for _ in range(2))
    return not np.array_equal(first, again)


def _unsupported(part: _Part, why: str) -> UnsupportedControlError:
    return UnsupportedControlError(f"part {part.name!r} of robot {part.robot.name!r} cannot be compiled: {why}")


def _table(kind: np.dtype[np.void], model: mujoco.MjModel, parts: Sequence[_Part]) -> Table:
    """Return a table with what all kinds of parts have: joints, actuators, limits and scaling."""
    table = np.zeros(len(parts), kind)
    table["low"], table["high"], table["gain"] = -np.inf, np.inf, 1.0
    for row, part in zip(table, parts, strict=True):
        c, n = part.controller, len(part.actuators)
        if n > MOST_JOINTS:
            raise _unsupported(part, f"it has {n} actuators, compiled are up to {MOST_JOINTS}")
        row["count"], row["action"], row["actuator"][:n] = n, part.action, part.actuators
        row["ctrl_low"][:n], row["ctrl_high"][:n] = model.actuator_ctrlrange[part.actuators].T
        if len(c.qpos_index) == n:
            row["qpos"][:n], row["dof"][:n] = c.qpos_index, c.qvel_index
        if getattr(c, "use_action_scaling", True):
            k = len(c.input_max)
            row["low"][:k], row["high"][:k] = c.input_min, c.input_max
            row["middle"][:k] = (c.input_max + c.input_min) / 2.0
            row["offset"][:k] = (c.output_max + c.output_min) / 2.0
            row["gain"][:k] = abs(c.output_max - c.output_min) / abs(c.input_max - c.input_min)
    return table


def _mass_matrix(model: mujoco.MjModel) -> Ints:
    """Return ``(nv, nv)`` where each element lies in MuJoCo's sparse inertia matrix, -1 where it is zero."""
    where = np.full((model.nv, model.nv), -1, np.int32)
    for row in range(model.nv):
        start = model.M_rowadr[row]
        for k in range(model.M_rownnz[row]):
            column = model.M_colind[start + k]
            where[row, column] = where[column, row] = start + k
    return where


def _fill_mass(table: Table, parts: Sequence[_Part], where: Ints) -> None:
    table["mass"] = -1
    for row, part in zip(table, parts, strict=True):
        n = len(part.dofs)
        row["mass"][:n, :n] = where[np.ix_(part.dofs, part.dofs)]


def _fill_limits(row: Any, limits: Any) -> None:
    row["goal_low"], row["goal_high"] = -np.inf, np.inf
    if limits is not None:
        n = row["count"]
        row["goal_low"][:n], row["goal_high"][:n] = limits[0], limits[1]


# --- one table each ---------------------------------------------------------------------------------------------------


def _arms(model: mujoco.MjModel, parts: Sequence[_Part], where: Ints) -> Table:
    for part in parts:
        c = part.controller
        plain = {
            "position and orientation": c.name == "OSC_POSE",
            "fixed impedance": c.impedance_mode == "fixed",
            "no interpolation": c.interpolator_pos is None and c.interpolator_ori is None,
            "uncoupled position and orientation": c.uncoupling,
            "displacements": c.input_type == "delta",
            "the base's frame": c.input_ref_frame == "base",
            "goals from the achieved pose": c._goal_update_mode == "achieved",  # noqa: SLF001
            "one reference site": c.num_ref_sites == 1,
        }
        missing = [what for what, there in plain.items() if not there]
        if missing:
            raise _unsupported(part, "compiled operational-space control needs " + ", ".join(missing))
    table = _table(ARM, model, parts)
    _fill_mass(table, parts, where)
    table["chain_column"] = -1
    for row, part in zip(table, parts, strict=True):
        c = part.controller
        row["site"] = _site(model, c.ref_name)
        row["origin"] = _site(model, f"{c.naming_prefix}{c.part_name}_center")
        chain, origin_chain = _chain(model, row["site"], part), _chain(model, row["origin"], part)
        if chain[: len(origin_chain)] != origin_chain:
            raise _unsupported(part, "its base does not lie on the way to its hand")
        if len(chain) > MOST_CHAIN:
            raise _unsupported(part, f"{len(chain)} joints move its hand, compiled are up to {MOST_CHAIN}")
        row["site_chain"], row["origin_chain"] = len(chain), len(origin_chain)
        row["kp"], row["kd"] = c.kp, c.kd
        row["posture"][: row["count"]] = c.initial_joint
        columns = {int(dof): column for column, dof in enumerate(part.dofs)}
        for k, joint in enumerate(chain):
            dof = int(model.jnt_dofadr[joint])
            row["chain_joint"][k], row["chain_dof"][k] = joint, dof
            row["chain_slides"][k] = model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_SLIDE.value
            row["chain_column"][k] = columns.pop(dof, -1)
        if columns:
            raise _unsupported(part, f"degrees of freedom {sorted(columns)} do not move its hand")
    return table


def _chain(model: mujoco.MjModel, site: int, part: _Part) -> list[int]:
    """Return the joints between the world and a site, from the world outwards."""
    chain: list[int] = []
    body = int(model.site_bodyid[site])
    while body:
        first = int(model.body_jntadr[body])
        chain = [*range(first, first + int(model.body_jntnum[body])), *chain] if first >= 0 else chain
        body = int(model.body_parentid[body])
    hinge, slide = mujoco.mjtJoint.mjJNT_HINGE.value, mujoco.mjtJoint.mjJNT_SLIDE.value
    if any(model.jnt_type[joint] not in (hinge, slide) for joint in chain):
        raise _unsupported(part, "its base floats; compiled are hinges and slides")
    return chain


def _site(model: mujoco.MjModel, name: str) -> int:
    site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name)
    if site < 0:
        raise UnsupportedControlError(f"the scene has no site {name!r}, which its controller refers to")
    return site


def _servos(model: mujoco.MjModel, parts: Sequence[_Part], where: Ints) -> Table:
    for part in parts:
        if part.controller.impedance_mode != "fixed":
            raise _unsupported(part, f"its impedance is {part.controller.impedance_mode!r}, compiled is 'fixed'")
    table = _table(SERVO, model, parts)
    _fill_mass(table, parts, where)
    for row, part in zip(table, parts, strict=True):
        c, n = part.controller, row["count"]
        row["absolute"], row["compensated"] = c.input_type == "absolute", bool(c.use_torque_compensation)
        row["kp"][:n], row["kd"][:n] = c.kp, c.kd
        _fill_limits(row, c.position_limits)
    return table


def _spinners(model: mujoco.MjModel, parts: Sequence[_Part]) -> Table:
    table = _table(SPINNER, model, parts)
    for row, part in zip(table, parts, strict=True):
        c, n = part.controller, row["count"]
        row["compensated"] = c.torque_compensation is not None
        row["kp"][:n], row["ki"][:n], row["kd"][:n] = c.kp, c.ki, c.kd
        _fill_limits(row, c.velocity_limits)
    return table


def _grips(model: mujoco.MjModel, parts: Sequence[_Part]) -> Table:
    table = _table(GRIP, model, parts)
    table["weight"] = 1.0
    for row, part in zip(table, parts, strict=True):
        c, n = part.controller, len(part.actuators)
        gripper = part.robot.gripper[part.name.removesuffix("_gripper")]
        row["source"][:n], row["pace"][:n] = _hand_map(part, gripper, n)
        if row["pace"].any():
            row["now"][:n] = gripper.current_action
        if c.use_action_scaling:
            row["bias"][:n] = 0.5 * (np.asarray(c.actuator_max) + c.actuator_min)
            row["weight"][:n] = 0.5 * (np.asarray(c.actuator_max) - c.actuator_min)
    return table


def _hand_map(part: _Part, gripper: Any, actuators: int) -> tuple[Ints, Array]:
    """Find out by trying how a hand's action reaches its actuators: an index map, or a pace towards a sign.

    Raises:
        UnsupportedControlError: it is neither.
    """
    hand = copy.copy(gripper)
    rng = np.random.default_rng(0)
    trials = rng.uniform(-1.0, 1.0, (8, gripper.dof))
    hand.current_action = np.zeros(actuators)
    answers = np.array([np.broadcast_to(hand.format_action(trial), actuators) for trial in trials])
    equal = np.abs(answers[:, :, None] - trials[:, None, :]).max(axis=0) == 0.0  # (actuators, dof)
    if equal.any(axis=1).all():
        return np.argmax(equal, axis=1).astype(np.int32), np.zeros(actuators)
    hand.current_action = np.zeros(actuators)
    pace = np.array(np.broadcast_to(hand.format_action(np.ones(gripper.dof)), actuators), float)
    now = np.zeros(actuators)
    hand.current_action = now.copy()
    for trial in trials[:, :1]:
        now = np.clip(now + pace * np.sign(trial[0]), -1.0, 1.0)
        if gripper.dof != 1 or not np.allclose(hand.format_action(trial), now, rtol=0.0, atol=1e-15):
            raise _unsupported(part, f"what {type(gripper).__name__} makes of an action is not understood")
    return np.zeros(actuators, np.int32), pace
