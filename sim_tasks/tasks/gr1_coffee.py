"""GR-1 coffee: the right hand puts a tall pod into the holder of a machine, then the left hand shuts its lid.

The lid stands open, leaning back a little; a push of the hand brings it over, and it falls shut by its own weight.
"""

from __future__ import annotations

import math

from factory.constraints import Ordering
from factory.parts import BodySpec, Colour, GeomSpec, HingeSpec, Triple, tube
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, GR1, GR1_EGO_VIEW, GR1_TABLE
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside, joint_beyond, upright

_TOP_M = GR1_TABLE.top_m
_GRIP = (1.5, 0.005, 0.0001)
_DARK, _STEEL, _GOLD, _CREAM = (0.2, 0.2, 0.22, 1), (0.65, 0.66, 0.69, 1), (0.72, 0.5, 0.2, 1), (0.92, 0.88, 0.8, 1)

GRASP_M = 0.075
"""Height of the pod's frame above its foot, where the hand takes it: half a hand's width, and 2 cm to clear a rim."""
_POD_M, _POD_HEIGHT_M = 0.03, 0.13
FLOOR_M = 0.01
"""Height of the holder's floor above the table; the machine's frame is below its middle, on the table."""
_HOLDER_M, _RIM_M = 0.045, 0.018
"""Inner radius of the holder, and the height of its rim above its floor."""

HINGE_Y_M, HINGE_Z_M = 0.09, 0.17
"""Where the lid turns, in the machine's frame: to the left of the holder, higher than a pod that stands in it."""
LID_M = 0.13
"""From the lid's hinge to its free edge."""
LEANS_RAD = math.radians(15)
"""How far the open lid leans back to the left."""
_SHUT_RAD = math.pi / 2 + LEANS_RAD
_NEARLY_RAD = math.radians(6)

_POD_AT_M, _MACHINE_AT_M = (0.075, -0.12), (-0.06, -0.06)
_GONE_M = 0.13
"""The grip frame at the wrist is 9 cm from the axis of what the hand holds."""


def _block(size_m: Triple, pos_m: Triple, rgba: Colour, density: float = 1000.0) -> GeomSpec:
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    return GeomSpec(shape="box", size_m=half, pos_m=pos_m, rgba=rgba, density=density)


def _pod() -> BodySpec:
    """Return an upright pod with a foil band at its foot and one at its top."""

    def band(low_m: float, high_m: float, rgba: Colour) -> GeomSpec:
        return GeomSpec(
            shape="cylinder",
            size_m=(_POD_M, (high_m - low_m) / 2),
            pos_m=(0.0, 0.0, (low_m + high_m) / 2 - GRASP_M),
            rgba=rgba,
            density=200.0,
            friction=_GRIP,
        )

    top = _POD_HEIGHT_M
    return BodySpec(geoms=(band(0.0, 0.02, _GOLD), band(0.02, top - 0.01, _CREAM), band(top - 0.01, top, _GOLD)))


_MACHINE = BodySpec(
    geoms=(
        _block((0.12, 0.205, FLOOR_M), (0.0, 0.0475, FLOOR_M / 2), _DARK),
        _block((0.12, 0.06, HINGE_Z_M), (0.0, HINGE_Y_M + 0.03, HINGE_Z_M / 2), _DARK),
        *tube(_HOLDER_M, 0.005, _RIM_M, pos_m=(0.0, 0.0, FLOOR_M + _RIM_M / 2), rgba=_STEEL),
    ),
    joint="fixed",
)
_LID = BodySpec(
    geoms=(_block((0.12, 0.008, LID_M), (0.0, 0.0, LID_M / 2), _STEEL, density=500.0),),
    joint=HingeSpec(axis=(1.0, 0.0, 0.0), range_rad=(0.0, _SHUT_RAD), damping=0.02),
    parent="machine",
    pos_m=(0.0, HINGE_Y_M, HINGE_Z_M + 0.005),
    quat_wxyz=(math.cos(LEANS_RAD / 2), -math.sin(LEANS_RAD / 2), 0.0, 0.0),
)


def _reset(wide: float) -> ResetSpec:
    """Return starts: D0 for 1, D1 for 2."""

    def place(
        name: str, half_m: tuple[float, float], at_m: tuple[float, float], z_m: float, radius_m: float
    ) -> PlacementSpec:
        (x_m, y_m), turn = half_m, math.radians(5.0) * wide
        return PlacementSpec(
            object=name,
            x_m=(-x_m * wide, x_m * wide),
            y_m=(-y_m * wide, y_m * wide),
            z_m=(z_m, z_m),
            yaw_rad=(-turn, turn),
            reference_m=(*at_m, _TOP_M),
            radius_m=radius_m,
        )

    return ResetSpec(
        placements=(
            place("pod", (0.02, 0.015), _POD_AT_M, GRASP_M + 0.001, _POD_M),
            place("machine", (0.015, 0.01), _MACHINE_AT_M, 0.0, 0.075),
        )
    )


_FINGERS = tuple(GR1.eefs["right"].fingers)
_HELD = held("pod", _FINGERS)
_MIDDLE_M = FLOOR_M + GRASP_M
_LOADED = every(
    inside("pod", "machine", (-0.02, -0.02, _MIDDLE_M - 0.01), (0.02, 0.02, _MIDDLE_M + 0.01)),
    upright("pod", math.radians(15)),
    away("pod", "right", _GONE_M),
)

TASK = TaskSpec(
    name="gr1_coffee",
    description="A GR-1 puts a pod into a coffee machine with one hand and shuts its lid with the other.",
    instruction="Put the coffee pod into the machine and shut the lid.",
    paraphrases=(
        "Load the coffee machine with the pod, then close its lid.",
        "Place the pod in the machine's holder and close the lid with the left hand.",
        "Get the coffee machine ready: pod in, lid shut.",
        "Set the pod into the holder and push the lid shut.",
    ),
    robot=GR1,
    scene=SceneSpec(
        base="table",
        parts={"pod": _pod(), "machine": _MACHINE, "lid": _LID},
        table=GR1_TABLE,
        cameras={"front_view": FRONT_VIEW, "ego_view": GR1_EGO_VIEW},
        objects={"pod": ObjectSpec.of_part("pod", yaw_symmetry=36), "machine": ObjectSpec.of_part("machine")},
        joints={"lid": ("lid_joint",)},
        contacts=grasp_contacts("pod", fingers=_FINGERS),
        clearances_mm={
            "pod in the holder, across": 1e3 * 2 * (_HOLDER_M - _POD_M),
            "pod below the shut lid": 1e3 * (HINGE_Z_M - FLOOR_M - _POD_HEIGHT_M),
            "pod beside the open lid": 1e3 * (HINGE_Y_M - _POD_M),
        },
    ),
    resets={"D0": _reset(1.0), "D1": _reset(2.0)},
    subtasks={
        "right": (
            SubtaskSpec(name="pick", object_ref="pod", end_signal="picked", grasps="pod"),
            SubtaskSpec(name="place", object_ref="machine", end_signal="loaded", carries="pod", interpolation_steps=15),
            SubtaskSpec(name="leave", object_ref="machine"),
        ),
        "left": (SubtaskSpec(name="shut", object_ref="machine"),),
    },
    constraints=(Ordering(first=("right", "place"), then=("left", "shut")),),
    signals={
        "picked": every(_HELD, above("pod", _TOP_M + GRASP_M + 0.06)),
        "loaded": _LOADED,
    },
    held={"pod": _HELD},
    success=every(_LOADED, joint_beyond("lid", _SHUT_RAD - _NEARLY_RAD)),
)
