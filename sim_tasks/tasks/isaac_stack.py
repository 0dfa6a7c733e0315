"""Isaac Lab's tower of three cubes with a Franka: starts, subtasks and settings as in its own Mimic configuration."""

from __future__ import annotations

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.tasks.isaac_robots import ISAAC_FRANKA
from sim_tasks.tasks.isaac_terms import reports, terms

_CUBES = ("cube_1", "cube_2", "cube_3")
"""Blue, red, green."""
_NOISE = 0.03
_JITTER_STEPS = (10, 20)


def _cube(name: str) -> PlacementSpec:
    return PlacementSpec(
        object=name,
        x_m=(0.4, 0.6),
        y_m=(-0.1, 0.1),
        z_m=(0.0203, 0.0203),
        yaw_rad=(-1.0, 1.0),
        reference_m=(0.0, 0.0, 0.0),
        radius_m=0.05,  # centres at least 10 cm apart
    )


TASK = TaskSpec(
    name="isaac_stack",
    description="Build a tower of three cubes in Isaac Lab; needs a worker with the capability isaac.",
    instruction="Stack the red cube on the blue cube, then the green cube on the red cube.",
    paraphrases=(
        "Build a tower: blue at the bottom, red in the middle, green on top.",
        "Put the red block on the blue block and the green block on the red block.",
    ),
    robot=ISAAC_FRANKA,
    scene=SceneSpec(
        base="Isaac-Stack-Cube-Franka-IK-Rel-Mimic-v0",
        objects={name: ObjectSpec(frame=f"object:{name}", body=name, yaw_symmetry=4) for name in _CUBES},
        contacts=terms("grasp_1", "stack_1", "grasp_2", "success"),
    ),
    resets={"D0": ResetSpec(placements=tuple(_cube(name) for name in _CUBES))},
    subtasks={
        "right": (
            SubtaskSpec(
                name="grasp red",
                object_ref="cube_2",
                end_signal="grasp_1",
                grasps="cube_2",
                noise_normalised=_NOISE,
                end_jitter_steps=_JITTER_STEPS,
            ),
            SubtaskSpec(
                name="place red",
                object_ref="cube_1",
                end_signal="stack_1",
                carries="cube_2",
                noise_normalised=_NOISE,
                end_jitter_steps=_JITTER_STEPS,
            ),
            SubtaskSpec(
                name="grasp green",
                object_ref="cube_3",
                end_signal="grasp_2",
                grasps="cube_3",
                noise_normalised=_NOISE,
                end_jitter_steps=_JITTER_STEPS,
            ),
            SubtaskSpec(name="place green", object_ref="cube_2", carries="cube_3", noise_normalised=_NOISE),
        )
    },
    signals={name: reports(name) for name in ("grasp_1", "stack_1", "grasp_2")},
    held={"cube_2": reports("grasp_1"), "cube_3": reports("grasp_2")},
    success=reports("success"),
    environments=("Isaac-Stack-Cube-Franka-IK-Rel-Mimic-v0", "Isaac-Stack-Cube-Franka-IK-Rel-v0"),
)
