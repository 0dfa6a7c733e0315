"""Isaac Lab's GR1T2 pours a nut from a beaker into a bowl and weighs it: settings as in its own Mimic configuration.

As in `isaac_gr1_pick_place`, the signals are marked by a person and read from the file.
"""

from __future__ import annotations

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.tasks.isaac_robots import ISAAC_GR1T2
from sim_tasks.tasks.isaac_terms import reports, terms

_NOISE = 0.003
_MARKED = ("idle_right", "grasp_right", "grasp_left")
_BEAKER_M = (-0.13739, 0.45793, 0.9861)


def _placed(name: str, reference_m: tuple[float, float, float]) -> PlacementSpec:
    return PlacementSpec(
        object=name,
        x_m=(-0.01, 0.01),
        y_m=(-0.01, 0.01),
        z_m=(0.0, 0.0),
        yaw_rad=(0.0, 0.0),
        reference_m=reference_m,
    )


TASK = TaskSpec(
    name="isaac_gr1_nut_pouring",
    description="Pour a nut into a bowl and put the bowl on a scale with a GR1T2 in Isaac Lab; needs capability isaac.",
    instruction="Pour the nut from the red beaker into the yellow bowl, then put the bowl on the scale.",
    paraphrases=("Empty the beaker into the bowl, drop the beaker in the bin, and weigh the bowl.",),
    robot=ISAAC_GR1T2,
    scene=SceneSpec(
        base="Isaac-NutPour-GR1T2-Pink-IK-Abs-Mimic-v0",
        options={"pinocchio": True},
        objects={
            name: ObjectSpec(frame=f"object:{name}", body=name)
            for name in ("sorting_bowl", "sorting_scale", "sorting_beaker", "factory_nut", "black_sorting_bin")
        },
        contacts=terms(*_MARKED, "success"),
    ),
    resets={
        "D0": ResetSpec(
            placements=(
                _placed("sorting_beaker", _BEAKER_M),
                PlacementSpec(
                    object="factory_nut",
                    on="sorting_beaker",
                    x_m=(0.0, 0.0),
                    y_m=(0.0, 0.0),
                    z_m=(0.0, 0.0),
                    yaw_rad=(0.0, 0.0),
                    reference_m=(0.0, 0.0, 0.0134),
                ),
                _placed("sorting_bowl", (0.02779, 0.43007, 0.9860)),
                _placed("sorting_scale", (0.22236, 0.56, 0.9859)),
            ),
            joint_noise_rad=0.0,
        )
    },
    subtasks={
        "right": (
            SubtaskSpec(name="wait", object_ref="sorting_bowl", end_signal="idle_right", noise_normalised=_NOISE),
            SubtaskSpec(
                name="grasp bowl",
                object_ref="sorting_bowl",
                end_signal="grasp_right",
                grasps="sorting_bowl",
                interpolation_steps=3,
                noise_normalised=_NOISE,
            ),
            SubtaskSpec(
                name="weigh bowl",
                object_ref="sorting_scale",
                carries="sorting_bowl",
                interpolation_steps=3,
                noise_normalised=_NOISE,
            ),
        ),
        "left": (
            SubtaskSpec(
                name="grasp beaker",
                object_ref="sorting_beaker",
                end_signal="grasp_left",
                grasps="sorting_beaker",
                noise_normalised=_NOISE,
            ),
            SubtaskSpec(name="pour", object_ref="sorting_bowl", carries="sorting_beaker", noise_normalised=_NOISE),
        ),
    },
    signals={name: reports(name) for name in _MARKED},
    success=reports("success"),
    environments=("Isaac-NutPour-GR1T2-Pink-IK-Abs-Mimic-v0", "Isaac-NutPour-GR1T2-Pink-IK-Abs-v0"),
)
