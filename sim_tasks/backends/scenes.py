"""Builds a robosuite environment from a task's scene data."""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import ctypes
import gc
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim_tasks.backends import compat  # isort: skip - before robosuite, whose import it quiets
import robosuite
from robosuite.controllers import load_composite_controller_config
from robosuite.environments.base import REGISTERED_ENVS
from robosuite.environments.manipulation.manipulation_env import ManipulationEnv
from robosuite.models.arenas import TableArena
from robosuite.models.objects import BoxObject
from robosuite.models.tasks import ManipulationTask
from robosuite.utils.mjcf_utils import CustomMaterial

from factory.errors import BackendError, unknown_name
from factory.parts import BodySpec
from factory.specs import BoxSpec, MountSpec, SceneSpec, TaskSpec
from sim_tasks.backends.parts import add_cameras, add_parts


class TableScene(ManipulationEnv):
    """A table with boxes and parts, as robosuite environment: the project's own base scene "table"."""

    def __init__(self, scene: SceneSpec, mounts: Sequence[MountSpec], **options: Any) -> None:
        """Remember what to build, then let robosuite build everything."""
        self._scene, self._mounts = scene, mounts
        self.objects: dict[str, BoxObject] = {}
        super().__init__(**options)

    def _load_model(self) -> None:
        super()._load_model()
        table = self._scene.table
        for robot, mount in zip(self.robots, self._mounts, strict=True):
            model = robot.robot_model
            if mount.position_m is None:
                model.set_base_xpos(model.base_xpos_offset["table"](table.size_m[0]))
            else:
                model.set_base_xpos(np.array(mount.position_m))
                model.set_base_ori(np.array([0.0, 0.0, mount.yaw_rad]))
        arena = TableArena(table_full_size=table.size_m, table_offset=(*table.middle_m, table.top_m))
        arena.set_origin([0, 0, 0])
        self.objects = {name: _box(name, spec) for name, spec in self._scene.boxes.items()}
        self.model = ManipulationTask(
            mujoco_arena=arena,
            mujoco_robots=[r.robot_model for r in self.robots],
            mujoco_objects=list(self.objects.values()),
        )
        add_parts(self.model, self._scene.parts)
        add_cameras(self.model, self._scene.cameras)

    def reward(self, action: Any = None) -> float:
        """Return nothing: success is a predicate of the task, not of the environment."""
        del action
        return 0.0

    def _check_success(self) -> bool:
        return False


def open_environment(scene: str, robots: Sequence[str], controller: str | None = None) -> Any:
    """Return one of robosuite's environments, reset, without pictures; `controller` names a composite controller."""
    compat.apply()
    config = None if controller is None else load_composite_controller_config(controller=controller, robot=robots[0])
    environment = robosuite.make(
        scene,
        robots=list(robots),
        controller_configs=config,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        hard_reset=False,
        ignore_done=True,
        control_freq=20,
        seed=0,
    )
    environment.reset()
    return environment


def build_environment(task: TaskSpec) -> Any:
    """Return a robosuite environment of the task's scene, reset once, without renderer, with soft resets.

    Raises:
        BackendError: the scene's base does not exist or does not accept the options.
    """
    compat.apply()
    options = {
        "robots": [mount.model for mount in task.robot.mounts] or task.robot.name,
        "controller_configs": [_controllers(mount) for mount in task.robot.mounts] or None,
        "gripper_types": [mount.gripper or "default" for mount in task.robot.mounts] or "default",
        "control_freq": task.robot.control_hz,
        "has_renderer": False,
        "has_offscreen_renderer": False,
        "use_camera_obs": False,
        "hard_reset": False,
        "ignore_done": True,
        **task.scene.options,
    }
    make = _maker(task.scene, task.robot.mounts or (MountSpec(model=task.robot.name),))
    try:
        environment = make(**options)
    except (TypeError, ValueError, KeyError) as error:
        raise BackendError(
            f"task {task.name!r}: scene base {task.scene.base!r} could not be built with options "
            f"{sorted(task.scene.options)}: {error}"
        ) from error
    environment.reset()
    _return_memory()
    return environment


def _return_memory() -> None:
    """Give back what compiling the model left with the C allocator: about 100 MB a worker would carry for good."""
    if sys.platform == "linux":
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)


def _controllers(mount: MountSpec) -> Any:
    """Return the settings of a robot's controllers, None for the model's own."""
    return (
        load_composite_controller_config(controller=mount.controller, robot=mount.model) if mount.controller else None
    )


def _maker(scene: SceneSpec, mounts: Sequence[MountSpec]) -> Any:
    if scene.base == "table":
        return lambda **options: TableScene(scene, mounts, **options)
    return _furnished(_environment(scene), scene.parts) if scene.parts else _environment(scene)


def _furnished(environment: Any, parts: Mapping[str, BodySpec]) -> Any:
    """Return an environment's class with parts beside what it loads itself."""

    class Furnished(environment):
        def _load_model(self) -> None:
            super()._load_model()
            add_parts(self.model, parts)

    return Furnished


def _environment(scene: SceneSpec) -> Any:
    if ":" in scene.base:
        module, _, name = scene.base.partition(":")
        try:
            return getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise BackendError(f"scene base {scene.base!r} cannot be imported: {error}") from error
    if scene.base not in REGISTERED_ENVS:
        raise BackendError(unknown_name("robosuite environment", scene.base, REGISTERED_ENVS))
    return REGISTERED_ENVS[scene.base]


def _box(name: str, spec: BoxSpec) -> BoxObject:
    material = None
    if spec.material:
        material = CustomMaterial(
            texture=spec.material,
            tex_name=f"{name}_texture",
            mat_name=f"{name}_material",
            tex_attrib={"type": "cube"},
            mat_attrib={"texrepeat": "1 1", "specular": "0.4", "shininess": "0.1"},
        )
    size = np.array(spec.half_size_m)
    return BoxObject(name=name, size_min=size, size_max=size, rgba=spec.rgba, material=material, density=spec.density)
