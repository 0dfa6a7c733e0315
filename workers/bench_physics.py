"""What physics alone costs when every core is at it: bare `mj_step` in as many processes as generation has workers.

Two processes on the two halves of one core share its arithmetic; each then takes more CPU seconds for the same steps.
What generation in so many processes could reach at best is therefore measured in so many processes, not in one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from factory.demos import read_demos
from factory.errors import BackendError
from factory.specs import GenerationSpec
from sim_tasks.catalog import find_task
from workers.processes import SPAWN, become_worker

_START_LIMIT_S = 600.0


def mj_step_us(
    task: str, demos: Sequence[Path], spec: GenerationSpec, *, attempts: int, processes: int, seconds: float = 4.0
) -> float:
    """Return the CPU microseconds of one control step's physics steps, mean over processes that run side by side.

    Args:
        task: name in the catalog.
        demos: files of source demonstrations.
        spec: settings of the attempts whose controls are repeated.
        attempts: recorded attempts that are stepped through again and again.
        processes: how many at the same time.
        seconds: wall time of the measurement, after all processes are ready.

    Raises:
        BackendError: a process failed.
    """
    together, costs = SPAWN.Barrier(processes), SPAWN.Queue()
    arguments = (task, tuple(demos), spec, attempts, seconds, together, costs)
    children = [SPAWN.Process(target=_child, args=arguments, daemon=True) for _ in range(processes)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise BackendError(f"of {processes} processes that step physics some died: {[c.exitcode for c in children]}")
    return float(np.mean([costs.get() for _ in children]))


def _child(
    task: str, demos: tuple[Path, ...], spec: GenerationSpec, attempts: int, seconds: float, together: Any, costs: Any
) -> None:
    from workers.bench_control import recorded  # noqa: PLC0415 - brings the simulator

    become_worker()
    backend, path, courses = recorded(
        find_task(task), [demo for file in demos for demo in read_demos(file)], spec, attempts=attempts
    )
    path.retrace(courses[0].controls[:0])  # machine code is read from disk, or made, before anything is timed
    together.wait(_START_LIMIT_S)  # breaks, and ends all, when one of them died on the way
    spent, steps, ends = 0.0, 0, time.perf_counter() + seconds
    while time.perf_counter() < ends:
        for course in courses:
            course.restore()
            began = time.process_time()
            path.retrace(course.controls)
            spent, steps = spent + time.process_time() - began, steps + len(course.actions)
    costs.put(1e6 * spent / steps)
    backend.close()
