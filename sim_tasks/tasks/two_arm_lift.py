"""Two arm lift: two Pandas that face each other lift a pot by its two handles and keep it level."""

from __future__ import annotations

import math

from factory.constraints import Coordination
from factory.parts import BodySpec, GeomSpec, open_box
from factory.specs import EefSpec, ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, TWO_PANDAS
from sim_tasks.tasks.predicates import above, every, grasp_contacts, held, upright

_TABLE_M = 0.8
_LIFTED_M = 0.10
"""How high the pot has to be at the end."""

HANDLE_Y_M, HANDLE_Z_M = 0.165, 0.08
"""The middle of each handle's bar, from the middle of the pot's bottom."""
_BAR_M = 0.02
"""A bar is that thick; the open hand is 79 mm wide."""

_STEEL = (0.55, 0.58, 0.62, 1.0)
_GREEN, _BLUE = (0.2, 0.6, 0.3, 1.0), (0.2, 0.4, 0.75, 1.0)


def _handle(side: int, rgba: tuple[float, float, float, float]) -> tuple[GeomSpec, ...]:
    """Return a bar along x and the two stays that hold it."""
    y, half = side * HANDLE_Y_M, _BAR_M / 2
    stay_y = side * (0.09 + HANDLE_Y_M) / 2
    stay = (half, (HANDLE_Y_M - 0.09) / 2, half)
    return (
        GeomSpec(shape="box", size_m=(0.05, half, half), pos_m=(0.0, y, HANDLE_Z_M), rgba=rgba, density=400.0),
        GeomSpec(shape="box", size_m=stay, pos_m=(0.045, stay_y, HANDLE_Z_M), rgba=rgba, density=400.0),
        GeomSpec(shape="box", size_m=stay, pos_m=(-0.045, stay_y, HANDLE_Z_M), rgba=rgba, density=400.0),
    )


POT = BodySpec(
    geoms=(
        *open_box((0.17, 0.17, 0.08), 0.005, rgba=_STEEL, density=400.0),
        *_handle(-1, _GREEN),
        *_handle(1, _BLUE),
    )
)


def _reset(half_range_m: float, half_turn_rad: float) -> ResetSpec:
    return ResetSpec(
        placements=(
            PlacementSpec(
                object="pot",
                x_m=(-half_range_m, half_range_m),
                y_m=(-half_range_m, half_range_m),
                z_m=(0.002, 0.002),
                yaw_rad=(-half_turn_rad, half_turn_rad),
                reference_m=(0.0, 0.0, _TABLE_M),
                radius_m=0.18,
            ),
        )
    )


def _fingers(eef: EefSpec) -> tuple[str, ...]:
    return tuple(eef.fingers)


_RIGHT, _LEFT = (held("pot", _fingers(TWO_PANDAS.eefs[side])) for side in ("right", "left"))

TASK = TaskSpec(
    name="two_arm_lift",
    description="Two Pandas lift a pot by its handles.",
    instruction="Lift the pot by its two handles and keep it level.",
    paraphrases=(
        "Raise the pot with both arms.",
        "Take the pot by both handles and lift it.",
        "Pick up the steel pot with two hands.",
        "Lift the pot together without tilting it.",
    ),
    robot=TWO_PANDAS,
    scene=SceneSpec(
        base="table",
        parts={"pot": POT},
        cameras={"front_view": FRONT_VIEW},
        objects={"pot": ObjectSpec.of_part("pot")},
        contacts=grasp_contacts("pot", fingers=tuple(f for e in TWO_PANDAS.eefs.values() for f in e.fingers)),
        clearances_mm={"handle between the open fingers": 59.0},
    ),
    resets={"D0": _reset(0.03, math.radians(15)), "D1": _reset(0.08, math.radians(35))},
    subtasks={
        "right": (
            SubtaskSpec(name="grasp", object_ref="pot", end_signal="right_holds", grasps="pot"),
            SubtaskSpec(name="lift", object_ref="pot", carries="pot"),
        ),
        "left": (
            SubtaskSpec(name="grasp", object_ref="pot", end_signal="left_holds", grasps="pot"),
            SubtaskSpec(name="lift", object_ref="pot", carries="pot"),
        ),
    },
    constraints=(Coordination(subtasks={"right": "lift", "left": "lift"}),),
    signals={"right_holds": _RIGHT, "left_holds": _LEFT},
    held={"right:pot": _RIGHT, "left:pot": _LEFT},
    success=every(above("pot", _TABLE_M + _LIFTED_M), upright("pot", math.radians(15)), _RIGHT, _LEFT),
)
