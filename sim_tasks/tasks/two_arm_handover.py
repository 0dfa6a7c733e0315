"""Two arm handover: one Panda picks up a hammer and hands it to the other, which lays it into its bin.

The hammer lies on the first arm's side, the bin on the other's. Both hands hold the handle from above, 16 cm apart;
it has 59 mm of play between the open fingers, the hammer 70 mm along the bin and 100 mm across.
"""

from __future__ import annotations

import math

from factory.constraints import Coordination
from factory.parts import BodySpec, GeomSpec, open_box
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, Selection, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, TWO_PANDAS
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside

_TABLE_M = 0.8
_ALONG_Y = (math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5))

GIVER_M, TAKER_M = (-0.07, 0.0, 0.0), (0.09, 0.0, 0.0)
"""Where the hands hold the handle, in the hammer's frame: x along the handle, the head at its negative end.

Hands that are only 12 cm apart have their wrists in each other's way.
"""
_GONE_M = 0.08
"""A hand that far from the middle of the handle holds neither end of it, and is on its way."""

BIN_FLOOR_M = 0.005
_WOOD, _IRON, _BIN = (0.75, 0.55, 0.33, 1.0), (0.30, 0.31, 0.34, 1.0), (0.25, 0.45, 0.70, 1.0)

HAMMER = BodySpec(
    geoms=(
        GeomSpec(shape="box", size_m=(0.12, 0.01, 0.01), rgba=_WOOD, density=500.0, friction=(1.5, 0.01, 0.0001)),
        GeomSpec(shape="box", size_m=(0.015, 0.03, 0.015), pos_m=(-0.135, 0.0, 0.0), rgba=_IRON, density=500.0),
    )
)
BIN = BodySpec(geoms=open_box((0.16, 0.34, 0.04), BIN_FLOOR_M, rgba=_BIN), joint="fixed", pos_m=(0.2, 0.2, _TABLE_M))


def _reset(hammer_m: float, hammer_turn_rad: float, bin_m: float, bin_turn_rad: float) -> ResetSpec:
    return ResetSpec(
        placements=(
            PlacementSpec(
                object="hammer",
                x_m=(-hammer_m, hammer_m),
                y_m=(-hammer_m, hammer_m),
                z_m=(0.017, 0.017),
                yaw_rad=(-hammer_turn_rad, hammer_turn_rad),
                reference_m=(-0.12, -0.10, _TABLE_M),
                quat_wxyz=_ALONG_Y,
                radius_m=0.15,
            ),
            PlacementSpec(
                object="bin",
                x_m=(-bin_m, bin_m),
                y_m=(-bin_m, bin_m),
                z_m=(0.0, 0.0),
                yaw_rad=(-bin_turn_rad, bin_turn_rad),
                reference_m=(0.2, 0.18, _TABLE_M),
                radius_m=0.18,
            ),
        )
    )


_RIGHT, _LEFT = (held("hammer", tuple(TWO_PANDAS.eefs[side].fingers)) for side in ("right", "left"))

TASK = TaskSpec(
    name="two_arm_handover",
    description="One Panda hands a hammer to the other, which lays it into a bin.",
    instruction="Hand the hammer over to the other arm and lay it into the bin.",
    paraphrases=(
        "Pass the hammer from one arm to the other and put it into the blue bin.",
        "Pick up the hammer, give it to the other hand, and place it in the bin.",
        "Give the hammer to the left arm so that it can lay it into the bin.",
        "Bring the hammer into the bin with both arms.",
    ),
    robot=TWO_PANDAS,
    scene=SceneSpec(
        base="table",
        parts={"hammer": HAMMER, "bin": BIN},
        cameras={"front_view": FRONT_VIEW},
        objects={"hammer": ObjectSpec.of_part("hammer"), "bin": ObjectSpec.of_part("bin")},
        contacts=grasp_contacts("hammer", fingers=tuple(f for e in TWO_PANDAS.eefs.values() for f in e.fingers)),
        clearances_mm={
            "handle between the open fingers": 59.0,
            "hands apart on the handle": 160.0,
            "hammer in the bin, lengthwise": 70.0,
            "hammer in the bin, across": 100.0,
        },
    ),
    resets={
        "D0": _reset(0.05, math.radians(25), 0.03, math.radians(10)),
        "D1": _reset(0.10, math.radians(50), 0.06, math.radians(25)),
    },
    subtasks={
        "right": (
            SubtaskSpec(name="pick", object_ref="hammer", end_signal="picked", grasps="hammer"),
            # Where it is handed over depends on the arms: the place is the demo's, and the way there may be long.
            SubtaskSpec(
                name="give",
                object_ref=None,
                end_signal="handed_over",
                carries="hammer",
                selection=Selection(strategy="random"),
                interpolation_steps=15,
            ),
            SubtaskSpec(name="leave", object_ref=None, selection=Selection(strategy="random")),
        ),
        "left": (
            SubtaskSpec(
                name="take",
                object_ref=None,
                end_signal="handed_over",
                grasps="hammer",
                selection=Selection(strategy="random"),
            ),
            SubtaskSpec(name="stow", object_ref="bin", carries="hammer", interpolation_steps=15),
        ),
    },
    constraints=(
        # Replayed, no object is followed; it is named for the schemes that may be asked for instead.
        Coordination(
            subtasks={"right": "give", "left": "take"}, scheme="replay", object_ref="hammer", synchronise_start=False
        ),
    ),
    signals={
        "picked": every(_RIGHT, above("hammer", _TABLE_M + 0.08)),
        "handed_over": every(_LEFT, away("hammer", "right", _GONE_M)),
    },
    held={"right:hammer": _RIGHT, "left:hammer": _LEFT},
    success=every(
        inside("hammer", "bin", (-0.08, -0.17, 0.0), (0.08, 0.17, 0.04)),
        away("hammer", "right", _GONE_M),
        away("hammer", "left", _GONE_M),
    ),
)
