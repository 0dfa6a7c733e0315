"""What demos of two arms suggest: found again when hidden, never what a demo contradicts, and fit to be pasted."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from factory.constraints import Coordination, Ordering
from factory.segmentation import boundary_errors, split
from factory.specs import SubtaskSpec
from factory.suggestions import holds, snippet, source_of, suggest
from sim_tasks.backends.kinematic import KinematicBackend
from tests import kinematic, two_arms
from tests.two_arms import AFTER, LIFT, TASK

BARE = replace(TASK, constraints=())


@pytest.fixture(scope="module")
def annotated():
    backend = KinematicBackend(TASK)
    return [backend.annotate(demo) for demo in two_arms.demos(4)]


@pytest.fixture(scope="module")
def cut(annotated):
    return [(demo, split(demo, TASK, "automatic")) for demo in annotated]


def test_hidden_boundaries_of_both_arms_are_found(annotated, cut):
    for demo, found in cut:
        errors = boundary_errors(found, split(demo, TASK, "predicates"))
        assert all(abs(e) <= 3 for per_arm in errors.values() for e in per_arm), errors


def test_what_each_hand_moves_is_seen(annotated):
    for demo in annotated:
        assert [(h.eef, h.object) for h in holds(demo, TASK) if h.object == "a"] == [("left", "a")]
        tray = {h.eef: h for h in holds(demo, TASK) if h.object == "tray"}
        assert set(tray) == {"right", "left"}
        assert all(h.stop == len(demo) for h in tray.values())
        assert not [h for h in holds(demo, TASK) if h.object == "b"]


def test_hidden_constraints_are_found(cut):
    together, in_turn = suggest(BARE, cut)
    assert together.constraint == replace(LIFT, noise_m=0.0, noise_rad=0.0)
    assert in_turn.constraint == AFTER
    assert [(s.seen, s.demos, s.declared, s.problem) for s in (together, in_turn)] == [(4, 4, False, "")] * 2


def test_what_is_pasted_is_what_was_suggested(cut):
    text = snippet(BARE, suggest(BARE, cut))
    scope: dict = {"Coordination": Coordination, "Ordering": Ordering}
    pasted = eval(f"dict({text})", scope)  # noqa: S307 - the user would do the same
    assert replace(BARE, **pasted).constraints == tuple(s.constraint for s in suggest(BARE, cut))
    for constraint in (LIFT, replace(AFTER, min_delay_steps=3), replace(LIFT, object_ref="a", synchronise_start=False)):
        assert eval(source_of(constraint), scope) == constraint  # noqa: S307 - likewise


def test_what_the_task_has_is_not_suggested_again(cut):
    assert all(s.declared for s in suggest(TASK, cut))
    assert snippet(TASK, suggest(TASK, cut)) == ""


def test_one_demo_to_the_contrary_is_enough_against_an_order(cut):
    """In it, right sets off while left still works."""
    demo, segments = cut[0]
    target = demo.T_world_eef_target["right"].copy()
    target[5:20, 2, 3] += np.linspace(0.0, 0.1, 15)
    hasty = replace(demo, T_world_eef_target={**demo.T_world_eef_target, "right": target})
    kinds = [type(s.constraint) for s in suggest(BARE, [(hasty, segments), *cut[1:]])]
    assert kinds == [Coordination]


def test_an_object_that_goes_from_hand_to_hand_suggests_replay(annotated):
    """Left's share of the tray begins when right has had it for long, and right lets go before the end."""
    demo = annotated[0]
    n, closed = len(demo), demo.gripper["right"].copy()
    T = demo.T_world_object["tray"].copy()
    start = next(h for h in holds(demo, TASK) if h.object == "tray" and h.eef == "right").start
    late = start + 20
    fingers = {"right": closed, "left": demo.gripper["left"].copy()}
    fingers["left"][start - 5 : late] = -1.0
    fingers["right"][n - 15 :] = -1.0
    handed = replace(demo, gripper=fingers, T_world_object={**demo.T_world_object, "tray": T})
    cut = split(demo, TASK, "predicates")
    (found, *_) = [s for s in suggest(BARE, [(handed, cut)]) if isinstance(s.constraint, Coordination)]
    assert isinstance(found.constraint, Coordination)
    assert found.constraint.scheme == "replay"


def test_a_suggestion_the_task_would_refuse_says_why(annotated):
    right = (*TASK.subtasks["right"][:-1], replace(TASK.subtasks["right"][-1], end_signal="up"))
    keep = SubtaskSpec(name="keep", object_ref="tray", carries="tray")
    task = replace(
        BARE,
        subtasks={**TASK.subtasks, "right": (*right, keep)},
        signals={**TASK.signals, "up": lambda s: s.position("tray")[:, 2] > 0.94},
    )
    found = suggest(task, [(demo, split(demo, task, "predicates")) for demo in annotated])
    assert "end apart" in found[0].problem
    assert "    # task 'two_arm_tray'" in snippet(task, found)


def test_one_arm_suggests_nothing():
    demos = [KinematicBackend(kinematic.TASK).annotate(d) for d in kinematic.demos(1)]
    assert suggest(kinematic.TASK, [(d, split(d, kinematic.TASK)) for d in demos]) == ()


def test_the_command_says_it(monkeypatch, tmp_path, capsys):
    from factory.demos import write_demos
    from workers import checks, printing

    path = tmp_path / "tray.hdf5"
    write_demos(path, two_arms.demos(2))
    monkeypatch.setattr(checks, "find_task", lambda _: BARE)
    monkeypatch.setattr(printing, "find_task", lambda _: BARE)
    monkeypatch.setattr(checks, "open_backend", KinematicBackend)
    check = checks.check_file(path, task_name=BARE.name, replay=False)
    printing.print_check(check)
    said = capsys.readouterr().out
    assert 'Ordering(first=("left", "put"), then=("right", "grasp")),  # right rests until' in said
    facts = json.loads(json.dumps(printing.check_facts(check)))
    assert [s["seen"] for s in facts["suggestions"]] == [2, 2]
