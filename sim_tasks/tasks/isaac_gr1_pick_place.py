"""Isaac Lab's GR1T2 puts a steering wheel into a basket: settings as in its own Mimic configuration.

The environment has no signals of its own: where the right arm's first subtask ends is marked by a person when a
demonstration is annotated, and read from the file.
"""

from __future__ import annotations

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.tasks.isaac_robots import ISAAC_GR1T2
from sim_tasks.tasks.isaac_terms import reports, terms

_NOISE = 0.003

TASK = TaskSpec(
    name="isaac_gr1_pick_place",
    description="Put a steering wheel into a basket with a GR1T2 in Isaac Lab; needs the capability isaac.",
    instruction="Pick up the steering wheel and place it in the basket.",
    paraphrases=("Put the steering wheel into the basket.",),
    robot=ISAAC_GR1T2,
    scene=SceneSpec(
        base="Isaac-PickPlace-GR1T2-Abs-Mimic-v0",
        options={"pinocchio": True},
        objects={"object": ObjectSpec(frame="object:object", body="object")},
        contacts=terms("idle_right", "success"),
    ),
    resets={
        "D0": ResetSpec(
            placements=(
                PlacementSpec(
                    object="object",
                    x_m=(-0.01, 0.01),
                    y_m=(-0.01, 0.01),
                    z_m=(0.0, 0.0),
                    yaw_rad=(0.0, 0.0),
                    reference_m=(-0.45, 0.45, 0.9996),
                ),
            ),
            joint_noise_rad=0.0,
        )
    },
    subtasks={
        "right": (
            SubtaskSpec(
                name="wait",
                object_ref="object",
                end_signal="idle_right",
                interpolation_steps=0,
                noise_normalised=_NOISE,
            ),
            SubtaskSpec(name="pick place", object_ref="object", interpolation_steps=3, noise_normalised=_NOISE),
        ),
        "left": (SubtaskSpec(name="assist", object_ref="object", interpolation_steps=0, noise_normalised=_NOISE),),
    },
    signals={"idle_right": reports("idle_right")},
    success=reports("success"),
    environments=("Isaac-PickPlace-GR1T2-Abs-Mimic-v0", "Isaac-PickPlace-GR1T2-Abs-v0"),
)
