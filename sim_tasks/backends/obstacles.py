"""How much room an arm has at poses of its hand: MuJoCo's own collision shapes, on a copy of the state.

What a hand holds moves with it. Everything else stands where it stands now, other arms and movable objects too.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.diagnosis import OUT_OF_REACH_M, OUT_OF_REACH_RAD
from factory.transit import LOOK_M, Gauge
from sim_tasks.backends.reach import Reach

Array = NDArray[np.float64]

_BRUSH_M = 5e-3
"""Where a segment begins, fixed things may overlap with hand and load by no more: shapes and grasps are as inexact."""
_SLACK_M = 2e-3
"""What was near at an end may come this much nearer: postures and states tremble by less."""


@dataclass(frozen=True, kw_only=True)
class Limb:
    """What moves with a hand.

    Attributes:
        frame: whether the hand's frame is a site, and that site's or body's id.
        joints: where the arm's joints lie in qpos.
        root: the first body its joints move.
    """

    frame: tuple[bool, int]
    joints: tuple[int, ...]
    root: int


class Obstacles:
    """The arms of a compiled model, and room to try their postures in."""

    def __init__(self, model: mujoco.MjModel, reach: Reach, limbs: Mapping[str, Limb]) -> None:
        """Prepare.

        Args:
            model: the compiled scene; its poses of fixed bodies may change later, its bodies may not.
            reach: inverse kinematics of the same hands.
            limbs: hand -> what moves with it.
        """
        self._model, self._reach, self._limbs = model, reach, dict(limbs)
        self._data = mujoco.MjData(model)

    def survey(self, hand: str, qpos: Array, carried: Collection[int], T_from: Array, T_goal: Array) -> Gauge:
        """Return what tells the room at poses of a hand, as everything is now; see `factory.transit.Survey`.

        Args:
            hand: its name.
            qpos: ``(nq,)`` where everything is now.
            carried: free bodies in the hand.
            T_from: ``(4, 4)`` where it comes from: what it touches there it does touch, and may.
            T_goal: ``(4, 4)`` where it goes: what moves may be pushed aside there, what is fixed hardly touched.
        """
        view = _View(self._model, self._data, self._reach, hand, self._limbs[hand], qpos.copy(), carried)
        view.allow(T_from, T_goal)
        return view.room


class _View:
    """One hand's surroundings at one moment."""

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        reach: Reach,
        hand: str,
        limb: Limb,
        qpos: Array,
        carried: Collection[int],
    ) -> None:
        self._model, self._data, self._reach, self._hand, self._limb = model, data, reach, hand, limb
        self._qpos = qpos
        arm, held = _geoms(model, [limb.root]), _geoms(model, carried)
        self._arm, self._held, self._moving = arm, held, arm | held
        self._floor = np.full((model.ngeom, model.ngeom), np.inf)
        self._place(qpos)
        T_world_hand = self._hand_pose()
        self._carried = [
            (int(model.jnt_qposadr[model.body_jntadr[body]]), poses.inverse(T_world_hand) @ self._body_pose(body))
            for body in carried
        ]

    def allow(self, T_from: Array, T_goal: Array) -> None:
        """Let what is near at the ends be as near everywhere."""
        here, there = self._states(np.stack([T_from, T_goal]))[0]
        self._let(*self._near(here))
        pairs, distance = self._near(there)
        stands = (self._model.body_weldid[self._model.geom_bodyid[pairs]] == 0).any(axis=1)
        self._let(pairs[~stands | (distance > -_BRUSH_M)], distance[~stands | (distance > -_BRUSH_M)])

    def _let(self, pairs: NDArray[np.int64], distance: Array) -> None:
        np.minimum.at(self._floor, (pairs[:, 0], pairs[:, 1]), distance - _SLACK_M)

    def room(self, T_world_eef: Array) -> Array:
        """Return the room at poses ``(n, 4, 4)``, ``(n,)`` metres; see `factory.transit.Gauge`."""
        states, reached = self._states(T_world_eef)
        return np.array([self._room(q) if ok else -np.inf for q, ok in zip(states, reached, strict=True)])

    def _room(self, qpos: Array) -> float:
        pairs, distance = self._near(qpos)
        floor = self._floor[pairs[:, 0], pairs[:, 1]]
        # A pair that touches at an end has room until it overlaps more than there.
        room = np.where(distance < floor, np.maximum(distance, distance - np.where(floor < 0, floor, 0.0)), LOOK_M)
        return float(room.min(initial=LOOK_M))

    def _states(self, T_world_eef: Array) -> tuple[Array, NDArray[np.bool_]]:
        """Return everything's positions with the hand at poses, and whether it gets there."""
        postures, metres, radians = self._reach.postures(self._hand, self._qpos, T_world_eef)
        states = np.repeat(self._qpos[None], len(T_world_eef), axis=0)
        states[:, list(self._limb.joints)] = postures
        for address, T_hand_body in self._carried:
            states[:, address : address + 7] = poses.xyz_quat_wxyz_from_pose(T_world_eef @ T_hand_body)
        return states, (metres < OUT_OF_REACH_M) & (radians < OUT_OF_REACH_RAD)

    def _near(self, qpos: Array) -> tuple[NDArray[np.int64], Array]:
        """Return the geoms ``(n, 2)``, smaller id first, that are nearer than `LOOK_M` and matter, and how near."""
        self._place(qpos)
        _find_near(self._model, self._data)
        contact = self._data.contact
        geom = np.sort(np.asarray(contact.geom, np.int64), axis=1)
        one, two = geom[:, 0], geom[:, 1]
        matters = self._moving[one] | self._moving[two]
        # What is held lies in the fingers; that they touch is no news.
        matters &= ~(self._held[one] & self._moving[two]) & ~(self._held[two] & self._moving[one])
        return geom[matters], np.asarray(contact.dist)[matters]

    def _place(self, qpos: Array) -> None:
        self._data.qpos[:] = qpos
        mujoco.mj_kinematics(self._model, self._data)

    def _hand_pose(self) -> Array:
        is_site, index = self._limb.frame
        data = self._data
        rotation, position = (data.site_xmat, data.site_xpos) if is_site else (data.xmat, data.xpos)
        return poses.pose(rotation[index].reshape(3, 3), position[index])

    def _body_pose(self, body: int) -> Array:
        return poses.pose(self._data.xmat[body].reshape(3, 3), self._data.xpos[body])


def _find_near(model: mujoco.MjModel, data: mujoco.MjData) -> None:
    """Find everything nearer than `LOOK_M`; the model is as before afterwards."""
    flags, margin = model.opt.enableflags, model.opt.o_margin
    model.opt.enableflags |= mujoco.mjtEnableBit.mjENBL_OVERRIDE.value
    model.opt.o_margin = LOOK_M
    try:
        mujoco.mj_collision(model, data)
    finally:
        model.opt.enableflags, model.opt.o_margin = flags, margin


def _geoms(model: mujoco.MjModel, roots: Iterable[int]) -> NDArray[np.bool_]:
    """Return which geoms hang on bodies, or on what hangs on those."""
    moved = np.zeros(model.nbody, bool)
    moved[list(roots)] = True
    for body in range(1, model.nbody):  # parents come before their children
        moved[body] |= moved[model.body_parentid[body]]
    return moved[model.geom_bodyid]
