"""Two arm three piece assembly: one Panda stands a hollow column in a socket, the other crowns it with a cap.

In the spirit of MimicGen's three piece assembly, with a hand for each piece. The socket is fastened to the table; the
column stands in it with 8 mm of play, the cap's plug sits in the column with 8 mm of play, and the cap is only brought
when the column stands.
"""

from __future__ import annotations

import math

from factory.constraints import Ordering
from factory.parts import BodySpec, Colour, GeomSpec, open_box
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, Selection, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, TWO_PANDAS
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside, upright

_TABLE_M = 0.8
FLOOR_M = 0.006
"""Thickness of the socket's floor, and of the column's floor and walls."""
_COLUMN_INNER_M, _COLUMN_DEPTH_M = 0.036, 0.044
_COLUMN_M, _COLUMN_HIGH_M = _COLUMN_INNER_M + 2 * FLOOR_M, _COLUMN_DEPTH_M + FLOOR_M
_SOCKET_M, _SOCKET_DEPTH_M, _PLINTH_M = 0.056, 0.012, 0.12
_PLUG_M, _PLUG_LONG_M, _PLATE_M, _KNOB_M, _KNOB_LONG_M = 0.028, 0.014, 0.008, 0.02, 0.036

COLUMN_GRASP_M = (0.0, 0.0, 0.036)
"""Where a hand holds the column: its finger tips stay above the socket's rim."""
CAP_GRASP_M = (0.0, 0.0, _PLUG_LONG_M + _PLATE_M + _KNOB_LONG_M / 2)
"""Where a hand holds the cap: by its knob."""
CAP_ON_COLUMN_M = _COLUMN_HIGH_M - _PLUG_LONG_M
"""Height of the cap's frame, the bottom of its plug, above the column's, when its plate lies on the rim."""

_OAK, _RED, _YELLOW = (0.45, 0.32, 0.22, 1.0), (0.75, 0.25, 0.2, 1.0), (0.9, 0.75, 0.25, 1.0)
_GRIPPY = (1.2, 0.01, 0.0001)


def _prism(side_m: float, low_m: float, high_m: float, rgba: Colour) -> GeomSpec:
    """Return a square prism about the z axis between two heights."""
    half = side_m / 2
    size, middle = (half, half, (high_m - low_m) / 2), (0.0, 0.0, (low_m + high_m) / 2)
    return GeomSpec(shape="box", size_m=size, pos_m=middle, rgba=rgba, density=500.0, friction=_GRIPPY)


SOCKET = BodySpec(
    geoms=(
        _prism(_PLINTH_M, 0.0, FLOOR_M, _OAK),
        *open_box((_SOCKET_M, _SOCKET_M, _SOCKET_DEPTH_M), FLOOR_M, rgba=_OAK),
    ),
    joint="fixed",
    pos_m=(0.06, 0.0, _TABLE_M),
)
COLUMN = BodySpec(
    geoms=open_box(
        (_COLUMN_INNER_M, _COLUMN_INNER_M, _COLUMN_DEPTH_M), FLOOR_M, rgba=_RED, density=500.0, friction=_GRIPPY
    )
)
CAP = BodySpec(
    geoms=(
        _prism(_PLUG_M, 0.0, _PLUG_LONG_M, _YELLOW),
        _prism(_COLUMN_M, _PLUG_LONG_M, _PLUG_LONG_M + _PLATE_M, _YELLOW),
        _prism(_KNOB_M, _PLUG_LONG_M + _PLATE_M, _PLUG_LONG_M + _PLATE_M + _KNOB_LONG_M, _YELLOW),
    )
)


def _reset(socket_m: float, socket_turn_rad: float, piece_m: float, piece_turn_rad: float) -> ResetSpec:
    def place(name: str, at_m: tuple[float, float], half_m: float, turn_rad: float, height_m: float) -> PlacementSpec:
        return PlacementSpec(
            object=name,
            x_m=(-half_m, half_m),
            y_m=(-half_m, half_m),
            z_m=(height_m, height_m),
            yaw_rad=(-turn_rad, turn_rad),
            reference_m=(*at_m, _TABLE_M),
        )

    return ResetSpec(
        placements=(
            place("socket", (0.06, 0.0), socket_m, socket_turn_rad, 0.0),
            place("column", (-0.08, -0.2), piece_m, piece_turn_rad, 0.001),
            place("cap", (-0.08, 0.2), piece_m, piece_turn_rad, 0.001),
        )
    )


_RIGHT, _LEFT = (tuple(TWO_PANDAS.eefs[side].fingers) for side in ("right", "left"))
_COLUMN_HELD, _CAP_HELD = held("column", _RIGHT), held("cap", _LEFT)
_STANDS = every(
    inside("column", "socket", (-0.006, -0.006, FLOOR_M - 0.002), (0.006, 0.006, FLOOR_M + 0.003)),
    upright("column", math.radians(5)),
    # Farther than AWAY_M, for the column's frame is at its foot, under the hand that holds it.
    away("column", "right", 0.10),
)
_ANYWHERE = Selection(strategy="random")

TASK = TaskSpec(
    name="two_arm_three_piece_assembly",
    description="One Panda stands a column in a socket, the other puts a cap on it.",
    instruction="Stand the red column in the socket and put the yellow cap on it.",
    paraphrases=(
        "Assemble the three pieces: column into the socket, cap onto the column.",
        "Insert the column into its socket with one arm and crown it with the cap in the other.",
        "Put the red piece into the wooden base and close it with the yellow lid.",
        "Build the tower from socket, column and cap with both arms.",
    ),
    robot=TWO_PANDAS,
    scene=SceneSpec(
        base="table",
        parts={"socket": SOCKET, "column": COLUMN, "cap": CAP},
        cameras={"front_view": FRONT_VIEW},
        objects={name: ObjectSpec.of_part(name, yaw_symmetry=4) for name in ("socket", "column", "cap")},
        contacts=(*grasp_contacts("column", fingers=_RIGHT), *grasp_contacts("cap", fingers=_LEFT)),
        clearances_mm={
            "column in the socket": 1000.0 * (_SOCKET_M - _COLUMN_M),
            "plug in the column": 1000.0 * (_COLUMN_INNER_M - _PLUG_M),
            "column between the open fingers": 31.0,
            "knob between the open fingers": 59.0,
        },
    ),
    resets={
        "D0": _reset(0.03, math.radians(20), 0.04, math.radians(20)),
        "D1": _reset(0.06, math.radians(45), 0.08, math.radians(45)),
    },
    subtasks={
        "right": (
            SubtaskSpec(name="pick", object_ref="column", end_signal="column_picked", grasps="column"),
            SubtaskSpec(
                name="insert", object_ref="socket", end_signal="stands", carries="column", interpolation_steps=10
            ),
            SubtaskSpec(name="leave", object_ref=None, selection=_ANYWHERE, interpolation_steps=10),
        ),
        "left": (
            SubtaskSpec(name="pick", object_ref="cap", end_signal="cap_picked", grasps="cap"),
            # So that the column's pose is looked at, in the demo too, when it stands.
            SubtaskSpec(
                name="stand_by",
                object_ref=None,
                end_signal="stands",
                carries="cap",
                selection=_ANYWHERE,
                interpolation_steps=15,
            ),
            SubtaskSpec(name="crown", object_ref="column", carries="cap", interpolation_steps=10),
        ),
    },
    # The delay lets the other hand get out of the way.
    constraints=(Ordering(first=("right", "insert"), then=("left", "crown"), min_delay_steps=10),),
    signals={
        "column_picked": every(_COLUMN_HELD, above("column", _TABLE_M + 0.06)),
        "stands": _STANDS,
        "cap_picked": every(_CAP_HELD, above("cap", _TABLE_M + 0.06)),
    },
    held={"column": _COLUMN_HELD, "cap": _CAP_HELD},
    success=every(
        _STANDS,
        inside("cap", "column", (-0.006, -0.006, CAP_ON_COLUMN_M - 0.002), (0.006, 0.006, CAP_ON_COLUMN_M + 0.003)),
        upright("cap", math.radians(5)),
        away("cap", "left", 0.08),
    ),
)
