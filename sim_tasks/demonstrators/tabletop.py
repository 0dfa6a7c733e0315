"""The script of the tabletop tasks: brisk, so that a whole episode fits into one clip of a video model."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.strokes import (
    Script,
    Stroke,
    Style,
    close_on,
    hand_down,
    hand_for,
    nearest_turn,
    raised,
    yaw_of,
)
from sim_tasks.tasks.tabletop_events import FLOOR_M, GRASP_M

Array = NDArray[np.float64]
Part = Generator[Stroke, SceneState, SceneState]

REACH_M_S, LOWER_M_S, CARRY_M_S = 0.36, 0.18, 0.38
"""Mean speeds: twice a careful person's. The hand lags on the way, and stands still where it has to be exact."""
_CARRY_M = 0.075
"""How high things are carried, about 5 cm above a tray's walls."""
_LEAVE_M = 0.02
"""So much higher than it came the hand goes when it leaves."""
_DROP_M = 0.004
"""A thing is let go that high above the floor of its place."""
HALF_TURN = math.pi
"""Fingers that close across a bar, turned by this, close across it still."""


def pick_place(scene: SceneState, style: Style, *, thing: str = "thing", target: str = "target") -> Script:
    """Take a thing and set it down in the middle of a place."""
    style = brisk(style)
    scene = yield from take(scene, thing, grasp_of(scene, thing, style), style)
    there = above(scene, thing, target, style)
    yield Stroke(T_world_eef=raised(there, style.carry_m), closed=True, speed_m_s=CARRY_M_S * style.pace)
    yield Stroke(T_world_eef=there, closed=True, speed_m_s=LOWER_M_S * style.pace)
    yield Stroke(T_world_eef=there, closed=True, steps=style.pause_steps)
    yield from leave(there, style)


def brisk(style: Style) -> Style:
    """Return the style of somebody in a hurry: lower, shorter pauses."""
    return replace(
        style,
        hover_m=0.7 * style.hover_m,
        carry_m=_CARRY_M * style.carry_m / 0.125,
        bulge_m=0.5 * style.bulge_m,
        pause_steps=2 + style.pause_steps % 2,
    )


def grasp_of(scene: SceneState, thing: str, style: Style) -> Array:
    """Return the hand pose that closes across a thing's x axis, turned as little as that allows."""
    T = scene.T_world_object[thing][-1]
    hand = hand_down(T[:3, 3], nearest_turn(yaw_of(T), 0.0, HALF_TURN) + style.grasp_yaw_rad)
    along, depth = style.grasp_offset_m
    hand[:3, 3] += hand[:3, :3] @ np.array([0.0, along, depth])
    return hand


def take(scene: SceneState, thing: str, grasp: Array, style: Style) -> Part:
    """Reach, close on the thing and lift it."""
    hover = raised(grasp, style.hover_m)
    yield Stroke(T_world_eef=hover, closed=False, speed_m_s=REACH_M_S * style.pace, bulge_m=style.bulge_m)
    yield Stroke(T_world_eef=grasp, closed=False, speed_m_s=LOWER_M_S * style.pace)
    scene = yield Stroke(T_world_eef=grasp, closed=False, steps=style.pause_steps)
    yield from close_on(scene, thing, grasp)
    return (yield Stroke(T_world_eef=raised(grasp, style.carry_m), closed=True, speed_m_s=0.3 * style.pace))


def above(scene: SceneState, thing: str, target: str, style: Style) -> Array:
    """Return where the hand lets a thing go, given how it holds it: just above the place, along its x axis."""
    T_thing, T_place = scene.T_world_object[thing][-1], scene.T_world_object[target][-1]
    wrist = yaw_of(scene.T_world_eef["right"][-1]) - math.pi / 2
    turn = nearest_turn(yaw_of(T_place) - yaw_of(T_thing), -wrist, HALF_TURN)
    there = poses.pose(poses.yaw_matrix(np.array(turn)) @ T_thing[:3, :3], T_place[:3, 3])
    there[:3, 3] += (*style.place_offset_m, FLOOR_M + GRASP_M + _DROP_M)
    return hand_for(scene, thing, there)


def leave(T_world_eef: Array, style: Style) -> Part:
    """Open the fingers and leave straight up, as far as it takes to have left."""
    yield Stroke(T_world_eef=T_world_eef, closed=False, steps=5)
    away = raised(T_world_eef, style.hover_m + _LEAVE_M)
    yield Stroke(T_world_eef=away, closed=False, speed_m_s=0.3 * style.pace)
    return (yield Stroke(T_world_eef=away, closed=False, steps=2))
