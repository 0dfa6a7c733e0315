"""Cluttered variants: `stack` and `can` with something in the way, generated from demonstrations that never saw it.

What stands there is fixed, so the demonstrations' states are states of these scenes too. Straight transit hits it;
planned transit (`factory/transit.py`) goes around.
"""

from __future__ import annotations

from dataclasses import replace

from factory.parts import BodySpec, GeomSpec, Triple
from factory.specs import PlacementSpec, ResetSpec, TaskSpec
from sim_tasks.tasks import can, stack

_TABLE_M = 0.8
_STEEL, _BOARD = (0.45, 0.47, 0.5, 1.0), (0.72, 0.53, 0.34, 1.0)

_BOARDS_M = (1.14, 1.38)
"""Height of each board's lower side. A Panda whose fingers hold a cube at the table has its wrist 30 cm above them, at
1.12 m; one that has lifted the cube by a few centimetres, as every demonstration does, is stopped by the lower board.
Between the boards is no room for a hand, and to pass above both it would have to be lifted by 60 cm."""
_SHELF_HALF_Y_M = 0.05


def _box(size_m: Triple, pos_m: Triple, rgba: tuple[float, float, float, float]) -> GeomSpec:
    """Return a box of a full size."""
    return GeomSpec(shape="box", size_m=(size_m[0] / 2, size_m[1] / 2, size_m[2] / 2), pos_m=pos_m, rgba=rgba)


def _shelf() -> BodySpec:
    """Return two boards that reach over the table from two legs at their far end."""
    length, thick, leg = 0.32, 0.02, 0.02
    size = (length, 2 * _SHELF_HALF_Y_M, thick)
    boards = [_box(size, (-length / 2, 0.0, bottom - _TABLE_M + thick / 2), _BOARD) for bottom in _BOARDS_M]
    height = _BOARDS_M[-1] - _TABLE_M
    legs = [
        _box((leg, leg, height), (-leg / 2, side * (_SHELF_HALF_Y_M - leg / 2), height / 2), _STEEL) for side in (-1, 1)
    ]
    return BodySpec(geoms=(*boards, *legs), joint="fixed", pos_m=(0.34, 0.0, _TABLE_M))


def _beside(name: str, half_edge_m: float, side: int, half_x_m: float, half_y_m: float) -> PlacementSpec:
    """Return starts of a cube to one side of the shelf."""
    return PlacementSpec(
        object=name,
        x_m=(-half_x_m, half_x_m),
        y_m=(-half_y_m, half_y_m),
        z_m=(half_edge_m + 0.01, half_edge_m + 0.01),
        reference_m=(0.04, side * 0.18, _TABLE_M),
        radius_m=half_edge_m * 2**0.5,
    )


def _sides(half_x_m: float, half_y_m: float) -> ResetSpec:
    return ResetSpec(
        placements=(_beside("cubeA", 0.02, -1, half_x_m, half_y_m), _beside("cubeB", 0.025, 1, half_x_m, half_y_m))
    )


STACK_SHELF = replace(
    stack.TASK,
    name="stack/shelf",
    description="Stack a cube on another, with a shelf above the way.",
    scene=replace(stack.TASK.scene, parts={"shelf": _shelf()}),
    resets={"D0": _sides(0.03, 0.03), "D1": _sides(0.06, 0.06)},
    environments=(),
)


def _posts() -> BodySpec:
    """Return a row of posts between the two bins, from the table up."""
    radius, height = 0.015, 0.5
    return BodySpec(
        geoms=tuple(
            GeomSpec(
                shape="cylinder",
                size_m=(radius, height / 2),
                pos_m=(x, 0.0, height / 2),
                rgba=_STEEL,
            )
            for x in (0.08, 0.2, 0.32)
        ),
        joint="fixed",
        pos_m=(0.0, 0.005, _TABLE_M),
    )


def _away(reset: ResetSpec) -> ResetSpec:
    """Return starts with the can in the half of its bin that is away from the posts, where a hand has room."""
    kept = tuple(
        replace(placement, y_m=(placement.y_m[0], 0.05)) if placement.object == "can" else placement
        for placement in reset.placements
    )
    return replace(reset, placements=kept)


CAN_POSTS: TaskSpec = replace(
    can.TASK,
    name="can/posts",
    description="Move a can to another bin, around a row of posts between the bins.",
    scene=replace(can.TASK.scene, parts={"posts": _posts()}),
    resets={variant: _away(reset) for variant, reset in can.TASK.resets.items()},
    environments=(),
)

CLUTTERED = {"stack": {"stack/shelf": STACK_SHELF}, "can": {"can/posts": CAN_POSTS}}
"""Family -> its cluttered tasks by name."""
