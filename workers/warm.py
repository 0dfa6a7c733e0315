"""Makes beforehand what the first attempt and the first quick picture of a task would have to wait for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from factory.errors import BackendError
from sim_tasks.backends import open_backend
from sim_tasks.backends.compiling import code_folder, is_compiled
from sim_tasks.backends.keeping import cache_folder
from sim_tasks.catalog import find_task


@dataclass(frozen=True, kw_only=True)
class Warmed:
    """What was done for one task.

    Attributes:
        task: its name.
        machine_code: of the control path: "made" now, "there" before, or "none" where the task's control has none.
        meshes_made: heavy meshes simplified now.
        meshes_there: those that had been before.
        cpu_s: seconds of computing.
        folder: where it is kept.
    """

    task: str
    machine_code: Literal["made", "there", "none"]
    meshes_made: int
    meshes_there: int
    cpu_s: float
    folder: str


def warm(tasks: Sequence[str]) -> Iterator[Warmed]:
    """Make and keep what is missing for each task, one after the other, and say what that was.

    Raises:
        SpecError: no such task.
        BackendError: a scene cannot be built, or nothing can be kept in the cache folder.
    """
    for task in [find_task(name) for name in tasks]:
        from sim_tasks.backends import meshes, scenes  # noqa: PLC0415 - bring mujoco

        begun, before = time.process_time(), is_compiled()
        backend = open_backend(task)
        compiled = backend.describe()["control_mode"] == "compiled"
        backend.close()
        made, there = meshes.lighten(scenes.build_environment(task).sim.model._model)  # noqa: SLF001 - no accessor
        if compiled and not is_compiled():
            raise BackendError(f"nothing can be kept in {cache_folder()}; set FACTORY_CACHE_DIR to a folder of yours")
        yield Warmed(
            task=task.name,
            machine_code="none" if not compiled else "there" if before else "made",
            meshes_made=made,
            meshes_there=there,
            cpu_s=round(time.process_time() - begun, 1),
            folder=str(code_folder().parent.parent),
        )
