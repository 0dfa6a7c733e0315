"""The fine-tuning kit in a GR00T view: which modalities there are, as GR00T wants to be told, and exact commands.

Commands name the sets by two shell variables, so that a kit stays right when its folder moves.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.durable import make_parent
from factory.gr00t_parts import Layout
from factory.training import training_commands

KIT = "kit"
CONFIG_PATH, COMMANDS_PATH = f"{KIT}/gr00t_modality_config.py", f"{KIT}/README.md"

_OPENING = """\
# Fine-tuning on this dataset

Steps, batch sizes and rates are starting points, not results. Once, in this folder:

```sh
VIEW=$(realpath ..)  # LeRobot v2.1, for GR00T's own scripts
DATASET={dataset}  # LeRobot v3.0, for lerobot
```

GR00T's commands are run in the folder of its repository; for N1.6 the base model is `nvidia/GR00T-N1.6-3B`.
`gr00t_modality_config.py` tells it which keys there are.
"""

_VIEW, _DATASET = '"$VIEW"', '"$DATASET"'


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
    config = modality_config(layout, views=views, horizon=horizon)
    make_parent(folder / CONFIG_PATH).write_text(config, encoding="utf-8")
    commands = {**gr00t_commands(layout, views=views), **_lerobot_commands(source)}
    parts = [_OPENING.format(dataset=_path_to(source, place))]
    parts += [f"## {title}\n\n```sh\n{command}\n```\n" for title, command in commands.items()]
    if missing := [view for view in layout.views if view not in views]:
        parts.append(
            f"GR00T N1.5's own configuration `{layout.data_config}` also wants the views {', '.join(missing)}, which "
            "no camera of this dataset shows; so there is no command for it.\n"
        )
    (folder / COMMANDS_PATH).write_text("\n".join(parts), encoding="utf-8")


def _path_to(source: Path, place: Path) -> str:
    """Return what the shell makes the dataset's path of: a neighbour is found wherever both are taken together."""
    source, place = source.resolve(), place.resolve()
    if source.parent == place.parent:
        return f"$(realpath ../../{shlex.quote(source.name)})"
    return shlex.quote(str(source))


def gr00t_commands(layout: Layout, *, views: Sequence[str]) -> dict[str, str]:
    """Return which GR00T -> one command line that fine-tunes it on the view at `$VIEW`.

    N1.5 comes with configurations of these keys; where the view lacks a camera that such a configuration names, there
    is no command for it.
    """
    tuned = {
        "base-model-path": "nvidia/GR00T-N1.7-3B",
        "dataset-path": _VIEW,
        "embodiment-tag": "NEW_EMBODIMENT",
        "modality-config-path": f"{_VIEW}/{CONFIG_PATH}",
        "num-gpus": "1",
        "output-dir": "outputs/gr00t-n1.7",
        "max-steps": "20000",
        "save-steps": "2000",
        "global-batch-size": "32",
    }
    commands = {"GR00T N1.7": _gr00t("uv run python gr00t/experiment/launch_finetune.py", tuned)}
    if all(view in views for view in layout.views):
        built_in = {
            "base-model-path": "nvidia/GR00T-N1.5-3B",
            "dataset-path": _VIEW,
            "data-config": layout.data_config,
            "embodiment-tag": layout.embodiment_tag,
            "num-gpus": "1",
            "output-dir": "outputs/gr00t-n1.5",
            "max-steps": "20000",
            "batch-size": "16",
        }
        commands["GR00T N1.5"] = _gr00t("python scripts/gr00t_finetune.py", built_in)
    return commands


def _gr00t(program: str, flags: Mapping[str, str]) -> str:
    return " ".join([program, *(f"--{flag} {value}" for flag, value in flags.items())])


def _lerobot_commands(source: Path) -> dict[str, str]:
    named = shlex.quote(f"--dataset.root={source}")
    commands = training_commands(source).commands
    return {
        f"lerobot 0.4.4, {policy}": command.replace(named, f"--dataset.root={_DATASET}")
        for policy, command in commands.items()
    }


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
