"""Reads demonstrations of Isaac Lab's tasks where Isaac Lab is not: from the poses and signals that a file stores."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from factory.annotation import annotated_by_poses
from factory.demos import AnnotatedDemo, Demo
from factory.errors import DemoError, unknown_name
from factory.specs import TaskSpec

Array = NDArray[np.float64]


def hands_of(demo: Demo, stored: Mapping[str, Array], task: TaskSpec) -> dict[str, Array]:
    """Return stored poses under the task's names of its hands. Raises DemoError when a hand has none."""
    found: dict[str, Array] = {}
    for ours, eef in task.robot.eefs.items():
        name = eef.frame.partition(":")[2]
        if name not in stored:
            raise DemoError(f"{demo.path}, {demo.name}: {unknown_name('end effector', name, stored)}")
        found[ours] = stored[name]
    return found


def annotate_stored(demo: Demo, task: TaskSpec) -> AnnotatedDemo:
    """Return the demo in the task's own names; without its environment nobody knows whether it is a success.

    The actions of Isaac Lab's tasks end with the fingers' commands, hand by hand.

    Raises:
        DemoError: hands' or objects' poses are not stored, or actions are fewer than fingers.
    """
    counts = {name: eef.gripper_action[1] - eef.gripper_action[0] for name, eef in task.robot.eefs.items()}
    if demo.actions.ndim != 2 or demo.actions.shape[1] < sum(counts.values()):
        raise DemoError(
            f"{demo.path}, {demo.name}: actions have shape {demo.actions.shape}; the last {sum(counts.values())} "
            "columns should be the fingers'"
        )
    fingers = demo.actions[:, demo.actions.shape[1] - sum(counts.values()) :]
    parts = np.split(fingers, np.cumsum([*counts.values()])[:-1], axis=1)
    return annotated_by_poses(
        demo,
        task,
        eefs=hands_of(demo, demo.T_world_eef, task),
        targets=hands_of(demo, demo.T_world_eef_target, task),
        grippers=dict(zip(counts, (part.copy() for part in parts), strict=True)),
    )
