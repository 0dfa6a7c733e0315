"""What happens on the tabletop: the goal of any instruction, and the events that lead to it, told by states alone.

All hold for either thing and either place of a scene, so an instruction that the scene's own task does not give is
judged like the one that it does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from factory.scene import Predicate, SceneState
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import away, every, held, unheld

MOVED = ("thing", "distractor")
TARGETS = ("target", "other_target")
EVENTS = ("reached", "grasped", "lifted", "moved", "released", "placed")
OUTCOMES = ("success", "dropped", "wrong_object", "missed", "pushed", "wrong_place")
GRASP_M = 0.023
"""Height of every thing's frame above its foot."""
FLOOR_M = 0.006
"""Height of every place's floor above the table."""
ROOM_M = 0.045
"""How far off a place's middle a thing's frame may lie."""
FINGERS = tuple(PANDA.eefs["right"].fingers)
_NEAR_M, _RAISED_M, _CARRIED_M = 0.035, 0.03, 0.05
"""Hand and thing this near have met; a thing this much higher hangs; one carried this far has been moved."""
_STILL_M, _SHOVED_M = 0.01, 0.025
"""A thing that moved less lies where it lay; one that moved more without being held was pushed."""
_BETWEEN_M = 0.015
"""Fingers that are closer than this have nothing between them; shut, both can touch a thing that they push."""


def goal(thing: str = "thing", target: str = "target") -> Predicate:
    """True while a thing lies on or in a place and the hand has let go of it and left; for any thing and any place."""

    def lies(state: SceneState) -> NDArray[np.bool_]:
        offset = state.position(thing) - state.position(target)
        low = np.abs(offset[:, 2] - FLOOR_M - GRASP_M) < 0.01
        return low & (np.hypot(offset[:, 0], offset[:, 1]) < ROOM_M)

    return every(lies, unheld(thing, FINGERS), away(thing, "right"))


def events(thing: str = "thing", target: str = "target") -> Mapping[str, Predicate]:
    """Return what is to be seen of a thing on its way to a place, by the names of `EVENTS`.

    Unlike a task's predicates these look back: the state's leading axis is time, row 0 the start, and row t says
    whether it has happened by then. "lifted" and "moved" are said of a thing that the fingers hold, "released" of one
    that they had lifted; "placed" alone is said of the present.
    """
    touched = held(thing, FINGERS)

    def in_hand(state: SceneState) -> NDArray[np.bool_]:
        return touched(state) & (np.abs(state.joint("right_gripper")).sum(axis=-1) > _BETWEEN_M)

    def reached(state: SceneState) -> NDArray[np.bool_]:
        near = ~away(thing, "right", _NEAR_M)(state)
        return _by_then(near | np.logical_or.reduce([state.touching(thing, finger) for finger in FINGERS]))

    def grasped(state: SceneState) -> NDArray[np.bool_]:
        return _by_then(in_hand(state))

    def lifted(state: SceneState) -> NDArray[np.bool_]:
        height = state.position(thing)[:, 2]
        return _by_then(in_hand(state) & (height > height[0] + _RAISED_M))

    def moved(state: SceneState) -> NDArray[np.bool_]:
        way = np.linalg.norm((state.position(thing) - state.position(thing)[0])[:, :2], axis=-1)
        return _by_then(in_hand(state) & lifted(state) & (way > _CARRIED_M))

    def released(state: SceneState) -> NDArray[np.bool_]:
        return _by_then(lifted(state) & ~in_hand(state))

    named = (reached, grasped, lifted, moved, released, goal(thing, target))
    return dict(zip(EVENTS, named, strict=True))


def _by_then(now: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_or.accumulate(now)


def outcome_of(scene: SceneState) -> str:
    """Return what came of an episode, one of `OUTCOMES`, or "other" for what has no name.

    Args:
        scene: all its states in the order of time, the first one at rest.
    """

    def at_end(thing: str, target: str = "target") -> dict[str, bool]:
        return {name: bool(happened(scene)[-1]) for name, happened in events(thing, target).items()}

    def moved_m(thing: str) -> float:
        return float(np.linalg.norm((scene.position(thing)[-1] - scene.position(thing)[0])[:2]))

    thing, other = at_end("thing"), at_end("distractor")
    if other["lifted"]:
        return "wrong_object" if other["placed"] and moved_m("thing") < _STILL_M else "other"
    if thing["lifted"]:
        if thing["placed"]:
            return "success"
        if at_end("thing", "other_target")["placed"]:
            return "wrong_place"
        return "dropped" if thing["released"] else "other"
    if moved_m("thing") < _STILL_M:
        return "missed" if not thing["grasped"] else "other"
    return "pushed" if moved_m("thing") > _SHOVED_M and not thing["grasped"] else "other"
