"""The embedded judge: a small network that has seen simulator videos, good ones, failures and spoilt ones.

It is no language model and is never called one: what it judges is signed "classifier:NAME". It sees the pictures that
`dreams.judge.sampled` picks and the instruction's words, and says how probable each event is and that the clip
follows the instruction. It knows the scenes and the words that it was trained on and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file

from dreams.calibration import Calibration
from dreams.classifier_net import ClassifierSpec, Network, logits_of
from dreams.judge import EVENTS, Judgement, Word, sampled
from dreams.pixel_checks import PixelLimits, look
from dreams.views import Frames, Grid
from dreams.words import unread
from factory.errors import DatasetError, SpecError

VERSION = "classifier/2"
CARD = "classifier.json"
_EVENT_SURE = 0.8
"""An event at least as probable is "yes", one as improbable "no"."""


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A trained judge, opened.

    Attributes:
        name: what its judgements are signed with, after "classifier:".
        version: the beginning of its card's SHA-256, after this code's version; the card names weights by theirs.
        grid: the pictures it judges.
        words: that it learnt; whoever is told another word abstains.
        calibrations: number of pictures shown -> how its logits are read; the first is its own.
        network: in evaluation mode.
        limits: what the pixels must keep to.
    """

    name: str
    version: str
    grid: Grid
    words: tuple[str, ...]
    calibrations: Mapping[int, Calibration]
    network: Network
    limits: PixelLimits = field(default_factory=PixelLimits)


def open_classifier(folder: Path) -> Classifier:
    """Open a trained classifier. Raises DatasetError when the folder holds none that this code can read."""
    try:
        said = (folder / CARD).read_bytes()
        card = json.loads(said)
        sizes, views = card["spec"], card["grid"]
        spec = ClassifierSpec(**(sizes | {"counts": tuple(sizes["counts"])}))
        grid = Grid(**(views | {"views": tuple(views["views"])}))
        words = tuple(card["words"])
        network = Network(spec, grid, len(words))
        network.load_state_dict({k: v.float() for k, v in load_file(folder / card["weights"]).items()})
        calibrations = {n: Calibration(**card["calibrations"][str(n)]) for n in spec.counts}
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise DatasetError(
            f"{folder} holds no classifier that {VERSION} can open ({error}); `factory dream train-judge` makes one"
        ) from error
    return Classifier(
        name=card["name"], version=f"{card['code']}+{hashlib.sha256(said).hexdigest()[:12]}", grid=grid, words=words,
        calibrations=calibrations, network=network.eval(),
    )  # fmt: skip


def judge_embedded(
    frames: Frames, instruction: str, classifier: Classifier, *, count: int | None = None, first: Frames | None = None
) -> Judgement:
    """Return the judgement of one clip; never an error, but never more than a classifier's.

    What cannot be, such as a clip in which nothing moves, is rejected whatever the network says; what may only look
    wrong costs a clip as much as calibration found it to be worth. A sentence with a word that was never learnt is not
    judged: it abstains, and says which.

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
    unsaid = Judgement(
        verdict="abstain", score=0.5, events={}, judge=f"classifier:{classifier.name}", version=classifier.version,
        frames=sampled(len(frames), count),
    )  # fmt: skip
    if reason := unread(instruction, classifier.words):
        return replace(unsaid, reason=reason)
    seen = look(frames, classifier.grid, first=first)
    objection, doubt = seen.objection(classifier.limits), seen.doubt(classifier.limits)
    logits = logits_of(classifier.network, [(frames, instruction)], classifier.words, count=count)[0]
    score = 0.0 if objection else float(calibration.probability(logits[-1], np.array(bool(doubt))))
    verdict = calibration.verdict(score)
    reason = objection
    if verdict == "abstain":
        reason = f"{score:.2f} lies between {calibration.reject:.2f} and {calibration.accept:.2f}"
    if doubt and not objection and verdict != "accept":
        reason = f"{reason}; {doubt}" if reason else doubt
    return replace(
        unsaid,
        verdict=verdict,
        score=score,
        votes=(score,),
        events={name: (_word(logit),) for name, logit in zip(EVENTS, logits[:-1].tolist(), strict=True)},
        reason=reason,
    )


def _word(logit: float) -> Word:
    probability = 0.5 * (1.0 + np.tanh(0.5 * logit))
    return "yes" if probability >= _EVENT_SURE else "no" if probability <= 1.0 - _EVENT_SURE else "unsure"
