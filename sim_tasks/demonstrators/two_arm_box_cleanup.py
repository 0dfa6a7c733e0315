"""The script of two arm box cleanup: the right hand stows the toolbox, then both hands put the lid on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from factory.scene import SceneState
from sim_tasks.demonstrators.hands import (
    Act,
    Array,
    Duet,
    Hand,
    Now,
    back_off,
    go,
    grasp_pose,
    hands_of,
    joined,
    let_go,
    offset_of,
    take,
)
from sim_tasks.demonstrators.strokes import Script, Style, raised
from sim_tasks.tasks import two_arm_box_cleanup as task

HANDS = hands_of(task.TASK.robot)
RIGHT = HANDS["right"]

_SQUEEZE = 0.5
"""Both sides of a handle are touched, and no more: two hands that press would turn the lid."""
_ALONE_M_S, _SPEED_M_S, _LIFT_M_S = 0.28, 0.22, 0.16
"""Carrying with one hand, with two, and lifting with two."""
_RISE_M = 0.10
"""An open hand leaves the toolbox upwards: its thumb is above the bar, its fingers hang behind it."""
_AIM_M = 0.05
"""The lid's rim comes to rest that high above the table, just above the box, before it goes over it."""
_LEAVE_M = 0.13
"""A thumb has left a handle after that way back."""


def box_cleanup(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Stow the toolbox, take the lid by both handles, and bring it over the box as one."""
    style = styles["right"]
    now = yield {"right": _take_toolbox(now, style)}
    box = now.object("box")
    place = raised(box, task.FLOOR_M + 0.002)
    place[:2, 3] += style.place_offset_m
    # Above the lid and its handles, which are in the way of a box that is turned towards them.
    for goal in (raised(now.object("toolbox"), style.carry_m + 0.06), raised(place, style.carry_m + 0.05), place):
        now = yield _carry(now, (RIGHT,), "toolbox", goal, style, speed_m_s=_ALONE_M_S)
    now = yield {"right": _leave_toolbox(now.targets["right"], style)}

    now = yield {name: _take_lid(now.scene, hand, styles[name]) for name, hand in HANDS.items()}
    high = raised(now.object("lid"), style.carry_m + 0.04)
    over = raised(box, float(high[2, 3] - box[2, 3]))
    held = yield _carry(now, HANDS.values(), "lid", high, style, speed_m_s=_LIFT_M_S, rest=6)
    yield _carry(held, HANDS.values(), "lid", over, style)
    aimed = yield _carry(held, HANDS.values(), "lid", raised(box, _AIM_M), style, rest=9)
    now = yield _carry(aimed, HANDS.values(), "lid", raised(box, 0.002), style, rest=3)
    yield {
        name: let_go(hand, now.targets[name], styles[name], back_m=_LEAVE_M, closed=_SQUEEZE)
        for name, hand in HANDS.items()
    }


def _carry(
    now: Now,
    hands: Iterable[Hand],
    obj: str,
    T: Array,
    style: Style,
    *,
    speed_m_s: float = _SPEED_M_S,
    rest: int = 0,
) -> Act:
    """Bring an object to a pose, as it hung in the hands at some time, and let it come to rest there."""
    act = joined(now, hands, obj, T, closed=_SQUEEZE, speed_m_s=speed_m_s * style.pace)
    return {name: _rested(strokes, rest) for name, strokes in act.items()}


def _rested(strokes: Script, steps: int) -> Script:
    for stroke in strokes:
        yield stroke
        if steps:
            yield replace(stroke, steps=steps)


def _leave_toolbox(T_world_eef: Array, style: Style) -> Script:
    yield from let_go(RIGHT, T_world_eef, style, back_m=0.01, closed=_SQUEEZE)
    yield from go(raised(T_world_eef, _RISE_M), style, speed_m_s=0.3)


def _take_toolbox(now: Now, style: Style) -> Script:
    bar = grasp_pose((0.0, 0.0, task.TOOLBOX_BAR_Z_M), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    yield from take(
        now.scene,
        RIGHT,
        "toolbox",
        now.object("toolbox") @ offset_of(style, bar),
        style,
        squeeze=_SQUEEZE,
        hover_m=style.hover_m - 0.02,
    )


def _take_lid(scene: SceneState, hand: Hand, style: Style) -> Script:
    side = -1.0 if hand.name == "right" else 1.0
    bar = grasp_pose((0.0, side * task.HANDLE_Y_M, task.HANDLE_Z_M), (0.0, -side, 0.0), (0.0, 0.0, -1.0))
    T = scene.T_world_object["lid"][-1] @ offset_of(style, bar)
    yield from go(hand.at(back_off(T, style.hover_m - 0.02)), style, speed_m_s=0.3)
    yield from take(scene, hand, "lid", T, style, squeeze=_SQUEEZE, hover_m=style.hover_m - 0.02)
