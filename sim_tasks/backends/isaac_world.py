"""An Isaac Lab Mimic environment in numpy: what goes in and comes out of it, in this project's frames and orders.

Works on any object with the interface of `ManagerBasedRLMimicEnv`, of Isaac Lab 2.3 and 3.0: everything is called by
the names both versions share. Tensors become arrays here and nowhere else. All poses are about the origin of their own
environment, which is what Isaac Lab calls relative; to this project that is the world frame.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from factory.errors import BackendError, unknown_name
from factory.isaac_states import QuaternionOrder, StateLayout, leaves, reordered, tree_of
from factory.specs import EefSpec, TaskSpec

Array = NDArray[np.float64]

SUCCESS = "success"
"""What the environment's success term is called among its terms."""
_ROBOT = "robot"
"""Isaac Lab's tasks call the articulation that acts so."""
_RATE_TOLERANCE = 1e-6


@dataclass(frozen=True, kw_only=True)
class MimicEnvironment:
    """An environment that is open.

    Attributes:
        env: has the methods of `ManagerBasedRLMimicEnv`.
        success: the success term: the environment -> a truth value for each of its N.
        name: what it is registered as.
        version: Isaac Lab's.
        order: of the quaternions in its states.
        close: closes it, and what was started for it.
        facts: further facts for provenance, such as the GPU's name.
    """

    env: Any
    success: Callable[[Any], Any]
    name: str
    version: str
    order: QuaternionOrder
    close: Callable[[], None]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All environments at one moment; every array has a leading axis N.

    Attributes:
        rows: ``(N, width)`` states, see `MimicWorld.layout`.
        T_world_eef: end effector, by our name -> ``(N, 4, 4)``.
        T_world_object: object, by our name -> ``(N, 4, 4)``.
        terms: what the environment says of itself -> ``(N,)`` bool: subtask signals, and `SUCCESS`.
    """

    rows: Array
    T_world_eef: Mapping[str, Array]
    T_world_object: Mapping[str, Array]
    terms: Mapping[str, NDArray[np.bool_]]


class MimicWorld:
    """An open environment, checked against a task.

    Attributes:
        layout: of a state row; quaternions have w first.
        joint_names: of the robot, in the order of its joint positions.
        action_width: numbers in one of the environment's own actions.
    """

    def __init__(self, opened: MimicEnvironment, task: TaskSpec) -> None:
        """Take over an environment.

        Raises:
            BackendError: it lacks an end effector, an object or a joint of the task, or runs at another rate.
        """
        self.opened, self._env, self._task = opened, opened.env, task
        self.num_envs = int(self._env.num_envs)
        self.action_width = int(self._env.action_space.shape[-1])
        state = self._env.scene.get_state(is_relative=True)
        self._groups = tuple(state)
        self.layout = StateLayout(shapes={k: tuple(v.shape[1:]) for k, v in leaves(state).items()})
        self._hands = {name: _called(eef, f"{name}'s frame") for name, eef in task.robot.eefs.items()}
        self._objects = {name: _named(spec.frame, "object") for name, spec in task.scene.objects.items()}
        self.joint_names = tuple(self._robot().joint_names)
        self._check()

    # --- what is there ------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def read(self) -> Reading:
        """Return everything a task may ask of all environments, as they are now."""
        state = leaves(self._env.scene.get_state(is_relative=True))
        arrays = {k: reordered(k, _numpy(v), self.opened.order, "wxyz") for k, v in state.items()}
        poses = self._env.get_object_poses(env_ids=None)
        return Reading(
            rows=self.layout.flat(arrays),
            T_world_eef={
                ours: _numpy(self._env.get_robot_eef_pose(eef_name=theirs, env_ids=None)).astype(np.float64)
                for ours, theirs in self._hands.items()
            },
            T_world_object={k: _numpy(poses[theirs]).astype(np.float64) for k, theirs in self._objects.items()},
            terms=self._terms(),
        )

    def _terms(self) -> dict[str, NDArray[np.bool_]]:
        try:
            signals = self._env.get_subtask_term_signals(env_ids=None)
        except NotImplementedError:
            signals = {}  # optional in the interface; the GR1T2 environments have none
        terms = {**signals, SUCCESS: self.opened.success(self._env)}
        return {k: _numpy(v).reshape(self.num_envs).astype(np.bool_) for k, v in terms.items()}

    def home(self, env: int) -> Array:
        """Return the joint positions ``(k,)`` the robot's configuration calls its default, rad or m."""
        return _numpy(self._robot().data.default_joint_pos)[env].astype(np.float64)

    # --- what can be done ---------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def start(self, env: int, seed: int) -> Array:
        """Reset one environment by its own rules and return its state row ``(width,)``."""
        self._env.reset(env_ids=self._ids([env]), seed=seed)
        return self.read().rows[env]

    @torch.inference_mode()
    def load(self, envs: Sequence[int], rows: Array) -> None:
        """Put environments into states ``(len(envs), width)``."""
        arrays = {
            name: self._tensor(reordered(name, values, "wxyz", self.opened.order))
            for name, values in self.layout.named(rows).items()
        }
        self._env.reset_to(tree_of(arrays, self._groups), env_ids=self._ids(envs), is_relative=True)

    @torch.inference_mode()
    def encode(
        self, env: int, T_world_target: Mapping[str, Array], gripper: Mapping[str, Array]
    ) -> NDArray[np.float32]:
        """Return the environment's own action ``(action_width,)`` for target poses, without noise of its own."""
        action = self._env.target_eef_pose_to_action(
            target_eef_pose_dict={self._hands[k]: self._tensor(v) for k, v in T_world_target.items()},
            gripper_action_dict={self._hands[k]: self._tensor(v) for k, v in gripper.items()},
            env_id=env,
        )
        return _numpy(action).reshape(-1).astype(np.float32)

    @torch.inference_mode()
    def targets(self, env_actions: NDArray[np.float32]) -> dict[str, Array]:
        """Return the poses ``(N, 4, 4)`` that one action for each environment ``(N, action_width)`` asks for."""
        found = self._env.action_to_target_eef_pose(self._tensor(env_actions))
        return {ours: _numpy(found[theirs]).astype(np.float64) for ours, theirs in self._hands.items()}

    @torch.inference_mode()
    def grippers(self, env_actions: Array) -> dict[str, Array]:
        """Return the gripper commands ``(T, g)`` in environment actions ``(T, action_width)``."""
        found = self._env.actions_to_gripper_actions(self._tensor(env_actions))
        return {ours: _numpy(found[theirs]).astype(np.float64) for ours, theirs in self._hands.items()}

    @torch.inference_mode()
    def step(self, env_actions: NDArray[np.float32]) -> None:
        """Step all environments together with actions ``(N, action_width)``."""
        self._env.step(self._tensor(env_actions))

    # --- parts of a state ---------------------------------------------------------------------------------------------

    def joints(self, rows: Array, names: Sequence[str]) -> Array:
        """Return positions ``(N, len(names))`` of the robot's joints in state rows."""
        at = [self.joint_names.index(name) for name in names]
        return self.layout.named(rows)[f"articulation/{_ROBOT}/joint_position"][:, at]

    def with_posture(self, row: Array, names: Sequence[str], positions: Array) -> Array:
        """Return a state row in which the robot's joints rest at the given positions."""
        arrays = {k: v.copy() for k, v in self.layout.named(row[None]).items()}
        at = [self.joint_names.index(name) for name in names]
        arrays[f"articulation/{_ROBOT}/joint_position"][0, at] = positions
        arrays[f"articulation/{_ROBOT}/joint_velocity"][0, at] = 0.0
        return self.layout.flat(arrays)[0]

    def with_body(self, row: Array, body: str, xyz_quat_wxyz: Array) -> Array:
        """Return a state row in which a body rests at the given pose, world frame.

        Raises:
            BackendError: the scene has no body of this name that can be put somewhere.
        """
        arrays = {k: v.copy() for k, v in self.layout.named(row[None]).items()}
        for kind in ("rigid_object", "articulation"):
            if f"{kind}/{body}/root_pose" in arrays:
                arrays[f"{kind}/{body}/root_pose"][0] = xyz_quat_wxyz
                arrays[f"{kind}/{body}/root_velocity"][0] = 0.0
                return self.layout.flat(arrays)[0]
        known = [name.split("/")[1] for name in arrays if name.endswith("/root_pose")]
        raise BackendError(f"environment {self.opened.name!r}: " + unknown_name("body", body, known))

    def velocity(self, rows: Array, body: str) -> Array:
        """Return a body's velocity ``(N, 6)``, m/s and rad/s; zero for what the state says nothing of."""
        arrays = self.layout.named(rows)
        return arrays.get(f"rigid_object/{body}/root_velocity", np.zeros((len(rows), 6)))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _robot(self) -> Any:
        try:
            return self._env.scene[_ROBOT]
        except KeyError as error:
            raise BackendError(f"environment {self.opened.name!r} has no articulation {_ROBOT!r}") from error

    def _ids(self, envs: Sequence[int]) -> torch.Tensor:
        return torch.tensor(list(envs), dtype=torch.int64, device=self._env.device)

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.tensor(np.asarray(values, np.float32), device=self._env.device)

    def _check(self) -> None:
        where, robot = f"environment {self.opened.name!r}: ", self._task.robot
        known = tuple(self._env.cfg.subtask_configs)
        for name in self._hands.values():
            if name not in known:
                raise BackendError(where + unknown_name("end effector", name, known))
        objects = tuple(self._env.get_object_poses(env_ids=None))
        for name in self._objects.values():
            if name not in objects:
                raise BackendError(where + unknown_name("object", name, objects))
        for eef in robot.eefs.values():
            for joint in (*eef.arm_joints, *eef.gripper_joints):
                if joint not in self.joint_names:
                    raise BackendError(where + unknown_name("joint", joint, self.joint_names))
        rate = 1.0 / float(self._env.step_dt)
        if abs(rate - robot.control_hz) > _RATE_TOLERANCE * rate:
            raise BackendError(f"{where}it takes {rate:g} actions a second, robot {robot.name!r} {robot.control_hz}")


def _called(eef: EefSpec, what: str) -> str:
    name = _named(eef.frame, "eef")
    if eef.base_frame != "origin":
        raise BackendError(f"{what} is commanded in {eef.base_frame!r}; Isaac Lab Mimic's are in 'origin'")
    return name


def _named(frame: str, kind: str) -> str:
    found, _, name = frame.partition(":")
    if found != kind or not name:
        raise BackendError(f"the frame {frame!r} is none of Isaac Lab's; expected '{kind}:NAME'")
    return name


def _numpy(values: Any) -> NDArray[Any]:
    """Return a tensor as an array; Isaac Lab 3 hands out arrays of Warp that have a view as a tensor."""
    tensor = values if isinstance(values, torch.Tensor) else values.torch
    return tensor.detach().cpu().numpy().copy()
