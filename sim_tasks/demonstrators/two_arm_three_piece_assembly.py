"""The script of two arm three piece assembly: the right hand stands the column in the socket, the left crowns it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.hands import Array, Duet, Hand, Now, Part, bring, from_above, go, hands_of, let_go, take
from sim_tasks.demonstrators.strokes import Style, raised
from sim_tasks.tasks import two_arm_three_piece_assembly as task

RIGHT, LEFT = (hands_of(task.TASK.robot)[side] for side in ("right", "left"))
_READY_M, _ASIDE_M = np.array([-0.05, 0.2, 0.95]), np.array([-0.05, -0.25, 1.02])
"""Where the cap waits, and where the right hand goes when it has done its part."""
_LIFT_M = 0.09


def assemble(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Stand up the column while the other hand takes the cap, then crown it."""
    right, left = styles["right"], styles["left"]
    aside = poses.pose(now.targets["right"][:3, :3], _ASIDE_M + np.array([*(4.0 * right.place_offset_m), 0.0]))
    now = yield {"right": _stand_up(now, right), "left": _fetch(now, left)}
    yield {"right": go(aside, right, speed_m_s=0.25), "left": _crown(now, left)}


def _stand_up(now: Now, style: Style) -> Part:
    scene = yield from _pick(now.scene, RIGHT, "column", task.COLUMN_GRASP_M, style)
    place = _nearest_quarter(raised(now.object("socket"), task.FLOOR_M + 0.002), scene.T_world_object["column"][-1])
    return (yield from _put(scene, RIGHT, "column", place, style))


def _fetch(now: Now, style: Style) -> Part:
    scene = yield from _pick(now.scene, LEFT, "cap", task.CAP_GRASP_M, style)
    ready = poses.pose(
        scene.T_world_object["cap"][-1, :3, :3], _READY_M + np.array([*(4.0 * style.place_offset_m), 0.0])
    )
    return (yield from bring(scene, LEFT, "cap", ready, style, speed_m_s=0.2))


def _crown(now: Now, style: Style) -> Part:
    place = _nearest_quarter(raised(now.object("column"), task.CAP_ON_COLUMN_M + 0.002), now.object("cap"))
    return (yield from _put(now.scene, LEFT, "cap", place, style))


def _pick(scene: SceneState, hand: Hand, obj: str, at_m: tuple[float, float, float], style: Style) -> Part:
    grasp = from_above(hand, scene, scene.T_world_object[obj][-1], style, at_m=at_m, turns=4)
    scene = yield from take(scene, hand, obj, grasp, style, hover_m=0.06)
    lifted = raised(scene.T_world_object[obj][-1], _LIFT_M)
    return (yield from bring(scene, hand, obj, lifted, style, speed_m_s=0.2))


def _put(scene: SceneState, hand: Hand, obj: str, T_world_place: Array, style: Style) -> Part:
    """Bring a piece over its place, lower it slowly, let it go and rise."""
    scene = yield from bring(scene, hand, obj, raised(T_world_place, 0.06), style, speed_m_s=0.2)
    scene = yield from bring(scene, hand, obj, T_world_place, style, speed_m_s=0.08)
    return (yield from let_go(hand, hand.pose(scene), style, back_m=0.10))


def _nearest_quarter(T: Array, like: Array) -> Array:
    """Return a pose turned by quarters about its z axis to be turned least from another."""
    quarters = (T @ poses.pose(poses.yaw_matrix(np.array(k * np.pi / 2)), np.zeros(3)) for k in range(4))
    return min(quarters, key=lambda T: float(poses.angle_between(T[:3, :3], like[:3, :3])))
