"""What pixels can show of a robot's actions: how each hand really moved, and what its fingers were told.

Where a controller was *asked* to go, ahead of the hand and with noise, cannot be seen. So labels are achieved motion.
One row a control step: for each hand in the robot's order the displacement in metres and the turn as an axis-angle
vector in radians, applied on the left, both in the base frame of its arm; then the commands of its fingers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.errors import SpecError
from factory.specs import RobotSpec

Array = NDArray[np.float64]
Hands = Mapping[str, int]
"""End effector -> numbers in the command of its fingers, in the robot's order."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The motion of a clip, said by whoever read it.

    Attributes:
        motion: ``(steps, m)`` rows; metres, radians, commands.
        T_base_eef: end effector -> poses ``(steps + 1, 4, 4)`` which that motion goes through; None where nobody said
            where the hands are: then they start where the simulator's do.
        confidence: ``(steps,)`` in [0, 1]: 1 / (1 + what windows and samples differ by and the model expects to err, in
            usual sizes of motion); 0 for steps that no window shows.
        model: who read it; likewise version.
        version: see model.
    """

    motion: Array
    confidence: Array
    T_base_eef: Mapping[str, Array] | None = None
    model: str = ""
    version: str = ""

    def __post_init__(self) -> None:
        if self.motion.ndim != 2 or not len(self.motion):
            raise SpecError(f"labels have motion of shape {self.motion.shape}; expected (T, m) with T of 1 or more")
        for eef, T in (self.T_base_eef or {}).items():
            if T.shape != (len(self.motion) + 1, 4, 4):
                raise SpecError(f"{eef}: labelled poses have shape {T.shape}, expected ({len(self.motion) + 1}, 4, 4)")
        if self.confidence.shape != (len(self.motion),):
            raise SpecError(f"confidence has shape {self.confidence.shape}, expected ({len(self.motion)},)")


def hands_of(robot: RobotSpec) -> dict[str, int]:
    """Return the hands of a robot."""
    return {eef: spec.gripper_action[1] - spec.gripper_action[0] for eef, spec in robot.eefs.items()}


def names(hands: Hands) -> tuple[str, ...]:
    """Return what each element of a row is, its unit included."""
    moves = ("dx_m", "dy_m", "dz_m", "rx_rad", "ry_rad", "rz_rad")
    return tuple(
        f"{eef}_{part}"
        for eef, fingers in hands.items()
        for part in (*moves, *("gripper" + (str(i + 1) if i else "") for i in range(fingers)))
    )


def motion_of(T_base_eef: Mapping[str, Array], fingers: Mapping[str, Array]) -> Array:
    """Return the rows ``(T, m)`` of hands that went through poses ``(T + 1, 4, 4)`` under commands ``(T, g)``."""
    parts: list[Array] = []
    for eef, command in fingers.items():
        T = T_base_eef[eef]
        if T.shape != (len(command) + 1, 4, 4) or command.ndim != 2:
            raise SpecError(f"{eef}: poses {T.shape} and commands {command.shape}; expected (T + 1, 4, 4) and (T, g)")
        turn = T[1:, :3, :3] @ np.swapaxes(T[:-1, :3, :3], -1, -2)
        parts += [T[1:, :3, 3] - T[:-1, :3, 3], poses.axis_angle_from_matrix(turn), np.asarray(command, np.float64)]
    return np.concatenate(parts, axis=1)


def poses_of(motion: Array, T_base_start: Mapping[str, Array], hands: Hands) -> dict[str, Array]:
    """Return each hand's poses ``(T + 1, 4, 4)`` in its base frame, from where it starts: `motion_of` backwards."""
    found: dict[str, Array] = {}
    for eef, part in parted(motion, hands).items():
        turns = poses.matrix_from_axis_angle(part[:, 3:6])
        T = np.repeat(T_base_start[eef][None], len(motion) + 1, axis=0)
        T[1:, :3, 3] += np.cumsum(part[:, :3], axis=0)
        for t, turn in enumerate(turns):
            T[t + 1, :3, :3] = turn @ T[t, :3, :3]
        found[eef] = T
    return found


def parted(motion: Array, hands: Hands) -> dict[str, Array]:
    """Return each hand's columns ``(T, 6 + g)``. Raises SpecError when the rows are another robot's."""
    widths = [6 + fingers for fingers in hands.values()]
    if motion.ndim != 2 or motion.shape[1] != sum(widths):
        raise SpecError(f"motion has shape {motion.shape}; expected rows of {sum(widths)}: {', '.join(names(hands))}")
    return dict(zip(hands, np.split(motion, np.cumsum(widths)[:-1], axis=1), strict=True))
