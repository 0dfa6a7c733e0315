"""A block of control steps in one call outside Python: sense, aim, control, step, record.

Each control step is what it is in the other control modes: read the hand's pose, turn the target into a float32 action,
set the controllers' goals from that action, then `mj_step1` -> controls -> `mj_step2` for every physics step. The
positions that `mj_step1` computes serve the record of the step before, so nothing is computed twice. The lock of the
Python interpreter is released throughout.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from sim_tasks.backends import controllers
from sim_tasks.backends.compiling import compiled, compiling_once
from sim_tasks.backends.control_laws import Controllers, apply_controls, set_goals
from sim_tasks.backends.libmujoco import (
    Memory,
    memory_of,
    mj_comVel,
    mj_fwdPosition,
    mj_objectVelocity,
    mj_step,
    mj_step1,
    mj_step2,
)
from sim_tasks.backends.sensing import Rows, SceneReader

Array = NDArray[np.float64]
Ints = NDArray[np.int32]

_SITE, _BODY = mujoco.mjtObj.mjOBJ_SITE.value, mujoco.mjtObj.mjOBJ_XBODY.value


class Hands(NamedTuple):
    """How target poses become actions, a row for each end effector; see `factory.actions`."""

    frame: Ints  # (e, 2) whether it is a site, and its id
    base: Ints  # (e, 2)
    action: Ints  # (e,) first column of the pose action
    position_scale_m: Array  # (e,)
    rotation_scale_rad: Array  # (e,)


class Senses(NamedTuple):
    """What is recorded of the scene after each step; see `sensing.Rows`."""

    frame: Ints  # (f, 2) whether it is a site, and its id
    moving: int  # the first so many frames also have a velocity
    pairs: NDArray[np.int64]  # (p, 2) bits of two contact groups
    geom_bits: NDArray[np.int64]  # (ngeom,)


class Plan(NamedTuple):
    """What to do: for each hand a target a step, or, without hands, the actions as they stand in the record."""

    T_world_target: Array  # (e, t, 4, 4)
    noise: Array  # (e, t, 6)


class Record(NamedTuple):
    """What happened: rows of t control steps."""

    actions: NDArray[np.float32]  # (t, a); gripper columns are filled beforehand, without hands all are
    time: Array  # (t,)
    qpos: Array  # (t, nq)
    qvel: Array  # (t, nv)
    positions: Array  # (t, f, 3)
    rotations: Array  # (t, f, 9)
    velocities: Array  # (t, moving, 6)
    contacts: NDArray[np.bool_]  # (t, p)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Rows of a block; those from `done` on hold nothing. `stable` is False when the simulation diverged."""

    record: Record
    rows: Rows
    done: int
    stable: bool


class CompiledPath:
    """The controllers of a scene's robots, ready to run on the simulation it was given, which stays the caller's."""

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        robots: Sequence[Any],
        *,
        substeps: int,
        reader: SceneReader | None = None,
    ) -> None:
        """Read robosuite's controllers into tables.

        Args:
            model: the compiled scene.
            data: its simulation.
            robots: robosuite's robots with their controllers.
            substeps: physics steps in a control step.
            reader: what to record of the scene, and where the hands are; without one only states are recorded and only
                actions can be played.

        Raises:
            UnsupportedControlError: a controller is of a kind or with options that are not compiled.
        """
        self._model, self._data = model, data
        self.substeps = substeps
        self._sim: Memory = memory_of(model, data)
        self._parts: Controllers = controllers.tables(model, robots)
        self._names = controllers.part_names(robots)
        self._reader = reader
        self._hands, self._senses = (_no_hands(), _no_senses(model)) if reader is None else _scene(reader)
        self.action_dim = sum(int(robot.action_dim) for robot in robots)
        # A block of no steps: machine code is made, or read from disk, now and not in somebody's first attempt.
        with compiling_once():
            self.play(np.empty((0, self.action_dim), np.float32))

    # --- memory -----------------------------------------------------------------------------------------------------

    def remember_posture(self) -> None:
        """Begin anew from the present state: the null space pulls here, grippers and integrals are at rest."""
        controllers.begin(self._parts, self._data.qpos)

    def memory(self) -> dict[str, Array]:
        """Return what the controllers remember between control steps, by name."""
        return controllers.memory(self._parts, self._names)

    def recall(self, memory: Mapping[str, Array]) -> None:
        """Put back what `memory` returned; names of others are ignored."""
        controllers.recall(self._parts, self._names, memory)

    # --- running ----------------------------------------------------------------------------------------------------

    def play(self, actions: NDArray[np.float32]) -> Outcome:
        """Apply actions ``(t, a)`` as they are."""
        record = self._allocate(np.array(actions, np.float32))
        return self._run(_no_hands(), Plan(T_world_target=np.empty((0, 0, 4, 4)), noise=np.empty((0, 0, 6))), record)

    def follow(self, T_world_target: Array, noise: Array, actions: NDArray[np.float32]) -> Outcome:
        """Follow targets with every hand.

        Args:
            T_world_target: ``(e, t, 4, 4)`` a pose for each hand and step, in the order of the robot's end effectors.
            noise: ``(e, t, 6)`` added to the normalised pose action, the sum clipped again.
            actions: ``(t, a)`` with the grippers' columns filled in; pose columns are overwritten.
        """
        plan = Plan(T_world_target=np.ascontiguousarray(T_world_target), noise=np.ascontiguousarray(noise))
        return self._run(self._hands, plan, self._allocate(actions))

    def substep_controls(self) -> Array:
        """Return the controls ``(nu,)`` for the present substep, goals as last set; call after `mj_step1`."""
        apply_controls(self._sim, self._parts)
        return self._data.ctrl.copy()

    def retrace(self, controls: Array) -> None:
        """Step with recorded controls ``(n, nu)``, one row a physics step: what the physics alone costs."""
        _retrace(self._sim, np.ascontiguousarray(controls))

    def aim(self, action: NDArray[np.float32]) -> None:
        """Set the goals of one action ``(a,)``; call after `mj_step1`, then `substep_controls`."""
        set_goals(self._sim, self._parts, np.asarray(action, np.float32))

    def _allocate(self, actions: NDArray[np.float32]) -> Record:
        t, frames = len(actions), len(self._senses.frame)
        return Record(
            actions=actions,
            time=np.empty(t),
            qpos=np.empty((t, self._model.nq)),
            qvel=np.empty((t, self._model.nv)),
            positions=np.empty((t, frames, 3)),
            rotations=np.empty((t, frames, 9)),
            velocities=np.empty((t, self._senses.moving, 6)),
            contacts=np.zeros((t, len(self._senses.pairs)), np.bool_),
        )

    def _run(self, hands: Hands, plan: Plan, record: Record) -> Outcome:
        done, stable = run_block(self._sim, self._parts, hands, self._senses, plan, record, self.substeps)
        joints = record.qpos[:, self._reader.joint_addresses] if self._reader else np.empty((len(record.time), 0))
        rows = Rows(
            positions=record.positions,
            rotations=record.rotations.reshape(*record.rotations.shape[:2], 3, 3),
            velocities=record.velocities,
            joints=joints,
            contacts=record.contacts,
        )
        return Outcome(record=record, rows=rows, done=done, stable=stable)


@compiled
def run_block(
    sim: Memory, parts: Controllers, hands: Hands, senses: Senses, plan: Plan, record: Record, substeps: int
) -> tuple[int, bool]:
    """Run all control steps of a block; return how many were completed, and whether the simulation stayed stable."""
    steps = len(record.time)
    if steps == 0:
        return 0, True
    for t in range(steps):
        for substep in range(substeps):
            mj_step1(sim.model, sim.data)
            if substep == 0:
                if t > 0:
                    if _diverged(sim):
                        return t - 1, False
                    _sense(sim, senses, record, t - 1)
                for e in range(len(hands.action)):
                    _aim(sim, hands, plan, record.actions, e, t)
                set_goals(sim, parts, record.actions[t])
            apply_controls(sim, parts)
            mj_step2(sim.model, sim.data)
        if _diverged(sim):
            # The step before was recorded; this one is not.
            return t, False
        record.time[t] = sim.time[0]
        for i in range(len(sim.qpos)):
            record.qpos[t, i] = sim.qpos[i]
        for i in range(len(sim.qvel)):
            record.qvel[t, i] = sim.qvel[i]
    mj_fwdPosition(sim.model, sim.data)
    mj_comVel(sim.model, sim.data)
    _sense(sim, senses, record, steps - 1)
    return steps, True


@compiled
def _diverged(sim: Memory) -> bool:
    return sim.warnings[0] + sim.warnings[1] + sim.warnings[2] > 0


@compiled
def _retrace(sim: Memory, controls: Array) -> None:
    for row in range(len(controls)):
        sim.ctrl[:] = controls[row]
        mj_step(sim.model, sim.data)


@compiled
def _aim(sim: Memory, hands: Hands, plan: Plan, actions: NDArray[np.float32], e: int, t: int) -> None:
    """Write the action that asks for a hand's target from where it is: clipped, noise added, clipped, rounded."""
    p, R = _frame(sim, hands.frame[e, 0], hands.frame[e, 1])
    _, R_base = _frame(sim, hands.base[e, 0], hands.base[e, 1])
    target = plan.T_world_target[e, t]
    turn = np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            total = 0.0
            for k in range(3):
                total += target[i, k] * R[3 * j + k]
            turn[i, j] = total
    rotvec = _axis_angle(turn)
    for i in range(3):
        shift = spin = 0.0
        for k in range(3):
            shift += (target[k, 3] - p[k]) * R_base[3 * k + i]
            spin += rotvec[k] * R_base[3 * k + i]
        for column, number in (
            (i, shift / hands.position_scale_m[e]),
            (3 + i, spin / hands.rotation_scale_rad[e]),
        ):
            wanted = min(max(number, -1.0), 1.0) + plan.noise[e, t, column]
            actions[t, hands.action[e] + column] = np.float32(min(max(wanted, -1.0), 1.0))


@compiled
def _axis_angle(R: Array) -> Array:
    """Return the axis-angle vector, angle in [0, pi], by way of the largest quaternion component (Shepperd 1978)."""
    q = np.empty(4)
    trace = R[0, 0] + R[1, 1] + R[2, 2]
    if trace >= R[0, 0] and trace >= R[1, 1] and trace >= R[2, 2]:
        q[0], q[1], q[2], q[3] = 1.0 + trace, R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    elif R[0, 0] >= R[1, 1] and R[0, 0] >= R[2, 2]:
        q[0], q[1] = R[2, 1] - R[1, 2], 1.0 + R[0, 0] - R[1, 1] - R[2, 2]
        q[2], q[3] = R[0, 1] + R[1, 0], R[0, 2] + R[2, 0]
    elif R[1, 1] >= R[2, 2]:
        q[0], q[2] = R[0, 2] - R[2, 0], 1.0 - R[0, 0] + R[1, 1] - R[2, 2]
        q[1], q[3] = R[0, 1] + R[1, 0], R[1, 2] + R[2, 1]
    else:
        q[0], q[3] = R[1, 0] - R[0, 1], 1.0 - R[0, 0] - R[1, 1] + R[2, 2]
        q[1], q[2] = R[0, 2] + R[2, 0], R[1, 2] + R[2, 1]
    length = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    if q[0] < 0.0:
        length = -length
    w, v = q[0] / length, np.empty(3)
    for i in range(3):
        v[i] = q[1 + i] / length
    sine = math.sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2])
    scale = 2.0 * math.atan2(sine, w) / sine if sine > 1e-12 else 2.0
    for i in range(3):
        v[i] *= scale
    return v


@compiled
def _sense(sim: Memory, senses: Senses, record: Record, row: int) -> None:
    # Written number by number: assigning slices makes machine code several times as long to compile.
    for f in range(len(senses.frame)):
        p, R = _frame(sim, senses.frame[f, 0], senses.frame[f, 1])
        for i in range(3):
            record.positions[row, f, i] = p[i]
        for i in range(9):
            record.rotations[row, f, i] = R[i]
    spin_then_shift = np.empty(6)
    for f in range(senses.moving):
        kind = _SITE if senses.frame[f, 0] else _BODY
        mj_objectVelocity(sim.model, sim.data, kind, senses.frame[f, 1], spin_then_shift.ctypes.data, 0)
        for i in range(3):
            record.velocities[row, f, i] = spin_then_shift[3 + i]
            record.velocities[row, f, 3 + i] = spin_then_shift[i]
    for c in range(sim.ncon[0]):
        if sim.contact_geom[c, 0] < 0 or sim.contact_geom[c, 1] < 0:
            continue  # a deformable body, which has no geom
        one, two = senses.geom_bits[sim.contact_geom[c, 0]], senses.geom_bits[sim.contact_geom[c, 1]]
        if one == 0 or two == 0:
            continue
        for p in range(len(senses.pairs)):
            a, b = senses.pairs[p, 0], senses.pairs[p, 1]
            if (one & a and two & b) or (one & b and two & a):
                record.contacts[row, p] = True


@compiled
def _frame(sim: Memory, is_site: int, index: int) -> tuple[Array, Array]:
    """Return position ``(3,)`` and rotation ``(9,)`` of a site or body in the world."""
    if is_site:
        return sim.site_xpos[index], sim.site_xmat[index]
    return sim.xpos[index], sim.xmat[index]


def _scene(reader: SceneReader) -> tuple[Hands, Senses]:
    eefs = reader.task.robot.eefs
    hands = Hands(
        frame=_frames([reader.eef_frames[name] for name in eefs]),
        base=_frames([reader.base_frames[name] for name in eefs]),
        action=np.array([spec.arm_action[0] for spec in eefs.values()], np.int32),
        position_scale_m=np.array([spec.position_scale_m for spec in eefs.values()]),
        rotation_scale_rad=np.array([spec.rotation_scale_rad for spec in eefs.values()]),
    )
    frames = [*reader.object_frames.values(), *reader.eef_frames.values()]
    senses = Senses(
        frame=_frames(frames),
        moving=len(reader.object_frames),
        pairs=reader.pair_masks,
        geom_bits=reader.geom_mask,
    )
    return hands, senses


def _frames(frames: Sequence[tuple[bool, int]]) -> Ints:
    return np.array(frames, np.int32).reshape(-1, 2)


def _no_hands() -> Hands:
    none = np.empty(0)
    return Hands(
        frame=_frames(()),
        base=_frames(()),
        action=np.empty(0, np.int32),
        position_scale_m=none,
        rotation_scale_rad=none,
    )


def _no_senses(model: mujoco.MjModel) -> Senses:
    return Senses(
        frame=_frames(()), moving=0, pairs=np.empty((0, 2), np.int64), geom_bits=np.zeros(model.ngeom, np.int64)
    )
