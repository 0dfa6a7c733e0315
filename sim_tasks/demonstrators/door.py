"""Script for the door."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.strokes import Script, Stroke, Style, close_on, hand_down, nearest_turn, yaw_of

Array = NDArray[np.float64]

_BAR_M = np.array([0.12, -0.10, 0.0])
"""Where the fingers take the handle, in the latch's frame at rest: its bar reaches from 0 to 15 cm along x."""

_HINGE_M = np.array([0.43, 0.0, 0.0])
"""The hinge's axis in the latch's frame at rest."""

_TILT_RAD = 1.4
"""From pointing down to pointing at the door; a hand above the handle would have its palm in the door."""

_ROLL_RAD = (-0.25, 0.85)
"""The hand's roll about its own direction, when the fingers close and at the most: the last joint ends soon after."""

_ROLL_PER_TURN = 0.65
"""How far the hand rolls with the handle; the bar slips between the pads for the rest."""

_TURN_RAD = (1.34, 2.0)
"""The latch lets go of the frame at about 1.25 rad: the angle to reach, and the most to ask for against its spring."""

_OPEN_RAD = 0.40
"""Angle to pull the door to; its stop is there, and success begins at 0.3."""


def door(scene: SceneState, style: Style) -> Script:
    """Take the handle from the front, turn it down until the latch gives, pull the door along its arc, stay there."""
    T_latch = scene.T_world_object["handle"][-1]
    yaw = nearest_turn(yaw_of(T_latch), 0.0, math.pi) + style.grasp_yaw_rad
    level = poses.matrix_from_axis_angle(np.array([_TILT_RAD, 0.0, 0.0]))
    along, depth = style.grasp_offset_m
    bar = T_latch[:3, 3] + T_latch[:3, :3] @ (_BAR_M + np.array([2.0 * along, depth, 0.0]))
    flat = poses.pose(T_latch[:3, :3] @ level @ T_latch[:3, :3].T @ hand_down(bar, yaw)[:3, :3], bar)

    def turned(angle: float) -> Array:
        roll = min(_ROLL_RAD[0] + _ROLL_PER_TURN * angle, _ROLL_RAD[1])
        return _around(flat, T_latch, np.zeros(3), np.array([0.0, 1.0, 0.0]), angle, roll)

    grasp = turned(0.0)
    before = grasp.copy()
    before[:3, 3] -= (style.hover_m + 0.02) * grasp[:3, 2]
    yield Stroke(T_world_eef=before, closed=False, speed_m_s=0.14 * style.pace, bulge_m=style.bulge_m)
    yield Stroke(T_world_eef=grasp, closed=False, speed_m_s=0.09 * style.pace)
    scene = yield Stroke(T_world_eef=grasp, closed=False, steps=style.pause_steps)
    scene = yield from close_on(scene, "handle", grasp)

    angle = 0.0
    while scene.joint("latch")[-1, 0] < _TURN_RAD[0] and angle < _TURN_RAD[1]:
        # 0.05 rad a control step is 1 rad a second; the hand trails behind smoothly.
        angle += 0.045 * style.pace
        scene = yield Stroke(T_world_eef=turned(angle), closed=True, steps=1)
    yield Stroke(T_world_eef=turned(angle), closed=True, steps=style.pause_steps)
    up = np.array([0.0, 0.0, 1.0])
    pulled = np.stack([_around(turned(angle), T_latch, _HINGE_M, up, a, a) for a in np.linspace(0.0, _OPEN_RAD, 8)])
    yield Stroke(T_world_eef=pulled[-1], through=pulled[1:-1], closed=True, speed_m_s=0.08 * style.pace)
    yield Stroke(T_world_eef=pulled[-1], closed=True, steps=10)


def _around(
    T_world_eef: Array, T_world_frame: Array, centre_m: Array, axis: Array, angle_rad: float, own_turn_rad: float
) -> Array:
    """Return the hand's pose after its grip frame went round an axis while the hand itself turned by another angle.

    Centre and axis are in the given frame.
    """
    R = T_world_frame[:3, :3]
    centre = T_world_frame[:3, 3] + R @ centre_m
    way = R @ poses.matrix_from_axis_angle(angle_rad * axis) @ R.T
    own = R @ poses.matrix_from_axis_angle(own_turn_rad * axis) @ R.T
    return poses.pose(own @ T_world_eef[:3, :3], centre + way @ (T_world_eef[:3, 3] - centre))
