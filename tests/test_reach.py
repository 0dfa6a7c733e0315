"""Poses out of reach are noticed by arithmetic on one arm: what can be reached is, what cannot is missed by as much.

Attempts ask before they move, and what they learn names failures and changes nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factory.demos import read_demos
from factory.errors import BackendError
from factory.replay import AttemptResult, run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.catalog import find_task
from tests import embodiments, kinematic
from tests.test_backends import start
from workers.generate import seeds_path

Array = NDArray[np.float64]

sim = pytest.mark.sim


@pytest.fixture(scope="module", params=["two Pandas", "GR-1"])
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    opened = RobosuiteBackend(embodiments.TASKS[request.param])
    start(opened, 0, 1)
    yield opened
    opened.close()


def poses_of(backend: Any, eef: str, count: int, *, margin: float = 0.1) -> Array:
    """Return what MuJoCo says the hand's pose is in random postures within the joints' limits."""
    import mujoco

    model, data = backend.model, mujoco.MjData(backend.model)
    is_site, index = backend._reader.eef_frames[eef]
    joints = [model.joint(name) for name in backend.task.robot.eefs[eef].arm_joints]
    rng = np.random.default_rng(0)
    poses = np.zeros((count, 4, 4))
    for row in poses:
        data.qpos[:] = backend.data.qpos
        for joint in joints:
            low, high = joint.range
            data.qpos[joint.qposadr[0]] = low + (margin + (1 - 2 * margin) * rng.random()) * (high - low)
        mujoco.mj_kinematics(model, data)
        row[:3, :3], row[:3, 3], row[3, 3] = data.site_xmat[index].reshape(3, 3), data.site_xpos[index], 1.0
    assert is_site
    return poses


@sim
def test_every_pose_of_a_posture_within_the_limits_is_reached(backend: Any) -> None:
    for eef in backend.task.robot.eefs:
        missed = [backend.reach(0, eef, pose[None]) for pose in poses_of(backend, eef, 40)]
        assert np.sum([m[0] >= 1e-3 or r[0] >= 1e-2 for m, r in missed]) == 0


@sim
def test_a_pose_beyond_the_arm_is_missed_by_its_distance(backend: Any) -> None:
    """The hand can go no farther than the arm is long, so 2 m away is missed by what is left over, more or less."""
    here = backend.restore(0, backend.snapshot(0)).T_world_eef["right"][0]
    path = np.repeat(here[None], 4, axis=0)
    path[:, 2, 3] += [0.02, 2.0, 3.0, 0.0]
    metres, _ = backend.reach(0, "right", path)
    assert metres[0] < 1e-3
    assert 0.7 < metres[1] < 2.0
    assert 0.9 < metres[2] - metres[1] < 1.1
    assert metres[3] < 1e-3


@sim
def test_limits_of_the_joints_are_kept(backend: Any) -> None:
    """A hand whose joints may hardly move cannot go 5 cm, which it can otherwise."""
    model = backend.model
    T = backend.restore(0, backend.snapshot(0)).T_world_eef["right"].copy()
    T[:, 2, 3] += 0.05
    metres, radians = backend.reach(0, "right", T)
    assert metres[0] < 1e-3
    assert radians[0] < 1e-2
    before = model.jnt_range.copy()
    try:
        for name in backend.task.robot.eefs["right"].arm_joints:
            joint = model.joint(name)
            now = backend.data.qpos[joint.qposadr[0]]
            model.jnt_range[joint.id] = now - 0.01, now + 0.01
        backend._kinematics = None
        narrow, _ = backend.reach(0, "right", T)
    finally:
        model.jnt_range[:] = before
        backend._kinematics = None
    assert narrow[0] > 0.03


@sim
def test_asking_changes_nothing(backend: Any) -> None:
    before = backend.snapshot(0)
    backend.reach(0, "left", poses_of(backend, "left", 3))
    after = backend.snapshot(0)
    np.testing.assert_array_equal(after.integration, before.integration)
    with pytest.raises(BackendError, match="unknown end effector 'rigth'. Did you mean 'right'"):
        backend.reach(0, "rigth", np.eye(4)[None])


# --- before an attempt moves ------------------------------------------------------------------------------------------


class Foreseeing(KinematicBackend):
    """Says of every pose that it is missed by the same distance, and remembers what it was asked."""

    def __init__(self, missed_m: float, missed_rad: float = 0.0) -> None:
        super().__init__(kinematic.without_noise())
        self.missed_m, self.missed_rad = missed_m, missed_rad
        self.asked: list[Array] = []

    def reach(self, env: int, eef: str, T_world_eef: Array) -> tuple[Array, Array]:
        """Answer as if the arm ended too early."""
        assert (env, eef) == (0, "right")
        self.asked.append(T_world_eef)
        return np.full(len(T_world_eef), self.missed_m), np.full(len(T_world_eef), self.missed_rad)


@pytest.fixture(scope="module")
def demos() -> Any:
    return kinematic.demos(3)


def attempts(backend: KinematicBackend, demos: Any) -> list[AttemptResult]:
    """Run twelve attempts, so noisy that some fail."""
    spec = GenerationSpec(seed=2, variant="D1", noise_normalised=0.5)
    sources = prepare_sources(backend, backend.task, demos, spec).sources
    return list(run_attempts(backend, backend.task, sources, spec, range(12)))


def test_an_attempt_asks_once_for_each_subtask_where_it_is_going(demos: Any) -> None:
    backend = Foreseeing(0.0)
    spec = GenerationSpec(seed=1, early_ending=False)
    sources = prepare_sources(backend, backend.task, demos, spec).sources
    (result,) = run_attempts(backend, backend.task, sources, spec, [0])
    assert [len(T) for T in backend.asked] == [4, 4]
    for k, T in enumerate(backend.asked):
        planned = result.T_world_eef_target["right"][: -result.hold_steps][
            result.subtask["right"][: -result.hold_steps] == k
        ]
        np.testing.assert_array_equal(T[-1], planned[-1])
        assert all((planned == pose).all(axis=(1, 2)).any() for pose in T)


@pytest.mark.parametrize(("missed_m", "missed_rad"), [(0.5, 0.0), (0.0, 0.5), (0.01, 0.0), (0.0, 0.0)])
def test_what_is_foreseen_names_failures_and_changes_nothing_else(
    demos: Any, missed_m: float, missed_rad: float
) -> None:
    blind = attempts(KinematicBackend(kinematic.without_noise()), demos)
    told = attempts(Foreseeing(missed_m, missed_rad), demos)
    assert 2 <= sum(r.held for r in blind) <= 10
    for a, b in zip(blind, told, strict=True):
        assert (a.held, a.touched) == (b.held, b.touched)
        length = min(len(a), len(b))
        np.testing.assert_array_equal(a.actions[:length], b.actions[:length])
        assert bool(b.misses) == (missed_m > 1e-3 or missed_rad > 0.01)
        if a.failure is None or b.failure is None:
            assert (len(a), a.failure) == (len(b), b.failure)
        elif max(missed_m, missed_rad) == 0.5:
            assert (b.failure.subtask, b.failure.reason) == (a.failure.subtask, "unreachable")
            assert f"{missed_m:.3f} m and {missed_rad:.2f} rad short" in b.failure.detail
        else:
            assert b.failure == a.failure


@sim
def test_a_cube_beyond_the_arm_is_named_before_the_hand_sets_out() -> None:
    """Robosuite's table ends 6 cm beyond what a Panda reaches with its hand down."""
    from sim_tasks.backends.robosuite import RobosuiteBackend

    task = find_task("stack")
    far = replace(task.resets["D0"].placements[0], x_m=(0.34, 0.36), y_m=(-0.2, -0.18))
    starts = replace(task.resets["D0"], placements=(far, *task.resets["D0"].placements[1:]))
    task = replace(task, resets={"D0": starts})
    backend = RobosuiteBackend(task)
    spec = GenerationSpec(seed=1)
    sources = prepare_sources(backend, task, read_demos(seeds_path("stack"))[:2], spec).sources
    (result,) = run_attempts(backend, task, sources, spec, [0])
    backend.close()
    assert result.failure is not None
    assert (result.failure.subtask, result.failure.eef, result.failure.reason) == ("grasp", "right", "unreachable")
    miss = result.misses["right", 0]
    assert str(miss) == result.failure.detail
    hand, target = (paths["right"][:, :3, 3] for paths in (result.scene.T_world_eef, result.T_world_eef_target))
    rows = result.subtask["right"] == 0
    # The simulator agrees: the hand ends no nearer than foreseen, to a centimetre.
    assert np.linalg.norm(hand[1:][rows] - target[rows], axis=1)[-1] > miss.metres - 0.01
    assert miss.metres > 0.02
