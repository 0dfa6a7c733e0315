"""Between target poses and normalised pose actions, for controllers that take a displacement of the hand.

The convention is robosuite's OSC_POSE with `input_type="delta"`: one unit is `position_scale_m` metres or
`rotation_scale_rad` radians, the rotation is an axis-angle vector applied on the left, all in the base frame, from the
pose measured when the control step begins. Every function takes leading batch axes.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from factory import poses
from factory.specs import EefSpec

Array = NDArray[np.float64]


def action_for_target(
    T_world_eef: Float[Array, "*batch 4 4"],
    T_world_target: Float[Array, "*batch 4 4"],
    T_world_base: Float[Array, "4 4"],
    eef: EefSpec,
) -> Float[Array, "*batch 6"]:
    """Return the unclipped normalised action that asks for the target from where the hand is."""
    R_base = T_world_base[:3, :3]
    shift = (T_world_target[..., :3, 3] - T_world_eef[..., :3, 3]) @ R_base
    turn = T_world_target[..., :3, :3] @ np.swapaxes(T_world_eef[..., :3, :3], -1, -2)
    rotvec = poses.axis_angle_from_matrix(turn) @ R_base
    return np.concatenate([shift / eef.position_scale_m, rotvec / eef.rotation_scale_rad], axis=-1)


def target_of_action(
    T_world_eef: Float[Array, "*batch 4 4"],
    action: Float[Array, "*batch 6"],
    T_world_base: Float[Array, "4 4"],
    eef: EefSpec,
) -> Float[Array, "*batch 4 4"]:
    """Return the pose an action asks for; the inverse of `action_for_target`. The action is not clipped."""
    R_base = T_world_base[:3, :3]
    position = T_world_eef[..., :3, 3] + (action[..., :3] * eef.position_scale_m) @ R_base.T
    turn = poses.matrix_from_axis_angle((action[..., 3:] * eef.rotation_scale_rad) @ R_base.T)
    return poses.pose(turn @ T_world_eef[..., :3, :3], position)


def execute(
    T_world_eef: Float[Array, "4 4"],
    T_world_target: Float[Array, "4 4"],
    noise: Float[Array, 6],
    T_world_base: Float[Array, "4 4"],
    eef: EefSpec,
) -> Float[Array, 6]:
    """Return the action that is sent: clipped to [-1, 1], noise added, clipped again, rounded to float32.

    Rounding here means that the float32 column of a dataset is exactly what was executed.
    """
    wanted = np.clip(action_for_target(T_world_eef, T_world_target, T_world_base, eef), -1.0, 1.0)
    return np.clip(wanted + noise, -1.0, 1.0).astype(np.float32).astype(np.float64)
