"""What is suspicious about a demo, said to people before it becomes the source of a thousand episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory import actions, poses
from factory.demos import AnnotatedDemo
from factory.errors import DemoError
from factory.segmentation import Segment, rises, signal_of, split
from factory.specs import SubtaskSpec, TaskSpec

Severity = Literal["error", "warning", "note"]
Truths = NDArray[np.bool_]
Cut = Mapping[str, tuple[Segment, ...]]

_SHORT_STEPS = 5
"""A piece of a quarter second cannot be carried to another scene: the bridge to it is as long."""
_MOVED_M = 0.01
"""Objects that slid farther before they were held were pushed; placing the hand relative to them no longer fits."""
_SATURATED_SHARE = 0.25
"""From this share of clipped actions on, replay cannot reproduce what the demonstrator asked for."""
_LIMIT = 0.999
"""A normalised action this large counts as clipped."""
_IDLE_S, _IDLE_M, _IDLE_RAD = 2.0, 0.001, 0.01
"""A hand that stays within these bounds for this long, with the same gripper command, does nothing."""
_FROZEN_STEPS = 10
"""A real or simulated hand never reports the very same numbers this often while it is told to go elsewhere."""
_JUMP_SCALES = 3.0
"""One step moves a hand by less than one full-scale action; three of them are a break in the recording."""
_UNSURE = 0.5
"""Automatic boundaries below this confidence deserve a look."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One suspicious thing.

    Attributes:
        severity: "error" makes the demo useless as a source, "warning" deserves a look, "note" is worth knowing.
        code: a stable short name of the kind of finding.
        eef: the end effector it is about; None when it is about the whole demo.
        subtask: the subtask it is about, if any.
        step: the first step it concerns, if any.
        message: one sentence for people.
    """

    severity: Severity
    code: str
    eef: str | None = None
    subtask: str | None = None
    step: int | None = None
    message: str


def lint(demo: AnnotatedDemo, task: TaskSpec, segments: Cut | None = None) -> tuple[Finding, ...]:
    """Return what is suspicious about a demo, errors first; an unsuspicious demo has no findings.

    Args:
        demo: in the task's names.
        task: what the demo claims to show.
        segments: how the demo is cut; None cuts it by signals, and where that fails automatically.
    """
    cut, found = (segments, []) if segments is not None else _cut(demo, task)
    found += _success(demo)
    for eef in task.subtasks:
        found += _signals(demo, task, eef)
        found += _motion(demo, task, eef)
        found += _gripper(demo, task, eef)
        if cut is not None:
            found += _segments(demo, task, eef, cut[eef])
    order = ("error", "warning", "note")
    return tuple(sorted(found, key=lambda f: (order.index(f.severity), -1 if f.step is None else f.step)))


def _cut(demo: AnnotatedDemo, task: TaskSpec) -> tuple[Cut | None, list[Finding]]:
    try:
        return split(demo, task), []
    except DemoError as e:
        reason = e
    told = f"The demo was cut automatically, because its signals do not cut it: {reason}."
    try:
        cut = split(demo, task, "automatic")
    except DemoError as e:
        return None, [Finding(severity="error", code="uncuttable", message=f"{told} That failed too: {e}.")]
    return cut, [Finding(severity="note", code="cut_automatically", message=told)]


def _success(demo: AnnotatedDemo) -> Iterator[Finding]:
    if demo.success is False:
        yield Finding(
            severity="error",
            code="no_success",
            step=len(demo) - 1,
            message=f"The task is not done at the last step {len(demo) - 1}.",
        )


def _signals(demo: AnnotatedDemo, task: TaskSpec, eef: str) -> Iterator[Finding]:
    before: tuple[str, int] | None = None
    for sub in task.subtasks[eef][:-1]:
        name = str(sub.end_signal)
        try:
            up = rises(signal_of(demo, task, name, "stored")[0])
        except DemoError:
            continue  # neither stored nor computable: the cut says so
        if not len(up):
            told = f"Signal {name!r}, the end of {sub.name!r}, never rises in {len(demo)} steps."
            yield Finding(severity="error", code="signal_never", eef=eef, subtask=sub.name, message=told)
            continue
        first = int(up[0])
        if before is not None and first < before[1]:
            told = f"Signal {name!r} first rises at step {first}, before {before[0]!r} does at step {before[1]}."
            yield Finding(severity="warning", code="signal_order", eef=eef, subtask=sub.name, step=first, message=told)
        before = (name, first)


def _motion(demo: AnnotatedDemo, task: TaskSpec, eef: str) -> Iterator[Finding]:
    T, target, spec = demo.T_world_eef[eef], demo.T_world_eef_target[eef], task.robot.eefs[eef]
    base = np.eye(4) if demo.scene is None else demo.scene.T_world_base[eef]
    clipped = np.abs(actions.action_for_target(T, target, base, spec)).max(axis=1) >= _LIMIT
    if clipped.mean() > _SATURATED_SHARE:
        told = f"{clipped.sum()} of {len(demo)} actions of the {eef} hand are at or beyond the controller's limit."
        yield Finding(severity="warning", code="saturated", eef=eef, step=int(np.argmax(clipped)), message=told)
    stride = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    for at in np.flatnonzero(stride > _JUMP_SCALES * spec.position_scale_m):
        told = f"The {eef} hand jumps {stride[at] * 100:.1f} cm between steps {at} and {at + 1}."
        yield Finding(severity="warning", code="jump", eef=eef, step=int(at) + 1, message=told)
    frozen = np.all(T[1:] == T[:-1], axis=(1, 2)) & np.any(T[1:] != target[1:], axis=(1, 2))
    for start, stop in _stretches(frozen, _FROZEN_STEPS):
        told = f"The {eef} hand's pose is exactly the same from step {start} to {stop} although it is told to move."
        yield Finding(severity="warning", code="frozen", eef=eef, step=start, message=told)
    hz = task.robot.control_hz
    for start, stop in _idle(demo, eef, round(_IDLE_S * hz)):
        told = f"The {eef} hand does nothing from step {start} to {stop} ({(stop - start) / hz:.1f} s)."
        yield Finding(severity="note", code="idle", eef=eef, step=start, message=told)


def _gripper(demo: AnnotatedDemo, task: TaskSpec, eef: str) -> Iterator[Finding]:
    grasping = [sub for sub in task.subtasks[eef] if sub.grasps is not None]
    closing = np.any(demo.gripper[eef] * task.robot.eefs[eef].gripper_closed > 0)
    if grasping and not closing:
        told = (
            f"The {eef} gripper is never told to close, but {grasping[0].name!r} takes hold of {grasping[0].grasps!r}."
        )
        yield Finding(severity="warning", code="never_closes", eef=eef, subtask=grasping[0].name, message=told)


def _segments(demo: AnnotatedDemo, task: TaskSpec, eef: str, cut: tuple[Segment, ...]) -> Iterator[Finding]:
    for sub, segment in zip(task.subtasks[eef], cut, strict=True):
        if len(segment) < _SHORT_STEPS:
            told = (
                f"{sub.name!r} lasts {len(segment)} steps from step {segment.start}; at least {_SHORT_STEPS} are usual."
            )
            yield Finding(
                severity="warning", eef=eef, subtask=sub.name, code="short_subtask", step=segment.start, message=told
            )
        if segment.confidence < _UNSURE:
            told = f"The end of {sub.name!r} at step {segment.stop} is a guess (confidence {segment.confidence:.2f})."
            yield Finding(
                severity="warning", eef=eef, subtask=sub.name, code="unsure_boundary", step=segment.stop, message=told
            )
        pushed = _pushed(demo, task, sub, segment)
        if pushed is not None:
            told = f"{sub.grasps!r} slides {_MOVED_M * 100:.0f} cm by step {pushed} before the {eef} hand holds it."
            yield Finding(
                severity="warning", eef=eef, subtask=sub.name, code="moved_before_grasp", step=pushed, message=told
            )


def _pushed(demo: AnnotatedDemo, task: TaskSpec, sub: SubtaskSpec, segment: Segment) -> int | None:
    """The step by which an object has slid away before it was held; falling at the start is no slide."""
    if sub.grasps is None:
        return None
    held = task.held.get(sub.grasps)
    if demo.scene is not None and held is not None:
        free = ~np.logical_or.accumulate(np.asarray(held(demo.scene), bool)[segment.start : segment.stop])
    elif sub.object_ref == sub.grasps:
        free = np.ones(len(segment), bool)
    else:
        return None
    xy = demo.T_world_object[sub.grasps][segment.start : segment.stop, :2, 3]
    slid = np.flatnonzero(free & (np.linalg.norm(xy - xy[0], axis=1) > _MOVED_M))
    return segment.start + int(slid[0]) if len(slid) else None


def _idle(demo: AnnotatedDemo, eef: str, steps: int) -> Iterator[tuple[int, int]]:
    """Stretches [start, stop) of at least so many steps in which hand and gripper command stay where they were."""
    T, gripper = demo.T_world_eef[eef], demo.gripper[eef]
    start = 0
    while start + steps <= len(demo):
        # Looked at in growing windows: most stretches end within a few steps, some are half the demo.
        window = 2 * steps
        while True:
            ahead = T[start : start + window]
            moved = np.linalg.norm(ahead[:, :3, 3] - ahead[0, :3, 3], axis=1) >= _IDLE_M
            R = ahead[:, :3, :3]
            moved |= poses.angle_between(np.broadcast_to(R[0], R.shape), R) >= _IDLE_RAD
            moved |= np.any(gripper[start : start + window] != gripper[start], axis=1)
            if moved.any() or start + window >= len(demo):
                break
            window *= 2
        stop = start + (int(np.argmax(moved)) if moved.any() else len(ahead))
        if stop - start >= steps:
            yield start, stop
        start = stop


def _stretches(truth: Truths, steps: int) -> Iterator[tuple[int, int]]:
    """Stretches [start, stop) of at least so many true values."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], truth, [False]]).astype(int)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        if stop - start >= steps:
            yield int(start), int(stop)
