"""What is sloppy in a LeRobot set made elsewhere. Nothing is believed that can be counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory import lerobot, lerobot_v21
from factory.foreign import ADDED, ANNOTATION, ForeignEpisode, Picture
from factory.foreign_meta import Feature, Info, read_modality, read_stats

_TOLERANCE_S = 1e-4
"""lerobot's own: how far a time stamp may be from its row's number / fps."""
_SAME_RATE = 1e-6
"""Frames per second by which a video's rate may miss, which containers store as a fraction."""
_EASY_JUMP = 32
"""Frames between key frames above which a reader that jumps to a frame decodes many others first."""

Columns = Mapping[str, tuple[str, tuple[int, ...]]]
"""Column -> type and shape of one row."""


def kinds_of(episode: ForeignEpisode) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return column -> type and shape of one row, as an episode has them."""
    return {name: (values.dtype.name, values.shape[1:]) for name, values in episode.columns.items()}


class Findings:
    """What is sloppy in a set, collected while its episodes go by; a thing is said once, with how often it is so."""

    def __init__(self, info: Info, tasks: Mapping[int, str]) -> None:
        self.said: list[str] = []
        self._info, self._tasks = info, tasks
        self._often: dict[str, list[int]] = {}
        self._indices: list[int] = []
        self._kinds: Columns = {}
        self._total = 0
        self._videos: Counter[str] = Counter()
        self._low: dict[str, NDArray[Any]] = {}
        self._high: dict[str, NDArray[Any]] = {}

    def of_episode(self, episode: ForeignEpisode) -> None:
        """Note what is odd about one episode."""
        count, columns = len(episode), episode.columns
        self._indices.append(episode.index)
        if not count:
            self._note("there are no rows", episode)
            return
        if episode.said is None:
            self._note("meta/ does not say how long it is", episode)
        elif episode.said != count:
            self._note(f"meta/ says {episode.said - count:+d} rows beside those there are", episode)
        kinds = self._kinds = self._kinds or kinds_of(episode)
        if other := sorted({name for name, _ in kinds.items() ^ kinds_of(episode).items()}):
            self._note(f"columns are not those of the first episode: {', '.join(other)}", episode)
        self._numbering(episode)
        for name, values in columns.items():
            self._numbers(name, values, episode)
        for camera, film in episode.films.items():
            self._videos[camera] += 1
            if film.frames != count:
                self._note(f"camera {camera!r} has {film.frames - count:+d} frames beside the rows", episode)
        self._total += count

    def _numbering(self, episode: ForeignEpisode) -> None:
        """Compare the columns every set has with what lerobot expects in them."""
        columns, frame, fps = episode.columns, np.arange(len(episode)), self._info.fps
        time = columns.get("timestamp")
        if time is not None and abs(time[0]) > _TOLERANCE_S:
            self._note(f"time stamps begin at {time[0]:.3g} s, not 0: who goes by time sees a later frame", episode)
        if time is not None and (np.abs(time - time[0] - frame / fps) > _TOLERANCE_S).any():
            self._note(f"time stamps are not {1 / fps:g} s apart", episode)
        if "frame_index" in columns and (columns["frame_index"] != frame).any():
            self._note("frame_index does not count from 0", episode)
        if "index" in columns and (columns["index"] != self._total + frame).any():
            self._note("index has gaps", episode)
        if "episode_index" in columns and (columns["episode_index"] != episode.index).any():
            self._note("episode_index is not the episode's", episode)
        if "task_index" in columns and len(set(columns["task_index"].tolist())) > 1:
            self._note("task_index changes within the episode", episode)

    def _numbers(self, name: str, values: NDArray[Any], episode: ForeignEpisode) -> None:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            self._note(f"column {name!r} is not finite", episode)
        if (name == "task_index" or name.startswith(ANNOTATION)) and values.dtype.kind in "iu":
            unknown = set(values.tolist()) - set(self._tasks)
            if unknown:
                self._note(f"{name} has {sorted(unknown)}, which the table of tasks does not", episode)
        if values.ndim == 2:
            low, high = values.min(0), values.max(0)
            if name in self._low and self._low[name].shape != low.shape:
                return
            self._low[name] = np.minimum(self._low[name], low) if name in self._low else low
            self._high[name] = np.maximum(self._high[name], high) if name in self._high else high

    def _note(self, sentence: str, episode: ForeignEpisode) -> None:
        self._often.setdefault(sentence, []).append(episode.index)

    def of_set(self, root: Path, lengths: Sequence[int], columns: Columns, cameras: Mapping[str, Picture]) -> None:
        """Say everything, once every episode was seen."""
        for sentence, episodes in self._often.items():
            where = "every episode" if len(episodes) == len(lengths) else f"episode {episodes[0]}"
            more = f" and {len(episodes) - 1} others" if 1 < len(episodes) < len(lengths) else ""
            self.said.append(f"{where}{more}: {sentence}")
        if self._indices != list(range(len(lengths))):
            self.said.append("episodes are not numbered 0, 1, 2, ... in order; readers go by position")
        self._counts(lengths)
        self._features(columns, cameras)
        self.said += [
            f"camera {camera!r} has videos of {count} episodes, there are {len(lengths)}"
            for camera, count in self._videos.items()
            if count != len(lengths)
        ]
        for name in self._low:
            still = np.flatnonzero(self._low[name] == self._high[name]).tolist()
            if still:
                self.said.append(
                    f"column {name!r}: {len(still)} of {len(self._low[name])} numbers never change: {_spans(still)}"
                )
        self._modality(root, columns)
        self._statistics(root, columns)

    def _counts(self, lengths: Sequence[int]) -> None:
        counted = {"total_episodes": len(lengths), "total_frames": sum(lengths), "total_tasks": len(self._tasks)}
        said = self._info.said
        if not self._info.is_v3:
            counted |= {"total_videos": self._videos.total(), "total_chunks": -(-len(lengths) // self._info.chunk)}
        self.said += [
            f"info.json: {name} is {said.get(name)}, counted {found}"
            for name, found in counted.items()
            if said.get(name) != found
        ]
        for split, span in self._info.splits.items():
            if span.rpartition(":")[2] != str(len(lengths)) and len(self._info.splits) == 1:
                self.said.append(f"info.json: split {split!r} is {span!r}, there are {len(lengths)} episodes")
        if not isinstance(said.get("fps"), int):
            self.said.append(f"info.json: fps is {said.get('fps')!r}; lerobot expects a whole number")

    def _features(self, columns: Columns, cameras: Mapping[str, Picture]) -> None:
        features = self._info.features
        for name, feature in features.items():
            if feature.is_camera:
                self._camera(name, feature, cameras)
            elif name not in columns:
                self.said.append(f"info.json has column {name!r}, the data has not")
            elif columns[name][0] != feature.dtype or (columns[name][1] or (1,)) != feature.shape:
                self.said.append(
                    f"column {name!r} is {columns[name]}, info.json has {feature.dtype} {list(feature.shape)}"
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

    def _camera(self, name: str, feature: Feature, cameras: Mapping[str, Picture]) -> None:
        if feature.dtype == "image":
            self.said.append(f"camera {name!r} is pictures in the data files, which are not read here; only videos are")
            return
        picture = cameras.get(name.removeprefix(lerobot.video_key("")))
        if picture is None:
            self.said.append(f"info.json has camera {name!r}, which has no pictures")
            return
        if (picture.height, picture.width) != feature.shape[:2]:
            self.said.append(
                f"camera {name!r} is {picture.width} x {picture.height}, info.json has {list(feature.shape)}"
            )
        if abs(picture.fps - self._info.fps) > _SAME_RATE:
            self.said.append(f"camera {name!r} has {picture.fps:g} frames per second for {self._info.fps} rows")
        if picture.codec != "h264":
            self.said.append(f"camera {name!r} is {picture.codec}; GR00T's readers open H.264 alone")
        if picture.key_frames_every > _EASY_JUMP:
            apart = f"up to {picture.key_frames_every} frames from key frame to key frame"
            self.said.append(f"camera {name!r} has {apart}: jumping is slow")
        if not feature.has_info:
            self.said.append(f"camera {name!r}: its feature has no block 'info', which lerobot reads")

    def _modality(self, root: Path, columns: Columns) -> None:
        modality = read_modality(root)
        for key, (column, start, stop) in modality.parts.items():
            width = (columns.get(column, ("", ()))[1] or (0,))[0]
            if not 0 <= start < stop <= width:
                self.said.append(f"modality.json: {key!r} is {start}:{stop} of {column!r}, which has {width}")
        for view, name in modality.videos.items():
            if name not in self._info.features:
                self.said.append(f"modality.json: video {view!r} is {name!r}, which is no feature of info.json")

    def _statistics(self, root: Path, columns: Columns) -> None:
        described = read_stats(root)
        if described is None:
            self.said.append("meta/stats.json is missing; GR00T makes it by itself")
        else:
            self.said += [f"meta/stats.json lacks column {name!r}" for name in columns if name not in described]
        if not self._info.is_v3 and not (root / lerobot_v21.EPISODE_STATS_PATH).is_file():
            self.said.append("meta/episodes_stats.jsonl is missing; lerobot's converter to v3.0 needs it")


def _spans(numbers: Sequence[int]) -> str:
    """Return ascending numbers as people write them: 3, 7-12."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
