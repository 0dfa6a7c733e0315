"""The contract of `SimBackend` for MuJoCo Warp, and what it alone has to keep: the control law, the mask, no silence.

Runs on Warp's CPU device where there is no GPU. The first run compiles kernels for more than a minute and caches them,
so these tests have a command of their own: `make gpu`. What every test run has is in `test_mjwarp_control`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from factory import actions, poses
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import read_episodes
from factory.demos import read_demos
from factory.errors import BackendError, SpecError
from factory.sim import Block, Hold
from factory.specs import GenerationSpec
from sim_tasks.catalog import TASKS
from sim_tasks.robots import PANDA
from tests.test_backends import EEF, SETTLE, Kind, TestContract, assert_same, assert_same_scene, run, start, wander
from tests.tower import Watcher
from workers import bench_gpu
from workers.generate import Request, generate, seeds_path
from workers.inspecting import inspect_dataset
from workers.processes import usable_cores
from workers.replaying import replay_dataset

pytest.importorskip("mujoco_warp")
mujoco = pytest.importorskip("mujoco")

Array = NDArray[np.float64]

pytestmark = [pytest.mark.sim, pytest.mark.gpu]

__all__ = ["TestContract"]  # collected here with this module's fixtures

KIND = Kind("mjwarp", TASKS["lift"], drop_m=1e-6, hold_m=0.005, placed=1e-6, stored=1e-6, repeats=1e-3)


@pytest.fixture(scope="module")
def kind() -> Kind:
    return KIND


@pytest.fixture(scope="module")
def backend(kind: Kind) -> Iterator[Any]:
    from sim_tasks.backends import open_backend

    opened = open_backend(kind.task, name=kind.name, num_envs=3)
    yield opened
    opened.close()


# --- the control law --------------------------------------------------------------------------------------------------


def test_actions_follow_from_targets_as_on_the_cpu(backend: Any) -> None:
    """Far targets, near ones, half turns and none at all."""
    scene, _ = start(backend, 0, 5)
    here, base = scene.T_world_eef["right"][0], scene.T_world_base["right"]
    rng = np.random.default_rng(8)
    for angle in (0.0, 1e-5, 0.3, 3.0, np.pi):
        axis = rng.normal(size=3)
        turn = poses.matrix_from_axis_angle(angle * axis / np.linalg.norm(axis))
        target = poses.pose(turn @ here[:3, :3], here[:3, 3] + rng.normal(0, 0.02, 3))
        noise = rng.normal(0, 0.2, (1, 6))
        block = Block(T_world_eef=target[None], gripper=np.array([[0.5]]), action_noise=noise)
        start(backend, 0, 5)
        sent = run(backend, 0, block).actions[0]
        expected = actions.execute(here, target, noise[0], base, EEF)
        # A half turn may be made either way round; its size is clipped to the same limit.
        if angle == np.pi:
            np.testing.assert_allclose(sent[:3], expected[:3], atol=1e-4)
        else:
            np.testing.assert_allclose(sent[:6], expected, atol=1e-4)
        assert sent[6] == 0.5


def test_the_cpu_path_follows_for_a_whole_second(backend: Any) -> None:
    """Same start, same actions: robosuite's own torques and MuJoCo in C against the kernels."""
    from sim_tasks.backends import open_backend

    demo = read_demos(seeds_path("lift"))[0]
    sent = demo.actions[:20].astype(np.float32)
    backend.reset_to(0, demo)
    snapshot = backend.snapshot(0)
    ours = backend.play(0, sent)
    cpu = open_backend(backend.task)
    cpu.restore(0, snapshot)
    theirs = cpu.play(0, sent)
    cpu.close()
    for name in ("qpos", "time"):
        np.testing.assert_allclose(ours.sim_states[name], theirs.sim_states[name], atol=2e-5, err_msg=name)
    np.testing.assert_array_equal(ours.sim_states["time"], theirs.sim_states["time"])


# --- what a GPU must not do silently ----------------------------------------------------------------------------------


def test_too_many_constraints_stop_the_world_and_are_named(backend: Any) -> None:
    from sim_tasks.backends.mjwarp.worlds import Worlds, idle, reasons

    start(backend, 0, 1)
    host = backend._host
    rows = host._data.nefc  # the joint limits; the cube's contacts with the table no longer fit
    crowded = Worlds(
        host._model, host._robot, backend.task.robot, worlds=2, substeps=25, device="cpu",
        constraints_per_world=rows,
    )  # fmt: skip
    for world in range(2):
        crowded.load(world, backend._worlds.state(0))
    plan = idle(2, 1, PANDA.action_dim)
    plan.lengths[0], plan.recorded[:] = 5, 1
    ran = crowded.run(plan)
    assert reasons(int(ran.stopped[0])) == ("nefc overflow",)
    assert ran.completed[0] < 5
    assert ran.stopped[1] == 0  # it took no part
    crowded.close()


def test_a_lost_world_ends_its_block_unstable(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from sim_tasks.backends.mjwarp import worlds

    start(backend, 0, 2)
    start(backend, 1, 3)
    whole, before = backend._worlds.run, dict(backend.losses)

    def lossy(plan: Any) -> Any:
        ran = whole(plan)
        completed, stopped = ran.completed.copy(), ran.stopped.copy()
        completed[0], stopped[0] = 2, 1 << 3
        return replace(ran, completed=completed, stopped=stopped)

    monkeypatch.setattr(backend._worlds, "run", lossy)
    results = backend.advance({0: {"right": Hold(steps=5)}, 1: {"right": Hold(steps=5)}})
    assert (results[0].stable, len(results[0].actions), len(results[0].scene)) == (False, 2, 2)
    assert (results[1].stable, len(results[1].actions)) == (True, 5)
    assert worlds.reasons(1 << 3) == ("narrowphase overflow",)
    assert backend.losses["narrowphase overflow"] == before.get("narrowphase overflow", 0) + 1


def test_a_diverged_world_does_not_spoil_its_neighbours(backend: Any) -> None:
    start(backend, 1, 5)
    expected = run(backend, 1, Hold(steps=4))
    start(backend, 0, 6)
    healthy = backend.snapshot(0)
    state = healthy.integration.copy()
    state[1 + backend._model.nq] = 1e12  # rad/s
    start(backend, 1, 5)
    backend.restore(0, replace(healthy, integration=state))
    results = backend.advance({0: {"right": Hold(steps=4)}, 1: {"right": Hold(steps=4)}})
    assert not results[0].stable
    assert len(results[0].actions) == len(results[0].scene) == 0
    assert backend.losses["diverged"] >= 1
    assert_same(results[1], expected, within=KIND.repeats)
    backend.restore(0, healthy)
    assert run(backend, 0, Hold(steps=2)).stable


def test_worlds_that_do_not_exist_are_refused(backend: Any) -> None:
    with pytest.raises(BackendError, match=r"environment 3 does not exist; this backend holds 0\.\.2"):
        start(backend, 3, 0)


# --- lock step --------------------------------------------------------------------------------------------------------


def test_worlds_with_shorter_commands_stand_still_at_their_end(backend: Any) -> None:
    """A block longer than what lies on the device at once, beside a short one."""
    scene, _ = start(backend, 0, 7)
    start(backend, 1, 8)
    long = wander(scene, seed=7, steps=36)
    used, spent = backend.world_steps, backend.device_steps
    results = backend.advance({0: {"right": long}, 1: SETTLE})
    assert (len(results[0].actions), len(results[1].actions)) == (36, 10)
    assert (backend.world_steps - used, backend.device_steps - spent) == (46, 3 * 36)
    for name, value in backend.sim_state(1).items():
        np.testing.assert_array_equal(value, np.ravel(results[1].sim_states[name][-1]))
    start(backend, 2, 7)
    in_pieces = [run(backend, 2, long.part(0, 5)), run(backend, 2, long.part(5, 36))]
    for name, states in results[0].sim_states.items():
        pieces = np.concatenate([piece.sim_states[name] for piece in in_pieces])
        np.testing.assert_allclose(states, pieces, atol=KIND.repeats)


def test_predicates_see_what_a_later_reading_of_the_states_sees(backend: Any) -> None:
    from sim_tasks.backends import annotation

    scene, _ = start(backend, 0, 9)
    result = run(backend, 0, wander(scene, seed=9, steps=8))
    host = backend._host
    host.reset(0, {}, np.random.default_rng(0))
    states = np.concatenate(list(result.sim_states.values()), axis=1)
    assert_same_scene(result.scene, annotation.read_states(states, host._model, host._data, host._reader))


def test_fixed_bodies_stand_where_each_world_has_them() -> None:
    """Two worlds, two pegs: poses, and the geoms that MuJoCo Warp would leave where they were."""
    from sim_tasks.backends.mjwarp.backend import MjwarpBackend

    backend = MjwarpBackend(TASKS["square"], num_envs=2, device="cpu")
    shown = [start(backend, env, seed, variant="D1") for env, seed in enumerate((1, 2))]
    backend._worlds._upload()
    model, geoms = backend._model, backend._worlds._data.geom_xpos.numpy()
    peg = [g for g in range(model.ngeom) if model.body(model.geom_bodyid[g]).name == "peg1"]
    for env, (scene, placements) in enumerate(shown):
        np.testing.assert_allclose(scene.T_world_object["peg"][0], placements["peg"], atol=1e-6)
        snapshot = backend.snapshot(env)
        assert set(snapshot.overrides) == {"body_pos:peg1", "body_quat:peg1"}
        expected = placements["peg"] @ np.append(model.geom_pos[peg[0]], 1.0)
        np.testing.assert_allclose(geoms[env, peg[0]], expected[:3], atol=1e-6)
    plain, _ = start(backend, 1, 3)
    backend._worlds._upload()
    assert not np.allclose(plain.T_world_object["peg"], shown[1][0].T_world_object["peg"])
    assert_same_scene(backend.restore(1, backend.snapshot(0)), shown[0][0])
    backend.close()


# --- episodes ---------------------------------------------------------------------------------------------------------


def test_episodes_made_here_are_run_again_on_the_cpu() -> None:
    """The whole way, as the benchmark goes it: sources, attempts in lock step, episodes, the CPU's second opinion."""
    from sim_tasks.backends import open_backend
    from sim_tasks.backends.mjwarp.cpu_check import verify_on_cpu

    figures, episodes = bench_gpu.measure_attempts("lift", 3, count=3, seed=3, device="cpu")
    json.dumps(figures)
    assert figures["successes"] == len(episodes) >= 2
    assert figures["run_again_on_cpu"]["run_again"] == 1  # 2 % of a few is one
    assert 1 / 3 <= figures["lock_step_share"] <= 1.0
    assert figures["stopped_worlds"] == {}
    assert all(e.provenance["executor"]["backend"] == "mjwarp" for e in episodes)
    cpu = open_backend(KIND.task)
    agreement = verify_on_cpu(episodes, cpu, share=1.0)
    assert [r.index for r in agreement.runs] == sorted(e.index for e in episodes)
    assert agreement.summary()["agreed"] >= len(episodes) - 1
    assert all(r.apart_m < 0.01 for r in agreement.runs if r.held)
    # It can disagree: with other labels, every run does.
    turned = verify_on_cpu([replace(e, success=not e.success) for e in episodes], cpu, share=1.0)
    assert turned.rate == pytest.approx(1.0 - agreement.rate)
    with pytest.raises(SpecError, match="above 0"):
        verify_on_cpu(episodes, cpu, share=0.0)
    with pytest.raises(BackendError, match="has no start"):
        verify_on_cpu([replace(episodes[0], start=None)], cpu, share=1.0)
    assert verify_on_cpu([], cpu, share=1.0).summary()["run_again"] == 0
    cpu.close()


def test_a_job_is_kept_as_what_it_is(tmp_path: Path) -> None:
    """From the request to the dataset through worker processes: kernels, a second opinion, and who made what."""
    request = Request(
        task="lift",
        out=tmp_path / "lift",
        episodes=3,
        generation=GenerationSpec(seed=3, use_symmetry=True, paced_bridge=True),
        render=None,
        backend="mjwarp",
        worlds=2,
        device="cpu",
    )
    finished = generate(request, workers=1, watcher=Watcher())
    assert finished.episodes == 3
    again = finished.run_again_on_cpu
    assert again is not None
    assert (again["episodes"], again["run_again"]) == (3, 1)
    verify_dataset(finished.root)
    facts = inspect_dataset(finished.root)
    assert facts["made_by"] == {"mjwarp/warp": 3}
    assert (facts["executor"]["backend"], facts["executor"]["determinism"]) == ("mjwarp", "statistical")
    episodes = list(read_episodes(finished.root))
    assert {e.provenance["executor"]["backend"] for e in episodes} == {"mjwarp"}
    for played in replay_dataset(finished.root, ways=("actions",)):
        assert played.success or not again["agreed"]
        assert not played.same_machine, "what another executor made passes for this one's"


def test_the_benchmark_measures_every_part() -> None:
    """On Warp's CPU device, a handful of everything: what is there, and what it means."""
    found = bench_gpu.measure("lift", 2, rounds=1, seed=3, cores=2, device="cpu", frames=3, cpu_attempts=1)
    json.dumps(found)
    assert found["status"] == "measured"
    made = found["attempts"]
    assert made["attempts"] == 2
    assert made["attempts_per_s"] == pytest.approx(made["attempts"] / made["wall_s"])
    assert made["successes_per_s"] == pytest.approx(made["successes"] / made["wall_s"])
    assert made["control_steps_per_s"] > 50 * made["attempts_per_s"], "an attempt has over fifty control steps"
    assert 0.5 <= made["lock_step_share"] <= 1.0
    assert 0.0 < made["simulator_share"] < 1.0
    frames = found["frames_per_s"]
    assert frames["drawn_with"].split(": ")[1]
    assert frames["faithful"] > 0
    assert frames["fast"] > 0
    road = found["cpu_road"]
    assert list(road) == (["1", "2"] if usable_cores() > 1 else ["1"])
    assert road["1"]["of_linear"] == 1.0
    for count, rates in road.items():
        assert 0 <= rates["successes_per_s"] <= rates["attempts_per_s"]
        assert rates["of_linear"] == pytest.approx(rates["attempts_per_s"] / int(count) / road["1"]["attempts_per_s"])
