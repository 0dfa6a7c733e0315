"""First frames: the pictures that dreams begin with, and the simulator's state behind each, where there is one.

Three ways to come by them: the first rows of a LeRobot dataset, resets of a simulator, and variations of a frame by an
image model. Only a frame whose state is known can be verified; what a dream does after a picture that nobody can put a
robot into is not replayable, and says so from the start.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dreams.clips import read_rows
from dreams.prompts import KnownScene
from dreams.views import Frames, Grid
from factory import poses
from factory.dataset_reading import read_episode
from factory.episodes import Episode
from factory.errors import DatasetError, SpecError, unknown_name
from factory.foreign import ForeignEpisode, foreign_episodes
from factory.foreign_meta import read_info
from factory.placements import sample_placements
from factory.scene import SceneState, take
from factory.sim import Hold, SimBackend, Snapshot
from factory.streams import spawn_streams

Array = NDArray[np.float64]
Picture = NDArray[np.uint8]
Renders = Callable[[Mapping[str, Array], Mapping[str, Array]], Mapping[str, Picture]]
"""Draws one state: named arrays ``(1, ...)`` and a snapshot's overrides -> camera -> ``(h, w, 3)``."""
_PROVENANCE = "provenance"


@dataclass(frozen=True, kw_only=True)
class FirstFrame:
    """A picture that dreams can begin with.

    Attributes:
        name: says which one it is, and nothing else has it.
        picture: ``(h, w, 3)`` uint8 as `grid` lays it out.
        grid: where each view is.
        source: how it was come by: "dataset:NAME", "reset:TASK", "img2img:MODEL of NAME".
        state: what a simulator continues from; None where nobody knows it.
        model_sha: the scene that the state is of: "model_sha" of its backend's `describe()`; "" without a state.
        task: the task's name, where it is one of the catalogue's.
        robot: the robot's name as the dataset or the task says it.
        instruction: what was done from here, where something was.
        placements: object -> ``(4, 4)`` world pose of its body at reset; empty where not known.
        replayable: the picture shows the state. Never without one.
        scene: what a proposer may know of it.
    """

    name: str
    picture: Picture
    grid: Grid
    source: str
    state: Snapshot | None = None
    model_sha: str = ""
    task: str | None = None
    robot: str = ""
    instruction: str = ""
    placements: Mapping[str, Array] = field(default_factory=dict)
    replayable: bool = False
    scene: KnownScene | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("a first frame needs a name")
        if self.picture.shape != (*self.grid.shape, 3) or self.picture.dtype != np.uint8:
            raise SpecError(
                f"frame {self.name!r}: the picture is {self.picture.dtype} {self.picture.shape}, expected uint8 "
                f"{(*self.grid.shape, 3)}"
            )
        if self.replayable and (self.state is None or not self.model_sha):
            raise SpecError(f"frame {self.name!r} cannot be replayable: its state, or whose scene it is of, is unknown")


def dataset_frames(
    root: Path,
    grid: Grid,
    *,
    episodes: Collection[int] | None = None,
    known: Callable[[Episode], KnownScene | None] | None = None,
    skip: Collection[str] = (),
) -> Iterator[FirstFrame]:
    """Yield the first picture of each episode of a LeRobot dataset, v2.x or v3.0, in order.

    A dataset of this project has the snapshot that its first row continues from, so its frames are replayable; of any
    other set only the picture is known.

    Args:
        root: the dataset.
        grid: its views are cameras of the dataset; pictures of another size are resampled.
        episodes: numbers of those that are wanted; all by default.
        known: what a proposer may know of an episode of this project.
        skip: names of frames that are not wanted again.

    Raises:
        DatasetError: the set cannot be read, or lacks a view.
    """
    info = read_info(root)
    ours = (root / _PROVENANCE).is_dir()
    for each in foreign_episodes(root):
        name = f"{root.name}/{each.index}"
        if name in skip or (episodes is not None and each.index not in episodes):
            continue
        picture = _first_picture(root, each, grid)
        frame = FirstFrame(
            name=name, picture=picture, grid=grid, source=f"dataset:{root.name}", robot=info.robot_type
        )  # fmt: skip
        yield _with_state(frame, read_episode(root, each.index), known) if ours else frame


def _first_picture(root: Path, episode: ForeignEpisode, grid: Grid) -> Picture:
    views: dict[str, Frames] = {}
    for view in grid.views:
        if view not in episode.films:
            raise DatasetError(f"{root}, episode {episode.index}: {unknown_name('camera', view, episode.films)}")
        views[view] = read_rows(episode.films[view], np.zeros(1, np.int64), grid)
    return grid.joined(views)[0]


def _with_state(
    frame: FirstFrame, episode: Episode, known: Callable[[Episode], KnownScene | None] | None
) -> FirstFrame:
    sha = episode.provenance.get("executor", {}).get("model_sha", "")
    placed = episode.provenance.get("placements", {})
    return FirstFrame(
        name=frame.name,
        picture=frame.picture,
        grid=frame.grid,
        source=frame.source,
        state=episode.start,
        model_sha=sha if episode.start is not None else "",
        task=episode.task,
        robot=frame.robot,
        instruction=episode.instruction,
        placements={k: poses.pose_from_xyz_quat_wxyz(np.array(v, np.float64)) for k, v in placed.items()},
        replayable=episode.start is not None and bool(sha),
        scene=known(episode) if known else None,
    )


def reset_frames(
    backend: SimBackend,
    renders: Renders,
    grid: Grid,
    *,
    count: int,
    seed: int,
    variant: str = "D0",
    known: Callable[[SceneState], KnownScene | None] | None = None,
    skip: Collection[str] = (),
    first: int = 0,
) -> Iterator[FirstFrame]:
    """Yield pictures of a task's starts, the state kept beside each: what attempts of the same seed start from.

    Objects are placed as the variant draws them and come to rest for the task's settling time. A start at which the
    simulation diverges is left out. Frame i depends on the seed and i alone. Environment 0 is used.

    Args:
        backend: a simulator of the task.
        renders: draws a state.
        grid: its views are among what `renders` draws, in that size.
        count: how many starts are drawn.
        seed: of the draws.
        variant: which distribution of starts.
        known: what a proposer may know of a start.
        skip: names of frames that are not wanted again.
        first: number of the first start.
    """
    task, sha = backend.task, backend.describe()["model_sha"]
    reset = task.reset(variant)
    for number in range(first, first + count):
        name = f"{task.name}/{variant}/{seed}/{number}"
        if name in skip:
            continue
        rng = spawn_streams(seed, number).scene
        placements = sample_placements(reset, rng)
        scene = backend.reset(0, placements, rng, joint_noise_rad=reset.joint_noise_rad)
        if task.settle_steps:
            settled = backend.advance({0: {eef: Hold(steps=task.settle_steps) for eef in task.robot.eefs}})[0]
            if not settled.stable:
                continue
            scene = take(settled.scene, -1)
        state = backend.snapshot(0)
        arrays = {key: value[None] for key, value in backend.sim_state(0).items()}
        drawn = renders(arrays, state.overrides)
        if missing := set(grid.views) - set(drawn):
            raise SpecError(unknown_name("camera", min(missing), drawn))
        yield FirstFrame(
            name=name,
            picture=grid.joined({view: drawn[view][None] for view in grid.views})[0],
            grid=grid,
            source=f"reset:{task.name}",
            state=state,
            model_sha=sha,
            task=task.name,
            robot=task.robot.name,
            placements=placements,
            replayable=True,
            scene=known(scene) if known else None,
        )
