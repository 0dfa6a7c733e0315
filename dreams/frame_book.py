"""First frames on disk: a folder for each, there entirely or not at all, so that making them can go on where it ended.

frame-<hash of its name>/frame.json          everything but arrays, sealed with its own hash and those of the others
picture.png
state.safetensors   the snapshot's arrays, where the state is known
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from dreams.frames import FirstFrame
from dreams.instructions import Instruction
from dreams.prompts import KnownScene, Place, Thing
from dreams.views import Grid
from factory import durable
from factory.errors import DatasetError
from factory.sim import Snapshot

_FRAME, _PICTURE, _STATE = "frame.json", "picture.png", "state.safetensors"
_INTEGRATION = "integration"


def keep_frames(folder: Path, frames: Iterable[FirstFrame]) -> int:
    """Write each frame that is not there yet; return how many were written.

    Afterwards `read_frames` gives them back bit for bit. Killed at any moment, the folder holds whole frames only.
    """
    folder.mkdir(parents=True, exist_ok=True)
    durable.sweep(folder)
    return sum(_keep(folder, frame) for frame in frames)


def kept_names(folder: Path) -> set[str]:
    """Return the names of the frames in a folder, to be skipped by whoever makes more; none where there is no folder.

    Raises:
        DatasetError: one of them cannot be read.
    """
    return {_document(place)["name"] for place in folder.glob("frame-*")}


def read_frames(folder: Path) -> list[FirstFrame]:
    """Return a folder's frames in the order of their names, numbers in them counted as numbers.

    Raises:
        DatasetError: there is none, or one is not what was written.
    """
    found = [_read(place) for place in folder.glob("frame-*")]
    if not found:
        raise DatasetError(f"{folder} holds no first frames; `keep_frames` writes them")
    return sorted(found, key=lambda frame: [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in
                                            re.split(r"(\d+)", frame.name)])  # fmt: skip


def _place(folder: Path, name: str) -> Path:
    return folder / f"frame-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _keep(folder: Path, frame: FirstFrame) -> bool:
    place = _place(folder, frame.name)
    if place.exists():
        return False
    with durable.staging(place) as staged:
        Image.fromarray(frame.picture).save(staged / _PICTURE)
        files = [_PICTURE]
        if frame.state is not None:
            save_file(_arrays(frame.state), staged / _STATE)
            files.append(_STATE)
        document = {
            "name": frame.name,
            "source": frame.source,
            "grid": asdict(frame.grid),
            "model_sha": frame.model_sha,
            "task": frame.task,
            "robot": frame.robot,
            "instruction": frame.instruction,
            "placements": {key: value.tolist() for key, value in frame.placements.items()},
            "replayable": frame.replayable,
            "scene": None if frame.scene is None else asdict(frame.scene),
            "files": {name: durable.sha256_file(staged / name) for name in files},
        }
        (staged / _FRAME).write_bytes(durable.seal(document))
        return durable.rename_into_place(staged, place)


def _arrays(state: Snapshot) -> dict[str, NDArray[Any]]:
    parts = {f"controller/{k}": v for k, v in state.controller.items()}
    parts |= {f"overrides/{k}": v for k, v in state.overrides.items()}
    # `ascontiguousarray` would give a single number an axis.
    return {name: np.asarray(v, order="C") for name, v in {_INTEGRATION: state.integration, **parts}.items()}


def _document(place: Path) -> dict[str, Any]:
    try:
        return durable.unseal((place / _FRAME).read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"{place} is no whole first frame: {error}") from error


def _read(place: Path) -> FirstFrame:
    said = _document(place)
    try:
        for name, sha in said["files"].items():
            if durable.sha256_file(place / name) != sha:
                raise DatasetError(f"{place / name} is not what was written; make this frame again")
        with Image.open(place / _PICTURE) as image:
            picture = np.asarray(image.convert("RGB"), np.uint8)
        state = _state(load_file(place / _STATE)) if _STATE in said["files"] else None
        grid = said["grid"]
        return FirstFrame(
            name=said["name"],
            picture=picture,
            grid=Grid(**(grid | {"views": tuple(grid["views"])})),
            source=said["source"],
            state=state,
            model_sha=said["model_sha"],
            task=said["task"],
            robot=said["robot"],
            instruction=said["instruction"],
            placements={key: np.array(value, np.float64) for key, value in said["placements"].items()},
            replayable=said["replayable"],
            scene=None if said["scene"] is None else _scene(said["scene"]),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DatasetError(f"{place} is no first frame that can be read: {error}") from error


def _state(arrays: Mapping[str, NDArray[Any]]) -> Snapshot:
    def part(prefix: str) -> dict[str, NDArray[Any]]:
        return {name.removeprefix(prefix): v for name, v in arrays.items() if name.startswith(prefix)}

    return Snapshot(
        integration=arrays[_INTEGRATION], controller=part("controller/"), overrides=part("overrides/")
    )  # fmt: skip


def _scene(said: Mapping[str, Any]) -> KnownScene:
    def tuples(entry: Mapping[str, Any]) -> dict[str, Any]:
        return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}

    return KnownScene(
        things=tuple(Thing(**tuples(each)) for each in said["things"]),
        places=tuple(Place(**tuples(each)) for each in said["places"]),
        base_m=tuple(said["base_m"]),
        reach_m=tuple(said["reach_m"]),
        usual=tuple(Instruction(**each) for each in said["usual"]),
    )
