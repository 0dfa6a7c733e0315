"""Cutting a demo into its subtasks, per end effector: by stored signals, by the task's predicates, or without either.

The signal rule is MimicGen's (Mandlekar et al. 2023, section IV): a subtask ends where its signal first rises. The
automatic cut never looks at a signal; it reads what the gripper is told, what the fingers touch and how objects move.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.demos import AnnotatedDemo
from factory.errors import DemoError, unknown_name
from factory.specs import SubtaskSpec, TaskSpec

Array = NDArray[np.float64]
Truths = NDArray[np.bool_]
Method = Literal["stored", "predicates", "automatic"]
Origin = Literal["stored", "predicate", "automatic", "end"]
METHODS: tuple[Method, ...] = ("stored", "predicates", "automatic")

_SLIP_M = 0.003
"""An object that stays this close to its place in the hand is held; a closing Panda hand centres it by 2-3 mm before."""
_STIR_M = 1e-4
"""An object at rest in a simulator moves a million times less, a squeezed one three times more, per control step."""
_STIR_RAD = 2e-3
"""Likewise for turning."""
_RIGID_S = 0.25
"""How long an object must stay in place in the hand to count as held."""
_FIRM_S = 0.1
"""How long all fingers must touch: shorter touches are a bounce."""
_AGREE_S = 0.25
"""Two observations of one event that lie closer support each other: 5 steps at 20 Hz."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Steps [start, stop) of a demo that carry out one subtask.

    Attributes:
        start: first step.
        stop: one past the last step.
        confidence: 0..1, how sure the stop is: 1 for signals and the demo's end.
        origin: what the stop was read from.
    """

    start: int
    stop: int
    confidence: float = 1.0
    origin: Origin

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise DemoError(f"a segment of steps [{self.start}, {self.stop}); it must hold at least one step")
        if not 0.0 <= self.confidence <= 1.0:
            raise DemoError(f"a segment with confidence {self.confidence}; it must lie in 0..1")

    def __len__(self) -> int:
        return self.stop - self.start


def split(demo: AnnotatedDemo, task: TaskSpec, method: Method = "stored") -> dict[str, tuple[Segment, ...]]:
    """Return one segment per subtask and end effector; an end effector's segments tile the demo.

    Args:
        demo: in the task's names.
        task: whose subtasks are looked for.
        method: "stored" uses the file's signals and the task's predicates where the file has none; "predicates" only
            the latter; "automatic" neither.

    Raises:
        DemoError: names the demo, the subtask, what was looked for and what was seen.
    """
    if method not in METHODS:
        raise DemoError(unknown_name("segmentation method", method, METHODS))
    return {eef: _split_arm(demo, task, eef, method) for eef in task.subtasks}


def boundary_errors(
    found: Mapping[str, tuple[Segment, ...]], reference: Mapping[str, tuple[Segment, ...]]
) -> dict[str, tuple[int, ...]]:
    """Return found minus reference stop in steps, per end effector, for every boundary but the demo's end.

    Raises:
        DemoError: the two cuts have other end effectors or numbers of segments.
    """
    if {k: len(v) for k, v in found.items()} != {k: len(v) for k, v in reference.items()}:
        raise DemoError(f"two cuts do not compare: {_counts(found)} segments against {_counts(reference)}")
    return {
        eef: tuple(a.stop - b.stop for a, b in zip(segments[:-1], reference[eef][:-1], strict=True))
        for eef, segments in found.items()
    }


def rises(signal: Truths) -> NDArray[np.intp]:
    """Return the steps at which a signal becomes true; being true at step 0 is a rise."""
    signal = np.asarray(signal, bool)
    return np.flatnonzero(signal & ~np.concatenate([[False], signal[:-1]]))


def signal_of(demo: AnnotatedDemo, task: TaskSpec, name: str, method: Method) -> tuple[Truths, Origin]:
    """Return a signal ``(T,)`` and where it comes from: the file, or the task's predicate over the demo's states.

    Raises:
        DemoError: the demo has neither.
    """
    if method == "stored" and name in demo.stored_signals:
        return demo.signals[name], "stored"
    if demo.scene is not None:
        # States may include the one after the last action; a segment cannot end there.
        return np.asarray(task.signals[name](demo.scene), bool)[: len(demo)], "predicate"
    if name in demo.signals and name not in demo.stored_signals:
        return demo.signals[name], "predicate"
    raise DemoError(
        f"demo {demo.name!r}: signal {name!r} is not stored (stored: {', '.join(sorted(demo.stored_signals)) or 'none'}) "
        f"and cannot be evaluated without simulator states; use method 'automatic'"
    )


def _counts(cut: Mapping[str, tuple[Segment, ...]]) -> dict[str, int]:
    return {eef: len(segments) for eef, segments in cut.items()}


def _split_arm(demo: AnnotatedDemo, task: TaskSpec, eef: str, method: Method) -> tuple[Segment, ...]:
    segments: list[Segment] = []
    start = 0
    for i, sub in enumerate(task.subtasks[eef]):
        where = f"demo {demo.name!r}, {eef}, subtask {sub.name!r}"
        if start >= len(demo):
            raise DemoError(f"{where}: no steps are left, the one before ends with the demo at step {len(demo)}")
        if sub.end_signal is None:
            segments.append(Segment(start=start, stop=len(demo), origin="end"))
        elif method == "automatic":
            segments.append(_cut_automatically(demo, task, eef, i, start, where))
        else:
            segments.append(_cut_by_signal(demo, task, sub, start, method, where))
        start = segments[-1].stop
    return tuple(segments)


def _cut_by_signal(
    demo: AnnotatedDemo, task: TaskSpec, sub: SubtaskSpec, start: int, method: Method, where: str
) -> Segment:
    name = str(sub.end_signal)
    signal, origin = signal_of(demo, task, name, method)
    up = rises(signal)
    later = up[up >= start]
    if not len(later):
        seen = f"it rises at step {', '.join(map(str, up))}, before that" if len(up) else "it is never true"
        held = " and is still true there" if start and signal[start - 1] else ""
        raise DemoError(f"{where}: signal {name!r} does not rise at or after step {start}; {seen}{held}")
    return Segment(start=start, stop=int(later[0]) + 1, origin=origin)


# ---- without signals ------------------------------------------------------------------------------------------------
#
# Each kind of boundary has several observations of the same event, the most trusted first. The boundary is the most
# trusted one; the share of the others that agree with it is the confidence.

Evidence = dict[str, int | None]
"""What was observed -> the first step at which it is so, or None."""


def _cut_automatically(demo: AnnotatedDemo, task: TaskSpec, eef: str, i: int, start: int, where: str) -> Segment:
    sub, after = task.subtasks[eef][i], task.subtasks[eef][i + 1]
    if sub.grasps is not None:
        evidence = _grasp_evidence(demo, task, eef, sub.grasps, start)
        event = f"the hand takes hold of {sub.grasps!r}"
    elif sub.carries is not None and after.carries != sub.carries:
        evidence = _release_evidence(demo, task, eef, sub.carries, start)
        event = f"the hand lets go of {sub.carries!r}"
    else:
        evidence = _mechanism_evidence(demo, task, start)
        event = "a joint of the scene starts to move"
    steps = [step for step in evidence.values() if step is not None]
    if not steps:
        raise DemoError(
            f"{where}: no step at or after {start} where {event}; looked at {', '.join(evidence) or 'nothing usable'}"
        )
    near = round(_AGREE_S * task.robot.control_hz)
    agree = sum(abs(step - steps[0]) <= near for step in steps[1:])
    # One observation alone is worth a half, each that agrees halves the rest of the doubt, each that disagrees doubles.
    confidence = max(0.05, 1.0 - 0.5 ** (1 + agree) * 1.5 ** (len(steps) - 1 - agree))
    return Segment(start=start, stop=steps[0] + 1, confidence=confidence, origin="automatic")


def _grasp_evidence(demo: AnnotatedDemo, task: TaskSpec, eef: str, name: str, start: int) -> Evidence:
    hz = task.robot.control_hz
    closing = _closing(demo, task, eef)
    onset = _first(closing, start)
    if onset is None:
        return {"gripper closing": None}
    evidence: Evidence = {}
    touching = _fingers_touch(demo, task, eef, name)
    if touching is not None:
        evidence["finger contacts"] = _first(_lasting(touching & closing, round(_FIRM_S * hz)), start)
    held = _rigid(demo, eef, name, round(_RIGID_S * hz)) & _stirred(demo, name, onset) & closing
    evidence["object moving with the hand"] = _first(held, onset)
    evidence["fingers stopped"] = _fingers_stop(demo, eef, onset)
    return evidence


def _release_evidence(demo: AnnotatedDemo, task: TaskSpec, eef: str, name: str, start: int) -> Evidence:
    opening = ~_closing(demo, task, eef)
    onset = _first(opening, start)
    if onset is None:
        return {"gripper opening": None}
    evidence: Evidence = {}
    touching = _fingers_touch(demo, task, eef, name)
    if touching is not None:
        evidence["finger contacts"] = _first(~touching & opening, onset)
    slip = _slip(demo, eef, name, onset)
    evidence["object staying behind"] = _first((slip > _SLIP_M) & opening, onset)
    return evidence


def _closing(demo: AnnotatedDemo, task: TaskSpec, eef: str) -> Truths:
    """Where the gripper is told to close: the sign of most of its dimensions."""
    return np.sum(np.sign(demo.gripper[eef]), axis=1) * task.robot.eefs[eef].gripper_closed > 0


def _fingers_touch(demo: AnnotatedDemo, task: TaskSpec, eef: str, name: str) -> Truths | None:
    """Where every finger touches the object, or None when the scene does not report it."""
    fingers = task.robot.eefs[eef].fingers
    if demo.scene is None or not fingers:
        return None
    columns = [demo.scene.contacts.get(f"{f}|{name}", demo.scene.contacts.get(f"{name}|{f}")) for f in fingers]
    found = [c for c in columns if c is not None]
    return np.all(found, axis=0)[: len(demo)] if len(found) == len(columns) else None


def _slip(demo: AnnotatedDemo, eef: str, name: str, at: int) -> Array:
    """How far the object's place in the hand is from its place at one step, metres ``(T,)``."""
    p = (poses.inverse(demo.T_world_eef[eef]) @ demo.T_world_object[name])[:, :3, 3]
    return np.linalg.norm(p - p[at], axis=1)


def _rigid(demo: AnnotatedDemo, eef: str, name: str, steps: int) -> Truths:
    """Where the object keeps its place in the hand for the next steps."""
    p = (poses.inverse(demo.T_world_eef[eef]) @ demo.T_world_object[name])[:, :3, 3]
    ahead = [np.concatenate([p[k:], np.repeat(p[-1:], k, axis=0)]) for k in range(1, steps + 1)]
    return np.max([np.linalg.norm(a - p, axis=1) for a in ahead], axis=0) < _SLIP_M


def _stirred(demo: AnnotatedDemo, name: str, since: int) -> Truths:
    """Where the object is no longer exactly where it was at one step."""
    T = demo.T_world_object[name]
    moved = np.linalg.norm(T[:, :3, 3] - T[since, :3, 3], axis=1) > _STIR_M
    return moved | (poses.angle_between(T[:, :3, :3], T[since, :3, :3]) > _STIR_RAD)


def _fingers_stop(demo: AnnotatedDemo, eef: str, onset: int) -> int | None:
    """The step at which closing fingers come to rest."""
    joints = demo.scene.joints.get(f"{eef}_gripper") if demo.scene is not None else None
    if joints is None:
        return None
    speed = np.abs(np.diff(joints[: len(demo)], axis=0, prepend=joints[:1])).sum(axis=1)
    speed[:onset] = 0.0
    peak = np.maximum.accumulate(speed)
    # A tenth of a millimetre per step is no closing motion; a fifth of the fastest one is the end of it.
    return _first((peak > 1e-4) & (speed < 0.2 * peak), onset)


def _mechanism_evidence(demo: AnnotatedDemo, task: TaskSpec, start: int) -> Evidence:
    """Where the next joint group of the scene starts to move by itself."""
    evidence: Evidence = {}
    if demo.scene is None:
        return evidence
    return evidence


def _first(truth: Truths, start: int) -> int | None:
    later = np.flatnonzero(truth[start:])
    return int(later[0]) + start if len(later) else None


def _lasting(truth: Truths, steps: int) -> Truths:
    """Where a truth holds now and for the next steps - 1."""
    padded = np.concatenate([truth, np.repeat(truth[-1:], max(0, steps - 1))])
    return np.all([padded[k : k + len(truth)] for k in range(max(1, steps))], axis=0)
