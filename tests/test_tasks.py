"""The shipped tasks: consistent specifications, starts within their ranges, predicates that mean what they say."""

from __future__ import annotations

import ast
import math
from importlib.metadata import EntryPoint
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from factory import poses
from factory.errors import SpecError
from factory.placements import sample_placements
from factory.scene import SceneState
from factory.specs import PlacementSpec, ResetSpec, TaskSpec
from sim_tasks import catalog
from sim_tasks.catalog import TASKS, all_tasks, find_task, plugin_problems
from sim_tasks.tasks import gr1_pouring, lift
from sim_tasks.tasks.predicates import AWAY_M, FINGERS

SIM_TASKS = Path(catalog.__file__).parent
EVERY_TASK = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
EVERY_RESET = pytest.mark.parametrize(
    ("task", "variant"), [(t, v) for t in TASKS.values() for v in t.resets], ids=lambda x: getattr(x, "name", x)
)


def scene(task: TaskSpec, hand=(0.0, 0.0, 2.0), touching=(), joints=None, **positions) -> SceneState:
    """A hand-made state: objects at positions, unrotated; contacts only where said."""
    far_off = {name: (9.0 + i, 9.0, 0.0) for i, name in enumerate(task.scene.objects)}
    at = {name: poses.pose(np.eye(3), np.array(xyz))[None] for name, xyz in (far_off | positions).items()}
    return SceneState(
        T_world_object=at,
        T_world_eef={eef: poses.pose(np.eye(3), np.array(hand, float))[None] for eef in task.robot.eefs},
        T_world_base={"right": np.eye(4)},
        joints={name: np.full((1, 1), value) for name, value in (joints or {}).items()},
        contacts={f"{a}|{b}": np.array([(a, b) in touching or (b, a) in touching]) for a, b in task.scene.contacts},
    )


def grasp(obj: str) -> tuple[tuple[str, str], ...]:
    return tuple((obj, finger) for finger in FINGERS)


# --- specifications -------------------------------------------------------------------------------------------------


@EVERY_TASK
def test_a_task_is_consistent(task: TaskSpec):
    assert TASKS[task.name] is task
    assert {"D0", "D1"} <= set(task.resets)
    assert len({task.instruction, *task.paraphrases}) >= 5
    assert task.description
    assert task.scene.clearances_mm
    assert min(task.scene.clearances_mm.values()) > 0
    hands = {group for eef in task.robot.eefs.values() for group in (*eef.fingers, *eef.touch)}
    groups = set(task.scene.objects) | set(task.scene.contact_groups) | hands
    assert {side for pair in task.scene.contacts for side in pair} <= groups
    ours = set(task.scene.objects) | set(task.signals)
    assert set(task.aliases.values()) <= ours
    for key in task.held:
        eef, _, obj = key.rpartition(":")
        fingers = [set(task.robot.eefs[name].fingers) for name in ([eef] if eef else task.robot.eefs)]
        assert any({(obj, finger) for finger in group} <= set(task.scene.contacts) for group in fingers)


@EVERY_TASK
def test_what_is_grasped_is_what_is_carried_next(task: TaskSpec):
    for eef, chain in task.subtasks.items():
        for before, after in pairwise(chain):
            if before.grasps:
                assert after.carries == before.grasps
        for subtask in chain:
            for obj in {subtask.grasps, subtask.carries} - {None}:
                assert task.held_by(eef, obj) is not None
            low, high = subtask.end_jitter_steps
            assert (low, high) == (0, 0) or 0 < low < high


@EVERY_TASK
def test_predicates_answer_for_every_row(task: TaskSpec):
    state = scene(task, joints=dict.fromkeys(task.scene.joints, 0.0))
    for predicate in (task.success, *task.signals.values(), *task.held.values()):
        answer = predicate(state)
        assert answer.shape == (1,)
        assert answer.dtype == bool
        assert not answer[0]


# --- starts ---------------------------------------------------------------------------------------------------------


def yaw_beyond(spec: PlacementSpec, T: np.ndarray) -> float:
    """How far a pose is turned beyond the low end of its range, in [0, 2 pi)."""
    R = T[:3, :3] @ poses.matrix_from_quat_wxyz(np.array(spec.quat_wxyz)).T
    return (math.atan2(R[1, 0], R[0, 0]) - spec.yaw_rad[0] + 1e-9) % (2 * math.pi)


@EVERY_RESET
def test_starts_keep_their_ranges_and_their_distance(task: TaskSpec, variant: str):
    reset, rng = task.reset(variant), np.random.default_rng(0)
    for _ in range(200):
        start = sample_placements(reset, rng)
        assert list(start) == [spec.object for spec in reset.placements]
        for i, spec in enumerate(reset.placements):
            within = poses.inverse(start[spec.on]) if spec.on else np.eye(4)
            offset = (within @ start[spec.object])[:3, 3] - spec.reference_m
            for value, (low, high) in zip(offset, (spec.x_m, spec.y_m, spec.z_m), strict=True):
                assert low - 1e-12 <= value <= high + 1e-12
            assert yaw_beyond(spec, within @ start[spec.object]) <= spec.yaw_rad[1] - spec.yaw_rad[0] + 1e-6
            for other in reset.placements[:i]:
                apart = np.linalg.norm((start[spec.object] - start[other.object])[:2, 3])
                if spec.radius_m and other.radius_m:
                    assert apart >= spec.radius_m + other.radius_m + reset.min_gap_m


@EVERY_TASK
def test_d1_is_at_least_twice_as_wide_as_d0(task: TaskSpec):
    """In some coordinate of every object that both place, or by placing an object that D0 leaves where it is."""
    d0 = {spec.object: spec for spec in task.reset("D0").placements}
    d1 = {spec.object: spec for spec in task.reset("D1").placements}
    assert set(d0) <= set(d1)

    def widths(spec: PlacementSpec) -> list[float]:
        return [high - low for low, high in (spec.x_m, spec.y_m, spec.yaw_rad)]

    wider = [obj for obj in d0 if any(b >= 2 * a > 0 for a, b in zip(widths(d0[obj]), widths(d1[obj]), strict=True))]
    assert set(d1) > set(d0) or set(wider) == set(d0)


def test_ranges_are_those_of_the_published_tasks():
    stack, three, square = (find_task(name) for name in ("stack", "stack_three", "square"))
    for task, variant, half in ((stack, "D0", 0.08), (stack, "D1", 0.2), (three, "D0", 0.1), (three, "D1", 0.2)):
        for spec in task.reset(variant).placements:
            assert (spec.x_m, spec.y_m, spec.yaw_rad) == ((-half, half), (-half, half), (0.0, 2 * math.pi))
    (nut,) = square.reset("D0").placements
    assert (nut.x_m, nut.y_m) == ((-0.115, -0.11), (0.11, 0.225))
    nut, peg = square.reset("D1").placements
    assert (nut.x_m, nut.y_m, peg.x_m, peg.y_m) == ((-0.115, 0.115), (-0.255, 0.255), (-0.1, 0.3), (-0.2, 0.2))
    assert peg.yaw_rad == (0.0, 0.0)
    nut, peg = square.reset("D2").placements
    assert {nut.x_m, nut.y_m, peg.x_m, peg.y_m} == {(-0.25, 0.25)}
    assert peg.yaw_rad == (0.0, math.pi / 2)


# --- predicates -----------------------------------------------------------------------------------------------------


def test_a_cube_is_lifted_above_four_centimetres():
    task = find_task("lift")
    assert task.success(scene(task, cube=(0, 0, 0.841)))[0]
    assert not task.success(scene(task, cube=(0, 0, 0.839)))[0]


def test_a_grasp_touches_with_both_fingers():
    task = find_task("lift")
    assert task.held["cube"](scene(task, touching=grasp("cube")))[0]
    assert not task.held["cube"](scene(task, touching=grasp("cube")[:1]))[0]


def test_stacked_means_lifted_touching_and_let_go():
    task = find_task("stack")
    on_top, contact = {"cubeA": (0, 0, 0.87), "cubeB": (0, 0, 0.825)}, (("cubeA", "cubeB"),)
    assert task.success(scene(task, touching=contact, **on_top))[0]
    assert not task.success(scene(task, **on_top))[0]
    assert not task.success(scene(task, touching=(*contact, *grasp("cubeA")), **on_top))[0]
    assert not task.success(scene(task, touching=contact, cubeA=(0, 0, 0.83), cubeB=(0, 0, 0.825)))[0]


def test_a_tower_needs_all_three():
    task = find_task("stack_three")
    tower = {"cubeB": (0, 0, 0.825), "cubeA": (0, 0, 0.87), "cubeC": (0, 0, 0.91)}
    a_b, c_a = ("cubeA", "cubeB"), ("cubeC", "cubeA")
    assert task.success(scene(task, touching=(a_b, c_a), **tower))[0]
    assert not task.success(scene(task, touching=(a_b,), **tower))[0]
    assert not task.success(scene(task, touching=(c_a,), **tower))[0]
    assert task.signals["cubeA_stacked"](scene(task, touching=(a_b,), **tower))[0]


def test_a_nut_is_on_its_peg_when_low_centred_and_left():
    task = find_task("square")
    peg = (0.23, 0.1, 0.85)
    assert task.success(scene(task, hand=(0.2, 0.1, 0.95), peg=peg, nut=(0.25, 0.08, 0.83)))[0]
    assert not task.success(scene(task, hand=(0.2, 0.1, 0.95), peg=peg, nut=(0.27, 0.1, 0.83)))[0]
    assert not task.success(scene(task, hand=(0.2, 0.1, 0.95), peg=peg, nut=(0.23, 0.1, 0.88)))[0]
    assert not task.success(scene(task, hand=(0.23, 0.1, 0.83 + 0.99 * AWAY_M), peg=peg, nut=(0.23, 0.1, 0.83)))[0]
    assert not task.success(scene(task, hand=(0.17, 0.1, 0.84), peg=peg, nut=(0.23, 0.1, 0.83), touching=grasp("nut")))[
        0
    ]


def test_a_can_belongs_into_the_far_quarter_of_the_bin():
    task = find_task("can")
    target = (0.1, 0.28, 0.8)
    away = (0.0, 0.0, 1.2)
    assert task.success(scene(task, hand=away, bin=target, can=(0.2, 0.4, 0.86)))[0]
    assert not task.success(scene(task, hand=away, bin=target, can=(0.0, 0.4, 0.86)))[0]
    assert not task.success(scene(task, hand=away, bin=target, can=(0.2, 0.4, 0.95)))[0]
    assert not task.success(scene(task, hand=(0.2, 0.4, 0.87), bin=target, can=(0.2, 0.4, 0.86)))[0]


def test_a_door_is_open_beyond_its_hinge_angle():
    task = find_task("door")
    assert task.success(scene(task, joints={"hinge": 0.31, "latch": 0.0}))[0]
    assert not task.success(scene(task, joints={"hinge": 0.29, "latch": 0.0}))[0]
    assert task.signals["latch_turned"](scene(task, joints={"hinge": 0.0, "latch": 1.3}))[0]


def test_a_needle_is_threaded_through_the_hole_and_not_beside_it():
    task = find_task("two_arm_threading")
    holds = task.scene.contacts
    eye, through = (0.0, 0.0, 0.9), (0.0, 0.0, 0.933)
    assert task.success(scene(task, touching=holds, eye=eye, needle=through))[0]
    assert not task.success(scene(task, touching=holds, eye=eye, needle=(0.0, 0.02, 0.933)))[0]
    assert not task.success(scene(task, touching=holds, eye=eye, needle=(-0.09, 0.0, 0.933)))[0]
    assert not task.success(scene(task, eye=eye, needle=through))[0]
    assert not task.success(scene(task, touching=holds, eye=(0.0, 0.0, 0.8), needle=(0.0, 0.0, 0.833)))[0]


def test_three_pieces_are_assembled_when_each_sits_in_the_next():
    task = find_task("two_arm_three_piece_assembly")
    socket, column, cap = (0.0, 0.0, 0.8), (0.002, 0.0, 0.806), (0.002, 0.002, 0.842)
    assert task.success(scene(task, socket=socket, column=column, cap=cap))[0]
    assert not task.success(scene(task, socket=socket, column=(0.03, 0.0, 0.806), cap=(0.03, 0.0, 0.842)))[0]
    assert not task.success(scene(task, socket=socket, column=column, cap=(0.002, 0.002, 0.856)))[0]
    assert not task.success(scene(task, socket=socket, column=(0.002, 0.0, 0.818), cap=(0.002, 0.0, 0.854)))[0]
    assert not task.success(scene(task, hand=(0.0, 0.0, 0.86), socket=socket, column=column, cap=cap))[0]


def test_cans_belong_into_the_bins_of_their_colours():
    task = find_task("gr1_can_sort")
    bins = {"red_bin": (0.0, -0.26, 0.95), "blue_bin": (0.0, 0.26, 0.95)}
    assert task.success(scene(task, **bins, red_can=(0, -0.26, 1.03), blue_can=(0, 0.26, 1.03)))[0]
    assert not task.success(scene(task, **bins, red_can=(0, 0.26, 1.03), blue_can=(0, -0.26, 1.03)))[0]


def test_every_ball_has_to_be_in_the_bowl():
    task = find_task("gr1_pouring")
    there = {"bowl": (0.0, 0.1, 1.025), "mat": (0.0, 0.1, 0.95)}
    poured = dict.fromkeys(gr1_pouring.BALLS, (0.02, 0.1, 1.11))
    assert task.success(scene(task, **there, **poured))[0]
    assert not task.success(scene(task, **there, **poured | {"ball_3": (0.02, 0.2, 1.11)}))[0]
    assert not task.success(scene(task, **there | {"mat": (0.1, 0.1, 0.95)}, **poured))[0]


def test_coffee_needs_the_pod_in_its_holder_and_the_lid_shut():
    task = find_task("gr1_coffee")
    machine, loaded = (0.0, 0.0, 0.95), (0.0, 0.0, 1.035)
    assert task.success(scene(task, joints={"lid": 1.83}, machine=machine, pod=loaded))[0]
    assert not task.success(scene(task, joints={"lid": 1.0}, machine=machine, pod=loaded))[0]
    assert not task.success(scene(task, joints={"lid": 1.83}, machine=machine, pod=(0.1, 0.0, 1.035)))[0]


def test_a_family_says_every_combination_in_its_own_words():
    family = catalog.FAMILIES["gr1_pick_place"]
    assert len(family) == 6 * 3 * 3
    said = [sentence for task in family.values() for sentence in (task.instruction, *task.paraphrases)]
    assert len(set(said)) == 5 * len(family)
    for name, task in family.items():
        assert find_task(name) is task
        assert task.name == name
        assert catalog.family_of(name) == "gr1_pick_place"


def test_what_lies_in_something_is_placed_after_it():
    cup, *_, ball = find_task("gr1_pouring").reset("D0").placements
    with pytest.raises(SpecError, match=f"placement of {ball.object!r} on unknown object placed before 'cup'"):
        ResetSpec(placements=(ball, cup))


# --- catalogue ------------------------------------------------------------------------------------------------------


def test_a_misspelt_task_is_answered_with_a_near_one():
    with pytest.raises(SpecError, match="Did you mean 'stack_three'"):
        find_task("stack_tree")


def test_task_files_import_no_simulator():
    for path in [*sorted((SIM_TASKS / "tasks").glob("*.py")), SIM_TASKS / "catalog.py"]:
        tree = ast.parse(path.read_text())
        imported = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        imported |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
        forbidden = ("mujoco", "robosuite", "sim_tasks.backends", "sim_tasks.demonstrators")
        assert not [name for name in imported if name.startswith(forbidden)], path


def plug_in(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    points = [EntryPoint(name=name, value=value, group=catalog.ENTRY_POINTS) for name, value in values.items()]
    monkeypatch.setattr(catalog, "entry_points", lambda group: points)


def test_a_package_may_add_a_task(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "pouring.py").write_text(
        "from dataclasses import replace\nfrom sim_tasks.tasks.lift import TASK as LIFT\n"
        "TASK = replace(LIFT, name='pour')\nTWIN = replace(LIFT, name='pour')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    plug_in(monkeypatch, pour="pouring:TASK", broken="no_such_package:TASK", odd="math:pi")
    assert find_task("pour").name == "pour"
    assert set(all_tasks()) == {*TASKS, "pour"}
    assert [name for name in ("broken", "odd") if any(name in p for p in plugin_problems())] == ["broken", "odd"]
    with pytest.raises(SpecError, match=r"no_such_package:TASK cannot be used: importing it failed"):
        find_task("broken")
    plug_in(monkeypatch, pour="pouring:TASK", twin="pouring:TWIN")
    assert set(all_tasks()) == set(TASKS)
    with pytest.raises(SpecError, match="offers the name 'pour' too"):
        find_task("pour")


def test_a_shipped_name_cannot_be_taken(monkeypatch: pytest.MonkeyPatch):
    plug_in(monkeypatch, lift="sim_tasks.tasks.lift:TASK")
    assert all_tasks()["lift"] is lift.TASK
    assert "belongs to a shipped task" in plugin_problems()[0]
