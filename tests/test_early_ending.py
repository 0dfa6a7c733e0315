"""Laws of early ending: what succeeds is the same in every byte, failures keep their names, only time is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factory import poses
from factory.demos import read_demos
from factory.ending import outlook, watched
from factory.episodes import write_shard
from factory.errors import SpecError
from factory.provenance import read_attempts
from factory.recording import episode_of
from factory.replay import AttemptResult, run_attempts
from factory.scene import SceneState, concatenate
from factory.sim import Block, BlockResult, Commands
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, TaskSpec
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.catalog import TASKS, find_task
from tests import kinematic, tower
from workers.generate import seeds_path

TASK = kinematic.TASK
NOISY = GenerationSpec(seed=2, variant="D1", noise_normalised=0.5)
"""About a third of the attempts fail."""


@pytest.fixture(scope="module")
def demos():
    return kinematic.demos(4)


def run(task: TaskSpec, demos, spec: GenerationSpec, count: int, *, num_envs: int = 1) -> list[AttemptResult]:
    backend = KinematicBackend(task, num_envs=num_envs)
    sources = prepare_sources(backend, task, demos, spec).sources
    return sorted(run_attempts(backend, task, sources, spec, range(count)), key=lambda r: r.index)


def without(spec: GenerationSpec) -> GenerationSpec:
    return replace(spec, early_ending=False)


def name(result: AttemptResult) -> tuple[str, str, str] | None:
    return None if result.failure is None else (result.failure.eef, result.failure.subtask, result.failure.reason)


def check_agreement(whole: list[AttemptResult], ended: list[AttemptResult]) -> int:
    """Assert the law for the same attempts run both ways; return how many were ended early."""
    for a, b in zip(whole, ended, strict=True):
        assert (a.held, a.touched, name(a)) == (b.held, b.touched, name(b)), f"attempt {a.index}"
        assert a.steps_saved == 0
        assert len(b) + b.steps_saved <= len(a)
        assert not (b.held and b.steps_saved)
        # As far as it went, it was the same attempt.
        np.testing.assert_array_equal(a.actions[: len(b)], b.actions)
        np.testing.assert_array_equal(a.T_world_eef_target["right"][: len(b)], b.T_world_eef_target["right"])
        for key, states in b.sim_states.items():
            np.testing.assert_array_equal(a.sim_states[key][: len(states)], states)
    return sum(b.steps_saved > 0 for b in ended)


def test_the_same_attempts_succeed_and_the_others_fail_for_the_same_reasons(demos):
    whole, ended = run(TASK, demos, without(NOISY), 16), run(TASK, demos, NOISY, 16)
    assert 3 <= sum(r.held for r in whole) <= 13
    assert check_agreement(whole, ended) >= 3
    for a, b in zip(whole, ended, strict=True):
        if b.steps_saved:  # two subtasks: when the second begins, all that is left is known
            assert len(b) + b.steps_saved == len(a)


def test_of_four_subtasks_none_is_ended_too_soon():
    """A tower of three: what is not yet known of the plan may still come back for a cube."""
    towers = [tower.demonstrate(seed) for seed in range(2)]
    spec = GenerationSpec(seed=4, noise_normalised=tower.NOISE, use_symmetry=True, paced_bridge=True)
    assert check_agreement(run(tower.TASK, towers, without(spec), 5), run(tower.TASK, towers, spec, 5))


def test_a_success_is_the_same_bytes_with_and_without(demos, tmp_path: Path):
    backend = KinematicBackend(TASK)
    files: dict[bool, dict[str, bytes]] = {}
    for early in (True, False):
        spec = replace(NOISY, early_ending=early)
        root = tmp_path / str(early)
        for result in run(TASK, demos, spec, 6):
            if result.held:
                write_shard(root, episode_of(result, TASK, spec, backend.describe()))
        files[early] = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
    assert files[True]
    assert files[True] == files[False]


def test_results_do_not_depend_on_the_number_of_environments(demos):
    one, many = run(TASK, demos, NOISY, 8), run(TASK, demos, NOISY, 8, num_envs=5)
    assert sum(r.steps_saved > 0 for r in one) >= 1
    for a, b in zip(one, many, strict=True):
        assert (name(a), a.steps_saved) == (name(b), b.steps_saved)
        np.testing.assert_array_equal(a.actions, b.actions)


class Shorter(KinematicBackend):
    """Runs every command in pieces of a few steps and joins them again."""

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Cut, run, join."""
        joined = {}
        for env, per_eef in commands.items():
            length = len(next(iter(per_eef.values())))
            parts = [
                super(Shorter, self).advance(
                    {env: {eef: c.part(at, min(at + 3, length)) for eef, c in per_eef.items()}}
                )[env]
                for at in range(0, length, 3)
            ]
            joined[env] = replace(
                parts[0],
                scene=concatenate([p.scene for p in parts]),
                actions=np.concatenate([p.actions for p in parts]),
                T_world_eef_commanded={
                    eef: np.concatenate([p.T_world_eef_commanded[eef] for p in parts]) for eef in per_eef
                },
                sim_states={k: np.concatenate([p.sim_states[k] for p in parts]) for k in parts[0].sim_states},
            )
        return joined


def test_a_block_in_pieces_is_the_block(demos):
    sources = prepare_sources(KinematicBackend(TASK), TASK, demos, NOISY).sources
    whole = list(run_attempts(KinematicBackend(TASK), TASK, sources, NOISY, range(6)))
    pieces = list(run_attempts(Shorter(TASK), TASK, sources, NOISY, range(6)))
    for a, b in zip(whole, pieces, strict=True):
        assert (name(a), a.steps_saved) == (name(b), b.steps_saved)
        np.testing.assert_array_equal(a.actions, b.actions)
        for key, states in a.sim_states.items():
            np.testing.assert_array_equal(states, b.sim_states[key])


def test_failed_episodes_that_are_kept_are_whole(tmp_path: Path):
    path = tower.write_demonstrations(tmp_path / "towers.hdf5", 2)
    spec = GenerationSpec(seed=4, noise_normalised=tower.NOISE, use_symmetry=True, paced_bridge=True)
    tower.make(tmp_path / "out", path, attempts=5, keep_failed=True, generation={"seed": 4})
    ended = run(tower.TASK, read_demos(path), spec, 5)
    assert any(r.steps_saved for r in ended)
    steps = [record.steps for record in read_attempts(tmp_path / "out")]
    assert steps == [len(r) for r in run(tower.TASK, read_demos(path), without(spec), 5)]


# --- the proof --------------------------------------------------------------------------------------------------------


def world(a=(0.0, 0.3, 0.82), hand=(0.0, 0.0, 1.0), *, moving_m: float = 0.0, held: bool = False) -> SceneState:
    """Return ten steps in which a lies, or moves, and the hand hangs somewhere."""
    path = np.tile(np.array(a), (10, 1)) + np.linspace(0, moving_m, 10)[:, None] * [1.0, 0.0, 0.0]

    def at(places: np.ndarray) -> np.ndarray:
        return poses.pose(np.broadcast_to(np.eye(3), (10, 3, 3)), places)

    return SceneState(
        T_world_object={"a": at(path), "b": at(np.tile([0.0, 0.0, 0.825], (10, 1)))},
        T_world_eef={"right": at(np.tile(np.array(hand), (10, 1)))},
        T_world_base={"right": np.eye(4)},
        contacts={
            **{f"{box}|right_finger{i}": np.full(10, held and box == "a") for box in "ab" for i in (1, 2)},
            "a|b": np.zeros(10, bool),
        },
    )


def plan(*positions: tuple[float, float, float]) -> dict[str, Block]:
    n = len(positions)
    T = poses.pose(np.broadcast_to(np.eye(3), (n, 3, 3)), np.array(positions))
    return {"right": Block(T_world_eef=T, gripper=np.ones((n, 1)), action_noise=np.zeros((n, 6)))}


ELSEWHERE = plan((0.0, 0.0, 1.0), (0.0, 0.0, 0.9))
PLACING = {"right": 1}


def seen(scene: SceneState, subtask: Mapping[str, int] = PLACING, ahead=ELSEWHERE, task: TaskSpec = TASK) -> str:
    return outlook(task, world(), scene, subtask, ahead)


def test_what_lies_still_away_from_all_that_is_to_come_is_hopeless():
    assert seen(world()) == "hopeless"


@pytest.mark.parametrize(
    ("why", "scene", "ahead"),
    [
        ("it still moves", world(moving_m=0.01), ELSEWHERE),
        ("the hand is beside it", world(hand=(0.0, 0.2, 0.85)), ELSEWHERE),
        ("the hand comes back", world(), plan((0.0, 0.0, 1.0), (0.0, 0.2, 0.85))),
    ],
)
def test_as_long_as_something_may_happen_to_it_the_outlook_is_doubtful(why, scene, ahead):
    assert seen(scene, ahead=ahead) == "doubtful", why


def test_what_is_held_or_where_it_is_needed_is_no_reason():
    assert seen(world(hand=(0.0, 0.3, 0.82), held=True)) == "good"
    assert seen(world(a=(0.0, 0.0, 0.87))) == "good"


def test_what_is_still_to_be_taken_is_no_reason_but_what_is_gone_is():
    assert seen(world(), {"right": 0}) == "good"
    assert not watched(TASK, {"right": 0})
    assert seen(world(a=(0.9, 0.9, 0.02)), {"right": 0}) == "hopeless"


def test_what_a_later_subtask_refers_to_is_no_reason():
    grasp, place = TASK.subtasks["right"]
    again = replace(
        TASK,
        subtasks={"right": (grasp, replace(place, end_signal="a_grasped"), replace(place, object_ref="a"))},
    )
    assert seen(world(), task=again) == "good"
    assert seen(world(), {"right": 2}, task=again) == "hopeless"


def test_a_task_that_needs_nothing_is_never_given_up():
    assert seen(world(), task=replace(TASK, needs={})) == "good"
    with pytest.raises(SpecError, match="Did you mean|choose|expected|known"):
        replace(TASK, needs={"c": TASK.needs["a"]})


# --- the simulator ----------------------------------------------------------------------------------------------------


@pytest.mark.sim
def test_in_the_simulator_the_same_attempts_succeed():
    """The short form; `python -m tests.benchmarks.early_ending` is the long one."""
    from sim_tasks.backends.robosuite import RobosuiteBackend

    task = find_task("stack")
    backend = RobosuiteBackend(task)
    spec = GenerationSpec(seed=2026, variant="D1", noise_normalised=0.4, use_symmetry=True, paced_bridge=True)
    sources = prepare_sources(backend, task, read_demos(seeds_path("stack")), spec).sources
    whole = list(run_attempts(backend, task, sources, without(spec), range(8)))
    ended = list(run_attempts(backend, task, sources, spec, range(8)))
    backend.close()
    assert check_agreement(whole, ended) >= 2
    for result in whole:
        done = task.success(result.scene)
        assert all(need(result.scene)[done].all() for need in task.needs.values())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_what_is_needed_can_be_held(task: TaskSpec):
    """An object whose grasp cannot be seen would be called left behind while it is carried."""
    assert set(task.needs) <= set(task.held)
