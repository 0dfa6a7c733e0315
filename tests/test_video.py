"""Laws of the video model: what its codec keeps, what training sees; neither a kill nor a neighbour matters."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanTransformer3DModel,
)
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    ByT5Tokenizer,
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    UMT5Config,
    UMT5EncoderModel,
)

from dreams import model_folder
from dreams.clips import Clip
from dreams.codec import PatchCodec, fit_codec, pictures_to_tensor, psnr_db, tensor_to_pictures
from dreams.descent import LOG, Schedule, generator_of
from dreams.encoding import encode, encoded
from dreams.finetune import Tuned, Tuning, finetune, flow_loss, held_out_loss, noise_levels
from dreams.generate import Wish, generate, leakage, noise_of, read_dream, seam_change
from dreams.model_folder import ModelCard
from dreams.new_models import new_model
from dreams.strips import draw_loss, dream_strips
from dreams.timebase import TimeBase
from dreams.video import DreamModel, Sampling, open_model
from dreams.views import Grid
from factory import failpoints
from factory.errors import DatasetError, SpecError

TIME = TimeBase(control_hz=20, stride=4, frames=9)
GRID = Grid(views=("front",), height_px=32, width_px=32)
QUICK = Sampling(steps=2)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread, and no way out: whatever asks the network fails."""

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("a video model asked the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def moving(seed: int, *, grid: Grid = GRID, time: TimeBase = TIME) -> Clip:
    """A square of a random colour slides over a background with a gradient."""
    draw = np.random.default_rng(seed)
    height, width = grid.shape
    colour, start = draw.integers(0, 256, 3), draw.integers(2, 20, 2)
    step = draw.uniform(-1.0, 1.0, 2)
    frames = np.zeros((time.frames, height, width, 3), np.uint8)
    frames[:] = np.linspace(60, 160, width).astype(np.uint8)[None, None, :, None]
    for k in range(time.frames):
        top, left = np.clip(np.round(start + k * step), 0, 24).astype(int)
        frames[k, top : top + 8, left : left + 8] = colour
    return Clip(
        name=f"square/{seed}", frames=frames, grid=grid, time=time, embodiment="panda", hands={}, length=time.steps,
        instruction=f"Slide the square number {seed % 3}.",
    )  # fmt: skip


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [moving(seed) for seed in range(10)]


@pytest.fixture(scope="module")
def codec(clips: list[Clip]) -> PatchCodec:
    return fit_codec([clip.frames for clip in clips], z_dim=12, patch=4)


@pytest.fixture(scope="module")
def folder(codec: PatchCodec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, also in the layer that a new one leaves at zero, so that every input matters."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    made = new_model(path, size="tiny", codec=codec, time=TIME, grid=GRID, embodiment="panda", seed=3)
    torch.nn.init.normal_(made.pipeline.transformer.proj_out.weight, std=0.3, generator=generator_of(7))
    made.pipeline.transformer.save_pretrained(path / "transformer")
    return path


@pytest.fixture
def model(folder: Path) -> DreamModel:
    return open_model(folder)


def wishes(clips: list[Clip], *, rounds: int = 1) -> list[Wish]:
    return [
        Wish(name=f"d{i}", picture=clip.frames[0], instructions=(clip.instruction,) * rounds, seed=i)
        for i, clip in enumerate(clips)
    ]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def killed(act: Callable[[], Any], *, at: str, time: int) -> None:
    """Run `act` in a child that is killed when it reaches a moment for the given time."""
    child = os.fork()
    if child == 0:
        seen: list[str] = []

        def hook(name: str) -> None:
            seen.append(name)
            if seen.count(at) == time:
                os.kill(os.getpid(), signal.SIGKILL)

        failpoints.install(hook)
        try:
            act()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it ended before it could be killed"
    assert os.WTERMSIG(status) == signal.SIGKILL


# The codec


def test_the_codec_is_exact_in_its_span_and_scaled_half_way_to_equal_variances(codec: PatchCodec, clips: list[Clip]):
    small = 0.2 * torch.randn(2, 12, 3, 8, 8, generator=generator_of(1))
    shown = codec.decode(small).sample
    assert shown.abs().max() < 1.0, "nothing was clamped"
    torch.testing.assert_close(codec.encode(shown).latent_dist.mode(), small, atol=2e-5, rtol=0.0)
    coded = codec.encode(pictures_to_tensor(np.stack([clip.frames for clip in clips]))).latent_dist.mode()
    groups = coded[:, :, 1:].transpose(0, 1).flatten(1)
    np.testing.assert_allclose(groups.mean(dim=1).numpy(), 0.0, atol=1e-3)
    std = groups.std(dim=1)
    scale = torch.tensor(codec.config.latents_std)
    torch.testing.assert_close(std / scale, (std / std.square().mean().sqrt()).sqrt(), atol=1e-2, rtol=0.0)
    assert std[0] > 2.0 * std[-1], "variances differ at all"
    first = coded[:, :, 0].transpose(0, 1).flatten(1).std(dim=1)
    assert (((first / std - 1.0).abs() < 2e-2) | (first < 0.5 * std)).all(), "channels without content stay small"


def test_more_channels_lose_less_of_clips_never_seen(clips: list[Clip]):
    unseen = np.stack([moving(seed).frames for seed in range(50, 54)])
    found = []
    for z in (4, 12, 24):
        fitted = fit_codec([clip.frames for clip in clips], z_dim=z, patch=4)
        coded = fitted.encode(pictures_to_tensor(unseen)).latent_dist.mode()
        assert coded.shape == (4, z, 3, 8, 8)
        found.append(psnr_db(tensor_to_pictures(fitted.decode(coded).sample), unseen))
    assert found == sorted(found)
    assert found[-1] > 27.0, f"{found} dB"


def test_a_first_picture_does_not_depend_on_what_follows(codec: PatchCodec, clips: list[Clip]):
    x = pictures_to_tensor(clips[0].frames[None])
    whole, alone = codec.encode(x).latent_dist.mode(), codec.encode(x[:, :, :1]).latent_dist.mode()
    torch.testing.assert_close(whole[:, :, :1], alone, atol=1e-5, rtol=0.0)


def test_a_codec_comes_back_from_its_folder(codec: PatchCodec, clips: list[Clip], tmp_path: Path):
    codec.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    again: Any = PatchCodec.from_pretrained(tmp_path, local_files_only=True)
    x = pictures_to_tensor(clips[0].frames[None])
    assert torch.equal(again.encode(x).latent_dist.mode(), codec.encode(x).latent_dist.mode())
    assert tuple(again.config.latents_std) == tuple(codec.config.latents_std)
    with pytest.raises(SpecError, match="4 k"):
        codec.encode(x[:, :, :8])


# Dreaming


def test_a_dream_begins_with_the_codecs_own_picture_and_neighbours_do_not_matter(
    model: DreamModel, clips: list[Clip], folder: Path
):
    pictures = np.stack([clip.frames[0] for clip in clips[:3]])
    texts = [clip.instruction for clip in clips[:3]]
    noise = torch.stack([noise_of(seed, 0, model.latent_shape) for seed in range(3)])
    sampling = Sampling(steps=3, guidance=2.0)
    found = model.dream(pictures, texts, noise, sampling)
    assert found.shape == (3, 9, 32, 32, 3)
    np.testing.assert_array_equal(found[:, 0], model.pictures(model.latents(pictures[:, None]))[:, 0])
    for order in ([2], [1, 0]):
        some = model.dream(pictures[order], [texts[i] for i in order], noise[order], sampling)
        assert np.abs(some.astype(int) - found[order]).max() <= 1, "the last bit of a sum, at most"
    other = model.dream(pictures[:1], ["Push the plate away."], noise[:1], sampling)
    assert np.abs(other[0, 1:].astype(int) - found[0, 1:]).max() > 1, "the sentence counts"
    np.testing.assert_array_equal(open_model(folder).dream(pictures, texts, noise, sampling), found)


def test_training_shows_the_network_what_sampling_shows_it(model: DreamModel, clips: list[Clip]):
    seen: list[dict[str, Any]] = []
    network = model.pipeline.transformer
    hook = network.register_forward_pre_hook(lambda _, __, given: seen.append(dict(given)), with_kwargs=True)
    noise = torch.stack([noise_of(5, 0, model.latent_shape)])
    model.dream(clips[0].frames[:1], [clips[0].instruction], noise, QUICK)
    level = seen[0]["timestep"].max()[None] / 1000.0
    condition, _ = model.condition(clips[0].frames[0])
    model.cleaned(noise, level, model.embedded([clips[0].instruction]), condition)
    hook.remove()
    sampled, trained = seen[0], seen[-1]
    assert torch.equal(sampled["hidden_states"], trained["hidden_states"])
    torch.testing.assert_close(sampled["timestep"], trained["timestep"], atol=1e-3, rtol=0.0)
    assert torch.equal(sampled["encoder_hidden_states"], trained["encoder_hidden_states"])
    assert (trained["timestep"][0, :16] == 0.0).all(), "the first picture is clean and says so"
    assert (trained["timestep"][0, 16:] > 0.0).all()
    latents = model.latents(clips[0].frames[None])
    torch.testing.assert_close(latents[:, :, :1], condition, atol=1e-5, rtol=0.0)


def test_a_killed_generation_goes_on_with_the_same_bytes(model: DreamModel, clips: list[Clip], tmp_path: Path):
    asked = wishes(clips[:5], rounds=2)
    asked[1] = Wish(name="d1", picture=clips[1].frames[0], instructions=("Once.",), seed=1)
    through = list(generate(model, asked, tmp_path / "a", sampling=QUICK, batch=2))
    killed(lambda: list(generate(model, asked, tmp_path / "b", sampling=QUICK, batch=2)), at="durable.synced", time=4)
    assert sorted(path.name for path in (tmp_path / "b").iterdir() if path.name[0] != ".") == ["d0", "d1", "d2"]
    again = list(generate(model, asked, tmp_path / "b", sampling=QUICK, batch=2))
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert [dream.name for dream in again] == [wish.name for wish in asked]
    reversed_order = list(generate(model, asked[::-1], tmp_path / "c", sampling=QUICK, batch=3))[::-1]
    for one, other in zip(through, reversed_order, strict=True):
        assert np.abs(one.frames.astype(int) - other.frames).max() <= 1


def test_a_round_begins_where_the_one_before_ended(model: DreamModel, clips: list[Clip], tmp_path: Path):
    [dream] = generate(model, wishes(clips[:1], rounds=3), tmp_path, sampling=QUICK)
    assert dream.frames.shape == (25, 32, 32, 3)
    assert dream.seams == (8, 16)
    first, second, _ = dream.rounds()
    np.testing.assert_array_equal(first[-1], second[0])
    noise = noise_of(0, 1, model.latent_shape)[None]
    fresh = model.dream(first[-1:], list(dream.instructions[1:2]), noise, QUICK)[0]
    np.testing.assert_array_equal(fresh[1:], second[1:])
    np.testing.assert_array_equal(read_dream(tmp_path / "d0").frames, dream.frames)
    with pytest.raises(SpecError, match="1 to 4"):
        wishes(clips[:1], rounds=5)


def test_what_was_dreamt_otherwise_is_not_taken_for_it(model: DreamModel, clips: list[Clip], tmp_path: Path):
    asked = wishes(clips[:1])
    list(generate(model, asked, tmp_path, sampling=QUICK))
    with pytest.raises(SpecError, match="another sampling"):
        list(generate(model, asked, tmp_path, sampling=Sampling(steps=3)))
    with pytest.raises(SpecError, match="called d0"):
        list(generate(model, asked * 2, tmp_path, sampling=QUICK))
    with pytest.raises(SpecError, match="expected uint8"):
        model.dream(clips[0].frames[:1, :16], ["Go."], noise_of(0, 0, model.latent_shape)[None], QUICK)
    with pytest.raises(SpecError, match="takes 96"):
        model.embedded(["far " * 60])
    pixels = tmp_path / "d0" / "dream.safetensors"
    pixels.write_bytes(pixels.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(DatasetError, match="d0"):
        read_dream(tmp_path / "d0")


def test_light_outside_every_view_is_leakage():
    grid = Grid(views=("a", "b", "c"), height_px=16, width_px=16)
    views = {view: np.full((5, 16, 16, 3), 200, np.uint8) for view in grid.views}
    clip = grid.joined(views)
    assert leakage(clip, grid) == 0.0
    clip[:, 16:, 16:] = 51
    assert leakage(clip, grid) == pytest.approx(0.2)
    assert leakage(np.zeros((5, 32, 32, 3), np.uint8), GRID) is None


def test_what_changes_beside_a_border_of_views_is_told_from_what_does_elsewhere():
    grid = Grid(views=("a", "b", "c"), height_px=32, width_px=32)
    clip = grid.joined({view: np.full((5, 32, 32, 3), 100, np.uint8) for view in grid.views})
    clip[1:, 4:28, 4:28] = 0
    clip[1:, 60:, :] = 0
    clip[1:, 32:, 40:] = 0
    assert seam_change(clip, grid) == 0.0, "inside a view, at an outer border, and beside no view"
    clip[1:, 10:20, 31] = 151
    clip[1:, 32, 0:5] = 49
    assert seam_change(clip, grid) == pytest.approx(0.2 * 15 / (2 * 4 * 32 - 4))
    assert seam_change(np.zeros((5, 32, 32, 3), np.uint8), GRID) is None


# Fine-tuning


def tuning(steps: int, **changes: Any) -> Tuning:
    return Tuning(schedule=Schedule(steps=steps, batch=4, rate=3e-3, warmup=4, keep_every=3), **changes)


def test_the_first_latent_is_out_of_the_loss(model: DreamModel, clips: list[Clip], monkeypatch: pytest.MonkeyPatch):
    examples, rows = encoded(model, clips[:2]), torch.tensor([0, 1])
    texts, level = model.embedded(examples.texts), torch.tensor([0.3, 0.9])

    def loss() -> float:
        return flow_loss(model, examples, rows, texts, level, generator_of(1)).item()

    plain, cleaned = loss(), model.cleaned

    def disturbed(picture: int) -> Callable[..., torch.Tensor]:
        def found(*given: Any) -> torch.Tensor:
            answer = cleaned(*given)
            answer[:, :, picture] += 5.0
            return answer

        return found

    monkeypatch.setattr(model, "cleaned", disturbed(0))
    assert loss() == plain
    monkeypatch.setattr(model, "cleaned", disturbed(1))
    assert loss() > plain + 1.0
    monkeypatch.undo()
    randn = torch.randn

    def other_first(*given: Any, **how: Any) -> torch.Tensor:
        noise = randn(*given, **how)
        noise[:, :, 0] += 3.0
        return noise

    monkeypatch.setattr(torch, "randn", other_first)
    assert loss() == plain, "nor does its noise reach the network"


@pytest.mark.parametrize("said", ["sample", "flow_prediction"])
def test_what_is_learned_is_what_sampling_follows(
    model: DreamModel, clips: list[Clip], monkeypatch: pytest.MonkeyPatch, said: str
):
    """A network without error has no loss, and its dream is the clip, whichever of the two it says."""
    examples, noise = encoded(model, clips[:1]), noise_of(4, 0, model.latent_shape)[None]
    model.pipeline.scheduler = UniPCMultistepScheduler(prediction_type=said, use_flow_sigmas=True, flow_shift=3.0)
    answer = examples.latents if said == "sample" else noise - examples.latents
    monkeypatch.setattr(model.pipeline.transformer, "forward", lambda **_: (answer,))
    found = model.dream(clips[0].frames[:1], [clips[0].instruction], noise, Sampling(steps=4))
    assert np.abs(found.astype(int) - model.pictures(examples.latents)).max() <= 1
    monkeypatch.setattr(torch, "randn", lambda *_, **__: noise)
    texts, level = model.embedded(examples.texts), torch.tensor([0.4])
    assert flow_loss(model, examples, torch.tensor([0]), texts, level, generator_of(1)).item() < 1e-8


def test_levels_are_shifted_towards_noise():
    plain, shifted = (noise_levels(4000, shift, generator_of(2)) for shift in (1.0, 3.0))
    assert plain.median() == pytest.approx(0.5, abs=0.02)
    assert shifted.median() == pytest.approx(0.75, abs=0.02), "the shift moves 1/2 to 3/4"
    torch.testing.assert_close(shifted, 3.0 * plain / (1.0 + 2.0 * plain))


def test_training_lowers_the_loss_of_clips_it_has_not_seen(folder: Path, clips: list[Clip], tmp_path: Path):
    model, how = open_model(folder), tuning(60)
    unseen = [moving(seed) for seed in (60, 61)]
    before = held_out_loss(model, unseen, how)
    tuned = finetune(model, clips, how, tmp_path, held_out=unseen, data="squares")
    assert tuned.steps == 60
    assert tuned.held_out < 0.8 * before, f"{before} -> {tuned.held_out}"
    assert tuned.folder is not None
    [state] = tmp_path.glob("state-*")
    mean, now = (load_file(state / f"{name}.safetensors") for name in ("mean", "now"))
    weight = model.pipeline.transformer.proj_out.weight
    assert torch.equal(weight, mean["mean/transformer/proj_out/weight"]), "what stays is the running mean"
    assert not torch.equal(weight, now["now/transformer/proj_out/weight"])
    again = open_model(tuned.folder)
    assert again.card.training[-1]["data"] == "squares"
    assert held_out_loss(again, unseen, how) == pytest.approx(tuned.held_out, rel=0.02), "half precision on the disk"
    draw_loss(tmp_path / LOG, tmp_path / "loss.png")
    dream_strips(again, unseen, tmp_path / "strips.png", sampling=QUICK)
    sheet = np.asarray(Image.open(tmp_path / "strips.png"))
    assert sheet.std() > 10.0
    line = (np.asarray(Image.open(tmp_path / "loss.png")) == (36, 92, 166)).all(axis=-1)
    rows = [np.flatnonzero(line[:, x]).mean() for x in np.flatnonzero(line.any(axis=0))]
    assert rows[-1] > rows[0] + 20, "the line falls from left to right"


@pytest.mark.parametrize("lora_rank", [None, 2])
def test_a_killed_training_goes_on_with_the_same_bits(
    folder: Path, clips: list[Clip], tmp_path: Path, lora_rank: int | None
):
    how = tuning(7, lora_rank=lora_rank)

    def go(run: str, max_s: float = 1e9) -> Tuned:
        return finetune(open_model(folder), clips, how, tmp_path / run, max_s=max_s)

    go("a")
    killed(lambda: go("b"), at="durable.written", time=3)  # states 0 and 3 are there, that of 6 is not
    steps = [json.loads(line)["step"] for line in (tmp_path / "b" / LOG).read_text().splitlines()]
    assert steps[-1] == 6
    assert go("b", max_s=0.0).folder is None
    assert go("b").steps == 7
    shutil.rmtree(tmp_path / "b" / "model")  # as if it had been killed between the last state and this
    assert go("b").folder == tmp_path / "b" / "model"
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    with pytest.raises(DatasetError, match="drop_caption"):
        finetune(open_model(folder), clips, tuning(7, lora_rank=lora_rank, drop_caption=0.5), tmp_path / "a")


def test_an_adaptation_leaves_the_model_alone_and_merges_into_it(folder: Path, clips: list[Clip], tmp_path: Path):
    model = open_model(folder)
    before = {name: weight.clone() for name, weight in model.pipeline.transformer.named_parameters()}
    tuned = finetune(model, clips, tuning(6, lora_rank=4), tmp_path)
    assert tuned.folder is not None
    now = {
        name.replace(".base_layer", ""): weight
        for name, weight in model.pipeline.transformer.named_parameters()
        if "lora_" not in name
    }
    assert before.keys() == now.keys()
    assert all(torch.equal(before[name], now[name]) for name in now)
    kept = {path.name for path in tuned.folder.iterdir()}
    assert kept == {"adaptation.safetensors", "dream.json"}

    noise = noise_of(0, 0, model.latent_shape)[None]
    shown = clips[0].frames[:1], [clips[0].instruction], noise, QUICK
    adapted = open_model(folder, lora=tuned.folder)
    apart = adapted.dream(*shown)
    np.testing.assert_array_equal(apart, model.dream(*shown))
    assert np.abs(apart.astype(int) - open_model(folder).dream(*shown)).max() > 1, "it learned something"
    adapted.pipeline.fuse_lora()
    adapted.pipeline.unload_lora_weights()
    merged = adapted.dream(*shown)
    assert np.abs(merged.astype(int) - apart).max() <= 1
    assert adapted.digest != model.digest


def test_latents_are_encoded_once(
    model: DreamModel, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first = encode(model, iter(clips), tmp_path)
    calls: list[int] = []
    latents = model.latents
    monkeypatch.setattr(model, "latents", lambda these: calls.append(1) or latents(these))
    again = encode(model, iter(clips), tmp_path)
    assert not calls
    assert torch.equal(first.latents, again.latents)
    kept = tmp_path / "latents-00000.safetensors"
    kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(encode(model, clips, tmp_path).latents, first.latents), "a damaged file is made again"
    assert len(calls) == len(clips)
    other = encode(model, clips[1:], tmp_path)
    assert torch.equal(other.latents, first.latents[1:]), "other clips are not taken for these"
    wrong = moving(0, time=TimeBase(control_hz=20, stride=5, frames=9))
    with pytest.raises(SpecError, match="every 4 of 20"):
        encode(model, [wrong], tmp_path)


# Folders


def changed(folder: Path, out: Path, name: str, **values: Any) -> Path:
    shutil.copytree(folder, out)
    path = out / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return out


def test_a_folder_that_does_not_do_says_what_would(folder: Path, tmp_path: Path):
    with pytest.raises(SpecError, match=r"factory dream finetune.*Wan2\.2-TI2V-5B-Diffusers"):
        open_model(tmp_path / "nothing")
    with pytest.raises(SpecError, match="every 4 of 20.*every 5 of 20"):
        open_model(folder, time=TimeBase(control_hz=20, stride=5, frames=9))
    with pytest.raises(SpecError, match="shows front at 32x32.*wrist"):
        open_model(folder, grid=Grid(views=("wrist",), height_px=32, width_px=32))
    with pytest.raises(SpecError, match="image_dim is 1280"):
        open_model(changed(folder, tmp_path / "a", "transformer/config.json", image_dim=1280))
    with pytest.raises(SpecError, match=r"patch_size is \[1, 4, 4\]"):
        open_model(changed(folder, tmp_path / "b", "transformer/config.json", patch_size=[1, 4, 4]))
    with pytest.raises(SpecError, match="cannot continue a first picture"):
        open_model(changed(folder, tmp_path / "c", "model_index.json", expand_timesteps=False))
    broken = changed(folder, tmp_path / "d", "model_index.json")
    (broken / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(SpecError, match="cannot be read"):
        open_model(broken)
    bare = changed(folder, tmp_path / "e", "model_index.json", _class_name="WanPipeline")
    (bare / "dream.json").unlink()
    with pytest.raises(SpecError, match="which clock, views and robot"):
        open_model(bare)
    assert open_model(bare, time=TIME, grid=GRID, embodiment="panda").card.text_tokens == 512
    (bare / "dream.json").write_text('{"format": 9}')
    with pytest.raises(SpecError, match="format 9"):
        open_model(bare)


def test_a_card_comes_back_from_its_folder(tmp_path: Path):
    card = ModelCard(time=TIME, grid=GRID, embodiment="panda", text_tokens=99, seed=5, training=({"data": "x"},))
    model_folder.write_card(tmp_path, card)
    assert model_folder.read_card(tmp_path) == card
    with pytest.raises(SpecError, match="multiples of 16"):
        ModelCard(time=TIME, grid=Grid(views=("a",), height_px=24, width_px=32), embodiment="panda")


def wan_codec(z: int = 4) -> AutoencoderKLWan:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKLWan(
            base_dim=8, z_dim=z, dim_mult=[1, 1, 1], num_res_blocks=1, temperal_downsample=[True, True],
            latents_mean=[0.1] * z, latents_std=[0.5] * z, scale_factor_spatial=4, scale_factor_temporal=4,
        )  # fmt: skip


def test_wans_own_autoencoder_takes_the_codecs_place(clips: list[Clip], tmp_path: Path):
    made = new_model(
        tmp_path / "m", size="tiny", codec=wan_codec(), time=TIME, grid=GRID, embodiment="panda", seed=0, trained_on="x"
    )
    assert made.layout.codec == "AutoencoderKLWan"
    latents = made.latents(clips[0].frames[None])
    assert latents.shape == (1, *made.latent_shape)
    torch.testing.assert_close(latents[:, :, :1], made.condition(clips[0].frames[0])[0], atol=1e-5, rtol=0.0)
    noise = noise_of(0, 0, made.latent_shape)[None]
    found = made.dream(clips[0].frames[:1], ["Go."], noise, QUICK)
    np.testing.assert_array_equal(found[:, 0], made.pictures(latents[:, :, :1])[:, 0])
    with pytest.raises(SpecError, match="exists already"):
        new_model(tmp_path / "m", size="tiny", codec=wan_codec(), time=TIME, grid=GRID, embodiment="panda", seed=0)


@pytest.mark.parametrize("seeing", [True, False])
def test_a_model_that_takes_its_first_picture_as_channels(clips: list[Clip], tmp_path: Path, seeing: bool):
    """The layout of Wan2.1-I2V-14B, with its image encoder and without, at a size that trains here."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = WanTransformer3DModel(
            num_attention_heads=2, attention_head_dim=16, in_channels=12, out_channels=4, text_dim=32, freq_dim=32,
            ffn_dim=32, num_layers=1, rope_max_seq_len=32, image_dim=32 if seeing else None,
            added_kv_proj_dim=32 if seeing else None,
        )  # fmt: skip
        text = UMT5EncoderModel(UMT5Config(vocab_size=384, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2))
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=32,
            patch_size=16,
        )  # fmt: skip
        seer = {
            "image_encoder": CLIPVisionModel(vision),
            "image_processor": CLIPImageProcessor(size=32, crop_size=32),
        }
        WanImageToVideoPipeline(
            tokenizer=ByT5Tokenizer(), text_encoder=text, vae=wan_codec(), transformer=network,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **(seer if seeing else {}),
        ).save_pretrained(tmp_path / "m")  # fmt: skip
    model = open_model(tmp_path / "m", time=TIME, grid=GRID, embodiment="panda")
    assert model.layout.conditioning == "channel_concat"
    assert model.layout.image_encoder is seeing
    tuned = finetune(model, clips[:2], tuning(1, lora_rank=2), tmp_path / "run")
    assert tuned.folder is not None
    noise = torch.stack([noise_of(seed, 0, model.latent_shape) for seed in (0, 1)])
    pictures = np.stack([clip.frames[0] for clip in clips[:2]])
    both = model.dream(pictures, ["Go.", "Stay."], noise, QUICK)
    alone = model.dream(pictures[1:], ["Stay."], noise[1:], QUICK)
    assert both.shape == (2, 9, 32, 32, 3)
    assert np.abs(both[1].astype(int) - alone[0]).max() <= 1
