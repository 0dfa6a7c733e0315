"""Carry a source segment to where its object is now, and bridge to it.

Follows MimicGen (Mandlekar et al. 2023, arXiv 2310.17596, section 4): a segment keeps the hand's pose relative to its
reference object; a straight bridge leads to its first pose. Poses and gripper commands have equal length by
construction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.demos import AnnotatedDemo
from factory.segmentation import Segment
from factory.sim import Block
from factory.specs import EefSpec, GenerationSpec, SubtaskSpec
from factory.transit import PACE_M, PACE_RAD

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A demo and where its subtasks were cut, per end effector.

    Attributes:
        demo: the demo.
        segments: end effector -> its pieces, tiling the demo.
        settled: first row at which objects dropped at reset have come to rest; see `settled_row`.
    """

    demo: AnnotatedDemo
    segments: Mapping[str, tuple[Segment, ...]]
    settled: int = 0


@dataclass(frozen=True, kw_only=True)
class SourceUse:
    """Which piece of which demo moved which arm, and when.

    Attributes:
        eef: end effector.
        subtask: index in its chain.
        demo: index among the sources; likewise its name.
        demo_name: see demo.
        start: first source row used, after jitter; stop is exclusive.
        stop: see start.
        first_step: control step of the episode at which the bridge to it began.
        boundary: what the piece's end in the source was read from, see `segmentation.Segment.origin`.
    """

    eef: str
    subtask: int
    demo: int
    demo_name: str
    start: int
    stop: int
    first_step: int
    boundary: str


_REST_M = 1e-3
"""An object that moves less than this per control step (2 cm/s at 20 Hz) rests."""
_REST_RAD = 0.01
"""The same for turning."""
_STARTING_STEPS, _RESTING_STEPS = 2, 3
"""What falls at reset moves within the first two steps; three still steps in a row end the fall."""
_LEAVES_M, _LEAVES_RAD = 5e-3, 0.05
"""A hand that waits in a demo trembles by less; what is left out of its path is as short."""
_LEAVES_FINGERS = 0.5
"""A quarter of the range of a normalised gripper command."""
_FALL_STEPS = 30
"""Objects dropped at reset (robosuite's nut falls 6 cm) have landed and stopped rocking long before this."""


def settled_row(demo: AnnotatedDemo) -> int:
    """Return the first row at which every object rests; 0 when nothing moves at first, or something never rests.

    A demo that starts while its objects fall shows the first segment's object where it will not stay. Attempts settle
    before they start, so the source's reference pose has to be the settled one too.
    """
    rows = min(_FALL_STEPS, len(demo) - 1)
    if rows < _RESTING_STEPS:
        return 0
    moving = np.zeros(rows, bool)
    for path in demo.T_world_object.values():
        moving |= np.linalg.norm(np.diff(path[: rows + 1, :3, 3], axis=0), axis=-1) > _REST_M
        moving |= poses.angle_between(path[:rows, :3, :3], path[1 : rows + 1, :3, :3]) > _REST_RAD
    if not moving[:_STARTING_STEPS].any():
        return 0
    resting = np.lib.stride_tricks.sliding_window_view(~moving, _RESTING_STEPS).all(axis=-1)
    return int(np.argmax(resting)) if resting.any() else 0


def sets_off(demo: AnnotatedDemo, eef: str, start: int, stop: int) -> int:
    """Return the first of rows [start, stop) at which the hand's target or its fingers leave where they were at start.

    A hand that never leaves returns `stop`.
    """
    T, fingers = demo.T_world_eef_target[eef][start:stop], demo.gripper[eef][start:stop]
    away = np.linalg.norm(T[:, :3, 3] - T[0, :3, 3], axis=1) > _LEAVES_M
    away |= poses.angle_between(np.broadcast_to(T[0, :3, :3], T[:, :3, :3].shape), T[:, :3, :3]) > _LEAVES_RAD
    away |= np.abs(fingers - fingers[0]).max(axis=1) > _LEAVES_FINGERS
    return start + int(np.argmax(away)) if away.any() else stop


def effective_subtask(subtask: SubtaskSpec, spec: GenerationSpec) -> SubtaskSpec:
    """Return the subtask with the generation's overrides applied; the last subtask never gets end jitter."""
    changes: dict[str, object] = {}
    if spec.selection is not None:
        changes["selection"] = spec.selection
    if spec.end_jitter_steps is not None and subtask.end_signal is not None:
        changes["end_jitter_steps"] = spec.end_jitter_steps
    if spec.noise_normalised is not None:
        changes |= {"noise_normalised": spec.noise_normalised, "noise_m": 0.0, "noise_rad": 0.0}
    if spec.interpolation_steps is not None:
        changes["interpolation_steps"] = spec.interpolation_steps
    if spec.fixed_steps is not None:
        changes["fixed_steps"] = spec.fixed_steps
    return replace(subtask, **changes)  # type: ignore[arg-type]


def turned(T: Array, yaw_symmetry: int, T_like: Array) -> Array:
    """Return ``T`` turned about its own z axis by the multiple of a full turn over `yaw_symmetry` nearest to `T_like`.

    A source carried through the smallest equivalent turn stays close to motions that were possible for the robot. With
    a batch ``(n, 4, 4)`` of `T_like` the answer is one too.
    """
    if yaw_symmetry <= 1:
        return T if T_like.ndim == 2 else np.broadcast_to(T, T_like.shape)
    rotations = T[:3, :3] @ turns(yaw_symmetry)
    likes = T_like[..., None, :3, :3]
    angles = poses.angle_between(*np.broadcast_arrays(rotations, likes))
    # Rounding makes the first of equally near options win on every machine.
    return poses.pose(rotations[np.argmin(np.round(angles, 9), axis=-1)], T[:3, 3])


@cache
def turns(yaw_symmetry: int) -> Array:
    """Return the rotations ``(yaw_symmetry, 3, 3)`` about z after which such an object looks the same."""
    rotations = poses.yaw_matrix(2.0 * np.pi * np.arange(yaw_symmetry) / yaw_symmetry)
    rotations.flags.writeable = False
    return rotations


def carry(T_world_source: Array, T_world_object_source: Array, T_world_object: Array) -> Array:
    """Return poses ``(t, 4, 4)`` with the same pose relative to the object as in the source.

    Args:
        T_world_source: ``(t, 4, 4)`` hand poses of the source segment.
        T_world_object_source: ``(4, 4)`` the object when the source segment began.
        T_world_object: ``(4, 4)`` the object now.
    """
    return T_world_object @ poses.inverse(T_world_object_source) @ T_world_source


_REGRASP_M = 0.05
"""A carried object displaced in the hand by more than this, against the source, is not in the hand any more."""
_REGRASP_RAD = 0.6
"""The same for its turn; beyond it the wrist would be asked for poses the source never showed."""


def grasp_correction(T_hand_object_source: Array, T_hand_object: Array) -> Array:
    """Return C ``(4, 4)`` so that targets ``T @ C`` move the object held now as ``T`` moved the source's.

    ``T @ C @ T_hand_object == T @ T_hand_object_source``. A difference too large to be a grasp returns the identity.

    Args:
        T_hand_object_source: carried object in the hand when the source segment began.
        T_hand_object: carried object in the hand now.
    """
    correction = T_hand_object_source @ poses.inverse(T_hand_object)
    turn = float(poses.angle_between(np.eye(3), correction[:3, :3]))
    shift = float(np.linalg.norm(T_hand_object_source[:3, 3] - T_hand_object[:3, 3]))
    return correction if shift < _REGRASP_M and turn < _REGRASP_RAD else np.eye(4)


@dataclass(frozen=True, kw_only=True)
class Carried:
    """A source segment where it was carried to: ``(t, 4, 4)`` targets, world frame, and ``(t, g)`` gripper commands."""

    T_world_eef: Array
    gripper: Array

    def without(self, rows: int) -> Carried:
        """Return it without its first rows."""
        return Carried(T_world_eef=self.T_world_eef[rows:], gripper=self.gripper[rows:])


def carried_segment(
    source: Source,
    *,
    eef: str,
    subtask: SubtaskSpec,
    start: int,
    stop: int,
    T_world_object: Array | None,
    T_hand_object: Array | None = None,
    T_shared: Array | None = None,
    object_symmetry: int = 1,
    carried_symmetry: int = 1,
    with_first_pose: bool,
) -> Carried:
    """Return a segment carried to where its object is now.

    The segment's gripper commands go with its targets, row by row, whatever their width.

    Args:
        source: the chosen demo.
        eef: end effector.
        subtask: the subtask with overrides applied.
        start: first source row; stop is exclusive.
        stop: see start.
        T_world_object: ``(4, 4)`` reference object now; None plays the segment where it was recorded.
        T_hand_object: ``(4, 4)`` carried object in the hand now, to keep its motion rather than the hand's; see
            `grasp_correction`.
        T_shared: ``(4, 4)`` moves the segment instead of the object's motion, when arms act as one; see `coordination`.
        object_symmetry: `yaw_symmetry` of the reference object; likewise of the carried one.
        carried_symmetry: see object_symmetry.
        with_first_pose: put the segment's first measured hand pose before its targets.
    """
    demo = source.demo
    targets = demo.T_world_eef_target[eef][start:stop]
    gripper = demo.gripper[eef][start:stop]
    if with_first_pose:
        targets = np.concatenate([demo.T_world_eef[eef][start : start + 1], targets])
        gripper = np.concatenate([gripper[:1], gripper])
    if T_shared is not None:
        targets = T_shared @ targets
    elif T_world_object is not None and subtask.object_ref is not None:
        T_then = demo.T_world_object[subtask.object_ref][max(start, source.settled)]
        targets = carry(targets, T_then, turned(T_world_object, object_symmetry, T_then))
    if T_hand_object is not None and subtask.carries is not None:
        held = poses.inverse(demo.T_world_eef[eef][start]) @ demo.T_world_object[subtask.carries][start]
        targets = targets @ grasp_correction(held, turned(T_hand_object, carried_symmetry, held))
    return Carried(T_world_eef=targets, gripper=gripper)


def bridged_block(
    segment: Carried,
    *,
    subtask: SubtaskSpec,
    T_world_from: Array,
    T_world_via: Array | None = None,
    gripper_before: Array | None = None,
    paced: bool = False,
    noise_std: Array,
    rng: np.random.Generator,
) -> Block:
    """Return bridge, wait and carried segment as one block.

    On the way there a gripper of one dimension is told what the segment begins with, as in MimicGen; a hand of several
    keeps the fingers it was last told, because a grasp that changes while the arm travels loses what it holds.

    Args:
        segment: where the bridge leads, and what follows.
        subtask: the subtask with overrides applied.
        T_world_from: ``(4, 4)`` pose the bridge starts from.
        T_world_via: ``(n, 4, 4)`` the bridge itself, one pose per step; None for a straight one.
        gripper_before: ``(g,)`` last gripper command of this attempt; None before the first.
        paced: lengthen a straight bridge where it would be too fast to follow.
        noise_std: ``(6,)`` standard deviation in normalised action units; see `noise_std`.
        rng: the attempt's noise stream.
    """
    targets, gripper = segment.T_world_eef, segment.gripper
    bridge = T_world_via
    if bridge is None:
        n = subtask.interpolation_steps
        if paced:
            n = max(n, paced_steps(T_world_from, targets[0]))
        bridge = poses.interpolate(T_world_from, targets[0], np.arange(1, n + 1) / (n + 1))
    wait = np.repeat(targets[:1], subtask.fixed_steps, axis=0)
    lead = len(bridge) + subtask.fixed_steps
    noise = rng.normal(0.0, 1.0, (lead + len(targets), 6)) * noise_std
    if not subtask.noise_on_bridge:
        noise[:lead] = 0.0
    kept = gripper[:1] if gripper_before is None or gripper.shape[1] == 1 else gripper_before[None]
    return Block(
        T_world_eef=np.concatenate([bridge, wait, targets]),
        gripper=np.concatenate([np.repeat(kept, lead, axis=0), gripper]),
        action_noise=noise,
    )


def paced_steps(T_world_from: Array, T_world_to: Array) -> int:
    """Return how many control steps a bridge needs at the pace of `transit.PACE_M` and `PACE_RAD`."""
    shift = float(np.linalg.norm(T_world_to[:3, 3] - T_world_from[:3, 3]))
    turn = float(poses.angle_between(T_world_from[:3, :3], T_world_to[:3, :3]))
    return int(np.ceil(max(shift / PACE_M, turn / PACE_RAD)))


def noise_std(subtask: SubtaskSpec, eef: EefSpec) -> Array:
    """Return the standard deviation ``(6,)`` of the action noise in normalised action units."""
    if subtask.noise_normalised:
        return np.full(6, subtask.noise_normalised)
    metres, radians = subtask.noise_m / eef.position_scale_m, subtask.noise_rad / eef.rotation_scale_rad
    return np.array([metres] * 3 + [radians] * 3)
