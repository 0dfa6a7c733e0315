"""A person moves the hand in robosuite's viewer, with robosuite's own keyboard or SpaceMouse device."""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import os
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim_tasks.backends.robosuite import RobosuiteBackend  # isort: skip - quiets robosuite before it is imported
import mujoco.viewer

from factory.demos import Demo
from factory.errors import BackendError
from factory.scene import concatenate
from factory.specs import TaskSpec

Array = NDArray[np.float64]


class Teleoperation:
    """Holds a backend, a viewer window and an input device open.

    Raises:
        BackendError: there is no screen, or the device cannot be opened.
    """

    def __init__(self, task: TaskSpec, *, device: str) -> None:
        """Open the window and the device."""
        if not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY"):
            raise BackendError(
                "recording by hand needs a screen and DISPLAY is not set; without one, use `factory record-seeds`"
            )
        self._task = task
        self._backend = RobosuiteBackend(task)
        environment = self._backend._env  # noqa: SLF001 - the device maps keys through the environment's robot
        self._device = _open_device(device, environment)
        self._environment: Any = environment
        self._viewer = mujoco.viewer.launch_passive(
            environment.sim.model._model,  # noqa: SLF001
            environment.sim.data._data,  # noqa: SLF001
            show_left_ui=False,
            show_right_ui=False,
        )

    def __enter__(self) -> Teleoperation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._viewer.close()
        self._backend.close()

    def record(self, placements: Mapping[str, Array], rng: np.random.Generator, *, name: str) -> Demo | None:
        """Record one demonstration until success has been held, or the person presses the device's reset key.

        Returns None for a demonstration that was given up.
        """
        task, backend = self._task, self._backend
        scene = backend.reset(0, placements, rng)
        fixed = {name: T for name, T in scene.T_world_object.items() if name in placements}
        states = [_flat(backend.sim_state(0))]
        done: list[NDArray[np.float32]] = []
        recent: list = []
        self._device.start_control()
        period = 1.0 / task.robot.control_hz
        while self._viewer.is_running():
            began = time.monotonic()
            action = self._action()
            if action is None:
                return None
            result = backend.play(0, action[None])
            done.append(action)
            states.append(_flat(backend.sim_state(0)))
            recent = [*recent, result.scene][-task.success_hold_steps :]
            self._viewer.sync()
            if len(recent) == task.success_hold_steps and task.success(concatenate(recent)).all():
                break
            time.sleep(max(0.0, period - (time.monotonic() - began)))
        else:
            raise KeyboardInterrupt
        return Demo(
            name=name,
            path="",
            format="seeds",
            environment=task.name,
            control_hz=float(task.robot.control_hz),
            actions=np.stack(done).astype(np.float64),
            states=np.stack(states),
            T_world_object={k: np.repeat(v[:1], len(done), axis=0) for k, v in fixed.items()},
        )

    def _action(self) -> NDArray[np.float32] | None:
        """Return the device's command as one action vector, or None when its reset key was pressed."""
        parts = self._device.input2action()
        if parts is None:
            return None
        action = np.zeros(self._task.robot.action_dim, np.float32)
        for eef, spec in self._task.robot.eefs.items():
            action[slice(*spec.arm_action)] = parts[f"{eef}_delta"]
            action[slice(*spec.gripper_action)] = parts[f"{eef}_gripper"]
        return action


def _open_device(name: str, environment: Any) -> Any:
    try:
        if name == "keyboard":
            from robosuite.devices import Keyboard  # noqa: PLC0415 - opens the display when imported

            return Keyboard(env=environment)
        from robosuite.devices import SpaceMouse  # noqa: PLC0415 - needs the hidapi library

        return SpaceMouse(env=environment)
    except (ImportError, OSError) as error:
        raise BackendError(f"device {name!r} cannot be opened: {error}") from error


def _flat(state: Mapping[str, Array]) -> Array:
    return np.concatenate([state["time"], state["qpos"], state["qvel"]])
