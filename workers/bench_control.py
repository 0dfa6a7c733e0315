"""What control adds to physics: the same control steps by bare `mj_step`, the compiled path and robosuite, in turns.

A block of control steps is recorded once with the controls of every physics step. Then, again and again from the same
start: bare physics is given those controls, the compiled path and robosuite are given the actions and compute them. All
in one process on one core; CPU time, so that other work on the machine counts less, and ratios within a round, so that
it counts hardly at all.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.demos import Demo
from factory.episodes import write_shard
from factory.errors import BackendError
from factory.metering import break_down
from factory.replay import run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, TaskSpec

Array = NDArray[np.float64]

ROBOSUITE_STEPS = 40
"""Control steps that robosuite's own step is given in a round: it is several times as slow, and its cost is even."""

SCENES: Mapping[str, tuple[str, tuple[str, ...], str | None]] = {
    "TwoArmLift, two Pandas": ("TwoArmLift", ("Panda", "Panda"), None),
    "TwoArmLift, two Pandas with dexterous hands": ("TwoArmLift", ("PandaDexRH", "PandaDexLH"), None),
    "TwoArmLift, GR-1 arms, operational space": ("TwoArmLift", ("GR1ArmsOnly",), "BASIC"),
}
"""robosuite's own scenes that are measured besides a task: environment, robots, composite controller."""


@dataclass(frozen=True, kw_only=True)
class _Course:
    """A recorded stretch: actions ``(t, a)``, controls of every physics step, and how to get back to its start."""

    actions: NDArray[np.float32]
    controls: Array
    restore: Callable[[], None]


def measure_task(
    task: TaskSpec, demos: Sequence[Demo], spec: GenerationSpec, *, attempts: int, rounds: int
) -> dict[str, Any]:
    """Return costs and ratios along whole attempts of a task, JSON-ready; see `_measure`.

    Raises:
        BackendError: the task's robot cannot be driven by compiled control.
    """
    from sim_tasks.backends.robosuite import RobosuiteBackend  # noqa: PLC0415 - brings the simulator

    backend, path, courses = recorded(task, demos, spec, attempts=attempts)
    exact = RobosuiteBackend(task, control_mode="exact")

    def slow(course: _Course) -> Callable[[], None]:
        course.restore()
        exact.restore(0, backend.snapshot(0))

        def play() -> None:
            exact.play(0, course.actions[:ROBOSUITE_STEPS])

        return play

    facts = _measure(backend.environment, path, courses, rounds, {"exact": slow})
    exact.close()
    backend.close()
    return facts | {"robot": task.robot.name, "attempts": attempts}


def recorded(
    task: TaskSpec, demos: Sequence[Demo], spec: GenerationSpec, *, attempts: int
) -> tuple[Any, Any, list[_Course]]:
    """Return an open backend, its compiled path, and so many attempts as courses.

    Raises:
        BackendError: the task's robot is not driven by compiled control.
    """
    from sim_tasks.backends.robosuite import RobosuiteBackend  # noqa: PLC0415 - brings the simulator

    backend = RobosuiteBackend(task)
    path = backend.compiled_path
    if path is None:
        raise BackendError(
            f"task {task.name!r}: its robot is not driven by compiled control; there is nothing to compare"
        )
    sources = prepare_sources(backend, task, demos, spec).sources
    courses: list[_Course] = []
    for result in run_attempts(backend, task, sources, spec, range(attempts)):
        backend.restore(0, result.start)

        def restore(start: Any = result.start) -> None:
            backend.restore(0, start)

        controls = _controls(backend.model, backend.data, path, result.actions)
        courses.append(_Course(actions=result.actions, controls=controls, restore=restore))
    return backend, path, courses


def measure_engine(task: TaskSpec, demos: Sequence[Demo], spec: GenerationSpec, *, attempts: int) -> dict[str, Any]:
    """Return where the CPU time of whole attempts goes, kept episodes written to disk included, JSON-ready."""
    from sim_tasks.backends.robosuite import RobosuiteBackend  # noqa: PLC0415 - brings the simulator

    backend = RobosuiteBackend(task)
    sources = prepare_sources(backend, task, demos, spec).sources
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        found = break_down(
            backend,
            task,
            sources,
            spec,
            range(attempts),
            clock=time.process_time,
            write=partial(write_shard, Path(folder)),
        )
    backend.close()
    return {
        "attempts": found.attempts,
        "control_steps": found.steps,
        "cpu_ms_per_attempt": {part: 1e3 * seconds / found.attempts for part, seconds in found.seconds.items()},
        "engine_share": found.engine_share,
    }


def measure_scene(name: str, *, steps: int = 60, rounds: int) -> dict[str, Any]:
    """Return the same for one of `SCENES`, along smooth random actions."""
    import mujoco  # noqa: PLC0415 - brings the simulator

    from sim_tasks.backends.compiled_path import CompiledPath  # noqa: PLC0415
    from sim_tasks.backends.scenes import open_environment  # noqa: PLC0415

    scene, robots, controller = SCENES[name]
    environment = open_environment(scene, robots, controller)
    model, data = environment.sim.model._model, environment.sim.data._data  # noqa: SLF001 - robosuite wraps them
    substeps = int(environment.control_timestep / environment.model_timestep)
    path = CompiledPath(model, data, environment.robots, substeps=substeps)
    path.remember_posture()
    kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
    state, memory = np.empty(mujoco.mj_stateSize(model, kind)), path.memory()
    mujoco.mj_getState(model, data, state, kind)

    def restore() -> None:
        mujoco.mj_setState(model, data, state, kind)
        mujoco.mj_forward(model, data)
        mujoco.mj_setState(model, data, state, kind)
        path.recall(memory)

    rng = np.random.default_rng(0)
    actions = np.zeros((steps, path.action_dim), np.float32)
    for t in range(1, steps):
        # Smooth and about zero: the arms wave where they are, as arms at work do, and do not stretch to their limits.
        actions[t] = np.clip(0.9 * actions[t - 1] + rng.normal(0.0, 0.25, path.action_dim), -1.0, 1.0)
    course = _Course(actions=actions, controls=_controls(model, data, path, actions), restore=restore)
    facts = _measure(environment, path, [course], rounds, {})
    environment.close()
    return facts | {"robot": ", ".join(robots), "attempts": 0}


def _controls(model: Any, data: Any, path: Any, actions: NDArray[np.float32]) -> Array:
    """Run actions from where the simulation is, and return the controls ``(physics steps, nu)`` they led to."""
    import mujoco  # noqa: PLC0415

    rows: list[Array] = []
    for action in actions:
        for substep in range(path.substeps):
            mujoco.mj_step1(model, data)
            if substep == 0:
                path.aim(action)
            rows.append(path.substep_controls())
            mujoco.mj_step2(model, data)
    return np.array(rows)


def _measure(
    environment: Any,
    path: Any,
    courses: Sequence[_Course],
    rounds: int,
    others: Mapping[str, Callable[[_Course], Callable[[], None]]],
) -> dict[str, Any]:
    """Return microseconds of CPU per control step for every way, and their ratios with median and range over rounds."""
    ways: dict[str, Callable[[_Course], tuple[Callable[[], Any], int]]] = {
        "mj_step": lambda c: (lambda: path.retrace(c.controls), len(c.actions)),
        "compiled": lambda c: (lambda: _played(path, c.actions), len(c.actions)),
        "robosuite": lambda c: (lambda: _step(environment, c.actions[:ROBOSUITE_STEPS]), ROBOSUITE_STEPS),
        **{name: lambda c, make=make: (make(c), ROBOSUITE_STEPS) for name, make in others.items()},
    }
    costs: dict[str, list[float]] = {name: [] for name in ways}
    path.retrace(courses[0].controls[:0])  # machine code is read from disk, or made, before anything is timed
    for turn in range(rounds):
        # In turns, and every other round backwards: whatever drifts meets all ways alike.
        for name in list(ways)[:: -1 if turn % 2 else 1]:
            spent, steps = 0.0, 0
            for course in courses:
                course.restore()
                run, count = ways[name](course)
                began = time.process_time()
                run()
                spent, steps = spent + time.process_time() - began, steps + min(count, len(course.actions))
            costs[name].append(1e6 * spent / steps)
    per_step = {name: _spread(values) for name, values in costs.items()}
    pairs = [("compiled", "mj_step"), ("robosuite", "compiled"), ("robosuite", "mj_step")]
    pairs += [(name, "compiled") for name in others]
    ratios = {f"{a}_to_{b}": _spread([x / y for x, y in zip(costs[a], costs[b], strict=True)]) for a, b in pairs}
    return {
        "cpu_us_per_control_step": per_step,
        "ratios": ratios,
        "control_steps": sum(len(c.actions) for c in courses),
        "physics_steps_per_control_step": path.substeps,
        "rounds": rounds,
    }


def _played(path: Any, actions: NDArray[np.float32]) -> None:
    outcome = path.play(actions)
    if outcome.done < len(actions):
        raise BackendError(
            f"the simulation diverged after {outcome.done} of {len(actions)} steps; nothing was measured"
        )


def _step(environment: Any, actions: NDArray[np.float32]) -> None:
    for robot in environment.robots:
        for part in robot.part_controllers.values():
            part.new_update = True
    for action in actions:
        environment.step(action.astype(np.float64))


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": float(np.median(values)), "low": float(min(values)), "high": float(max(values))}
