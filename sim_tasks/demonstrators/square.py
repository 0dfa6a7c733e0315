"""Script for the square nut."""

from __future__ import annotations

import math

import numpy as np

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.strokes import (
    Script,
    Stroke,
    Style,
    hand_down,
    hand_for,
    let_go,
    nearest_turn,
    raised,
    take,
    yaw_of,
)

_HANDLE_M = 0.054
"""The handle's middle from the middle of the hole, along the nut's x axis."""

_GRASP_DEPTH_M = 0.004
"""The grip frame goes this much above the nut's middle, so that the finger tips stay off the table."""

_OVER_PEG_M = 0.125
"""Height of the nut's frame over the peg's at which it is aligned: 1.5 cm free above the peg's top."""

_DOWN_M = 0.01
"""Height of the nut's frame over the peg's at which the fingers open: 2 cm before the nut meets the table's height."""


def square(scene: SceneState, style: Style) -> Script:
    """Take the nut by its handle and put it on the peg."""
    nut = scene.T_world_object["nut"][-1]
    # The fingers close across the handle; which of them is on which side does not matter.
    grasp = hand_down(nut[:3, 3], nearest_turn(yaw_of(nut), 0.0, math.pi) + style.grasp_yaw_rad)
    along, _ = style.grasp_offset_m
    grasp[:3, 3] += nut[:3, 0] * (_HANDLE_M + along) + (0.0, 0.0, _GRASP_DEPTH_M)
    scene = yield from take(scene, "nut", grasp, style)

    nut, peg = scene.T_world_object["nut"][-1], scene.T_world_object["peg"][-1]
    hand_yaw = yaw_of(scene.T_world_eef["right"][-1]) - math.pi / 2
    turn = nearest_turn(yaw_of(peg) - yaw_of(nut), -hand_yaw, math.pi / 2)
    # Level whatever tilt the nut hangs with.
    goal = poses.pose(poses.yaw_matrix(np.array(yaw_of(nut) + turn)), peg[:3, 3] + (*style.place_offset_m / 2, _OVER_PEG_M))
    over = hand_for(scene, "nut", goal)
    yield Stroke(T_world_eef=raised(over, 0.02), closed=True, speed_m_s=0.12 * style.pace, steps=24)
    yield Stroke(T_world_eef=over, closed=True, speed_m_s=0.05 * style.pace)
    scene = yield Stroke(T_world_eef=over, closed=True, steps=style.pause_steps + 4)
    # Look again: correct what the nut has slipped meanwhile.
    over = hand_for(scene, "nut", goal)
    yield Stroke(T_world_eef=over, closed=True, steps=6)
    down = raised(over, _DOWN_M - _OVER_PEG_M)
    yield Stroke(T_world_eef=down, closed=True, speed_m_s=0.08 * style.pace)
    yield from let_go(down, style)
