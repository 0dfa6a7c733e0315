"""Why an attempt failed: the subtask and arm it happened in, and a reason with a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from factory.scene import SceneState
from factory.specs import EefSpec, SubtaskSpec, TaskSpec

Array = NDArray[np.float64]

REASONS: Mapping[str, str] = {
    "unstable_simulation": "the simulator diverged",
    "timeout": "the attempt exceeded its step limit",
    "object_lost": "an object left the workspace",
    "unreachable": "the hand stayed away from its target",
    "gripper_stuck": "the gripper was commanded but did not move",
    "missed_grasp": "the hand closed without holding the object",
    "dropped": "the object left the closed hand",
    "misplaced": "the object was released in the wrong place",
    "not_achieved": "the motion ended without its effect",
    "success_lost": "success was reached but did not last",
    "constraint_deadlock": "arms waited for each other",
    "no_way": "no way to the next segment was found that touches nothing",
    "infra_poison": "the attempt killed its worker three times",
}
"""Reason -> one plain sentence. Every failure carries one of these names."""

_REACH_M = 0.08
"""Farther than this from its target ... Normal tracking lag of OSC at full speed stays below 5 cm."""
_REACH_STEPS = 15
"""... for this many steps in a row is unreachable."""
OUT_OF_REACH_M, OUT_OF_REACH_RAD = 0.02, 0.2
"""A hand that cannot come nearer than this to where it is planned to go failed for that reason, if it failed. Nothing
that has to fit here forgives as much; what is missed by less is left to what can be seen."""
LOST_FALL_M = 0.3
"""An object this far below its start fell off its support."""
LOST_DISTANCE_M = 2.0
"""An object this far from the robot's base is gone: no arm here reaches half of it."""
_STUCK_SHARE = 0.05
"""A hand that was told to close, holds nothing, and closed by less than this share of its travel is stuck."""
_STUCK_STEPS = 10
"""Control steps the Panda's fingers need for their full travel."""

_AFTER_STEPS = 2
"""Contact predicates may rise this many steps after a subtask's last one, when the next block has begun."""
_PROVEN = ("gripper_stuck", "unreachable", "dropped")
"""Reasons with evidence of their own in the last subtask; the others are what is left when none is found."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Where and why.

    Attributes:
        subtask: name of the subtask; likewise its end effector.
        eef: see subtask.
        reason: a key of `REASONS`.
        detail: one sentence with the numbers seen.
    """

    subtask: str
    eef: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class Miss:
    """By how much a hand cannot come to a pose that is planned for it; see `SimBackend`'s optional `reach`.

    Attributes:
        metres: between the nearest the arm allows and the pose, and the radians there.
        radians: see metres.
        xyz_m: where the pose is, world frame.
    """

    metres: float
    radians: float
    xyz_m: tuple[float, float, float]

    @property
    def matters(self) -> bool:
        """Whether it explains a failure by itself."""
        return self.metres > OUT_OF_REACH_M or self.radians > OUT_OF_REACH_RAD

    def __str__(self) -> str:
        at = ", ".join(f"{v:.2f}" for v in self.xyz_m)
        return f"the arm ends {self.metres:.3f} m and {self.radians:.2f} rad short of its target at ({at})"


@dataclass(frozen=True, kw_only=True)
class Trace:
    """What the diagnosis looks at: T steps, T + 1 scene states (see `replay.AttemptResult`).

    `misses` holds what was out of reach, per end effector and index in its chain.
    """

    scene: SceneState
    actions: NDArray[np.float32]
    T_world_eef_target: Mapping[str, Array]
    subtask: Mapping[str, NDArray[np.int64]]
    success: NDArray[np.bool_]
    hold_steps: int
    stable: bool
    in_time: bool
    waiting: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    misses: Mapping[tuple[str, int], Miss] = field(default_factory=dict)

    def rows(self, eef: str, k: int) -> NDArray[np.intp]:
        """Return the steps at which an arm carried out its k-th subtask, waiting to begin it not among them."""
        carried_out = self.subtask[eef] == k
        return np.flatnonzero(carried_out & ~self.waiting[eef] if eef in self.waiting else carried_out)


def diagnose(task: TaskSpec, trace: Trace) -> Failure:
    """Return the first thing that went wrong, in time and along each arm's chain.

    Evidence is judged subtask by subtask; within one, causes outside the hand (object gone, target out of reach, dead
    gripper) are named before their consequences (missed grasp, drop, wrong place). Of several arms the one is named
    whose subtask failed first; that the last subtask of another had no effect may well be the consequence.
    """
    if not trace.stable:
        return _whole(task, trace, "unstable_simulation", f"after {len(trace.actions)} steps")
    found = [first for eef in task.subtasks if (first := _first_failure(task, trace, eef)) is not None]
    if found:
        return min(found, key=_when).failure
    if not trace.in_time:
        return _whole(task, trace, "timeout", f"after {len(trace.actions)} steps")
    if trace.success.any():
        lost = int(np.flatnonzero(trace.success)[-1])
        return _whole(task, trace, "success_lost", f"success was last true at step {lost} of {len(trace.success)}")
    return _whole(task, trace, "not_achieved", "every subtask ended but the task's success was never true")


@dataclass(frozen=True, kw_only=True)
class _Found:
    """An arm's first failure.

    Attributes:
        failure: what it is called.
        until: last step of its subtask.
        over: the subtask is over, and so is what its contacts may still show.
        last: it is the arm's last subtask.
    """

    failure: Failure
    until: int
    over: bool
    last: bool


def _when(found: _Found) -> tuple[bool, int]:
    return found.last and found.failure.reason not in _PROVEN, found.until


def _first_failure(task: TaskSpec, trace: Trace, eef: str) -> _Found | None:
    chain = task.subtasks[eef]
    for k, subtask in enumerate(chain):
        rows = trace.rows(eef, k)
        if not len(rows):
            continue
        last = k == len(chain) - 1
        found = _subtask_failure(task, trace, eef, subtask, rows, last=last)
        if found is not None:
            failure = Failure(subtask=subtask.name, eef=eef, reason=found[0], detail=found[1])
            over = rows[-1] + _AFTER_STEPS <= len(trace.actions)
            return _Found(failure=failure, until=int(rows[-1]), over=over, last=last)
    return None


def decided(task: TaskSpec, trace: Trace, *, closing: bool) -> Failure | None:
    """Return the failure that `diagnose` would name if the attempt went on, or None while that is open.

    The attempt must be known not to succeed any more; `closing` says whether a hand will be told to close in what is
    left of the plan. What could still change the name is that the hand stays away from its target, or another object
    is lost, in the steps that are left. With several arms only a subtask that is over, of an arm that has more to come,
    decides: whatever fails later is later.
    """
    if not trace.stable or not trace.in_time:
        return None
    if len(task.subtasks) > 1:
        return _decided_among(task, trace)
    ((eef, chain),) = task.subtasks.items()
    for k, subtask in enumerate(chain):
        rows = trace.rows(eef, k)
        if not len(rows):
            return None
        last = k == len(chain) - 1
        found = _subtask_failure(task, trace, eef, subtask, rows, last=last)
        over = rows[-1] + _AFTER_STEPS <= len(trace.actions)
        if found is not None:
            final = over or found[0] == "object_lost" or (last and (found[0] in _PROVEN or not closing))
            return Failure(subtask=subtask.name, eef=eef, reason=found[0], detail=found[1]) if final else None
        if not (over or last):
            return None
    return diagnose(task, trace)


def _decided_among(task: TaskSpec, trace: Trace) -> Failure | None:
    found = [first for eef in task.subtasks if (first := _first_failure(task, trace, eef)) is not None]
    settled = [first for first in found if first.over and not first.last]
    if not settled:
        return None
    first = min(settled, key=_when)
    # An arm still at work in a subtask that already looks failed may yet do it; it cannot fail before this one did.
    return first.failure if all(first.until <= other.until for other in found) else None


def _whole(task: TaskSpec, trace: Trace, reason: str, detail: str) -> Failure:
    """Name the arm with the most of its chain before it."""
    reached = {eef: int(rows[-1]) if len(rows) else 0 for eef, rows in trace.subtask.items()}
    eef = max(task.subtasks, key=lambda e: len(task.subtasks[e]) - reached[e])
    return Failure(subtask=task.subtasks[eef][reached[eef]].name, eef=eef, reason=reason, detail=detail)


def closing(gripper: NDArray, eef: EefSpec) -> NDArray[np.bool_]:
    """Return where commands ``(t, g)`` tell a hand to close: most fingers decide, a tie does not close."""
    return np.sum(np.sign(gripper), axis=1) * eef.gripper_closed > 0


def _subtask_failure(
    task: TaskSpec, trace: Trace, eef: str, subtask: SubtaskSpec, rows: NDArray[np.int64], *, last: bool
) -> tuple[str, str] | None:
    if not last and subtask.end_signal is not None and _kept(task, trace, eef, subtask, rows):
        return None
    if last and trace.success.any():
        return None
    for look in (_lost, _gripper_stuck, _unreachable, _missed, _dropped):
        found = look(task, trace, eef, subtask, rows)
        if found is not None:
            return found
    if last and subtask.carries is not None:
        return "misplaced", f"{subtask.carries} was carried and released, but success was never true"
    return "not_achieved", f"{subtask.end_signal or 'success'} was never true"


def _kept(task: TaskSpec, trace: Trace, eef: str, subtask: SubtaskSpec, rows: NDArray[np.int64]) -> bool:
    """Whether the subtask did what it is for: its signal rose, and what it grasped is still held when it ends."""
    if subtask.end_signal is None:
        return False
    window = slice(rows[0], min(rows[-1] + 1 + _AFTER_STEPS, len(trace.scene)))
    if not np.asarray(task.signals[subtask.end_signal](trace.scene), bool)[window].any():
        return False
    holds = None if subtask.grasps is None else task.held_by(eef, subtask.grasps)
    if holds is None:
        return True
    held = np.asarray(holds(trace.scene), bool)
    return bool(held[max(rows[-1] - 2, 0) : rows[-1] + 1 + _AFTER_STEPS].any())


def _lost(
    task: TaskSpec, trace: Trace, eef: str, subtask: SubtaskSpec, rows: NDArray[np.int64]
) -> tuple[str, str] | None:
    base = trace.scene.T_world_base[eef][:3, 3]
    for name in dict.fromkeys((subtask.grasps, subtask.carries, subtask.object_ref)):
        if name is None:
            continue
        path = trace.scene.position(name)
        here = path[rows[0] : rows[-1] + 2]
        fallen = path[0, 2] - here[:, 2].min()
        away = np.linalg.norm(here - base, axis=-1).max()
        if fallen > LOST_FALL_M or away > LOST_DISTANCE_M:
            return "object_lost", f"{name} fell {max(fallen, 0.0):.2f} m and got {away:.2f} m away from the base"
    del task
    return None


def _gripper_stuck(
    task: TaskSpec, trace: Trace, eef: str, subtask: SubtaskSpec, rows: NDArray[np.int64]
) -> tuple[str, str] | None:
    spec = task.robot.eefs[eef]
    closes = closing(trace.actions[: rows[-1] + 1, slice(*spec.gripper_action)], spec)
    if subtask.grasps is None or closes[rows].sum() < _STUCK_STEPS:
        return None
    began = int(rows[np.argmax(closes[rows])])
    opened, closed = np.array(spec.joints_open), np.array(spec.joints_closed)
    fingers = trace.scene.joint(f"{eef}_gripper")[began : rows[-1] + 2]
    # Share of the travel from open to closed; a dead gripper is pushed open rather than closed by what it meets.
    closure = (fingers - opened) @ (closed - opened) / np.sum((closed - opened) ** 2)
    gain = float(closure.max() - closure[0])
    holds = task.held_by(eef, subtask.grasps)
    held = holds is not None and np.asarray(holds(trace.scene), bool)[rows].any()
    if gain < _STUCK_SHARE and not held:
        return "gripper_stuck", f"{int(closes.sum())} steps of closing closed the hand by {100 * max(gain, 0.0):.0f} %"
    return None


def _unreachable(
    task: TaskSpec, trace: Trace, eef: str, subtask: SubtaskSpec, rows: NDArray[np.int64]
) -> tuple[str, str] | None:
    del task, subtask
    planned = trace.misses.get((eef, int(trace.subtask[eef][rows[0]])))
    if planned is not None and planned.matters:
        return "unreachable", str(planned)
    hand = trace.scene.T_world_eef[eef][rows + 1, :3, 3]
    gap = np.linalg.norm(hand - trace.T_world_eef_target[eef][rows, :3, 3], axis=-1)
    run = longest = 0
    for far in gap > _REACH_M:
        run = run + 1 if far else 0
        longest = max(longest, run)
    if longest >= _REACH_STEPS:
        return "unreachable", f"the hand stayed up to {gap.max():.2f} m from its target for {longest} steps"
    return None


def _missed(
    task: TaskSpec, trace: Trace, eef: str, subtask: SubtaskSpec, rows: NDArray[np.int64]
) -> tuple[str, str] | None:
    holds = None if subtask.grasps is None else task.held_by(eef, subtask.grasps)
    if holds is None:
        return None
    held = np.asarray(holds(trace.scene), bool)[rows[0] : rows[-1] + 1 + _AFTER_STEPS]
    return None if held.any() else ("missed_grasp", f"{subtask.grasps} was never held")


def _dropped(
    task: TaskSpec, trace: Trace, eef: str, subtask: SubtaskSpec, rows: NDArray[np.int64]
) -> tuple[str, str] | None:
    """A held object that is no longer held while the gripper is still told to close was dropped."""
    spec = task.robot.eefs[eef]
    for name in dict.fromkeys((subtask.grasps, subtask.carries)):
        holds = None if name is None else task.held_by(eef, name)
        if holds is None:
            continue
        held = np.asarray(holds(trace.scene), bool)[1:]
        closes = closing(trace.actions[:, slice(*spec.gripper_action)], spec)
        been_held = np.maximum.accumulate(held)
        gone = been_held & ~held & closes
        # Pads may lose touch for a step while the object is still in the hand.
        lost = np.convolve(gone[rows], np.ones(5), mode="valid") == 5 if len(rows) >= 5 else np.zeros(0, bool)
        if lost.any():
            return "dropped", f"{name} left the closed hand at step {int(rows[0] + np.argmax(lost))}"
    return None
