"""Draws a kept episode: recorded states become video clips beside them, encoded frame by frame as they come.

Segmentation and depth, where asked for, are drawn and written in the same pass. All cameras of an episode are committed
with one rename; a shard that already has this rendering is not touched.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.durable import staging
from factory.episodes import add_clips, read_shard
from factory.errors import EpisodeError
from factory.extras import LayerWriter
from factory.specs import RenderSpec
from factory.video import ClipWriter
from sim_tasks.backends import opengl
from sim_tasks.catalog import find_task

if TYPE_CHECKING:
    from sim_tasks.backends.rendering import EpisodeRenderer


def render_info(spec: RenderSpec) -> dict[str, Any]:
    """Return the settings of a rendering as `add_clips` stores them; their digest names the clips' folder."""
    info = asdict(spec) | {"cameras": list(spec.cameras), "extras": list(spec.extras)}
    # A rendering is called what it was before there were any of these.
    if not spec.extras:
        del info["extras"]
    if spec.every == 1:
        del info["every"]
    return info


def render_shard(renderer: EpisodeRenderer, shard: Path) -> int:
    """Draw one episode with an open renderer and commit its clips; returns its number of rows.

    Row t shows the state before action t, so the state after the last action is not drawn; with `RenderSpec.every` it
    shows that before the last action which was drawn.
    """
    from sim_tasks.backends.rendering import visual_stream  # noqa: PLC0415 - see open_renderer

    spec, episode = renderer.spec, read_shard(shard)
    rows, fps = len(episode), round(episode.control_hz)
    if not episode.sim_states or fps != episode.control_hz:
        raise EpisodeError(
            f"{shard}: has states {sorted(episode.sim_states)} at {episode.control_hz} Hz; rendering needs recorded "
            "simulator states at a whole number of rows per second"
        )
    states = {name: values[: rows : spec.every] for name, values in episode.sim_states.items()}
    overrides = episode.start.overrides if episode.start else {}
    with staging(shard / "drawing") as folder, ExitStack() as open_files:
        writers = {
            name: open_files.enter_context(
                ClipWriter(folder / f"{name}.mp4", width=spec.width, height=spec.height, fps=fps, codec=spec.codec)
            )
            for name in spec.cameras
        }
        beside = {
            (kind, name): open_files.enter_context(
                LayerWriter(folder / f"{kind}.{name}", kind=kind, camera=name, width=spec.width, height=spec.height)
            )
            for kind in spec.extras
            for name in spec.cameras
        }
        drawn = renderer.pictures(states, overrides, visual_stream=visual_stream(spec, episode.index))
        for number, (images, layers) in enumerate(drawn):
            for _ in range(min(spec.every, rows - number * spec.every)):
                for name, image in images.items():
                    writers[name].write(image)
                for key, layer in layers.items():
                    beside[key].write(layer)
        clips = {name: writer.finish() for name, writer in writers.items()}
        finished = [writer.finish() for writer in beside.values()]
        add_clips(shard, clips, render_info(spec), finished, renderer.about)
    return rows


def open_renderer(task: str, spec: RenderSpec, robot: str = "") -> EpisodeRenderer:
    """Return an open renderer of a task's scene, with its own robot or the one named.

    Raises:
        SpecError: no such task or camera.
        BackendError: OpenGL is missing.
    """
    # MUJOCO_GL is left as the user has it. Set here, a missing library would already break the import of mujoco; unset,
    # the renderer opens EGL by itself.
    try:
        from sim_tasks.backends.rendering import EpisodeRenderer  # noqa: PLC0415 - brings mujoco, only children need it
    except (AttributeError, OSError) as error:
        raise opengl.missing(error) from error
    return EpisodeRenderer(find_task(task, robot), spec)
