"""Which geoms a camera can see, in itself or in a mirror: what cannot be seen need not be drawn.

Everything here errs on the side of "seen". Geoms are judged by the boxes that MuJoCo keeps around them.
"""

# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import mujoco  # isort: skip - after robosuite, which chooses MUJOCO_GL when nobody has

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

_SIGNS = np.array([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])


class View:
    """A camera's pyramid of sight over one posed scene."""

    def __init__(self, model: Any, data: Any, camera: int, width: int, height: int) -> None:
        """Look at the boxes of all geoms from a fixed camera of the model."""
        self._model, self._data = model, data
        self._at, self._turn = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)
        half_up = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2.0)
        self._half = np.array([half_up * width / height, half_up])
        # A plane has no end: its box is empty, and it is never outside.
        self._endless = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        turns = data.geom_xmat.reshape(-1, 3, 3)
        middle, half = model.geom_aabb[:, :3], model.geom_aabb[:, 3:]
        local = middle[:, None] + half[:, None] * _SIGNS
        self._corners = np.einsum("gij,gkj->gki", turns, local) + data.geom_xpos[:, None]

    def outside(self, *, mirrored_in: int | None = None) -> Mask:
        """Return which geoms ``(ngeom,)`` lie wholly outside the picture, or whose images in a mirror do.

        A plane mirrors where it is, a box with its upper face.
        """
        corners = self._corners
        if mirrored_in is not None:
            normal = self._data.geom_xmat[mirrored_in].reshape(3, 3)[:, 2]
            height = 0.0 if self._endless[mirrored_in] else self._model.geom_size[mirrored_in, 2]
            away = (corners - self._data.geom_xpos[mirrored_in]) @ normal - height
            corners = corners - 2.0 * away[..., None] * normal
        x = (corners - self._at) @ self._turn  # x right, y up, looking along -z
        beyond = (x[..., 2] > 0.0).all(axis=1)
        for axis in (0, 1):
            reach = -self._half[axis] * x[..., 2]
            beyond |= (x[..., axis] > reach).all(axis=1) | (x[..., axis] < -reach).all(axis=1)
        return beyond & ~self._endless
