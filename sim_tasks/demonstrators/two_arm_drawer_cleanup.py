"""The script of two arm drawer cleanup: the left hand pulls and holds the drawer, the right one stows the toolbox."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from sim_tasks.demonstrators.hands import Array, Duet, Now, Part, go, grasp_pose, hands_of, let_go, offset_of, take
from sim_tasks.demonstrators.strokes import Style, raised
from sim_tasks.tasks import two_arm_drawer_cleanup as task
from sim_tasks.tasks.two_arm_box_cleanup import TOOLBOX_BAR_Z_M

RIGHT, LEFT = (hands_of(task.TASK.robot)[side] for side in ("right", "left"))

_SQUEEZE = 0.5
_LEAVE_M = 0.11
"""A thumb has left a handle after that way back."""
_SLACK_M = 0.035
"""The palm is that far behind the handle that the fingers have pulled, and a little more: the drawer meets its stop."""
_LIFT_M, _OVER_M = 0.19, 0.17
"""How high the toolbox is lifted from the table, and passes over the drawer: its foot clears the cabinet's roof."""
_RISE_M = 0.09
"""An open hand leaves the toolbox upwards: its thumb is above the bar, its fingers hang behind it."""
_TO_FRONT_M = 0.03
"""The toolbox goes that far from the drawer's middle towards its front: the hand needs the room behind it."""


def drawer_cleanup(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Open and pick side by side, stow, close."""
    right, left = styles["right"], styles["left"]
    now = yield {"left": _open(now, left), "right": _pick(now, right)}
    now = yield {"right": _stow(now, right)}
    yield {"left": _close(now, left)}


def _open(now: Now, style: Style) -> Part:
    bar = grasp_pose((0.0, task.HANDLE_Y_M, task.HANDLE_Z_M), (0.0, -1.0, 0.0), (0.0, 0.0, -1.0))
    grasp = now.object("drawer") @ offset_of(style, bar)
    yield from take(now.scene, LEFT, "drawer", grasp, style, squeeze=_SQUEEZE, hover_m=style.hover_m - 0.02)
    out = LEFT.at(_along(now.object("drawer"), task.TRAVEL_M + 0.015) @ poses.inverse(now.object("drawer")) @ grasp)
    return (yield from go(out, style, closed=_SQUEEZE, speed_m_s=0.1))


def _pick(now: Now, style: Style) -> Part:
    bar = grasp_pose((0.0, 0.0, TOOLBOX_BAR_Z_M), (0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    grasp = now.object("toolbox") @ offset_of(style, bar)
    yield from take(now.scene, RIGHT, "toolbox", grasp, style, squeeze=_SQUEEZE, hover_m=style.hover_m - 0.02)
    return (yield from go(raised(RIGHT.at(grasp), _LIFT_M), style, closed=_SQUEEZE, speed_m_s=0.2))


def _stow(now: Now, style: Style) -> Part:
    T_toolbox_eef = poses.inverse(now.object("toolbox")) @ now.targets["right"]
    place = _along(now.object("drawer"), _TO_FRONT_M)
    place = raised(place, task.FLOOR_M + 0.002)
    place[:2, 3] += style.place_offset_m
    there = place @ T_toolbox_eef
    yield from go(raised(there, _OVER_M), style, closed=_SQUEEZE, speed_m_s=0.2)
    yield from go(there, style, closed=_SQUEEZE, speed_m_s=0.12)
    yield from let_go(RIGHT, there, style, back_m=0.01, closed=_SQUEEZE)
    yield from go(raised(there, _RISE_M), style, speed_m_s=0.2)
    # Out of the way of the other hand, which comes along when it shuts the drawer.
    return (yield from go(_aside(there), style, speed_m_s=0.3))


def _close(now: Now, style: Style) -> Part:
    T_drawer_eef = poses.inverse(now.object("drawer")) @ now.targets["left"]
    shut = _along(now.object("cabinet"), -_SLACK_M) @ T_drawer_eef
    yield from go(shut, style, closed=_SQUEEZE, speed_m_s=0.18)
    return (yield from let_go(LEFT, shut, style, back_m=_LEAVE_M, closed=_SQUEEZE))


def _along(T: Array, way_m: float) -> Array:
    """Return a pose moved along its own y axis, which is the drawer's."""
    return T @ poses.pose(np.eye(3), np.array([0.0, way_m, 0.0]))


def _aside(T_world_eef: Array) -> Array:
    """Return a hand's pose higher and nearer to its own side of the table."""
    T = raised(T_world_eef, 0.15)
    T[1, 3] -= 0.2
    return T
