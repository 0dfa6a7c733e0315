"""A finished dataset as one robomimic HDF5 file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.dataset_reading import open_dataset, read_episodes
from factory.durable import make_parent, staging
from factory.episodes import Episode
from factory.errors import DatasetError
from factory.provenance import model_path

_FLAT_STATE = ("time", "qpos", "qvel")
_POSE = ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")
_ROBOSUITE = 1
"""robomimic's number for environments of robosuite."""


def export_robomimic(root: Path, path: Path) -> Path:
    """Write a dataset's episodes to `path` as robomimic reads them, and return `path`.

    `data/demo_<i>` holds `actions` (T, a) as executed; `states` (T, n), the time, qpos and qvel *before* each action;
    and `obs`: every column but the action under its own name, and from `observation.state`, per arm i,
    `robot<i>_joint_pos`, `robot<i>_gripper_qpos`, `robot<i>_eef_pos_base` and `robot<i>_eef_quat_base` (xyzw). The
    last two are in the frame the arm's commands refer to, which is why they do not carry robosuite's names for poses
    in the world; run robomimic's `dataset_states_to_obs` for those and for pictures. `model_file` is the scene's
    source text when the dataset has it. The file appears at once or not at all.

    Raises:
        DatasetError: `path` exists, or the file cannot be written.
    """
    if path.exists():
        raise DatasetError(f"{path} already exists; choose another name or remove it first")
    facts = open_dataset(root)
    try:
        with staging(path) as folder:
            draft = folder / path.name
            with h5py.File(draft, "w") as file:
                data = file.create_group("data")
                total, described = 0, ""
                for index, episode in enumerate(read_episodes(root)):
                    _write_demo(data.create_group(f"demo_{index}"), episode, root)
                    total += len(episode)
                    described = described or _environment(episode)
                data.attrs["total"] = total
                data.attrs["env_args"] = described
                names = [f"demo_{index}" for index in range(facts.episodes)]
                file.create_dataset("mask/train", data=np.array(names, dtype="S"))
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.rename(make_parent(path))
    except OSError as error:
        raise DatasetError(f"{path} was not written: {error}; the unfinished file was removed") from error
    return path


def _write_demo(group: Any, episode: Episode, root: Path) -> None:
    group.attrs["num_samples"] = len(episode)
    group.create_dataset("actions", data=episode.columns["action"].values)
    if all(name in episode.sim_states for name in _FLAT_STATE):
        rows = [episode.sim_states[name][:-1].reshape(len(episode), -1) for name in _FLAT_STATE]
        group.create_dataset("states", data=np.concatenate(rows, axis=1))
    model = root / model_path(str(_executor(episode).get("model_sha", "")))
    if model.is_file():
        group.attrs["model_file"] = model.read_text(encoding="utf-8")
    observed = {name: column.values for name, column in episode.columns.items() if name != "action"}
    for name, values in {**observed, **_robot_observations(episode)}.items():
        group.create_dataset(f"obs/{name}", data=values)


def _robot_observations(episode: Episode) -> dict[str, NDArray[Any]]:
    """Return what the names of `observation.state` allow to tell apart: "<eef>_joint1_rad", "<eef>_eef_x_m", ..."""
    state = episode.columns.get("observation.state")
    if state is None:
        return {}
    found: dict[str, NDArray[Any]] = {}
    eefs = list(dict.fromkeys(name.removesuffix("_joint1_rad") for name in state.names if name.endswith("_joint1_rad")))
    for number, eef in enumerate(eefs):
        for part, called in (("joint", "joint_pos"), ("finger", "gripper_qpos")):
            taken = [i for i, name in enumerate(state.names) if name.startswith(f"{eef}_{part}")]
            if taken:
                found[f"robot{number}_{called}"] = state.values[:, taken]
        names = [f"{eef}_eef_{name}" for name in _POSE]
        if all(name in state.names for name in names):
            hand = state.values[:, [state.names.index(name) for name in names]].astype(np.float64)
            quat = poses.quat_wxyz_from_matrix(poses.matrix_from_rot6d(hand[:, 3:]))
            found[f"robot{number}_eef_pos_base"] = hand[:, :3]
            found[f"robot{number}_eef_quat_base"] = poses.quat_xyzw_from_wxyz(quat)
    return found


def _executor(episode: Episode) -> Mapping[str, Any]:
    return episode.provenance.get("executor") or episode.provenance.get("describe") or {}


def _environment(episode: Episode) -> str:
    """Return robomimic's `env_args`: which environment, of which kind, with which facts about who ran it."""
    facts = _executor(episode)
    name = facts.get("environment", episode.task)
    return json.dumps(
        {"env_name": name, "type": _ROBOSUITE, "env_version": facts.get("robosuite", ""), "env_kwargs": dict(facts)}
    )
