"""The real consumer judges: lerobot reads what we write, frame by frame, with its own decoder and loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.dataset_reading import read_episodes
from factory.datasets import write_dataset
from factory.specs import EXTRAS
from factory.training import training_commands
from tests.lerobot_runs import run_in_lerobot
from tests.synthetic import burned, make_attempts, make_shards

pytestmark = pytest.mark.lerobot

LENGTHS = (5, 8, 6, 7)
CAMERAS = ("agentview", "wrist")


def case(root: Path) -> dict[str, Any]:
    """Return what the judge should find in a dataset, from the shards' side."""
    episodes = list(read_episodes(root))
    return {
        "root": str(root),
        "numbers": {
            camera: [burned(e, row, c) for e, episode in enumerate(episodes) for row in range(len(episode))]
            for c, camera in enumerate(CAMERAS)
        },
        "tasks": [episode.instruction for episode in episodes for _ in range(len(episode))],
        "subtasks": [e.subtasks[int(i)] for e in episodes for i in e.columns["subtask_index"].values],
        "actions": np.concatenate([e.columns["action"].values for e in episodes]).tolist(),
    }


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("judge")
    roots = []
    for number in range(2):
        shards = make_shards(folder / f"shards{number}", LENGTHS, cameras=CAMERAS, seed=number, extras=EXTRAS)
        root = folder / f"dataset{number}"
        with pytest.MonkeyPatch.context() as patch:
            if number == 0:  # cut this one into several files, of data and of each camera
                patch.setattr("factory.datasets.MB", 24)
            write_dataset(
                root, shards, robot_type="panda", job={"n": number}, attempts=make_attempts([0, 2, 4, 6], [1])
            )
        roots.append(root)
    assert len(list(roots[0].glob("videos/*/*/*.mp4"))) >= 2 * len(CAMERAS)
    assert len(list(roots[1].glob("videos/*/*/*.mp4"))) == len(CAMERAS)
    assert len(list(roots[1].glob("extras/*/*/*.parquet"))) == len(CAMERAS) * len(EXTRAS)  # lerobot passes them over
    commands = dict(training_commands(roots[0]).commands)
    request = {"datasets": [case(root) for root in roots], "merged": str(folder / "merged"), "commands": commands}
    return run_in_lerobot("lerobot_judge.py", request, folder)


def test_every_frame_of_every_camera_is_the_frame_of_its_row(verdict: dict[str, Any]) -> None:
    assert verdict["frames"] == len(CAMERAS) * sum(LENGTHS)
    assert verdict["merged"] == 2 * sum(LENGTHS)


def test_policies_take_state_and_pictures_and_give_the_action_and_nothing_else(verdict: dict[str, Any]) -> None:
    assert verdict["policy_features"] == {
        "observation.state": ["STATE", [3]],
        "action": ["ACTION", [4]],
        "observation.images.agentview": ["VISUAL", [3, 64, 64]],
        "observation.images.wrist": ["VISUAL", [3, 64, 64]],
    }


def test_names_and_statistics_arrive(verdict: dict[str, Any]) -> None:
    assert verdict["tasks"] == ["lift the cube", "pick up the cube"]
    assert verdict["subtasks"] == ["reach", "lift"]
    shapes = verdict["stats"]["observation.images.wrist"]
    assert shapes["q99"] == [3, 1, 1]
    assert shapes["count"] == [1]
    assert verdict["stats"]["action"]["std"] == [4]
