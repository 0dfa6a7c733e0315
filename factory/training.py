"""Command lines that train policies on a finished dataset: with lerobot 0.4.4, and with GR00T's own scripts.

A GR00T view carries them as a kit, with the configuration that tells GR00T N1.6 and later which keys there are.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factory import lerobot
from factory.dataset_reading import open_dataset
from factory.durable import make_parent
from factory.gr00t_layouts import Layout

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
                "rename_map": _rename("smolvla", dataset.cameras),
                "batch_size": "64",
                "steps": "20000",
            },
            "pi0": {
                "policy.type": "pi0",
                "policy.pretrained_path": "lerobot/pi0_base",
                "policy.dtype": "bfloat16",
                "policy.gradient_checkpointing": "true",
                "rename_map": _rename("pi0", dataset.cameras),
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


def _rename(policy: str, cameras: tuple[str, ...]) -> str:
    """Map our cameras, in order, to the names the base model knows; further cameras keep theirs."""
    pairs = zip(cameras, _BASE_CAMERAS[policy], strict=False)
    return json.dumps({lerobot.video_key(ours): lerobot.video_key(theirs) for ours, theirs in pairs})


def _command(name: str, flags: Mapping[str, Any]) -> str:
    parts = [f"--{flag}={value}" for flag, value in {**flags, "output_dir": f"outputs/train/{name}"}.items()]
    return shlex.join(["lerobot-train", *parts])


# --- the kit of a GR00T view ------------------------------------------------------------------------------------------

KIT = "kit"
_CONFIG = f"{KIT}/gr00t_modality_config.py"


def write_kit(folder: Path, layout: Layout, *, source: Path, place: Path, views: Sequence[str], horizon: int) -> None:
    """Write `kit/` into a GR00T view: GR00T's modality configuration, and the commands that train on it.

    Args:
        folder: where the view is being made.
        layout: its keys.
        source: the dataset it shows.
        place: where the view will be.
        views: names of its cameras.
        horizon: actions predicted at once.
    """
    path = make_parent(folder / _CONFIG)
    path.write_text(modality_config(layout, views=views, horizon=horizon), encoding="utf-8")
    commands = gr00t_commands(layout, place, views=views)
    parts = ["# Fine-tuning on this dataset\n", "Steps, batch sizes and rates are starting points, not results.\n"]
    for title, command in {**commands, **_titled(training_commands(source).commands)}.items():
        parts.append(f"## {title}\n\n```sh\n{command}\n```\n")
    if missing := [view for view in layout.views if view not in views]:
        parts.append(
            f"GR00T's own configuration `{layout.data_config}` also wants the views {', '.join(missing)}, which no "
            "camera of this dataset shows; without them use the configuration in this folder.\n"
        )
    (folder / KIT / "README.md").write_text("\n".join(parts), encoding="utf-8")


def _titled(commands: Mapping[str, str]) -> dict[str, str]:
    return {f"lerobot 0.4.4, {policy}": command for policy, command in commands.items()}


def gr00t_commands(layout: Layout, place: Path, *, views: Sequence[str]) -> dict[str, str]:
    """Return which GR00T -> one command line that fine-tunes it on the view at `place`, from GR00T's own folder.

    N1 and N1.5 come with configurations of these keys; where the view lacks a camera that such a configuration names,
    there is no command for them.
    """
    tuned = {
        "base-model-path": "nvidia/GR00T-N1.7-3B",
        "dataset-path": str(place),
        "embodiment-tag": "NEW_EMBODIMENT",
        "modality-config-path": str(place / _CONFIG),
        "num-gpus": "1",
        "output-dir": "outputs/gr00t-n1.7",
        "max-steps": "20000",
        "save-steps": "2000",
        "global-batch-size": "32",
    }
    commands = {"GR00T N1.7": _gr00t(["uv", "run", "python", "gr00t/experiment/launch_finetune.py"], tuned)}
    if all(view in views for view in layout.views):
        built_in = {
            "dataset-path": str(place),
            "data-config": layout.data_config,
            "embodiment-tag": layout.embodiment_tag,
            "num-gpus": "1",
            "output-dir": "outputs/gr00t-n1.5",
            "max-steps": "20000",
            "batch-size": "16",
        }
        commands["GR00T N1.5"] = _gr00t(["python", "scripts/gr00t_finetune.py"], built_in)
    return commands


def _gr00t(program: list[str], flags: Mapping[str, str]) -> str:
    return shlex.join([*program, *(word for flag, value in flags.items() for word in (f"--{flag}", value))])


def modality_config(layout: Layout, *, views: Sequence[str], horizon: int) -> str:
    """Return the Python file that registers these keys with GR00T N1.6 and later.

    Arms are trained on joint positions relative to the present ones, hands and grippers on their commands.
    """
    state = [part.key for part in layout.state if part.relative or part.is_hand]
    action = [part for part in layout.action if part.relative or part.is_hand]
    forms = [
        f"            ActionConfig(  # {part.key}\n"
        f"                rep=ActionRepresentation.{'RELATIVE' if part.relative else 'ABSOLUTE'},\n"
        "                type=ActionType.NON_EEF,\n"
        "                format=ActionFormat.DEFAULT,\n"
        "            ),\n"
        for part in action
    ]
    language = f"annotation.{layout.task_annotations[0]}"
    return (
        '"""Modalities of this dataset, for `--modality-config-path` of GR00T\'s launch_finetune.py."""\n\n'
        "from gr00t.configs.data.embodiment_configs import register_modality_config\n"
        "from gr00t.data.embodiment_tags import EmbodimentTag\n"
        "from gr00t.data.types import ActionConfig, ActionFormat, ActionRepresentation, ActionType, ModalityConfig\n\n"
        "CONFIG = {\n"
        f'    "video": ModalityConfig(delta_indices=[0], modality_keys={json.dumps(list(views))}),\n'
        f'    "state": ModalityConfig(delta_indices=[0], modality_keys={json.dumps(state)}),\n'
        '    "action": ModalityConfig(\n'
        f"        delta_indices=list(range({horizon})),\n"
        f"        modality_keys={json.dumps([part.key for part in action])},\n"
        "        action_configs=[\n" + "".join(forms) + "        ],\n"
        "    ),\n"
        f'    "language": ModalityConfig(delta_indices=[0], modality_keys=["{language}"]),\n'
        "}\n\n"
        "register_modality_config(CONFIG, embodiment_tag=EmbodimentTag.NEW_EMBODIMENT)\n"
    )
