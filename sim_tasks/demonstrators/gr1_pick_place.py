"""The script of GR-1 pick and place: the right hand takes the thing from the right, carries it out and lowers it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.hands import (
    Array,
    Duet,
    Hand,
    Now,
    Part,
    bring,
    go,
    grasp_pose,
    hands_of,
    let_go,
    offset_of,
    take,
)
from sim_tasks.demonstrators.strokes import Style, raised, yaw_of
from sim_tasks.robots import GR1
from sim_tasks.tasks import gr1_pick_place as task

HANDS = hands_of(GR1)
_LOWER_M = 0.006
"""A thing is let go that high above the floor of its target: a person sets it down, almost."""
_TURN_RAD = 0.25
"""The hand turns outwards on its way to its own side, where its wrist could not keep it straight ahead."""
_THUMB_CLEAR = poses.pose(np.eye(3), np.array([0.0, 0.025, 0.0]))
"""Back towards the wrist, so that the thumb leaves the thing before the hand does."""
_GONE = poses.pose(np.eye(3), np.array([0.0, 0.02, -0.11]))
"""And away along the palm's normal."""


def pick_place(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Move the thing; the left hand rests."""
    yield {
        "right": put_into(now.scene, HANDS["right"], "thing", "target", task.GRASP_M + task.FLOOR_M, styles["right"])
    }


def put_into(
    scene: SceneState,
    hand: Hand,
    thing: str,
    target: str,
    floor_m: float,
    style: Style,
    *,
    turn_rad: float = _TURN_RAD,
) -> Part:
    """Take an upright thing and set it down in the middle of a low target.

    `floor_m` is how high above the target's frame the thing's frame is when it stands there, `turn_rad` how far the
    hand turns outwards on the way.
    """
    scene = yield from pick(scene, hand, thing, style)
    start, T_target = scene.T_world_object[thing][-1], scene.T_world_object[target][-1]
    turn = poses.yaw_matrix(np.array(yaw_of(T_target) + side_of(hand) * turn_rad)) @ start[:3, :3]
    there = poses.pose(turn, T_target[:3, 3] + [*style.place_offset_m, floor_m + _LOWER_M])
    scene = yield from bring(scene, hand, thing, raised(start, style.carry_m), style)
    T_thing_eef = poses.inverse(scene.T_world_object[thing][-1]) @ hand.pose(scene)
    yield from go(raised(there, style.carry_m - 0.02) @ T_thing_eef, style, closed=1.0, speed_m_s=0.15)
    yield from go(there @ T_thing_eef, style, closed=1.0, speed_m_s=0.08)
    return (yield from leave(hand, there @ T_thing_eef, style))


def pick(scene: SceneState, hand: Hand, thing: str, style: Style) -> Part:
    """Take an upright thing at its frame from the hand's own side, fingers ahead; it still stands."""
    at = poses.pose(np.eye(3), scene.T_world_object[thing][-1][:3, 3])
    grasp = offset_of(style, grasp_pose((0.0, 0.0, 0.0), (0.0, -side_of(hand), 0.0), (1.0, 0.0, 0.0)))
    return (yield from take(scene, hand, thing, at @ grasp, style))


def leave(hand: Hand, T_world_eef: Array, style: Style) -> Part:
    """Let go of an upright thing without pulling it over; `T_world_eef` is where the hand was told to be."""
    yield from let_go(hand, T_world_eef, style, back_m=0.0, slow_steps=12)
    yield from go(T_world_eef @ _THUMB_CLEAR, style)
    return (yield from go(T_world_eef @ _GONE, style))


def side_of(hand: Hand) -> float:
    """Return the sign of y on the hand's own side of the robot."""
    return 1.0 if hand.name == "left" else -1.0
