"""Files and specifications from Isaac Lab and to it, and the self-test of a machine that runs it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from factory import poses
from factory.constraints import Coordination, Ordering
from factory.datasets import write_dataset
from factory.demos import read_demos
from factory.episodes import Episode, write_shard
from factory.errors import DatasetError, DemoError, SpecError
from factory.isaac_file import IsaacDemo, write_isaaclab
from factory.isaac_import import import_spec
from factory.isaac_states import ACTION
from factory.recording import episode_of
from factory.sources import prepare_sources
from sim_tasks.backends import open_backend
from sim_tasks.backends.isaac_poses import annotate_stored
from sim_tasks.catalog import ISAAC_TASKS
from workers.isaac_words import source

pytest.importorskip("torch")

from tests.test_isaaclab import SPEC, STACK, attempts, on_fake
from workers.checks import check_file, match_task
from workers.isaac_export import demo_of, write_episodes
from workers.isaac_self_test import self_test

RNG = np.random.default_rng(4)


def some_poses(count: int) -> np.ndarray:
    return poses.pose(poses.matrix_from_axis_angle(RNG.normal(size=(count, 3))), RNG.normal(size=(count, 3)))


def demo(rows: int = 12) -> IsaacDemo:
    root = poses.xyz_quat_wxyz_from_pose(some_poses(rows + 1))
    return IsaacDemo(
        actions=RNG.uniform(-1, 1, (rows, 7)).astype(np.float32).astype(float),
        states={
            "articulation/robot/joint_position": RNG.normal(size=(rows + 1, 9)).astype(np.float32).astype(float),
            "rigid_object/cube_1/root_pose": root.astype(np.float32).astype(float),
        },
        T_eef={"franka": some_poses(rows)},
        T_eef_target={"franka": some_poses(rows)},
        T_object={"cube_1": some_poses(rows)},
        signals={"grasp_1": np.arange(rows) > 4},
        seed=7,
    )


@pytest.mark.parametrize("order", ["xyzw", "wxyz"])
def test_what_is_written_is_read_back_whatever_the_order(order: Any, tmp_path: Path) -> None:
    written = demo()
    file = write_isaaclab(
        tmp_path / "a.hdf5", [written], environment="E", order=order, sim_args={"dt": 0.01, "decimation": 5}
    )
    (found,) = read_demos(file)
    assert (found.format, found.environment, found.control_hz) == ("isaaclab", "E", 20.0)
    assert found.attributes["seed"] == "7"
    np.testing.assert_array_equal(found.actions, written.actions)
    np.testing.assert_array_equal(found.signals["grasp_1"], written.signals["grasp_1"])
    np.testing.assert_allclose(found.T_world_eef["franka"], written.T_eef["franka"], atol=1e-6)
    expected = np.concatenate(
        [
            np.arange(13)[:, None] / 20.0,
            np.vstack([np.zeros(7), written.actions]),
            *(written.states[name] for name in sorted(written.states)),
        ],
        axis=1,
    )
    np.testing.assert_array_equal(found.states, expected)


def test_files_of_both_versions_differ_in_quaternions_alone(tmp_path: Path) -> None:
    written, key = demo(), "data/demo_0/states/rigid_object/cube_1/root_pose"
    files = [
        write_isaaclab(tmp_path / f"{order}.hdf5", [written], environment="E", order=order)
        for order in ("xyzw", "wxyz")
    ]
    with h5py.File(files[0]) as new, h5py.File(files[1]) as old:
        assert (new.attrs["format_version"], "format_version" in old.attrs) == (1, False)
        assert json.loads(str(new["data"].attrs["env_args"])) == {"env_name": "E", "type": 2}
        np.testing.assert_array_equal(new[key][:][:, [0, 1, 2, 6, 3, 4, 5]], old[key])
        np.testing.assert_array_equal(new["data/demo_0/actions"], old["data/demo_0/actions"])


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"T_eef\['franka'\] has 12 rows where 11"):
        replace(demo(), actions=np.zeros((11, 7)))
    with pytest.raises(DatasetError, match="expected 13: one more"):
        replace(demo(), states={"a": np.zeros((12, 1))})
    file = write_isaaclab(tmp_path / "a.hdf5", [demo()], environment="E")
    with pytest.raises(DatasetError, match="already exists"):
        write_isaaclab(file, [demo()], environment="E")
    with h5py.File(file, "a") as f:
        del f["data/demo_0/initial_state/rigid_object/cube_1/root_pose"]
        f["data/demo_0/initial_state/rigid_object/cube_1/root_pose"] = np.zeros((1, 6))
    with pytest.raises(DemoError, match=r"initial_state/rigid_object/cube_1/root_pose.*\(1, 6\) where the steps have"):
        read_demos(file)


# --- generated episodes -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    backend = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab")
    return [episode_of(r, STACK, SPEC, backend.describe()) for r in attempts("stack_v3", 4).values()]


@pytest.mark.parametrize("order", ["xyzw", "wxyz"])
def test_generated_episodes_are_sources_again(episodes: list[Episode], order: Any, tmp_path: Path) -> None:
    """Written, read, annotated and cut: where it was cut is where the episode's subtasks changed."""
    file = write_episodes(tmp_path / "made.hdf5", episodes, order=order)
    backend = open_backend(on_fake(STACK, "stack_v2"), name="isaaclab", num_envs=8)
    prepared = prepare_sources(backend, backend.task, read_demos(file), SPEC)
    assert not prepared.refused
    for source_, episode in zip(prepared.sources, episodes, strict=True):
        changes = np.flatnonzero(np.diff(episode.columns["subtask_index"].values)) + 1
        assert [s.stop for s in source_.segments["right"]] == [*changes, len(episode)]
        stored = demo_of(episode)
        np.testing.assert_allclose(source_.demo.T_world_eef["right"], stored.T_eef["franka"], atol=1e-5)
        np.testing.assert_allclose(source_.demo.gripper["right"], stored.actions[:, -1:], atol=1e-6)
        assert source_.demo.success
        for name, path in stored.T_object.items():
            np.testing.assert_allclose(source_.demo.T_world_object[name], path, atol=1e-5)


def test_a_file_is_checked_where_isaac_lab_is_not(episodes: list[Episode], tmp_path: Path) -> None:
    """What a file stores is enough to cut it; what only the environment knows is not made up."""
    file = write_episodes(tmp_path / "made.hdf5", episodes)
    assert match_task([replace(read_demos(file)[0], environment=STACK.scene.base)]) == STACK
    check = check_file(file, task_name=STACK.name)
    assert check.usable == len(episodes)
    for found, episode in zip(check.demos, episodes, strict=True):
        changes = np.flatnonzero(np.diff(episode.columns["subtask_index"].values)) + 1
        assert [s.stop for s in found.segments["right"]] == [*changes, len(episode)]
        assert found.success_by_state is None
        assert found.success_by_replay is None
    here = annotate_stored(read_demos(file)[0], STACK)
    backend = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab")
    there = backend.annotate(read_demos(file)[0])
    for group in ("T_world_eef_target", "gripper", "signals"):
        for name, array in getattr(there, group).items():
            np.testing.assert_array_equal(getattr(here, group)[name], array)
    without = replace(read_demos(file)[0], T_world_eef={})
    with pytest.raises(DemoError, match="unknown end effector 'franka'"):
        annotate_stored(without, STACK)


def test_a_dataset_of_them_is_exported_by_command(episodes: list[Episode], tmp_path: Path) -> None:
    """Shards, a LeRobot dataset, the file: states and actions arrive as they were."""
    from workers.cli import app

    shards = [write_shard(tmp_path / "shards", episode) for episode in episodes]
    root = write_dataset(tmp_path / "dataset", shards, robot_type="franka", job={"task": "isaac_stack"})
    for lab, version in (("3", 1), ("2", None)):
        file = tmp_path / f"{lab}.hdf5"
        answer = CliRunner().invoke(app, ["isaac", "export", str(root), "--out", str(file), "--lab", lab])
        assert answer.exit_code == 0, answer.output
        with h5py.File(file) as written:
            assert written.attrs.get("format_version") == version
            assert written["data"].attrs["total"] == sum(len(episode) for episode in episodes)
        for found, episode in zip(read_demos(file), episodes, strict=True):
            np.testing.assert_allclose(found.actions, episode.sim_states[ACTION][1:], atol=1e-6)
            arrays = [episode.sim_states[name] for name in sorted(episode.sim_states) if "/" in name]
            np.testing.assert_allclose(found.states[:, 8:], np.concatenate(arrays, axis=1), atol=1e-6)


def test_only_what_ran_in_isaac_lab_is_exported(episodes: list[Episode], tmp_path: Path) -> None:
    foreign = replace(episodes[0], sim_states={"time": episodes[0].sim_states["time"]})
    with pytest.raises(DatasetError, match="was made by isaaclab; Isaac Lab can replay only what ran in it"):
        demo_of(foreign)
    with pytest.raises(DatasetError, match="no episodes"):
        write_episodes(tmp_path / "none.hdf5", [])


def test_poses_alone_are_enough_for_a_source(tmp_path: Path) -> None:
    """A file without states, as annotators of other tools write it."""
    backend = open_backend(on_fake(STACK, "stack_v3"), name="isaaclab")
    objects = {f"cube_{i}": some_poses(40) for i in (1, 2, 3)}
    signals = {"grasp_1": np.arange(40) > 8, "stack_1": np.arange(40) > 18, "grasp_2": np.arange(40) > 28}
    bare = IsaacDemo(
        actions=RNG.uniform(-1, 1, (40, 7)),
        states={},
        T_eef={"franka": some_poses(40)},
        T_eef_target={"franka": some_poses(40)},
        T_object=objects,
        signals=signals,
    )
    (read,) = read_demos(write_isaaclab(tmp_path / "bare.hdf5", [bare], environment="E"))
    annotated = backend.annotate(read)
    assert annotated.scene is None
    assert annotated.stored_signals == set(signals)
    np.testing.assert_allclose(annotated.gripper["right"], bare.actions[:, 6:], atol=1e-6)
    with pytest.raises(DemoError, match=r"no poses of \['cube_3'\]"):
        backend.annotate(replace(read, T_world_object={k: v for k, v in read.T_world_object.items() if k != "cube_3"}))


# --- specifications ---------------------------------------------------------------------------------------------------


def _subtask(**changes: Any) -> dict[str, Any]:
    usual = {
        "object_ref": "cube_2",
        "subtask_term_signal": "grasp_1",
        "selection_strategy": "nearest_neighbor_object",
        "selection_strategy_kwargs": {"nn_k": 3},
        "subtask_term_offset_range": [10, 20],
        "action_noise": 0.03,
        "num_interpolation_steps": 5,
        "num_fixed_steps": 0,
        "apply_noise_during_interpolation": False,
    }
    return {**usual, **changes}


_LAST = {"subtask_term_signal": None, "subtask_term_offset_range": [0, 0]}
CHAIN = [
    _subtask(),
    _subtask(object_ref="cube_1", subtask_term_signal="stack_1"),
    _subtask(object_ref="cube_3", subtask_term_signal="grasp_2"),
    _subtask(**_LAST),
]


def test_their_tower_becomes_ours() -> None:
    """Isaac Lab's own configuration of its tower, read, has the settings that our task file has."""
    policy = {
        "generation_select_src_per_subtask": True,
        "seed": 4,
        "generation_num_trials": 7,
        "max_num_failures": None,
    }
    found = import_spec({"subtask_configs": {"franka": CHAIN}, "datagen_config": policy})
    ours = ISAAC_TASKS["isaac_stack"].subtasks["right"]
    for theirs, mine in zip(found.subtasks["franka"], ours, strict=True):
        assert replace(theirs, name=mine.name, grasps=mine.grasps, carries=mine.carries) == mine
    assert (found.generation.select_per, found.generation.seed) == ("subtask", 4)
    assert found.job == {"episodes": 7, "keep_failed": False}
    assert len(found.remarks) == 1
    assert "grasps=" in found.remarks[0]


def test_both_forms_say_the_same() -> None:
    lab = {"subtask_configs": {"franka": CHAIN}, "datagen_config": {"name": "x", "generation_guarantee": False}}
    data = {
        "name": "x",
        "algo": "mimicgen",
        "subtasks": {"franka": CHAIN},
        "generation_policy": {"guarantee_success": False},
    }
    assert import_spec(lab) == import_spec(data)
    assert import_spec(data).job == {"attempts": 10, "keep_failed": False}


@pytest.mark.parametrize("translate", [2, "TRANSLATE", "SubTaskConstraintCoordinationScheme.TRANSLATE"])
def test_constraints_become_ours(translate: int | str) -> None:
    two = [_subtask(description="Reach it."), _subtask(**_LAST, description="Lift")]
    pair = [["left", 1], ["right", 1]]
    found = import_spec(
        {
            "subtask_configs": {"left": two, "right": two},
            "task_constraint_configs": [
                {
                    "eef_subtask_constraint_tuple": pair,
                    "constraint_type": 1,
                    "coordination_scheme": translate,
                    "coordination_scheme_pos_noise_scale": 0.03,
                    "coordination_synchronize_start": True,
                },
                {
                    "eef_subtask_constraint_tuple": [["left", 0], ["right", 1]],
                    "constraint_type": "SEQUENTIAL",
                    "sequential_min_time_diff": 4,
                },
            ],
        }
    )
    first, second = found.constraints
    assert isinstance(first, Coordination)
    assert (first.subtasks, first.scheme, first.synchronise_start) == (
        {"left": "lift", "right": "lift"},
        "translate",
        True,
    )
    assert first.noise_m == pytest.approx(0.03 / 3**0.5)  # of equal spread
    assert second == Ordering(first=("left", "reach it"), then=("right", "lift"))
    assert any("sequential_min_time_diff = 4" in remark for remark in found.remarks)
    text = source(found)
    assert 'Ordering(first=("left", "reach it"), then=("right", "lift"))' in text


@pytest.mark.parametrize(
    ("subtask", "policy", "said"),
    [
        (
            {"first_subtask_start_offset_range": [0, 5]},
            {},
            "first_subtask_start_offset_range = [0, 5] has no counterpart",
        ),
        ({"subtask_start_offset_range": (1, 2)}, {}, "subtask_start_offset_range = [1, 2] has no counterpart"),
        ({"selection_strategy_kwargs": {"nn_k": 3, "x": 1}}, {}, "selection_strategy_kwargs.x = 1 has no counterpart"),
        ({"gripper_delay": 2}, {}, "gripper_delay = 2 is not known"),
        ({}, {"use_skillgen": True}, "use_skillgen has no counterpart"),
        ({}, {"max_num_failures": 9}, "max_num_failures = 9 counts failures"),
        ({}, {"new_setting": 1}, "new_setting = 1 is not known"),
    ],
)
def test_what_has_no_counterpart_is_said(subtask: dict[str, Any], policy: dict[str, Any], said: str) -> None:
    chain = [_subtask(**subtask), _subtask(**_LAST)]
    found = import_spec({"subtask_configs": {"franka": chain}, "datagen_config": policy})
    assert [remark for remark in found.remarks if said in remark], found.remarks


@pytest.mark.parametrize(
    ("description", "said"),
    [
        ({"tasks": 1}, "expected subtask_configs"),
        ({"subtasks": {"a": []}}, "at least one is expected"),
        (
            {"subtasks": {"a": [_subtask(selection_strategy="near", **_LAST)]}},
            "unknown selection_strategy 'near'",
        ),
        (
            {
                "subtasks": {"a": [_subtask(**_LAST)]},
                "constraints": [{"eef_subtask_constraint_tuple": [["b", 0], ["a", 0]]}],
            },
            "unknown end effector 'b'",
        ),
        (
            {
                "subtasks": {"a": [_subtask(**_LAST)]},
                "constraints": [{"eef_subtask_constraint_tuple": [["a", 3], ["a", 0]]}],
            },
            "there is no number 3",
        ),
        (
            {
                "subtasks": {"a": [_subtask(**_LAST)], "b": [_subtask(**_LAST)]},
                "constraints": [{"eef_subtask_constraint_tuple": [["a", 0], ["b", 0]], "constraint_type": 7}],
            },
            "unknown constraint_type '7'",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(description: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        import_spec(description)


def test_the_command_reads_yaml_and_json(tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    from workers.cli import app

    description = {"name": "tower", "subtasks": {"franka": CHAIN}, "generation_policy": {"seed": 3}}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(description))
    (tmp_path / "a.json").write_text(json.dumps(description))
    said = [CliRunner().invoke(app, ["isaac", "import-spec", str(tmp_path / f"a.{kind}")]) for kind in ("yaml", "json")]
    assert [answer.exit_code for answer in said] == [0, 0]
    assert said[0].output == said[1].output
    assert (
        "object_ref='cube_2', end_signal='grasp_1', noise_normalised=0.03, end_jitter_steps=(10, 20)" in said[0].output
    )
    answer = CliRunner().invoke(app, ["isaac", "import-spec", str(tmp_path / "a.json"), "--json"])
    assert json.loads(answer.stdout)["job"] == {"episodes": 10, "keep_failed": False}
    (tmp_path / "b.yaml").write_text("- 1\n")
    assert CliRunner().invoke(app, ["isaac", "import-spec", str(tmp_path / "b.yaml")]).exit_code == 2


# --- self-test --------------------------------------------------------------------------------------------------------


def test_the_self_test_passes_where_everything_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.isaac_self_test._card", lambda: (True, "a card"))
    for task, scene in (("isaac_stack", "stack_v3"), ("isaac_gr1_pick_place", "wheel_v2")):
        report = self_test(on_fake(ISAAC_TASKS[task], scene), num_envs=3)
        assert report.ok, report.to_json()
        assert [step.name for step in report.steps] == [
            "graphics card", "open", "quaternions", "reset", "codec", "hold", "move", "restore", "terms", "speed",
            "close",
        ]  # fmt: skip
        assert json.loads(json.dumps(report.to_json()))["ok"]


def test_the_self_test_notices_the_wrong_order_of_quaternions(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests import fake_mimic

    turned = fake_mimic.stack_v3
    monkeypatch.setattr(fake_mimic, "stack_v3", lambda **how: replace(turned(**how), order="wxyz"))
    report = self_test(on_fake(STACK, "stack_v3"), num_envs=1)
    failed = {step.name for step in report.steps if step.ok is False}
    assert {"quaternions", "reset"} <= failed


def test_the_self_test_goes_on_after_a_failure(tmp_path: Path) -> None:
    """Isaac Lab is not installed here: that is what the report says, and what the exit code means."""
    from workers.cli import app

    file = tmp_path / "report.json"
    answer = CliRunner().invoke(app, ["isaac", "self-test", "--report", str(file)])
    assert answer.exit_code == 1
    report = json.loads(file.read_text())
    steps = {step["name"]: step for step in report["steps"]}
    assert steps["open"]["ok"] is False
    assert "docs/isaac.md" in steps["open"]["said"]
    assert steps["move"]["ok"] is None
    assert report["machine"]["python"]
