"""Which demo is carried: every demo's boundaries, drawn for one attempt, and the choice among the nearest.

What selection asks of the demos is stacked once per job, so that an attempt costs the same with ten or a thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.constraints import Constraint
from factory.coordination import bonds, chains_of, end_together, follow_leads
from factory.retargeting import Source, turned, turns
from factory.specs import GenerationSpec, Selection, SubtaskSpec, TaskSpec

Array = NDArray[np.float64]

_ROUNDING = 1e-6
"""Angles by quaternions differ from those by matrices by less than this (rad): the arc cosine loses half the digits."""


@dataclass(frozen=True, kw_only=True)
class _Starts:
    """The rows at which one subtask may begin, of all demos: demo d's row r is entry ``d * width + r - first[d]``.

    Components come first, because numpy is quick along a long last axis.

    Attributes:
        first: ``(demos,)`` first such row; width is how many there are.
        width: see first.
        object_xyz: ``(3, demos * width)`` position of the reference object there; empty without one.
        object_quat_wxyz: likewise ``(4, ...)``.
        hand_xyz: ``(3, demos * width)`` position of the hand in the reference object's frame, or in the world.
        hand_quat_wxyz: likewise ``(4, ...)``.
        slack_rad: how far an angle computed from these may be off.
    """

    first: NDArray[np.int64]
    width: int
    object_xyz: Array
    object_quat_wxyz: Array
    hand_xyz: Array
    hand_quat_wxyz: Array
    slack_rad: float


@dataclass(frozen=True, kw_only=True, eq=False)
class SourceSet(Sequence[Source]):
    """The sources of a job, with what selection asks of them; make one with `source_set`.

    Attributes:
        sources: the demos with their cuts.
        chains: end effector -> its subtasks with the generation's overrides applied.
        stops: end effector -> ``(demos, subtasks)`` where segments end before jitter.
        starts: end effector -> per subtask, see `_Starts`.
        constraints: what holds between the arms, with the generation's overrides applied.
    """

    sources: tuple[Source, ...]
    chains: Mapping[str, tuple[SubtaskSpec, ...]]
    stops: Mapping[str, NDArray[np.int64]]
    starts: Mapping[str, tuple[_Starts, ...]]
    constraints: tuple[Constraint, ...] = ()

    def __len__(self) -> int:
        return len(self.sources)

    def __iter__(self) -> Iterator[Source]:
        return iter(self.sources)

    @overload
    def __getitem__(self, index: int) -> Source: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Source, ...]: ...
    def __getitem__(self, index: int | slice) -> Source | tuple[Source, ...]:
        return self.sources[index]


def source_set(task: TaskSpec, sources: Sequence[Source], spec: GenerationSpec) -> SourceSet:
    """Return the sources stacked for these settings; a set that was made for the same settings is returned as it is."""
    constraints = bonds(task, spec)
    chains = chains_of(task, spec, constraints)
    if isinstance(sources, SourceSet) and (sources.chains, sources.constraints) == (chains, constraints):
        return sources
    stops = {
        eef: np.array([[segment.stop for segment in source.segments[eef]] for source in sources], np.int64)
        for eef in chains
    }
    stops = end_together(stops, chains, constraints)
    return SourceSet(
        sources=tuple(sources),
        chains=chains,
        stops=stops,
        starts={
            eef: tuple(_starts(sources, eef, chain, stops[eef], k) for k in range(len(chain)))
            for eef, chain in chains.items()
        },
        constraints=constraints,
    )


def _starts(
    sources: Sequence[Source], eef: str, chain: Sequence[SubtaskSpec], stops: NDArray[np.int64], k: int
) -> _Starts:
    low, high = chain[k - 1].end_jitter_steps if k else (0, 0)
    first = stops[:, k - 1] + low if k else np.zeros(len(sources), np.int64)
    rows = [np.arange(f, f + high - low + 1) for f in first]
    T_hand = np.concatenate([s.demo.T_world_eef[eef][r] for s, r in zip(sources, rows, strict=True)])
    ref = chain[k].object_ref
    slack = _skew(T_hand)
    T_object = np.empty((0, 4, 4))
    if ref is not None:
        T_object = np.concatenate(
            [s.demo.T_world_object[ref][np.maximum(r, s.settled)] for s, r in zip(sources, rows, strict=True)]
        )
        slack += _skew(T_object)
        T_hand = poses.inverse(T_object) @ T_hand
    return _Starts(
        first=first,
        width=high - low + 1,
        object_xyz=np.ascontiguousarray(T_object[:, :3, 3].T),
        object_quat_wxyz=np.ascontiguousarray(poses.quat_wxyz_from_matrix(T_object[:, :3, :3]).T),
        hand_xyz=np.ascontiguousarray(T_hand[:, :3, 3].T),
        hand_quat_wxyz=np.ascontiguousarray(poses.quat_wxyz_from_matrix(T_hand[:, :3, :3]).T),
        # Poses read from a stranger's file are rotations only as well as they were written.
        slack_rad=_ROUNDING + 4.0 * slack,
    )


def _skew(T: Array) -> float:
    R = T[:, :3, :3]
    return float(np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max(initial=0.0))


def jittered_bounds(sources: SourceSet, eef: str, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw every demo's subtask boundaries for one attempt, ``(demos, subtasks, 2)``: start and exclusive stop.

    A boundary moves by a uniform integer from its subtask's range, both ends included; the next segment starts there.
    """
    bounds = np.zeros((*sources.stops[eef].shape, 2), np.int64)
    for k, subtask in enumerate(sources.chains[eef]):
        low, high = subtask.end_jitter_steps
        bounds[:, k, 1] = sources.stops[eef][:, k] + rng.integers(low, high, size=len(sources), endpoint=True)
    bounds[:, 1:, 0] = bounds[:, :-1, 1]
    return bounds


def drawn_bounds(sources: SourceSet, rng: np.random.Generator) -> dict[str, NDArray[np.int64]]:
    """Draw all arms' boundaries for one attempt, see `jittered_bounds`; arms that act as one end at the same rows."""
    return follow_leads(
        {eef: jittered_bounds(sources, eef, rng) for eef in sources.chains}, sources.chains, sources.constraints
    )


def select_source(
    sources: SourceSet,
    begins: NDArray[np.int64],
    *,
    eef: str,
    subtask: int,
    T_world_object: Array | None,
    T_world_eef: Array,
    yaw_symmetry: int = 1,
    rng: np.random.Generator,
) -> int:
    """Return the index of the demo whose segment will be carried.

    Args:
        sources: the demos.
        begins: ``(demos,)`` first row of each demo's segment.
        eef: end effector.
        subtask: index in its chain; says how to choose and which object the segment refers to.
        T_world_object: ``(4, 4)`` pose of that object now; None when there is none.
        T_world_eef: ``(4, 4)`` pose of the hand now.
        yaw_symmetry: of that object, see `specs.ObjectSpec`; 1 to ignore it.
        rng: the attempt's selection stream.
    """
    selection = sources.chains[eef][subtask].selection
    if selection.strategy == "random":
        return int(rng.integers(len(sources)))
    near = np.arange(len(sources))
    if selection.top_k < len(sources):
        # Which demos can be among the nearest is found for all at once; their order is settled by the exact cost.
        low, high, slack = _estimates(
            sources.starts[eef][subtask], begins, selection, T_world_object, T_world_eef, yaw_symmetry
        )
        near = np.flatnonzero(low <= np.partition(high, selection.top_k - 1)[selection.top_k - 1] + slack)
    ref = sources.chains[eef][subtask].object_ref if T_world_object is not None else None
    chosen = [(sources[i], int(begins[i])) for i in near]
    cost = _costs(chosen, eef, ref, selection, T_world_object, T_world_eef, yaw_symmetry)
    nearest = near[np.argsort(cost, kind="stable")[: selection.top_k]]
    return int(nearest[rng.integers(len(nearest))])


def _estimates(
    starts: _Starts,
    begins: NDArray[np.int64],
    selection: Selection,
    T_world_object: Array | None,
    T_world_eef: Array,
    yaw_symmetry: int,
) -> tuple[Array, Array, float]:
    """Return bounds of every demo's cost, ``(demos,)`` each, and by how much rounding may shift them."""
    at = np.arange(len(begins)) * starts.width + (begins - starts.first)
    slack = 2.0 * selection.rotation_weight * starts.slack_rad + 1e-9
    p_hand = T_world_eef[:3, 3]
    if T_world_object is None or not starts.object_xyz.size:
        half_cosine = poses.quat_wxyz_from_matrix(T_world_eef[:3, :3]) @ starts.hand_quat_wxyz[:, at]
        cost = _weighted(selection, starts.hand_xyz[:, at] - p_hand[:, None], half_cosine)
        return cost, cost, slack
    R_options, p_object = T_world_object[:3, :3] @ turns(yaw_symmetry), T_world_object[:3, 3]
    half_cosines = np.abs(poses.quat_wxyz_from_matrix(R_options) @ starts.object_quat_wxyz[:, at])
    best = half_cosines.max(axis=0)
    if selection.strategy == "nearest_object":
        cost = _weighted(selection, starts.object_xyz[:, at] - p_object[:, None], best)
        return cost, cost, slack
    nearest = np.argmax(half_cosines, axis=0)
    shift = (R_options.transpose(1, 2, 0)[..., nearest] * starts.hand_xyz[:, at]).sum(axis=1)
    hand_quat_wxyz = poses.quat_wxyz_from_matrix(np.swapaxes(R_options, -1, -2) @ T_world_eef[:3, :3])
    half_cosine = (hand_quat_wxyz.T[:, nearest] * starts.hand_quat_wxyz[:, at]).sum(axis=0)
    cost = _weighted(selection, shift + (p_object - p_hand)[:, None], half_cosine)
    # Where two turns are almost equally small, rounding decides which is taken, and either may be.
    tied = np.count_nonzero(half_cosines >= best - 2.0 * starts.slack_rad, axis=0) > 1
    return np.where(tied, -np.inf, cost), np.where(tied, np.inf, cost), slack


def _weighted(selection: Selection, shift: Array, half_cosine: Array) -> Array:
    metres = np.sqrt((shift * shift).sum(axis=0))
    turn = 2.0 * np.arccos(np.minimum(np.abs(half_cosine), 1.0))
    return selection.position_weight * metres + selection.rotation_weight * turn


def _costs(
    chosen: Sequence[tuple[Source, int]],
    eef: str,
    object_ref: str | None,
    selection: Selection,
    T_world_object: Array | None,
    T_world_eef: Array,
    yaw_symmetry: int,
) -> Array:
    """Return what selection ranks by, for pairs of a demo and the first row of its segment."""
    T_hand = np.stack([s.demo.T_world_eef[eef][row] for s, row in chosen])
    if object_ref is None or T_world_object is None:
        here, there = T_world_eef, T_hand
    else:
        T_object = np.stack([s.demo.T_world_object[object_ref][max(row, s.settled)] for s, row in chosen])
        T_now = turned(T_world_object, yaw_symmetry, T_object)
        if selection.strategy == "nearest_object":
            here, there = T_now, T_object
        else:
            here, there = T_world_eef, T_now @ poses.inverse(T_object) @ T_hand
    here = np.broadcast_to(here, there.shape)
    shift = np.linalg.norm(there[:, :3, 3] - here[:, :3, 3], axis=-1)
    turn = poses.angle_between(there[:, :3, :3], here[:, :3, :3])
    return selection.position_weight * shift + selection.rotation_weight * turn
