"""The script of GR-1 pouring: the left hand brings the bowl, the right hand takes the cup, waits, and pours."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from factory import poses
from sim_tasks.demonstrators.gr1_pick_place import HANDS, pick
from sim_tasks.demonstrators.hands import Array, Duet, Now, Part, bring, go
from sim_tasks.demonstrators.strokes import Style, raised
from sim_tasks.tasks import gr1_pouring as task

RIGHT, LEFT = HANDS["right"], HANDS["left"]
_TIPPED_RAD = math.radians(125)
"""The cup's wall then slopes by 35 degrees, less what the wrist lags behind."""
_NEARLY_RAD = math.radians(70)
"""The balls are still in it."""
_POURING_STEPS = 15
_ASIDE_M = 0.05
_ABOVE_M = 0.065
"""Middle of the cup's mouth above the bowl's rim: fingers around the cup pass over the rim."""
_SHORT_M = 0.045
"""And that far to the right of the bowl's middle: balls fly on to the left."""


def pour(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Take both vessels, bring the bowl, then pour."""
    now = yield {"right": _take(now, styles["right"]), "left": _bring_bowl(now, styles["left"])}
    yield {"right": _pour(now, styles["right"])}


def _take(now: Now, style: Style) -> Part:
    """Take the cup and hold it up, a little to the right, out of the bowl's way."""
    scene, cup = now.scene, now.object("cup")
    scene = yield from pick(scene, RIGHT, "cup", style)
    up = raised(cup, style.carry_m)
    up[1, 3] -= _ASIDE_M
    return (yield from bring(scene, RIGHT, "cup", up, style))


def _bring_bowl(now: Now, style: Style) -> Part:
    scene, bowl = now.scene, now.object("bowl")
    scene = yield from pick(scene, LEFT, "bowl", style)
    there = now.object("mat").copy()
    there[:3, 3] += [*style.place_offset_m, task.GRASP_M + 0.002]
    scene = yield from bring(scene, LEFT, "bowl", raised(bowl, 0.06), style)
    scene = yield from bring(scene, LEFT, "bowl", raised(there, 0.06), style)
    return (yield from bring(scene, LEFT, "bowl", there, style, speed_m_s=0.08))


def _pour(now: Now, style: Style) -> Part:
    """Bring the cup beside the bowl, turn it over its rim, wait for the balls, and turn it back."""
    mouth = now.object("bowl")[:3, 3] + np.array([0.0, -_SHORT_M, task.BOWL_RIM_M - task.GRASP_M + _ABOVE_M])
    T_cup_eef = poses.inverse(now.object("cup")) @ RIGHT.pose(now.scene)
    tipped = poses.pose(_tip(_TIPPED_RAD), mouth - (task.CUP_RIM_M - task.GRASP_M) * _tip(_TIPPED_RAD)[:, 2])
    upright, nearly = (poses.pose(_tip(angle), tipped[:3, 3]) for angle in (0.0, _NEARLY_RAD))
    yield from go(upright @ T_cup_eef, style, closed=1.0)
    yield from go(nearly @ T_cup_eef, style, closed=1.0)
    scene = yield from go(nearly @ T_cup_eef, style, closed=1.0, steps=8)
    # The arm lags behind where it reaches across: what it lacks now, it is told to go farther.
    tipped[:3, 3] += nearly[:3, 3] - scene.position("cup")[-1]
    yield from go(tipped @ T_cup_eef, style, closed=1.0)
    yield from go(tipped @ T_cup_eef, style, closed=1.0, steps=_POURING_STEPS)
    return (yield from go(upright @ T_cup_eef, style, closed=1.0))


def _tip(angle_rad: float) -> Array:
    """Return the orientation of a cup tipped to the left."""
    return poses.matrix_from_axis_angle(np.array([-angle_rad, 0.0, 0.0]))
