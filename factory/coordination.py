"""Arms that act as one: one source demo, one rigid transform for all of them, the same row at the same step.

Let ``X_e(r)`` be the target of arm e in row r of the source, ``O`` the pose of the shared object in the source when the
arms begin, ``O'`` its pose now, and ``p(.)`` a position. All arms follow ``N D X_e(r)`` with

    transform    D = O' O^-1
    translate    D = (1, p(O') - p(O))
    replay       D = 1

and the noise ``N``: a turn by the rotation vector ``w`` about the point ``D p(O)``, then a displacement ``d``, where
``w ~ N(0, noise_rad^2 1)`` and ``d ~ N(0, noise_m^2 1)`` are drawn once. Whatever D and N are, they cancel between two
arms: ``(N D X_a)^-1 (N D X_b) = X_a^-1 X_b``. That is the law: during the rows that the arms' segments have in common,
each hand's target has the pose relative to the other's that it had in the source.

The schemes are DexMimicGen's (Jiang et al. 2024, arXiv 2410.24185, section III-C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.constraints import (
    Chains,
    Constraint,
    Coordination,
    Ordering,
    Scheme,
    check_constraints,
    position,
    shared_object,
)
from factory.retargeting import Source, effective_subtask, turned
from factory.specs import GenerationSpec, SubtaskSpec, TaskSpec

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
    """What arms that act as one have in common in one attempt.

    Attributes:
        scheme: of the coordination.
        subtasks: end effector -> index of its subtask.
        demo: index of the source that all follow.
        T_shared: ``(4, 4)`` what moves its targets, noise included.
        shift_m: ``(3,)`` displacement drawn; likewise the turn, a rotation vector.
        turn_rad: see shift_m.
        meet: first source row that all segments have; stop, exclusive, is where all end.
        stop: see meet.
    """

    scheme: Scheme
    subtasks: Mapping[str, int]
    demo: int
    T_shared: Array
    shift_m: Array
    turn_rad: Array
    meet: int
    stop: int


def shared_transform(scheme: Scheme, T_world_object_source: Array, T_world_object: Array) -> Array:
    """Return D ``(4, 4)`` of the module's formula; all poses in the world frame."""
    if scheme == "replay":
        return np.eye(4)
    if scheme == "translate":
        return poses.pose(np.eye(3), T_world_object[:3, 3] - T_world_object_source[:3, 3])
    return T_world_object @ poses.inverse(T_world_object_source)


def perturbation(about: Array, shift_m: Array, turn_rad: Array) -> Array:
    """Return N ``(4, 4)``: a turn by a rotation vector about a point ``(3,)``, then a displacement, world frame."""
    R = poses.matrix_from_axis_angle(turn_rad)
    return poses.pose(R, about - R @ about + shift_m)


def share(
    coordination: Coordination,
    chains: Chains,
    source: Source,
    *,
    demo: int,
    segments: Mapping[str, tuple[int, int]],
    T_world_object: Mapping[str, Array],
    yaw_symmetry: Mapping[str, int],
    untransformed: bool,
    began: int,
    draw: Array,
) -> Shared:
    """Return what the arms of a coordination will have in common.

    Args:
        coordination: with the generation's overrides applied.
        chains: end effector -> its subtasks.
        source: the demo they follow; likewise its index.
        demo: see source.
        segments: end effector -> [start, stop) of its segment; all stop at the same row.
        T_world_object: object -> ``(4, 4)`` pose now.
        yaw_symmetry: object -> how to read it, see `specs.ObjectSpec`; absent means no symmetry.
        untransformed: leave the demo where it was recorded, without noise.
        began: source row at which the arms begin: where the object is looked at in the demo.
        draw: ``(6,)`` standard normal numbers: displacement, then turn.
    """
    T_shared, shift, turn = np.eye(4), np.zeros(3), np.zeros(3)
    if not untransformed:
        name = shared_object(chains, coordination)
        if name is None:
            about = np.mean([source.demo.T_world_eef[eef][began, :3, 3] for eef in coordination.subtasks], axis=0)
        else:
            T_then = source.demo.T_world_object[name][max(began, source.settled)]
            T_now = turned(T_world_object[name], yaw_symmetry.get(name, 1), T_then)
            T_shared = shared_transform(coordination.scheme, T_then, T_now)
            about = T_shared[:3, :3] @ T_then[:3, 3] + T_shared[:3, 3]
        shift, turn = coordination.noise_m * draw[:3], coordination.noise_rad * draw[3:]
        T_shared = perturbation(about, shift, turn) @ T_shared
    return Shared(
        scheme=coordination.scheme,
        subtasks={eef: position(chains, eef, subtask) for eef, subtask in coordination.subtasks.items()},
        demo=demo,
        T_shared=T_shared,
        shift_m=shift,
        turn_rad=turn,
        meet=max(start for start, _ in segments.values()),
        stop=min(stop for _, stop in segments.values()),
    )


def bonds(task: TaskSpec, spec: GenerationSpec) -> tuple[Constraint, ...]:
    """Return the task's constraints with the generation's overrides applied.

    Raises:
        SpecError: a scheme that replaces the task's needs an object the constraint does not name.
    """
    kept: list[Constraint] = []
    for constraint in task.constraints:
        if isinstance(constraint, Ordering):
            kept += [constraint] if spec.ordering == "task" else []
        elif spec.coordination != "off":
            kept.append(
                replace(
                    constraint,
                    scheme=constraint.scheme if spec.coordination == "task" else spec.coordination,
                    noise_m=spec.coordination_noise * constraint.noise_m,
                    noise_rad=spec.coordination_noise * constraint.noise_rad,
                )
            )
    check_constraints(
        f"task {task.name!r}, coordination={spec.coordination!r}", task.subtasks, task.scene.objects, kept
    )
    return tuple(kept)


def chains_of(
    task: TaskSpec, spec: GenerationSpec, constraints: Sequence[Constraint]
) -> dict[str, tuple[SubtaskSpec, ...]]:
    """Return every arm's subtasks with the generation's overrides; arms that act as one have their end's jitter too."""
    chains = {eef: [effective_subtask(s, spec) for s in chain] for eef, chain in task.subtasks.items()}
    for (lead, lead_k), *others in _columns(chains, constraints):
        for eef, k in others:
            chains[eef][k] = replace(chains[eef][k], end_jitter_steps=chains[lead][lead_k].end_jitter_steps)
    return {eef: tuple(chain) for eef, chain in chains.items()}


def end_together(
    stops: Mapping[str, NDArray[np.int64]], chains: Chains, constraints: Sequence[Constraint]
) -> dict[str, NDArray[np.int64]]:
    """Return segment ends ``(demos, subtasks)`` per end effector, those of arms that act as one cut to the earliest.

    What a later end is cut by belongs to the next segment of its arm, so segments still tile the demo.
    """
    cut = {eef: ends.copy() for eef, ends in stops.items()}
    for at in _columns(chains, constraints):
        earliest = np.min([cut[eef][:, k] for eef, k in at], axis=0)
        for eef, k in at:
            cut[eef][:, k] = earliest
    return cut


def follow_leads(
    bounds: Mapping[str, NDArray[np.int64]], chains: Chains, constraints: Sequence[Constraint]
) -> dict[str, NDArray[np.int64]]:
    """Return drawn bounds ``(demos, subtasks, 2)`` per end effector; arms that act as one end where the first does."""
    columns = _columns(chains, constraints)
    agreed = {eef: drawn.copy() for eef, drawn in bounds.items()} if columns else dict(bounds)
    for (lead, lead_k), *others in columns:
        for eef, k in others:
            agreed[eef][:, k, 1] = agreed[lead][:, lead_k, 1]
            agreed[eef][:, k + 1 : k + 2, 0] = agreed[eef][:, k : k + 1, 1]
    return agreed


def _columns(chains: Chains, constraints: Sequence[Constraint]) -> list[list[tuple[str, int]]]:
    return [
        [(eef, position(chains, eef, name)) for eef, name in constraint.subtasks.items()]
        for constraint in constraints
        if isinstance(constraint, Coordination)
    ]
