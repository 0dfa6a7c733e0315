"""Script for the square nut."""

from __future__ import annotations

import math
from dataclasses import dataclass

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

_HANDLE_M = 0.063
"""The grasp from the middle of the hole, along the nut's x axis: the 21 mm wide fingers stay 9 mm off the ring, whose
corners they would otherwise come down on, and the pads 8 mm off the handle's end."""

_GRASP_DEPTH_M = 0.004
"""The grip frame goes this much above the nut's middle, so that the finger tips stay off the table."""

_OVER_PEG_M = 0.125
"""Height of the nut's frame over the peg's at which it is aligned: 1.5 cm free above the peg's top."""

_DOWN_M = 0.005
"""Height of the nut's frame over the peg's at which the fingers open: 1.5 cm below what counts as on the peg."""


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """Yaws about the vertical, radians: of the nut on the peg, and of the hand when it grasps and when it lets go."""

    nut_on_peg: float
    grasp: float
    place: float


def square(scene: SceneState, style: Style) -> Script:
    """Take the nut by its handle and put it on the peg."""
    nut, peg = scene.T_world_object["nut"][-1], scene.T_world_object["peg"][-1]
    plan = _plan(nut, peg, scene.T_world_base["right"])
    grasp = hand_down(nut[:3, 3], plan.grasp + style.grasp_yaw_rad)
    grasp[:3, 3] += nut[:3, 0] * (_HANDLE_M + style.grasp_offset_m[0]) + (0.0, 0.0, _GRASP_DEPTH_M)
    scene = yield from take(scene, "nut", grasp, style)

    hole = peg[:3, 3] + (*style.place_offset_m / 2, _OVER_PEG_M)
    goal = poses.pose(poses.yaw_matrix(np.array(plan.nut_on_peg)), hole)
    over = hand_for(scene, "nut", goal)
    # Half a turn has two ways round, and the wrist can only go one of them: say which.
    half_way = hand_down((over[:3, 3] + scene.T_world_eef["right"][-1, :3, 3]) / 2, (plan.grasp + plan.place) / 2)
    half_way[2, 3] = over[2, 3] + 0.02
    yield Stroke(
        T_world_eef=raised(over, 0.02), through=half_way[None], closed=True, speed_m_s=0.14 * style.pace, steps=24
    )
    yield Stroke(T_world_eef=over, closed=True, speed_m_s=0.05 * style.pace)
    scene = yield Stroke(T_world_eef=over, closed=True, steps=style.pause_steps + 4)
    # Look again, and correct what the nut has slipped on the way.
    over = hand_for(scene, "nut", goal)
    yield Stroke(T_world_eef=over, closed=True, steps=6)
    down = raised(over, _DOWN_M - _OVER_PEG_M)
    yield Stroke(T_world_eef=down, closed=True, speed_m_s=0.10 * style.pace)
    yield from let_go(down, style)


def _plan(nut: Array, peg: Array, base: Array) -> _Plan:
    """Choose how to take the nut and how to turn it.

    The handle ends up towards the robot: the peg stands near the end of the arm's reach. The fingers close across the
    handle, either one on either side, whichever keeps the wrist off its limits both times.
    """
    to_base = base[:2, 3] - peg[:2, 3]
    nut_on_peg = nearest_turn(yaw_of(peg), math.atan2(to_base[1], to_base[0]), math.pi / 2)
    plans = [
        _Plan(
            nut_on_peg=nut_on_peg,
            grasp=nearest_turn(yaw_of(nut) + flip, WRIST_MIDDLE_RAD, 2 * math.pi),
            place=nearest_turn(nut_on_peg + flip, WRIST_MIDDLE_RAD, 2 * math.pi),
        )
        for flip in (0.0, math.pi)
    ]
    # A turn at the nut counts more: close to the robot the wrist is near a singular posture and turns badly.
    return min(plans, key=lambda p: max(1.5 * abs(p.grasp - WRIST_MIDDLE_RAD), abs(p.place - WRIST_MIDDLE_RAD)))
