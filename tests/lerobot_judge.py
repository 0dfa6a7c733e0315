"""Reads datasets with the real lerobot package; run by `.venv-lerobot/bin/python`, never by pytest.

argv[1] is a JSON file: {"datasets": [{"root", "numbers": {camera: [number per frame]}, "tasks": [...per frame],
"subtasks": [...per frame], "actions": [[...] per frame]}], "merged": folder to make, "commands": {policy: command}}.
Prints one JSON line of what was seen; any disagreement is an AssertionError.
"""

from __future__ import annotations

import ast
import json
import logging
import shlex
import sys
import types
from pathlib import Path

import numpy as np

# torchvision's PyPI wheel registers CUDA operators while it is imported and dies without them. Video decoding, which is
# what is judged here, does not pass through torchvision.
sys.modules["torchvision._meta_registrations"] = types.ModuleType("torchvision._meta_registrations")

import lerobot  # noqa: E402
from lerobot.datasets.dataset_tools import merge_datasets  # noqa: E402
from lerobot.datasets.lerobot_dataset import LeRobotDataset  # noqa: E402
from lerobot.datasets.utils import dataset_to_policy_features  # noqa: E402
from synthetic_pictures import number_in_frame  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


def open_dataset(case: dict, **options) -> LeRobotDataset:
    return LeRobotDataset("judge/synthetic", root=case["root"], video_backend="torchcodec", **options)


def check_camera(case: dict, camera: str) -> int:
    """Every frame of one camera, through worker processes, is the frame its row says."""
    dataset = open_dataset(case)
    seen = 0
    for batch in DataLoader(dataset, batch_size=4, shuffle=False, num_workers=1):
        for k in range(len(batch["index"])):
            row = int(batch["index"][k])
            assert row == seen, (row, seen)
            picture = batch[f"observation.images.{camera}"][k].numpy()
            assert picture.dtype == np.float32
            number = number_in_frame(picture.transpose(1, 2, 0))
            assert number == case["numbers"][camera][row], (camera, row, number, case["numbers"][camera][row])
            if camera == min(case["numbers"]):
                assert batch["task"][k] == case["tasks"][row], (row, batch["task"][k])
                assert batch["subtask"][k] == case["subtasks"][row], (row, batch["subtask"][k])
                assert np.array_equal(batch["action"][k].numpy(), np.array(case["actions"][row], np.float32)), row
            seen += 1
    assert seen == len(case["tasks"]) == dataset.num_frames
    return seen


def check_windows(case: dict) -> None:
    """delta_timestamps returns neighbours within the episode and says where it padded."""
    camera = min(case["numbers"])
    key, fps = f"observation.images.{camera}", 20
    dataset = open_dataset(case, delta_timestamps={key: [-1 / fps, 0.0], "action": [0.0, 1 / fps, 2 / fps]})
    first = 0
    for episode in dataset.meta.episodes:
        stop = first + episode["length"]
        for row in (first, first + 1, stop - 1):
            item = dataset[row]
            numbers = [number_in_frame(picture.numpy().transpose(1, 2, 0)) for picture in item[key]]
            rows = [max(first, row - 1), row]
            assert numbers == [case["numbers"][camera][r] for r in rows], (row, numbers)
            assert item[f"{key}_is_pad"].tolist() == [row == first, False]
            wanted = [case["actions"][min(stop - 1, row + k)] for k in range(3)]
            assert np.array_equal(item["action"].numpy(), np.array(wanted, np.float32)), row
            assert item["action_is_pad"].tolist() == [row + k >= stop for k in range(3)]
        first = stop


def check_merged(cases: list[dict], folder: Path) -> int:
    """lerobot's own merge accepts the datasets, and what it makes reads back."""
    merged = merge_datasets([open_dataset(case) for case in cases], "judge/merged", folder)
    del merged
    dataset = LeRobotDataset("judge/merged", root=folder, video_backend="torchcodec")
    row = 0
    for case in cases:
        for own, task in enumerate(case["tasks"]):
            item = dataset[row]
            assert item["task"] == task, (row, item["task"], task)
            for camera, numbers in case["numbers"].items():
                picture = item[f"observation.images.{camera}"].numpy().transpose(1, 2, 0)
                assert number_in_frame(picture) == numbers[own], (camera, row)
            row += 1
    assert row == dataset.num_frames
    return row


def check_part(case: dict) -> None:
    """Two of the episodes can be read without the others."""
    dataset = open_dataset(case, episodes=[0, 2])
    lengths = [episode["length"] for episode in dataset.meta.episodes]
    assert len(dataset) == lengths[0] + lengths[2]
    camera = min(case["numbers"])
    picture = dataset[lengths[0]][f"observation.images.{camera}"].numpy().transpose(1, 2, 0)
    assert number_in_frame(picture) == case["numbers"][camera][lengths[0] + lengths[1]]


def fields_of(path: str, name: str) -> set[str]:
    """Return the fields of a dataclass of lerobot, read from its source: importing it needs every robot's driver."""
    tree = ast.parse((Path(lerobot.__file__).parent / path).read_text())
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return {field.target.id for field in found.body if isinstance(field, ast.AnnAssign)}


def check_commands(commands: dict[str, str]) -> None:
    """Every flag of every command is a field that this lerobot knows."""
    classes = {
        "act": "ACTConfig",
        "diffusion": "DiffusionConfig",
        "smolvla": "SmolVLAConfig",
        "pi0": "PI0Config",
        "groot": "GrootConfig",
    }
    for policy, command in commands.items():
        program, *flags = shlex.split(command)
        assert program == "lerobot-train"
        known = {
            "": fields_of("configs/train.py", "TrainPipelineConfig"),
            "dataset": fields_of("configs/default.py", "DatasetConfig"),
            "policy": fields_of("configs/policies.py", "PreTrainedConfig")
            | fields_of(f"policies/{policy}/configuration_{policy}.py", classes[policy])
            | {"path", "type"},
        }
        for flag in flags:
            group, _, name = flag.removeprefix("--").partition("=")[0].rpartition(".")
            assert name in known[group], (policy, flag)


def main() -> None:
    logging.disable(logging.INFO)
    request = json.loads(Path(sys.argv[1]).read_text())
    frames = 0
    cases = request["datasets"]
    for camera in cases[0]["numbers"]:
        frames += check_camera(cases[0], camera)
    check_windows(cases[0])
    check_part(cases[0])
    check_commands(request["commands"])
    metadata = open_dataset(cases[0]).meta
    features = dataset_to_policy_features(metadata.features)
    merged = check_merged(cases, Path(request["merged"])) if request["merged"] else 0
    seen = {
        "frames": frames,
        "merged": merged,
        "policy_features": {name: [feature.type.value, list(feature.shape)] for name, feature in features.items()},
        "stats": {
            name: {k: np.shape(v) for k, v in stats.items()}
            for name, stats in metadata.stats.items()
            if "/" not in name
        },
        "tasks": list(metadata.tasks.index),
        "subtasks": list(metadata.subtasks.index),
    }
    sys.stdout.write(json.dumps(seen) + "\n")


if __name__ == "__main__":
    main()
