"""What GR00T's data configurations call the parts of each robot, and which of our columns they are.

One `Layout` for each set of keys: one arm with a gripper, two Pandas with grippers, two Pandas with hands, and the 44
columns of a GR-1. Keys and conventions are those of GR00T N1; where a part does not exist it is zero.
"""

from __future__ import annotations

from collections.abc import Mapping

from factory.errors import DatasetError
from factory.gr00t_parts import ACTION, ROT6D, STATE, Layout, Part, closes, constant, rotation_of, scaled, taken

FINGER_SCALE, THUMB_SCALE = 1.5, 3.0
"""NVIDIA's GR-1 sets command hands beyond the joints' limits: -1.5 opens a finger, +1.5 closes it, thumbs -3 and +3."""


# --- parts of several robots ------------------------------------------------------------------------------------------


def _numbered(eef: str, what: str, unit: str, numbers: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"{eef}_{what}{i}_{unit}" for i in numbers)


def _elements(prefix: str, count: int) -> tuple[str, ...]:
    return (prefix, *(f"{prefix}{i}" for i in range(2, count + 1)))


_SIX = ("little", "ring", "middle", "index", "thumb_bend", "thumb_turn")
"""Order of a hand's six numbers, in state and action, of commands here and of NVIDIA's sets."""

_INSPIRE = (11, 9, 7, 5, 2, 1)
"""Which of `EefSpec.gripper_joints` of an Inspire hand, counted from 1, bend where each finger leaves the palm."""
_FOURIER = (10, 8, 6, 4, 2, 1)
"""Likewise of a Fourier hand."""


def _hand_pose(eef: str, position: str, rotation: str) -> tuple[Part, ...]:
    """Return a hand's pose in its base frame: metres, and a quaternion with the real part first."""
    xyz = tuple(f"{eef}_eef_{name}" for name in ("x_m", "y_m", "z_m"))
    quat = tuple(f"{eef}_eef_{name}" for name in ("qw", "qx", "qy", "qz"))
    return (
        Part(key=position, names=xyz, values=taken(STATE, xyz), column=STATE),
        Part(key=rotation, names=quat, values=rotation_of(eef), column=STATE, rotation="quaternion"),
    )


def _displacement(eef: str, position: str, rotation: str) -> tuple[Part, ...]:
    """Return what an arm was told: how far to move and turn, as executed, normalised, in its base frame."""
    shift, turn = (tuple(f"{eef}_{name}" for name in names) for names in (("dx", "dy", "dz"), ("rx", "ry", "rz")))
    return (
        Part(key=position, names=shift, values=taken(ACTION, shift), column=ACTION, absolute=False),
        Part(key=rotation, names=turn, values=taken(ACTION, turn), column=ACTION, absolute=False),
    )


def _more_state(eef: str, joints: int) -> tuple[Part, ...]:
    """Return what GR00T from N1.6 on needs beside displacements: absolute joints, and the pose in its nine numbers."""
    names = _numbered(eef, "joint", "rad", tuple(range(1, joints + 1)))
    pose = tuple(f"{eef}_eef_{name}" for name in ("x_m", "y_m", "z_m", *ROT6D))
    return (
        Part(
            key=f"{eef}_arm_joints",
            names=names,
            values=taken(STATE, names),
            column=f"robot.{eef}_joint_positions",
            relative=True,
        ),
        Part(
            key=f"{eef}_arm_eef_9d",
            names=pose,
            values=taken(STATE, pose),
            column=f"robot.{eef}_eef_pose",
        ),
    )


def _more_action(eef: str, joints: int) -> tuple[Part, ...]:
    """Return the same as targets: joints as they were after the step, and the pose that was asked for."""
    next_joints, pose = f"target.{eef}_next_joint_positions", f"target.{eef}_eef_pose"
    names = _numbered(eef, "joint", "rad", tuple(range(1, joints + 1)))
    asked = tuple(f"{eef}_target_{name}" for name in ("x_m", "y_m", "z_m", *ROT6D))
    return (
        Part(key=f"{eef}_arm_joints", names=names, values=taken(next_joints, names), column=next_joints, relative=True),
        Part(key=f"{eef}_arm_eef_9d", names=asked, values=taken(pose, asked), column=pose),
    )


def _single(joints: int, fingers: int) -> Layout:
    qpos = _numbered("right", "finger", "m", tuple(range(1, fingers + 1)))
    still = tuple(f"base_{name}" for name in ("dx", "dy", "dyaw", "dz"))
    return Layout(
        data_config="single_panda_gripper",
        embodiment_tag="new_embodiment",
        state=(
            *_hand_pose("right", "end_effector_position_relative", "end_effector_rotation_relative"),
            Part(key="gripper_qpos", names=qpos, values=taken(STATE, qpos), column=STATE),
            # Bolted down: everything is said from the base, so the base is at the origin.
            Part(
                key="base_position",
                names=("base_x_m", "base_y_m", "base_z_m"),
                values=constant((0.0, 0.0, 0.0)),
                column=STATE,
            ),
            Part(
                key="base_rotation",
                names=("base_qw", "base_qx", "base_qy", "base_qz"),
                values=constant((1.0, 0.0, 0.0, 0.0)),
                column=STATE,
                rotation="quaternion",
            ),
            *_more_state("right", joints),
        ),
        action=(
            *_displacement("right", "end_effector_position", "end_effector_rotation"),
            Part(key="gripper_close", names=("right_gripper_close",), values=closes("right"), column=ACTION),
            Part(key="base_motion", names=still, values=constant((0.0,) * 4), column=ACTION, absolute=False),
            Part(key="control_mode", names=("base_moves",), values=constant((0.0,)), column=ACTION),
            *_more_action("right", joints),
        ),
        views={
            "left_view": ("leftview", "agentview"),
            "right_view": ("rightview", "frontview", "sideview"),
            "wrist_view": ("robot0_eye_in_hand",),
        },
    )


_TWO_PANDA_VIEWS = {"right_wrist_view": ("robot0_eye_in_hand",), "left_wrist_view": ("robot1_eye_in_hand",)}
_SIDES = ("right", "left")


def _two_grippers() -> Layout:
    state: list[Part] = []
    action: list[Part] = []
    for side in _SIDES:
        qpos = _numbered(side, "finger", "m", (1, 2))
        state += _hand_pose(side, f"{side}_arm_eef_pos", f"{side}_arm_eef_quat")
        state.append(Part(key=f"{side}_gripper_qpos", names=qpos, values=taken(STATE, qpos), column=STATE))
        action += _displacement(side, f"{side}_arm_eef_pos", f"{side}_arm_eef_rot")
        close = f"{side}_gripper_close"
        action.append(Part(key=close, names=(close,), values=closes(side), column=ACTION))
    return Layout(
        data_config="bimanual_panda_gripper",
        embodiment_tag="new_embodiment",
        state=(*state, *(part for side in _SIDES for part in _more_state(side, 7))),
        action=(*action, *(part for side in _SIDES for part in _more_action(side, 7))),
        views={**_TWO_PANDA_VIEWS, "front_view": ("front_view", "agentview")},
    )


def _two_hands() -> Layout:
    state: list[Part] = []
    action: list[Part] = []
    for side in _SIDES:
        names = tuple(f"{side}_{finger}_rad" for finger in _SIX)
        joints = _numbered(side, "finger", "rad", _INSPIRE)
        state += _hand_pose(side, f"{side}_arm_eef_pos", f"{side}_arm_eef_quat")
        state.append(Part(key=f"{side}_hand", names=names, values=taken(STATE, joints), column=STATE))
        action += _displacement(side, f"{side}_arm_eef_pos", f"{side}_arm_eef_rot")
        told = _elements(f"{side}_gripper", 6)
        commands = tuple(f"{side}_{finger}" for finger in _SIX)
        action.append(Part(key=f"{side}_hand", names=commands, values=taken(ACTION, told), column=ACTION))
    return Layout(
        data_config="bimanual_panda_hand",
        embodiment_tag="new_embodiment",
        state=(*state, *(part for side in _SIDES for part in _more_state(side, 7))),
        action=(*action, *(part for side in _SIDES for part in _more_action(side, 7))),
        views={**_TWO_PANDA_VIEWS, "ego_view": ("ego_view", "agentview")},
    )


GR1_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow_pitch", "wrist_yaw", "wrist_roll", "wrist_pitch")
"""Order of an arm's joints, in the 44 columns and in `EefSpec.arm_joints` of the robot."""

_STILL = {
    "left_leg": 6,
    "neck": 3,
    "right_leg": 6,
    "waist": 3,
}


def _gr1() -> Layout:
    """Return the 44 columns: absolute joint positions in radians, legs, neck and waist zero, as in NVIDIA's sets."""
    state: list[Part] = []
    action: list[Part] = []
    scale = (FINGER_SCALE,) * 4 + (THUMB_SCALE,) * 2
    for key in ("left_arm", "left_hand", "left_leg", "neck", "right_arm", "right_hand", "right_leg", "waist"):
        side, _, what = key.partition("_")
        if key in _STILL:
            names = tuple(f"{key}{i}_rad" for i in range(1, _STILL[key] + 1))
            nothing = constant((0.0,) * len(names))
            state.append(Part(key=key, names=names, values=nothing, column=STATE))
            action.append(Part(key=key, names=names, values=nothing, column=ACTION))
        elif what == "arm":
            names = tuple(f"{side}_{joint}_rad" for joint in GR1_ARM)
            joints = _numbered(side, "joint", "rad", tuple(range(1, 8)))
            after = taken(f"target.{side}_next_joint_positions", joints)
            state.append(Part(key=key, names=names, values=taken(STATE, joints), column=STATE, relative=True))
            action.append(Part(key=key, names=names, values=after, column=ACTION, relative=True))
        else:
            names = tuple(f"{side}_{finger}_rad" for finger in _SIX)
            bent = taken(STATE, _numbered(side, "finger", "rad", _FOURIER))
            told = scaled(taken(ACTION, _elements(f"{side}_gripper", 6)), scale)
            state.append(Part(key=key, names=names, values=bent, column=STATE))
            action.append(Part(key=key, names=names, values=told, column=ACTION))
    return Layout(
        data_config="fourier_gr1_arms_only",
        embodiment_tag="gr1",
        state=tuple(state),
        action=tuple(action),
        views={"ego_view": ("ego_view",)},
        task_annotations=("human.action.task_description", "human.coarse_action"),
    )


LAYOUTS: Mapping[str, Layout] = {
    "panda": _single(7, 2),
    "ur5e": _single(6, 2),
    "sawyer": _single(7, 2),
    "iiwa": _single(7, 2),
    "kinova3": _single(7, 2),
    "bimanual_panda": _two_grippers(),
    "bimanual_panda_inspire": _two_hands(),
    "gr1_arms_only": _gr1(),
}
"""Robot type, as a dataset's info.json has it -> its keys."""


def layout_of(robot_type: str) -> Layout:
    """Return the layout of a robot type, or say which robots have one."""
    if robot_type not in LAYOUTS:
        raise DatasetError(f"GR00T's keys are not known for robot type {robot_type!r}; known: {', '.join(LAYOUTS)}")
    return LAYOUTS[robot_type]
