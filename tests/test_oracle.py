"""Isaac Lab's own generator beside ours, on the same environment, from the same file: `make oracle`.

Runs where `isaaclab_mimic` can be imported; that needs no GPU and no Isaac Sim, but Python 3.12 and 5 GB, so it has an
environment of its own and the other tests skip it. Results are in docs/oracle.md.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factory import poses
from factory.constraints import Coordination
from factory.demos import read_demos
from factory.isaac_file import IsaacDemo, write_isaaclab
from factory.isaac_states import ACTION
from factory.replay import AttemptResult, run_attempts
from factory.sim import Block, BlockResult
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, Selection, SubtaskSpec, TaskSpec
from sim_tasks.catalog import ISAAC_TASKS
from sim_tasks.tasks.isaac_terms import reports, terms

torch = pytest.importorskip("torch")
pytest.importorskip("isaaclab_mimic", reason="Isaac Lab is not installed here; `make oracle` runs this")

from isaaclab.envs import (  # noqa: E402
    MimicEnvCfg,
    SubTaskConfig,
    SubTaskConstraintConfig,
    SubTaskConstraintCoordinationScheme,
    SubTaskConstraintType,
)
from isaaclab_mimic.datagen.data_generator import DataGenerator  # noqa: E402

from sim_tasks.backends.isaaclab import IsaacLabBackend  # noqa: E402
from tests import fake_mimic  # noqa: E402

Array = NDArray[np.float64]

AGREE = 1e-5
"""Metres, and entries of rotation matrices: their engine computes in single precision."""
CUBES = 0.0203

_QUIET = {"selection": Selection(strategy="random"), "noise_normalised": 0.0}
_SPEC = GenerationSpec(seed=3, select_per="episode", early_ending=False, keep="hand")


# --- the same task for both -------------------------------------------------------------------------------------------


def single_arm() -> TaskSpec:
    chain = tuple(replace(s, **_QUIET, end_jitter_steps=(0, 0)) for s in ISAAC_TASKS["isaac_stack"].subtasks["right"])
    return replace(ISAAC_TASKS["isaac_stack"], subtasks={"right": chain}, settle_steps=2, success_hold_steps=3)


def two_arms(scheme: str) -> TaskSpec:
    """Both hands go to the wheel, each in its own time, and lift it as one."""
    wheel = ISAAC_TASKS["isaac_gr1_pick_place"]

    def chain(eef: str) -> tuple[SubtaskSpec, ...]:
        first = SubtaskSpec(name="reach", object_ref="object", end_signal=f"reached_{eef}", **_QUIET)
        return first, SubtaskSpec(name="lift", object_ref="object", **_QUIET)

    signals = ("reached_left", "reached_right")
    return replace(
        wheel,
        scene=replace(wheel.scene, contacts=terms(*signals, "success")),
        subtasks={eef: chain(eef) for eef in wheel.robot.eefs},
        signals={name: reports(name) for name in signals},
        constraints=(
            Coordination(
                subtasks={"right": "lift", "left": "lift"},
                scheme=scheme,  # type: ignore[arg-type]
                object_ref="object",
                synchronise_start=False,
            ),
        ),
        settle_steps=2,
        success_hold_steps=3,
    )


def cfg_of(task: TaskSpec, *, leader_first: bool = False) -> MimicEnvCfg:
    """Say the same in Isaac Lab's words; noise and jitter are off."""
    cfg = MimicEnvCfg()
    cfg.datagen_config.generation_select_src_per_subtask = False
    # Left before right: with the leading arm first, an assertion of theirs fails, see below.
    for ours, chain in sorted(task.subtasks.items(), reverse=leader_first):
        cfg.subtask_configs[task.robot.eefs[ours].frame.removeprefix("eef:")] = [
            SubTaskConfig(
                object_ref=s.object_ref,
                subtask_term_signal=s.end_signal,
                selection_strategy="random",
                action_noise=0.0,
                num_interpolation_steps=s.interpolation_steps,
                num_fixed_steps=s.fixed_steps,
            )
            for s in chain
        ]
    cfg.task_constraint_configs = [
        SubTaskConstraintConfig(
            eef_subtask_constraint_tuple=[
                (eef, [s.name for s in task.subtasks[eef]].index(name)) for eef, name in c.subtasks.items()
            ],
            constraint_type=SubTaskConstraintType.COORDINATION,
            coordination_scheme=SubTaskConstraintCoordinationScheme[c.scheme.upper()],
            coordination_synchronize_start=c.synchronise_start,
        )
        for c in task.constraints
        if isinstance(c, Coordination)
    ]
    return cfg


# --- recording a source, and both engines -----------------------------------------------------------------------------


@dataclass
class Recorded:
    """Blocks played one after the other, with where each began."""

    start: dict[str, Array]
    first: Any
    results: list[BlockResult]

    def demo(self, task: TaskSpec, signals: dict[str, NDArray[np.bool_]]) -> IsaacDemo:
        def before(group: str, name: str) -> Array:
            path = [getattr(self.first, group)[name], *(getattr(r.scene, group)[name] for r in self.results)]
            return np.concatenate(path)[:-1]

        names = {ours: eef.frame.removeprefix("eef:") for ours, eef in task.robot.eefs.items()}
        states = {k: np.concatenate([v[None], *(r.sim_states[k] for r in self.results)]) for k, v in self.start.items()}
        return IsaacDemo(
            actions=states[ACTION][1:],
            states={k: v for k, v in states.items() if k not in ("time", ACTION)},
            T_eef={theirs: before("T_world_eef", ours) for ours, theirs in names.items()},
            T_eef_target={
                theirs: np.concatenate([r.T_world_eef_commanded[ours] for r in self.results])
                for ours, theirs in names.items()
            },
            T_object={k: before("T_world_object", k) for k in task.scene.objects},
            signals=signals or {name: self._signal(name) for name in task.signals},
        )

    def _signal(self, name: str) -> NDArray[np.bool_]:
        """What the environment said of itself before each action; at the start, nothing is done yet."""
        return np.concatenate([[False], *(r.scene.contacts[f"environment|{name}"] for r in self.results)])[:-1]


def path(start: Array, goal: Array, steps: int, gripper: Array) -> Block:
    return Block(
        T_world_eef=poses.interpolate(start, goal, np.arange(1, steps + 1) / steps),
        gripper=np.tile(gripper, (steps, 1)),
        action_noise=np.zeros((steps, 6)),
    )


def open_fake(task: TaskSpec, world: fake_mimic.World) -> IsaacLabBackend:
    return IsaacLabBackend(task, fake_mimic.opened(fake_mimic.FakeMimic3(world)))


def placed(task: TaskSpec, shift: float, yaw: float) -> dict[str, Array]:
    """Put every object near the middle of its range, moved and turned a little."""
    found: dict[str, Array] = {}
    for i, p in enumerate(task.resets["D0"].placements):
        middle = [float(np.mean(r)) + m for r, m in zip((p.x_m, p.y_m, p.z_m), p.reference_m, strict=True)]
        middle[0] += shift * (1 + i)
        middle[1] += 0.12 * (i - 1) if len(task.scene.objects) == 3 else shift
        found[p.object] = poses.pose(poses.yaw_matrix(np.array(yaw * (1 + i))), np.array(middle))
    return found


def record_tower(task: TaskSpec) -> IsaacDemo:
    backend = open_fake(task, fake_mimic.STACK)
    first = backend.reset(0, placed(task, 0.0, 0.1), np.random.default_rng(0), joint_noise_rad=0.0)
    start, here, results = dict(backend.sim_state(0)), first.T_world_eef["right"][0], []
    down, over = np.diag([1.0, -1.0, -1.0]), np.array([0.0, 0.0, 0.1])
    base = first.position("cube_1")[0]
    for level, cube in enumerate(("cube_2", "cube_3"), start=1):
        yaw = float(np.arctan2(*first.T_world_object[cube][0, [1, 0], 0]))
        turned, at = poses.yaw_matrix(np.array(yaw)) @ down, first.position(cube)[0]
        top = base + np.array([0.0, 0.0, level * 2 * CUBES])
        stops = [(turned, at + over, 1), (turned, at, 1), (turned, at, -1), (turned, at + over, -1)]
        stops += [(down, top + over, -1), (down, top, -1), (down, top, 1), (down, top + over, 1)]
        for rotation, position, gripper in stops:
            goal = poses.pose(rotation, position)
            block = path(here, goal, 6, np.array([float(gripper)]))
            results.append(backend.advance({0: {"right": block}})[0])
            here = goal
    return Recorded(start, first, results).demo(task, {})


def record_lift(task: TaskSpec) -> IsaacDemo:
    backend = open_fake(task, fake_mimic.WHEEL)
    first = backend.reset(0, placed(task, 0.0, 0.0), np.random.default_rng(0), joint_noise_rad=0.0)
    start, wheel = dict(backend.sim_state(0)), first.position("object")[0]
    here = {eef: first.T_world_eef[eef][0] for eef in task.robot.eefs}
    down = here["right"][:3, :3]
    beside = {"right": wheel + [0.1, 0.0, 0.0], "left": wheel - [0.1, 0.0, 0.0]}
    tilted = poses.matrix_from_axis_angle(np.array([0.0, 0.2, 0.0])) @ down
    results: list[BlockResult] = []
    for turn, lift, steps in ((down, 0.0, 12), (tilted, 0.05, 8), (tilted, 0.2, 10)):
        goal = {eef: poses.pose(turn, at + [0.0, 0.02 * (eef == "left"), lift]) for eef, at in beside.items()}
        moves = {eef: path(here[eef], goal[eef], steps, np.zeros(11)) for eef in here}
        results.append(backend.advance({0: moves})[0])
        here = goal
    rows = np.arange(30)
    # The right hand is there after 12 steps, the left one after 15: where they act as one begins at row 15.
    return Recorded(start, first, results).demo(task, {"reached_right": rows >= 11, "reached_left": rows >= 14})


class StartsThere(fake_mimic.FakeMimic3):
    """Resets to where our attempt started."""

    there: Any = None

    def reset(self, env_ids: Any = slice(None), *, seed: int | None = None, options: Any = None) -> None:
        joints, bodies = self.there
        self.joints, self.bodies = joints.copy(), {name: body.copy() for name, body in bodies.items()}
        self._observe()


@dataclass
class Both:
    """What both engines wanted of each hand, by our names; ours without settling and the final hold."""

    ours: dict[str, Array]
    theirs: dict[str, Array]
    result: AttemptResult
    their_success: bool
    bounds: tuple[dict[str, list[tuple[int, int]]], dict[str, list[tuple[int, int]]]]


def run_both(
    task: TaskSpec,
    world: fake_mimic.World,
    demo: IsaacDemo,
    folder: Path,
    *,
    success: Any = None,
    leader_first: bool = False,
) -> Both:
    file = write_isaaclab(folder / "source.hdf5", [demo], environment="Fake", sim_args={"dt": 0.01, "decimation": 5})
    backend = open_fake(task, world)
    prepared = prepare_sources(backend, task, read_demos(file), _SPEC)
    assert not prepared.refused
    where = placed(task, 0.015, 0.2)
    backend.reset = partial(_reset_there, backend.reset, where)  # type: ignore[method-assign]
    (result,) = run_attempts(backend, task, prepared.sources, _SPEC, [0])
    steps = len(result) - result.hold_steps

    env = StartsThere(world, cfg=cfg_of(task, leader_first=leader_first))
    probe = open_fake(task, world)
    probe.restore(0, result.start)
    fake = probe.world.opened.env
    env.there = (fake.joints.copy(), {k: v.copy() for k, v in fake.bodies.items()})
    generator = DataGenerator(env=env, dataset_path=str(file))  # type: ignore[arg-type] - by its interface alone
    term = SimpleNamespace(func=success or (lambda e: torch.tensor(world.success(e))), params={})
    outcome = asyncio.run(_drive(generator, env, term))
    names = {ours: eef.frame.removeprefix("eef:") for ours, eef in task.robot.eefs.items()}
    pool = generator.src_demo_datagen_info_pool.subtask_boundaries
    return Both(
        ours={eef: T[:steps] for eef, T in result.T_world_eef_target.items()},
        theirs={eef: np.array([step[name][0] for step in env.steps]) for eef, name in names.items()},
        result=result,
        their_success=bool(outcome["success"]),
        bounds=(
            {eef: [(s.start, s.stop) for s in prepared.sources[0].segments[eef]] for eef in names},
            {eef: [tuple(b) for b in pool[name][0]] for eef, name in names.items()},
        ),
    )


def _reset_there(reset: Any, where: dict[str, Array], env: int, _: Any, rng: Any, **__: Any) -> Any:
    return reset(env, where, rng, joint_noise_rad=0.0)


async def _drive(generator: Any, env: Any, term: Any) -> dict[str, Any]:
    """Stand in for their loop: reset and step when asked."""
    resets: asyncio.Queue[Any] = asyncio.Queue()
    sent: asyncio.Queue[Any] = asyncio.Queue()
    attempt = asyncio.ensure_future(
        generator.generate(
            env_id=0, success_term=term, env_reset_queue=resets, env_action_queue=sent, export_demo=False
        )
    )
    while not attempt.done():
        await asyncio.sleep(0)
        while not resets.empty():
            env.reset(env_ids=torch.tensor([resets.get_nowait()]))
            resets.task_done()
        while not sent.empty():
            env.step(sent.get_nowait()[1][None])
            sent.task_done()
    return attempt.result()


def moving(T: Array) -> Array:
    """Leave out steps that ask for what the step before asked for."""
    still = np.abs(np.diff(T, axis=0)).max(axis=(1, 2)) < 1e-6
    return T[np.concatenate([[True], ~still])]


# --- laws -------------------------------------------------------------------------------------------------------------


def test_one_arm_gets_the_same_targets(tmp_path: Path) -> None:
    task = single_arm()
    both = run_both(task, fake_mimic.STACK, record_tower(task), tmp_path)
    assert both.bounds[0] == both.bounds[1]
    ours, theirs = both.ours["right"], both.theirs["right"]
    assert len(ours) == len(theirs)
    print(f"largest difference over {len(ours)} steps: {np.abs(ours - theirs).max():.2e}")  # noqa: T201
    np.testing.assert_allclose(ours, theirs, atol=AGREE)
    assert both.result.held
    assert both.their_success


@pytest.mark.parametrize("scheme", ["replay", "translate"])
def test_two_arms_get_the_same_targets(scheme: str, tmp_path: Path) -> None:
    task = two_arms(scheme)
    both = run_both(task, fake_mimic.WHEEL, record_lift(task), tmp_path)
    assert both.bounds[0] == both.bounds[1]
    for eef in task.robot.eefs:
        ours, theirs = moving(both.ours[eef]), moving(both.theirs[eef])
        assert len(ours) == len(theirs)
        print(f"{scheme}, {eef}: largest difference over {len(ours)} steps: {np.abs(ours - theirs).max():.2e}")  # noqa: T201
        np.testing.assert_allclose(ours, theirs, atol=AGREE)


def apart(T: dict[str, Array], rows: int) -> Array:
    """Poses of the left hand in the right one over the last rows."""
    return poses.inverse(T["right"][-rows:]) @ T["left"][-rows:]


def test_their_arms_act_a_step_apart_and_ours_in_the_same(tmp_path: Path) -> None:
    """Arms that come to their common part in the same step: one of theirs waits for a step that the other goes on."""
    task, together = two_arms("replay"), 15
    demo = record_lift(task)
    both = run_both(task, fake_mimic.WHEEL, demo, tmp_path)
    source = apart(dict(demo.T_eef_target), together)
    np.testing.assert_allclose(apart(both.ours, together), source, atol=AGREE)
    late = {"right": both.theirs["right"][:-1], "left": both.theirs["left"][1:]}
    np.testing.assert_allclose(apart(late, together), source, atol=AGREE)
    assert np.abs(apart(both.theirs, together) - source).max() > 1e-3


def test_their_engine_stops_when_the_leading_arm_is_listed_first(tmp_path: Path) -> None:
    task = two_arms("replay")
    demo = record_lift(task)
    with pytest.raises(AssertionError):
        run_both(task, fake_mimic.WHEEL, demo, tmp_path, leader_first=True)


def test_their_transform_scheme_crashes(tmp_path: Path) -> None:
    """A function their generator calls is not in the wheel of 3.0.0."""
    task = two_arms("transform")
    demo = record_lift(task)
    with pytest.raises(AttributeError, match="get_delta_object_pose"):
        run_both(task, fake_mimic.WHEEL, demo, tmp_path)


def test_their_success_is_latched_and_ours_is_held(tmp_path: Path) -> None:
    """True in one step of all: theirs is a success, ours is touched, and none."""
    task = single_arm()
    demo = record_tower(task)
    calls: list[int] = []

    def once(env: Any) -> Any:
        calls.append(len(env.steps))
        return torch.tensor([len(env.steps) == 40])

    world = replace(fake_mimic.STACK, success=lambda env: fake_mimic._grasped(env, "cube_3"))
    both = run_both(task, world, demo, tmp_path, success=once)
    assert both.their_success
    assert len(calls) > 40
    assert (both.result.touched, both.result.held) == (True, False)


def test_the_library_itself_tells_the_order_of_its_quaternions() -> None:
    from sim_tasks.backends.isaac_app import _order

    assert _order() == "xyzw"


def test_the_fake_has_the_parameters_of_the_real_interface() -> None:
    from isaaclab.envs import ManagerBasedRLMimicEnv

    for name in (
        "get_robot_eef_pose",
        "get_object_poses",
        "get_subtask_term_signals",
        "target_eef_pose_to_action",
        "action_to_target_eef_pose",
        "actions_to_gripper_actions",
        "reset",
        "reset_to",
        "step",
    ):
        real = fake_mimic.parameters(getattr(ManagerBasedRLMimicEnv, name))
        assert fake_mimic.parameters(getattr(fake_mimic.FakeMimic3, name)) == real, name
