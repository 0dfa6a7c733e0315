"""The script of two arm transport: the arms pick and clear side by side, then one passes on and the other fetches."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from factory import poses
from factory.scene import SceneState
from sim_tasks.demonstrators.hands import (
    Array,
    Duet,
    Hand,
    Now,
    Part,
    bring,
    from_above,
    go,
    hands_of,
    let_go,
    take,
    wait,
)
from sim_tasks.demonstrators.strokes import Style, raised, yaw_of
from sim_tasks.tasks import two_arm_transport as task

RIGHT, LEFT = (hands_of(task.TASK.robot)[side] for side in ("right", "left"))
_CLEARED = task.TASK.signals["cleared"]
_LIFT_M, _REST_STEPS = 0.08, 6
_OVER_M = task.FLOOR_M + task.BLOCK_M[2] / 2 + 0.004
"""From a bin's bottom to the middle of a block that is about to be let go in it."""


def transport(now: Now, styles: Mapping[str, Style]) -> Duet:
    """Pick while the other clears, pass over the tray, fetch and stow."""
    right, left = styles["right"], styles["left"]
    home = now.targets
    now = yield {"right": _pass(now, right), "left": _clear(now, left)}
    yield {"right": go(home["right"], right, speed_m_s=0.3), "left": _fetch(now, left)}


def _ready(now: Now) -> Array:
    """Return where the left hand waits: beside the tray, out of the other's way, turned as it began."""
    at = now.object("tray")[:3, 3] + np.array([0.0, 0.18, 0.10])
    return poses.pose(LEFT.pose(now.scene)[:3, :3], at)


def _pass(now: Now, style: Style) -> Part:
    """Lay the block into the tray, and let it go only when the other hand is free to come for it."""
    scene = yield from _carry(now.scene, RIGHT, "payload", "tray", style)
    scene = yield from wait(scene, RIGHT.pose(scene), lambda scene: bool(_CLEARED(scene)[-1]), closed=1.0)
    return (yield from _lay(scene, RIGHT, "payload", "tray", style))


def _clear(now: Now, style: Style) -> Part:
    scene = yield from _carry(now.scene, LEFT, "trash", "trash_bin", style)
    yield from _lay(scene, LEFT, "trash", "trash_bin", style)
    return (yield from go(_ready(now), style, speed_m_s=0.3))


def _fetch(now: Now, style: Style) -> Part:
    scene = yield from _carry(now.scene, LEFT, "payload", "target", style)
    return (yield from _lay(scene, LEFT, "payload", "target", style))


def _carry(scene: SceneState, hand: Hand, obj: str, to: str, style: Style) -> Part:
    """Take a block, lift it and bring it over a bin."""
    grasp = from_above(hand, scene, scene.T_world_object[obj][-1], style, turns=4)
    scene = yield from take(scene, hand, obj, grasp, style, hover_m=style.hover_m - 0.03)
    lifted = raised(scene.T_world_object[obj][-1], _LIFT_M)
    over = raised(_place(scene, obj, to, style), 0.06)
    return (yield from bring(scene, hand, obj, over, style, speed_m_s=0.26, through=(lifted,), rest_steps=_REST_STEPS))


def _lay(scene: SceneState, hand: Hand, obj: str, to: str, style: Style) -> Part:
    """Lower a block into a bin and let it go."""
    scene = yield from bring(scene, hand, obj, _place(scene, obj, to, style), style, speed_m_s=0.18)
    return (yield from let_go(hand, hand.pose(scene), style, back_m=0.07))


def _place(scene: SceneState, obj: str, to: str, style: Style) -> Array:
    """Return where a block is let go: over the middle of a bin, turned as it is held."""
    at = scene.T_world_object[to][-1, :3, 3] + np.array([*(3.0 * style.place_offset_m), _OVER_M])
    return poses.pose(poses.yaw_matrix(np.array(yaw_of(scene.T_world_object[obj][-1]))), at)
