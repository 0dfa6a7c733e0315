"""Fine-tuning a video model on datasets: which episodes, which clock, and the pictures of how it went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import numpy as np

from dreams.clips import Clip, fitting, lengths_of, read_clips
from dreams.timebase import TimeBase
from dreams.views import Frames, Grid
from factory.demos import read_demos
from factory.errors import SpecError
from factory.foreign_meta import read_info
from factory.provenance import SOURCES_PATH

if TYPE_CHECKING:
    from dreams.video import DreamModel

_HELD_OUT, _STRIPS = 20, 6
"""Every so many episodes one is held out; so many of them are drawn."""


@dataclass(frozen=True, kw_only=True)
class VideoTraining:
    """What is trained on what.

    Attributes:
        datasets: LeRobot datasets.
        out: folder of the training.
        base: model to begin with; None for a new one of `size`.
        size: a key of `dreams.new_models.SIZES`.
        lora: rank of an adaptation; None for all weights.
        steps: gradient steps; likewise batch, rate.
        batch: see steps.
        rate: see steps.
        codec_steps: gradient steps of the autoencoder of a new or grown model, which come first; a tiny one has one in
            closed form.
        episodes_fraction: share of the episodes that is trained on, evenly spread, in (0, 1].
        sources_only: as many episodes as the dataset had source demonstrations, evenly spread.
        views: cameras in its pictures; None for the base's, or `dream_view` in a new model.
        size_px: height and width of each view; None for the base's, or 64 in a new model. Where either is not the
            base's, the base is made fit for them first: see `dreams.growing`.
        frames: pictures of a new model's clips.
        stride: control steps between them; None for the least that nearly all episodes fit into.
        seed: of everything drawn.
        max_s: seconds of training, the autoencoder's included, after which it pauses.
        device: where it computes.
    """

    datasets: tuple[Path, ...]
    out: Path
    base: Path | None
    size: str
    lora: int | None
    steps: int
    batch: int
    rate: float
    codec_steps: int
    episodes_fraction: float
    sources_only: bool
    views: tuple[str, ...] | None
    size_px: int | None
    frames: int
    stride: int | None
    seed: int
    max_s: float | None
    device: str

    def __post_init__(self) -> None:
        _check_share(self.episodes_fraction)
        if self.lora is not None and self.base is None:
            raise SpecError("an adaptation adapts a model: give --model FOLDER with --lora RANK")

    def grid(self, base: Grid | None) -> Grid:
        """Return what the pictures show, given what those of the base do, where it says so."""
        if base is None and self.base is not None and (self.views is None or self.size_px is None):
            raise SpecError(f"{self.base} does not say what its pictures show: give --size PIXELS and --views CAMERAS")
        base = base or Grid(views=(_VIEW,), height_px=_SIZE_PX, width_px=_SIZE_PX)
        return Grid(
            views=self.views or base.views, height_px=self.size_px or base.height_px,
            width_px=self.size_px or base.width_px,
        )  # fmt: skip


_VIEW, _SIZE_PX = "dream_view", 64
"""What a new model shows where nothing else is asked for."""
_CLOSED_FORM = 16
"""Numbers of a latent pixel of a tiny model, which has principal components for an autoencoder."""


_SMALL_SHIFT, _SMALL_PATH = 8.0, 1.0
"""How models with the small autoencoder are tuned. Its latents show where the arm is through much noise, so a network
needs the sentence at the highest levels only, and these are drawn more often; the hand's path counts as the picture.
"""


def train_video(asked: VideoTraining) -> dict[str, Any]:
    """Train, or go on, and return what there is to say: steps, losses, where model, curve and samples are."""
    from dreams.descent import LOG, Schedule  # noqa: PLC0415 - brings torch
    from dreams.finetune import Tuning, finetune  # noqa: PLC0415
    from dreams.growing import regridded  # noqa: PLC0415
    from dreams.model_folder import read_card, read_layout  # noqa: PLC0415
    from dreams.new_models import new_model  # noqa: PLC0415
    from dreams.strips import draw_loss, dream_strips  # noqa: PLC0415
    from dreams.video import Sampling, open_model  # noqa: PLC0415

    fresh = asked.out / "fresh"
    base = fresh if fresh.exists() else asked.base
    if base is not None:
        read_layout(base)  # which says what is wrong with a folder before minutes of reading
    card = read_card(base) if base else None
    grid = asked.grid(card.grid if card else None)
    clips, left_out = clips_of(
        asked.datasets, grid, frames=asked.frames, stride=asked.stride, time=card.time if card else None
    )
    held = [clip for number, clip in enumerate(clips) if number % _HELD_OUT == _HELD_OUT - 1]
    used = chosen([clip for number, clip in enumerate(clips) if number % _HELD_OUT != _HELD_OUT - 1], asked)
    said = ", ".join(str(each) for each in asked.datasets)
    until = monotonic() + (math.inf if asked.max_s is None else asked.max_s)
    opened = None
    if base is not None:
        opened = open_model(
            base, time=clips[0].time, grid=card.grid if card else grid, embodiment=clips[0].embodiment,
            device=asked.device,
        )  # fmt: skip
    if opened is None or opened.card.grid != grid:
        codec = _codec([clip.frames for clip in used], asked, until, opened, grid)
        if codec is None:
            return {"paused": "autoencoder", "steps": 0, "clips": len(used), "too_long": left_out, "model": None}
        if opened is None:
            new_model(
                fresh, size=asked.size, codec=codec, time=clips[0].time, grid=grid,
                embodiment=clips[0].embodiment, seed=asked.seed,
                sentences={clip.instruction for clip in used}, trained_on=said,
            )  # fmt: skip
            opened = open_model(fresh, device=asked.device)
        else:
            opened = regridded(opened, codec, grid, fresh, data=said)
    schedule = Schedule(steps=asked.steps, batch=asked.batch, rate=asked.rate, seed=asked.seed, mean=0.995)
    tuning = Tuning(schedule=schedule, lora_rank=asked.lora, text=asked.base is None)
    if opened.layout.codec == "SmallAutoencoder" and asked.lora is None:
        tuning = replace(tuning, shift=_SMALL_SHIFT, path=_SMALL_PATH)
    run = asked.out / "training"
    done = finetune(opened, used, tuning, run, held_out=held, data=said, max_s=until - monotonic())
    facts: dict[str, Any] = {
        "steps": done.steps,
        "held_out_loss": None if math.isnan(done.held_out) else done.held_out,
        "clips": len(used),
        "too_long": left_out,
        "model": None if done.folder is None else str(done.folder),
    }
    if (run / LOG).exists():
        draw_loss(run / LOG, asked.out / "loss.png")
        facts["curve"] = str(asked.out / "loss.png")
    if done.folder is not None and held:
        dream_strips(opened, held[:_STRIPS], asked.out / "samples.png", sampling=Sampling(), seed=asked.seed)
        facts["samples"] = str(asked.out / "samples.png")
    return facts


def _codec(clips: Sequence[Frames], asked: VideoTraining, until: float, base: DreamModel | None, grid: Grid) -> Any:
    """Return the autoencoder of a new or grown model, fitted or trained; None where its training paused."""
    from dreams.autoencoder_training import Coding, train_autoencoder  # noqa: PLC0415 - brings torch
    from dreams.codec import fit_codec  # noqa: PLC0415
    from dreams.descent import Schedule  # noqa: PLC0415
    from dreams.growing import codec_for  # noqa: PLC0415
    from dreams.small_autoencoder import SmallAutoencoder  # noqa: PLC0415

    begin = None if base is None else codec_for(base, grid)
    if begin is None and asked.size == "tiny":
        return fit_codec(clips, z_dim=_CLOSED_FORM)
    if begin is not None and not isinstance(begin, SmallAutoencoder):
        return begin
    rate = 2e-3 if begin is None else 1e-3
    schedule = Schedule(steps=asked.codec_steps, batch=6, rate=rate, mean=0.999, keep_every=100, seed=asked.seed)
    return train_autoencoder(
        clips, Coding(schedule=schedule), asked.out / "codec", begin=begin, max_s=until - monotonic()
    )


def clips_of(
    datasets: Sequence[Path],
    grid: Grid,
    *,
    frames: int,
    stride: int | None,
    time: TimeBase | None = None,
    share: float = 1.0,
) -> tuple[list[Clip], int]:
    """Return the episodes of datasets as clips on one clock, and how many were too long for it and left out.

    With a share below 1, of those that fit only so many are read, evenly spread.

    Where no clock and no stride is given, the clock is the least on which 95 % of the episodes fit: a few that dawdle
    should not make all others coarse.

    Raises:
        SpecError: no episode fits, or there is none.
        DatasetError: a dataset cannot be read, lacks a view, or has another rate than the others.
    """
    lengths = {root: lengths_of(root) for root in datasets}
    every = sorted(length for each in lengths.values() for length in each.values())
    if not every:
        raise SpecError(f"no episodes in {', '.join(str(root) for root in datasets)}")
    if time is None:
        usual = every[: max(1, math.ceil(0.95 * len(every)))]
        time = fitting(usual, control_hz=read_info(datasets[0]).fps, frames=frames, stride=stride)
    _check_share(share)
    fit = {root: [number for number, rows in lengths[root].items() if rows - 1 <= time.steps] for root in datasets}
    some = {root: [fit[root][i] for i in _spread(len(fit[root]), share)] for root in datasets}
    clips = [clip for root in datasets for clip in read_clips(root, time, grid, episodes=some[root])]
    if not clips:
        raise SpecError(
            f"the shortest episode has {every[0]} rows; clips of {time.frames} pictures at stride {time.stride} show "
            f"{time.steps} steps. Give more pictures or a larger stride"
        )
    return clips, len(every) - sum(len(numbers) for numbers in fit.values())


def chosen(clips: Sequence[Clip], asked: VideoTraining) -> list[Clip]:
    """Return the clips that are trained on: all, a share of them, or as many as there were demonstrations."""
    count = len(clips)
    if asked.sources_only:
        count = min(count, sum(sources_of(root) for root in asked.datasets))
    share = asked.episodes_fraction * count / len(clips)
    return [clips[i] for i in _spread(len(clips), share)]


def _spread(of: int, share: float) -> list[int]:
    """Return a share of the numbers up to `of`, evenly spread; one at least where there is any."""
    return [int(i) for i in np.linspace(0, of - 1, max(1, round(of * share))).round()] if of else []


def _check_share(share: float) -> None:
    if not 0.0 < share <= 1.0:
        raise SpecError(f"the share of episodes is {share}; expected more than 0, 1 at most")


def sources_of(root: Path) -> int:
    """Return how many demonstrations a dataset was made from. Raises SpecError when it does not say."""
    path = root / SOURCES_PATH
    if not path.exists():
        raise SpecError(
            f"{root} does not hold its source demonstrations; --sources-only cannot know how many there were"
        )
    return len(read_demos(path))
