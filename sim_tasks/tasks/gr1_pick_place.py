"""GR-1 pick and place: a family of tasks in which the right hand moves one thing from one place to another.

Six things, three places they start from, three they go to: 54 tasks named "gr1_pick_place/THING/FROM/TO", see
`COMBINATIONS`. Every thing stands upright, its frame on its axis, `GRASP_M` above what it stands on, where the hand
takes it; so the shipped demonstrations, with the slimmest thing from the table into the basket, serve all of them: the
fingers close until they meet something. Two more things stand behind as distractors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from factory.parts import BodySpec, GeomSpec, Triple, open_box, tube
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, Selection, SubtaskSpec, TaskSpec
from sim_tasks.robots import FRONT_VIEW, GR1, GR1_EGO_VIEW, GR1_TABLE
from sim_tasks.tasks.predicates import above, away, every, grasp_contacts, held, inside

NAME = "gr1_pick_place"
_TOP_M = GR1_TABLE.top_m

GRASP_M = 0.075
"""Height of the grasp above a thing's foot: half a hand's width, and 2 cm to clear a rim."""
_GRIP = (1.5, 0.005, 0.0001)
"""Rubber on painted metal or paper; the hand's own skin has friction 1."""

_RED, _GREEN, _BLUE = (0.75, 0.2, 0.17, 1.0), (0.2, 0.55, 0.3, 1.0), (0.2, 0.38, 0.7, 1.0)
_WHITE, _YELLOW, _BROWN = (0.92, 0.91, 0.87, 1.0), (0.9, 0.75, 0.2, 1.0), (0.5, 0.33, 0.2, 1.0)
_GREY = (0.55, 0.57, 0.6, 1.0)


def _round(radius_m: float, low_m: float, high_m: float, rgba: tuple[float, float, float, float]) -> GeomSpec:
    """Return an upright cylinder between two heights above the foot."""
    return GeomSpec(
        shape="cylinder",
        size_m=(radius_m, (high_m - low_m) / 2),
        pos_m=(0.0, 0.0, (low_m + high_m) / 2 - GRASP_M),
        rgba=rgba,
        density=200.0,
        friction=_GRIP,
    )


def _block(size_m: Triple, rgba: tuple[float, float, float, float]) -> GeomSpec:
    """Return an upright box of full sizes on the foot."""
    half = (size_m[0] / 2, size_m[1] / 2, size_m[2] / 2)
    return GeomSpec(
        shape="box", size_m=half, pos_m=(0.0, 0.0, half[2] - GRASP_M), rgba=rgba, density=200.0, friction=_GRIP
    )


THINGS: Mapping[str, BodySpec] = {
    "bottle": BodySpec(geoms=(_round(0.028, 0.0, 0.13, _GREEN), _round(0.012, 0.13, 0.17, _WHITE))),
    "can": BodySpec(geoms=(_round(0.033, 0.0, 0.125, _RED), _round(0.03, 0.125, 0.127, _GREY))),
    "carton": BodySpec(geoms=(_block((0.05, 0.05, 0.14), _WHITE), _block((0.052, 0.052, 0.03), _BLUE))),
    "jar": BodySpec(geoms=(_round(0.034, 0.0, 0.11, _YELLOW), _round(0.031, 0.11, 0.13, _BROWN))),
    "pepper mill": BodySpec(
        geoms=(_round(0.027, 0.0, 0.03, _BROWN), _round(0.023, 0.03, 0.13, _BROWN), _round(0.026, 0.13, 0.16, _BROWN))
    ),
    "flask": BodySpec(geoms=(_round(0.03, 0.0, 0.145, _BLUE), _round(0.025, 0.145, 0.17, _GREY))),
}

SOURCES: Mapping[str, BodySpec | None] = {
    "table": None,
    "board": BodySpec(
        geoms=(GeomSpec(shape="box", size_m=(0.105, 0.065, 0.01), pos_m=(0.0, 0.0, 0.01), material="WoodLight"),),
        joint="fixed",
    ),
    "book": BodySpec(
        geoms=(
            GeomSpec(shape="box", size_m=(0.105, 0.065, 0.015), pos_m=(0.0, 0.0, 0.015), rgba=_BLUE),
            GeomSpec(
                shape="box", size_m=(0.1055, 0.0655, 0.011), pos_m=(0.002, 0.002, 0.015), rgba=_WHITE, touched=False
            ),
        ),
        joint="fixed",
    ),
}
"""What things start from; the height of each is in `_HEIGHT_M`."""
_HEIGHT_M = {"table": 0.0, "board": 0.02, "book": 0.03}
_SOURCE_M = (0.03, -0.105)
"""Middle of what things start on: to the left of the waiting hand, not yet where its arm lags behind."""
_TARGET_M = (-0.035, -0.275)
"""Middle of what they go to: to the right, where the arm follows to a millimetre."""

FLOOR_M = 0.005
"""Height of every target's floor above the table."""
_BOWL_M = 0.062
TARGETS: Mapping[str, BodySpec] = {
    "basket": BodySpec(
        geoms=open_box((0.125, 0.11, 0.035), FLOOR_M, rgba=(0.72, 0.52, 0.3, 1.0)),
        joint="fixed",
    ),
    "bowl": BodySpec(
        geoms=(
            GeomSpec(shape="cylinder", size_m=(_BOWL_M, FLOOR_M / 2), pos_m=(0.0, 0.0, FLOOR_M / 2), rgba=_BLUE),
            *tube(_BOWL_M - 0.004, 0.004, 0.03, pos_m=(0.0, 0.0, 0.015), rgba=_BLUE),
        ),
        joint="fixed",
    ),
    "tray": BodySpec(
        geoms=open_box((0.14, 0.11, 0.015), FLOOR_M, rgba=_GREY),
        joint="fixed",
    ),
}

_DISTRACTORS = ("distractor_1", "distractor_2")
_GONE_M = 0.13
"""The grip frame at the wrist is 9 cm from the axis of what the hand holds."""


def _reset(source: str, wide: float) -> ResetSpec:
    """Return starts: D0 for 1, D1 for 2."""

    def place(name: str, x_m: float, y_m: float, at: tuple[float, float], foot_m: float, turn_deg: float, r_m: float):
        turn = math.radians(turn_deg)
        return PlacementSpec(
            object=name,
            x_m=(-x_m * wide, x_m * wide),
            y_m=(-y_m * wide, y_m * wide),
            z_m=(foot_m, foot_m),
            yaw_rad=(-turn * wide, turn * wide),
            reference_m=(*at, _TOP_M),
            radius_m=r_m,
        )

    stands = GRASP_M + 0.001
    return ResetSpec(
        placements=(
            place("thing", 0.04, 0.025, _SOURCE_M, _HEIGHT_M[source] + stands, 10.0, 0.05),
            place("target", 0.04, 0.025, _TARGET_M, 0.0, 5.0, 0.0),
            place(_DISTRACTORS[0], 0.025, 0.05, (0.29, -0.14), stands, 90.0, 0.05),
            place(_DISTRACTORS[1], 0.025, 0.05, (0.29, 0.14), stands, 90.0, 0.05),
        ),
        min_gap_m=0.01,
    )


def _task(name: str, thing: str, source: str, target: str) -> TaskSpec:
    """Return the task that brings a thing from a source to a target."""
    others = list(THINGS)
    first = others.index(thing)
    base = SOURCES[source]
    place = f"the {target}"
    parts = {
        "thing": THINGS[thing],
        "target": TARGETS[target],
        **{part: THINGS[others[(first + i) % len(others)]] for i, part in enumerate(_DISTRACTORS, start=1)},
    }
    if base is not None:
        parts["source"] = BodySpec(geoms=base.geoms, joint="fixed", pos_m=(*_SOURCE_M, _TOP_M))
    fingers = tuple(GR1.eefs["right"].fingers)
    in_hand = held("thing", fingers)
    return TaskSpec(
        name=name,
        description=f"A GR-1 puts one of {len(THINGS)} things from one of {len(SOURCES)} places into one of "
        f"{len(TARGETS)}; here {thing}, {source}, {target}.",
        instruction=f"Pick up the {thing} from the {source} and put it into {place}.",
        paraphrases=(
            f"Move the {thing} from the {source} to {place}.",
            f"Take the {thing} off the {source} and place it in {place}.",
            f"Put the {thing} that stands on the {source} into {place}.",
            f"The {thing} on the {source} belongs into {place}.",
        ),
        robot=GR1,
        scene=SceneSpec(
            base="table",
            parts=parts,
            table=GR1_TABLE,
            cameras={"front_view": FRONT_VIEW, "ego_view": GR1_EGO_VIEW},
            objects={
                "thing": ObjectSpec.of_part("thing", yaw_symmetry=4 if thing == "carton" else 36),
                **{name: ObjectSpec.of_part(name) for name in ("target", *_DISTRACTORS)},
            },
            contacts=grasp_contacts("thing", fingers=fingers),
            clearances_mm={"hand above the table": 25.0, "thing in the target, across": 42.0},
        ),
        resets={"D0": _reset(source, 1.0), "D1": _reset(source, 2.0)},
        subtasks={
            "right": (
                SubtaskSpec(name="pick", object_ref="thing", end_signal="picked", grasps="thing"),
                SubtaskSpec(name="place", object_ref="target", carries="thing", interpolation_steps=15),
            ),
            "left": (SubtaskSpec(name="rest", object_ref=None, selection=Selection(strategy="random")),),
        },
        signals={"picked": every(in_hand, above("thing", _TOP_M + GRASP_M + 0.06))},
        held={"thing": in_hand},
        success=every(
            inside("thing", "target", (-0.06, -0.05, 0.0), (0.06, 0.05, GRASP_M + 0.015)),
            away("thing", "right", _GONE_M),
        ),
    )


def _slug(name: str) -> str:
    return name.replace(" ", "_")


COMBINATIONS: Mapping[str, TaskSpec] = {
    name: _task(name, thing, source, target)
    for thing in THINGS
    for source in SOURCES
    for target in TARGETS
    for name in [f"{NAME}/{_slug(thing)}/{source}/{target}"]
}
"""All tasks of the family by name."""

TASK = _task(NAME, "pepper mill", "table", "basket")
"""The combination that answers to the family's name."""
