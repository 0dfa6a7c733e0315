"""How well operational-space control follows a slow straight path, and what asking for reach costs.

    python -m tests.benchmarks.tracking

Every hand of each embodiment goes 30 cm in 3 s and stays for 0.75 s. Costs are CPU time, best of five.
"""

from __future__ import annotations

import time

import numpy as np

from factory import poses
from factory.sim import Block
from sim_tasks.backends.robosuite import RobosuiteBackend
from tests import embodiments
from tests.test_backends import run, start

STEPS, STAY = 60, 15


def main() -> None:
    """Print one line a hand."""
    for name, task in embodiments.TASKS.items():
        backend = RobosuiteBackend(task)
        scene, _ = start(backend, 0, 3)
        moves = {}
        for eef, spec in task.robot.eefs.items():
            here = scene.T_world_eef[eef][-1]
            side = 1.0 if eef == "right" else -1.0
            # Two that face each other would meet in the middle, so they go the same way along the table.
            goal = here.copy()
            goal[:3, 3] += [0.2, 0.1, 0.2] if name == "two Pandas" else [0.2, 0.1 * side, 0.2]
            path = poses.interpolate(here, goal, np.minimum(np.arange(1, STEPS + STAY + 1) / STEPS, 1.0))
            moves[eef] = Block(
                T_world_eef=path, gripper=np.repeat([spec.opens], len(path), 0), action_noise=np.zeros((len(path), 6))
            )
        for eef, block in moves.items():
            within, beyond = block.T_world_eef[:: (STEPS + STAY) // 4][:4].copy(), block.T_world_eef[:4].copy()
            beyond[:, 0, 3] += 2.0
            costs = []
            for path in (within, beyond):
                spent = []
                for _ in range(5):
                    began = time.process_time()
                    backend.reach(0, eef, path)
                    spent.append(time.process_time() - began)
                costs.append(f"{1e3 * min(spent):.2f} ms")
            print(f"{name}, {eef}: reach of 4 poses {costs[0]} within, {costs[1]} beyond")
        result = run(backend, 0, moves)
        for eef, block in moves.items():
            off = np.linalg.norm(result.scene.T_world_eef[eef][:, :3, 3] - block.T_world_eef[:, :3, 3], axis=1)
            turn = poses.angle_between(result.scene.T_world_eef[eef][:, :3, :3], block.T_world_eef[:, :3, :3])
            print(
                f"{name}, {eef}: behind by at most {off.max() * 1e3:.1f} mm, {np.degrees(turn.max()):.1f} degrees; "
                f"at the end {off[-1] * 1e3:.1f} mm, {np.degrees(turn[-1]):.1f} degrees"
            )
        backend.close()


if __name__ == "__main__":
    main()
