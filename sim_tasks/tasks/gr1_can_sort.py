"""GR-1 can sort: each hand puts a can into the bin of its colour, the right one the red, the left one the blue.

The cans stand in the middle, the bins to both sides; each hand goes on at its own pace.
"""

from __future__ import annotations

import math

from factory.parts import BodySpec, Colour, GeomSpec, open_box
from factory.scene import Predicate
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, GR1, GR1_EGO_VIEW, GR1_TABLE
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside

_TOP_M = GR1_TABLE.top_m
_RED, _BLUE, _TIN = (0.75, 0.17, 0.15, 1.0), (0.16, 0.33, 0.7, 1.0), (0.72, 0.73, 0.75, 1.0)

SIDES = {"right": -1.0, "left": 1.0}
"""Each arm's side of the table, as the sign of y."""
COLOURS = {"right": "red", "left": "blue"}

GRASP_M = 0.075
"""Height of a can's frame above its foot, where the hand takes it: half a hand's width, and 2 cm to clear a rim."""
FLOOR_M = 0.005
"""Height of a bin's floor above the table."""
_RADIUS_M, _HEIGHT_M = 0.033, 0.125
_BIN_M = (0.15, 0.12, 0.025)
"""Clear length, width and depth of a bin."""
_CAN_AT_M, _BIN_AT_M = (0.02, 0.105), (-0.04, 0.26)
"""Where cans and bins stand on the left; the right is its mirror image."""
_GONE_M = 0.13
"""The grip frame at the wrist is 9 cm from the axis of what the hand holds."""


def _can(rgba: Colour) -> BodySpec:
    """Return an upright can with a strip of tin at each end."""

    def band(low_m: float, high_m: float, radius_m: float, colour: Colour) -> GeomSpec:
        return GeomSpec(
            shape="cylinder",
            size_m=(radius_m, (high_m - low_m) / 2),
            pos_m=(0.0, 0.0, (low_m + high_m) / 2 - GRASP_M),
            rgba=colour,
            density=200.0,
            friction=(1.5, 0.005, 0.0001),
        )

    return BodySpec(
        geoms=(
            band(0.0, 0.004, _RADIUS_M - 0.002, _TIN),
            band(0.004, _HEIGHT_M - 0.004, _RADIUS_M, rgba),
            band(_HEIGHT_M - 0.004, _HEIGHT_M, _RADIUS_M - 0.002, _TIN),
        )
    )


def _reset(wide: float) -> ResetSpec:
    """Return starts: D0 for 1, D1 for 2."""

    def place(name: str, x_m: float, y_m: float, at_m: tuple[float, float], side: float, z_m: float) -> PlacementSpec:
        turn = math.radians(5.0) * wide
        return PlacementSpec(
            object=name,
            x_m=(-x_m * wide, x_m * wide),
            y_m=(-y_m * wide, y_m * wide),
            z_m=(z_m, z_m),
            yaw_rad=(-turn, turn),
            reference_m=(at_m[0], side * at_m[1], _TOP_M),
        )

    return ResetSpec(
        placements=(
            *(place(f"{c}_can", 0.035, 0.015, _CAN_AT_M, SIDES[a], GRASP_M + 0.001) for a, c in COLOURS.items()),
            *(place(f"{c}_bin", 0.03, 0.02, _BIN_AT_M, SIDES[a], 0.0) for a, c in COLOURS.items()),
        )
    )


_FINGERS = {side: tuple(GR1.eefs[side].fingers) for side in SIDES}
_HELD = {f"{colour}_can": held(f"{colour}_can", _FINGERS[side]) for side, colour in COLOURS.items()}


def _sorted(side: str, colour: str) -> Predicate:
    half_x, half_y, _ = (m / 2 for m in _BIN_M)
    return every(
        inside(f"{colour}_can", f"{colour}_bin", (-half_x, -half_y, 0.0), (half_x, half_y, GRASP_M + 0.02)),
        away(f"{colour}_can", side, _GONE_M),
    )


TASK = TaskSpec(
    name="gr1_can_sort",
    description="A GR-1 puts two cans into the bins of their colours, one with each hand.",
    instruction="Put each can into the bin of its colour.",
    paraphrases=(
        "Sort the cans: the red one into the red bin, the blue one into the blue bin.",
        "The red can belongs into the red bin and the blue can into the blue bin.",
        "Place both cans in the bins that match their colours.",
        "Sort the two cans by colour.",
    ),
    robot=GR1,
    scene=SceneSpec(
        base="table",
        parts={
            "red_can": _can(_RED),
            "blue_can": _can(_BLUE),
            **{
                f"{colour}_bin": BodySpec(geoms=open_box(_BIN_M, FLOOR_M, rgba=rgba), joint="fixed")
                for colour, rgba in (("red", _RED), ("blue", _BLUE))
            },
        },
        table=GR1_TABLE,
        cameras={"front_view": FRONT_VIEW, "ego_view": GR1_EGO_VIEW},
        objects={
            **{f"{colour}_can": ObjectSpec.of_part(f"{colour}_can", yaw_symmetry=36) for colour in COLOURS.values()},
            **{f"{colour}_bin": ObjectSpec.of_part(f"{colour}_bin") for colour in COLOURS.values()},
        },
        contacts=tuple(
            pair for side, colour in COLOURS.items() for pair in grasp_contacts(f"{colour}_can", fingers=_FINGERS[side])
        ),
        clearances_mm={
            "can in its bin, lengthwise": 1e3 * (_BIN_M[0] - 2 * _RADIUS_M),
            "can in its bin, across": 1e3 * (_BIN_M[1] - 2 * _RADIUS_M),
        },
    ),
    resets={"D0": _reset(1.0), "D1": _reset(2.0)},
    subtasks={
        side: (
            SubtaskSpec(name="pick", object_ref=f"{colour}_can", end_signal=f"{colour}_picked", grasps=f"{colour}_can"),
            SubtaskSpec(name="place", object_ref=f"{colour}_bin", carries=f"{colour}_can", interpolation_steps=15),
        )
        for side, colour in COLOURS.items()
    },
    signals={
        f"{colour}_picked": every(_HELD[f"{colour}_can"], above(f"{colour}_can", _TOP_M + GRASP_M + 0.06))
        for colour in COLOURS.values()
    },
    held=_HELD,
    success=every(*(_sorted(side, colour) for side, colour in COLOURS.items())),
)
