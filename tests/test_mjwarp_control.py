"""MuJoCo Warp's share of every test run: the control law against robosuite's own, and what is refused with a sentence.

The kernels of one control law compile in seconds; those of a whole simulation do not, see `test_mjwarp`.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from factory.demos import Demo, read_demos
from factory.errors import BackendError, SpecError
from sim_tasks.catalog import TASKS
from sim_tasks.robots import PANDA
from workers import bench_gpu
from workers.cli import app
from workers.generate import seeds_path

pytest.importorskip("mujoco_warp")
mujoco = pytest.importorskip("mujoco")

Array = NDArray[np.float64]

pytestmark = pytest.mark.sim


def rounded(demo_rows: Array) -> Array:
    """States as a device can hold them."""
    return demo_rows.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize(
    "name", ["lift", pytest.param("stack", marks=pytest.mark.gpu), pytest.param("square", marks=pytest.mark.gpu)]
)
def test_the_torques_are_robosuites_own(name: str) -> None:
    """At moments of a demonstration, free and grasping: the goal of one state, then its torques there and a bit later.

    Only positions and velocities are computed on the device, so no constraint solver is compiled for each scene.
    """
    from sim_tasks.backends.robosuite import RobosuiteBackend

    demo = read_demos(seeds_path(name))[0]
    host = RobosuiteBackend(TASKS[name], control_mode="robosuite")
    host.reset_to(0, demo)
    scene = annotated_contacts(host, demo)
    rows = [0, 20, len(scene) // 2, int(np.flatnonzero(scene)[-1])]
    assert scene[rows].any()
    assert not scene[rows].all()
    device = _device(host, worlds=len(rows))
    _load_rows(device, host, rounded(demo.states[rows]))
    _orders(device, demo.actions[rows].astype(np.float32))
    at_goal = _torques(device, first=True)
    _load_rows(device, host, rounded(demo.states[[row + 1 for row in rows]]))
    later = _torques(device, first=False)
    for w, row in enumerate(rows):
        for state, action, first, got in (
            (demo.states[row], demo.actions[row], True, at_goal[w]),
            (demo.states[row + 1], demo.actions[row], False, later[w]),
        ):
            expected = _robosuite_controls(host, rounded(state), action.astype(np.float32), first=first)
            driven = slice(None) if first else slice(7)  # the fingers' controls stay as they were set
            limit = 1e-4 * np.abs(expected[driven]).max()
            np.testing.assert_allclose(got[driven], expected[driven], rtol=0, atol=limit)
    host.close()


def annotated_contacts(host: Any, demo: Demo) -> NDArray[np.bool_]:
    """Where fingers touch something, a row per state."""
    scene = host.annotate(demo).scene
    return np.any([touch for pair, touch in scene.contacts.items() if "finger" in pair], axis=0)[:-1]


def _device(host: Any, *, worlds: int) -> Any:
    from sim_tasks.backends.mjwarp.worlds import Worlds

    return Worlds(
        host._model, host._robot, host.task.robot, worlds=worlds, substeps=1, device="cpu"
    )  # fmt: skip


def _load_rows(device: Any, host: Any, states: Array) -> None:
    from sim_tasks.backends.mjwarp.worlds import WorldState

    model, (_, part) = host._model, host._arm_controllers()[0]
    for world, state in enumerate(states):
        device.load(
            world,
            WorldState(
                qpos=state[1 : 1 + model.nq].astype(np.float32),
                qvel=state[1 + model.nq :].astype(np.float32),
                warmstart=np.zeros(model.nv, np.float32),
                ctrl=np.zeros(model.nu, np.float32),
                posture=np.array([part.initial_joint]),
                fingers=np.zeros((1, 2), np.float32),
            ),
        )


def _orders(device: Any, sent: NDArray[np.float32]) -> None:
    from sim_tasks.backends.mjwarp.worlds import idle

    plan = idle(device.num_worlds, 1, PANDA.action_dim)
    plan.actions[0] = sent
    device._orders.lengths.fill_(1)
    device._orders.recorded.fill_(1)
    device._orders.actions.assign(plan.actions)


def _torques(device: Any, *, first: bool) -> Array:
    import mujoco_warp as mjw
    import warp as wp

    with wp.ScopedDevice(device.device):
        device._upload()
        model, data = device._model, device._data
        mjw.kinematics(model, data)
        mjw.com_pos(model, data)
        mjw.crb(model, data)
        mjw.com_vel(model, data)
        mjw.rne(model, data)
        device._first_substep = first
        device._control(model, data)
        return data.ctrl.numpy().copy()  # on the CPU a view of the device


def _robosuite_controls(host: Any, state: Array, action: NDArray[np.float32], *, first: bool) -> Array:
    model, data = host._model, host._data
    data.qpos[:], data.qvel[:] = state[1 : 1 + model.nq], state[1 + model.nq :]
    if first:
        host._robot.gripper["right"].current_action = np.zeros(2)
    host._wake_controllers()
    mujoco.mj_step1(model, data)
    host._env._pre_action(action.astype(np.float64), first)
    return data.ctrl.copy()


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_robot_the_kernels_do_not_know_is_refused() -> None:
    from sim_tasks.backends.mjwarp.arms import arms_of
    from sim_tasks.backends.robosuite import RobosuiteBackend

    host = RobosuiteBackend(TASKS["lift"], control_mode="exact")
    host._robot.part_controllers["right"].impedance_mode = "variable"
    with pytest.raises(BackendError, match=r"arm 'right'.*'impedance': 'variable'.*written for.*'fixed'"):
        arms_of(host._model, host._robot, PANDA)
    host.close()


def test_a_device_that_is_not_there_is_refused() -> None:
    from sim_tasks.backends import open_backend

    with pytest.raises(BackendError, match=r"asked to compute on 'cuda:63'; Warp finds cpu.* here"):
        open_backend(TASKS["lift"], name="mjwarp", device="cuda:63")


def test_a_machine_without_cuda_says_so() -> None:
    import warp

    if warp.is_cuda_available():
        pytest.skip("this machine has a CUDA device")
    facts = bench_gpu.measure("lift")
    assert (facts["task"], facts["worlds"], facts["status"]) == ("lift", 4096, "unmeasured: no CUDA device")
    with pytest.raises(SpecError, match="Did you mean 'lift'"):
        bench_gpu.measure("lfit")
    parts = "control,engine,scenes,generate,cameras,render"
    said = CliRunner().invoke(app, ["bench", "--task", "lift", "--without", parts, "--gpu", "--json"])
    assert said.exit_code == 0, said.output
    assert json.loads(said.stdout)["gpu"] == facts
