"""A clean copy of a LeRobot set made elsewhere: the same values and frames, counted, numbered and described anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
from av.error import FFmpegError

from factory import lerobot
from factory.durable import rename_into_place, staging
from factory.errors import DatasetError
from factory.foreign import ADDED, ANNOTATION, ForeignEpisode, foreign_episodes, read_info, read_modality
from factory.foreign_findings import ForeignSet, look
from factory.lerobot_v21 import Footage, Rows, video_feature, write_set


def import_set(root: Path, out: Path) -> tuple[ForeignSet, tuple[int, ...]]:
    """Write a clean copy of a set to the folder `out`, LeRobot v2.1; return what was found, and which episodes lack.

    Counts, indices, time stamps (from 0), features and statistics are made anew, floats become float32; values,
    texts, `meta/modality.json` and encoded frames stay what they are. Episodes whose videos do not have one frame for
    each row are left out. The folder appears complete or not at all.

    Raises:
        DatasetError: `out` exists, or the set cannot be read.
    """
    if out.exists():
        raise DatasetError(f"{out} already exists; choose another folder or remove it first")
    found = look(root)
    missing: list[int] = []

    def rows() -> Iterator[Rows]:
        for episode in foreign_episodes(root):
            whole = all(film.frames in (-1, len(episode)) for film in episode.films.values())
            if whole and set(episode.films) == set(found.cameras):
                yield _rows(episode, found.tasks)
            else:
                missing.append(episode.index)

    try:
        with staging(out) as folder:
            write_set(
                folder,
                rows(),
                robot_type=found.robot_type,
                fps=found.fps,
                names=_names(root, found),
                cameras={
                    lerobot.video_key(camera): video_feature(
                        height=picture.height, width=picture.width, fps=found.fps, codec=picture.codec
                    )
                    for camera, picture in found.cameras.items()
                },
                modality=read_modality(root),
                relative={},
                horizon=1,
            )
            if not rename_into_place(folder, out):
                raise DatasetError(f"{out} was made by someone else in the meantime; nothing was written")
    except (OSError, FFmpegError) as error:
        raise DatasetError(f"{out} was not written: {error}; the unfinished folder was removed") from error
    return found, tuple(missing)


def _rows(episode: ForeignEpisode, tasks: Mapping[int, str]) -> Rows:
    texts = {
        name.removeprefix(ANNOTATION): [tasks.get(int(i), f"text {i}") for i in values]
        for name, values in episode.columns.items()
        if name.startswith(ANNOTATION) and values.dtype.kind in "iu"
    }
    kept = {
        name: values.astype(np.float32) if values.dtype.kind == "f" else values
        for name, values in episode.columns.items()
        if name not in ADDED and name.removeprefix(ANNOTATION) not in texts
    }
    number = episode.columns.get("task_index")
    return Rows(
        columns=kept,
        annotations=texts,
        instruction="" if number is None else tasks.get(int(number[0]), f"text {number[0]}"),
        footage={
            lerobot.video_key(camera): Footage(path=film.path, first=film.first, alone=film.alone)
            for camera, film in episode.films.items()
        },
    )


def _names(root: Path, found: ForeignSet) -> dict[str, list[str]]:
    features: Mapping[str, Any] = read_info(root)[0].get("features", {})
    names: dict[str, list[str]] = {}
    for name, (_, shape) in found.columns.items():
        called = features.get(name, {}).get("names")
        if shape and isinstance(called, list) and len(cast("list[Any]", called)) == shape[0]:
            names[name] = [str(one) for one in cast("list[Any]", called)]
    return names
