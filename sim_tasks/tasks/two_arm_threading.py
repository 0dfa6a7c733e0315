"""Two arm threading: one Panda holds up an eye on a foot, the other puts a needle through it.

The left hand takes the eye by the post above its ring and lifts it off the table; the right one takes the needle near
its blunt end and threads it, 12 mm thick, through a ring 36 mm wide.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.constraints import Ordering
from factory.parts import BodySpec, GeomSpec, tube
from factory.scene import SceneState
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, Selection, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, TWO_PANDAS
from sim_tasks.tasks.predicates import above, every, grasp_contacts, held

_TABLE_M = 0.8
RING_Z_M, POST_Z_M = 0.033, 0.082
"""Middles of ring and post above the foot's bottom, which is the eye's frame; the ring's axis is its x axis."""
_HOLE_M, _RING_M, _RING_LONG_M = 0.018, 0.006, 0.012
"""Radius of the hole, thickness of the ring's wall, and its length along the hole."""
NEEDLE_HALF_M, _NEEDLE_THICK_M = 0.10, 0.012
GRASP_M = -0.06
"""Where the needle is held, in its frame: x along it, its tip at the positive end."""
_THROUGH_M = 0.02
"""How far the tip has to be beyond the middle of the ring."""
_RAISED_M = 0.06

_ALONG_Y = (math.sqrt(0.5), 0.0, 0.0, math.sqrt(0.5))
_ABOUT_Y = (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0)
_TEAL, _BRASS = (0.15, 0.5, 0.5, 1.0), (0.8, 0.65, 0.25, 1.0)
_GRIPPY = (1.5, 0.01, 0.0001)


def _lying_ring() -> tuple[GeomSpec, ...]:
    """Return the ring, its axis along x."""
    sides = tube(_HOLE_M, _RING_M, _RING_LONG_M, rgba=_TEAL, density=500.0)
    turned = []
    for side in sides:
        (x, y, z), (w, _, _, k) = side.pos_m, side.quat_wxyz
        # A quarter turn about y takes the tube's axis z to x, and its x to -z.
        quat = tuple(_ABOUT_Y[0] * a for a in (w, k, w, k))
        turned.append(replace(side, pos_m=(z, y, RING_Z_M - x), quat_wxyz=quat))
    return tuple(turned)


EYE = BodySpec(
    geoms=(
        GeomSpec(shape="box", size_m=(0.03, 0.035, 0.004), pos_m=(0.0, 0.0, 0.004), rgba=_TEAL, density=1500.0),
        *_lying_ring(),
        GeomSpec(
            shape="box",
            size_m=(0.01, 0.01, 0.026),
            pos_m=(0.0, 0.0, POST_Z_M),
            rgba=_TEAL,
            density=500.0,
            friction=_GRIPPY,
        ),
    )
)
NEEDLE = BodySpec(
    geoms=(
        GeomSpec(
            shape="box",
            size_m=(NEEDLE_HALF_M, _NEEDLE_THICK_M / 2, _NEEDLE_THICK_M / 2),
            rgba=_BRASS,
            density=700.0,
            friction=_GRIPPY,
        ),
    )
)


def _threaded(state: SceneState) -> NDArray[np.bool_]:
    """Whether the needle passes through the hole, its tip and its blunt end well beyond the ring's middle."""
    T = poses.inverse(state.T_world_object["eye"]) @ state.T_world_object["needle"]
    middle, along = T[:, :3, 3], T[:, :3, 0]
    tip, blunt = middle + NEEDLE_HALF_M * along, middle - NEEDLE_HALF_M * along
    share = np.clip(blunt[:, 0] / np.minimum(blunt[:, 0] - tip[:, 0], -1e-9), 0.0, 1.0)[:, None]
    crossing = blunt + share * (tip - blunt)
    off = np.hypot(crossing[:, 1], crossing[:, 2] - RING_Z_M)
    return (tip[:, 0] > _THROUGH_M) & (blunt[:, 0] < -_THROUGH_M) & (off < _HOLE_M)


def _reset(x_m: float, y_m: float, turn_rad: float) -> ResetSpec:
    return ResetSpec(
        placements=tuple(
            PlacementSpec(
                object=name,
                x_m=(-x_m, x_m),
                y_m=(-y_m, y_m),
                z_m=(z_m, z_m),
                yaw_rad=(-turn_rad, turn_rad),
                reference_m=(at_m[0], at_m[1], _TABLE_M),
                quat_wxyz=_ALONG_Y,
            )
            for name, at_m, z_m in (
                ("needle", (-0.02, -0.15), _NEEDLE_THICK_M / 2 + 0.001),
                ("eye", (0.0, 0.16), 0.001),
            )
        )
    )


_NEEDLE_HELD = held("needle", tuple(TWO_PANDAS.eefs["right"].fingers))
_EYE_HELD = held("eye", tuple(TWO_PANDAS.eefs["left"].fingers))
_ANYWHERE = Selection(strategy="random")

TASK = TaskSpec(
    name="two_arm_threading",
    description="One Panda holds up an eye, the other threads a needle through it.",
    instruction="Hold up the eye with one arm and put the needle through it with the other.",
    paraphrases=(
        "Thread the needle through the ring with both arms.",
        "Lift the teal ring and stick the brass needle through its hole.",
        "Pick up ring and needle, and thread the one with the other.",
        "Put the needle through the eye.",
    ),
    robot=TWO_PANDAS,
    scene=SceneSpec(
        base="table",
        parts={"needle": NEEDLE, "eye": EYE},
        cameras={"front_view": FRONT_VIEW},
        objects={"needle": ObjectSpec.of_part("needle"), "eye": ObjectSpec.of_part("eye")},
        contacts=(
            *grasp_contacts("needle", fingers=tuple(TWO_PANDAS.eefs["right"].fingers)),
            *grasp_contacts("eye", fingers=tuple(TWO_PANDAS.eefs["left"].fingers)),
        ),
        clearances_mm={
            # From corner to corner the needle measures 17 mm.
            "needle in the hole": 1000.0 * (2.0 * _HOLE_M - math.sqrt(2.0) * _NEEDLE_THICK_M),
            "needle between the open fingers": 67.0,
            "post between the open fingers": 59.0,
        },
    ),
    resets={"D0": _reset(0.05, 0.03, math.radians(20)), "D1": _reset(0.10, 0.06, math.radians(45))},
    subtasks={
        "right": (
            SubtaskSpec(name="pick", object_ref="needle", end_signal="needle_picked", grasps="needle"),
            # So that the eye's pose is looked at, in the demo too, when it is held up.
            SubtaskSpec(
                name="stand_by",
                object_ref=None,
                end_signal="eye_raised",
                carries="needle",
                selection=_ANYWHERE,
                interpolation_steps=15,
            ),
            SubtaskSpec(name="thread", object_ref="eye", carries="needle", interpolation_steps=10),
        ),
        "left": (
            SubtaskSpec(name="grasp", object_ref="eye", end_signal="eye_grasped", grasps="eye"),
            SubtaskSpec(
                name="raise",
                object_ref=None,
                end_signal="eye_raised",
                carries="eye",
                selection=_ANYWHERE,
                interpolation_steps=15,
            ),
            SubtaskSpec(name="hold", object_ref=None, carries="eye", selection=_ANYWHERE),
        ),
    },
    # The signal rises on the way; the delay lets the eye come to rest.
    constraints=(Ordering(first=("left", "raise"), then=("right", "thread"), min_delay_steps=15),),
    signals={
        "needle_picked": every(_NEEDLE_HELD, above("needle", _TABLE_M + 0.06)),
        "eye_grasped": every(_EYE_HELD, above("eye", _TABLE_M + 0.03)),
        "eye_raised": every(_EYE_HELD, above("eye", _TABLE_M + 0.10)),
    },
    held={"needle": _NEEDLE_HELD, "eye": _EYE_HELD},
    success=every(_threaded, _EYE_HELD, _NEEDLE_HELD, above("eye", _TABLE_M + _RAISED_M)),
)
