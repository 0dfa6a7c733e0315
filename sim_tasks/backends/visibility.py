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
_NEAR_M = 1e-3
"""What comes closer to the camera's plane than this is taken to fill the picture."""


class View:
    """A camera's pyramid of sight over one posed scene; pixels count from the bottom left, as OpenGL's do."""

    def __init__(self, model: Any, data: Any, camera: int, width: int, height: int) -> None:
        """Look at the boxes of all geoms from a fixed camera of the model."""
        self._model, self._data = model, data
        self._width, self._height = width, height
        self._at, self._turn = data.cam_xpos[camera], data.cam_xmat[camera].reshape(3, 3)
        half_up = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2.0)
        self._half = np.array([half_up * width / height, half_up])
        # A plane has no end: its box is empty, and it is never outside.
        self._endless = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE
        turns = data.geom_xmat.reshape(-1, 3, 3)
        middle, half = model.geom_aabb[:, :3], model.geom_aabb[:, 3:]
        local = middle[:, None] + half[:, None] * _SIGNS
        self._corners = np.einsum("gij,gkj->gki", turns, local) + data.geom_xpos[:, None]

    def outside(self) -> Mask:
        """Return which geoms ``(ngeom,)`` lie wholly outside the picture."""
        x = self._seen(self._corners)
        beyond = (x[..., 2] > 0.0).all(axis=1)
        for axis in (0, 1):
            reach = -self._half[axis] * x[..., 2]
            beyond |= (x[..., axis] > reach).all(axis=1) | (x[..., axis] < -reach).all(axis=1)
        return beyond & ~self._endless

    def touching(self, region: Mask, mirrors: NDArray[np.intp]) -> Mask:
        """Return which geoms may show in a region ``(height, width)`` of the picture, directly or in a mirror."""
        found = self._endless | self._reaching(self._corners, region)
        for mirror in mirrors:
            normal = self._data.geom_xmat[mirror].reshape(3, 3)[:, 2]
            # A plane mirrors where it is, a box with its upper face.
            height = 0.0 if self._endless[mirror] else self._model.geom_size[mirror, 2]
            away = (self._corners - self._data.geom_xpos[mirror]) @ normal - height
            found |= self._reaching(self._corners - 2.0 * away[..., None] * normal, region)
        return found

    def rectangle(self, geom: int) -> Mask:
        """Return the pixels ``(height, width)`` within the rectangle around a geom."""
        (left, right, bottom, top), _ = self._rectangles(self._corners[[geom]])
        region = np.zeros((self._height, self._width), bool)
        region[bottom[0] : top[0], left[0] : right[0]] = True
        return region

    def _seen(self, points: Array) -> Array:
        return (points - self._at) @ self._turn  # x right, y up, looking along -z

    def _reaching(self, corners: Array, region: Mask) -> Mask:
        (left, right, bottom, top), empty = self._rectangles(corners)
        count = np.zeros((self._height + 1, self._width + 1), np.int64)
        count[1:, 1:] = region.cumsum(axis=0).cumsum(axis=1)
        inside = count[top, right] - count[bottom, right] - count[top, left] + count[bottom, left]
        return (inside > 0) & ~empty

    def _rectangles(self, corners: Array) -> tuple[NDArray[np.int64], Mask]:
        """Return left, right, bottom, top of boxes in pixels, one to spare, and which are empty or behind."""
        x = self._seen(corners)
        depth = -x[..., 2]
        size = np.array([self._width, self._height])
        scaled = x[..., :2] / np.maximum(depth, _NEAR_M)[..., None] / self._half
        pixels = (scaled + 1.0) / 2.0 * size
        near = (depth < _NEAR_M).any(axis=1)
        low = np.where(near[:, None], 0, np.clip(np.floor(pixels.min(axis=1)) - 1, 0, size)).astype(int)
        high = np.where(near[:, None], size, np.clip(np.ceil(pixels.max(axis=1)) + 1, 0, size)).astype(int)
        behind = (depth < 0.0).all(axis=1)
        return np.array([low[:, 0], high[:, 0], low[:, 1], high[:, 1]]), behind | (high <= low).any(axis=1)
