"""Cutting a demo into its subtasks, per end effector: by stored signals, by the task's predicates, or without either.

The signal rule is MimicGen's (Mandlekar et al. 2023, section IV): a subtask ends where its signal first rises. The
automatic cut never looks at a signal; it reads what the gripper is told, what the fingers touch and how objects move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
Origin = Literal["stored", "predicate", "automatic", "person", "end"]
METHODS: tuple[Method, ...] = ("stored", "predicates", "automatic")

_HELD_M = 0.0007
"""An object that moves less than this in the hand over `_RIGID_S` is held; fingers that still close push it farther."""
_SLIP_M = 0.003
"""An object that has moved this far from its place in the hand has been let go."""
_STIR_M = 1e-4
"""An object at rest in a simulator moves a million times less, a squeezed one three times more, per control step."""
_STIR_RAD = 2e-3
"""Likewise for turning."""
_PLAY = 0.02
"""Joints and mechanisms move this much (rad or m) under a touch; what moves no farther is not being worked."""
_BEGUN, _MOST = 0.1, 0.92
"""Shares of a motion: where it has begun, and where a mechanism that is worked on has done its part."""
_RIGID_S = 0.25
"""How long an object must stay in place in the hand to count as held."""
_ACT_S = 0.35
"""From its command to the moment a Panda hand holds an object, or no longer does; its full travel takes 0.4 s."""
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


def cut_at(demo: AnnotatedDemo, task: TaskSpec, stops: Mapping[str, Sequence[int]]) -> dict[str, tuple[Segment, ...]]:
    """Return the segments that end where a person said; the last one of each end effector ends with the demo.

    Args:
        demo: in the task's names.
        task: whose subtasks they are.
        stops: end effector -> one step per subtask but the last, exclusive, in order.

    Raises:
        DemoError: an end effector is missing or unknown, or its stops do not divide the demo into its subtasks.
    """
    if sorted(stops) != sorted(task.subtasks):
        raise DemoError(
            f"demo {demo.name!r}: boundaries are given for {sorted(stops)}, the task has {sorted(task.subtasks)}"
        )
    found: dict[str, tuple[Segment, ...]] = {}
    for eef, chain in task.subtasks.items():
        ends = [0, *stops[eef], len(demo)]
        if len(ends) != len(chain) + 1 or any(a >= b for a, b in pairwise(ends)):
            raise DemoError(
                f"demo {demo.name!r}, {eef}: boundaries {list(stops[eef])} must be {len(chain) - 1} rising steps "
                f"between 1 and {len(demo) - 1}, one after each of {', '.join(s.name for s in chain[:-1])}"
            )
        pieces = [Segment(start=a, stop=b, origin="person") for a, b in pairwise(ends)]
        found[eef] = (*pieces[:-1], Segment(start=ends[-2], stop=len(demo), origin="end"))
    return found


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
    stored = ", ".join(sorted(demo.stored_signals)) or "none"
    raise DemoError(
        f"demo {demo.name!r}: signal {name!r} is not stored (stored: {stored}) and cannot be evaluated without "
        f"simulator states; use method 'automatic'"
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
    if sub.grasps is not None and sub.object_ref in (None, sub.grasps):
        evidence = _grasp_evidence(demo, task, eef, sub.grasps, start)
        event = f"the hand takes hold of {sub.grasps!r}"
    elif sub.grasps is None and sub.carries is not None and after.carries != sub.carries:
        evidence = _release_evidence(demo, task, eef, sub, start)
        event = f"the hand lets go of {sub.carries!r}"
    else:
        # Whatever the hand does after taking hold, it works something: a latch, a lid, a drawer.
        evidence = _mechanism_evidence(demo, task, sub, start)
        event = f"{sub.grasps or sub.carries or 'a joint of the scene'!r} has been worked"
    steps = [step for step in evidence.values() if step is not None]
    if not steps:
        raise DemoError(
            f"{where}: no step at or after {start} where {event}; looked at {', '.join(evidence) or 'nothing usable'}"
        )
    near = round(_AGREE_S * task.robot.control_hz)
    agree = sum(abs(step - steps[0]) <= near for step in steps[1:])
    # One observation alone is worth a half, each that agrees halves the doubt, one that does not adds half.
    confidence = max(0.05, 1.0 - 0.5 ** (1 + agree) * 1.5 ** (len(steps) - 1 - agree))
    return Segment(start=start, stop=steps[0] + 1, confidence=confidence, origin="automatic")


def _grasp_evidence(demo: AnnotatedDemo, task: TaskSpec, eef: str, name: str, start: int) -> Evidence:
    hz = task.robot.control_hz
    closing = commanded_to_close(demo, task, eef)
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
    return _with_command(evidence, "gripper closing", onset + round(_ACT_S * hz))


def _release_evidence(demo: AnnotatedDemo, task: TaskSpec, eef: str, sub: SubtaskSpec, start: int) -> Evidence:
    name = str(sub.carries)
    opening = ~commanded_to_close(demo, task, eef)
    onset = _first(opening, start)
    if onset is None:
        return {"gripper opening": None}
    evidence: Evidence = {}
    touching = _fingers_touch(demo, task, eef, name)
    if touching is not None:
        resting = _contact(demo, name, str(sub.object_ref))
        rests = np.ones(len(demo), bool) if resting is None else resting
        evidence["finger contacts"] = _first(~touching & opening & rests, onset)
    slip = _slip(demo, eef, name, onset)
    evidence["object staying behind"] = _first((slip > _SLIP_M) & opening, onset)
    return _with_command(evidence, "gripper opening", onset + round(_ACT_S * task.robot.control_hz))


def _with_command(evidence: Evidence, name: str, step: int) -> Evidence:
    """Add what the gripper was told: it supports what was seen and is no event by itself (a hand closes on air too)."""
    return {**evidence, name: step} if any(e is not None for e in evidence.values()) else evidence


def commanded_to_close(demo: AnnotatedDemo, task: TaskSpec, eef: str) -> Truths:
    """Return where the gripper is told to close, ``(T,)``: the sign of most of its dimensions."""
    return np.sum(np.sign(demo.gripper[eef]), axis=1) * task.robot.eefs[eef].gripper_closed > 0


def _fingers_touch(demo: AnnotatedDemo, task: TaskSpec, eef: str, name: str) -> Truths | None:
    """Where every finger touches the object, or None when the scene does not report it."""
    fingers = task.robot.eefs[eef].fingers
    if demo.scene is None or not fingers:
        return None
    columns = [c for c in (_contact(demo, finger, name) for finger in fingers) if c is not None]
    return np.all(columns, axis=0) if len(columns) == len(fingers) else None


def _contact(demo: AnnotatedDemo, a: str, b: str) -> Truths | None:
    """Where two contact groups touch, or None when the scene does not report it."""
    contacts = demo.scene.contacts if demo.scene is not None else {}
    column = contacts.get(f"{a}|{b}", contacts.get(f"{b}|{a}"))
    return None if column is None else column[: len(demo)]


def _slip(demo: AnnotatedDemo, eef: str, name: str, at: int) -> Array:
    """How far the object's place in the hand is from its place at one step, metres ``(T,)``."""
    p = (poses.inverse(demo.T_world_eef[eef]) @ demo.T_world_object[name])[:, :3, 3]
    return np.linalg.norm(p - p[at], axis=1)


def _rigid(demo: AnnotatedDemo, eef: str, name: str, steps: int) -> Truths:
    """Where the object keeps its place in the hand for the next steps."""
    p = (poses.inverse(demo.T_world_eef[eef]) @ demo.T_world_object[name])[:, :3, 3]
    ahead = [np.concatenate([p[k:], np.repeat(p[-1:], k, axis=0)]) for k in range(1, steps + 1)]
    return np.max([np.linalg.norm(a - p, axis=1) for a in ahead], axis=0) < _HELD_M


def keeps_its_place(demo: AnnotatedDemo, task: TaskSpec, eef: str, name: str) -> Truths:
    """Return where an object keeps its place in the hand for a quarter of a second, as what is held does, ``(T,)``."""
    return _rigid(demo, eef, name, round(_RIGID_S * task.robot.control_hz))


def _stirred(demo: AnnotatedDemo, name: str, since: int) -> Truths:
    """Where the object is no longer exactly where it was at one step."""
    T = demo.T_world_object[name]
    return (_shift(T, since) > _STIR_M) | (_turn(T, since) > _STIR_RAD)


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


def _mechanism_evidence(demo: AnnotatedDemo, task: TaskSpec, sub: SubtaskSpec, start: int) -> Evidence:
    evidence: Evidence = {}
    apart = round(_AGREE_S * task.robot.control_hz)
    if demo.scene is not None:
        groups = [demo.scene.joints[name][: len(demo)] for name in task.scene.joints if name in demo.scene.joints]
        evidence["scene joints"] = _worked([np.abs(j - j[start]).max(axis=1) for j in groups], start, apart)
    part, whole = sub.grasps or sub.carries, sub.object_ref
    if part is not None and whole is not None and part != whole:
        inner = poses.inverse(demo.T_world_object[whole]) @ demo.T_world_object[part]
        motions = [_turn(inner, start), _shift(inner, start), _turn(demo.T_world_object[whole], start)]
        evidence[f"{part} against {whole}"] = _worked(motions, start, apart)
    return evidence


def _shift(T: Array, at: int) -> Array:
    """How far a pose has moved since one step, metres ``(T,)``."""
    return np.linalg.norm(T[:, :3, 3] - T[at, :3, 3], axis=1)


def _turn(T: Array, at: int) -> Array:
    """How far a pose has turned since one step, radians ``(T,)``."""
    R = T[:, :3, :3]
    return poses.angle_between(np.broadcast_to(R[at], R.shape), R)


def _worked(motions: list[Array], start: int, apart: int) -> int | None:
    """The step at which the first of several motions has gone most of its way, before a later one sets in."""
    onsets = sorted((onset, i) for i, m in enumerate(motions) if (onset := _onset(m, start)) is not None)
    if not onsets:
        return None
    motion, begun = motions[onsets[0][1]], onsets[0][0]
    # What sets in together is one motion seen twice: a lid turns and shifts.
    end = min((onset for onset, _ in onsets if onset > begun + apart), default=len(motion) - 1)
    reach = motion[start : end + 1].max()
    return _first(motion >= _MOST * reach, start)


def _onset(motion: Array, start: int) -> int | None:
    """The step at which a motion has clearly begun, or None when there is none."""
    reach = motion[start:].max()
    return _first(motion > _BEGUN * reach, start) if reach > _PLAY else None


def _first(truth: Truths, start: int) -> int | None:
    later = np.flatnonzero(truth[start:])
    return int(later[0]) + start if len(later) else None


def _lasting(truth: Truths, steps: int) -> Truths:
    """Where a truth holds now and for the next steps - 1."""
    padded = np.concatenate([truth, np.repeat(truth[-1:], max(0, steps - 1))])
    return np.all([padded[k : k + len(truth)] for k in range(max(1, steps))], axis=0)
