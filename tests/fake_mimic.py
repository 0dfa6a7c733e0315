"""Environments with the interface of Isaac Lab Mimic's, written from its documented signatures, without Isaac Lab.

A kinematic world of floating hands and boxes: a hand goes exactly where its action asks, a box between closing fingers
sticks to them, a released box drops onto what is below. What matters is what surrounds it: N environments with origins
of their own that only step together, single precision, tensors, observations that are renewed by step and reset alone,
quaternions in either order, and what differs between Isaac Lab 2.3 and 3.0 in names and types.

The first three of a hand's seven arm "joints" are its position about the robot's root, the other four its quaternion,
w first. Nothing of a grasp is remembered but where fingers and boxes are, as in a state that Isaac Lab stores.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from factory import poses
from factory.isaac_states import QuaternionOrder, reordered
from sim_tasks.backends.isaac_world import MimicEnvironment
from sim_tasks.tasks import isaac_robots

Array = NDArray[np.float64]
Truths = NDArray[np.bool_]

_FINGER_STEP_M, _OPEN_M = 0.008, 0.04
_REACH_M = 0.025
_SPACING_M = 2.5
STEP_S = 0.05
_DOWN = (0.0, 1.0, 0.0, 0.0)


@dataclass(frozen=True, kw_only=True)
class World:
    """What stands in every environment.

    `hands` maps the environment's names of its hands to the joints of arm and fingers; `homes` where they start.
    `absolute` actions are poses and eleven finger angles, as the GR1T2's; others are displacements and one number.
    """

    hands: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]
    homes: Mapping[str, tuple[float, float, float]]
    boxes: Mapping[str, float]
    starts: Mapping[str, tuple[float, float, float]]
    table_m: float
    absolute: bool = False
    terms: Callable[[FakeMimic], Mapping[str, Truths]] | None = None
    success: Callable[[FakeMimic], Truths]


class FakeScene:
    """The parts of `InteractiveScene` that are used: states, the robot, origins."""

    def __init__(self, env: FakeMimic) -> None:
        self._env = env
        side = int(np.ceil(np.sqrt(env.num_envs)))
        cells = np.array([(i // side, i % side) for i in range(env.num_envs)], np.float32)
        self.env_origins = torch.tensor(np.concatenate([cells * _SPACING_M, np.zeros((len(cells), 1))], 1)).float()

    def __getitem__(self, name: str) -> Any:
        if name != "robot":
            raise KeyError(name)
        env = self._env
        return SimpleNamespace(
            joint_names=list(env.joint_names),
            data=SimpleNamespace(default_joint_pos=env.handed_out(env.default_joints)),
        )

    def get_state(self, is_relative: bool = False) -> dict[str, Any]:
        env = self._env
        shift = -self.env_origins if is_relative else torch.zeros_like(self.env_origins)

        def pose(array: np.ndarray) -> torch.Tensor:
            tensor = torch.tensor(array)
            tensor[:, :3] += shift
            return tensor

        return {
            **env.further_groups,
            "articulation": {
                "robot": {
                    "root_pose": pose(env.root),
                    "root_velocity": torch.zeros(env.num_envs, 6),
                    "joint_position": torch.tensor(env.joints),
                    "joint_velocity": torch.zeros(env.num_envs, env.joints.shape[1]),
                }
            },
            "rigid_object": {
                name: {"root_pose": pose(array), "root_velocity": torch.zeros(env.num_envs, 6)}
                for name, array in env.bodies.items()
            },
        }


@dataclass
class FakeRecorder:
    """The parts of `RecorderManager` that a generator calls; remembers what it was told."""

    successes: list[bool] = field(default_factory=list)

    def reset(self, env_ids: Any = None) -> None: ...

    def set_success_to_episodes(self, env_ids: Any, values: torch.Tensor) -> None:
        self.successes += [bool(v) for v in values.reshape(-1)]

    def export_episodes(self, env_ids: Any = None) -> None: ...


class FakeMimic:
    """What both versions share; see `FakeMimic2` and `FakeMimic3`."""

    order: QuaternionOrder
    further_groups: Mapping[str, Any] = {}

    def __init__(self, world: World, *, num_envs: int = 1, cfg: Any = None) -> None:
        self.world, self.num_envs, self.device, self.step_dt = world, num_envs, "cpu", STEP_S
        self.joint_names = tuple(j for arm, fingers in world.hands.values() for j in (*arm, *fingers))
        home = [
            [*world.homes[h], *_DOWN, *([0.0 if world.absolute else _OPEN_M] * len(f))]
            for h, (_, f) in world.hands.items()
        ]
        self.default_joints = np.tile(np.concatenate(home).astype(np.float32), (num_envs, 1))
        width = sum(18 if world.absolute else 7 for _ in world.hands)
        self.action_space = SimpleNamespace(shape=(num_envs, width))
        self.cfg = cfg or SimpleNamespace(subtask_configs={name: [] for name in world.hands})
        self.recorder_manager = FakeRecorder()
        self.scene = FakeScene(self)
        self.steps: list[dict[str, Array]] = []
        origins = self.scene.env_origins.numpy()
        self.root = self._placed(np.zeros(3), origins)
        self.joints = self.default_joints.copy()
        self.bodies = {name: self._placed(np.array(world.starts[name]), origins) for name in world.boxes}
        self._observe()

    # --- ManagerBasedRLMimicEnv ---------------------------------------------------------------------------------------

    def get_robot_eef_pose(self, eef_name: str, env_ids: Any = None) -> torch.Tensor:
        ids = slice(None) if env_ids is None else env_ids
        quat = reordered("root_pose", np.concatenate(self._seen(eef_name), axis=1), self.order, "wxyz")
        return torch.tensor(poses.pose_from_xyz_quat_wxyz(quat)).float()[ids]

    def get_object_poses(self, env_ids: Any = None) -> dict[str, torch.Tensor]:
        ids = slice(None) if env_ids is None else env_ids
        state = self.scene.get_state(is_relative=True)["rigid_object"]
        return {
            name: torch.tensor(self._pose(arrays["root_pose"].numpy())).float()[ids] for name, arrays in state.items()
        }

    def get_subtask_term_signals(self, env_ids: Any = None) -> dict[str, torch.Tensor]:
        if self.world.terms is None:
            raise NotImplementedError
        ids = slice(None) if env_ids is None else env_ids
        return {name: torch.tensor(values)[ids] for name, values in self.world.terms(self).items()}

    def action_to_target_eef_pose(self, action: torch.Tensor) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(T).float() for name, T in self._targets(action.numpy()).items()}

    def actions_to_gripper_actions(self, actions: torch.Tensor) -> dict[str, torch.Tensor]:
        if not self.world.absolute:
            (name,) = self.world.hands
            return {name: actions[:, -1:]}
        at = 7 * len(self.world.hands)
        return {name: actions[:, at + 11 * i : at + 11 * (i + 1)] for i, name in enumerate(self.world.hands)}

    def step(self, action: torch.Tensor) -> None:
        assert tuple(action.shape) == self.action_space.shape, "all environments step together"
        self._move(action.detach().cpu().numpy().astype(np.float64))
        self._observe()
        self.steps.append({name: self._hand(name) for name in self.world.hands})

    def _encode(self, targets: Mapping[str, Any], grippers: Mapping[str, Any], env_id: int) -> torch.Tensor:
        """What the noise-free part of `target_eef_pose_to_action` is in Isaac Lab's Franka and GR1T2 environments."""
        arms: list[NDArray[Any]] = []
        for name in self.world.hands:
            target = targets[name].detach().cpu().numpy().astype(np.float64)
            if self.world.absolute:
                pose = poses.xyz_quat_wxyz_from_pose(target)
                arms.append(reordered("root_pose", pose, "wxyz", self.order))
            else:
                here = self.get_robot_eef_pose(name, env_ids=[env_id])[0].numpy().astype(np.float64)
                turn = poses.axis_angle_from_matrix(target[:3, :3] @ here[:3, :3].T)
                arms.append(np.concatenate([target[:3, 3] - here[:3, 3], turn]))
        hands = [grippers[name].detach().cpu().numpy() for name in self.world.hands]
        return torch.tensor(np.concatenate([*arms, *hands])).float()

    # --- what differs between versions is called from here ------------------------------------------------------------

    def handed_out(self, array: np.ndarray) -> Any:
        return torch.tensor(array)

    def _reset(self, env_ids: Any, seed: int | None) -> None:
        ids = _indices(env_ids, self.num_envs)
        if seed is not None:
            torch.manual_seed(seed)
        self.joints[ids] = self.default_joints[ids]
        for name in self.world.boxes:
            shift = 0.05 * torch.rand(len(ids), 2).numpy()
            self.bodies[name][ids] = self._placed(np.array(self.world.starts[name]), self.scene.env_origins.numpy())[
                ids
            ]
            self.bodies[name][ids, :2] += shift
        self._observe()

    def _reset_to(self, state: Mapping[str, Any], env_ids: Any, *, is_relative: bool) -> None:
        assert set(self.further_groups) <= set(state), "groups without arrays belong to a state too"
        ids = _indices(env_ids, self.num_envs)
        origins = self.scene.env_origins.numpy()[ids] * is_relative
        self.joints[ids] = state["articulation"]["robot"]["joint_position"].numpy()
        for name, body in self.bodies.items():
            body[ids] = state["rigid_object"][name]["root_pose"].numpy()
            body[ids, :3] += origins
        self._observe()

    # --- the world ----------------------------------------------------------------------------------------------------

    def _placed(self, xyz_m: NDArray[Any], origins: NDArray[np.float32]) -> NDArray[np.float32]:
        quat = (1.0, 0.0, 0.0, 0.0) if self.order == "wxyz" else (0.0, 0.0, 0.0, 1.0)
        return np.concatenate([xyz_m + origins, np.tile(quat, (len(origins), 1))], axis=1).astype(np.float32)

    def _pose(self, root: NDArray[Any]) -> Array:
        return poses.pose_from_xyz_quat_wxyz(reordered("root_pose", root, self.order, "wxyz"))

    def _observe(self) -> None:
        """Renew what observations show; until then they show what was."""
        self._poses: dict[str, Array] = {}
        policy: dict[str, torch.Tensor] = {}
        for name in self.world.hands:
            T = poses.xyz_quat_wxyz_from_pose(self._hand(name))
            seen = reordered("root_pose", T, "wxyz", self.order)
            policy[f"{name}_eef_pos"], policy[f"{name}_eef_quat"] = (
                torch.tensor(p).float() for p in (seen[:, :3], seen[:, 3:])
            )
        self.obs_buf = {"policy": policy}

    def _seen(self, name: str) -> list[NDArray[Any]]:
        return [self.obs_buf["policy"][f"{name}_eef_{part}"].numpy() for part in ("pos", "quat")]

    def _columns(self, name: str) -> tuple[int, int]:
        at = 0
        for hand, (arm, fingers) in self.world.hands.items():
            if hand == name:
                return at, len(fingers)
            at += len(arm) + len(fingers)
        raise KeyError(name)

    def _hand(self, name: str) -> Array:
        """Hand poses ``(N, 4, 4)`` about the environments' origins, as of the last observation."""
        if name not in self._poses:
            at, _ = self._columns(name)
            joints = self.joints[:, at : at + 7].astype(np.float64)
            quat = joints[:, 3:] / np.linalg.norm(joints[:, 3:], axis=1, keepdims=True)
            self._poses[name] = poses.pose_from_xyz_quat_wxyz(np.concatenate([joints[:, :3], quat], axis=1))
        return self._poses[name]

    def box(self, name: str) -> Array:
        """Positions ``(N, 3)`` about the environments' origins."""
        return (self.bodies[name][:, :3] - self.scene.env_origins.numpy()).astype(np.float64)

    def opening(self, name: str) -> Array:
        at, _ = self._columns(name)
        return self.joints[:, at + 7].astype(np.float64)

    def _targets(self, actions: NDArray[Any]) -> dict[str, Array]:
        targets: dict[str, Array] = {}
        for i, name in enumerate(self.world.hands):
            if self.world.absolute:
                targets[name] = self._pose(actions[:, 7 * i : 7 * i + 7])
            else:
                here = self._hand(name)
                turn = poses.matrix_from_axis_angle(actions[:, 3:6].astype(np.float64))
                targets[name] = poses.pose(turn @ here[:, :3, :3], here[:, :3, 3] + actions[:, :3])
        return targets

    def _move(self, actions: Array) -> None:
        held_by_any = {name: np.zeros(self.num_envs, np.bool_) for name in self.world.boxes}
        told = self.actions_to_gripper_actions(torch.tensor(actions))
        for name, target in self._targets(actions).items():
            before, (at, fingers) = self._hand(name), self._columns(name)
            command = told[name].numpy()
            closing = command.mean(axis=1) > 0.5 if self.world.absolute else command[:, 0] < 0
            opening = self.opening(name)
            held, floor = self._held(before, opening, closing)
            self.joints[:, at : at + 7] = poses.xyz_quat_wxyz_from_pose(target)
            if self.world.absolute:
                self.joints[:, at + 7 : at + 7 + fingers] = command
            else:
                moved = np.where(closing, np.maximum(opening - _FINGER_STEP_M, floor), opening + _FINGER_STEP_M)
                self.joints[:, at + 7 : at + 7 + fingers] = np.clip(moved, 0.0, _OPEN_M)[:, None]
            del self._poses[name]
            for box, mask in held.items():
                if mask.any():
                    self._carry(box, self._hand(name) @ poses.inverse(before), mask)
                held_by_any[box] |= mask
        self._drop(held_by_any)

    def _held(self, hand: Array, opening: Array, closing: Truths) -> tuple[dict[str, Truths], Array]:
        """Which box each hand holds, the first within reach, and how far its fingers can close."""
        held: dict[str, Truths] = {}
        free, floor = np.ones(self.num_envs, np.bool_), np.zeros(self.num_envs)
        for box, half in self.world.boxes.items():
            near = (np.linalg.norm(self.box(box) - hand[:, :3, 3], axis=1) < _REACH_M) & free
            held[box] = near & closing & (self.world.absolute | (opening <= half + 1e-4))
            floor = np.where(near, half, floor)
            free &= ~near
        return held, floor

    def _carry(self, name: str, motion: Array, mask: Truths) -> None:
        body, origins = self.bodies[name], self.scene.env_origins.numpy()
        relative = np.concatenate([body[:, :3] - origins, body[:, 3:]], axis=1)
        T = poses.xyz_quat_wxyz_from_pose(motion @ self._pose(relative))
        moved = reordered("root_pose", T, "wxyz", self.order)
        moved[:, :3] += origins
        body[mask] = moved[mask]

    def _drop(self, held: Mapping[str, Truths]) -> None:
        for name, half in self.world.boxes.items():
            support = np.full(self.num_envs, self.world.table_m)
            here = self.box(name)
            for other, size in self.world.boxes.items():
                there = self.box(other)
                below = (np.abs(here[:, :2] - there[:, :2]).max(axis=1) < size + half / 2) & (there[:, 2] < here[:, 2])
                below &= ~held[other] & (other != name)
                support = np.where(below, np.maximum(support, there[:, 2] + size), support)
            self.bodies[name][:, 2] = np.where(held[name], self.bodies[name][:, 2], support + half)


class FakeMimic2(FakeMimic):
    """As Isaac Lab 2.3: w first, plain tensors, a scalar noise."""

    order: QuaternionOrder = "wxyz"

    def reset(self, seed: int | None = None, env_ids: Any = None, options: Any = None) -> None:
        self._reset(env_ids, seed)

    def reset_to(self, state: Any, env_ids: Any, seed: int | None = None, is_relative: bool = False) -> None:
        self._reset_to(state, env_ids, is_relative=is_relative)

    def target_eef_pose_to_action(
        self, target_eef_pose_dict: Any, gripper_action_dict: Any, noise: float | None = None, env_id: int = 0
    ) -> torch.Tensor:
        assert not noise, "noise is drawn by whoever generates"
        return self._encode(target_eef_pose_dict, gripper_action_dict, env_id)


class FakeMimic3(FakeMimic):
    """As Isaac Lab 3.0: w last, arrays of Warp that have a view as a tensor, noise for each hand, more groups."""

    order: QuaternionOrder = "xyzw"
    further_groups: Mapping[str, Any] = {"deformable_object": {}, "cable_object": {}}

    def handed_out(self, array: np.ndarray) -> Any:
        return SimpleNamespace(torch=torch.tensor(array))

    def reset(self, env_ids: Any = slice(None), *, seed: int | None = None, options: Any = None) -> None:
        self._reset(env_ids, seed)

    def reset_to(
        self, state: Any, env_ids: Any = slice(None), seed: int | None = None, is_relative: bool = False
    ) -> None:
        assert not isinstance(env_ids, list), "a tensor or a slice"
        self._reset_to(state, env_ids, is_relative=is_relative)

    def target_eef_pose_to_action(
        self, target_eef_pose_dict: Any, gripper_action_dict: Any, action_noise_dict: Any = None, env_id: int = 0
    ) -> torch.Tensor:
        assert not any((action_noise_dict or {}).values()), "noise is drawn by whoever generates"
        return self._encode(target_eef_pose_dict, gripper_action_dict, env_id)


def _indices(env_ids: Any, count: int) -> NDArray[np.int64]:
    if env_ids is None or isinstance(env_ids, slice):
        return np.arange(count)[env_ids or slice(None)]
    return np.asarray(env_ids, np.int64).reshape(-1)


# --- the worlds -------------------------------------------------------------------------------------------------------


def _grasped(env: FakeMimic, box: str) -> Truths:
    (hand,) = env.world.hands
    near = np.linalg.norm(env.box(box) - env._hand(hand)[:, :3, 3], axis=1) < _REACH_M
    return near & (np.abs(env.opening(hand) - env.world.boxes[box]) < 1e-3)


def _on(env: FakeMimic, top: str, bottom: str) -> Truths:
    apart, reach = env.box(top) - env.box(bottom), env.world.boxes[top] + env.world.boxes[bottom]
    return (np.abs(apart[:, 2] - reach) < 2e-3) & (np.abs(apart[:, :2]).max(axis=1) < 0.03) & ~_grasped(env, top)


_FRANKA = isaac_robots.ISAAC_FRANKA.eefs["right"]
STACK = World(
    hands={"franka": (_FRANKA.arm_joints, _FRANKA.gripper_joints)},
    homes={"franka": (0.45, 0.0, 0.3)},
    boxes=dict.fromkeys(("cube_1", "cube_2", "cube_3"), 0.0203),
    starts={"cube_1": (0.4, 0.0, 0.0203), "cube_2": (0.55, 0.05, 0.0203), "cube_3": (0.6, -0.1, 0.0203)},
    table_m=0.0,
    terms=lambda env: {
        "grasp_1": _grasped(env, "cube_2"),
        "stack_1": _on(env, "cube_2", "cube_1"),
        "grasp_2": _grasped(env, "cube_3"),
    },
    success=lambda env: _on(env, "cube_2", "cube_1") & _on(env, "cube_3", "cube_2") & (env.opening("franka") > 0.03),
)

_GR1 = isaac_robots.ISAAC_GR1T2.eefs
WHEEL = World(
    hands={name: (_GR1[name].arm_joints, _GR1[name].gripper_joints) for name in ("left", "right")},
    homes={"left": (-0.2, 0.3, 1.1), "right": (0.2, 0.3, 1.1)},
    boxes={"object": 0.03},
    starts={"object": (-0.45, 0.45, 0.9996)},
    table_m=0.9696,
    absolute=True,
    success=lambda env: env.box("object")[:, 0] > 0.3,
)


def opened(env: FakeMimic) -> MimicEnvironment:
    """Return a fake as `isaac_app.open_environment` would."""
    version = "3.0.0" if isinstance(env, FakeMimic3) else "2.3.2"
    return MimicEnvironment(
        env=env,
        success=lambda e: torch.tensor(e.world.success(e)),
        name=f"Fake-{'Wheel' if env.world.absolute else 'Stack'}-Mimic-v0",
        version=version,
        order=env.order,
        close=lambda: None,
        facts={"device": "cpu"},
    )


def stack_v2(*, num_envs: int, device: str | None) -> MimicEnvironment:
    return opened(FakeMimic2(STACK, num_envs=num_envs))


def stack_v3(*, num_envs: int, device: str | None) -> MimicEnvironment:
    return opened(FakeMimic3(STACK, num_envs=num_envs))


def wheel_v2(*, num_envs: int, device: str | None) -> MimicEnvironment:
    return opened(FakeMimic2(WHEEL, num_envs=num_envs))


def wheel_v3(*, num_envs: int, device: str | None) -> MimicEnvironment:
    return opened(FakeMimic3(WHEEL, num_envs=num_envs))


def parameters(function: Callable[..., Any]) -> list[str]:
    """Return a function's parameter names, for comparing with the real library's."""
    return list(inspect.signature(function).parameters)
