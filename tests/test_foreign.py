"""Sets made elsewhere: everything sloppy in them is said, and a clean copy has nothing left to say."""

from __future__ import annotations

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

from factory.dataset_reading import read_episodes
from factory.errors import DatasetError
from factory.foreign import foreign_episodes, is_foreign
from factory.foreign_findings import look
from factory.foreign_import import import_set
from factory.gr00t import export_gr00t
from factory.video import count_frames
from sim_tasks.robots import PANDA
from tests.gr00t_episodes import robot_dataset
from tests.synthetic import make_clip
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
    _, missing = import_set(sets[version], tmp_path / "copy")
    assert missing == ()
    assert faults(tmp_path / "copy") == []
    pairs = zip(foreign_episodes(sets[version]), foreign_episodes(tmp_path / "copy"), strict=True)
    for (before, after), episode in zip(pairs, read_episodes(sets["ours"]), strict=True):
        assert np.array_equal(before.columns["action"], after.columns["action"])
        if version == "v3.0":
            assert np.array_equal(after.columns["action"], episode.columns["action"].values)
        for film in after.films.values():
            assert count_frames(film.path, fps=20) == len(after)
    assert (tmp_path / "copy/meta/modality.json").is_file()


def edit_info(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "meta/info.json"
        info = json.loads(path.read_text())
        change(info)
        path.write_text(json.dumps(info))

    return edit


def edit_rows(column: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        path = root / "data/chunk-000/episode_000001.parquet"
        table = pq.read_table(path)
        at = table.schema.get_field_index(column)
        values = change(np.array(table.column(column).to_pylist()))
        pq.write_table(table.set_column(at, column, pa.array(values.tolist())), path)

    return edit


def ghost(info: dict[str, Any]) -> None:
    info["features"]["observation.images.ghost"] = info["features"]["observation.images.left_view"]


SLOPPY: list[tuple[Callable[[Path], None], str]] = [
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
    (lambda root: (root / "meta/stats.json").unlink(), "stats.json is missing"),
    (lambda root: (root / "meta/episodes_stats.jsonl").unlink(), "converter to v3.0 needs it"),
]


@pytest.mark.parametrize(("spoil", "sentence"), SLOPPY, ids=[sentence for _, sentence in SLOPPY])
def test_what_is_sloppy_is_said(
    sets: dict[str, Path], tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    root = Path(shutil.copytree(sets["v2.1"], tmp_path / "set"))
    spoil(root)
    assert any(sentence in found for found in faults(root)), faults(root)


def test_an_episode_that_lacks_frames_is_left_out_of_the_copy(sets: dict[str, Path], tmp_path: Path) -> None:
    root = Path(shutil.copytree(sets["v2.1"], tmp_path / "set"))
    make_clip(root / "videos/chunk-000/observation.images.left_view/episode_000000.mp4", range(LENGTHS[0] - 3))
    assert faults(root) == ["episode 0: camera 'left_view' has -3 frames beside the rows"]
    _, missing = import_set(root, tmp_path / "copy")
    assert missing == (0,)
    assert look(tmp_path / "copy").lengths == LENGTHS[1:]
    assert faults(tmp_path / "copy") == []
    with pytest.raises(DatasetError, match="already exists"):
        import_set(root, tmp_path / "copy")


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is .* a LeRobot set"):
        look(tmp_path)
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v1.6"}')
    with pytest.raises(DatasetError, match=r"'v1.6'; v2.0, v2.1 and v3.0 can be read"):
        look(tmp_path)
    (tmp_path / "meta/info.json").write_text('{"codebase_version": "v2.1", "fps": 20}')
    with pytest.raises(DatasetError, match="holds no episode"):
        look(tmp_path)


def test_people_get_sentences_and_pictures(sets: dict[str, Path], tmp_path: Path) -> None:
    facts = foreign_facts(look(sets["v3.0"]))
    assert json.loads(json.dumps(facts)) == facts
    assert "2 episodes of 18 to 20 rows" in "\n".join(foreign_sentences(facts))
    assert foreign_sheet(sets["v3.0"], tmp_path / "sheet.png") == 2
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 192, "two cameras, three moments"


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
    _, missing = import_set(root, tmp_path / "copy")
    assert missing == ()
    again = look(tmp_path / "copy")
    assert again.lengths == found.lengths
    assert all(STILL in sentence or "key frame" in sentence for sentence in again.findings)
