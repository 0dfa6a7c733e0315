"""Reads a stored demo in a MuJoCo scene: states become poses, targets, gripper commands and signals."""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from factory import actions, poses
from factory.annotation import annotated_by_poses, annotated_by_states
from factory.demos import AnnotatedDemo, Demo
from factory.errors import DemoError
from factory.scene import SceneState
from factory.specs import TaskSpec
from sim_tasks.backends.sensing import SceneReader

Array = NDArray[np.float64]


def annotate(
    demo: Demo, task: TaskSpec, model: mujoco.MjModel, data: mujoco.MjData, reader: SceneReader
) -> AnnotatedDemo:
    """Return the demo in the task's own names.

    Simulator states win over stored poses, because poses then refer to this scene's frames. Objects fixed in the world
    are not part of a state; where the file stores their pose, the model is edited to it (the caller restores it).

    Raises:
        DemoError: the file holds neither states of this scene's size nor poses, or its actions have another width.
    """
    _check_actions(demo, task)
    width = 1 + model.nq + model.nv
    if demo.states.ndim == 2 and demo.states.shape[1] == width:
        return _from_states(demo, task, model, data, reader)
    if demo.T_world_eef and demo.T_world_object:
        return _from_poses(demo, task)
    raise DemoError(
        f"{demo.path}, {demo.name}: states have shape {demo.states.shape}, task "
        f"{task.name!r} needs (T, {width}): time, {model.nq} positions, {model.nv} velocities; no poses stored"
    )


def load_state(demo: Demo, row: int, task: TaskSpec, model: mujoco.MjModel, data: mujoco.MjData) -> tuple[str, ...]:
    """Write one stored state, and the fixed bodies' stored poses, into a scene; returns the bodies that were edited.

    Raises:
        DemoError: the demo stores no states of this scene's size.
    """
    width = 1 + model.nq + model.nv
    if demo.states.ndim != 2 or demo.states.shape[1] != width or not len(demo.states):
        raise DemoError(
            f"{demo.path}, {demo.name}: states have shape {demo.states.shape}, the scene needs (T, {width})"
        )
    edited = _fix_bodies(demo, task, model, data)
    data.time = demo.states[row, 0]
    data.qpos[:] = demo.states[row, 1 : 1 + model.nq]
    data.qvel[:] = demo.states[row, 1 + model.nq :]
    return edited


def _check_actions(demo: Demo, task: TaskSpec) -> None:
    if demo.actions.ndim != 2 or demo.actions.shape[1] != task.robot.action_dim:
        raise DemoError(
            f"{demo.path}, {demo.name}: actions have shape {demo.actions.shape}, robot {task.robot.name!r} of task "
            f"{task.name!r} takes (T, {task.robot.action_dim})"
        )


def _from_states(
    demo: Demo, task: TaskSpec, model: mujoco.MjModel, data: mujoco.MjData, reader: SceneReader
) -> AnnotatedDemo:
    _fix_bodies(demo, task, model, data)
    scene = read_states(demo.states, model, data, reader)
    T = len(demo.actions)
    grippers, targets = {}, {}
    for name, eef in task.robot.eefs.items():
        base = scene.T_world_base[name]
        moved = demo.actions[:, slice(*eef.arm_action)]
        targets[name] = actions.target_of_action(scene.T_world_eef[name][:T], moved, base, eef)
        grippers[name] = demo.actions[:, slice(*eef.gripper_action)].copy()
    return annotated_by_states(demo, task, scene, targets=targets, grippers=grippers)


def _from_poses(demo: Demo, task: TaskSpec) -> AnnotatedDemo:
    eefs = dict(zip(task.robot.eefs, demo.T_world_eef.values(), strict=True))
    targets = dict(zip(task.robot.eefs, demo.T_world_eef_target.values(), strict=True)) or eefs
    grippers = {name: demo.actions[:, slice(*eef.gripper_action)].copy() for name, eef in task.robot.eefs.items()}
    return annotated_by_poses(demo, task, eefs=eefs, targets=targets, grippers=grippers)


def read_states(states: Array, model: mujoco.MjModel, data: mujoco.MjData, reader: SceneReader) -> SceneState:
    """Return the scene over flat states ``(T, 1 + nq + nv)``: time, qpos, qvel."""
    rows = reader.allocate(len(states))
    for i, state in enumerate(states):
        data.time = state[0]
        data.qpos[:] = state[1 : 1 + model.nq]
        data.qvel[:] = state[1 + model.nq :]
        reader.refresh()
        reader.fill(rows, i)
    return reader.state(rows, len(states))


def _fix_bodies(demo: Demo, task: TaskSpec, model: mujoco.MjModel, data: mujoco.MjData) -> tuple[str, ...]:
    """Edit the model so that fixed objects stand where the file says they stood; returns the edited bodies."""
    edited: list[str] = []
    stored = {task.aliases.get(k, k): v for k, v in demo.T_world_object.items()}
    for name, spec in task.scene.objects.items():
        body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, spec.body)
        if name not in stored or body < 0 or model.body_parentid[body] != 0 or model.body_dofnum[body] > 0:
            continue
        if spec.frame != f"body:{spec.body}":
            raise DemoError(
                f"{demo.path}, {demo.name}: object {name!r} is fixed in the world, so its frame must be "
                f"body:{spec.body} to be put where it stood; it is {spec.frame!r}"
            )
        xyz_quat = poses.xyz_quat_wxyz_from_pose(stored[name][0])
        model.body_pos[body], model.body_quat[body] = xyz_quat[:3], xyz_quat[3:]
        edited.append(spec.body)
    mujoco.mj_resetData(model, data)
    return tuple(edited)
