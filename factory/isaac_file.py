"""Writes files of Isaac Lab Mimic: what its replay, its generator and robomimic's training read.

The layout is that of Isaac Lab's own recorder and annotator: `data/demo_<i>` with the environment's `actions`, the
`initial_state` and the `states` after each action, `obs`, and in `obs/datagen_info` the poses and signals that a
generator cuts by. A file of format version 1 has quaternions with w last, as Isaac Lab 3 reads them; Isaac Lab 2 reads
files without a version.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from factory.durable import make_parent, staging
from factory.errors import DatasetError
from factory.isaac_states import QuaternionOrder, reordered

Array = NDArray[np.float64]

_FORMAT_VERSION = 1
"""What Isaac Lab 3 writes; no version means w first."""
_TYPE = 2
"""robomimic's number for environments of Isaac Lab."""


@dataclass(frozen=True, kw_only=True)
class IsaacDemo:
    """One demonstration under Isaac Lab's names. T actions; row t of what was seen is what was seen before action t.

    Attributes:
        actions: ``(T, a)`` the environment's own.
        states: array name ("rigid_object/cube_1/root_pose") -> ``(T + 1, ...)``, quaternions w first.
        T_eef: end effector -> ``(T, 4, 4)`` measured, about the environment's origin; likewise the next ones.
        T_eef_target: what the actions ask for.
        T_object: object -> ``(T, 4, 4)``.
        signals: subtask signal -> ``(T,)`` bool.
        observations: further arrays ``(T, ...)`` for policies.
        success: whether it is one.
        seed: of what made it; None says nothing.
    """

    actions: Array
    states: Mapping[str, Array]
    T_eef: Mapping[str, Array]
    T_eef_target: Mapping[str, Array]
    T_object: Mapping[str, Array]
    signals: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    observations: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    success: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        rows = len(self.actions)
        groups = {"T_eef": self.T_eef, "T_eef_target": self.T_eef_target, "T_object": self.T_object}
        for group, arrays in {**groups, "signals": self.signals, "observations": self.observations}.items():
            for name, array in arrays.items():
                if len(array) != rows:
                    raise DatasetError(f"{group}[{name!r}] has {len(array)} rows where {rows} actions are")
        for name, array in self.states.items():
            if len(array) != rows + 1:
                raise DatasetError(
                    f"states[{name!r}] has {len(array)} rows, expected {rows + 1}: one more than actions"
                )


def write_isaaclab(
    path: Path,
    demos: Iterable[IsaacDemo],
    *,
    environment: str,
    order: QuaternionOrder = "xyzw",
    sim_args: Mapping[str, Any] | None = None,
) -> Path:
    """Write demonstrations to `path` and return it; the file appears at once or not at all.

    Args:
        path: a new file.
        demos: what to write, as demo_0, demo_1, ...
        environment: the name under which Isaac Lab registers the environment.
        order: "xyzw" for Isaac Lab 3, "wxyz" for 2.
        sim_args: settings of the simulator for `env_args`: "dt" in seconds and "decimation" make the control rate.

    Raises:
        DatasetError: `path` exists, or the file cannot be written.
    """
    if path.exists():
        raise DatasetError(f"{path} already exists; choose another name or remove it first")
    args = {"env_name": environment, "type": _TYPE, **({"sim_args": dict(sim_args)} if sim_args else {})}
    try:
        with staging(path) as folder:
            draft = folder / path.name
            with h5py.File(draft, "w") as file:
                if order == "xyzw":
                    file.attrs["format_version"] = _FORMAT_VERSION
                data = file.create_group("data")
                total = 0
                for index, demo in enumerate(demos):
                    _write(data.create_group(f"demo_{index}"), demo, order)
                    total += len(demo.actions)
                data.attrs["total"], data.attrs["env_args"] = total, json.dumps(args)
            with draft.open("rb") as file:
                os.fsync(file.fileno())
            draft.rename(make_parent(path))
    except OSError as error:
        raise DatasetError(f"{path} was not written: {error}; the unfinished file was removed") from error
    return path


def _write(group: Any, demo: IsaacDemo, order: QuaternionOrder) -> None:
    group.attrs["num_samples"], group.attrs["success"] = len(demo.actions), demo.success
    if demo.seed is not None:
        group.attrs["seed"] = demo.seed
    info = "obs/datagen_info"
    arrays: dict[str, NDArray[Any]] = {"actions": demo.actions}
    for name, states in demo.states.items():
        stored = reordered(name, states, "wxyz", order)
        arrays[f"initial_state/{name}"], arrays[f"states/{name}"] = stored[:1], stored[1:]
    arrays |= {f"obs/{name}": values for name, values in demo.observations.items()}
    arrays |= {f"{info}/eef_pose/{name}": T for name, T in demo.T_eef.items()}
    arrays |= {f"{info}/target_eef_pose/{name}": T for name, T in demo.T_eef_target.items()}
    arrays |= {f"{info}/object_pose/{name}": T for name, T in demo.T_object.items()}
    group.create_group(f"{info}/subtask_term_signals")  # read even when there are none
    for name, values in arrays.items():
        group.create_dataset(name, data=np.asarray(values, np.float32))
    for name, signal in demo.signals.items():
        group.create_dataset(f"{info}/subtask_term_signals/{name}", data=np.asarray(signal, np.bool_)[:, None])
