"""Laws of the small learned autoencoder and of the head that teaches a video network where the hand goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from dreams.autoencoder_training import Coding, train_autoencoder
from dreams.clips import Clip
from dreams.codec import pictures_to_tensor, psnr_db, tensor_to_pictures
from dreams.descent import Schedule, generator_of
from dreams.finetune import Tuning, finetune
from dreams.generate import noise_of
from dreams.growing import codec_for, regridded
from dreams.new_models import new_model
from dreams.path_head import UNIT_M, PathHead, path_of
from dreams.small_autoencoder import SmallAutoencoder, grown
from dreams.timebase import TimeBase
from dreams.video import Sampling, open_model
from dreams.views import Grid
from factory.errors import DatasetError, SpecError

pytestmark = pytest.mark.usefixtures("one_thread")
TIME = TimeBase(control_hz=20, stride=2, frames=9)
GRID = Grid(views=("front",), height_px=32, width_px=32)
CODING = Coding(schedule=Schedule(steps=4, batch=2, keep_every=2, seed=3), z_dim=4, width=16)


def sliding(seed: int, *, length: int = 16) -> Clip:
    """A square of some colour slides over a gradient, and a hand moves likewise."""
    draw = np.random.default_rng(seed)
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    frames[:] = np.linspace(60, 160, 32).astype(np.uint8)[:, None]
    colour, start, step = draw.integers(0, 256, 3), draw.integers(2, 20, 2), draw.uniform(-1.5, 1.5, 2)
    for k in range(9):
        top, left = np.clip(np.round(start + k * step), 0, 24).astype(int)
        frames[k, top : top + 8, left : left + 8] = colour
    motion = np.concatenate([np.tile(0.01 * np.array([*step, 1.0]), (length, 1)), np.zeros((length, 4))], axis=1)
    return Clip(
        name=f"slide/{seed}", frames=frames, grid=GRID, time=TIME, instruction=f"Slide {seed}.", length=length,
        embodiment="panda", hands={"right": 1}, motion=motion,
    )  # fmt: skip


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [sliding(seed) for seed in range(6)]


@pytest.fixture(scope="module")
def net() -> SmallAutoencoder:
    """One with random weights, also in the layers that begin at zero, so that every input matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = SmallAutoencoder(z_dim=16, width=16, latents_mean=(0.0,) * 16, latents_std=(0.5,) * 16)
    for name, weight in made.named_parameters():
        if name.endswith("say.weight"):
            torch.nn.init.normal_(weight, std=0.2, generator=generator_of(len(name)))
    return made.eval().requires_grad_(False)


def frames_of(clips: list[Clip]) -> list[NDArray[np.uint8]]:
    return [clip.frames for clip in clips]


@pytest.mark.parametrize(("z", "factor", "side"), [(4, 8, 4), (16, 16, 2)])
def test_latents_have_the_size_that_the_configuration_says(z: int, factor: int, side: int, clips: list[Clip]):
    made = SmallAutoencoder(z_dim=z, width=16, scale_factor_spatial=factor)
    x = pictures_to_tensor(np.stack(frames_of(clips[:2])))
    coded = made.encode(x).latent_dist.mode()
    assert coded.shape == (2, z, 3, side, side)
    shown = made.decode(coded).sample
    assert shown.shape == x.shape
    assert shown.abs().max() <= 1.0
    assert torch.equal(made.decode(coded, return_dict=False)[0], shown)


def test_a_first_picture_does_not_depend_on_what_follows_nor_a_group_on_others(net: SmallAutoencoder):
    x = 2.0 * torch.rand(1, 3, 9, 32, 32, generator=generator_of(1)) - 1.0
    other = x.clone()
    other[:, :, 5:] = -x[:, :, 5:]
    whole, changed, alone = (net.encode(each).latent_dist.mode() for each in (x, other, x[:, :, :1]))
    close = {"atol": 1e-5, "rtol": 0.0}
    torch.testing.assert_close(whole[:, :, :1], alone, **close)
    torch.testing.assert_close(whole[:, :, 1], changed[:, :, 1], **close)
    assert (whole[:, :, 2] - changed[:, :, 2]).abs().max() > 1e-2
    shown, mixed = net.decode(whole).sample, net.decode(torch.cat([whole[:, :, :2], changed[:, :, 2:]], dim=2)).sample
    torch.testing.assert_close(shown[:, :, :5], mixed[:, :, :5], **close)
    assert (shown[:, :, 5:] - mixed[:, :, 5:]).abs().max() > 1e-2


def test_what_stands_still_is_zero_and_a_known_first_picture_is_exact(net: SmallAutoencoder):
    x = (2.0 * torch.rand(2, 3, 1, 32, 32, generator=generator_of(2)) - 1.0).expand(-1, -1, 9, -1, -1)
    coded = net.encode(x).latent_dist.mode()
    torch.testing.assert_close(coded[:, :, 1:], torch.zeros_like(coded[:, :, 1:]), atol=1e-5, rtol=0.0)
    assert coded[:, :, :1].abs().max() > 1e-2
    assert torch.equal(net.decode(coded, first=x[:, :, 0]).sample[:, :, 0], x[:, :, 0])
    assert not torch.equal(net.decode(coded).sample[:, :, 0], x[:, :, 0])


def test_pictures_and_sizes_that_do_not_divide_are_refused(net: SmallAutoencoder):
    for shape in ((1, 3, 8, 32, 32), (1, 3, 9, 40, 32)):
        with pytest.raises(SpecError, match="multiples of 16"):
            net.encode(torch.zeros(shape))
    with pytest.raises(SpecError, match="multiples of 32"):
        train_autoencoder([np.zeros((9, 48, 32, 3), np.uint8)], CODING, Path("never-made"))
    for wrong in (
        {"z_dim": 6}, {"scale_factor_spatial": 12}, {"scale_factor_temporal": 2}, {"width": 6}, {"patch": 4},
        {"patch": 16, "scale_factor_spatial": 24},
    ):  # fmt: skip
        with pytest.raises(SpecError, match="small autoencoder"):
            SmallAutoencoder(**wrong)


def test_an_autoencoder_comes_back_from_its_folder(net: SmallAutoencoder, clips: list[Clip], tmp_path: Path):
    net.save_pretrained(tmp_path)
    again: Any = SmallAutoencoder.from_pretrained(tmp_path, local_files_only=True)
    x = pictures_to_tensor(clips[0].frames[None])
    coded = net.encode(x).latent_dist.mode()
    assert torch.equal(again.encode(x).latent_dist.mode(), coded)
    assert torch.equal(again.decode(coded).sample, net.decode(coded).sample)
    assert tuple(again.config.latents_std) == tuple(net.config.latents_std)


def test_training_goes_on_with_the_same_bits_and_scales_its_latents(clips: list[Clip], tmp_path: Path):
    through = train_autoencoder(frames_of(clips), CODING, tmp_path / "a")
    pieces = [train_autoencoder(frames_of(clips), CODING, tmp_path / "b", max_s=1e-2) for _ in range(2)]
    pieces.append(train_autoencoder(frames_of(clips), CODING, tmp_path / "b"))
    assert pieces[0] is None, "it was stopped on its way"
    assert through is not None
    assert pieces[-1] is not None
    for name, weight in through.state_dict().items():
        assert torch.equal(weight, pieces[-1].state_dict()[name]), name
    assert through.config.latents_std == pieces[-1].config.latents_std
    coded = through.encode(pictures_to_tensor(np.stack(frames_of(clips)))).latent_dist.mode()
    config = through.config
    mean, std = (torch.tensor(each)[:, None, None, None] for each in (config.latents_mean, config.latents_std))
    assert 0.95 < ((coded - mean) / std).std() < 1.05
    with pytest.raises(DatasetError, match="clips differ"):
        train_autoencoder(frames_of(clips[1:]), CODING, tmp_path / "b")


def test_after_training_latents_say_what_moves_in_clips_never_seen(tmp_path: Path):
    many, unseen = (
        [sliding(seed).frames for seed in range(40)],
        np.stack([sliding(seed).frames for seed in range(90, 94)]),
    )
    schedule = Schedule(steps=100, batch=4, rate=2e-3, warmup=5, mean=0.9, seed=1)
    net = train_autoencoder(many, Coding(schedule=schedule, z_dim=4, width=32), tmp_path)
    assert net is not None
    x = pictures_to_tensor(unseen)
    coded, moved = net.encode(x).latent_dist.mode(), unseen != unseen[:, :1]

    def right_db(z: torch.Tensor) -> float:
        return psnr_db(tensor_to_pictures(net.decode(z, first=x[:, :, 0]).sample)[moved], unseen[moved])

    still = psnr_db(np.repeat(unseen[:, :1], 9, axis=1)[moved], unseen[moved])
    assert right_db(coded) > max(still, right_db(0.0 * coded), right_db(coded.flip(0))) + 1.0, "not another clip's"


def test_a_model_around_it_dreams_on_from_the_exact_first_picture(
    net: SmallAutoencoder, clips: list[Clip], tmp_path: Path
):
    made = new_model(tmp_path / "m", size="tiny", codec=net, time=TIME, grid=GRID, embodiment="panda", seed=0)
    assert made.layout.codec == "SmallAutoencoder"
    assert made.latent_shape == (16, 3, 2, 2)
    latents = made.latents(clips[0].frames[None])
    torch.testing.assert_close(latents[:, :, :1], made.condition(clips[0].frames[0])[0], atol=1e-5, rtol=0.0)
    noise = noise_of(0, 0, made.latent_shape)[None]
    [found] = made.dream(clips[0].frames[:1], [clips[0].instruction], noise, Sampling(steps=2))
    np.testing.assert_array_equal(found[0], clips[0].frames[0])
    assert open_model(tmp_path / "m").digest == made.digest


def large(frames: NDArray[np.uint8], times: int) -> NDArray[np.uint8]:
    return frames.repeat(times, axis=-3).repeat(times, axis=-2)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_grown_autoencoder_does_with_large_pictures_what_it_did_with_small(
    times: int, net: SmallAutoencoder, clips: list[Clip]
):
    small, more = clips[0].frames[None], grown(net, times).eval()
    coded = net.encode(pictures_to_tensor(small)).latent_dist.mode()
    torch.testing.assert_close(
        more.encode(pictures_to_tensor(large(small, times))).latent_dist.mode(), coded, atol=1e-5, rtol=0.0
    )
    shown = net.decode(coded).sample.repeat_interleave(times, 3).repeat_interleave(times, 4)
    torch.testing.assert_close(more.decode(coded).sample, shown, atol=1e-5, rtol=0.0)
    assert grown(more, 2).config.patch == 16 * times
    with pytest.raises(SpecError, match="whole number of times"):
        grown(net, 0)


def test_a_grown_model_dreams_the_same_larger_and_takes_further_views(
    net: SmallAutoencoder, clips: list[Clip], tmp_path: Path
):
    made = new_model(tmp_path / "m", size="tiny", codec=net, time=TIME, grid=GRID, embodiment="panda", seed=0)
    torch.nn.init.normal_(made.pipeline.transformer.proj_out.weight, std=0.1, generator=generator_of(8))
    said, noise = [clips[0].instruction], noise_of(0, 0, made.latent_shape)[None]
    before = made.dream(clips[0].frames[:1], said, noise, Sampling(steps=2))
    assert not np.array_equal(before[0, -1], before[0, 0]), "something happens"
    beside = Grid(views=("front", "side"), height_px=64, width_px=64)
    for folder, grid in ((tmp_path / "large", replace(GRID, height_px=64, width_px=64)), (tmp_path / "both", beside)):
        more = regridded(open_model(tmp_path / "m"), codec_for(made, grid), grid, folder, data="squares")
        more.pipeline.transformer.load_state_dict(made.pipeline.transformer.state_dict())
        assert more.card.grid == grid
        assert more.card.training[-1]["begun_with"] == made.digest
        if grid is not beside:
            after = more.dream(large(clips[0].frames[:1], 2), said, noise, Sampling(steps=2))
            np.testing.assert_allclose(
                after.astype(int), large(before, 2), atol=2
            )  # weights are kept in half precision
        else:
            assert more.latent_shape == (16, 3, 2, 4)
    for size in (48, 16):
        with pytest.raises(SpecError, match="whole number of times"):
            codec_for(made, replace(GRID, height_px=size, width_px=size))


def test_a_grown_autoencoder_learns_on_from_where_it_was(net: SmallAutoencoder, clips: list[Clip], tmp_path: Path):
    many = [large(each, 2) for each in frames_of(clips)]
    rested = Coding(schedule=Schedule(steps=1, batch=1, rate=1e-9, seed=0))
    found = train_autoencoder(many, rested, tmp_path, begin=grown(net, 2))
    assert found is not None
    for name, weight in grown(net, 2).state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], weight, atol=1e-6, rtol=0.0)
    z = found.encode(pictures_to_tensor(np.stack(many))).latent_dist.mode()
    folded = z.transpose(0, 1)[:4].std().item()
    assert found.config.latents_std[:4] == pytest.approx([folded] * 4, rel=1e-3), "measured anew, in fours"
    with pytest.raises(DatasetError, match="begin"):
        train_autoencoder(many, rested, tmp_path)


def test_a_path_is_where_the_hand_is_in_each_picture(clips: list[Clip]):
    clip = sliding(3, length=11)
    assert clip.motion is not None
    path = path_of(clip)
    assert path is not None
    assert path.shape == (8, 3)
    at = np.minimum(np.arange(1, 9) * 2, 11)
    np.testing.assert_allclose(path.numpy(), at[:, None] * clip.motion[0, :3] / UNIT_M, atol=1e-6)
    assert path_of(replace(clips[0], motion=None)) is None


def test_a_path_head_says_each_picture_from_its_own_tokens():
    head = PathHead(8, 4, 1, seed=0)
    tokens = torch.randn(2, 12, 8, generator=generator_of(4))
    said = head(tokens)
    assert said.shape == (2, 8, 3)
    other = tokens.clone()
    other[:, :4] += 1.0  # the first picture, of which there is nothing to say
    assert torch.equal(head(other), said)
    other[:, 8:] += torch.linspace(0.0, 3.0, 8)
    assert torch.equal(head(other)[:, :4], said[:, :4])
    assert (head(other)[:, 4:] - said[:, 4:]).abs().min() > 0.0


def test_the_path_is_learned_beside_the_picture_and_no_model_holds_its_head(
    net: SmallAutoencoder, clips: list[Clip], tmp_path: Path
):
    def lost(path: float, name: str, some: list[Clip], steps: int = 2) -> list[dict[str, float]]:
        made = new_model(tmp_path / name, size="tiny", codec=net, time=TIME, grid=GRID, embodiment="panda", seed=0)
        plan = Schedule(steps=steps, batch=4, warmup=2, rate=1e-2, seed=2)
        done = finetune(made, some, Tuning(schedule=plan, path=path), tmp_path / f"{name}-run")
        assert done.folder is not None
        kept = load_file(done.folder / "transformer" / "diffusion_pytorch_model.safetensors")
        assert set(kept) == set(made.pipeline.transformer.state_dict())
        return [json.loads(line) for line in (tmp_path / f"{name}-run" / "loss.jsonl").read_text().splitlines()]

    with_head = [line["path"] for line in lost(1.0, "with", clips, steps=60)]
    assert np.mean(with_head[-10:]) < 0.6 * np.mean(with_head[:3])
    assert all("path" not in line for line in lost(0.0, "without", clips))
    blind = [replace(clip, motion=None) for clip in clips]
    assert all("path" not in line for line in lost(1.0, "blind", blind))
