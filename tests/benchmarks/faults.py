"""Injected faults: what is done to an attempt, and the reasons that name it correctly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory.scene import SceneState
from factory.sim import BlockResult, Commands
from sim_tasks.backends.robosuite import RobosuiteBackend

EXPECTED: Mapping[str, tuple[str, ...]] = {
    "object_removed": ("object_lost",),
    "gripper_disabled": ("gripper_stuck",),
    "target_out_of_reach": ("unreachable",),
    "object_pushed_away": ("dropped",),
}
"""Fault -> the reasons that count as naming it."""


class FaultyBackend(RobosuiteBackend):
    """The stack task with one thing broken; the engine knows nothing of it."""

    fault: str = ""
    _grasped = False

    def reset(self, env: int, placements, rng, *, joint_noise_rad: float = 0.02) -> SceneState:
        """Start as usual; some faults are there from the start."""
        self._grasped = False
        if self.fault == "target_out_of_reach":
            # 1.6 m from the base; the arm reaches 0.85 m.
            placements = {**placements, "cubeB": _shifted(placements["cubeB"], 1.0)}
        scene = super().reset(env, placements, rng, joint_noise_rad=joint_noise_rad)
        if self.fault == "gripper_disabled":
            for actuator in ("gripper0_right_gripper_finger_joint1", "gripper0_right_gripper_finger_joint2"):
                self._model.actuator(actuator).gainprm[:] = 0.0
                self._model.actuator(actuator).biasprm[:] = 0.0
        return scene

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Break the thing at its moment: removal before the grasp, the push after it."""
        results = super().advance(commands)
        for env, result in results.items():
            if self.fault == "object_removed" and not self._grasped:
                self._grasped = True  # once, after settling
                self._move_cube(env, (0.0, 3.0, 0.0))
            if self.fault == "object_pushed_away" and not self._grasped and self._holds(result):
                self._grasped = True
                self._move_cube(env, (0.0, 0.15, 0.0))
        return results

    def _holds(self, result: BlockResult) -> bool:
        return bool(self.task.held["cubeA"](result.scene)[-1])

    def _move_cube(self, env: int, shift: tuple[float, float, float]) -> None:
        self._enter(env)
        start = self._model.joint("cubeA_joint0").qposadr[0]
        self._data.qpos[start : start + 3] += shift


def _shifted(T: np.ndarray, x: float) -> np.ndarray:
    moved = T.copy()
    moved[0, 3] += x
    return moved
