"""Stack three: a tower of three cubes, in a scene of our own (starts as in MimicGen's D0 and D1)."""

from __future__ import annotations

from factory.specs import BoxSpec, ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import above, both, grasp_contacts, held, stacked

_TABLE_M = 0.8
"""Height of the table's surface."""

_HALF_EDGE_M = {"cubeA": 0.02, "cubeB": 0.025, "cubeC": 0.02}


def _box(name: str, rgba: tuple[float, float, float, float], material: str) -> BoxSpec:
    half = _HALF_EDGE_M[name]
    return BoxSpec(half_size_m=(half, half, half), rgba=rgba, material=material)


def _object(name: str) -> ObjectSpec:
    return ObjectSpec(frame=f"body:{name}_main", body=f"{name}_main", contact=(f"body:{name}_main",), yaw_symmetry=4)


def _cube(name: str, half_range_m: float) -> PlacementSpec:
    half = _HALF_EDGE_M[name]
    return PlacementSpec(
        object=name,
        x_m=(-half_range_m, half_range_m),
        y_m=(-half_range_m, half_range_m),
        z_m=(half + 0.01, half + 0.01),  # dropped from 1 cm, as in robosuite's Stack
        reference_m=(0.0, 0.0, _TABLE_M),
        radius_m=half * 2**0.5,
    )


def _reset(half_range_m: float) -> ResetSpec:
    return ResetSpec(placements=tuple(_cube(name, half_range_m) for name in _HALF_EDGE_M))


_A_ON_B = stacked("cubeA", "cubeB", _TABLE_M + 0.04)
_C_ON_A = stacked("cubeC", "cubeA", _TABLE_M + 0.08)

TASK = TaskSpec(
    name="stack_three",
    description="Build a tower of three cubes.",
    instruction="Stack the red cube on the green cube, then the blue cube on the red cube.",
    paraphrases=(
        "Build a tower: green at the bottom, red in the middle, blue on top.",
        "Put the red block on the green block and the blue block on the red block.",
        "Stack all three cubes, with the blue one on top and the green one at the bottom.",
        "Place red on green, then place blue on red.",
    ),
    robot=PANDA,
    scene=SceneSpec(
        base="table",
        boxes={
            "cubeA": _box("cubeA", (1.0, 0.0, 0.0, 1.0), "WoodRed"),
            "cubeB": _box("cubeB", (0.0, 1.0, 0.0, 1.0), "WoodGreen"),
            "cubeC": _box("cubeC", (0.0, 0.0, 1.0, 1.0), "WoodBlue"),
        },
        objects={name: _object(name) for name in _HALF_EDGE_M},
        contacts=(*grasp_contacts("cubeA", "cubeB", "cubeC"), ("cubeA", "cubeB"), ("cubeC", "cubeA")),
        # The pads of the open hand are 79 mm apart; a cube stays while its centre is over the face below.
        clearances_mm={
            "cubeA or cubeC between the open fingers": 39.0,
            "centre of cubeA off the centre of cubeB": 25.0,
            "centre of cubeC off the centre of cubeA": 20.0,
        },
    ),
    resets={"D0": _reset(0.10), "D1": _reset(0.20)},
    subtasks={
        "right": (
            SubtaskSpec(
                name="grasp A",
                object_ref="cubeA",
                end_signal="cubeA_grasped",
                grasps="cubeA",
                end_jitter_steps=(10, 20),
            ),
            SubtaskSpec(
                name="place A",
                object_ref="cubeB",
                end_signal="cubeA_stacked",
                carries="cubeA",
                end_jitter_steps=(10, 20),
            ),
            SubtaskSpec(
                name="grasp C",
                object_ref="cubeC",
                end_signal="cubeC_grasped",
                grasps="cubeC",
                end_jitter_steps=(10, 20),
            ),
            SubtaskSpec(name="place C", object_ref="cubeA", carries="cubeC"),
        )
    },
    signals={"cubeA_grasped": held("cubeA"), "cubeA_stacked": _A_ON_B, "cubeC_grasped": held("cubeC")},
    held={"cubeA": held("cubeA"), "cubeB": held("cubeB"), "cubeC": held("cubeC")},
    success=both(_A_ON_B, _C_ON_A),
    needs={"cubeA": above("cubeA", _TABLE_M + 0.04), "cubeC": above("cubeC", _TABLE_M + 0.08)},
    settle_steps=10,
    aliases={"grasp_1": "cubeA_grasped", "stack_1": "cubeA_stacked", "grasp_2": "cubeC_grasped"},
    environments=("StackThree", "StackThree_D0", "StackThree_D1"),
)
