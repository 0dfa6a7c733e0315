"""A clean copy of a LeRobot set made elsewhere: the same values and frames, counted, numbered and described anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from av.error import FFmpegError

from factory import lerobot
from factory.durable import rename_into_place, staging
from factory.errors import DatasetError
from factory.foreign import ADDED, ANNOTATION, ForeignEpisode, foreign_episodes
from factory.foreign_findings import kinds_of
from factory.foreign_meta import read_info, read_modality
from factory.foreign_set import ForeignSet, look
from factory.lerobot_v21 import Footage, Rows, video_feature, write_set


def import_set(root: Path, out: Path) -> tuple[ForeignSet, Mapping[int, str]]:
    """Write a clean copy of a set to the folder `out`, LeRobot v2.1; return what was found, and what was left out.

    The latter is episode -> why. Counts, indices, time stamps (from 0), features and statistics are made anew, floats
    become float32; values, texts, `meta/modality.json` and encoded frames stay what they are; the first task of an
    episode is its instruction.
    The folder appears complete or not at all.

    Raises:
        DatasetError: `out` exists, the set cannot be read, or no episode of it can be copied.
    """
    if out.exists():
        raise DatasetError(f"{out} already exists; choose another folder or remove it first")
    found = look(root)
    left_out: dict[int, str] = {}

    def rows() -> Iterator[Rows]:
        for episode in foreign_episodes(root):
            if why := _unfit(episode, found):
                left_out[episode.index] = why
            else:
                yield _rows(episode, found.tasks)

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
                modality=read_modality(root).said,
                relative={},
                horizon=1,
            )
            if not rename_into_place(folder, out):
                raise DatasetError(f"{out} was made by someone else in the meantime; nothing was written")
    except (OSError, FFmpegError) as error:
        raise DatasetError(f"{out} was not written: {error}; the unfinished folder was removed") from error
    return found, left_out


def _unfit(episode: ForeignEpisode, found: ForeignSet) -> str:
    """Return why an episode cannot be copied, "" when it can."""
    if not len(episode):
        return "it has no rows"
    if other := sorted({name for name, _ in kinds_of(episode).items() ^ found.columns.items()}):
        return f"its columns are not those of the others: {', '.join(other)}"
    for name, values in episode.columns.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"column {name!r} is not finite"
    for camera in found.cameras:
        frames = episode.films[camera].frames if camera in episode.films else 0
        if frames != len(episode):
            return f"camera {camera!r} has {frames} frames for {len(episode)} rows"
    return ""


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


def _names(root: Path, found: ForeignSet) -> dict[str, tuple[str, ...]]:
    features = read_info(root).features
    return {name: features[name].names for name in found.columns if name in features and features[name].names}
