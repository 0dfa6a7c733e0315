"""Predicates that tasks share: functions that return a pure function from a `SceneState` to ``(N,)`` truth values.

Their meanings follow robosuite's own checks, so that a success counted here is a success there.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.scene import Predicate, SceneState

FINGERS = ("right_finger1", "right_finger2")
"""The two opposing finger groups of the Panda's hand, see `sim_tasks.robots`."""

AWAY_M = float(np.arctanh(0.4) / 10.0)
"""4.24 cm: farther away, robosuite's reaching reward 1 - tanh(10 d) is below 0.6, its test for a hand that let go."""


def grasp_contacts(*objects: str, fingers: tuple[str, ...] = FINGERS) -> tuple[tuple[str, str], ...]:
    """Return the contact pairs that `held` asks about, for a scene's list of contacts."""
    return tuple((obj, finger) for obj in objects for finger in fingers)


def held(obj: str, fingers: tuple[str, ...] = FINGERS) -> Predicate:
    """True while all the given fingers touch the object: robosuite's meaning of a grasp."""

    def is_held(state: SceneState) -> NDArray[np.bool_]:
        return np.logical_and.reduce([state.touching(obj, finger) for finger in fingers])

    return is_held


def above(obj: str, height_m: float) -> Predicate:
    """True while the object's frame is higher than a height in the world, metres."""

    def is_above(state: SceneState) -> NDArray[np.bool_]:
        return state.position(obj)[:, 2] > height_m

    return is_above


def stacked(top: str, bottom: str, height_m: float) -> Predicate:
    """True while `top` is above a world height, touches `bottom`, and is not held.

    The height has to be one that the top object cannot reach by leaning against the bottom one.
    """
    lifted, grasped = above(top, height_m), held(top)

    def is_stacked(state: SceneState) -> NDArray[np.bool_]:
        return lifted(state) & state.touching(top, bottom) & ~grasped(state)

    return is_stacked


def released(obj: str, eef: str = "right") -> Predicate:
    """True while the object is not held and the hand's grip frame is away from the object's frame."""
    grasped = held(obj)

    def is_released(state: SceneState) -> NDArray[np.bool_]:
        distance = np.linalg.norm(state.T_world_eef[eef][:, :3, 3] - state.position(obj), axis=-1)
        return (distance > AWAY_M) & ~grasped(state)

    return is_released


def within(obj: str, of: str, low_m: tuple[float, float, float], high_m: tuple[float, float, float]) -> Predicate:
    """True while the object's frame is inside a box about another object's position; the box keeps the world's axes."""

    def is_within(state: SceneState) -> NDArray[np.bool_]:
        offset = state.position(obj) - state.position(of)
        return np.all((offset > np.array(low_m)) & (offset < np.array(high_m)), axis=-1)

    return is_within


def joint_beyond(group: str, threshold: float) -> Predicate:
    """True while the first joint of a scene joint group is beyond a value (rad or m)."""

    def is_beyond(state: SceneState) -> NDArray[np.bool_]:
        return state.joint(group)[:, 0] > threshold

    return is_beyond


def joint_below(group: str, threshold: float) -> Predicate:
    """True while the first joint of a scene joint group is below a value (rad or m)."""

    def is_below(state: SceneState) -> NDArray[np.bool_]:
        return state.joint(group)[:, 0] < threshold

    return is_below


def both(first: Predicate, second: Predicate) -> Predicate:
    """True where both are."""

    def are_both(state: SceneState) -> NDArray[np.bool_]:
        return first(state) & second(state)

    return are_both


def every(*predicates: Predicate) -> Predicate:
    """True where all are."""

    def are_all(state: SceneState) -> NDArray[np.bool_]:
        return np.logical_and.reduce([predicate(state) for predicate in predicates])

    return are_all


def upright(obj: str, most_rad: float) -> Predicate:
    """True while the object's z axis is within an angle of the vertical."""

    def is_upright(state: SceneState) -> NDArray[np.bool_]:
        return state.T_world_object[obj][:, 2, 2] > np.cos(most_rad)

    return is_upright


def away(obj: str, eef: str, distance_m: float = AWAY_M) -> Predicate:
    """True while a hand's grip frame is farther from the object's frame than a distance."""

    def is_away(state: SceneState) -> NDArray[np.bool_]:
        return np.linalg.norm(state.T_world_eef[eef][:, :3, 3] - state.position(obj), axis=-1) > distance_m

    return is_away


def inside(
    obj: str,
    of: str,
    low_m: tuple[float, float, float],
    high_m: tuple[float, float, float],
    *,
    point_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Predicate:
    """True while a point of the object, given in its frame, is inside a box that turns with another object's frame."""

    def is_inside(state: SceneState) -> NDArray[np.bool_]:
        T = poses.inverse(state.T_world_object[of]) @ state.T_world_object[obj]
        here = T[:, :3, :3] @ np.array(point_m) + T[:, :3, 3]
        return np.all((here > np.array(low_m)) & (here < np.array(high_m)), axis=-1)

    return is_inside


def unheld(obj: str, fingers: tuple[str, ...] = FINGERS) -> Predicate:
    """True while the given fingers do not all touch the object."""
    grasped = held(obj, fingers)

    def is_unheld(state: SceneState) -> NDArray[np.bool_]:
        return ~grasped(state)

    return is_unheld
