"""What demonstrations by several arms suggest: what each arm takes, what they move as one, who waits for whom.

Nothing here decides anything. The answer is text that can be pasted into a task, with the share of demos that show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations

import numpy as np
from numpy.typing import NDArray

from factory.constraints import SCHEMES, Constraint, Coordination, Ordering, Scheme, check_constraints
from factory.demos import AnnotatedDemo
from factory.errors import SpecError
from factory.retargeting import sets_off
from factory.segmentation import Segment, commanded_to_close, keeps_its_place
from factory.specs import TaskSpec

Array = NDArray[np.float64]
Truths = NDArray[np.bool_]
Cut = Mapping[str, tuple[Segment, ...]]

_MOVED_M = 0.01
"""A hold that moves its object less far than this is a push, or fingers that close on something fixed."""
_TOGETHER_S = 0.5
"""Hands that move one object together do so for longer than this; shorter is a touch."""
_WAITS_S = 0.5
"""Who waits for another rests for at least this long; people hesitate for less."""
_MOST = 0.6
"""Share of demos that must show what is suggested; an order must never be broken besides."""


@dataclass(frozen=True, kw_only=True)
class Hold:
    """A hand moves an object: steps [start, stop) of a demo."""

    eef: str
    object: str
    start: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A constraint that demos suggest.

    Attributes:
        constraint: as it could stand in the task.
        seen: in how many demos; of how many is `demos`.
        demos: see seen.
        why: one clause.
        declared: the task has it already, in this form or with other settings.
        problem: why the task would refuse it as it is; empty when it would not.
    """

    constraint: Constraint
    seen: int
    demos: int
    why: str
    declared: bool
    problem: str


def holds(demo: AnnotatedDemo, task: TaskSpec) -> tuple[Hold, ...]:
    """Return what each hand took hold of and moved, in time: from when it is closed on it to when it no longer is."""
    found: list[Hold] = []
    for eef in task.subtasks:
        closing = commanded_to_close(demo, task, eef)
        for name in task.scene.objects:
            if name not in demo.T_world_object:
                continue
            position_m = demo.T_world_object[name][:, :3, 3]
            for start, stop in _runs(closing & keeps_its_place(demo, task, eef, name)):
                if np.ptp(position_m[start:stop], axis=0).max() > _MOVED_M:
                    found.append(Hold(eef=eef, object=name, start=start, stop=stop))
    return tuple(sorted(found, key=lambda hold: (hold.start, hold.eef)))


def suggest(task: TaskSpec, cut_demos: Sequence[tuple[AnnotatedDemo, Cut]]) -> tuple[Suggestion, ...]:
    """Return the constraints that demos, cut into the task's subtasks, suggest; none for a task of one arm."""
    if len(task.subtasks) < 2 or not cut_demos:
        return ()
    together = list(_together(task, cut_demos))
    return (*together, *_in_turn(task, cut_demos, [s.constraint for s in together]))


def _together(task: TaskSpec, cut_demos: Sequence[tuple[AnnotatedDemo, Cut]]) -> Iterator[Suggestion]:
    """Yield a coordination for subtasks in which two arms move one object at the same time."""
    least = round(_TOGETHER_S * task.robot.control_hz)
    for one, other in combinations(task.subtasks, 2):
        seen: Counter[tuple[int, int, str]] = Counter()
        schemes: Counter[Scheme] = Counter()
        for demo, cut in cut_demos:
            found = holds(demo, task)
            shown: dict[tuple[int, int, str], Scheme] = {}
            for a in (h for h in found if h.eef == one):
                for b in (h for h in found if (h.eef, h.object) == (other, a.object)):
                    start, stop = max(a.start, b.start), min(a.stop, b.stop)
                    if stop - start < least:
                        continue
                    middle = (start + stop) // 2
                    handed_over = (a.start < start - least or b.start < start - least) and a.stop != b.stop
                    shown[_at(cut[one], middle), _at(cut[other], middle), a.object] = (
                        "replay" if handed_over and stop < len(demo) - least else "transform"
                    )
            seen.update(shown.keys())
            schemes.update(shown.values())
        for (i, j, name), count in seen.items():
            if count < _MOST * len(cut_demos):
                continue
            scheme = max(SCHEMES, key=lambda s: schemes[s])
            links = task.subtasks[one][i], task.subtasks[other][j]
            constraint = Coordination(
                subtasks={one: links[0].name, other: links[1].name},
                scheme=scheme,
                object_ref=None if scheme == "replay" or {link.object_ref for link in links} == {name} else name,
            )
            why = f"both move {name!r} at the same time"
            yield _judged(task, constraint, count, len(cut_demos), why)


def _in_turn(
    task: TaskSpec, cut_demos: Sequence[tuple[AnnotatedDemo, Cut]], together: Sequence[Constraint]
) -> Iterator[Suggestion]:
    """Yield an ordering where an arm rests until a subtask of the other has ended, and never begins before."""
    waits = round(_WAITS_S * task.robot.control_hz)
    shared = {item for c in together if isinstance(c, Coordination) for item in c.subtasks.items()}
    for waiter, other in permutations(task.subtasks, 2):
        implied = -1
        for j, link in enumerate(task.subtasks[waiter]):
            # What acts as one waits for all anyway.
            if (waiter, link.name) in shared:
                break
            moves = [sets_off(demo, waiter, cut[waiter][j].start, cut[waiter][j].stop) for demo, cut in cut_demos]
            rests = [m - cut[waiter][j].start for m, (_, cut) in zip(moves, cut_demos, strict=True)]
            over = [
                i
                for i in range(len(task.subtasks[other]) - 1)
                if all(m >= cut[other][i].stop - 1 for m, (_, cut) in zip(moves, cut_demos, strict=True))
            ]
            i = max(over, default=-1)
            count = sum(rest >= waits for rest in rests)
            if i > implied and count >= _MOST * len(cut_demos):
                constraint = Ordering(first=(other, task.subtasks[other][i].name), then=(waiter, link.name))
                why = f"{waiter} rests until {other} has finished {constraint.first[1]!r}"
                yield _judged(task, constraint, count, len(cut_demos), why)
                implied = i


def _judged(task: TaskSpec, constraint: Constraint, seen: int, demos: int, why: str) -> Suggestion:
    declared = any(_same(constraint, other) for other in task.constraints)
    problem = ""
    if not declared:
        try:
            check_constraints(f"task {task.name!r}", task.subtasks, task.scene.objects, (*task.constraints, constraint))
        except SpecError as error:
            problem = str(error)
    return Suggestion(constraint=constraint, seen=seen, demos=demos, why=why, declared=declared, problem=problem)


def _same(a: Constraint, b: Constraint) -> bool:
    if isinstance(a, Coordination) and isinstance(b, Coordination):
        return dict(a.subtasks) == dict(b.subtasks)
    if isinstance(a, Ordering) and isinstance(b, Ordering):
        return (a.first, a.then) == (b.first, b.then)
    return False


def snippet(task: TaskSpec, suggestions: Sequence[Suggestion]) -> str:
    """Return the suggestions that the task does not have yet as Python, ready to be pasted; empty without any."""
    new = [s for s in suggestions if not s.declared]
    if not new:
        return ""
    lines = ["constraints=("]
    for suggestion in new:
        if suggestion.problem:
            lines.append(f"    # {suggestion.problem}")
        lines.append(f"    {source_of(suggestion.constraint)},  # {suggestion.why}: {suggestion.seen} of "
                     f"{suggestion.demos} demos")  # fmt: skip
    kept = [source_of(constraint) for constraint in task.constraints]
    return "\n".join([*lines, *(f"    {text}," for text in kept), "),"])


def source_of(constraint: Constraint) -> str:
    """Return the Python text of a constraint, without what is as usual."""
    if isinstance(constraint, Ordering):
        delay = f", min_delay_steps={constraint.min_delay_steps}" if constraint.min_delay_steps else ""
        return f"Ordering(first={_pair(constraint.first)}, then={_pair(constraint.then)}{delay})"
    arms = ", ".join(f'"{eef}": "{name}"' for eef, name in constraint.subtasks.items())
    fields = [f"subtasks={{{arms}}}", f'scheme="{constraint.scheme}"']
    if constraint.object_ref is not None:
        fields.append(f'object_ref="{constraint.object_ref}"')
    if not constraint.synchronise_start:
        fields.append("synchronise_start=False")
    fields += [f"{name}={value}" for name in ("noise_m", "noise_rad") if (value := getattr(constraint, name))]
    return f"Coordination({', '.join(fields)})"


def _pair(pair: tuple[str, str]) -> str:
    return f'("{pair[0]}", "{pair[1]}")'


def _at(segments: Sequence[Segment], step: int) -> int:
    return next(k for k, segment in enumerate(segments) if step < segment.stop)


def _runs(truth: Truths) -> Iterator[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], truth, [False]]).astype(int)))
    return ((int(a), int(b)) for a, b in edges.reshape(-1, 2))
