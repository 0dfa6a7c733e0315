"""Made-up episodes of real robots: columns named as recordings of that robot name them, numbers fixed by the index."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from factory import poses
from factory.datasets import write_dataset
from factory.episodes import Column, Episode, add_clips, write_shard
from factory.specs import RobotSpec
from tests.synthetic import RENDER, burned, make_clip

_XYZ6 = ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")


def robot_episode(robot: RobotSpec, index: int, *, rows: int = 20, success: bool = True) -> Episode:
    """Return an episode of a robot that turns its hands slowly and opens and closes them."""
    rng = np.random.default_rng(index)
    state, state_names = [], []
    action = rng.uniform(-1, 1, (rows, robot.action_dim)).astype(np.float32)
    action_names = [""] * robot.action_dim
    columns: dict[str, Column] = {}
    for eef, spec in robot.eefs.items():
        joints = rng.normal(size=(rows + 1, len(spec.arm_joints))).astype(np.float32)
        fingers = rng.normal(size=(rows, len(spec.gripper_joints))).astype(np.float32)
        turn = np.linspace(0.0, 3.0, rows)[:, None] * np.array([0.0, 1.0, 1.0])
        hand = np.eye(4) * np.ones((rows, 1, 1))
        hand[:, :3, :3], hand[:, :3, 3] = poses.matrix_from_axis_angle(turn), rng.normal(size=(rows, 3))
        pose = poses.xyz_rot6d_from_pose(hand).astype(np.float32)
        state += [joints[:-1], fingers, pose]
        names = tuple(f"{eef}_joint{i + 1}_rad" for i in range(joints.shape[1]))
        state_names += [*names, *(f"{eef}_finger{i + 1}_{spec.finger_unit}" for i in range(fingers.shape[1]))]
        state_names += [f"{eef}_eef_{name}" for name in _XYZ6]
        columns[f"target.{eef}_eef_pose"] = Column(values=pose + 1, names=tuple(f"{eef}_target_{n}" for n in _XYZ6))
        columns[f"target.{eef}_next_joint_positions"] = Column(values=joints[1:], names=names)
        first = spec.arm_action[0]
        action_names[first : first + 6] = [f"{eef}_{name}" for name in ("dx", "dy", "dz", "rx", "ry", "rz")]
        start, stop = spec.gripper_action
        action_names[start:stop] = [f"{eef}_gripper{i + 1 if i else ''}" for i in range(stop - start)]
        ends = np.array([spec.opens, spec.closes], np.float32)
        action[:, start:stop] = ends[np.arange(rows) % 2]
    arms = tuple(robot.eefs) if len(robot.eefs) > 1 else ()
    return Episode(
        index=index,
        success=success,
        task="box",
        instruction=f"take box {index % 2}",
        control_hz=20.0,
        columns={
            "observation.state": Column(values=np.concatenate(state, axis=1), names=tuple(state_names)),
            "action": Column(values=action, names=tuple(action_names)),
            **columns,
            "subtask_index": Column(values=np.minimum(np.arange(rows), 1).astype(np.int64)),
            **{f"subtask_index.{eef}": Column(values=np.minimum(np.arange(rows), 1)) for eef in arms},
        },
        subtasks=("reach", "lift"),
        provenance={"subtasks": {eef: ["reach", f"lift_{eef}"] for eef in arms}} if arms else {},
    )


def robot_dataset(
    folder: Path,
    robot: RobotSpec,
    cameras: Sequence[str],
    *,
    lengths: Sequence[int] = (20, 18, 22),
    codec: str = "h264",
    size: int = 64,
) -> Path:
    """Write a dataset of a robot, one episode per length, the last of which failed; shards stay in `shards`."""
    shards: list[Path] = []
    for number, rows in enumerate(lengths):
        episode = robot_episode(robot, number, rows=rows, success=number + 1 < len(lengths))
        shard = write_shard(folder / "shards", episode)
        clips = {
            camera: make_clip(
                folder / f"{camera}.mp4", [burned(number, row, c) for row in range(rows)], codec=codec, size=size
            )
            for c, camera in enumerate(cameras)
        }
        if clips:
            add_clips(shard, clips, {**RENDER, "cameras": list(cameras)})
        shards.append(shard)
    return write_dataset(folder / "dataset", shards, robot_type=robot.lerobot_type, job={"task": "box"})
