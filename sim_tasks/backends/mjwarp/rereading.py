"""Reads scenes out of stored states on the CPU, in double precision: what predicates see, whoever simulated."""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import mujoco
import numpy as np
from numpy.typing import NDArray

from factory.scene import SceneState
from factory.specs import TaskSpec
from sim_tasks.backends.sensing import SceneReader

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """States of one world.

    Attributes:
        qpos: ``(t, nq)``.
        qvel: ``(t, nv)``.
        overrides: ``"<model field>:<body>"`` -> value, written over the model while the stretch is read.
    """

    qpos: Array
    qvel: Array
    overrides: Mapping[str, Array]


class StateReaders:
    """A few threads, each with a model and data of its own; MuJoCo lets go of Python's lock while it computes.

    What a state shows does not depend on the thread that reads it.
    """

    def __init__(self, task: TaskSpec, model: mujoco.MjModel, *, threads: int) -> None:
        """Copy the model for every thread, because overrides are written into it."""
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
        self._free: SimpleQueue[_Reader] = SimpleQueue()
        for _ in range(threads):
            self._free.put(_Reader(task, copy.copy(model)))

    def read(self, stretches: Sequence[Stretch]) -> list[SceneState]:
        """Return the scene over each stretch, leading axis time."""
        if len(stretches) == 1:
            return [self._one(stretches[0])]
        return list(self._pool.map(self._one, stretches))

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _one(self, stretch: Stretch) -> SceneState:
        reader = self._free.get()
        try:
            return reader.read(stretch)
        finally:
            self._free.put(reader)


class _Reader:
    def __init__(self, task: TaskSpec, model: mujoco.MjModel) -> None:
        self._model, self._data = model, mujoco.MjData(model)
        self._reader = SceneReader(task, model, self._data)
        mujoco.mj_forward(model, self._data)

    def read(self, stretch: Stretch) -> SceneState:
        model, data = self._model, self._data
        built = (model.body_pos.copy(), model.body_quat.copy())
        write_overrides(model, stretch.overrides)
        rows = self._reader.allocate(len(stretch.qpos))
        for i, (qpos, qvel) in enumerate(zip(stretch.qpos, stretch.qvel, strict=True)):
            data.qpos[:], data.qvel[:] = qpos, qvel
            self._reader.refresh()
            self._reader.fill(rows, i)
        state = self._reader.state(rows, len(stretch.qpos))
        model.body_pos[:], model.body_quat[:] = built
        return state


def write_overrides(model: mujoco.MjModel, overrides: Mapping[str, Array]) -> None:
    """Write a snapshot's overrides into a model; their keys are ``"<model field>:<body>"``."""
    for key, value in overrides.items():
        field, _, name = key.partition(":")
        getattr(model, field)[mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)] = value
