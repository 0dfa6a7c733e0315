"""Door: turn the latch and pull the door open (robosuite's Door).

The door's frame is fixed in the world, so starts edit the model.
"""

from __future__ import annotations

import math

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import grasp_contacts, held, joint_beyond

LATCH_TURNED_RAD = 1.25
"""From here on the latch no longer catches the frame: pulled with 2 N m it holds at 1.2 rad and lets go at 1.3."""


def _reset(x_m: tuple[float, float], y_m: tuple[float, float], yaw_rad: tuple[float, float]) -> ResetSpec:
    door = PlacementSpec(
        object="door",
        x_m=x_m,
        y_m=y_m,
        z_m=(0.3, 0.3),  # the door's half height
        yaw_rad=yaw_rad,
        reference_m=(-0.2, -0.35, 0.8),
        quat_wxyz=(math.sqrt(0.5), 0.0, 0.0, -math.sqrt(0.5)),
        radius_m=0.3,
    )
    return ResetSpec(placements=(door,))


TASK = TaskSpec(
    name="door",
    description="Turn a latch and pull a door open.",
    instruction="Turn the handle and pull the door open.",
    paraphrases=(
        "Open the door.",
        "Push the door's handle down and pull.",
        "Unlatch the door and open it.",
        "Grab the handle, turn it, and pull the door towards you.",
    ),
    robot=PANDA,
    scene=SceneSpec(
        base="Door",
        options={"seed": 0},
        objects={
            "door": ObjectSpec(frame="body:Door_main", body="Door_main", contact=("body:Door_main",)),
            "handle": ObjectSpec(frame="body:Door_latch", body="Door_latch", contact=("body:Door_latch",)),
        },
        joints={"hinge": ("Door_hinge",), "latch": ("Door_latch_joint",)},
        contacts=grasp_contacts("handle"),
        # Handle 30 mm thick, pads of the open hand 79 mm apart.
        clearances_mm={"handle between the open fingers": 49.0},
    ),
    resets={
        "D0": _reset((0.07, 0.09), (-0.01, 0.01), (-0.25, 0.0)),
        "D1": _reset((0.04, 0.12), (-0.04, 0.04), (-0.5, 0.1)),
    },
    subtasks={
        "right": (
            SubtaskSpec(name="turn", object_ref="door", end_signal="latch_turned", grasps="handle"),
            SubtaskSpec(name="pull", object_ref="door", carries="handle"),
        )
    },
    signals={"latch_turned": joint_beyond("latch", LATCH_TURNED_RAD)},
    held={"handle": held("handle")},
    success=joint_beyond("hinge", 0.3),
    settle_steps=5,  # nothing falls; the arm comes to rest
    environments=("Door", "Door_D0"),
)
