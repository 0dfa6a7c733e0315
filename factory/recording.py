"""From an attempt to an episode: which columns a policy learns from, and what provenance remembers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.episodes import Column, Episode
from factory.replay import AttemptResult
from factory.specs import GenerationSpec, TaskSpec

Array = NDArray[np.float64]

_POSE_NAMES = ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")
"""Position and the first two rows of the rotation matrix."""
_XYZ_QUAT_NAMES = ("x_m", "y_m", "z_m", "qw", "qx", "qy", "qz")
_PARAPHRASE_STREAM = 4
"""Spawn key of the draw that words the instruction, apart from the streams that move the robot."""


def episode_of(result: AttemptResult, task: TaskSpec, spec: GenerationSpec, executor: Mapping[str, str]) -> Episode:
    """Return the episode of an attempt.

    Columns (T rows; row t is what was seen *before* action t): `observation.state` holds, per end effector, joint
    positions (rad), finger positions (m; rad where fingers bend) and the hand's pose in its base frame (xyz in metres,
    rot6d); `action` is exactly what was executed. Extra columns start with neither word, so that policies do not
    swallow them:
    `target.<eef>_eef_pose` (the pose the executed action asks for, base frame, xyz and rot6d),
    `target.<eef>_next_joint_positions` (rad, achieved after the step), `sim.object.<name>` (xyz and quaternion wxyz,
    world frame), and `subtask_index`. With several arms that counts what they do together, and
    `subtask_index.<eef>` counts along each one's chain; provenance has the names.
    """
    scene, T = result.scene, len(result)
    state_parts: list[Array] = []
    state_names: list[str] = []
    action_names = [""] * task.robot.action_dim
    columns: dict[str, Column] = {}
    for eef, robot in task.robot.eefs.items():
        T_base_world = poses.inverse(scene.T_world_base[eef])
        joints, fingers = scene.joint(f"{eef}_arm"), scene.joint(f"{eef}_gripper")
        hand = poses.xyz_rot6d_from_pose(T_base_world @ scene.T_world_eef[eef])
        state_parts += [joints[:T], fingers[:T], hand[:T]]
        joint_names = tuple(f"{eef}_joint{i + 1}_rad" for i in range(joints.shape[1]))
        state_names += [*joint_names, *(f"{eef}_finger{i + 1}_{robot.finger_unit}" for i in range(fingers.shape[1]))]
        state_names += [f"{eef}_eef_{name}" for name in _POSE_NAMES]
        commanded = poses.xyz_rot6d_from_pose(T_base_world @ result.T_world_eef_commanded[eef])
        columns[f"target.{eef}_eef_pose"] = _column(commanded, tuple(f"{eef}_target_{n}" for n in _POSE_NAMES))
        columns[f"target.{eef}_next_joint_positions"] = _column(joints[1:], joint_names)
        for i, name in enumerate(("dx", "dy", "dz", "rx", "ry", "rz")):
            action_names[robot.arm_action[0] + i] = f"{eef}_{name}"
        for i in range(*robot.gripper_action):
            action_names[i] = f"{eef}_gripper" + (
                str(i - robot.gripper_action[0] + 1) if i > robot.gripper_action[0] else ""
            )
    for name, path in scene.T_world_object.items():
        columns[f"sim.object.{name}"] = _column(poses.xyz_quat_wxyz_from_pose(path[:T]), _XYZ_QUAT_NAMES)
    names, numbers = _subtask_column(task, result)
    return Episode(
        index=result.index,
        success=result.held,
        task=task.name,
        instruction=_instruction(task, spec, result.index),
        control_hz=float(task.robot.control_hz),
        columns={
            "observation.state": _column(np.concatenate(state_parts, axis=1), tuple(state_names)),
            "action": Column(values=result.actions, names=tuple(action_names)),
            **columns,
            "subtask_index": Column(values=numbers),
            **_subtasks_per_arm(result),
        },
        subtasks=names,
        sim_states=result.sim_states,
        start=result.start,
        provenance=_provenance(result, task, spec, executor),
    )


def _column(values: Array, names: tuple[str, ...]) -> Column:
    return Column(values=np.ascontiguousarray(values, np.float32), names=names)


def _subtask_column(task: TaskSpec, result: AttemptResult) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Number what all arms are doing together; with one arm that is simply its subtask."""
    chains = {eef: [s.name for s in chain] for eef, chain in task.subtasks.items()}
    if len(chains) == 1:
        eef, chain = next(iter(chains.items()))
        return tuple(chain), result.subtask[eef]
    together = [()]
    for chain in chains.values():
        together = [(*left, name) for left in together for name in chain]
    index = np.zeros(len(result), np.int64)
    for eef, chain in chains.items():
        index = index * len(chain) + result.subtask[eef]
    return tuple(" + ".join(names) for names in together), index


def _subtasks_per_arm(result: AttemptResult) -> dict[str, Column]:
    if len(result.subtask) == 1:
        return {}
    return {f"subtask_index.{eef}": Column(values=numbers) for eef, numbers in result.subtask.items()}


def _instruction(task: TaskSpec, spec: GenerationSpec, index: int) -> str:
    if not spec.paraphrases:
        return task.instruction
    rng = np.random.default_rng(np.random.SeedSequence(entropy=spec.seed, spawn_key=(index, _PARAPHRASE_STREAM)))
    ways = (task.instruction, *task.paraphrases)
    return ways[int(rng.integers(len(ways)))]


def _between_arms(result: AttemptResult, task: TaskSpec) -> dict[str, Any]:
    """Return what there is to say of several arms: the names that their indices count, and what held between them."""
    if len(task.subtasks) == 1:
        return {}
    return {
        "subtasks": {eef: [s.name for s in chain] for eef, chain in task.subtasks.items()},
        "constraints": [dataclasses.asdict(use) for use in result.constraints],
    }


def _provenance(
    result: AttemptResult, task: TaskSpec, spec: GenerationSpec, executor: Mapping[str, str]
) -> dict[str, Any]:
    generation = dataclasses.asdict(spec)
    # When a failure is noticed leaves no trace in a success, so both settings make the same bytes.
    del generation["early_ending"]
    if not task.constraints:
        # Settings of what is not there say nothing, and the documents of one arm stay what they were.
        for setting in ("coordination", "coordination_noise", "ordering"):
            del generation[setting]
    if spec.transit == "straight":
        del generation["transit"]
    facts = {
        "attempt": result.index,
        "held": result.held,
        "touched": result.touched,
        "failure": None if result.failure is None else dataclasses.asdict(result.failure),
        "hold_steps": result.hold_steps,
        "generation": generation,
        "robot": task.robot.name,
        "sources": [dataclasses.asdict(use) for use in result.sources],
        **_between_arms(result, task),
        **({"transits": [dataclasses.asdict(use) for use in result.transits]} if spec.transit == "planned" else {}),
        "placements": {k: poses.xyz_quat_wxyz_from_pose(v).tolist() for k, v in result.placements.items()},
        "executor": dict(executor),
    }
    # Once through JSON, so that what is compared later is what is stored (tuples become lists here, not there).
    return json.loads(json.dumps(facts))
