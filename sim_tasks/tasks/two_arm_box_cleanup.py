"""Two arm box cleanup: one hand puts a toolbox onto a box's floor, then two hands put the deep lid over it.

The lid is a hood: its skirt goes down to the table outside the low rim of the floor.
"""

from __future__ import annotations

import math

from factory.constraints import Coordination
from factory.parts import BodySpec, Colour, GeomSpec, Triple, open_box
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import EGO_VIEW, FRONT_VIEW, TWO_DEX_PANDAS
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside

_TABLE_M = 0.8
_RAISED_M = 0.135
"""The lid's rim is above the toolbox in the box when it is that high."""

_IN_AIR_M = 0.155
"""The toolbox waits that high above the table: it passes over the lid."""

TOOLBOX_BAR_Z_M = 0.105
"""The middle of the toolbox's handle above its bottom."""
_BAR_M = 0.04
TOOLBOX_M: Triple = (0.14, 0.08, TOOLBOX_BAR_Z_M + _BAR_M / 2)
"""Length, width and height of the toolbox, handle included."""

FLOOR_M, _RIM_M = 0.006, 0.03
_BOX_X_M, _BOX_Y_M = 0.19, 0.16
"""Clear length and width of the box."""

HANDLE_Y_M, HANDLE_Z_M = 0.165, 0.145
"""The middle of each of the lid's handles, from the middle of its rim; the open thumb passes above the lid."""
_GAP_M = 0.014
"""Between the lid and the box on each side."""
_SKIN_M, _LID_M, _HANDLE_M = 0.005, 0.145, 0.04
_INNER_X_M, _INNER_Y_M = _BOX_X_M + 2 * (FLOOR_M + _GAP_M), _BOX_Y_M + 2 * (FLOOR_M + _GAP_M)

_RED, _STEEL, _CARD, _DARK = (
    (0.75, 0.2, 0.15, 1.0),
    (0.5, 0.52, 0.55, 1.0),
    (0.78, 0.62, 0.42, 1.0),
    (0.35, 0.25, 0.2, 1),
)


def _block(size_m: Triple, pos_m: Triple, rgba: Colour, *, grip: bool = False, density: float = 250.0) -> GeomSpec:
    """Return a piece of a full size; one that is gripped is rubbery."""
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    friction = (1.5 if grip else 0.8, 0.005, 0.0001)
    return GeomSpec(shape="box", size_m=half, pos_m=pos_m, rgba=rgba, density=density, friction=friction)


def _lid() -> tuple[GeomSpec, ...]:
    """Return a hood open below, with a bar on each of its long sides."""
    skirt = [
        _block((_SKIN_M, _INNER_Y_M + 2 * _SKIN_M, _LID_M), (s * (_INNER_X_M + _SKIN_M) / 2, 0.0, _LID_M / 2), _CARD)
        for s in (-1, 1)
    ]
    skirt += [
        _block((_INNER_X_M, _SKIN_M, _LID_M), (0.0, s * (_INNER_Y_M + _SKIN_M) / 2, _LID_M / 2), _CARD) for s in (-1, 1)
    ]
    top = _block((_INNER_X_M, _INNER_Y_M, _SKIN_M), (0.0, 0.0, _LID_M - _SKIN_M / 2), _CARD)
    face_m = _INNER_Y_M / 2 + _SKIN_M
    handles: list[GeomSpec] = []
    for s in (-1, 1):
        handles.append(_block((0.144, _HANDLE_M, _HANDLE_M), (0.0, s * HANDLE_Y_M, HANDLE_Z_M), _DARK, grip=True))
        stay = (0.012, HANDLE_Y_M - face_m, 0.03)
        stay_y = s * (HANDLE_Y_M + face_m) / 2
        # A stay that reached above the lid's top would be in nobody's way, but looks odd.
        handles += [_block(stay, (a * 0.066, stay_y, _LID_M - 0.015), _DARK) for a in (-1, 1)]
    return (*skirt, top, *handles)


def _toolbox() -> tuple[GeomSpec, ...]:
    """Return a heavy low crate with a post at each end and a round bar between them, from which it hangs upright."""
    post_m = TOOLBOX_BAR_Z_M + _BAR_M / 2
    post_x = TOOLBOX_M[0] / 2 - 0.006
    return (
        _block((TOOLBOX_M[0], TOOLBOX_M[1], 0.03), (0.0, 0.0, 0.015), _RED, density=1500.0),
        *(_block((0.012, 0.03, post_m), (s * post_x, 0.0, post_m / 2), _STEEL) for s in (-1, 1)),
        GeomSpec(
            shape="cylinder",
            size_m=(_BAR_M / 2, TOOLBOX_M[0] / 2 - 0.012),
            pos_m=(0.0, 0.0, TOOLBOX_BAR_Z_M),
            quat_wxyz=(math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0),
            rgba=_RED,
            density=250.0,
            friction=(1.5, 0.005, 0.0001),
        ),
    )


TOOLBOX = BodySpec(geoms=_toolbox())


def _reset(half_range_m: float, half_turn_rad: float) -> ResetSpec:
    def place(name: str, x_m: float, y_m: float, height_m: float) -> PlacementSpec:
        # Along x there is less room: box and lid lie one behind the other.
        return PlacementSpec(
            object=name,
            x_m=(-half_range_m * 0.7, half_range_m * 0.7),
            y_m=(-half_range_m, half_range_m),
            z_m=(height_m, height_m),
            yaw_rad=(-half_turn_rad, half_turn_rad),
            reference_m=(x_m, y_m, _TABLE_M),
        )

    return ResetSpec(
        placements=(
            place("box", -0.13, 0.0, 0.0),
            place("lid", 0.15, 0.0, 0.001),
            place("toolbox", -0.12, -0.24, 0.001),
        )
    )


_FINGERS = {side: tuple(TWO_DEX_PANDAS.eefs[side].fingers) for side in ("right", "left")}
_RIGHT, _LEFT = (held("lid", _FINGERS[side]) for side in ("right", "left"))
_STOWED = inside("toolbox", "box", (-0.06, -0.06, 0.0), (0.06, 0.06, 0.02))
_TOOLBOX_LEFT_M, _LID_LEFT_M = 0.29, 0.37
"""A wrist is that far from the frame of what it let go of; from what it holds, 4 cm less."""

TASK = TaskSpec(
    name="two_arm_box_cleanup",
    description="One hand puts a toolbox into a box, both put the lid on.",
    instruction="Put the toolbox into the box and put the lid on.",
    paraphrases=(
        "Clean up: the red toolbox belongs into the box, and the lid on top.",
        "Place the toolbox in the box, then close the box with both hands.",
        "Pack the red toolbox away and cover it with the lid.",
        "Stow the toolbox in the box and put its lid over it.",
    ),
    robot=TWO_DEX_PANDAS,
    scene=SceneSpec(
        base="table",
        parts={
            "box": BodySpec(
                geoms=open_box((_BOX_X_M, _BOX_Y_M, _RIM_M), FLOOR_M, rgba=_CARD),
                joint="fixed",
                pos_m=(-0.13, 0.0, _TABLE_M),
            ),
            "lid": BodySpec(geoms=_lid()),
            "toolbox": TOOLBOX,
        },
        cameras={"front_view": FRONT_VIEW, "ego_view": EGO_VIEW},
        objects={name: ObjectSpec.of_part(name) for name in ("box", "lid", "toolbox")},
        contacts=(
            *grasp_contacts("toolbox", fingers=_FINGERS["right"]),
            *grasp_contacts("lid", fingers=(*_FINGERS["right"], *_FINGERS["left"])),
        ),
        clearances_mm={
            "lid around the box, each side": 1e3 * _GAP_M,
            "toolbox in the box, lengthwise": 1e3 * (_BOX_X_M - TOOLBOX_M[0]),
            "toolbox in the box, across": 1e3 * (_BOX_Y_M - TOOLBOX_M[1]),
            "toolbox below the lid": 1e3 * (_LID_M - _SKIN_M - FLOOR_M - TOOLBOX_M[2]),
            "fingertips between handle and lid": 1e3 * (HANDLE_Y_M - _HANDLE_M / 2 - _INNER_Y_M / 2 - _SKIN_M),
        },
    ),
    resets={"D0": _reset(0.02, math.radians(10)), "D1": _reset(0.035, math.radians(20))},
    subtasks={
        "right": (
            SubtaskSpec(name="pick", object_ref="toolbox", end_signal="picked", grasps="toolbox"),
            SubtaskSpec(name="stow", object_ref="box", end_signal="stowed", carries="toolbox", interpolation_steps=15),
            SubtaskSpec(name="grasp", object_ref="lid", end_signal="right_holds", grasps="lid", interpolation_steps=15),
            SubtaskSpec(name="raise", object_ref="lid", end_signal="raised", carries="lid"),
            SubtaskSpec(name="cover", object_ref="box", carries="lid", interpolation_steps=20),
        ),
        "left": (
            SubtaskSpec(name="grasp", object_ref="lid", end_signal="left_holds", grasps="lid"),
            SubtaskSpec(name="raise", object_ref="lid", end_signal="raised", carries="lid"),
            SubtaskSpec(name="cover", object_ref="box", carries="lid", interpolation_steps=20),
        ),
    },
    constraints=(
        Coordination(subtasks={"right": "raise", "left": "raise"}),
        Coordination(subtasks={"right": "cover", "left": "cover"}),
    ),
    signals={
        "picked": every(held("toolbox", _FINGERS["right"]), above("toolbox", _TABLE_M + _IN_AIR_M)),
        "stowed": every(_STOWED, away("toolbox", "right", _TOOLBOX_LEFT_M)),
        "right_holds": _RIGHT,
        "left_holds": _LEFT,
        "raised": every(_RIGHT, _LEFT, above("lid", _TABLE_M + _RAISED_M)),
    },
    held={"toolbox": held("toolbox", _FINGERS["right"]), "right:lid": _RIGHT, "left:lid": _LEFT},
    success=every(
        _STOWED,
        inside("lid", "box", (-0.02, -0.02, -0.01), (0.02, 0.02, 0.01)),
        away("lid", "right", _LID_LEFT_M),
        away("lid", "left", _LID_LEFT_M),
    ),
)
