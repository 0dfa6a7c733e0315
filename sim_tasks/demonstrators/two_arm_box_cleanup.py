"""The script of two arm box cleanup: the right hand stows the toolbox, then both hands put the lid on."""

from __future__ import annotations

from collections.abc import Mapping

from factory.scene import SceneState
from sim_tasks.demonstrators.hands import Duet, Hand, Now, grasp_pose, hands_of, joined, let_go, offset_of, take
from sim_tasks.demonstrators.strokes import Script, Style, raised
from sim_tasks.tasks import two_arm_box_cleanup as task

HANDS = hands_of(task.TASK.robot)
RIGHT = HANDS["right"]

_SQUEEZE = 0.5
"""Both sides of a handle are touched, and no more: two hands that press would turn the lid."""
_LEAVE_M = 0.11
"""A thumb has left a handle after that way back."""


def box_cleanup(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Stow the toolbox, take the lid by both handles, and bring it over the box as one."""
    style, speed = styles["right"], 0.2 * styles["right"].pace
    now = yield {"right": _take_toolbox(now, style)}
    box = now.object("box")
    place = raised(box, task.FLOOR_M + 0.002)
    place[:2, 3] += style.place_offset_m
    for goal in (raised(now.object("toolbox"), style.carry_m), raised(place, style.carry_m), place):
        now = yield joined(now, (RIGHT,), "toolbox", goal, closed=_SQUEEZE, speed_m_s=speed)
    now = yield {"right": let_go(RIGHT, now.targets["right"], style, back_m=_LEAVE_M, closed=_SQUEEZE)}

    now = yield {name: _take_lid(now.scene, hand, styles[name]) for name, hand in HANDS.items()}
    high = raised(now.object("lid"), style.carry_m + 0.07)
    over = raised(box, float(high[2, 3] - box[2, 3]))
    for goal in (high, over, raised(box, 0.002)):
        now = yield joined(now, HANDS.values(), "lid", goal, closed=_SQUEEZE, speed_m_s=speed)
    yield {
        name: let_go(hand, now.targets[name], styles[name], back_m=_LEAVE_M, closed=_SQUEEZE)
        for name, hand in HANDS.items()
    }


def _take_toolbox(now: Now, style: Style) -> Script:
    bar = grasp_pose((0.0, 0.0, task.TOOLBOX_BAR_Z_M), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    yield from take(now.scene, RIGHT, "toolbox", now.object("toolbox") @ offset_of(style, bar), style, squeeze=_SQUEEZE)


def _take_lid(scene: SceneState, hand: Hand, style: Style) -> Script:
    side = -1.0 if hand.name == "right" else 1.0
    bar = grasp_pose((0.0, side * task.HANDLE_Y_M, task.HANDLE_Z_M), (0.0, -side, 0.0), (0.0, 0.0, -1.0))
    T = scene.T_world_object["lid"][-1] @ offset_of(style, bar)
    yield from take(scene, hand, "lid", T, style, squeeze=_SQUEEZE)
