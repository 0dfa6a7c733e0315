"""How fast recorded episodes are drawn and encoded here: CPU seconds, presets in turn, on states of real episodes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.demos import read_demos
from factory.errors import SpecError
from factory.recording import episode_of
from factory.replay import run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, RenderSpec
from factory.video import ClipWriter
from sim_tasks.backends import open_backend
from sim_tasks.catalog import find_task
from workers.generate import seeds_path
from workers.render import open_renderer

_TURNS = 5
"""Times each preset is measured; the presets alternate, so that what else the machine does falls on all of them."""


def measure(task: str, preset: str, size: int, cameras: Sequence[str], frames: int) -> dict[str, Any]:
    """Return what drawing and encoding cost in CPU seconds of this process, all its threads together.

    Args:
        task: a task with shipped seeds.
        preset: "faithful", "fast", or both in turn with "faithful,fast".
        size: width and height in pixels.
        cameras: which to draw.
        frames: pictures of each camera per turn, spread over a generated episode.

    Returns:
        By preset: "draw_per_cpu_s" and "encode_per_cpu_s", each the median over the turns with "_spread" [least,
        most]; "bytes_per_frame" of the clips; "device", what drew. Pictures of all cameras are counted.

    Raises:
        SpecError: no such task, preset or camera, or no frame is asked for.
    """
    if frames < 1:
        raise SpecError(f"frames is {frames}; at least 1 is needed")
    presets = preset.split(",")
    states, overrides = _recorded(task, frames)
    specs = {p: RenderSpec(cameras=tuple(cameras), width=size, height=size, preset=p) for p in presets}  # type: ignore[arg-type]
    draws: dict[str, list[float]] = {p: [] for p in presets}
    encodes: dict[str, list[float]] = {p: [] for p in presets}
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        renderers = {p: stack.enter_context(open_renderer(task, spec)) for p, spec in specs.items()}
        for turn in range(-1, _TURNS):  # the first turn warms caches and shaders up
            for name, renderer in renderers.items():
                begun = time.process_time()
                pictures = list(renderer.frames(states, overrides, visual_stream=None))
                drawn = time.process_time()
                paths = [_encoded(folder / f"{c}.mp4", [p[c] for p in pictures], size) for c in cameras]
                ended = time.process_time()
                if turn < 0:
                    continue
                count = len(pictures) * len(cameras)
                draws[name].append(count / (drawn - begun))
                encodes[name].append(count / (ended - drawn))
                found[name] = {
                    "bytes_per_frame": sum(path.stat().st_size for path in paths) / count,
                    "device": renderer.device,
                }
    for name in presets:
        for key, rates in (("draw_per_cpu_s", draws[name]), ("encode_per_cpu_s", encodes[name])):
            found[name] |= {key: statistics.median(rates), f"{key}_spread": [min(rates), max(rates)]}
    return found


def _recorded(task: str, frames: int) -> tuple[Mapping[str, NDArray[np.float64]], Mapping[str, NDArray[np.float64]]]:
    """Return states spread over the first successful attempt from the task's seeds, and what it moved in the model."""
    spec = GenerationSpec(seed=0, use_symmetry=True, paced_bridge=True)
    found = find_task(task)
    backend = open_backend(found, name="robosuite")
    try:
        sources = prepare_sources(backend, found, read_demos(seeds_path(task)), spec).sources
        result = next(r for r in run_attempts(backend, found, sources, spec, range(100)) if r.held)

        episode = episode_of(result, found, spec, dict(backend.describe()))
    finally:
        backend.close()
    rows = np.linspace(0, len(episode) - 1, frames).round().astype(int)
    states = {name: values[rows] for name, values in episode.sim_states.items()}
    return states, episode.start.overrides if episode.start else {}


def _encoded(path: Path, pictures: Sequence[NDArray[np.uint8]], size: int) -> Path:
    with ClipWriter(path, width=size, height=size, fps=20) as writer:
        for picture in pictures:
            writer.write(picture)
    return path
