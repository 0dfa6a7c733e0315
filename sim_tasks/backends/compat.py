"""Makes robosuite 1.5.2 run on MuJoCo 3.10 and later. Measured against mujoco 4.0.0; see tests/test_backends.py.

Two things changed under robosuite: `mj_fullM` takes `(model, data, dst)` and `MjData.qM` is gone, and an `np.int32` no
longer equals the joint-type enum it came from. Three things never worked: a joint velocity controller assigns its
option "compensate gravity" to the read-only property of the same name; the frame an IIWA's commands refer to hangs on
its first link and turns with it, where every other robot's stands still; and a Sawyer's first link collides with its
base, whose friction holds it like a brake. And robosuite has numba keep its machine code: processes that compile one
function for different arrays at the same moment enter both under one name, and whoever asks for the one is given the
other from then on. And it names what it compiles by counting from 1 in every process, so that code kept by two
processes and loaded by a third can share names and be taken for one another. All are repaired here, nowhere else.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import contextlib
import fcntl
import itertools
import logging
import os
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import mujoco
import numpy as np
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import IndexDataCacheFile

# robosuite logs advice about optional parts while it is imported and while it builds; only errors are for our users.
logging.getLogger("robosuite_logs").addFilter(lambda record: record.levelno >= logging.ERROR)

from robosuite.controllers.parts.controller import Controller  # noqa: E402
from robosuite.controllers.parts.generic.joint_vel import JointVelocityController  # noqa: E402
from robosuite.models.robots import IIWA, Sawyer  # noqa: E402
from robosuite.utils.binding_utils import MjModel  # noqa: E402

_JOINT_QPOS = {mujoco.mjtJoint.mjJNT_FREE.value: 7, mujoco.mjtJoint.mjJNT_BALL.value: 4}
_JOINT_QVEL = {mujoco.mjtJoint.mjJNT_FREE.value: 6, mujoco.mjtJoint.mjJNT_BALL.value: 3}


# Once a process, before anything is compiled in it.
FunctionIdentity._unique_ids = itertools.count(int.from_bytes(os.urandom(6)))  # noqa: SLF001


def apply() -> None:
    """Patch robosuite once; calling it again changes nothing."""
    if tuple(int(part) for part in mujoco.mj_versionString().split(".")[:2]) < (3, 10):
        return
    IndexDataCacheFile.save = _save_alone
    MjModel.get_joint_qpos_addr = _qpos_address
    MjModel.get_joint_qvel_addr = _qvel_address
    Controller.update = _update
    JointVelocityController.torque_compensation = property(_compensation, _set_compensation)
    IIWA.__init__ = _make_iiwa
    Sawyer.__init__ = _make_sawyer
    # MuJoCo would write MUJOCO_LOG.TXT into whatever folder the user is in; divergence is read from its counters.
    mujoco.set_mju_user_warning(lambda _: None)


_save = IndexDataCacheFile.save


def _save_alone(file: IndexDataCacheFile, key: Any, data: Any) -> None:
    """Keep machine code while no other process looks for a free name beside it."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # where nothing can be written numba keeps nothing, and says so itself
            lock = stack.enter_context(Path(f"{file._index_path}.lock").open("w"))  # noqa: SLF001
            fcntl.flock(lock, fcntl.LOCK_EX)
        _save(file, key, data)


_iiwa = IIWA.__init__


def _make_iiwa(robot: IIWA, idn: int = 0) -> None:
    """Make the model, then hang its base frame on the base, at the same place."""
    _iiwa(robot, idn=idn)
    bodies = {body.get("name"): body for body in robot.worldbody.iter("body")}
    base, link = (bodies[robot.naming_prefix + name] for name in ("fixed_base_link", "link_1"))
    frame = next(site for site in link.findall("site") if site.get("name") == f"{robot.naming_prefix}right_center")
    link.remove(frame)
    frame.set("pos", link.get("pos") or "0 0 0")
    base.append(frame)


_sawyer = Sawyer.__init__


def _make_sawyer(robot: Sawyer, idn: int = 0) -> None:
    """Make the model, then let its first link turn in its base, which it would rub against."""
    _sawyer(robot, idn=idn)
    base, link = (robot.naming_prefix + name for name in ("right_arm_base_link", "right_l0"))
    robot.contact.append(ET.Element("exclude", {"body1": base, "body2": link}))


def _qpos_address(model: MjModel, name: str) -> int | tuple[int, int]:
    joint = model.joint_name2id(name)
    start, width = model.jnt_qposadr[joint], _JOINT_QPOS.get(int(model.jnt_type[joint]), 1)
    return start if width == 1 else (start, start + width)


def _qvel_address(model: MjModel, name: str) -> int | tuple[int, int]:
    joint = model.joint_name2id(name)
    start, width = model.jnt_dofadr[joint], _JOINT_QVEL.get(int(model.jnt_type[joint]), 1)
    return start if width == 1 else (start, start + width)


def _update(controller: Controller, force: bool = False) -> None:
    """Read the arm's state once per simulation step, as the original does, with the mass matrix of newer MuJoCo."""
    if not (controller.new_update or force):
        return
    if force or not controller.lite_physics:
        controller.sim.forward()
    if controller.ref_name is not None:
        controller.update_reference_data()
    data = controller.sim.data
    controller.joint_pos = np.array(data.qpos[controller.qpos_index])
    controller.joint_vel = np.array(data.qvel[controller.qvel_index])
    full = np.empty((controller.sim.model.nv, controller.sim.model.nv))
    mujoco.mj_fullM(controller.sim.model._model, data._data, full)  # noqa: SLF001 - robosuite wraps MuJoCo's objects
    controller.mass_matrix = full[controller.qvel_index, :][:, controller.qvel_index]
    controller.new_update = False


class _Compensation:
    """Torques that are "true" and can be added: robosuite asks for both under one name."""

    __array_ufunc__ = None  # leaves `array + compensation` to `__radd__`

    def __init__(self, torques: np.ndarray) -> None:
        self._torques = torques

    def __radd__(self, other: np.ndarray) -> np.ndarray:
        return other + self._torques


def _compensation(controller: JointVelocityController) -> _Compensation | None:
    torques = controller.sim.data.qfrc_bias[controller.qvel_index]
    return _Compensation(torques) if controller._compensates else None  # noqa: SLF001 - set just below


def _set_compensation(controller: JointVelocityController, wanted: bool) -> None:
    controller._compensates = bool(wanted)  # noqa: SLF001
