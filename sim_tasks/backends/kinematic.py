"""A pure-numpy backend: floating grippers and boxes on a table, without dynamics.

It exists for laws and fast tests: it has everything the engine can see of a real simulator (poses, joints, contacts,
snapshots, bit-equal replay) and runs an attempt in about a tenth of a second. A hand goes exactly where its clipped
action asks; a box inside closing fingers sticks to them; a released box drops at once onto what is below it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory import actions, poses
from factory.demos import AnnotatedDemo, Demo
from factory.errors import BackendError, DemoError
from factory.scene import SceneState
from factory.sim import Block, BlockResult, Commands, Snapshot
from factory.specs import TaskSpec

Array = NDArray[np.float64]

TABLE_TOP_M = 0.8
_HOME_M = (0.0, 0.0, 1.1)
"""Where a hand starts, before posture noise, metres."""
_OPEN_M = 0.04
"""Travel of one finger."""
_FINGER_STEP_M = 0.008
"""Finger travel per control step: five steps from open to closed, about a Panda's."""
_GRASP_REACH_M = 0.025
"""A box whose centre is nearer than this to the grip frame is between the fingers; of a longer box, its middle line."""
_APART_M = 0.4
"""Distance between the homes of several hands."""


class KinematicBackend:
    """Boxes of a "table" scene and floating hands. See `factory.sim.SimBackend` for the contract.

    The state of an environment is one flat vector: per box xyz and quaternion (wxyz), per hand xyz, quaternion, finger
    opening in metres and the index of the held box (-1 for none).
    """

    determinism: Literal["bitwise", "statistical"] = "bitwise"

    def __init__(self, task: TaskSpec, *, num_envs: int = 1) -> None:
        """Prepare the environments.

        Raises:
            BackendError: the task's scene is not a table with boxes.
        """
        if task.scene.base != "table":
            raise BackendError(
                f"the kinematic backend simulates scene base 'table', task {task.name!r} has {task.scene.base!r}"
            )
        self.task = task
        self.num_envs = num_envs
        self._boxes = tuple(task.scene.boxes)
        self._hands = tuple(task.robot.eefs)
        self._states: dict[int, Array] = {}
        self._targets: dict[int, dict[str, tuple[Array, Array]]] = {}
        self._time: dict[int, float] = {}

    # --- SimBackend -------------------------------------------------------------------------------------------------

    def reset(
        self, env: int, placements: Mapping[str, Array], rng: np.random.Generator, *, joint_noise_rad: float = 0.02
    ) -> SceneState:
        """Start an environment; hands start above the table, 1 cm off per 0.01 rad of posture noise."""
        missing = set(self._boxes) - set(placements)
        if missing:
            raise BackendError(f"task {self.task.name!r}: no placement for {sorted(missing)}")
        boxes = [poses.xyz_quat_wxyz_from_pose(placements[name]) for name in self._boxes]
        down = poses.quat_wxyz_from_matrix(np.diag([1.0, -1.0, -1.0]))
        hands = [
            np.concatenate([home + rng.normal(0, joint_noise_rad, 3), down, [_OPEN_M, -1.0]]) for home in self._homes()
        ]
        self._states[env] = np.concatenate([*boxes, *hands])
        self._targets[env] = {}
        self._time[env] = 0.0
        self._drop(self._states[env])
        return self._scene(self._states[env][None])

    def reset_to(self, env: int, demo: Demo) -> SceneState:
        """Start an environment from a demo's first state."""
        self._check_states(demo)
        return self.restore(env, Snapshot(integration=demo.states[0].copy()))

    def snapshot(self, env: int) -> Snapshot:
        """Return the flat state and what the hands were last told."""
        self._check_started(env)
        memory: dict[str, Array] = {}
        for name, (target, gripper) in self._targets[env].items():
            memory[f"{name}.T_world_target"], memory[f"{name}.gripper_command"] = target.copy(), gripper.copy()
        return Snapshot(integration=np.concatenate([[self._time[env]], self._states[env]]), controller=memory)

    def restore(self, env: int, snapshot: Snapshot) -> SceneState:
        """Continue from a snapshot."""
        self._time[env], self._states[env] = float(snapshot.integration[0]), snapshot.integration[1:].copy()
        self._targets[env] = {
            name: (snapshot.controller[f"{name}.T_world_target"], snapshot.controller[f"{name}.gripper_command"])
            for name in self._hands
            if f"{name}.T_world_target" in snapshot.controller
        }
        return self._scene(self._states[env][None])

    def sim_state(self, env: int) -> Mapping[str, Array]:
        """Return time and the flat state."""
        self._check_started(env)
        return {"time": np.array([self._time[env]]), "state": self._states[env].copy()}

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Run each named environment through its commands."""
        return {env: self._run(env, per_eef) for env, per_eef in commands.items()}

    def play(self, env: int, actions: NDArray[np.float32]) -> BlockResult:
        """Apply recorded actions as they are."""
        self._check_started(env)
        return self._collect(env, (row.astype(np.float64) for row in actions))

    def annotate(self, demo: Demo) -> AnnotatedDemo:
        """Read a demo recorded by this backend: states are time and the flat state."""
        self._check_states(demo)
        width = self.task.robot.action_dim
        if demo.actions.ndim != 2 or demo.actions.shape[1] != width:
            raise DemoError(f"{demo.path}, {demo.name}: actions have shape {demo.actions.shape}, expected (T, {width})")
        scene = self._scene(demo.states[:, 1:])
        T = len(demo)
        eefs = self.task.robot.eefs
        return AnnotatedDemo(
            name=demo.name,
            T_world_eef={k: v[:T] for k, v in scene.T_world_eef.items()},
            T_world_eef_target={
                k: actions.target_of_action(
                    scene.T_world_eef[k][:T], demo.actions[:, slice(*e.arm_action)], scene.T_world_base[k], e
                )
                for k, e in eefs.items()
            },
            gripper={k: demo.actions[:, slice(*e.gripper_action)].copy() for k, e in eefs.items()},
            T_world_object={k: v[:T] for k, v in scene.T_world_object.items()},
            signals={k: np.asarray(p(scene), bool)[:T] for k, p in self.task.signals.items()},
            scene=scene,
            success=bool(self.task.success(scene)[-1]),
        )

    def describe(self) -> Mapping[str, str]:
        """Return what provenance records about this executor."""
        sha = hashlib.sha256(self.model_source().encode()).hexdigest()
        return {"backend": "kinematic", "control_mode": "exact", "determinism": self.determinism, "model_sha": sha}

    def model_source(self) -> str:
        """Return the boxes as text; there is no MJCF."""
        return "".join(f"{name} {spec}\n" for name, spec in self.task.scene.boxes.items())

    def close(self) -> None:
        """Nothing is held open."""

    def _check_started(self, env: int) -> None:
        if env not in self._states:
            raise BackendError(
                f"environment {env} was never reset; this backend holds environments 0..{self.num_envs - 1}"
            )

    def _check_states(self, demo: Demo) -> None:
        width = 1 + len(self._boxes) * 7 + len(self._hands) * 9
        if demo.states.ndim != 2 or demo.states.shape[1] != width or not len(demo.states):
            raise DemoError(f"{demo.path}, {demo.name}: states have shape {demo.states.shape}, expected (T, {width})")

    # --- running ----------------------------------------------------------------------------------------------------

    def _run(self, env: int, commands: Commands) -> BlockResult:
        self._check_started(env)
        lengths = {len(c) for c in commands.values()}
        if set(commands) != set(self._hands) or len(lengths) != 1:
            raise BackendError(
                f"commands for {sorted(commands)} of lengths {sorted(lengths)}; expected one length for each of "
                f"{sorted(self._hands)}"
            )
        length = lengths.pop()

        return self._collect(env, (self._action(env, commands, step) for step in range(length)))

    def _action(self, env: int, commands: Commands, step: int) -> Array:
        action = np.zeros(self.task.robot.action_dim)
        for name, command in commands.items():
            eef = self.task.robot.eefs[name]
            here = self._hand_pose(self._states[env], name)
            if isinstance(command, Block):
                self._targets[env][name] = (command.T_world_eef[step], np.asarray(command.gripper[step], float))
                noise = command.action_noise[step]
            else:
                self._targets[env].setdefault(name, (here, np.array(eef.opens)))
                noise = np.zeros(6)
            target, gripper = self._targets[env][name]
            action[slice(*eef.arm_action)] = actions.execute(here, target, noise, np.eye(4), eef)
            action[slice(*eef.gripper_action)] = np.float32(gripper)
        return action

    def _collect(self, env: int, rows: Iterable[Array]) -> BlockResult:
        """Execute actions one after the other; each is asked for only when the one before has been executed."""
        done: list[Array] = []
        states: list[Array] = []
        times: list[float] = []
        commanded: dict[str, list[Array]] = {name: [] for name in self._hands}
        for action in rows:
            for name, eef in self.task.robot.eefs.items():
                pose_action = np.clip(action[slice(*eef.arm_action)], -1.0, 1.0)
                here = self._hand_pose(self._states[env], name)
                commanded[name].append(actions.target_of_action(here, pose_action, np.eye(4), eef))
            self._step(self._states[env], {name: commanded[name][-1] for name in self._hands}, action)
            self._time[env] += 1.0 / self.task.robot.control_hz
            done.append(action)
            states.append(self._states[env].copy())
            times.append(self._time[env])
        return BlockResult(
            scene=self._scene(np.stack(states)),
            actions=np.array(done, np.float32),
            T_world_eef_commanded={name: np.stack(v) for name, v in commanded.items()},
            sim_states={"time": np.array(times)[:, None], "state": np.stack(states)},
        )

    def _step(self, state: Array, targets: Mapping[str, Array], action: Array) -> None:
        moved: set[int] = set()
        for name, eef in self.task.robot.eefs.items():
            hand = self._hand(name)
            before = self._hand_pose(state, name)
            state[hand : hand + 7] = poses.xyz_quat_wxyz_from_pose(targets[name])
            closing = np.sign(action[slice(*eef.gripper_action)]).sum() * eef.gripper_closed > 0
            opening = state[hand + 7] + (-_FINGER_STEP_M if closing else _FINGER_STEP_M)
            held = int(state[hand + 8])
            if held >= 0 and closing and held in moved:
                # The first hand has moved it; one that did not come along has lost it.
                held = held if self._reach(state, held, state[hand : hand + 3]) < _GRASP_REACH_M else -1
                opening = state[hand + 7]
            elif held >= 0 and closing:
                box = held * 7
                moved.add(held)
                carried = (
                    self._hand_pose(state, name)
                    @ poses.inverse(before)
                    @ poses.pose_from_xyz_quat_wxyz(state[box : box + 7])
                )
                state[box : box + 7] = poses.xyz_quat_wxyz_from_pose(carried)
                opening = state[hand + 7]
            elif closing:
                held = self._between_fingers(state, state[hand : hand + 3])
                width = self.task.scene.boxes[self._boxes[held]].half_size_m[1] if held >= 0 else 0.0
                held = held if held >= 0 and opening <= width else -1
            else:
                held = -1
            state[hand + 7] = np.clip(opening, 0.0, _OPEN_M)
            state[hand + 8] = held
        self._drop(state)

    def _drop(self, state: Array) -> None:
        """Put every box that no hand holds onto the table or the highest box below its centre."""
        held = {int(state[self._hand(name) + 8]) for name in self._hands}
        order = sorted(range(len(self._boxes)), key=lambda i: state[i * 7 + 2])
        for i in order:
            if i in held:
                continue
            support = TABLE_TOP_M
            for j in order:
                apart = np.abs(state[i * 7 : i * 7 + 2] - state[j * 7 : j * 7 + 2]).max()
                reach = self._half(j)[0] + self._half(i)[0] * 0.5
                if j != i and j not in held and state[j * 7 + 2] < state[i * 7 + 2] and apart < reach:
                    support = max(support, state[j * 7 + 2] + self._half(j)[2])
            state[i * 7 + 2] = support + self._half(i)[2]

    # --- reading ----------------------------------------------------------------------------------------------------

    def _scene(self, states: Array) -> SceneState:
        """Return the scene over flat states ``(N, width)``."""
        return SceneState(
            T_world_object={
                name: poses.pose_from_xyz_quat_wxyz(states[:, i * 7 : i * 7 + 7]) for i, name in enumerate(self._boxes)
            },
            T_world_eef={name: self._hand_pose(states, name) for name in self._hands},
            T_world_base={name: np.eye(4) for name in self._hands},
            velocity={name: np.zeros((len(states), 6)) for name in self._boxes},
            joints={
                **{f"{name}_arm": states[:, self._hand(name) : self._hand(name) + 7].copy() for name in self._hands},
                **{f"{name}_gripper": self._fingers(states, name) for name in self._hands},
            },
            contacts={f"{a}|{b}": self._touching(states, a, b) for a, b in self.task.scene.contacts},
        )

    def _touching(self, states: Array, a: str, b: str) -> NDArray[np.bool_]:
        for name, eef in self.task.robot.eefs.items():
            for box, finger in ((a, b), (b, a)):
                if finger in eef.fingers:
                    return states[:, self._hand(name) + 8] == self._boxes.index(box)
        i, j = self._boxes.index(a), self._boxes.index(b)
        gap = np.abs(states[:, i * 7 : i * 7 + 3] - states[:, j * 7 : j * 7 + 3]) - (self._half(i) + self._half(j))
        return (gap < 1e-6).all(axis=1)

    def _between_fingers(self, state: Array, position: Array) -> int:
        for i in range(len(self._boxes)):
            if self._reach(state, i, position) < _GRASP_REACH_M:
                return i
        return -1

    def _reach(self, state: Array, box: int, position: Array) -> float:
        """How far a hand is from the middle of a box: its centre, or the line or plane a longer one is built on."""
        away = position - state[box * 7 : box * 7 + 3]
        spare = np.maximum(self._half(box) - _GRASP_REACH_M, 0.0)
        if spare.any():
            R = poses.matrix_from_quat_wxyz(state[box * 7 + 3 : box * 7 + 7])
            away = away @ R
            away = away - np.clip(away, -spare, spare)
        return float(np.linalg.norm(away))

    def _homes(self) -> Array:
        """Where the hands start, before posture noise: side by side along y, the first one at its negative end."""
        homes = np.tile(np.array(_HOME_M), (len(self._hands), 1))
        homes[:, 1] += _APART_M * (np.arange(len(self._hands)) - (len(self._hands) - 1) / 2)
        return homes

    def _half(self, box: int) -> Array:
        return np.array(self.task.scene.boxes[self._boxes[box]].half_size_m)

    def _fingers(self, states: Array, name: str) -> Array:
        eef = self.task.robot.eefs[name]
        opened, closed = np.array(eef.joints_open), np.array(eef.joints_closed)
        return closed + (opened - closed) * states[:, self._hand(name) + 7, None] / _OPEN_M

    def _hand(self, name: str) -> int:
        return len(self._boxes) * 7 + self._hands.index(name) * 9

    def _hand_pose(self, state: Array, name: str) -> Array:
        at = self._hand(name)
        return poses.pose_from_xyz_quat_wxyz(state[..., at : at + 7])
