"""Jobs without physics: the catalogue's "stack_three" on the kinematic backend."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from factory import poses
from factory.demos import Demo, write_demos
from factory.placements import sample_placements
from factory.sim import Block
from factory.specs import GenerationSpec
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.catalog import TASKS
from tests.kinematic import DOWN, _yaw
from workers.generate import Finished, Request, generate

TASK = TASKS["stack_three"]


def demonstrate(seed: int) -> Demo:
    """Record one tower: A onto B, then C onto A."""
    backend = KinematicBackend(TASK)
    rng = np.random.default_rng(seed)
    scene = backend.reset(0, sample_placements(TASK.reset("D0"), rng), rng)
    at = {name: scene.position(name)[0] for name in TASK.scene.objects}
    yaw = {name: poses.yaw_matrix(np.array(_yaw(T[0]))) for name, T in scene.T_world_object.items()}
    above, on_b = np.array([0.0, 0.0, 0.1]), at["cubeB"] + [0.0, 0.0, 0.045]
    legs = []
    for cube, goal in (("cubeA", on_b), ("cubeC", on_b + [0.0, 0.0, 0.04])):
        legs += [(yaw[cube], at[cube] + above, -1), (yaw[cube], at[cube], -1), (yaw[cube], at[cube], 1)]
        legs += [(yaw[cube], at[cube] + 2 * above, 1), (yaw["cubeB"], goal + above, 1), (yaw["cubeB"], goal, 1)]
        legs += [(yaw["cubeB"], goal, -1), (yaw["cubeB"], goal + above, -1)]
    here = scene.T_world_eef["right"][0]
    actions, states = [], [_flat(backend.sim_state(0))]
    for turn, position, gripper in legs:
        goal = poses.pose(turn @ DOWN, position)
        n = 8 + int(rng.integers(4))
        path = poses.interpolate(here, goal, np.arange(1, n + 1) / n)
        block = Block(T_world_eef=path, gripper=np.full((n, 1), float(gripper)), action_noise=np.zeros((n, 6)))
        result = backend.advance({0: {"right": block}})[0]
        actions.append(result.actions)
        states.append(np.concatenate([result.sim_states["time"], result.sim_states["state"]], axis=1))
        here = goal
    return Demo(
        name=f"demo_{seed}",
        path="made",
        format="seeds",
        environment=TASK.name,
        control_hz=20.0,
        actions=np.concatenate(actions).astype(float),
        states=np.concatenate([states[0][None], *states[1:]]),
    )


def _flat(state) -> np.ndarray:
    return np.concatenate([state["time"], state["state"]])


def write_demonstrations(path: Path, count: int = 3) -> Path:
    """Write a file of towers and return its path."""
    write_demos(path, [demonstrate(seed) for seed in range(count)])
    return path


NOISE = 0.32
"""Action noise at which about half of the attempts fail."""


class Watcher:
    """Hears a job and remembers it; `on_record` is called with the number of records so far."""

    def __init__(self, on_record: Callable[[int], None] | None = None) -> None:
        self.counts: list[int] = []
        self.found: int | None = None
        self._on_record = on_record

    def attempts(self, attempted: int, succeeded: int) -> None:
        """Remember how many there are."""
        self.counts.append(attempted)
        if self._on_record is not None:
            self._on_record(attempted)

    def rendering(self, done: int, total: int) -> None:
        """Nothing is rendered here."""

    def resumed(self, finished: int) -> None:
        """Remember what was found."""
        self.found = finished


def request(out: Path, demos: Path, **changes: Any) -> Request:
    """Return a request for towers without pictures; `generation` changes are given as a mapping."""
    generation = {"noise_normalised": NOISE, "use_symmetry": True, "paced_bridge": True}
    generation |= changes.pop("generation", {})
    wanted = {} if "attempts" in changes else {"episodes": 4}
    settings = {**wanted, **changes}
    return Request(
        task="stack_three",
        out=out,
        demos=(demos,),
        generation=GenerationSpec(**generation),
        render=None,
        backend="kinematic",
        **settings,
    )


def make(out: Path, demos: Path, *, workers: int = 1, watcher: Watcher | None = None, **changes: Any) -> Finished:
    """Run a job in this process."""
    return generate(request(out, demos, **changes), workers=workers, watcher=watcher or Watcher())


COMMAND = (
    sys.executable,
    "-c",
    # A job that a shell starts in the background ignores Ctrl-C, and so would this process.
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from workers.cli import main; main()",
)


def arguments(out: Path, demos: Path, *more: str) -> list[str]:
    """Return the command line that asks for the same as `request`."""
    job = ["generate", "stack_three", "--demos", str(demos), "--out", str(out), "--episodes", "4"]
    return [*job, "--noise", str(NOISE), "--cameras", "", "--backend", "kinematic", "--workers", "1", *more]


def start(*command: str, **options: Any) -> subprocess.Popen:
    """Start `factory ...` as a group of its own, its output piped as text."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([*COMMAND, *command], **pipes, **options)
