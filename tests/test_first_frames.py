"""First frames: whose state is known, whose is not, and what is read back after a crash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImg2ImgPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from dreams.frame_book import keep_frames, kept_names, read_frames
from dreams.frames import FirstFrame, dataset_frames, reset_frames
from dreams.instructions import Instruction
from dreams.lag import EXACT
from dreams.motion import Labels
from dreams.prompts import KnownScene, Place, Thing
from dreams.variation import ImageModel, VariationSpec, looks_alike, variations
from dreams.verify import verify
from dreams.views import Grid
from factory import failpoints, poses
from factory.datasets import write_dataset
from factory.episodes import add_clips, write_shard
from factory.errors import DatasetError, SpecError
from factory.placements import sample_placements
from factory.sim import Hold
from factory.streams import spawn_streams
from sim_tasks.backends.kinematic import KinematicBackend
from tests import kinematic
from tests.synthetic import RENDER, burned, make_clip, make_episode
from tests.synthetic_pictures import number_in_frame
from workers import dream_folder, dream_starts

GRID = Grid(views=("agentview", "wrist"), height_px=64, width_px=64)
EXECUTOR = {"model_sha": "ab12", "backend": "synthetic"}
SCENE = KnownScene(
    things=(Thing(name="red cube", position_m=(0.1, 0.0, 0.8), radius_m=0.03, on="tray"),),
    places=(Place(name="tray", preposition="in", position_m=(0.1, 0.0, 0.8), radius_m=0.1),),
    base_m=(-0.5, 0.0),
    reach_m=(0.2, 0.9),
    usual=(Instruction(thing="red cube", source="from the table", target="in the tray"),),
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, shards = tmp_path_factory.mktemp("frames"), []
    for number, rows in enumerate((5, 7)):
        made = make_episode(number, rows=rows)
        placed = {"cube": [0.1, 0.2, 0.8, 1.0, 0.0, 0.0, 0.0]}
        episode = replace(made, provenance={"executor": EXECUTOR, "placements": placed})
        shard = write_shard(folder / "shards", episode)
        clips = {
            camera: make_clip(folder / f"{camera}.mp4", [burned(number, row, c) for row in range(rows)])
            for c, camera in enumerate(GRID.views)
        }
        add_clips(shard, clips, {**RENDER, "cameras": list(GRID.views)})
        shards.append(shard)
    return write_dataset(folder / "lift", shards, robot_type="panda", job={"task": "lift"})


def drawn(states: Mapping[str, np.ndarray], overrides: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Draw a state as squares whose grey values are its numbers: equal pictures, equal states."""
    flat = states["state"][0]
    values = np.frombuffer(flat.tobytes(), np.uint8)[: 64 * 8].repeat(8)
    picture = np.zeros(64 * 64, np.uint8)
    picture[: len(values)] = values
    return {view: np.repeat(picture.reshape(64, 64, 1), 3, axis=2) for view in (*GRID.views, "unused")}


def same(a: FirstFrame, b: FirstFrame) -> bool:
    if (a.state is None) != (b.state is None):
        return False
    arrays = [(a.picture, b.picture)]
    if a.state is not None and b.state is not None:
        for left, right in ((a.state.controller, b.state.controller), (a.state.overrides, b.state.overrides)):
            if set(left) != set(right):
                return False
            arrays += [(left[key], right[key]) for key in left]
        arrays.append((a.state.integration, b.state.integration))
    arrays += [(a.placements[key], b.placements[key]) for key in a.placements]
    names = ("name", "source", "grid", "task", "robot", "instruction", "scene", "model_sha", "replayable")
    return (
        all(x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes() for x, y in arrays)
        and set(a.placements) == set(b.placements)
        and all(getattr(a, name) == getattr(b, name) for name in names)
    )


def test_a_dataset_of_ours_gives_its_first_pictures_with_the_state_behind_them(dataset: Path) -> None:
    found = list(dataset_frames(dataset, GRID, known=lambda _: SCENE))
    assert [frame.name for frame in found] == ["lift/0", "lift/1"]
    for number, frame in enumerate(found):
        views = GRID.split(frame.picture[None])
        assert [number_in_frame(views[v][0]) for v in GRID.views] == [burned(number, 0, c) for c in range(2)]
        assert frame.replayable
        assert frame.state is not None
        start = make_episode(number, rows=5 + 2 * number).start
        assert start is not None
        np.testing.assert_array_equal(frame.state.integration, start.integration)
        assert (frame.task, frame.model_sha, frame.robot, frame.scene) == ("lift", "ab12", "panda", SCENE)
        np.testing.assert_allclose(frame.placements["cube"], poses.pose(np.eye(3), np.array([0.1, 0.2, 0.8])))
    assert [frame.name for frame in dataset_frames(dataset, GRID, episodes=[1])] == ["lift/1"]
    assert [frame.name for frame in dataset_frames(dataset, GRID, skip={"lift/0"})] == ["lift/1"]
    with pytest.raises(DatasetError, match="Did you mean 'wrist'"):
        next(dataset_frames(dataset, replace(GRID, views=("wrst",))))


def test_a_set_made_elsewhere_gives_pictures_alone(dataset: Path, tmp_path: Path) -> None:
    foreign = Path(shutil.copytree(dataset, tmp_path / "lift", ignore=shutil.ignore_patterns("provenance")))
    found = list(dataset_frames(foreign, GRID, known=lambda _: SCENE))
    ours = list(dataset_frames(dataset, GRID))
    assert len(found) == len(ours)
    for frame, other in zip(found, ours, strict=True):
        np.testing.assert_array_equal(frame.picture, other.picture)
        assert (frame.state, frame.replayable, frame.scene, frame.placements) == (None, False, None, {})
    backend = KinematicBackend(kinematic.TASK)
    labels = Labels(motion=np.zeros((4, 7)), confidence=np.ones(4))
    assert verify(labels, found[0].state, backend, model_sha=found[0].model_sha).tier == "not_replayable"


def test_resets_are_what_attempts_of_the_seed_start_from_and_continue_from_there() -> None:
    backend = KinematicBackend(kinematic.TASK)
    found = list(reset_frames(backend, drawn, GRID, count=3, seed=5))
    assert [frame.name for frame in found] == [f"kinematic_stack/D0/5/{i}" for i in range(3)]
    reset = kinematic.TASK.reset("D0")
    for number, frame in enumerate(found):
        rng = spawn_streams(5, number).scene
        backend.reset(0, sample_placements(reset, rng), rng, joint_noise_rad=reset.joint_noise_rad)
        backend.advance({0: {"right": Hold(steps=kinematic.TASK.settle_steps)}})
        start = backend.snapshot(0)
        assert frame.state is not None
        np.testing.assert_array_equal(frame.state.integration, start.integration)
        backend.restore(0, frame.state)
        state = {key: value[None] for key, value in backend.sim_state(0).items()}
        np.testing.assert_array_equal(GRID.split(frame.picture[None])["wrist"][0], drawn(state, {})["wrist"])
        labels = Labels(motion=np.zeros((4, 7)), confidence=np.ones(4))
        stays = verify(labels, frame.state, backend, model_sha=frame.model_sha, lag=EXACT)
        assert (stays.tier, stays.off_m < 1e-9) == ("executed_failure", True)
    alone = list(reset_frames(backend, drawn, GRID, count=3, seed=5, skip={found[0].name, found[1].name}))
    assert len(alone) == 1
    assert same(alone[0], found[2])
    with pytest.raises(SpecError, match="unknown camera"):
        list(reset_frames(backend, drawn, replace(GRID, views=("other",)), count=1, seed=0))


def test_what_is_kept_is_read_back_bit_for_bit_and_damage_is_noticed(dataset: Path, tmp_path: Path) -> None:
    backend = KinematicBackend(kinematic.TASK)
    known = list(dataset_frames(dataset, GRID, known=lambda _: SCENE))
    known += reset_frames(backend, drawn, GRID, count=11, seed=1)
    bare = FirstFrame(name="web/1", picture=known[0].picture, grid=GRID, source="dataset:web")
    assert keep_frames(tmp_path, [*known[::-1], bare]) == 14
    found = read_frames(tmp_path)
    assert [frame.name for frame in found] == [*(frame.name for frame in known[2:]), "lift/0", "lift/1", "web/1"]
    assert all(same(one, two) for one, two in zip(found, [*known[2:], *known[:2], bare], strict=True))
    assert keep_frames(tmp_path, known) == 0
    damaged = next(tmp_path.glob("frame-*/picture.png"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(DatasetError, match="not what was written"):
        read_frames(tmp_path)
    with pytest.raises(DatasetError, match="holds no first frames"):
        read_frames(tmp_path / "nowhere")


def test_making_frames_goes_on_where_it_was_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = KinematicBackend(kinematic.TASK)

    def make(folder: Path) -> int:
        return keep_frames(folder, reset_frames(backend, drawn, GRID, count=4, seed=2, skip=kept_names(folder)))

    whole, torn = tmp_path / "whole", tmp_path / "torn"
    make(whole)
    moments: list[str] = []

    def pulled(name: str) -> None:
        moments.append(name)
        if moments.count("durable.synced") == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(failpoints, "_hooks", [pulled])
        with pytest.raises(KeyboardInterrupt):
            make(torn)
    assert len(kept_names(torn)) == 2
    assert make(torn) == 2
    assert not list(torn.glob(".tmp-*"))
    assert all(same(a, b) for a, b in zip(read_frames(whole), read_frames(torn), strict=True))


def test_a_frame_cannot_claim_what_it_has_not() -> None:
    picture = np.zeros((*GRID.shape, 3), np.uint8)
    with pytest.raises(SpecError, match="cannot be replayable"):
        FirstFrame(name="x", picture=picture, grid=GRID, source="y", replayable=True)
    with pytest.raises(SpecError, match="expected uint8"):
        FirstFrame(name="x", picture=picture[:-1], grid=GRID, source="y")


# --- variations -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ImageModel:
    """A pipeline of Stable Diffusion's parts, all of them tiny and random, through the disk."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    letters = [chr(at) for at in range(ord("a"), ord("z") + 1)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {token: number for number, token in enumerate(tokens)}
    files = folder.parent
    (files / "vocab.json").write_text(json.dumps(vocab))
    (files / "merges.txt").write_text("#version: 0.2\n")
    text = CLIPTextConfig(
        vocab_size=len(vocab), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, bos_token_id=52, eos_token_id=53, pad_token_id=53,
    )  # fmt: skip
    pipeline = StableDiffusionImg2ImgPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=4, sample_size=64,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=CLIPTokenizer(str(files / "vocab.json"), str(files / "merges.txt"), model_max_length=16),
        unet=UNet2DConditionModel(
            sample_size=32, block_out_channels=(8, 16), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), layers_per_block=1, cross_attention_dim=16,
            attention_head_dim=4, norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(str(folder))
    return ImageModel(folder)


def test_a_variation_is_its_seeds_and_is_not_replayable_unless_checked(model: ImageModel) -> None:
    backend = KinematicBackend(kinematic.TASK)
    frame = next(reset_frames(backend, drawn, GRID, count=1, seed=0, known=lambda _: SCENE))
    spec = VariationSpec(prompt="evening light", steps=4, strength=0.5, guidance=1.0)
    one, two = list(variations(frame, model, spec, count=2, seed=3))
    (again,) = variations(frame, model, spec, count=1, seed=3)
    np.testing.assert_array_equal(one.picture, again.picture)
    assert (one.picture != two.picture).any()
    assert one.picture.shape == frame.picture.shape
    assert (one.replayable, one.state, one.scene, one.placements) == (False, None, None, {})
    assert (one.name, one.source) == (f"{frame.name}~tiny-3-0", f"img2img:tiny of {frame.name}")
    seen: list[FirstFrame] = []

    def checks(original: FirstFrame, picture: np.ndarray) -> bool:
        seen.append(original)
        return bool((picture == one.picture).all())

    kept, lost = list(variations(frame, model, spec, count=2, seed=3, checks=checks))
    assert seen == [frame, frame]
    assert kept.replayable
    assert kept.state is frame.state
    assert kept.scene == SCENE
    assert not lost.replayable
    never = replace(frame, state=None, replayable=False, model_sha="")
    assert not next(variations(never, model, spec, count=1, seed=3, checks=lambda *_: True)).replayable


def test_frames_of_a_run_are_varied_once(model: ImageModel, dataset: Path, tmp_path: Path) -> None:
    run = dream_folder.Run(root=tmp_path / "run")
    made = dream_starts.frames_of_dataset(run, dataset, GRID)
    spec = VariationSpec(prompt="a table", strength=0.5, steps=2, guidance=1.0)
    assert dream_starts.vary_frames(run, model, spec, count=2, seed=3) == 2 * made
    assert dream_starts.vary_frames(run, model, spec, count=2, seed=3) == 0, "variations are not varied"
    assert sum(frame.replayable for frame in read_frames(run.frames)) == made


def test_a_state_matches_while_every_masked_part_looks_as_it_did() -> None:
    picture = np.full((*GRID.shape, 3), 100, np.uint8)
    frame = FirstFrame(name="x", picture=picture, grid=GRID, source="y")
    cube, robot = np.zeros((2, *GRID.shape), bool)
    cube[10:14, 10:14], robot[30:60, 20:60] = True, True
    check = looks_alike({"cube": cube, "robot": robot, "hidden": np.zeros(GRID.shape, bool)}, most=0.1)
    background = np.where((cube | robot)[..., None], picture, 255).astype(np.uint8)
    assert check(frame, background)  # what is not masked may change
    assert check(frame, picture + np.uint8(20))
    assert not check(frame, picture + np.uint8(30))
    gone = np.where(cube[..., None], 200, picture).astype(np.uint8)
    assert not check(frame, gone)  # though the cube is a hundredth of what is masked
    with pytest.raises(SpecError, match="none with a pixel"):
        looks_alike({"cube": np.zeros(GRID.shape, bool)})


def test_a_folder_without_a_model_says_what_would_provide_one(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="hf download"):
        ImageModel(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "Nonsense"}')
    with pytest.raises(SpecError, match="does not load"):
        ImageModel(tmp_path)
    with pytest.raises(SpecError, match="strength"):
        VariationSpec(prompt="", strength=0.01, steps=10)
