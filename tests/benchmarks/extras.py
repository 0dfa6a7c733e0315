"""What segmentation and depth cost: `python -m tests.benchmarks.extras [TASK ...]`.

Draws a shipped demonstration with and without them, turn about on the same states, and prints per task, size and preset
the ratio of the two CPU times (drawing, encoding and writing; median and range of the turns) and bytes per frame. Then
what other ways to keep the same frames would take: bytes per frame, and milliseconds to write and to read one. FFV1
is lossless video, one key frame after another; npz is numpy's compressed file; hevc12 is what LeRobot's newest version
keeps of depth, 12 bits spread logarithmically from 1 cm to 10 m, lossless from there on.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from factory.demos import read_demos
from factory.episodes import Column, Episode, list_renders, read_clips, read_layers, write_shard
from factory.extras import read_frames
from factory.specs import EXTRAS, RenderSpec
from workers.generate import seeds_path
from workers.render import open_renderer, render_shard

TURNS = 5
ROWS = {84: 60, 256: 24}


def main(tasks: list[str]) -> None:
    for task in tasks or ["stack"]:
        for size in ROWS:
            for preset in ("fast", "faithful"):
                with tempfile.TemporaryDirectory() as folder:
                    drawn = turns(task, size, preset, Path(folder))
                sys.stdout.write(json.dumps({"task": task, "size": size, "preset": preset, **drawn}) + "\n")
                sys.stdout.flush()


def turns(task: str, size: int, preset: Any, folder: Path) -> dict[str, Any]:
    plain = RenderSpec(width=size, height=size, preset=preset)
    full = RenderSpec(width=size, height=size, preset=preset, extras=EXTRAS)
    ratios, shard = [], Path()
    with open_renderer(task, plain) as one, open_renderer(task, full) as other:
        episode = _episode(task, one._model, ROWS[size])
        for turn in range(-1, TURNS):  # the first turn warms shaders up
            spent = []
            for renderer in (one, other) if turn % 2 else (other, one):
                shard = write_shard(folder / f"{turn} {len(renderer.spec.extras)}", episode)
                begun = time.process_time()
                render_shard(renderer, shard)
                spent.append((len(renderer.spec.extras), time.process_time() - begun))
            seconds = dict(spent)
            if turn >= 0:
                ratios.append(seconds[2] / seconds[0])
        shard = folder / f"{TURNS - 1} 2" / shard.name
    clips, _ = read_clips(shard, list_renders(shard)[0])
    layers, _ = read_layers(shard, list_renders(shard)[0])
    found: dict[str, Any] = {
        "ratio": round(median(ratios), 2),
        "from": round(min(ratios), 2),
        "to": round(max(ratios), 2),
    }
    found["bytes"] = {
        **{f"video.{name}": clip.path.stat().st_size // clip.frames for name, clip in clips.items()},
        **{layer.name: layer.path.stat().st_size // layer.frames for layer in layers},
    }
    if preset == "fast":
        found["otherwise"] = {layer.name: otherwise(read_frames(layer.path), folder) for layer in layers}
        found["read_ms"] = {
            layer.name: _timed(lambda p=layer.path: read_frames(p), layer.frames)[1] for layer in layers
        }
    return found


def otherwise(frames: NDArray[Any], folder: Path) -> dict[str, Any]:
    """Return per way [bytes, ms to write, ms to read] of a frame."""
    count, deep = len(frames), frames.dtype == np.uint16
    pixels = "gray16le" if deep else "gray"
    path, packed = folder / "frames", io.BytesIO()
    ffv1 = {"level": "3", "slices": "4", "slicecrc": "1"}
    _, written = _timed(lambda: _video(path, frames, "ffv1", pixels, ffv1), count)
    _, read = _timed(lambda: _frames(path, pixels), count)
    found = {"ffv1": [path.stat().st_size // count, written, read]}
    _, written = _timed(lambda: np.savez_compressed(packed, frames=frames), count)
    _, read = _timed(lambda: np.load(io.BytesIO(packed.getvalue()))["frames"], count)
    found["npz"] = [len(packed.getvalue()) // count, written, read]
    if deep:
        twelve = np.rint(4095 * np.log(np.clip(frames / 1000.0, 0.01, 10.0) / 0.01) / np.log(1000.0)).astype(np.uint16)
        hevc = {"x265-params": "lossless=1:pools=none:frame-threads=1:log-level=none", "preset": "fast"}
        _, written = _timed(lambda: _video(path, twelve, "libx265", "gray12le", hevc), count)
        _, read = _timed(lambda: _frames(path, "gray12le"), count)
        found["hevc12"] = [path.stat().st_size // count, written, read]
    return found


def _timed(work: Callable[[], Any], count: int) -> tuple[Any, float]:
    begun = time.process_time()
    done = work()
    return done, round(1e3 * (time.process_time() - begun) / count, 2)


def _video(path: Path, frames: NDArray[Any], codec: str, pixels: str, options: dict[str, str]) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream: Any = container.add_stream(codec, rate=20, options=options)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:], pixels
        stream.codec_context.thread_count = 1
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=pixels)
            picture.pts, picture.time_base = number, Fraction(1, 20)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))


def _frames(path: Path, pixels: str) -> list[NDArray[Any]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=pixels) for frame in container.decode(video=0)]


def _episode(task: str, model: Any, rows: int) -> Episode:
    """Return the middle of a demonstration, where hand and objects move."""
    demo = read_demos(seeds_path(task))[0].states
    states = demo[len(demo) // 3 :][: rows + 1]
    return Episode(
        index=0,
        success=True,
        task=task,
        instruction=task,
        control_hz=20.0,
        columns={"action": Column(values=np.zeros((len(states) - 1, 7), np.float32))},
        subtasks=(),
        sim_states={
            "time": states[:, 0],
            "qpos": states[:, 1 : 1 + model.nq],
            "qvel": states[:, 1 + model.nq : 1 + model.nq + model.nv],
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
