"""The script of two arm handover: the right hand picks and presents the hammer, the left takes it and stows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from sim_tasks.demonstrators.hands import (
    Array,
    Duet,
    Hand,
    Now,
    Part,
    back_off,
    bring,
    easier,
    go,
    grasp_pose,
    hands_of,
    let_go,
    offset_of,
    take,
    turned_over,
)
from sim_tasks.demonstrators.strokes import Style, raised
from sim_tasks.tasks import two_arm_handover as task

RIGHT, LEFT = (hands_of(task.TASK.robot)[side] for side in ("right", "left"))
_PLACE_M = np.array([0.0, 0.0, 0.97])
"""Where the hammer is handed over: above the table's middle, where both arms are at ease."""


def hand_over(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Pick, present, take, let go, stow."""
    giver, taker = styles["right"], styles["left"]
    home = now.targets
    place = poses.pose(
        poses.yaw_matrix(np.pi / 2 + 2.0 * np.array(giver.grasp_yaw_rad)),
        _PLACE_M + np.array([*(4.0 * giver.place_offset_m), 0.0]),
    )
    now = yield {
        "right": _pick(now, giver, place),
        "left": go(LEFT.at(back_off(_grasp(LEFT, now, place, task.TAKER_M, taker), taker.hover_m)), taker),
    }
    T = _grasp(LEFT, now, now.object("hammer"), task.TAKER_M, taker)
    now = yield {"left": take(now.scene, LEFT, "hammer", T, taker, hover_m=0.04)}
    now = yield {"right": let_go(RIGHT, now.targets["right"], giver, back_m=0.08)}
    yield {"right": go(home["right"], giver), "left": _stow(now, taker)}


def _grasp(hand: Hand, now: Now, T_world_hammer: Array, at_m: tuple[float, float, float], style: Style) -> Array:
    T = T_world_hammer @ offset_of(style, grasp_pose(at_m, (0.0, 0.0, -1.0), (0.0, 1.0, 0.0)))
    return easier(hand, now.scene, (T, turned_over(T)))


def _pick(now: Now, style: Style, T_world_place: Array) -> Part:
    grasp = _grasp(RIGHT, now, now.object("hammer"), task.GIVER_M, style)
    scene = yield from take(now.scene, RIGHT, "hammer", grasp, style)
    lifted = raised(scene.T_world_object["hammer"][-1], style.carry_m - 0.03)
    return (yield from bring(scene, RIGHT, "hammer", T_world_place, style, speed_m_s=0.25, through=(lifted,)))


def _stow(now: Now, style: Style) -> Part:
    over = poses.pose(poses.yaw_matrix(np.array(np.pi / 2)), np.array([*style.place_offset_m, task.BIN_FLOOR_M + 0.03]))
    there = now.object("bin") @ over
    scene = yield from bring(now.scene, LEFT, "hammer", raised(there, 0.08), style, speed_m_s=0.3)
    scene = yield from bring(scene, LEFT, "hammer", there, style, speed_m_s=0.15)
    return (yield from let_go(LEFT, LEFT.pose(scene), style, back_m=0.09))
