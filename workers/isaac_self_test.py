"""What of Isaac Lab works on this machine, step by step, for those who set one up and those who help them.

Every step is tried; one that fails says why and the others go on where they can. No step is needed to pass for the
report to be written: a report of failures is what it is for.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from factory import poses
from factory.placements import sample_placements
from factory.sim import Block, Hold, SimBackend
from factory.specs import TaskSpec
from sim_tasks.backends import open_backend

_PACKAGES = ("trajectory-factory", "isaaclab", "isaacsim", "torch", "numpy", "h5py", "pyarrow", "av")
_REACHED_M, _KEPT_M, _CODEC_M, _LOADED_M = 0.02, 0.01, 1e-4, 1e-3
"""What is near enough: an IK controller after a second; a hand that holds; a pose encoded and decoded in single
precision; a state that was written and read."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of the test.

    Attributes:
        name: what was tried.
        ok: whether it worked; None when it could not be tried.
        said: what was found, or why it failed.
        seconds: how long it took.
    """

    name: str
    ok: bool | None
    said: str
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a self-test found: the machine, then the steps in order."""

    task: str
    num_envs: int
    machine: Mapping[str, str]
    steps: Sequence[Step] = field(default_factory=tuple)

    @property
    def ok(self) -> bool:
        """Whether every step worked."""
        return all(step.ok for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "ok": self.ok}


class _SkippedError(Exception):
    """An earlier step has not left what this one needs."""


def self_test(
    task: TaskSpec, *, num_envs: int = 4, device: str | None = None, say: Callable[[Step], None] = lambda _: None
) -> Report:
    """Open a task's environment, move, hold, save and restore in it, and report what worked.

    Args:
        task: one of Isaac Lab's.
        num_envs: environments in lock step.
        device: what Isaac Lab computes on; None leaves it to Isaac Lab.
        say: hears of each step when it is over.
    """
    steps: list[Step] = []
    held: dict[str, SimBackend] = {}

    def attempt(name: str, do: Callable[[], tuple[bool, str]]) -> None:
        began = time.perf_counter()
        try:
            ok, said = do()
        except _SkippedError as error:
            ok, said = None, str(error)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's machine does is what the report is about
            ok, said = False, f"{type(error).__name__}: {error}"
        steps.append(Step(name=name, ok=ok, said=said, seconds=round(time.perf_counter() - began, 3)))
        say(steps[-1])

    def backend() -> SimBackend:
        if "it" not in held:
            raise _SkippedError("not tried: the environment could not be opened")
        return held["it"]

    def opens() -> tuple[bool, str]:
        held["it"] = open_backend(task, name="isaaclab", num_envs=num_envs, device=device)
        facts = held["it"].describe()
        return True, f"{facts['environment']}, Isaac Lab {facts['isaaclab']}, {facts.get('device', 'unknown device')}"

    attempt("graphics card", _card)
    attempt("open", opens)
    attempt("quaternions", lambda: _quaternions(backend()))
    attempt("reset", lambda: _resets(backend()))
    attempt("codec", lambda: _codec(backend()))
    attempt("hold", lambda: _holds(backend()))
    attempt("move", lambda: _moves(backend()))
    attempt("restore", lambda: _restores(backend()))
    attempt("terms", lambda: _terms(backend()))
    attempt("speed", lambda: _speed(backend()))
    if "it" in held:
        attempt("close", lambda: (held["it"].close(), (True, ""))[1])
    return Report(task=task.name, num_envs=num_envs, machine=_machine(), steps=tuple(steps))


def _machine() -> dict[str, str]:
    facts = {"python": platform.python_version(), "system": platform.platform(), "cores": str(os.cpu_count())}
    for package in _PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "absent"
    return facts


def _card() -> tuple[bool, str]:
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - fixed words
    except OSError as error:
        return False, f"nvidia-smi cannot be run ({error}); the container needs the NVIDIA container toolkit"
    return answer.returncode == 0, " ".join((answer.stdout or answer.stderr).split())


def _start(backend: SimBackend, env: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    reset = next(iter(backend.task.resets.values()))
    return backend.reset(env, sample_placements(reset, rng), rng, joint_noise_rad=reset.joint_noise_rad)


def _quaternions(backend: Any) -> tuple[bool, str]:
    """An upright object's quaternion tells the order: its rotation matrix is known beside it."""
    scene, order = _start(backend, 0), backend.world.opened.order
    name, spec = next(iter(backend.task.scene.objects.items()))
    stored = backend.sim_state(0)[f"rigid_object/{spec.body}/root_pose"]
    off = np.abs(poses.pose_from_xyz_quat_wxyz(stored) - scene.T_world_object[name][0]).max()
    return bool(off < _LOADED_M), f"{order}; the state of {name!r} and its pose differ by {off:.1e}"


def _resets(backend: SimBackend) -> tuple[bool, str]:
    rng = np.random.default_rng(1)
    reset = next(iter(backend.task.resets.values()))
    placements = sample_placements(reset, rng)
    scene = backend.reset(backend.num_envs - 1, placements, rng, joint_noise_rad=reset.joint_noise_rad)
    off = max(float(np.abs(scene.T_world_object[k][0] - T).max()) for k, T in placements.items())
    return off < _LOADED_M, f"objects stand {off:.1e} from where they were put, in environment {backend.num_envs - 1}"


def _codec(backend: Any) -> tuple[bool, str]:
    scene, eefs = _start(backend, 0), backend.task.robot.eefs
    target = {k: T[0] @ poses.pose(np.eye(3), [0.01, 0.02, -0.01]) for k, T in scene.T_world_eef.items()}
    sent = backend.world.encode(0, target, {k: np.array(e.opens, float) for k, e in eefs.items()})
    asked = backend.world.targets(np.tile(sent, (backend.num_envs, 1)))
    off = max(float(np.abs(asked[k][0] - T).max()) for k, T in target.items())
    return off < _CODEC_M, f"{len(sent)} numbers; a target comes back {off:.1e} off"


def _holds(backend: SimBackend) -> tuple[bool, str]:
    _start(backend, 0)
    result = backend.advance({0: {eef: Hold(steps=20) for eef in backend.task.robot.eefs}})[0]
    drift = max(float(np.linalg.norm(np.diff(T[[0, -1], :3, 3], axis=0))) for T in result.scene.T_world_eef.values())
    return result.stable and drift < _KEPT_M, f"hands drift {1000 * drift:.1f} mm in 20 steps"


def _moves(backend: SimBackend) -> tuple[bool, str]:
    scene = _start(backend, 0)
    moves: dict[str, Block] = {}
    for name, eef in backend.task.robot.eefs.items():
        here = scene.T_world_eef[name][0]
        up = poses.pose(here[:3, :3], here[:3, 3] + [0.0, 0.0, 0.05])
        moves[name] = Block(
            T_world_eef=np.concatenate([poses.interpolate(here, up, np.arange(1, 11) / 10), np.tile(up, (10, 1, 1))]),
            gripper=np.tile(eef.opens, (20, 1)),
            action_noise=np.zeros((20, 6)),
        )
    result = backend.advance({0: moves})[0]
    off = max(
        float(np.linalg.norm(result.scene.T_world_eef[k][-1, :3, 3] - m.T_world_eef[-1, :3, 3]))
        for k, m in moves.items()
    )
    return result.stable and off < _REACHED_M, f"5 cm upwards end {1000 * off:.1f} mm off"


def _restores(backend: SimBackend) -> tuple[bool, str]:
    _start(backend, 0)
    hold = {eef: Hold(steps=5) for eef in backend.task.robot.eefs}
    backend.advance({0: hold})
    before, snapshot = backend.sim_state(0), backend.snapshot(0)
    backend.advance({0: hold})
    env = backend.num_envs - 1
    backend.restore(env, snapshot)
    after = backend.sim_state(env)
    off = max(
        float(np.abs(after[k] - v).max()) for k, v in before.items() if k.endswith(("root_pose", "joint_position"))
    )
    return off < _LOADED_M, f"a state restored in environment {env} is {off:.1e} off"


def _terms(backend: Any) -> tuple[bool, str]:
    offered, asked = set(backend.world.read().terms), {b for _, b in backend.task.scene.contacts}
    lacking = asked - offered
    said = f"the environment reports {', '.join(sorted(offered))}"
    return "success" in offered, said + (f"; not {', '.join(sorted(lacking))}, marked by people" if lacking else "")


def _speed(backend: SimBackend) -> tuple[bool, str]:
    for env in range(backend.num_envs):
        _start(backend, env, seed=env)
    steps = 50
    hold = {eef: Hold(steps=steps) for eef in backend.task.robot.eefs}
    began = time.perf_counter()
    results = backend.advance(dict.fromkeys(range(backend.num_envs), hold))
    spent = time.perf_counter() - began
    lost = sum(not r.stable for r in results.values())
    rate = steps * backend.num_envs / spent
    return not lost, f"{rate:.0f} control steps a second in {backend.num_envs} environments; {lost} diverged"
