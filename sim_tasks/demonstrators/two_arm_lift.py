"""The script of two arm lift: each hand takes its handle, then both raise the pot as one."""

from __future__ import annotations

from collections.abc import Mapping

from factory.scene import SceneState
from sim_tasks.demonstrators.hands import (
    Act,
    Duet,
    Hand,
    Now,
    easier,
    grasp_pose,
    hands_of,
    joined,
    offset_of,
    take,
    turned_over,
)
from sim_tasks.demonstrators.strokes import Script, Style, raised
from sim_tasks.tasks import two_arm_lift as task

HANDS = hands_of(task.TASK.robot)


def lift(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Take both handles, each arm at its own pace, and raise the pot level."""
    takes: Act = {name: _take(now.scene, hand, styles[name]) for name, hand in HANDS.items()}
    now = yield takes
    style = styles["right"]
    yield joined(now, HANDS.values(), "pot", raised(now.object("pot"), style.carry_m + 0.04), steps=30)


def _take(scene: SceneState, hand: Hand, style: Style) -> Script:
    side = -1.0 if hand.name == "right" else 1.0
    bar = grasp_pose((0.0, side * task.HANDLE_Y_M, task.HANDLE_Z_M), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))
    T = scene.T_world_object["pot"][-1] @ offset_of(style, bar)
    yield from take(scene, hand, "pot", easier(hand, scene, (T, turned_over(T))), style)
