"""GR-1 pouring: the left hand brings a bowl to its mat and keeps hold of it, the right hand pours balls into it.

Both vessels are taken by an upright shaft. The bowl stands on a stem, so that it is higher than the hand that holds it;
the right hand turns the cup about the direction of its fingers, and the balls roll out to the left.
"""

from __future__ import annotations

import math

from factory.constraints import Ordering
from factory.parts import BodySpec, GeomSpec, tube
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, GR1, GR1_EGO_VIEW, GR1_TABLE
from sim_tasks.tasks.predicates import above, every, grasp_contacts, held, inside, upright

_TOP_M = GR1_TABLE.top_m
_GRIP = (1.5, 0.005, 0.0001)
_STEEL, _CLAY, _CORK, _BALL = (0.6, 0.62, 0.66, 1.0), (0.3, 0.42, 0.62, 1.0), (0.62, 0.47, 0.3, 1.0), (0.9, 0.5, 0.1, 1)

GRASP_M = 0.075
"""Height of both vessels' frames above their feet, where hands take them: half a hand's width and 2 cm."""

CUP_RIM_M = 0.14
_CUP_M, _CUP_WALL_M = 0.028, 0.004
"""Inner radius of the cup; its rim is `CUP_RIM_M` above its foot."""
BALLS = ("ball_1", "ball_2", "ball_3")
_BALL_M = 0.008

BOWL_FLOOR_M, BOWL_RIM_M = 0.145, 0.195
"""Heights above the bowl's foot; the hand that holds the stem reaches up to 13 cm."""
BOWL_M = 0.07
"""Inner radius of the bowl."""

_CUP_AT_M, _BOWL_AT_M, _MAT_AT_M = (0.01, -0.11), (0.03, 0.12), (-0.05, 0.065)
_FOOT_M, _MAT_M = 0.05, 0.08
_OFF_M = _MAT_M - _FOOT_M
"""So far the bowl may stand off the middle of its mat."""
_PICKED_M = 0.05


def _cup() -> BodySpec:
    """Return a straight cup."""
    floor_m = 0.006
    return BodySpec(
        geoms=(
            GeomSpec(
                shape="cylinder",
                size_m=(_CUP_M, floor_m / 2),
                pos_m=(0.0, 0.0, floor_m / 2 - GRASP_M),
                rgba=_STEEL,
                density=1500.0,
            ),
            *tube(
                _CUP_M,
                _CUP_WALL_M,
                CUP_RIM_M,
                sides=10,
                pos_m=(0.0, 0.0, CUP_RIM_M / 2 - GRASP_M),
                rgba=_STEEL,
                density=400.0,
                friction=_GRIP,
            ),
        )
    )


def _bowl() -> BodySpec:
    """Return a bowl on a stem that stands on a wide foot."""

    def disc(radius_m: float, low_m: float, high_m: float, density: float) -> GeomSpec:
        return GeomSpec(
            shape="cylinder",
            size_m=(radius_m, (high_m - low_m) / 2),
            pos_m=(0.0, 0.0, (low_m + high_m) / 2 - GRASP_M),
            rgba=_CLAY,
            density=density,
            friction=_GRIP,
        )

    wall_m = BOWL_RIM_M - BOWL_FLOOR_M
    return BodySpec(
        geoms=(
            disc(_FOOT_M, 0.0, 0.008, 1500.0),
            disc(0.03, 0.008, BOWL_FLOOR_M - 0.006, 150.0),
            disc(BOWL_M, BOWL_FLOOR_M - 0.006, BOWL_FLOOR_M, 200.0),
            *tube(
                BOWL_M,
                0.004,
                wall_m,
                pos_m=(0.0, 0.0, BOWL_FLOOR_M + wall_m / 2 - GRASP_M),
                rgba=_CLAY,
                density=200.0,
            ),
        )
    )


_MAT = BodySpec(
    geoms=(GeomSpec(shape="cylinder", size_m=(_MAT_M, 0.0015), pos_m=(0.0, 0.0, 0.0015), rgba=_CORK, touched=False),),
    joint="fixed",
)


def _reset(wide: float) -> ResetSpec:
    """Return starts: D0 for 1, D1 for 2. The balls start in the cup, one above the other."""

    def place(name: str, x_m: float, y_m: float, at_m: tuple[float, float], z_m: float) -> PlacementSpec:
        turn = math.radians(5.0) * wide
        return PlacementSpec(
            object=name,
            x_m=(-x_m * wide, x_m * wide),
            y_m=(-y_m * wide, y_m * wide),
            z_m=(z_m, z_m),
            yaw_rad=(-turn, turn),
            reference_m=(*at_m, _TOP_M),
        )

    def drop(name: str, i: int) -> PlacementSpec:
        slack_m, z_m = 0.005 * wide, 0.006 + (2 * i + 1) * (_BALL_M + 0.001) - GRASP_M
        return PlacementSpec(
            object=name,
            on="cup",
            x_m=(-slack_m, slack_m),
            y_m=(-slack_m, slack_m),
            z_m=(z_m, z_m),
            yaw_rad=(0.0, 0.0),
            reference_m=(0.0, 0.0, 0.0),
        )

    return ResetSpec(
        placements=(
            place("cup", 0.03, 0.015, _CUP_AT_M, GRASP_M + 0.001),
            place("bowl", 0.02, 0.015, _BOWL_AT_M, GRASP_M + 0.001),
            place("mat", 0.015, 0.015, _MAT_AT_M, 0.0),
            *(drop(name, i) for i, name in enumerate(BALLS)),
        )
    )


_FINGERS = {side: tuple(GR1.eefs[side].fingers) for side in ("right", "left")}
_CUP_HELD, _BOWL_HELD = held("cup", _FINGERS["right"]), held("bowl", _FINGERS["left"])
_LOW_M, _HIGH_M = BOWL_FLOOR_M - GRASP_M, BOWL_RIM_M - GRASP_M

TASK = TaskSpec(
    name="gr1_pouring",
    description="A GR-1 brings a bowl to its mat with one hand and pours balls into it with the other.",
    instruction="Put the bowl on the mat and pour the balls from the cup into it.",
    paraphrases=(
        "Bring the bowl to the mat, then empty the cup into it.",
        "Hold the bowl on the mat with one hand and pour the balls into it with the other.",
        "Pour the orange balls out of the cup into the bowl once it is on the mat.",
        "Move the bowl onto the mat and tip the balls from the cup into the bowl.",
    ),
    robot=GR1,
    scene=SceneSpec(
        base="table",
        parts={
            "cup": _cup(),
            "bowl": _bowl(),
            "mat": _MAT,
            **{
                name: BodySpec(geoms=(GeomSpec(shape="sphere", size_m=(_BALL_M,), rgba=_BALL, mass_kg=0.003),))
                for name in BALLS
            },
        },
        table=GR1_TABLE,
        cameras={"front_view": FRONT_VIEW, "ego_view": GR1_EGO_VIEW},
        objects={
            "cup": ObjectSpec.of_part("cup", yaw_symmetry=36),
            "bowl": ObjectSpec.of_part("bowl", yaw_symmetry=36),
            "mat": ObjectSpec.of_part("mat"),
            **{name: ObjectSpec.of_part(name) for name in BALLS},
        },
        contacts=(
            *grasp_contacts("cup", fingers=_FINGERS["right"]),
            *grasp_contacts("bowl", fingers=_FINGERS["left"]),
        ),
        clearances_mm={
            "ball in the cup": 1e3 * 2 * (_CUP_M - _BALL_M),
            "cup's mouth over the bowl": 1e3 * 2 * (BOWL_M - _CUP_M),
            "bowl's foot on the mat": 1e3 * 2 * (_MAT_M - _FOOT_M),
        },
    ),
    resets={"D0": _reset(1.0), "D1": _reset(2.0)},
    subtasks={
        "right": (
            SubtaskSpec(name="take", object_ref="cup", end_signal="cup_taken", grasps="cup"),
            # Its end is where the bowl stands still: what `pour` is carried with is the bowl's pose from then on.
            SubtaskSpec(name="raise", object_ref="cup", end_signal="bowl_there", carries="cup"),
            SubtaskSpec(name="pour", object_ref="bowl", carries="cup", interpolation_steps=15),
        ),
        "left": (
            SubtaskSpec(name="take", object_ref="bowl", end_signal="bowl_taken", grasps="bowl"),
            SubtaskSpec(name="bring", object_ref="mat", end_signal="bowl_there", carries="bowl"),
            SubtaskSpec(name="steady", object_ref="mat", carries="bowl"),
        ),
    },
    constraints=(Ordering(first=("left", "bring"), then=("right", "pour")),),
    signals={
        "cup_taken": every(_CUP_HELD, above("cup", _TOP_M + GRASP_M + _PICKED_M)),
        "bowl_taken": every(_BOWL_HELD, above("bowl", _TOP_M + GRASP_M + 0.03)),
        "bowl_there": every(
            _BOWL_HELD, inside("bowl", "mat", (-_OFF_M, -_OFF_M, 0.0), (_OFF_M, _OFF_M, GRASP_M + 0.008))
        ),
    },
    held={"cup": _CUP_HELD, "bowl": _BOWL_HELD},
    success=every(
        upright("bowl", math.radians(20)),
        inside("bowl", "mat", (-_OFF_M, -_OFF_M, 0.0), (_OFF_M, _OFF_M, GRASP_M + 0.02)),
        *(inside(ball, "bowl", (-BOWL_M, -BOWL_M, _LOW_M), (BOWL_M, BOWL_M, _HIGH_M)) for ball in BALLS),
    ),
)
