"""Two arm lift tray: two hands lift a breakfast tray by its handles, and the bottle that stands on it must not fall."""

from __future__ import annotations

import math

from factory.constraints import Coordination
from factory.parts import BodySpec, GeomSpec, Triple
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import EGO_VIEW, FRONT_VIEW, TWO_DEX_PANDAS
from sim_tasks.tasks.predicates import above, every, grasp_contacts, held, inside, upright

_TABLE_M = 0.8
_LIFTED_M = 0.08
"""How high the tray's feet have to be above the table at the end."""

HANDLE_Y_M, HANDLE_Z_M = 0.19, 0.10
"""The middle of each handle's bar, from the middle of the tray at the height of its feet."""
_BAR_M = 0.04
_INNER_X_M, _INNER_Y_M, _FLOOR_Z_M = 0.25, 0.26, 0.078
_BOTTLE_RADIUS_M, _BOTTLE_HEIGHT_M = 0.02, 0.17
"""Slender: it falls when the tray tilts by 13 degrees."""

_WOOD, _DARK, _GLASS = (0.72, 0.53, 0.34, 1.0), (0.35, 0.24, 0.16, 1.0), (0.15, 0.45, 0.3, 1.0)


def _board(size_m: Triple, pos_m: Triple, *, dark: bool = False) -> GeomSpec:
    """Return a piece of wood of a full size."""
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    return GeomSpec(shape="box", size_m=half, pos_m=pos_m, rgba=_DARK if dark else _WOOD, density=300.0)


def _handle(side: int) -> tuple[GeomSpec, ...]:
    """Return a bar along x, long enough for four fingers and a thumb, and the two stays that hold it."""
    y, rim_y = side * HANDLE_Y_M, _INNER_Y_M / 2
    stay = (0.012, HANDLE_Y_M - rim_y, _BAR_M)
    stay_y = side * (HANDLE_Y_M + rim_y) / 2
    return (
        GeomSpec(
            shape="box",
            size_m=(0.072, _BAR_M / 2, _BAR_M / 2),
            pos_m=(0.0, y, HANDLE_Z_M),
            rgba=_DARK,
            density=300.0,
            friction=(1.5, 0.005, 0.0001),
        ),
        _board(stay, (0.066, stay_y, HANDLE_Z_M), dark=True),
        _board(stay, (-0.066, stay_y, HANDLE_Z_M), dark=True),
    )


def _tray() -> tuple[GeomSpec, ...]:
    """Return floor, rim and feet."""
    x, y, rim = _INNER_X_M / 2, _INNER_Y_M / 2, 0.012
    rim_z = HANDLE_Z_M
    return (
        _board((_INNER_X_M, _INNER_Y_M, 0.008), (0.0, 0.0, _FLOOR_Z_M - 0.004)),
        *(_board((rim, _INNER_Y_M, 0.03), (s * (x - rim / 2), 0.0, rim_z)) for s in (-1, 1)),
        *(_board((_INNER_X_M, rim, 0.03), (0.0, s * (y - rim / 2), rim_z)) for s in (-1, 1)),
        *(_board((0.02, 0.02, 0.07), (a * (x - 0.01), b * (y - 0.01), 0.035)) for a in (-1, 1) for b in (-1, 1)),
    )


TRAY = BodySpec(geoms=(*_tray(), *_handle(-1), *_handle(1)))
BOTTLE = BodySpec(
    geoms=(
        GeomSpec(
            shape="cylinder",
            size_m=(_BOTTLE_RADIUS_M, _BOTTLE_HEIGHT_M / 2),
            pos_m=(0.0, 0.0, _BOTTLE_HEIGHT_M / 2),
            rgba=_GLASS,
            density=400.0,
        ),
    )
)


def _reset(half_range_m: float, half_turn_rad: float, bottle_m: float) -> ResetSpec:
    middle = (0.0, 0.0, _TABLE_M)
    return ResetSpec(
        placements=(
            PlacementSpec(
                object="tray",
                x_m=(-half_range_m, half_range_m),
                y_m=(-half_range_m, half_range_m),
                z_m=(0.001, 0.001),
                yaw_rad=(-half_turn_rad, half_turn_rad),
                reference_m=middle,
            ),
            # Anywhere on the tray, wherever that stands: both ranges together keep it off the rim.
            PlacementSpec(
                object="bottle",
                x_m=(-bottle_m, bottle_m),
                y_m=(-bottle_m, bottle_m),
                z_m=(_FLOOR_Z_M + 0.002, _FLOOR_Z_M + 0.002),
                yaw_rad=(0.0, 0.0),
                reference_m=middle,
            ),
        )
    )


_RIGHT, _LEFT = (held("tray", tuple(TWO_DEX_PANDAS.eefs[side].fingers)) for side in ("right", "left"))
_STANDS = every(
    upright("bottle", math.radians(15)),
    inside(
        "bottle",
        "tray",
        (-_INNER_X_M / 2, -_INNER_Y_M / 2, _FLOOR_Z_M - 0.02),
        (_INNER_X_M / 2, _INNER_Y_M / 2, _FLOOR_Z_M + 0.02),
    ),
)

TASK = TaskSpec(
    name="two_arm_lift_tray",
    description="Two hands lift a tray by its handles; the bottle on it must not fall.",
    instruction="Lift the tray by its two handles without knocking over the bottle.",
    paraphrases=(
        "Raise the tray with both hands and keep it level.",
        "Take the tray by both handles and lift it; the bottle must stay standing.",
        "Pick up the breakfast tray with two hands.",
        "Lift the tray together so that nothing on it falls.",
    ),
    robot=TWO_DEX_PANDAS,
    scene=SceneSpec(
        base="table",
        parts={"tray": TRAY, "bottle": BOTTLE},
        cameras={"front_view": FRONT_VIEW, "ego_view": EGO_VIEW},
        objects={"tray": ObjectSpec.of_part("tray"), "bottle": ObjectSpec.of_part("bottle", yaw_symmetry=36)},
        contacts=grasp_contacts("tray", fingers=tuple(f for e in TWO_DEX_PANDAS.eefs.values() for f in e.fingers)),
        clearances_mm={
            "handle between thumb and fingers": 1e3 * (TWO_DEX_PANDAS.eefs["right"].opening_m - _BAR_M),
            "fingertips between handle and tray": 1e3 * (HANDLE_Y_M - _BAR_M / 2 - _INNER_Y_M / 2),
            "hand between the handle's stays": 1e3 * (0.12 - 0.085),
        },
    ),
    resets={"D0": _reset(0.045, math.radians(20), 0.0075), "D1": _reset(0.05, math.radians(40), 0.015)},
    subtasks={
        side: (
            SubtaskSpec(name="grasp", object_ref="tray", end_signal=f"{side}_holds", grasps="tray"),
            SubtaskSpec(name="lift", object_ref="tray", carries="tray"),
        )
        for side in ("right", "left")
    },
    constraints=(Coordination(subtasks={"right": "lift", "left": "lift"}),),
    signals={"right_holds": _RIGHT, "left_holds": _LEFT},
    held={"right:tray": _RIGHT, "left:tray": _LEFT},
    success=every(above("tray", _TABLE_M + _LIFTED_M), upright("tray", math.radians(12)), _STANDS, _RIGHT, _LEFT),
)
