"""What counts as done in the tasks of two hands with fingers, told by scenes made by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from factory import poses
from factory.scene import SceneState
from factory.specs import TaskSpec
from sim_tasks.catalog import find_task

Array = NDArray[np.float64]
FAR = (9.0, 9.0, 2.0)


def at(x: float, y: float, z: float, tilt_rad: float = 0.0) -> Array:
    """An object's pose, tilted about the world's x axis."""
    return poses.pose(poses.matrix_from_axis_angle(np.array([tilt_rad, 0.0, 0.0])), np.array([x, y, z]))


def scene(
    task: TaskSpec,
    *,
    hands: tuple[float, float, float] = FAR,
    holding: tuple[str, ...] = (),
    slide: float = 0.0,
    objects: Mapping[str, Array],
) -> SceneState:
    """A state with both hands at one place; `holding` are "eef:object" that all fingers of that hand touch."""
    touching = {
        f"{obj}|{finger}"
        for eef, _, obj in (h.partition(":") for h in holding)
        for finger in task.robot.eefs[eef].fingers
    }
    return SceneState(
        T_world_object={name: objects[name][None] for name in task.scene.objects},
        T_world_eef={eef: at(*hands)[None] for eef in task.robot.eefs},
        T_world_base={eef: np.eye(4)[None] for eef in task.robot.eefs},
        joints={name: np.full((1, 1), slide) for name in task.scene.joints},
        contacts={f"{a}|{b}": np.array([f"{a}|{b}" in touching]) for a, b in task.scene.contacts},
    )


def done(
    task: TaskSpec,
    *,
    hands: tuple[float, float, float] = FAR,
    holding: tuple[str, ...] = (),
    slide: float = 0.0,
    **objects: Array,
) -> bool:
    return bool(task.success(scene(task, hands=hands, holding=holding, slide=slide, objects=objects))[0])


BOTH_HOLD = ("right:tray", "left:tray")


def test_a_tray_is_lifted_by_both_hands_with_its_bottle_standing():
    task = find_task("two_arm_lift_tray")
    high, on = at(0, 0, 0.9), at(0, 0, 0.978)
    assert done(task, tray=high, bottle=on, holding=BOTH_HOLD)
    assert not done(task, tray=at(0, 0, 0.8), bottle=at(0, 0, 0.878), holding=BOTH_HOLD)
    assert not done(task, tray=high, bottle=on, holding=BOTH_HOLD[:1])
    assert not done(task, tray=high, bottle=at(0, 0, 0.99, math.pi / 2), holding=BOTH_HOLD)
    assert not done(task, tray=high, bottle=at(0.3, 0, 0.8), holding=BOTH_HOLD)
    assert not done(task, tray=at(0, 0, 0.9, 0.3), bottle=on, holding=BOTH_HOLD)


def test_a_box_is_packed_when_its_lid_covers_the_toolbox_and_nobody_holds_it():
    task = find_task("two_arm_box_cleanup")
    box = at(0, 0, 0.8)
    stowed = at(0, 0, 0.806)
    assert done(task, box=box, toolbox=stowed, lid=box)
    assert not done(task, box=box, toolbox=stowed, lid=box, hands=(0, 0.2, 1.07))
    assert not done(task, box=box, toolbox=at(0, -0.3, 0.8), lid=box)
    assert not done(task, box=box, toolbox=stowed, lid=at(0, 0, 0.836))


def test_a_drawer_is_tidy_when_it_is_shut_with_the_toolbox_in_it():
    task = find_task("two_arm_drawer_cleanup")
    shut, out = at(0, 0, 0.8), at(0, 0.2, 0.8)
    assert done(task, cabinet=shut, drawer=shut, toolbox=at(0, 0, 0.814))
    assert not done(task, cabinet=shut, drawer=out, toolbox=at(0, 0.2, 0.814), slide=0.2)
    assert not done(task, cabinet=shut, drawer=shut, toolbox=at(0, 0, 0.95))
    assert not done(task, cabinet=shut, drawer=shut, toolbox=at(0, 0, 0.814), hands=(0, 0.2, 1.06))


@pytest.mark.parametrize(("name", "above"), [("two_arm_box_cleanup", "lid"), ("two_arm_drawer_cleanup", "cabinet")])
def test_a_toolbox_passes_above_what_is_in_its_way(name: str, above: str):
    """The height that ends the lift clears the tallest shape that stands on the table there."""
    task = find_task(name)
    signal = {"lid": "raised", "cabinet": "picked"}[above]
    carried = {"lid": "lid", "cabinet": "toolbox"}[above]
    over = {"lid": "toolbox", "cabinet": "cabinet"}[above]
    top = max(g.pos_m[2] + g.size_m[-1] for g in task.scene.parts[over].geoms if g.shape == "box")
    eefs = ("right", "left") if above == "lid" else ("right",)
    holding = tuple(f"{eef}:{carried}" for eef in eefs)
    others = {name: at(9, 9, 0) for name in task.scene.objects}
    just_too_low = at(0, 0, 0.8 + top - 0.001)
    assert not task.signals[signal](scene(task, objects={**others, carried: just_too_low}, holding=holding))[0]
    assert task.signals[signal](scene(task, objects={**others, carried: at(0, 0, 0.98)}, holding=holding))[0]
