"""Records demonstrations: plays a task's script in a simulator and keeps what succeeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.demos import Demo
from factory.errors import SpecError, unknown_name
from factory.placements import sample_placements
from factory.scene import SceneState, concatenate, take
from factory.sim import Block, BlockResult, Hold, SimBackend
from factory.specs import ResetSpec, TaskSpec
from sim_tasks.catalog import family_of
from sim_tasks.demonstrators import (
    can,
    cubes,
    door,
    gr1_can_sort,
    gr1_coffee,
    gr1_pick_place,
    gr1_pouring,
    square,
    tabletop,
    two_arm_box_cleanup,
    two_arm_drawer_cleanup,
    two_arm_handover,
    two_arm_lift,
    two_arm_lift_tray,
    two_arm_threading,
    two_arm_three_piece_assembly,
    two_arm_transport,
)
from sim_tasks.demonstrators.hands import DuetOf, Now
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
    "tabletop": tabletop.pick_place,
}

DUETS: Mapping[str, DuetOf] = {
    "two_arm_lift": two_arm_lift.lift,
    "two_arm_drawer_cleanup": two_arm_drawer_cleanup.drawer_cleanup,
    "two_arm_box_cleanup": two_arm_box_cleanup.box_cleanup,
    "two_arm_lift_tray": two_arm_lift_tray.lift_tray,
    "two_arm_handover": two_arm_handover.hand_over,
    "two_arm_three_piece_assembly": two_arm_three_piece_assembly.assemble,
    "two_arm_threading": two_arm_threading.thread,
    "two_arm_transport": two_arm_transport.transport,
    "gr1_pick_place": gr1_pick_place.pick_place,
    "gr1_can_sort": gr1_can_sort.can_sort,
    "gr1_pouring": gr1_pouring.pour,
    "gr1_coffee": gr1_coffee.coffee,
}
"""Scripts for robots with two arms, by task or family."""

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
    if task.name not in SCRIPTS and family_of(task.name) not in DUETS:
        raise SpecError(unknown_name("script for task", task.name, [*SCRIPTS, *DUETS]))
    scene, rng = start(task, backend, seed=seed, attempt=attempt, index=index, count=count, variant=variant)
    state = backend.sim_state(0)
    played = list(_play(task, backend, scene, rng))
    success = bool(task.success(played[-1].scene)[-1])
    held = backend.advance({0: _holding(task, task.success_hold_steps)})[0]
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
    settled = backend.advance({0: _holding(task, task.settle_steps)})[0]
    return take(settled.scene, -1), rng


def flat(states: Mapping[str, Array]) -> Array:
    """Return named simulator states as rows of time, qpos, qvel."""
    return np.concatenate([states[key] for key in ("time", "qpos", "qvel")], axis=-1)


def _holding(task: TaskSpec, steps: int) -> Mapping[str, Hold]:
    return {eef: Hold(steps=steps) for eef in task.robot.eefs}


def _play(task: TaskSpec, backend: SimBackend, scene: SceneState, rng: np.random.Generator) -> Iterator[BlockResult]:
    """Run a task's script: act after act, in each act all hands at once, each at its own pace."""
    if task.name in SCRIPTS:
        yield from _act(task, backend, Now.of(scene), {"right": SCRIPTS[task.name](scene, draw_style(rng))})
        return
    now = Now.of(scene)
    acts = DUETS[family_of(task.name)](now, {eef: draw_style(rng) for eef in task.robot.eefs})
    act = next(acts, None)
    while act is not None:
        now = yield from _act(task, backend, now, act)
        try:
            act = acts.send(now)
        except StopIteration:
            return


def _act(
    task: TaskSpec, backend: SimBackend, now: Now, scripts: Mapping[str, Script]
) -> Generator[BlockResult, None, Now]:
    """Run the hands' scripts side by side until all have ended; a hand without one, or whose has ended, holds."""
    hz, eefs = task.robot.control_hz, task.robot.eefs
    scene, targets = now.scene, dict(now.targets)
    first = {name: next(script, None) for name, script in scripts.items()}
    pending = {
        name: block(targets[name], stroke, control_hz=hz, eef=eefs[name])
        for name, stroke in first.items()
        if stroke is not None
    }
    while pending:
        length = min(len(part) for part in pending.values())
        commands: dict[str, Block | Hold] = dict(_holding(task, length))
        commands |= {name: part.part(0, length) for name, part in pending.items()}
        result = backend.advance({0: commands})[0]
        yield result
        scene = take(result.scene, -1)
        for name, part in list(pending.items()):
            targets[name] = part.T_world_eef[length - 1]
            if length < len(part):
                pending[name] = part.part(length, len(part))
                continue
            try:
                stroke = scripts[name].send(scene)
            except StopIteration:
                del pending[name]
            else:
                pending[name] = block(targets[name], stroke, control_hz=hz, eef=eefs[name])
    return Now(scene=scene, targets=targets)


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
