"""A finished dataset as GR00T reads it: LeRobot v2.1 with `meta/modality.json` and annotations.

Rows are laid out anew under GR00T's keys (see `gr00t_layouts`); pictures are those that were encoded once.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from av.error import FFmpegError

from factory import lerobot
from factory.dataset_checks import read_episodes_table
from factory.dataset_reading import Dataset, open_dataset, read_episodes
from factory.durable import rename_into_place, staging
from factory.errors import DatasetError
from factory.gr00t_layouts import Layout, layout_of
from factory.kit import write_kit
from factory.lerobot_v21 import Footage, Rows, video_feature, write_set
from factory.statistics import Statistics

HORIZON = 16
"""Actions that GR00T's configurations predict at once."""

VALIDITY = "human.validity"
_VALID, _INVALID = "valid", "invalid"

Clips = Callable[[int, str], Path | None]
"""Attempt index and camera -> the clip that was encoded for them, where it is still there."""


def export_gr00t(root: Path, out: Path, *, clips: Clips | None = None, horizon: int = HORIZON) -> Path:
    """Write a dataset's episodes to the folder `out` as GR00T reads them, and return `out`.

    Nothing is encoded or decoded. Clips of single episodes are hard links where `clips` knows them, or where a video
    of the dataset holds one episode alone; else their packets are copied out of the dataset's videos. The folder
    appears complete or not at all, with a fine-tuning kit in it.

    Args:
        root: a finished dataset.
        out: the folder to make.
        clips: where clips of single episodes may still be found.
        horizon: how many steps ahead `meta/relative_stats.json` looks.

    Raises:
        DatasetError: `out` exists, the robot has no keys in GR00T, there is no camera, or videos are not H.264.
    """
    if out.exists():
        raise DatasetError(f"{out} already exists; choose another folder or remove it first")
    facts = open_dataset(root)
    layout = layout_of(facts.robot_type)
    views = views_of(facts, layout)
    annotations = (*layout.task_annotations, VALIDITY)
    features = {view: lerobot.video_key(view) for view in views}
    slices = layout.slices()
    both = {part.key for part in layout.state if part.relative} & {part.key for part in layout.action if part.relative}
    names: dict[str, tuple[str, ...]] = {}
    for part in (*layout.state, *layout.action):
        names[part.column] = names.get(part.column, ()) + part.names
    try:
        with staging(out) as folder:
            write_set(
                folder,
                _episodes(facts, layout, views, clips),
                robot_type=facts.robot_type,
                fps=facts.fps,
                names=names,
                cameras={features[view]: _film(facts, camera) for view, camera in views.items()},
                modality=layout.modality(features, annotations),
                relative={key: (slices[f"state.{key}"], slices[f"action.{key}"]) for key in sorted(both)},
                horizon=horizon,
            )
            write_kit(folder, layout, source=root, place=out, views=list(views), horizon=horizon)
            if not rename_into_place(folder, out):
                raise DatasetError(f"{out} was made by someone else in the meantime; nothing was written")
    except (OSError, FFmpegError) as error:
        full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
        why = "the disk is full" if full else f"{type(error).__name__}: {error}"
        raise DatasetError(f"{out} was not written: {why}; the unfinished folder was removed") from error
    return out


def views_of(facts: Dataset, layout: Layout) -> dict[str, str]:
    """Return name of a view -> the camera that shows it; cameras that GR00T has no name for keep theirs.

    Raises DatasetError when there is no camera, or a camera is not H.264.
    """
    if not facts.cameras:
        raise DatasetError(
            f"{facts.root} has no pictures and GR00T needs some; draw them first: factory export {facts.root} "
            "--to lerobot --cameras NAMES --out DIR"
        )
    views: dict[str, str] = {}
    for view, candidates in layout.views.items():
        for camera in candidates:
            if camera in facts.cameras and camera not in views.values():
                views[view] = camera
                break
    views |= {camera: camera for camera in facts.cameras if camera not in views.values()}
    for camera in views.values():
        codec = facts.features[lerobot.video_key(camera)]["info"]["video.codec"]
        if codec != "h264":
            raise DatasetError(
                f"{facts.root}: videos of {camera!r} are {codec}, which GR00T's readers do not open; draw them again: "
                f"factory export {facts.root} --to lerobot --codec h264 --out DIR"
            )
    return views


def _film(facts: Dataset, camera: str) -> dict[str, Any]:
    height, width, _ = facts.features[lerobot.video_key(camera)]["shape"]
    return video_feature(height=height, width=width, fps=facts.fps)


def _episodes(facts: Dataset, layout: Layout, views: Mapping[str, str], clips: Clips | None) -> Iterator[Rows]:
    table = read_episodes_table(facts.root)
    crowd: dict[tuple[int, int], int] = {}
    for row in table:
        place = row["data/chunk_index"], row["data/file_index"]
        crowd[place] = crowd.get(place, 0) + 1
    stats = lerobot.read_picture_stats(facts.root, [lerobot.video_key(camera) for camera in views.values()])
    for row, episode, pictures in zip(table, read_episodes(facts.root), stats, strict=True):
        alone = crowd[row["data/chunk_index"], row["data/file_index"]] == 1
        footage: dict[str, Footage] = {}
        picture_stats: dict[str, Statistics] = {}
        for view, camera in views.items():
            key, feature = lerobot.video_key(camera), lerobot.video_key(view)
            own = None if clips is None else clips(episode.index, camera)
            footage[feature] = Footage(path=own, alone=True) if own else _footage(facts, row, key, alone=alone)
            picture_stats[feature] = pictures[key]
        columns = layout.columns(episode)
        yield Rows(
            columns={name: values for name, (_, values) in columns.items()},
            annotations={
                **dict.fromkeys(layout.task_annotations, episode.instruction),
                VALIDITY: _VALID if episode.success else _INVALID,
            },
            instruction=episode.instruction,
            footage=footage,
            picture_stats=picture_stats,
        )


def _footage(facts: Dataset, row: Mapping[str, Any], key: str, *, alone: bool) -> Footage:
    place = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index")}
    path = facts.root / lerobot.VIDEO_PATH.format(video_key=key, **place)
    return Footage(path=path, first=round(row[f"videos/{key}/from_timestamp"] * facts.fps), alone=alone)
