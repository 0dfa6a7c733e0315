"""Laws of rigid-body poses: group axioms, conversions that round trip near and far from the identity, interpolation."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from factory import poses

Array = NDArray[np.float64]
TIGHT = {"rtol": 0.0, "atol": 1e-12}
# Half a turn is where the axis flips its sign: what was lost in rounding there is the square root of an epsilon.
NEAR_PI = {"rtol": 0.0, "atol": 1e-7}

# Angles where formulas change branches or lose digits, and everything between.
angles = st.one_of(
    st.sampled_from(
        [0.0, 1e-16, 1e-12, 1e-9, 1e-8, 9.9e-5, 1.01e-4, np.pi / 2, 3.1, np.pi - 1e-6, np.pi - 1e-9, np.pi]
    ),
    st.floats(0.0, np.pi),
)
axes = (
    st.tuples(*[st.floats(-1.0, 1.0)] * 3)
    .map(np.array)
    .filter(lambda v: np.linalg.norm(v) > 0.1)
    .map(lambda v: v / np.linalg.norm(v))
)
basis = st.sampled_from([sign * np.eye(3)[i] for i in range(3) for sign in (1.0, -1.0)])
rotvecs = st.builds(lambda axis, angle: axis * angle, st.one_of(axes, basis), angles)
rotations = rotvecs.map(poses.matrix_from_axis_angle)
positions = st.tuples(*[st.floats(-10.0, 10.0)] * 3).map(np.array)
transforms = st.builds(poses.pose, rotations, positions)


def angle_between(R_a: Array, R_b: Array) -> float:
    return float(poses.angle_between(R_a[None], R_b[None])[0])


# ---- group --------------------------------------------------------------------------------------------------------


@given(rotations)
def test_rotations_are_rotations(R: Array) -> None:
    assert_allclose(R @ R.T, np.eye(3), **TIGHT)
    assert np.linalg.det(R) == pytest.approx(1.0)


@given(transforms, transforms, transforms)
def test_group_axioms(A: Array, B: Array, C: Array) -> None:
    assert_allclose((A @ B) @ C, A @ (B @ C), rtol=0, atol=1e-10)
    assert_allclose(A @ poses.inverse(A), np.eye(4), rtol=0, atol=1e-11)
    assert_allclose(poses.inverse(A) @ A, np.eye(4), rtol=0, atol=1e-11)
    assert_allclose(poses.inverse(A @ B), poses.inverse(B) @ poses.inverse(A), rtol=0, atol=1e-10)
    assert_allclose(poses.inverse(poses.inverse(A)), A, rtol=0, atol=1e-11)


@given(transforms)
def test_inverse_agrees_with_linear_algebra(T: Array) -> None:
    assert_allclose(poses.inverse(T), np.linalg.inv(T), rtol=0, atol=1e-10)


@given(rotations, positions)
def test_pose_holds_what_it_was_made_of(R: Array, p: Array) -> None:
    T = poses.pose(R, p)
    assert np.array_equal(T[:3, :3], R)
    assert np.array_equal(T[:3, 3], p)
    assert np.array_equal(T[3], [0, 0, 0, 1])


# ---- conversions ----------------------------------------------------------------------------------------------------


@settings(max_examples=300)
@given(rotvecs)
def test_axis_angle_round_trip(v: Array) -> None:
    R = poses.matrix_from_axis_angle(v)
    back = poses.axis_angle_from_matrix(R)
    angle = np.linalg.norm(v)
    assert np.linalg.norm(back) <= np.pi + 1e-12
    if angle < np.pi - 1e-5:
        assert_allclose(back, v, rtol=0, atol=1e-10)
    # At half a turn both signs of the axis are the same rotation.
    assert_allclose(poses.matrix_from_axis_angle(back), R, rtol=0, atol=1e-11)


@given(axes, st.floats(1e-14, 1e-5))
def test_tiny_turns_keep_their_digits(axis: Array, angle: float) -> None:
    back = poses.axis_angle_from_matrix(poses.matrix_from_axis_angle(axis * angle))
    assert_allclose(back, axis * angle, rtol=1e-6, atol=1e-16)


@given(rotations)
def test_quaternion_round_trip(R: Array) -> None:
    q = poses.quat_wxyz_from_matrix(R)
    assert np.linalg.norm(q) == pytest.approx(1.0, abs=1e-12)
    assert q[0] >= 0.0
    assert_allclose(poses.matrix_from_quat_wxyz(q), R, **TIGHT)
    assert_allclose(poses.matrix_from_quat_wxyz(-q), R, **TIGHT)
    assert_allclose(poses.matrix_from_quat_wxyz(3.0 * q), R, **TIGHT)


@given(rotations)
def test_quaternion_orders_are_inverse(R: Array) -> None:
    q = poses.quat_wxyz_from_matrix(R)
    xyzw = poses.quat_xyzw_from_wxyz(q)
    assert xyzw[3] == q[0]
    assert np.array_equal(xyzw[:3], q[1:])
    assert np.array_equal(poses.quat_wxyz_from_xyzw(xyzw), q)


@given(rotations)
def test_rot6d_round_trip(R: Array) -> None:
    d = poses.rot6d_from_matrix(R)
    assert np.array_equal(d, np.concatenate([R[0], R[1]])), "rows, as Isaac-GR00T reads it"
    assert_allclose(poses.matrix_from_rot6d(d), R, **TIGHT)


@given(rotations, st.floats(0.1, 10.0), st.floats(0.1, 10.0), st.floats(-3.0, 3.0))
def test_rot6d_forgives_scale_and_skew(R: Array, a: float, b: float, skew: float) -> None:
    d = np.concatenate([a * R[0], b * R[1] + skew * R[0]])
    assert_allclose(poses.matrix_from_rot6d(d), R, rtol=0, atol=1e-10)


@given(transforms)
def test_pose_vectors_round_trip(T: Array) -> None:
    assert_allclose(poses.pose_from_xyz_quat_wxyz(poses.xyz_quat_wxyz_from_pose(T)), T, **TIGHT)
    nine = poses.xyz_rot6d_from_pose(T)
    assert_allclose(poses.pose(poses.matrix_from_rot6d(nine[3:]), nine[:3]), T, **TIGHT)


def test_the_four_quaternion_branches() -> None:
    for axis, turn in itertools.product(np.eye(3), (0.0, 0.5, np.pi - 1e-3, np.pi)):
        R = poses.matrix_from_axis_angle(axis * turn)
        expected = np.concatenate([[np.cos(turn / 2)], np.sin(turn / 2) * axis])
        assert_allclose(np.abs(poses.quat_wxyz_from_matrix(R)), np.abs(expected), **TIGHT)


# ---- angles and yaw -------------------------------------------------------------------------------------------------


@given(rotations, axes, angles)
def test_angle_between_is_the_turn_between(R: Array, axis: Array, angle: float) -> None:
    turned = R @ poses.matrix_from_axis_angle(axis * angle)
    assert angle_between(R, turned) == pytest.approx(angle, abs=1e-7)
    assert angle_between(turned, R) == pytest.approx(angle, abs=1e-7)


@given(st.floats(-10.0, 10.0), st.floats(-10.0, 10.0))
def test_yaws_add(a: float, b: float) -> None:
    assert_allclose(poses.yaw_matrix(a) @ poses.yaw_matrix(b), poses.yaw_matrix(a + b), **TIGHT)
    assert_allclose(poses.yaw_matrix(a) @ [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], **TIGHT)
    assert_allclose(poses.yaw_matrix(a) @ [1.0, 0.0, 0.0], [np.cos(a), np.sin(a), 0.0], **TIGHT)


# ---- interpolation --------------------------------------------------------------------------------------------------


@given(transforms, transforms)
def test_interpolation_starts_and_ends_where_told(A: Array, B: Array) -> None:
    ends = poses.interpolate(A, B, np.array([0.0, 1.0]))
    assert_allclose(ends, np.stack([A, B]), **NEAR_PI)


@given(transforms, transforms)
def test_interpolation_moves_at_constant_speed(A: Array, B: Array) -> None:
    path = poses.interpolate(A, B, np.linspace(0.0, 1.0, 6))
    steps = np.diff(path[:, :3, 3], axis=0)
    assert_allclose(steps, np.broadcast_to(steps[:1], steps.shape), rtol=0, atol=1e-10)
    turns = poses.angle_between(path[:-1, :3, :3], path[1:, :3, :3])
    assert_allclose(turns, angle_between(A[:3, :3], B[:3, :3]) / 5, rtol=0, atol=1e-7)
    assert turns.sum() <= np.pi + 1e-6, "the short way round"


@given(transforms, transforms, transforms, st.floats(0.0, 1.0))
def test_interpolation_does_not_care_about_the_world_frame(W: Array, A: Array, B: Array, s: float) -> None:
    if angle_between(A[:3, :3], B[:3, :3]) > np.pi - 1e-3:
        return  # at half a turn there are two short ways
    fractions = np.array([s])
    assert_allclose(
        poses.interpolate(W @ A, W @ B, fractions), W @ poses.interpolate(A, B, fractions), rtol=0, atol=1e-9
    )


@given(transforms, st.floats(0.0, 1.0))
def test_interpolation_between_equals_stays(A: Array, s: float) -> None:
    assert_allclose(poses.interpolate(A, A, np.array([s]))[0], A, **NEAR_PI)


# ---- batches --------------------------------------------------------------------------------------------------------

SHAPES = [(), (1,), (5,), (2, 3), (0,)]


@pytest.mark.parametrize("batch", SHAPES)
@pytest.mark.parametrize(
    ("function", "inner", "outer"),
    [
        (poses.matrix_from_axis_angle, (3,), (3, 3)),
        (poses.matrix_from_quat_wxyz, (4,), (3, 3)),
        (poses.matrix_from_rot6d, (6,), (3, 3)),
        (poses.pose_from_xyz_quat_wxyz, (7,), (4, 4)),
        (poses.quat_xyzw_from_wxyz, (4,), (4,)),
        (poses.quat_wxyz_from_xyzw, (4,), (4,)),
    ],
)
def test_vector_functions_take_any_batch(
    batch: tuple[int, ...], function: Callable[[Array], Array], inner: tuple[int, ...], outer: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).normal(size=(*batch, *inner))
    result = function(values)
    assert result.shape == (*batch, *outer)
    for at in np.ndindex(*batch):
        assert_allclose(result[at], function(values[at]), **TIGHT)


@pytest.mark.parametrize("batch", SHAPES)
def test_matrix_functions_take_any_batch(batch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    R = poses.matrix_from_axis_angle(rng.normal(size=(*batch, 3)))
    T = poses.pose(R, rng.normal(size=(*batch, 3)))
    for function, value, outer in (
        (poses.axis_angle_from_matrix, R, (3,)),
        (poses.quat_wxyz_from_matrix, R, (4,)),
        (poses.rot6d_from_matrix, R, (6,)),
        (poses.inverse, T, (4, 4)),
        (poses.xyz_rot6d_from_pose, T, (9,)),
        (poses.xyz_quat_wxyz_from_pose, T, (7,)),
    ):
        result = function(value)
        assert result.shape == (*batch, *outer)
        for at in np.ndindex(*batch):
            assert_allclose(result[at], function(value[at]), **TIGHT)
    if batch:
        assert poses.angle_between(R, R).shape == batch


@pytest.mark.parametrize("turn", [1.0, 1e-5, 1e-12, np.pi - 1e-9, np.pi])
def test_few_and_many_agree_in_every_bit(turn: float) -> None:
    """A few matrices are converted by other code than many; which it was must not show in an episode."""
    axes_drawn = np.random.default_rng(3).normal(size=(40, 3))
    rotvecs_drawn = turn * axes_drawn / np.linalg.norm(axes_drawn, axis=-1, keepdims=True)
    R = poses.matrix_from_axis_angle(rotvecs_drawn)
    q = poses.quat_wxyz_from_matrix(R)
    R_b = np.roll(R, 1, axis=0)
    for function, values in (
        (poses.matrix_from_axis_angle, (rotvecs_drawn,)),
        (poses.axis_angle_from_matrix, (R,)),
        (poses.quat_wxyz_from_matrix, (R,)),
        (poses.matrix_from_quat_wxyz, (1.3 * q,)),
        (poses.angle_between, (R, R_b)),
    ):
        many = function(*values)
        for at in range(len(many)):
            one = np.asarray(function(*(v[at] for v in values)))
            assert one.tobytes() == np.asarray(many[at]).tobytes(), function.__name__


def test_pose_broadcasts() -> None:
    T = poses.pose(np.eye(3), np.zeros((5, 3)))
    assert T.shape == (5, 4, 4)
    assert poses.pose(np.zeros((2, 1, 3, 3)), np.zeros((4, 3))).shape == (2, 4, 4, 4)
    assert poses.interpolate(np.eye(4), np.eye(4), np.zeros(7)).shape == (7, 4, 4)


def test_inputs_are_not_changed() -> None:
    R = poses.matrix_from_axis_angle(np.array([0.1, 0.2, 0.3]))
    before = R.copy()
    poses.rot6d_from_matrix(R)[:] = 0.0
    poses.quat_wxyz_from_matrix(R)
    assert np.array_equal(R, before)
