"""Reads moments and demonstrations of an Isaac Lab Mimic environment: scenes, targets, gripper commands, signals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factory import actions
from factory.annotation import annotated_by_poses, annotated_by_states
from factory.demos import AnnotatedDemo, Demo
from factory.errors import DemoError
from factory.scene import SceneState
from factory.specs import TaskSpec
from sim_tasks.backends.isaac_poses import hands_of
from sim_tasks.backends.isaac_world import MimicWorld, Reading
from sim_tasks.tasks.isaac_terms import ENVIRONMENT

Array = NDArray[np.float64]


def scene_of(readings: Sequence[Reading], env: int, task: TaskSpec, world: MimicWorld) -> SceneState:
    """Return one environment's scene over moments; the leading axis is theirs.

    What the environment says of itself stands among the contacts, see `isaac_terms.reports`; other pairs of contact
    groups are not known to Isaac Lab's states and cannot be asked for.
    """
    count = len(readings)
    rows = np.array([r.rows[env] for r in readings]).reshape(count, world.layout.width)
    return SceneState(
        T_world_object={k: _over(readings, "T_world_object", k, env) for k in task.scene.objects},
        T_world_eef={k: _over(readings, "T_world_eef", k, env) for k in task.robot.eefs},
        T_world_base={name: np.eye(4) for name in task.robot.eefs},
        velocity={k: world.velocity(rows, spec.body).copy() for k, spec in task.scene.objects.items()},
        joints={
            **{f"{k}_arm": world.joints(rows, eef.arm_joints) for k, eef in task.robot.eefs.items()},
            **{f"{k}_gripper": world.joints(rows, eef.gripper_joints) for k, eef in task.robot.eefs.items()},
            **{name: world.joints(rows, joints) for name, joints in task.scene.joints.items()},
        },
        contacts={
            f"{a}|{b}": np.array([r.terms[b][env] if b in r.terms else False for r in readings], np.bool_)
            for a, b in task.scene.contacts
            if a == ENVIRONMENT
        },
    )


def _over(readings: Sequence[Reading], group: str, name: str, env: int) -> Array:
    return np.array([getattr(r, group)[name][env] for r in readings]).reshape(len(readings), 4, 4)


def check_states(demo: Demo, world: MimicWorld) -> None:
    """Refuse a demo without states of this scene.

    Raises:
        DemoError: its states have another width, or there are none.
    """
    width = 1 + world.action_width + world.layout.width
    if demo.states.ndim != 2 or demo.states.shape[1] != width or not len(demo.states):
        raise DemoError(
            f"{demo.path}, {demo.name}: states have shape {demo.states.shape}, the scene needs (T, {width}): time, "
            f"{world.action_width} of the action, {world.layout.width} of {len(world.layout.shapes)} arrays"
        )


def annotate(demo: Demo, task: TaskSpec, world: MimicWorld) -> AnnotatedDemo:
    """Return the demo in the task's own names; states are read by loading them, which moves the environments.

    A file of Isaac Lab stores poses and signals too; its targets and signals win, because they were recorded.

    Raises:
        DemoError: neither states of this scene nor stored poses, or actions of another width.
    """
    theirs = demo.format == "isaaclab"
    width = world.action_width if theirs else task.robot.action_dim
    if demo.actions.ndim != 2 or demo.actions.shape[1] != width:
        raise DemoError(f"{demo.path}, {demo.name}: actions have shape {demo.actions.shape}, expected (T, {width})")
    if theirs and not demo.states.size:
        return _from_poses(demo, task, world)
    check_states(demo, world)
    T, scene = len(demo), _read(demo.states[:, 1 + world.action_width :], task, world)
    hands = task.robot.eefs
    if theirs:
        targets = hands_of(demo, demo.T_world_eef_target, task)
        grippers = world.grippers(demo.actions)
    else:
        targets = {
            k: actions.target_of_action(scene.T_world_eef[k][:T], demo.actions[:, slice(*e.arm_action)], np.eye(4), e)
            for k, e in hands.items()
        }
        grippers = {k: demo.actions[:, slice(*e.gripper_action)].copy() for k, e in hands.items()}
    return annotated_by_states(demo, task, scene, targets=targets, grippers=grippers)


def _from_poses(demo: Demo, task: TaskSpec, world: MimicWorld) -> AnnotatedDemo:
    return annotated_by_poses(
        demo,
        task,
        eefs=hands_of(demo, demo.T_world_eef, task),
        targets=hands_of(demo, demo.T_world_eef_target, task),
        grippers=world.grippers(demo.actions),
    )


def _read(rows: Array, task: TaskSpec, world: MimicWorld) -> SceneState:
    """Return the scene over state rows, as many at once as there are environments."""
    readings: list[Reading] = []
    for start in range(0, len(rows), world.num_envs):
        part = rows[start : start + world.num_envs]
        world.load(range(len(part)), part)
        now = world.read()
        readings += [_only(now, env) for env in range(len(part))]
    return scene_of(readings, 0, task, world)


def _only(reading: Reading, env: int) -> Reading:
    """Return one environment's share of a reading, leading axis 1."""
    return Reading(
        rows=reading.rows[env : env + 1],
        T_world_eef={k: v[env : env + 1] for k, v in reading.T_world_eef.items()},
        T_world_object={k: v[env : env + 1] for k, v in reading.T_world_object.items()},
        terms={k: v[env : env + 1] for k, v in reading.terms.items()},
    )
