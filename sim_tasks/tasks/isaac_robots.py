"""The robots of Isaac Lab's Mimic tasks, and how this project's action for them is laid out.

The action is the displacement of each hand in metres and radians, one unit each, about the axes of the world, and what
its fingers are told; the environment turns the pose it asks for into its own action, see
`sim_tasks.backends.isaaclab`. Frames are named as the environments name them: "eef:franka". Names and numbers are those
of Isaac Lab 3.0's configurations (isaaclab_tasks.contrib.stack and .pick_place), which 2.3 shares.
"""

from __future__ import annotations

from factory.specs import EefSpec, RobotSpec

ISAAC_FRANKA = RobotSpec(
    name="Isaac Lab Franka",
    lerobot_type="franka",
    action_dim=7,
    control_hz=20,
    wrist_cameras=(),
    eefs={
        "right": EefSpec(
            frame="eef:franka",
            base_frame="origin",
            arm_action=(0, 6),
            gripper_action=(6, 7),
            position_scale_m=1.0,
            rotation_scale_rad=1.0,
            arm_joints=tuple(f"panda_joint{i}" for i in range(1, 8)),
            gripper_joints=("panda_finger_joint1", "panda_finger_joint2"),
            joints_open=(0.04, 0.04),
            joints_closed=(0.0, 0.0),
            gripper_closed=-1.0,  # Isaac Lab's binary gripper closes below zero
        )
    },
)

_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow_pitch", "wrist_yaw", "wrist_roll", "wrist_pitch")
_FINGERS = (
    *(f"{finger}_{joint}" for joint in ("proximal", "intermediate") for finger in ("index", "middle", "pinky", "ring")),
    "thumb_proximal_yaw",
    "thumb_proximal_pitch",
    "thumb_distal",
)


def _gr1_arm(side: str, *, action: int) -> EefSpec:
    """Return one arm of the GR1T2 whose six numbers begin at column `action`, its hand's eleven after them.

    The eleven are joint angles (rad), cut out of the environment's action as Isaac Lab cuts it: columns 14 to 25 for
    "left", 25 to 36 for "right". Its controller orders these columns by finger and not by hand, so each eleven hold
    joints of both hands; what one source says of all of them only fits together when both arms follow that source.
    """
    letter = side[0].upper()
    return EefSpec(
        frame=f"eef:{side}",
        base_frame="origin",
        arm_action=(action, action + 6),
        gripper_action=(action + 6, action + 17),
        position_scale_m=1.0,
        rotation_scale_rad=1.0,
        arm_joints=tuple(f"{side}_{joint}_joint" for joint in _ARM),
        gripper_joints=tuple(f"{letter}_{joint}_joint" for joint in _FINGERS),
        # Zero is how the hands start. How far they are closed depends on what they hold: no motion is carried from
        # another robot to these hands, so nothing reads it.
        joints_open=(0.0,) * len(_FINGERS),
        joints_closed=(0.0,) * len(_FINGERS),
        command_open=(0.0,) * len(_FINGERS),
    )


ISAAC_GR1T2 = RobotSpec(
    name="Isaac Lab GR1T2",
    lerobot_type="gr1t2",
    action_dim=34,
    control_hz=20,
    wrist_cameras=(),
    eefs={"right": _gr1_arm("right", action=0), "left": _gr1_arm("left", action=17)},
)
