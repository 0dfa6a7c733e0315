"""The script of two arm lift tray: each hand hooks its handle from outside, then both raise the tray as one."""

from __future__ import annotations

from collections.abc import Mapping

from factory.scene import SceneState
from sim_tasks.demonstrators.hands import Act, Duet, Hand, Now, grasp_pose, hands_of, joined, offset_of, take
from sim_tasks.demonstrators.strokes import Script, Style, raised
from sim_tasks.tasks import two_arm_lift_tray as task

HANDS = hands_of(task.TASK.robot)

_SQUEEZE = 0.5
"""Both sides of a handle are touched, no more: thumb and fingers press on different lines and would turn the tray."""


def lift_tray(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Take both handles, each hand at its own pace, and raise the tray level."""
    takes: Act = {name: _take(now.scene, hand, styles[name]) for name, hand in HANDS.items()}
    now = yield takes
    # A person looks whether both hands hold before they lift.
    look = 3 * styles["left"].pause_steps
    now = yield joined(now, HANDS.values(), "tray", now.object("tray"), steps=look, closed=_SQUEEZE)
    style = styles["right"]
    high = raised(now.object("tray"), style.carry_m)
    now = yield joined(now, HANDS.values(), "tray", high, speed_m_s=0.14 * style.pace, closed=_SQUEEZE)
    yield joined(now, HANDS.values(), "tray", now.object("tray"), steps=8, closed=_SQUEEZE)


def _take(scene: SceneState, hand: Hand, style: Style) -> Script:
    side = -1.0 if hand.name == "right" else 1.0
    bar = grasp_pose((0.0, side * task.HANDLE_Y_M, task.HANDLE_Z_M), (0.0, -side, 0.0), (0.0, 0.0, -1.0))
    T = scene.T_world_object["tray"][-1] @ offset_of(style, bar)
    yield from take(scene, hand, "tray", T, style, squeeze=_SQUEEZE)
