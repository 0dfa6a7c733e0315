"""What drawing and encoding cost on this machine, and what lighter meshes save and change.

    python -m tests.benchmarks.rendering [TASK]

CPU seconds of the process, all its threads; whatever is compared alternates.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from factory.demos import read_demos
from factory.specs import RenderSpec
from sim_tasks.backends import meshes
from workers.bench_render import measure
from workers.generate import seeds_path
from workers.render import open_renderer

CAMERAS = ("agentview", "robot0_eye_in_hand")
TURNS, FRAMES = 5, 12


def main() -> None:
    """Print the figures as JSON."""
    task = sys.argv[1] if len(sys.argv) > 1 else "stack"
    found: dict[str, Any] = {}
    for size in (84, 256):
        found[f"{size}"] = measure(task, "faithful,fast", size, CAMERAS, FRAMES)
        found[f"{size} lighter meshes"] = lighter_meshes(task, size)
    sys.stdout.write(json.dumps(found, indent=2) + "\n")


def lighter_meshes(task: str, size: int) -> dict[str, Any]:
    """Draw the same states with the meshes as they are and with fewer triangles, in turn."""
    spec = RenderSpec(cameras=CAMERAS, width=size, height=size, preset="fast")
    demo = read_demos(seeds_path(task))[0].states
    demo = demo[np.linspace(0, len(demo) - 1, FRAMES).astype(int)]
    lighten, ways = meshes.lighten, ("whole", "lighter")
    spent: dict[str, list[float]] = {way: [] for way in ways}
    pictures: dict[str, Any] = {}
    with ExitStack() as stack:
        meshes.lighten = lambda _model: None
        whole = stack.enter_context(open_renderer(task, spec))
        meshes.lighten = lighten
        renderers = {"whole": whole, "lighter": stack.enter_context(open_renderer(task, spec))}
        nq, nv = whole._model.nq, whole._model.nv
        states = {"qpos": demo[:, 1 : 1 + nq], "qvel": demo[:, 1 + nq : 1 + nq + nv]}
        for turn in range(-1, TURNS):
            for way, renderer in renderers.items():
                begun = time.process_time()
                frames = list(renderer.frames(states, {}, visual_stream=None))
                pictures[way] = np.array([[frame[camera] for camera in CAMERAS] for frame in frames], np.int16)
                if turn >= 0:
                    spent[way].append((time.process_time() - begun) / (FRAMES * len(CAMERAS)))
        triangles = {way: int(renderer._model.mesh_facenum.sum()) for way, renderer in renderers.items()}
    change = np.abs(pictures["whole"] - pictures["lighter"])
    return {
        "ms_per_frame": {way: 1e3 * statistics.median(spent[way]) for way in ways},
        "spread_ms": {way: [1e3 * min(spent[way]), 1e3 * max(spent[way])] for way in ways},
        "triangles": triangles,
        "share_of_pixels_changed": float((change.max(axis=-1) > 0).mean()),
        "share_changed_by_more_than_16": float((change.max(axis=-1) > 16).mean()),
        "mean_change": float(change.mean()),
    }


if __name__ == "__main__":
    main()
