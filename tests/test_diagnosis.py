"""Every way to fail has a name, a subtask and an arm."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import poses
from factory.demos import read_demos
from factory.diagnosis import REASONS, Failure, Trace, decided, diagnose
from factory.replay import run_attempts
from factory.scene import SceneState
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, TaskSpec
from sim_tasks.catalog import TASKS
from sim_tasks.robots import PANDA
from tests import kinematic
from workers.generate import seeds_path

TASK = kinematic.TASK
"""One arm, "right": "grasp" ends when a is held, "place" ends with a on b."""

T = 60
PLACE = 30
"""First step of the second subtask."""


class Story:
    """A trace in which everything goes well, to be spoilt: a is grasped at 20, carried over b, released at 50."""

    def __init__(self, steps: int = T) -> None:
        self.steps = steps
        self.hand = np.tile([0.0, 0.0, 1.0], (steps + 1, 1))
        self.a = np.tile([0.0, 0.1, 0.82], (steps + 1, 1))
        self.b = np.tile([0.1, 0.0, 0.825], (steps + 1, 1))
        self.held = np.zeros(steps + 1, bool)
        self.held[20:50] = True
        self.on_b = np.zeros(steps + 1, bool)
        self.on_b[50:] = True
        self.a[51:] = [0.1, 0.0, 0.87]
        self.fingers_m = np.where(self.held, 0.02, 0.04)
        self.closing = np.zeros(steps, bool)
        self.closing[14:49] = True
        self.target_away_m = np.zeros(steps)
        self.success_lasts = True
        self.stable = self.in_time = True

    def trace(self, task: TaskSpec = TASK) -> Trace:
        """Return what the diagnosis would be shown."""

        def at(path: np.ndarray) -> np.ndarray:
            return poses.pose(np.broadcast_to(np.eye(3), (len(path), 3, 3)), path)

        scene = SceneState(
            T_world_object={"a": at(self.a), "b": at(self.b)},
            T_world_eef={eef: at(self.hand) for eef in task.robot.eefs},
            T_world_base={eef: np.eye(4) for eef in task.robot.eefs},
            joints={f"{eef}_gripper": self.fingers_m[:, None] * [1.0, -1.0] for eef in task.robot.eefs},
            contacts={
                "a|right_finger1": self.held,
                "a|right_finger2": self.held,
                "b|right_finger1": np.zeros(self.steps + 1, bool),
                "b|right_finger2": np.zeros(self.steps + 1, bool),
                "a|b": self.on_b,
            },
        )
        actions = np.zeros((self.steps, task.robot.action_dim), np.float32)
        for eef in task.robot.eefs.values():
            actions[:, eef.gripper_action[0]] = np.where(self.closing, 1.0, -1.0)
        target = self.hand[:-1] + self.target_away_m[:, None] * [1.0, 0.0, 0.0]
        success = np.asarray(task.success(scene), bool)[1:]
        return Trace(
            scene=scene,
            actions=actions,
            T_world_eef_target={eef: at(target) for eef in task.robot.eefs},
            subtask={eef: (np.arange(self.steps) >= PLACE).astype(np.int64) for eef in task.robot.eefs},
            success=success,
            hold_steps=0,
            stable=self.stable,
            in_time=self.in_time,
        )


def named(story: Story, task: TaskSpec = TASK) -> tuple[str, str, str]:
    failure = diagnose(task, story.trace(task))
    assert failure.reason in REASONS
    assert failure.detail
    return failure.reason, failure.subtask, failure.eef


def test_the_story_is_a_success_until_it_is_spoilt() -> None:
    assert Story().trace().success[-5:].all()


def test_a_simulator_that_diverged() -> None:
    story = Story()
    story.stable = False
    assert named(story) == ("unstable_simulation", "place", "right")


def test_an_attempt_that_diverged_before_its_first_step() -> None:
    trace = Story().trace()
    nothing = replace(
        trace,
        actions=trace.actions[:0],
        subtask={"right": np.empty(0, np.int64)},
        success=trace.success[:0],
        stable=False,
    )
    assert diagnose(TASK, nothing) == Failure(
        subtask="grasp", eef="right", reason="unstable_simulation", detail="after 0 steps"
    )


def test_an_attempt_that_took_too_long() -> None:
    story = Story()
    story.in_time = False
    assert named(story) == ("timeout", "place", "right")


@pytest.mark.parametrize("where", ["below the table", "far away"])
def test_an_object_that_is_gone_before_the_grasp(where: str) -> None:
    story = Story()
    story.held[:] = story.on_b[:] = False
    story.a[10:] += [0.0, 0.0, -0.5] if where == "below the table" else [0.0, 3.0, 0.0]
    assert named(story) == ("object_lost", "grasp", "right")


def test_a_carried_object_that_falls_off_the_table() -> None:
    story = Story()
    story.held[40:] = story.on_b[:] = False
    story.a[40:] = [0.5, 0.5, 0.1]
    assert named(story) == ("object_lost", "place", "right")


def test_a_hand_that_does_not_get_to_its_target() -> None:
    story = Story()
    story.held[:] = story.on_b[:] = False
    story.closing[:] = False
    story.target_away_m[5:25] = 0.2
    assert named(story) == ("unreachable", "grasp", "right")
    story.target_away_m[5:25] = 0.05  # the lag of fast motions
    assert named(story)[0] != "unreachable"


def test_a_gripper_that_does_not_close() -> None:
    story = Story()
    story.held[:] = story.on_b[:] = False
    story.fingers_m[:] = 0.04
    assert named(story) == ("gripper_stuck", "grasp", "right")


def test_a_hand_that_closes_on_nothing() -> None:
    story = Story()
    story.held[:] = story.on_b[:] = False
    story.fingers_m = np.where(np.arange(T + 1) < 18, 0.04, 0.0)
    assert named(story) == ("missed_grasp", "grasp", "right")


def test_an_object_that_slips_out_before_the_grasp_has_ended() -> None:
    story = Story()
    story.held[23:] = story.on_b[:] = False
    assert named(story) == ("dropped", "grasp", "right")


def test_an_object_that_leaves_the_closed_hand_on_its_way() -> None:
    story = Story()
    story.held[38:] = story.on_b[:] = False
    assert named(story) == ("dropped", "place", "right")


def test_pads_that_lose_touch_for_a_moment_have_not_dropped_it() -> None:
    story = Story()
    story.held[38:41] = story.on_b[:] = False
    story.a[51:] = [0.3, 0.3, 0.82]
    assert named(story) == ("misplaced", "place", "right")


def test_an_object_put_down_in_the_wrong_place() -> None:
    story = Story()
    story.on_b[:] = False
    story.a[51:] = [0.3, 0.3, 0.82]
    assert named(story) == ("misplaced", "place", "right")


def test_a_subtask_whose_signal_never_rose_though_the_object_was_held() -> None:
    never = replace(TASK, signals={"a_grasped": lambda scene: np.zeros(len(scene), bool)})
    story = Story()
    story.on_b[:] = False
    assert named(story, never) == ("not_achieved", "grasp", "right")


def test_a_last_subtask_that_carries_nothing_and_had_no_effect() -> None:
    grasp, place = TASK.subtasks["right"]
    task = replace(TASK, subtasks={"right": (grasp, replace(place, carries=None))})
    story = Story()
    story.on_b[:] = False
    assert named(story, task) == ("not_achieved", "place", "right")


def test_success_that_did_not_last() -> None:
    story = Story()
    story.on_b[55:] = False
    assert named(story) == ("success_lost", "place", "right")


def test_the_arm_that_failed_is_named() -> None:
    """Two arms with the same story; only the left one's target runs away from it."""
    left = replace(PANDA.eefs["right"], arm_action=(7, 13), gripper_action=(13, 14))
    robot = replace(PANDA, eefs={"right": PANDA.eefs["right"], "left": left}, action_dim=14)
    chain = TASK.subtasks["right"]
    task = replace(TASK, robot=robot, subtasks={"left": chain, "right": chain})
    story = Story()
    story.on_b[:] = False
    trace = story.trace(task)
    away = trace.T_world_eef_target["left"].copy()
    away[PLACE + 2 :, 0, 3] += 0.5
    failure = diagnose(task, replace(trace, T_world_eef_target={**trace.T_world_eef_target, "left": away}))
    assert (failure.reason, failure.subtask, failure.eef) == ("unreachable", "place", "left")


def test_what_diagnose_can_name_is_in_the_tests_above() -> None:
    """The reasons that are given elsewhere: by the dispatcher, by constraints between arms, and by planned transit."""
    here = {
        "unstable_simulation", "timeout", "object_lost", "unreachable", "gripper_stuck", "missed_grasp", "dropped",
        "misplaced", "not_achieved", "success_lost",
    }  # fmt: skip
    assert set(REASONS) - here == {"constraint_deadlock", "no_way", "infra_poison"}


def _decided(story: Story, steps: int, *, closing: bool = False) -> str:
    failure = decided(TASK, _until(story.trace(), steps), closing=closing)
    return "" if failure is None else f"{failure.subtask}: {failure.reason}"


def test_a_missed_grasp_is_decided_when_its_subtask_is_over() -> None:
    story = Story()
    story.held[:] = story.on_b[:] = False
    story.fingers_m = np.where(np.arange(T + 1) < 18, 0.04, 0.0)
    assert [_decided(story, steps) for steps in (PLACE - 5, PLACE, PLACE + 1)] == ["", "", "grasp: missed_grasp"]


def test_a_lost_object_is_decided_at_once() -> None:
    story = Story()
    story.held[:] = story.on_b[:] = False
    story.a[10:] += [0.0, 0.0, -0.5]
    assert _decided(story, 12) == "grasp: object_lost"


def test_in_the_last_subtask_evidence_decides_and_its_absence_only_when_no_hand_will_close() -> None:
    story = Story()
    story.held[38:] = story.on_b[:] = False
    assert _decided(story, 41, closing=True) == ""
    assert _decided(story, 46, closing=True) == "place: dropped"
    story.held[38:49], story.a[51:] = True, [0.3, 0.3, 0.82]
    assert _decided(story, 55, closing=True) == ""
    assert _decided(story, 55, closing=False) == "place: misplaced"


def test_success_that_was_lost_and_what_is_cut_from_outside() -> None:
    story = Story()
    story.on_b[55:] = False
    assert _decided(story, 58) == "place: success_lost"
    story.in_time = False
    assert _decided(story, 58) == ""


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, T))
def test_whatever_happens_has_a_known_name(seed: int, steps: int) -> None:
    rng = np.random.default_rng(seed)
    story = Story(max(steps, T))
    for name in ("held", "on_b"):
        flips = np.cumsum(rng.random(len(story.held)) < 0.05) % 2 == 1
        setattr(story, name, flips ^ (rng.random() < 0.5))
    story.closing = np.cumsum(rng.random(story.steps) < 0.05) % 2 == 1
    story.fingers_m = rng.uniform(0, 0.04, story.steps + 1)
    story.target_away_m = np.repeat(rng.uniform(0, 0.2, story.steps // 20 + 1), 20)[: story.steps]
    story.a += np.cumsum(rng.normal(0, 0.02, story.a.shape), axis=0)
    story.in_time, story.stable = rng.random(2) < 0.8
    trace = story.trace()
    cut = _until(trace, steps)
    failure = diagnose(TASK, cut)
    assert failure.reason in REASONS
    assert failure.subtask in {subtask.name for subtask in TASK.subtasks["right"]}
    assert failure.eef == "right"


def _until(trace: Trace, steps: int) -> Trace:
    """Return what was known of a story after so many steps."""
    return replace(
        trace,
        scene=_first(trace.scene, steps + 1),
        actions=trace.actions[:steps],
        T_world_eef_target={k: v[:steps] for k, v in trace.T_world_eef_target.items()},
        subtask={k: v[:steps] for k, v in trace.subtask.items()},
        success=trace.success[:steps],
    )


def _first(scene: SceneState, rows: int) -> SceneState:
    def cut(group: Mapping[str, Any]) -> dict[str, Any]:
        return {k: v[:rows] for k, v in group.items()}

    return SceneState(
        T_world_object=cut(scene.T_world_object),
        T_world_eef=cut(scene.T_world_eef),
        T_world_base=scene.T_world_base,
        joints=cut(scene.joints),
        contacts=cut(scene.contacts),
    )


def test_failed_attempts_carry_a_name_and_successes_none() -> None:
    backend = kinematic.KinematicBackend(TASK)
    spec = GenerationSpec(noise_normalised=0.5, seed=2)
    sources = prepare_sources(backend, TASK, kinematic.demos(2), spec).sources
    results = list(run_attempts(backend, TASK, sources, spec, range(12)))
    failures = [r.failure for r in results if r.failure is not None]
    assert failures
    assert all(r.held == (r.failure is None) for r in results)
    assert all(f.reason in REASONS and f.subtask in ("grasp", "place") and f.eef == "right" for f in failures)


@pytest.mark.sim
@pytest.mark.parametrize(
    ("fault", "subtask"),
    [
        ("", ""),
        ("object_removed", "grasp"),
        ("gripper_disabled", "grasp"),
        ("target_out_of_reach", "place"),
        ("object_pushed_away", "place"),
    ],
)
def test_an_injected_fault_is_named(fault: str, subtask: str) -> None:
    from tests.benchmarks.faults import EXPECTED, FaultyBackend

    task = TASKS["stack"]
    backend = FaultyBackend(task)
    backend.fault = fault
    spec = GenerationSpec(use_symmetry=True, paced_bridge=True)
    sources = prepare_sources(backend, task, read_demos(seeds_path("stack"))[:3], spec).sources
    (result,) = run_attempts(backend, task, sources, spec, [1])
    if not fault:
        assert result.held, "attempt 1 has to succeed for the faults to mean anything"
        return
    assert result.failure is not None
    assert result.failure.reason in EXPECTED[fault]
    assert (result.failure.subtask, result.failure.eef) == (subtask, "right")
