"""Laws of the dataset: a pure function of shards, verified before it exists, and everything can be read back."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.dataset_checks import verify_dataset
from factory.dataset_reading import dataset_digest, open_dataset, read_episode, read_episodes
from factory.datasets import write_dataset
from factory.demos import read_demos
from factory.episodes import Column, add_clips, list_renders, read_shard, write_shard
from factory.errors import DatasetError, EpisodeError
from factory.provenance import read_attempts, read_documents, write_manifest
from factory.robomimic import export_robomimic
from factory.statistics import QUANTILES
from factory.tables import numpy_column
from factory.training import training_commands
from factory.video import decode
from tests.synthetic import burned, make_attempts, make_clip, make_episode, make_shards
from tests.synthetic_pictures import number_in_frame
from tests.test_episodes import assert_same, contents

LENGTHS = (5, 8, 6)
SCENE = "<mujoco/>"


def make_dataset(root: Path, shards: list[Path], **options: Any) -> Path:
    defaults = {
        "robot_type": "panda",
        "job": {"task": "lift", "seed": 0, "created_at": "now"},
        "attempts": make_attempts([0, 2, 4], [1, 3]),
        "models": {"ab12": SCENE},
    }
    return write_dataset(root, shards, **{**defaults, **options})


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_shards(tmp_path_factory.mktemp("shards"), LENGTHS)


@pytest.fixture(scope="module")
def dataset(shards: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("datasets") / "lift", shards)


@pytest.fixture
def copy(shards: list[Path], tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "copy", shards)


def test_every_episode_comes_back_bit_for_bit(dataset: Path, shards: list[Path]) -> None:
    for index, (shard, episode) in enumerate(zip(shards, read_episodes(dataset), strict=True)):
        assert_same(episode, read_shard(shard))
        assert_same(read_episode(dataset, index), episode)
    with pytest.raises(DatasetError, match="has no episode 3; it has 0 to 2"):
        read_episode(dataset, 3)


def test_the_order_of_shards_does_not_matter(dataset: Path, shards: list[Path], tmp_path: Path) -> None:
    assert contents(make_dataset(tmp_path / "again", shards[::-1])) == contents(dataset)


def test_cutting_into_files_changes_no_content(
    dataset: Path, shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factory.datasets.MB", 1)
    cut = make_dataset(tmp_path / "cut", shards)
    kinds = (
        "data/*/*.parquet",
        "videos/*agentview/*/*.mp4",
        "meta/episodes/*/*.parquet",
        "provenance/states/*.parquet",
    )
    assert [len(list(cut.glob(kind))) for kind in kinds] == [3, 3, 3, 3]
    assert dataset_digest(cut) == dataset_digest(dataset)
    for index, shard in enumerate(shards):
        assert_same(read_episode(cut, index), read_shard(shard))


def test_the_digest_sees_content_and_not_the_clock(dataset: Path, shards: list[Path], tmp_path: Path) -> None:
    accidents = {"created_at": "later", "workers": 4, "command": "factory generate --workers 4"}
    later = make_dataset(tmp_path / "later", shards, job={"task": "lift", "seed": 0, **accidents})
    other = make_dataset(tmp_path / "other", shards, job={"task": "lift", "seed": 1, "created_at": "now"})
    fewer = make_dataset(tmp_path / "fewer", shards[:2])
    digests = [dataset_digest(root) for root in (dataset, later, other, fewer)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert dataset_digest(dataset, videos=True) == dataset_digest(later, videos=True) != digests[0]


def test_videos_show_the_frame_of_each_row(dataset: Path) -> None:
    for number, camera in enumerate(("agentview", "wrist")):
        frames = decode(dataset / f"videos/observation.images.{camera}/chunk-000/file-000.mp4")
        wanted = [burned(e, row, number) for e, rows in enumerate(LENGTHS) for row in range(rows)]
        assert [number_in_frame(frame) for frame in frames] == wanted


def test_rows_are_numbered_and_timed_from_zero(dataset: Path) -> None:
    path = dataset / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    assert [pq.read_metadata(path).row_group(i).num_rows for i in range(3)] == list(LENGTHS)
    assert table.column("index").to_pylist() == list(range(sum(LENGTHS)))
    time = numpy_column(table.column("timestamp"))
    assert time.dtype == np.float32
    assert np.array_equal(time, (numpy_column(table.column("frame_index")) / 20).astype(np.float32))
    assert table.schema.field("action").type == pa.list_(pa.float32(), 4)
    note = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert note["action"] == {"feature": {"dtype": "float32", "_type": "Value"}, "length": 4, "_type": "Sequence"}


def test_subtasks_are_renumbered_to_one_table(dataset: Path) -> None:
    facts = open_dataset(dataset)
    assert facts.subtasks == ("reach", "lift")
    assert facts.tasks == ("lift the cube", "pick up the cube")
    assert facts.lengths == LENGTHS
    assert facts.cameras == ("agentview", "wrist")


def test_episodes_with_other_subtasks_keep_their_own_names(tmp_path: Path) -> None:
    shards = [write_shard(tmp_path / "shards", make_episode(index)) for index in (0, 1)]
    root = make_dataset(tmp_path / "two", shards)
    assert open_dataset(root).subtasks == ("reach", "lift", "approach")
    table = pq.read_table(root / "data/chunk-000/file-000.parquet")
    assert table.column("subtask_index").to_pylist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 1, 1, 1]
    assert_same(read_episode(root, 1), make_episode(1))


def test_statistics_are_those_of_all_rows(dataset: Path, shards: list[Path]) -> None:
    stats = json.loads((dataset / "meta/stats.json").read_text())
    rows = np.concatenate([read_shard(shard).columns["observation.state"].values for shard in shards]).astype(float)
    for name, q in QUANTILES.items():
        assert np.array_equal(stats["observation.state"][name], np.quantile(rows, q, axis=0))
    assert np.shape(stats["observation.images.wrist"]["mean"]) == (3, 1, 1)
    assert stats["observation.images.wrist"]["count"] == [sum(LENGTHS)]
    episodes = pq.read_table(dataset / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert episodes[1]["stats/sim.grasped/max"] == [1.0]
    assert [row["videos/observation.images.wrist/to_timestamp"] for row in episodes] == [5 / 20, 13 / 20, 19 / 20]


def test_provenance_says_where_everything_came_from(dataset: Path, shards: list[Path]) -> None:
    assert read_attempts(dataset) == make_attempts([0, 2, 4], [1, 3])
    lines = list(read_documents(dataset))
    assert [line["attempt_index"] for line in lines] == [0, 2, 4]
    assert lines[0]["render"]["preset"] == "fast"
    assert (dataset / "provenance/models/ab12.xml").read_text() == SCENE
    manifest = json.loads((dataset / "provenance/manifest.json").read_text())["files"]
    assert set(manifest) | {"provenance/manifest.json"} == set(contents(dataset))


def test_source_demos_travel_along(shards: list[Path], tmp_path: Path) -> None:
    (tmp_path / "demos.hdf5").write_bytes(b"demos")
    root = make_dataset(tmp_path / "lift", shards, source_demos=tmp_path / "demos.hdf5")
    assert (root / "provenance/sources.hdf5").read_bytes() == b"demos"


def test_a_dataset_needs_no_videos_and_no_states(tmp_path: Path) -> None:
    episodes = [dataclasses.replace(make_episode(index), sim_states={}, start=None) for index in (3, 1)]
    root = make_dataset(tmp_path / "bare", [write_shard(tmp_path / "shards", episode) for episode in episodes])
    assert verify_dataset(root).videos == 0
    assert not (root / "videos").exists()
    assert json.loads((root / "meta/info.json").read_text())["video_path"] is None
    assert_same(read_episode(root, 0), episodes[1])
    assert training_commands(root).commands == {}


def damage_bytes(root: Path, name: str) -> None:
    content = bytearray((root / name).read_bytes())
    content[len(content) // 2] ^= 1
    (root / name).write_bytes(content)


def test_a_flipped_byte_anywhere_is_noticed_and_the_file_named(copy: Path) -> None:
    for name in contents(copy):
        if name == "provenance/manifest.json":
            continue
        damage_bytes(copy, name)
        with pytest.raises(DatasetError, match=rf"{name} is damaged"):
            verify_dataset(copy)
        damage_bytes(copy, name)
    verify_dataset(copy)


def edit_json(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        value = json.loads((root / name).read_text())
        change(value)
        (root / name).write_text(json.dumps(value))

    return edit


def edit_column(name: str, column: str, change: Callable[[list[Any]], list[Any]]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        table = pq.read_table(root / name)
        at = table.schema.get_field_index(column)
        values = pa.array(change(table.column(column).to_pylist()), table.schema.field(at).type)
        changed = table.set_column(at, table.schema.field(at), values)
        groups = [
            pq.read_metadata(root / name).row_group(i).num_rows
            for i in range(pq.read_metadata(root / name).num_row_groups)
        ]
        with pq.ParquetWriter(root / name, changed.schema) as writer:
            start = 0
            for rows in groups:
                writer.write_table(changed.slice(start, rows), row_group_size=rows)
                start += rows

    return edit


def shorten_video(root: Path) -> None:
    make_clip(root / "videos/observation.images.wrist/chunk-000/file-000.mp4", range(sum(LENGTHS) - 1))


def drop_line(root: Path) -> None:
    path = root / "provenance/episodes.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


DATA, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
WRONG: list[tuple[Callable[[Path], None], str]] = [
    (edit_json("meta/info.json", lambda v: v.update(codebase_version="v2.1")), "codebase_version is 'v2.1'"),
    (edit_json("meta/info.json", lambda v: v.update(total_frames=20)), "total_frames is 20, the tables hold 19"),
    (edit_json("meta/stats.json", lambda v: v.pop("action")), "stats.json: min of 'action'"),
    (edit_json("meta/stats.json", lambda v: v["action"].update(count=[3])), "counts"),
    (edit_json("meta/stats.json", lambda v: v["action"].update(q50=[0, 0, 0, None])), "q50 of 'action'"),
    (edit_column(EPISODES, "episode_index", lambda v: [0, 2, 1]), "readers go by position"),
    (edit_column(EPISODES, "dataset_to_index", lambda v: [5, 12, 19]), "episode 1 spans"),
    (edit_column(EPISODES, "videos/observation.images.wrist/from_timestamp", lambda v: [0, 0.2, 0.65]), "said to span"),
    (edit_column(DATA, "timestamp", lambda v: [t + 0.05 for t in v]), "timestamp is 0.05.* in row 0"),
    (edit_column(DATA, "index", lambda v: [*v[:4], 9, *v[5:]]), "index is 9 in row 4, expected 4"),
    (edit_column(DATA, "task_index", lambda v: [*v[:-1], 2]), "task_index reaches 2"),
    (edit_column(DATA, "sim.cube_pose", lambda v: [[float("nan")] * 7, *v[1:]]), "'sim.cube_pose' is not finite"),
    (edit_column("meta/tasks.parquet", "task_index", lambda v: v[::-1]), "tasks.parquet: task_index is"),
    (shorten_video, "decodes to 18 frames, its episodes have 19"),
    (drop_line, "has 2 lines for 3 episodes"),
    (lambda root: (root / "meta/tasks.parquet").write_bytes(b"?"), r"tasks.parquet cannot be read"),
]


@pytest.mark.parametrize(("spoil", "sentence"), WRONG)
def test_what_is_wrong_is_said_even_when_hashes_agree(copy: Path, spoil: Callable[[Path], None], sentence: str) -> None:
    spoil(copy)
    write_manifest(copy)
    with pytest.raises(DatasetError, match=sentence):
        verify_dataset(copy)


def test_a_missing_file_and_a_folder_of_something_else_are_said(copy: Path, tmp_path: Path) -> None:
    (copy / "meta/tasks.parquet").unlink()
    with pytest.raises(DatasetError, match=r"tasks\.parquet is missing"):
        verify_dataset(copy)
    for read in (open_dataset, verify_dataset, lambda root: read_episode(root, 0), dataset_digest):
        with pytest.raises(DatasetError, match=r"is .* a finished dataset"):
            read(tmp_path)


def test_an_episode_that_is_not_what_was_written_is_not_returned(copy: Path) -> None:
    edit_column(DATA, "action", lambda v: [[0.0] * 4, *v[1:]])(copy)
    with pytest.raises(DatasetError, match="episode 0 is not what was written"):
        read_episode(copy, 0)
    read_episode(copy, 1)


@pytest.mark.parametrize("step", ["concatenate", "write_manifest", "verify_dataset", "rename_into_place"])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()],
)
def test_a_full_disk_leaves_shards_and_nothing_else(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    before = contents(shards[0].parent)

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(f"factory.datasets.{step}", fail)
    kind = DatasetError if isinstance(error, OSError) else KeyboardInterrupt
    sentence = {errno.ENOSPC: "the disk is full.*can simply be repeated", errno.EIO: "Input/output error"}
    with pytest.raises(kind, match=sentence[error.errno] if isinstance(error, OSError) else None):
        make_dataset(tmp_path / "lift", shards)
    assert not list(tmp_path.iterdir())
    assert contents(shards[0].parent) == before


def test_what_exists_is_not_touched(dataset: Path, shards: list[Path]) -> None:
    before = contents(dataset)
    with pytest.raises(DatasetError, match="already exists"):
        make_dataset(dataset, shards)
    assert contents(dataset) == before


def test_shards_that_do_not_fit_are_named(tmp_path: Path, shards: list[Path]) -> None:
    episode = make_episode(1)
    wider = {**episode.columns, "action": Column(values=np.zeros((6, 5), np.float32))}
    double = {**episode.columns, "observation.state": Column(values=np.zeros((6, 3)))}
    blind = {name: column for name, column in episode.columns.items() if name != "action"}
    cases = [
        (dataclasses.replace(episode, columns=wider), "column 'action' is"),
        (dataclasses.replace(episode, columns={**episode.columns, "x": Column(values=np.zeros(6))}), "column 'x'"),
        (dataclasses.replace(episode, control_hz=10.0), "10.0 rows per second"),
        (dataclasses.replace(episode, sim_states={}), "same simulator states"),
    ]
    first = write_shard(tmp_path, make_episode(0))
    for number, (other, sentence) in enumerate(cases):
        with pytest.raises(DatasetError, match=sentence):
            make_dataset(tmp_path / "no", [first, write_shard(tmp_path / str(number), other)])
    alone = [
        (blind, {}, "no column 'action'"),
        (double, {}, "must be float32"),
        (None, {"control_hz": 12.5}, "whole number"),
    ]
    for number, (columns, change, sentence) in enumerate(alone):
        other = dataclasses.replace(episode, columns=columns or episode.columns, **change)
        with pytest.raises(DatasetError, match=sentence):
            make_dataset(tmp_path / "no", [write_shard(tmp_path / f"alone{number}", other)])
    with pytest.raises(DatasetError, match="attempt 0 comes twice"):
        make_dataset(tmp_path / "no", [first, first])
    with pytest.raises(DatasetError, match="at least one shard"):
        make_dataset(tmp_path / "no", [])
    with pytest.raises(EpisodeError, match="has no rendering"):
        make_dataset(tmp_path / "no", [*shards, write_shard(tmp_path / "unrendered", make_episode(9))])
    assert not (tmp_path / "no").exists()


def test_of_several_renderings_one_is_named(tmp_path: Path) -> None:
    shard = make_shards(tmp_path / "shards", (5,))[0]
    place = add_clips(shard, {"top": make_clip(tmp_path / "top.mp4", range(5))}, {"preset": "other"})
    with pytest.raises(DatasetError, match="hold 2 renderings; name one of"):
        make_dataset(tmp_path / "lift", [shard])
    assert len(list_renders(shard)) == 2
    root = make_dataset(tmp_path / "lift", [shard], render=place.name.removeprefix("clips-"))
    assert open_dataset(root).cameras == ("top",)


def test_robomimic_gets_actions_states_and_scene(tmp_path: Path) -> None:
    episode = make_episode(0)
    hand = np.tile(np.array([0.1, 0.2, 0.3, 0, -1, 0, 1, 0, 0], np.float32), (6, 1))  # a quarter turn about z
    names = ["right_joint1_rad", "right_joint2_rad", "right_finger1_m"]
    names += [f"right_eef_{n}" for n in ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")]
    state = np.concatenate([episode.columns["observation.state"].values, hand], axis=1)
    columns = {
        **episode.columns,
        "observation.state": Column(values=state, names=tuple(names)),
    }
    provenance = {"executor": {"model_sha": "ab12"}}
    shard = write_shard(tmp_path, dataclasses.replace(episode, columns=columns, provenance=provenance))
    path = export_robomimic(make_dataset(tmp_path / "lift", [shard]), tmp_path / "lift.hdf5")
    with h5py.File(path) as file:
        demo: Any = file["data/demo_0"]
        assert np.array_equal(demo["actions"], episode.columns["action"].values)
        assert demo.attrs["num_samples"] == file["data"].attrs["total"] == 6
        assert demo.attrs["model_file"] == SCENE
        flat = [episode.sim_states[name][:-1].reshape(6, -1) for name in ("time", "qpos", "qvel")]
        assert np.array_equal(demo["states"], np.concatenate(flat, axis=1))
        assert np.array_equal(demo["obs/robot0_joint_pos"], state[:, :2])
        assert np.array_equal(demo["obs/robot0_gripper_qpos"], state[:, 2:3])
        assert np.allclose(demo["obs/robot0_eef_quat_base"], [0, 0, np.sqrt(0.5), np.sqrt(0.5)])
        assert file["mask/train"][:].tolist() == [b"demo_0"]
        assert json.loads(file["data"].attrs["env_args"])["env_name"] == "lift"
    demos = read_demos(path)
    assert np.array_equal(demos[0].actions, episode.columns["action"].values)
    with pytest.raises(DatasetError, match="already exists"):
        export_robomimic(tmp_path / "lift", path)


def test_commands_name_the_dataset_and_its_columns(dataset: Path) -> None:
    training = training_commands(dataset, repo_id="me/lift")
    assert set(training.commands) == {"act", "diffusion", "smolvla", "pi0", "groot"}
    assert all(
        f"--dataset.root={dataset}" in command and "me/lift" in command for command in training.commands.values()
    )
    assert training.outputs == {"action": (4,)}
    assert training.inputs["observation.images.wrist"] == (64, 64, 3)
    assert "sim.cube_pose" in training.ignored
