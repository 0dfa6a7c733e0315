"""Proposes what a robot could do in a first frame.

Two proposers, never confused: one asks a multimodal model to look at the picture, the other knows the scene because the
simulator drew it, and refuses frames it knows nothing about. Every proposal says which one made it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from dreams.endpoint import Question
from dreams.instructions import Instruction, distinct
from dreams.judge import Asks
from factory.errors import SpecError

VERSION = "propose/1"
_SYSTEM = (
    "You propose tasks for a robot arm with one gripper. Only what the picture shows exists. A task moves one thing "
    "that a gripper can hold, from where it is, to a place with room for it, within the arm's reach."
)

_ASKED = (
    "First list every object: colour and kind, where it is, and whether the arm can reach and hold it. Then propose "
    "{count} different tasks of the form 'pick up the THING SOURCE and place it TARGET': thing is one of the listed "
    "objects by the same name; source begins with 'from', target with 'on' or 'in', such as 'from the table' and 'on "
    "the green plate'. Say why each is physically possible before you name it."
)


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """One instruction for one frame.

    Attributes:
        frame: name of the first frame.
        instruction: what to do in it.
        counterfactual: the scene's own demonstrations do not move this thing to this target.
        proposer: who proposed it: "state", or "mllm:MODEL".
        version: of its words or rules.
        then: what is to be done afterwards, a round of dreaming each.
    """

    frame: str
    instruction: Instruction
    counterfactual: bool
    proposer: str
    version: str = VERSION
    then: tuple[Instruction, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that a gripper can hold.

    Attributes:
        name: colour and kind: "red cube".
        position_m: ``(x, y, z)`` of its middle, world frame.
        radius_m: of the upright cylinder around it.
        on: name of the place it stands on; empty for none that is named.
    """

    name: str
    position_m: tuple[float, float, float]
    radius_m: float
    on: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Somewhere things can be put.

    Attributes:
        name: "green plate".
        preposition: "on" or "in".
        position_m: ``(x, y, z)`` of the middle of its floor, world frame.
        radius_m: of the free disc there.
    """

    name: str
    preposition: str
    position_m: tuple[float, float, float]
    radius_m: float

    def __post_init__(self) -> None:
        if self.preposition not in ("on", "in"):
            raise SpecError(f"things are put 'on' or 'in' {self.name!r}, not {self.preposition!r}")


@dataclass(frozen=True, kw_only=True)
class KnownScene:
    """What a simulator knows about a frame.

    Attributes:
        things: what can be held.
        places: where it can be put.
        base_m: the arm's base, ``(x, y)``.
        reach_m: least and greatest horizontal distance from the base that its hand comes to.
        usual: what the scene's demonstrations do; everything else is counterfactual.
    """

    things: tuple[Thing, ...]
    places: tuple[Place, ...]
    base_m: tuple[float, float]
    reach_m: tuple[float, float]
    usual: tuple[Instruction, ...] = ()

    def __post_init__(self) -> None:
        names = [each.name.lower() for each in (*self.things, *self.places)]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise SpecError(f"several things or places are called {', '.join(twice)}: no instruction could name one")


def propose_from_state(frame: str, scene: KnownScene | None, *, count: int) -> list[Proposal]:
    """Return at most `count` instructions that the scene's geometry allows, things taking turns.

    A thing goes to a place where it is not yet, both within reach, that has room for it beside what stands there. The
    order depends on nothing but the scene.

    Raises:
        SpecError: nothing is known about the frame.
    """
    if scene is None:
        raise SpecError(
            f"frame {frame!r} has no simulator state, so this proposer knows nothing about it; give an endpoint "
            "(--endpoint URL --model NAME) for a model that looks at the picture"
        )
    usual = {each.key for each in scene.usual}
    by_thing = [
        [_instruction(thing, place, scene) for place in scene.places if _fits(thing, place, scene)]
        for thing in scene.things
        if _reached(thing.position_m, scene)
    ]
    turns = (one[turn] for turn in range(len(scene.places)) for one in by_thing if turn < len(one))
    chosen = distinct(turns)[:count]
    return [
        Proposal(frame=frame, instruction=each, counterfactual=each.key not in usual, proposer="state")
        for each in chosen
    ]


def propose_by_model(
    frame: str, jpeg: bytes, asks: Asks, *, count: int, usual: Sequence[Instruction] = ()
) -> list[Proposal]:
    """Return at most `count` different instructions a model proposes for a picture.

    What it lists but did not see as an object, or calls out of reach, is left out. Raises AskError.
    """
    question = Question(
        kind=VERSION,
        system=_SYSTEM,
        parts=(
            jpeg,
            _ASKED.format(count=count),
        ),
        answer=Listing,
    )
    listing = asks.ask(question)
    assert isinstance(listing, Listing)  # noqa: S101 - what `ask` promises
    holdable = {_plain(each.name) for each in listing.objects if each.can_be_held}
    proposed: list[Instruction] = []
    for each in listing.tasks:
        try:
            instruction = Instruction(thing=each.thing, source=each.source, target=each.target)
        except SpecError:
            continue  # an empty or endless name
        whence, where = instruction.source.lower().split(" ")[0], instruction.target.lower().split(" ")[0]
        if _plain(instruction.thing) in holdable and whence == "from" and where in ("on", "in"):
            proposed.append(instruction)
    known = {each.key for each in usual}
    return [
        Proposal(frame=frame, instruction=each, counterfactual=each.key not in known, proposer=f"mllm:{asks.model}")
        for each in distinct(proposed)[:count]
    ]


class _Seen(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    where: str
    can_be_held: bool


class _Task(BaseModel):
    model_config = ConfigDict(extra="forbid")
    why_possible: str
    thing: str
    source: str
    target: str


class Listing(BaseModel):
    """The form of a model's proposals: what it sees, then what could be done with it."""

    model_config = ConfigDict(extra="forbid")
    objects: list[_Seen]
    tasks: list[_Task]


def _plain(name: str) -> str:
    return Instruction(thing=name, source="from here", target="on it").thing.lower() if name.strip() else ""


def _instruction(thing: Thing, place: Place, scene: KnownScene) -> Instruction:
    preposition = next((p.preposition for p in scene.places if p.name == thing.on), "on")
    source = f"from {'inside ' if preposition == 'in' else ''}the {thing.on or 'table'}"
    return Instruction(thing=thing.name, source=source, target=f"{place.preposition} the {place.name}")


def _fits(thing: Thing, place: Place, scene: KnownScene) -> bool:
    """Whether there is room for the thing in the middle of the place, within reach, and it is not there already."""
    others = (each for each in scene.things if each is not thing)
    return (
        thing.on != place.name
        and thing.radius_m <= place.radius_m
        and _reached(place.position_m, scene)
        and all(math.dist(o.position_m[:2], place.position_m[:2]) > o.radius_m + thing.radius_m for o in others)
    )


def _reached(position_m: tuple[float, float, float], scene: KnownScene) -> bool:
    near, far = scene.reach_m
    return near <= math.dist(position_m[:2], scene.base_m) <= far
