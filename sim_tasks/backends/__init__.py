"""Simulators behind `factory.sim.SimBackend`; each is imported only when it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from factory.errors import BackendError, unknown_name
from sim_tasks.catalog import capability_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from factory.sim import SimBackend
    from factory.specs import TaskSpec

BACKENDS = ("kinematic", "robosuite", "robosuite/exact", "mjwarp", "isaaclab")

_CONTROL_MODES: Mapping[str, Literal["compiled", "exact", "robosuite"]] = {
    "robosuite": "compiled",
    "robosuite/compiled": "compiled",
    "robosuite/exact": "exact",
    "robosuite/robosuite": "robosuite",
}


def executor_name(executor: Mapping[str, str]) -> str:
    """Return the name under which `open_backend` opens what an episode's provenance says made it."""
    backend, mode = executor.get("backend", "robosuite"), executor.get("control_mode", "exact")
    return f"{backend}/{mode}" if backend == "robosuite" else backend


def open_backend(
    task: TaskSpec, *, name: str = "robosuite", num_envs: int = 1, device: str | None = None
) -> SimBackend:
    """Open a task in a simulator.

    Args:
        task: the task.
        name: one of `BACKENDS`; "robosuite/exact" and "robosuite/robosuite" choose how robosuite's controls are
            computed, see `robosuite.RobosuiteBackend`.
        num_envs: environments kept apart.
        device: what "mjwarp" and "isaaclab" compute on, see `mjwarp.backend.MjwarpBackend`; the others have no choice.

    Raises:
        BackendError: the backend is unknown, is not installed, or cannot build the scene.
    """
    if name != "isaaclab" and capability_of(task) == "isaac":
        raise BackendError(f"task {task.name!r} is one of Isaac Lab's; it runs on the backend isaaclab, not on {name}")
    if name == "isaaclab":
        return _isaaclab(task, num_envs, device)
    if name == "kinematic":
        from sim_tasks.backends.kinematic import KinematicBackend

        return KinematicBackend(task, num_envs=num_envs)
    if name in _CONTROL_MODES:
        try:
            from sim_tasks.backends.robosuite import RobosuiteBackend
        except ImportError as error:
            raise BackendError(
                f"the robosuite backend is not installed ({error}); install trajectory-factory[sim]"
            ) from error
        return RobosuiteBackend(task, num_envs=num_envs, control_mode=_CONTROL_MODES[name])
    if name == "mjwarp":
        try:
            from sim_tasks.backends.mjwarp.backend import MjwarpBackend
        except ImportError as error:
            raise BackendError(
                f"the mjwarp backend is not installed ({error}); install trajectory-factory[sim,gpu]"
            ) from error
        return MjwarpBackend(task, num_envs=num_envs, device=device)
    raise BackendError(unknown_name("backend", name, BACKENDS))


def _isaaclab(task: TaskSpec, num_envs: int, device: str | None) -> SimBackend:
    try:
        from sim_tasks.backends.isaac_app import open_environment
        from sim_tasks.backends.isaaclab import IsaacLabBackend
    except ImportError as error:
        raise BackendError(
            f"the isaaclab backend is not installed ({error}); it needs torch and Isaac Lab, see docs/isaac.md"
        ) from error
    return IsaacLabBackend(task, open_environment(task, num_envs=num_envs, device=device))
