"""Robots by name, written out: where robosuite 1.5.2 keeps their parts, and how their actions are laid out.

All arms follow robosuite's OSC_POSE with its defaults: one unit of action is 5 cm or 0.5 rad in the frame of the arm's
base. Parallel grippers take one number whose sign closes (+) or opens (-). Hands take six numbers from -1 (a joint at
the lower end of its range) to +1 (at the upper end): little, ring, middle, index finger, bend of the thumb, turn of the
thumb across the palm. Bending is positive for every joint of both hands, left and right. A hand that is ready to grasp
has its thumb across the palm.

Grip frames: of parallel grippers, between the pads, z where the hand reaches, x across the fingers. Of hands, at the
wrist, -y along the fingers, z out of the palm; the thumb is on the side of -x of a right hand, of +x of a left one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from factory.errors import SpecError, unknown_name
from factory.parts import CameraSpec, TableSpec
from factory.specs import EefSpec, MountSpec, RobotSpec
from factory.transfer import Station

_POSITION_SCALE_M, _ROTATION_SCALE_RAD = 0.05, 0.5
"""robosuite's OSC_POSE defaults, the same for all its robots: output_max in controllers/config/."""


def _panda_arm(robot: int, *, action: int, side: str) -> EefSpec:
    """Return the arm and the parallel gripper of the Panda number `robot`, whose actions begin at column `action`."""
    gripper = f"gripper{robot}_right"
    return EefSpec(
        frame=f"site:{gripper}_grip_site",
        base_frame=f"site:robot{robot}_right_center",
        arm_action=(action, action + 6),
        gripper_action=(action + 6, action + 7),
        position_scale_m=_POSITION_SCALE_M,
        rotation_scale_rad=_ROTATION_SCALE_RAD,
        arm_joints=tuple(f"robot{robot}_joint{i}" for i in range(1, 8)),
        gripper_joints=(f"{gripper}_finger_joint1", f"{gripper}_finger_joint2"),
        joints_open=(0.04, -0.04),
        joints_closed=(0.0, 0.0),
        gripper_closed=1.0,
        fingers={
            f"{side}_finger1": (f"geom:{gripper}_finger1_pad_collision",),
            f"{side}_finger2": (f"geom:{gripper}_finger2_pad_collision",),
        },
        touch={f"{side}_hand": (f"body:{gripper}_right_gripper",)},
        opening_m=0.079,
    )


PANDA = RobotSpec(
    name="Panda",
    lerobot_type="panda",
    action_dim=7,
    control_hz=20,
    eefs={"right": _panda_arm(0, action=0, side="right")},
)


# --- other single arms, for transfer ----------------------------------------------------------------------------------


def _single(
    name: str,
    joints: tuple[str, ...],
    *,
    gripper_joints: tuple[str, str],
    joints_open: tuple[float, float],
    joints_closed: tuple[float, float],
    pads: tuple[str, str],
    opening_m: float,
    gripper_model: str = "",
    grasp_m: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> RobotSpec:
    """Return a single arm with its gripper; `pads` are given as they lie along the grip frame's x axis."""
    gripper = "gripper0_right"
    return RobotSpec(
        name=name,
        lerobot_type=name.lower(),
        action_dim=7,
        control_hz=20,
        mounts=(MountSpec(model=name, gripper=gripper_model),) if gripper_model else (),
        eefs={
            "right": EefSpec(
                frame=f"site:{gripper}_grip_site",
                base_frame="site:robot0_right_center",
                arm_action=(0, 6),
                gripper_action=(6, 7),
                position_scale_m=_POSITION_SCALE_M,
                rotation_scale_rad=_ROTATION_SCALE_RAD,
                arm_joints=tuple(f"robot0_{joint}" for joint in joints),
                gripper_joints=(f"{gripper}_{gripper_joints[0]}", f"{gripper}_{gripper_joints[1]}"),
                joints_open=joints_open,
                joints_closed=joints_closed,
                gripper_closed=1.0,
                fingers={
                    "right_finger1": (f"geom:{gripper}_{pads[0]}",),
                    "right_finger2": (f"geom:{gripper}_{pads[1]}",),
                },
                grasp_m=grasp_m,
                opening_m=opening_m,
            )
        },
    )


_ROBOTIQ_140: dict[str, Any] = {
    "gripper_joints": ("finger_joint", "right_outer_knuckle_joint"),
    "joints_open": (0.022, -0.032),
    "joints_closed": (0.48, -0.46),
    "pads": ("right_fingerpad_collision", "left_fingerpad_collision"),
    "opening_m": 0.125,
    "grasp_m": (0.006, 0.0, 0.0125),
}
"""As its joints and pads come to rest, not as far as its actuators are told: the linkage is soft and not quite even.

Its finger tips sink while it closes, to 22 mm below the grip frame around what is 30 to 40 mm wide. It holds things as
far from them as a Panda does, 9 mm: with the middle of its long pads around an object it would be on the table first.
"""

_UR_JOINTS = ("shoulder_pan", "shoulder_lift", "elbow", "wrist_1", "wrist_2", "wrist_3")

IIWA = _single("IIWA", tuple(f"joint_{i}" for i in range(1, 8)), **_ROBOTIQ_140)

# robosuite gives these two a Robotiq 85, whose linkage has no loop closure there: closed on nothing its fingers flip
# over within 3 s and stay so.
UR5E = _single(
    "UR5e", tuple(f"{joint}_joint" for joint in _UR_JOINTS), gripper_model="Robotiq140Gripper", **_ROBOTIQ_140
)
KINOVA3 = _single(
    "Kinova3", tuple(f"Actuator{i}" for i in range(1, 8)), gripper_model="Robotiq140Gripper", **_ROBOTIQ_140
)

SAWYER = _single(
    "Sawyer",
    tuple(f"right_j{i}" for i in range(7)),
    gripper_joints=("l_finger_joint", "r_finger_joint"),
    joints_open=(0.0115, -0.0115),
    joints_closed=(-0.0115, 0.0115),
    pads=("l_fingerpad_g0", "r_fingerpad_g0"),
    opening_m=0.06,
    grasp_m=(0.0, 0.0, 0.005),  # its finger tips are 14 mm below its grip frame, a Panda's 9 mm
)


# --- two Pandas -------------------------------------------------------------------------------------------------------


def facing(model: str, distance_m: float = 0.56, controller: str = "") -> MountSpec:
    """Return where a robot on the right of the table faces one on its left, see `opposite`."""
    return MountSpec(model=model, position_m=(0.0, -distance_m, 0.0), yaw_rad=math.pi / 2, controller=controller)


def opposite(model: str, distance_m: float = 0.56, controller: str = "") -> MountSpec:
    """Return where a robot on the left of the table faces one on its right."""
    return MountSpec(model=model, position_m=(0.0, distance_m, 0.0), yaw_rad=-math.pi / 2, controller=controller)


def beside(model: str, y_m: float, controller: str = "") -> MountSpec:
    """Return where a robot stands behind the table and looks along x, next to another one."""
    return MountSpec(model=model, position_m=(-0.56, y_m, 0.0), controller=controller)


TWO_PANDAS = RobotSpec(
    name="TwoPandas",
    lerobot_type="bimanual_panda",
    action_dim=14,
    control_hz=20,
    mounts=(facing("Panda"), opposite("Panda")),
    wrist_cameras=("robot0_eye_in_hand", "robot1_eye_in_hand"),
    eefs={"right": _panda_arm(0, action=0, side="right"), "left": _panda_arm(1, action=7, side="left")},
)
"""Two Pandas that face each other across the table, as far from its middle as robosuite puts them; nobody's arm is in
the other's way, and both reach the middle third of the table."""


# --- hands ------------------------------------------------------------------------------------------------------------

DIGITS = ("little finger", "ring finger", "middle finger", "index finger", "thumb bend", "thumb turn")
"""What the six numbers move, in this order, of both hands."""
_HAND_OPEN = (-1.0, -1.0, -1.0, -1.0, -1.0, 1.0)
_HAND_CLOSED = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_PALM_M = (0.0, -0.075, 0.045)
"""Middle of what a closed hand holds: between the palm, the thumb in front of it and the fingers bent around."""
_INSPIRE_PALM_M = (0.0, -0.125, 0.038)
"""The same of an Inspire hand, for a bar across the palm: just below the knuckles, clear of the open thumb."""
_HALF = math.sqrt(0.5)
_PALM_QUAT = (_HALF, 0.0, 0.0, -_HALF)
"""Grasp frame of a hand: it reaches along the palm's normal, from the thumb to the fingers is along -y."""

_INSPIRE = {
    "thumb": ("proximal_1", "proximal_2", "middle", "distal"),
    "index": ("proximal", "distal"),
    "middle": ("proximal", "distal"),
    "ring": ("proximal", "distal"),
    "pinky": ("proximal", "distal"),
}
_INSPIRE_LIMITS = (1.3, 0.68, 0.68, 0.77, 1.62, 1.82, 1.62, 1.82, 1.62, 1.75, 1.62, 1.87)
_FOURIER = {
    "thumb": ("proximal_yaw", "proximal_pitch", "distal"),
    "index": ("proximal", "intermediate"),
    "middle": ("proximal", "intermediate"),
    "ring": ("proximal", "intermediate"),
    "pinky": ("proximal", "intermediate"),
}
_FOURIER_LIMITS = (1.74, 1.22, 1.23, 1.57, 1.74, 1.57, 1.74, 1.57, 1.74, 1.57, 1.74)


def _inspire_hand(robot: int, *, action: int, side: str) -> EefSpec:
    """Return the arm and the Inspire hand of the Panda number `robot`."""
    gripper, h = f"gripper{robot}_right", side[0]
    links = {finger: tuple(f"{h}_{finger}_{link}" for link in links) for finger, links in _INSPIRE.items()}
    thumb = ("proximal", "proximal_2", "middle", "distal")
    return EefSpec(
        frame=f"site:{gripper}_grip_site",
        base_frame=f"site:robot{robot}_right_center",
        arm_action=(action, action + 6),
        gripper_action=(action + 6, action + 12),
        position_scale_m=_POSITION_SCALE_M,
        rotation_scale_rad=_ROTATION_SCALE_RAD,
        arm_joints=tuple(f"robot{robot}_joint{i}" for i in range(1, 8)),
        gripper_joints=tuple(f"{gripper}_joint_{name}" for names in links.values() for name in names),
        joints_open=(_INSPIRE_LIMITS[0], *(0.0,) * 11),
        joints_closed=_INSPIRE_LIMITS,
        command_open=_HAND_OPEN,
        command_closed=_HAND_CLOSED,
        digits=DIGITS,
        fingers={
            f"{side}_thumb": tuple(f"geom:{gripper}_{h}_thumb_{link}_col" for link in thumb),
            f"{side}_fingers": tuple(
                f"geom:{gripper}_{name}_col" for finger, names in links.items() if finger != "thumb" for name in names
            ),
        },
        touch={
            f"{side}_palm": (f"geom:{gripper}_{h}_palm_col",),
            f"{side}_hand": (f"body:{gripper}_{side}_hand",),
        },
        grasp_m=_INSPIRE_PALM_M,
        grasp_quat_wxyz=_PALM_QUAT,
        opening_m=0.07,
    )


TWO_DEX_PANDAS = RobotSpec(
    name="TwoDexPandas",
    lerobot_type="bimanual_panda_inspire",
    action_dim=24,
    control_hz=20,
    # Normalised finger commands come with "BASIC"; the model's own controllers take radians.
    mounts=(beside("PandaDexRH", -0.3, "BASIC"), beside("PandaDexLH", 0.3, "BASIC")),
    wrist_cameras=("robot0_eye_in_hand", "robot1_eye_in_hand"),
    eefs={"right": _inspire_hand(0, action=0, side="right"), "left": _inspire_hand(1, action=12, side="left")},
)
"""Two Pandas with Inspire hands that stand next to each other behind the table, as a person's arms do."""


# --- GR-1 -------------------------------------------------------------------------------------------------------------

_GR1_ARM = ("shoulder_pitch", "shoulder_roll", "shoulder_yaw", "elbow_pitch", "wrist_yaw", "wrist_roll", "wrist_pitch")


def _gr1_arm(side: str, *, arm_action: int, hand_action: int) -> EefSpec:
    """Return one arm of a GR-1 with its Fourier hand."""
    gripper, h = f"gripper0_{side}", side[0].upper()
    links = {finger: tuple(f"{h}_{finger}_{link}" for link in links) for finger, links in _FOURIER.items()}
    return EefSpec(
        frame=f"site:{gripper}_grip_site",
        base_frame=f"site:robot0_{side}_center",
        arm_action=(arm_action, arm_action + 6),
        gripper_action=(hand_action, hand_action + 6),
        position_scale_m=_POSITION_SCALE_M,
        rotation_scale_rad=_ROTATION_SCALE_RAD,
        arm_joints=tuple(f"robot0_{side[0]}_{joint}" for joint in _GR1_ARM),
        gripper_joints=tuple(f"{gripper}_{name}_joint" for names in links.values() for name in names),
        joints_open=(_FOURIER_LIMITS[0], *(0.0,) * 10),
        joints_closed=_FOURIER_LIMITS,
        command_open=_HAND_OPEN,
        command_closed=_HAND_CLOSED,
        digits=DIGITS,
        fingers={
            f"{side}_thumb": tuple(
                f"geom:{gripper}_{h}_thumb_{link}_link_col" for link in ("proximal_base", "proximal", "distal")
            ),
            f"{side}_fingers": tuple(
                f"geom:{gripper}_{name}_link_col"
                for finger, names in links.items()
                if finger != "thumb"
                for name in names
            ),
        },
        touch={
            f"{side}_palm": (f"geom:{gripper}_{side[0]}_palm_col",),
            f"{side}_hand": (f"body:{gripper}_{side}_hand",),
        },
        grasp_m=_PALM_M,
        grasp_quat_wxyz=_PALM_QUAT,
        opening_m=0.07,
    )


GR1 = RobotSpec(
    name="GR1ArmsOnly",
    lerobot_type="gr1_arms_only",
    action_dim=24,
    control_hz=20,
    mounts=(MountSpec(model="GR1ArmsOnly", position_m=(-0.35, 0.0, 0.95), controller="BASIC"),),
    wrist_cameras=(),
    eefs={
        "right": _gr1_arm("right", arm_action=0, hand_action=12),
        "left": _gr1_arm("left", arm_action=6, hand_action=18),
    },
)
"""The upper body of a Fourier GR-1, its two arms under operational-space control, pelvis 95 cm above the floor."""

GR1_TABLE = TableSpec(size_m=(0.6, 1.2, 0.05), top_m=0.95, middle_m=(0.15, 0.0))
"""A table a GR-1 can work on: its surface 36 cm below the shoulders, its edge 20 cm in front of the spine."""


# --- cameras ----------------------------------------------------------------------------------------------------------

FRONT_VIEW = CameraSpec(pos_m=(1.1, 0.0, 1.45), look_at_m=(0.0, 0.0, 0.85))
"""From across the table, both arms in the picture."""

EGO_VIEW = CameraSpec(pos_m=(-0.65, 0.0, 1.6), look_at_m=(0.0, 0.0, 0.85), fovy_deg=60.0)
"""Where a person's eyes would be between two arms that stand next to each other."""

GR1_EGO_VIEW = CameraSpec(
    pos_m=(0.16, 0.0, 0.08), look_at_m=(0.45, 0.0, -0.40), fovy_deg=75.0, parent="robot0_head_pitch"
)
"""In a GR-1's face, looking down at its hands."""


def _oblique(side: str) -> EefSpec:
    """Return a GR-1's arm whose hand takes a bar 13 cm from the wrist, fingers 40 degrees aslant.

    Its palm meets its wrist when that bends by 55 degrees, which fingers straight across a bar below it would need.
    """
    turn = -math.pi / 2 + (0.7 if side == "right" else -0.7)
    quat = (math.cos(turn / 2), 0.0, 0.0, math.sin(turn / 2))
    return replace(GR1.eefs[side], grasp_m=(0.0, -0.13, 0.05), grasp_quat_wxyz=quat)


STATIONS: Mapping[str, Station] = {
    "GR1ArmsOnly": Station(
        # 10 cm lower than its own: its hands rest over the middle, and would be in what others have there.
        table=replace(GR1_TABLE, top_m=GR1_TABLE.top_m - 0.10),
        cameras={"ego_view": GR1_EGO_VIEW},
        eefs={side: _oblique(side) for side in GR1.eefs},
    )
}
"""What robots bring along to tasks that were written for others: a GR-1 has no room for its body at a deep table."""

ROBOTS: Mapping[str, RobotSpec] = {
    "Panda": PANDA,
    "UR5e": UR5E,
    "Sawyer": SAWYER,
    "IIWA": IIWA,
    "Kinova3": KINOVA3,
    "TwoPandas": TWO_PANDAS,
    "TwoDexPandas": TWO_DEX_PANDAS,
    "GR1ArmsOnly": GR1,
}


def find_robot(name: str) -> RobotSpec:
    """Return a robot by name, or say which exist."""
    if name not in ROBOTS:
        raise SpecError(unknown_name("robot", name, ROBOTS))
    return ROBOTS[name]
