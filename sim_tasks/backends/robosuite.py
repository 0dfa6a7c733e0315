"""robosuite 1.5 behind `SimBackend`: its scenes, controllers and physics, soft resets, no observables, no cameras.

Three ways of computing the same controls: "compiled" runs whole blocks outside Python, "exact" repeats robosuite's
operations bit for bit without its overhead, "robosuite" calls robosuite's own step.

One compiled model serves all environments of a backend: an environment is a snapshot that is loaded when it is its
turn. Results therefore cannot depend on how many environments there are.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim_tasks.backends import compat  # isort: skip - before robosuite, whose import it quiets
import mujoco

from factory import actions, poses
from factory.demos import AnnotatedDemo, Demo
from factory.errors import BackendError, unknown_name
from factory.scene import SceneState
from factory.sim import Block, BlockResult, Commands, Snapshot
from factory.specs import EefSpec, TaskSpec
from factory.transfer import transferred
from factory.transit import Gauge
from sim_tasks.backends import annotation, exact_control, fingerprint
from sim_tasks.backends.compiled_path import CompiledPath, Outcome
from sim_tasks.backends.controllers import Arm, UnsupportedControlError, arms
from sim_tasks.backends.obstacles import Limb, Obstacles
from sim_tasks.backends.reach import Reach
from sim_tasks.backends.scenes import build_environment
from sim_tasks.backends.sensing import SceneReader

Array = NDArray[np.float64]

ControlMode = Literal["compiled", "exact", "robosuite"]

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
_DIVERGED = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)

compat.apply()


@dataclass(kw_only=True)
class _Hand:
    """What one end effector was last told; belongs to the snapshot."""

    T_world_target: Array | None = None
    gripper: Array | None = None


class RobosuiteBackend:
    """A task in robosuite. See `factory.sim.SimBackend` for the contract.

    Attributes:
        task: the task being simulated.
        num_envs: environments kept apart.
        determinism: "bitwise": same commands, same bits, within one runtime fingerprint.
        control_mode: how controls are computed, see `__init__`.
        simulator_seconds: time spent inside control steps so far: wall time, or for compiled blocks CPU time.
    """

    determinism: Literal["bitwise", "statistical"] = "bitwise"

    def __init__(self, task: TaskSpec, *, num_envs: int = 1, control_mode: ControlMode = "compiled") -> None:
        """Build the scene.

        Args:
            task: the task.
            num_envs: environments kept apart.
            control_mode: "compiled": robosuite's torques to 1e-9, as fast as the physics allows; "exact": its very
                bits, in Python; "robosuite": its own step. A robot that one of them cannot drive is driven by the next.

        Raises:
            BackendError: the scene cannot be built, or names something its model does not have.
        """
        if num_envs < 1:
            raise BackendError(f"num_envs is {num_envs}; at least one environment is needed")
        self.task = task
        self.num_envs = num_envs
        self.simulator_seconds = 0.0
        self._env = build_environment(task)
        self._model: mujoco.MjModel = self._env.sim.model._model  # noqa: SLF001 - robosuite has no public way
        self._data: mujoco.MjData = self._env.sim.data._data  # noqa: SLF001
        self._robot: Any = self._env.robots[0]
        self._substeps = int(self._env.control_timestep / self._env.model_timestep)
        self._pristine = (self._model.body_pos.copy(), self._model.body_quat.copy())
        self._hidden = [self._body(name) for name in task.scene.hidden_bodies]
        self._reader = SceneReader(task, self._model, self._data)
        self._hands = {name: _Hand() for name in task.robot.eefs}
        self._overridden: tuple[str, ...] = ()
        self._saved: dict[int, Snapshot] = {}
        self._exact: list[exact_control.ExactArm] = []
        self._active = -1
        self._kinematics: Reach | None = None
        self._obstacles: Obstacles | None = None
        self._recorder: RobosuiteBackend | None = None
        self._path: CompiledPath | None = self._compile() if control_mode == "compiled" else None
        self.control_mode: ControlMode = "compiled" if self._path else "robosuite"
        if control_mode != "robosuite" and not self._path and self._exact_arms() is not None:
            self.control_mode = "exact"
        if self._env.action_dim != task.robot.action_dim:
            raise BackendError(
                f"task {task.name!r}: the environment takes {self._env.action_dim} action dimensions, robot "
                f"{task.robot.name!r} is specified with {task.robot.action_dim}"
            )

    # --- SimBackend -------------------------------------------------------------------------------------------------

    def reset(
        self, env: int, placements: Mapping[str, Array], rng: np.random.Generator, *, joint_noise_rad: float = 0.02
    ) -> SceneState:
        """Start an environment; objects without a placement start where robosuite's own sampler puts them."""
        self._leave()
        self._dismiss_recorder()
        self._restore_model()
        _use_generator(self._env, rng)
        for robot in self._env.robots:
            robot.initialization_noise = {"type": "gaussian", "magnitude": joint_noise_rad}
        self._env.reset()
        self._model.body_pos[self._hidden, 2] = -10.0
        for name, T_world_body in placements.items():
            self._place(name, T_world_body)
        self._hands = {name: _Hand() for name in self.task.robot.eefs}
        self._begin()
        self._active = env
        return self._reader.read()

    def reset_to(self, env: int, demo: Demo) -> SceneState:
        """Start an environment from a demo's first state; the controllers' memory is as after a robosuite reset."""
        self.reset(env, {}, np.random.default_rng(0))
        edited = annotation.load_state(demo, 0, self.task, self._model, self._data)
        self._overridden = tuple(edited)
        self._begin()
        return self._reader.read()

    def snapshot(self, env: int) -> Snapshot:
        """Return everything needed to continue this environment bit for bit."""
        self._enter(env)
        return self._take()

    def restore(self, env: int, snapshot: Snapshot) -> SceneState:
        """Load a snapshot into an environment; its state is read without disturbing what it continues from."""
        self._leave()
        self._load(snapshot)
        self._active = env
        return self._reader.read()

    def sim_state(self, env: int) -> Mapping[str, Array]:
        """Return time, qpos and qvel."""
        self._enter(env)
        return {
            "time": np.array([self._data.time]),
            "qpos": self._data.qpos.copy(),
            "qvel": self._data.qvel.copy(),
        }

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Run each named environment through its commands, one after the other."""
        results = {}
        for env, per_eef in commands.items():
            self._enter(env)
            results[env] = self._run(per_eef)
        return results

    def play(self, env: int, actions: NDArray[np.float32]) -> BlockResult:
        """Apply recorded actions as they are."""
        self._enter(env)
        if self._path is not None:
            return self._compiled_result(lambda path: path.play(actions))
        recording = _Recording(self, len(actions))
        for row in actions:
            if not recording.step(row.astype(np.float64)):
                break
        return recording.result()

    def reach(self, env: int, eef: str, T_world_eef: Array) -> tuple[Array, Array]:
        """Return by how much a hand, from where it is, would miss poses ``(n, 4, 4)``: ``(n,)`` metres, radians.

        Its joints' limits are kept, collisions are not asked about; see `reach.Reach`.
        """
        self._enter(env)
        return self._arm_kinematics(eef).misses(eef, self._data.qpos, T_world_eef)

    def survey(self, env: int, eef: str, carried: Collection[str], T_from: Array, T_goal: Array) -> Gauge:
        """Return what tells how much room a hand, with the objects it carries, has at poses; see `obstacles`.

        It answers for the present moment, and until the backend is asked to do something else.
        """
        self._enter(env)
        kinematics = self._arm_kinematics(eef)
        if self._obstacles is None:
            self._obstacles = Obstacles(self._model, kinematics, {name: self._limb(name) for name in self._hands})
        bodies = [self._body(self.task.scene.objects[name].body) for name in carried]
        free = [b for b in bodies if self._model.body_dofnum[b] == 6]  # what else is held, a handle, cannot come along
        return self._obstacles.survey(eef, self._data.qpos, free, T_from, T_goal)

    def _arm_kinematics(self, eef: str) -> Reach:
        if eef not in self.task.robot.eefs:
            raise BackendError(unknown_name("end effector", eef, self.task.robot.eefs))
        if self._kinematics is None:
            self._kinematics = Reach(
                self._model,
                {
                    name: (self._reader.eef_frames[name], self._reader.group_addresses(f"{name}_arm"))
                    for name in self.task.robot.eefs
                },
            )
        return self._kinematics

    def _limb(self, eef: str) -> Limb:
        joints = self._reader.group_addresses(f"{eef}_arm")
        root = int(self._model.jnt_bodyid[list(self._model.jnt_qposadr).index(joints[0])])
        return Limb(frame=self._reader.eef_frames[eef], joints=tuple(joints), root=root)

    def annotate(self, demo: Demo) -> AnnotatedDemo:
        """Read a demo's states in this scene; see `annotation.annotate`.

        What another robot recorded is read in that robot's scene, and its hands' poses become this robot's.
        """
        recorded_as = self.task.recorded_as
        if recorded_as is not None:
            if self._recorder is None:
                self._recorder = RobosuiteBackend(recorded_as, control_mode="robosuite")
            return transferred(self._recorder.annotate(demo), recorded_as.robot, self.task.robot)
        self._leave()
        self._restore_model()
        try:
            return annotation.annotate(demo, self.task, self._model, self._data, self._reader)
        finally:
            self._restore_model()

    def describe(self) -> Mapping[str, str]:
        """Return what provenance records about this executor."""
        return {
            "backend": "robosuite",
            "control_mode": self.control_mode,
            "determinism": self.determinism,
            "model_sha": fingerprint.model_sha(self.model_source()),
            **fingerprint.runtime(),
        }

    def model_source(self) -> str:
        """Return the source MJCF with asset files named by content, the same text on every machine."""
        return fingerprint.portable_source(self._env.model.get_xml())

    def close(self) -> None:
        """Release robosuite's environment."""
        self._dismiss_recorder()
        self._env.close()

    @property
    def compiled_path(self) -> CompiledPath | None:
        """The compiled controllers, working on `data`; None in the other control modes."""
        return self._path

    @property
    def model(self) -> mujoco.MjModel:
        """The compiled scene."""
        return self._model

    @property
    def data(self) -> mujoco.MjData:
        """The simulation, in the state of the environment used last."""
        return self._data

    @property
    def environment(self) -> Any:
        """The robosuite environment around them."""
        return self._env

    def _dismiss_recorder(self) -> None:
        """Close the scene of the robot in the demonstrations, which takes as much memory as this one."""
        if self._recorder is not None:
            self._recorder.close()
            self._recorder = None

    # --- one environment at a time ----------------------------------------------------------------------------------

    def _enter(self, env: int) -> None:
        if env == self._active:
            return
        if env not in self._saved:
            raise BackendError(
                f"environment {env} was never reset; this backend holds environments 0..{self.num_envs - 1}"
            )
        self._leave()
        self._load(self._saved[env])
        self._active = env

    def _leave(self) -> None:
        if self._active >= 0:
            self._saved[self._active] = self._take()
            self._active = -1

    def _take(self) -> Snapshot:
        state = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, self._data, state, _STATE)
        controller = self._memory()
        for name, hand in self._hands.items():
            if hand.T_world_target is not None and hand.gripper is not None:
                controller[f"{name}.T_world_target"] = hand.T_world_target.copy()
                controller[f"{name}.gripper_command"] = hand.gripper.copy()
        overrides: dict[str, Array] = {}
        for name in self._overridden:
            body = self._body(name)
            overrides[f"body_pos:{name}"] = self._model.body_pos[body].copy()
            overrides[f"body_quat:{name}"] = self._model.body_quat[body].copy()
        return Snapshot(integration=state, controller=controller, overrides=overrides)

    def _load(self, snapshot: Snapshot) -> None:
        self._restore_model()
        self._model.body_pos[self._hidden, 2] = -10.0
        names: list[str] = []
        for key, value in snapshot.overrides.items():
            field, _, name = key.partition(":")
            getattr(self._model, field)[self._body(name)] = value
            names += [name] if name not in names else []
        self._overridden = tuple(names)
        mujoco.mj_resetData(self._model, self._data)  # clears the divergence counters, which are not state
        mujoco.mj_setState(self._model, self._data, snapshot.integration, _STATE)
        mujoco.mj_forward(self._model, self._data)
        # mj_forward overwrites the solver's warm start, which is part of the state: put it back.
        mujoco.mj_setState(self._model, self._data, snapshot.integration, _STATE)
        # Warnings are counted per data, not per state: another environment's divergence is not this one's.
        for kind in _DIVERGED:
            self._data.warning[kind].number = 0
        if self._path is not None:
            self._path.recall(snapshot.controller)
        for arm in self._arms():
            arm.controller.initial_joint = snapshot.controller[f"{arm.key}.initial_joint"].copy()
            if arm.remembers:
                arm.gripper.current_action = snapshot.controller[f"{arm.key}.gripper_action"].copy()
        for name in self._hands:
            self._hands[name] = _Hand(
                T_world_target=snapshot.controller.get(f"{name}.T_world_target"),
                gripper=snapshot.controller.get(f"{name}.gripper_command"),
            )
        self._wake_controllers()

    # --- controllers ------------------------------------------------------------------------------------------------

    def _compile(self) -> CompiledPath | None:
        try:
            return CompiledPath(self._model, self._data, self._env.robots, substeps=self._substeps, reader=self._reader)
        except UnsupportedControlError:
            return None

    def _exact_arms(self) -> list[exact_control.ExactArm] | None:
        return exact_control.exact_arms(self._model, self._data, self._env.robots)

    def _begin(self) -> None:
        """Start controllers from the present state, as after a robosuite reset."""
        self._wake_controllers()
        mujoco.mj_forward(self._model, self._data)
        # The posture the null space pulls towards is this reset's own start posture.
        for arm in self._arms():
            arm.controller.initial_joint = np.array(self._data.qpos[arm.controller.qpos_index])
        if self._path is not None:
            self._path.remember_posture()

    def _memory(self) -> dict[str, Array]:
        if self._path is not None:
            return self._path.memory()
        kept: dict[str, Array] = {}
        for arm in self._arms():
            kept[f"{arm.key}.initial_joint"] = np.array(arm.controller.initial_joint, float)
            if arm.remembers:
                kept[f"{arm.key}.gripper_action"] = np.atleast_1d(np.array(arm.gripper.current_action, float))
        return kept

    def _wake_controllers(self) -> None:
        # robosuite makes new controllers at every reset.
        if self.control_mode == "exact":
            self._exact = self._exact_arms() or []
        # After a reset or a loaded state the controllers would serve kinematics cached before it (robosuite's flag).
        for robot in self._env.robots:
            for part in robot.part_controllers.values():
                part.new_update = True

    def _arms(self) -> list[Arm]:
        return arms(self._env.robots)

    def _arm_controllers(self) -> list[tuple[str, Any]]:
        return [(arm.key, arm.controller) for arm in self._arms()]

    # --- placing ----------------------------------------------------------------------------------------------------

    def _body(self, name: str) -> int:
        body = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, name)
        if body < 0:
            raise BackendError(f"task {self.task.name!r}: the scene has no body {name!r}")
        return body

    def _restore_model(self) -> None:
        self._model.body_pos[:], self._model.body_quat[:] = self._pristine
        self._overridden = ()

    def _place(self, name: str, T_world_body: Array) -> None:
        body_name = self.task.scene.objects[name].body
        body = self._body(body_name)
        xyz_quat = poses.xyz_quat_wxyz_from_pose(T_world_body)
        joint = self._model.body_jntadr[body]
        if joint >= 0 and self._model.jnt_type[joint] == mujoco.mjtJoint.mjJNT_FREE.value:
            start = self._model.jnt_qposadr[joint]
            self._data.qpos[start : start + 7] = xyz_quat
            return
        if self._model.body_parentid[body] != 0:
            raise BackendError(f"object {name!r}: body {body_name!r} hangs on another body, so it cannot be placed")
        self._model.body_pos[body] = xyz_quat[:3]
        self._model.body_quat[body] = xyz_quat[3:]
        self._overridden = (*self._overridden, body_name)

    # --- running ----------------------------------------------------------------------------------------------------

    def _run(self, commands: Commands) -> BlockResult:
        lengths = {len(command) for command in commands.values()}
        if set(commands) != set(self._hands) or len(lengths) != 1:
            raise BackendError(
                f"commands for {sorted(commands)} of lengths {sorted(lengths)}; expected one of equal length for each "
                f"of {sorted(self._hands)}"
            )
        length = lengths.pop()
        plan = self._plan(commands, length)
        if self._path is not None:
            return self._compiled_result(lambda path: path.follow(*plan))
        targets, noise, sent = plan
        recording = _Recording(self, length)
        for step in range(length):
            for e, (name, eef) in enumerate(self.task.robot.eefs.items()):
                sent[step, slice(*eef.arm_action)] = actions.execute(
                    self._reader.eef_pose(name), targets[e, step], noise[e, step], self._reader.base_pose(name), eef
                )
            if not recording.step(sent[step].astype(np.float64)):
                break
        return recording.result()

    def _plan(self, commands: Commands, length: int) -> tuple[Array, Array, NDArray[np.float32]]:
        """Return what `CompiledPath.follow` takes: targets, noise, and actions with the grippers' columns filled in."""
        eefs = self.task.robot.eefs
        targets, noise = np.empty((len(eefs), length, 4, 4)), np.zeros((len(eefs), length, 6))
        sent = np.zeros((length, self.task.robot.action_dim), np.float32)
        for e, (name, eef) in enumerate(eefs.items()):
            command, hand = commands[name], self._hands[name]
            if isinstance(command, Block):
                target, gripper = command.T_world_eef, np.asarray(command.gripper, float)
                noise[e] = command.action_noise
            elif hand.T_world_target is None or hand.gripper is None:
                target = self._reader.eef_pose(name)[None]
                gripper = np.array([eef.opens])
            else:
                target, gripper = hand.T_world_target[None], hand.gripper[None]
            targets[e] = target
            sent[:, slice(*eef.gripper_action)] = gripper
            self._hands[name] = _Hand(T_world_target=target[-1].copy(), gripper=gripper[-1].copy())
        return targets, noise, sent

    def _compiled_result(self, run: Callable[[CompiledPath], Outcome]) -> BlockResult:
        path, reader = self._path, self._reader
        if path is None:
            raise BackendError("this backend has no compiled control path")
        first = {name: reader.eef_pose(name)[None] for name in self.task.robot.eefs}
        began = time.process_time()
        outcome = run(path)
        self.simulator_seconds += time.process_time() - began
        n, record = outcome.done, outcome.record
        scene, sent = reader.state(outcome.rows, n), record.actions[:n]
        commanded: dict[str, Array] = {}
        for name, eef in self.task.robot.eefs.items():
            before = np.concatenate([first[name], scene.T_world_eef[name]])[:n]
            pose_action = np.clip(sent[:, slice(*eef.arm_action)].astype(np.float64), -1.0, 1.0)
            commanded[name] = actions.target_of_action(before, pose_action, reader.base_pose(name), eef)
        return BlockResult(
            scene=scene,
            actions=sent,
            T_world_eef_commanded=commanded,
            sim_states={"time": record.time[:n, None], "qpos": record.qpos[:n], "qvel": record.qvel[:n]},
            stable=outcome.stable,
        )

    def _control_step(self, action: Array) -> bool:
        began = time.perf_counter()
        env, model, data = self._env, self._model, self._data
        for substep in range(self._substeps):
            mujoco.mj_step1(model, data)
            if substep == 0 or self.control_mode == "robosuite":
                env._pre_action(action, substep == 0)  # noqa: SLF001 - what robosuite's own step calls
            else:
                for arm in self._exact:
                    arm.control()
            mujoco.mj_step2(model, data)
        self.simulator_seconds += time.perf_counter() - began
        return not any(data.warning[kind].number for kind in _DIVERGED)


class _Recording:
    """Collects one block's rows."""

    def __init__(self, backend: RobosuiteBackend, length: int) -> None:
        self._backend = backend
        model = backend._model  # noqa: SLF001
        self._actions = np.empty((length, backend.task.robot.action_dim), np.float32)
        self._commanded = {name: np.empty((length, 4, 4)) for name in backend.task.robot.eefs}
        self._states = {
            "time": np.empty((length, 1)),
            "qpos": np.empty((length, model.nq)),
            "qvel": np.empty((length, model.nv)),
        }
        self._rows = backend._reader.allocate(length)  # noqa: SLF001
        self._done = 0
        self._stable = True

    def step(self, action: Array) -> bool:
        """Execute one action; returns False when the simulator diverged."""
        backend, row = self._backend, self._done
        reader, data = backend._reader, backend._data  # noqa: SLF001
        for name, eef in backend.task.robot.eefs.items():
            self._commanded[name][row] = _commanded(reader, name, eef, action)
        self._stable = backend._control_step(action)  # noqa: SLF001
        if not self._stable:
            return False
        self._actions[row] = action
        self._states["time"][row] = data.time
        self._states["qpos"][row] = data.qpos
        self._states["qvel"][row] = data.qvel
        reader.refresh()
        reader.fill(self._rows, row)
        self._done += 1
        return True

    def result(self) -> BlockResult:
        """Return the rows that were completed."""
        n = self._done
        return BlockResult(
            scene=self._backend._reader.state(self._rows, n),  # noqa: SLF001
            actions=self._actions[:n],
            T_world_eef_commanded={k: v[:n] for k, v in self._commanded.items()},
            sim_states={k: v[:n] for k, v in self._states.items()},
            stable=self._stable,
        )


def _commanded(reader: SceneReader, name: str, eef: EefSpec, action: Array) -> Array:
    pose_action = np.clip(action[slice(*eef.arm_action)], -1.0, 1.0)
    return actions.target_of_action(reader.eef_pose(name), pose_action, reader.base_pose(name), eef)


def _use_generator(environment: Any, rng: np.random.Generator) -> None:
    """Hand one generator to everything in a robosuite environment that draws."""
    environment.rng = rng
    sampler = getattr(environment, "placement_initializer", None)
    if sampler is not None:
        sampler.rng = rng
        for part in getattr(sampler, "samplers", {}).values():
            part.rng = rng
