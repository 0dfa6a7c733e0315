"""Pictures for people: a few frames of finished episodes, and a sheet that shows what every task looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from factory import lerobot
from factory.dataset_checks import read_episodes_table
from factory.dataset_reading import open_dataset
from factory.demos import read_demos
from factory.errors import BackendError, DatasetError
from factory.placements import sample_placements
from factory.segmentation import split
from factory.sim import SimBackend
from factory.specs import RenderSpec, TaskSpec
from workers.generate import seeds_count, seeds_path

Image = NDArray[np.uint8]
_Draw = Callable[[Mapping[str, NDArray[np.float64]]], list[Image]]
"""Draws simulator states ``(n, ...)`` by name, in the scene as it was edited last."""

CAMERAS = {"door": "sideview"}
"""Task -> the camera that shows it best, where that is not its first; robosuite's agentview looks past the door."""

_JPEG_QUALITY = 3
"""Quantiser of the JPEG encoder, 1 (best) to 31; 3 shows no blocks at thumbnail size."""

_TILE_PX, _GAP_PX, _MARGIN_PX, _TITLE_PX, _LABEL_PX, _COLUMNS = 320, 12, 40, 76, 30, 5
_INK, _PALE, _PAPER = (24, 28, 36), (104, 112, 126), (250, 250, 248)
_STARTS = 12
"""Starts blended into one tile; fewer leave holes in the cloud, more make it fog."""

_GHOST = 0.6
"""How strongly the other starts show beside the one that is drawn in full."""


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """One frame of an episode.

    Attributes:
        episode: index in the dataset.
        camera: camera name.
        moment: "first", "middle" or "last".
        row: which row of the episode it shows.
        jpeg: the picture, a JPEG file.
    """

    episode: int
    camera: str
    moment: str
    row: int
    jpeg: bytes


def dataset_thumbnails(root: Path, *, episodes: int = 4, max_px: int = 192) -> tuple[Thumbnail, ...]:
    """Return the first, middle and last frame per camera of a few episodes of a finished dataset, evenly spread.

    Nothing is drawn again: frames come from the dataset's videos, so they are what a policy will see. Raises
    DatasetError when the dataset or a video cannot be read.
    """
    dataset, rows = open_dataset(root), read_episodes_table(root)
    chosen = sorted({round(i) for i in np.linspace(0, len(rows) - 1, min(episodes, len(rows)))}) if rows else []
    found: list[Thumbnail] = []
    for row in (rows[i] for i in chosen):
        moments = {"first": 0, "middle": row["length"] // 2, "last": row["length"] - 1}
        for camera in dataset.cameras:
            key = lerobot.video_key(camera)
            at = {name: row[f"videos/{key}/{name}"] for name in ("chunk_index", "file_index", "from_timestamp")}
            path = root / lerobot.VIDEO_PATH.format(video_key=key, **at)
            first = round(at["from_timestamp"] * dataset.fps)
            images = frames_at(path, [first + number for number in moments.values()], fps=dataset.fps)
            found += [
                Thumbnail(
                    episode=row["episode_index"],
                    camera=camera,
                    moment=moment,
                    row=number,
                    jpeg=encode_jpeg(image, max_px=max_px),
                )
                for (moment, number), image in zip(moments.items(), images, strict=True)
            ]
    return tuple(found)


def frames_at(path: Path, numbers: Sequence[int], *, fps: int) -> list[Image]:
    """Return frames of a video by number, uint8 ``(h, w, 3)``, jumping to the key frame before each.

    Raises DatasetError when the file cannot be decoded or has no such frame.
    """
    images: list[Image] = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for number in numbers:
                wanted = Fraction(number, fps)
                container.seek(round(wanted / (stream.time_base or 1)), stream=stream)
                image = next(f for f in container.decode(stream) if Fraction(f.pts or 0) * (f.time_base or 1) >= wanted)
                images.append(image.to_ndarray(format="rgb24").astype(np.uint8, copy=False))
    except (FFmpegError, IndexError, StopIteration) as error:
        raise DatasetError(f"video {path}: frame {numbers[len(images)]} cannot be decoded: {error}") from error
    return images


def encode_jpeg(image: Image, *, max_px: int | None = None) -> bytes:
    """Return an image ``(h, w, 3)`` as a JPEG file, shrunk so that neither side exceeds `max_px`."""
    height, width = image.shape[:2]
    scale = min(1.0, max_px / max(height, width)) if max_px else 1.0
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    # Even sizes, as colour is stored for two by two pixels.
    encoder.width, encoder.height = (max(2, round(side * scale / 2) * 2) for side in (width, height))
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1)
    encoder.qmin = encoder.qmax = _JPEG_QUALITY
    picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    picture = picture.reformat(width=encoder.width, height=encoder.height, format="yuvj420p", interpolation="AREA")
    return b"".join(bytes(packet) for packet in [*encoder.encode(picture), *encoder.encode(None)])


def contact_sheet(
    tasks: Sequence[TaskSpec], path: Path, *, cameras: Mapping[str, str] = CAMERAS, seed: int = 0
) -> None:
    """Write one PNG with tiles for each task: the starts of every variant, and the end of every subtask.

    Of a variant's starts one is shown in full, the others as ghosts; the ends are those of the first shipped
    demonstration, where there is one. `cameras` names the camera of tasks that their first one does not show best. The
    same seed draws the same starts. Needs the `sim` extra, whose robosuite brings Pillow.

    Raises:
        BackendError: a scene does not build, OpenGL is missing, or Pillow is.
    """
    if not tasks:
        raise BackendError("a contact sheet needs at least one task")
    _sheet(tasks, [_tiles(task, cameras.get(task.name, task.views[0]), seed) for task in tasks]).save(path)


def _tiles(task: TaskSpec, camera: str, seed: int) -> dict[str, Image]:
    """Return label -> picture, ``(320, 320, 3)``."""
    from sim_tasks.backends.rendering import EpisodeRenderer  # noqa: PLC0415 - brings mujoco
    from sim_tasks.backends.robosuite import RobosuiteBackend  # noqa: PLC0415

    backend = RobosuiteBackend(task)
    with EpisodeRenderer(task, RenderSpec(cameras=(camera,), width=_TILE_PX, height=_TILE_PX)) as renderer:

        def draw(states: Mapping[str, NDArray[np.float64]]) -> list[Image]:
            overrides = backend.snapshot(0).overrides
            return [frame[camera] for frame in renderer.frames(states, overrides, visual_stream=None)]

        tiles = _starts(task, backend, draw, seed) | _ends(task, backend, draw)
    backend.close()
    return tiles


def _starts(task: TaskSpec, backend: SimBackend, draw: _Draw, seed: int) -> dict[str, Image]:
    starts: dict[str, list[Image]] = {}
    for variant, reset in task.resets.items():
        rng = np.random.default_rng(seed)
        images = starts.setdefault(variant, [])
        for _ in range(_STARTS):
            backend.reset(0, sample_placements(reset, rng), rng, joint_noise_rad=0.0)
            images += draw({name: value[None] for name, value in backend.sim_state(0).items()})
    # Over the starts of all variants: in a narrow one alone, some pixels show an object more often than the table.
    empty = np.median(np.stack([image for images in starts.values() for image in images]), axis=0)
    return {f"{variant} starts": _blend(images, empty) for variant, images in starts.items()}


def _ends(task: TaskSpec, backend: SimBackend, draw: _Draw) -> dict[str, Image]:
    """Return a picture of the end of every subtask in the first shipped demonstration, in the order of time."""
    if not seeds_count(task.name):
        return {}
    demo = read_demos(seeds_path(task.name))[0]
    cuts = split(backend.annotate(demo), task)
    ends: dict[int, list[str]] = {}
    for stop, label in sorted(
        (part.stop, f"{eef}: {task.subtasks[eef][k].name}")
        for eef, parts in cuts.items()
        for k, part in enumerate(parts)
    ):
        ends.setdefault(stop, []).append(label)
    backend.reset_to(0, demo)
    now = backend.sim_state(0)
    rows = demo.states[list(ends)]
    columns = np.cumsum([now[name].size for name in ("time", "qpos")])
    states: dict[str, NDArray[np.float64]] = dict(
        zip(("time", "qpos", "qvel"), np.split(rows, columns, axis=1), strict=True)
    )
    labels = [f"end of {', '.join(names)}" for names in ends.values()]
    return dict(zip(labels, draw(states), strict=True))


def _blend(images: Sequence[Image], empty: NDArray[np.float64]) -> Image:
    """Show what differs from the empty scene: in full from the first image, as ghosts from the others."""
    stack = np.stack(images).astype(np.float64)
    change = stack - empty
    strongest = np.abs(change).sum(axis=-1).argmax(axis=0)
    ghosts = np.take_along_axis(change, strongest[None, ..., None], axis=0)[0]
    own = np.abs(change[0]).sum(axis=-1, keepdims=True) > 24.0  # a tenth of one channel: above shading, below objects
    return np.clip(np.where(own, stack[0], empty + _GHOST * ghosts), 0, 255).astype(np.uint8)


def _sheet(tasks: Sequence[TaskSpec], rows: Sequence[Mapping[str, Image]]) -> Any:
    try:
        from PIL import Image as pillow  # noqa: PLC0415, N813 - optional: robosuite brings it
        from PIL import ImageDraw, ImageFont  # noqa: PLC0415
    except ImportError as error:
        raise BackendError("a contact sheet is lettered with Pillow; install it with `pip install pillow`") from error
    columns = min(_COLUMNS, max(len(pictures) for pictures in rows))
    step_x, step_y = _TILE_PX + _GAP_PX, _TILE_PX + _LABEL_PX + _GAP_PX
    heights = [_TITLE_PX + -(-len(pictures) // columns) * step_y for pictures in rows]
    size = (2 * _MARGIN_PX + columns * step_x - _GAP_PX, 2 * _MARGIN_PX + sum(heights) - _GAP_PX)
    sheet = pillow.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    title, text = ImageFont.load_default(26), ImageFont.load_default(16)
    for i, (task, pictures) in enumerate(zip(tasks, rows, strict=True)):
        y = _MARGIN_PX + sum(heights[:i])
        draw.text((_MARGIN_PX, y), task.name, font=title, fill=_INK)
        draw.text((_MARGIN_PX, y + 38), task.instruction, font=text, fill=_PALE)
        for j, (label, picture) in enumerate(pictures.items()):
            x, top = _MARGIN_PX + j % columns * step_x, y + _TITLE_PX + j // columns * step_y
            sheet.paste(pillow.fromarray(picture), (x, top))
            draw.text((x, top + _TILE_PX + 6), label, font=text, fill=_INK)
    return sheet
