"""Laws of the GR00T view: every key holds what it says, nothing is encoded again, and lerobot's converter takes it."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
import types
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from factory import poses
from factory.dataset_reading import read_episodes
from factory.datasets import write_dataset
from factory.episodes import write_shard
from factory.errors import DatasetError
from factory.foreign import foreign_episodes
from factory.foreign_import import import_set
from factory.gr00t import HORIZON, export_gr00t
from factory.gr00t_layouts import GR1_ARM, LAYOUTS, layout_of
from factory.specs import RobotSpec
from factory.tables import numpy_column
from factory.video import ClipWriter, count_frames, decode
from sim_tasks.robots import GR1, PANDA, ROBOTS, TWO_DEX_PANDAS, TWO_PANDAS
from tests.gr00t_episodes import robot_dataset, robot_episode
from tests.lerobot_runs import run_in_lerobot
from tests.synthetic import burned
from tests.synthetic_pictures import number_in_frame

LENGTHS = (20, 18, 22)
CAMERAS: dict[str, tuple[str, ...]] = {
    "GR1ArmsOnly": ("ego_view",),
    "Panda": ("agentview", "robot0_eye_in_hand"),
    "TwoPandas": ("front_view", "robot0_eye_in_hand", "robot1_eye_in_hand"),
    "TwoDexPandas": ("ego_view",),
}
KINDS = (GR1, PANDA, TWO_PANDAS, TWO_DEX_PANDAS)


@pytest.fixture(scope="module")
def encoded() -> list[Path]:
    """Every file an encoder was opened for, in order."""
    return []


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory, encoded: list[Path]) -> dict[str, tuple[Path, Path]]:
    """Robot -> its dataset and the view of it."""
    made: dict[str, tuple[Path, Path]] = {}
    begin = ClipWriter.__init__

    def counted(self: ClipWriter, path: Path, **options: Any) -> None:
        encoded.append(path)
        begin(self, path, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClipWriter, "__init__", counted)
        for robot in KINDS:
            folder = tmp_path_factory.mktemp(robot.name)
            root = robot_dataset(folder, robot, CAMERAS[robot.name], lengths=LENGTHS)
            made[robot.name] = root, export_gr00t(root, folder / "view")
    return made


def rows_of(view: Path, episode: int) -> dict[str, np.ndarray]:
    table = pq.read_table(view / f"data/chunk-000/episode_{episode:06d}.parquet")
    return {name: numpy_column(table.column(name)) for name in table.column_names}


def read(view: Path, name: str) -> Any:
    text = (view / "meta" / name).read_text()
    return [json.loads(line) for line in text.splitlines()] if name.endswith("l") else json.loads(text)


def key_of(view: Path, rows: dict[str, np.ndarray], modality: str, key: str) -> np.ndarray:
    """Return what GR00T would read under a key."""
    entry = read(view, "modality.json")[modality][key]
    column = rows[entry["original_key"]]
    assert column.ndim == 2, "GR00T slices columns; a scalar cannot be sliced"
    return column[:, entry["start"] : entry["end"]]


@pytest.mark.parametrize("robot", KINDS, ids=lambda robot: robot.name)
def test_every_key_of_the_modality_is_a_slice_that_exists(robot: RobotSpec, views: dict[str, Any]) -> None:
    _, view = views[robot.name]
    info, modality, stats = read(view, "info.json"), read(view, "modality.json"), read(view, "stats.json")
    rows = rows_of(view, 0)
    for kind, column in (("state", "observation.state"), ("action", "action")):
        entries = modality[kind].values()
        covered = [i for e in entries if e["original_key"] == column for i in range(e["start"], e["end"])]
        assert covered == list(range(rows[column].shape[1])), "parts tile the column"
        for key in modality[kind]:
            key_of(view, rows, kind, key)
    for entry in modality["video"].values():
        assert info["features"][entry["original_key"]]["dtype"] == "video"
    for entry in modality["annotation"].values():
        assert info["features"][entry["original_key"]] == {"dtype": "int64", "shape": [1], "names": None}
    columns = {name: f for name, f in info["features"].items() if f["dtype"] != "video"}
    assert set(columns) == set(rows) == set(stats)
    for name, feature in columns.items():
        assert set(stats[name]) == {"mean", "std", "min", "max", "q01", "q99"}
        assert len(stats[name]["q99"]) == feature["shape"][0] == len(feature["names"] or [0])
    assert info["total_frames"] == sum(LENGTHS)
    assert (info["total_videos"], info["total_chunks"]) == (3 * len(CAMERAS[robot.name]), 1)
    assert isinstance(info["fps"], int)


def test_videos_say_their_rate_in_both_ways(views: dict[str, Any]) -> None:
    feature = read(views["GR1ArmsOnly"][1], "info.json")["features"]["observation.images.ego_view"]
    assert feature["names"] == ["height", "width", "channel"]
    assert feature["info"]["video.fps"] == feature["video_info"]["video.fps"] == 20.0
    assert feature["info"]["video.codec"] == "h264"


def test_time_starts_at_zero_and_texts_are_rows_of_the_tasks(views: dict[str, Any]) -> None:
    _, view = views["GR1ArmsOnly"]
    texts = [line["task"] for line in read(view, "tasks.jsonl")]
    assert [line["task_index"] for line in read(view, "tasks.jsonl")] == list(range(len(texts)))
    for episode, valid in enumerate(("valid", "valid", "invalid")):
        rows = rows_of(view, episode)
        assert np.array_equal(rows["timestamp"], (np.arange(LENGTHS[episode]) / 20).astype(np.float32))
        assert texts[rows["annotation.human.validity"][0]] == valid
        for name in ("annotation.human.action.task_description", "annotation.human.coarse_action", "task_index"):
            assert {texts[i] for i in rows[name]} == {f"take box {episode % 2}"}
    assert [line["tasks"] for line in read(view, "episodes.jsonl")] == [[f"take box {i % 2}"] for i in range(3)]
    assert read(view, "episodes_stats.jsonl")[1]["stats"]["observation.images.ego_view"]["count"] == [LENGTHS[1]]


def test_a_humanoid_gets_nvidias_44_columns(views: dict[str, Any]) -> None:
    root, view = views["GR1ArmsOnly"]
    episode = next(read_episodes(root))
    state, action = episode.columns["observation.state"], episode.columns["action"]
    rows = rows_of(view, 0)
    assert rows["observation.state"].shape == rows["action"].shape == (20, 44)
    spans = {key: (e["start"], e["end"]) for key, e in read(view, "modality.json")["state"].items()}
    assert spans == {key: (e["start"], e["end"]) for key, e in read(view, "modality.json")["action"].items()}
    assert spans == {
        "left_arm": (0, 7), "left_hand": (7, 13), "left_leg": (13, 19), "neck": (19, 22),
        "right_arm": (22, 29), "right_hand": (29, 35), "right_leg": (35, 41), "waist": (41, 44),
    }  # fmt: skip
    for key in ("left_leg", "neck", "right_leg", "waist"):
        assert not key_of(view, rows, "state", key).any()
        assert not key_of(view, rows, "action", key).any()
    for side, spec in GR1.eefs.items():
        joints = [state.names.index(f"{side}_joint{i}_rad") for i in range(1, 8)]
        assert np.array_equal(key_of(view, rows, "state", f"{side}_arm"), state.values[:, joints])
        after = episode.columns[f"target.{side}_next_joint_positions"].values
        assert np.array_equal(key_of(view, rows, "action", f"{side}_arm"), after)
        told = action.values[:, slice(*spec.gripper_action)]
        hand = key_of(view, rows, "action", f"{side}_hand")
        assert np.array_equal(hand, told * np.array([1.5, 1.5, 1.5, 1.5, 3, 3], np.float32))
        assert hand[0].tolist() == [-1.5, -1.5, -1.5, -1.5, -3, 3], "open, with the thumb across the palm"


@pytest.mark.parametrize(
    ("robot", "bend", "turn"), [(GR1, "proximal_pitch", "proximal_yaw"), (TWO_DEX_PANDAS, "proximal_2", "proximal_1")]
)
def test_fingers_are_the_joints_that_are_meant(robot: RobotSpec, bend: str, turn: str) -> None:
    layout = layout_of(robot.lerobot_type)
    for side, spec in robot.eefs.items():
        episode = robot_episode(robot, 0, rows=3)
        state = episode.columns["observation.state"]
        hand = next(part for part in layout.state if part.key == f"{side}_hand").values(episode)
        first = state.names.index(f"{side}_finger1_rad")
        where = [int(np.argwhere(state.values[0, first:] == value)[0][0]) for value in hand[0]]
        wanted = (
            "pinky_proximal",
            "ring_proximal",
            "middle_proximal",
            "index_proximal",
            f"thumb_{bend}",
            f"thumb_{turn}",
        )
        for i, name in zip(where, wanted, strict=True):
            assert name in spec.gripper_joints[i]


def test_the_arms_of_a_humanoid_are_in_the_order_of_its_columns() -> None:
    for side, spec in GR1.eefs.items():
        assert spec.arm_joints == tuple(f"robot0_{side[0]}_{joint}" for joint in GR1_ARM)


def test_two_arms_have_what_their_configurations_name(views: dict[str, Any]) -> None:
    root, view = views["TwoPandas"]
    episode = next(read_episodes(root))
    state, action = episode.columns["observation.state"], episode.columns["action"]
    rows = rows_of(view, 0)
    for side, spec in TWO_PANDAS.eefs.items():
        quat = key_of(view, rows, "state", f"{side}_arm_eef_quat").astype(float)
        turned = poses.rot6d_from_matrix(poses.matrix_from_quat_wxyz(quat))
        stored = state.values[:, [i for i, n in enumerate(state.names) if n.startswith(f"{side}_eef_r")]]
        assert np.allclose(turned, stored, atol=1e-6)
        assert ((quat[1:] * quat[:-1]).sum(1) > 0).all(), "the sign does not jump"
        rotation = key_of(view, rows, "action", f"{side}_arm_eef_rot")
        start = spec.arm_action[0]
        assert np.array_equal(rotation, action.values[:, start + 3 : start + 6])
        closes = key_of(view, rows, "action", f"{side}_gripper_close")[:, 0]
        assert np.array_equal(closes, np.arange(20) % 2)
    entries = read(view, "modality.json")
    assert not entries["action"]["right_arm_eef_pos"]["absolute"]
    assert entries["action"]["right_arm_joints"]["absolute"]
    assert set(entries["video"]) == set(LAYOUTS["bimanual_panda"].views)


def test_relative_actions_are_described_for_each_step_ahead(views: dict[str, Any]) -> None:
    _, view = views["GR1ArmsOnly"]
    windows = []
    for episode in range(3):
        rows = rows_of(view, episode)
        state, action = (key_of(view, rows, kind, "right_arm") for kind in ("state", "action"))
        windows += [action[t : t + HORIZON] - state[t] for t in range(len(state) - HORIZON + 1)]
    found = read(view, "relative_stats.json")
    assert set(found) == {"left_arm", "right_arm"}
    for name, value in (
        ("min", np.min(windows, 0)),
        ("mean", np.mean(windows, 0)),
        ("q99", np.quantile(windows, 0.99, 0)),
    ):
        assert np.shape(found["right_arm"][name]) == (HORIZON, 7)
        assert np.allclose(found["right_arm"][name], value, atol=1e-5)


def test_each_episode_has_its_own_frames_and_none_was_encoded_again(views: dict[str, Any], encoded: list[Path]) -> None:
    assert len(encoded) == sum(len(LENGTHS) * len(cameras) for cameras in CAMERAS.values())
    root, view = views["TwoPandas"]
    names = {
        "front_view": "front_view",
        "right_wrist_view": "robot0_eye_in_hand",
        "left_wrist_view": "robot1_eye_in_hand",
    }
    for name, camera in names.items():
        number = CAMERAS["TwoPandas"].index(camera)
        packets = []
        for episode, length in enumerate(LENGTHS):
            path = view / f"videos/chunk-000/observation.images.{name}/episode_{episode:06d}.mp4"
            assert count_frames(path, fps=20) == length
            shown = [number_in_frame(frame) for frame in decode(path)]
            assert shown == [burned(episode, row, number) for row in range(length)]
            packets += content(path)
        assert packets == content(root / f"videos/observation.images.{camera}/chunk-000/file-000.mp4")


def content(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def test_clips_that_are_still_there_are_linked(tmp_path: Path) -> None:
    root = robot_dataset(tmp_path, GR1, ("ego_view",), lengths=(16, 17))

    def clip(index: int, camera: str) -> Path | None:
        if index == 1:
            return None
        return next((tmp_path / f"shards/episode_{index:08d}").glob(f"clips-*/observation.images.{camera}.mp4"))

    view = export_gr00t(root, tmp_path / "view", clips=clip)
    videos = [view / f"videos/chunk-000/observation.images.ego_view/episode_{i:06d}.mp4" for i in (0, 1)]
    assert videos[0].samefile(clip(0, "ego_view") or "")
    assert videos[1].stat().st_nlink == 1
    alone = robot_dataset(tmp_path / "alone", GR1, ("ego_view",), lengths=(16,))
    view = export_gr00t(alone, tmp_path / "alone/view")
    whole = alone / "videos/observation.images.ego_view/chunk-000/file-000.mp4"
    assert whole.samefile(view / "videos/chunk-000/observation.images.ego_view/episode_000000.mp4")


def test_what_gr00t_could_not_read_is_refused(tmp_path: Path, views: dict[str, Any]) -> None:
    root, view = views["GR1ArmsOnly"]
    with pytest.raises(DatasetError, match="already exists"):
        export_gr00t(root, view)
    blind = robot_dataset(tmp_path / "blind", GR1, (), lengths=(16,))
    with pytest.raises(DatasetError, match="has no pictures and GR00T needs some; draw them first"):
        export_gr00t(blind, tmp_path / "view")
    new = robot_dataset(tmp_path / "new", PANDA, ("agentview",), lengths=(16,), codec="av1")
    with pytest.raises(DatasetError, match="'agentview' are av1.*--codec h264"):
        export_gr00t(new, tmp_path / "view")
    with pytest.raises(DatasetError, match="not known for robot type 'toaster'; known: panda"):
        layout_of("toaster")
    assert not (tmp_path / "view").exists()


def test_every_robot_has_a_layout() -> None:
    assert {robot.lerobot_type for robot in ROBOTS.values()} <= set(LAYOUTS)
    for robot in ROBOTS.values():
        columns = LAYOUTS[robot.lerobot_type].columns(robot_episode(robot, 0, rows=4))
        assert all(values.shape == (4, len(names)) for names, values in columns.values())


def test_an_episode_without_what_is_needed_says_so() -> None:
    with pytest.raises(DatasetError, match=r"needs left_eef_x_m.*found right_joint1_rad"):
        LAYOUTS["bimanual_panda"].columns(robot_episode(PANDA, 0, rows=4))


def test_a_v3_set_names_what_each_arm_does_and_which_episodes_to_learn_from(views: dict[str, Any]) -> None:
    root, _ = views["TwoPandas"]
    names = pq.read_table(root / "meta/subtasks.left.parquet")
    assert names.column("subtask").to_pylist() == ["reach", "lift_left"]
    modality = json.loads((root / "meta/modality.json").read_text())
    info = read(root, "info.json")["features"]
    for kind in ("state", "action"):
        assert {f"{eef}_{part}" for eef in TWO_PANDAS.eefs for part in ("arm", "hand", "eef_9d")} <= set(modality[kind])
        for key, entry in modality[kind].items():
            called = info[entry["original_key"]]["names"][entry["start"] : entry["end"]]
            assert {name.partition("_")[0] for name in called} == {key.partition("_")[0]}
            assert len(called) == {"arm": 7, "eef_9d": 9, "eef_delta": 6}.get(key.partition("_")[2], len(called))
    assert modality["annotation"]["subtask.left"] == {"original_key": "subtask_index.left"}
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet", columns=["annotation.valid", "episode_index"])
    for valid, episode in zip(*(rows.column(name).to_pylist() for name in rows.column_names), strict=True):
        assert valid == (episode < 2)
    assert next(read_episodes(root)).columns["subtask_index.left"].values.tolist()[:2] == [0, 1]


def test_arms_that_count_other_subtasks_do_not_fit_together(tmp_path: Path) -> None:
    one, two = (robot_episode(TWO_PANDAS, index) for index in (0, 1))
    other = dataclasses.replace(two, provenance={"subtasks": {"right": ["push"], "left": ["pull"]}})
    shards = [write_shard(tmp_path / "shards", episode) for episode in (one, other)]
    with pytest.raises(DatasetError, match="the arms' subtasks are.*'pull'"):
        write_dataset(tmp_path / "set", shards, robot_type="bimanual_panda", job={})


# --- the kit ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("robot", KINDS, ids=lambda robot: robot.name)
def test_the_configuration_in_the_kit_names_keys_that_are_there(robot: RobotSpec, views: dict[str, Any]) -> None:
    _, view = views[robot.name]
    registered: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("gr00t.configs.data.embodiment_configs", "gr00t.data.embodiment_tags", "gr00t.data.types"):
            patch.setitem(sys.modules, name, _gr00t(registered))
        source = (view / "kit/gr00t_modality_config.py").read_text()
        exec(compile(source, "gr00t_modality_config.py", "exec"), {})  # noqa: S102
    modality, relative = read(view, "modality.json"), read(view, "relative_stats.json")
    for kind in ("video", "state", "action"):
        assert set(registered[kind]["modality_keys"]) <= set(modality[kind])
    action = registered["action"]
    assert action["delta_indices"] == list(range(HORIZON))
    forms = dict(zip(action["modality_keys"], action["action_configs"], strict=True))
    assert {key for key, form in forms.items() if form["rep"] == "RELATIVE"} == set(relative)
    assert set(relative) <= set(registered["state"]["modality_keys"])
    (language,) = registered["language"]["modality_keys"]
    assert language.removeprefix("annotation.") in modality["annotation"]
    text = (view / "kit/README.md").read_text()
    assert ("scripts/gr00t_finetune.py" in text) == (robot in (GR1, TWO_PANDAS)), "only where all views are there"


def kit_commands(view: Path) -> dict[str, list[str]]:
    """Return the commands of a kit as a shell sees them, after what its README says to do first."""
    first, *sections = (view / "kit/README.md").read_text().split("## ")
    setting = first.split("```sh\n")[1].split("```")[0]
    found: dict[str, list[str]] = {}
    for section in sections:
        title, _, rest = section.partition("\n")
        command = rest.split("```sh\n")[1].split("```")[0]
        script = f"{setting}\nfor word in {command.strip()}; do printf '%s\\n' \"$word\"; done"
        words = subprocess.run(["bash", "-c", script], cwd=view / "kit", capture_output=True, text=True, check=True)
        found[title] = words.stdout.splitlines()
    return found


@pytest.mark.parametrize("robot", KINDS, ids=lambda robot: robot.name)
def test_the_commands_in_the_kit_point_at_what_is_there_even_after_a_move(
    robot: RobotSpec, views: dict[str, Any], tmp_path: Path
) -> None:
    root, view = views[robot.name]
    shutil.copytree(root, tmp_path / "new home/dataset")
    moved = Path(shutil.copytree(view, tmp_path / "new home/view"))
    commands = kit_commands(moved)
    tuned = commands["GR00T N1.7"]
    flags = dict(zip(tuned[4::2], tuned[5::2], strict=True))
    assert Path(flags["--dataset-path"]).samefile(moved)
    assert Path(flags["--modality-config-path"]).samefile(moved / "kit/gr00t_modality_config.py")
    theirs = [words for title, words in commands.items() if title.startswith("lerobot")]
    assert len(theirs) == 5
    (renamed,) = (word.partition("=")[2] for word in commands["lerobot 0.4.4, pi0"] if word.startswith("--rename_map"))
    sides = {"left_wrist_0_rgb": "robot1_eye_in_hand", "right_wrist_0_rgb": "robot0_eye_in_hand"}
    if robot is TWO_PANDAS:
        assert {f"observation.images.{ours}": f"observation.images.{name}" for name, ours in sides.items()}.items() <= (
            json.loads(renamed).items()
        ), "each wrist is shown to the base model as that wrist"
    for words in theirs:
        (place,) = (word.removeprefix("--dataset.root=") for word in words if word.startswith("--dataset.root="))
        assert Path(place).samefile(tmp_path / "new home/dataset")


def _gr00t(registered: dict[str, Any]) -> Any:
    """Return what the configuration imports from GR00T, reduced to remembering what it is given."""

    class Names:
        def __getattr__(self, name: str) -> str:
            return name

    return types.SimpleNamespace(
        register_modality_config=lambda config, embodiment_tag: registered.update(config),
        EmbodimentTag=Names(),
        ActionRepresentation=Names(),
        ActionType=Names(),
        ActionFormat=Names(),
        ModalityConfig=dict,
        ActionConfig=dict,
    )


# --- others' data and others' programs --------------------------------------------------------------------------------


def test_nvidias_own_episodes_lie_within_the_joints_these_columns_are_said_to_be() -> None:
    """A turned elbow or shoulder roll would leave its range; of the other joints, see tests/benchmarks/gr1_poses.py."""
    folder = Path(os.environ.get("FACTORY_DEMOS_DIR", "/nowhere")) / "gr1_picknplace_lerobot_v2"
    if not folder.is_dir():
        pytest.skip("FACTORY_DEMOS_DIR has no gr1_picknplace_lerobot_v2")
    robosuite = pytest.importorskip("robosuite")
    text = (Path(robosuite.__file__).parent / "models/assets/robots/gr1/robot.xml").read_text()
    joints = ET.fromstring(text).iter("joint")  # noqa: S314 - robosuite's own file
    ranges = {joint.get("name"): [float(x) for x in joint.get("range", "0 0").split()] for joint in joints}
    tables = [pq.read_table(path) for path in sorted(folder.glob("data/*/*.parquet"))]
    state, action = (
        np.concatenate([np.array(t.column(name).to_pylist()) for t in tables])
        for name in ("observation.state", "action")
    )
    for side, first in (("left", 0), ("right", 22)):
        low, high = np.array([ranges[f"{side[0]}_{joint}"] for joint in GR1_ARM]).T
        seen = state[:, first : first + 7]
        assert (low - 0.05 <= seen).all()
        assert (seen <= high + 0.05).all()
    hands = {tuple(row) for first in (7, 29) for row in action[:, first : first + 6].tolist()}
    scale = np.array([1.5, 1.5, 1.5, 1.5, 3.0, 3.0])
    eef = GR1.eefs["right"]
    assert hands == {tuple((np.array(told) * scale).tolist()) for told in (eef.opens, eef.closes)}
    assert not np.delete(action, [*range(13), *range(22, 35)], axis=1).any(), "legs, neck and waist"


@pytest.mark.slow
@pytest.mark.lerobot
def test_lerobots_own_converter_takes_the_view_and_every_frame_is_that_of_its_row(
    views: dict[str, Any], tmp_path: Path
) -> None:
    asked = []
    for robot in (GR1, TWO_PANDAS):
        _, view = views[robot.name]
        copy = shutil.copytree(view, tmp_path / robot.name)
        shown = read(view, "modality.json")["video"]
        cameras = {
            name: candidates for name, candidates in layout_of(robot.lerobot_type).views.items() if name in shown
        }
        place = {
            name: CAMERAS[robot.name].index(next(c for c in cs if c in CAMERAS[robot.name]))
            for name, cs in cameras.items()
        }
        asked.append(
            {
                "root": str(copy),
                "numbers": {
                    name: [burned(e, row, c) for e, n in enumerate(LENGTHS) for row in range(n)]
                    for name, c in place.items()
                },
                "tasks": [f"take box {e % 2}" for e, n in enumerate(LENGTHS) for _ in range(n)],
                "actions": np.concatenate([rows_of(view, e)["action"] for e in range(3)]).tolist(),
            }
        )
    sets = []
    for robot in KINDS:
        root, view = views[robot.name]
        arms = tuple(robot.eefs) if len(robot.eefs) > 1 else ()
        sets.append(
            {
                "root": str(root),
                "valid": [e < 2 for e, n in enumerate(LENGTHS) for _ in range(n)],
                "arms": {eef: [("reach", f"lift_{eef}")[row > 0] for n in LENGTHS for row in range(n)] for eef in arms},
                "commands": {
                    title.removeprefix("lerobot 0.4.4, "): shlex.join(words)
                    for title, words in kit_commands(view).items()
                    if title.startswith("lerobot")
                },
            }
        )
    found = run_in_lerobot("lerobot_convert.py", {"views": asked, "sets": sets}, tmp_path)
    assert [len(one["cameras"]) for one in found["sets"]] == [len(CAMERAS[robot.name]) for robot in KINDS]
    assert "left_arm" in found["sets"][0]["action"]
    seen = found["views"]
    assert [one["frames"] for one in seen] == [sum(LENGTHS)] * 2
    assert seen[0]["state"] == [44]
    assert "annotation.human.validity" in seen[0]["annotations"]
    assert {"min", "max", "mean", "std", "count"} <= set(seen[0]["stats"])
    for one in asked:  # what lerobot itself wrote can be had back, row for row and frame for frame
        converted, copy = Path(one["root"]), tmp_path / f"back from {Path(one['root']).name}"
        _, left_out = import_set(converted, copy)
        assert left_out == {}
        before, after = ([*foreign_episodes(root)] for root in (views[converted.name][1], copy))
        for theirs, ours in zip(before, after, strict=True):
            assert theirs.columns.keys() == ours.columns.keys()
            assert all(np.array_equal(values, ours.columns[name]) for name, values in theirs.columns.items())
            for camera, film in theirs.films.items():
                shown = zip(decode(film.path), decode(ours.films[camera].path), strict=True)
                assert all(np.array_equal(one, other) for one, other in shown)
