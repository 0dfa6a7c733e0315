"""Isaac Lab Mimic environments behind `SimBackend`: N of them, which can only be stepped all together.

An attempt's action is the same six numbers for each arm as everywhere in this project: a displacement of the hand. The
pose it asks for is handed to the environment, which makes its own action of it, relative or absolute; that one is kept
in the states as `isaac_states.ACTION`, for files that Isaac Lab reads. Noise is ours, drawn by the attempt's stream;
the environment is never asked to add its own.

Whoever has nothing to do while others step is put back afterwards to where it stood. Physics on a GPU adds forces in no
fixed order, and a state that is loaded has no memory of its contacts: the backend is statistical.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factory import actions, poses
from factory.demos import AnnotatedDemo, Demo
from factory.errors import BackendError
from factory.isaac_states import ACTION, tree_of
from factory.scene import SceneState
from factory.sim import Block, BlockResult, Commands, Snapshot
from factory.specs import TaskSpec
from sim_tasks.backends import isaac_annotation
from sim_tasks.backends.isaac_world import MimicEnvironment, MimicWorld, Reading

Array = NDArray[np.float64]

_SEEDS = 2**31
_VERSIONS = ("isaaclab", "isaacsim", "torch", "numpy", "trajectory-factory")


@dataclass(kw_only=True)
class _Env:
    """What is remembered of one environment besides its state: its clock, what its hands were last told, and sent."""

    time_s: float
    sent: NDArray[np.float32]
    targets: dict[str, tuple[Array, Array]] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Job:
    """One environment's work in one call: commands, or recorded actions, and what has come of it."""

    length: int
    commands: Commands = field(default_factory=dict)
    actions: NDArray[np.float32] | None = None
    done: list[Array] = field(default_factory=list)
    sent: list[NDArray[np.float32]] = field(default_factory=list)
    commanded: list[dict[str, Array]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    stable: bool = True


class IsaacLabBackend:
    """A task in an Isaac Lab Mimic environment. See `factory.sim.SimBackend` for the contract.

    Attributes:
        task: the task being simulated.
        num_envs: environments in lock step.
        determinism: "statistical".
        world: the open environment.
    """

    determinism: Literal["bitwise", "statistical"] = "statistical"

    def __init__(self, task: TaskSpec, opened: MimicEnvironment) -> None:
        """Take over an open environment; see `isaac_app.open_environment`.

        Raises:
            BackendError: the environment does not fit the task.
        """
        self.task, self.world = task, MimicWorld(opened, task)
        self.num_envs = self.world.num_envs
        self._envs: dict[int, _Env] = {}
        self._now: Reading | None = None

    # --- SimBackend -------------------------------------------------------------------------------------------------

    def reset(
        self, env: int, placements: Mapping[str, Array], rng: np.random.Generator, *, joint_noise_rad: float = 0.02
    ) -> SceneState:
        """Start an environment by its own reset, then put bodies where asked and the arms near their home."""
        self._check_env(env)
        row = self.world.start(env, int(rng.integers(_SEEDS)))
        home = self.world.home(env)
        for eef in self.task.robot.eefs.values():
            at = [self.world.joint_names.index(name) for name in eef.arm_joints]
            row = self.world.with_posture(row, eef.arm_joints, home[at] + rng.normal(0, joint_noise_rad, len(at)))
        for name, T in placements.items():
            row = self.world.with_body(row, self.task.scene.objects[name].body, poses.xyz_quat_wxyz_from_pose(T))
        return self._load(env, row, _Env(time_s=0.0, sent=np.zeros(self.world.action_width, np.float32)))

    def reset_to(self, env: int, demo: Demo) -> SceneState:
        """Start an environment from a demo's first state."""
        isaac_annotation.check_states(demo, self.world)
        return self.restore(env, Snapshot(integration=demo.states[0]))

    def snapshot(self, env: int) -> Snapshot:
        """Return time, the environment's last action and its state; contacts begin anew when it is restored."""
        known = self._known(env)
        memory = {f"{k}.T_world_target": T.copy() for k, (T, _) in known.targets.items()}
        memory |= {f"{k}.gripper_command": g.copy() for k, (_, g) in known.targets.items()}
        row = self._reading().rows[env]
        return Snapshot(integration=np.concatenate([[known.time_s], known.sent, row]), controller=memory)

    def restore(self, env: int, snapshot: Snapshot) -> SceneState:
        """Continue from a snapshot."""
        self._check_env(env)
        width = self.world.action_width
        state, memory = snapshot.integration, snapshot.controller
        if len(state) != 1 + width + self.world.layout.width:
            expected = 1 + width + self.world.layout.width
            raise BackendError(f"the snapshot has {len(state)} numbers, this scene's have {expected}")
        known = _Env(time_s=float(state[0]), sent=state[1 : 1 + width].astype(np.float32))
        for name in self.task.robot.eefs:
            if f"{name}.T_world_target" in memory:
                known.targets[name] = (memory[f"{name}.T_world_target"], memory[f"{name}.gripper_command"])
        return self._load(env, state[1 + width :], known)

    def sim_state(self, env: int) -> Mapping[str, Array]:
        """Return time, the environment's last action and the scene's arrays, quaternions w first."""
        known = self._known(env)
        named = self.world.layout.named(self._reading().rows[env][None])
        return {
            "time": np.array([known.time_s]),
            ACTION: known.sent.astype(np.float64),
            **{name: array[0].copy() for name, array in named.items()},
        }

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Run the named environments side by side; the others, and those that end sooner, stand where they stood."""
        return self._run({env: self._job(env, per_eef) for env, per_eef in commands.items()})

    def play(self, env: int, actions: NDArray[np.float32]) -> BlockResult:
        """Apply recorded actions as they are."""
        self._known(env)
        width = self.task.robot.action_dim
        if actions.ndim != 2 or actions.shape[1] != width:
            raise BackendError(
                f"actions have shape {actions.shape}, robot {self.task.robot.name!r} takes (T, {width}); the "
                f"environment's own, of {self.world.action_width} numbers, are played in Isaac Lab"
            )
        return self._run({env: _Job(length=len(actions), actions=actions)})[env]

    def annotate(self, demo: Demo) -> AnnotatedDemo:
        """Read a demo: its states where it has them, else the poses stored in it."""
        kept = self._reading().rows
        try:
            return isaac_annotation.annotate(demo, self.task, self.world)
        finally:
            if self._envs:
                self.world.load(tuple(self._envs), kept[list(self._envs)])
            self._now = None

    def describe(self) -> Mapping[str, str]:
        """Return what provenance records about this executor."""
        opened = self.world.opened
        facts = {
            "backend": "isaaclab",
            "control_mode": "lock_step",
            "determinism": self.determinism,
            "environment": opened.name,
            "model_sha": hashlib.sha256(self.model_source().encode()).hexdigest(),
            **{name: _version(name) for name in _VERSIONS},
            "isaaclab": opened.version,
            **opened.facts,
        }
        return {**facts, "fingerprint": hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]}

    def model_source(self) -> str:
        """Return what is known of the scene as JSON; its USD files stay with Isaac Lab."""
        world = self.world
        return json.dumps(
            {
                "environment": world.opened.name,
                "isaaclab": world.opened.version,
                "state": tree_of({name: list(shape) for name, shape in world.layout.shapes.items()}),
                "joints": list(world.joint_names),
                "action_width": world.action_width,
                "control_hz": self.task.robot.control_hz,
            },
            sort_keys=True,
        )

    def close(self) -> None:
        """Close the environment and the simulator that was started for it."""
        self.world.opened.close()

    # --- one environment --------------------------------------------------------------------------------------------

    def _check_env(self, env: int) -> None:
        if not 0 <= env < self.num_envs:
            raise BackendError(f"environment {env} does not exist; this backend holds 0..{self.num_envs - 1}")

    def _known(self, env: int) -> _Env:
        if env not in self._envs:
            raise BackendError(
                f"environment {env} was never reset; this backend holds environments 0..{self.num_envs - 1}"
            )
        return self._envs[env]

    def _reading(self) -> Reading:
        if self._now is None:
            self._now = self.world.read()
        return self._now

    def _load(self, env: int, row: Array, known: _Env) -> SceneState:
        self.world.load([env], row[None])
        self._envs[env], self._now = known, None
        return isaac_annotation.scene_of([self._reading()], env, self.task, self.world)

    # --- running ----------------------------------------------------------------------------------------------------

    def _job(self, env: int, commands: Commands) -> _Job:
        self._known(env)
        lengths = {len(command) for command in commands.values()}
        if set(commands) != set(self.task.robot.eefs) or len(lengths) != 1:
            raise BackendError(
                f"commands for {sorted(commands)} of lengths {sorted(lengths)}; expected one of equal length for each "
                f"of {sorted(self.task.robot.eefs)}"
            )
        return _Job(length=lengths.pop(), commands=commands)

    def _run(self, jobs: Mapping[int, _Job]) -> dict[int, BlockResult]:
        before = self._reading()
        parked = {env: before.rows[env] for env in self._envs if env not in jobs}
        readings: list[Reading] = []
        still: dict[int, NDArray[np.float32]] = {}
        going = dict(jobs)
        for step in range(max((job.length for job in jobs.values()), default=0)):
            now = readings[-1] if readings else before
            sent = np.stack([self._sent(env, going.get(env), step, now, still) for env in range(self.num_envs)])
            self.world.step(sent)
            readings.append(self.world.read())
            lost = [env for env in going if not _finite(readings[-1], env)]
            for env, job in list(going.items()):
                job.stable = env not in lost
                if job.stable:
                    job.sent.append(sent[env])
                    self._envs[env].time_s += 1.0 / self.task.robot.control_hz
                    job.times.append(self._envs[env].time_s)
                if not job.stable or step + 1 == job.length:
                    parked[env] = (readings[-1] if job.stable else now).rows[env]
                    del going[env]
            if lost:  # what is no number any more must not be stepped on beside the others
                self.world.load(lost, np.stack([parked[env] for env in lost]))
                readings[-1] = self.world.read()
            if not going:
                break
        last = {env: job.sent[-1] for env, job in jobs.items() if job.sent}
        for env, action in last.items():
            self._envs[env].sent = action
        if readings:
            self._put_back(parked, readings[-1])
        return {env: self._result(env, job, [before, *readings]) for env, job in jobs.items()}

    def _put_back(self, parked: Mapping[int, Array], now: Reading) -> None:
        """Load the states of those that stood still; whoever was stepped to the end is there already."""
        moved = [env for env, row in parked.items() if not np.array_equal(row, now.rows[env])]
        self._now = None if moved else now
        if moved:
            self.world.load(moved, np.stack([parked[env] for env in moved]))

    def _sent(
        self, env: int, job: _Job | None, step: int, now: Reading, still: dict[int, NDArray[np.float32]]
    ) -> NDArray[np.float32]:
        """Return what the environment is sent in this step; one without work is told once to stay where it is."""
        hands = self.task.robot.eefs
        if job is None:
            if env not in still:
                here = {name: now.T_world_eef[name][env] for name in hands}
                still[env] = self.world.encode(env, here, {name: np.array(e.opens) for name, e in hands.items()})
            return still[env]
        action = np.zeros(self.task.robot.action_dim)
        grippers: dict[str, Array] = {}
        commanded: dict[str, Array] = {}
        for name, eef in hands.items():
            here = now.T_world_eef[name][env]
            if job.actions is not None:
                action[:] = job.actions[step]
            else:
                target, gripper, noise = self._wanted(env, name, job, step, here)
                action[slice(*eef.arm_action)] = actions.execute(here, target, noise, np.eye(4), eef)
                action[slice(*eef.gripper_action)] = np.float32(gripper)
            pose_action = np.clip(action[slice(*eef.arm_action)], -1.0, 1.0)
            commanded[name] = actions.target_of_action(here, pose_action, np.eye(4), eef)
            grippers[name] = action[slice(*eef.gripper_action)]
        job.done.append(action)
        job.commanded.append(commanded)
        return self.world.encode(env, commanded, grippers)

    def _wanted(self, env: int, name: str, job: _Job, step: int, here: Array) -> tuple[Array, Array, Array]:
        """Return target, gripper command and noise of one hand; a hold repeats what the hand was last told."""
        command, targets = job.commands[name], self._envs[env].targets
        if isinstance(command, Block):
            targets[name] = (command.T_world_eef[step], np.asarray(command.gripper[step], float))
            return (*targets[name], command.action_noise[step])
        targets.setdefault(name, (here, np.array(self.task.robot.eefs[name].opens, float)))
        return (*targets[name], np.zeros(6))

    def _result(self, env: int, job: _Job, readings: Sequence[Reading]) -> BlockResult:
        n = len(job.sent)
        seen = readings[1 : n + 1]
        rows = np.stack([r.rows[env] for r in seen]) if n else np.empty((0, self.world.layout.width))
        sent = np.array(job.sent, np.float64).reshape(n, self.world.action_width)
        return BlockResult(
            scene=isaac_annotation.scene_of(seen, env, self.task, self.world),
            actions=np.array(job.done[:n], np.float32).reshape(n, self.task.robot.action_dim),
            T_world_eef_commanded={
                name: np.array([c[name] for c in job.commanded[:n]]).reshape(n, 4, 4) for name in self.task.robot.eefs
            },
            sim_states={
                "time": np.array(job.times).reshape(n, 1),
                ACTION: sent,
                **{name: array.copy() for name, array in self.world.layout.named(rows).items()},
            },
            stable=job.stable,
        )


def _finite(reading: Reading, env: int) -> bool:
    poses_of = (*reading.T_world_eef.values(), *reading.T_world_object.values())
    return bool(np.isfinite(reading.rows[env]).all() and all(np.isfinite(T[env]).all() for T in poses_of))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "absent"
