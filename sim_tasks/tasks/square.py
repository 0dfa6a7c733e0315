"""Square: put the square nut on its peg (robosuite's NutAssemblySquare; starts as in MimicGen's D0, D1 and D2).

The peg is fixed in the world, so variants that move it edit the model. The round nut and the round peg of robosuite's
scene are out of the way in every variant, because the square peg may come to stand where the round one does.
"""

from __future__ import annotations

import math

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import both, grasp_contacts, held, released, within

_TABLE_M = 0.82
"""Height of the table's surface, 2 cm above that of the cube tasks."""

_PEG_ABOVE_TABLE_M = 0.03
"""Height of the peg's frame; it reaches from 7 cm below the surface to 13 cm above it."""


def _nut(x_m: tuple[float, float], y_m: tuple[float, float]) -> PlacementSpec:
    return PlacementSpec(
        object="nut",
        x_m=x_m,
        y_m=y_m,
        z_m=(0.07, 0.07),  # robosuite lets it fall 6 cm
        reference_m=(0.0, 0.0, _TABLE_M),
        radius_m=0.11,  # robosuite's own figure; the handle ends 8 cm from the middle of the hole
    )


def _peg(x_m: tuple[float, float], y_m: tuple[float, float], yaw_rad: tuple[float, float]) -> PlacementSpec:
    return PlacementSpec(
        object="peg",
        x_m=x_m,
        y_m=y_m,
        z_m=(_PEG_ABOVE_TABLE_M, _PEG_ABOVE_TABLE_M),
        yaw_rad=yaw_rad,
        reference_m=(0.0, 0.0, _TABLE_M),
        radius_m=0.023,
    )


# robosuite: within 3 cm of the peg's axis and below 5 cm over the table, which is 2 cm above the peg's frame; no lower
# bound there, and -0.1 m, below the table, is none here.
_ON_PEG = within("nut", "peg", (-0.03, -0.03, -0.1), (0.03, 0.03, 0.05 - _PEG_ABOVE_TABLE_M))

TASK = TaskSpec(
    name="square",
    description="Put a square nut on a square peg.",
    instruction="Pick up the square nut by its handle and put it on the square peg.",
    paraphrases=(
        "Place the square nut over the square peg.",
        "Fit the square nut onto its peg.",
        "Grab the nut's handle and slide the nut down the peg.",
        "Assemble the square nut and the square peg.",
    ),
    robot=PANDA,
    scene=SceneSpec(
        base="NutAssemblySquare",
        options={"seed": 0},
        objects={
            "nut": ObjectSpec(frame="body:SquareNut_main", body="SquareNut_main", contact=("body:SquareNut_main",)),
            "peg": ObjectSpec(frame="body:peg1", body="peg1", contact=("body:peg1",), yaw_symmetry=4),
        },
        contacts=(*grasp_contacts("nut"), ("nut", "peg")),
        # Hole 45.5 mm, peg 32 mm; pads of the open hand 79 mm apart, handle 31.8 mm wide.
        clearances_mm={"nut over peg": 13.5, "handle between the open fingers": 47.3},
        hidden_bodies=("peg2", "RoundNut_main"),
    ),
    resets={
        "D0": ResetSpec(placements=(_nut((-0.115, -0.11), (0.11, 0.225)),)),
        "D1": ResetSpec(
            placements=(_nut((-0.115, 0.115), (-0.255, 0.255)), _peg((-0.1, 0.3), (-0.2, 0.2), (0.0, 0.0))),
        ),
        "D2": ResetSpec(
            placements=(_nut((-0.25, 0.25), (-0.25, 0.25)), _peg((-0.25, 0.25), (-0.25, 0.25), (0.0, math.pi / 2))),
        ),
    },
    subtasks={
        "right": (
            SubtaskSpec(
                name="grasp", object_ref="nut", end_signal="nut_grasped", grasps="nut", end_jitter_steps=(10, 20)
            ),
            SubtaskSpec(name="insert", object_ref="peg", carries="nut"),
        )
    },
    signals={"nut_grasped": held("nut")},
    held={"nut": held("nut")},
    success=both(_ON_PEG, released("nut")),
    needs={"nut": _ON_PEG},  # the peg cannot move
    settle_steps=20,  # falling 6 cm and coming to rest takes about half a second
    aliases={"square_nut": "nut", "square_peg": "peg", "SquareNut": "nut", "peg1": "peg", "grasp": "nut_grasped"},
    environments=("NutAssemblySquare", "Square", "Square_D0", "Square_D1", "Square_D2"),
)
