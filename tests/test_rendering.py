"""Pixels are a function of recorded states, and a rendering is there entirely or not at all."""

from __future__ import annotations

import gc
import hashlib
import shutil
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from api.leases import Work
from api.specs import JobSpec
from api.store import Store
from factory.dataset_reading import open_dataset
from factory.demos import read_demos
from factory.episodes import (
    Column,
    Episode,
    list_renders,
    read_clips,
    read_document,
    render_digest,
    shard_path,
    write_shard,
)
from factory.errors import BackendError, SpecError
from factory.provenance import read_documents
from factory.specs import GenerationSpec, RenderSpec
from factory.video import count_frames
from sim_tasks.catalog import find_task
from tests import counted_rendering, tower
from workers import local
from workers.export import export_dataset
from workers.generate import generate, seeds_path
from workers.render import open_renderer, render_info, render_shard
from workers.worker import Bench, shards_key

mujoco = pytest.importorskip("mujoco")
binding_utils = pytest.importorskip("robosuite.utils.binding_utils")
from sim_tasks.backends import meshes, opengl, simplification  # noqa: E402
from sim_tasks.backends.rendering import visual_stream  # noqa: E402
from sim_tasks.backends.scenes import build_environment  # noqa: E402

pytestmark = pytest.mark.sim

CAMERAS = ("agentview", "robot0_eye_in_hand")
SIZES = (84, 256)
QUICK = RenderSpec(width=84, height=84, preset="fast")


@dataclass(frozen=True)
class Recorded:
    states: Mapping[str, NDArray[np.float64]]
    pixels: Mapping[tuple[int, str], list[NDArray[np.uint8]]]
    geoms: list[NDArray[np.int32]]


def wander(environment, rows: int, *, seed: int = 0) -> dict[str, NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(rows):
        found.append(environment.sim.get_state())
        for _ in range(3):
            environment.step(rng.normal(size=environment.action_dim))
    return {name: np.array([getattr(state, name) for state in found]) for name in ("qpos", "qvel")}


@pytest.fixture(scope="module")
def recorded() -> dict[str, Recorded]:
    """States of two tasks, and robosuite's own pictures of them, turned upright."""
    result = {}
    for name in ("stack", "square"):
        environment = build_environment(find_task(name))
        model = environment.sim.model._model
        states = wander(environment, 3)
        for body in find_task(name).scene.hidden_bodies:
            model.body(body).pos[2] = -10.0
        context = binding_utils.MjRenderContextOffscreen(environment.sim, device_id=-1)
        context.vopt.geomgroup[0] = 0
        pixels = {(size, camera): [] for size in SIZES for camera in CAMERAS}
        geoms = []
        for qpos, qvel in zip(states["qpos"], states["qvel"], strict=True):
            environment.sim.data.qpos[:], environment.sim.data.qvel[:] = qpos, qvel
            environment.sim.forward()
            for (size, camera), pictures in pixels.items():
                picture = environment.sim.render(camera_name=camera, width=size, height=size)
                pictures.append(picture[::-1].copy())
            ids = environment.sim.render(camera_name="agentview", width=84, height=84, segmentation=True)
            geoms.append(np.where(ids[..., 0] == mujoco.mjtObj.mjOBJ_GEOM, ids[..., 1], -1)[::-1])
            assert (geoms[-1] >= 0).mean() > 0.95  # the rest are sites, or nothing
        environment.sim._render_context_offscreen = None
        del context
        environment.close()
        gc.collect()
        result[name] = Recorded(states=states, pixels=pixels, geoms=geoms)
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("task", ["stack", "square"])
def test_faithful_is_robosuites_picture_pixel_by_pixel(recorded, task, size):
    with open_renderer(task, RenderSpec(width=size, height=size)) as renderer:
        frames = list(renderer.frames(recorded[task].states, {}, visual_stream=None))
    assert len(frames) == 3
    for camera in CAMERAS:
        for ours, theirs in zip(frames, recorded[task].pixels[size, camera], strict=True):
            assert ours[camera].shape == (size, size, 3)
            assert np.array_equal(ours[camera], theirs)


def test_segmentation_is_robosuites(recorded):
    with open_renderer("stack", replace(QUICK, preset="faithful", extras=("segmentation",))) as renderer:
        masks = [layers for _, layers in renderer.pictures(recorded["stack"].states, {}, visual_stream=None)]
        label, legend = np.array(renderer._labels, np.uint8), renderer.about["legend"]
    for ours, theirs in zip(masks, recorded["stack"].geoms, strict=True):
        shown = theirs >= 0
        assert np.array_equal(ours["segmentation", "agentview"][shown], label[theirs[shown]])
    seen = set(np.unique(masks[0]["segmentation", "agentview"]).tolist())
    assert {legend[name] for name in ("cubeA", "cubeB", "table", "robot_body", "right_gripper")} <= seen


@pytest.mark.parametrize(
    ("task", "preset"), [("square", "faithful"), ("can", "faithful"), ("door", "faithful"), ("square", "fast")]
)
def test_leaving_out_what_is_not_seen_changes_no_pixel(task, preset):
    demo = read_demos(seeds_path(task))[0].states[[5, 60, 110]]
    with open_renderer(task, replace(QUICK, preset=preset)) as renderer:
        nq, nv = renderer._model.nq, renderer._model.nv
        states = {"qpos": demo[:, 1 : 1 + nq], "qvel": demo[:, 1 + nq : 1 + nq + nv]}
        parts = list(renderer.frames(states, {}, visual_stream=None))
        nothing = np.zeros(renderer._model.ngeom, bool)
        renderer._image = lambda camera: renderer._drawn(camera, nothing, mirrors=True)
        everything = list(renderer.frames(states, {}, visual_stream=None))
    for one, other in zip(parts, everything, strict=True):
        assert all(np.array_equal(one[camera], other[camera]) for camera in CAMERAS)


def test_a_camera_sees_the_same_alone_and_among_others(recorded):
    states = recorded["stack"].states
    with open_renderer("stack", QUICK) as renderer:
        together = list(renderer.frames(states, {}, visual_stream=None))
    camera = CAMERAS[1]  # drawn after the other
    with open_renderer("stack", replace(QUICK, cameras=(camera,))) as renderer:
        alone = list(renderer.frames(states, {}, visual_stream=None))
        assert renderer.device not in ("", "unknown")
    assert all(np.array_equal(a[camera], t[camera]) for a, t in zip(alone, together, strict=True))


# --- lighter meshes -------------------------------------------------------------------------------------------------


def ball(rings: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """A closed sphere of radius 0.1 m."""
    polar, around = np.meshgrid(np.linspace(0, np.pi, rings), np.arange(2 * rings) * np.pi / rings, indexing="ij")
    shape = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], axis=-1)
    shape[0], shape[-1] = (0, 0, 1), (0, 0, -1)
    rows = np.arange(rings * 2 * rings).reshape(rings, 2 * rings)
    a, b = rows[:-1], rows[1:]
    quads = np.stack([a, b, np.roll(b, -1, 1), np.roll(a, -1, 1)], axis=-1).reshape(-1, 4)
    points, welded = simplification.weld(0.1 * shape.reshape(-1, 3))
    faces = welded[np.concatenate([quads[:, :3], quads[:, [0, 2, 3]]])]
    return points, faces[(np.diff(np.sort(faces, axis=1), axis=1) > 0).all(axis=1)]


@pytest.mark.parametrize("tolerance", [0.002, 0.004])
def test_a_simplified_surface_stays_closed_and_near(tolerance):
    points, faces = ball(40)
    fewer, kept = simplification.simplify(points, faces, tolerance)
    assert len(kept) == len(fewer) < 0.5 * len(faces)
    assert simplification.deviation(points, faces, fewer) < 5 * tolerance
    edges = {(int(a), int(b)) for face in fewer for a, b in zip(face, np.roll(face, -1), strict=True)}
    assert len(edges) == 3 * len(fewer)
    assert all((b, a) in edges for a, b in edges)


def test_a_deviation_is_the_distance():
    points, faces = ball(20)
    both = np.concatenate([points, points + np.array([0.0, 0.0, 0.01])])
    assert simplification.deviation(both, faces, faces) < 0.001  # samples find a triangle close by, not always its own
    assert 0.0095 < simplification.deviation(both, faces, faces + len(points)) < 0.011


def test_lighter_meshes_leave_physics_alone_and_are_made_once(tmp_path, monkeypatch):
    model, other = (build_environment(find_task("stack")).sim.model._model for _ in range(2))
    monkeypatch.setattr(meshes, "_heavy", lambda model: [model.mesh("gripper0_right_hand_vis").id])
    before = {name: getattr(model, name).copy() for name in ("mesh_vert", "mesh_normal", "mesh_graph", "geom_size")}
    had = model.mesh_facenum.copy()
    monkeypatch.setenv("FACTORY_CACHE_DIR", str(tmp_path))
    assert meshes.lighten(model) == (1, 0)
    assert 0 < model.mesh_facenum.sum() < had.sum() - 4000
    assert all(np.array_equal(getattr(model, name), array) for name, array in before.items())
    monkeypatch.setattr(meshes, "_simplified", None)  # from the disk now
    assert meshes.lighten(other) == (0, 1)
    assert np.array_equal(model.mesh_face, other.mesh_face)
    (stored,) = (tmp_path / "meshes").glob("*.npz")
    stored.write_bytes(b"damaged")
    monkeypatch.setattr(meshes, "_simplified", lambda original, *_: original)
    assert meshes.lighten(build_environment(find_task("stack")).sim.model._model) == (1, 0)


def test_of_many_workers_one_makes_a_mesh_and_the_others_wait(tmp_path, monkeypatch):
    made = []

    def slow(original, *_):
        made.append(threading.get_ident())
        time.sleep(0.1)
        return original

    model = build_environment(find_task("stack")).sim.model._model
    monkeypatch.setattr(meshes, "_heavy", lambda model: [model.mesh("gripper0_right_hand_vis").id])
    monkeypatch.setattr(meshes, "_simplified", slow)
    monkeypatch.setenv("FACTORY_CACHE_DIR", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: meshes.lighten(model), range(3)))
    assert len(made) == 1


def test_new_looks_change_pixels_and_no_mask_until_the_cameras_move(recorded):
    states = {name: values[:1] for name, values in recorded["stack"].states.items()}
    spec = replace(QUICK, visual_seed=7, extras=("segmentation",))

    def look(renderer, index):
        stream = None if index is None else visual_stream(renderer.spec, index)
        frame, mask = next(renderer.pictures(states, {}, visual_stream=stream))
        return frame["agentview"], mask["segmentation", "agentview"]

    with open_renderer("stack", spec) as renderer:
        plain, plain_mask = look(renderer, None)
        seen = [plain]
        for index in range(3):
            frame, mask = look(renderer, index)
            assert np.array_equal(mask, plain_mask)
            assert all(np.abs(frame.astype(int) - other).mean() > 1.0 for other in seen)
            seen.append(frame)
        assert np.array_equal(look(renderer, 1)[0], seen[2])
        assert np.array_equal(next(renderer.frames(states, {}, visual_stream=None))["agentview"], plain)
    with open_renderer("stack", replace(spec, camera_jitter_m=0.03, camera_jitter_rad=0.03)) as renderer:
        assert not np.array_equal(look(renderer, 0)[1], plain_mask)


def test_overrides_move_bodies_for_one_episode_only(recorded):
    states = recorded["square"].states
    with open_renderer("square", QUICK) as renderer:
        before = next(renderer.frames(states, {}, visual_stream=None))
        peg = renderer._model.body("peg1").pos + np.array([-0.1, -0.1, 0.0])
        moved = next(renderer.frames(states, {"body_pos:peg1": peg}, visual_stream=None))
        after = next(renderer.frames(states, {}, visual_stream=None))
    assert not np.array_equal(before["agentview"], moved["agentview"])
    assert np.array_equal(before["agentview"], after["agentview"])


def test_mistakes_are_named(recorded):
    with pytest.raises(SpecError, match=r"Did you mean 'agentview'.*robot0_eye_in_hand"):
        open_renderer("stack", RenderSpec(cameras=("agentveiw",)))
    states = recorded["stack"].states
    with open_renderer("stack", QUICK) as renderer:
        with pytest.raises(SpecError, match="Did you mean 'cubeA_main'"):
            next(renderer.frames(states, {"body_pos:cubeA_mian": np.zeros(3)}, visual_stream=None))
        with pytest.raises(SpecError, match="body_mass"):
            next(renderer.frames(states, {"body_mass:cubeA_main": np.zeros(3)}, visual_stream=None))
        with pytest.raises(BackendError, match=r"shape \(3, 22\), the scene needs \(T, 23\)"):
            next(renderer.frames({**states, "qpos": states["qpos"][:, 1:]}, {}, visual_stream=None))
        first = renderer.frames(states, {}, visual_stream=None)
        next(first)
        next(renderer.frames(states, {}, visual_stream=None))
        with pytest.raises(BackendError, match="one episode at a time"):
            next(first)


def test_missing_opengl_says_what_to_install(monkeypatch):
    monkeypatch.setitem(opengl._CONTEXTS, "egl", "no_such_module")
    monkeypatch.setenv("MUJOCO_GL", "egl")
    with pytest.raises(BackendError, match=r"apt-get install libegl1 libgl1-mesa-dri.*libosmesa6.*MUJOCO_GL=osmesa"):
        opengl.open_context(64, 64)
    monkeypatch.setenv("MUJOCO_GL", "elg")
    with pytest.raises(BackendError, match="Did you mean 'egl'"):
        opengl.open_context(64, 64)


# --- shards ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def shards(recorded, tmp_path) -> list[Path]:
    """Three episodes of the stack task, 6, 7 and 8 rows."""
    states = recorded["stack"].states
    found = []
    for index, rows in enumerate((6, 7, 8)):
        path = {name: np.resize(values, (rows + 1, values.shape[1])) for name, values in states.items()}
        episode = Episode(
            index=index,
            success=True,
            task="stack",
            instruction="stack",
            control_hz=20.0,
            columns={"action": Column(values=np.zeros((rows, 7), np.float32))},
            subtasks=(),
            sim_states={"time": np.arange(rows + 1) / 20.0, **path},
        )
        found.append(write_shard(tmp_path, episode))
    return found


def fingerprint(shards: list[Path], spec: RenderSpec) -> str:
    digest = render_digest(render_info(spec))
    files = [file for shard in shards for file in sorted((shard / f"clips-{digest}").iterdir())]
    assert len(files) == len(shards) * (len(spec.cameras) + 1)
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def render_work(shards: list[Path], spec: RenderSpec) -> Work:
    """What a dispatcher leases when these shards are to be drawn."""
    job = JobSpec(task="stack", generation=GenerationSpec(), episodes=1, render=spec)
    indices = tuple(int(read_document(shard)["index"]) for shard in shards)
    return Work(unit=1, epoch=1, kind="render", job_id="job_1", indices=indices, payload={"spec": job.to_json()})


@pytest.fixture
def bench(shards: list[Path], tmp_path: Path):
    """A bench whose store holds the shards as a job's, and the shards there."""
    there = tmp_path / "store" / shards_key("job_1")
    there.mkdir(parents=True)
    placed = [Path(shutil.copytree(shard, there / shard.name)) for shard in shards]
    bench = Bench(Store(tmp_path / "store"), worker="w")
    yield bench, placed
    bench.close()


def test_clips_do_not_depend_on_who_draws_and_are_made_once(bench, shards):
    worker, placed = bench
    spec = replace(QUICK, visual_seed=1)
    with open_renderer("stack", spec) as renderer:
        assert [render_shard(renderer, shard) for shard in shards] == [6, 7, 8]
    answers = list(worker.run(render_work(placed, spec)))
    assert [a.frames for a in answers] == [6, 7, 8]
    assert all(a.bytes > 0 for a in answers)
    assert fingerprint(placed, spec) == fingerprint(shards, spec)
    before = {path: path.stat().st_mtime_ns for shard in placed for path in shard.rglob("*")}
    again = list(worker.run(render_work(placed, spec)))
    assert [a.frames for a in again] == [6, 7, 8]
    assert {path: path.stat().st_mtime_ns for shard in placed for path in shard.rglob("*")} == before
    for shard in placed:
        clips, info = read_clips(shard, render_digest(render_info(spec)))
        assert info["visual_seed"] == 1
        for clip in clips.values():
            assert count_frames(clip.path, fps=20) == read_document(shard)["rows"]


def test_what_a_killed_renderer_left_is_swept_away(bench):
    worker, placed = bench
    (placed[0] / ".tmp-drawing-1").mkdir()
    assert len(list(worker.run(render_work(placed[:1], QUICK)))) == 1
    assert not list(placed[0].glob(".tmp-*"))


def test_an_unknown_camera_is_the_requests_fault(bench):
    worker, placed = bench
    (answer,) = worker.run(render_work(placed, replace(QUICK, cameras=("nowhere",))))
    assert (type(answer).__name__, answer.cause) == ("Failed", "request")
    assert "unknown camera 'nowhere'" in answer.message
    assert not any(list_renders(shard) for shard in placed)


# --- how often a picture is drawn -----------------------------------------------------------------------------------


@pytest.mark.parametrize("deadly", [None, 500])
def test_every_picture_of_a_kept_episode_is_drawn_once_and_no_other(tmp_path, monkeypatch, deadly):
    """Only the episode in which a worker was killed begins anew; another form of the dataset draws nothing."""
    journal, out, watcher = tmp_path / "journal", tmp_path / "towers", tower.Watcher()
    monkeypatch.setenv(counted_rendering.JOURNAL, str(journal))
    monkeypatch.setenv(counted_rendering.DEADLY, str(deadly or ""))
    monkeypatch.setattr(local, "serve", counted_rendering.serve_counted)
    demos = tower.write_demonstrations(tmp_path / "demos.hdf5")
    request = replace(tower.request(out, demos), render=replace(QUICK, width=32, height=32))
    finished = generate(request, workers=1, watcher=watcher)
    assert finished.attempts > finished.episodes == 4  # some were thrown away
    assert sum(count_frames(path, fps=20) for path in (out / "videos").rglob("*.mp4")) == 2 * open_dataset(out).frames
    needed = Counter(
        {
            (shard_path(tmp_path, line["attempt_index"]).name, camera): line["document"]["rows"]
            for line in read_documents(out)
            for camera in CAMERAS
        }
    )
    drawn = counted_rendering.drawn(journal)
    again = drawn - needed
    assert not needed - drawn
    assert len({shard for shard, _ in again}) == (1 if deadly else 0)
    assert all(count < needed[picture] for picture, count in again.items())
    export_dataset(out, to="robomimic", out=tmp_path / "towers.hdf5", render=None, workers=1, watcher=watcher)
    assert counted_rendering.drawn(journal) == drawn
