"""What planned transit brings and costs: straight and planned attempts on the same starts.

    python -m tests.benchmarks.transit [--attempts 50] [--task stack/shelf ...]
    python -m tests.benchmarks.transit --lag
    python -m tests.benchmarks.transit --picture docs/images/transit.webp

Planning is timed inside the attempts, by CPU. `--lag` prints how far hands are behind their targets on planned ways,
and what that does, at the pace of a bridge and at the pace they are travelled. `--picture` draws one attempt at
stack/shelf: five moments of the planned way, dots where it was planned.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np
from PIL import Image

from factory import arms, transit
from factory.demos import read_demos
from factory.replay import AttemptResult, run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from sim_tasks.backends.robosuite import RobosuiteBackend
from sim_tasks.catalog import find_task
from workers.generate import seeds_path

SPEC = GenerationSpec(seed=2026, use_symmetry=True, paced_bridge=True, transit="planned")
CLUTTERED = ("stack/shelf", "can/posts")
UNCLUTTERED = ("stack", "stack_three")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--attempts", type=int, default=50)
    parser.add_argument("--task", action="append")
    parser.add_argument("--lag", action="store_true")
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    if asked.picture:
        draw(asked.picture)
    elif asked.lag:
        lag(asked.attempts)
    else:
        for name in asked.task or (*CLUTTERED, *UNCLUTTERED):
            compare(name, asked.attempts)


class Bench:
    """One task, open, with its sources."""

    def __init__(self, name: str) -> None:
        self.task = find_task(name)
        self.backend = RobosuiteBackend(self.task)
        self.sources = prepare_sources(self.backend, self.task, read_demos(seeds_path(name)), SPEC).sources

    def run(self, spec: GenerationSpec, indices: Sequence[int]) -> list[AttemptResult]:
        return list(run_attempts(self.backend, self.task, self.sources, spec, indices))


@contextmanager
def timed() -> Iterator[list[float]]:
    """Collect the CPU seconds of every look for a way."""
    seconds: list[float] = []
    around = arms.around

    def timing(*arguments: Any) -> Any:
        begun = time.process_time()
        try:
            return around(*arguments)
        finally:
            seconds.append(time.process_time() - begun)

    arms.around = timing
    try:
        yield seconds
    finally:
        arms.around = around


def compare(name: str, attempts: int) -> None:
    """Print a task's successes and costs, straight and planned."""
    bench = Bench(name)
    bench.run(SPEC, [0])  # compiles
    made: dict[str, list[AttemptResult]] = {}
    for way in ("straight", "planned"):
        with timed() as seconds:
            begun = time.process_time()
            results = made[way] = bench.run(replace(SPEC, transit=way), range(attempts))  # type: ignore[arg-type]
            cpu = time.process_time() - begun
        failures = Counter(f"{r.failure.subtask}: {r.failure.reason}" for r in results if r.failure)
        uses = [use for r in results for use in r.transits]
        print(
            f"{name} {way}: held {sum(r.held for r in results)} of {attempts}; {cpu / attempts:.3f} CPU s and "
            f"{np.mean([len(r) for r in results]):.0f} steps an attempt, {sum(seconds) / attempts:.3f} CPU s planning "
            f"({100 * sum(seconds) / cpu:.0f} %); {len(uses)} bridges planned in "
            f"{sum(bool(r.transits) for r in results)} attempts, {np.mean([u.checks for u in uses] or [0]):.0f} poses "
            f"each; {dict(failures.most_common())}",
            flush=True,
        )
    equal = [
        np.array_equal(a.actions, b.actions)
        and all(np.array_equal(v, b.sim_states[k]) for k, v in a.sim_states.items())
        for a, b in zip(*made.values(), strict=True)
    ]
    lost = sum(a.held and not b.held for a, b in zip(*made.values(), strict=True))
    print(f"{name}: {sum(equal)} of {attempts} bit-equal either way; {lost} held straight and not planned", flush=True)
    bench.backend.close()


def lag(attempts: int) -> None:
    """Print how far the hand is behind on planned ways, at two paces."""
    for name in CLUTTERED:
        bench = Bench(name)
        for slower in (1, 2):
            transit._SLOWER = slower
            results = bench.run(SPEC, range(attempts))
            behind = [
                np.linalg.norm((r.scene.T_world_eef[u.eef][1:] - r.T_world_eef_target[u.eef])[_rows(u), :3, 3], axis=-1)
                for r in results
                for u in r.transits
            ]
            print(
                f"{name}, {transit.PACE_M / slower * 20:.1f} m/s: held {sum(r.held for r in results)} of {attempts}; "
                f"the hand is {100 * float(np.median(np.concatenate(behind))):.1f} cm behind in the median, "
                f"{100 * max(map(np.max, behind)):.1f} cm at most",
                flush=True,
            )
        bench.backend.close()


def _rows(use: transit.TransitUse) -> slice:
    return slice(use.first_step, use.first_step + use.steps)


def draw(path: Path) -> None:
    """Draw five moments of a planned way around the shelf, and the end."""
    bench = Bench("stack/shelf")
    (result,) = bench.run(SPEC, [0])
    use = result.transits[-1]
    model, data = bench.backend.model, mujoco.MjData(bench.backend.model)
    eye, look = np.array([0.6, -1.15, 1.5]), np.array([0.02, 0.0, 1.05])
    ahead = look - eye
    camera = mujoco.MjvCamera()
    camera.lookat, camera.distance = look, np.linalg.norm(ahead)
    camera.azimuth = np.degrees(np.arctan2(ahead[1], ahead[0]))
    camera.elevation = np.degrees(np.arcsin(ahead[2] / camera.distance))
    shown = mujoco.MjvOption()
    shown.geomgroup[0], shown.sitegroup[:] = 0, 0
    tiles = []
    with mujoco.Renderer(model, 240, 280) as renderer:
        for share in (0.0, 0.25, 0.5, 0.75, 1.0, None):
            row = len(result) if share is None else use.first_step + round(share * use.steps)
            data.qpos[:] = result.sim_states["qpos"][row]
            mujoco.mj_forward(model, data)
            renderer.update_scene(data, camera, shown)
            for T in result.T_world_eef_target[use.eef][_rows(use)][::3]:
                dot = renderer.scene.geoms[renderer.scene.ngeom]
                size, at, blue = np.full(3, 0.006), T[:3, 3], np.array([0.1, 0.35, 0.9, 1.0], np.float32)
                mujoco.mjv_initGeom(dot, mujoco.mjtGeom.mjGEOM_SPHERE, size, at, np.eye(3).ravel(), blue)
                renderer.scene.ngeom += 1
            tiles.append(renderer.render())
    sheet = np.concatenate([np.concatenate(tiles[:3], axis=1), np.concatenate(tiles[3:], axis=1)])
    Image.fromarray(sheet).save(path, quality=85, method=6)
    print(path, path.stat().st_size, use)
    bench.backend.close()


if __name__ == "__main__":
    main()
