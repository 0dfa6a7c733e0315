"""The command line: every verb explains itself, every bad input gets one sentence, and machines get JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from factory.dataset_reading import open_dataset, read_episode
from sim_tasks.backends import kinematic
from tests import tower
from workers.cli import app
from workers.generate import seeds_path


def factory(*arguments: object) -> Any:
    """Run `factory ...` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_sentence(result: Any, *said: str) -> None:
    """Exit code 2, and one line on standard error that says all of this and is no traceback."""
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    for part in said:
        assert part in lines[0]


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tower.write_demonstrations(tmp_path_factory.mktemp("demos") / "towers.hdf5")


@pytest.fixture(scope="module")
def dataset(towers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four episodes without pictures; tests that damage it take a copy."""
    out = tmp_path_factory.mktemp("made") / "towers"
    result = factory(*tower.arguments(out, towers))
    assert result.exit_code == 0, result.stderr
    assert "4 episodes" in result.stdout
    assert f"factory inspect {out}" in result.stdout.replace("\n", "")
    return out


# --- every verb -------------------------------------------------------------------------------------------------------


def _verbs(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if hasattr(command, "commands"):
        for name, below in command.commands.items():
            yield from _verbs(below, (*path, name))
    else:
        yield path


VERBS = list(_verbs(typer.main.get_command(app)))


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_shows_an_example(verb: tuple[str, ...]) -> None:
    result = factory(*verb, "--help")
    assert result.exit_code == 0
    assert f"Example: factory {' '.join(verb)}" in " ".join(result.stdout.split())


def test_the_verbs_are_those_the_manual_names() -> None:
    expected = {"tasks", "demos check", "generate", "export", "import", "inspect", "replay", "record-seeds", "record"}
    expected |= {"bench", "warm", "serve", "dispatch", "worker", "migrate", "keys create", "keys list", "keys revoke"}
    dreams = "data finetune train-idm train-latents frames propose generate judge label verify export mixture show run"
    cards = "control card label-card latent-card judge-card play train-judge vary"
    expected |= {f"dream {verb}" for verb in (*dreams.split(), *cards.split())}
    expected |= {"isaac self-test", "isaac import-spec", "isaac export"}
    assert {" ".join(verb) for verb in VERBS} == expected


def test_keys_are_made_listed_and_revoked(tmp_path: Path) -> None:
    made = json.loads(factory("keys", "create", "--name", "one", "--data", tmp_path, "--json").stdout)
    assert made["key"].startswith("fk_")
    assert made["scopes"] == ["read", "write"]
    assert made["key"].encode() not in b"".join(p.read_bytes() for p in tmp_path.glob("factory.sqlite3*"))
    (listed,) = json.loads(factory("keys", "list", "--data", tmp_path, "--json").stdout)
    assert (listed["id"], listed["revoked_at"]) == (made["id"], None)
    assert factory("keys", "revoke", made["id"], "--data", tmp_path).exit_code == 0
    (listed,) = json.loads(factory("keys", "list", "--data", tmp_path, "--json").stdout)
    assert listed["revoked_at"] is not None
    assert "unknown scope" in factory("keys", "create", "--name", "two", "--scopes", "all", "--data", tmp_path).stderr


def test_an_open_door_to_strangers_is_refused(tmp_path: Path) -> None:
    refused = factory("serve", "--host", "0.0.0.0", "--data", tmp_path, "--executor", "none")  # noqa: S104
    assert refused.exit_code == 2
    assert "there is no API key yet" in refused.stderr


def test_migrate_says_what_it_brought_up_to_date(tmp_path: Path) -> None:
    result = factory("migrate", "--data", tmp_path)
    assert result.exit_code == 0
    assert "factory.sqlite3 is up to date" in result.stdout.replace("\n", "")


def test_tasks_as_json() -> None:
    result = factory("tasks", "--json")
    assert result.exit_code == 0
    facts = {task["name"]: task for task in json.loads(result.stdout)}
    assert {"lift", "stack", "stack_three", "square", "can", "door"} <= set(facts)
    assert facts["stack"]["subtasks"] == {"right": ["grasp", "place"]}
    assert set(facts["stack"]["variants"]) == {"D0", "D1"}


def test_tasks_as_a_table() -> None:
    result = factory("tasks")
    assert result.exit_code == 0
    assert "stack_three" in result.stdout


def test_json_is_all_there_is_on_standard_output(dataset: Path, towers: Path, tmp_path: Path) -> None:
    inspected = json.loads(factory("inspect", dataset, "--json").stdout)
    assert (inspected["episodes"], inspected["task"], inspected["verified"]) == (4, "stack_three", False)
    assert json.loads(factory("inspect", dataset, "--verify", "--json").stdout)["digest"]
    (replayed,) = json.loads(factory("replay", f"{dataset}:0", "--way", "actions", "--json").stdout)
    assert replayed["equal"] is True
    exported = json.loads(
        factory("export", dataset, "--to", "robomimic", "--out", tmp_path / "t.hdf5", "--json").stdout
    )
    assert exported == {"path": str(tmp_path / "t.hdf5")}
    made = factory(*tower.arguments(tmp_path / "again", towers, "--episodes", "1", "--json"))
    assert json.loads(made.stdout)["episodes"] == 1
    assert made.stderr == ""


def test_unknown_names_are_answered_with_near_ones(tmp_path: Path) -> None:
    out = ("--out", tmp_path / "d")
    assert_sentence(factory("generate", "stak", *out), "unknown task 'stak'", "Did you mean 'stack'")
    assert_sentence(factory("generate", "stack", "--variant", "D7", *out), "unknown variant 'D7'", "D0, D1")
    assert_sentence(factory("generate", "stack", "--size", "17", *out), "image size 17x17")
    assert_sentence(factory("generate", "stack", "--episodes", 9, "--max-attempts", 3, *out), "--max-attempts 3")
    assert_sentence(
        factory("generate", "stack", "--episodes", 2, "--attempts", 3, *out), "either episodes", "or attempts"
    )
    assert not list(tmp_path.iterdir())


# --- bad demonstration files ------------------------------------------------------------------------------------------


def _collection(path: Path, change: Callable[[h5py.File], None] | None = None, *, width: int = 7) -> Path:
    """Write what robosuite's collection script writes, one demo of 12 steps, and spoil it."""
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as f:
        data = f.create_group("data")
        data.attrs["env"], data.attrs["env_info"] = "Stack", json.dumps({"control_freq": 20})
        demo = data.create_group("demo_1")
        demo["actions"], demo["states"] = rng.uniform(-1, 1, (12, width)), rng.normal(size=(12, 45))
        if change is not None:
            change(f)
    return path


def _replace(f: h5py.File, key: str, value: Any) -> None:
    if key in f:
        del f[key]
    f[key] = value


def _as_robomimic_with_signal(f: h5py.File) -> None:
    del f["data"].attrs["env"]
    f["data"].attrs["env_args"] = json.dumps({"env_name": "Stack_D0", "type": 1, "env_kwargs": {}})
    f["data/demo_1/datagen_info/subtask_term_signals/grasp"] = np.linspace(0, 1, 12)


def _virtual(f: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=(12, 45), dtype="f8")
    layout[:] = h5py.VirtualSource("/etc/elsewhere.hdf5", "states", shape=(12, 45))
    del f["data/demo_1/states"]
    f["data/demo_1"].create_virtual_dataset("states", layout)


def _huge(f: h5py.File) -> None:
    del f["data/demo_1/states"]
    f["data/demo_1"].create_dataset("states", shape=(2**40, 1), chunks=(1024, 1), dtype="f8")


def _second_demo(f: h5py.File) -> None:
    f["data/demo_2/actions"], f["data/demo_2/states"] = np.zeros((12, 5)), np.zeros((12, 45))


SPOILT: dict[str, tuple[Callable[[h5py.File], None], tuple[str, ...]]] = {
    "missing states": (lambda f: f.__delitem__("data/demo_1/states"), ("'data/demo_1/states' is missing",)),
    "no actions": (lambda f: f.__delitem__("data/demo_1/actions"), ("'data/demo_1/actions' is missing",)),
    "flat actions": (lambda f: _replace(f, "data/demo_1/actions", np.zeros(12)), ("actions' has shape (12,)",)),
    "uneven widths": (
        _second_demo,
        ("'data/demo_2/actions' has rows of 5 numbers where 'demo_1' has 7",),
    ),
    "uneven lengths": (
        lambda f: _replace(f, "data/demo_1/states", np.zeros((9, 45))),
        ("states' has shape (9, 45); expected (12, n) or (13, n)",),
    ),
    "not a number": (
        lambda f: f["data/demo_1/actions"].__setitem__((3, 2), np.nan),
        ("actions' is nan at [3, 2]",),
    ),
    "zero demos": (lambda f: f.__delitem__("data/demo_1"), ("'data' holds no demonstrations",)),
    "no data": (lambda f: f.__delitem__("data"), ("'data' is missing",)),
    "signals that are not truths": (_as_robomimic_with_signal, ("subtask_term_signals/grasp", "a signal is 0 or 1")),
    "external link": (
        lambda f: _replace(f, "data/demo_1/states", h5py.ExternalLink("/etc/elsewhere.hdf5", "x")),
        ("'data/demo_1/states' is an external link",),
    ),
    "virtual dataset": (_virtual, ("'data/demo_1/states' is a virtual dataset",)),
    "a shape of 2^40 rows": (_huge, ("'data/demo_1/states' declares shape (1099511627776, 1)",)),
}


def _not_hdf5(path: Path) -> None:
    path.write_text("actions,states\n1,2\n")


def _truncated(path: Path) -> None:
    content = _collection(path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


FILES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "not HDF5": (_not_hdf5, ("is not an HDF5 file",)),
    "truncated": (_truncated, ("truncated or damaged",)),
    "missing file": (lambda path: None, ("no such file",)),
    "directory": (lambda path: path.mkdir(), ("is a directory",)),
    **{name: (lambda path, change=change: _collection(path, change), said) for name, (change, said) in SPOILT.items()},
}


@pytest.mark.parametrize("kind", FILES)
def test_a_bad_file_is_one_sentence_and_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    write, said = FILES[kind]
    path = tmp_path / "bad.hdf5"
    write(path)
    before = sorted(tmp_path.iterdir())
    assert_sentence(factory("demos", "check", path), str(path), *said)
    assert_sentence(factory("demos", "check", path, "--json"), str(path), *said)
    assert_sentence(factory(*tower.arguments(tmp_path / "out", path)), str(path), *said)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("width", "said"),
    [(7, "demo_1: states have shape (12, 45), expected (T, 31)"), (5, "demo_1: states have shape (12, 45)")],
)
def test_generate_refuses_a_file_of_another_scene_and_leaves_nothing_behind(
    tmp_path: Path, width: int, said: str
) -> None:
    """Only the worker that opens the scene can tell."""
    path = _collection(tmp_path / "other.hdf5", width=width)
    assert_sentence(factory(*tower.arguments(tmp_path / "out", path)), "other.hdf5", said)
    assert sorted(tmp_path.iterdir()) == [path]


def test_an_unknown_environment_is_a_problem_to_be_read(tmp_path: Path) -> None:
    path = _collection(tmp_path / "juggling.hdf5", lambda f: f["data"].attrs.__setitem__("env", "Juggling"))
    result = factory("demos", "check", path, "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert (facts["environment"], facts["task"], facts["usable"]) == ("Juggling", None, 0)
    assert "no task here is environment 'Juggling'; name one with --task" in facts["demos"][0]["problem"]
    assert "0 of 1 can be sources" in factory("demos", "check", path).stdout
    assert_sentence(factory("demos", "check", path, "--task", "stak"), "Did you mean 'stack'")


@pytest.mark.sim
def test_actions_of_another_robot_are_a_problem_with_their_shape(tmp_path: Path) -> None:
    path = _collection(tmp_path / "narrow.hdf5", width=5)
    facts = json.loads(factory("demos", "check", path, "--json").stdout)
    assert facts["usable"] == 0
    (demo,) = facts["demos"]
    assert "actions have shape (12, 5), robot 'Panda' of task 'stack' takes (T, 7)" in demo["problem"]
    assert str(path) in demo["problem"]
    out = tmp_path / "out"
    result = factory("generate", "stack", "--demos", path, "--out", out, "--cameras", "", "--workers", 1)
    assert_sentence(result, "narrow.hdf5", "actions have shape (12, 5)")
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.sim
def test_shipped_demonstrations_are_sources() -> None:
    facts = json.loads(factory("demos", "check", seeds_path("lift"), "--no-replay", "--json").stdout)
    assert facts["task"] == "lift"
    assert facts["usable"] == len(facts["demos"]) > 0
    assert all(demo["success_by_state"] for demo in facts["demos"])


# --- datasets ---------------------------------------------------------------------------------------------------------


def test_the_same_command_again_has_nothing_to_do(dataset: Path, towers: Path) -> None:
    result = factory(*tower.arguments(dataset, towers))
    assert result.exit_code == 0
    assert "Nothing to do" in result.stdout
    assert_sentence(factory(*tower.arguments(dataset, towers, "--seed", "3")), "another dataset", "generation.seed")


def test_fewer_episodes_than_asked_is_exit_code_1(towers: Path, tmp_path: Path) -> None:
    result = factory(*tower.arguments(tmp_path / "few", towers, "--max-attempts", "4"))
    assert result.exit_code == 1
    assert "ended by max_attempts" in result.stdout
    assert open_dataset(tmp_path / "few").episodes < 4


def test_no_success_is_exit_code_2_with_reasons(towers: Path, tmp_path: Path) -> None:
    arguments = tower.arguments(tmp_path / "none", towers, "--noise", "3", "--episodes", "1", "--max-attempts", "2")
    assert_sentence(factory(*arguments), "none of 2 attempts", "What went wrong: ")
    assert not (tmp_path / "none").exists()


def test_what_is_no_dataset_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    out = ("--out", tmp_path / "o")
    for root in (tmp_path / "empty", tmp_path / "nowhere"):
        assert_sentence(factory("inspect", root), str(root), "a finished dataset?")
        assert_sentence(factory("replay", root), str(root), "a finished dataset?")
        assert_sentence(factory("export", root, "--to", "robomimic", *out), str(root), "a finished dataset?")
        assert_sentence(factory("export", root, "--to", "lerobot", *out), str(root), "a finished dataset?")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_inspect_tells_what_is_there(dataset: Path) -> None:
    result = factory("inspect", dataset, "--verify")
    assert result.exit_code == 0
    for part in ("4 episodes", "stack_three D0", "Columns", "Failures", "verified", "kinematic"):
        assert part in result.stdout


def test_replay_is_bit_equal_from_actions_and_from_the_seed(dataset: Path) -> None:
    result = factory("replay", dataset, "--json")
    assert result.exit_code == 0
    replays = json.loads(result.stdout)
    assert [(r["episode"], r["way"]) for r in replays] == [(e, way) for e in range(4) for way in ("actions", "seed")]
    assert all(r["equal"] and r["success"] and r["same_machine"] and not r["difference"] for r in replays)
    one = factory("replay", f"{dataset}:2", "--way", "seed")
    assert one.exit_code == 0
    assert "episode 2" in one.stdout
    assert "bit-equal" in one.stdout
    assert one.stdout.count("\n") == 1
    assert_sentence(factory("replay", f"{dataset}:9"), "has no episode 9; it has 0 to 3")


def test_replay_finds_a_flipped_byte_of_an_action(dataset: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(dataset, damaged)
    (path,) = (damaged / "data").rglob("*.parquet")
    group = pq.ParquetFile(path).metadata.row_group(1)
    chunks = [group.column(i) for i in range(group.num_columns)]
    (chunk,) = [c for c in chunks if c.path_in_schema.split(".")[0] == "action"]
    content = bytearray(path.read_bytes())
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 0x01
    path.write_bytes(content)
    assert factory("replay", f"{damaged}:0").exit_code == 0
    assert_sentence(factory("replay", f"{damaged}:1"), str(damaged), "episode 1")
    result = factory("replay", damaged)
    assert result.exit_code == 2
    assert "episode 1" in result.stderr
    assert_sentence(factory("inspect", damaged, "--verify"), path.name, "is damaged")


def test_replay_says_where_another_simulator_differs(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinematic, "_FINGER_STEP_M", 0.007)
    result = factory("replay", f"{dataset}:0")
    assert result.exit_code == 1
    assert "from its actions: differs: state 'state' differs from step" in " ".join(result.stdout.split())


def test_export_to_robomimic_keeps_every_action(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "towers.hdf5"
    result = factory("export", dataset, "--to", "robomimic", "--out", out)
    assert result.exit_code == 0
    with h5py.File(out) as f:
        assert len(f["data"]) == 4
        for i in range(4):
            np.testing.assert_array_equal(
                f[f"data/demo_{i}/actions"], read_episode(dataset, i).columns["action"].values
            )
    assert_sentence(factory("export", dataset, "--to", "robomimic", "--out", out), str(out), "already exists")


@pytest.mark.sim
def test_two_physical_episodes_replay_bit_for_bit(tmp_path: Path) -> None:
    out = tmp_path / "lift"
    made = factory("generate", "lift", "--episodes", 2, "--out", out, "--cameras", "", "--workers", 1, "--json")
    assert made.exit_code == 0, made.stderr
    result = factory("replay", out, "--json")
    assert result.exit_code == 0, result.stdout
    assert [r["equal"] for r in json.loads(result.stdout)] == [True] * 4


@pytest.mark.sim
def test_recording_refuses_what_exists_and_a_missing_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "mine.hdf5"
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert_sentence(factory("record", "stack", "--out", out), "needs a screen")
    out.touch()
    assert_sentence(factory("record-seeds", "stack", "--out", out), str(out), "already exists")
    assert_sentence(factory("record", "stack", "--out", out), str(out), "already exists")


@pytest.mark.sim
def test_scripted_seeds_are_recorded(tmp_path: Path) -> None:
    out = tmp_path / "lift.hdf5"
    result = factory("record-seeds", "lift", "--count", 1, "--out", out, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["demos"] == 1
    assert json.loads(factory("demos", "check", out, "--json").stdout)["usable"] == 1
