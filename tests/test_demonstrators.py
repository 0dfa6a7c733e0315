"""Scripted demonstrators and the seeds they recorded."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sim_tasks
from factory import poses
from factory.demos import read_demos
from factory.errors import SpecError
from factory.segmentation import split
from sim_tasks.catalog import TASKS, find_task
from sim_tasks.demonstrators.recording import flat, perform, record, start
from sim_tasks.demonstrators.strokes import Stroke, block, hand_down, nearest_turn, yaw_of
from sim_tasks.robots import PANDA

SEEDS = Path(sim_tasks.__file__).parent / "seeds"
MOST_STEPS = {"stack_three": 400, "two_arm_box_cleanup": 400}
"""The tower, and the box with its lid, are two tasks in one; the others are done in 15 seconds."""


# --- strokes --------------------------------------------------------------------------------------------------------


def test_a_stroke_starts_slow_ends_slow_and_arrives():
    start, end = hand_down(np.array([0.0, 0.0, 1.0]), 0.0), hand_down(np.array([0.1, 0.2, 0.9]), 1.0)
    made = block(start, Stroke(T_world_eef=end, closed=False, speed_m_s=0.1), control_hz=20, eef=PANDA.eefs["right"])
    steps = np.linalg.norm(np.diff(made.T_world_eef[:, :3, 3], axis=0), axis=-1)
    assert np.allclose(made.T_world_eef[-1], end)
    assert steps[0] < 0.2 * steps.max()
    assert steps[-1] < 0.2 * steps.max()
    assert steps.max() * 20 == pytest.approx(0.1 * 1.875, rel=0.05)
    assert (made.gripper == -1.0).all()


def test_a_stroke_passes_through_its_waypoints():
    start, end = hand_down(np.zeros(3), 0.0), hand_down(np.array([0.2, 0.0, 0.0]), 0.0)
    way = hand_down(np.array([0.1, 0.1, 0.0]), 0.5)
    stroke = Stroke(T_world_eef=end, closed=True, through=way[None], speed_m_s=0.01)
    made = block(start, stroke, control_hz=20, eef=PANDA.eefs["right"])
    assert np.linalg.norm(made.T_world_eef[:, :3, 3] - way[:3, 3], axis=-1).min() < 1e-3
    assert poses.angle_between(made.T_world_eef[-1, :3, :3], end[:3, :3]) < 1e-6


def test_an_angle_is_turned_to_its_nearest_equivalent():
    assert nearest_turn(1.6, 0.0, np.pi / 2) == pytest.approx(1.6 - np.pi / 2)
    assert nearest_turn(-3.0, 3.0, 2 * np.pi) == pytest.approx(2 * np.pi - 3.0)
    assert yaw_of(poses.pose(poses.yaw_matrix(0.7), np.zeros(3))) == pytest.approx(0.7)


# --- who may import them --------------------------------------------------------------------------------------------


def test_generation_does_not_load_demonstrators():
    code = (
        "import sys, factory.generation, factory.replay, sim_tasks.catalog; "
        "sys.exit(any(name.startswith('sim_tasks.demonstrators') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- in the simulator -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def backend_of():
    """One backend per task for the whole module: building a scene is the slow part."""
    from sim_tasks.backends.robosuite import RobosuiteBackend

    opened = {}

    def open_one(name: str) -> RobosuiteBackend:
        if name not in opened:
            opened[name] = RobosuiteBackend(find_task(name))
        return opened[name]

    yield open_one
    for backend in opened.values():
        backend.close()


ONE_ARM_FIRST = [
    pytest.param(name, marks=() if len(task.robot.eefs) == 1 else pytest.mark.slow) for name, task in TASKS.items()
]
"""A robot with two arms takes seconds a try."""


@pytest.mark.sim
@pytest.mark.parametrize("name", ONE_ARM_FIRST)
def test_a_script_succeeds_where_nobody_tuned_it(name: str, backend_of):
    # A robot with two arms takes seconds a try.
    count = 3 if len(TASKS[name].robot.eefs) == 1 else 1
    tries = [perform(TASKS[name], backend_of(name), seed=77, attempt=i, index=i, count=3) for i in range(count)]
    assert sum(one.success for one in tries) >= min(count, 2)
    for one in tries:
        assert one.demo.states.shape[0] == len(one.demo) + 1
        assert np.abs(one.demo.actions).max() <= 1.0


@pytest.mark.sim
def test_the_same_numbers_record_the_same_demo(backend_of):
    task, backend = find_task("lift"), backend_of("lift")
    calls: list[tuple[int, int]] = []
    first = record(task, backend, count=2, seed=5, progress=lambda kept, tried: calls.append((kept, tried)))
    again = record(task, backend, count=2, seed=5)
    assert calls[-1][0] == len(first) == 2
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.states, b.states)
        assert np.array_equal(a.actions, b.actions)


@pytest.mark.sim
def test_a_task_without_a_script_is_refused(backend_of):
    with pytest.raises(SpecError, match="unknown script for task 'pour'"):
        record(replace(find_task("lift"), name="pour"), backend_of("lift"), count=1, seed=0)


# --- the seeds that are shipped -------------------------------------------------------------------------------------


def test_seeds_are_small():
    files = sorted(SEEDS.glob("*.hdf5"))
    assert [f.stem for f in files] == sorted(TASKS)
    sizes = [f.stat().st_size for f in files]
    assert max(sizes) < 1_300_000
    assert sum(sizes) < 20_000_000


@pytest.mark.sim
@pytest.mark.parametrize("name", ONE_ARM_FIRST)
def test_seeds_succeed_and_can_be_cut(name: str, backend_of):
    task, demos = TASKS[name], read_demos(SEEDS / f"{name}.hdf5")
    # Ten of one arm; fewer where two arms and hands make a demonstration large.
    assert len(demos) == 10 or (len(task.robot.eefs) == 2 and len(demos) >= 5)
    for demo in demos:
        assert 60 <= len(demo) <= MOST_STEPS.get(name, 300)
        annotated = backend_of(name).annotate(demo)
        assert annotated.success
        segments = split(annotated, task)["right"]
        # Where one arm waits for the other it may be short, but there is time to look at the object.
        assert [s.stop - s.start > 15 for s in segments] == [True] * len(task.subtasks["right"])


@pytest.mark.sim
@pytest.mark.parametrize("name", ONE_ARM_FIRST)
def test_seeds_replay_to_success_open_loop(name: str, backend_of):
    task, backend = TASKS[name], backend_of(name)
    # A robot with two arms takes seconds a demonstration.
    for demo in read_demos(SEEDS / f"{name}.hdf5")[: 3 if len(task.robot.eefs) == 1 else 1]:
        numbers = {key: int(demo.attributes[key]) for key in ("seed", "attempt", "index", "count")}
        start(task, backend, **numbers, variant=demo.attributes["variant"])
        assert np.allclose(flat(backend.sim_state(0)), demo.states[0], atol=1e-6)
        played = backend.play(0, demo.actions.astype(np.float32))
        assert task.success(played.scene)[-1]
