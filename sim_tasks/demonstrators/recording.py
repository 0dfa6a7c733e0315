"""Records demonstrations: plays a task's script in a simulator and keeps what succeeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.demos import Demo
from factory.errors import SpecError, unknown_name
from factory.placements import sample_placements
from factory.scene import SceneState, concatenate, take
from factory.sim import BlockResult, Hold, SimBackend
from factory.specs import ResetSpec, TaskSpec
from sim_tasks.demonstrators import can, cubes, door, square
from sim_tasks.demonstrators.strokes import Script, ScriptOf, block, draw_style

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
        success: the task's success at the last recorded step, and for `success_hold_steps` of holding still after it.
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
        tried = perform(task, backend, seed=seed, attempt=attempt, index=len(demos), count=count, variant=variant)
        if tried.success:
            demos.append(tried.demo)
        if progress is not None:
            progress(len(demos), attempt + 1)
    if len(demos) < count:
        raise SpecError(
            f"the script of task {task.name!r} succeeded {len(demos)} times in {count * _TRIES_PER_DEMO} tries, "
            f"{count} were wanted"
        )
    return tuple(demos)


def perform(
    task: TaskSpec, backend: SimBackend, *, seed: int, attempt: int, index: int, count: int, variant: str = "D0"
) -> Performance:
    """Play the task's script once, as demonstration `index` of `count`, and return what was recorded.

    The numbers are written into the demo's attributes: the same ones give the same demonstration again.
    """
    if task.name not in SCRIPTS:
        raise SpecError(unknown_name("script for task", task.name, SCRIPTS))
    scene, rng = start(task, backend, seed=seed, attempt=attempt, index=index, count=count, variant=variant)
    state = backend.sim_state(0)
    played = list(_play(task, backend, scene, SCRIPTS[task.name](scene, draw_style(rng))))
    success = bool(task.success(played[-1].scene)[-1])
    held = backend.advance({0: {"right": Hold(steps=task.success_hold_steps)}})[0]
    numbers = {"seed": seed, "attempt": attempt, "index": index, "count": count, "variant": variant}
    moved = concatenate([result.scene for result in played])
    demo = Demo(
        name=f"demo_{index}",
        path="",
        format="seeds",
        environment=task.name,
        control_hz=float(task.robot.control_hz),
        actions=np.concatenate([result.actions for result in played]).astype(np.float64),
        states=np.concatenate([flat(state)[None], *(flat(result.sim_states) for result in played)]),
        # What never moved is fixed in the world: it is not part of the simulator's state, so its pose is kept here.
        T_world_object={name: T for name, T in moved.T_world_object.items() if not moved.velocity[name].any()},
        attributes={"demonstrator": VERSION, **{key: str(value) for key, value in numbers.items()}},
    )
    return Performance(demo=demo, success=success and bool(task.success(held.scene).all()))


def start(
    task: TaskSpec, backend: SimBackend, *, seed: int, attempt: int, index: int, count: int, variant: str = "D0"
) -> tuple[SceneState, np.random.Generator]:
    """Bring environment 0 to the settled start of a try; returns the scene and the script's generator."""
    rng = np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(attempt,)))
    reset = task.reset(variant)
    placements = sample_placements(reset, rng)
    while not _in_turn(reset, placements, seed=seed, index=index, count=count):
        placements = sample_placements(reset, rng)
    backend.reset(0, placements, rng, joint_noise_rad=reset.joint_noise_rad)
    settled = backend.advance({0: {"right": Hold(steps=task.settle_steps)}})[0]
    return take(settled.scene, -1), rng


def flat(states: Mapping[str, Array]) -> Array:
    """Return named simulator states as rows of time, qpos, qvel."""
    return np.concatenate([states[key] for key in ("time", "qpos", "qvel")], axis=-1)


def _play(task: TaskSpec, backend: SimBackend, scene: SceneState, script: Script) -> Iterator[BlockResult]:
    """Run a script's strokes one after the other."""
    target = scene.T_world_eef["right"][-1]
    stroke = next(script, None)
    while stroke is not None:
        commands = block(
            target,
            stroke,
            control_hz=task.robot.control_hz,
            closed_command=task.robot.eefs["right"].gripper_closed,
        )
        result = backend.advance({0: {"right": commands}})[0]
        yield result
        target = commands.T_world_eef[-1]
        try:
            stroke = script.send(take(result.scene, -1))
        except StopIteration:
            return


def _in_turn(reset: ResetSpec, placements: Mapping[str, Array], *, seed: int, index: int, count: int) -> bool:
    """Whether every object is turned into its part of its range: of `count` parts each demonstration has another.

    Ten demonstrations then meet each object from all sides (a Latin square), as those of a person would who takes care
    to spread the starts.
    """
    for number, spec in enumerate(reset.placements):
        low, high = spec.yaw_rad
        part = np.random.default_rng([seed, number]).permutation(count)[index]
        upright = placements[spec.object][:3, :3] @ poses.matrix_from_quat_wxyz(np.array(spec.quat_wxyz)).T
        beyond = (math.atan2(upright[1, 0], upright[0, 0]) - low) % (2.0 * math.pi)
        if high > low and int(beyond / (high - low) * count) != part:
            return False
    return True
