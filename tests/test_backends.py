"""The contract of `factory.sim.SimBackend`, kept by every backend, and what robosuite alone has to keep."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factory import actions, poses
from factory.demos import Demo, read_demos
from factory.errors import BackendError, DemoError
from factory.placements import sample_placements
from factory.scene import SceneState, take
from factory.sim import Block, BlockResult, Commands, Hold, SimBackend
from factory.specs import ObjectSpec, RobotSpec, TaskSpec
from sim_tasks.backends import open_backend
from sim_tasks.catalog import TASKS
from sim_tasks.robots import PANDA
from tests import embodiments, kinematic
from workers.generate import seeds_path

Array = NDArray[np.float64]

sim = pytest.mark.sim
EEF = PANDA.eefs["right"]
SETTLE = {"right": Hold(steps=10)}


@dataclass(frozen=True)
class Kind:
    """One backend and the task it is tried with.

    `drop_m` is how far an object may sink when it is placed, `hold_m` how far a holding hand may be from its target.
    `placed` is how exactly a pose is kept, `stored` how exactly a state is. `repeats` is how far two runs of the same
    commands may be apart: zero, which is bit for bit, unless the backend calls itself statistical. `read` is how
    exactly stored states are read again, `moved` how exactly a state is after it went into another environment.
    """

    name: str
    task: TaskSpec
    drop_m: float
    hold_m: float
    placed: float = 1e-9
    stored: float = 1e-12
    repeats: float = 0.0
    read: float = 1e-12
    moved: float = 0.0


KINDS = {
    "kinematic": Kind("kinematic", kinematic.TASK, 0.03, 1e-9),
    "robosuite": Kind("robosuite", TASKS["stack"], 1e-9, 0.005),
    # A hand weighs on its arm, and operational-space control has no integral: it hangs a little below its target.
    **{name: Kind("robosuite", task, 1e-9, 0.01) for name, task in embodiments.TASKS.items()},
}


@pytest.fixture(scope="module", params=["kinematic", *(pytest.param(k, marks=sim) for k in KINDS if k != "kinematic")])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(scope="module")
def backend(kind: Kind) -> Iterator[SimBackend]:
    """One backend for all tests of a kind: that they do not disturb each other is part of the contract."""
    opened = open_backend(kind.task, name=kind.name, num_envs=3)
    yield opened
    opened.close()


def start(backend: SimBackend, env: int, seed: int, variant: str = "D0") -> tuple[SceneState, Mapping[str, Array]]:
    rng = np.random.default_rng(seed)
    placements = sample_placements(backend.task.reset(variant), rng)
    return backend.reset(env, placements, rng), placements


def wander(
    scene: SceneState, *, seed: int, steps: int = 12, noise: float = 0.1, turn: float = 0.3, far: float = 0.08
) -> Block:
    """A block from where the hand is: down and about, the gripper closing half way."""
    rng = np.random.default_rng(seed)
    here = scene.T_world_eef["right"][-1]
    there = poses.pose(
        poses.matrix_from_axis_angle(rng.normal(0, turn, 3)) @ here[:3, :3], here[:3, 3] + rng.normal(0, far, 3)
    )
    return Block(
        T_world_eef=poses.interpolate(here, there, np.arange(1, steps + 1) / steps),
        gripper=np.where(np.arange(steps) < steps // 2, -1.0, 1.0)[:, None],
        action_noise=rng.normal(0, noise, (steps, 6)),
    )


def roam(scene: SceneState, robot: RobotSpec, *, seed: int, **how: Any) -> dict[str, Block]:
    """`wander` with every hand at once, each its own way."""
    moves: dict[str, Block] = {}
    for i, (name, eef) in enumerate(robot.eefs.items()):
        block = wander(replace(scene, T_world_eef={"right": scene.T_world_eef[name]}), seed=seed + 100 * i, **how)
        moves[name] = replace(block, gripper=np.repeat(block.gripper, len(eef.opens), axis=1))
    return moves


def part(moves: Mapping[str, Block], start: int, stop: int) -> dict[str, Block]:
    return {name: block.part(start, stop) for name, block in moves.items()}


def holding(backend: SimBackend, steps: int) -> dict[str, Hold]:
    return {name: Hold(steps=steps) for name in backend.task.robot.eefs}


def run(backend: SimBackend, env: int, command: Block | Hold | Commands) -> BlockResult:
    """Run one environment: a block goes to the right hand, a hold to all."""
    if isinstance(command, Hold):
        command = holding(backend, len(command))
    return backend.advance({env: {"right": command} if isinstance(command, Block) else command})[env]


def assert_same(a: BlockResult, b: BlockResult, *, within: float = 0.0) -> None:
    """Everything a result holds: bit for bit, or within so many metres, radians and their rates."""
    assert_same_arrays({"actions": a.actions}, {"actions": b.actions}, within=within)
    for group in ("sim_states", "T_world_eef_commanded"):
        assert_same_arrays(getattr(a, group), getattr(b, group), within=within)
    assert_same_scene(a.scene, b.scene, within=within)


def assert_same_scene(a: SceneState, b: SceneState, *, within: float = 0.0) -> None:
    groups = ("T_world_object", "T_world_eef", "T_world_base", "velocity", "joints", "contacts")
    # Whether two things touch hangs on the last bit of how near they are: only equal bits promise equal contacts.
    for group in groups if within == 0.0 else groups[:-1]:
        assert_same_arrays(getattr(a, group), getattr(b, group), within=within)


def assert_same_arrays(a: Mapping[str, NDArray], b: Mapping[str, NDArray], *, within: float = 0.0) -> None:
    assert set(a) == set(b)
    for name in a:
        if within == 0.0:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        else:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=within, err_msg=name)


def demo_of(backend: SimBackend, env: int, seed: int, steps: int = 25) -> tuple[Demo, BlockResult]:
    """Record one block as a demonstration; T + 1 states."""
    scene, _ = start(backend, env, seed)
    first = np.concatenate(list(backend.sim_state(env).values()))
    result = run(backend, env, roam(scene, backend.task.robot, seed=seed, steps=steps))
    states = np.concatenate([first[None], np.concatenate(list(result.sim_states.values()), axis=1)])
    demo = Demo(
        name="made",
        path="made.hdf5",
        format="seeds",
        environment=backend.task.name,
        actions=result.actions.astype(np.float64),
        states=states,
    )
    return demo, result


class TestContract:
    def test_reset_puts_bodies_where_asked(self, backend: SimBackend, kind: Kind) -> None:
        for seed in range(4):
            scene, placements = start(backend, 0, seed, variant="D1")
            assert len(scene) == 1
            for name, asked in placements.items():
                got = scene.T_world_object[name][0]
                np.testing.assert_allclose(got[:2, 3], asked[:2, 3], atol=kind.placed)
                np.testing.assert_allclose(got[:3, :3], asked[:3, :3], atol=kind.placed)
                np.testing.assert_allclose(got[2, 3], asked[2, 3], atol=kind.drop_m)

    def test_the_start_posture_is_drawn_from_the_generator(self, backend: SimBackend) -> None:
        arms = [start(backend, 0, seed)[0].joint("right_arm")[0] for seed in (1, 2, 1)]
        np.testing.assert_array_equal(arms[0], arms[2])
        assert np.abs(arms[0] - arms[1]).max() > 1e-3

    def test_results_depend_neither_on_the_environment_nor_on_its_neighbours(
        self, backend: SimBackend, kind: Kind
    ) -> None:
        scene, _ = start(backend, 0, 11)
        block = roam(scene, backend.task.robot, seed=1, steps=20)
        alone = [
            run(backend, 0, part(block, 0, 8)),
            run(backend, 0, part(block, 8, 20)),
            run(backend, 0, Hold(steps=4)),
        ]
        # Now the same in environment 2, while 0 and 1 do other things in between.
        start(backend, 2, 11)
        other, _ = start(backend, 0, 12)
        start(backend, 1, 13)
        mixed = [
            backend.advance({1: holding(backend, 8), 2: part(block, 0, 8)})[2],
            backend.advance({2: part(block, 8, 20), 0: roam(other, backend.task.robot, seed=5)})[2],
        ]
        start(backend, 1, 14)
        mixed.append(backend.advance(dict.fromkeys((0, 1, 2), holding(backend, 4)))[2])
        for a, b in zip(alone, mixed, strict=True):
            assert_same(a, b, within=kind.repeats)

    def test_a_snapshot_continues_bit_for_bit(self, backend: SimBackend, kind: Kind) -> None:
        scene, _ = start(backend, 0, 21)
        block = roam(scene, backend.task.robot, seed=2, steps=20)
        before = run(backend, 0, part(block, 0, 9))
        snapshot = backend.snapshot(0)
        rest = [run(backend, 0, part(block, 9, 20)), run(backend, 0, Hold(steps=3))]
        start(backend, 1, 22)
        assert_same_scene(backend.restore(1, snapshot), take(before.scene, -1), within=kind.moved)
        np.testing.assert_allclose(backend.snapshot(1).integration, snapshot.integration, rtol=0, atol=kind.moved)
        again = [run(backend, 1, part(block, 9, 20)), run(backend, 1, Hold(steps=3))]
        for a, b in zip(rest, again, strict=True):
            assert_same(a, b, within=kind.repeats)

    def test_a_snapshot_is_not_touched_by_what_follows(self, backend: SimBackend) -> None:
        scene, _ = start(backend, 0, 23)
        run(backend, 0, roam(scene, backend.task.robot, seed=3))
        snapshot = backend.snapshot(0)
        kept = {k: v.copy() for k, v in [("integration", snapshot.integration), *snapshot.controller.items()]}
        for command in (Hold(steps=2), roam(scene, backend.task.robot, seed=4)):
            backend.restore(0, snapshot)
            run(backend, 0, command)
        for name, value in kept.items():
            now = snapshot.integration if name == "integration" else snapshot.controller[name]
            np.testing.assert_array_equal(now, value, err_msg=name)

    def test_playing_recorded_actions_gives_the_same_bits(self, backend: SimBackend, kind: Kind) -> None:
        start(backend, 0, 31)
        settled = run(backend, 0, Hold(steps=10))
        snapshot = backend.snapshot(0)
        result = run(backend, 0, roam(settled.scene, backend.task.robot, seed=6, steps=30))
        backend.restore(2, snapshot)
        assert_same(backend.play(2, result.actions), result, within=kind.repeats)

    def test_every_array_has_one_row_per_step(self, backend: SimBackend) -> None:
        scene, _ = start(backend, 0, 41)
        for command in (
            roam(scene, backend.task.robot, seed=7, steps=1),
            roam(scene, backend.task.robot, seed=7, steps=13),
            Hold(steps=5),
        ):
            result = run(backend, 0, command)
            n = len(command) if isinstance(command, Hold) else len(command["right"])
            assert result.stable
            assert result.actions.shape == (n, backend.task.robot.action_dim)
            assert result.T_world_eef_commanded["right"].shape == (n, 4, 4)
            assert {len(v) for v in result.sim_states.values()} == {n}
            assert result.scene.T_world_eef["right"].shape == (n, 4, 4)
            assert set(result.scene.T_world_object) == set(backend.task.scene.objects)
            for group in ("T_world_object", "velocity", "joints", "contacts"):
                assert {len(v) for v in getattr(result.scene, group).values()} == {n}, group
            np.testing.assert_array_equal(
                backend.sim_state(0)["time"], np.ravel(result.sim_states["time"][-1]), err_msg="time goes on"
            )

    def test_holding_keeps_the_last_target(self, backend: SimBackend, kind: Kind) -> None:
        start(backend, 0, 51)
        first = run(backend, 0, Hold(steps=20))
        for name, path in first.scene.T_world_eef.items():
            eef = backend.task.robot.eefs[name]
            assert np.all(first.actions[:, slice(*eef.gripper_action)] == np.array(eef.opens))  # told nothing yet: open
            assert np.linalg.norm(path[-1, :3, 3] - path[0, :3, 3]) <= kind.hold_m
        scene = take(run(backend, 0, Hold(steps=1)).scene, -1)
        block = roam(scene, backend.task.robot, seed=8, steps=15, noise=0.0, turn=0.0, far=0.03)
        run(backend, 0, block)
        held = run(backend, 0, Hold(steps=25))
        for name, eef in backend.task.robot.eefs.items():
            shift = held.scene.T_world_eef[name][-1, :3, 3] - block[name].T_world_eef[-1, :3, 3]
            assert np.linalg.norm(shift) <= kind.hold_m
            np.testing.assert_array_equal(held.actions[:, slice(*eef.gripper_action)], 1.0)

    def test_actions_are_float32_within_limits_even_with_wild_noise(self, backend: SimBackend) -> None:
        scene, _ = start(backend, 0, 61)
        result = run(backend, 0, roam(scene, backend.task.robot, seed=9, noise=2.0))
        assert result.actions.dtype == np.float32
        assert np.abs(result.actions).max() == 1.0

    def test_what_was_commanded_is_what_the_actions_ask_for(self, backend: SimBackend) -> None:
        scene, _ = start(backend, 0, 71)
        result = run(backend, 0, roam(scene, backend.task.robot, seed=10, noise=0.5))
        for name, eef in backend.task.robot.eefs.items():
            before = np.concatenate([scene.T_world_eef[name], result.scene.T_world_eef[name][:-1]])
            sent = result.actions[:, slice(*eef.arm_action)].astype(np.float64)
            asked = actions.target_of_action(before, sent, scene.T_world_base[name], eef)
            np.testing.assert_allclose(result.T_world_eef_commanded[name], asked, atol=1e-12)

    def test_commands_that_do_not_fit_the_hands_are_refused(self, backend: SimBackend) -> None:
        scene, _ = start(backend, 0, 81)
        block = roam(scene, backend.task.robot, seed=11)
        for commands in ({}, {"third": block["right"]}, {**block, "third": Hold(steps=len(block["right"]))}):
            with pytest.raises(BackendError, match="expected one.* length.*right"):
                backend.advance({0: commands})

    def test_an_environment_that_was_never_reset_is_refused(self, backend: SimBackend) -> None:
        for use in (
            lambda: backend.advance({77: holding(backend, 10)}),
            lambda: backend.play(77, np.zeros((1, backend.task.robot.action_dim), np.float32)),
            lambda: backend.snapshot(77),
            lambda: backend.sim_state(77),
        ):
            with pytest.raises(BackendError, match="77 was never reset"):
                use()

    def test_annotation_reads_back_what_was_recorded(self, backend: SimBackend, kind: Kind) -> None:
        demo, result = demo_of(backend, 0, 91)
        start(backend, 0, 92)  # what the environments do now is not what is read
        annotated = backend.annotate(demo)
        assert len(annotated) == len(result.actions)
        for name, eef in backend.task.robot.eefs.items():
            np.testing.assert_allclose(
                annotated.T_world_eef[name][1:], result.scene.T_world_eef[name][:-1], atol=kind.read
            )
            np.testing.assert_allclose(
                annotated.T_world_eef_target[name], result.T_world_eef_commanded[name], atol=kind.read
            )
            np.testing.assert_array_equal(annotated.gripper[name], result.actions[:, slice(*eef.gripper_action)])
        for name, path in result.scene.T_world_object.items():
            np.testing.assert_allclose(annotated.T_world_object[name][1:], path[:-1], atol=kind.read)
        for name, signal in annotated.signals.items():
            np.testing.assert_array_equal(signal[1:], backend.task.signals[name](result.scene)[:-1])

    def test_annotation_leaves_the_environments_alone(self, backend: SimBackend, kind: Kind) -> None:
        demo, _ = demo_of(backend, 1, 93)
        scene, _ = start(backend, 0, 94)
        block = roam(scene, backend.task.robot, seed=12)
        expected = run(backend, 0, block)
        start(backend, 0, 94)
        backend.annotate(demo)
        assert_same(run(backend, 0, block), expected, within=kind.repeats)

    def test_reset_to_a_demo_starts_where_it_started(self, backend: SimBackend, kind: Kind) -> None:
        demo, result = demo_of(backend, 0, 95)
        scene = backend.reset_to(1, demo)
        annotated = backend.annotate(demo)
        np.testing.assert_allclose(scene.T_world_eef["right"][0], annotated.T_world_eef["right"][0], atol=kind.stored)
        played = backend.play(1, demo.actions.astype(np.float32))
        for name, states in result.sim_states.items():
            np.testing.assert_allclose(played.sim_states[name], states, atol=max(1e-6, kind.repeats))

    def test_a_demo_of_another_scene_is_refused(self, backend: SimBackend) -> None:
        demo, _ = demo_of(backend, 0, 96)
        narrow = replace(demo, states=demo.states[:, :-1])
        for use in (lambda: backend.reset_to(0, narrow), lambda: backend.annotate(narrow)):
            with pytest.raises(DemoError, match=r"made\.hdf5, made: states have"):
                use()
        width = backend.task.robot.action_dim - 1
        with pytest.raises(DemoError, match=rf"made\.hdf5, made: actions have shape \(25, {width}\)"):
            backend.annotate(replace(demo, actions=demo.actions[:, :width]))

    def test_equal_scenes_have_equal_descriptions_without_this_machines_folders(
        self, backend: SimBackend, kind: Kind
    ) -> None:
        second = open_backend(kind.task, name=kind.name)
        try:
            assert second.describe() == backend.describe()
            assert second.model_source() == backend.model_source()
        finally:
            second.close()
        source = backend.model_source()
        assert backend.describe()["model_sha"] == hashlib.sha256(source.encode()).hexdigest()
        for folder in (str(Path.home()), sys.prefix, str(Path.cwd()), "site-packages", 'file="/'):
            assert folder not in source


def test_arms_of_unequal_commands_are_refused() -> None:
    left = replace(EEF, arm_action=(7, 13), gripper_action=(13, 14))
    robot = replace(PANDA, eefs={"right": EEF, "left": left}, action_dim=14)
    chains = {"right": kinematic.TASK.subtasks["right"], "left": kinematic.TASK.subtasks["right"]}
    backend = open_backend(replace(kinematic.TASK, robot=robot, subtasks=chains), name="kinematic")
    start(backend, 0, 0)
    with pytest.raises(BackendError, match=r"lengths \[3, 4\]"):
        backend.advance({0: {"right": Hold(steps=3), "left": Hold(steps=4)}})
    assert len(backend.advance({0: {"right": Hold(steps=3), "left": Hold(steps=3)}})[0].actions) == 3


def test_unknown_backends_are_named() -> None:
    with pytest.raises(BackendError, match="Did you mean 'robosuite'"):
        open_backend(kinematic.TASK, name="robosiute")
    with pytest.raises(BackendError, match="scene base 'table'.*has 'Stack'"):
        open_backend(TASKS["stack"], name="kinematic")


# --- robosuite alone --------------------------------------------------------------------------------------------------


def _robosuite(task: TaskSpec, **options: Any) -> Any:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    return RobosuiteBackend(task, **options)


@sim
@pytest.mark.parametrize("name", ["stack", "door"])
def test_the_exact_control_path_is_robosuites_own_bit_for_bit(name: str) -> None:
    """A demonstration's actions under noise, played until the fingers have met something and a little longer."""
    demo = read_demos(seeds_path(name))[0]
    noise = np.random.default_rng(7).normal(0, 0.1, demo.actions[:70].shape)
    sent = np.clip(demo.actions[:70] + noise, -1, 1).astype(np.float32)
    results = []
    for mode in ("exact", "robosuite"):
        backend = _robosuite(TASKS[name], control_mode=mode)
        assert backend.control_mode == mode
        backend.reset_to(0, demo)
        results.append(backend.play(0, sent))
        backend.close()
    assert_same(*results)
    assert any(touch[:-5].any() for pair, touch in results[0].scene.contacts.items() if "finger" in pair)


@sim
@pytest.mark.parametrize("name", ["two Pandas with hands", "GR-1"])
def test_the_exact_control_path_is_robosuites_own_for_two_hands(name: str) -> None:
    results = []
    for mode in ("exact", "robosuite"):
        backend = _robosuite(embodiments.TASKS[name], control_mode=mode)
        assert backend.control_mode == mode
        scene, _ = start(backend, 0, 3)
        results.append(run(backend, 0, roam(scene, backend.task.robot, seed=3, steps=10)))
        backend.close()
    assert_same(*results)


@sim
def test_a_soft_reset_leaves_nothing_behind() -> None:
    backend = _robosuite(TASKS["stack"])

    def attempt(seed: int) -> BlockResult:
        scene, _ = start(backend, 0, seed)
        return run(backend, 0, wander(scene, seed=seed, steps=25, noise=0.3))

    first = attempt(1)
    attempt(2)
    assert_same(attempt(1), first)


@sim
def test_fixed_bodies_go_back_to_where_the_scene_has_them() -> None:
    backend = _robosuite(TASKS["square"])
    before, _ = start(backend, 0, 1)
    moved, placements = start(backend, 0, 2, variant="D1")
    np.testing.assert_allclose(moved.T_world_object["peg"][0], placements["peg"], atol=1e-9)
    assert np.linalg.norm(moved.position("peg") - before.position("peg")) > 0.01
    snapshot = backend.snapshot(0)
    assert set(snapshot.overrides) == {"body_pos:peg1", "body_quat:peg1"}
    after, _ = start(backend, 0, 1)
    assert_same_scene(after, before)
    assert_same_scene(backend.restore(0, snapshot), moved)


@sim
def test_a_demo_without_the_pose_of_a_fixed_body_is_read_in_the_scene_as_built() -> None:
    backend = _robosuite(TASKS["square"])
    demo, _ = demo_of(backend, 0, 1)
    expected = backend.annotate(demo).T_world_object["peg"]
    start(backend, 0, 2, variant="D1")  # moves the peg
    np.testing.assert_array_equal(backend.annotate(demo).T_world_object["peg"], expected)


@sim
def test_a_diverged_environment_does_not_spoil_its_neighbours() -> None:
    backend = _robosuite(TASKS["stack"], num_envs=2)
    start(backend, 1, 5)
    expected = run(backend, 1, Hold(steps=5))
    start(backend, 1, 5)
    start(backend, 0, 6)
    healthy = backend.snapshot(0)
    state = healthy.integration.copy()
    state[1 + backend._model.nq] = 1e12  # rad/s
    backend.restore(0, replace(healthy, integration=state))
    broken = run(backend, 0, Hold(steps=5))
    assert not broken.stable
    assert len(broken.actions) == len(broken.scene) < 5
    assert_same(run(backend, 1, Hold(steps=5)), expected)
    backend.restore(0, healthy)
    assert run(backend, 0, Hold(steps=5)).stable


_DIGEST_SCRIPT = """
import hashlib, sys
import numpy as np
from sim_tasks.backends import open_backend
from sim_tasks.catalog import TASKS
from tests.test_backends import run, start, wander
backend = open_backend(TASKS["stack"])
scene, _ = start(backend, 0, 3)
result = run(backend, 0, wander(scene, seed=3, steps=40, noise=0.3))
print(hashlib.sha256(b"".join(v.tobytes() for v in result.sim_states.values())).hexdigest())
"""


@sim
def test_another_process_gets_the_same_bits() -> None:
    said = subprocess.run([sys.executable, "-c", _DIGEST_SCRIPT], capture_output=True, text=True, check=True)
    backend = _robosuite(TASKS["stack"])
    scene, _ = start(backend, 0, 3)
    result = run(backend, 0, wander(scene, seed=3, steps=40, noise=0.3))
    here = hashlib.sha256(b"".join(v.tobytes() for v in result.sim_states.values())).hexdigest()
    assert said.stdout == here + "\n"


@sim
def test_machine_code_of_two_processes_gets_two_names(tmp_path: Path) -> None:
    """What numba's own cache does not see to: here threads stand for processes, each with its own view of the file."""
    from concurrent.futures import ThreadPoolExecutor

    from numba.core.caching import IndexDataCacheFile

    from sim_tasks.backends import compat

    compat.apply()
    with ThreadPoolExecutor(8) as pool:
        for number in range(10):
            files = [IndexDataCacheFile(str(tmp_path), f"code{number}", "now") for _ in range(8)]
            list(pool.map(lambda i, files=files: files[i].save(f"types {i}", f"code for {i}"), range(8)))
            assert [files[0].load(f"types {i}") for i in range(8)] == [f"code for {i}" for i in range(8)]


@sim
def test_no_two_processes_give_machine_code_the_same_names() -> None:
    count = (
        "from sim_tasks.backends import compat; from numba.core.bytecode import FunctionIdentity as F; "
        "print(next(F._unique_ids))"
    )
    command = [sys.executable, "-c", count]
    first, second = (int(subprocess.run(command, capture_output=True, check=True).stdout) for _ in range(2))
    assert abs(first - second) > 10**6


@sim
def test_compat_reads_addresses_and_mass_matrix_of_this_mujoco() -> None:
    import mujoco

    from sim_tasks.backends import compat

    compat.apply()
    backend = _robosuite(TASKS["stack"])
    start(backend, 0, 1)
    model, data = backend._model, backend._data
    wrapped = backend._env.sim.model
    free, hinge = model.joint("cubeA_joint0"), model.joint("robot0_joint2")
    assert wrapped.get_joint_qpos_addr("cubeA_joint0") == (free.qposadr[0], free.qposadr[0] + 7)
    assert wrapped.get_joint_qvel_addr("cubeA_joint0") == (free.dofadr[0], free.dofadr[0] + 6)
    assert wrapped.get_joint_qpos_addr("robot0_joint2") == hinge.qposadr[0]
    assert wrapped.get_joint_qvel_addr("robot0_joint2") == hinge.dofadr[0]
    ((_, controller),) = backend._arm_controllers()
    controller.update(force=True)
    dofs = controller.qvel_index
    # Column j of the mass matrix is what mj_mulM makes of a unit vector.
    expected = np.empty((len(dofs), len(dofs)))
    for j, dof in enumerate(dofs):
        unit, column = np.zeros(model.nv), np.zeros(model.nv)
        unit[dof] = 1.0
        mujoco.mj_mulM(model, data, column, unit)
        expected[:, j] = column[dofs]
    np.testing.assert_allclose(controller.mass_matrix, expected, atol=1e-12)
    np.testing.assert_array_equal(controller.joint_pos, data.qpos[controller.qpos_index])
    np.testing.assert_array_equal(controller.joint_vel, data.qvel[controller.qvel_index])


@sim
def test_a_scene_may_be_an_environment_class_of_another_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_lab.py").write_text(
        "from robosuite.environments.manipulation.lift import Lift\n\n\nclass TheirLift(Lift):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    lift = TASKS["lift"]
    task = replace(lift, scene=replace(lift.scene, base="their_lab:TheirLift"))
    backend = _robosuite(task)
    scene, placements = start(backend, 0, 1)
    for name, asked in placements.items():
        np.testing.assert_allclose(scene.T_world_object[name][0], asked, atol=1e-9)
    assert run(backend, 0, wander(scene, seed=1)).stable


_CUBE = TASKS["stack"].scene.objects["cubeA"]


@sim
@pytest.mark.parametrize(
    ("scene", "said"),
    [
        ({"base": "Stak"}, "unknown robosuite environment 'Stak'. Did you mean 'Stack'"),
        ({"base": "no_such_package:Scene"}, "scene base 'no_such_package:Scene' cannot be imported"),
        ({"base": "robosuite:NoSuchScene"}, "scene base 'robosuite:NoSuchScene' cannot be imported"),
        ({"options": {"gravity_on_mars": 1}}, "gravity_on_mars"),
        ({"objects": {"cubeA": replace(_CUBE, frame="body:cubeQ")}}, "no body 'cubeQ'"),
        ({"objects": {"cubeA": replace(_CUBE, frame="site:nowhere")}}, "no site 'nowhere'"),
        ({"objects": {"cubeA": replace(_CUBE, frame="cubeA_main")}}, "must start with 'body:' or 'site:'"),
        ({"objects": {"cubeA": replace(_CUBE, contact=("geom:cubeA_gone",))}}, "no geom 'cubeA_gone'"),
        ({"objects": {"cubeA": ObjectSpec(frame="body:cubeA_main", body="cubeA_main")}}, "group 'cubeA' is empty"),
        ({"joints": {"hinge": ("no_joint",)}}, "no joint 'no_joint'"),
        ({"hidden_bodies": ("nobody",)}, "no body 'nobody'"),
    ],
)
def test_what_a_scene_does_not_have_is_named(scene: dict[str, Any], said: str) -> None:
    stack = TASKS["stack"]
    objects = {**stack.scene.objects, **scene.pop("objects", {})}
    broken = replace(stack, scene=replace(stack.scene, objects=objects, **scene))
    with pytest.raises(BackendError) as error:
        _robosuite(broken)
    assert said in str(error.value)


@sim
def test_a_robot_that_does_not_fit_its_specification_is_refused() -> None:
    stack = TASKS["stack"]
    wide = replace(EEF, gripper_action=(6, 8))
    with pytest.raises(BackendError, match="takes 7 action dimensions, robot 'Panda' is specified with 8"):
        _robosuite(replace(stack, robot=replace(PANDA, action_dim=8, eefs={"right": wide})))
    with pytest.raises(BackendError, match="num_envs is 0"):
        _robosuite(stack, num_envs=0)
