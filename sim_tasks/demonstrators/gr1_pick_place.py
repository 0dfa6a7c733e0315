"""The script of GR-1 pick and place: the right hand takes the thing from its right side, carries and lowers it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from sim_tasks.demonstrators.hands import Duet, Now, Part, bring, go, grasp_pose, hands_of, let_go, offset_of, take
from sim_tasks.demonstrators.strokes import Style, raised, yaw_of
from sim_tasks.robots import GR1
from sim_tasks.tasks import gr1_pick_place as task

RIGHT = hands_of(GR1)["right"]
_LOWER_M = 0.006
"""A thing is let go that high above the floor of its target: a person sets it down, almost."""
_TURN_RAD = 0.4
"""The hand turns inwards on its way to the left, where its wrist could not keep it straight ahead."""
_SHORT_M = 0.012
"""It puts things into the near half of the target."""
_THUMB_CLEAR = poses.pose(np.eye(3), np.array([0.0, 0.025, 0.0]))
"""Back towards the wrist, so that the thumb leaves the thing before the hand does."""
_GONE = poses.pose(np.eye(3), np.array([0.0, 0.02, -0.13]))
"""And away along the palm's normal."""


def pick_place(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Move the thing; the left hand rests."""
    yield {"right": _move(now, styles["right"])}


def _move(now: Now, style: Style) -> Part:
    grasp = offset_of(style, grasp_pose((0.0, 0.0, 0.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0)))
    scene = yield from take(now.scene, RIGHT, "thing", now.object("thing") @ grasp, style)
    target = scene.T_world_object["target"][-1]
    foot = task.GRASP_M + task.FLOOR_M + _LOWER_M
    turn = poses.yaw_matrix(np.array(yaw_of(target) + _TURN_RAD))
    there = poses.pose(turn, target[:3, 3] + [*style.place_offset_m, foot] - _SHORT_M * target[:3, 1])
    lifted = raised(scene.T_world_object["thing"][-1], style.carry_m)
    scene = yield from bring(scene, RIGHT, "thing", lifted, style)
    T_thing_eef = poses.inverse(scene.T_world_object["thing"][-1]) @ RIGHT.pose(scene)
    yield from go(raised(there, style.carry_m - 0.02) @ T_thing_eef, style, closed=1.0, speed_m_s=0.12)
    yield from go(there @ T_thing_eef, style, closed=1.0, speed_m_s=0.08)
    yield from let_go(RIGHT, there @ T_thing_eef, style, back_m=0.0, slow_steps=12)
    yield from go(there @ T_thing_eef @ _THUMB_CLEAR, style)
    return (yield from go(there @ T_thing_eef @ _GONE, style))
