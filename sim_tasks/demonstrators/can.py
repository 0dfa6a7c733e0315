"""Script for the can."""

from __future__ import annotations

import numpy as np

from factory.scene import SceneState
from sim_tasks.demonstrators.strokes import Script, Stroke, Style, hand_down, hand_for, let_go, raised, take

_GRASP_M = 0.015
"""The grip frame goes this much above the can's middle, so that the hand stays above the bin's walls."""

_PLACE_M = np.array([0.07, 0.075, 0.063])
"""Where the can's middle is let go, from the bin's frame: in its compartment, nearer to the robot than its middle."""


def can(scene: SceneState, style: Style) -> Script:
    """Take the can, carry it over the walls, put it down in its compartment."""
    grasp = hand_down(scene.position("can")[-1], 3.0 * style.grasp_yaw_rad)
    along, depth = style.grasp_offset_m
    grasp[:3, 3] += grasp[:3, :3] @ np.array([0.0, along, depth]) + (0.0, 0.0, _GRASP_M)
    scene = yield from take(scene, "can", grasp, style)
    goal = scene.T_world_object["can"][-1].copy()
    goal[:3, 3] = scene.position("bin")[-1] + _PLACE_M + (*4.0 * style.place_offset_m, 0.0)
    place = hand_for(scene, "can", goal)
    over = raised(place, style.carry_m + 0.02)
    yield Stroke(T_world_eef=over, closed=True, speed_m_s=0.19 * style.pace, bulge_m=np.array([0.0, 0.0, 0.06]))
    yield Stroke(T_world_eef=over, closed=True, steps=style.pause_steps)
    yield Stroke(T_world_eef=place, closed=True, speed_m_s=0.12 * style.pace)
    yield from let_go(place, style)
