"""Lift: take a cube off the table (robosuite's Lift)."""

from __future__ import annotations

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import above, grasp_contacts, held

_TABLE_M = 0.8
"""Height of the table's surface."""


def _reset(half_range_m: float) -> ResetSpec:
    cube = PlacementSpec(
        object="cube",
        x_m=(-half_range_m, half_range_m),
        y_m=(-half_range_m, half_range_m),
        z_m=(0.03, 0.03),  # half a cube and the 1 cm from which robosuite drops it
        reference_m=(0.0, 0.0, _TABLE_M),
        radius_m=0.0295,
    )
    return ResetSpec(placements=(cube,))


TASK = TaskSpec(
    name="lift",
    description="Lift a cube off the table.",
    instruction="Pick up the red cube and lift it off the table.",
    paraphrases=(
        "Lift the red cube.",
        "Grab the red block and raise it above the table.",
        "Take hold of the cube and hold it up.",
        "Pick the red block up from the table.",
    ),
    robot=PANDA,
    scene=SceneSpec(
        base="Lift",
        # robosuite draws the cube's size when it builds the scene (4.0 to 4.4 cm an edge); the seed makes it the same
        # everywhere: 40.1 x 42.9 x 40.7 mm.
        options={"seed": 0},
        objects={
            "cube": ObjectSpec(frame="body:cube_main", body="cube_main", contact=("body:cube_main",), yaw_symmetry=4)
        },
        contacts=grasp_contacts("cube"),
        # The pads of the open hand are 79.0 mm apart.
        clearances_mm={"cube between the open fingers": 36.1},
    ),
    resets={"D0": _reset(0.03), "D1": _reset(0.12)},
    subtasks={
        "right": (
            SubtaskSpec(
                name="grasp", object_ref="cube", end_signal="cube_grasped", grasps="cube", end_jitter_steps=(10, 20)
            ),
            SubtaskSpec(name="lift", object_ref="cube", carries="cube"),
        )
    },
    signals={"cube_grasped": held("cube")},
    held={"cube": held("cube")},
    success=above("cube", _TABLE_M + 0.04),
    needs={"cube": above("cube", _TABLE_M + 0.04)},
    settle_steps=10,
    aliases={"grasp": "cube_grasped"},
    environments=("Lift", "Lift_D0", "Lift_D1"),
)
