"""Every robot is what its specification says: names, signs, orders of fingers, where it takes hold, how it stands."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factory import poses
from factory.errors import SpecError
from factory.sim import Block
from factory.specs import EefSpec
from sim_tasks.robots import GR1, GR1_TABLE, PANDA, ROBOTS, find_robot
from tests import embodiments
from tests.test_backends import run, start

Array = NDArray[np.float64]

sim = pytest.mark.sim
HANDS = ("TwoDexPandas", "GR1ArmsOnly")
ORDER = ("pinky", "ring", "middle", "index", "thumb", "thumb")


@pytest.fixture(scope="module", params=list(ROBOTS))
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    robot = ROBOTS[request.param]
    opened = RobosuiteBackend(embodiments.box_task(robot, table=GR1_TABLE if robot is GR1 else None))
    yield opened
    opened.close()


def say(backend: Any, commands: dict[str, Array], steps: int = 12) -> Any:
    """Tell all hands something while the arms rise out of the way; return what happened."""
    scene = backend.restore(0, backend.snapshot(0))
    moves = {}
    for eef, command in commands.items():
        path = np.repeat(scene.T_world_eef[eef], steps, axis=0)
        path[:, 2, 3] += np.linspace(0.0, 0.05, steps)
        moves[eef] = Block(
            T_world_eef=path, gripper=np.repeat([command], steps, axis=0), action_noise=np.zeros((steps, 6))
        )
    return run(backend, 0, moves).scene


@sim
class TestRobots:
    def test_it_is_driven_by_the_compiled_path_and_stands_still(self, backend: Any) -> None:
        assert backend.control_mode == "compiled"
        scene, _ = start(backend, 0, 1)
        after = say(backend, {eef: np.array(spec.opens) for eef, spec in backend.task.robot.eefs.items()}, steps=3)
        for eef in backend.task.robot.eefs:
            np.testing.assert_array_equal(after.T_world_base[eef], scene.T_world_base[eef])

    def test_commands_open_and_close_the_joints_as_written(self, backend: Any) -> None:
        start(backend, 0, 1)
        eefs: dict[str, EefSpec] = dict(backend.task.robot.eefs)
        opened = say(backend, {eef: np.array(spec.opens) for eef, spec in eefs.items()}, steps=30)
        closed = say(backend, {eef: np.array(spec.closes) for eef, spec in eefs.items()}, steps=40)
        for eef, spec in eefs.items():
            wide, shut = np.array(spec.joints_open), np.array(spec.joints_closed)
            way = shut - wide
            np.testing.assert_allclose(opened.joint(f"{eef}_gripper")[-1], wide, atol=0.08)
            # Fingers that close on nothing may stop one another on the way, so not all get to the end.
            got = (closed.joint(f"{eef}_gripper")[-1] - wide) @ way / (way @ way)
            assert 0.8 < got < 1.1

    def test_opposing_fingers_are_on_both_sides_of_the_grasp(self, backend: Any) -> None:
        """In the grasp frame the first group lies at lower x than the second, and both about its middle."""
        start(backend, 0, 1)
        scene = say(backend, {eef: np.array(spec.opens) for eef, spec in backend.task.robot.eefs.items()}, steps=30)
        for eef, spec in backend.task.robot.eefs.items():
            T_world_grasp = scene.T_world_eef[eef][-1] @ poses.pose(
                poses.matrix_from_quat_wxyz(np.array(spec.grasp_quat_wxyz)), np.array(spec.grasp_m)
            )
            middles = []
            for group in spec.fingers.values():
                points = [backend.data.geom(name.removeprefix("geom:")).xpos for name in group]
                middles.append(np.mean([(poses.inverse(T_world_grasp) @ [*p, 1.0])[0] for p in points]))
            assert middles[0] < -0.01
            assert middles[1] > 0.005

    def test_arms_rest_clear_of_the_table(self, backend: Any) -> None:
        scene, _ = start(backend, 0, 1)
        for path in scene.T_world_eef.values():
            assert path[0, 2, 3] > backend.task.scene.table.top_m + 0.09
        pairs = {
            frozenset((backend.model.geom(int(a)).name, backend.model.geom(int(b)).name))
            for a, b in backend.data.contact.geom
        }
        assert not [pair for pair in pairs if "table_collision" in pair and not any(n.startswith("box") for n in pair)]


@sim
@pytest.mark.parametrize("name", HANDS)
def test_each_number_of_a_hand_moves_its_own_finger(name: str) -> None:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    robot = ROBOTS[name]
    backend = RobosuiteBackend(embodiments.box_task(robot, table=GR1_TABLE if robot is GR1 else None))
    start(backend, 0, 1)
    say(backend, dict.fromkeys(robot.eefs, np.full(6, -1.0)), steps=20)
    flat = backend.snapshot(0)
    rest = {eef: backend.restore(0, flat).joint(f"{eef}_gripper")[0] for eef in robot.eefs}
    for i, finger in enumerate(ORDER):
        backend.restore(0, flat)
        command = np.full(6, -1.0)
        command[i] = 0.0
        after = say(backend, dict.fromkeys(robot.eefs, command), steps=20)
        for eef, spec in robot.eefs.items():
            moved = after.joint(f"{eef}_gripper")[-1] - rest[eef]
            bent = {joint for joint, by in zip(spec.gripper_joints, moved, strict=True) if abs(by) > 0.15}
            assert bent
            assert all(finger in joint for joint in bent)
            assert np.all(moved > -0.1)  # positive bends
            turns = {joint for joint in bent if joint.endswith(("proximal_1", "proximal_yaw_joint"))}
            assert bool(turns) == (i == 5)
    backend.close()


def test_robots_that_cannot_be_are_refused() -> None:
    right = PANDA.eefs["right"]
    for broken, said in (
        (lambda: replace(right, command_open=(1.0, 1.0)), "needs 1 numbers"),
        (lambda: replace(PANDA, action_dim=8), "must tile its 8 action dimensions once"),
        (lambda: find_robot("Pnada"), "Did you mean 'Panda'"),
    ):
        with pytest.raises(SpecError) as error:
            broken()
        assert said in str(error.value)


def test_a_gripper_opens_against_the_sign_that_closes_it() -> None:
    assert (PANDA.eefs["right"].opens, PANDA.eefs["right"].closes) == ((-1.0,), (1.0,))
    assert GR1.eefs["left"].opens == (-1.0, -1.0, -1.0, -1.0, -1.0, 1.0)
