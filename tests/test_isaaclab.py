"""Isaac Lab's backend on environments that only look like Isaac Lab's: the contract of backends, and its own laws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from api.specs import JobSpec
from factory import poses
from factory.demos import Demo
from factory.errors import BackendError, SpecError
from factory.isaac_states import ACTION, StateLayout, leaves, order_of_file, reordered, tree_of
from factory.replay import AttemptResult, run_attempts
from factory.sim import Block, Hold
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, RenderSpec, TaskSpec
from sim_tasks.backends import open_backend
from sim_tasks.catalog import ISAAC_TASKS, capability_of, find_task
from tests.site import open_site, problem
from tests.test_backends import Kind, TestContract, assert_same, holding, part, roam, run, start

torch = pytest.importorskip("torch")

from tests import fake_mimic  # noqa: E402 - needs torch

Array = NDArray[np.float64]

__all__ = ["TestContract"]  # collected here with this module's fixtures


def on_fake(task: TaskSpec, name: str) -> TaskSpec:
    """Return a task of Isaac Lab's in a scene of `fake_mimic`, its starts varied as those of other tasks are."""
    reset = replace(task.resets["D0"], joint_noise_rad=0.02)
    scene = replace(task.scene, base=f"tests.fake_mimic:{name}")
    return replace(task, scene=scene, resets={"D0": reset, "D1": reset})


STACK, WHEEL = ISAAC_TASKS["isaac_stack"], ISAAC_TASKS["isaac_gr1_pick_place"]
# Single precision, and origins metres apart: what moves between environments is off by a few micrometres.
_FLOAT = {"placed": 1e-5, "stored": 1e-5, "repeats": 2e-5, "read": 1e-5, "moved": 1e-5}


def _kind(task: TaskSpec, scene: str) -> Kind:
    return Kind("isaaclab", on_fake(task, scene), drop_m=0.001, hold_m=1e-5, **_FLOAT)


QUICK = {"stack, 3.0": (_kind(STACK, "stack_v3"), 4), "two arms, 2.3": (_kind(WHEEL, "wheel_v2"), 3)}
SLOW = {
    "stack, 2.3, 64": (_kind(STACK, "stack_v2"), 64),
    "stack, 3.0, 64": (_kind(STACK, "stack_v3"), 64),
    "two arms, 3.0": (_kind(WHEEL, "wheel_v3"), 4),
}
KINDS = {**QUICK, **SLOW}


@pytest.fixture(scope="module", params=[*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def case(request: pytest.FixtureRequest) -> tuple[Kind, int]:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def kind(case: tuple[Kind, int]) -> Kind:
    return case[0]


@pytest.fixture(scope="module")
def backend(case: tuple[Kind, int]) -> Iterator[Any]:
    opened = open_backend(case[0].task, name=case[0].name, num_envs=case[1])
    yield opened
    opened.close()


# --- generating -------------------------------------------------------------------------------------------------------


def demonstrate(backend: Any, seed: int) -> Demo:
    """Record a tower: each cube is taken from above and put onto the last one; T + 1 states."""
    scene, _ = start(backend, 0, seed)
    rng = np.random.default_rng(seed)
    down = np.diag([1.0, -1.0, -1.0])
    over, stops = np.array([0.0, 0.0, 0.1]), []
    base = scene.position("cube_1")[0]
    for level, cube in enumerate(("cube_2", "cube_3"), start=1):
        yaw = float(np.arctan2(*scene.T_world_object[cube][0, [1, 0], 0]))
        turned, at = poses.yaw_matrix(np.array(yaw)) @ down, scene.position(cube)[0]
        top = base + np.array([0.0, 0.0, level * 2 * 0.0203])
        stops += [(turned, at + over, 1), (turned, at, 1), (turned, at, -1), (turned, at + over, -1)]
        stops += [(down, top + over, -1), (down, top, -1), (down, top, 1), (down, top + over, 1)]
    first = np.concatenate(list(backend.sim_state(0).values()))
    here, sent, states = scene.T_world_eef["right"][0], [], [first[None]]
    for rotation, position, gripper in stops:
        goal, n = poses.pose(rotation, position), 4 + int(rng.integers(2))
        block = Block(
            T_world_eef=poses.interpolate(here, goal, np.arange(1, n + 1) / n),
            gripper=np.full((n, 1), float(gripper)),
            action_noise=np.zeros((n, 6)),
        )
        result = run(backend, 0, block)
        sent.append(result.actions)
        states.append(np.concatenate(list(result.sim_states.values()), axis=1))
        here = goal
    return Demo(
        name=f"demo_{seed}",
        path="made.hdf5",
        format="seeds",
        environment=backend.task.name,
        control_hz=20.0,
        actions=np.concatenate(sent).astype(np.float64),
        states=np.concatenate(states),
    )


SPEC = GenerationSpec(seed=5, end_jitter_steps=(0, 2), noise_normalised=0.001, early_ending=False)


@cache
def demonstrations() -> tuple[Demo, ...]:
    """Recorded once, on 3.0; their states serve both versions."""
    backend = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab")
    return tuple(demonstrate(backend, seed) for seed in (1, 2))


def attempts(scene: str, num_envs: int, count: int = 2) -> dict[int, AttemptResult]:
    backend = open_backend(on_fake(STACK, scene), name="isaaclab", num_envs=num_envs)
    sources = prepare_sources(backend, backend.task, demonstrations(), SPEC).sources
    return {r.index: r for r in run_attempts(backend, backend.task, sources, SPEC, range(count))}


@pytest.fixture(scope="module")
def alone() -> dict[int, AttemptResult]:
    return attempts("stack_v3", 1)


def assert_alike(some: dict[int, AttemptResult], others: dict[int, AttemptResult]) -> None:
    assert set(some) == set(others)
    for index, a in some.items():
        b = others[index]
        assert (a.held, a.touched, len(a)) == (b.held, b.touched, len(b))
        np.testing.assert_allclose(a.T_world_eef_target["right"], b.T_world_eef_target["right"], atol=5e-5)
        np.testing.assert_allclose(a.actions, b.actions, atol=5e-5)
        for name, states in a.sim_states.items():
            np.testing.assert_allclose(states, b.sim_states[name], atol=5e-5, err_msg=name)


def test_attempts_build_the_tower(alone: dict[int, AttemptResult]) -> None:
    assert [r.held for r in alone.values()] == [True] * 2
    assert all(r.failure is None and not r.scene.contacts["environment|success"][0] for r in alone.values())


@pytest.mark.parametrize(
    ("scene", "num_envs"),
    [
        ("stack_v2", 4),
        pytest.param("stack_v3", 4, marks=pytest.mark.slow),
        pytest.param("stack_v2", 64, marks=pytest.mark.slow),
    ],
)
def test_neither_how_many_environments_nor_the_version_matters(
    alone: dict[int, AttemptResult], scene: str, num_envs: int
) -> None:
    assert_alike(alone, attempts(scene, num_envs))


def test_success_that_does_not_last_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """Isaac Lab's own generator counts a success that was true in a single step."""
    demonstrations()
    passing = replace(fake_mimic.STACK, success=lambda env: fake_mimic._grasped(env, "cube_3"))
    monkeypatch.setattr(fake_mimic, "STACK", passing)
    (result,) = attempts("stack_v3", 4, count=1).values()
    assert (result.touched, result.held) == (True, False)
    assert result.failure is not None


def test_the_environments_own_actions_are_kept(alone: dict[int, AttemptResult]) -> None:
    """What they ask for, decoded by the environment, is what is recorded as commanded."""
    result = alone[0]
    sent = result.sim_states[ACTION][1:]
    world = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab").world
    np.testing.assert_allclose(sent[:, 6:], result.actions[:, 6:], atol=1e-6)
    rows = world.layout.flat({name: result.sim_states[name][:-1] for name in world.layout.shapes})
    for step in range(0, len(sent), 10):
        world.load([0], rows[step : step + 1])
        asked = world.targets(sent[step : step + 1].astype(np.float32))["right"][0]
        np.testing.assert_allclose(asked, result.T_world_eef_commanded["right"][step], atol=1e-5)


# --- lock step --------------------------------------------------------------------------------------------------------


def test_a_diverged_environment_does_not_spoil_its_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab", num_envs=3)
    scene, _ = start(backend, 1, 5)
    block = roam(scene, backend.task.robot, seed=1, steps=8)
    expected = run(backend, 1, block)
    start(backend, 1, 5)
    other, _ = start(backend, 0, 6)
    env = backend.world.opened.env
    taken = len(env.steps) + 5

    def move(actions: Array) -> None:
        type(env)._move(env, actions)
        if len(env.steps) == taken:
            env.joints[0] = np.nan

    monkeypatch.setattr(env, "_move", move)
    results = backend.advance({0: roam(other, backend.task.robot, seed=2, steps=8), 1: block})
    assert not results[0].stable
    assert len(results[0].actions) == len(results[0].scene) == 5
    assert_same(results[1], expected, within=2e-5)
    start(backend, 0, 6)
    assert run(backend, 0, Hold(steps=2)).stable


def test_who_ends_sooner_waits_where_it_ended() -> None:
    backend = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab", num_envs=2)
    scene, _ = start(backend, 0, 5)
    start(backend, 1, 6)
    block = roam(scene, backend.task.robot, seed=1, steps=8)
    results = backend.advance({0: part(block, 0, 3), 1: holding(backend, 12)})
    assert (len(results[0].actions), len(results[1].actions)) == (3, 12)
    for name, value in backend.sim_state(0).items():
        np.testing.assert_allclose(value, results[0].sim_states[name][-1], atol=1e-5, err_msg=name)


# --- opening ----------------------------------------------------------------------------------------------------------


def test_tasks_of_isaac_lab_say_what_they_need() -> None:
    assert {capability_of(task) for task in ISAAC_TASKS.values()} == {"isaac"}
    assert capability_of(find_task("stack")) == "simulate"
    for name in ISAAC_TASKS:
        assert "capability isaac" in find_task(name).description
    with pytest.raises(BackendError, match="runs on the backend isaaclab, not on robosuite"):
        open_backend(STACK)


def test_without_isaac_lab_it_says_what_to_do() -> None:
    pytest.importorskip("torch")
    with pytest.raises(BackendError, match=r"needs Isaac Lab, which is not installed.*docs/isaac\.md"):
        open_backend(STACK, name="isaaclab")


_HAND = STACK.robot.eefs["right"]


def _robot(**changes: Any) -> TaskSpec:
    return replace(STACK, robot=replace(STACK.robot, eefs={"right": replace(_HAND, **changes)}))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (_robot(frame="eef:panda"), "unknown end effector 'panda'"),
        (_robot(frame="site:hand"), "none of Isaac Lab's; expected 'eef:NAME'"),
        (_robot(base_frame="site:base"), "commanded in 'site:base'"),
        (_robot(arm_joints=("joint1",) * 7), "unknown joint 'joint1'"),
        (replace(STACK, robot=replace(STACK.robot, control_hz=30)), "takes 20 actions a second, .* 30"),
        (
            replace(
                STACK,
                scene=replace(
                    STACK.scene,
                    objects={**STACK.scene.objects, "cube_3": replace(STACK.scene.objects["cube_3"], frame="object:x")},
                ),
            ),
            "unknown object 'x'",
        ),
    ],
)
def test_an_environment_that_does_not_fit_is_refused(task: TaskSpec, said: str) -> None:
    with pytest.raises(BackendError, match=said):
        open_backend(on_fake(task, "stack_v3"), name="isaaclab")


def test_what_cannot_be_opened_is_named() -> None:
    with pytest.raises(BackendError, match="at least one environment"):
        open_backend(on_fake(STACK, "stack_v3"), name="isaaclab", num_envs=0)
    with pytest.raises(BackendError, match="cannot be imported"):
        open_backend(on_fake(STACK, "stack_v9"), name="isaaclab")
    backend = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab")
    with pytest.raises(BackendError, match="environment 1 does not exist"):
        start(backend, 1, 0)
    start(backend, 0, 0)
    short = replace(backend.snapshot(0), integration=np.zeros(3))
    with pytest.raises(BackendError, match=r"shape \(2, 36\), robot .* takes \(T, 7\)"):
        backend.play(0, np.zeros((2, 36), np.float32))
    with pytest.raises(BackendError, match="the snapshot has 3 numbers"):
        backend.restore(0, short)


class TiledCameraCfg(SimpleNamespace):
    """Named as Isaac Lab names configurations of cameras."""


def test_cameras_are_left_out_with_what_observes_them() -> None:
    from sim_tasks.backends.isaac_app import without_cameras

    seen = SimpleNamespace(params={"sensor_cfg": SimpleNamespace(name="pov")})
    kept = SimpleNamespace(params={"asset_cfg": SimpleNamespace(name="robot")})
    cfg = SimpleNamespace(
        scene=SimpleNamespace(pov=TiledCameraCfg(), robot=SimpleNamespace()),
        observations=SimpleNamespace(policy=SimpleNamespace(pov=seen, joints=kept, concatenate_terms=True)),
    )
    assert without_cameras(cfg) == ("pov",)
    assert cfg.scene.pov is None
    assert cfg.scene.robot is not None
    assert cfg.observations.policy.pov is None
    assert cfg.observations.policy.joints is kept


# --- states -----------------------------------------------------------------------------------------------------------


def test_quaternions_are_turned_where_there_are_any_and_back() -> None:
    pose = np.array([[1.0, 2.0, 3.0, 0.5, 0.1, 0.2, 0.3]])
    last = reordered("rigid_object/a/root_pose", pose, "wxyz", "xyzw")
    np.testing.assert_array_equal(last, [[1.0, 2.0, 3.0, 0.1, 0.2, 0.3, 0.5]])
    np.testing.assert_array_equal(reordered("rigid_object/a/root_pose", last, "xyzw", "wxyz"), pose)
    np.testing.assert_array_equal(reordered("articulation/a/joint_position", pose, "wxyz", "xyzw"), pose)
    assert (order_of_file(None), order_of_file(0), order_of_file(1), order_of_file(2)) == (
        "wxyz",
        "wxyz",
        "xyzw",
        "xyzw",
    )


def test_a_tree_is_taken_apart_and_put_together() -> None:
    tree = {"b": {"two": {"x": 1}, "one": {"y": 2}}, "a": {}}
    assert list(leaves(tree)) == ["b/one/y", "b/two/x"]
    assert tree_of(leaves(tree), tuple(tree)) == tree
    layout = StateLayout(shapes={"a": (2, 3), "b": (1,)})
    arrays = {"a": np.arange(12.0).reshape(2, 2, 3), "b": np.array([[7.0], [8.0]])}
    again = layout.named(layout.flat(arrays))
    assert layout.width == 7
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array)
    with pytest.raises(SpecError, match="order of their names"):
        StateLayout(shapes={"b": (1,), "a": (1,)})


def test_the_service_knows_where_isaac_labs_tasks_run(tmp_path: Path) -> None:
    with open_site(tmp_path) as site:
        for task, backend in (("isaac_stack", "robosuite"), ("stack", "isaaclab")):
            answer = site.client.post("/v1/jobs", json={"task": task, "attempts": 1, "backend": backend})
            assert problem(answer, 422, "unfit_backend")["field"] == "backend"
        answer = site.client.post("/v1/jobs", json={"task": "isaac_stack", "attempts": 1, "backend": "isaaclab"})
        assert problem(answer, 422, "no_demonstrations")["field"] == "files"
    with pytest.raises(SpecError, match="without images"):
        JobSpec(task="isaac_stack", generation=GenerationSpec(), episodes=1, render=RenderSpec(), backend="isaaclab")
