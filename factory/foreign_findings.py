"""What is in a LeRobot set made elsewhere, and what is sloppy in it. Nothing is believed that can be counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import lerobot, lerobot_v21
from factory.errors import DatasetError
from factory.foreign import (
    ADDED,
    ANNOTATION,
    ForeignEpisode,
    Picture,
    foreign_episodes,
    read_info,
    read_modality,
    read_picture,
    read_tasks,
)

_TOLERANCE_S = 1e-4
"""lerobot's own: how far a time stamp may be from its row's number / fps."""
_EASY_JUMP = 32
"""Frames between key frames above which a reader that jumps to a frame decodes many others first."""


@dataclass(frozen=True, kw_only=True)
class ForeignSet:
    """What was found in a set; counts are counted, not read from `info.json`.

    Attributes:
        root: its folder.
        version: "v2.0", "v2.1" or "v3.0".
        robot_type: as info.json says.
        fps: rows per second.
        lengths: rows of each episode.
        columns: column -> type and shape of one row, as stored.
        cameras: camera -> its pictures.
        tasks: texts by their number.
        findings: what is sloppy, one sentence each.
    """

    root: Path
    version: str
    robot_type: str
    fps: int
    lengths: tuple[int, ...]
    columns: Mapping[str, tuple[str, tuple[int, ...]]]
    cameras: Mapping[str, Picture]
    tasks: Mapping[int, str]
    findings: tuple[str, ...]


def look(root: Path) -> ForeignSet:
    """Read every row of a set, and what its videos say of themselves.

    Raises DatasetError when `root` is no LeRobot set of a known version, or a file of it cannot be read.
    """
    info, version = read_info(root)
    rate = Fraction(str(info.get("fps", 0)))
    if rate.denominator != 1 or rate < 1:
        raise DatasetError(f"{root}: {info.get('fps')} rows per second; a whole number is needed")
    fps, tasks = int(rate), read_tasks(root, version)
    findings = _Findings(info, fps, tasks)
    lengths: list[int] = []
    columns: dict[str, tuple[str, tuple[int, ...]]] = {}
    cameras: dict[str, Picture] = {}
    for episode in foreign_episodes(root):
        lengths.append(len(episode))
        for name, values in episode.columns.items():
            columns.setdefault(name, (values.dtype.name, values.shape[1:]))
        for camera, film in episode.films.items():
            if camera not in cameras:
                cameras[camera] = read_picture(film.path)
        findings.of_episode(episode)
    if not lengths:
        raise DatasetError(f"{root} holds no episode; data/chunk-*/ has no parquet file of layout {version}")
    findings.of_set(root, version, lengths, columns, cameras)
    return ForeignSet(
        root=root,
        version=version,
        robot_type=str(info.get("robot_type", "")),
        fps=fps,
        lengths=tuple(lengths),
        columns=columns,
        cameras=cameras,
        tasks=tasks,
        findings=tuple(findings.said),
    )


class _Findings:
    """What is sloppy in a set, collected while its episodes go by; a thing is said once, with how often it is so."""

    def __init__(self, info: Mapping[str, Any], fps: int, tasks: Mapping[int, str]) -> None:
        self.said: list[str] = []
        self._info, self._fps, self._tasks = info, fps, tasks
        self._often: dict[str, list[int]] = {}
        self._total = 0
        self._videos = 0
        self._low: dict[str, NDArray[Any]] = {}
        self._high: dict[str, NDArray[Any]] = {}

    def of_episode(self, episode: ForeignEpisode) -> None:
        """Note what is odd about one episode."""
        count = len(episode)
        frame = np.arange(count)
        columns = episode.columns
        time = columns.get("timestamp")
        if time is not None and abs(time[0]) > _TOLERANCE_S:
            self._note(f"time stamps begin at {time[0]:.3g} s, not 0: who goes by time sees a later frame", episode)
        if time is not None and (np.abs(time - time[0] - frame / self._fps) > _TOLERANCE_S).any():
            self._note(f"time stamps are not {1 / self._fps:g} s apart", episode)
        for name, wanted in (("frame_index", frame), ("index", self._total + frame)):
            if name in columns and (columns[name] != wanted).any():
                self._note(
                    f"{name} does not count from {wanted[0]}" if name == "frame_index" else f"{name} has gaps", episode
                )
        if "episode_index" in columns and (columns["episode_index"] != episode.index).any():
            self._note("episode_index is not the episode's", episode)
        if "task_index" in columns and len(set(columns["task_index"].tolist())) > 1:
            self._note("task_index changes within the episode", episode)
        for name, values in columns.items():
            self._numbers(name, values, episode)
        for camera, film in episode.films.items():
            self._videos += 1
            if film.frames not in (-1, count):
                self._note(f"camera {camera!r} has {film.frames - count:+d} frames beside the rows", episode)
        self._total += count

    def _numbers(self, name: str, values: NDArray[Any], episode: ForeignEpisode) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            self._note(f"column {name!r} is not finite", episode)
        if (name == "task_index" or name.startswith(ANNOTATION)) and values.dtype.kind in "iu":
            unknown = set(values.tolist()) - set(self._tasks)
            if unknown:
                self._note(f"{name} has {sorted(unknown)}, which the table of tasks does not", episode)
        if values.ndim == 2:
            low, high = values.min(0), values.max(0)
            self._low[name] = np.minimum(self._low[name], low) if name in self._low else low
            self._high[name] = np.maximum(self._high[name], high) if name in self._high else high

    def _note(self, sentence: str, episode: ForeignEpisode) -> None:
        self._often.setdefault(sentence, []).append(episode.index)

    def of_set(
        self,
        root: Path,
        version: str,
        lengths: Sequence[int],
        columns: Mapping[str, tuple[str, tuple[int, ...]]],
        cameras: Mapping[str, Picture],
    ) -> None:
        """Say everything, once every episode was seen."""
        for sentence, episodes in self._often.items():
            where = "every episode" if len(episodes) == len(lengths) else f"episode {episodes[0]}"
            more = f" and {len(episodes) - 1} others" if 1 < len(episodes) < len(lengths) else ""
            self.said.append(f"{where}{more}: {sentence}")
        self._counts(version, lengths)
        self._features(columns, cameras)
        for name in self._low:
            still = np.flatnonzero(self._low[name] == self._high[name]).tolist()
            if still:
                self.said.append(
                    f"column {name!r}: {len(still)} of {len(self._low[name])} numbers never change: {still}"
                )
        self._modality(root, columns)
        if not (root / lerobot.STATS_PATH).is_file():
            self.said.append("meta/stats.json is missing; GR00T makes it by itself")
        if version != lerobot.VERSION and not (root / lerobot_v21.EPISODE_STATS_PATH).is_file():
            self.said.append("meta/episodes_stats.jsonl is missing; lerobot's converter to v3.0 needs it")

    def _counts(self, version: str, lengths: Sequence[int]) -> None:
        counted = {"total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": len(self._tasks)}
        if version != lerobot.VERSION:
            size = int(self._info.get("chunks_size") or lerobot_v21.CHUNK)
            counted |= {"total_videos": self._videos, "total_chunks": -(-len(lengths) // size)}
        for name, found in counted.items():
            if self._info.get(name) != found:
                self.said.append(f"info.json: {name} is {self._info.get(name)}, counted {found}")
        for split, span in self._info.get("splits", {}).items():
            if str(span).rpartition(":")[2] != str(len(lengths)) and len(self._info["splits"]) == 1:
                self.said.append(f"info.json: split {split!r} is {span!r}, there are {len(lengths)} episodes")
        if not isinstance(self._info.get("fps"), int):
            self.said.append(f"info.json: fps is {self._info.get('fps')!r}; lerobot expects a whole number")

    def _features(self, columns: Mapping[str, tuple[str, tuple[int, ...]]], cameras: Mapping[str, Picture]) -> None:
        features: Mapping[str, Any] = self._info.get("features", {})
        for name, feature in features.items():
            if feature["dtype"] in ("video", "image"):
                self._camera(name, feature, cameras)
            elif name not in columns:
                self.said.append(f"info.json has column {name!r}, the data has not")
            elif columns[name][0] != feature["dtype"] or list(columns[name][1] or (1,)) != list(feature["shape"]):
                self.said.append(
                    f"column {name!r} is {columns[name]}, info.json has {feature['dtype']} {feature['shape']}"
                )
        self.said += [
            f"column {name!r} is in the data and not in info.json" for name in columns if name not in features
        ]
        self.said += [
            f"camera {camera!r} has videos and is not in info.json"
            for camera in cameras
            if lerobot.video_key(camera) not in features
        ]
        self.said += [f"column {name!r} is missing" for name in ADDED if name not in columns]
        for name in ("observation.state", "action"):
            if columns.get(name, ("float32", ()))[0] != "float32":
                self.said.append(f"column {name!r} is {columns[name][0]}; policies compute in float32")

    def _camera(self, name: str, feature: Mapping[str, Any], cameras: Mapping[str, Picture]) -> None:
        picture = cameras.get(name.removeprefix(lerobot.video_key("")))
        if picture is None:
            self.said.append(f"info.json has camera {name!r}, which has no pictures")
            return
        if [picture.height, picture.width] != list(feature["shape"])[:2]:
            self.said.append(f"camera {name!r} is {picture.width} x {picture.height}, info.json has {feature['shape']}")
        if abs(picture.fps - self._fps) > 1e-6:
            self.said.append(f"camera {name!r} has {picture.fps:g} frames per second for {self._fps} rows")
        if picture.codec != "h264":
            self.said.append(f"camera {name!r} is {picture.codec}; GR00T's readers open H.264 alone")
        if picture.key_frames_every > _EASY_JUMP:
            apart = f"up to {picture.key_frames_every} frames from key frame to key frame"
            self.said.append(f"camera {name!r} has {apart}: jumping is slow")
        if "info" not in feature:
            self.said.append(f"camera {name!r}: its feature has no block 'info', which lerobot reads")

    def _modality(self, root: Path, columns: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        document = read_modality(root)
        for kind, usual in (("state", "observation.state"), ("action", "action")):
            for key, entry in document.get(kind, {}).items():
                column = entry.get("original_key") or usual
                width = (columns.get(column, ("", ()))[1] or (0,))[0]
                if not 0 <= entry["start"] < entry["end"] <= width:
                    span = f"{entry['start']}:{entry['end']}"
                    self.said.append(f"modality.json: {kind} {key!r} is {span} of {column!r}, which has {width}")
        features: Mapping[str, Any] = self._info.get("features", {})
        for key, entry in document.get("video", {}).items():
            if entry.get("original_key", lerobot.video_key(key)) not in features:
                self.said.append(f"modality.json: video {key!r} is no feature of info.json")
