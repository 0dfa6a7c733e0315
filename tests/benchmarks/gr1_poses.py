"""Whether the 44 columns of a GR-1 are the joints they are said to be: others' numbers, posed on the model here.

    python -m tests.benchmarks.gr1_poses SET --out FILE.png [--episode 1]

SET is a LeRobot set with these columns and a camera `ego_view`. Above are its own pictures, below those of the model
here with the joints it recorded; cameras differ, arms and fingers must not.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from factory.foreign import foreign_episodes
from factory.placements import sample_placements
from factory.specs import RenderSpec
from sim_tasks.backends.rendering import EpisodeRenderer
from sim_tasks.backends.robosuite import RobosuiteBackend
from tests.embodiments import TASKS
from workers.pictures import frames_at

TASK = TASKS["GR-1"]
MOMENTS = 6
SIZE_PX = 256
FIRST = {"left": (0, 7), "right": (22, 29)}
"""Where the numbers of each arm and of its hand begin."""
FINGERS = (
    ("pinky",),
    ("ring",),
    ("middle",),
    ("index",),
    ("thumb_proximal_pitch", "thumb_distal"),
    ("thumb_proximal_yaw",),
)
"""Which joints follow each of a hand's six numbers: the last ones of a finger bend with its first."""


def posed(model: mujoco.MjModel, qpos: NDArray[np.float64], row: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return `qpos` with arms and hands as a row of the set has them."""
    qpos = qpos.copy()
    for side, (arm, hand) in FIRST.items():
        spec = TASK.robot.eefs[side]
        told = dict(zip(spec.arm_joints, row[arm : arm + 7], strict=True))
        for finger, value in zip(FINGERS, row[hand : hand + 6], strict=True):
            told |= {joint: value for joint in spec.gripper_joints if any(name in joint for name in finger)}
        for joint, value in told.items():
            qpos[model.joint(joint).qposadr[0]] = value
    return qpos


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episode", type=int, default=0)
    asked = parser.parse_args()
    episode = next(e for e in foreign_episodes(asked.set) if e.index == asked.episode)
    film, rows = episode.films["ego_view"], np.linspace(0, len(episode) - 1, MOMENTS).astype(int)
    theirs = frames_at(film.path, [film.first + int(row) for row in rows], fps=20)
    backend, rng = RobosuiteBackend(TASK), np.random.default_rng(0)
    backend.reset(0, sample_placements(TASK.reset("D0"), rng), rng)
    state, model = backend.sim_state(0), backend._model
    qpos = [posed(model, state["qpos"], episode.columns["observation.state"][row]) for row in rows]
    states = {"time": np.zeros(MOMENTS), "qpos": np.stack(qpos), "qvel": np.zeros((MOMENTS, len(state["qvel"])))}
    spec = RenderSpec(cameras=("ego_view",), width=SIZE_PX, height=SIZE_PX, preset="fast")
    with EpisodeRenderer(TASK, spec) as renderer:
        overrides = backend.snapshot(0).overrides
        ours = [frame["ego_view"] for frame in renderer.frames(states, overrides, visual_stream=None)]
    backend.close()
    sheet = [
        np.concatenate([np.asarray(Image.fromarray(f).resize((SIZE_PX, SIZE_PX))) for f in row], 1)
        for row in (theirs, ours)
    ]
    Image.fromarray(np.concatenate(sheet, 0)).save(asked.out)


if __name__ == "__main__":
    main()
