"""Command lines that train policies on a finished dataset with lerobot 0.4.4."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory import lerobot
from factory.dataset_reading import Dataset, open_dataset
from factory.gr00t_layouts import LAYOUTS

# The camera names the published base models were trained with, in the order their configurations list them.
_BASE_CAMERAS = {
    "smolvla": ("camera1", "camera2", "camera3"),
    "pi0": ("base_0_rgb", "left_wrist_0_rgb", "right_wrist_0_rgb"),
}


@dataclass(frozen=True, kw_only=True)
class Training:
    """How to train on a dataset.

    Attributes:
        inputs: column name -> shape of one row, as a policy sees it (pictures height, width, channels).
        outputs: likewise for what a policy predicts.
        ignored: columns that policies leave alone.
        commands: policy name -> one shell command line.
    """

    inputs: Mapping[str, tuple[int, ...]]
    outputs: Mapping[str, tuple[int, ...]]
    ignored: tuple[str, ...]
    commands: Mapping[str, str]


def training_commands(root: Path, *, repo_id: str = "local/dataset") -> Training:
    """Return what policies read and write, and command lines that train ACT, diffusion, SmolVLA, pi0 and GR00T.

    lerobot takes every column that starts with "observation" as an input and every one that starts with "action" as
    an output; the others are left alone. `repo_id` is only a name while `--dataset.root` points at the folder.
    Policies that need pictures are left out for a dataset without any.
    """
    dataset = open_dataset(root)
    shapes = {name: tuple(feature["shape"]) for name, feature in dataset.features.items()}
    common = {
        "dataset.repo_id": repo_id,
        "dataset.root": str(root),
        "policy.push_to_hub": "false",
        "policy.device": "cuda",
    }
    settings: dict[str, dict[str, str]] = {}
    if dataset.cameras:
        size = min(min(shapes[lerobot.video_key(camera)][:2]) for camera in dataset.cameras)
        settings = {
            "act": {"policy.type": "act", "batch_size": "8", "steps": "100000"},
            "diffusion": {
                "policy.type": "diffusion",
                # The default crop of 84 pixels fits 96-pixel pictures; keep its share of the picture.
                "policy.crop_shape": json.dumps([size * 7 // 8] * 2),
                "batch_size": "64",
                "steps": "200000",
            },
            "smolvla": {
                "policy.path": "lerobot/smolvla_base",
                "rename_map": _rename("smolvla", dataset),
                "batch_size": "64",
                "steps": "20000",
            },
            "pi0": {
                "policy.type": "pi0",
                "policy.pretrained_path": "lerobot/pi0_base",
                "policy.dtype": "bfloat16",
                "policy.gradient_checkpointing": "true",
                "rename_map": _rename("pi0", dataset),
                "batch_size": "32",
                "steps": "3000",
            },
            "groot": {
                "policy.type": "groot",
                "policy.base_model_path": "nvidia/GR00T-N1.5-3B",
                "policy.embodiment_tag": "new_embodiment",
                # What N1.5 predicts at once.
                "policy.chunk_size": "16",
                "policy.n_action_steps": "16",
                "batch_size": "32",
                "steps": "20000",
            },
        }
    return Training(
        inputs={name: shape for name, shape in shapes.items() if name.startswith("observation")},
        outputs={name: shape for name, shape in shapes.items() if name.startswith("action")},
        ignored=tuple(name for name in shapes if not name.startswith(("observation", "action"))),
        commands={name: _command(name, {**common, **flags}) for name, flags in settings.items()},
    )


def _rename(policy: str, dataset: Dataset) -> str:
    """Map our cameras to the names the base model knows, first to first; further cameras keep theirs.

    What is seen of the whole scene comes first, then the left wrist, then the right one: a base model that knows which
    wrist is which must not be shown the other.
    """
    layout = LAYOUTS.get(dataset.robot_type)
    sides = [layout.views.get(f"{side}_wrist_view", ()) if layout else () for side in ("left", "right")]
    wrists = [camera for known in sides for camera in known if camera in dataset.cameras]
    cameras = [*(camera for camera in dataset.cameras if camera not in wrists), *wrists]
    pairs = zip(cameras, _BASE_CAMERAS[policy], strict=False)
    return json.dumps({lerobot.video_key(ours): lerobot.video_key(theirs) for ours, theirs in pairs})


def _command(name: str, flags: Mapping[str, Any]) -> str:
    parts = [f"--{flag}={value}" for flag, value in {**flags, "output_dir": f"outputs/train/{name}"}.items()]
    return shlex.join(["lerobot-train", *parts])
