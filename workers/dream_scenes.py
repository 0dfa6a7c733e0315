"""What the scenes of the tabletop say of a clip beside its pictures: what else lies there, and where it is seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreams.timebase import TimeBase
from dreams.views import Grid
from factory.foreign import foreign_episodes
from factory.parts import CameraSpec
from sim_tasks.tasks import tabletop
from sim_tasks.tasks.tabletop_events import MOVED, TARGETS

_OBJECT = "sim.object."
"""Columns of a dataset that say where an object is: metres in the world, then its turn."""
_BY_SENTENCE = {task.instruction: name for name, task in tabletop.COMBINATIONS.items()}


def task_told(instruction: str) -> str | None:
    """Return the task of the family whose own sentence this is; None for any other sentence."""
    return _BY_SENTENCE.get(instruction)


def named(task: str) -> dict[str, str]:
    """Return the scene's objects in an instruction's words: "thing" -> "red cube", "target" -> "on the blue plate"."""
    things = {role: tabletop.phrases(task, thing=role)[0] for role in MOVED}
    return things | {role: tabletop.phrases(task, target=role)[2] for role in TARGETS}


def scene_words(task: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the scene's things and targets in words, as an `Example` has them."""
    called = named(task)
    return tuple(called[role] for role in MOVED), tuple(called[role] for role in TARGETS)


def seen_in(root: Path, grid: Grid, time: TimeBase) -> dict[int, dict[str, NDArray[np.float32]]]:
    """Return where the objects of each episode are seen: episode -> role -> ``(time.frames, 2)``, see `Example.where`.

    Empty where the dataset does not say where objects are, or the pictures are not the family's one view.
    """
    if grid.views != (tabletop.VIEW,):
        return {}
    found: dict[int, dict[str, NDArray[np.float32]]] = {}
    for episode in foreign_episodes(root):
        if len(episode) - 1 > time.steps:
            continue
        rows = time.rows(len(episode) - 1)
        columns = {role: episode.columns.get(_OBJECT + role) for role in (*MOVED, *TARGETS)}
        found[episode.index] = {
            role: in_picture(column[rows, :3].astype(np.float64), tabletop.DREAM_VIEW, grid.width_px / grid.height_px)
            for role, column in columns.items()
            if column is not None
        }
    return found


def in_picture(position_m: NDArray[np.float64], camera: CameraSpec, aspect: float) -> NDArray[np.float32]:
    """Return where points ``(n, 3)`` of the camera's parent frame are seen, ``(n, 2)``: x right, y down, borders at 1.

    A pinhole; `aspect` is the picture's width by its height. Points behind the camera are no business of a table's.
    """
    eye, up = np.array(camera.pos_m, np.float64), np.array(camera.up, np.float64)
    ahead = np.array(camera.look_at_m) - eye
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, up)
    right /= np.linalg.norm(right)
    away = position_m - eye
    depth = away @ ahead * math.tan(math.radians(camera.fovy_deg) / 2.0)
    across, down = away @ right / depth / aspect, away @ np.cross(ahead, right) / depth
    return np.stack([across, down], axis=1).astype(np.float32)


def seen_by_name(task: str, seen: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """Return the same by what objects are called in an instruction."""
    called = named(task)
    return {called[role]: at for role, at in seen.items()}
