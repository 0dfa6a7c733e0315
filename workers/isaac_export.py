"""Episodes made in Isaac Lab as a file that Isaac Lab reads: its replay, its generator, robomimic's training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.dataset_reading import open_dataset, read_episodes
from factory.episodes import Episode
from factory.errors import DatasetError
from factory.isaac_file import IsaacDemo, write_isaaclab
from factory.isaac_states import ACTION, QuaternionOrder, reordered
from factory.specs import TaskSpec
from sim_tasks.catalog import find_task

_POSE = ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")


def export_isaaclab(root: Path, path: Path, *, order: QuaternionOrder = "xyzw") -> Path:
    """Write a dataset's episodes to `path` as Isaac Lab Mimic reads them, and return `path`.

    Raises:
        DatasetError: an episode was not made in Isaac Lab, `path` exists, or it cannot be written.
    """
    open_dataset(root)
    return write_episodes(path, read_episodes(root), order=order)


def write_episodes(path: Path, episodes: Iterable[Episode], *, order: QuaternionOrder = "xyzw") -> Path:
    """Write episodes made in Isaac Lab; see `export_isaaclab`."""
    made = list(episodes)
    if not made:
        raise DatasetError(f"{path}: there are no episodes to write")
    executor: Mapping[str, Any] = made[0].provenance["executor"]
    timing = {name: float(executor[name]) for name in ("dt", "decimation") if name in executor}
    return write_isaaclab(
        path,
        (demo_of(episode, order) for episode in made),
        environment=str(executor.get("environment", "")),
        order=order,
        sim_args=timing or None,
    )


def demo_of(episode: Episode, order: QuaternionOrder = "xyzw") -> IsaacDemo:
    """Return an episode under Isaac Lab's names.

    A subtask's signal rises in the last row of its segment, which is where Isaac Lab's generator would cut again.

    Args:
        episode: made by the backend isaaclab.
        order: of the quaternions among the observations.

    Raises:
        DatasetError: it was made by another backend.
    """
    if ACTION not in episode.sim_states:
        found = episode.provenance.get("executor", {}).get("backend", "another road")
        raise DatasetError(f"episode {episode.index} was made by {found}; Isaac Lab can replay only what ran in it")
    task = find_task(episode.task)
    states = {k: v for k, v in episode.sim_states.items() if k not in ("time", ACTION)}
    T_eef: dict[str, NDArray[Any]] = {}
    targets: dict[str, NDArray[Any]] = {}
    observed: dict[str, NDArray[Any]] = {}
    for ours, eef in task.robot.eefs.items():
        theirs = eef.frame.partition(":")[2]
        hand = _columns(episode, "observation.state", [f"{ours}_eef_{name}" for name in _POSE])
        T_eef[theirs] = poses.pose(poses.matrix_from_rot6d(hand[:, 3:]), hand[:, :3])
        target = episode.columns[f"target.{ours}_eef_pose"].values.astype(np.float64)
        targets[theirs] = poses.pose(poses.matrix_from_rot6d(target[:, 3:]), target[:, :3])
        prefix = f"{theirs}_" if len(task.robot.eefs) > 1 else ""
        seen = reordered("root_pose", poses.xyz_quat_wxyz_from_pose(T_eef[theirs]), "wxyz", order)
        observed[f"{prefix}eef_pos"], observed[f"{prefix}eef_quat"] = seen[:, :3], seen[:, 3:]
    joints = "articulation/robot/joint_position"
    observed |= {"joint_pos": states[joints][:-1], "joint_vel": states[joints.replace("position", "velocity")][:-1]}
    return IsaacDemo(
        actions=episode.sim_states[ACTION][1:],
        states=states,
        T_eef=T_eef,
        T_eef_target=targets,
        T_object={
            name: poses.pose_from_xyz_quat_wxyz(episode.columns[f"sim.object.{name}"].values.astype(np.float64))
            for name in task.scene.objects
        },
        signals=_signals(episode, task),
        observations=observed,
        success=episode.success,
        seed=int(episode.provenance["generation"]["seed"]),
    )


def _columns(episode: Episode, column: str, names: list[str]) -> NDArray[np.float64]:
    known = episode.columns[column].names
    return episode.columns[column].values[:, [known.index(name) for name in names]].astype(np.float64)


def _signals(episode: Episode, task: TaskSpec) -> dict[str, NDArray[np.bool_]]:
    signals: dict[str, NDArray[np.bool_]] = {}
    for eef, chain in task.subtasks.items():
        name = "subtask_index" if len(task.subtasks) == 1 else f"subtask_index.{eef}"
        number = episode.columns[name].values.reshape(-1)
        following = np.append(number[1:], number[-1])
        for k, subtask in enumerate(chain):
            if subtask.end_signal is not None:
                signals[subtask.end_signal] = following > k
    return signals
