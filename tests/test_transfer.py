"""Transfer to another robot: grasp frames follow the same paths, fingers do the same, every door knows the robot."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from factory import poses
from factory.demos import read_demos
from factory.errors import SpecError
from factory.specs import TaskSpec
from factory.transfer import finger_change, grasp_frame, hand_change, task_for_robot
from sim_tasks.catalog import find_task, views_of
from sim_tasks.robots import GR1, PANDA, ROBOTS, SAWYER, STATIONS, TWO_DEX_PANDAS, TWO_PANDAS, UR5E
from tests.site import open_site, problem
from workers.cli import app
from workers.generate import seeds_path

Array = NDArray[np.float64]

sim = pytest.mark.sim
HANDS = {f"{name} {side}": eef for name, robot in ROBOTS.items() for side, eef in robot.eefs.items()}
HANDS |= {f"visiting {name} {side}": eef for name, at in STATIONS.items() for side, eef in at.eefs.items()}
PAIRS = [(a, b) for a in HANDS for b in HANDS if len(HANDS[a].opens) == len(HANDS[b].opens)]
STACK = find_task("stack")


def somewhere(seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return poses.pose(poses.matrix_from_axis_angle(rng.normal(0, 1, 3)), rng.normal(0, 1, 3))


# --- hands and fingers ------------------------------------------------------------------------------------------------


def test_both_hands_would_hold_the_same_thing_in_the_same_place() -> None:
    for seed, (a, b) in enumerate(PAIRS):
        T, source, target = somewhere(seed), HANDS[a], HANDS[b]
        there = T @ hand_change(source, target)
        np.testing.assert_allclose(
            there @ grasp_frame(target), T @ grasp_frame(source), atol=1e-12, err_msg=f"{a}, {b}"
        )
        np.testing.assert_allclose(there @ hand_change(target, source), T, atol=1e-12, err_msg=f"{a}, {b}")


def test_fingers_open_and_close_as_far() -> None:
    for a, b in PAIRS:
        source, target = HANDS[a], HANDS[b]
        opened, closed = np.array(source.opens), np.array(source.closes)
        to_open, to_closed = np.array(target.opens), np.array(target.closes)
        share = np.linspace(0.0, 1.0, 5)[:, None]
        path = opened + share * (closed - opened)
        there = finger_change(path, source, target)
        np.testing.assert_allclose(there, to_open + share * (to_closed - to_open), atol=1e-12, err_msg=f"{a}, {b}")
        np.testing.assert_allclose(finger_change(there, target, source), path, atol=1e-12, err_msg=f"{a}, {b}")


def test_a_finger_that_neither_opens_nor_closes_keeps_its_motion() -> None:
    hand = TWO_DEX_PANDAS.eefs["right"]
    thumb = np.linspace(-1.0, 1.0, 4)
    path = np.repeat([hand.opens], 4, axis=0)
    path[:, 5] = thumb
    np.testing.assert_allclose(finger_change(path, hand, GR1.eefs["right"])[:, 5], thumb)


def test_each_number_goes_to_its_namesake() -> None:
    hand = TWO_DEX_PANDAS.eefs["right"]
    other = replace(hand, digits=hand.digits[::-1], command_open=hand.opens[::-1], command_closed=hand.closes[::-1])
    path = np.random.default_rng(0).uniform(-1.0, 1.0, (3, 6))
    np.testing.assert_allclose(finger_change(path, hand, other), path[:, ::-1])


# --- the task ---------------------------------------------------------------------------------------------------------


def test_what_is_asked_stays_and_the_robot_changes() -> None:
    task = find_task("stack", "UR5e")
    assert task.robot is UR5E
    assert task.recorded_as is STACK
    assert (task.subtasks, task.resets, task.signals, task.success, task.needs) == (
        STACK.subtasks,
        STACK.resets,
        STACK.signals,
        STACK.success,
        STACK.needs,
    )
    assert find_task("stack", "Panda") is STACK


def test_demonstrations_stay_those_of_the_first_robot() -> None:
    assert task_for_robot(task_for_robot(STACK, UR5E), SAWYER).recorded_as is STACK


def test_clearances_between_fingers_are_those_of_the_new_hand() -> None:
    cube_mm = 40.0
    for robot in (PANDA, UR5E, SAWYER):
        clearances = task_for_robot(STACK, robot).scene.clearances_mm
        assert clearances["cubeA between the open fingers"] == pytest.approx(
            1e3 * robot.eefs["right"].opening_m - cube_mm
        )
        assert clearances["centre of cubeA off the centre of cubeB"] == 25.0


@pytest.mark.parametrize(
    ("task", "robot", "said"),
    [
        (STACK, TWO_PANDAS, "its end effectors are ['left', 'right'], those of 'Panda'"),
        (find_task("two_arm_lift"), TWO_DEX_PANDAS, "its groups that touch are []"),
        (STACK, replace(UR5E, control_hz=10), "it takes 10 actions a second"),
        (STACK, replace(UR5E, eefs={"right": replace(UR5E.eefs["right"], opening_m=0.03)}), "cubeA is 10 mm too wide"),
    ],
)
def test_a_robot_that_cannot_do_it_is_told_why(task: TaskSpec, robot: Any, said: str) -> None:
    with pytest.raises(SpecError) as error:
        task_for_robot(task, robot)
    assert f"task {task.name!r} cannot be done by {robot.name!r}" in str(error.value)
    assert said in str(error.value)


def test_a_misspelt_robot_is_answered_with_a_near_one() -> None:
    with pytest.raises(SpecError, match="Did you mean 'UR5e'"):
        find_task("stack", "UR5")


def test_a_humanoid_brings_its_table_and_both_keep_their_heights() -> None:
    own, task = find_task("two_arm_lift_tray"), find_task("two_arm_lift_tray", "GR1ArmsOnly")
    (stands,), (here,), table = GR1.mounts, task.robot.mounts, STATIONS["GR1ArmsOnly"].table
    assert stands.position_m is not None
    assert here.position_m is not None
    assert task.scene.table == replace(table, top_m=own.scene.table.top_m)
    assert here.position_m[:2] == stands.position_m[:2]
    assert here.position_m[2] - own.scene.table.top_m == pytest.approx(stands.position_m[2] - table.top_m)
    assert task.scene.cameras["ego_view"].parent
    assert task.scene.cameras["front_view"] == own.scene.cameras["front_view"]
    assert not [view for view in views_of("two_arm_lift_tray", "GR1ArmsOnly") if "eye_in_hand" in view]


# --- with a simulator -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def panda() -> Iterator[Any]:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    backend = RobosuiteBackend(STACK)
    yield backend
    backend.close()


@sim
@pytest.mark.parametrize("name", ["UR5e", pytest.param("Sawyer", marks=pytest.mark.slow)])
def test_a_demonstration_is_read_where_it_was_recorded(panda: Any, name: str) -> None:
    """Things are where the Panda's scene has them, and the other hand's grasp frame is where the Panda's was."""
    from sim_tasks.backends.robosuite import RobosuiteBackend

    (demo,) = read_demos(seeds_path("stack"))[:1]
    ours = panda.annotate(demo)
    backend = RobosuiteBackend(find_task("stack", name))
    theirs = backend.annotate(demo)
    backend.close()
    for thing, path in ours.T_world_object.items():
        np.testing.assert_array_equal(theirs.T_world_object[thing], path)
    for signal, rises in ours.signals.items():
        np.testing.assert_array_equal(theirs.signals[signal], rises)
    own, other = grasp_frame(PANDA.eefs["right"]), grasp_frame(ROBOTS[name].eefs["right"])
    for paths in ("T_world_eef", "T_world_eef_target"):
        there, here = getattr(theirs, paths)["right"], getattr(ours, paths)["right"]
        np.testing.assert_allclose(there @ other, here @ own, atol=1e-12)


@pytest.mark.slow
@sim
def test_another_robots_dataset_says_who_and_plays_again_bit_for_bit(tmp_path: Path) -> None:
    out = tmp_path / "made"
    words = ["generate", "stack", "--robot", "UR5e", "--episodes", "2", "--cameras", "", "--workers", "1"]
    made = CliRunner().invoke(app, [*words, "--out", str(out)])
    assert made.exit_code == 0, made.stderr
    facts = json.loads(CliRunner().invoke(app, ["inspect", str(out), "--verify", "--json"]).stdout)
    assert (facts["robot_type"], facts["episodes"], facts["task"]) == ("ur5e", 2, "stack")
    assert "observation.state" in {column["name"] for column in facts["columns"]}
    played = CliRunner().invoke(app, ["replay", f"{out}:1", "--json"])
    assert played.exit_code == 0, played.stdout
    assert [(p["way"], p["equal"]) for p in json.loads(played.stdout)] == [("actions", True), ("seed", True)]


# --- at the service ---------------------------------------------------------------------------------------------------


def test_a_job_says_which_robot_and_how_to_ask_again(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        job = site.job(robot="UR5e", render={})
        asked = job["reproduce"]["request"]
        assert asked["robot"] == "UR5e"
        assert site.client.post("/v1/jobs", json=asked).json()["spec_sha256"] == job["spec_sha256"]
        assert site.job(render={})["spec_sha256"] != job["spec_sha256"]
        words = shlex.split(job["reproduce"]["command"])
        assert words[:5] == ["factory", "generate", "stack", "--robot", "UR5e"]
        assert "--cameras" not in words
        for robot in ("UR5", "TwoPandas"):
            answer = site.client.post("/v1/jobs", json={"task": "stack", "attempts": 1, "robot": robot})
            assert problem(answer, 422, "unfit_robot")["field"] == "robot"
