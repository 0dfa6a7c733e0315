"""Each embodiment lifts a box with both hands; writes a still of each and says how high the box came.

    python -m tests.benchmarks.embodiment_stills OUT_FOLDER

A parallel gripper takes the box across its narrow side, one at each end; hands press it between their palms.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("MUJOCO_GL", "egl")

import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory import poses
from factory.sim import Block, Hold
from sim_tasks.backends.robosuite import RobosuiteBackend
from sim_tasks.robots import GR1
from tests import embodiments
from tests.test_backends import run, start

Array = NDArray[np.float64]
FLAT = (-1.0,) * 6
"""A hand stretched out, its thumb beside the palm."""


def lift(backend: RobosuiteBackend) -> float:
    """Take the box, lift it by 15 cm and hold it; return by how many metres it rose."""
    robot = backend.task.robot
    scene, _ = start(backend, 0, 0)
    scene = run(backend, 0, Hold(steps=10)).scene
    box = scene.position("box")[-1].copy()
    hands = len(next(iter(robot.eefs.values())).opens) == 6
    legs = []
    for eef, spec in robot.eefs.items():
        side = -1.0 if eef == "right" else 1.0
        shut = FLAT if hands else spec.closes
        if hands:
            # Palms towards each other; a GR-1's fingers point ahead, thumbs up, a Panda's point down.
            ahead = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -side], [side, 0.0, 0.0]])
            down = np.array([[side, 0.0, 0.0], [0.0, 0.0, -side], [0.0, 1.0, 0.0]])
            R, off = (ahead, [-0.09, 0.0, 0.03]) if robot is GR1 else (down, [0.0, 0.0, 0.145])
            at = box + off + [0.0, side * (embodiments.BOX_M[1] + 0.03), 0.0]
            way = [at + [0.0, side * 0.08, 0.10], at + [0.0, side * 0.06, 0.0], at + [0.0, -side * 0.03, 0.0]]
        else:
            R = scene.T_world_eef[eef][-1][:3, :3]
            at = box + [0.0, side * (embodiments.BOX_M[1] - 0.03), 0.03]
            way = [at + [0.0, 0.0, 0.12], at, at]
        opened = FLAT if hands else spec.opens
        goals = [(R, way[0], opened, 50), (R, way[1], opened, 40), (R, way[2], shut, 25)]
        legs.append([*goals, (R, way[2] + [0.0, 0.0, 0.15], shut, 60), (R, way[2] + [0.0, 0.0, 0.15], shut, 20)])
    targets: dict[str, Array] = {}
    for step in zip(*legs, strict=True):
        commands = {}
        for eef, (R, position, command, count) in zip(robot.eefs, step, strict=True):
            here = targets.get(eef, scene.T_world_eef[eef][-1])
            goal = poses.pose(np.asarray(R), np.asarray(position))
            missed = backend.reach(0, eef, goal[None])
            print(f"   {eef}: reach misses {missed[0][0] * 1e3:.1f} mm, {np.degrees(missed[1][0]):.1f} degrees")
            path = poses.interpolate(here, goal, np.arange(1, count + 1) / count)
            commands[eef] = Block(
                T_world_eef=path, gripper=np.repeat([command], count, 0), action_noise=np.zeros((count, 6))
            )
        targets = {eef: block.T_world_eef[-1] for eef, block in commands.items()}
        result = run(backend, 0, commands)
        scene = result.scene
    print("   touching:", {pair: bool(hit[-1]) for pair, hit in scene.contacts.items()})
    for eef in robot.eefs:
        off_m = np.linalg.norm(scene.T_world_eef[eef][-1][:3, 3] - targets[eef][:3, 3])
        print(f"   {eef}: off its target by {off_m * 1e3:.1f} mm")
    return float(scene.position("box")[-1, 2] - box[2])


def still(backend: RobosuiteBackend, camera: str) -> Image.Image:
    """Return a picture of the present state."""
    option = mujoco.MjvOption()
    option.geomgroup[0] = 0
    option.sitegroup[:] = 0
    with mujoco.Renderer(backend.model, 480, 640) as renderer:
        renderer.update_scene(backend.data, camera, option)
        return Image.fromarray(renderer.render())


def main(out: Path) -> None:
    """Lift and draw."""
    out.mkdir(parents=True, exist_ok=True)
    for name, task in embodiments.TASKS.items():
        backend = RobosuiteBackend(task)
        print(f"{name}: the box rose by {lift(backend) * 1e3:.0f} mm")
        for camera in task.scene.cameras:
            still(backend, camera).save(out / f"{task.name}_{camera}.png")
        backend.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
