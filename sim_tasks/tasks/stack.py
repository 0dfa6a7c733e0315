"""Stack: put the small cube on the larger one (robosuite's Stack; starts as in MimicGen's D0 and D1)."""

from __future__ import annotations

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import above, grasp_contacts, held, stacked

_TABLE_M = 0.8
"""Height of the table's surface."""


def _cube(name: str, half_edge_m: float, half_range_m: float) -> PlacementSpec:
    return PlacementSpec(
        object=name,
        x_m=(-half_range_m, half_range_m),
        y_m=(-half_range_m, half_range_m),
        z_m=(half_edge_m + 0.01, half_edge_m + 0.01),  # robosuite drops them from 1 cm
        reference_m=(0.0, 0.0, _TABLE_M),
        radius_m=half_edge_m * 2**0.5,
    )


def _reset(half_range_m: float) -> ResetSpec:
    return ResetSpec(placements=(_cube("cubeA", 0.02, half_range_m), _cube("cubeB", 0.025, half_range_m)))


TASK = TaskSpec(
    name="stack",
    description="Stack a cube on another.",
    instruction="Stack the red cube on top of the green cube.",
    paraphrases=(
        "Put the red block on the green block.",
        "Pick up the red cube and place it on the green one.",
        "Place the small red cube on top of the larger green cube.",
        "Build a tower of two with the red cube on the green cube.",
    ),
    robot=PANDA,
    scene=SceneSpec(
        base="Stack",
        options={"seed": 0},
        objects={
            "cubeA": ObjectSpec(
                frame="body:cubeA_main", body="cubeA_main", contact=("body:cubeA_main",), yaw_symmetry=4
            ),
            "cubeB": ObjectSpec(
                frame="body:cubeB_main", body="cubeB_main", contact=("body:cubeB_main",), yaw_symmetry=4
            ),
        },
        contacts=(*grasp_contacts("cubeA", "cubeB"), ("cubeA", "cubeB")),
        # The pads of the open hand are 79 mm apart; cube A stays on B while its centre is over B's 50 mm face.
        clearances_mm={"cubeA between the open fingers": 39.0, "centre of cubeA off the centre of cubeB": 25.0},
    ),
    resets={"D0": _reset(0.08), "D1": _reset(0.20)},
    subtasks={
        "right": (
            SubtaskSpec(
                name="grasp", object_ref="cubeA", end_signal="cubeA_grasped", grasps="cubeA", end_jitter_steps=(10, 20)
            ),
            SubtaskSpec(name="place", object_ref="cubeB", carries="cubeA"),
        )
    },
    signals={"cubeA_grasped": held("cubeA")},
    held={"cubeA": held("cubeA"), "cubeB": held("cubeB")},
    # 4 cm: cube A's centre cannot be higher than 2.9 cm while one of its edges is on the table.
    success=stacked("cubeA", "cubeB", _TABLE_M + 0.04),
    needs={"cubeA": above("cubeA", _TABLE_M + 0.04)},
    settle_steps=10,
    aliases={"grasp": "cubeA_grasped"},
    environments=("Stack", "Stack_D0", "Stack_D1"),
)
