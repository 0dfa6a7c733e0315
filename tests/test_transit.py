"""Laws of planned transit: a way begins and ends where it was asked, touches nothing, and is not made without need."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from api.reproducing import reproduce
from api.specs import JobSpec
from api.tables import Job
from factory import poses, transit
from factory.errors import BackendError, SpecError
from factory.recording import episode_of
from factory.replay import AttemptResult, run_attempts
from factory.scene import SceneState
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from factory.transit import FREE_M, LOOK_M, PACE_M, PACE_RAD, ROOMY_M, Gauge, around, plan
from sim_tasks.backends.kinematic import KinematicBackend
from tests import kinematic

Array = NDArray[np.float64]
DOWN = kinematic.DOWN
HAND_M = 0.04
"""Radius of the ball that stands for a hand."""
WALL = (np.array([0.0, 0.0, 1.0]), np.array([0.02, 0.3, 0.2]))
"""Middle and half sizes of a wall across the way from START to GOAL; over it, and around its sides, is room."""
START, GOAL = (poses.pose(poses.yaw_matrix(yaw) @ DOWN, [x, 0.0, 1.0]) for x, yaw in ((-0.2, 0.0), (0.2, 1.0)))
PLANNED = GenerationSpec(seed=7, paced_bridge=True, transit="planned")


def outside(*boxes: tuple[Array, Array]) -> Gauge:
    """Return the room of a ball among boxes."""

    def room(T: Array) -> Array:
        found = np.full(len(T), np.inf)
        for middle, half in boxes:
            beyond = np.abs(T[:, :3, 3] - middle) - half
            distance = np.linalg.norm(np.maximum(beyond, 0.0), axis=1) + np.minimum(beyond.max(axis=1), 0.0)
            found = np.minimum(found, distance - HAND_M)
        return np.minimum(found, LOOK_M)

    return room


def shell(middle: Array, half_m: float) -> tuple[tuple[Array, Array], ...]:
    """Return six walls that close a room."""
    walls = []
    for axis in range(3):
        for side in (-1.0, 1.0):
            half = np.full(3, half_m + 0.02)
            half[axis] = 0.02
            walls.append((middle + side * (half_m + 0.02) * np.eye(3)[axis], half))
    return tuple(walls)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def steps(T: Array) -> tuple[float, float]:
    """Return the longest and the widest step of a way."""
    shift = np.linalg.norm(np.diff(T[:, :3, 3], axis=0), axis=1)
    return float(shift.max()), float(poses.angle_between(T[:-1, :3, :3], T[1:, :3, :3]).max())


# --- the planner ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_a_way_has_its_ends_its_pace_and_room_all_along(seed: int) -> None:
    gauge = outside(WALL)
    way = plan(START, GOAL, gauge, rng(seed))
    assert way is not None
    assert np.array_equal(way[0], START)
    assert np.array_equal(way[-1], GOAL)
    metres, radians = steps(way)
    assert metres <= PACE_M + 1e-9
    assert radians <= PACE_RAD + 1e-6
    assert (gauge(way) >= ROOMY_M).all()
    np.testing.assert_allclose(np.linalg.det(way[:, :3, :3]), 1.0, atol=1e-9)
    # Over the wall's edge with room is 0.73 m; a way without shortcuts wanders for more than twice as long.
    assert np.linalg.norm(np.diff(way[:, :3, 3], axis=0), axis=1).sum() < 1.2


def test_the_same_numbers_give_the_same_way_and_others_another() -> None:
    low = (WALL[0], WALL[1] * [1.0, 1.0, 0.3])
    one, again, another = (plan(START, GOAL, outside(low), rng(seed)) for seed in (0, 0, 1))
    assert one is not None
    assert again is not None
    assert another is not None
    assert np.array_equal(one, again)
    assert not np.array_equal(one, another)


def test_a_free_way_is_straight() -> None:
    way = plan(START, GOAL, outside(), rng())
    assert way is not None
    across = (way[:, :3, 3] - START[:3, 3]) @ np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(across, 0.0, atol=1e-12)


# --- whether, and from where ------------------------------------------------------------------------------------------


def segment(*z: float) -> Array:
    """Return a segment that comes down at the goal, from these heights above it."""
    return np.stack([poses.pose(GOAL[:3, :3], GOAL[:3, 3] + [0.0, 0.0, up]) for up in z])


def test_nothing_is_planned_where_nothing_is_in_the_way() -> None:
    assert around(START, segment(0.1, 0.05, 0.0), 1, lambda *_: outside(), rng()) is None


def test_what_is_only_near_the_straight_way_leaves_it_alone() -> None:
    """As much room as leaves no contact between two steps is enough; less is planned around."""
    for room, planned in ((FREE_M + 1e-3, False), (FREE_M - 1e-3, True)):
        side = (np.array([0.0, 0.05 + HAND_M + room, 1.0]), np.array([0.05, 0.05, 0.05]))
        found = around(START, segment(0.0), 0, lambda *_, box=side: outside(box), rng())
        assert (found is not None) is planned


def test_a_bridge_goes_around_and_the_segment_is_kept() -> None:
    found = around(START, segment(0.0, -0.02, -0.04), 1, lambda *_: outside(WALL), rng())
    assert found is not None
    assert found.T_world_eef is not None
    assert found.skipped == 0
    whole = np.concatenate([START[None], found.T_world_eef, GOAL[None]])
    metres, radians = steps(whole)
    # Half the pace of a bridge, so that the hand does not lag.
    assert metres <= PACE_M / 2 + 1e-9
    assert radians <= PACE_RAD / 2 + 1e-6
    assert (outside(WALL)(found.T_world_eef) >= FREE_M).all()


def test_of_an_approach_only_what_would_touch_something_is_left_out() -> None:
    """The segment comes from the other side of a lid over its third row, and through it."""
    lid = (GOAL[:3, 3] + [0.0, 0.0, 0.2], np.array([0.3, 0.3, 0.01]))
    heights = (0.4, 0.3, 0.2, 0.12, 0.08, 0.04, 0.0)
    found = around(START, segment(*heights), 6, lambda *_: outside(lid), rng())
    assert found is not None
    assert found.T_world_eef is not None
    assert heights[found.skipped] == 0.12
    nothing_left_out = around(START, segment(*heights), 0, lambda *_: outside(lid), rng())
    assert nothing_left_out is not None
    assert nothing_left_out.skipped == 0


def test_a_goal_behind_walls_is_refused_with_what_was_asked() -> None:
    found = around(START, segment(0.0), 0, lambda *_: outside(*shell(GOAL[:3, 3], 0.1)), rng(), most_checks=500)
    assert found is not None
    assert found.T_world_eef is None
    assert 500 <= found.checks < 600
    assert found.why_not == f"none was found among {found.checks} poses"


def test_a_goal_in_a_wall_is_refused_at_once() -> None:
    found = around(START, segment(0.0), 0, lambda *_: outside((GOAL[:3, 3], np.full(3, 0.05))), rng())
    assert found is not None
    assert found.T_world_eef is None
    assert found.why_not == "there is something where it begins"
    assert found.checks < 100


def test_an_end_out_of_reach_is_left_to_the_straight_way() -> None:
    def look(*_: Array) -> Gauge:
        return lambda T: np.where(T[:, 0, 3] > 0.1, -np.inf, outside(WALL)(T))

    assert around(START, segment(0.0), 0, look, rng()) is None


def test_an_approach_ends_where_the_work_is_near() -> None:
    mover = np.array([[0.0, 0.0, z] for z in (0.3, 0.2, 0.1, 0.04, 0.0, 0.1, 0.0)])
    assert transit.approach_rows(mover) == 3
    assert transit.approach_rows(mover[3:]) == 0


# --- the engine -------------------------------------------------------------------------------------------------------


class Fenced(KinematicBackend):
    """The small world, with boxes only the survey knows."""

    boxes: tuple[tuple[Array, Array], ...] = ()
    asked: list[tuple[str, tuple[str, ...]]]

    def survey(self, env: int, eef: str, carried: Any, T_from: Array, T_goal: Array) -> Gauge:
        self.asked.append((eef, tuple(carried)))
        return outside(*self.boxes)


@pytest.fixture(scope="module")
def demos() -> tuple[Any, ...]:
    return kinematic.demos(3)


def fenced(
    demos: tuple[Any, ...], spec: GenerationSpec, *boxes: tuple[Array, Array], num_envs: int = 1, count: int = 3
):
    backend = Fenced(kinematic.TASK, num_envs=num_envs)
    backend.boxes, backend.asked = boxes, []
    sources = prepare_sources(backend, kinematic.TASK, demos, spec).sources
    results = run_attempts(backend, kinematic.TASK, sources, spec, range(count))
    return sorted(results, key=lambda r: r.index), backend


def bytes_of(result: AttemptResult) -> list[bytes]:
    return [result.actions.tobytes(), *(rows.tobytes() for rows in result.sim_states.values())]


def test_without_obstacles_planned_episodes_are_the_straight_ones(demos: tuple[Any, ...]) -> None:
    straight, untouched = fenced(demos, replace(PLANNED, transit="straight"), count=2)
    planned, backend = fenced(demos, PLANNED, count=2)
    assert [bytes_of(r) for r in straight] == [bytes_of(r) for r in planned]
    assert not any(r.transits for r in planned)
    assert not untouched.asked
    # Every bridge was asked about, with what the hand holds.
    assert backend.asked == [("right", ()), ("right", ("a",))] * 2


LAMP = (np.array([0.0, 0.0, 0.98]), np.array([0.05, 0.05, 0.03]))
"""Hangs between where hands start and where the cubes are."""


def test_what_hangs_in_the_way_is_gone_around(demos: tuple[Any, ...]) -> None:
    results, _ = fenced(demos, PLANNED, LAMP)
    made = [(result, use) for result in results for use in result.transits]
    assert made
    for result, use in made:
        way = result.T_world_eef_target[use.eef][use.first_step : use.first_step + use.steps]
        assert (outside(LAMP)(way) >= FREE_M).all()
        (source,) = [s for s in result.sources if (s.eef, s.subtask) == (use.eef, use.subtask)]
        assert source.first_step == use.first_step
        assert source.stop > source.start
    episode = episode_of(made[0][0], kinematic.TASK, PLANNED, {})
    assert episode.provenance["transits"][0]["checks"] == made[0][1].checks
    assert episode.provenance["generation"]["transit"] == "planned"


def test_results_do_not_depend_on_the_number_of_environments(demos: tuple[Any, ...]) -> None:
    one, _ = fenced(demos, PLANNED, LAMP, count=2)
    two, _ = fenced(demos, PLANNED, LAMP, count=2, num_envs=2)
    assert [bytes_of(r) for r in one] == [bytes_of(r) for r in two]


def test_an_attempt_without_a_way_fails_by_name(demos: tuple[Any, ...]) -> None:
    everywhere = (np.array([0.0, 0.0, 0.9]), np.array([1.0, 1.0, 0.05]))
    (result,), _ = fenced(demos, PLANNED, everywhere, count=1)
    assert result.failure is not None
    assert (result.failure.subtask, result.failure.reason) == ("grasp", "no_way")
    assert result.failure.detail == "no way to 'grasp': there is something where it begins"
    assert len(result) == 1
    assert not result.held


def test_a_backend_that_sees_nothing_cannot_be_asked_to_plan(demos: tuple[Any, ...]) -> None:
    backend = KinematicBackend(kinematic.TASK)
    sources = prepare_sources(backend, kinematic.TASK, demos, PLANNED).sources
    with pytest.raises(BackendError, match="'kinematic' cannot say what is in the way"):
        next(iter(run_attempts(backend, kinematic.TASK, sources, PLANNED, [0])))
    with pytest.raises(SpecError, match="mjwarp cannot say what is in the way"):
        JobSpec(task="stack", generation=PLANNED, attempts=1, backend="mjwarp")


def test_a_job_that_planned_can_be_asked_for_again() -> None:
    spec = JobSpec(task="stack/shelf", generation=PLANNED, attempts=1)
    said = reproduce(Job(id="j", command="", file_ids=[]), spec, "")  # type: ignore[call-arg]
    words = shlex.split(said.command)
    assert words[words.index("--transit") + 1] == "planned"
    assert said.request["generation"]["transit"] == "planned"


# --- a real scene -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shelf() -> Iterator[Any]:
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from sim_tasks.catalog import find_task

    opened = RobosuiteBackend(find_task("stack/shelf"))
    yield opened
    opened.close()


def begun(backend: Any) -> SceneState:
    return backend.reset(0, {}, rng(5), joint_noise_rad=0.0)


@pytest.mark.sim
def test_a_shelf_that_stops_straight_hands_is_planned_around(shelf: Any) -> None:
    from factory.demos import read_demos
    from workers.generate import seeds_path

    spec = GenerationSpec(seed=2026, use_symmetry=True, paced_bridge=True, transit="planned")
    sources = prepare_sources(shelf, shelf.task, read_demos(seeds_path("stack/shelf")), spec).sources
    straight, planned, again = (
        list(run_attempts(shelf, shelf.task, sources, replace(spec, transit=way), [0, 1]))
        for way in ("straight", "planned", "planned")
    )
    assert [r.held for r in straight] == [False, False]
    assert [r.held for r in planned] == [True, True]
    assert [bytes_of(r) for r in planned] == [bytes_of(r) for r in again]
    for result in planned:
        assert [use.subtask for use in result.transits][-1:] == [1]
        shelf.restore(0, result.start)
        played = shelf.play(0, result.actions)
        assert np.array_equal(played.sim_states["qpos"], result.sim_states["qpos"][1:])


@pytest.mark.sim
def test_lifting_higher_does_not_clear_the_shelf(shelf: Any) -> None:
    """Up, across, down: at whatever height below 60 cm over the table, some part of the arm meets a board."""
    here = begun(shelf).T_world_eef["right"][0]
    ends = [poses.pose(here[:3, :3], [0.06, side * 0.18, 0.86]) for side in (-1.0, 1.0)]
    gauge = shelf.survey(0, "right", (), *ends)
    assert (gauge(np.stack(ends)) > ROOMY_M).all()
    for height in np.arange(0.85, 1.4, 0.05):
        over = np.stack([poses.pose(here[:3, :3], [0.06, y, height]) for y in np.linspace(-0.18, 0.18, 19)])
        assert gauge(over).min() < 0


@pytest.mark.sim
def test_looking_around_touches_nothing(shelf: Any) -> None:
    here = begun(shelf).T_world_eef["right"][0]
    before = shelf.snapshot(0), shelf.model.opt.enableflags, shelf.model.opt.o_margin, shelf.data.qpos.copy()
    shelf.survey(0, "right", ("cubeA",), here, here)(np.repeat(here[None], 3, axis=0))
    after = shelf.snapshot(0), shelf.model.opt.enableflags, shelf.model.opt.o_margin, shelf.data.qpos
    assert np.array_equal(before[0].integration, after[0].integration)
    assert before[1:3] == after[1:3]
    assert np.array_equal(before[3], after[3])


@pytest.mark.sim
def test_room_is_what_there_is(shelf: Any) -> None:
    """Above the table by what the fingers' tips are, in the table by as much, and -inf where no arm goes."""
    here = begun(shelf).T_world_eef["right"][0]
    gauge = shelf.survey(0, "right", (), here, here)
    low = poses.pose(here[:3, :3], [-0.1, -0.3, 0.83])
    heights = np.array([0.0, 0.01, -0.02, 0.05])
    room = gauge(np.stack([low + np.pad([[z]], ((2, 1), (3, 0))) for z in heights]))
    np.testing.assert_allclose(room[:3] - room[0], heights[:3], atol=1e-3)
    assert room[3] == LOOK_M
    far = here.copy()
    far[0, 3] += 3.0
    assert gauge(far[None])[0] == -np.inf


@pytest.mark.sim
def test_what_is_held_comes_along_and_may_touch_what_it_touched(shelf: Any) -> None:
    scene = begun(shelf)
    here, cube = scene.T_world_eef["right"][0], scene.T_world_object["cubeA"][0]
    lower = here.copy()
    lower[2, 3] -= 0.05
    # The cube lies on the table where it is, and would be pressed into it.
    alone, laden = (shelf.survey(0, "right", held, here, here) for held in ((), ("cubeA",)))
    assert cube[2, 3] < 0.85
    assert alone(lower[None])[0] > ROOMY_M
    assert -0.06 < laden(lower[None])[0] < -0.03
    assert laden(here[None])[0] == LOOK_M


@pytest.mark.sim
def test_the_other_arm_is_in_the_way() -> None:
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from tests import embodiments
    from tests.test_backends import start

    backend = RobosuiteBackend(embodiments.TASKS["two Pandas"])
    scene, _ = start(backend, 0, 1)
    right, left = (scene.T_world_eef[eef][0] for eef in ("right", "left"))
    gauge = backend.survey(0, "right", (), right, right)
    onto = poses.pose(right[:3, :3], left[:3, 3])
    assert gauge(right[None])[0] > ROOMY_M
    assert gauge(onto[None])[0] < 0
    backend.close()
