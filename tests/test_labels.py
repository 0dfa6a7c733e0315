"""Laws of labels: what a clip shows comes back in size, time and order, however it was trained and however read."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dreams.clips import Clip, read_rows
from dreams.descent import LOG, Schedule, descend, generator_of
from dreams.embodiments import embodiments_of
from dreams.films import LAPA, film_clips
from dreams.flow import carried, drawn_times, on_path
from dreams.idm import horizon_of, open_idm, whole_windows
from dreams.idm_net import IdmSpec
from dreams.idm_training import train_idm
from dreams.label_card import idm_card
from dreams.labelling import Reading, Seen, correction, label, merged_reading
from dreams.latent_card import latent_card
from dreams.latents import LatentSpec, bounded, codes_of, latent_labels, open_latents, rounded, train_latents
from dreams.motion import Labels, poses_of
from dreams.timebase import TimeBase, windows
from dreams.views import Grid, seen_as
from dreams.vision import EyeSpec, Patches, patch_of
from factory import poses
from factory.errors import DatasetError, SpecError
from factory.foreign import Film
from factory.video import ClipWriter
from tests.synthetic_pictures import frame_with_number, number_in_frame

pytestmark = pytest.mark.usefixtures("one_thread")
PX = 32
GRID = Grid(views=("view",), height_px=PX, width_px=PX)
HANDS = {"hand": 1}
REACH_M = 0.2
"""The pictures show a square of twice this side."""


def drawn(xy_m: NDArray[np.float64], closed: NDArray[np.bool_], size: int = PX) -> NDArray[np.uint8]:
    """Pictures of a soft disc, blue where the fingers are open and red where they are closed, on grey."""
    v, u = np.mgrid[:size, :size]
    at = (xy_m / REACH_M * 0.5 + 0.5) * (size - 1)
    far = np.hypot(u - at[:, 0, None, None], v - at[:, 1, None, None])
    cover = np.clip(size / 10 - far + 0.5, 0.0, 1.0)[..., None]
    colour = np.where(closed[:, None], (230.0, 60.0, 40.0), (40.0, 80.0, 230.0))[:, None, None, :]
    return np.round(cover * colour + (1.0 - cover) * 110.0).astype(np.uint8)


def wandering(seed: int, steps: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A smooth way through the square, `(steps + 1, 2)` metres, and when the fingers are closed `(steps + 1,)`."""
    random = np.random.default_rng(seed)
    t = np.arange(steps + 1)[:, None]
    xy = sum(
        random.uniform(0.2, 0.5, 2) * np.sin(2 * np.pi * t / random.uniform(35.0, 120.0, 2) + random.uniform(0, 6.3, 2))
        for _ in range(2)
    )
    closed = (t[:, 0] > random.integers(10, steps - 10)) ^ bool(random.integers(2))
    return 0.8 * REACH_M * np.asarray(xy), closed


def moved(xy: NDArray[np.float64], closed: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Rows of motion of such a way."""
    rows = np.zeros((len(xy) - 1, 7))
    rows[:, :2] = np.diff(xy, axis=0)
    rows[:, 6] = np.where(closed[:-1], 1.0, -1.0)
    return rows


def clip_of(
    xy: NDArray[np.float64], closed: NDArray[np.bool_], *, name: str = "clip", stride: int = 4, frames: int = 17
) -> Clip:
    time = TimeBase(control_hz=20, stride=stride, frames=frames)
    rows = time.rows(len(xy) - 1)
    return Clip(
        name=name, frames=drawn(xy[rows], closed[rows]), grid=GRID, time=time, instruction="", length=len(xy) - 1,
        embodiment="disc", hands=HANDS, motion=moved(xy, closed),
    )  # fmt: skip


def start_of(xy: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    return {"hand": poses.pose(np.eye(3), [*xy[0], 0.0])}


def discs(count: int, first: int = 0, steps: int = 64) -> tuple[list[Clip], dict[str, dict[str, NDArray[np.float64]]]]:
    ways = {f"disc{seed}": wandering(seed, steps) for seed in range(first, first + count)}
    clips = [clip_of(*way, name=name) for name, way in ways.items()]
    return clips, {name: start_of(xy) for name, (xy, _) in ways.items()}


@dataclass(frozen=True)
class Oracle:
    """A model that knows the motion; `order` says which window's words it says at which window's place."""

    horizon: int = 16
    order: Any = None
    seen: Seen | None = None
    name: str = "oracle"
    version: str = "1"

    def read(self, clip: Clip) -> Reading:
        assert clip.motion is not None
        where = whole_windows(clip.time, self.horizon, clip.length)
        said = clip.motion[where.start[:, None] + np.arange(self.horizon)]
        if self.order is not None:
            said = said[self.order(len(said))]
        commands = np.array([[-1.0, 1.0, 1.0]])
        return Reading(where=where, motion=said[None], scale=np.full(7, 0.01), commands=commands, seen=self.seen)


# --- merging ---------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.sampled_from([4, 5, 8]), st.integers(40, 64), st.integers(0, 99))
def test_what_windows_say_comes_back_exactly_and_every_step_is_covered(stride: int, steps: int, seed: int):
    clip = clip_of(*wandering(seed, steps), stride=stride)
    assert clip.motion is not None
    horizon = horizon_of(stride)
    labels = label(clip, Oracle(horizon=horizon))
    last = (steps - horizon) // stride * stride + horizon
    np.testing.assert_allclose(labels.motion[:last], clip.motion[:last], atol=1e-12)
    assert labels.motion.shape == clip.motion.shape
    assert np.isfinite(labels.motion).all()
    np.testing.assert_allclose(labels.confidence[:last], 1.0)
    assert (labels.confidence[last:] == 0.0).all()
    assert (labels.motion[last:] == labels.motion[last - 1]).all()


def test_windows_in_the_order_they_were_finished_would_be_noticed():
    """The public code's defect: it damps motion and moves it in time, and no window says so by itself."""
    pairs, scrambled = [], []
    for seed in range(4):
        clip = clip_of(*wandering(seed, 64))
        shuffle = np.random.default_rng(seed).permutation
        pairs.append((clip, label(clip, Oracle())))
        scrambled.append((clip, label(clip, Oracle(order=shuffle))))
    good, bad = idm_card(pairs, resamples=20), idm_card(scrambled, resamples=20)
    assert good["amplitude_ratio"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert good["step_mm"]["value"] < 1e-6
    assert bad["gain"]["value"] < 0.8
    assert bad["step_mm"]["value"] > 1.0
    assert np.mean([each.confidence.mean() for _, each in scrambled]) < 0.9


def test_windows_end_within_the_episode_and_on_pictures():
    time = TimeBase(control_hz=20, stride=5, frames=17)
    assert [horizon_of(stride) for stride in (1, 4, 5, 6, 7, 16, 40)] == [16, 16, 15, 18, 14, 16, 40]
    for length in range(1, time.steps + 1):
        where = whole_windows(time, 15, length)
        assert (where.start + 15 <= length).all()
        assert len(where.start) == max(0, (length - 15) // 5 + 1)
    assert len(whole_windows(time, 15, time.steps).start) == len(windows(time, horizon=15).start)
    xy, closed = wandering(0, 64)
    with pytest.raises(SpecError, match="none of it can be labelled"):
        label(clip_of(xy[:16], closed[:16]), Oracle())


def test_commands_are_ones_that_may_be_given():
    clip = clip_of(*wandering(3, 64))

    @dataclass(frozen=True)
    class Unsure(Oracle):
        two: float = 1.0

        def read(self, clip: Clip) -> Reading:
            reading = super().read(clip)
            noise = np.random.default_rng(0).normal(0.0, 0.6, reading.motion.shape)
            return replace(reading, motion=reading.motion + noise, commands=np.array([[-1.0, 1.0, self.two]]))

    assert set(label(clip, Unsure()).motion[:, 6]) <= {-1.0, 1.0}
    between = label(clip, Unsure(two=0.0)).motion[:, 6]
    assert between.min() == -1.0
    assert between.max() == 1.0
    assert len(np.unique(between)) > 10


# --- increments and places -------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(0, 99), st.booleans())
def test_the_correction_is_the_least_squares_solution(seed: int, known_start: bool):
    random = np.random.default_rng(seed)
    rows, count, place, drift = np.array([0, 3, 6, 9]), 12, 0.4, 0.05
    off = random.normal(size=(4, 2))
    system = [np.eye(count)[rows] / place, (np.eye(count)[1:] - np.eye(count)[:-1]) / drift]
    right = [off / place, np.zeros((count - 1, 2))]
    if known_start:
        system = [each[:, 1:] for each in system]
    expected = np.linalg.lstsq(np.concatenate(system), np.concatenate(right), rcond=None)[0]
    found = correction(off, rows, count, place=place, drift=drift, known_start=known_start)
    np.testing.assert_allclose(found[1:] if known_start else found, expected, atol=1e-9)
    assert not known_start or (found[0] == 0.0).all()


def test_places_take_away_what_increments_gather():
    """Increments that are 10 % short end 10 % short; seen places put the path right, and the motion is the path's."""
    xy, closed = wandering(5, 64)
    clip = clip_of(xy, closed)
    T_true = np.tile(np.eye(4), (65, 1, 1))
    T_true[:, :2, 3] = xy

    @dataclass(frozen=True)
    class Short(Oracle):
        def read(self, clip: Clip) -> Reading:
            reading = super().read(clip)
            return replace(reading, motion=reading.motion * np.array([0.9] * 6 + [1.0]))

    size = np.full(3, 1e-3)
    seen = Seen(T_base_eef={"hand": T_true[::4]}, place_m=size, place_rad=size, drift_m=size, drift_rad=size)
    alone = label(clip, Short(), start=start_of(xy))
    both = label(clip, Short(seen=seen))
    assert alone.T_base_eef is not None
    assert both.T_base_eef is not None
    before = np.abs(alone.T_base_eef["hand"] - T_true).max()
    after = np.abs(both.T_base_eef["hand"] - T_true).max()
    assert after < 0.2 * before
    blind = replace(seen, place_m=np.array([1e-3, 1e3, 1e-3]))
    half = label(clip, Short(seen=blind), start=start_of(xy)).T_base_eef
    assert half is not None
    assert np.abs(half["hand"][:, 0, 3] - xy[:, 0]).max() < 0.2 * before, "this axis is seen"
    np.testing.assert_allclose(half["hand"][:, 1, 3], alone.T_base_eef["hand"][:, 1, 3], atol=1e-4)
    path = poses_of(both.motion, {"hand": both.T_base_eef["hand"][0]}, HANDS)["hand"]
    np.testing.assert_allclose(path, both.T_base_eef["hand"], atol=1e-12)


# --- flow matching ---------------------------------------------------------------------------------------------------


def test_the_true_velocity_carries_noise_to_the_data():
    generator = generator_of(7)
    data, noise = torch.randn(5, 3, 2, generator=generator), torch.randn(5, 3, 2, generator=generator)
    for steps in (1, 3, 8):
        torch.testing.assert_close(carried(lambda x, t: data - noise, noise, steps=steps), data)
    at, velocity = on_path(data, noise, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))
    torch.testing.assert_close(at[0], noise[0])
    torch.testing.assert_close(at[4], data[4])
    torch.testing.assert_close(at[1] + 0.75 * velocity[1], data[1])
    times = drawn_times(20000, generator)
    assert times.min() >= 0.0
    assert times.max() < 1.0
    assert times.mean() == pytest.approx(0.999 * 0.4, abs=0.01)


# --- the model -------------------------------------------------------------------------------------------------------

SMALL = IdmSpec(eye=EyeSpec(width=32, heads=2, layers=0, points=8, digest=1), layers=1, jitter=0.05, noise=0.01)


def test_a_known_sine_comes_back_through_film_split_and_label(tmp_path: Path):
    """The contract of the time base: size within 5 %, no shift, in order."""
    clips, starts = discs(40)
    model = train_idm(
        clips, tmp_path / "idm", SMALL, Schedule(steps=200, rate=5e-3, warmup=20, mean=0.97), starts=starts
    )
    steps = 64
    t = np.arange(steps + 1)
    xy = np.stack([0.11 * np.sin(2 * np.pi * t / 43.0 + 0.4), 0.05 * np.cos(2 * np.pi * t / 43.0)], axis=1)
    closed = t > 30
    frames = drawn(xy, closed, 2 * PX)
    with ClipWriter(tmp_path / "sine.mp4", width=2 * PX, height=2 * PX, fps=20) as writer:
        for frame in frames:
            writer.write(frame)
    time = TimeBase(control_hz=20, stride=4, frames=17)
    film = Film(path=tmp_path / "sine.mp4", first=0, frames=steps + 1, alone=True)
    pair = Grid(views=("view", "other"), height_px=PX, width_px=PX)
    shown = read_rows(film, time.rows(steps), GRID)
    split = pair.split(pair.joined({"view": shown, "other": shown[::-1]}))["view"]
    clip = replace(clip_of(xy, closed), frames=split)
    labels = label(replace(clip, motion=None), model)
    card = idm_card([(clip, labels)], resamples=0)
    assert 0.95 < card["amplitude_ratio"]["value"] < 1.05
    assert card["gain"]["value"] == pytest.approx(1.0, abs=0.05)
    assert card["shift_steps"]["value"] == 0.0
    assert card["gripper_f1"]["value"] == 1.0
    backwards = label(replace(clip, frames=split[::-1].copy(), motion=None), model)
    correlation = np.corrcoef(backwards.motion[:, 0], -labels.motion[::-1, 0])[0, 1]
    assert correlation > 0.9, "a film shown backwards is labelled backwards"


def test_larger_pictures_with_more_views_are_seen_as_those_a_model_knows(tmp_path: Path):
    wanted = Grid(views=("front",), height_px=8, width_px=8)
    grid = Grid(views=("side", "front"), height_px=16, width_px=16)
    draw = np.random.default_rng(0)
    front, side = (draw.integers(0, 256, (3, size, size, 3), np.uint8) for size in (8, 16))
    frames = grid.joined({"front": front.repeat(2, 1).repeat(2, 2), "side": side})
    np.testing.assert_array_equal(seen_as(frames, grid, wanted), front)
    frames[:, 0, 16] = np.minimum(front[:, 0, 0].astype(int) + 40, 255)
    known = seen_as(frames, grid, wanted)
    np.testing.assert_array_equal(np.delete(known.reshape(3, -1, 3), 0, 1), np.delete(front.reshape(3, -1, 3), 0, 1))
    expected = front[:, 0, 0] + np.minimum(255 - front[:, 0, 0].astype(int), 40) / 4
    np.testing.assert_allclose(known[:, 0, 0], expected, atol=0.51)
    for other in (replace(wanted, views=("top",)), replace(wanted, height_px=12, width_px=12)):
        with pytest.raises(SpecError, match="cannot be seen as"):
            seen_as(frames, grid, other)
    clips, starts = discs(5)
    model = train_idm(clips, tmp_path, SMALL, Schedule(steps=2, batch=2), starts=starts)
    larger = replace(clips[0].grid, height_px=2 * PX, width_px=2 * PX)
    twice = replace(clips[0], frames=clips[0].frames.repeat(2, 1).repeat(2, 2), grid=larger)
    np.testing.assert_array_equal(label(twice, model).motion, label(clips[0], model).motion)


def test_an_eye_sees_large_pictures_at_the_price_of_small_ones():
    small, large = (Patches(replace(SMALL.eye, patch_px=8 * k), (64 * k, 128 * k)) for k in (1, 3))
    fine, tokens = large(torch.zeros(2, 3, 192, 384))
    assert [each.shape for each in small(torch.zeros(2, 3, 64, 128))] == [fine.shape, tokens.shape]
    assert tokens.shape[1] == 8 * 16
    assert [patch_of(size) for size in (32, 64, 96, 128, 192, 200)] == [8, 8, 8, 16, 24, 8]
    for patch, size in ((12, 96), (16, 72)):
        with pytest.raises(SpecError, match="multiple"):
            Patches(replace(SMALL.eye, patch_px=patch), (size, size))


def test_expected_errors_lower_confidence_where_they_are_expected():
    clip = clip_of(*wandering(1, 64))
    sure = Oracle().read(clip)
    np.testing.assert_allclose(merged_reading(sure, 64)[1], 1.0, atol=1e-9)
    error = np.zeros_like(sure.motion[0])
    error[(sure.where.start[:, None] + np.arange(16) >= 30) & (sure.where.start[:, None] + np.arange(16) < 40)] = 0.03
    motion, confidence = merged_reading(replace(sure, error=error), 64)
    np.testing.assert_allclose(confidence[30:40], 1.0 / (1.0 + 3.0))
    np.testing.assert_allclose(np.delete(confidence, range(30, 40)), 1.0)
    np.testing.assert_array_equal(motion, merged_reading(sure, 64)[0])


def test_a_model_learns_how_large_its_errors_are(tmp_path: Path):
    """Pictures that show nothing are doubted, although windows agree; what it says is likelier than any constant."""
    clips, starts = discs(40)
    some = [blank(clip) if number in (4, 9, 14, 19) else clip for number, clip in enumerate(clips)]
    train_idm(some, tmp_path, SMALL, Schedule(steps=250, rate=5e-3, warmup=20, mean=0.97), starts=starts)
    model = open_idm(tmp_path)  # 4 and 14 only say how large errors are, with 24 and 34
    unseen = discs(8, first=90)[0]
    missed, said = ([], [])
    for clip in [*unseen, *map(blank, unseen)]:
        reading = model.read(clip)
        assert clip.motion is not None
        assert reading.error is not None
        true = clip.motion[reading.where.start[:, None] + np.arange(16)]
        missed.append(((reading.motion[0] - true) / reading.scale)[..., -1])
        said.append((reading.error / reading.scale)[..., -1])
    assert np.mean(said[:8]) < 0.6 * np.mean(said[8:]), "whether the fingers are closed is seen, or not"
    off, sigma = np.concatenate(missed), np.concatenate(said)
    constant = np.sqrt(np.mean(off**2))
    assert np.mean(np.log(sigma) + 0.5 * (off / sigma) ** 2) < np.log(constant) + 0.5
    assert label(unseen[0], model).confidence.mean() > label(blank(unseen[0]), model).confidence.mean()


def blank(clip: Clip) -> Clip:
    return replace(clip, frames=np.full_like(clip.frames, 110))


@pytest.mark.parametrize("head", ["regression", "flow"])
def test_training_goes_on_as_if_it_had_not_been_killed(head: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    clips, starts = discs(5)
    spec = replace(SMALL, head=head)
    schedule = Schedule(steps=7, batch=2, keep_every=2, seed=3)
    whole = train_idm(clips, tmp_path / "whole", spec, schedule, starts=starts)
    real, calls = torch.optim.AdamW.step, []

    def pulled(self: Any, closure: Any = None) -> Any:
        calls.append(0)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", pulled)
    with pytest.raises(KeyboardInterrupt):
        train_idm(clips, tmp_path / "killed", spec, schedule, starts=starts)
    monkeypatch.undo()
    again = train_idm(clips, tmp_path / "killed", spec, schedule, starts=starts)
    assert again.version == whole.version, "the same weights, bit by bit"
    logs = [(tmp_path / name / "training" / LOG).read_text() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    assert [json.loads(line)["step"] for line in logs[0].splitlines()] == list(range(1, 8))
    opened = open_idm(tmp_path / "killed", samples=2)
    assert opened.card == replace(again.card, embodiments=opened.card.embodiments)
    read = [label(clips[0], each).motion for each in (opened, open_idm(tmp_path / "whole", samples=2))]
    np.testing.assert_array_equal(*read)
    assert not list(tmp_path.rglob(".tmp-*"))
    other = train_idm(clips, tmp_path / "other", spec, replace(schedule, seed=4), starts=starts)
    assert other.version != whole.version
    with pytest.raises(DatasetError, match="another training: schedule differ"):
        train_idm(clips, tmp_path / "whole", spec, replace(schedule, seed=5), starts=starts)


def test_another_number_of_steps_is_gone_on_to_but_never_back(tmp_path: Path):
    net = torch.nn.Linear(2, 1)

    def loss(draw: torch.Generator) -> dict[str, torch.Tensor]:
        return {"loss": net(torch.randn(4, 2, generator=draw)).square().mean()}

    def trained(steps: int) -> int:
        return descend(net, loss, tmp_path / "m", Schedule(steps=steps, warmup=0), about={})

    assert [trained(3), trained(5)] == [3, 5]
    with pytest.raises(DatasetError, match="is at step 5; it cannot end at step 4"):
        trained(4)
    assert trained(5) == 5, "and nothing was changed"


def test_time_ends_training_at_a_step_from_which_it_goes_on(tmp_path: Path):
    clips, _ = discs(4)
    schedule = Schedule(steps=3, batch=2)
    early = train_idm(clips, tmp_path / "m", SMALL, schedule, max_s=0.0)
    assert early.card.schedule["done"] == 0
    late = train_idm(clips, tmp_path / "m", SMALL, schedule)
    assert late.card.schedule["done"] == 3
    assert late.version == train_idm(clips, tmp_path / "n", SMALL, schedule).version
    assert len(list((tmp_path / "m").glob("weights-*"))) == 1
    assert late.read(clips[0]).seen is None, "nobody told it where hands are"


def test_each_embodiment_has_its_own_head_and_others_are_refused(tmp_path: Path):
    clips, _ = discs(4)
    two = [
        replace(clip, embodiment="pair", hands={"left": 1, "right": 2}, motion=np.tile(clip.motion, 3)[:, :15])
        for clip in clips
        if clip.motion is not None
    ]
    model = train_idm([*clips, *two], tmp_path / "m", SMALL, Schedule(steps=2, batch=2))
    assert [len(body.scale) for body in model.card.embodiments] == [7, 15]
    assert label(clips[0], model).motion.shape == (64, 7)
    assert label(two[0], model).motion.shape == (64, 15)
    with pytest.raises(SpecError, match="unknown embodiment"):
        model.read(replace(clips[0], embodiment="stranger"))
    with pytest.raises(SpecError, match="stride 5"):
        model.read(clip_of(*wandering(0, 64), stride=5))
    with pytest.raises(SpecError, match="needs four clips"):
        train_idm(clips[:3], tmp_path / "n", SMALL, Schedule(steps=1))
    with pytest.raises(DatasetError, match="holds no inverse dynamics model"):
        open_idm(tmp_path / "nothing")
    (tmp_path / "m" / "model.json").write_text("{}")
    with pytest.raises(DatasetError, match="no readable"):
        open_idm(tmp_path / "m")


def test_sizes_of_motion_do_not_follow_one_accident():
    clips, _ = discs(6)
    usual = embodiments_of(clips, None)[0]
    assert clips[0].motion is not None
    hit = clips[0].motion.copy()
    hit[30, :6] = 5.0
    shaken = embodiments_of([replace(clips[0], motion=hit), *clips[1:]], None)[0]
    np.testing.assert_allclose(shaken.scale, usual.scale, rtol=0.1)
    np.testing.assert_allclose(usual.physical(usual.normal(hit)), hit, atol=1e-12)
    assert usual.scale.min() > 0.0
    assert usual.commands.tolist() == [[-1.0, 1.0, 1.0]]


# --- the card --------------------------------------------------------------------------------------------------------


def labels_of(motion: NDArray[np.float64], confidence: NDArray[np.float64] | None = None) -> Labels:
    sure = np.full(len(motion), 0.5) if confidence is None else confidence
    return Labels(motion=motion, T_base_eef=None, confidence=sure, model="m", version="1")


def test_the_card_sees_damping_shift_and_wrong_fingers():
    clips, _ = discs(6)
    true = [clip.motion for clip in clips if clip.motion is not None]

    def card(change: Any) -> dict[str, Any]:
        return idm_card([(c, labels_of(change(m.copy()))) for c, m in zip(clips, true, strict=True)], resamples=50)

    same = card(lambda m: m)
    for name in ("step_mm", "step_deg", "half_second_mm", "half_second_deg", "path_end_mm", "path_worst_mm"):
        assert same[name]["high"] < 1e-3, name
    assert same["gripper_f1"]["value"] == same["gripper_agreement"]["value"] == 1.0
    damped = card(lambda m: m * np.array([0.69] * 6 + [1.0]))
    assert damped["amplitude_ratio"]["value"] == pytest.approx(0.69, abs=1e-4)
    assert damped["gain"]["high"] == pytest.approx(0.69, abs=1e-4)
    for shift in (-3, 2):
        late = card(lambda m, s=shift: np.roll(m, s, axis=0))
        assert late["shift_steps"]["value"] == shift
    assert card(lambda m: np.roll(m, 4, axis=0))["gripper_f1"]["value"] > 0.6
    assert card(lambda m: np.roll(m, 12, axis=0))["gripper_f1"]["value"] < 0.2
    random = np.random.default_rng(0)
    noisy = card(lambda m: m + np.array([0.0, 0.0, 0.01, 0.0, 0.0, 0.0, 0.0]) * random.normal(size=m.shape))
    assert noisy["amplitude_ratio"]["value"] > 1.05
    assert noisy["gain"]["value"] == pytest.approx(1.0, abs=1e-4), "noise across the motion adds length, not motion"
    interval = noisy["path_end_mm"]
    assert interval["low"] < interval["value"] < interval["high"]


def test_confidence_is_worth_its_name_or_the_card_says_no():
    clip = clip_of(*wandering(1, 64))
    assert clip.motion is not None
    wrong = np.linspace(0.0, 0.02, 64)
    off = clip.motion.copy()
    off[:, 2] += wrong
    told = idm_card([(clip, labels_of(off, 1.0 / (1.0 + wrong)))], resamples=0)["confidence"]
    assert told["rank_correlation"] == pytest.approx(-1.0)
    assert told["step_mm_by_quarter"] == sorted(told["step_mm_by_quarter"], reverse=True)
    lied = idm_card([(clip, labels_of(off, wrong))], resamples=0)["confidence"]
    assert lied["rank_correlation"] == pytest.approx(1.0)
    with pytest.raises(SpecError, match="true motion is"):
        idm_card([(clip, labels_of(off[:-1]))])


# --- latent actions --------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_every_code_is_reached_and_none_beside(levels: list[int], seed: int):
    values = torch.randn(4000, len(levels), generator=generator_of(seed)) * 4.0
    held = bounded(values, levels)
    whole = held.round()
    codes = codes_of(held.double().numpy(), levels)
    assert codes.min() >= 0
    assert codes.max() < np.prod(levels)
    for i, level in enumerate(levels):
        assert len(torch.unique(whole[:, i])) == level
    distinct = len(np.unique(whole.numpy(), axis=0))
    assert len(np.unique(codes)) == distinct, "one number, one code"
    leaf = held.clone().requires_grad_()
    rounded(leaf).sum().backward()
    assert (leaf.grad == 1.0).all()


TINY = LatentSpec(
    eye=EyeSpec(width=32, heads=2, layers=0, points=8), layers=1, tokens=2, levels=(5, 5), apart_s=0.2, jitter=0.0
)


@pytest.mark.slow
def test_latent_actions_say_what_comes_and_hold_the_motion(tmp_path: Path):
    """No motion is shown to the model, yet it is found in what the model says."""
    ways = [wandering(seed, 64) for seed in range(40)]
    clips = [clip_of(xy, np.zeros_like(closed)) for xy, closed in ways]
    unlabelled = [replace(clip, motion=None, hands={}, embodiment=LAPA) for clip in clips[:30]]
    model = train_latents(unlabelled, tmp_path / "m", TINY, Schedule(steps=200, rate=6e-3, warmup=20, mean=0.97))
    card = latent_card(clips[30:], model, probe=clips[:30], resamples=20)
    assert not card["collapsed"]
    assert min(card["perplexity"]) > 5.0, "of 25 codes"
    assert card["closer_to_future"]["low"] > 0.7
    assert card["probe_r2"]["hand_dx_m"]["value"] > 0.4
    assert card["probe_r2"]["hand_dy_m"]["value"] > 0.4
    assert card["probe_r2"]["hand_dz_m"] is None, "nothing moved that way"
    said = latent_labels(clips[0], open_latents(tmp_path / "m"))
    assert said.embedding.shape == (16, 4)
    assert np.abs(said.embedding).max() <= 1.0
    np.testing.assert_array_equal(said.codes, latent_labels(clips[0], model).codes)
    with torch.no_grad():
        model.net.say[1].weight.zero_()  # type: ignore[operator]
    assert latent_card(clips[30:], model, resamples=0)["collapsed"]


def test_latent_training_goes_on_where_it_was(tmp_path: Path):
    clips, _ = discs(3)
    schedule = Schedule(steps=4, batch=2)
    train_latents(clips, tmp_path / "m", TINY, schedule, max_s=0.0)
    model = train_latents(clips, tmp_path / "m", TINY, schedule)
    assert model.version == train_latents(clips, tmp_path / "n", TINY, schedule).version
    with pytest.raises(DatasetError, match="another training: pixels differ"):
        train_latents([replace(c, frames=255 - c.frames) for c in clips], tmp_path / "m", TINY, schedule)
    with pytest.raises(DatasetError, match="no latent action model"):
        open_latents(tmp_path / "o")


@settings(max_examples=4)
@given(st.sampled_from([(10, 1), (25, 3), (30, 2)]), st.integers(12, 40))
def test_films_of_any_size_and_rate_become_clips_in_order(rate: tuple[int, int], count: int):
    import tempfile

    fps, stride = rate
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "deep" / "film.mp4"
        path.parent.mkdir()
        with ClipWriter(path, width=96, height=64, fps=fps) as writer:
            for number in range(count):
                square = frame_with_number(number, size=64)
                writer.write(np.pad(square, ((0, 0), (16, 16), (0, 0))))
        clips = list(film_clips(Path(name), stride=stride, frames=9, height_px=64, width_px=64))
    numbers: list[int] = []
    for clip in clips:
        assert (clip.time.control_hz, clip.time.stride, clip.embodiment) == (fps, stride, LAPA)
        assert clip.motion is None
        assert (clip.frames[:, :10] == 0).all(), "black above: the film is wider than the view"
        own = clip.length // stride + 1
        middle = [frame[10:54, 10:54] for frame in clip.frames[:own]]
        numbers += [number_in_frame(np.kron(each, np.ones((2, 2, 1), np.uint8))) for each in middle]
    expected = np.arange(0, count, stride)
    assert list(dict.fromkeys(numbers)) == list(expected[: len(dict.fromkeys(numbers))])
    assert len(expected) - len(dict.fromkeys(numbers)) <= 1, "at most a rest of one picture is left out"
