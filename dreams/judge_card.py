"""The judge's report card: what its verdicts are worth, on clips of which the truth is known.

Two things are asked of it apart: of the clips that it accepts, how many are good (precision), and of the good ones, how
many it accepts (recall). Where it abstains or fails to answer it accepts nothing, which costs recall alone. What each
kind of failure is let through by is said kind by kind, so that one sees where it is blind.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from dreams.examples import Example
from dreams.judge import Judgement
from dreams.views import Frames
from factory.errors import SpecError
from factory.statistics import wilson

COUNTS = (4, 8, 16)
"""Pictures shown of each clip, when nobody asks otherwise."""
Judges = Callable[[Frames, str, int], Judgement]
"""Judges a clip's pictures and its instruction, shown so many pictures of it: embedded, or an endpoint."""
_BINS = 10
_DRAWS = 2000
_WIDTH, _ROW, _LEFT = 720, 18, 190
"""Pixels of the picture: its width, a row of it, and where bars begin."""
_INK, _BAR, _MARK, _PALE = (30, 30, 30), (70, 120, 180), (200, 80, 40), (225, 225, 225)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured share or error with its 95 % interval; NaN where there is nothing to measure it on."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, kw_only=True)
class KindFigures:
    """What the judge makes of one kind of clip.

    Attributes:
        kind: "success", or a failure's name.
        good: whether such clips follow their instruction.
        accepted: share of them that it accepts: right for good clips, wrong for the others.
        abstained: clips of the kind on which it abstained; likewise errors.
        errors: see abstained.
    """

    kind: str
    good: bool
    accepted: Figure
    abstained: int
    errors: int


@dataclass(frozen=True, kw_only=True)
class CountFigures:
    """The judge shown one number of pictures.

    Attributes:
        count: pictures shown.
        clips: all; answered ones are those that are no errors.
        answered: see clips.
        precision: good clips among the accepted ones.
        recall: accepted clips among the good ones.
        abstained: share of clips on which it abstained.
        calibration_error: expected calibration error (Naeini et al. 2015) of its score over ten bins.
        reliability: of each bin with a clip in it: mean score, share of good clips, clips.
        kinds: by kind, good ones first.
    """

    count: int
    clips: int
    answered: int
    precision: Figure
    recall: Figure
    abstained: Figure
    calibration_error: Figure
    reliability: tuple[tuple[float, float, int], ...]
    kinds: tuple[KindFigures, ...]


@dataclass(frozen=True, kw_only=True)
class JudgeCard:
    """All figures of one judge.

    Attributes:
        judge: who was asked, as its judgements say; likewise version.
        version: see judge.
        good: share of the clips that follow their instruction.
        counts: one for each number of pictures.
    """

    judge: str
    version: str
    good: float
    counts: tuple[CountFigures, ...]


def judge_card(
    examples: Sequence[Example], judges: Judges, *, counts: Sequence[int] = COUNTS, seed: int = 0
) -> JudgeCard:
    """Have a judge judge clips of which the truth is known, and return what its verdicts are worth.

    Intervals of shares are Wilson's; those of the calibration error come from 2,000 bootstrap draws of the clips.

    Args:
        examples: clips that the judge was neither trained nor calibrated on.
        judges: the judge.
        counts: numbers of pictures to show.
        seed: of the bootstrap.

    Raises:
        SpecError: there is no clip, or no number of pictures.
    """
    if not examples or not counts:
        raise SpecError(f"a judge's card needs clips and numbers of pictures; there are {len(examples)}, {len(counts)}")
    found: list[CountFigures] = []
    signed: set[tuple[str, str]] = set()
    for count in counts:
        judgements = [judges(example.frames, example.instruction, count) for example in examples]
        signed |= {(each.judge, each.version) for each in judgements}
        found.append(_figures(examples, judgements, count, np.random.default_rng([seed, count])))
    if len(signed) > 1:
        raise SpecError(f"a card is of one judge; these judgements are by {', '.join(map(str, sorted(signed)))}")
    judge, version = signed.pop()
    good = float(np.mean([example.follows for example in examples]))
    return JudgeCard(judge=judge, version=version, good=good, counts=tuple(found))


def figures(card: JudgeCard) -> dict[str, Any]:
    """Return a card as JSON-ready figures; what could not be measured is None."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return plain(asdict(card))


def _figures(
    examples: Sequence[Example], judgements: Sequence[Judgement], count: int, rng: np.random.Generator
) -> CountFigures:
    good = np.array([example.follows for example in examples], bool)
    verdicts = np.array([each.verdict for each in judgements])
    score = np.array([each.score for each in judgements], np.float64)
    accepted, answered = verdicts == "accept", np.isfinite(score) & (verdicts != "error")
    kinds: dict[tuple[bool, str], list[int]] = defaultdict(list)
    for row, example in enumerate(examples):
        kinds[not example.follows, example.kind].append(row)
    return CountFigures(
        count=count,
        clips=len(examples),
        answered=int(answered.sum()),
        precision=_share(good[accepted]),
        recall=_share(accepted[good]),
        abstained=_share(verdicts == "abstain"),
        calibration_error=_calibration_error(score[answered], good[answered], rng),
        reliability=_reliability(score[answered], good[answered]),
        kinds=tuple(
            KindFigures(
                kind=kind,
                good=not bad,
                accepted=_share(accepted[rows]),
                abstained=int((verdicts[rows] == "abstain").sum()),
                errors=int((verdicts[rows] == "error").sum()),
            )
            for (bad, kind), rows in sorted(kinds.items())
        ),
    )


def _share(true: NDArray[np.bool_]) -> Figure:
    value, low, high = wilson(int(true.sum()), len(true))
    return Figure(value=value, low=low, high=high, n=len(true))


def _calibration_error(score: NDArray[np.float64], good: NDArray[np.bool_], rng: np.random.Generator) -> Figure:
    if not len(score):
        return Figure(value=float("nan"), low=0.0, high=1.0, n=0)
    draws = rng.integers(len(score), size=(_DRAWS, len(score)))
    errors = [_error(score[rows], good[rows]) for rows in draws]
    low, high = np.quantile(errors, [0.025, 0.975])
    return Figure(value=_error(score, good), low=float(low), high=float(high), n=len(score))


def _error(score: NDArray[np.float64], good: NDArray[np.bool_]) -> float:
    bins = np.minimum((score * _BINS).astype(np.int64), _BINS - 1)
    apart = np.bincount(bins, score - good, _BINS)
    return float(np.abs(apart).sum() / len(score))


def _reliability(score: NDArray[np.float64], good: NDArray[np.bool_]) -> tuple[tuple[float, float, int], ...]:
    bins = np.minimum((score * _BINS).astype(np.int64), _BINS - 1)
    return tuple(
        (float(score[bins == at].mean()), float(good[bins == at].mean()), int((bins == at).sum()))
        for at in np.unique(bins)
    )


def picture(card: JudgeCard) -> Image.Image:
    """Return a card as a picture: precision and recall, then what share of each kind is accepted, with intervals."""
    rows = sum(len(each.kinds) + 7 for each in card.counts) + 2
    image = Image.new("RGB", (_WIDTH, rows * _ROW + 12), "white")
    draw = ImageDraw.Draw(image)
    draw.text((8, 6), f"{card.judge}  ({card.version})   {card.good:.0%} of the clips are good", fill=_INK)
    top = 6 + 2 * _ROW
    for each in card.counts:
        draw.text((8, top), f"{each.count} pictures, {each.clips} clips, {each.answered} answered", fill=_INK)
        top += _ROW
        whole = (
            ("precision", each.precision), ("recall", each.recall), ("abstained", each.abstained),
            ("calibration error", each.calibration_error),
        )  # fmt: skip
        for name, figure in whole:
            top = _bar(draw, top, name, figure, _BAR)
        draw.text((8, top), "accepted of:", fill=_INK)
        top += _ROW
        for kind in each.kinds:
            top = _bar(draw, top, kind.kind, kind.accepted, _BAR if kind.good else _MARK)
        top += _ROW
    return image


def _bar(draw: ImageDraw.ImageDraw, top: int, name: str, figure: Figure, colour: tuple[int, int, int]) -> int:
    """Draw one row; return where the next begins."""
    width = _WIDTH - _LEFT - 180
    draw.text((20, top), name, fill=_INK)
    draw.rectangle((_LEFT, top + 2, _LEFT + width, top + _ROW - 5), fill=_PALE)
    if np.isfinite(figure.value):
        middle = top + _ROW // 2 - 1
        draw.rectangle((_LEFT, top + 2, _LEFT + round(width * figure.value), top + _ROW - 5), fill=colour)
        draw.line((_LEFT + width * figure.low, middle, _LEFT + width * figure.high, middle), fill=_INK)
        text = f"{figure.value:.2f}  [{figure.low:.2f}, {figure.high:.2f}]  n={figure.n}"
    else:
        text = "nothing to measure it on"
    draw.text((_LEFT + width + 8, top), text, fill=_INK)
    return top + _ROW
