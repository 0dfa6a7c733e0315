"""Fine-tuning a video model on datasets: which episodes, which clock, and the pictures of how it went."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from dreams.clips import Clip, fitting, lengths_of, read_clips
from dreams.timebase import TimeBase
from dreams.views import Frames, Grid
from factory.demos import read_demos
from factory.errors import SpecError
from factory.foreign_meta import read_info
from factory.provenance import SOURCES_PATH

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
        codec_steps: gradient steps of a new model's autoencoder, which comes first; a tiny one has one in closed form.
        episodes_fraction: share of the episodes that is trained on, evenly spread, in (0, 1].
        sources_only: as many episodes as the dataset had source demonstrations, evenly spread.
        grid: of a new model's pictures; one that is given has its own.
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
    grid: Grid
    frames: int
    stride: int | None
    seed: int
    max_s: float | None
    device: str

    def __post_init__(self) -> None:
        if not 0.0 < self.episodes_fraction <= 1.0:
            raise SpecError(f"the share of episodes is {self.episodes_fraction}; expected more than 0, 1 at most")
        if self.lora is not None and self.base is None:
            raise SpecError("an adaptation adapts a model: give --model FOLDER with --lora RANK")


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
    from dreams.new_models import new_model  # noqa: PLC0415
    from dreams.strips import draw_loss, dream_strips  # noqa: PLC0415
    from dreams.video import Sampling, open_model  # noqa: PLC0415

    fresh = asked.out / "fresh"
    base = asked.base or (fresh if fresh.exists() else None)
    opened = open_model(base, device=asked.device) if base else None
    time = opened.card.time if opened else None
    clips, left_out = clips_of(
        asked.datasets, opened.card.grid if opened else asked.grid, frames=asked.frames, stride=asked.stride, time=time
    )  # fmt: skip
    held = [clip for number, clip in enumerate(clips) if number % _HELD_OUT == _HELD_OUT - 1]
    used = chosen([clip for number, clip in enumerate(clips) if number % _HELD_OUT != _HELD_OUT - 1], asked)
    said = ", ".join(str(each) for each in asked.datasets)
    until = monotonic() + (math.inf if asked.max_s is None else asked.max_s)
    if opened is None:
        codec = _codec([clip.frames for clip in used], asked, until)
        if codec is None:
            return {"paused": "autoencoder", "steps": 0, "clips": len(used), "too_long": left_out, "model": None}
        made = new_model(
            fresh, size=asked.size, codec=codec, time=clips[0].time, grid=asked.grid,
            embodiment=clips[0].embodiment, seed=asked.seed,
            sentences={clip.instruction for clip in used}, trained_on=said,
        )  # fmt: skip
        opened = open_model(fresh, device=asked.device) if asked.device != "cpu" else made
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


def _codec(clips: Sequence[Frames], asked: VideoTraining, until: float) -> Any:
    """Return the autoencoder of a new model, fitted or trained; None where its training paused."""
    from dreams.autoencoder_training import Coding, train_autoencoder  # noqa: PLC0415 - brings torch
    from dreams.codec import fit_codec  # noqa: PLC0415
    from dreams.descent import Schedule  # noqa: PLC0415

    if asked.size == "tiny":
        return fit_codec(clips, z_dim=_CLOSED_FORM)
    schedule = Schedule(steps=asked.codec_steps, batch=6, rate=2e-3, mean=0.999, keep_every=100, seed=asked.seed)
    return train_autoencoder(clips, Coding(schedule=schedule), asked.out / "codec", max_s=until - monotonic())


def clips_of(
    datasets: Sequence[Path], grid: Grid, *, frames: int, stride: int | None, time: TimeBase | None = None
) -> tuple[list[Clip], int]:
    """Return the episodes of datasets as clips on one clock, and how many were too long for it and left out.

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
    clips = [
        clip
        for root in datasets
        for clip in read_clips(
            root, time, grid, episodes={number for number, length in lengths[root].items() if length - 1 <= time.steps}
        )
    ]
    if not clips:
        raise SpecError(
            f"the shortest episode has {every[0]} rows; clips of {time.frames} pictures at stride {time.stride} show "
            f"{time.steps} steps. Give more pictures or a larger stride"
        )
    return clips, len(every) - len(clips)


def chosen(clips: Sequence[Clip], asked: VideoTraining) -> list[Clip]:
    """Return the clips that are trained on: all, a share of them, or as many as there were demonstrations."""
    count = len(clips)
    if asked.sources_only:
        count = min(count, sum(sources_of(root) for root in asked.datasets))
    count = max(1, round(count * asked.episodes_fraction))
    return [clips[int(i)] for i in np.linspace(0, len(clips) - 1, count).round()]


def sources_of(root: Path) -> int:
    """Return how many demonstrations a dataset was made from. Raises SpecError when it does not say."""
    path = root / SOURCES_PATH
    if not path.exists():
        raise SpecError(
            f"{root} does not hold its source demonstrations; --sources-only cannot know how many there were"
        )
    return len(read_demos(path))
