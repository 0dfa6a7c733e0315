"""Laws of constraints between arms as they are written: what is refused, where, and that nothing waits for ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.constraints import Constraint, Coordination, Ordering, check_constraints
from factory.coordination import bonds
from factory.errors import SpecError
from factory.specs import GenerationSpec
from tests import two_arms
from tests.two_arms import AFTER, LIFT, TASK


def refused(*constraints: object) -> str:
    """Return why the task cannot be made with these constraints."""
    with pytest.raises(SpecError) as caught:
        replace(TASK, constraints=constraints)
    return str(caught.value)


@pytest.mark.parametrize(
    ("constraint", "path", "said"),
    [
        (Ordering(first=("left", "pt"), then=("right", "grasp")), "constraints[0].first", "Did you mean 'put'"),
        (Ordering(first=("left", "put"), then=("rigth", "grasp")), "constraints[0].then", "Did you mean 'right'"),
        (replace(LIFT, subtasks={"right": "lift", "left": "lft"}), "constraints[0].subtasks['left']", "'lift'"),
        (replace(LIFT, subtasks={"right": "lift", "body": "lift"}), "constraints[0].subtasks['body']", "end effector"),
        (replace(LIFT, object_ref="trey"), "constraints[0].object_ref", "Did you mean 'tray'"),
        (replace(LIFT, subtasks={"right": "grasp", "left": "put"}, scheme="replay"), "constraints[0]", "end_signal"),
        (replace(LIFT, subtasks={"right": "lift", "left": "put"}, scheme="replay"), "constraints[0]", "its chain"),
        (replace(LIFT, subtasks={"right": "grasp", "left": "take"}), "constraints[0].object_ref", "left 'a'"),
        ("lift together", "constraints[0]", "a str; it must be a Coordination or an Ordering"),
    ],
)
def test_what_a_constraint_names_must_exist_and_fit(constraint, path: str, said: str):
    message = refused(constraint)
    assert path in message
    assert said in message
    assert "two_arm_tray" in message


def test_the_path_counts_from_the_first_constraint():
    assert "constraints[1].then" in refused(LIFT, Ordering(first=("left", "put"), then=("right", "grsp")))


def test_two_subtasks_of_one_name_are_told_apart_before_they_are_bound():
    left = TASK.subtasks["left"]
    with pytest.raises(SpecError, match=r"constraints\[1\].first: left's subtasks 0, 1 are all called 'put'"):
        replace(TASK, subtasks={**TASK.subtasks, "left": (replace(left[0], name="put"), *left[1:])})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"subtasks": {"right": "lift"}}, "at least two"),
        ({"subtasks": {"right": ("grasp", "lift"), "left": ("lift",)}}, r"subtasks\['right'\].*one subtask"),
        ({"scheme": "transfrom"}, "Coordination.scheme: .*Did you mean 'transform'"),
        ({"noise_m": -0.01}, "Coordination.noise_m is -0.01"),
        ({"noise_rad": float("nan")}, "Coordination.noise_rad is nan"),
    ],
)
def test_a_coordination_checks_itself(fields, said: str):
    with pytest.raises(SpecError, match=said):
        replace(LIFT, **fields)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"first": ("right", "lift")}, "one arm"),
        ({"first": "left.put"}, "Ordering.first is 'left.put'; it must be a pair"),
        ({"min_delay_steps": -1}, "min_delay_steps is -1"),
    ],
)
def test_an_ordering_checks_itself(fields, said: str):
    with pytest.raises(SpecError, match=said):
        replace(AFTER, **fields)


def test_when_a_subtask_begins_is_decided_once():
    twice = refused(LIFT, replace(LIFT, scheme="replay"))
    assert "constraints[1].subtasks['right']" in twice
    assert "already decided by constraints[0].subtasks['right']" in twice
    assert "already decided" in refused(LIFT, Ordering(first=("left", "take"), then=("right", "lift")))
    assert "already decided" in refused(AFTER, Ordering(first=("left", "take"), then=("right", "grasp")))
    replace(TASK, constraints=(AFTER, Ordering(first=("right", "grasp"), then=("left", "grasp"))))


@pytest.mark.parametrize(
    "circle",
    [
        (Ordering(first=("right", "grasp"), then=("left", "put")), AFTER),
        (Ordering(first=("right", "lift"), then=("left", "put")), replace(AFTER, then=("right", "lift"))),
        (LIFT, Ordering(first=("left", "lift"), then=("right", "grasp"))),
        (replace(LIFT, synchronise_start=False), Ordering(first=("right", "lift"), then=("left", "grasp"))),
    ],
)  # fmt: skip
def test_what_waits_for_ever_is_refused_with_the_way_round(circle: Sequence[Constraint]):
    message = refused(*circle)
    assert "constraints[0] and constraints[1] would wait for ever" in message
    assert "which is after" in message


@dataclass(frozen=True)
class Link:
    """A subtask of which only the name matters; all that is not last ends by one signal."""

    name: str
    object_ref: str | None
    end_signal: str | None


def chain(length: int) -> tuple[Link, ...]:
    return tuple(Link(str(k), None, "done" if k < length - 1 else None) for k in range(length))


@st.composite
def worlds(draw):
    """Two chains and constraints that are each fine alone, no two of which decide when one subtask begins."""
    chains = {"right": chain(draw(st.integers(1, 4))), "left": chain(draw(st.integers(1, 4)))}
    constraints, decided = [], set()
    for _ in range(draw(st.integers(0, 4))):
        right, left = (draw(st.integers(0, len(chains[eef]) - 1)) for eef in ("right", "left"))
        kind = draw(st.sampled_from(("order", "together", "together at once")))
        if kind == "order":
            pair = [("right", str(right)), ("left", str(left))]
            first, then = pair if draw(st.booleans()) else pair[::-1]
            begins = {then}
            constraint = Ordering(first=first, then=then)
        else:
            begins = {("right", str(right)), ("left", str(left))}
            constraint = Coordination(
                subtasks={"right": str(right), "left": str(left)},
                scheme="replay",
                synchronise_start=kind == "together at once",
            )
            if chains["right"][right].end_signal != chains["left"][left].end_signal:
                continue
        if not begins & decided:
            constraints.append(constraint)
            decided |= begins
    return chains, constraints


def finishes(chains, constraints: Sequence[Constraint]) -> bool:
    """Whether arms that do whatever they may do come to their ends: the meaning of constraints, played."""
    begun, ended = dict.fromkeys(chains, 0), dict.fromkeys(chains, 0)  # how many subtasks

    def partners(eef: str) -> Coordination | None:
        return next(
            (c for c in constraints if isinstance(c, Coordination) and c.subtasks[eef] == str(ended[eef])), None
        )

    def ready(eef: str) -> bool:
        return begun[eef] == ended[eef] < len(chains[eef])

    changed = True
    while changed:
        changed = False
        for eef in chains:
            together = partners(eef)
            orders = [c for c in constraints if isinstance(c, Ordering) and c.then == (eef, str(begun[eef]))]
            may = ready(eef) and all(ended[c.first[0]] > int(c.first[1]) for c in orders)
            if together is not None and together.synchronise_start:
                may = may and all(ready(e) and str(begun[e]) == n for e, n in together.subtasks.items())
            if may:
                for e in together.subtasks if together is not None and together.synchronise_start else (eef,):
                    begun[e] += 1
                changed = True
            elif begun[eef] > ended[eef]:
                all_there = together is None or all(
                    begun[e] > ended[e] and str(ended[e]) == n for e, n in together.subtasks.items()
                )
                if all_there:
                    for e in (eef,) if together is None else together.subtasks:
                        ended[e] += 1
                    changed = True
    return all(ended[eef] == len(chains[eef]) for eef in chains)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_exactly_what_would_wait_for_ever_is_refused(world):
    chains, constraints = world
    if finishes(chains, constraints):
        check_constraints("here", chains, (), constraints)
    else:
        with pytest.raises(SpecError, match="wait for ever"):
            check_constraints("here", chains, (), constraints)


# --- settings that switch them off ------------------------------------------------------------------------------------


def test_settings_replace_what_the_task_says():
    lift, after = bonds(TASK, GenerationSpec())
    assert (lift, after) == (LIFT, AFTER)
    assert bonds(TASK, GenerationSpec(coordination="off")) == (AFTER,)
    assert bonds(TASK, GenerationSpec(ordering="off")) == (LIFT,)
    (changed, _) = bonds(TASK, GenerationSpec(coordination="replay", coordination_noise=2.0))
    assert changed == replace(LIFT, scheme="replay", noise_m=0.02, noise_rad=0.1)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"coordination": "of"}, "coordination: .*Did you mean 'off'"),
        ({"ordering": "on"}, "ordering: unknown setting 'on'"),
        ({"select_per": "hand"}, "select_per: unknown setting 'hand'"),
        ({"coordination_noise": -1.0}, "coordination_noise is -1.0"),
    ],
)
def test_settings_check_themselves(fields, said: str):
    with pytest.raises(SpecError, match=said):
        GenerationSpec(**fields)


def test_a_scheme_that_needs_an_object_is_refused_where_there_is_none():
    handover = Coordination(subtasks={"right": "grasp", "left": "put"}, scheme="replay")
    left = tuple(replace(s, end_signal="right_holds") if s.name == "put" else s for s in TASK.subtasks["left"])
    task = replace(TASK, subtasks={**TASK.subtasks, "left": left}, constraints=(handover,))
    with pytest.raises(SpecError, match=r"coordination='transform': constraints\[0\].object_ref is not given"):
        bonds(task, GenerationSpec(coordination="transform"))


def test_who_holds_an_object_is_named_like_everything_else():
    with pytest.raises(SpecError, match="Did you mean 'left:tray'"):
        replace(TASK, held={**TASK.held, "lft:tray": TASK.held["a"]})
    assert TASK.held_by("left", "tray") is TASK.held["left:tray"]
    assert TASK.held_by("right", "a") is TASK.held["a"]
    assert two_arms.TASK.held_by("right", "b") is None
