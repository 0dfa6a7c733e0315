"""Simulators behind `factory.sim.SimBackend`; each is imported only when it is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factory.errors import BackendError, unknown_name

if TYPE_CHECKING:
    from factory.sim import SimBackend
    from factory.specs import TaskSpec

BACKENDS = ("kinematic", "robosuite")


def open_backend(task: TaskSpec, *, name: str = "robosuite", num_envs: int = 1) -> SimBackend:
    """Open a task in a simulator.

    Raises:
        BackendError: the backend is unknown, is not installed, or cannot build the scene.
    """
    if name == "kinematic":
        from sim_tasks.backends.kinematic import KinematicBackend

        return KinematicBackend(task, num_envs=num_envs)
    if name == "robosuite":
        try:
            from sim_tasks.backends.robosuite import RobosuiteBackend
        except ImportError as error:
            raise BackendError(
                f"the robosuite backend is not installed ({error}); install trajectory-factory[sim]"
            ) from error
        return RobosuiteBackend(task, num_envs=num_envs)
    raise BackendError(unknown_name("backend", name, BACKENDS))
