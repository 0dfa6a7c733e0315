"""Demonstrations of one robot become those of another: the grasp frames follow the same path, fingers do the same.

What two robots have in common is where their hands take hold. `EefSpec` says where that is in each one's grip frame, so
a pose of one hand becomes the pose of the other that would hold the same thing in the same place. Each arm's own reach,
its start posture and the strength of its fingers stay what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.demos import AnnotatedDemo
from factory.errors import SpecError
from factory.parts import CameraSpec, TableSpec
from factory.specs import EefSpec, RobotSpec, SceneSpec, TaskSpec

Array = NDArray[np.float64]

OPEN_FINGERS = "between the open fingers"
"""A clearance whose name ends so changes with the hand."""


@dataclass(frozen=True, kw_only=True)
class Station:
    """What a robot works at that would find no room at a table made for others, and how it sees.

    Attributes:
        table: its table; in a scene of another height robot and table are raised or lowered together.
        cameras: those that take the place of the scene's of the same name, because they hang on the robot.
        eefs: end effectors with the grasp frames in which they take what other hands take; none where it is their own.
    """

    table: TableSpec
    cameras: Mapping[str, CameraSpec] = field(default_factory=dict)
    eefs: Mapping[str, EefSpec] = field(default_factory=dict)


def task_for_robot(task: TaskSpec, robot: RobotSpec, station: Station | None = None) -> TaskSpec:
    """Return the task as another robot does it; demonstrations are still those of the task's own robot.

    Things, starts, subtasks and predicates stay where they are. Clearances between open fingers are those of the new
    hands.

    Args:
        task: what to do.
        robot: who does it.
        station: what it brings along to the project's own scenes; None where it works at anybody's table.

    Raises:
        SpecError: the robots differ in their arms, in what their fingers are called, or in what the numbers that a hand
            takes move, or what has to fit between the fingers does not.
    """
    if robot == task.robot:
        return task
    own = task.robot
    for what, here, there in (
        ("end effectors", sorted(own.eefs), sorted(robot.eefs)),
        ("groups that touch", _groups(task, own), [g for g in _groups(task, own) if g in _all_groups(robot)]),
        ("numbers a hand takes", _numbers(own), _numbers(robot)),
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
    if station is not None and scene.base == "table":
        robot, scene = _at(station, robot, scene)
    return replace(task, robot=robot, scene=scene, recorded_as=task.recorded_as or task)


def _at(station: Station, robot: RobotSpec, scene: SceneSpec) -> tuple[RobotSpec, SceneSpec]:
    """Return robot and scene with the robot at its station, as high as the scene's own table."""
    top_m = scene.table.top_m
    mounts = tuple(
        mount
        if mount.position_m is None
        else replace(mount, position_m=(*mount.position_m[:2], mount.position_m[2] + top_m - station.table.top_m))
        for mount in robot.mounts
    )
    cameras = {name: station.cameras.get(name, camera) for name, camera in scene.cameras.items()}
    table = replace(station.table, top_m=top_m)
    robot = replace(robot, mounts=mounts, eefs={**robot.eefs, **station.eefs})
    return robot, replace(scene, table=table, cameras=cameras)


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
    on, shifted. Where numbers have names (`EefSpec.digits`), each goes to its namesake.
    """
    order = [source.digits.index(digit) for digit in target.digits] or list(range(commands.shape[1]))
    commands, opened, closed = commands[:, order], np.array(source.opens)[order], np.array(source.closes)[order]
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


def _numbers(robot: RobotSpec) -> Mapping[str, list[str]]:
    """Return what the numbers move that each hand takes."""
    return {name: sorted(eef.digits) or ["both fingers"] * len(eef.opens) for name, eef in robot.eefs.items()}
