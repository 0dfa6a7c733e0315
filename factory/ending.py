"""What proves, in the middle of an attempt, that it cannot succeed any more.

Success needs certain objects to get somewhere, and a task says which (`TaskSpec.needs`). An object that lies still away
from every hand stays where it is unless the plan comes back to it, and the plan is known: targets are computed when a
subtask begins. So an attempt that has left such an object behind can be ended with nothing lost but time.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory.constraints import Coordination
from factory.diagnosis import LOST_DISTANCE_M, LOST_FALL_M
from factory.scene import SceneState
from factory.sim import Block
from factory.specs import TaskSpec

Array = NDArray[np.float64]
Outlook = Literal["good", "doubtful", "hopeless"]

CHECK_STEPS: Mapping[Outlook, int] = {"good": 40, "doubtful": 10, "hopeless": 10}
"""Control steps until the next look while a needed object is in the hand or in its place, and while it is not."""

_CLEAR_M = 0.15
"""From a grip frame this far off, open fingers (5 cm to the side) touch no object that reaches 8 cm from its frame."""
_STILL_STEPS = 5
"""A quarter of a second at 20 Hz."""
_STILL_M = 1e-3
"""What moves less than this within it has come to rest: 4 mm/s."""


def outlook(
    task: TaskSpec,
    start: SceneState,
    recent: SceneState,
    subtask: Mapping[str, int],
    ahead: Mapping[str, Block],
    waiting: Collection[str] = (),
) -> Outlook:
    """Return whether success is still possible: "hopeless" is a proof, "doubtful" a reason to look again soon.

    Args:
        task: whose needs are judged; without any, the outlook is always good.
        start: the scene when the attempt began.
        recent: the last few steps, newest last.
        subtask: end effector -> index in its chain.
        ahead: end effector -> what is left of its present subtask; none for one that has finished.
        waiting: end effectors that wait for another before they begin the subtask, whose path is not known then.
    """
    doubtful = False
    for name, needed in task.needs.items():
        if needed(recent)[-1] or _in_hand(task, recent, name):
            continue
        path = recent.position(name)[-_STILL_STEPS - 1 :]
        here = path[-1]
        hands = [T[-1, :3, 3] for T in recent.T_world_eef.values()]
        at_rest = len(path) > _STILL_STEPS and bool(np.ptp(path, axis=0).max() < _STILL_M)
        alone = at_rest and _clear_of(here, np.array(hands))
        due = _never_asked_for(task, name, subtask, waiting)
        if alone and (_gone(start, recent, name) or (due and all(_clear_of(here, _path(b)) for b in ahead.values()))):
            return "hopeless"
        doubtful |= due
    return "doubtful" if doubtful else "good"


def watched(task: TaskSpec, subtask: Mapping[str, int], waiting: Collection[str] = ()) -> bool:
    """Return whether a needed object could be left behind in these subtasks, so that looking is worth a pause."""
    return any(_never_asked_for(task, name, subtask, waiting) for name in task.needs)


def _never_asked_for(task: TaskSpec, name: str, subtask: Mapping[str, int], waiting: Collection[str]) -> bool:
    """Whether no hand is about to take the object, and no later subtask, whose path is not known yet, refers to it."""
    return not any(
        chain[subtask[eef]].grasps == name
        or any(
            name in (s.grasps, s.object_ref) or name in _shared_objects(task, eef, s.name)
            for s in chain[subtask[eef] + (eef not in waiting) :]
        )
        for eef, chain in task.subtasks.items()
    )


def _shared_objects(task: TaskSpec, eef: str, subtask: str) -> tuple[str | None, ...]:
    """What a subtask's path follows beside its own object: where arms act as one, the one that they share."""
    return tuple(
        constraint.object_ref
        for constraint in task.constraints
        if isinstance(constraint, Coordination) and constraint.subtasks.get(eef) == subtask
    )


def _in_hand(task: TaskSpec, recent: SceneState, name: str) -> bool:
    holds = [is_held for key, is_held in task.held.items() if key.rpartition(":")[2] == name]
    return any(bool(np.asarray(is_held(recent), bool)[-_STILL_STEPS:].any()) for is_held in holds)


def _gone(start: SceneState, recent: SceneState, name: str) -> bool:
    here = recent.position(name)[-1]
    away = min(float(np.linalg.norm(here - T[:3, 3])) for T in recent.T_world_base.values())
    return bool(start.position(name)[0, 2] - here[2] > LOST_FALL_M) or away > LOST_DISTANCE_M


def _path(block: Block) -> Array:
    return block.T_world_eef[:, :3, 3]


def _clear_of(position: Array, path: Array) -> bool:
    return bool((np.linalg.norm(path - position, axis=-1) > _CLEAR_M).all())
