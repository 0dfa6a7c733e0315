"""What scripts for several hands say: this hand goes to this grasp of that object, closes, moves together with another.

A grasp is a pose in the object's frame: z points where the hand reaches, x from finger to opposing finger. Parallel
grippers and dexterous hands understand the same grasp, each by its own grasp frame (`EefSpec.grasp_m`).

What a Fourier hand on a GR-1 holds well: an upright shaft 5 to 7 cm thick, taken from the hand's own side with the
fingers ahead, its weight below or around the hand. The fingers open little by little, the hand then goes 2.5 cm back
along its fingers, so that the thumb is clear, and only then away. The arm lags where it has to reach across: at rest it
is off by up to 1 mm at 16 cm to its own side of the middle, 8 mm at 8 cm, and by 11 to 38 mm at 3 cm beyond the middle;
so things are set down on the hand's own side.

What an Inspire hand on a Panda holds well: a bar 4 cm thick across the palm, the fingers hanging down, taken from the
side. Told to close half way they hook under it and the thumb lies on top: nothing is pinched, so two hands do not turn
what they share. What hangs from one hand needs a round bar and a heavy foot to hang upright; of a square bar thumb and
fingers find two edges, and turn it. An open hand comes and leaves from the side or upwards, never across the bar: the
thumb stays 16 mm above it and reaches 55 mm beyond.

A script for two hands is a generator of acts. An act gives each hand a script of strokes; hands run theirs side by
side, each at its own pace, and the next act begins when all have ended.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.scene import SceneState
from factory.specs import EefSpec, RobotSpec
from sim_tasks.demonstrators.strokes import Script, Stroke, Style

Array = NDArray[np.float64]
Part = Generator[Stroke, SceneState, SceneState]
"""A piece of a script; returns the scene after its last stroke."""

_CLOSING_STEPS = 24
"""A hand's fingers need about a second for their whole way; one that has met nothing by then will not."""
_SQUEEZE_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Now:
    """Where everything is between two acts.

    Attributes:
        scene: leading axis 1.
        targets: end effector -> ``(4, 4)`` pose it was last told to take, world frame.
    """

    scene: SceneState
    targets: Mapping[str, Array]

    @staticmethod
    def of(scene: SceneState) -> Now:
        """Return the beginning: every hand is told to be where it is."""
        return Now(scene=scene, targets={name: T[-1] for name, T in scene.T_world_eef.items()})

    def object(self, name: str) -> Array:
        """Return the ``(4, 4)`` world pose of an object."""
        return self.scene.T_world_object[name][-1]


Act = Mapping[str, Script]
Duet = Generator[Act, Now, None]
DuetOf = Callable[[Now, Mapping[str, Style]], Duet]
"""Begins a script for two hands, each with a style of its own."""


@dataclass(frozen=True, kw_only=True)
class Hand:
    """One end effector as scripts know it.

    Attributes:
        name: "right" or "left".
        eef: its specification.
    """

    name: str
    eef: EefSpec

    def at(self, T_world_grasp: Array) -> Array:
        """Return the hand's ``(4, 4)`` pose that puts its grasp frame there."""
        T_eef_grasp = poses.pose(
            poses.matrix_from_quat_wxyz(np.array(self.eef.grasp_quat_wxyz)), np.array(self.eef.grasp_m)
        )
        return T_world_grasp @ poses.inverse(T_eef_grasp)

    def touches(self, scene: SceneState, obj: str) -> bool:
        """Tell whether all opposing fingers touch an object, which is what a grasp is."""
        return all(scene.touching(obj, finger)[-1] for finger in self.eef.fingers)

    def pose(self, scene: SceneState) -> Array:
        """Return where it is, ``(4, 4)``."""
        return scene.T_world_eef[self.name][-1]


def hands_of(robot: RobotSpec) -> dict[str, Hand]:
    """Return a robot's hands by name."""
    return {name: Hand(name=name, eef=eef) for name, eef in robot.eefs.items()}


def grasp_pose(position_m: Iterable[float], reach: Iterable[float], across: Iterable[float]) -> Array:
    """Return a grasp at a point: `reach` is where the hand reaches to, `across` from finger to finger, same frame."""
    z, x = np.array(tuple(reach), float), np.array(tuple(across), float)
    z /= np.linalg.norm(z)
    x -= (x @ z) * z
    x /= np.linalg.norm(x)
    return poses.pose(np.stack([x, np.cross(z, x), z], axis=1), np.array(tuple(position_m), float))


def turned_over(T_grasp: Array) -> Array:
    """Return the same grasp with a parallel gripper's fingers exchanged."""
    return T_grasp @ poses.pose(np.diag([-1.0, -1.0, 1.0]), np.zeros(3))


def easier(hand: Hand, scene: SceneState, T_world_grasps: Iterable[Array]) -> Array:
    """Return, of several grasps that are as good, the one that turns the hand least from where it is."""
    here = hand.pose(scene)[:3, :3]
    return min(T_world_grasps, key=lambda T: float(poses.angle_between(hand.at(T)[:3, :3], here)))


def back_off(T_world_grasp: Array, distance_m: float) -> Array:
    """Return a grasp moved back against the direction in which the hand reaches."""
    away = T_world_grasp.copy()
    away[:3, 3] -= distance_m * T_world_grasp[:3, 2]
    return away


def offset_of(style: Style, T_world_grasp: Array) -> Array:
    """Return a grasp with the style's imprecision: along the fingers' width, in depth, and about the reach."""
    along, depth = style.grasp_offset_m
    turn = poses.pose(poses.yaw_matrix(np.array(style.grasp_yaw_rad)), np.array([0.0, along, depth]))
    return T_world_grasp @ turn


def from_above(
    hand: Hand,
    scene: SceneState,
    T_world_object: Array,
    style: Style,
    *,
    at_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
    turns: int = 2,
) -> Array:
    """Return the grasp from above, with the style's imprecision, that turns a parallel gripper least from where it is.

    Args:
        hand: which.
        scene: now.
        T_world_object: ``(4, 4)`` where the object is, or will be.
        style: how.
        at_m: point of the object, in its frame; the first grasp considered closes along the frame's y axis.
        turns: that many equal turns about the vertical grasp it as well: 2 for a bar, 4 for what is square.
    """
    angles = 2.0 * np.pi * np.arange(turns) / turns
    across = [(-np.sin(angle), np.cos(angle), 0.0) for angle in angles]
    return easier(
        hand, scene, (T_world_object @ offset_of(style, grasp_pose(at_m, (0.0, 0.0, -1.0), a)) for a in across)
    )


# --- pieces of one hand's script --------------------------------------------------------------------------------------


def reach(hand: Hand, T_world_grasp: Array, style: Style, *, hover_m: float | None = None) -> Part:
    """Go before a grasp with open fingers and then straight into it."""
    hover = hand.at(back_off(T_world_grasp, style.hover_m if hover_m is None else hover_m))
    grasp = hand.at(T_world_grasp)
    yield Stroke(T_world_eef=hover, closed=False, speed_m_s=0.14 * style.pace, bulge_m=style.bulge_m)
    yield Stroke(T_world_eef=grasp, closed=False, speed_m_s=0.09 * style.pace)
    return (yield Stroke(T_world_eef=grasp, closed=False, steps=style.pause_steps))


def close(scene: SceneState, hand: Hand, obj: str, T_world_grasp: Array, *, squeeze: float = 1.0) -> Part:
    """Close the fingers, little by little, until the opposing ones touch an object, and a moment longer.

    `squeeze` is how far a hand's fingers are told to close, 0 to 1: its force grows with what they lack of that.
    """
    grasp = hand.at(T_world_grasp)
    many = len(hand.eef.opens) > 1
    for step in range(_CLOSING_STEPS):
        if hand.touches(scene, obj):
            break
        # A parallel gripper is told to close at once, as people do; a hand's fingers bend one after the other.
        scene = yield Stroke(T_world_eef=grasp, closed=min(squeeze, (step + 1) / 12) if many else 1.0, steps=1)
    return (yield Stroke(T_world_eef=grasp, closed=squeeze, steps=_SQUEEZE_STEPS))


def take(
    scene: SceneState,
    hand: Hand,
    obj: str,
    T_world_grasp: Array,
    style: Style,
    *,
    hover_m: float | None = None,
    squeeze: float = 1.0,
) -> Part:
    """Reach for an object and close on it."""
    scene = yield from reach(hand, T_world_grasp, style, hover_m=hover_m)
    return (yield from close(scene, hand, obj, T_world_grasp, squeeze=squeeze))


def bring(
    scene: SceneState,
    hand: Hand,
    obj: str,
    T_world_object: Array,
    style: Style,
    *,
    speed_m_s: float = 0.12,
    through: Iterable[Array] = (),
    rest_steps: int = 0,
) -> Part:
    """Bring what the hand holds to a pose, given how it holds it now; `through` are object poses passed on the way.

    It stays there for `rest_steps`: after a long and quick way the arm is a hand's breadth behind what it is told.
    """
    T_object_eef = poses.inverse(scene.T_world_object[obj][-1]) @ hand.pose(scene)
    way = np.array([T @ T_object_eef for T in through]).reshape(-1, 4, 4)
    goal = T_world_object @ T_object_eef
    scene = yield Stroke(T_world_eef=goal, closed=True, speed_m_s=speed_m_s * style.pace, through=way)
    if rest_steps:
        scene = yield Stroke(T_world_eef=goal, closed=True, steps=rest_steps)
    return scene


def let_go(
    hand: Hand,
    T_world_eef: Array,
    style: Style,
    *,
    back_m: float | None = None,
    slow_steps: int = 0,
    closed: float = 1.0,
) -> Part:
    """Open the fingers where the hand is told to be and leave the way it came; `T_world_eef` is that place.

    `closed` is how far the fingers were told to close. Over `slow_steps` they open little by little: a hand that lets
    go at once flings what stands on a small foot.
    """
    yield Stroke(T_world_eef=T_world_eef, closed=closed, steps=style.pause_steps)
    for step in range(slow_steps):
        yield Stroke(T_world_eef=T_world_eef, closed=closed * (1.0 - (step + 1) / slow_steps), steps=1)
    yield Stroke(T_world_eef=T_world_eef, closed=False, steps=10 if len(hand.eef.opens) > 1 else 6)
    T_grasp = T_world_eef @ poses.inverse(hand.at(np.eye(4)))
    away = hand.at(back_off(T_grasp, style.hover_m if back_m is None else back_m))
    return (yield Stroke(T_world_eef=away, closed=False, speed_m_s=0.15 * style.pace))


def go(T_world_eef: Array, style: Style, *, closed: float = 0.0, speed_m_s: float = 0.15, steps: int = 3) -> Part:
    """Move a hand."""
    return (yield Stroke(T_world_eef=T_world_eef, closed=closed, speed_m_s=speed_m_s * style.pace, steps=steps))


def wait(
    scene: SceneState,
    T_world_eef: Array,
    ready: Callable[[SceneState], bool],
    *,
    closed: float = 0.0,
    most_steps: int = 400,
) -> Part:
    """Stay until something is true, looking at every step."""
    for _ in range(most_steps):
        if ready(scene):
            break
        scene = yield Stroke(T_world_eef=T_world_eef, closed=closed, steps=1)
    return scene


# --- hands that act as one --------------------------------------------------------------------------------------------


def joined(
    now: Now,
    hands: Iterable[Hand],
    obj: str,
    T_world_object: Array,
    *,
    speed_m_s: float = 0.12,
    steps: int = 3,
    closed: float = 1.0,
) -> Act:
    """Return the act in which hands bring the object that all of them hold to a pose, moving as one rigid body."""
    parts: dict[str, Script] = {}
    for hand in hands:
        T_eef_object = poses.inverse(now.targets[hand.name]) @ now.object(obj)
        goal = T_world_object @ poses.inverse(T_eef_object)
        stroke = Stroke(T_world_eef=goal, closed=closed, speed_m_s=speed_m_s, steps=steps, T_eef_pivot=T_eef_object)
        parts[hand.name] = _one(stroke)
    return parts


def _one(stroke: Stroke) -> Script:
    yield stroke
