"""Sets made elsewhere: everything sloppy in them is said, and a clean copy has nothing left to say."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from factory.dataset_reading import read_episodes
from factory.errors import DatasetError
from factory.foreign import foreign_episodes, is_foreign
from factory.foreign_import import import_set
from factory.foreign_set import look
from factory.gr00t import export_gr00t
from factory.video import count_frames
from sim_tasks.robots import PANDA
from tests.gr00t_episodes import robot_dataset
from tests.synthetic import make_clip
from workers.cli import app
from workers.foreign import foreign_facts, foreign_sentences, foreign_sheet

LENGTHS = (18, 20)
CAMERAS = ("agentview", "robot0_eye_in_hand")
STILL = "numbers never change"
"""A fixed base is twelve zeros, which is said of every set of such a robot and is no fault."""


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A set of each layout, as somebody without the rest of this project would get it."""
    folder = tmp_path_factory.mktemp("sets")
    root = robot_dataset(folder, PANDA, CAMERAS, lengths=LENGTHS)
    old = export_gr00t(root, folder / "old")
    new = Path(shutil.copytree(root, folder / "new"))
    shutil.rmtree(new / "provenance")
    return {"v2.1": old, "v3.0": new, "ours": root}


def faults(root: Path) -> list[str]:
    return [sentence for sentence in look(root).findings if STILL not in sentence]


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_clean_set_is_counted_and_nothing_is_found(sets: dict[str, Path], version: str) -> None:
    found = look(sets[version])
    assert (found.version, found.robot_type, found.fps, found.lengths) == (version, "panda", 20, LENGTHS)
    assert {(p.width, p.height, p.codec, p.key_frames_every) for p in found.cameras.values()} == {(64, 64, "h264", 2)}
    assert {"take box 0", "take box 1"} <= set(found.tasks.values())
    assert faults(sets[version]) == []
    assert is_foreign(sets[version])
    assert not is_foreign(sets["ours"])


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_a_copy_has_the_same_numbers_and_frames(sets: dict[str, Path], version: str, tmp_path: Path) -> None:
    _, left_out = import_set(sets[version], tmp_path / "copy")
    assert left_out == {}
    assert faults(tmp_path / "copy") == []
    pairs = zip(foreign_episodes(sets[version]), foreign_episodes(tmp_path / "copy"), strict=True)
    for (before, after), episode in zip(pairs, read_episodes(sets["ours"]), strict=True):
        assert np.array_equal(before.columns["action"], after.columns["action"])
        if version == "v3.0":
            assert np.array_equal(after.columns["action"], episode.columns["action"].values)
        for film in after.films.values():
            assert count_frames(film.path, fps=20) == len(after)
    assert (tmp_path / "copy/meta/modality.json").is_file()


def edit_info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], object]:
    def edit(root: Path) -> None:
        path = root / "meta/info.json"
        info = json.loads(path.read_text())
        change(info)
        path.write_text(json.dumps(info))

    return edit


def edit_rows(column: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    def edit(root: Path) -> None:
        path = root / "data/chunk-000/episode_000001.parquet"
        table = pq.read_table(path)
        at = table.schema.get_field_index(column)
        values = change(np.array(table.column(column).to_pylist()))
        kind = table.schema.field(column).type
        pq.write_table(table.set_column(at, column, pa.array(values.tolist(), kind)), path)

    return edit


def ghost(info: dict[str, Any]) -> None:
    info["features"]["observation.images.ghost"] = info["features"]["observation.images.left_view"]


def edit_lengths(root: Path) -> None:
    path = root / "meta/episodes.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["length"] += 7
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def drop_column(root: Path) -> None:
    path = root / "data/chunk-000/episode_000001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["action"]), path)


def drop_video(root: Path) -> None:
    (root / "videos/chunk-000/observation.images.wrist_view/episode_000001.mp4").unlink()


SLOPPY: list[tuple[Callable[[Path], object], str]] = [
    (edit_info(lambda i: i.update(total_chunks=0)), "total_chunks is 0, counted 1"),
    (edit_info(lambda i: i.update(splits={"train": "0:100"})), "split 'train' is '0:100', there are 2 episodes"),
    (edit_info(lambda i: i.update(fps=20.0)), "fps is 20.0"),
    (edit_info(ghost), "has camera 'observation.images.ghost', which has no pictures"),
    (edit_info(lambda i: i["features"].pop("index")), "column 'index' is in the data and not in info.json"),
    (
        edit_info(lambda i: i["features"]["observation.images.left_view"].update(shape=[8, 8, 3])),
        "64 x 64, info.json has",
    ),
    (edit_rows("timestamp", lambda v: v + 0.05), "episode 1: time stamps begin at 0.05 s, not 0"),
    (edit_rows("timestamp", lambda v: v * 2), "episode 1: time stamps are not 0.05 s apart"),
    (edit_rows("index", lambda v: v + 1), "episode 1: index has gaps"),
    (edit_rows("task_index", lambda v: v + 90), "which the table of tasks does not"),
    (edit_rows("action", lambda v: np.where(v > 0.9, np.nan, v)), "column 'action' is not finite"),
    (lambda root: (root / "meta/stats.json").write_text("{}"), "meta/stats.json lacks column 'action'"),
    (lambda root: (root / "meta/episodes.jsonl").unlink(), "every episode: meta/ does not say how long it is"),
    (edit_lengths, "episode 1: meta/ says +7 rows beside those there are"),
    (lambda root: (root / "data/chunk-000/episode_000000.parquet").unlink(), "episodes are not numbered 0, 1, 2"),
    (drop_video, "camera 'wrist_view' has videos of 1 episodes, there are 2"),
    (drop_column, "episode 1: columns are not those of the first episode: action"),
    (edit_info(lambda i: i["features"].update(view={"dtype": "image", "shape": [8, 8, 3]})), "which are not read here"),
    (lambda root: (root / "meta/stats.json").unlink(), "stats.json is missing"),
    (lambda root: (root / "meta/episodes_stats.jsonl").unlink(), "converter to v3.0 needs it"),
]


@pytest.mark.parametrize(("spoil", "sentence"), SLOPPY, ids=[sentence for _, sentence in SLOPPY])
def test_what_is_sloppy_is_said(
    sets: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    root = Path(shutil.copytree(sets["v2.1"], tmp_path / "set"))
    spoil(root)
    assert any(sentence in found for found in faults(root)), faults(root)


def test_an_episode_that_lacks_frames_is_left_out_of_the_copy(sets: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(sets["v2.1"], tmp_path / "set"))
    make_clip(root / "videos/chunk-000/observation.images.left_view/episode_000000.mp4", range(LENGTHS[0] - 3))
    assert faults(root) == ["episode 0: camera 'left_view' has -3 frames beside the rows"]
    _, left_out = import_set(root, tmp_path / "copy")
    assert left_out == {0: "camera 'left_view' has 15 frames for 18 rows"}
    assert look(tmp_path / "copy").lengths == LENGTHS[1:]
    assert faults(tmp_path / "copy") == []
    with pytest.raises(DatasetError, match="already exists"):
        import_set(root, tmp_path / "copy")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (edit_rows("action", lambda v: np.where(v > 0.9, np.nan, v)), "column 'action' is not finite"),
        (drop_column, "its columns are not those of the others: action"),
    ],
)
def test_an_episode_that_cannot_be_described_is_left_out_of_the_copy(
    sets: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], object], why: str
) -> None:
    root = Path(shutil.copytree(sets["v2.1"], tmp_path / "set"))
    spoil(root)
    _, left_out = import_set(root, tmp_path / "copy")
    assert left_out == {1: why}
    assert look(tmp_path / "copy").lengths == LENGTHS[:1]


def test_an_episode_of_a_shared_file_that_lacks_frames_is_left_out_too(sets: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(sets["v3.0"], tmp_path / "set"))
    make_clip(root / "videos/observation.images.agentview/chunk-000/file-000.mp4", range(sum(LENGTHS) - 5))
    _, left_out = import_set(root, tmp_path / "copy")
    assert left_out == {1: "camera 'agentview' has 15 frames for 20 rows"}


BROKEN: list[tuple[str, Callable[[Path], object], str]] = [
    ("v2.1", edit_info(lambda i: i.update(features=[])), "info.json"),
    ("v2.1", edit_info(lambda i: i["features"].update(action={"dtype": "float32"})), "info.json"),
    ("v2.1", edit_info(lambda i: i.update(fps="fast")), "info.json"),
    ("v2.1", edit_info(lambda i: i.update(fps=0)), "0 rows per second"),
    ("v2.1", lambda root: (root / "meta/episodes.jsonl").write_text("{}\n"), "episodes.jsonl"),
    ("v2.1", lambda root: (root / "meta/tasks.jsonl").write_text('{"task": 1}\n'), "tasks.jsonl"),
    ("v2.1", lambda root: (root / "meta/modality.json").write_text('{"state": {"arm": {}}}'), "modality.json"),
    ("v2.1", lambda root: (root / "meta/stats.json").write_text("[]"), "stats.json"),
    ("v2.1", lambda root: (root / "data/chunk-000/episode_000000.parquet").write_bytes(b"PAR1"), "000000.parquet"),
    ("v3.0", lambda root: shutil.rmtree(root / "meta/episodes"), "holds no episode"),
    ("v3.0", lambda root: pq.write_table(pa.table({"length": [1]}), root / EPISODES), "episodes cannot be read"),
]
EPISODES = "meta/episodes/chunk-000/file-000.parquet"


@pytest.mark.parametrize(("version", "spoil", "where"), BROKEN)
def test_a_broken_file_is_named_and_nothing_else_happens(
    sets: dict[str, Path], tmp_path: Path, version: str, spoil: Callable[[Path], object], where: str
) -> None:
    root = Path(shutil.copytree(sets[version], tmp_path / "set"))
    spoil(root)
    with pytest.raises(DatasetError, match=where):
        look(root)


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is .* a LeRobot set"):
        look(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v1.6"}')
    with pytest.raises(DatasetError, match=r"'v1.6'; v2.0, v2.1, v3.0 can be read"):
        look(tmp_path)
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v2.1", "fps": 20}')
    with pytest.raises(DatasetError, match="holds no episode"):
        look(tmp_path)


def test_people_get_sentences_and_pictures(sets: dict[str, Path], tmp_path: Path) -> None:
    facts = foreign_facts(look(sets["v3.0"]))
    assert json.loads(json.dumps(facts)) == facts
    assert "2 episodes of 18 to 20 rows" in "\n".join(foreign_sentences(facts))
    assert foreign_sheet(look(sets["v3.0"]), tmp_path / "sheet.png") == 2
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 192, "two cameras, three moments"
    with pytest.raises(DatasetError, match=r"sheet.txt; a name that ends in .png"):
        foreign_sheet(look(sets["v3.0"]), tmp_path / "sheet.txt")
    blind = dataclasses.replace(look(sets["v3.0"]), cameras={})
    with pytest.raises(DatasetError, match="has no videos"):
        foreign_sheet(blind, tmp_path / "sheet.png")


def test_machines_get_json_from_each_command(sets: dict[str, Path], tmp_path: Path) -> None:
    def factory(*words: str | Path) -> Any:
        done = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    view = tmp_path / "view"
    assert factory("export", sets["ours"], "--to", "gr00t", "--out", view, "--horizon", "4") == {"path": str(view)}
    relative = json.loads((view / "meta/relative_stats.json").read_text())
    assert {len(entry["mean"]) for entry in relative.values()} == {4}
    said = factory("inspect", view, "--pictures", tmp_path / "sheet.png")
    assert (said["version"], said["episodes"], said["pictures"]) == ("v2.1", 2, str(tmp_path / "sheet.png"))
    drop_video(view)
    came = factory("import", view, "--out", tmp_path / "copy")
    assert came["left_out"] == {"1": "camera 'wrist_view' has 0 frames for 20 rows"}
    assert came["from"]["findings"] == factory("inspect", view)["findings"]


@pytest.mark.slow
def test_nvidias_humanoid_episodes_come_in_and_their_faults_are_named(tmp_path: Path) -> None:
    root = Path(os.environ.get("FACTORY_DEMOS_DIR", "/nowhere")) / "gr1_picknplace_lerobot_v2"
    if not root.is_dir():
        pytest.skip("FACTORY_DEMOS_DIR has no gr1_picknplace_lerobot_v2")
    found = look(root)
    assert (len(found.lengths), sum(found.lengths)) == (5, 2096)
    said = "\n".join(found.findings)
    for sentence in (
        "every episode: time stamps begin at 0.05 s, not 0",
        "total_chunks is 0, counted 1",
        "total_videos is 2, counted 5",
        "split 'train' is '0:100', there are 5 episodes",
        "camera 'observation.images.egoview', which has no pictures",
        "column 'frame_index' is missing",
        "up to 250 frames from key frame to key frame",
    ):
        assert sentence in said
    _, left_out = import_set(root, tmp_path / "copy")
    assert left_out == {}
    again = look(tmp_path / "copy")
    assert again.lengths == found.lengths
    assert all(STILL in sentence or "key frame" in sentence for sentence in again.findings)
