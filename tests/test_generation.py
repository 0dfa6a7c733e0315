"""Laws of the engine, on the kinematic backend."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory import actions, poses
from factory.errors import DemoError, SpecError
from factory.recording import episode_of
from factory.replay import AttemptResult, run_attempts
from factory.retargeting import (
    carry,
    grasp_correction,
    paced_steps,
    settled_row,
    turned,
)
from factory.sim import Hold
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from factory.streams import spawn_streams
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.robots import PANDA
from tests import kinematic

EEF = PANDA.eefs["right"]


@pytest.fixture(scope="module")
def demos():
    return kinematic.demos()


def _sources(demos, spec=None, task=kinematic.TASK):
    return prepare_sources(KinematicBackend(task), task, demos, spec or GenerationSpec()).sources


def _run(demos, spec, indices, *, num_envs=1, task=kinematic.TASK):
    backend = KinematicBackend(task, num_envs=num_envs)
    results = run_attempts(backend, task, _sources(demos, spec, task), spec, indices)
    return sorted(results, key=lambda r: r.index)


def _random_poses(seed: int, n: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return poses.pose(poses.matrix_from_axis_angle(rng.normal(0, 1.5, (n, 3))), rng.normal(0, 1, (n, 3)))


seeds = st.integers(0, 2**31)


# --- carrying ---------------------------------------------------------------------------------------------------------


@given(seeds)
def test_carrying_to_where_the_object_was_changes_nothing(seed):
    hand, obj = _random_poses(seed, 4), _random_poses(seed + 1, 1)[0]
    np.testing.assert_allclose(carry(hand, obj, obj), hand, atol=1e-12)


@given(seeds)
def test_carrying_keeps_the_pose_relative_to_the_object(seed):
    hand, (then, now) = _random_poses(seed, 4), _random_poses(seed + 1, 2)
    carried = carry(hand, then, now)
    np.testing.assert_allclose(poses.inverse(now) @ carried, poses.inverse(then) @ hand, atol=1e-12)


@given(seeds)
def test_moving_source_and_scene_together_moves_the_result(seed):
    hand, (then, now, move) = _random_poses(seed, 4), _random_poses(seed + 1, 3)
    np.testing.assert_allclose(carry(move @ hand, move @ then, move @ now), move @ carry(hand, then, now), atol=1e-11)


@given(seeds)
def test_grasp_correction_keeps_the_motion_of_what_is_held(seed):
    rng = np.random.default_rng(seed)
    target, then = _random_poses(seed, 2)
    small = poses.pose(poses.matrix_from_axis_angle(rng.normal(0, 0.1, 3)), rng.normal(0, 0.005, 3))
    now = then @ small
    np.testing.assert_allclose(target @ grasp_correction(then, now) @ now, target @ then, atol=1e-12)


def test_a_lost_object_is_not_corrected_for():
    far = poses.pose(np.eye(3), np.array([0.2, 0.0, 0.0]))
    np.testing.assert_array_equal(grasp_correction(np.eye(4), far), np.eye(4))


@given(seeds, st.sampled_from([1, 2, 4, 36]))
def test_turning_by_symmetry_never_makes_the_carry_larger(seed, fold):
    now, then = _random_poses(seed, 2)
    best = turned(now, fold, then)
    assert poses.angle_between(best[:3, :3], then[:3, :3]) <= poses.angle_between(now[:3, :3], then[:3, :3]) + 1e-9
    np.testing.assert_allclose(best[:3, 3], now[:3, 3])


@given(seeds)
def test_paced_bridges_are_slow_enough_to_follow(seed):
    start, end = _random_poses(seed, 2)
    n = paced_steps(start, end)
    path = poses.interpolate(start, end, np.arange(1, n + 1) / (n + 1))
    assert np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=-1).max(initial=0) <= 0.02 + 1e-9


# --- actions ----------------------------------------------------------------------------------------------------------


@given(seeds)
def test_action_and_target_are_inverse(seed):
    here, base = _random_poses(seed, 2)
    small = np.random.default_rng(seed).normal(0, 1.0, 6)
    target = actions.target_of_action(here, small, base, EEF)
    np.testing.assert_allclose(actions.action_for_target(here, target, base, EEF), small, atol=1e-9)


@given(seeds)
def test_what_is_executed_is_float32_and_within_limits(seed):
    here, there, base = _random_poses(seed, 3)
    noise = np.random.default_rng(seed).normal(0, 0.5, 6)
    sent = actions.execute(here, there, noise, base, EEF)
    assert np.abs(sent).max() <= 1.0
    np.testing.assert_array_equal(sent, sent.astype(np.float32))


# --- sources ----------------------------------------------------------------------------------------------------------


def test_too_much_jitter_is_refused_before_it_can_turn_a_segment_inside_out(demos):
    with pytest.raises(DemoError, match="too short for end jitter"):
        _sources(demos, GenerationSpec(end_jitter_steps=(-80, -70)))


def test_objects_falling_at_the_start_of_a_demo_are_seen_where_they_land(demos):
    source = _sources(demos)[0].demo
    path = source.T_world_object["a"].copy()
    path[:6, 2, 3] += np.linspace(0.06, 0.01, 6)
    falling = replace(source, T_world_object={**source.T_world_object, "a": path})
    assert settled_row(source) == 0
    assert settled_row(falling) == 6


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_attempts_succeed_and_say_what_they_used(demos):
    results = _run(demos, GenerationSpec(seed=3), range(30))
    assert sum(r.held for r in results) >= 27
    for r in results:
        assert [use.subtask for use in r.sources] == [0, 1]
        assert r.sources[0].demo == r.sources[1].demo  # chosen once per episode
        assert r.sources[0].stop == r.sources[1].start
        assert (r.failure is None) == r.held
        _check_lengths(r)


def _check_lengths(r: AttemptResult) -> None:
    T = len(r)
    assert len(r.scene) == T + 1
    assert all(len(v) == T + 1 for v in r.sim_states.values())
    assert all(len(v) == T for v in r.T_world_eef_commanded.values())
    assert all(len(v) == T for v in r.T_world_eef_target.values())
    assert r.hold_steps == 5
    expected = sum(u.stop - u.start for u in r.sources) + 1 + 5 * len(r.sources) + r.hold_steps
    assert expected == T  # segments, one measured pose, two bridges, the hold


def test_results_do_not_depend_on_the_number_of_environments(demos):
    spec = GenerationSpec(seed=5)
    one = _run(demos, spec, range(12))
    many = _run(demos, spec, range(12), num_envs=5)
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        for name in a.sim_states:
            np.testing.assert_array_equal(a.sim_states[name], b.sim_states[name])


def test_an_attempt_depends_on_its_index_not_on_its_neighbours(demos):
    spec = GenerationSpec(seed=5)
    together = _run(demos, spec, range(6))
    alone = _run(demos, spec, [4])[0]
    np.testing.assert_array_equal(together[4].actions, alone.actions)


def test_same_scene_without_noise_replays_the_source_exactly(demos):
    """Same object poses mean the identity: the carried targets are the source's own."""
    task = kinematic.without_noise()
    backend = KinematicBackend(task)
    source = _sources(demos[:1], task=task)[0]
    backend.reset_to(0, demos[0])
    placements = {k: v[0] for k, v in source.demo.T_world_object.items()}

    class Fixed(KinematicBackend):
        def reset(self, env, _placements, rng, *, joint_noise_rad=0.02):
            return super().reset(env, placements, rng, joint_noise_rad=joint_noise_rad)

    result = next(run_attempts(Fixed(task), task, [source], GenerationSpec(interpolation_steps=0), [0]))
    T = len(source.demo)
    np.testing.assert_allclose(
        result.T_world_eef_target["right"][1 : T + 1], source.demo.T_world_eef_target["right"], atol=1e-9
    )
    assert result.held


def test_untransformed_replay_fails_where_carrying_succeeds(demos):
    control = _run(demos, GenerationSpec(seed=3, untransformed=True), range(20))
    ours = _run(demos, GenerationSpec(seed=3), range(20))
    assert sum(r.held for r in control) < sum(r.held for r in ours) / 3


def test_an_attempt_that_takes_too_long_is_cut_and_named(demos):
    result = _run(demos, GenerationSpec(max_steps=40), [0])[0]
    assert not result.held
    assert result.failure is not None
    assert result.failure.reason == "timeout"


def test_streams_are_apart_and_reproducible():
    draws = {(s, i): spawn_streams(s, i).noise.normal() for s in range(5) for i in range(20)}
    assert len(set(draws.values())) == len(draws)
    assert spawn_streams(1, 23).noise.normal() != spawn_streams(12, 3).noise.normal()
    assert spawn_streams(4, 2).scene.normal() == spawn_streams(4, 2).scene.normal()
    with pytest.raises(SpecError, match="must not be negative"):
        spawn_streams(0, -1)


# --- recording --------------------------------------------------------------------------------------------------------


def test_episode_columns_describe_what_was_executed(demos):
    result = _run(demos, GenerationSpec(), [0])[0]
    backend = KinematicBackend(kinematic.TASK)
    episode = episode_of(result, kinematic.TASK, GenerationSpec(), backend.describe())
    assert set(episode.columns) == {
        "observation.state", "action", "target.right_eef_pose", "target.right_next_joint_positions",
        "sim.object.a", "sim.object.b", "subtask_index",
    }  # fmt: skip
    for name, column in episode.columns.items():
        assert len(column.values) == len(result)
        if column.values.ndim == 2:
            assert len(column.names) == column.values.shape[1], name
    np.testing.assert_array_equal(episode.columns["action"].values, result.actions)
    assert not [
        n
        for n in episode.columns
        if n.startswith(("observation.", "action")) and n not in ("observation.state", "action")
    ]


def test_paraphrases_change_the_words_and_nothing_else(demos):
    plain = _run(demos, GenerationSpec(), range(8))
    backend = KinematicBackend(kinematic.TASK)
    spec = GenerationSpec(paraphrases=True)
    worded = [
        episode_of(replace(r, index=r.index + 8), kinematic.TASK, spec, backend.describe()).instruction for r in plain
    ]
    assert set(worded) == {kinematic.TASK.instruction, *kinematic.TASK.paraphrases}
    np.testing.assert_array_equal(_run(demos, spec, [3])[0].actions, plain[3].actions)


@settings(max_examples=20)
@given(st.integers(1, 30))
def test_holding_is_not_moving(steps):
    backend = KinematicBackend(kinematic.TASK)
    backend.reset(0, {"a": _at(0.05), "b": _at(-0.05)}, np.random.default_rng(0))
    before = backend.snapshot(0).integration.copy()
    result = backend.advance({0: {"right": Hold(steps=steps)}})[0]
    np.testing.assert_allclose(result.sim_states["state"][-1], before[1:], atol=1e-6)


def _at(x: float) -> np.ndarray:
    return poses.pose(np.eye(3), np.array([x, 0.0, 0.82]))
