"""Renders kept episodes: recorded states become video clips beside them, in as many processes as asked for.

The parent hands out one shard at a time; a child draws it, encodes every frame as it comes and commits all cameras with
one rename. A shard that already has this rendering is not touched, so a run that was killed is continued by calling it
again. One run at a time per dataset.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from factory.durable import staging, sweep
from factory.episodes import add_clips, list_renders, read_shard, render_digest
from factory.errors import BackendError, EpisodeError, FactoryError
from factory.specs import RenderSpec
from factory.video import ClipWriter
from sim_tasks.backends import opengl
from sim_tasks.catalog import find_task
from workers.processes import SPAWN, become_worker, start_shielded

if TYPE_CHECKING:
    from sim_tasks.backends.rendering import EpisodeRenderer

_STOP_WAIT_S = 5.0
"""How long a child may take to leave after it was told to, before it is killed."""


@dataclass(frozen=True, kw_only=True)
class RenderRun:
    """What one call of `render_shards` did.

    Attributes:
        rendered: shards that got clips now.
        skipped: shards that had them already.
        frames: instants drawn, each with all cameras; the sum of the rendered episodes' rows.
        cpu_s: processor time of drawing and encoding, all children together, without their start.
    """

    rendered: int
    skipped: int
    frames: int
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class _Done:
    """A child's answer to one shard."""

    frames: int
    cpu_s: float


def render_info(spec: RenderSpec) -> dict[str, Any]:
    """Return the settings of a rendering as `add_clips` stores them; their digest names the clips' folder."""
    return asdict(spec) | {"cameras": list(spec.cameras)}


def render_shards(
    shards: Sequence[Path],
    task: str,
    spec: RenderSpec,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> RenderRun:
    """Give every shard the clips of this rendering; which child draws what changes nothing in them.

    Args:
        shards: folders of committed episodes; naming one twice renders it once.
        task: name of the task they were made in; children look it up themselves, as predicates do not travel.
        spec: what to draw.
        workers: child processes, one OpenGL context each.
        progress: called with the number of shards that are done, skipped ones included, from 0 up.

    Raises:
        SpecError: no such task or camera.
        EpisodeError: a shard is damaged.
        BackendError: OpenGL is missing, the states do not fit the scene, or a child was killed.
    """
    find_task(task)
    unique = list(dict.fromkeys(shard.resolve() for shard in shards))
    digest = render_digest(render_info(spec))
    waiting = [shard for shard in unique if digest not in list_renders(shard)]
    skipped = len(unique) - len(waiting)
    for shard in waiting:
        sweep(shard)
    report = progress or (lambda _: None)
    report(skipped)
    done: list[_Done] = []
    # Closed by name: an exception in `progress` would otherwise leave the children drawing while it travels up.
    with closing(_answers(waiting, task, spec, workers=workers)) as answers:
        for answer in answers:
            done.append(answer)
            report(skipped + len(done))
    return RenderRun(
        rendered=len(done), skipped=skipped, frames=sum(d.frames for d in done), cpu_s=sum(d.cpu_s for d in done)
    )


def render_shard(renderer: EpisodeRenderer, shard: Path) -> int:
    """Draw one episode with an open renderer and commit its clips; returns its number of rows.

    Row t shows the state before action t, so the state after the last action is not drawn.
    """
    from sim_tasks.backends.rendering import visual_stream  # noqa: PLC0415 - see open_renderer

    spec, episode = renderer.spec, read_shard(shard)
    rows, fps = len(episode), round(episode.control_hz)
    if not episode.sim_states or fps != episode.control_hz:
        raise EpisodeError(
            f"{shard}: has states {sorted(episode.sim_states)} at {episode.control_hz} Hz; rendering needs recorded "
            "simulator states at a whole number of rows per second"
        )
    states = {name: values[:rows] for name, values in episode.sim_states.items()}
    overrides = episode.start.overrides if episode.start else {}
    with staging(shard / "drawing") as folder, ExitStack() as open_files:
        writers = {
            name: open_files.enter_context(
                ClipWriter(folder / f"{name}.mp4", width=spec.width, height=spec.height, fps=fps, codec=spec.codec)
            )
            for name in spec.cameras
        }
        for images in renderer.frames(states, overrides, visual_stream=visual_stream(spec, episode.index)):
            for name, image in images.items():
                writers[name].write(image)
        add_clips(shard, {name: writer.finish() for name, writer in writers.items()}, render_info(spec))
    return rows


def _answers(shards: Sequence[Path], task: str, spec: RenderSpec, *, workers: int) -> Generator[_Done, None, None]:
    """Yield one answer per shard as they come; whatever ends this early ends the children as well."""
    if workers < 1:
        raise BackendError(f"{workers} render workers; at least 1 is needed")
    children: dict[Connection, Any] = {}
    busy: dict[Connection, Path] = {}
    todo = list(reversed(shards))
    try:
        for _ in range(min(workers, len(shards))):
            ours, theirs = SPAWN.Pipe()
            child = SPAWN.Process(target=_draw_for_parent, args=(theirs, task, spec), daemon=True)
            start_shielded(child)
            theirs.close()
            children[ours] = child
            busy[ours] = _send(ours, todo.pop())
        while busy:
            for pipe in cast("list[Connection]", wait(list(busy))):
                yield _receive(pipe, busy.pop(pipe), children[pipe])
                if todo:
                    busy[pipe] = _send(pipe, todo.pop())
    finally:
        _stop(children, at_once=bool(busy))


def _send(pipe: Connection, shard: Path) -> Path:
    with suppress(OSError):  # the child is gone; waiting for its answer will say so, with its exit code
        pipe.send(shard)
    return shard


def _receive(pipe: Connection, shard: Path, child: Any) -> _Done:
    try:
        answer = pipe.recv()
    except (EOFError, ConnectionError) as error:
        child.join(_STOP_WAIT_S)
        raise BackendError(
            f"the process rendering {shard} ended with exit code {child.exitcode} (-9 is often too little memory); "
            "nothing of this shard was kept, run again to continue"
        ) from error
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _stop(children: Mapping[Connection, Any], *, at_once: bool) -> None:
    for pipe, child in children.items():
        if at_once:
            child.kill()  # half a clip lies under a temporary name only; the next run sweeps it away
        pipe.close()
    for child in children.values():
        child.join(_STOP_WAIT_S)
        if child.is_alive():
            child.kill()
            child.join()


def _draw_for_parent(pipe: Connection, task: str, spec: RenderSpec) -> None:
    """Draw shards until the parent hangs up: the whole life of a child process."""
    become_worker()
    try:
        with open_renderer(task, spec) as renderer:
            while (shard := _next(pipe)) is not None:
                start = time.process_time()
                rows = render_shard(renderer, shard)
                pipe.send(_Done(frames=rows, cpu_s=time.process_time() - start))
    except FactoryError as error:
        pipe.send(error)
    except Exception:  # noqa: BLE001 - the outermost loop of a process: the parent has to hear of anything
        pipe.send(BackendError(f"a render process failed:\n{traceback.format_exc()}"))


def open_renderer(task: str, spec: RenderSpec) -> EpisodeRenderer:
    """Return an open renderer of a task's scene.

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
    return EpisodeRenderer(find_task(task), spec)


def _next(pipe: Connection) -> Path | None:
    try:
        return pipe.recv()
    except (EOFError, OSError):
        return None
