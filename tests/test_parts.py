"""Scenes of parts: what is asked for is what MuJoCo has, placed, hinged and seen; what cannot be is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from factory import poses
from factory.errors import BackendError, SpecError
from factory.parts import (
    BodySpec,
    CameraSpec,
    GeomSpec,
    HingeSpec,
    SiteSpec,
    SlideSpec,
    TableSpec,
    open_box,
    tube,
)
from factory.sim import Hold
from factory.specs import ObjectSpec, PlacementSpec, ResetSpec, SceneSpec, TaskSpec
from sim_tasks.catalog import TASKS
from sim_tasks.robots import PANDA
from sim_tasks.tasks.predicates import above
from tests import kinematic
from tests.test_backends import assert_same, run, start

CUBE = GeomSpec(shape="box", size_m=(0.02, 0.02, 0.02), mass_kg=0.1)
CHEST_M = (0.20, 0.16, 0.08)

PARTS = {
    # Named before its parent: the order does not matter.
    "drawer": BodySpec(
        geoms=(
            *open_box((0.14, 0.12, 0.04), 0.005, density=300.0),
            GeomSpec(shape="sphere", size_m=(0.01,), name="knob"),
        ),
        joint=SlideSpec(axis=(-1.0, 0.0, 0.0), range_m=(0.0, 0.1), damping=1.0),
        parent="chest",
        pos_m=(0.0, 0.0, 0.02),
        sites={"front": SiteSpec(pos_m=(-0.08, 0.0, 0.02))},
    ),
    "chest": BodySpec(
        geoms=(
            GeomSpec(shape="box", size_m=(0.1, 0.08, 0.005)),
            GeomSpec(shape="box", size_m=(0.1, 0.005, 0.04), pos_m=(0.0, 0.08, 0.045)),
        ),
        joint="fixed",
    ),
    "lid": BodySpec(
        geoms=(GeomSpec(shape="box", size_m=(0.1, 0.08, 0.004), pos_m=(0.1, 0.0, 0.0)),),
        joint=HingeSpec(axis=(0.0, 1.0, 0.0), range_rad=(-1.5, 0.0)),
        parent="chest",
        pos_m=(-0.1, 0.0, 0.12),
    ),
    "cup": BodySpec(
        geoms=(*tube(0.03, 0.004, 0.08, pos_m=(0, 0, 0.04)), GeomSpec(shape="cylinder", size_m=(0.034, 0.003))),
    ),
    "peg": BodySpec(geoms=(GeomSpec(shape="capsule", size_m=(0.01, 0.04), material="WoodRed", touched=True),)),
    "sign": BodySpec(geoms=(replace(CUBE, touched=False, mass_kg=None),), joint="fixed", pos_m=(0.3, 0.3, 0.9)),
}


def task(**changes: Any) -> TaskSpec:
    """Return a Panda before parts; the chest is placed by editing the model, cup and peg by their free joints."""

    def placement(name: str, x: float, y: float, z: float) -> PlacementSpec:
        return PlacementSpec(
            object=name, x_m=(x - 0.02, x + 0.02), y_m=(y, y), z_m=(z, z), reference_m=(0.0, 0.0, 0.75)
        )

    objects = {name: ObjectSpec.of_part(name) for name in ("chest", "cup", "peg")}
    scene = {
        "base": "table",
        "parts": PARTS,
        "table": TableSpec(size_m=(1.0, 1.2, 0.05), top_m=0.75, middle_m=(0.1, 0.0)),
        "objects": {**objects, "front": replace(ObjectSpec.of_part("drawer", site="front"), body="drawer_main")},
        "joints": {"drawer": ("drawer_joint",), "lid": ("lid_joint",)},
        "contacts": (("cup", "table"), ("knob", "right_hand")),
        "contact_groups": {"table": ("geom:table_collision",), "knob": ("geom:drawer_knob",)},
        "cameras": {
            "front_view": CameraSpec(pos_m=(1.0, 0.2, 1.4), look_at_m=(0.0, 0.0, 0.8), fovy_deg=50.0),
            "agentview": CameraSpec(pos_m=(0.0, -1.0, 1.2), look_at_m=(0.0, 0.0, 0.8)),
            "wrist": CameraSpec(
                pos_m=(0.1, 0.0, 0.0), look_at_m=(0.1, 0.0, 1.0), up=(1, 0, 0), parent="robot0_right_hand"
            ),
        },
    }
    placements = (
        placement("chest", 0.15, 0.2, 0.005),
        placement("cup", 0.0, -0.2, 0.003),
        placement("peg", 0.0, 0.0, 0.06),
    )
    return replace(
        kinematic.TASK,
        name="parts",
        robot=PANDA,
        scene=SceneSpec(**{**scene, **changes}),  # type: ignore[arg-type]
        resets={"D0": ResetSpec(placements=placements)},
        subtasks={"right": (replace(kinematic.TASK.subtasks["right"][1], object_ref="cup", carries=None),)},
        signals={},
        held={},
        success=above("cup", 1.0),
        needs={},
    )


@pytest.fixture(scope="module")
def backend() -> Any:
    from sim_tasks.backends.robosuite import RobosuiteBackend

    opened = RobosuiteBackend(task())
    yield opened
    opened.close()


@pytest.mark.sim
class TestBuilt:
    def test_shapes_are_touched_and_seen_as_asked(self, backend: Any) -> None:
        model = backend.model
        for name, part in PARTS.items():
            for i, spec in enumerate(part.geoms):
                called = f"{name}_{spec.name or f'g{i}'}"
                shown = model.geom(f"{called}_vis")
                np.testing.assert_array_equal(shown.size[: len(spec.size_m)], spec.size_m)
                np.testing.assert_array_equal(shown.pos, spec.pos_m)
                assert shown.contype[0] == shown.conaffinity[0] == 0
                if spec.touched:
                    felt = model.geom(called)
                    np.testing.assert_array_equal(felt.friction, spec.friction)
                    assert felt.contype[0]
                    assert felt.group[0] == 0
        mass = model.body("drawer_main").mass[0]
        drawer = PARTS["drawer"].geoms
        volumes = [8 * np.prod(g.size_m) for g in drawer[:-1]]
        assert mass == pytest.approx(300.0 * sum(volumes) + 1000.0 * 4 / 3 * math.pi * 0.01**3, rel=1e-9)
        assert model.body("sign_main").mass[0] == 0.0

    def test_parts_hang_where_they_were_hung(self, backend: Any) -> None:
        model = backend.model
        chest = model.body("chest_main").id
        for name in ("drawer", "lid"):
            assert model.body(f"{name}_main").parentid[0] == chest
            joint, spec = model.joint(f"{name}_joint"), PARTS[name].joint
            np.testing.assert_array_equal(joint.axis, spec.axis)  # type: ignore[union-attr]
        np.testing.assert_array_equal(model.joint("drawer_joint").range, (0.0, 0.1))
        assert model.body("chest_main").dofnum[0] == 0
        assert model.body("cup_main").dofnum[0] == 6

    def test_placing_a_fixed_part_takes_what_hangs_on_it_along(self, backend: Any) -> None:
        scene, placements = start(backend, 0, 1)
        chest = scene.T_world_object["chest"][0]
        np.testing.assert_allclose(chest, placements["chest"], atol=1e-12)
        expected = chest @ poses.pose(np.eye(3), np.array([-0.08, 0.0, 0.04]))
        np.testing.assert_allclose(scene.T_world_object["front"][0], expected, atol=1e-12)
        moved, _ = start(backend, 0, 2)
        assert np.linalg.norm(moved.position("front") - scene.position("front")) > 1e-3

    def test_a_drawer_slides_and_a_snapshot_keeps_all(self, backend: Any) -> None:
        start(backend, 0, 3)
        backend.data.joint("drawer_joint").qvel[0] = 0.5
        opened = run(backend, 0, Hold(steps=10))
        path = opened.scene.joint("drawer")[:, 0]
        assert 0.02 < path[-1] < 0.101
        shift = opened.scene.position("front")[-1] - opened.scene.position("front")[0]
        assert np.linalg.norm(shift) == pytest.approx(path[-1] - path[0], abs=1e-9)
        snapshot = backend.snapshot(0)
        rest = run(backend, 0, Hold(steps=3))
        start(backend, 0, 4)
        backend.restore(0, snapshot)
        assert_same(run(backend, 0, Hold(steps=3)), rest)

    def test_a_cup_stands_on_the_table_it_was_put_on(self, backend: Any) -> None:
        start(backend, 0, 5)
        scene = run(backend, 0, Hold(steps=15)).scene
        assert scene.touching("cup", "table")[-1]
        assert not scene.touching("knob", "right_hand").any()
        assert scene.position("cup")[-1, 2] == pytest.approx(0.753, abs=1e-3)

    def test_cameras_look_where_they_were_told(self, backend: Any) -> None:
        import mujoco

        start(backend, 0, 6)
        mujoco.mj_forward(backend.model, backend.data)
        for name in ("front_view", "agentview"):
            spec = backend.task.scene.cameras[name]
            camera = backend.data.camera(name)
            ahead = np.subtract(spec.look_at_m, spec.pos_m)
            np.testing.assert_allclose(-camera.xmat.reshape(3, 3)[:, 2], ahead / np.linalg.norm(ahead), atol=1e-9)
            assert camera.xmat.reshape(3, 3)[2, 1] > 0  # up is up
            np.testing.assert_allclose(camera.xpos, spec.pos_m, atol=1e-12)
        assert backend.model.camera("front_view").fovy[0] == 50.0
        assert sum(backend.model.camera(i).name == "agentview" for i in range(backend.model.ncam)) == 1
        hand = backend.data.body("robot0_right_hand")
        assert np.linalg.norm(backend.data.camera("wrist").xpos - hand.xpos) == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"cameras": {"c": CameraSpec(pos_m=(0, 0, 0), look_at_m=(1, 0, 0), parent="robot0_had")}}, "'robot0_had'"),
            ({"parts": {**PARTS, "x": BodySpec(geoms=(replace(CUBE, material="WoodRod"),))}}, "'WoodRed'"),
        ],
    )
    def test_what_the_simulator_does_not_have_is_named(self, changes: dict[str, Any], said: str) -> None:
        from sim_tasks.backends.robosuite import RobosuiteBackend

        with pytest.raises(BackendError, match=said):
            RobosuiteBackend(task(**changes))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GeomSpec(shape="ball", size_m=(1.0,)), "unknown shape 'ball'"),  # type: ignore[arg-type]
        (lambda: GeomSpec(shape="cylinder", size_m=(0.1,)), "expected positive metres: radius, half length"),
        (lambda: GeomSpec(shape="sphere", size_m=(-0.1,)), "expected positive metres"),
        (lambda: replace(CUBE, mass_kg=0.0), "must weigh something"),
        (lambda: HingeSpec(axis=(0, 0, 0), range_rad=(0, 1)), "must point somewhere"),
        (lambda: SlideSpec(axis=(1, 0, 0), range_m=(0.1, 0.0)), "equal or swapped"),
        (lambda: BodySpec(geoms=()), "without shapes"),
        (lambda: BodySpec(geoms=(CUBE,), joint="fre"), "Did you mean 'free'"),  # type: ignore[arg-type]
        (lambda: BodySpec(geoms=(CUBE,), parent="a"), "cannot be free"),
        (lambda: BodySpec(geoms=(CUBE,), joint=HingeSpec(axis=(1, 0, 0), range_rad=(0, 1))), "needs a `parent`"),
        (lambda: BodySpec(geoms=(replace(CUBE, name="rim"),), sites={"rim": SiteSpec()}), "must differ"),
        (lambda: BodySpec(geoms=(replace(CUBE, touched=False),)), "weighs nothing"),
        (lambda: TableSpec(top_m=0.0), "positive metres"),
        (lambda: CameraSpec(pos_m=(0, 0, 1), look_at_m=(0, 0, 0)), "along its up direction"),
        (lambda: CameraSpec(pos_m=(1, 0, 1), look_at_m=(0, 0, 0), fovy_deg=0), "between 0 and 180"),
        (lambda: tube(0.1, 0.01, 0.1, sides=2), "at least 3"),
        (lambda: task(parts={**PARTS, "lid": replace(PARTS["lid"], parent="chst")}), "Did you mean 'chest'"),
        (
            lambda: task(parts={**PARTS, "chest": replace(PARTS["chest"], parent="lid")}),
            "hang on each other in a circle",
        ),
        (lambda: task(boxes={"cup": TASKS["stack_three"].scene.boxes["cubeA"]}), "belongs to a box and to a part"),
        (lambda: task(contact_groups={"cup": ("geom:x",)}), "belongs to an object and to a contact group"),
        (lambda: replace(TASKS["stack"].scene, parts=PARTS), "belong to the base 'table'"),
    ],
)
def test_parts_that_cannot_be_are_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(SpecError) as error:
        make()
    assert said in str(error.value)


def test_the_inside_of_a_tube_is_free_and_its_wall_closed() -> None:
    """Points inside the radius are in no side, points in the middle of the wall in at least one, all around."""
    sides = tube(0.03, 0.004, 0.05, sides=10)
    angles = np.linspace(0, 2 * math.pi, 101)
    for radius, inside in ((0.0299, False), (0.0335, True)):
        for angle in angles:
            point = np.array([radius * math.cos(angle), radius * math.sin(angle), 0.0])
            assert any(_contains(side, point) for side in sides) is inside


def test_an_open_box_has_the_clear_space_it_was_asked_for() -> None:
    walls = open_box((0.2, 0.1, 0.05), 0.004)
    rng = np.random.default_rng(0)
    for point in rng.uniform((-0.0999, -0.0499, 0.0041), (0.0999, 0.0499, 0.06), (200, 3)):
        assert not any(_contains(wall, point) for wall in walls)
    for point in ((0.102, 0.0, 0.03), (-0.102, 0.051, 0.03), (0.0, -0.052, 0.053), (0.05, 0.02, 0.002)):
        assert any(_contains(wall, np.array(point)) for wall in walls)


def _contains(geom: GeomSpec, point: np.ndarray) -> bool:
    w, _, _, z = geom.quat_wxyz
    turn = poses.yaw_matrix(np.array(2 * math.atan2(z, w)))
    return bool(np.all(np.abs(turn.T @ (point - geom.pos_m)) <= np.array(geom.size_m) + 1e-12))
