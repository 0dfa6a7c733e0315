"""The script of two arm handover: the right hand picks and presents the hammer, the left takes it and stows it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from sim_tasks.demonstrators.hands import (
    Array,
    Duet,
    Now,
    Part,
    back_off,
    bring,
    from_above,
    go,
    hands_of,
    let_go,
    take,
)
from sim_tasks.demonstrators.strokes import Style, raised
from sim_tasks.tasks import two_arm_handover as task

RIGHT, LEFT = (hands_of(task.TASK.robot)[side] for side in ("right", "left"))
_PLACE_M = np.array([0.0, 0.0, 0.97])
"""Where the hammer is handed over: above the table's middle, where both arms are at ease."""

_IN_BIN_M = np.array([0.0, -0.03, task.BIN_FLOOR_M + 0.03])
"""Where it is let go; its head sags and lands first, which pushes it 3 cm on."""
_STEADY_STEPS = 8


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
        "left": go(
            LEFT.at(back_off(from_above(LEFT, now.scene, place, taker, at_m=task.TAKER_M), taker.hover_m)), taker
        ),
    }
    # Looked at while the hammer still swings, it would be grasped where it was.
    now = yield {"right": go(now.targets["right"], giver, closed=1.0, steps=_STEADY_STEPS)}
    T = from_above(LEFT, now.scene, now.object("hammer"), taker, at_m=task.TAKER_M)
    now = yield {"left": take(now.scene, LEFT, "hammer", T, taker, hover_m=0.04)}
    now = yield {"right": let_go(RIGHT, now.targets["right"], giver, back_m=0.08)}
    yield {"right": go(home["right"], giver), "left": _stow(now, taker)}


def _pick(now: Now, style: Style, T_world_place: Array) -> Part:
    grasp = from_above(RIGHT, now.scene, now.object("hammer"), style, at_m=task.GIVER_M)
    scene = yield from take(now.scene, RIGHT, "hammer", grasp, style)
    lifted = raised(scene.T_world_object["hammer"][-1], style.carry_m - 0.03)
    return (yield from bring(scene, RIGHT, "hammer", T_world_place, style, speed_m_s=0.25, through=(lifted,)))


def _stow(now: Now, style: Style) -> Part:
    at = np.array([*style.place_offset_m, 0.0]) + _IN_BIN_M
    over = poses.pose(poses.yaw_matrix(np.array(np.pi / 2)), at)
    there = now.object("bin") @ over
    scene = yield from bring(now.scene, LEFT, "hammer", raised(there, 0.08), style, speed_m_s=0.3)
    scene = yield from bring(scene, LEFT, "hammer", there, style, speed_m_s=0.15)
    return (yield from let_go(LEFT, LEFT.pose(scene), style, back_m=0.09))
