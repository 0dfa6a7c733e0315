"""Reads a `SceneState` out of MuJoCo's arrays."""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from factory.errors import BackendError
from factory.scene import SceneState
from factory.specs import TaskSpec

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Arrays of a growing recording, leading axis time."""

    positions: Array
    rotations: Array
    velocities: Array
    joints: Array
    contacts: NDArray[np.bool_]


class SceneReader:
    """Knows where a task's objects, hands, joints and contact groups live in one model.

    Attributes:
        task: the task.
        object_frames: object -> whether its frame is a site, and that site's or body's id; likewise of the hands'
            grip frames and of the bases their commands refer to.
        eef_frames: see object_frames.
        base_frames: see object_frames.
        joint_addresses: ``(j,)`` where the joints of all groups lie in qpos, group after group.
        pair_masks: ``(p, 2)`` bits of the two contact groups of each pair.
        geom_mask: ``(ngeom,)`` bits of the contact groups a geom belongs to.

    Raises:
        BackendError: the task names a body, site, joint or geom the model does not have.
    """

    def __init__(self, task: TaskSpec, model: mujoco.MjModel, data: mujoco.MjData) -> None:
        self.task, self._model, self._data = task, model, data
        self.object_frames = {name: self._frame(spec.frame) for name, spec in task.scene.objects.items()}
        self.eef_frames = {name: self._frame(spec.frame) for name, spec in task.robot.eefs.items()}
        self.base_frames = {name: self._frame(spec.base_frame) for name, spec in task.robot.eefs.items()}
        self._frames = [*self.object_frames.values(), *self.eef_frames.values()]
        self._joints: dict[str, list[int]] = {}
        for name, spec in task.robot.eefs.items():
            self._joints[f"{name}_arm"] = [self._joint(j) for j in spec.arm_joints]
            self._joints[f"{name}_gripper"] = [self._joint(j) for j in spec.gripper_joints]
        for name, group in task.scene.joints.items():
            self._joints[name] = [self._joint(j) for j in group]
        self.joint_addresses = np.array([a for group in self._joints.values() for a in group], int)
        self._pairs = tuple(task.scene.contacts)
        self.pair_masks, self.geom_mask = self._contact_masks()

    # --- now --------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Bring poses, contacts and velocities up to date with qpos and qvel without touching the dynamics' memory."""
        mujoco.mj_fwdPosition(self._model, self._data)
        mujoco.mj_comVel(self._model, self._data)

    def eef_pose(self, name: str) -> Array:
        """Return ``(4, 4)`` pose of a hand's grip frame in the world."""
        return self._pose(self.eef_frames[name])

    def base_pose(self, name: str) -> Array:
        """Return ``(4, 4)`` pose of the frame a hand's commands refer to, in the world."""
        return self._pose(self.base_frames[name])

    def read(self) -> SceneState:
        """Return the present state, leading axis 1."""
        self.refresh()
        rows = self.allocate(1)
        self.fill(rows, 0)
        return self.state(rows, 1)

    def group_addresses(self, name: str) -> list[int]:
        """Return where the joints of a group lie in qpos."""
        return list(self._joints[name])

    # --- recordings -------------------------------------------------------------------------------------------------

    def allocate(self, length: int) -> Rows:
        """Return empty rows for that many steps."""
        n = len(self._frames)
        return Rows(
            positions=np.empty((length, n, 3)),
            rotations=np.empty((length, n, 3, 3)),
            velocities=np.empty((length, len(self.object_frames), 6)),
            joints=np.empty((length, len(self.joint_addresses))),
            contacts=np.zeros((length, len(self._pairs)), bool),
        )

    def fill(self, rows: Rows, at: int) -> None:
        """Write the present state into one row; call `refresh` first."""
        data = self._data
        for i, (is_site, index) in enumerate(self._frames):
            rows.positions[at, i] = (data.site_xpos if is_site else data.xpos)[index]
            rows.rotations[at, i] = (data.site_xmat if is_site else data.xmat)[index].reshape(3, 3)
        spin_then_shift = np.empty(6)
        for i, (is_site, index) in enumerate(self.object_frames.values()):
            kind = mujoco.mjtObj.mjOBJ_SITE if is_site else mujoco.mjtObj.mjOBJ_XBODY
            mujoco.mj_objectVelocity(self._model, data, kind, index, spin_then_shift, 0)
            rows.velocities[at, i, :3], rows.velocities[at, i, 3:] = spin_then_shift[3:], spin_then_shift[:3]
        rows.joints[at] = data.qpos[self.joint_addresses]
        rows.contacts[at] = self._touching()

    def state(self, rows: Rows, length: int) -> SceneState:
        """Return the first `length` rows as a `SceneState`."""
        T = np.zeros((length, len(self._frames), 4, 4))
        T[..., :3, :3] = rows.rotations[:length]
        T[..., :3, 3] = rows.positions[:length]
        T[..., 3, 3] = 1.0
        names = [*self.object_frames, *self.eef_frames]
        paths = {name: np.ascontiguousarray(T[:, i]) for i, name in enumerate(names)}
        joints: dict[str, Array] = {}
        start = 0
        for name, group in self._joints.items():
            joints[name] = rows.joints[:length, start : start + len(group)].copy()
            start += len(group)
        return SceneState(
            T_world_object={name: paths[name] for name in self.object_frames},
            T_world_eef={name: paths[name] for name in self.eef_frames},
            T_world_base={name: self.base_pose(name) for name in self.base_frames},
            velocity={name: rows.velocities[:length, i].copy() for i, name in enumerate(self.object_frames)},
            joints=joints,
            contacts={f"{a}|{b}": rows.contacts[:length, i].copy() for i, (a, b) in enumerate(self._pairs)},
        )

    # --- names to addresses -----------------------------------------------------------------------------------------

    def _pose(self, frame: tuple[bool, int]) -> Array:
        is_site, index = frame
        data = self._data
        T = np.eye(4)
        T[:3, :3] = (data.site_xmat if is_site else data.xmat)[index].reshape(3, 3)
        T[:3, 3] = (data.site_xpos if is_site else data.xpos)[index]
        return T

    def _frame(self, name: str) -> tuple[bool, int]:
        kind, _, rest = name.partition(":")
        if kind not in ("body", "site"):
            raise BackendError(f"frame {name!r} of task {self.task.name!r} must start with 'body:' or 'site:'")
        return kind == "site", self._id(rest, kind)

    def _joint(self, name: str) -> int:
        return int(self._model.jnt_qposadr[self._id(name, "joint")])

    def _id(self, name: str, kind: str) -> int:
        types = {
            "body": mujoco.mjtObj.mjOBJ_BODY,
            "site": mujoco.mjtObj.mjOBJ_SITE,
            "joint": mujoco.mjtObj.mjOBJ_JOINT,
            "geom": mujoco.mjtObj.mjOBJ_GEOM,
        }
        index = mujoco.mj_name2id(self._model, types[kind], name)
        if index < 0:
            raise BackendError(f"task {self.task.name!r}: the scene has no {kind} {name!r}")
        return index

    # --- contacts ---------------------------------------------------------------------------------------------------

    def _contact_masks(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give every contact group a bit; return each pair's two ``(p, 2)`` and each geom's ``(ngeom,)``."""
        groups = {name: spec.contact for name, spec in self.task.scene.objects.items()}
        for eef in self.task.robot.eefs.values():
            groups.update(eef.fingers)
            groups.update(eef.touch)
        groups.update(self.task.scene.contact_groups)
        bits: dict[str, int] = {}
        geom_mask = np.zeros(self._model.ngeom, np.int64)
        for name in dict.fromkeys(side for pair in self._pairs for side in pair):
            if not groups.get(name):
                raise BackendError(
                    f"task {self.task.name!r}: contact group {name!r} is empty; it must be an object with `contact`, "
                    f"one of the robot's groups or one of the scene's contact groups: {sorted(groups)}"
                )
            bits[name] = 1 << len(bits)
            for part in groups[name]:
                geom_mask[self._geoms(part)] |= bits[name]
        return np.array([[bits[a], bits[b]] for a, b in self._pairs], np.int64).reshape(-1, 2), geom_mask

    def _geoms(self, part: str) -> list[int]:
        kind, _, name = part.partition(":")
        if kind == "geom":
            return [self._id(name, "geom")]
        if kind != "body":
            raise BackendError(f"contact part {part!r} of task {self.task.name!r} must start with 'body:' or 'geom:'")
        root, below = self._id(name, "body"), set[int]()
        for body in range(root, self._model.nbody):
            if body == root or int(self._model.body_parentid[body]) in below:
                below.add(body)
        return [g for g in range(self._model.ngeom) if int(self._model.geom_bodyid[g]) in below]

    def _touching(self) -> NDArray[np.bool_]:
        if not len(self.pair_masks) or not self._data.ncon:
            return np.zeros(len(self.pair_masks), bool)
        mask = self.geom_mask[self._data.contact.geom]  # (ncon, 2)
        a, b = self.pair_masks[:, 0], self.pair_masks[:, 1]
        one, two = mask[:, :1], mask[:, 1:]
        hit = ((one & a) != 0) & ((two & b) != 0) | ((one & b) != 0) & ((two & a) != 0)
        return hit.any(axis=0)
