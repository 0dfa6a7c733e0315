"""Starts Isaac Lab and opens one of its Mimic environments; the only file that imports it."""

# pyright: basic, reportMissingImports=false, reportAttributeAccessIssue=false
# ruff: noqa: PLC0415 - Isaac Lab can be imported only once its simulator runs
from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import torch

from factory.errors import BackendError
from factory.isaac_states import QuaternionOrder
from factory.specs import TaskSpec
from sim_tasks.backends.isaac_world import MimicEnvironment

_HOW = (
    "Isaac Lab runs in a Python of its own on a machine with an RTX GPU: start the container "
    "(docker compose --profile isaac up) or run this command there; see docs/isaac.md"
)


def open_environment(task: TaskSpec, *, num_envs: int = 1, device: str | None = None) -> MimicEnvironment:
    """Open a task's environment.

    The scene's base is the name under which Isaac Lab registers it, or "package.module:function" of a function that
    takes `num_envs` and `device` and returns a `MimicEnvironment`.

    Args:
        task: the task.
        num_envs: environments in lock step.
        device: "cuda:0" or "cpu"; None leaves it to Isaac Lab.

    Raises:
        BackendError: Isaac Lab is not installed here, does not know the environment, or it has no success term.
    """
    if num_envs < 1:
        raise BackendError(f"num_envs is {num_envs}; at least one environment is needed")
    if ":" in task.scene.base:
        return _function_of(task.scene.base)(num_envs=num_envs, device=device)
    return _launched(task, num_envs, device)


def _function_of(base: str) -> Callable[..., MimicEnvironment]:
    module, _, name = base.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise BackendError(f"scene base {base!r} cannot be imported ({error})") from error


def _launched(task: TaskSpec, num_envs: int, device: str | None) -> MimicEnvironment:
    name = task.scene.base
    if task.scene.options.get("pinocchio"):
        with suppress(ImportError):  # has to come before the simulator's own copy; Isaac Lab 3 does not need it
            importlib.import_module("pinocchio")
    try:
        from isaaclab.app import AppLauncher
    except ImportError as error:
        raise BackendError(
            f"task {task.name!r} needs Isaac Lab, which is not installed here ({error}). {_HOW}"
        ) from error
    # Everything else of Isaac Lab can be imported only once its simulator runs, which would read our command line.
    words, sys.argv[1:] = sys.argv[1:], []
    try:
        app = AppLauncher(headless=True, **({} if device is None else {"device": device})).app
    finally:
        sys.argv[1:] = words
    import gymnasium
    from isaaclab_tasks.utils.parse_cfg import parse_env_cfg

    importlib.import_module("isaaclab_mimic.envs")
    with suppress(ImportError):  # Isaac Lab 2 registers the GR1T2 environments apart
        importlib.import_module("isaaclab_mimic.envs.pinocchio_envs")
    if name not in gymnasium.registry:
        known = ", ".join(sorted(key for key in gymnasium.registry if "Mimic" in key))
        raise BackendError(
            f"Isaac Lab {_version()} registers no environment {name!r}; it has {known or 'none of Mimic'}"
        )
    cfg = parse_env_cfg(name, num_envs=num_envs, **({} if device is None else {"device": device}))
    success = _without_terminations(cfg, name)
    without_cameras(cfg)
    cfg.observations.policy.concatenate_terms = False
    env = gymnasium.make(name, cfg=cfg).unwrapped

    def close() -> None:
        env.close()
        app.close()

    return MimicEnvironment(
        env=env,
        success=lambda opened: success.func(opened, **success.params),
        name=name,
        version=_version(),
        order=_order(),
        close=close,
        facts={"device": _device_name(str(env.device)), "dt": str(cfg.sim.dt), "decimation": str(cfg.decimation)},
    )


def _without_terminations(cfg: Any, name: str) -> Any:
    """Take the success term out, and all terms away: an environment must not reset itself during an attempt."""
    success = getattr(cfg.terminations, "success", None)
    if success is None:
        raise BackendError(f"environment {name!r} has no termination term 'success'; Isaac Lab Mimic needs one too")
    cfg.terminations = None
    return success


def without_cameras(cfg: Any) -> tuple[str, ...]:
    """Take cameras, and what observes them, out of an environment's configuration; returns their names.

    Attempts run without pictures; rendering them in every step would cost more than the physics.
    """
    cameras = [k for k, v in vars(cfg.scene).items() if type(v).__name__.endswith("CameraCfg")]
    for name in cameras:
        setattr(cfg.scene, name, None)
    for group in vars(cfg.observations).values():
        for name, term in list(getattr(group, "__dict__", {}).items()):
            sensor = (getattr(term, "params", None) or {}).get("sensor_cfg")
            if getattr(sensor, "name", None) in cameras:
                setattr(group, name, None)
    return tuple(cameras)


def _order() -> QuaternionOrder:
    """Ask the library itself: version numbers of wheels and of source checkouts count differently."""
    from isaaclab.utils.math import matrix_from_quat

    first = matrix_from_quat(torch.tensor([[1.0, 0.0, 0.0, 0.0]]))[0]
    return "wxyz" if bool(torch.allclose(first, torch.eye(3))) else "xyzw"


def _version() -> str:
    try:
        return importlib.metadata.version("isaaclab")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
