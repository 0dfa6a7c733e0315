"""Rigid-body poses as ``(..., 4, 4)`` float64 arrays; quaternions, rot6d and axis-angle live and die here.

``T_a_b`` maps coordinates in frame b to frame a, so ``T_a_c = T_a_b @ T_b_c``. Every function takes leading batch axes.
Conventions: a quaternion names its order (``wxyz`` or ``xyzw``) and is returned with a non-negative scalar part;
axis-angle is the rotation vector in radians; rot6d is the first two *rows* of the rotation matrix, flattened
(Zhou et al. 2019, "On the Continuity of Rotation Representations in Neural Networks", with rows instead of columns,
as Isaac-GR00T reads it).

A few poses take a path of their own where it matters: numpy spends microseconds on each call whatever the size, Python
floats do not. Both paths do the same additions and products in the same order, so they agree in every bit.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

_NEAR_ZERO = 1e-9
"""Below this sine of the angle (rad) the axis is read from the matrix itself instead of its antisymmetric part."""
_FEW = 16
"""Up to so many matrices are converted one by one: about where the two paths take equally long."""


def pose(rotation: ArrayLike, position: ArrayLike) -> Float[Array, "*batch 4 4"]:
    """Return poses from rotations ``(..., 3, 3)`` and positions ``(..., 3)`` in metres; batch axes broadcast."""
    R, p = np.asarray(rotation, float), np.asarray(position, float)
    batch = np.broadcast_shapes(R.shape[:-2], p.shape[:-1])
    T = np.zeros((*batch, 4, 4))
    T[..., :3, :3] = R
    T[..., :3, 3] = p
    T[..., 3, 3] = 1.0
    return T


def inverse(T: Float[Array, "*batch 4 4"]) -> Float[Array, "*batch 4 4"]:
    """Return ``T_b_a`` from ``T_a_b``, using the transpose of the rotation."""
    Rt = np.swapaxes(T[..., :3, :3], -1, -2)
    return pose(Rt, -(Rt @ T[..., :3, 3, None])[..., 0])


def matrix_from_axis_angle(rotvec: Float[Array, "*batch 3"]) -> Float[Array, "*batch 3 3"]:
    """Return the rotation matrix of a rotation vector in radians (Rodrigues' formula)."""
    v = np.asarray(rotvec, float)
    if v.ndim == 1:
        return _matrix_of_one_rotvec(*v.tolist())
    angle2 = np.sum(v * v, axis=-1)
    angle = np.sqrt(angle2)
    small = angle < 1e-4
    safe = np.where(small, 1.0, angle)
    # Taylor series of sin(a)/a and (1 - cos(a))/a^2: exact to double precision below 1e-4 rad.
    a = np.where(small, 1.0 - angle2 / 6.0, np.sin(safe) / safe)
    b = np.where(small, 0.5 - angle2 / 24.0, (1.0 - np.cos(safe)) / (safe * safe))
    K = np.zeros((*v.shape[:-1], 3, 3))
    K[..., 0, 1], K[..., 0, 2], K[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    K[..., 1, 0], K[..., 2, 0], K[..., 2, 1] = v[..., 2], -v[..., 1], v[..., 0]
    return np.eye(3) + a[..., None, None] * K + b[..., None, None] * (K @ K)


def axis_angle_from_matrix(R: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 3"]:
    """Return the rotation vector in radians, its length in [0, pi]; stable near 0 and near pi."""
    if R.size <= 9 * _FEW:
        return np.array([_rotvec_of_one(one) for one in R.reshape(-1, 3, 3).tolist()]).reshape(*R.shape[:-2], 3)
    q = quat_wxyz_from_matrix(R)
    w, v = q[..., 0], q[..., 1:]
    sine = np.linalg.norm(v, axis=-1)
    angle = 2.0 * np.arctan2(sine, w)
    scale = np.where(sine < _NEAR_ZERO, 2.0, angle / np.where(sine < _NEAR_ZERO, 1.0, sine))
    return v * scale[..., None]


def quat_wxyz_from_matrix(R: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 4"]:
    """Return unit quaternions with ``w >= 0``, by the largest of the four candidates (Shepperd 1978)."""
    if R.size <= 9 * _FEW:
        return np.array([_quat_of_one(one) for one in R.reshape(-1, 3, 3).tolist()]).reshape(*R.shape[:-2], 4)
    m00, m11, m22 = R[..., 0, 0], R[..., 1, 1], R[..., 2, 2]
    # Each row of `four` is 4 * q_k * q for one choice of the dominant component k.
    four = np.empty((*R.shape[:-2], 4, 4))
    four[..., 0, 0] = 1.0 + m00 + m11 + m22
    four[..., 1, 1] = 1.0 + m00 - m11 - m22
    four[..., 2, 2] = 1.0 - m00 + m11 - m22
    four[..., 3, 3] = 1.0 - m00 - m11 + m22
    four[..., 0, 1] = four[..., 1, 0] = R[..., 2, 1] - R[..., 1, 2]
    four[..., 0, 2] = four[..., 2, 0] = R[..., 0, 2] - R[..., 2, 0]
    four[..., 0, 3] = four[..., 3, 0] = R[..., 1, 0] - R[..., 0, 1]
    four[..., 1, 2] = four[..., 2, 1] = R[..., 0, 1] + R[..., 1, 0]
    four[..., 1, 3] = four[..., 3, 1] = R[..., 0, 2] + R[..., 2, 0]
    four[..., 2, 3] = four[..., 3, 2] = R[..., 1, 2] + R[..., 2, 1]
    best = np.argmax(np.diagonal(four, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(four, best[..., None, None], axis=-2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0.0, -q, q)


def matrix_from_quat_wxyz(quat_wxyz: Float[Array, "*batch 4"]) -> Float[Array, "*batch 3 3"]:
    """Return the rotation matrix of a quaternion of any non-zero length."""
    q = np.asarray(quat_wxyz, float)
    if q.ndim == 1:
        return _matrix_of_one_quat(*q.tolist())
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    w, x, y, z = q[..., 0], q[..., 1], q[..., 2], q[..., 3]
    R = np.empty((*q.shape[:-1], 3, 3))
    R[..., 0, 0] = 1.0 - 2.0 * (y * y + z * z)
    R[..., 0, 1] = 2.0 * (x * y - w * z)
    R[..., 0, 2] = 2.0 * (x * z + w * y)
    R[..., 1, 0] = 2.0 * (x * y + w * z)
    R[..., 1, 1] = 1.0 - 2.0 * (x * x + z * z)
    R[..., 1, 2] = 2.0 * (y * z - w * x)
    R[..., 2, 0] = 2.0 * (x * z - w * y)
    R[..., 2, 1] = 2.0 * (y * z + w * x)
    R[..., 2, 2] = 1.0 - 2.0 * (x * x + y * y)
    return R


def quat_xyzw_from_wxyz(quat_wxyz: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Move the scalar part from the front to the back."""
    return np.roll(np.asarray(quat_wxyz, float), -1, axis=-1)


def quat_wxyz_from_xyzw(quat_xyzw: Float[Array, "*batch 4"]) -> Float[Array, "*batch 4"]:
    """Move the scalar part from the back to the front."""
    return np.roll(np.asarray(quat_xyzw, float), 1, axis=-1)


def rot6d_from_matrix(R: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch 6"]:
    """Return the first two rows of the rotation matrix, flattened."""
    return R[..., :2, :].reshape(*R.shape[:-2], 6).copy()


def matrix_from_rot6d(rot6d: Float[Array, "*batch 6"]) -> Float[Array, "*batch 3 3"]:
    """Return the rotation whose first two rows are the given vectors, made orthonormal by Gram-Schmidt."""
    d = np.asarray(rot6d, float)
    a, b = d[..., :3], d[..., 3:]
    first = a / np.linalg.norm(a, axis=-1, keepdims=True)
    b = b - np.sum(first * b, axis=-1, keepdims=True) * first
    second = b / np.linalg.norm(b, axis=-1, keepdims=True)
    return np.stack([first, second, np.cross(first, second)], axis=-2)


def xyz_rot6d_from_pose(T: Float[Array, "*batch 4 4"]) -> Float[Array, "*batch 9"]:
    """Return position in metres followed by rot6d: the 9 numbers GR00T uses for an end-effector pose."""
    return np.concatenate([T[..., :3, 3], rot6d_from_matrix(T[..., :3, :3])], axis=-1)


def xyz_quat_wxyz_from_pose(T: Float[Array, "*batch 4 4"]) -> Float[Array, "*batch 7"]:
    """Return position in metres followed by the quaternion, scalar first: MuJoCo's free-joint order."""
    return np.concatenate([T[..., :3, 3], quat_wxyz_from_matrix(T[..., :3, :3])], axis=-1)


def pose_from_xyz_quat_wxyz(xyz_quat: Float[Array, "*batch 7"]) -> Float[Array, "*batch 4 4"]:
    """Return poses from position in metres and quaternion, scalar first."""
    v = np.asarray(xyz_quat, float)
    return pose(matrix_from_quat_wxyz(v[..., 3:]), v[..., :3])


def angle_between(R_a: Float[Array, "*batch 3 3"], R_b: Float[Array, "*batch 3 3"]) -> Float[Array, "*batch"]:
    """Return the angle in radians, in [0, pi], of the rotation that takes one to the other."""
    relative: Array = np.swapaxes(R_a, -1, -2) @ R_b
    if relative.size <= 9 * _FEW:
        few = [_length(_rotvec_of_one(one)) for one in relative.reshape(-1, 3, 3).tolist()]
        return np.array(few).reshape(relative.shape[:-2])
    return np.asarray(np.linalg.norm(axis_angle_from_matrix(relative), axis=-1))


def yaw_matrix(yaw_rad: ArrayLike) -> Float[Array, "*batch 3 3"]:
    """Return the rotation about the world's z axis."""
    yaw = np.asarray(yaw_rad, float)
    return matrix_from_axis_angle(np.stack([np.zeros_like(yaw), np.zeros_like(yaw), yaw], axis=-1))


def interpolate(
    T_start: Float[Array, "4 4"], T_end: Float[Array, "4 4"], fractions: Float[Array, " n"]
) -> Float[Array, "n 4 4"]:
    """Return poses between two poses: straight line in position, shortest arc at constant speed in rotation.

    Args:
        T_start: pose at fraction 0.
        T_end: pose at fraction 1.
        fractions: where to sample, usually in [0, 1].
    """
    s = np.asarray(fractions, float)
    rotvec = axis_angle_from_matrix(T_start[:3, :3].T @ T_end[:3, :3])
    R = T_start[:3, :3] @ matrix_from_axis_angle(s[:, None] * rotvec)
    p = T_start[:3, 3] + s[:, None] * (T_end[:3, 3] - T_start[:3, 3])
    return pose(R, p)


# --- one at a time: the formulas above in Python floats, in the same order -------------------------------------------


def _length(values: tuple[float, ...]) -> float:
    total = 0.0
    for value in values:
        total += value * value
    return math.sqrt(total)


def _quat_of_one(R: list[list[float]]) -> tuple[float, float, float, float]:
    (m00, m01, m02), (m10, m11, m12), (m20, m21, m22) = R
    four = (1.0 + m00 + m11 + m22, 1.0 + m00 - m11 - m22, 1.0 - m00 + m11 - m22, 1.0 - m00 - m11 + m22)
    best = four.index(max(four))
    if best == 0:
        q = (four[0], m21 - m12, m02 - m20, m10 - m01)
    elif best == 1:
        q = (m21 - m12, four[1], m01 + m10, m02 + m20)
    elif best == 2:
        q = (m02 - m20, m01 + m10, four[2], m12 + m21)
    else:
        q = (m10 - m01, m02 + m20, m12 + m21, four[3])
    norm = _length(q)
    w, x, y, z = q[0] / norm, q[1] / norm, q[2] / norm, q[3] / norm
    return (-w, -x, -y, -z) if w < 0.0 else (w, x, y, z)


def _rotvec_of_one(R: list[list[float]]) -> tuple[float, float, float]:
    w, x, y, z = _quat_of_one(R)
    sine = _length((x, y, z))
    # numpy's own arctangent, sine and cosine: their vector forms may differ from the C library's in the last bit.
    scale = 2.0 if sine < _NEAR_ZERO else 2.0 * float(np.arctan2(sine, w)) / sine
    return x * scale, y * scale, z * scale


def _matrix_of_one_rotvec(x: float, y: float, z: float) -> Array:
    angle2 = x * x + y * y + z * z
    angle = math.sqrt(angle2)
    if angle < 1e-4:
        a, b = 1.0 - angle2 / 6.0, 0.5 - angle2 / 24.0
    else:
        a, b = float(np.sin(angle)) / angle, (1.0 - float(np.cos(angle))) / (angle * angle)
    K = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + a * K + b * (K @ K)


def _matrix_of_one_quat(w: float, x: float, y: float, z: float) -> Array:
    norm = _length((w, x, y, z))
    w, x, y, z = w / norm, x / norm, y / norm, z / norm
    return np.array(
        [
            [1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)],
            [2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)],
            [2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)],
        ]
    )
