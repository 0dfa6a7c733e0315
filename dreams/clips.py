"""Episodes as a video model sees them: some pictures of each, all cameras in one, with the motion between them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray
from PIL import Image

from dreams.motion import Hands, motion_of
from dreams.timebase import TimeBase
from dreams.views import Frames, Grid
from factory import lerobot, poses
from factory.errors import DatasetError, SpecError, unknown_name
from factory.foreign import Film, ForeignEpisode, foreign_episodes
from factory.foreign_meta import Info, read_info, read_tasks

Array = NDArray[np.float64]
_STATE, _ACTION = "observation.state", "action"
_POSE = ("x_m", "y_m", "z_m", "r11", "r12", "r13", "r21", "r22", "r23")


@dataclass(frozen=True, kw_only=True)
class Clip:
    """Pictures of one episode, or of a dream, on the clock of a video model.

    Attributes:
        name: says where it comes from: a dataset's episode, or a dream.
        frames: ``(time.frames, h, w, 3)`` as `grid` lays them out.
        grid: where each view is in a picture.
        time: which control step each picture shows.
        instruction: what was done, in words.
        length: control steps that are the episode's own, at most `time.steps`; afterwards the last picture stays.
        embodiment: the robot's name.
        hands: what moves; empty where that is not known.
        motion: ``(length, m)`` as `dreams.motion` has it, float64; None where it is not known.
    """

    name: str
    frames: Frames
    grid: Grid
    time: TimeBase
    instruction: str
    length: int
    embodiment: str
    hands: Hands
    motion: Array | None = None

    def __post_init__(self) -> None:
        if self.frames.shape != (self.time.frames, *self.grid.shape, 3) or self.frames.dtype != np.uint8:
            raise SpecError(
                f"clip {self.name!r}: pictures are {self.frames.dtype} {self.frames.shape}, "
                f"expected uint8 {(self.time.frames, *self.grid.shape, 3)}"
            )
        if not 0 < self.length <= self.time.steps:
            raise SpecError(f"clip {self.name!r}: {self.length} steps of its own in a clip of {self.time.steps}")
        if self.motion is not None and len(self.motion) != self.length:
            raise SpecError(f"clip {self.name!r}: motion has {len(self.motion)} rows for {self.length} steps")


def fitting(lengths: Collection[int], *, control_hz: int, frames: int = 33, stride: int | None = None) -> TimeBase:
    """Return the clock on which the longest of episodes with so many rows fits: the least stride that does.

    A given stride is kept; then `read_clips` refuses episodes that do not fit.
    """
    longest = max(lengths, default=2) - 1
    return TimeBase(control_hz=control_hz, stride=stride or max(1, -(-longest // (frames - 1))), frames=frames)


def read_clips(root: Path, time: TimeBase, grid: Grid, *, episodes: Collection[int] | None = None) -> Iterator[Clip]:
    """Yield the episodes of a LeRobot dataset, v2.x or v3.0, as clips; all, or those with the given numbers, in order.

    Row t shows the state before action t, so an episode of T rows has T pictures and T - 1 steps whose motion is seen.
    Motion is there where columns name the hands as this project's datasets do. Pictures of another size are resampled.

    Raises:
        DatasetError: the set cannot be read, lacks a view, or has another rate than `time`.
        SpecError: an episode is longer than the clip.
    """
    info = read_info(root)
    if info.fps != time.control_hz:
        raise DatasetError(f"{root} has {info.fps} rows a second, the clip's clock {time.control_hz}")
    tasks = read_tasks(root, info)
    hands = hands_of_dataset(info)
    for episode in foreign_episodes(root):
        if episodes is not None and episode.index not in episodes:
            continue
        if len(episode) < 2:
            raise DatasetError(f"{root}: episode {episode.index} has {len(episode)} rows; a clip needs two")
        rows = time.rows(len(episode) - 1)
        for view in grid.views:
            if view not in episode.films:
                raise DatasetError(f"{root}, episode {episode.index}: {unknown_name('camera', view, episode.films)}")
        pictures = {view: read_rows(episode.films[view], rows, grid) for view in grid.views}
        yield Clip(
            name=f"{root.name}/{episode.index}",
            frames=grid.joined(pictures),
            grid=grid,
            time=time,
            instruction=tasks.get(int(episode.columns["task_index"][0]), ""),
            length=len(episode) - 1,
            embodiment=info.robot_type,
            hands=hands,
            motion=_motion(episode, info, hands) if hands else None,
        )


def hands_of_dataset(info: Info) -> dict[str, int]:
    """Return the hands that a dataset's columns name, in the order of its state; {} where they name none."""
    state, action = (info.features[name].names if name in info.features else () for name in (_STATE, _ACTION))
    eefs = [name.removesuffix("_eef_x_m") for name in state if name.endswith("_eef_x_m")]
    found = {eef: sum(name.startswith(f"{eef}_gripper") for name in action) for eef in eefs}
    return found if all(found.values()) else {}


def read_rows(film: Film, rows: NDArray[np.int64], grid: Grid) -> Frames:
    """Return the pictures of the given rows of an episode, ascending, in the size of the grid's views."""
    if rows[-1] >= film.frames:
        raise DatasetError(f"{film.path}: the episode has {film.frames} frames, row {rows[-1]} was asked for")
    wanted = [film.first + int(row) for row in rows]
    found: dict[int, NDArray[np.uint8]] = {}
    try:
        with av.open(str(film.path)) as container:
            stream = container.streams.video[0]
            rate, base = stream.average_rate, stream.time_base
            if rate is None or base is None:
                raise DatasetError(f"{film.path} does not say its frame rate")
            if film.first:
                container.seek(round(film.first / rate / base), stream=stream)
            for frame in container.decode(stream):
                number = round((frame.pts or 0) * base * rate)
                if number in wanted and number not in found:
                    found[number] = _resized(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), grid)
                if number >= wanted[-1]:
                    break
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"{film.path} cannot be decoded: {error}") from error
    if missing := [number for number in wanted if number not in found]:
        raise DatasetError(f"{film.path} ends before frame {missing[0]}")
    return np.stack([found[number] for number in wanted])


def _resized(picture: NDArray[np.uint8], grid: Grid) -> NDArray[np.uint8]:
    if picture.shape[:2] == (grid.height_px, grid.width_px):
        return picture
    return np.asarray(Image.fromarray(picture).resize((grid.width_px, grid.height_px), Image.Resampling.BOX))


def _motion(episode: ForeignEpisode, info: Info, hands: Hands) -> Array:
    state, action = (np.asarray(episode.columns[name], np.float64) for name in (_STATE, _ACTION))
    state_at: Mapping[str, int] = {name: i for i, name in enumerate(info.features[_STATE].names)}
    action_names = info.features[_ACTION].names
    T_base_eef: dict[str, Array] = {}
    fingers: dict[str, Array] = {}
    for eef in hands:
        pose = state[:, [state_at[f"{eef}_eef_{name}"] for name in _POSE]]
        T_base_eef[eef] = poses.pose(poses.matrix_from_rot6d(pose[:, 3:]), pose[:, :3])
        fingers[eef] = action[:-1, [i for i, name in enumerate(action_names) if name.startswith(f"{eef}_gripper")]]
    return motion_of(T_base_eef, fingers)


def lengths_of(root: Path) -> dict[int, int]:
    """Return episode -> rows, of a LeRobot dataset."""
    return {episode.index: len(episode) for episode in foreign_episodes(root)}


def cameras_of(root: Path) -> tuple[str, ...]:
    """Return a dataset's cameras."""
    features = read_info(root).features
    return tuple(name.removeprefix(lerobot.video_key("")) for name, each in features.items() if each.is_camera)
