"""Examples on disk: judged clips of one task a file, there entirely or not at all, so that playing them can go on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from dreams.examples import Example
from dreams.timebase import TimeBase
from dreams.views import Frames, Grid
from factory import durable
from factory.errors import DatasetError, SpecError

_SUFFIX = ".safetensors"


def keep_examples(folder: Path, name: str, examples: Sequence[Example], grid: Grid, time: TimeBase) -> None:
    """Write examples under a name. Raises SpecError where there is none: an empty file would say they were made."""
    if not examples:
        raise SpecError(f"{folder / name}: no example to keep")
    folder.mkdir(parents=True, exist_ok=True)
    said = {
        "grid": json.dumps(asdict(grid)),
        "time": json.dumps(asdict(time)),
        "examples": json.dumps(
            [
                {
                    "instruction": e.instruction,
                    "follows": e.follows,
                    "kind": e.kind,
                    "events": dict(e.events),
                    "things": e.things,
                    "targets": e.targets,
                    "where": {name: at.tolist() for name, at in e.where.items()},
                }
                for e in examples
            ]
        ),
    }
    with durable.staging(folder / name) as staged:
        save_file({"frames": np.stack([example.frames for example in examples])}, staged / name, metadata=said)
        (staged / name).replace(folder / (name + _SUFFIX))


def kept_examples(folder: Path) -> set[str]:
    """Return the names in a folder; none where there is no folder."""
    return {path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}")}


def read_examples(folder: Path) -> tuple[list[Example], Grid, TimeBase]:
    """Return a folder's examples in the order of their names, how their pictures are laid out, and their clock.

    Raises:
        DatasetError: there is none, one is damaged, or they are of several grids or clocks.
    """
    found: list[Example] = []
    shapes: set[tuple[Grid, TimeBase]] = set()
    for path in sorted(folder.glob(f"*{_SUFFIX}")):
        try:
            with safe_open(path, "np") as file:
                said: dict[str, Any] = {key: json.loads(value) for key, value in (file.metadata() or {}).items()}
                frames = file.get_tensor("frames")
            grid = Grid(**(said["grid"] | {"views": tuple(said["grid"]["views"])}))
            shapes.add((grid, TimeBase(**said["time"])))
            found += [_example(each, record) for each, record in zip(frames, said["examples"], strict=True)]
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} holds no examples: {error!r}") from error
    if len(shapes) != 1:
        raise DatasetError(
            f"{folder} has examples of {len(shapes)} layouts and clocks, expected one; `factory dream play` makes them"
        )
    grid, time = shapes.pop()
    return found, grid, time


def _example(frames: Frames, said: dict[str, Any]) -> Example:
    where = {name: np.array(at, np.float32) for name, at in said["where"].items()}
    said = said | {"things": tuple(said["things"]), "targets": tuple(said["targets"]), "where": where}
    return Example(frames=frames, **said)
