"""A robosuite scene in thousands of worlds on one GPU, behind `SimBackend`.

Starts are made on the CPU by `RobosuiteBackend`, in double precision, and copied. Blocks run on the device without the
host. What comes back are states; scenes are read out of them on the CPU, so that a predicate sees exactly what a later
reading of the stored states sees.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sim_tasks.backends.robosuite import RobosuiteBackend  # isort: skip - before mujoco, which it patches robosuite for
import mujoco
import warp as wp

from factory import actions
from factory.demos import AnnotatedDemo, Demo
from factory.errors import BackendError
from factory.scene import SceneState
from factory.sim import Block, BlockResult, Commands, Hold, Snapshot
from factory.specs import TaskSpec
from sim_tasks.backends.mjwarp import worlds
from sim_tasks.backends.mjwarp.rereading import StateReaders, Stretch, write_overrides
from sim_tasks.backends.mjwarp.worlds import Worlds, WorldState

Array = NDArray[np.float64]

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
_MEMORY = ("initial_joint", "gripper_action")
_MOST_READERS = 16


@dataclass(kw_only=True)
class _Env:
    """What the host remembers of one environment; the rest is the world's state.

    `base` is the snapshot it was started from: the parts of it that never change are taken from there.
    """

    base: Snapshot
    time_s: float
    T_world_eef: dict[str, Array]
    targets: dict[str, tuple[Array, Array]]


@dataclass(kw_only=True)
class _Job:
    """One environment's commands as arrays over T control steps, arms on the second axis."""

    positions: NDArray
    rotations: NDArray
    grippers: NDArray
    noise: NDArray
    actions: NDArray | None
    qpos: list[NDArray]
    qvel: list[NDArray]
    sent: list[NDArray]
    stopped: int = 0

    def __len__(self) -> int:
        return len(self.positions)

    def completed(self) -> int:
        return sum(len(rows) for rows in self.qpos)


class MjwarpBackend:
    """A task in MuJoCo Warp. See `factory.sim.SimBackend` for the contract.

    Attributes:
        task: the task being simulated.
        num_envs: worlds on the device.
        determinism: "statistical": a GPU adds contact forces in no fixed order, and in single precision.
        losses: why worlds were stopped so far, in words, counted; each ended its block with `stable` False.
        world_steps: control steps of environments that took part so far; `device_steps` counts those of all worlds.
        device_steps: see world_steps.
        simulator_seconds: wall time spent on the device so far, copies included; reading scenes is not in it.
    """

    determinism: Literal["bitwise", "statistical"] = "statistical"

    def __init__(self, task: TaskSpec, *, num_envs: int = 1, device: str | None = None) -> None:
        """Build the scene and copy it to the device.

        Args:
            task: the task.
            num_envs: worlds.
            device: Warp's name of a device; None means the first GPU, or the CPU where there is none.

        Raises:
            BackendError: the scene cannot be built, or is driven in a way the kernels do not know.
        """
        if num_envs < 1:
            raise BackendError(f"num_envs is {num_envs}; at least one environment is needed")
        wp.config.log_level = wp.LOG_ERROR  # Warp would report every kernel it loads, and a machine without a GPU
        device = device or ("cuda:0" if wp.is_cuda_available() else "cpu")
        if device not in (known := [d.alias for d in wp.get_devices()]):
            raise BackendError(
                f"the mjwarp backend was asked to compute on {device!r}; Warp finds {', '.join(known)} here"
            )
        self.task, self.num_envs = task, num_envs
        self.losses: Counter[str] = Counter()
        self.world_steps = self.device_steps = 0
        self.simulator_seconds = 0.0
        self._host = RobosuiteBackend(task, control_mode="exact")
        self._host.reset(0, {}, np.random.default_rng(0))
        if len(robots := self._host.environment.robots) != 1:
            raise BackendError(f"the mjwarp backend drives the arms of one robot; this scene has {len(robots)}")
        self._model: mujoco.MjModel = copy.copy(self._host.model)
        self._data = mujoco.MjData(self._model)
        self._substeps: int = self._host._substeps  # noqa: SLF001
        self._worlds = Worlds(
            self._model,
            robots[0],
            task.robot,
            worlds=num_envs,
            substeps=self._substeps,
            device=device,
        )
        # Worlds nobody has started yet stand in a start as well: some scenes are crowded at the model's own default.
        ready = self._world_state(self._host.snapshot(0))
        for world in range(num_envs):
            self._worlds.load(world, ready)
        threads = min(_MOST_READERS, len(os.sched_getaffinity(0)))
        self._readers = StateReaders(task, self._model, threads=threads)
        self._envs: dict[int, _Env] = {}

    # --- SimBackend -------------------------------------------------------------------------------------------------

    def reset(
        self, env: int, placements: Mapping[str, Array], rng: np.random.Generator, *, joint_noise_rad: float = 0.02
    ) -> SceneState:
        """Start an environment as `RobosuiteBackend` does, then round its state to what the device holds."""
        self._host.reset(0, placements, rng, joint_noise_rad=joint_noise_rad)
        return self._load(env, self._host.snapshot(0))

    def reset_to(self, env: int, demo: Demo) -> SceneState:
        """Start an environment from a demo's first state."""
        self._host.reset_to(0, demo)
        return self._load(env, self._host.snapshot(0))

    def snapshot(self, env: int) -> Snapshot:
        """Return everything needed to continue, in the layout of `RobosuiteBackend`: either can restore it."""
        known, state = self._env(env), self._worlds.state(env)
        data = self._data
        mujoco.mj_setState(self._model, data, known.base.integration, _STATE)
        data.time = known.time_s
        data.qpos[:], data.qvel[:], data.qacc_warmstart[:] = state.qpos, state.qvel, state.warmstart
        data.ctrl[:] = state.ctrl
        integration = np.empty(mujoco.mj_stateSize(self._model, _STATE))
        mujoco.mj_getState(self._model, data, integration, _STATE)
        controller: dict[str, Array] = {}
        for a, name in enumerate(self.task.robot.eefs):
            controller[f"{name}.initial_joint"] = state.posture[a]
            controller[f"{name}.gripper_action"] = state.fingers[a].astype(np.float64)
            if name in known.targets:
                target, gripper = known.targets[name]
                controller[f"{name}.T_world_target"] = target.copy()
                controller[f"{name}.gripper_command"] = gripper.copy()
        overrides = {key: value.copy() for key, value in known.base.overrides.items()}
        return Snapshot(integration=integration, controller=controller, overrides=overrides)

    def restore(self, env: int, snapshot: Snapshot) -> SceneState:
        """Continue from a snapshot, rounded to what the device holds."""
        return self._load(env, snapshot)

    def sim_state(self, env: int) -> Mapping[str, Array]:
        """Return time, qpos and qvel."""
        known, state = self._env(env), self._worlds.state(env)
        return {
            "time": np.array([known.time_s]),
            "qpos": state.qpos.astype(np.float64),
            "qvel": state.qvel.astype(np.float64),
        }

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Run the named environments side by side; those with shorter commands stand still at their end."""
        return self._run({env: self._plan(env, per_eef) for env, per_eef in commands.items()})

    def play(self, env: int, actions: NDArray[np.float32]) -> BlockResult:
        """Apply recorded actions as they are."""
        self._env(env)
        job = self._empty_job(len(actions))
        job.actions = actions
        return self._run({env: job})[env]

    def annotate(self, demo: Demo) -> AnnotatedDemo:
        """Read a demo's states in this scene; see `annotation.annotate`."""
        return self._host.annotate(demo)

    def describe(self) -> Mapping[str, str]:
        """Return what provenance records about this executor."""
        facts = dict(self._host.describe())
        mine = {
            "backend": "mjwarp",
            "control_mode": "warp",
            "determinism": self.determinism,
            "mujoco-warp": importlib.metadata.version("mujoco-warp"),
            "warp-lang": importlib.metadata.version("warp-lang"),
            "device": str(self._worlds.device.name),
        }
        seen = repr((facts["fingerprint"], sorted(mine.items())))
        return {**facts, **mine, "fingerprint": hashlib.sha256(seen.encode()).hexdigest()[:16]}

    def model_source(self) -> str:
        """Return the source MJCF with asset files named by content."""
        return self._host.model_source()

    def close(self) -> None:
        """Release the device, the reading threads and robosuite's environment."""
        self._worlds.close()
        self._readers.close()
        self._host.close()

    # --- one environment --------------------------------------------------------------------------------------------

    def _env(self, env: int) -> _Env:
        if env not in self._envs:
            raise BackendError(
                f"environment {env} was never reset; this backend holds environments 0..{self.num_envs - 1}"
            )
        return self._envs[env]

    def _load(self, env: int, snapshot: Snapshot) -> SceneState:
        if not 0 <= env < self.num_envs:
            raise BackendError(f"environment {env} does not exist; this backend holds 0..{self.num_envs - 1}")
        before = self._envs[env].base.overrides if env in self._envs else {}
        eefs = self.task.robot.eefs
        state = self._world_state(snapshot)
        self._worlds.load(env, state)
        if snapshot.overrides or before:
            self._place_fixed_bodies(env, snapshot.overrides)
        targets = {
            name: (snapshot.controller[f"{name}.T_world_target"], snapshot.controller[f"{name}.gripper_command"])
            for name in eefs
            if f"{name}.T_world_target" in snapshot.controller
        }
        (scene,) = self._readers.read(
            [
                Stretch(
                    qpos=state.qpos[None].astype(float),
                    qvel=state.qvel[None].astype(float),
                    overrides=snapshot.overrides,
                )
            ]
        )
        self._envs[env] = _Env(
            base=snapshot,
            time_s=float(self._data.time),
            T_world_eef={name: scene.T_world_eef[name][-1] for name in eefs},
            targets=targets,
        )
        return scene

    def _world_state(self, snapshot: Snapshot) -> WorldState:
        data, eefs = self._data, self.task.robot.eefs
        if missing := [f"{n}.{k}" for n in eefs for k in _MEMORY if f"{n}.{k}" not in snapshot.controller]:
            raise BackendError(f"the snapshot has {sorted(snapshot.controller)}, not {missing}; is it of this robot?")
        mujoco.mj_setState(self._model, data, snapshot.integration, _STATE)
        return WorldState(
            qpos=data.qpos.astype(np.float32),
            qvel=data.qvel.astype(np.float32),
            warmstart=data.qacc_warmstart.astype(np.float32),
            ctrl=data.ctrl.astype(np.float32),
            posture=np.stack([snapshot.controller[f"{name}.initial_joint"] for name in eefs]),
            # A gripper that was never moved has one number for both fingers.
            fingers=np.stack(
                [np.broadcast_to(snapshot.controller[f"{name}.gripper_action"], 2) for name in eefs]
            ).astype(np.float32),
        )

    def _place_fixed_bodies(self, env: int, overrides: Mapping[str, Array]) -> None:
        model = self._model
        built = (model.body_pos.copy(), model.body_quat.copy())
        write_overrides(model, overrides)
        mujoco.mj_kinematics(model, self._data)
        self._worlds.place_bodies(env, model, self._data)
        model.body_pos[:], model.body_quat[:] = built

    # --- running ----------------------------------------------------------------------------------------------------

    def _plan(self, env: int, commands: Commands) -> _Job:
        known, eefs = self._env(env), self.task.robot.eefs
        lengths = {len(command) for command in commands.values()}
        if set(commands) != set(eefs) or len(lengths) != 1:
            raise BackendError(
                f"commands for {sorted(commands)} of lengths {sorted(lengths)}; expected one of equal length for each "
                f"of {sorted(eefs)}"
            )
        job = self._empty_job(lengths.pop())
        for a, (name, eef) in enumerate(eefs.items()):
            command = commands[name]
            if isinstance(command, Hold) and name not in known.targets:
                open_gripper = np.full(eef.gripper_action[1] - eef.gripper_action[0], -eef.gripper_closed)
                known.targets[name] = (known.T_world_eef[name].copy(), open_gripper)
            if isinstance(command, Block):
                T, gripper = command.T_world_eef, np.asarray(command.gripper, float)
                job.noise[:, a] = command.action_noise
                known.targets[name] = (T[-1].copy(), gripper[-1].copy())
            else:
                T, gripper = known.targets[name][0][None], known.targets[name][1][None]
            job.positions[:, a], job.rotations[:, a] = T[:, :3, 3], T[:, :3, :3]
            job.grippers[:, a] = gripper[:, 0]
        return job

    def _empty_job(self, steps: int) -> _Job:
        arms = len(self.task.robot.eefs)
        return _Job(
            positions=np.zeros((steps, arms, 3), np.float32),
            rotations=np.zeros((steps, arms, 3, 3), np.float32),
            grippers=np.zeros((steps, arms), np.float32),
            noise=np.zeros((steps, arms, 6), np.float32),
            actions=None,
            qpos=[],
            qvel=[],
            sent=[],
        )

    def _run(self, jobs: Mapping[int, _Job]) -> dict[int, BlockResult]:
        size = worlds.CHUNK_STEPS
        for start in range(0, max((len(job) for job in jobs.values()), default=0), size):
            plan = worlds.idle(self.num_envs, len(self.task.robot.eefs), self.task.robot.action_dim)
            going = {env: job for env, job in jobs.items() if start < len(job) and not job.stopped}
            if not going:
                break
            for env, job in going.items():
                n, part = min(size, len(job) - start), slice(start, start + size)
                plan.lengths[env], plan.recorded[env] = n, job.actions is not None
                plan.positions[:n, env], plan.rotations[:n, env] = job.positions[part], job.rotations[part]
                plan.grippers[:n, env], plan.noise[:n, env] = job.grippers[part], job.noise[part]
                if job.actions is not None:
                    plan.actions[:n, env] = job.actions[part]
            began = time.perf_counter()
            run = self._worlds.run(plan)
            self.simulator_seconds += time.perf_counter() - began
            self.device_steps += self.num_envs * int(plan.lengths.max())
            for env, job in going.items():
                n = int(run.completed[env])
                job.qpos.append(run.qpos[:n, env])
                job.qvel.append(run.qvel[:n, env])
                job.sent.append(run.actions[:n, env])
                job.stopped = int(run.stopped[env])
                self.losses.update(worlds.reasons(job.stopped))
                self.world_steps += n
        return self._results(jobs)

    def _results(self, jobs: Mapping[int, _Job]) -> dict[int, BlockResult]:
        states = {
            env: (np.concatenate(job.qpos).astype(np.float64), np.concatenate(job.qvel).astype(np.float64))
            for env, job in jobs.items()
        }
        scenes = self._readers.read(
            [
                Stretch(qpos=qpos, qvel=qvel, overrides=self._envs[env].base.overrides)
                for env, (qpos, qvel) in states.items()
            ]
        )
        results: dict[int, BlockResult] = {}
        for (env, job), scene in zip(jobs.items(), scenes, strict=True):
            known, n = self._envs[env], job.completed()
            qpos, qvel = states[env]
            times = self._times(known.time_s, n)
            sent = np.concatenate(job.sent)
            results[env] = BlockResult(
                scene=scene,
                actions=sent,
                T_world_eef_commanded=self._commanded(known, scene, sent),
                sim_states={"time": times[:, None], "qpos": qpos, "qvel": qvel},
                stable=not job.stopped,
            )
            if n:
                known.time_s = float(times[-1])
                known.T_world_eef = {name: T[-1] for name, T in scene.T_world_eef.items()}
        return results

    def _commanded(self, known: _Env, scene: SceneState, sent: NDArray[np.float32]) -> dict[str, Array]:
        commanded: dict[str, Array] = {}
        for name, eef in self.task.robot.eefs.items():
            before = np.concatenate([known.T_world_eef[name][None], scene.T_world_eef[name]])[: len(sent)]
            pose_action = np.clip(sent[:, slice(*eef.arm_action)].astype(np.float64), -1.0, 1.0)
            commanded[name] = actions.target_of_action(before, pose_action, scene.T_world_base[name], eef)
        return commanded

    def _times(self, start_s: float, steps: int) -> Array:
        """Return the simulation's time after each step, summed substep by substep as MuJoCo does on the CPU."""
        ticks = np.full(1 + steps * self._substeps, self._model.opt.timestep)
        ticks[0] = start_s
        return np.cumsum(ticks)[self._substeps :: self._substeps]
