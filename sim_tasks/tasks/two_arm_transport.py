"""Two arm transport: a block travels from one Panda's bin over a middle tray to the other's, which is cleared first.

In the spirit of robosuite's TwoArmTransport, smaller: while the right arm takes the green block out of its bin, the
left one throws the red one out of the target bin; the right lays its block into the tray, and the left fetches it.
A block has 29 mm of play between the open fingers, 90 mm in the tray and in the trash bin, 210 mm in the large bins.
"""

from __future__ import annotations

import math

from factory.constraints import Ordering
from factory.parts import BodySpec, GeomSpec, open_box
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, Selection, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, TWO_PANDAS
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside

_TABLE_M = 0.8
FLOOR_M = 0.005
"""Thickness of every floor and wall."""
BLOCK_M = (0.05, 0.05, 0.04)
_BIN_M, _TRAY_M, _TRASH_BIN_M = (0.26, 0.26, 0.035), (0.14, 0.14, 0.02), (0.14, 0.14, 0.035)
_SOURCE_AT, _TARGET_AT = (-0.12, -0.18, _TABLE_M), (-0.12, 0.18, _TABLE_M)
_TRAY_AT, _TRASH_AT = (0.18, 0.0, _TABLE_M), (0.22, 0.25, _TABLE_M)

_GREEN, _RED = (0.25, 0.6, 0.3, 1.0), (0.8, 0.25, 0.2, 1.0)
_OAK, _GREY, _DARK = (0.72, 0.58, 0.40, 1.0), (0.70, 0.72, 0.75, 1.0), (0.35, 0.30, 0.30, 1.0)


def _block(rgba: tuple[float, float, float, float]) -> BodySpec:
    half = (BLOCK_M[0] / 2, BLOCK_M[1] / 2, BLOCK_M[2] / 2)
    return BodySpec(geoms=(GeomSpec(shape="box", size_m=half, rgba=rgba, density=500.0, friction=(1.5, 0.01, 0.0001)),))


PARTS = {
    "payload": _block(_GREEN),
    "trash": _block(_RED),
    "source": BodySpec(geoms=open_box(_BIN_M, FLOOR_M, rgba=_OAK), joint="fixed", pos_m=_SOURCE_AT),
    "target": BodySpec(geoms=open_box(_BIN_M, FLOOR_M, rgba=_OAK), joint="fixed", pos_m=_TARGET_AT),
    "tray": BodySpec(geoms=open_box(_TRAY_M, FLOOR_M, rgba=_GREY), joint="fixed", pos_m=_TRAY_AT),
    "trash_bin": BodySpec(geoms=open_box(_TRASH_BIN_M, FLOOR_M, rgba=_DARK), joint="fixed", pos_m=_TRASH_AT),
}


def _reset(block_m: float, block_turn_rad: float, bin_m: float) -> ResetSpec:
    z_m = FLOOR_M + BLOCK_M[2] / 2 + 0.001
    blocks = (
        PlacementSpec(
            object=name,
            x_m=(-block_m, block_m),
            y_m=(-block_m, block_m),
            z_m=(z_m, z_m),
            yaw_rad=(-block_turn_rad, block_turn_rad),
            reference_m=at,
        )
        for name, at in (("payload", _SOURCE_AT), ("trash", _TARGET_AT))
    )
    bins = (
        PlacementSpec(
            object=name,
            x_m=(-bin_m, bin_m),
            y_m=(-bin_m, bin_m),
            z_m=(0.0, 0.0),
            yaw_rad=(0.0, 0.0),
            reference_m=at,
        )
        for name, at in (("tray", _TRAY_AT), ("trash_bin", _TRASH_AT))
    )
    return ResetSpec(placements=(*blocks, *bins))


def _in(bin_m: tuple[float, float, float]) -> dict[str, tuple[float, float, float]]:
    """Return the box over a bin's floor in which the middle of a block lies that is in it, the bin's frame."""
    x, y = bin_m[0] / 2, bin_m[1] / 2
    return {"low_m": (-x, -y, 0.0), "high_m": (x, y, FLOOR_M + 0.75 * BLOCK_M[2])}


_RIGHT, _LEFT = (tuple(TWO_PANDAS.eefs[side].fingers) for side in ("right", "left"))
_RIGHT_PAYLOAD, _LEFT_PAYLOAD, _LEFT_TRASH = held("payload", _RIGHT), held("payload", _LEFT), held("trash", _LEFT)
_IN_AIR_M = _TABLE_M + 0.08
_ANYWHERE = Selection(strategy="random")

TASK = TaskSpec(
    name="two_arm_transport",
    description="A block is passed from one Panda's bin over a tray to the other's, which is cleared first.",
    instruction="Clear the red block out of the target bin and bring the green block over there by way of the tray.",
    paraphrases=(
        "Throw the red block into the dark bin and pass the green one over the tray into the emptied bin.",
        "Move the green block to the left bin through the tray, after taking the red block out.",
        "Make room in the left bin and transport the green block into it with both arms.",
        "Pass the green block from the right bin to the left one and discard the red block.",
    ),
    robot=TWO_PANDAS,
    scene=SceneSpec(
        base="table",
        parts=PARTS,
        cameras={"front_view": FRONT_VIEW},
        objects={name: ObjectSpec.of_part(name, yaw_symmetry=4) for name in PARTS},
        contacts=(
            *grasp_contacts("payload", fingers=(*_RIGHT, *_LEFT)),
            *grasp_contacts("trash", fingers=_LEFT),
        ),
        clearances_mm={
            "block between the open fingers": 29.0,
            "block in the tray": 90.0,
            "block in the trash bin": 90.0,
            "block in the bins": 210.0,
        },
    ),
    resets={"D0": _reset(0.03, math.radians(20), 0.02), "D1": _reset(0.06, math.radians(45), 0.04)},
    subtasks={
        "right": (
            SubtaskSpec(name="pick", object_ref="payload", end_signal="picked", grasps="payload"),
            SubtaskSpec(name="pass", object_ref="tray", end_signal="passed", carries="payload", interpolation_steps=10),
            SubtaskSpec(name="leave", object_ref=None, selection=_ANYWHERE, interpolation_steps=10),
        ),
        "left": (
            SubtaskSpec(name="grasp", object_ref="trash", end_signal="trash_picked", grasps="trash"),
            SubtaskSpec(
                name="discard", object_ref="trash_bin", end_signal="cleared", carries="trash", interpolation_steps=10
            ),
            # So that the block's pose is looked at, in the demo too, when it lies in the tray.
            SubtaskSpec(
                name="stand_by", object_ref=None, end_signal="passed", selection=_ANYWHERE, interpolation_steps=10
            ),
            SubtaskSpec(
                name="fetch", object_ref="payload", end_signal="fetched", grasps="payload", interpolation_steps=10
            ),
            SubtaskSpec(name="stow", object_ref="target", carries="payload", interpolation_steps=10),
        ),
    },
    constraints=(Ordering(first=("right", "pass"), then=("left", "fetch")),),
    signals={
        "picked": every(_RIGHT_PAYLOAD, above("payload", _IN_AIR_M)),
        "passed": every(inside("payload", "tray", **_in(_TRAY_M)), away("payload", "right")),
        "trash_picked": every(_LEFT_TRASH, above("trash", _IN_AIR_M)),
        "cleared": every(inside("trash", "trash_bin", **_in(_TRASH_BIN_M)), away("trash", "left")),
        "fetched": every(_LEFT_PAYLOAD, above("payload", _IN_AIR_M)),
    },
    held={"right:payload": _RIGHT_PAYLOAD, "left:payload": _LEFT_PAYLOAD, "left:trash": _LEFT_TRASH},
    success=every(
        inside("payload", "target", **_in(_BIN_M)),
        inside("trash", "trash_bin", **_in(_TRASH_BIN_M)),
        away("payload", "left"),
    ),
)
