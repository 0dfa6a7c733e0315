"""What holds between two arms: subtasks that act as one, and subtasks that wait for another.

After DexMimicGen (Jiang et al. 2024, arXiv 2410.24185, section III): an arm is free but for two kinds of bond. Every
bond is checked when its task is made, against the chains of all arms, so that what can never be carried out is refused
before anything runs. `coordination` has the mathematics, `generation` the waiting.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from factory.errors import SpecError, unknown_name

Scheme = Literal["transform", "translate", "replay"]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


@dataclass(frozen=True, kw_only=True)
class Coordination:
    """Subtasks of several arms that act as one: lift a tray, hand over a hammer.

    The arms follow one source demo, moved by one rigid transform, row by row at the same control step, and end
    together; so the hands keep the pose to each other that they had in the demo. See `coordination`.

    Attributes:
        subtasks: end effector -> name of its subtask. The first one chooses the source demo, by its `selection`.
        scheme: "transform" moves the demo as the object has moved, "translate" only by the displacement of the object,
            "replay" not at all: for a handover, whose place depends on the arms and not on the object.
        object_ref: the object that the transform follows; None takes the subtasks' own `object_ref`, which must then
            be one and the same. "replay" needs none.
        synchronise_start: no arm begins before all are ready, and the object is looked at then. Otherwise each begins
            when it is ready, the object is looked at when the first does, and they wait for each other on the way, at
            the first row that all segments have.
        noise_m: standard deviation of a displacement of the shared transform, drawn once per attempt, per axis.
        noise_rad: likewise of a turn about the object, a rotation vector, per axis.
    """

    subtasks: Mapping[str, str]
    scheme: Scheme = "transform"
    object_ref: str | None = None
    synchronise_start: bool = True
    noise_m: float = 0.0
    noise_rad: float = 0.0

    def __post_init__(self) -> None:
        if len(self.subtasks) < 2:
            raise SpecError(
                f"Coordination.subtasks names {', '.join(self.subtasks) or 'no arm'}; acting as one takes at least two"
            )
        for eef, name in self.subtasks.items():
            if not isinstance(name, str):
                raise SpecError(
                    f"Coordination.subtasks[{eef!r}] is {name!r}; it must be the name of one subtask: write one "
                    "Coordination for each pair that acts as one"
                )
        if self.scheme not in SCHEMES:
            raise SpecError("Coordination.scheme: " + unknown_name("scheme", self.scheme, SCHEMES))
        for name in ("noise_m", "noise_rad"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0.0):
                raise SpecError(f"Coordination.{name} is {value}; it must be a number that is not negative")


@dataclass(frozen=True, kw_only=True)
class Ordering:
    """A subtask of one arm that begins only after a subtask of another has finished.

    Attributes:
        first: (end effector, subtask) that has to be over: played out, whatever came of it.
        then: (end effector, subtask) that waits for it.
        min_delay_steps: control steps that have to pass in between.
    """

    first: tuple[str, str]
    then: tuple[str, str]
    min_delay_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("first", "then"):
            value = getattr(self, name)
            if not (isinstance(value, tuple) and len(value) == 2 and all(isinstance(v, str) for v in value)):
                raise SpecError(f"Ordering.{name} is {value!r}; it must be a pair (end effector, subtask)")
        if self.first[0] == self.then[0]:
            raise SpecError(
                f"Ordering: first {self.first} and then {self.then} belong to one arm, whose subtasks are in order "
                "anyway; name two arms"
            )
        if self.min_delay_steps < 0:
            raise SpecError(f"Ordering.min_delay_steps is {self.min_delay_steps}; it must not be negative")


Constraint = Coordination | Ordering


class Link(Protocol):
    """What constraints need to know of a subtask; `specs.SubtaskSpec` has it."""

    @property
    def name(self) -> str:
        """See `specs.SubtaskSpec`."""
        ...

    @property
    def object_ref(self) -> str | None:
        """See `specs.SubtaskSpec`."""
        ...

    @property
    def end_signal(self) -> str | None:
        """See `specs.SubtaskSpec`."""
        ...


Chains = Mapping[str, Sequence[Link]]
Event = tuple[str, int, Literal["start", "end"]]
"""End effector, index of the subtask in its chain, and which end of it."""


def check_constraints(
    where: str, chains: Chains, objects: Sequence[str] | Mapping[str, object], constraints: Sequence[Constraint]
) -> None:
    """Refuse constraints that name what does not exist, contradict each other, or would wait for ever.

    Args:
        where: what errors begin with, "task 'pour'".
        chains: end effector -> its subtasks in order.
        objects: names of the scene's objects.
        constraints: what a task declares.

    Raises:
        SpecError: with the path to the field: "task 'pour': constraints[1].then: unknown subtask 'plce'. Did ...".
    """
    starts: dict[tuple[str, int], str] = {}
    for i, constraint in enumerate(constraints):
        path = f"{where}: constraints[{i}]"
        if isinstance(constraint, Coordination):
            _check_coordination(path, chains, objects, constraint)
            decided = [(f"{path}.subtasks[{eef!r}]", eef, name) for eef, name in constraint.subtasks.items()]
        elif isinstance(constraint, Ordering):
            _find(f"{path}.first", chains, *constraint.first)
            decided = [(f"{path}.then", *constraint.then)]
        else:
            raise SpecError(f"{path} is a {type(constraint).__name__}; it must be a Coordination or an Ordering")
        for field, eef, name in decided:
            key = eef, _find(field, chains, eef, name)
            if key in starts:
                raise SpecError(
                    f"{field}: when {eef}'s {name!r} begins is already decided by {starts[key]}; only one constraint "
                    "of a subtask may do that"
                )
            starts[key] = field.removeprefix(f"{where}: ")
    _check_no_circle(where, chains, constraints)


def _check_coordination(
    path: str, chains: Chains, objects: Sequence[str] | Mapping[str, object], constraint: Coordination
) -> None:
    found = {eef: _find(f"{path}.subtasks[{eef!r}]", chains, eef, name) for eef, name in constraint.subtasks.items()}
    links = {eef: chains[eef][k] for eef, k in found.items()}
    if constraint.object_ref is not None and constraint.object_ref not in objects:
        raise SpecError(f"{path}.object_ref: " + unknown_name("object", constraint.object_ref, objects))
    if constraint.scheme != "replay" and shared_object(chains, constraint) is None:
        found = ", ".join(f"{eef} {link.object_ref!r}" for eef, link in links.items())
        raise SpecError(
            f"{path}.object_ref is not given and the subtasks refer to {found}: a shared {constraint.scheme!r} follows "
            f"one object; give object_ref, or the subtasks the same one, or scheme 'replay'"
        )
    ends = {eef: link.end_signal for eef, link in links.items()}
    if len(set(ends.values())) > 1:
        found = ", ".join(f"{eef} with {'its chain' if end is None else repr(end)}" for eef, end in ends.items())
        raise SpecError(
            f"{path}.subtasks end apart: {found}. Subtasks that act as one end together: give them the same "
            "end_signal, or let them be the last of their chains"
        )


def shared_object(chains: Chains, constraint: Coordination) -> str | None:
    """Return the object whose motion the shared transform follows; None when there is none or no single one."""
    if constraint.object_ref is not None:
        return constraint.object_ref
    found = {chains[eef][position(chains, eef, name)].object_ref for eef, name in constraint.subtasks.items()}
    return found.pop() if len(found) == 1 else None


def position(chains: Chains, eef: str, name: str) -> int:
    """Return the index of a subtask in its chain; constraints that were checked name exactly one."""
    return next(k for k, link in enumerate(chains[eef]) if link.name == name)


def _find(field: str, chains: Chains, eef: str, name: str) -> int:
    if eef not in chains:
        raise SpecError(f"{field}: " + unknown_name("end effector", eef, chains))
    named = [k for k, link in enumerate(chains[eef]) if link.name == name]
    if not named:
        raise SpecError(f"{field}: {eef}: " + unknown_name("subtask", name, {link.name for link in chains[eef]}))
    if len(named) > 1:
        raise SpecError(
            f"{field}: {eef}'s subtasks {', '.join(map(str, named))} are all called {name!r}; give the one that is "
            "meant a name of its own"
        )
    return named[0]


# ---- waiting for each other ------------------------------------------------------------------------------------------


def _check_no_circle(where: str, chains: Chains, constraints: Sequence[Constraint]) -> None:
    circle = _circle(_waits(chains, constraints))
    if circle is None:
        return
    steps = [f"{eef}'s {chains[eef][k].name!r} {event}s" for eef, k, event in circle]
    named = [
        f"constraints[{i}]"
        for i, constraint in enumerate(constraints)
        if _subtasks_of(constraint) & {(eef, chains[eef][k].name) for eef, k, _ in circle}
    ]
    raise SpecError(
        f"{where}: {' and '.join(named)} would wait for ever: {', which is after '.join(steps)}. Take one of them out, "
        "or turn it round"
    )


def _subtasks_of(constraint: Constraint) -> set[tuple[str, str]]:
    if isinstance(constraint, Coordination):
        return set(constraint.subtasks.items())
    return {constraint.first, constraint.then}


def _waits(chains: Chains, constraints: Sequence[Constraint]) -> dict[Event, list[Event]]:
    """Return what has to have happened before each start and end."""
    before: dict[Event, list[Event]] = {}
    for eef, chain in chains.items():
        for k in range(len(chain)):
            before[eef, k, "start"] = [(eef, k - 1, "end")] if k else []
            before[eef, k, "end"] = [(eef, k, "start")]
    for constraint in constraints:
        if isinstance(constraint, Ordering):
            first, then = ((eef, position(chains, eef, name)) for eef, name in (constraint.first, constraint.then))
            before[*then, "start"].append((*first, "end"))
            continue
        for one, other in _pairs([(eef, position(chains, eef, name)) for eef, name in constraint.subtasks.items()]):
            before[*one, "end"].append((*other, "start"))
            if constraint.synchronise_start:
                before[*one, "start"] += before[*other, "start"][:1] if other[1] else []
            # Ends coincide: what follows one has seen the other end too.
            if (one[0], one[1] + 1, "start") in before:
                before[one[0], one[1] + 1, "start"].append((*other, "end"))
    return before


def _pairs(keys: Sequence[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
    return ((one, other) for one in keys for other in keys if one != other)


def _circle(before: Mapping[Event, Sequence[Event]]) -> list[Event] | None:
    """Return events of which each has to happen before the one it follows, the first again at the end; None is good."""
    done: set[Event] = set()
    for root in before:
        path: list[Event] = []
        stack: list[tuple[Event, Iterator[Event]]] = [(root, iter(before[root]))] if root not in done else []
        path.append(root)
        while stack:
            event, rest = stack[-1]
            following = next(rest, None)
            if following is None:
                done.add(event)
                stack.pop()
                path.pop()
            elif following in path:
                return [*path[path.index(following) :], following]
            elif following not in done:
                stack.append((following, iter(before[following])))
                path.append(following)
    return None
