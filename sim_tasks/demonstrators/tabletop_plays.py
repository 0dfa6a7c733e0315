"""Plays of the tabletop script that end well, or in one of five ways of going wrong.

The failures are what a judge of videos learns from. They are acted, but the physics is real and has the last word: what
came of a play is read from its states, see `tabletop_events.outcome_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.diagnosis import Failure
from factory.errors import BackendError, SpecError, unknown_name
from factory.placements import sample_placements
from factory.replay import AttemptResult
from factory.scene import SceneState, concatenate
from factory.scene import take as row
from factory.sim import BlockResult, Hold, SimBackend
from factory.specs import TaskSpec
from factory.streams import spawn_streams
from sim_tasks.demonstrators.strokes import (
    Script,
    Stroke,
    Style,
    block,
    draw_style,
    hand_down,
    nearest_turn,
    raised,
)
from sim_tasks.demonstrators.tabletop import (
    CARRY_M_S,
    HALF_TURN,
    LOWER_M_S,
    REACH_M_S,
    above,
    brisk,
    grasp_of,
    leave,
    pick_place,
    take,
)
from sim_tasks.tasks.tabletop import labels
from sim_tasks.tasks.tabletop_events import FLOOR_M, GRASP_M, events, outcome_of

Array = NDArray[np.float64]

_BEHIND_M, _SHOVE_M = 0.085, 0.07
"""A shove begins this far behind a thing and brings it about this far ahead."""
_EDGE_M = np.array([0.24, 0.28])
"""No shove leaves this rectangle about the table's middle: x is what the arm reaches, y what the camera sees."""
_EEF = "right"
_REASON = {"dropped": "dropped", "missed": "missed_grasp", "pushed": "missed_grasp", "wrong_place": "misplaced"}
"""Outcome -> what a generation would call it; of others only the effect is missing."""


def _dropped(scene: SceneState, style: Style) -> Script:
    """Take the thing and let it fall on the way, where nothing lies."""
    style = brisk(style)
    scene = yield from take(scene, "thing", grasp_of(scene, "thing", style), style)
    here = scene.T_world_eef["right"][-1]
    over = raised(above(scene, "thing", "target", style), style.carry_m)
    others = _elsewhere(scene)
    ways = [poses.interpolate(here, over, np.array([share]))[0] for share in np.linspace(0.2, 0.7, 11)]
    fall = max(ways, key=lambda T: _nearest_m(T[:3, 3], others))
    yield Stroke(T_world_eef=fall, closed=True, speed_m_s=CARRY_M_S * style.pace)
    yield Stroke(T_world_eef=fall, closed=False, steps=5)
    yield Stroke(T_world_eef=over, closed=False, speed_m_s=CARRY_M_S * style.pace)


def _missed(scene: SceneState, style: Style) -> Script:
    """Close beside the thing, and go on as if it were held."""
    style = brisk(style)
    grasp = grasp_of(scene, "thing", style)
    beside = [grasp @ poses.pose(np.eye(3), np.array(way)) for way in _ways(0.09)]
    others = _elsewhere(scene)
    grasp = max(beside, key=lambda T: _nearest_m(T[:3, 3], others))
    # Higher than usual: the way may lead across the thing.
    over = raised(grasp, style.hover_m + 0.05)
    yield Stroke(T_world_eef=over, closed=False, speed_m_s=REACH_M_S * style.pace)
    yield Stroke(T_world_eef=grasp, closed=False, speed_m_s=LOWER_M_S * style.pace)
    yield Stroke(T_world_eef=grasp, closed=True, steps=10)
    yield Stroke(T_world_eef=raised(grasp, style.carry_m), closed=True, speed_m_s=0.3 * style.pace)
    there = grasp.copy()
    there[:3, 3] = scene.position("target")[-1] + (0.0, 0.0, FLOOR_M + GRASP_M)
    yield Stroke(T_world_eef=raised(there, style.carry_m), closed=True, speed_m_s=CARRY_M_S * style.pace)
    yield Stroke(T_world_eef=there, closed=True, speed_m_s=LOWER_M_S * style.pace)
    yield from leave(there, style)


def _pushed(scene: SceneState, style: Style) -> Script:
    """Come down behind the thing with closed fingers, one behind the other, and shove it."""
    style = brisk(style)
    at, others = scene.position("thing")[-1], _elsewhere(scene)

    def room_m(aim: Array) -> float:
        ends = at - _BEHIND_M * aim, at + _SHOVE_M * aim
        return min(min(_nearest_m(end, others), *(_EDGE_M - np.abs(end[:2]))) for end in ends)

    aim = max((np.array([math.cos(a), math.sin(a), 0.0]) for a in np.arange(16) * math.pi / 8), key=room_m)
    # Side by side both fingers would touch it, and could take hold.
    turn = nearest_turn(math.atan2(aim[1], aim[0]) - math.pi / 2, 0.0, HALF_TURN)
    start, end = hand_down(at - _BEHIND_M * aim, turn), hand_down(at + (_SHOVE_M - 0.04) * aim, turn)
    yield Stroke(T_world_eef=raised(start, style.hover_m), closed=True, speed_m_s=REACH_M_S * style.pace, steps=10)
    yield Stroke(T_world_eef=start, closed=True, speed_m_s=LOWER_M_S * style.pace)
    yield Stroke(T_world_eef=end, closed=True, speed_m_s=0.15 * style.pace)
    yield Stroke(T_world_eef=raised(end, style.carry_m), closed=True, speed_m_s=0.3 * style.pace)


def _elsewhere(scene: SceneState) -> list[Array]:
    """Return where everything but the thing is."""
    return [scene.position(name)[-1] for name in scene.T_world_object if name != "thing"]


def _nearest_m(at: Array, others: list[Array]) -> float:
    """Return the horizontal distance of a point to the nearest of others."""
    return min(float(np.linalg.norm((at - other)[:2])) for other in others)


def _ways(distance_m: float) -> tuple[tuple[float, float, float], ...]:
    """Return shifts to the four sides of a hand that points down."""
    return ((distance_m, 0.0, 0.0), (-distance_m, 0.0, 0.0), (0.0, distance_m, 0.0), (0.0, -distance_m, 0.0))


PLAYS: Mapping[str, Callable[[SceneState, Style], Script]] = {
    "success": pick_place,
    "dropped": _dropped,
    "wrong_object": partial(pick_place, thing="distractor"),
    "missed": _missed,
    "pushed": _pushed,
    "wrong_place": partial(pick_place, target="other_target"),
}
"""How to play each outcome, by name."""

# --- playing them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Play:
    """One play of a named outcome.

    Attributes:
        wanted: what was played, a key of `PLAYS`.
        outcome: what came of it by the states, a key of `PLAYS` or "other".
        events: what happened to the thing on its way to the target, see `tabletop_events.EVENTS`.
        result: the attempt: an episode like any other, `held` exactly when the task succeeded, whatever was wanted.
    """

    wanted: str
    outcome: str
    events: Mapping[str, bool]
    result: AttemptResult


def play(task: TaskSpec, backend: SimBackend, wanted: str, *, seed: int, index: int, variant: str = "D0") -> Play:
    """Play one outcome from the start that attempt `index` of a generation with this seed has.

    Args:
        task: one of the tabletop family.
        backend: holds the task; environment 0 is used.
        wanted: a key of `PLAYS`.
        seed: with index: the same two give the same play.
        index: see seed.
        variant: which starts.

    Raises:
        SpecError: no such outcome, or a task of another family.
        BackendError: the simulation diverged.
    """
    if wanted not in PLAYS:
        raise SpecError(unknown_name("outcome", wanted, PLAYS))
    labels(task.name)
    streams, reset = spawn_streams(seed, index), task.reset(variant)
    placements = sample_placements(reset, streams.scene)
    backend.reset(0, placements, streams.scene, joint_noise_rad=reset.joint_noise_rad)
    settled = backend.advance({0: {_EEF: Hold(steps=task.settle_steps)}})[0]
    start, states, first = backend.snapshot(0), backend.sim_state(0), row(settled.scene, -1)
    results, targets = _carried_out(task, backend, PLAYS[wanted](first, draw_style(streams.selection)), first)
    scene = concatenate([first, *(each.scene for each in results)])
    outcome, success = outcome_of(scene), task.success(scene)[1:]
    hold = len(results[-1].actions)
    held = bool(success[-hold:].all())
    why = Failure(subtask="place", eef=_EEF, reason=_REASON.get(outcome, "not_achieved"), detail=f"played {wanted}")
    picked = int(np.argmax(task.signals["picked"](scene))) or len(targets)
    result = AttemptResult(
        index=index,
        held=held,
        touched=bool(success.any()),
        failure=None if held else why,
        sources=(),
        placements=placements,
        start=start,
        scene=scene,
        sim_states={
            name: np.concatenate([value[None], *(each.sim_states[name] for each in results)])
            for name, value in states.items()
        },
        actions=np.concatenate([each.actions for each in results]),
        T_world_eef_commanded={_EEF: np.concatenate([each.T_world_eef_commanded[_EEF] for each in results])},
        T_world_eef_target={_EEF: targets},
        subtask={_EEF: (np.arange(len(targets)) >= picked).astype(np.int64)},
        hold_steps=hold,
    )
    happened = {name: bool(by_then(scene)[-1]) for name, by_then in events().items()}
    return Play(wanted=wanted, outcome=outcome, events=happened, result=result)


def _carried_out(
    task: TaskSpec, backend: SimBackend, script: Script, scene: SceneState
) -> tuple[list[BlockResult], Array]:
    """Run a script and the task's final hold; returns what happened and the ``(T, 4, 4)`` poses that were wanted."""
    results: list[BlockResult] = []
    wanted = [scene.T_world_eef[_EEF][-1:]]
    stroke = next(script)
    while True:
        told = block(wanted[-1][-1], stroke, control_hz=task.robot.control_hz, eef=task.robot.eefs[_EEF])
        results.append(backend.advance({0: {_EEF: told}})[0])
        if not results[-1].stable:
            raise BackendError(f"task {task.name!r}: the simulation diverged in a play")
        wanted.append(told.T_world_eef)
        try:
            stroke = script.send(row(results[-1].scene, -1))
        except StopIteration:
            break
    results.append(backend.advance({0: {_EEF: Hold(steps=task.success_hold_steps)}})[0])
    wanted.append(np.repeat(wanted[-1][-1:], task.success_hold_steps, axis=0))
    return results, np.concatenate(wanted[1:])
