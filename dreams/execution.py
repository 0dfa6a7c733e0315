"""Sends the hands of a simulated robot where labels say that they were, open loop or closed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dreams.lag import Lag, between, followed, moved, target_for
from factory import actions
from factory.scene import SceneState, concatenate
from factory.sim import Block, BlockResult, SimBackend, Snapshot
from factory.specs import TaskSpec

Array = NDArray[np.float64]
Mode = Literal["open_loop", "tracked"]
MODES: tuple[Mode, ...] = ("open_loop", "tracked")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What truly happened: T control steps, the final hold among them, and T + 1 states.

    Attributes:
        start: what row 0 continues from.
        scene: T + 1 states.
        sim_states: named arrays ``(T + 1, ...)``; a simulator twin is drawn from them.
        actions: ``(T, a)`` float32 as executed.
        T_world_eef_commanded: hand -> ``(T, 4, 4)``: what those actions ask for.
        T_world_eef_target: hand -> ``(T, 4, 4)``: where it was sent, before clipping.
        hold_steps: how many of the last steps were the final hold.
    """

    start: Snapshot
    scene: SceneState
    sim_states: Mapping[str, Array]
    actions: NDArray[np.float32]
    T_world_eef_commanded: Mapping[str, Array]
    T_world_eef_target: Mapping[str, Array]
    hold_steps: int

    def __len__(self) -> int:
        return len(self.actions)


def execute(
    poses: Mapping[str, Array],
    fingers: Mapping[str, Array],
    scene: SceneState,
    backend: SimBackend,
    *,
    start: Snapshot,
    mode: Mode,
    hold_steps: int,
    lag: Lag,
) -> Execution:
    """Send hands through poses in environment 0, then keep them at the last for some steps.

    Args:
        poses: hand -> ``(T + 1, 4, 4)``, world frame; the first is where it should be now.
        fingers: hand -> ``(T, g)`` commands; beyond [-1, 1] they are cut.
        scene: the state now.
        backend: has just been brought into that state.
        start: that state.
        mode: "open_loop" plays actions computed from the poses alone, "tracked" looks at each step where hands are.
        hold_steps: see above.
        lag: how hands follow.
    """
    task, steps = backend.task, len(next(iter(fingers.values()))) + hold_steps
    state = backend.sim_state(0)
    grips = {eef: _held(np.clip(command, -1.0, 1.0), steps) for eef, command in fingers.items()}
    # As long as the hold looks ahead: a hand that has arrived is sent to where it is.
    goals = {eef: _held(T, steps + lag.ahead) for eef, T in poses.items()}
    if mode == "tracked":
        targets, results = _tracked(goals, grips, scene, backend, lag)
    else:
        targets, rows = _planned(goals, grips, scene, task, lag)
        results = [backend.play(0, rows)]
    done = np.concatenate([each.actions for each in results])
    return Execution(
        start=start,
        scene=concatenate([scene, *(each.scene for each in results)]),
        sim_states={
            name: np.concatenate([value[None], *(each.sim_states[name] for each in results)])
            for name, value in state.items()
        },
        actions=done,
        T_world_eef_commanded={
            eef: np.concatenate([each.T_world_eef_commanded[eef] for each in results]) for eef in goals
        },
        T_world_eef_target={eef: T[: len(done)] for eef, T in targets.items()},
        hold_steps=hold_steps if results[-1].stable else 0,
    )


def _tracked(
    goals: Mapping[str, Array], grips: Mapping[str, Array], scene: SceneState, backend: SimBackend, lag: Lag
) -> tuple[dict[str, Array], list[BlockResult]]:
    """Send the hands after their goals, each step from where they truly are."""
    here = {eef: T[-1] for eef, T in scene.T_world_eef.items()}
    last = {eef: np.zeros(6) for eef in goals}
    targets: dict[str, list[Array]] = {eef: [] for eef in goals}
    results: list[BlockResult] = []
    for step in range(len(next(iter(grips.values())))):
        for eef, goal in goals.items():
            targets[eef].append(target_for(here[eef], last[eef], goal[step + lag.ahead], lag))
        commands = {
            eef: Block(T_world_eef=sent[-1][None], gripper=grips[eef][step : step + 1], action_noise=np.zeros((1, 6)))
            for eef, sent in targets.items()
        }
        results.append(backend.advance({0: commands})[0])
        if not results[-1].stable or not len(results[-1].actions):
            break
        now = {eef: T[-1] for eef, T in results[-1].scene.T_world_eef.items()}
        last = {eef: between(here[eef], now[eef]) for eef in goals}
        here = now
    return {eef: np.stack(sent) for eef, sent in targets.items()}, results


def _planned(
    goals: Mapping[str, Array], grips: Mapping[str, Array], scene: SceneState, task: TaskSpec, lag: Lag
) -> tuple[dict[str, Array], NDArray[np.float32]]:
    """Return targets and actions that a hand following by the model would need; the true one is never looked at."""
    steps = len(next(iter(grips.values())))
    targets, rows = (
        {eef: np.empty((steps, 4, 4)) for eef in goals},
        np.zeros((steps, task.robot.action_dim), np.float32),
    )
    for eef, spec in task.robot.eefs.items():
        here, last, base = scene.T_world_eef[eef][-1], np.zeros(6), scene.T_world_base[eef]
        for step in range(steps):
            targets[eef][step] = target_for(here, last, goals[eef][step + lag.ahead], lag)
            action = actions.execute(here, targets[eef][step], np.zeros(6), base, spec)
            rows[step, slice(*spec.arm_action)] = action
            last = followed(last, between(here, actions.target_of_action(here, action, base, spec)), lag)
            here = moved(here, last)
        rows[:, slice(*spec.gripper_action)] = grips[eef]
    return targets, rows


def _held(values: Array, length: int) -> Array:
    """Return values that stay at their last for the rest."""
    return np.concatenate([values, np.repeat(values[-1:], length - len(values), axis=0)])
