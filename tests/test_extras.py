"""Segmentation and depth: kept exactly, read back as metres and ids, and true to the geometry they show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from factory import extras
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import dataset_digest, read_depth, read_episode, read_segmentation
from factory.datasets import write_dataset
from factory.demos import read_demos
from factory.durable import sha256_file
from factory.episodes import Column, Episode, list_renders, read_layers, render_digest, write_shard
from factory.errors import DatasetError, EpisodeError, SpecError
from factory.extras import FARTHEST_M, LayerWriter, join_layers, read_frames, to_metres, to_millimetres
from factory.provenance import MANIFEST_PATH, write_manifest
from factory.specs import EXTRAS, Extra, RenderSpec
from sim_tasks.catalog import find_task
from tests.synthetic import LEGEND, burned, layer_frame, make_layer, make_shards
from workers.generate import seeds_path
from workers.render import open_renderer, render_info, render_shard

CAMERAS = ("agentview", "wrist")
LENGTHS = (5, 8, 6)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_distance_reads_back_to_half_a_millimetre_and_nothing_as_infinity():
    z = np.concatenate([np.geomspace(0.01, FARTHEST_M, 10_000), [0.010499, 65.535]])
    assert np.abs(to_metres(to_millimetres(z)) - z).max() <= 0.0005 + 4e-6  # and float32 at 65 m
    assert np.isinf(to_metres(to_millimetres(np.array([np.inf, FARTHEST_M + 0.001, 530.0])))).all()


@pytest.mark.parametrize("kind", EXTRAS)
def test_frames_read_back_whatever_the_groups(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(extras, "_GROUP_BYTES", 3 * 64 * 64)
    layer = make_layer(tmp_path / "a", kind, "top", range(11))
    frames = np.array([layer_frame(kind, number) for number in range(11)])
    assert layer.frames == 11
    assert np.array_equal(read_frames(layer.path), frames)
    assert read_frames(layer.path).dtype == frames.dtype
    for start in range(12):
        for stop in range(start, 12):
            assert np.array_equal(read_frames(layer.path, start=start, stop=stop), frames[start:stop])
    again = make_layer(tmp_path / "b", kind, "top", range(11))
    assert again.path.read_bytes() == layer.path.read_bytes()
    more = make_layer(tmp_path / "c", kind, "top", range(20, 24))
    assert join_layers([layer.path, more.path], tmp_path / "joined") == 15
    assert np.array_equal(read_frames(tmp_path / "joined", start=9, stop=13)[:2], frames[9:])
    with pytest.raises(DatasetError, match=r"has 11 frames, asked for \[0, 12\)"):
        read_frames(layer.path, stop=12)


def test_frames_of_another_form_are_refused(tmp_path):
    with (
        pytest.raises(DatasetError, match=r"frame 0 is uint8 \(64, 64\), expected uint16 \(64, 64\)"),
        LayerWriter(tmp_path / "a", kind="depth", camera="top", width=64, height=64) as writer,
    ):
        writer.write(layer_frame("segmentation", 0))
    assert not (tmp_path / "a").exists()
    one, other = (make_layer(tmp_path / name, "depth", name, [1]) for name in ("top", "side"))
    with pytest.raises(DatasetError, match="predecessors"):
        join_layers([one.path, other.path], tmp_path / "joined")
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(DatasetError, match="cannot be read"):
        read_frames(tmp_path / "empty")


def test_every_byte_of_a_file_counts(tmp_path):
    """Without the manifest too: pages carry checksums, and what is not in them describes the file."""
    path = make_layer(tmp_path / "a", "depth", "top", range(3), size=16).path
    whole, frames = path.read_bytes(), read_frames(path)
    for position in np.linspace(0, len(whole) - 1, 150).astype(int):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            found = read_frames(path)
        except DatasetError:
            continue
        assert np.array_equal(found, frames)


# --- datasets -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes in several files."""
    folder = tmp_path_factory.mktemp("extras")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("factory.datasets.MB", 400)
        root = write_dataset(
            folder / "dataset",
            make_shards(folder / "shards", LENGTHS, extras=EXTRAS),
            robot_type="panda",
            job={},
        )
    assert len(list((root / "extras/depth.wrist").rglob("*.parquet"))) > 1
    return root


def test_what_was_drawn_is_read_back(dataset):
    for episode, rows in enumerate(LENGTHS):
        for c, camera in enumerate(CAMERAS):
            numbers = [burned(episode, row, c) for row in range(rows)]
            depth = np.array([layer_frame("depth", number) for number in numbers])
            found = read_depth(dataset, episode, camera)
            assert found.dtype == np.float32
            assert np.array_equal(found, np.where(depth == 0, np.inf, depth / 1000.0).astype(np.float32))
            ids, legend = read_segmentation(dataset, episode, camera)
            assert legend == LEGEND
            assert np.array_equal(ids, np.array([layer_frame("segmentation", number) for number in numbers]))
    assert len(read_episode(dataset, 1)) == LENGTHS[1]


def test_the_rest_of_a_dataset_is_what_it_is_without(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("factory.datasets.MB", 400)
    plain = write_dataset(tmp_path / "plain", make_shards(tmp_path / "shards", LENGTHS), robot_type="panda", job={})
    assert dataset_digest(plain) == dataset_digest(dataset)
    assert dataset_digest(plain, videos=True) != dataset_digest(dataset, videos=True)
    assert (plain / "meta/info.json").read_text() == (dataset / "meta/info.json").read_text()


def test_asking_for_what_is_not_there_says_what_is(dataset, tmp_path):
    with pytest.raises(DatasetError, match=r"Did you mean 'wrist'\? Known: agentview, wrist"):
        read_depth(dataset, 0, "wirst")
    with pytest.raises(DatasetError, match="it has 0 to 2"):
        read_depth(dataset, 3, "wrist")
    (shard, *_) = make_shards(tmp_path / "shards", (5,), extras=("depth",))
    plain = write_dataset(tmp_path / "plain", [shard], robot_type="panda", job={})
    with pytest.raises(DatasetError, match=r"unknown extra 'segmentation'.*Known: depth"):
        read_segmentation(plain, 0, "wrist")


def rewritten(root: Path, path: Path, content: bytes | None) -> str:
    """Return what verification says of a dataset with another file in it and a manifest that knows of it."""
    kept, manifest = path.read_bytes(), (root / MANIFEST_PATH).read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    try:
        with pytest.raises(DatasetError) as caught:
            verify_dataset(root)  # the old manifest
        assert "is damaged" in str(caught.value) or "is missing" in str(caught.value)
        write_manifest(root)
        with pytest.raises(DatasetError) as caught:
            verify_dataset(root)
    finally:
        path.write_bytes(kept)
        (root / MANIFEST_PATH).write_bytes(manifest)
    return str(caught.value)


def test_verification_covers_them(dataset, tmp_path):
    assert verify_dataset(dataset).frames == sum(LENGTHS)
    path = min((dataset / "extras/depth.wrist").rglob("*.parquet"))
    flipped = bytearray(path.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    assert "cannot be read" in rewritten(dataset, path, bytes(flipped))
    assert "cannot be read" in rewritten(dataset, path, None)
    rows = read_frames(path).shape[0]
    make_layer(tmp_path / "long", "depth", "wrist", range(rows + 1))
    assert f"has {rows + 1} frames" in rewritten(dataset, path, (tmp_path / "long").read_bytes())
    make_layer(tmp_path / "wide", "depth", "wrist", range(rows), size=32)
    assert "expected depth of (64, 64)" in rewritten(dataset, path, (tmp_path / "wide").read_bytes())
    masks = min((dataset / "extras/segmentation.wrist").rglob("*.parquet"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LEGEND, "sphere", 17)
        rest = [length for number, length in enumerate(LENGTHS) if sum(LENGTHS[: number + 1]) <= rows]
        parts = [make_layer(tmp_path / f"{length}", "segmentation", "wrist", range(length)) for length in rest]
        join_layers([part.path for part in parts], tmp_path / "joined")
    assert "has id 17, which the legend" in rewritten(dataset, masks, (tmp_path / "joined").read_bytes())


def test_shards_that_mean_different_things_do_not_fit_together(tmp_path, monkeypatch):
    first = make_shards(tmp_path / "a", (5,), extras=EXTRAS)
    monkeypatch.setitem(LEGEND, "sphere", 17)
    second = make_shards(tmp_path / "b", (5, 6), extras=EXTRAS)[1:]
    with pytest.raises(DatasetError, match=r"sphere.*has extras|has extras.*sphere"):
        write_dataset(tmp_path / "dataset", [*first, *second], robot_type="panda", job={})
    (layer,) = (layer for layer in read_layers(first[0], list_renders(first[0])[0])[0] if layer.name == "depth.wrist")
    layer.path.write_bytes(layer.path.read_bytes()[:-1])
    with pytest.raises(EpisodeError, match=r"depth\.wrist\.parquet is damaged"):
        write_dataset(tmp_path / "dataset", first, robot_type="panda", job={})


def test_extras_are_named():
    with pytest.raises(SpecError, match="Did you mean 'depth'"):
        RenderSpec(extras=("dpeth",))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="twice"):
        RenderSpec(extras=("depth", "depth"))


# --- pictures -------------------------------------------------------------------------------------------------------


SIZE = 84
SIM_CAMERAS = ("agentview", "robot0_eye_in_hand")


def spec(preset: Any, extras: tuple[Extra, ...] = EXTRAS) -> RenderSpec:
    return RenderSpec(width=SIZE, height=SIZE, preset=preset, extras=extras)


def states_of(renderer: Any, task: str, rows: list[int]) -> dict[str, Any]:
    demo, model = read_demos(seeds_path(task))[0].states[rows], renderer._model
    return {"qpos": demo[:, 1 : 1 + model.nq], "qvel": demo[:, 1 + model.nq : 1 + model.nq + model.nv]}


def rays(renderer: Any, camera: str) -> tuple[Any, Any]:
    """Return where a camera stands, and a ray of depth 1 through the middle of every pixel ``(h, w, 3)``, world."""
    model, data, number = renderer._model, renderer._data, renderer.cameras[camera].fixedcamid
    at, turn = data.cam_xpos[number].copy(), data.cam_xmat[number].reshape(3, 3)
    focal = SIZE / 2 / np.tan(np.deg2rad(model.cam_fovy[number]) / 2)
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    return at, np.stack([u / focal, -v / focal, -np.ones_like(u)], axis=-1) @ turn.T


@pytest.mark.sim
@pytest.mark.parametrize("task", ["stack", "door"])
def test_ids_and_distances_are_those_of_the_geometry(task):
    """What MuJoCo's own rays hit through the middle of pixels, first behind the near plane."""
    mujoco = pytest.importorskip("mujoco")
    groups = np.array([0, 1, 1, 1, 1, 0], np.uint8)
    with open_renderer(task, spec("faithful")) as renderer:
        states = states_of(renderer, task, [5, 110])
        seen: set[int] = set()
        agreed, total, errors, hit = 0, 0, [], np.zeros(1, np.int32)
        for _, layers in renderer.pictures(states, {}, visual_stream=None):
            near = float(renderer._scene.camera[0].frustum_near)
            for camera in SIM_CAMERAS:
                at, directions = rays(renderer, camera)
                ids, depth = layers["segmentation", camera], to_metres(layers["depth", camera])
                seen |= set(np.unique(ids).tolist())
                for v, u in np.ndindex(SIZE // 2, SIZE // 2):
                    ray = directions[2 * v, 2 * u]
                    length = np.linalg.norm(ray)
                    found = mujoco.mj_ray(
                        renderer._model, renderer._data, at + near * ray, ray / length, groups, 1, -1, hit
                    )
                    same = ids[2 * v, 2 * u] == (renderer._labels[hit[0]] if hit[0] >= 0 else 0)
                    agreed, total = agreed + same, total + 1
                    if same and hit[0] >= 0:
                        errors.append(abs(found / length + near - depth[2 * v, 2 * u]))
        legend = renderer.about["legend"]
    assert agreed / total > 0.999
    assert np.quantile(errors, 0.99) < 0.0006  # half a millimetre of rounding
    assert np.quantile(errors, 0.999) < 0.002  # OpenGL draws a cylinder as a prism
    assert {legend[name] for name in (*find_task(task).scene.objects, "right_gripper", "right_arm")} <= seen


@pytest.mark.sim
def test_a_cubes_faces_and_corners_are_as_far_as_they_are():
    with open_renderer("stack", spec("faithful")) as renderer:
        _, layers = next(renderer.pictures(states_of(renderer, "stack", [0]), {}, visual_stream=None))
        model, data, legend = renderer._model, renderer._data, renderer.about["legend"]
        at, directions = rays(renderer, "agentview")
        depth, ids = to_metres(layers["depth", "agentview"]), layers["segmentation", "agentview"]
        for cube in ("cubeA", "cubeB"):
            geom = model.geom(f"{cube}_g0_vis").id
            turn, middle, half = data.geom_xmat[geom].reshape(3, 3), data.geom_xpos[geom], model.geom_size[geom]
            shown = ids == legend[cube]
            assert shown.sum() > 20
            local, origin = directions[shown] @ turn, (at - middle) @ turn
            enters = np.minimum((half - origin) / local, (-half - origin) / local).max(axis=1)
            assert np.abs(enters - depth[shown]).max() < 0.0006
            # The corner nearest to the camera is where its pixel says, as far as a pixel's surroundings can say it.
            corners = middle + (np.array(list(np.ndindex(2, 2, 2))) * 2.0 - 1.0) * half @ turn.T
            corner = corners[np.linalg.norm(corners - at, axis=1).argmin()]
            number = renderer.cameras["agentview"].fixedcamid
            x, y, z = (corner - at) @ data.cam_xmat[number].reshape(3, 3)
            focal = SIZE / 2 / np.tan(np.deg2rad(model.cam_fovy[number]) / 2)
            u, v = int(SIZE / 2 + focal * x / -z), int(SIZE / 2 - focal * y / -z)
            assert abs(depth[v, u] + z) < -z / focal  # a pixel's width at that distance


@pytest.fixture(scope="module")
def episode() -> Episode:
    demo = read_demos(seeds_path("stack"))[0].states[[0, 40, 60, 110, 120]]
    return Episode(
        index=0,
        success=True,
        task="stack",
        instruction="stack",
        control_hz=20.0,
        columns={"action": Column(values=np.zeros((4, 7), np.float32))},
        subtasks=(),
        sim_states={"time": np.arange(5) / 20.0, "qpos": demo[:, 1:24], "qvel": demo[:, 24:45]},
    )


def drawn(place: Path, episode: Episode, asked: RenderSpec) -> Mapping[str, str]:
    """Return file name -> hash of a rendering."""
    shard = write_shard(place, episode)
    with open_renderer("stack", asked) as renderer:
        render_shard(renderer, shard)
    folder = shard / f"clips-{render_digest(render_info(asked))}"
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.suffix != ".json"}


@pytest.mark.slow
@pytest.mark.sim
def test_extras_change_no_byte_of_the_videos_and_are_the_same_twice(tmp_path, episode):
    faithful = drawn(tmp_path / "a", episode, spec("faithful"))
    assert len(faithful) == len(SIM_CAMERAS) * 3
    assert faithful == drawn(tmp_path / "b", episode, spec("faithful"))
    plain = drawn(tmp_path / "c", episode, spec("faithful", ()))
    assert len(plain) == len(SIM_CAMERAS)
    assert plain.items() <= faithful.items()
    fast = drawn(tmp_path / "d", episode, spec("fast", ("depth",)))
    assert drawn(tmp_path / "e", episode, spec("fast", ())).items() <= fast.items()
    # Lighter meshes move an outline by a pixel here and there, and no surface by more than they may.
    layers = {}
    for name, asked in (("a", spec("faithful")), ("d", spec("fast", ("depth",)))):
        found, _ = read_layers(tmp_path / name / "episode_00000000", render_digest(render_info(asked)))
        layers |= {(name, layer.name): read_frames(layer.path).astype(int) for layer in found}
    for camera in SIM_CAMERAS:
        apart = np.abs(layers["a", f"depth.{camera}"] - layers["d", f"depth.{camera}"])
        assert (apart > 4).mean() < 0.01


@pytest.mark.sim
def test_a_dataset_of_real_pictures_knows_its_legend(tmp_path, episode):
    asked = spec("fast")
    shard = write_shard(tmp_path / "shards", episode)
    with open_renderer("stack", asked) as renderer:
        render_shard(renderer, shard)
    root = write_dataset(tmp_path / "dataset", [shard], robot_type="panda", job={})
    ids, legend = read_segmentation(root, 0, "agentview")
    depth = read_depth(root, 0, "agentview")
    assert ids.shape == depth.shape == (4, SIZE, SIZE)
    assert legend["background"] == 0
    assert {legend[name] for name in ("cubeA", "cubeB", "right_gripper", "table")} <= set(np.unique(ids).tolist())
    height = depth[0][ids[0] == legend["cubeA"]]
    assert 0.3 < height.min() < height.max() < 1.5


@pytest.mark.sim
def test_an_object_of_a_name_the_legend_keeps_is_refused():
    task = find_task("lift")
    scene = replace(task.scene, objects={"table": task.scene.objects["cube"]})
    labels = pytest.importorskip("sim_tasks.backends.labels")
    with pytest.raises(SpecError, match="object 'table' cannot be in a segmentation"):
        labels._legend(SimpleNamespace(name="lift", robot=task.robot, scene=scene))
