"""The embedded judge: a small network that has seen simulator videos, good ones, failures and spoilt ones.

It is no language model and is never called one: what it judges is signed "classifier:NAME". It sees the pictures that
`dreams.judge.sampled` picks and the instruction's letters, and says how probable each event is and that the clip
follows the instruction. It knows the scenes that it was trained on and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from dreams.calibration import Calibration, calibrated
from dreams.classifier_net import ClassifierSpec, Network, letters_of, logits_of
from dreams.descent import Schedule, descend, publish
from dreams.examples import Example
from dreams.judge import EVENTS, Judgement, Word, sampled
from dreams.pixel_checks import PixelLimits, look
from dreams.views import Frames, Grid
from dreams.vision import as_input, varied
from factory.errors import DatasetError, SpecError

VERSION = "classifier/1"
CARD = "classifier.json"
_EVENT_SURE = 0.8
"""An event at least as probable is "yes", one as improbable "no"."""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained judge, opened.

    Attributes:
        name: what its judgements are signed with, after "classifier:".
        version: the beginning of its weights' SHA-256, after this code's version.
        grid: the pictures it judges.
        calibrations: number of pictures shown -> how its logits are read; the first is its own.
        network: in evaluation mode.
        limits: what the pixels must keep to.
    """

    name: str
    version: str
    grid: Grid
    calibrations: Mapping[int, Calibration]
    network: Network
    limits: PixelLimits = field(default_factory=PixelLimits)


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

    Half of every batch follow their instruction, the others are drawn evenly over the kinds of failure.

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
        SpecError: an example is not of this grid, or none follow, or all do.
    """
    spec, schedule = spec or ClassifierSpec(), schedule or Schedule(steps=1200, batch=16, rate=1e-3)
    for example in (*train, *calibration):
        if example.frames.shape[1:] != (*grid.shape, 3):
            raise SpecError(
                f"a clip of kind {example.kind!r} has pictures {example.frames.shape[1:]}, not {grid.shape}"
            )
    draw = _drawing(train, schedule.batch)
    torch.manual_seed(schedule.seed)
    network = Network(spec, grid)
    letters = letters_of([example.instruction for example in train])
    truths = torch.from_numpy(np.stack([_truths(example) for example in train]))

    def loss(generator: torch.Generator) -> Mapping[str, Tensor]:
        rows = draw(generator)
        count = spec.counts[int(torch.randint(len(spec.counts), (1,), generator=generator))]
        chosen = [train[i].frames for i in rows.tolist()]
        pictures = as_input(torch.from_numpy(np.stack([f[list(sampled(len(f), count))] for f in chosen])))
        logits = network(varied(pictures, generator, jitter=0.1, noise=0.02), letters[rows])
        known = torch.isfinite(truths[rows])
        each = functional.binary_cross_entropy_with_logits(logits, truths[rows].nan_to_num(), reduction="none")
        events = (each * known)[:, :-1].sum() / known[:, :-1].sum().clamp(min=1)
        return {"follows": each[:, -1].mean(), "events": events}

    about = {"name": name, "data": data, "spec": asdict(spec), "schedule": asdict(schedule), "grid": asdict(grid)}
    network.train()
    if descend(network, loss, folder / "training", schedule, about=about, max_s=max_s) < schedule.steps:
        return None
    follows = np.array([example.follows for example in calibration], bool)
    clips = [(example.frames, example.instruction) for example in calibration]
    calibrations = {n: calibrated(logits_of(network, clips, count=n)[:, -1], follows) for n in spec.counts}
    read = {str(n): asdict(each) for n, each in calibrations.items()}
    publish(network, folder, CARD, {**about, "calibrations": read, "code": VERSION})
    return open_classifier(folder)


def open_classifier(folder: Path) -> Classifier:
    """Open a trained classifier. Raises DatasetError when the folder holds none that this code can read."""
    try:
        card = json.loads((folder / CARD).read_bytes())
        sizes, views = card["spec"], card["grid"]
        spec = ClassifierSpec(**(sizes | {"counts": tuple(sizes["counts"])}))
        grid = Grid(**(views | {"views": tuple(views["views"])}))
        network = Network(spec, grid)
        network.load_state_dict(load_file(folder / card["weights"]))
        calibrations = {n: Calibration(**card["calibrations"][str(n)]) for n in spec.counts}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise DatasetError(
            f"{folder} holds no classifier that {VERSION} can open ({error}); `train_classifier` makes one"
        ) from error
    version = f"{card['code']}+{card['version']}"
    return Classifier(name=card["name"], version=version, grid=grid, calibrations=calibrations, network=network.eval())


def judge_embedded(
    frames: Frames, instruction: str, classifier: Classifier, *, count: int | None = None, first: Frames | None = None
) -> Judgement:
    """Return the judgement of one clip; never an error, but never more than a classifier's.

    Args:
        frames: ``(t, h, w, 3)`` in the layout of the classifier's grid.
        instruction: what the clip was told to show, in words.
        classifier: who judges.
        count: pictures shown, one of the numbers it was calibrated for; by default its own.
        first: ``(h, w, 3)``, the frame that the clip was made from, to check that it begins there.

    Raises:
        SpecError: the clip has pictures of another layout, or no calibration has that number of pictures.
    """
    count = next(iter(classifier.calibrations)) if count is None else count
    if count not in classifier.calibrations:
        known = ", ".join(map(str, classifier.calibrations))
        raise SpecError(f"classifier {classifier.name!r} is not calibrated for {count} pictures, only for {known}")
    calibration = classifier.calibrations[count]
    objection = look(frames, classifier.grid, first=first).objection(classifier.limits)
    logits = logits_of(classifier.network, [(frames, instruction)], count=count)[0]
    score = float(calibration.probability(logits[-1]))
    verdict = calibration.verdict(score)
    reason = ""
    if objection:
        verdict, reason = "reject", objection
    elif verdict == "abstain":
        reason = f"{score:.2f} lies between {calibration.reject:.2f} and {calibration.accept:.2f}"
    return Judgement(
        verdict=verdict,
        score=score,
        votes=(score,),
        events={name: (_word(logit),) for name, logit in zip(EVENTS, logits[:-1].tolist(), strict=True)},
        reason=reason,
        judge=f"classifier:{classifier.name}",
        version=classifier.version,
        frames=sampled(len(frames), count),
    )


def _word(logit: float) -> Word:
    probability = 0.5 * (1.0 + np.tanh(0.5 * logit))
    return "yes" if probability >= _EVENT_SURE else "no" if probability <= 1.0 - _EVENT_SURE else "unsure"


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
        wrong = torch.randint(len(bad), (batch - batch // 2,), generator=generator).tolist()
        return torch.cat([*(one(good, generator) for _ in range(batch // 2)), *(one(bad[k], generator) for k in wrong)])

    return draw
