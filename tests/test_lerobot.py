"""The real consumer judges: lerobot reads what we write, frame by frame, with its own decoder and loader."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.dataset_reading import read_episodes
from factory.datasets import write_dataset
from factory.specs import EXTRAS
from factory.training import training_commands
from tests.lerobot_links import link_ffmpeg
from tests.synthetic import burned, make_attempts, make_shards

pytestmark = pytest.mark.lerobot

REPOSITORY = Path(__file__).parent.parent
PYTHON = REPOSITORY / ".venv-lerobot" / "bin" / "python"
LENGTHS = (5, 8, 6, 7)
CAMERAS = ("agentview", "wrist")


def judge(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """Run the judge in lerobot's own environment; its last line is what it saw."""
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is missing; make an environment with lerobot 0.4.4 there to run this test")
    libraries = sorted((PYTHON.parent.parent / "lib").glob("python3*/site-packages/av.libs"))
    (folder / "request.json").write_text(json.dumps(request))
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": link_ffmpeg(libraries[0], folder / "links"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [str(PYTHON), str(REPOSITORY / "tests" / "lerobot_judge.py"), str(folder / "request.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


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
    return judge(
        folder,
        {"datasets": [case(root) for root in roots], "merged": str(folder / "merged"), "commands": commands},
    )


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
