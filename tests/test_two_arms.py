"""Laws of two arms in one attempt: each at its own pace, as one where the task says so, in turn where it says that."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from factory import poses
from factory.constraints import SCHEMES, Coordination
from factory.coordination import perturbation, shared_transform
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import read_episode
from factory.datasets import write_dataset
from factory.ending import watched
from factory.episodes import write_shard
from factory.errors import DemoError
from factory.generation import ConstraintUse, attempt
from factory.placements import sample_placements
from factory.recording import episode_of
from factory.replay import AttemptResult, run_attempts
from factory.retargeting import Source, sets_off
from factory.segmentation import Segment
from factory.selection import drawn_bounds
from factory.sources import check_sources, prepare_sources
from factory.specs import GenerationSpec, SubtaskSpec, TaskSpec
from factory.streams import spawn_streams
from sim_tasks.backends.kinematic import KinematicBackend
from tests import two_arms
from tests.two_arms import AFTER, LIFT, TASK

PACED = {"paced_bridge": True}
HAND = {"right": slice(6, 7), "left": slice(13, 14)}


@pytest.fixture(scope="module")
def demos():
    return two_arms.demos(3)


def prepared(demos, task: TaskSpec = TASK, spec: GenerationSpec | None = None):
    return prepare_sources(KinematicBackend(task), task, demos, spec or GenerationSpec()).sources


def run(
    demos, task: TaskSpec = TASK, *, count: int = 1, first: int = 0, num_envs: int = 1, **settings
) -> list[AttemptResult]:
    spec = GenerationSpec(**{"seed": 7, **PACED, **settings})
    backend = KinematicBackend(task, num_envs=num_envs)
    sources = prepared(demos, task, spec)
    indices = range(first, first + count)
    return sorted(run_attempts(backend, task, sources, spec, indices), key=lambda r: r.index)


def uses(result: AttemptResult, kind: str) -> list[ConstraintUse]:
    return [use for use in result.constraints if use.kind == kind]


def used(result: AttemptResult, eef: str, subtask: int):
    return next(use for use in result.sources if (use.eef, use.subtask) == (eef, subtask))


def random_poses(seed: int, n: int) -> NDArray:
    rng = np.random.default_rng(seed)
    return poses.pose(poses.matrix_from_axis_angle(rng.normal(0, 1.5, (n, 3))), rng.normal(0, 1, (n, 3)))


seeds = st.integers(0, 2**31)


# --- the transform ----------------------------------------------------------------------------------------------------


@given(seeds)
def test_the_schemes_move_a_source_as_they_say(seed: int):
    then, now = random_poses(seed, 2)
    np.testing.assert_allclose(shared_transform("transform", then, now) @ then, now, atol=1e-12)
    shift = shared_transform("translate", then, now)
    np.testing.assert_array_equal(shift[:3, :3], np.eye(3))
    np.testing.assert_allclose((shift @ then)[:3, 3], now[:3, 3], atol=1e-12)
    np.testing.assert_array_equal(shared_transform("replay", then, now), np.eye(4))
    np.testing.assert_allclose(shared_transform("transform", then, then), np.eye(4), atol=1e-12)


@given(seeds)
def test_noise_turns_about_its_point_and_then_shifts(seed: int):
    rng = np.random.default_rng(seed)
    about, shift, turn = rng.normal(size=(3, 3))
    N = perturbation(about, shift, turn)
    np.testing.assert_allclose(N[:3, :3] @ about + N[:3, 3], about + shift, atol=1e-12)
    np.testing.assert_allclose(N[:3, :3], poses.matrix_from_axis_angle(turn), atol=1e-12)


# --- acting as one ----------------------------------------------------------------------------------------------------

UP = Coordination(subtasks={"right": "lift", "left": "lift"}, noise_m=0.02, noise_rad=0.1)


def with_an_end_in_the_middle(task: TaskSpec = TASK, **changes) -> TaskSpec:
    """Return the task with a lift that ends by a signal, its end jittered, and something after it for each arm."""
    chains = {
        eef: (
            *chain[:-1],
            replace(chain[-1], end_signal="up", end_jitter_steps=(-2, 3) if eef == "right" else (0, 0)),
            SubtaskSpec(name="keep", object_ref="tray", carries="tray"),
        )
        for eef, chain in task.subtasks.items()
    }

    def up(state):
        return state.position("tray")[:, 2] > 0.88

    return replace(
        task, subtasks=chains, signals={**task.signals, "up": up}, constraints=(replace(UP, **changes), AFTER)
    )


def check_relative_poses(result: AttemptResult, sources) -> None:
    """Assert the law: hands' targets keep the source's pose to each other, at every step of what they do as one."""
    (use,) = uses(result, "coordination")
    eefs = tuple(use.subtasks)
    pieces = [used(result, eef, [s.name for s in TASK.subtasks[eef]].index("lift")) for eef in eefs]
    assert len({(p.demo, p.stop) for p in pieces}) == 1, "one demo, and all end together"
    demo = sources[pieces[0].demo].demo
    first, stop = max(p.start for p in pieces), pieces[0].stop
    assert use.demo_name == demo.name
    assert use.together_step is not None
    here = slice(use.together_step, use.together_step + stop - first)
    assert here.stop <= len(result)

    def between(targets, rows) -> NDArray:
        return poses.inverse(targets[eefs[0]][rows]) @ targets[eefs[1]][rows]

    expected = between(demo.T_world_eef_target, slice(first, stop))
    np.testing.assert_allclose(between(result.T_world_eef_target, here), expected, rtol=0, atol=1e-9)
    # And it is the recorded transform that has moved them.
    T = poses.pose_from_xyz_quat_wxyz(np.array(use.xyz_quat_wxyz))
    for eef in eefs:
        moved = T @ demo.T_world_eef_target[eef][first:stop]
        np.testing.assert_allclose(result.T_world_eef_target[eef][here], moved, atol=1e-9)


@pytest.mark.parametrize("synchronise", [True, False])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_hands_keep_the_pose_to_each_other_that_they_had_in_the_source(demos, scheme: str, synchronise: bool):
    for task in (
        replace(TASK, constraints=(replace(LIFT, scheme=scheme, synchronise_start=synchronise), AFTER)),
        with_an_end_in_the_middle(scheme=scheme, synchronise_start=synchronise),
    ):
        sources = prepared(demos, task)
        results = run(demos, task, keep="object", use_symmetry=True)
        for result in results:
            check_relative_poses(result, sources)
            (use,) = uses(result, "coordination")
            assert np.linalg.norm(use.shift_m) > 0
            assert np.linalg.norm(use.turn_rad) > 0


def test_segments_played_as_one_end_at_one_row_whatever_the_jitter(demos):
    sources = prepared(demos, with_an_end_in_the_middle())
    ends = set()
    for seed in range(20):
        bounds = drawn_bounds(sources, np.random.default_rng(seed))
        np.testing.assert_array_equal(bounds["right"][:, 1, 1], bounds["left"][:, 3, 1])
        ends |= set(bounds["right"][:, 1, 1] - sources.stops["right"][:, 1])
        for drawn in bounds.values():
            np.testing.assert_array_equal(drawn[:, 1:, 0], drawn[:, :-1, 1])
            assert (drawn[..., 0] < drawn[..., 1]).all()
    assert ends == set(range(-2, 4)), "the first arm's jitter is everybody's"


def test_noise_is_what_the_spec_says_and_its_draws_shift_no_others(demos):
    loud, quiet = run(demos), run(demos, coordination_noise=0.0)
    double = run(demos, coordination_noise=2.0)
    for a, b, c in zip(loud, quiet, double, strict=True):
        (ua,), (ub,), (uc,) = (uses(r, "coordination") for r in (a, b, c))
        assert not np.any(ub.shift_m)
        assert not np.any(ub.turn_rad)
        np.testing.assert_allclose(uc.shift_m, 2 * np.array(ua.shift_m))
        np.testing.assert_allclose(uc.turn_rad, 2 * np.array(ua.turn_rad))
        np.testing.assert_array_equal(a.actions[: ua.first_step], b.actions[: ua.first_step])
        assert a.sources[:-1] == b.sources[:-1]


def test_without_noise_and_motion_the_source_is_left_where_it_was(demos):
    task = two_arms.quiet(constraints=(replace(LIFT, noise_m=0.0, noise_rad=0.0), AFTER))
    (control,) = run(demos, task, count=1, untransformed=True, early_ending=False)
    (use,) = uses(control, "coordination")
    assert use.xyz_quat_wxyz == (0, 0, 0, 1, 0, 0, 0)
    assert not uses(run(demos, task, count=1, coordination="off")[0], "coordination")


def test_a_synchronised_start_waits_for_all_and_looks_at_the_object_then(demos):
    for result in run(demos, with_an_end_in_the_middle()):
        (use,) = uses(result, "coordination")
        assert {p.first_step for p in result.sources if p.subtask == (1 if p.eef == "right" else 3)} == {use.first_step}
        late = {eef: int(np.argmax(result.subtask[eef] == k)) for eef, k in (("right", 1), ("left", 3))}
        assert use.first_step == max(late.values()), "no later than the last one is ready"
    apart = [
        used(r, "right", 1).first_step - used(r, "left", 3).first_step
        for r in run(demos, with_an_end_in_the_middle(synchronise_start=False), count=2)
    ]
    assert any(apart)


def test_an_arm_that_waits_holds_its_last_target_and_its_fingers(demos):
    for result in run(demos, with_an_end_in_the_middle(synchronise_start=False)):
        for eef in ("right", "left"):
            moved = result.waiting[eef][1:] & result.waiting[eef][:-1]
            T, hand = result.T_world_eef_target[eef], result.actions[:, HAND[eef]]
            assert moved.any() or eef == "left"
            np.testing.assert_array_equal(T[1:][moved], T[:-1][moved])
            np.testing.assert_array_equal(hand[1:][moved], hand[:-1][moved])


def test_segments_with_no_row_in_common_are_refused(demos):
    sources = prepared(demos)
    cut = sources[0].segments
    n = len(sources[0].demo)
    early = (*cut["left"][:3], Segment(start=cut["left"][3].start, stop=cut["left"][3].start + 1, origin="end"))
    late = (replace(cut["right"][0], stop=n - 1), Segment(start=n - 1, stop=n, origin="end"))
    apart = replace(sources[0], segments={"right": late, "left": early})
    task = two_arms.quiet()
    with pytest.raises(DemoError, match="'lift' of right is .* once cut to where the arms end together"):
        check_sources(task, [apart], GenerationSpec())
    check_sources(task, [apart], GenerationSpec(coordination="off"))


# --- in turn ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delay", [0, 7])
def test_what_waits_begins_when_the_other_is_over_and_the_delay_has_passed(demos, delay: int):
    task = replace(TASK, constraints=(LIFT, replace(AFTER, min_delay_steps=delay)))
    for result in run(demos, task):
        over = int(np.flatnonzero(result.subtask["left"] == 1)[-1]) + 1
        (use,) = uses(result, "ordering")
        assert used(result, "right", 0).first_step == use.first_step == over + delay
        assert use.waited_steps == {"right": over + delay}
        np.testing.assert_array_equal(result.waiting["right"][: over + delay], True)
        assert not result.waiting["right"][over + delay]
    free = run(demos, task, ordering="off")
    assert all(used(r, "right", 0).first_step == 0 and not uses(r, "ordering") for r in free)


def test_who_waits_does_not_wait_twice(demos):
    """In the demos right rests until left has put a down; that rest is the wait, and is not played after it."""
    source = prepared(demos)[0].demo
    for result in run(demos, two_arms.quiet()):
        piece = used(result, "right", 0)
        T = prepared(demos)[piece.demo].demo.T_world_eef_target["right"]
        assert piece.start > 30
        assert np.linalg.norm(T[: piece.start, :3, 3] - T[0, :3, 3], axis=1).max() < 0.01
        assert np.linalg.norm(T[piece.start, :3, 3] - T[0, :3, 3]) > 0.005
    rests = np.repeat(source.T_world_eef_target["right"][:1], len(source), axis=0)
    still = replace(source, T_world_eef_target={**source.T_world_eef_target, "right": rests})
    assert sets_off(still, "right", 5, 40) == 40
    assert used(run(demos, ordering="off")[0], "right", 0).start == 0


def test_a_delay_longer_than_the_attempt_is_a_deadlock_with_a_name(demos):
    task = replace(TASK, constraints=(LIFT, replace(AFTER, min_delay_steps=10_000)))
    # The left arm goes on until it waits for the right one too.
    (result,) = run(demos, task, count=1, max_steps=400)
    assert result.failure is not None
    assert (result.failure.eef, result.failure.subtask) == ("right", "grasp")
    assert result.failure.reason == "constraint_deadlock"
    assert "more steps after left finished 'put'" in result.failure.detail
    assert not result.held


def test_arms_that_wait_for_each_other_end_the_attempt(demos):
    """Tasks refuse such constraints; the engine does not rely on it."""
    task = replace(TASK)
    object.__setattr__(task, "constraints", (AFTER, replace(AFTER, first=("right", "grasp"), then=("left", "put"))))
    spec = GenerationSpec(**PACED)
    sources = replace(prepared(demos), constraints=task.constraints)
    backend = KinematicBackend(TASK)
    rng = np.random.default_rng(0)
    backend.reset(0, sample_placements(task.reset("D0"), rng), rng)
    moves = attempt(task, sources, spec, spawn_streams(0, 0))

    def follow():
        move = next(moves)
        while True:
            try:
                move = moves.send(backend.advance({0: move.commands})[0].scene)
            except StopIteration as end:
                return end.value

    failure = follow()
    assert failure.reason == "constraint_deadlock"
    assert "right waits at 'grasp' for left to finish 'put'" in failure.detail
    assert "left waits at 'put' for right to finish 'grasp'" in failure.detail


# --- each at its own pace ---------------------------------------------------------------------------------------------


def test_an_arm_does_not_notice_the_pace_of_the_other(demos):
    """One source, no noise, nothing between them: what left does with a is the same however slow right is."""
    free = two_arms.quiet(constraints=())
    slow = replace(
        free, subtasks={**free.subtasks, "right": tuple(replace(s, fixed_steps=31) for s in free.subtasks["right"])}
    )
    (a,), (b,) = (run(demos[:1], task, count=1, paced_bridge=False) for task in (free, slow))
    steps = used(a, "left", 2).first_step
    assert steps == used(b, "left", 2).first_step
    np.testing.assert_array_equal(a.T_world_eef_target["left"][:steps], b.T_world_eef_target["left"][:steps])
    assert used(a, "right", 1).first_step + 31 == used(b, "right", 1).first_step


def test_results_do_not_depend_on_the_number_of_environments(demos):
    task = with_an_end_in_the_middle(synchronise_start=False)
    for a, b in zip(run(demos, task, count=2), run(demos, task, count=2, num_envs=2), strict=True):
        assert a.constraints == b.constraints
        assert a.failure == b.failure
        np.testing.assert_array_equal(a.actions, b.actions)
        for name, states in a.sim_states.items():
            np.testing.assert_array_equal(states, b.sim_states[name])


def test_a_kept_attempt_replays_bit_for_bit(demos):
    backend = KinematicBackend(TASK)
    for result in run(demos):
        assert result.held, result.failure
        backend.restore(0, result.start)
        again = backend.play(0, result.actions)
        for name, states in again.sim_states.items():
            np.testing.assert_array_equal(states, result.sim_states[name][1:])


def test_the_choice_of_sources_is_per_episode_per_arm_or_per_subtask(demos):
    def chosen(per: str) -> list[dict[str, list[int]]]:
        # Attempts are cut where every arm has begun all its subtasks but the last.
        results = run(demos, count=2, select_per=per, coordination="off", ordering="off", max_steps=180)
        return [{e: [u.demo for u in r.sources if u.eef == e] for e in TASK.subtasks} for r in results]

    for per_arm in chosen("episode"):
        assert len({demo for uses_ in per_arm.values() for demo in uses_}) == 1
    by_arm = chosen("arm")
    assert all(len(set(uses_)) == 1 for per_arm in by_arm for uses_ in per_arm.values())
    assert any(per_arm["left"][0] != per_arm["right"][0] for per_arm in by_arm)
    assert any(len(set(per_arm["left"])) > 1 for per_arm in chosen("subtask"))
    for per in ("arm", "subtask"):
        for result in run(demos, count=1, select_per=per):
            assert used(result, "right", 1).demo == used(result, "left", 3).demo


# --- hands ------------------------------------------------------------------------------------------------------------


def test_fingers_go_with_the_segment_and_stay_as_they_are_on_the_way_to_it():
    task = two_arms.quiet(two_arms.with_hands(6))
    demos = two_arms.demos(2, task)
    sources = prepared(demos, task)
    (result,) = run(demos, task, count=1)
    hand = {"right": slice(6, 12), "left": slice(18, 24)}
    assert result.actions.shape[1] == 24
    for eef, chain in task.subtasks.items():
        fingers = result.actions[:, hand[eef]]
        assert len(np.unique(fingers, axis=0)) > 5, "a hand is more than open or closed"
        for k in range(len(chain)):
            piece = used(result, eef, k)
            rows = np.flatnonzero((result.subtask[eef] == k) & ~result.waiting[eef])
            rows = rows[rows < len(result) - result.hold_steps]
            played = piece.stop - piece.start
            source = sources[piece.demo].demo.gripper[eef][piece.start : piece.stop].astype(np.float32)
            if chain[k].name == "lift":  # the rows that both have are the last ones
                played = piece.stop - max(used(result, e, len(c) - 1).start for e, c in task.subtasks.items())
            end = rows[-1] + 1
            if chain[k].name == "lift":
                (use,) = uses(result, "coordination")
                end = use.together_step + played
            np.testing.assert_array_equal(fingers[end - played : end], source[-played:])
            first = piece.first_step
            if k:
                bridge = fingers[first : first + 5]
                np.testing.assert_array_equal(bridge, np.tile(fingers[first - 1], (5, 1)))


# --- what is kept and said --------------------------------------------------------------------------------------------


def test_an_episode_says_what_each_arm_did_and_what_held_between_them(demos):
    (result,) = run(demos, count=1)
    episode = episode_of(result, TASK, GenerationSpec(seed=7, **PACED), {})
    for eef, chain in TASK.subtasks.items():
        numbers = episode.columns[f"subtask_index.{eef}"].values
        np.testing.assert_array_equal(numbers, result.subtask[eef])
        names = [episode.subtasks[i].split(" + ") for i in episode.columns["subtask_index"].values]
        own = [pair[list(TASK.subtasks).index(eef)] for pair in names]
        assert own == [chain[k].name for k in numbers]
        assert episode.provenance["subtasks"][eef] == [s.name for s in chain]
    lift, after = json.loads(json.dumps(episode.provenance))["constraints"]
    assert (lift["kind"], lift["scheme"], lift["subtasks"]) == ("coordination", "transform", LIFT.subtasks)
    assert len(lift["shift_m"]) == len(lift["turn_rad"]) == 3
    assert (after["kind"], after["subtasks"]) == ("ordering", {"left": "put", "right": "grasp"})
    assert {use["eef"] for use in episode.provenance["sources"]} == {"right", "left"}
    assert episode.provenance["generation"]["ordering"] == "task"


def test_a_dataset_of_two_arms_is_read_back_as_it_was_made(demos, tmp_path: Path):
    spec = GenerationSpec(seed=7, **PACED)
    episodes = [episode_of(r, TASK, spec, {"backend": "kinematic"}) for r in run(demos, count=2)]
    shards = [write_shard(tmp_path / "shards", episode) for episode in episodes]
    root = write_dataset(tmp_path / "set", shards, robot_type=TASK.robot.lerobot_type, job={})
    verify_dataset(root)
    for i, episode in enumerate(episodes):
        again = read_episode(root, i)
        for name, column in episode.columns.items():
            np.testing.assert_array_equal(again.columns[name].values, column.values, err_msg=name)
        assert again.provenance["constraints"] == episode.provenance["constraints"]


@pytest.mark.parametrize(("eef", "subtask"), [("left", 0), ("right", 0), ("left", 2)])
def test_a_failure_names_the_arm_and_subtask_that_failed_first(demos, eef: str, subtask: int):
    """One hand closes no more once it should take something; the other arm, and what comes later, is not blamed."""

    def open_there(source: Source) -> Source:
        fingers = source.demo.gripper[eef].copy()
        segment = source.segments[eef][subtask]
        fingers[segment.start :] = -1.0
        return replace(source, demo=replace(source.demo, gripper={**source.demo.gripper, eef: fingers}))

    spec = GenerationSpec(seed=7, **PACED)
    sources = [open_there(source) for source in prepared(demos)]
    (result,) = run_attempts(KinematicBackend(TASK), TASK, sources, spec, [0])
    assert result.failure is not None
    name = TASK.subtasks[eef][subtask].name
    assert (result.failure.eef, result.failure.subtask, result.failure.reason) == (eef, name, "missed_grasp")


def test_ending_early_changes_no_success_and_no_name(demos):
    """One attempt of each kind; `python -m tests.benchmarks.two_arms` looks at many."""
    task = with_an_end_in_the_middle(synchronise_start=False)
    noisy = {"first": 2, "count": 2, "variant": "D1", "noise_normalised": 0.6, "seed": 3}
    whole, ended = run(demos, task, early_ending=False, **noisy), run(demos, task, **noisy)
    saved = 0
    for a, b in zip(whole, ended, strict=True):
        assert a.held == b.held
        if a.failure is not None:
            assert b.failure is not None
            assert (a.failure.eef, a.failure.subtask, a.failure.reason) == (
                b.failure.eef,
                b.failure.subtask,
                b.failure.reason,
            )
        np.testing.assert_array_equal(a.actions[: len(b)], b.actions)
        assert len(b) + b.steps_saved <= len(a)
        saved += b.steps_saved > 0
    assert 0 < sum(r.held for r in whole) < len(whole)
    assert saved


def test_what_a_waiting_arm_will_come_for_is_not_given_up():
    task = replace(TASK, needs={"tray": TASK.success, "a": TASK.success}, constraints=())
    grasped, put = {"right": 1, "left": 3}, {"right": 1, "left": 2}
    assert watched(replace(task, needs={"tray": TASK.success}), grasped)
    assert not watched(replace(task, needs={"tray": TASK.success}), grasped, {"right"})
    # Where arms act as one, their path follows the object they share, whatever their subtasks refer to.
    cube = replace(task, needs={"a": TASK.success})
    assert watched(cube, put)
    assert not watched(replace(cube, constraints=(replace(LIFT, object_ref="a"),)), put)


def test_acting_alone_the_hands_lose_what_both_hold(demos):
    """The ablation that the method is for: here right is slow to come, and left does not wait for it to lift."""
    right = tuple(replace(s, fixed_steps=30 if s.name == "lift" else 0) for s in TASK.subtasks["right"])
    task = replace(TASK, subtasks={**TASK.subtasks, "right": right})

    def lost(**settings) -> bool:
        (result,) = run(demos, task, **settings)
        holds = TASK.held["left:tray"](result.scene)
        return not holds[np.argmax(holds) :].all()

    assert not lost()
    assert lost(coordination="off")
