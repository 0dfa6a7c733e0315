"""Converts GR00T views with lerobot's own v2.1 -> v3.0 converter and reads them; run by `.venv-lerobot/bin/python`.

argv[1] is a JSON file: {"views": [{"root", "numbers": {camera: [number per frame]}, "tasks": [...per frame],
"actions": [[...] per frame]}], "sets": [{"root", "valid": [...], "arms": {eef: [name per frame]}, "commands":
{policy: command}}]}. Each view is changed in place; sets are v3.0 as written, and commands those of their kits. Prints
one JSON line of what was seen; any disagreement is an AssertionError.
"""

from __future__ import annotations

import json
import logging
import shlex
import sys
import types
from pathlib import Path

import numpy as np
import pandas as pd

# See lerobot_judge.py: torchvision's wheel dies without CUDA operators, which nothing here needs.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402
from lerobot.datasets.utils import dataset_to_policy_features  # noqa: E402
from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset  # noqa: E402
from lerobot_judge import check_commands  # noqa: E402
from synthetic_pictures import number_in_frame  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

AHEAD = 16
"""Actions that most of these policies predict at once."""


def check(view: dict) -> dict:
    root = Path(view["root"])
    convert_dataset(repo_id=root.name, root=str(root.parent), push_to_hub=False)
    dataset = LeRobotDataset("judge/view", root=root, video_backend="torchcodec")
    assert dataset.num_frames == len(view["tasks"])
    for row in range(dataset.num_frames):
        item = dataset[row]
        assert item["task"] == view["tasks"][row], (row, item["task"])
        assert np.array_equal(item["action"].numpy(), np.array(view["actions"][row], np.float32)), row
        for camera, numbers in view["numbers"].items():
            picture = item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0)
            assert number_in_frame(picture) == numbers[row], (camera, row)
    return {
        "frames": dataset.num_frames,
        "annotations": sorted(name for name in dataset.features if name.startswith("annotation.")),
        "state": list(dataset.features["observation.state"]["shape"]),
        "stats": sorted(dataset.meta.stats["action"]),
    }


def check_set(case: dict) -> dict:
    """What a v3.0 set says of every row beside state and action: valid or not, and what each arm is doing."""
    root = Path(case["root"])
    dataset = LeRobotDataset("judge/set", root=root, video_backend="torchcodec")
    names = {eef: list(pd.read_parquet(root / f"meta/subtasks.{eef}.parquet").index) for eef in case["arms"]}
    rows = dataset.hf_dataset
    assert [bool(valid) for valid in rows["annotation.valid"]] == case["valid"]
    for eef, wanted in case["arms"].items():
        assert [names[eef][int(i)] for i in rows[f"subtask_index.{eef}"]] == wanted
    modality = json.loads((root / "meta/modality.json").read_text())
    for entries in (modality["state"], modality["action"]):
        for key, entry in entries.items():
            part = dataset[0][entry["original_key"]][entry["start"] : entry["end"]]
            assert len(part) == entry["end"] - entry["start"] > 0, key
    item = dataset[len(dataset) - 1]
    check_commands(case["commands"])
    told = [flags_of(command) for command in case["commands"].values()]
    for flags in told:
        assert flags["dataset.root"] == told[0]["dataset.root"]
        assert set(json.loads(flags.get("rename_map", "{}"))) <= set(dataset.meta.camera_keys), flags
    load_as_told(told[0])
    return {
        "cameras": [list(item[key].shape) for key in dataset.meta.camera_keys],
        "action": sorted(modality["action"]),
    }


def flags_of(command: str) -> dict[str, str]:
    return dict(flag.removeprefix("--").split("=", 1) for flag in shlex.split(command)[1:])


def load_as_told(flags: dict[str, str]) -> None:
    """Read a batch of what a training command names: every input and output of a policy, and how to normalise it."""
    root = Path(flags["dataset.root"])
    fps = json.loads((root / "meta/info.json").read_text())["fps"]
    ahead = {"action": [i / fps for i in range(AHEAD)]}
    dataset = LeRobotDataset(flags["dataset.repo_id"], root=root, video_backend="torchcodec", delta_timestamps=ahead)
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    for name, feature in dataset_to_policy_features(dataset.meta.features).items():
        shape = (AHEAD, *feature.shape) if name == "action" else feature.shape
        assert tuple(batch[name].shape) == (2, *shape), (name, batch[name].shape, shape)
        assert {"mean", "std", "min", "max"} <= set(dataset.meta.stats[name]), name


def main() -> None:
    logging.disable(logging.INFO)
    request = json.loads(Path(sys.argv[1]).read_text())
    seen = {
        "sets": [check_set(case) for case in request["sets"]],
        "views": [check(view) for view in request["views"]],
    }
    sys.stdout.write("\n" + json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
