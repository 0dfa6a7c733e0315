"""Records demonstrations: plays a task's script in a simulator and keeps what succeeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory.demos import Demo
from factory.errors import SpecError, unknown_name
from factory.placements import sample_placements
from factory.scene import SceneState
from factory.sim import BlockResult, Hold, SimBackend
from factory.specs import TaskSpec
from sim_tasks.demonstrators import can, cubes, door, square
from sim_tasks.demonstrators.strokes import ScriptOf, block, draw_style, yaw_of

Array = NDArray[np.float64]

VERSION = "1"
"""Counts changes of the scripts that change what they record."""

SCRIPTS: Mapping[str, ScriptOf] = {
    "lift": cubes.lift,
    "stack": cubes.stack,
    "stack_three": cubes.stack_three,
    "square": square.square,
    "can": can.can,
    "door": door.door,
}

_TRIES_PER_DEMO = 5
"""Failed tries per wanted demonstration before a script is called broken; the shipped ones rarely need a second."""


@dataclass(frozen=True, kw_only=True)
class Take:
    """One try of a script.

    Attributes:
        demo: what was recorded.
        success: the task's success, held for `success_hold_steps` after the last recorded step.
    """

    demo: Demo
    success: bool


def record(
    task: TaskSpec,
    backend: SimBackend,
    *,
    count: int,
    seed: int,
    variant: str = "D0",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Demo, ...]:
    """Return `count` demonstrations that succeed and stay successful.

    Args:
        task: one that has a script here.
        backend: holds the task; environment 0 is used.
        count: how many.
        seed: the same seed gives the same demonstrations.
        variant: which starts.
        progress: called with (kept, tried) after each try.

    Raises:
        SpecError: the task has no script, or its script fails five times as often as it is asked to succeed.
    """
    demos: list[Demo] = []
    for attempt in range(count * _TRIES_PER_DEMO):
        if len(demos) == count:
            break
        # The k-th demonstration is one of an object turned into the k-th part of the circle, see `start`.
        take = perform(task, backend, seed=seed, attempt=attempt, variant=variant, part=(len(demos), count))
        if take.success:
            demos.append(take.demo)
        if progress is not None:
            progress(len(demos), attempt + 1)
    if len(demos) < count:
        raise SpecError(f"the script of task {task.name!r} succeeded {len(demos)} times in {count * _TRIES_PER_DEMO} tries")
    return tuple(demos)


def perform(
    task: TaskSpec, backend: SimBackend, *, seed: int, attempt: int, variant: str = "D0", part: tuple[int, int] = (0, 1)
) -> Take:
    """Play the task's script once and return what was recorded."""
    if task.name not in SCRIPTS:
        raise SpecError(unknown_name("script for task", task.name, SCRIPTS))
    scene, rng = start(task, backend, seed=seed, attempt=attempt, variant=variant, part=part)
    eef = task.robot.eefs["right"]
    states = [_flat(backend.sim_state(0))]
    actions: list[NDArray[np.float32]] = []
    target = scene.T_world_eef["right"][-1]
    script = SCRIPTS[task.name](scene, draw_style(rng))
    stroke = next(script, None)
    while stroke is not None:
        commands = block(target, stroke, control_hz=task.robot.control_hz, closed_command=eef.gripper_closed)
        result = backend.advance({0: {"right": commands}})[0]
        actions.append(result.actions)
        states += list(_rows(result))
        target = commands.T_world_eef[-1]
        try:
            stroke = script.send(result.scene)
        except StopIteration:
            stroke = None
    success = bool(task.success(result.scene)[-1])
    held = backend.advance({0: {"right": Hold(steps=task.success_hold_steps)}})[0]
    recorded = np.concatenate(actions)
    attributes = {"seed": str(seed), "attempt": str(attempt), "variant": variant, "part": f"{part[0]}/{part[1]}"}
    demo = Demo(
        name=f"demo_{part[0]}",
        path="",
        format="seeds",
        environment=task.name,
        control_hz=float(task.robot.control_hz),
        actions=recorded.astype(np.float64),
        states=np.stack(states),
        T_world_object=_fixed(backend, task, scene, len(recorded)),
        attributes={**attributes, "demonstrator": VERSION},
    )
    return Take(demo=demo, success=success and bool(task.success(held.scene).all()))
