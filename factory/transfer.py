"""Demonstrations of one robot become those of another: the grasp frames follow the same path, fingers do the same.

What two robots have in common is where their hands take hold. `EefSpec` says where that is in each one's grip frame, so
a pose of one hand becomes the pose of the other that would hold the same thing in the same place. Each arm's own reach,
its start posture and the strength of its fingers stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.demos import AnnotatedDemo
from factory.errors import SpecError
from factory.specs import EefSpec, RobotSpec, TaskSpec

Array = NDArray[np.float64]

OPEN_FINGERS = "between the open fingers"
"""A clearance whose name ends so changes with the hand."""


def task_for_robot(task: TaskSpec, robot: RobotSpec) -> TaskSpec:
    """Return the task as another robot does it; demonstrations are still those of the task's own robot.

    Scene, starts, subtasks and predicates stay. Clearances between open fingers are those of the new hands.

    Raises:
        SpecError: the robots differ in their arms, in what their fingers are called, or in how many numbers a hand
            takes, or what has to fit between the fingers does not.
    """
    if robot == task.robot:
        return task
    own = task.robot
    for what, here, there in (
        ("end effectors", sorted(own.eefs), sorted(robot.eefs)),
        ("groups that touch", _groups(task, own), [g for g in _groups(task, own) if g in _all_groups(robot)]),
        ("numbers a hand takes", _widths(own), _widths(robot)),
    ):
        if here != there:
            raise SpecError(
                f"task {task.name!r} cannot be done by {robot.name!r}: its {what} are {there}, those of {own.name!r}, "
                f"which the task is written for, are {here}; both must be the same"
            )
    if robot.control_hz != own.control_hz:
        raise SpecError(
            f"task {task.name!r} cannot be done by {robot.name!r}: it takes {robot.control_hz} actions a second, "
            f"demonstrations were recorded with {own.control_hz}"
        )
    wider_mm = 1e3 * min(robot.eefs[name].opening_m - eef.opening_m for name, eef in own.eefs.items())
    clearances = {
        name: round(mm + wider_mm, 3) if name.endswith(OPEN_FINGERS) else mm
        for name, mm in task.scene.clearances_mm.items()
    }
    for name, mm in clearances.items():
        if mm <= 0:
            raise SpecError(
                f"task {task.name!r} cannot be done by {robot.name!r}: {name.removesuffix(OPEN_FINGERS).strip()} is "
                f"{-mm:g} mm too wide for its fingers"
            )
    scene = replace(task.scene, clearances_mm=clearances)
    return replace(task, robot=robot, scene=scene, recorded_with=task.recorded_with or own)


def transferred(demo: AnnotatedDemo, source: RobotSpec, target: RobotSpec) -> AnnotatedDemo:
    """Return the demo with its hands' poses and commands as the other robot's: grasp frames where they were.

    Objects, signals and states stay those of the recording.
    """
    pairs = {name: (source.eefs[name], target.eefs[name]) for name in demo.T_world_eef}
    return replace(
        demo,
        T_world_eef={name: T @ hand_change(*pairs[name]) for name, T in demo.T_world_eef.items()},
        T_world_eef_target={name: T @ hand_change(*pairs[name]) for name, T in demo.T_world_eef_target.items()},
        gripper={name: finger_change(g, *pairs[name]) for name, g in demo.gripper.items()},
    )


def hand_change(source: EefSpec, target: EefSpec) -> Array:
    """Return X ``(4, 4)``: with the source's grip frame at ``T`` and the target's at ``T @ X`` the grasps coincide."""
    return grasp_frame(source) @ poses.inverse(grasp_frame(target))


def grasp_frame(eef: EefSpec) -> Array:
    """Return T_eef_grasp ``(4, 4)``."""
    return poses.pose(poses.matrix_from_quat_wxyz(np.array(eef.grasp_quat_wxyz)), np.array(eef.grasp_m))


def finger_change(commands: Array, source: EefSpec, target: EefSpec) -> Array:
    """Return commands ``(t, g)`` that open and close the target's fingers as far as these did the source's.

    Each number goes along between open and closed; one that is the same in both (a thumb that stays opposed) is passed
    on, shifted.
    """
    opened, closed = np.array(source.opens), np.array(source.closes)
    to_open, to_closed = np.array(target.opens), np.array(target.closes)
    travel = closed - opened
    gain = np.where(travel == 0.0, 1.0, (to_closed - to_open) / np.where(travel == 0.0, 1.0, travel))
    return np.asarray(to_open + (commands - opened) * gain, np.float64)


def _groups(task: TaskSpec, robot: RobotSpec) -> list[str]:
    """Return those of a robot's contact groups that the task asks about."""
    asked = {group for pair in task.scene.contacts for group in pair}
    return [group for group in _all_groups(robot) if group in asked]


def _all_groups(robot: RobotSpec) -> list[str]:
    return [group for eef in robot.eefs.values() for group in (*eef.fingers, *eef.touch)]


def _widths(robot: RobotSpec) -> Mapping[str, int]:
    return {name: eef.gripper_action[1] - eef.gripper_action[0] for name, eef in robot.eefs.items()}
