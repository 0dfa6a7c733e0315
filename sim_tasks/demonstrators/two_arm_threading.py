"""The script of two arm threading: both hands take their piece, the left holds up the eye, the right threads it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from sim_tasks.demonstrators.hands import (
    Array,
    Duet,
    Now,
    Part,
    bring,
    from_above,
    hands_of,
    take,
)
from sim_tasks.demonstrators.strokes import Style, raised
from sim_tasks.tasks import two_arm_threading as task

RIGHT, LEFT = (hands_of(task.TASK.robot)[side] for side in ("right", "left"))
_EYE_AT_M: Array = np.array([0.0, 0.08, 0.94])
_NEEDLE_AT_M: Array = np.array([0.0, -0.12, 0.98])
"""Where the eye's foot is held up, and where the needle waits meanwhile."""
_BEFORE_M, _PUSHED_M = -(task.NEEDLE_HALF_M + 0.025), -(task.NEEDLE_HALF_M - 0.04)
"""The needle's middle, along the hole: its tip 25 mm before the ring's middle, and 40 mm beyond it."""


def thread(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Take both, hold up, thread."""
    right, left = styles["right"], styles["left"]
    now = yield {"right": _pick(now, right), "left": _grasp(now, left)}
    at = _EYE_AT_M + np.array([*(4.0 * left.place_offset_m), 0.0])
    now = yield {"left": bring(now.scene, LEFT, "eye", _along_y(at, left), left)}
    yield {"right": _push(now, right)}


def _pick(now: Now, style: Style) -> Part:
    # A little above its middle: the finger tips stay off the table.
    grasp = from_above(RIGHT, now.scene, now.object("needle"), style, at_m=(task.GRASP_M, 0.0, 0.004))
    scene = yield from take(now.scene, RIGHT, "needle", grasp, style, hover_m=0.06)
    lifted = raised(scene.T_world_object["needle"][-1], 0.09)
    ready = _along_y(_NEEDLE_AT_M, style)
    return (yield from bring(scene, RIGHT, "needle", ready, style, speed_m_s=0.2, through=(lifted,)))


def _grasp(now: Now, style: Style) -> Part:
    grasp = from_above(LEFT, now.scene, now.object("eye"), style, at_m=(0.0, 0.0, task.POST_Z_M))
    scene = yield from take(now.scene, LEFT, "eye", grasp, style, hover_m=0.06)
    return (yield from bring(scene, LEFT, "eye", raised(scene.T_world_object["eye"][-1], 0.06), style))


def _push(now: Now, style: Style) -> Part:
    eye = now.object("eye")
    before, through = (_moved(eye, (x, 0.0, task.RING_Z_M)) for x in (_BEFORE_M, _PUSHED_M))
    scene = yield from bring(now.scene, RIGHT, "needle", before, style)
    return (yield from bring(scene, RIGHT, "needle", through, style, speed_m_s=0.07))


def _along_y(position_m: Array, style: Style) -> Array:
    return poses.pose(poses.yaw_matrix(np.pi / 2 + 2.0 * np.array(style.grasp_yaw_rad)), position_m)


def _moved(T: Array, by_m: tuple[float, float, float]) -> Array:
    return T @ poses.pose(np.eye(3), np.array(by_m))
