"""Two arm drawer cleanup: one hand opens a drawer and holds it open, the other puts a toolbox in, the drawer is closed.

The toolbox is the one of two arm box cleanup. The cabinet has a roof, so the drawer has to be pulled out all the way
before anything fits in from above.
"""

from __future__ import annotations

import math

from factory.constraints import Ordering
from factory.parts import BodySpec, Colour, GeomSpec, SlideSpec, Triple
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import EGO_VIEW, FRONT_VIEW, TWO_DEX_PANDAS
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside, joint_below, joint_beyond
from sim_tasks.tasks.two_arm_box_cleanup import TOOLBOX, TOOLBOX_M

_TABLE_M = 0.8
_CABINET_AT = (-0.05, -0.05, _TABLE_M)
_IN_AIR_M = 0.16
"""The toolbox waits that high above the table: it passes over the cabinet's roof."""

_INNER_X_M, _INNER_Y_M, _ROOF_M = 0.20, 0.20, 0.15
"""Clear width and depth of the cabinet, and the height of its roof's upper face."""
_WALL_M = 0.008
_SIDE_M = 0.045
"""Height of the drawer's sides."""
FLOOR_M = 0.014
"""Height of the drawer's floor above the table."""
_DRAWER_X_M, _FRONT_M = 0.188, 0.13
TRAVEL_M = 0.20
"""How far the drawer comes out."""
_OPENED_M, _CLOSED_M = 0.165, 0.025
"""Pulled out farther than that it is open, less far it is closed."""

HANDLE_Y_M, HANDLE_Z_M = 0.17, 0.14
"""The middle of the handle's bar, from the middle of the cabinet's bottom while the drawer is closed."""
_BAR_M = 0.04

_BLUE, _OAK, _DARK = (0.3, 0.45, 0.55, 1.0), (0.74, 0.6, 0.42, 1.0), (0.25, 0.25, 0.28, 1.0)


def _board(size_m: Triple, pos_m: Triple, rgba: Colour, *, grip: bool = False) -> GeomSpec:
    """Return a piece of a full size; what is gripped is rubbery."""
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    friction = (1.5 if grip else 0.6, 0.005, 0.0001)
    return GeomSpec(shape="box", size_m=half, pos_m=pos_m, rgba=rgba, density=400.0, friction=friction)


def _cabinet() -> BodySpec:
    """Return sides, back and roof; the front is open."""
    x, y = _INNER_X_M / 2, _INNER_Y_M / 2
    side = (_WALL_M, _INNER_Y_M, _ROOF_M)
    return BodySpec(
        geoms=(
            *(_board(side, (s * (x + _WALL_M / 2), 0.0, _ROOF_M / 2), _BLUE) for s in (-1, 1)),
            _board((_INNER_X_M + 2 * _WALL_M, _WALL_M, _ROOF_M), (0.0, -y - _WALL_M / 2, _ROOF_M / 2), _BLUE),
            _board((_INNER_X_M, _INNER_Y_M, _WALL_M), (0.0, 0.0, _ROOF_M - _WALL_M / 2), _BLUE),
        ),
        joint="fixed",
        pos_m=_CABINET_AT,
    )


def _drawer() -> BodySpec:
    """Return floor, sides and back of a drawer, its front and the handle on it; the frame is the cabinet's."""
    y, front_y = _INNER_Y_M / 2, _INNER_Y_M / 2 + 0.005
    stay = (0.012, HANDLE_Y_M - front_y, 0.02)
    middle_z = FLOOR_M + _SIDE_M / 2
    wall = 0.006
    return BodySpec(
        geoms=(
            _board((_DRAWER_X_M, 2 * y - 0.01, wall), (0.0, 0.0, FLOOR_M - wall / 2), _OAK),
            *(
                _board((wall, 2 * y - 0.01, _SIDE_M), (s * (_DRAWER_X_M - wall) / 2, 0.0, middle_z), _OAK)
                for s in (-1, 1)
            ),
            _board((_DRAWER_X_M, wall, _SIDE_M), (0.0, -y + 0.008, middle_z), _OAK),
            _board((_INNER_X_M + 0.01, 0.01, _FRONT_M), (0.0, front_y, FLOOR_M - wall + _FRONT_M / 2), _BLUE),
            _board((0.144, _BAR_M, _BAR_M), (0.0, HANDLE_Y_M, HANDLE_Z_M), _DARK, grip=True),
            *(_board(stay, (s * 0.066, (HANDLE_Y_M + front_y) / 2, HANDLE_Z_M - 0.01), _DARK) for s in (-1, 1)),
        ),
        # It stays where a hand leaves it.
        joint=SlideSpec(axis=(0.0, 1.0, 0.0), range_m=(0.0, TRAVEL_M), damping=8.0, friction_n=4.0),
        parent="cabinet",
    )


def _reset(x_m: float, y_m: float, cabinet_turn_rad: float, toolbox_turn_rad: float) -> ResetSpec:
    def place(name: str, at: Triple, turn_rad: float, height_m: float, radius_m: float) -> PlacementSpec:
        return PlacementSpec(
            object=name,
            x_m=(-x_m, x_m),
            y_m=(-y_m, y_m),
            z_m=(height_m, height_m),
            yaw_rad=(-turn_rad, turn_rad),
            reference_m=at,
            radius_m=radius_m,
        )

    return ResetSpec(
        placements=(
            place("cabinet", _CABINET_AT, cabinet_turn_rad, 0.0, 0.145),
            place("toolbox", (_CABINET_AT[0], -0.305, _TABLE_M), toolbox_turn_rad, 0.001, 0.085),
        )
    )


_RIGHT, _LEFT = (tuple(TWO_DEX_PANDAS.eefs[side].fingers) for side in ("right", "left"))
_HANDLE, _TOOLBOX = held("drawer", _LEFT), held("toolbox", _RIGHT)
_X_M, _Y_M = _DRAWER_X_M / 2, _INNER_Y_M / 2
_TOOLBOX_LEFT_M, _HANDLE_LEFT_M = 0.29, 0.38
"""A wrist is that far from the frame of what it let go of; from what it holds, 5 cm less."""

TASK = TaskSpec(
    name="two_arm_drawer_cleanup",
    description="One hand opens a drawer, the other puts a toolbox in, the drawer is closed.",
    instruction="Open the drawer, put the toolbox into it and close it.",
    paraphrases=(
        "Clean up: the red toolbox belongs into the drawer.",
        "Pull the drawer out, stow the toolbox in it and push it shut.",
        "Put the red toolbox away in the drawer and close the drawer again.",
        "Hold the drawer open with one hand, place the toolbox in it with the other, then shut it.",
    ),
    robot=TWO_DEX_PANDAS,
    scene=SceneSpec(
        base="table",
        parts={"cabinet": _cabinet(), "drawer": _drawer(), "toolbox": TOOLBOX},
        cameras={"front_view": FRONT_VIEW, "ego_view": EGO_VIEW},
        objects={name: ObjectSpec.of_part(name) for name in ("cabinet", "drawer", "toolbox")},
        joints={"slide": ("drawer_joint",)},
        contacts=(*grasp_contacts("drawer", fingers=_LEFT), *grasp_contacts("toolbox", fingers=_RIGHT)),
        clearances_mm={
            "handle between thumb and fingers": 1e3 * (TWO_DEX_PANDAS.eefs["left"].opening_m - _BAR_M),
            "toolbox in the drawer, lengthwise": 1e3 * (_DRAWER_X_M - 0.012 - TOOLBOX_M[0]),
            "toolbox in the drawer, across": 1e3 * (_INNER_Y_M - 0.01 - TOOLBOX_M[1]),
            "toolbox below the roof": 1e3 * (_ROOF_M - _WALL_M - FLOOR_M - TOOLBOX_M[2]),
        },
    ),
    resets={
        "D0": _reset(0.03, 0.03, math.radians(12), math.radians(18)),
        "D1": _reset(0.06, 0.035, math.radians(20), math.radians(28)),
    },
    subtasks={
        "left": (
            SubtaskSpec(name="grasp", object_ref="drawer", end_signal="handle_held", grasps="drawer"),
            SubtaskSpec(name="open", object_ref="drawer", end_signal="opened", carries="drawer"),
            SubtaskSpec(name="close", object_ref="cabinet", carries="drawer"),
        ),
        "right": (
            SubtaskSpec(name="pick", object_ref="toolbox", end_signal="picked", grasps="toolbox"),
            SubtaskSpec(name="stow", object_ref="drawer", carries="toolbox", interpolation_steps=20),
        ),
    },
    constraints=(
        Ordering(first=("left", "open"), then=("right", "stow")),
        Ordering(first=("right", "stow"), then=("left", "close")),
    ),
    signals={
        "handle_held": _HANDLE,
        "opened": joint_beyond("slide", _OPENED_M),
        "picked": every(_TOOLBOX, above("toolbox", _TABLE_M + _IN_AIR_M)),
    },
    held={"drawer": _HANDLE, "toolbox": _TOOLBOX},
    success=every(
        inside("toolbox", "drawer", (-_X_M, -_Y_M, 0.0), (_X_M, _Y_M, FLOOR_M + 0.015)),
        joint_below("slide", _CLOSED_M),
        away("toolbox", "right", _TOOLBOX_LEFT_M),
        away("drawer", "left", _HANDLE_LEFT_M),
    ),
)
