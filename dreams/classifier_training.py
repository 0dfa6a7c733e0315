"""How the embedded judge learns: clips under four sentences each, and where the things are that sentences name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from dreams.calibration import calibrated
from dreams.classifier import CARD, VERSION, Classifier, open_classifier
from dreams.classifier_net import CELL_PX, ClassifierSpec, Network, logits_of
from dreams.descent import Schedule, descend, publish
from dreams.examples import Example
from dreams.instructions import read
from dreams.judge import EVENTS, sampled
from dreams.mixing import named_in
from dreams.pixel_checks import PixelLimits, look
from dreams.telling import retold
from dreams.views import Grid
from dreams.vision import as_input, varied
from dreams.words import numbers_of, vocabulary
from factory.errors import SpecError

_RETOLD, _POINTING = 0.5, 0.3
"""Weights beside a clip's own sentence, of the other sentences and of where they point."""
_GOOD, _SOFT = 0.5, 0.5
"""Shares of a batch: clips that follow their own sentence, and clips that lose the colour between pixels."""


def train_classifier(
    train: Sequence[Example],
    calibration: Sequence[Example],
    folder: Path,
    *,
    name: str,
    grid: Grid,
    data: Any,
    spec: ClassifierSpec | None = None,
    schedule: Schedule | None = None,
    max_s: float = float("inf"),
) -> Classifier | None:
    """Train a classifier into a folder, going on where it was left; None when `max_s` ended it before its last step.

    Half of every batch follow their instruction, the others are drawn evenly over the kinds of failure. Every clip is
    shown under its own sentence and under three others, see `dreams.telling`. Where it is known where things are, words
    learn to point at them.

    Args:
        train: what it learns from; both clips that follow and that do not.
        calibration: other clips, from other episodes, that thresholds are chosen on.
        folder: for weights, card and the states of training.
        name: of the judge.
        grid: how all clips' pictures are laid out.
        data: JSON: what the examples are, so that another set is not mistaken for this one.
        spec: of the network.
        schedule: of the training.
        max_s: seconds after which it pauses.

    Raises:
        SpecError: an example is not of this grid, or none follow, or all do, or a sentence is not a pick and place.
    """
    spec, schedule = spec or ClassifierSpec(), schedule or Schedule(steps=1200, batch=12, rate=2e-3)
    for example in (*train, *calibration):
        if example.frames.shape[1:] != (*grid.shape, 3):
            raise SpecError(
                f"a clip of kind {example.kind!r} has pictures {example.frames.shape[1:]}, not {grid.shape}"
            )
    draw, things = _drawing(train, schedule.batch), named_in(train)
    words = vocabulary(
        phrase for e in (*train, *calibration) for phrase in (*e.things, *e.targets, *read(e.instruction).key)
    )
    torch.manual_seed(schedule.seed)
    network = Network(spec, grid, len(words))

    def loss(generator: torch.Generator) -> Mapping[str, Tensor]:
        rows = draw(generator)
        count = spec.counts[int(torch.randint(len(spec.counts), (1,), generator=generator))]
        rng = np.random.default_rng(int(torch.randint(1 << 62, (1,), generator=generator)))
        told = [retold(train[row], things, rng) for row in rows.tolist()]
        shown = [list(sampled(len(each[0].frames), count)) for each in told]
        pictures = as_input(torch.from_numpy(np.stack([e[0].frames[at] for e, at in zip(told, shown, strict=True)])))
        numbers = torch.stack([numbers_of([example.instruction for example in each], words) for each in told])
        pictures = varied(_softened(pictures, generator), generator, jitter=0.1, noise=0.02)
        logits, cells = network(pictures, numbers)
        aims = np.stack([[_aim(e, at, grid) for e in each] for each, at in zip(told, shown, strict=True)])
        return {**_losses(logits, told), "pointing": _POINTING * _pointing(cells, torch.from_numpy(aims))}

    about = {
        "name": name, "data": data, "words": words, "spec": asdict(spec), "schedule": asdict(schedule),
        "grid": asdict(grid),
    }  # fmt: skip
    network.train()
    if descend(network, loss, folder / "training", schedule, about=about, max_s=max_s) < schedule.steps:
        return None
    network.half().float()  # what is kept is judged, and calibrated
    follows = np.array([example.follows for example in calibration], bool)
    doubted = np.array([bool(look(e.frames, grid).doubt(PixelLimits())) for e in calibration], bool)
    clips = [(example.frames, example.instruction) for example in calibration]
    calibrations = {
        n: calibrated(logits_of(network, clips, words, count=n)[:, -1], follows, doubted=doubted) for n in spec.counts
    }
    read_as = {str(n): asdict(each) for n, each in calibrations.items()}
    publish(network.half(), folder, CARD, {**about, "calibrations": read_as, "code": VERSION})
    return open_classifier(folder)


def _losses(logits: Tensor, told: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
    """Return the losses of following and of events; a clip's own sentence counts most, what is not known nothing."""
    truths = torch.from_numpy(np.stack([[_truths(example) for example in each] for each in told]))
    known = torch.isfinite(truths).float()
    known[:, 1:] *= _RETOLD
    each = functional.binary_cross_entropy_with_logits(logits, truths.nan_to_num(), reduction="none") * known
    shares = {"follows": slice(-1, None), "events": slice(0, -1)}
    return {part: each[..., at].sum() / known[..., at].sum().clamp(min=1.0) for part, at in shares.items()}


def _pointing(cells: Tensor, aims: Tensor) -> Tensor:
    """Return the cross-entropy of where words point ``(b, s, n, 2, cells)``; an aim of -1 is not known."""
    known = aims.flatten() >= 0
    each = functional.cross_entropy(cells.flatten(0, -2), aims.flatten().clamp(min=0), reduction="none")
    return (each * known).sum() / known.sum().clamp(min=1)


def _aim(example: Example, shown: Sequence[int], grid: Grid) -> NDArray[np.int64]:
    """Return ``(n, 2)``: the cells in which thing and target of the sentence are; -1 where that is not known."""
    asked = read(example.instruction)
    rows, columns = (side // CELL_PX for side in grid.shape)
    out = np.full((len(shown), 2), -1, np.int64)
    for i, name in enumerate((asked.thing, asked.target)):
        if name in example.where:
            cell = np.floor((example.where[name][list(shown)] + 1.0) / 2.0 * (columns, rows)).astype(np.int64)
            seen = ((cell >= 0) & (cell < (columns, rows))).all(axis=1)
            out[:, i] = np.where(seen, cell[:, 1] * columns + cell[:, 0], -1)
    return out


def _softened(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Return pictures some of whose clips keep one colour for four pixels, as films do.

    Failures come from the renderer and most successes from films; nothing should be learnt from that.
    """
    soft = torch.rand(len(pictures), generator=generator) < _SOFT
    light = pictures.mean(2, keepdim=True)
    paint = functional.avg_pool2d((pictures - light).flatten(0, 1), 2)
    paint = functional.interpolate(paint, scale_factor=2.0, mode="bilinear").unflatten(0, pictures.shape[:2])
    return torch.where(soft[:, None, None, None, None], light + paint, pictures)


def _truths(example: Example) -> NDArray[np.float32]:
    known = [float(example.events[name]) if name in example.events else float("nan") for name in EVENTS]
    return np.array([*known, float(example.follows)], np.float32)


def _drawing(examples: Sequence[Example], batch: int) -> Callable[[torch.Generator], Tensor]:
    """Return what draws the rows of a batch."""
    good = torch.tensor([i for i, example in enumerate(examples) if example.follows], dtype=torch.long)
    kinds = sorted({example.kind for example in examples if not example.follows})
    bad = [torch.tensor([i for i, e in enumerate(examples) if not e.follows and e.kind == kind]) for kind in kinds]
    if not len(good) or not bad:
        raise SpecError(f"{len(examples)} examples, {len(good)} of which follow their instruction; both are needed")

    def one(rows: Tensor, generator: torch.Generator) -> Tensor:
        return rows[torch.randint(len(rows), (1,), generator=generator)]

    def draw(generator: torch.Generator) -> Tensor:
        right = round(_GOOD * batch)
        wrong = torch.randint(len(bad), (batch - right,), generator=generator).tolist()
        return torch.cat([*(one(good, generator) for _ in range(right)), *(one(bad[k], generator) for k in wrong)])

    return draw
