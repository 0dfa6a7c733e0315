"""Robots by name, written out."""

from __future__ import annotations

from collections.abc import Mapping

from factory.errors import SpecError, unknown_name
from factory.specs import EefSpec, RobotSpec

PANDA = RobotSpec(
    name="Panda",
    lerobot_type="panda",
    action_dim=7,
    control_hz=20,
    eefs={
        "right": EefSpec(
            frame="site:gripper0_right_grip_site",
            base_frame="site:robot0_right_center",
            arm_action=(0, 6),
            gripper_action=(6, 7),
            # robosuite's OSC_POSE defaults for the Panda: output_max in controllers/config/robots/default_panda.json.
            position_scale_m=0.05,
            rotation_scale_rad=0.5,
            arm_joints=tuple(f"robot0_joint{i}" for i in range(1, 8)),
            gripper_joints=("gripper0_right_finger_joint1", "gripper0_right_finger_joint2"),
            joints_open=(0.04, -0.04),
            joints_closed=(0.0, 0.0),
            gripper_closed=1.0,
            fingers={
                "right_finger1": ("geom:gripper0_right_finger1_pad_collision",),
                "right_finger2": ("geom:gripper0_right_finger2_pad_collision",),
            },
        )
    },
)

ROBOTS: Mapping[str, RobotSpec] = {"Panda": PANDA}


def find_robot(name: str) -> RobotSpec:
    """Return a robot by name, or say which exist."""
    if name not in ROBOTS:
        raise SpecError(unknown_name("robot", name, ROBOTS))
    return ROBOTS[name]
