"""Small scenes for two-handed robots: one box on a table, nothing to do but to move it."""

from __future__ import annotations

from factory.parts import BodySpec, GeomSpec, TableSpec
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, RobotSpec, SceneSpec, SubtaskSpec, TaskSpec
from sim_tasks.robots import EGO_VIEW, FRONT_VIEW, GR1, GR1_EGO_VIEW, GR1_TABLE, TWO_DEX_PANDAS, TWO_PANDAS
from sim_tasks.tasks.predicates import above, grasp_contacts

BOX_M = (0.03, 0.10, 0.05)
"""Half size of the box: narrower than any hand's opening, longer than two hands side by side."""


def box_task(robot: RobotSpec, *, table: TableSpec | None = None, half_size_m: tuple[float, ...] = BOX_M) -> TaskSpec:
    """Return a task in which a robot has a box before it, 1 cm above the table at reset."""
    table = table or TableSpec()
    top = table.top_m
    groups = tuple(group for eef in robot.eefs.values() for group in (*eef.fingers, *eef.touch))
    cameras = {"front_view": FRONT_VIEW}
    if robot is TWO_DEX_PANDAS:
        cameras["ego_view"] = EGO_VIEW
    if robot is GR1:
        cameras["ego_view"] = GR1_EGO_VIEW

    def reset(half_range_m: float) -> ResetSpec:
        height = half_size_m[2] + 0.01
        return ResetSpec(
            placements=(
                PlacementSpec(
                    object="box",
                    x_m=(-half_range_m, half_range_m),
                    y_m=(-half_range_m, half_range_m),
                    z_m=(height, height),
                    yaw_rad=(-half_range_m, half_range_m),
                    reference_m=(0.0, 0.0, top),
                ),
            )
        )

    lid = GeomSpec(shape="box", size_m=half_size_m, rgba=(0.8, 0.3, 0.2, 1.0), density=200.0, name="block")
    return TaskSpec(
        name=f"box_{robot.name}",
        instruction="Lift the box.",
        robot=robot,
        scene=SceneSpec(
            base="table",
            parts={"box": BodySpec(geoms=(lid,))},
            table=table,
            cameras=cameras,
            objects={"box": ObjectSpec.of_part("box", yaw_symmetry=2)},
            contacts=grasp_contacts("box", fingers=groups),
        ),
        resets={"D0": reset(0.0), "D1": reset(0.05)},
        subtasks={
            eef: (
                SubtaskSpec(name="take", object_ref="box", end_signal="lifted"),
                SubtaskSpec(name="hold", object_ref="box"),
            )
            for eef in robot.eefs
        },
        signals={"lifted": above("box", top + half_size_m[2] + 0.02)},
        success=above("box", top + half_size_m[2] + 0.10),
        settle_steps=5,
    )


TASKS = {
    "two Pandas": box_task(TWO_PANDAS),
    "two Pandas with hands": box_task(TWO_DEX_PANDAS),
    "GR-1": box_task(GR1, table=GR1_TABLE),
}
