"""Records demonstrations: plays a task's script in a simulator and keeps what succeeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.demos import Demo
from factory.errors import SpecError, unknown_name
from factory.placements import sample_placements
from factory.scene import SceneState, concatenate, take
from factory.sim import BlockResult, Hold, SimBackend
from factory.specs import TaskSpec
from sim_tasks.demonstrators import can, cubes, door, square
from sim_tasks.demonstrators.strokes import ScriptOf, block, draw_style

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
class Performance:
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
        tried = perform(task, backend, seed=seed, attempt=attempt, variant=variant, part=(len(demos), count))
        if tried.success:
            demos.append(tried.demo)
        if progress is not None:
            progress(len(demos), attempt + 1)
    if len(demos) < count:
        raise SpecError(
            f"the script of task {task.name!r} succeeded {len(demos)} times in {count * _TRIES_PER_DEMO} tries"
        )
    return tuple(demos)


def perform(
    task: TaskSpec, backend: SimBackend, *, seed: int, attempt: int, variant: str = "D0", part: tuple[int, int] = (0, 1)
) -> Performance:
    """Play the task's script once and return what was recorded."""
    if task.name not in SCRIPTS:
        raise SpecError(unknown_name("script for task", task.name, SCRIPTS))
    scene, rng = start(task, backend, seed=seed, attempt=attempt, variant=variant, part=part)
    eef = task.robot.eefs["right"]
    begin = backend.sim_state(0)
    states = [np.concatenate([begin[key] for key in ("time", "qpos", "qvel")])[None]]
    scenes: list[SceneState] = []
    actions: list[NDArray[np.float32]] = []
    target = scene.T_world_eef["right"][-1]
    script = SCRIPTS[task.name](scene, draw_style(rng))
    stroke = next(script, None)
    while stroke is not None:
        commands = block(target, stroke, control_hz=task.robot.control_hz, closed_command=eef.gripper_closed)
        result = backend.advance({0: {"right": commands}})[0]
        actions.append(result.actions)
        states.append(_rows(result))
        scenes.append(result.scene)
        target = commands.T_world_eef[-1]
        try:
            stroke = script.send(take(result.scene, -1))
        except StopIteration:
            stroke = None
    success = bool(task.success(scenes[-1])[-1])
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
        states=np.concatenate(states),
        T_world_object=_fixed(scenes),
        attributes={**attributes, "demonstrator": VERSION},
    )
    return Performance(demo=demo, success=success and bool(task.success(held.scene).all()))


def start(
    task: TaskSpec, backend: SimBackend, *, seed: int, attempt: int, variant: str, part: tuple[int, int]
) -> tuple[SceneState, np.random.Generator]:
    """Bring environment 0 to the settled start of a try; returns the scene and the generator the script goes on with.

    `part` (k, n) draws until the first placed object is turned into the k-th of n parts of its range: ten
    demonstrations then meet the object from all sides, as those of a person who spreads the starts would.
    """
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(attempt,)))
    reset = task.reset(variant)
    first = reset.placements[0]
    low, high = first.yaw_rad
    while True:
        placements = sample_placements(reset, rng)
        upright = placements[first.object][:3, :3] @ poses.matrix_from_quat_wxyz(np.array(first.quat_wxyz)).T
        yaw = low + (math.atan2(upright[1, 0], upright[0, 0]) - low) % (2.0 * math.pi)
        if high == low or int((yaw - low) / (high - low) * part[1]) == part[0]:
            break
    backend.reset(0, placements, rng, joint_noise_rad=reset.joint_noise_rad)
    settled = backend.advance({0: {"right": Hold(steps=task.settle_steps)}})[0]
    return take(settled.scene, -1), rng


def _rows(result: BlockResult) -> Array:
    return np.concatenate([result.sim_states[key] for key in ("time", "qpos", "qvel")], axis=1)


def _fixed(scenes: Sequence[SceneState]) -> dict[str, Array]:
    """Return the poses of objects that never moved: those fixed in the world, which simulator states do not hold."""
    scene = concatenate(scenes)
    return {name: T for name, T in scene.T_world_object.items() if not scene.velocity[name].any()}
