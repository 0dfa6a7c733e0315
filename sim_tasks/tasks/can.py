"""Can: carry a can from one bin to its quarter of the other (robosuite's PickPlaceCan).

The target bin moves in D1 by editing the model. robosuite's single-object mode puts its other objects out of the way.
"""

from __future__ import annotations

from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import both, grasp_contacts, held, released, within

_BIN1_M = (0.1, -0.25, 0.8)
_BIN2_M = (0.1, 0.28, 0.8)
_BIN_SIZE_M = (0.39, 0.49)
_CAN_RADIUS_M = 0.025

# robosuite: the can's rim stays 5 cm from the walls.
_HALF_X_M = _BIN_SIZE_M[0] / 2 - 0.05 - _CAN_RADIUS_M
_HALF_Y_M = _BIN_SIZE_M[1] / 2 - 0.05 - _CAN_RADIUS_M

_CAN = PlacementSpec(
    object="can",
    x_m=(-_HALF_X_M, _HALF_X_M),
    y_m=(-_HALF_Y_M, _HALF_Y_M),
    z_m=(0.06, 0.06),  # the can's middle when it stands on the bin's floor
    reference_m=_BIN1_M,
    radius_m=_CAN_RADIUS_M,
)

_BIN = PlacementSpec(
    object="bin",
    x_m=(-0.1, 0.1),
    y_m=(0.0, 0.1),  # never nearer: the bins' walls are 1 cm apart as robosuite builds them
    z_m=(0.0, 0.0),
    yaw_rad=(0.0, 0.0),
    reference_m=_BIN2_M,
)

# robosuite: the can's middle is over the quarter with larger x and y, and less than 10 cm above the bin's frame.
_IN_COMPARTMENT = within("can", "bin", (0.0, 0.0, 0.0), (_BIN_SIZE_M[0] / 2, _BIN_SIZE_M[1] / 2, 0.1))

TASK = TaskSpec(
    name="can",
    description="Move a can from one bin to its place in another.",
    instruction="Pick up the can and put it into its compartment of the other bin.",
    paraphrases=(
        "Move the can from the near bin to the far compartment of the other bin.",
        "Put the soda can in the right compartment.",
        "Grab the can and drop it into its bin.",
        "Sort the can into its compartment.",
    ),
    robot=PANDA,
    scene=SceneSpec(
        base="PickPlaceCan",
        options={"seed": 0},
        objects={
            "can": ObjectSpec(frame="body:Can_main", body="Can_main", contact=("body:Can_main",), yaw_symmetry=36),
            "bin": ObjectSpec(frame="body:bin2", body="bin2", contact=("body:bin2",)),
        },
        contacts=grasp_contacts("can"),
        # Can 50 mm across, pads of the open hand 79 mm apart; the compartment is 180 mm wide inside.
        clearances_mm={"can between the open fingers": 29.0, "can in its compartment": 130.0},
        hidden_bodies=("VisualMilk_main", "VisualBread_main", "VisualCereal_main", "VisualCan_main"),
    ),
    resets={"D0": ResetSpec(placements=(_CAN,)), "D1": ResetSpec(placements=(_CAN, _BIN))},
    subtasks={
        "right": (
            SubtaskSpec(
                name="grasp", object_ref="can", end_signal="can_grasped", grasps="can", end_jitter_steps=(10, 20)
            ),
            SubtaskSpec(name="place", object_ref="bin", carries="can"),
        )
    },
    signals={"can_grasped": held("can")},
    held={"can": held("can")},
    success=both(_IN_COMPARTMENT, released("can")),
    needs={"can": _IN_COMPARTMENT},  # the bins cannot move
    settle_steps=10,
    aliases={"grasp": "can_grasped", "Can": "can"},
    environments=("PickPlaceCan", "Can", "Can_D0"),
)
