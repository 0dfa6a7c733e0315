"""Scripts for the cube tasks: lift, stack, stack three."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.strokes import (
    WRIST_MIDDLE_RAD,
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

Array = NDArray[np.float64]

_QUARTER = math.pi / 2
"""A cube looks the same after each quarter turn."""

_DROP_M = 0.002
"""Gap between the cubes when the fingers open: the cube falls flat instead of being pressed."""


def lift(scene: SceneState, style: Style) -> Script:
    """Take the cube and raise it."""
    grasp = _grasp(scene, "cube", style)
    yield from take(scene, "cube", grasp, style)
    yield Stroke(T_world_eef=raised(grasp, style.carry_m), closed=True, steps=10)


def stack(scene: SceneState, style: Style) -> Script:
    """Put cube A on cube B."""
    scene = yield from take(scene, "cubeA", _grasp(scene, "cubeA", style), style)
    yield from _put(scene, "cubeA", "cubeB", 0.045, style)


def stack_three(scene: SceneState, style: Style) -> Script:
    """Put cube A on cube B and cube C on cube A."""
    scene = yield from take(scene, "cubeA", _grasp(scene, "cubeA", style), style)
    scene = yield from _put(scene, "cubeA", "cubeB", 0.045, style)
    scene = yield from take(scene, "cubeC", _grasp(scene, "cubeC", style), style)
    yield from _put(scene, "cubeC", "cubeA", 0.04, style)


def _grasp(scene: SceneState, cube: str, style: Style) -> Array:
    """Return the hand pose that takes a cube by two faces, the wrist near the middle of its range."""
    T = scene.T_world_object[cube][-1]
    hand = hand_down(T[:3, 3], nearest_turn(yaw_of(T), WRIST_MIDDLE_RAD, _QUARTER) + style.grasp_yaw_rad)
    along, depth = style.grasp_offset_m
    hand[:3, 3] += hand[:3, :3] @ np.array([0.0, along, depth])
    return hand


def _put(
    scene: SceneState, top: str, bottom: str, centres_m: float, style: Style
) -> Generator[Stroke, SceneState, SceneState]:
    """Carry the held cube over another, lower it, let go; `centres_m` is the distance of their centres when stacked."""
    held, below = scene.T_world_object[top][-1], scene.T_world_object[bottom][-1]
    wrist = yaw_of(scene.T_world_eef["right"][-1]) - _QUARTER
    # The cube's faces end up along those below it, by the turn that leaves the wrist near the middle of its range.
    turn = nearest_turn(yaw_of(below) - yaw_of(held), WRIST_MIDDLE_RAD - wrist, _QUARTER)
    goal = poses.pose(poses.yaw_matrix(np.array(turn)) @ held[:3, :3], below[:3, 3])
    goal[:3, 3] += (*style.place_offset_m, centres_m + _DROP_M)
    place = hand_for(scene, top, goal)
    hover = raised(place, style.hover_m)
    yield Stroke(T_world_eef=hover, closed=True, speed_m_s=0.12 * style.pace, steps=24)
    yield Stroke(T_world_eef=hover, closed=True, steps=style.pause_steps)
    yield Stroke(T_world_eef=place, closed=True, speed_m_s=0.08 * style.pace)
    return (yield from let_go(place, style))
