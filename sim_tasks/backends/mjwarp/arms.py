"""Where robosuite's arms live in a model and what their controllers were built with, as Warp structs."""

# No `from __future__ import annotations`: Warp reads the annotations of structs as types.
# pyright: basic, reportAttributeAccessIssue=false, reportInvalidTypeForm=false, reportGeneralTypeIssues=false
# pyright: reportCallIssue=false, reportArgumentType=false
from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
import warp as wp
from numpy.typing import NDArray
from robosuite.models.grippers.panda_gripper import PandaGripper

from factory.errors import BackendError
from factory.specs import EefSpec, RobotSpec

JOINTS = wp.constant(7)
"""Arm joints the kernels are written for; a matrix has to have a size when a kernel is compiled."""

Square = wp.types.matrix(shape=(7, 7), dtype=wp.float64)
Column = wp.types.vector(length=7, dtype=wp.float64)
Joints = wp.types.vector(length=7, dtype=wp.int32)
Addresses = wp.types.matrix(shape=(7, 7), dtype=wp.int32)
Six = wp.types.vector(length=6, dtype=wp.float32)


@wp.struct
class Arm:
    """Where one arm lives in the model and what its controller was built with."""

    site: wp.int32
    origin: wp.int32
    root: wp.int32
    qpos: Joints
    dofs: Joints
    inertia: Addresses
    actuators: Joints
    low: Column
    high: Column
    kp: Column
    kd: Column
    action: wp.int32
    target_scale: Six
    goal_scale: Six
    gripper_action: wp.int32
    fingers: wp.vec2i
    finger_direction: wp.vec2
    finger_step: wp.float32
    finger_middle: wp.vec2
    finger_half_range: wp.vec2


def arms_of(model: mujoco.MjModel, robot: Any, spec: RobotSpec) -> wp.array:
    """Return the arms of a robosuite robot, in the order of the specification's end effectors, on Warp's device.

    Raises:
        BackendError: the robot is driven by something the kernels do not know.
    """
    return wp.array([_arm(model, robot, name, eef) for name, eef in spec.eefs.items()], dtype=Arm)


def _arm(model: mujoco.MjModel, robot: Any, name: str, eef: EefSpec) -> Any:
    part, gripper = robot.part_controllers.get(name), robot.gripper.get(name)
    _check(name, part, gripper)
    arm = Arm()
    arm.site = _site(model, part.ref_name)
    arm.origin = _site(model, f"{part.naming_prefix}{part.part_name}_center")
    if model.body_weldid[model.site_bodyid[arm.origin]] != 0:
        raise BackendError(f"the mjwarp backend cannot drive arm {name!r}: its base moves; the kernels need it fixed")
    arm.root = int(model.body_rootid[model.site_bodyid[arm.site]])
    dofs, actuators = list(part.qvel_index), list(robot._ref_actuators_indexes_dict[name])  # noqa: SLF001
    arm.qpos, arm.dofs, arm.actuators = Joints(*part.qpos_index), Joints(*dofs), Joints(*actuators)
    arm.inertia = Addresses(_inertia_addresses(model, dofs))
    low, high = model.actuator_ctrlrange[actuators].T
    arm.low, arm.high = Column(*low), Column(*high)
    arm.kp, arm.kd = Column(*part.kp, 0.0), Column(*part.kd, 0.0)
    arm.action, arm.gripper_action = eef.arm_action[0], eef.gripper_action[0]
    arm.target_scale = Six(*[eef.position_scale_m] * 3, *[eef.rotation_scale_rad] * 3)
    arm.goal_scale = Six(*(np.asarray(part.output_max) / np.asarray(part.input_max)))
    fingers = list(robot._ref_actuators_indexes_dict[robot.get_gripper_name(name)])  # noqa: SLF001
    low, high = model.actuator_ctrlrange[fingers].T
    arm.fingers, arm.finger_step = wp.vec2i(*fingers), float(gripper.speed)
    arm.finger_direction = wp.vec2(-1.0, 1.0)
    arm.finger_middle, arm.finger_half_range = wp.vec2(*((low + high) / 2)), wp.vec2(*((high - low) / 2))
    return arm


def _check(name: str, part: Any, gripper: Any) -> None:
    found: Mapping[str, object] = {
        "controller": getattr(part, "name", None),
        "impedance": getattr(part, "impedance_mode", None),
        "commands": getattr(part, "input_type", None),
        "frame": getattr(part, "input_ref_frame", None),
        "uncoupled": getattr(part, "uncoupling", None),
        "interpolator": getattr(part, "interpolator_pos", None) or getattr(part, "interpolator_ori", None),
        "joints": len(getattr(part, "qvel_index", ())),
        "gripper": type(gripper).__name__,
    }
    known = {
        "controller": "OSC_POSE",
        "impedance": "fixed",
        "commands": "delta",
        "frame": "base",
        "uncoupled": True,
        "interpolator": None,
        "joints": int(JOINTS),
        "gripper": PandaGripper.__name__,
    }
    wrong = {key: value for key, value in found.items() if value != known[key]}
    if wrong:
        wanted = {key: known[key] for key in wrong}
        raise BackendError(
            f"the mjwarp backend cannot drive arm {name!r}: it has {wrong}; its kernels are written for {wanted}"
        )


def _site(model: mujoco.MjModel, name: str) -> int:
    site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, name)
    if site < 0:
        raise BackendError(f"the scene has no site {name!r}, which robosuite's controller refers to")
    return site


def _inertia_addresses(model: mujoco.MjModel, dofs: list[int]) -> NDArray[np.int32]:
    """Return where M[i, j] of the arm's joints is stored: MuJoCo keeps the lower triangle, rows compressed."""
    addresses = np.full((len(dofs), len(dofs)), -1, np.int32)
    for i, row in enumerate(dofs):
        start = int(model.M_rowadr[row])
        columns = list(model.M_colind[start : start + int(model.M_rownnz[row])])
        for j, column in enumerate(dofs[: i + 1]):
            addresses[i, j] = addresses[j, i] = start + columns.index(column)
    return addresses
