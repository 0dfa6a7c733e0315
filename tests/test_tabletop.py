"""The tabletop family: who plays what in a scene, what may be asked of it, and plays that end as they were meant to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
from numpy.typing import NDArray

from dreams.instructions import Instruction
from dreams.judge import EVENTS as JUDGED
from factory import poses
from factory.demos import read_demos
from factory.errors import SpecError
from factory.parts import GeomSpec
from factory.placements import sample_placements
from factory.scene import SceneState
from factory.sim import SimBackend
from factory.specs import GenerationSpec, RenderSpec
from sim_tasks.catalog import FAMILIES, find_task
from sim_tasks.tasks import tabletop
from sim_tasks.tasks.tabletop import COMBINATIONS, DREAM_VIEW, HELD_OUT, TRAINING, colour_kind, instruction, labels
from sim_tasks.tasks.tabletop_events import (
    EVENTS,
    FLOOR_M,
    GRASP_M,
    MOVED,
    OUTCOMES,
    ROOM_M,
    TARGETS,
    events,
    goal,
    outcome_of,
)

Array = NDArray[np.float64]
NAMES = tuple(COMBINATIONS)
SOME = NAMES[::9]
CLIP_STEPS = 128
"""33 pictures at a stride of 4."""


# --- names and words --------------------------------------------------------------------------------------------------


def test_every_object_of_a_scene_has_a_colour_of_its_own():
    assert len(COMBINATIONS) == 18 * 6
    for name, task in COMBINATIONS.items():
        called = labels(name)
        assert set(called) == {*MOVED, *TARGETS} == set(task.scene.objects)
        assert len({colour_kind(words)[0] for words in called.values()}) == 4
        shown = [part.geoms[0].rgba for part in task.scene.parts.values()]
        assert len(set(shown)) == 4
        assert find_task(name) is task is FAMILIES["tabletop"][name]
        assert name == f"tabletop/{called['thing']}/{called['target']}".replace(" ", "_")


def test_who_stands_beside_depends_on_the_name_alone_and_varies_with_it():
    """Written out: another Python, machine or order of tasks must not put another scene under a name."""
    assert labels("tabletop/red_cube/blue_plate") == {
        "thing": "red cube", "distractor": "black cylinder", "target": "blue plate", "other_target": "pink tray",
    }  # fmt: skip
    beside = {
        thing: {labels(n)["distractor"] for n in NAMES if labels(n)["thing"] == thing} for thing in tabletop.THINGS
    }
    assert min(len(others) for others in beside.values()) >= 3
    assert {labels(n)["other_target"] for n in NAMES} == set(tabletop.PLACES)


def test_what_is_held_out_is_in_no_training_scene_but_its_colour_and_kind_are():
    assert {*TRAINING, *HELD_OUT} == set(NAMES)
    assert len(TRAINING) + len(HELD_OUT) == len(NAMES)
    seen = {words for name in TRAINING for words in labels(name).values()}
    assert not seen & tabletop.HELD_OUT_THINGS
    colours, kinds = (set(part) for part in zip(*(colour_kind(words) for words in seen), strict=True))
    for words in tabletop.HELD_OUT_THINGS:
        assert colour_kind(words)[0] in colours
        assert colour_kind(words)[1] in kinds
    moved = {(labels(name)["thing"], labels(name)["target"]) for name in TRAINING}
    for thing, place in tabletop.HELD_OUT_PAIRS:
        assert (thing, place) not in moved
        assert thing in {t for t, _ in moved}
        assert place in {p for _, p in moved}
    assert {t for t, _ in moved} == set(tabletop.THINGS) - tabletop.HELD_OUT_THINGS
    assert {p for _, p in moved} == set(tabletop.PLACES)


def test_instructions_are_worded_as_dreams_word_them():
    for name in NAMES:
        for thing in MOVED:
            for target in TARGETS:
                what, source, where = tabletop.phrases(name, thing=thing, target=target)
                said = Instruction(thing=what, source=source, target=where)
                assert said.text == instruction(name, thing=thing, target=target)
        assert COMBINATIONS[name].instruction == instruction(name)
    asked = instruction("tabletop/red_cube/blue_plate", target="other_target")
    assert asked == "Pick up the red cube from the table and place it in the pink tray."
    assert EVENTS == JUDGED


def test_who_is_not_there_cannot_be_asked_for():
    with pytest.raises(SpecError, match="Did you mean 'tabletop/red_cube/blue_plate'"):
        labels("tabletop/red_cube/blue_plat")
    with pytest.raises(SpecError, match="unknown thing 'target'"):
        instruction(NAMES[0], thing="target")
    with pytest.raises(SpecError, match="unknown thing or place 'red plate'"):
        tabletop.body("red plate")


# --- starts -----------------------------------------------------------------------------------------------------------


def outline(geoms: tuple[GeomSpec, ...], T: Array) -> Array:
    """Points ``(n, 2)`` on a body's outline seen from above: of its widest shape, and of a tray its walls."""
    turns = np.linspace(0, 2 * math.pi, 72, endpoint=False)
    points: list[Array] = []
    for geom in geoms:
        if geom.shape == "cylinder":
            flat = geom.size_m[0] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        else:
            way = np.stack([np.cos(turns), np.sin(turns)], axis=1)
            flat = way / np.max(np.abs(way) / geom.size_m[:2], axis=1, keepdims=True)
            corners = np.array([(a, b) for a in (-1, 1) for b in (-1, 1)]) * geom.size_m[:2]
            flat = np.concatenate([flat, corners])
        points.append(flat + np.array(geom.pos_m[:2]))
    local = np.concatenate(points)
    return (np.c_[local, np.zeros(len(local))] @ T[:3, :3].T + T[:3, 3])[:, :2]


def apart_m(a: Array, b: Array) -> float:
    """The least distance of two outlines' points."""
    return float(np.linalg.norm(a[:, None] - b[None], axis=-1).min())


@pytest.mark.parametrize("variant", ["D0", "D1"])
def test_nothing_overlaps_at_a_start(variant: str):
    rng = np.random.default_rng(0)
    for name in SOME:
        task = COMBINATIONS[name]
        for _ in range(4):
            start = sample_placements(task.reset(variant), rng)
            outlines = {obj: outline(part.geoms, start[obj]) for obj, part in task.scene.parts.items()}
            for i, one in enumerate(outlines):
                for other in list(outlines)[:i]:
                    # Middles farther apart than the outlines' nearest points: neither lies within the other.
                    assert apart_m(outlines[one], outlines[other]) > 0.005
                    assert np.linalg.norm((start[one] - start[other])[:2, 3]) > 0.07


def test_in_d0_things_and_places_change_sides_and_d1_reaches_farther():
    rng = np.random.default_rng(1)
    task = COMBINATIONS[NAMES[0]]
    starts = [sample_placements(task.reset("D0"), rng) for _ in range(60)]
    sides = {tuple(bool(start[obj][1, 3] > 0) for obj in ("thing", "target")) for start in starts}
    assert len(sides) == 4
    wide = [sample_placements(task.reset("D1"), rng) for _ in range(60)]
    for obj in task.scene.objects:
        d0, d1 = (np.ptp([start[obj][:2, 3] for start in some], axis=0) for some in (starts, wide))
        assert (d0 > (0.07, 0.22)).all()
        assert d1[0] > 1.7 * d0[0]


def pixels(points_m: Array, size_px: int) -> Array:
    """Where points ``(n, 3)`` of the world are in the fixed camera's square picture, ``(n, 2)`` right and down."""
    ahead = np.subtract(DREAM_VIEW.look_at_m, DREAM_VIEW.pos_m)
    right = np.cross(ahead, DREAM_VIEW.up)
    axes = np.stack([v / np.linalg.norm(v) for v in (right, np.cross(ahead, right), ahead)])
    seen = (points_m - np.array(DREAM_VIEW.pos_m)) @ axes.T
    focal_px = size_px / 2 / math.tan(math.radians(DREAM_VIEW.fovy_deg) / 2)
    return size_px / 2 + focal_px * seen[:, :2] / seen[:, 2:]


def test_four_centimetres_are_five_pixels_and_d0_is_in_the_picture():
    row = tabletop.TASK.reset("D0").placements[0]
    middle = np.array([np.mean(row.x_m), 0.0, tabletop.TABLE_M + GRASP_M])
    across = pixels(np.stack([middle, middle + (0.0, 0.04, 0.0)]), 64)
    assert np.linalg.norm(across[1] - across[0]) >= 5.0
    rng = np.random.default_rng(2)
    for name in SOME:
        task = COMBINATIONS[name]
        start = sample_placements(task.reset("D0"), rng)
        for obj, part in task.scene.parts.items():
            flat = outline(part.geoms, start[obj])
            at = pixels(np.c_[flat, np.full(len(flat), tabletop.TABLE_M)], 64)
            assert ((at > 0) & (at < 64)).all()


# --- what happens -----------------------------------------------------------------------------------------------------

LYING = {"thing": (-0.1, 0.1), "distractor": (-0.1, -0.1), "target": (0.1, 0.1), "other_target": (0.1, -0.1)}


def story(
    *,
    steps: int = 1,
    hand: Array | None = None,
    opening_m: Array | None = None,
    touching: Mapping[str, NDArray[np.bool_]] | None = None,
    moved: Mapping[str, Array] | None = None,
) -> SceneState:
    """States in which all lies still but for what is given as positions ``(steps, 3)``; the hand is far off."""
    at: dict[str, Array] = {}
    for name, (x, y) in LYING.items():
        z = tabletop.TABLE_M + (GRASP_M if name in MOVED else 0.0)
        at[name] = poses.pose(np.eye(3), np.broadcast_to((moved or {}).get(name, np.array([x, y, z])), (steps, 3)))
    far = np.broadcast_to(np.array([0.0, 0.0, 2.0]) if hand is None else hand, (steps, 3))
    open_m = np.full(steps, 0.08) if opening_m is None else opening_m
    touches = touching or {}
    return SceneState(
        T_world_object=at,
        T_world_eef={"right": poses.pose(np.eye(3), far)},
        T_world_base={"right": np.eye(4)},
        joints={"right_gripper": np.stack([open_m / 2, -open_m / 2], axis=1)},
        contacts={f"{a}|{finger}": touches.get(a, np.zeros(steps, bool)) for a, finger in tabletop.TASK.scene.contacts},
    )


@pytest.mark.parametrize("thing", MOVED)
@pytest.mark.parametrize("target", TARGETS)
def test_the_goal_of_any_thing_and_place_is_that_it_lies_there_let_go_of(thing: str, target: str):
    there = np.array([*LYING[target], tabletop.TABLE_M + FLOOR_M + GRASP_M])
    for off, true in ((0.0, True), (0.9 * ROOM_M, True), (1.1 * ROOM_M, False)):
        assert goal(thing, target)(story(moved={thing: there + (0.0, off, 0.0)}))[0] == true
    lies = {thing: there}
    assert not goal(thing, target)(story(moved={thing: there + (0.0, 0.0, 0.02)}))[0]
    assert not goal(thing, target)(story(hand=there, moved=lies))[0]
    assert not goal(thing, target)(story(touching={thing: np.array([True])}, moved=lies))[0]
    for other in (t for t in TARGETS if t != target):
        assert not goal(thing, other)(story(moved=lies))[0]


def carried(fall_at: int = 100) -> SceneState:
    """Ten rows in which the thing is met, taken, lifted, carried to the target and left, or let fall on the way."""
    start = np.array([*LYING["thing"], tabletop.TABLE_M + GRASP_M])
    end = np.array([*LYING["target"], tabletop.TABLE_M + FLOOR_M + GRASP_M])
    up = np.array([0.0, 0.0, 0.08])
    middle = np.mean([start, end], axis=0)
    way = np.array([start, start, start, start + up, start + up, middle + up, end + up, end, end, end], np.float64)
    hand = way.copy()
    hand[0], hand[8:] = start + 3 * up, end + 3 * up
    held = np.arange(10) == np.clip(np.arange(10), 2, min(7, fall_at))
    fallen = np.arange(10) > fall_at
    way[fallen] = way[min(fall_at, 9)] * (1, 1, 0) + (0, 0, tabletop.TABLE_M + GRASP_M)
    return story(
        steps=10, hand=hand, opening_m=np.where(held, 0.046, 0.08), touching={"thing": held}, moved={"thing": way}
    )


def first(state: SceneState, *, thing: str = "thing", target: str = "target") -> dict[str, int]:
    """The row at which each event is first true; -1 for never."""
    return {n: int(np.argmax(e(state))) if e(state).any() else -1 for n, e in events(thing, target).items()}


def test_events_come_in_their_order_and_stay():
    rows = first(carried())
    assert rows == {"reached": 1, "grasped": 2, "lifted": 3, "moved": 5, "released": 8, "placed": 8}
    for name, happened in events().items():
        if name != "placed":
            assert (np.diff(happened(carried()).astype(int)) >= 0).all()
    assert outcome_of(carried()) == "success"
    assert set(first(carried(), thing="distractor").values()) == {-1}
    assert first(carried(), target="other_target")["placed"] == -1


def test_what_falls_on_the_way_is_dropped():
    rows = first(carried(fall_at=5))
    assert rows["released"] == 6
    assert rows["placed"] == -1
    assert outcome_of(carried(fall_at=5)) == "dropped"


def test_shut_fingers_that_touch_a_thing_push_it():
    start = np.array([*LYING["thing"], tabletop.TABLE_M + GRASP_M])
    way = start + np.linspace(0, 0.06, 5)[:, None] * (0.0, 1.0, 0.0)

    def pressed(opening_m: float) -> SceneState:
        touching, moved = {"thing": np.ones(5, bool)}, {"thing": way}
        return story(steps=5, hand=way, opening_m=np.full(5, opening_m), touching=touching, moved=moved)

    assert first(pressed(0.0))["grasped"] == -1
    assert outcome_of(pressed(0.0)) == "pushed"
    assert first(pressed(0.046))["grasped"] == 0
    assert outcome_of(story(steps=5)) == "missed"


# --- in the simulator -------------------------------------------------------------------------------------------------

PLAYED = "tabletop/purple_cylinder/pink_tray"
"""Held out, and another thing than the one that was demonstrated."""


@pytest.fixture(scope="module")
def backend() -> Iterator[SimBackend]:
    """One backend for the module: building a scene is the slow part."""
    from sim_tasks.backends.robosuite import RobosuiteBackend

    opened = RobosuiteBackend(find_task(PLAYED))
    yield opened
    opened.close()


@pytest.mark.sim
def test_plays_end_as_they_were_meant_to_within_a_clip(backend: SimBackend):
    from sim_tasks.demonstrators.tabletop_plays import PLAYS, play

    assert tuple(PLAYS) == OUTCOMES
    for wanted in OUTCOMES:
        plays = [play(find_task(PLAYED), backend, wanted, seed=3, index=i) for i in range(2)]
        assert sum(one.outcome == wanted for one in plays) >= 1
        for one in plays:
            assert len(one.result) <= CLIP_STEPS
            assert one.result.held == (one.outcome == "success") == (one.result.failure is None)
            assert len(one.result.scene) == len(one.result) + 1 == len(one.result.sim_states["qpos"])
    with pytest.raises(SpecError, match="unknown outcome 'sucess'"):
        play(find_task(PLAYED), backend, "sucess", seed=0, index=0)


@pytest.mark.sim
def test_the_same_numbers_play_the_same_and_can_be_played_again(backend: SimBackend):
    from sim_tasks.demonstrators.tabletop_plays import play

    task = find_task(PLAYED)
    one, again = (play(task, backend, "wrong_object", seed=4, index=1).result for _ in range(2))
    assert np.array_equal(one.actions, again.actions)
    assert np.array_equal(one.sim_states["qpos"], again.sim_states["qpos"])
    backend.restore(0, one.start)
    assert np.array_equal(backend.play(0, one.actions).sim_states["qpos"], one.sim_states["qpos"][1:])


@pytest.mark.sim
def test_demonstrations_of_a_bar_serve_a_cylinder_within_a_clip(backend: SimBackend):
    from factory.replay import run_attempts
    from factory.sources import prepare_sources
    from sim_tasks.demonstrators.tabletop_plays import play
    from workers.generate import seeds_path

    task = find_task(PLAYED)
    spec = GenerationSpec(seed=3, use_symmetry=True, paced_bridge=True)
    sources = prepare_sources(backend, task, list(read_demos(seeds_path(PLAYED))), spec).sources
    results = list(run_attempts(backend, task, sources, spec, range(4)))
    assert sum(result.held for result in results) >= 3
    assert sum(len(result) <= CLIP_STEPS + 1 for result in results) >= 3
    for result in results:
        assert outcome_of(result.scene) == "success" or not result.held
    # A play begins where the attempt of the same seed and index does.
    start = play(task, backend, "missed", seed=3, index=0).result.start
    assert np.array_equal(start.integration, results[0].start.integration)


@pytest.mark.sim
def test_all_four_can_be_seen_at_64_pixels(backend: SimBackend):
    from sim_tasks.backends.rendering import EpisodeRenderer
    from sim_tasks.demonstrators.tabletop_plays import play

    result = play(find_task(PLAYED), backend, "success", seed=3, index=0).result
    spec = RenderSpec(cameras=(tabletop.VIEW,), width=64, height=64, preset="fast", extras=("segmentation",))
    with EpisodeRenderer(find_task(PLAYED), spec) as renderer:
        states = {name: values[:1] for name, values in result.sim_states.items()}
        ((_, layers),) = renderer.pictures(states, result.start.overrides, visual_stream=None)
        ids = layers["segmentation", tabletop.VIEW]
        shown = {name: int((ids == renderer.about["legend"][name]).sum()) for name in labels(PLAYED)}
    assert min(shown[name] for name in MOVED) >= 25
    assert min(shown[name] for name in TARGETS) >= 80
