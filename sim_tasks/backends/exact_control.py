"""robosuite's OSC_POSE torques between policy steps, computed once instead of four times, bit for bit the same.

Within a control step robosuite looks up names, copies, and asks MuJoCo for the same Jacobian several times at each of
25 substeps. Here one object per arm keeps the addresses and performs the same floating-point operations in the same
order, with robosuite's own compiled functions. Goals are still set by robosuite itself, at the first substep.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from robosuite.utils.control_utils import nullspace_torques, opspace_matrices, orientation_error

Array = NDArray[np.float64]


def exact_arms(model: mujoco.MjModel, data: mujoco.MjData, robots: Sequence[Any]) -> list[ExactArm] | None:
    """Return one controller per arm of all robots, or None when one is not driven by plain OSC_POSE and a gripper."""
    arms: list[ExactArm] = []
    parts = [(robot, name, part) for robot in robots for name, part in robot.part_controllers.items()]
    for robot, name, part in parts:
        if name in robot.arms:
            plain = (
                part.name == "OSC_POSE"
                and part.impedance_mode == "fixed"
                and part.interpolator_pos is None
                and part.interpolator_ori is None
                and part.uncoupling
                and part.input_ref_frame == "base"
                and part.num_ref_sites == 1
                and part.lite_physics
            )
            if not plain:
                return None
            arms.append(ExactArm(model, data, part, robot._ref_actuators_indexes_dict[name]))  # noqa: SLF001
        elif not name.endswith("_gripper"):
            return None
    return arms if all(arm.fixed_base() for arm in arms) else None


class ExactArm:
    """Computes one arm's torques and writes them to the controls. The robosuite controller stays the owner of goals."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, part: Any, actuators: Any) -> None:
        self._model, self._data, self._part = model, data, part
        self._site = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, part.ref_name)
        origin = f"{part.naming_prefix}{part.part_name}_center"
        self._origin = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_SITE, origin)
        self._actuators = np.array(actuators)
        # Views into the simulator's own memory; they stay valid as long as the data does.
        self._qpos, self._qvel, self._bias, self._ctrl = data.qpos, data.qvel, data.qfrc_bias, data.ctrl
        self._xpos, self._xmat = data.site_xpos, data.site_xmat
        self._low, self._high = model.actuator_ctrlrange[self._actuators].T.copy()
        self._jacp, self._jacr = np.zeros((3, model.nv)), np.zeros((3, model.nv))
        self._mass = np.zeros((model.nv, model.nv))
        n = len(part.qvel_index)
        self._J_pos, self._J_ori, self._J = np.zeros((3, n)), np.zeros((3, n)), np.zeros((6, n))

    def fixed_base(self) -> bool:
        """Whether the base cannot move, so that its velocity is exactly zero."""
        mujoco.mj_jacSite(self._model, self._data, self._jacp, self._jacr, self._origin)
        return not self._jacp.any() and not self._jacr.any()

    def control(self) -> None:
        """Write this substep's torques; call after `mj_step1`."""
        part, dofs = self._part, self._part.qvel_index
        mujoco.mj_jacSite(self._model, self._data, self._jacp, self._jacr, self._site)
        position_velocity, rotation_velocity = np.dot(self._jacp, self._qvel), np.dot(self._jacr, self._qvel)
        self._J_pos[:] = self._J[:3] = self._jacp[:, dofs]
        self._J_ori[:] = self._J[3:] = self._jacr[:, dofs]
        mujoco.mj_fullM(self._model, self._data, self._mass)
        # The same indexing as robosuite's: another memory layout would take another path through the linear algebra.
        mass = self._mass[dofs, :][:, dofs]
        position, rotation = self._xpos[self._site].copy(), self._xmat[self._site].reshape(3, 3).copy()
        origin_rotation = self._xmat[self._origin].reshape(3, 3).copy()
        goal = self._xpos[self._origin] + np.dot(origin_rotation, part.goal_pos)
        turn = orientation_error(np.dot(origin_rotation, part.goal_ori), rotation)
        force = (goal - position) * part.kp[0:3] + -position_velocity * part.kd[0:3]
        torque = turn * part.kp[3:6] + -rotation_velocity * part.kd[3:6]
        _, inertia_pos, inertia_ori, nullspace = opspace_matrices(mass, self._J, self._J_pos, self._J_ori)
        wrench = np.concatenate([np.dot(inertia_pos, force), np.dot(inertia_ori, torque)])
        torques = np.dot(self._J.T, wrench) + self._bias[dofs]
        torques += nullspace_torques(mass, nullspace, part.initial_joint, self._qpos[part.qpos_index], self._qvel[dofs])
        self._ctrl[self._actuators] = np.minimum(np.maximum(torques, self._low), self._high)
