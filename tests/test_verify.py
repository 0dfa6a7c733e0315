"""Verification replay: true labels succeed, wrong ones fail, and what cannot be executed is never called a failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from dreams.lag import EXACT, OSC, Lag, between, followed, measured_lag, moved, target_for
from dreams.motion import Labels, hands_of, motion_of
from dreams.verify import MODES, TIERS, counted_tiers, episode_of_verification, record_of, verify
from factory import poses
from factory.demos import Demo, read_demos
from factory.episodes import check
from factory.errors import SpecError
from factory.scene import SceneState
from factory.sim import SimBackend, Snapshot
from sim_tasks.backends import open_backend
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.catalog import find_task
from tests import kinematic, two_arms
from workers.generate import seeds_path

TASK = kinematic.TASK


def labels_of(scene: SceneState, actions: np.ndarray, backend: SimBackend) -> Labels:
    """Return what an oracle says of T + 1 true states and T true actions."""
    robot = backend.task.robot
    T = {eef: poses.inverse(scene.T_world_base[eef]) @ scene.T_world_eef[eef] for eef in robot.eefs}
    fingers = {eef: actions[:, slice(*spec.gripper_action)] for eef, spec in robot.eefs.items()}
    motion = motion_of(T, fingers)
    return Labels(motion=motion, confidence=np.ones(len(motion)))


def oracle(backend: SimBackend, demo: Demo) -> tuple[Labels, Snapshot]:
    """Return the true labels of a demonstration, and the snapshot that it starts from."""
    backend.reset_to(0, demo)
    start = backend.snapshot(0)
    before = backend.restore(0, start)
    after = backend.play(0, demo.actions.astype(np.float32)).scene
    whole = SceneState(
        T_world_object={},
        T_world_eef={eef: np.concatenate([T, after.T_world_eef[eef]]) for eef, T in before.T_world_eef.items()},
        T_world_base=before.T_world_base,
    )
    return labels_of(whole, demo.actions, backend), start


def sha(backend: SimBackend) -> str:
    return backend.describe()["model_sha"]


@pytest.fixture(scope="module")
def demos() -> tuple[Demo, ...]:
    return kinematic.demos(2)


@pytest.mark.parametrize("mode", MODES)
def test_true_labels_succeed_whatever_the_start(demos: tuple[Demo, ...], mode: str) -> None:
    backend = KinematicBackend(TASK)
    for demo in demos:
        labels, start = oracle(backend, demo)
        found = verify(labels, start, backend, model_sha=sha(backend), mode=mode)
        assert found.tier == "executed_success", found.reason
        assert found.off_m < 1e-6
        assert found.execution is not None
        # What is stored is what was executed: playing it from the start gives the same bits.
        backend.restore(0, found.execution.start)
        again = backend.play(0, found.execution.actions)
        np.testing.assert_array_equal(again.sim_states["state"], found.execution.sim_states["state"][1:])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "spoil", [lambda m, rng: m[rng.permutation(len(m))], lambda m, rng: m[::-1].copy(), lambda m, rng: 0 * m]
)
def test_shuffled_reversed_and_empty_labels_fail(
    demos: tuple[Demo, ...], mode: str, spoil: Callable[[np.ndarray, np.random.Generator], np.ndarray]
) -> None:
    backend = KinematicBackend(TASK)
    for number, demo in enumerate(demos):
        labels, start = oracle(backend, demo)
        wrong = replace(labels, motion=spoil(labels.motion, np.random.default_rng(number)))
        assert verify(wrong, start, backend, model_sha=sha(backend), mode=mode).tier == "executed_failure"


def test_labels_of_one_start_fail_from_another(demos: tuple[Demo, ...]) -> None:
    backend = KinematicBackend(TASK)
    both = [oracle(backend, demo) for demo in demos]
    tiers = [
        verify(labels, start, backend, model_sha=sha(backend)).tier
        for i, (labels, _) in enumerate(both)
        for j, (_, start) in enumerate(both)
        if i != j
    ]
    assert set(tiers) == {"executed_failure"}


def test_what_cannot_be_executed_is_not_replayable_and_says_why(demos: tuple[Demo, ...]) -> None:
    backend = KinematicBackend(TASK)
    labels, start = oracle(backend, demos[0])
    broken = labels.motion.copy()
    broken[7, 0] = np.nan
    other = KinematicBackend(
        replace(
            TASK,
            scene=replace(
                TASK.scene, boxes={**TASK.scene.boxes, "b": replace(TASK.scene.boxes["b"], rgba=(0, 0, 1, 1))}
            ),
        )
    )
    far = {"right": np.tile(np.eye(4), (len(labels.motion) + 1, 1, 1))}
    wider = replace(labels, motion=np.pad(labels.motion, ((0, 0), (0, 1))))
    asked: dict[str, tuple[Labels, Snapshot | None, KinematicBackend, str]] = {
        "no simulator state": (labels, None, backend, sha(backend)),
        "of another scene": (labels, start, other, sha(backend)),
        "unnamed": (labels, start, backend, ""),
        "not finite from step 7": (replace(labels, motion=broken), start, backend, sha(backend)),
        "8 numbers a step": (wider, start, backend, sha(backend)),
        "m from where the right hand is": (replace(labels, T_base_eef=far), start, backend, sha(backend)),
        "poses of left": (replace(labels, T_base_eef={"left": far["right"]}), start, backend, sha(backend)),
    }
    cases = {why: verify(*args, model_sha=of) for why, (*args, of) in asked.items()}
    for why, found in cases.items():
        assert found.tier == "not_replayable"
        assert found.execution is None
        assert why in found.reason, found.reason
        with pytest.raises(SpecError, match="no episode of a dream that is not_replayable"):
            episode_of_verification(found, TASK, index=0, instruction="", provenance={}, executor={})
    assert counted_tiers([*cases.values()]) == {**dict.fromkeys(TIERS, 0), "not_replayable": len(cases)}


def test_success_must_hold_and_may_be_what_the_instruction_asks(demos: tuple[Demo, ...]) -> None:
    backend = KinematicBackend(TASK)
    labels, start = oracle(backend, demos[0])
    lifted = lambda scene: scene.position("a")[:, 2] > 0.9  # noqa: E731 - on the way, not at the end
    asked = verify(labels, start, backend, model_sha=sha(backend), success=lifted)
    assert (asked.tier, asked.touched) == ("executed_failure", True)
    assert "did not hold" in asked.reason
    never = verify(labels, start, backend, model_sha=sha(backend), success=lambda s: np.zeros(len(s), bool))
    assert (never.touched, never.reason) == (False, "success was never true")
    longer = verify(labels, start, backend, model_sha=sha(backend), hold_steps=40)
    assert longer.tier == "executed_success"
    assert longer.execution is not None
    assert len(longer.execution) == len(labels.motion) + 40


def test_tracking_makes_good_what_pushes_a_hand_away_and_open_loop_does_not(demos: tuple[Demo, ...]) -> None:
    """A hand that comes only 80 % of the way: poses are still reached, displacements add up to less."""

    class Weak(KinematicBackend):
        def _step(self, state, targets, action):
            here = self._hand_pose(state, "right")
            part = poses.interpolate(here, targets["right"], np.array([0.8]))[0]
            super()._step(state, {"right": part}, action)

    backend = KinematicBackend(TASK)
    labels, start = oracle(backend, demos[0])
    weak = Weak(TASK)
    tracked, open_loop = (
        verify(labels, start, weak, model_sha=sha(weak), mode=mode) for mode in ("tracked", "open_loop")
    )
    assert tracked.tier == "executed_success"
    assert open_loop.off_m > 2 * tracked.off_m
    known = verify(labels, start, weak, model_sha=sha(weak), mode="open_loop", lag=Lag(lead_steps=0.0, gain=0.8))
    assert known.off_m < 0.1 * open_loop.off_m
    aware = verify(labels, start, weak, model_sha=sha(weak), lag=Lag(lead_steps=0.0, gain=0.8))
    assert aware.off_m < 0.1 * tracked.off_m  # each step is aimed from where the hand truly is


def test_two_arms_are_verified_by_their_names() -> None:
    task = two_arms.TASK
    backend = KinematicBackend(task)
    demo = two_arms.demos(1)[0]
    labels, start = oracle(backend, demo)
    assert labels.motion.shape[1] == sum(6 + fingers for fingers in hands_of(task.robot).values())
    assert verify(labels, start, backend, model_sha=sha(backend)).tier == "executed_success"
    half = len(labels.motion[0]) // 2
    swapped = replace(labels, motion=np.concatenate([labels.motion[:, half:], labels.motion[:, :half]], axis=1))
    assert verify(swapped, start, backend, model_sha=sha(backend)).tier == "executed_failure"


def test_an_executed_dream_is_an_episode_with_true_states_and_actions(demos: tuple[Demo, ...]) -> None:
    backend = KinematicBackend(TASK)
    labels, start = oracle(backend, demos[0])
    found = verify(labels, start, backend, model_sha=sha(backend))
    run = found.execution
    assert run is not None
    episode = episode_of_verification(
        found, TASK, index=3, instruction="Put it there.", provenance={"dream": "x"}, executor=backend.describe()
    )
    check(episode)
    assert (episode.index, episode.success, episode.instruction, episode.subtasks) == (3, True, "Put it there.", ())
    assert not [name for name in episode.columns if name.startswith("subtask")]
    np.testing.assert_array_equal(episode.columns["action"].values, run.actions)
    np.testing.assert_array_equal(
        episode.columns["sim.object.a"].values[:, :3], run.scene.position("a")[:-1].astype(np.float32)
    )
    assert episode.provenance["verification"] == record_of(found)
    assert episode.provenance["verification"]["tier"] == "executed_success"
    assert episode.start is start


def test_the_spring_is_solved_for_its_target() -> None:
    """Sent by `target_for` every step, a hand that follows by the model goes through the poses, up to what it lags."""
    rng = np.random.default_rng(0)
    way = np.cumsum(np.convolve(rng.normal(0, 0.004, 80), np.ones(9) / 9, "same"))
    for lag, allowed in ((EXACT, 1e-9), (OSC, 0.003), (Lag(lead_steps=5.0, gain=0.9), 0.004)):
        T = np.tile(np.eye(4), (len(way), 1, 1))
        T[:, 0, 3], T[:, 2, 3] = way, 2 * way
        here, last, off = T[0], np.zeros(6), []
        for step in range(len(way) - lag.ahead):
            asked = between(here, target_for(here, last, T[step + lag.ahead], lag))
            last = followed(last, asked, lag)
            here = moved(here, last)
            off.append(np.abs(here[:3, 3] - T[step + 1, :3, 3]).max())
        assert max(off) < allowed


@pytest.mark.parametrize("true", [EXACT, Lag(lead_steps=3.25, gain=0.95), Lag(lead_steps=6.0)])
def test_the_lag_is_measured_from_what_was_asked_and_what_came(true: Lag) -> None:
    rng = np.random.default_rng(1)
    paths = []
    for _ in range(3):
        here, last, T, C = np.eye(4), np.zeros(6), [], []
        for _ in range(60):
            asked = np.concatenate([rng.normal(0, 0.02, 3), np.zeros(3)])
            T.append(here)
            C.append(moved(here, asked))
            last = followed(last, asked, true)
            here = moved(here, last)
        paths.append((np.stack(T), np.stack(C)))
    found = measured_lag(paths)
    assert found.lead_steps == pytest.approx(true.lead_steps, abs=0.01)
    assert found.gain == pytest.approx(true.gain, rel=0.01)
    still = np.tile(np.eye(4), (60, 1, 1))
    with pytest.raises(SpecError, match="tell no lag"):
        measured_lag([(still, still)])


@pytest.mark.sim
def test_true_motion_of_a_real_arm_succeeds_when_tracked_and_standing_still_does_not() -> None:
    backend = open_backend(find_task("lift"))
    try:
        for demo in read_demos(seeds_path("lift"))[:2]:
            labels, start = oracle(backend, demo)
            found = verify(labels, start, backend, model_sha=sha(backend))
            assert found.tier == "executed_success", found.reason
            assert found.off_m < 0.01
            still = replace(labels, motion=np.zeros_like(labels.motion))
            assert verify(still, start, backend, model_sha=sha(backend)).tier == "executed_failure"
        smaller = replace(start, integration=start.integration[:-1])
        assert "does not load" in verify(labels, smaller, backend, model_sha=sha(backend)).reason
    finally:
        backend.close()
