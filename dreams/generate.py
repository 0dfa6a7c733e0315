"""Dreams clips from first pictures and sentences: seeded, in batches, one round after the other, and resumable.

Every dream has its own noise from its own seed, so neither its neighbours in a batch nor its place in the order decide
what it shows. A dream is on the disk entirely or not at all; what is there is not dreamt again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor

from dreams.timebase import TimeBase
from dreams.video import DreamModel, Sampling
from dreams.views import Frames, Grid
from factory import durable
from factory.errors import DatasetError, SpecError
from factory.failpoints import reached
from factory.video import ClipWriter

MOST_ROUNDS = 4
"""Every round begins with a picture that the one before dreamt; errors add up."""

FRAMES, FILM = "dream.safetensors", "dream.mp4"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_LUMA = (0.299, 0.587, 0.114)  # BT.601, as the project's videos have it


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be dreamt.

    Attributes:
        name: of the dream; letters, digits, dots, dashes.
        picture: ``(h, w, 3)`` uint8, laid out as the model's grid.
        instructions: a sentence a round, one to `MOST_ROUNDS`.
        seed: of the noise; 0 to 2^63 - 1.
    """

    name: str
    picture: NDArray[np.uint8]
    instructions: tuple[str, ...]
    seed: int

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SpecError(f"a dream's name is up to 100 letters, digits, dots and dashes, not {self.name!r}")
        if not 0 < len(self.instructions) <= MOST_ROUNDS:
            raise SpecError(f"dream {self.name!r} has {len(self.instructions)} rounds; expected 1 to {MOST_ROUNDS}")
        if self.picture.ndim != 3 or self.picture.shape[2] != 3 or self.picture.dtype != np.uint8:
            raise SpecError(
                f"dream {self.name!r}: the first picture is {self.picture.dtype} {self.picture.shape}, "
                "expected uint8 (h, w, 3)"
            )
        if not 0 <= self.seed < 1 << 63:
            raise SpecError(f"dream {self.name!r}: the seed is {self.seed}, expected 0 to 2^63 - 1")


@dataclass(frozen=True, kw_only=True)
class Dream:
    """A clip that never happened.

    Attributes:
        name: as wished.
        frames: ``(rounds (n - 1) + 1, h, w, 3)``, n the pictures of a round.
        instructions: a sentence a round.
        seams: index of every picture that ends a round and begins the next.
        seed: as wished.
        time: the clock of one round.
        grid: where each view is.
        embodiment: the robot's name.
        model: digest of the model.
        sampling: how it was drawn.
        picture: SHA-256 of the first picture.
    """

    name: str
    frames: Frames
    instructions: tuple[str, ...]
    seams: tuple[int, ...]
    seed: int
    time: TimeBase
    grid: Grid
    embodiment: str
    model: str
    sampling: Sampling
    picture: str

    def rounds(self) -> list[Frames]:
        """Return each round's clip ``(n, h, w, 3)``; neighbours share a picture."""
        step = self.time.frames - 1
        return [self.frames[i * step : (i + 1) * step + 1] for i in range(len(self.instructions))]


def generate(
    model: DreamModel, wishes: Sequence[Wish], out: Path, *, sampling: Sampling, batch: int = 8
) -> Iterator[Dream]:
    """Yield a dream for each wish, in order; each is kept in `out` under its name before it is yielded.

    Killed and called again with the same arguments it makes the same bytes as if it had never stopped. Dreams do not
    depend on the size of a batch beyond the last bit of floating-point sums.

    Raises:
        SpecError: two wishes share a name, or a dream of that name was made from something else.
    """
    names = [wish.name for wish in wishes]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SpecError(f"several dreams are called {', '.join(twice)}")
    out.mkdir(parents=True, exist_ok=True)
    durable.sweep(out)
    for begin in range(0, len(wishes), batch):
        # Batches are cut from all wishes, made or not, so that a run that goes on has the same ones.
        these = wishes[begin : begin + batch]
        kept = {wish.name: _kept(model, wish, out, sampling) for wish in these}
        if not all(kept.values()):
            for dream in _dreamt(model, these, sampling):
                if kept[dream.name] is None:
                    kept[dream.name] = keep_dream(dream, out)
        for wish in these:
            dream = kept[wish.name]
            assert dream is not None  # noqa: S101 - filled above
            yield dream


def noise_of(seed: int, round_number: int, shape: Sequence[int]) -> Tensor:
    """Return standard normal noise of this shape, float32, that depends on nothing but the arguments."""
    name = hashlib.sha256(f"{seed}/{round_number}".encode()).digest()
    draw = torch.Generator().manual_seed(int.from_bytes(name[:8], "big") >> 1)
    return torch.randn(tuple(shape), generator=draw)


def read_dream(folder: Path) -> Dream:
    """Return the dream in a folder. Raises DatasetError for one that is missing or damaged."""
    try:
        content = (folder / FRAMES).read_bytes()
        frames = load(content)["frames"]
        said = json.loads((folder / FRAMES).with_suffix(".json").read_bytes())
        if hashlib.sha256(content).hexdigest() != said.pop("sha256"):
            raise DatasetError(f"{folder / FRAMES} is not the file that its record was written for")
        return Dream(
            frames=frames,
            time=TimeBase(**said.pop("time")),
            grid=Grid(views=tuple(said["grid"].pop("views")), **said.pop("grid")),
            sampling=Sampling(**said.pop("sampling")),
            instructions=tuple(said.pop("instructions")),
            seams=tuple(said.pop("seams")),
            **said,
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DatasetError(f"{folder} holds no readable dream: {error!r}") from error


def leakage(frames: Frames, grid: Grid) -> float | None:
    """Return the mean luminance, 0 to 1, of the pixels that no view owns; None where every pixel is a view's.

    Such pixels are black in every clip a model is trained on: light there has leaked from a view.
    """
    spare = grid.spare(frames)
    return float((spare.astype(np.float64) @ np.array(_LUMA)).mean() / 255.0) if spare.size else None


def seam_change(frames: Frames, grid: Grid) -> float | None:
    """Return how much the pixels beside a border between two views differ from the first picture, mean of 0 to 1.

    None where no two views touch. What moves in a view may come near its border, so the figure is read beside that of
    real videos: where views leak into each other it is larger.
    """
    beside = grid.seams()
    away = np.abs(frames[1:, beside].astype(np.int16) - frames[:1, beside])
    return float(away.mean() / 255.0) if away.size else None


def _dreamt(model: DreamModel, wishes: Sequence[Wish], sampling: Sampling) -> list[Dream]:
    """Return the dreams of one batch, those with more rounds going on in it."""
    shown: dict[str, list[Frames]] = {wish.name: [wish.picture[None]] for wish in wishes}
    for number in range(max(len(wish.instructions) for wish in wishes)):
        going = [wish for wish in wishes if number < len(wish.instructions)]
        clips = model.dream(
            np.stack([shown[wish.name][-1][-1] for wish in going]),
            [wish.instructions[number] for wish in going],
            torch.stack([noise_of(wish.seed, number, model.latent_shape) for wish in going]),
            sampling,
        )
        for wish, clip in zip(going, clips, strict=True):
            shown[wish.name].append(clip if number == 0 else clip[1:])
    step = model.card.time.frames - 1
    return [
        Dream(
            name=wish.name,
            frames=np.concatenate(shown[wish.name][1:]),
            seams=tuple(step * number for number in range(1, len(wish.instructions))),
            **_origin(model, wish, sampling),
        )
        for wish in wishes
    ]


def _origin(model: DreamModel, wish: Wish, sampling: Sampling) -> dict[str, Any]:
    """Return all that decides a dream."""
    return {
        "instructions": wish.instructions,
        "seed": wish.seed,
        "time": model.card.time,
        "grid": model.card.grid,
        "embodiment": model.card.embodiment,
        "model": model.digest,
        "sampling": sampling,
        "picture": hashlib.sha256(wish.picture.tobytes()).hexdigest(),
    }


def _kept(model: DreamModel, wish: Wish, out: Path, sampling: Sampling) -> Dream | None:
    if not (out / wish.name).exists():
        return None
    dream = read_dream(out / wish.name)
    wanted = _origin(model, wish, sampling)
    if differs := sorted(key for key, value in wanted.items() if getattr(dream, key) != value):
        raise SpecError(
            f"{out / wish.name} is a dream with another {', '.join(differs)}; give this one another name or folder"
        )
    return dream


def keep_dream(dream: Dream, out: Path) -> Dream:
    """Write a dream and return it: every pixel as it is, for labelling; a record; and a film for people."""
    content = save({"frames": dream.frames})
    said = {key: getattr(dream, key) for key in ("name", "instructions", "seams", "seed", "embodiment", "model")}
    said |= {"time": asdict(dream.time), "grid": asdict(dream.grid), "sampling": asdict(dream.sampling)}
    said |= {"picture": dream.picture, "sha256": hashlib.sha256(content).hexdigest()}
    with durable.staging(out / dream.name) as staged:
        (staged / FRAMES).write_bytes(content)
        durable.write_json((staged / FRAMES).with_suffix(".json"), said)
        height, width = dream.grid.shape
        hz = max(round(dream.time.video_hz), 1)  # films have whole rates; the record has the exact one
        with ClipWriter(staged / FILM, width=width, height=height, fps=hz) as film:
            for frame in dream.frames:
                film.write(frame)
        durable.rename_into_place(staged, out / dream.name)
    reached("dreams.kept")
    return dream
