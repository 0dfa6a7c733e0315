"""Tabletop: a family of tasks in which a Panda moves one of two things to one of two places, as it is told.

What dreams are learnt from and verified in. Things and places are told apart by colour and kind; the four objects of a
scene have four different colours. 18 things and 6 places make 108 tasks named "tabletop/COLOUR_KIND/COLOUR_KIND", see
`COMBINATIONS`; what else lies there follows from the name. `HELD_OUT` names what no model is trained on. What happens
in a scene, and whether it is what was asked for, is told by `tabletop_events`.

Every thing's frame is `GRASP_M` above its foot, its x axis along a bar, where fingers close across it; so the shipped
demonstrations, of the slimmest thing, serve all: the fingers close until they meet something.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence

from factory.errors import SpecError, unknown_name
from factory.parts import BodySpec, CameraSpec, Colour, GeomSpec, Shape, open_box
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import above, every, grasp_contacts, held
from sim_tasks.tasks.tabletop_events import FINGERS, FLOOR_M, GRASP_M, MOVED, ROOM_M, TARGETS, goal

NAME = "tabletop"
TABLE_M = 0.8
"""Height of the table's surface."""

VIEW = "dream_view"
DREAM_VIEW = CameraSpec(pos_m=(0.68, 0.0, 1.40), look_at_m=(-0.02, 0.0, 0.84), fovy_deg=30.0)
"""From across the table, steeply down: 4 cm where things start are 5 of 64 pixels, and D0 lies within the picture."""

THING_COLOURS: Mapping[str, Colour] = {
    "red": (0.80, 0.05, 0.05, 1.0),
    "green": (0.08, 0.55, 0.12, 1.0),
    "yellow": (0.95, 0.82, 0.05, 1.0),
    "purple": (0.45, 0.10, 0.62, 1.0),
    "orange": (0.98, 0.45, 0.02, 1.0),
    "black": (0.04, 0.04, 0.05, 1.0),
}
PLACE_COLOURS: Mapping[str, Colour] = {
    "blue": (0.08, 0.22, 0.80, 1.0),
    "pink": (0.98, 0.50, 0.72, 1.0),
    "brown": (0.36, 0.18, 0.07, 1.0),
}
THING_KINDS = ("cube", "cylinder", "bar")
PLACE_KINDS: Mapping[str, str] = {"plate": "on", "tray": "in"}
"""Kind of a place -> its preposition."""

THINGS = tuple(f"{colour} {kind}" for kind in THING_KINDS for colour in THING_COLOURS)
PLACES = tuple(f"{colour} {kind}" for kind in PLACE_KINDS for colour in PLACE_COLOURS)

HELD_OUT_THINGS = frozenset({"yellow cube", "purple cylinder", "orange bar"})
"""Things that appear in no scene of `TRAINING`, neither to be moved nor beside; their colours and kinds do."""
HELD_OUT_PAIRS = frozenset(
    {
        ("red cube", "brown tray"),
        ("green cube", "pink plate"),
        ("black cylinder", "blue plate"),
        ("orange cylinder", "pink tray"),
        ("red bar", "blue tray"),
        ("purple bar", "brown plate"),
    }
)
"""(thing, place): both are known from `TRAINING`, this thing at this place is not."""

_GRIP = (1.5, 0.005, 0.0001)
_CUBE_M, _BAR_M = (0.046, 0.046, 0.046), (0.095, 0.028, 0.038)
_ROUND_M = (0.024, 0.062)
"""Full sizes of cube and bar; radius and height of the cylinder."""
_SYMMETRY = {"cube": 4, "cylinder": 36, "bar": 2, "plate": 36, "tray": 4}
_APART_M = {"cube": 0.04, "cylinder": 0.04, "bar": 0.05, "plate": 0.06, "tray": 0.07}
"""Radii that keep objects apart: a thing's is at least half the width of the open hand. With `_GAP_M` beyond, the
corners of trays, up to 1.5 cm outside, touch nothing."""
_GAP_M = 0.02
_TRAY_M = (0.11, 0.11, 0.014)
_PLATE_RADIUS_M = 0.06


def colour_kind(words: str) -> tuple[str, str]:
    """Return colour and kind of "red cube"; raises SpecError when no thing or place is called that."""
    if words not in (*THINGS, *PLACES):
        raise SpecError(unknown_name("thing or place", words, (*THINGS, *PLACES)))
    colour, _, kind = words.partition(" ")
    return colour, kind


def body(words: str) -> BodySpec:
    """Return the body of a thing, free, or of a place, fixed where a start puts it."""
    colour, kind = colour_kind(words)
    if kind == "plate":
        rgba = PLACE_COLOURS[colour]
        disc = GeomSpec(shape="cylinder", size_m=(_PLATE_RADIUS_M, FLOOR_M / 2), pos_m=(0, 0, FLOOR_M / 2), rgba=rgba)
        return BodySpec(geoms=(disc,), joint="fixed")
    if kind == "tray":
        return BodySpec(geoms=open_box(_TRAY_M, FLOOR_M, rgba=PLACE_COLOURS[colour]), joint="fixed")
    shapes: Mapping[str, tuple[Shape, tuple[float, ...], float]] = {
        "cube": ("box", tuple(edge / 2 for edge in _CUBE_M), _CUBE_M[2]),
        "bar": ("box", tuple(edge / 2 for edge in _BAR_M), _BAR_M[2]),
        "cylinder": ("cylinder", (_ROUND_M[0], _ROUND_M[1] / 2), _ROUND_M[1]),
    }
    shape, size, height = shapes[kind]
    geom = GeomSpec(
        shape=shape,
        size_m=size,
        pos_m=(0.0, 0.0, height / 2 - GRASP_M),
        rgba=THING_COLOURS[colour],
        density=300.0,
        friction=_GRIP,
    )
    return BodySpec(geoms=(geom,))


# --- words ------------------------------------------------------------------------------------------------------------


def labels(task_name: str) -> Mapping[str, str]:
    """Return what a scene's objects are called: "thing" -> "red cube", "distractor", "target", "other_target".

    Raises:
        SpecError: the family has no such task.
    """
    if task_name not in _CASTS:
        raise SpecError(unknown_name("tabletop task", task_name, _CASTS))
    return _CASTS[task_name]


def phrases(task_name: str, *, thing: str = "thing", target: str = "target") -> tuple[str, str, str]:
    """Return what is moved, from where, and to where: ("red cube", "from the table", "on the blue plate").

    Args:
        task_name: whose scene.
        thing: object that is moved, "thing" or "distractor".
        target: where it goes, "target" or "other_target".

    Raises:
        SpecError: no such task, or its scene has no such thing or place.
    """
    called = labels(task_name)
    for role, given, known in (("thing", thing, MOVED), ("place", target, TARGETS)):
        if given not in known:
            raise SpecError(f"{task_name}: {unknown_name(role, given, known)}")
    place = called[target]
    return called[thing], "from the table", f"{PLACE_KINDS[colour_kind(place)[1]]} the {place}"


def instruction(task_name: str, *, thing: str = "thing", target: str = "target") -> str:
    """Return the sentence that asks for a thing at a place; arguments and errors as in `phrases`."""
    what, source, where = phrases(task_name, thing=thing, target=target)
    return f"Pick up the {what} {source} and place it {where}."


def _one_of(options: Sequence[str], name: str) -> str:
    """Return an option by a hash of a name: it varies with the name, and is the same in every process."""
    return options[int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % len(options)]


def _cast(thing: str, place: str) -> dict[str, str]:
    """Return who plays what: beside the thing another of another colour, beside the place one of another kind too."""
    (colour, _), (tint, kind) = colour_kind(thing), colour_kind(place)
    things = [t for t in THINGS if t not in HELD_OUT_THINGS and colour_kind(t)[0] != colour]
    places = [p for p in PLACES if kind not in p and tint not in p]
    return {
        "thing": thing,
        "distractor": _one_of(things, f"{thing}/{place}/distractor"),
        "target": place,
        "other_target": _one_of(places, f"{thing}/{place}/other_target"),
    }


# --- tasks ------------------------------------------------------------------------------------------------------------


def _reset(cast: Mapping[str, str], *, wide: bool) -> ResetSpec:
    """Return starts.

    D0: two things in a row near the robot, turned a little, and two places beyond, left and right as it comes. D1: rows
    twice as deep, so that they mix, things turned twice as far, places too.
    """

    def place(name: str, x_m: tuple[float, float], half_y_m: float, turn_deg: float) -> PlacementSpec:
        turn, foot_m = math.radians(turn_deg), GRASP_M + 0.001 if name in MOVED else 0.0
        return PlacementSpec(
            object=name,
            x_m=x_m,
            y_m=(-half_y_m, half_y_m),
            z_m=(foot_m, foot_m),
            yaw_rad=(-turn, turn),
            reference_m=(0.0, 0.0, TABLE_M),
            radius_m=_APART_M[colour_kind(cast[name])[1]],
        )

    near, far = ((-0.16, 0.04), (-0.05, 0.13)) if wide else ((-0.13, -0.03), (0.04, 0.13))
    half_y_m = (0.18, 0.18) if wide else (0.15, 0.14)
    turn_deg = (60.0, 20.0) if wide else (30.0, 0.0)
    return ResetSpec(
        placements=tuple(
            place(name, x_m, half_y_m[i], turn_deg[i])
            for i, (names, x_m) in enumerate(((MOVED, near), (TARGETS, far)))
            for name in names
        ),
        min_gap_m=_GAP_M,
    )


def _task(name: str, thing: str, place: str) -> TaskSpec:
    """Return the task that brings a thing to a place."""
    cast = _CASTS[name]
    _, source, where = phrases(name)
    return TaskSpec(
        name=name,
        description=f"One of {len(THINGS)} things to one of {len(PLACES)} places, with another of each beside; "
        f"here {thing}, {place}.",
        instruction=instruction(name),
        paraphrases=(
            f"Take the {thing} {source} and put it {where}.",
            f"Put the {thing} {where}.",
            f"The {thing} belongs {where}.",
            f"Move the {thing} so that it lies {where}.",
        ),
        robot=PANDA,
        scene=SceneSpec(
            base="table",
            parts={obj: body(words) for obj, words in cast.items()},
            cameras={VIEW: DREAM_VIEW},
            objects={
                obj: ObjectSpec.of_part(obj, yaw_symmetry=_SYMMETRY[colour_kind(w)[1]]) for obj, w in cast.items()
            },
            contacts=grasp_contacts(*MOVED, fingers=FINGERS),
            clearances_mm={
                "cylinder between the open fingers": 31.0,
                "frame of the thing off the middle": 1000 * ROOM_M,
            },
        ),
        resets={"D0": _reset(cast, wide=False), "D1": _reset(cast, wide=True)},
        subtasks={
            "right": (
                SubtaskSpec(
                    name="pick", object_ref="thing", end_signal="picked", grasps="thing", interpolation_steps=3
                ),
                SubtaskSpec(name="place", object_ref="target", carries="thing", interpolation_steps=3),
            )
        },
        signals={"picked": every(held("thing", FINGERS), above("thing", TABLE_M + GRASP_M + 0.04))},
        held={obj: held(obj, FINGERS) for obj in MOVED},
        success=goal(),
        success_hold_steps=6,
    )


def _slug(words: str) -> str:
    return words.replace(" ", "_")


_USUAL = ("green bar", "pink tray")
"""What answers to the family's name, and is demonstrated: the slimmest thing, into the place with walls."""
_PAIRS = {f"{NAME}/{_slug(thing)}/{_slug(place)}": (thing, place) for thing in THINGS for place in PLACES}
_CASTS: Mapping[str, Mapping[str, str]] = {name: _cast(*pair) for name, pair in (*_PAIRS.items(), (NAME, _USUAL))}

COMBINATIONS: Mapping[str, TaskSpec] = {name: _task(name, *pair) for name, pair in _PAIRS.items()}
"""All tasks of the family by name."""

HELD_OUT = tuple(name for name, pair in _PAIRS.items() if pair[0] in HELD_OUT_THINGS or pair in HELD_OUT_PAIRS)
"""Tasks that no model is trained on: they move a thing that no training scene has, or bring one somewhere new."""
TRAINING = tuple(name for name in _PAIRS if name not in HELD_OUT)
"""All others."""

TASK = _task(NAME, *_USUAL)
"""The combination that answers to the family's name."""
