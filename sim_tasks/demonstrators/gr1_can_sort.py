"""The script of GR-1 can sort: both hands at once, each as in pick and place."""

from __future__ import annotations

from collections.abc import Mapping

from sim_tasks.demonstrators.gr1_pick_place import HANDS, put_into
from sim_tasks.demonstrators.hands import Duet, Now
from sim_tasks.demonstrators.strokes import Style
from sim_tasks.tasks import gr1_can_sort as task


def can_sort(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Put each can into the bin of its colour."""
    floor_m = task.GRASP_M + task.FLOOR_M
    yield {
        side: put_into(now.scene, HANDS[side], f"{colour}_can", f"{colour}_bin", floor_m, styles[side])
        for side, colour in task.COLOURS.items()
    }
