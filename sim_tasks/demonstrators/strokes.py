"""The language scripted demonstrators speak: strokes of the hand, drawn the way a person's hand moves.

A script is a generator of strokes: it is sent the scene after each stroke, and so looks before it reaches. A stroke
becomes a minimum-jerk path (Flash and Hogan 1985, "The coordination of arm movements"), the profile of human reaching.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.scene import SceneState
from factory.sim import Block
from factory.specs import EefSpec
from sim_tasks.tasks.predicates import FINGERS

Array = NDArray[np.float64]

R_HOME = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""The hand pointing down as the Panda starts: its fingers close along the world's y axis (the hand's own x axis)."""

WRIST_MIDDLE_RAD = math.pi / 4
"""Yaw of the hand, from `R_HOME`, in the middle of the last joint's range, which ends 166 degrees to either side."""

_TURN_SPEED_RAD_S = 1.0
"""Mean turning speed: a right angle in a second and a half."""

_CLOSING_STEPS = 20
"""The fingers need 8 control steps for their whole way; one that has met nothing after 20 will not."""


@dataclass(frozen=True, kw_only=True)
class Stroke:
    """One smooth motion of the hand.

    Attributes:
        T_world_eef: ``(4, 4)`` where it ends.
        closed: how far the fingers are told to close meanwhile, from 0 or False to 1 or True.
        speed_m_s: mean speed of the straight way; the peak is 1.9 times as high.
        bulge_m: ``(3,)`` how far the middle of the path is off the straight line, world frame.
        steps: at least this many control steps; a stroke to where the hand is told to be already is a pause.
        through: ``(k, 4, 4)`` poses passed on the way, evenly spaced; empty is a straight line.
        T_eef_pivot: ``(4, 4)`` a frame that moves with the hand: the path, its speed and its turn are this frame's.
            Two hands that move the same pivot the same way move as one rigid body.
    """

    T_world_eef: Array
    closed: float
    speed_m_s: float = 0.15
    bulge_m: Array = field(default_factory=lambda: np.zeros(3))
    steps: int = 3
    through: Array = field(default_factory=lambda: np.empty((0, 4, 4)))
    T_eef_pivot: Array = field(default_factory=lambda: np.eye(4))


Script = Generator[Stroke, SceneState, Any]
"""One hand's part: yields strokes, is sent the scene (leading axis 1) after each."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """How one demonstration differs from another: drawn once for each, as if by another person on another day.

    Attributes:
        pace: factor on speeds.
        hover_m: height above an object from which the hand goes straight down.
        carry_m: height to which the hand lifts what it took.
        bulge_m: ``(3,)`` how the reaching path bends.
        grasp_offset_m: ``(2,)`` of the grasp off the object's middle: along the fingers' width, and in depth.
        grasp_yaw_rad: misalignment of the fingers.
        place_offset_m: ``(2,)`` of the place off its middle, horizontal.
        pause_steps: dwell before closing and before opening the fingers.
    """

    pace: float
    hover_m: float
    carry_m: float
    bulge_m: Array
    grasp_offset_m: Array
    grasp_yaw_rad: float
    place_offset_m: Array
    pause_steps: int


def draw_style(rng: np.random.Generator) -> Style:
    """Draw a style; spreads are those of a careful person: millimetres at contact, centimetres on the way."""
    return Style(
        pace=rng.uniform(0.85, 1.15),
        hover_m=rng.uniform(0.07, 0.10),
        carry_m=rng.uniform(0.11, 0.14),
        bulge_m=np.array([*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.0, 0.03)]),
        grasp_offset_m=rng.uniform(-0.003, 0.003, 2),
        grasp_yaw_rad=rng.uniform(-0.04, 0.04),
        place_offset_m=rng.uniform(-0.003, 0.003, 2),
        pause_steps=int(rng.integers(4, 8)),
    )


def block(T_world_from: Array, stroke: Stroke, *, control_hz: float, eef: EefSpec) -> Block:
    """Return the targets of a stroke that begins where the last one ended."""
    pivot = stroke.T_eef_pivot
    route = np.concatenate([T_world_from[None], stroke.through, stroke.T_world_eef[None]]) @ pivot
    way = float(np.linalg.norm(np.diff(route[:, :3, 3], axis=0), axis=-1).sum())
    turn = float(poses.angle_between(route[:-1, :3, :3], route[1:, :3, :3]).sum())
    seconds = max(way / stroke.speed_m_s, turn / _TURN_SPEED_RAD_S)
    # Rounded, so that hands that share a pivot agree on the number of steps.
    steps = max(stroke.steps, math.ceil(round(seconds * control_hz, 6)))
    t = np.arange(1, steps + 1) / steps
    fractions = t**3 * (10.0 - 15.0 * t + 6.0 * t * t)
    T = _along(route, fractions)
    T[:, :3, 3] += (16.0 * fractions**2 * (1.0 - fractions) ** 2)[:, None] * stroke.bulge_m
    share = float(stroke.closed)
    command = (1.0 - share) * np.array(eef.opens) + share * np.array(eef.closes)
    return Block(
        T_world_eef=T @ poses.inverse(pivot), gripper=np.tile(command, (steps, 1)), action_noise=np.zeros((steps, 6))
    )


def _along(route: Array, fractions: Array) -> Array:
    """Return the poses at fractions of a route of evenly spaced poses, straight between neighbours."""
    place = fractions * (len(route) - 1)
    leg = np.minimum(place.astype(int), len(route) - 2)
    return np.concatenate(
        [poses.interpolate(route[i], route[i + 1], place[leg == i] - i) for i in range(len(route) - 1)]
    )


def hand_down(position_m: Array, yaw_rad: float) -> Array:
    """Return the ``(4, 4)`` pose of the hand pointing down, turned about the vertical from `R_HOME`."""
    return poses.pose(poses.yaw_matrix(np.array(yaw_rad)) @ R_HOME, np.asarray(position_m, float))


def yaw_of(T_world_object: Array) -> float:
    """Return the direction of an object's x axis about the vertical, radians."""
    return math.atan2(T_world_object[1, 0], T_world_object[0, 0])


def nearest_turn(yaw_rad: float, near_rad: float, symmetry_rad: float) -> float:
    """Return the angle equivalent to `yaw_rad` under a rotational symmetry that is nearest to another angle."""
    return yaw_rad + symmetry_rad * round((near_rad - yaw_rad) / symmetry_rad)


def raised(T: Array, height_m: float) -> Array:
    """Return the pose moved straight up."""
    up = T.copy()
    up[2, 3] += height_m
    return up


def take(scene: SceneState, obj: str, grasp: Array, style: Style) -> Generator[Stroke, SceneState, SceneState]:
    """Reach for an object, close the fingers on it and lift it; returns the scene with the object in the air.

    Args:
        scene: now.
        obj: the object's name.
        grasp: ``(4, 4)`` hand pose at which the fingers close.
        style: how.
    """
    yield Stroke(
        T_world_eef=raised(grasp, style.hover_m), closed=False, speed_m_s=0.14 * style.pace, bulge_m=style.bulge_m
    )
    yield Stroke(T_world_eef=grasp, closed=False, speed_m_s=0.09 * style.pace)
    scene = yield Stroke(T_world_eef=grasp, closed=False, steps=style.pause_steps)
    yield from close_on(scene, obj, grasp)
    # Lifting briskly takes the object clear of its neighbours before the motion is carried to another object.
    return (yield Stroke(T_world_eef=raised(grasp, style.carry_m), closed=True, speed_m_s=0.18 * style.pace))


def close_on(scene: SceneState, obj: str, grasp: Array) -> Generator[Stroke, SceneState, SceneState]:
    """Close the fingers until both touch the object, and a moment longer."""
    for _ in range(_CLOSING_STEPS):
        if all(scene.touching(obj, finger)[-1] for finger in FINGERS):
            break
        scene = yield Stroke(T_world_eef=grasp, closed=True, steps=1)
    return (yield Stroke(T_world_eef=grasp, closed=True, steps=3))


def let_go(place: Array, style: Style) -> Generator[Stroke, SceneState, SceneState]:
    """Open the fingers where the hand is and leave straight up; returns the scene afterwards."""
    yield Stroke(T_world_eef=place, closed=True, steps=style.pause_steps)
    yield Stroke(T_world_eef=place, closed=False, steps=6)
    return (yield Stroke(T_world_eef=raised(place, style.hover_m), closed=False, speed_m_s=0.15 * style.pace))


def hand_for(scene: SceneState, obj: str, T_world_object: Array) -> Array:
    """Return where the hand has to be to bring what it holds to a pose, given how it holds it now."""
    T_object_eef = poses.inverse(scene.T_world_object[obj][-1]) @ scene.T_world_eef["right"][-1]
    return T_world_object @ T_object_eef


ScriptOf = Callable[[SceneState, Style], Script]
"""Begins the script of a robot with one arm from the scene at rest."""
