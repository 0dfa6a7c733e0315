"""MuJoCo's C functions for compiled code, and views of what its Python package keeps to itself.

Functions are found by name when machine code is linked, so compiled code that calls them can be cached on disk. All
pointers are passed as integers.
"""

# pyright: basic, reportAttributeAccessIssue=false
from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite.binding
import mujoco
import numpy as np
from numba.core import types
from numpy.typing import NDArray

from factory.errors import BackendError

_POINTER, _INT = types.uintp, types.int32

llvmlite.binding.load_library_permanently(str(next(Path(mujoco.__file__).parent.glob("libmujoco.so*"))))

mj_step = types.ExternalFunction("mj_step", types.void(_POINTER, _POINTER))
mj_step1 = types.ExternalFunction("mj_step1", types.void(_POINTER, _POINTER))
mj_step2 = types.ExternalFunction("mj_step2", types.void(_POINTER, _POINTER))
mj_fwdPosition = types.ExternalFunction("mj_fwdPosition", types.void(_POINTER, _POINTER))  # noqa: N816 - MuJoCo's name
mj_comVel = types.ExternalFunction("mj_comVel", types.void(_POINTER, _POINTER))  # noqa: N816
mj_jacSite = types.ExternalFunction(  # noqa: N816
    "mj_jacSite", types.void(_POINTER, _POINTER, _POINTER, _POINTER, _INT)
)
mj_objectVelocity = types.ExternalFunction(  # noqa: N816
    "mj_objectVelocity", types.void(_POINTER, _POINTER, _INT, _INT, _POINTER, _INT)
)


class Memory(NamedTuple):
    """Views of one `MjData`, by MuJoCo's own names; they show its present state as long as the data lives.

    `contact_geom` has room for more contacts than there are; the first `ncon[0]` rows count. `warnings` counts
    divergences: bad positions, velocities and accelerations.
    """

    model: int
    data: int
    qpos: NDArray[np.float64]
    qvel: NDArray[np.float64]
    ctrl: NDArray[np.float64]
    qfrc_bias: NDArray[np.float64]
    xanchor: NDArray[np.float64]
    xaxis: NDArray[np.float64]
    xpos: NDArray[np.float64]
    xmat: NDArray[np.float64]
    site_xpos: NDArray[np.float64]
    site_xmat: NDArray[np.float64]
    M: NDArray[np.float64]
    time: NDArray[np.float64]
    ncon: NDArray[np.int32]
    contact_geom: NDArray[np.int32]
    warnings: NDArray[np.int32]


_DIVERGED = slice(mujoco.mjtWarning.mjWARN_BADQPOS.value, mujoco.mjtWarning.mjWARN_BADQACC.value + 1)


def memory_of(model: mujoco.MjModel, data: mujoco.MjData) -> Memory:
    """Return views of a simulation.

    Raises:
        BackendError: this build of MuJoCo lays its data out in a way that is not understood.
    """
    layout = _layout()
    anchor = data.energy.ctypes.data
    arena = _numbers(anchor + layout.arena, ctypes.c_uint64)[0]
    geoms = (ctypes.c_char * (model.narena - layout.geom)).from_address(int(arena) + layout.geom)
    return Memory(
        model=model._address,  # noqa: SLF001 - the address is what compiled code needs
        data=data._address,  # noqa: SLF001
        qpos=data.qpos,
        qvel=data.qvel,
        ctrl=data.ctrl,
        qfrc_bias=data.qfrc_bias,
        xanchor=data.xanchor,
        xaxis=data.xaxis,
        xpos=data.xpos,
        xmat=data.xmat,
        site_xpos=data.site_xpos,
        site_xmat=data.site_xmat,
        M=data.M,
        time=_numbers(anchor + layout.time, ctypes.c_double),
        ncon=_numbers(anchor + layout.ncon, ctypes.c_int32),
        contact_geom=np.ndarray(
            (model.narena // layout.contact - 1, 2), np.int32, buffer=geoms, strides=(layout.contact, 4)
        ),
        warnings=data.warning.number[_DIVERGED],
    )


class _Layout(NamedTuple):
    """Distances in bytes.

    `time`, `ncon` and the pointer `arena` from `MjData.energy`; a contact's `geom` from its beginning, and its size.
    """

    time: int
    ncon: int
    arena: int
    geom: int
    contact: int


_PROBE = """
<mujoco><worldbody>
  <geom type="plane" size="1 1 1"/>
  <body pos="0 0 .09"><freejoint/><geom type="box" size=".1 .1 .1"/></body>
  <body pos="1 0 .09"><freejoint/><geom size=".1"/></body>
</worldbody></mujoco>
"""


@functools.cache
def _layout() -> _Layout:
    """Find in a tiny simulation what the Python package does not show, and check every finding.

    `time` lies just before `energy`, the pointers `buffer`, `arena` and `qpos` just after it; the counts of contacts
    and constraints stand in a row between the warnings and the time.
    """
    model = mujoco.MjModel.from_xml_string(_PROBE)
    data = mujoco.MjData(model)
    mujoco.mj_step(model, data, 3)
    anchor = data.energy.ctypes.data
    if _numbers(anchor - 8, ctypes.c_double)[0] != data.time:
        raise _unknown("the time")
    if _numbers(anchor + 32, ctypes.c_uint64)[0] != data.qpos.ctypes.data:
        raise _unknown("the arena")
    start = data.warning.number.ctypes.data
    words = np.frombuffer((ctypes.c_char * (anchor - start)).from_address(start), np.int32)
    counts = np.array([data.ncon, data.ne, data.nf, data.nl, data.nefc, data.nJ], np.int32)
    found = np.flatnonzero((np.lib.stride_tricks.sliding_window_view(words, len(counts)) == counts).all(axis=1))
    if not data.ncon or len(found) != 1:
        raise _unknown("the number of contacts")
    geoms = data.contact.geom
    geom = geoms.ctypes.data - int(_numbers(anchor + 24, ctypes.c_uint64)[0])
    if not 0 <= geom < geoms.strides[0] or geoms.flags.owndata:
        raise _unknown("the contacts")
    return _Layout(time=-8, ncon=start + 4 * int(found[0]) - anchor, arena=24, geom=geom, contact=int(geoms.strides[0]))


def _numbers(address: int, kind: Any) -> NDArray[Any]:
    return np.ctypeslib.as_array((kind * 1).from_address(address))


def _unknown(what: str) -> BackendError:
    return BackendError(
        f"MuJoCo {mujoco.mj_versionString()} does not keep {what} of a simulation where version 4.0.0 does, so "
        "compiled code cannot read it; install mujoco==4.0.0, or use the control mode 'exact'"
    )
