"""The compiled control path: robosuite's torques, any robot it says it can drive, once compiled and then kept."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factory.demos import read_demos
from factory.errors import BackendError
from factory.sim import Hold
from sim_tasks.catalog import TASKS
from tests.test_backends import run, start, wander
from workers.generate import seeds_path

Array = NDArray[np.float64]

pytestmark = pytest.mark.sim

EQUAL = 1e-9


def make(scene: str, robots: list[str], controller: Callable[[], dict[str, Any]] | None = None) -> Any:
    """Return a robosuite environment, reset, its controllers as after a reset."""
    from sim_tasks.backends import compat

    compat.apply()
    import robosuite

    environment = robosuite.make(
        scene,
        robots=robots,
        controller_configs=controller() if controller else None,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        hard_reset=False,
        ignore_done=True,
        control_freq=20,
        seed=0,
    )
    environment.reset()
    return environment


def composite(robot: str, name: str = "BASIC") -> dict[str, Any]:
    from robosuite.controllers import load_composite_controller_config

    return load_composite_controller_config(controller=name, robot=robot)


def arm_part(**changes: Any) -> dict[str, Any]:
    """The Panda's default controllers with its arm's part replaced."""
    config = composite("Panda")
    part = config["body_parts"]["right"]
    config["body_parts"]["right"] = {**part, **changes}
    return config


def joint_part(kind: str) -> dict[str, Any]:
    from robosuite.controllers import load_part_controller_config

    return arm_part(**load_part_controller_config(default_controller=kind))


def bare(environment: Any) -> tuple[Any, Any]:
    return environment.sim.model._model, environment.sim.data._data


def compiled(environment: Any) -> Any:
    from sim_tasks.backends.compiled_path import CompiledPath

    path = CompiledPath(*bare(environment), environment.robots, substeps=25)
    path.remember_posture()
    for robot in environment.robots:
        for part in robot.part_controllers.values():
            part.new_update = True
    return path


def worst_difference(environment: Any, actions: NDArray[np.float32]) -> tuple[float, int]:
    """Step robosuite, ask the compiled path at every substep; return the largest difference and most contacts met."""
    import mujoco

    model, data = bare(environment)
    path = compiled(environment)
    worst, contacts = 0.0, 0
    for action in actions:
        for substep in range(25):
            mujoco.mj_step1(model, data)
            if substep == 0:
                path.aim(action)
            mine = path.substep_controls()
            environment._pre_action(action.astype(np.float64), substep == 0)
            worst, contacts = max(worst, float(np.abs(mine - data.ctrl).max())), max(contacts, data.ncon)
            mujoco.mj_step2(model, data)
    return worst, contacts


def restless(width: int, steps: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.clip(np.cumsum(rng.normal(0, 0.3, (steps, width)), axis=0), -1, 1).astype(np.float32)


ROBOTS = {
    "two Pandas": ("TwoArmLift", ["Panda", "Panda"], None),
    "two Pandas with dexterous hands": ("TwoArmLift", ["PandaDexRH", "PandaDexLH"], None),
    "GR-1 arms": ("TwoArmLift", ["GR1ArmsOnly"], lambda: composite("GR1ArmsOnly")),
    "GR-1 with a moving waist": ("TwoArmLift", ["GR1FixedLowerBody"], lambda: composite("GR1FixedLowerBody")),
    "another arm, another gripper": ("Lift", ["UR5e"], None),
    "joint positions": ("Lift", ["Panda"], lambda: joint_part("JOINT_POSITION")),
    "joint velocities": ("Lift", ["Panda"], lambda: joint_part("JOINT_VELOCITY")),
}


@pytest.mark.parametrize("name", ROBOTS)
def test_torques_are_robosuites_at_every_substep(name: str) -> None:
    environment = make(*ROBOTS[name])
    worst, contacts = worst_difference(environment, restless(environment.action_dim, 30))
    assert worst < EQUAL
    assert contacts > 0


def test_torques_are_robosuites_while_a_cube_is_grasped() -> None:
    """A demonstration's actions from its own start; the fingers close on the cube and lift it."""
    from sim_tasks.backends.robosuite import RobosuiteBackend

    backend = RobosuiteBackend(TASKS["stack"])
    demo = read_demos(seeds_path("stack"))[0]
    backend.reset_to(0, demo)
    worst, contacts = worst_difference(backend._env, demo.actions[:90].astype(np.float32))
    assert worst < EQUAL
    assert contacts > 8  # what rests on the table alone
    assert backend._reader.read().touching("right_finger1", "cubeA").all()


@pytest.mark.parametrize("bent", [0.0, 1e-9, 1e-6, 1e-4, 1e-2])
def test_torques_are_robosuites_at_and_near_a_singularity(bent: float) -> None:
    """A Panda stretched straight up cannot move its hand in every direction."""
    import mujoco

    environment = make("Lift", ["Panda"])
    model, data = bare(environment)
    arm = environment.robots[0].part_controllers["right"].qpos_index
    data.qpos[arm] = bent * np.arange(1.0, 8.0)
    data.qvel[:] = 0.0
    mujoco.mj_forward(model, data)
    path = compiled(environment)
    environment.robots[0].part_controllers["right"].initial_joint = np.array(data.qpos[arm])
    path.aim(restless(7, 1)[0])
    mine = path.substep_controls()
    environment._pre_action(restless(7, 1)[0].astype(np.float64), True)
    np.testing.assert_allclose(mine, data.ctrl, rtol=0, atol=EQUAL)


def test_an_action_asks_for_the_target_as_in_the_other_paths() -> None:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    sent = []
    for mode in ("compiled", "exact"):
        backend = RobosuiteBackend(TASKS["stack"], control_mode=mode)  # type: ignore[arg-type]
        assert backend.control_mode == mode
        for seed in range(6):
            scene, _ = start(backend, 0, seed)
            # Large turns, so that every branch of the logarithm is met.
            sent.append(run(backend, 0, wander(scene, seed=seed, steps=3, turn=4.0)).actions[0])
        backend.close()
    np.testing.assert_allclose(sent[:6], sent[6:], rtol=0, atol=1.2e-7)  # float32 has steps of 6e-8 near 1


def test_snapshots_of_all_paths_are_the_same() -> None:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    fast, exact = (RobosuiteBackend(TASKS["stack"], control_mode=m) for m in ("compiled", "exact"))  # type: ignore[arg-type]
    scene, _ = start(fast, 0, 5)
    run(fast, 0, wander(scene, seed=5, steps=10))
    snapshot = fast.snapshot(0)
    exact.restore(0, snapshot)
    again = exact.snapshot(0)
    np.testing.assert_array_equal(again.integration, snapshot.integration)
    assert set(again.controller) == set(snapshot.controller)
    for name, value in snapshot.controller.items():
        np.testing.assert_array_equal(again.controller[name], value)
    # A single control step of free motion is the same to rounding, whichever path makes it.
    one, other = (run(b, 0, Hold(steps=1)).sim_states["qpos"] for b in (fast, exact))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-7)


def test_a_velocity_controllers_integral_belongs_to_the_snapshot() -> None:
    environment = make("Lift", ["Panda"], lambda: joint_part("JOINT_VELOCITY"))
    model, data = bare(environment)
    import mujoco

    path = compiled(environment)
    actions = restless(environment.action_dim, 12)
    path.play(actions[:5])
    kind = mujoco.mjtState.mjSTATE_INTEGRATION.value
    state, memory = np.empty(mujoco.mj_stateSize(model, kind)), path.memory()
    mujoco.mj_getState(model, data, state, kind)
    expected = path.play(actions[5:]).record.qpos
    path.play(actions)
    mujoco.mj_setState(model, data, state, kind)
    path.recall(memory)
    np.testing.assert_array_equal(path.play(actions[5:]).record.qpos, expected)
    with pytest.raises(BackendError, match="taken of this robot"):
        path.recall({})


@pytest.mark.parametrize(
    ("robot", "controller", "said"),
    [
        ("Panda", lambda: arm_part(type="OSC_POSITION"), "position and orientation"),
        ("Panda", lambda: arm_part(impedance_mode="variable_kp"), "fixed impedance"),
        ("Panda", lambda: arm_part(input_type="absolute"), "displacements"),
        ("Panda", lambda: arm_part(uncouple_pos_ori=False), "uncoupled"),
        ("GR1ArmsOnly", lambda: composite("GR1ArmsOnly", "WHOLE_BODY_IK"), "driven by WHOLE_BODY_IK"),
    ],
)
def test_what_is_not_compiled_is_named(robot: str, controller: Callable[[], dict[str, Any]], said: str) -> None:
    from sim_tasks.backends.controllers import UnsupportedControlError

    environment = make("Lift", [robot], controller)
    with pytest.raises(UnsupportedControlError, match=said):
        compiled(environment)


def test_a_robot_that_cannot_be_compiled_is_driven_by_robosuite() -> None:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    stack = TASKS["stack"]
    options = {**stack.scene.options, "controller_configs": arm_part(uncouple_pos_ori=False)}
    backend = RobosuiteBackend(replace(stack, scene=replace(stack.scene, options=options)))
    assert backend.control_mode == "robosuite"
    assert backend.describe()["control_mode"] == "robosuite"
    scene, _ = start(backend, 0, 1)
    assert run(backend, 0, wander(scene, seed=1, steps=3)).stable


def test_other_threads_run_while_a_block_does() -> None:
    environment = make("Lift", ["Panda"])
    path = compiled(environment)
    actions, ticks, over = restless(environment.action_dim, 200), [0], threading.Event()
    plays, during = 0, 0

    def tick() -> None:
        while not over.is_set():
            ticks[0] += 1
            time.sleep(1e-4)

    thread = threading.Thread(target=tick)
    thread.start()
    while during <= 20 and plays < 20:  # on a busy machine the other thread may get no core for a while
        before = ticks[0]
        path.play(actions)
        during, plays = max(during, ticks[0] - before), plays + 1
    over.set()
    thread.join()
    assert during > 20  # held, the lock would let one through


_TWICE = """
from sim_tasks.backends import compiled_path
from sim_tasks.backends.robosuite import RobosuiteBackend
from sim_tasks.catalog import TASKS
RobosuiteBackend(TASKS["lift"])
stats = compiled_path.run_block.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def test_machine_code_is_made_once(tmp_path: Path) -> None:
    """This process has compiled; another one, and with another scene, reads what it left."""
    from sim_tasks.backends.compiling import is_compiled
    from sim_tasks.backends.robosuite import RobosuiteBackend

    RobosuiteBackend(TASKS["stack"])
    assert is_compiled()
    said = subprocess.run([sys.executable, "-c", _TWICE], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert said.stdout.split() == ["1", "0"]
    asked = "from sim_tasks.backends.compiling import is_compiled; print(is_compiled())"
    elsewhere = {**os.environ, "FACTORY_CACHE_DIR": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, env=elsewhere)
    assert said.stdout == "False\n"


def test_machine_code_of_other_sources_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim_tasks.backends import compiling

    folders = []
    for sources in (compiling._SOURCES, compiling._SOURCES[:-1]):
        compiling._code.cache_clear()
        monkeypatch.setattr(compiling, "_SOURCES", sources)
        folders.append(compiling.code_folder())
    compiling._code.cache_clear()
    assert folders[0] != folders[1]


def test_an_unknown_layout_of_muojcos_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from sim_tasks.backends import libmujoco

    libmujoco._layout.cache_clear()
    monkeypatch.setattr(libmujoco, "_PROBE", "<mujoco/>")  # no contacts: their number cannot be told from other zeros
    with pytest.raises(BackendError, match="control mode 'exact'"):
        libmujoco._layout()
    libmujoco._layout.cache_clear()
