"""Poses out of reach are noticed by arithmetic on one arm: what can be reached is, what cannot is missed by as much."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factory.errors import BackendError
from tests import embodiments
from tests.test_backends import start

Array = NDArray[np.float64]

pytestmark = pytest.mark.sim


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


def test_every_pose_of_a_posture_within_the_limits_is_reached(backend: Any) -> None:
    for eef in backend.task.robot.eefs:
        missed = [backend.reach(0, eef, pose[None]) for pose in poses_of(backend, eef, 40)]
        assert np.sum([m[0] >= 1e-3 or r[0] >= 1e-2 for m, r in missed]) == 0


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


def test_asking_changes_nothing(backend: Any) -> None:
    before = backend.snapshot(0)
    backend.reach(0, "left", poses_of(backend, "left", 3))
    after = backend.snapshot(0)
    np.testing.assert_array_equal(after.integration, before.integration)
    with pytest.raises(BackendError, match="unknown end effector 'rigth'. Did you mean 'right'"):
        backend.reach(0, "rigth", np.eye(4)[None])
