"""Jobs that need no physics: demonstrations of the catalogue's "stack_three" by the kinematic backend."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from factory import poses
from factory.demos import Demo, write_demos
from factory.placements import sample_placements
from factory.sim import Block
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.catalog import TASKS
from tests.kinematic import DOWN, _yaw

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
