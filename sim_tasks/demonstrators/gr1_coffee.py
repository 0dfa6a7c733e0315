"""The script of GR-1 coffee: the right hand sets the pod into the holder, the left hand pushes the lid over."""

from __future__ import annotations

from collections.abc import Mapping

from sim_tasks.demonstrators.gr1_pick_place import HANDS, put_into
from sim_tasks.demonstrators.hands import Array, Duet, Now, Part, go, grasp_pose
from sim_tasks.demonstrators.strokes import Style
from sim_tasks.tasks import gr1_coffee as task

LEFT = HANDS["left"]
_HEIGHT_M = 0.095
"""Where the palm meets the open lid, above its hinge."""


def coffee(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Load the pod, then shut the lid."""
    floor_m = task.FLOOR_M + task.GRASP_M
    now = yield {"right": put_into(now.scene, HANDS["right"], "pod", "machine", floor_m, styles["right"], turn_rad=0.0)}
    yield {"left": _shut(now, styles["left"])}


def _shut(now: Now, style: Style) -> Part:
    """Push with the palm until the lid leans to the right, and take the hand back."""
    yield from go(_beside(now, 0.10), style)
    yield from go(_beside(now, -0.10), style, speed_m_s=0.12)
    return (yield from go(_beside(now, 0.10), style))


def _beside(now: Now, y_m: float) -> Array:
    """Return where the left hand is, its palm to the right, when its grasp frame is that far left of the hinge."""
    at_m = (0.0, task.HINGE_Y_M + y_m, task.HINGE_Z_M + _HEIGHT_M)
    return LEFT.at(now.object("machine") @ grasp_pose(at_m, (0.0, -1.0, 0.0), (1.0, 0.0, 0.0)))
