"""Judges whether a clip shows what it was told to: evidence is asked for, the verdict is computed here.

A model that is asked "did it succeed?" says what one expects of it. So it is asked, frame by frame, what is to be seen,
then for each event whether it happened, `k` times with the permitted words in another order, and once whether something
else was done that was not asked for. Whoever says yes to that as well has not looked.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, create_model

from dreams.endpoint import AskError, Question
from dreams.instructions import Instruction
from factory.errors import SpecError

VERSION = "judge/1"
EVENTS = ("reached", "grasped", "lifted", "moved", "released", "placed")
Word = Literal["yes", "no", "unsure"]
Verdict = Literal["accept", "reject", "abstain", "error"]
Frames = NDArray[np.uint8]
"""``(t, h, w, 3)`` sRGB, in the order of time."""

_WORDS: tuple[tuple[Word, ...], ...] = tuple(itertools.permutations(("yes", "no", "unsure")))
_WORTH = {"yes": 1.0, "unsure": 0.5, "no": 0.0}
_SYSTEM = (
    "You check short videos of a robot arm, shown as still pictures in the order of time. Describe only what can be "
    "seen. An object that is pushed along has not been grasped; one that rises without touching the gripper has not "
    "been lifted. Where the pictures do not show it, the answer is unsure."
)


class Asks(Protocol):
    """Whoever answers questions: an `Endpoint`, or one in a test."""

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    def ask(self, question: Question) -> BaseModel:
        """Return the answer. Raises AskError."""
        ...


@dataclass(frozen=True, kw_only=True)
class JudgeSpec:
    """How clips are judged.

    Attributes:
        frames: how many pictures of the clip are shown, evenly spread, first and last among them.
        votes: how often the same is asked, with words and order changed; at least 1.
        accept: least mean of the votes that is accepted; in (0, 1].
        reject: most that is rejected; between the two the judge abstains.
        picture_px: longer side of the pictures sent; smaller ones are enlarged, for models look at patches.
    """

    frames: int = 8
    votes: int = 3
    accept: float = 0.75
    reject: float = 0.35
    picture_px: int = 384

    def __post_init__(self) -> None:
        if self.frames < 2 or self.votes < 1:
            raise SpecError(f"judging needs 2 frames and 1 vote at least, not {self.frames} and {self.votes}")
        if not 0.0 <= self.reject < self.accept <= 1.0:
            raise SpecError(f"expected 0 <= reject < accept <= 1, not {self.reject} and {self.accept}")


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What came of judging one clip.

    Attributes:
        verdict: `error` when there was no usable answer; it says nothing about the clip.
        score: mean of the votes, 0 to 1; NaN for an error.
        votes: what each vote was worth.
        events: event -> what the votes said, in their order.
        contrast: what the vote for something that was not asked for was worth; high ones make the judge abstain.
        caption: what was really done, where that was asked: in a clip that was rejected.
        refiled: the judgement under that caption, when there is one.
        reason: in words, for an error or an abstention.
        judge: who judged, "mllm:MODEL" or a name that says what else it is; likewise version.
        version: see judge.
        frames: indices of the pictures shown.
    """

    verdict: Verdict
    score: float
    votes: tuple[float, ...] = ()
    events: dict[str, tuple[Word, ...]]
    contrast: float = 0.0
    caption: Instruction | None = None
    refiled: Judgement | None = None
    reason: str = ""
    judge: str
    version: str = VERSION
    frames: tuple[int, ...] = ()


def sampled(total: int, count: int) -> tuple[int, ...]:
    """Return `count` indices spread evenly over `total` frames, first and last included, each once, in order."""
    if total < 1 or count < 1:
        raise SpecError(f"{count} pictures of {total} frames were asked for")
    return tuple(int(i) for i in np.unique(np.round(np.linspace(0, total - 1, count)).astype(int)))


def judge(
    frames: Frames,
    instruction: Instruction,
    asks: Asks,
    spec: JudgeSpec,
    *,
    contrast: Instruction,
    recaption: bool = True,
) -> Judgement:
    """Return the judgement of one clip. Never raises for what a model says or does not say; see `Verdict`.

    Args:
        frames: the clip.
        instruction: what it was told to show.
        asks: who is asked.
        spec: how.
        contrast: another instruction for the same scene, with another thing or target.
        recaption: ask what was done in a rejected clip, and judge it under that.
    """
    shown = sampled(len(frames), spec.frames)
    pictures = [_jpeg(frames[i], spec.picture_px) for i in shown]
    judged_by = f"mllm:{asks.model}"
    try:
        votes = [asks.ask(_question(pictures, instruction, vote)) for vote in range(spec.votes)]
        other = asks.ask(_question(pictures, contrast, spec.votes))
    except AskError as error:
        return Judgement(
            verdict="error",
            score=float("nan"),
            events={},
            reason=f"{error.reason}: {error}",
            judge=judged_by,
            frames=shown,
        )
    worth = tuple(_worth(vote) for vote in votes)
    score, against = float(np.mean(worth)), _worth(other)
    verdict: Verdict = "accept" if score >= spec.accept else "reject" if score <= spec.reject else "abstain"
    reason = ""
    if verdict == "accept" and against >= spec.accept:
        verdict, reason = "abstain", f"it says the same of {contrast.text!r}, which was not asked for"
    elif verdict == "abstain":
        reason = f"{score:.2f} lies between {spec.reject:g} and {spec.accept:g}"
    events = {name: tuple(getattr(vote.events, name) for vote in votes) for name in EVENTS}  # type: ignore[attr-defined]
    judgement = Judgement(
        verdict=verdict, score=score, votes=worth, events=events, contrast=against, reason=reason, judge=judged_by,
        frames=shown,
    )  # fmt: skip
    if verdict != "reject" or not recaption:
        return judgement
    return _refiled(judgement, frames, pictures, instruction, asks, spec)


def judge_all(
    clips: Sequence[tuple[Frames, Instruction, Instruction]], asks: Asks, spec: JudgeSpec, *, concurrency: int
) -> Iterator[Judgement]:
    """Yield a judgement for each clip, instruction and contrast, in their order, several clips at a time."""
    with ThreadPoolExecutor(concurrency, thread_name_prefix="judge") as pool:
        waiting = [
            pool.submit(judge, frames, instruction, asks, spec, contrast=contrast)
            for frames, instruction, contrast in clips
        ]
        for each in waiting:
            yield each.result()


def _refiled(
    judgement: Judgement,
    frames: Frames,
    pictures: Iterable[bytes],
    instruction: Instruction,
    asks: Asks,
    spec: JudgeSpec,
) -> Judgement:
    """Ask what was done instead, and judge the clip under that."""
    try:
        seen: Any = asks.ask(_caption_question(pictures))
        caption = Instruction(thing=seen.thing, source=seen.source, target=seen.target) if seen.moved == "yes" else None
    except (AskError, SpecError):
        return judgement  # the clip stays rejected; it only gets no second name
    if caption is None or caption.key == instruction.key:
        return judgement
    again = judge(frames, caption, asks, spec, contrast=instruction, recaption=False)
    return replace(judgement, caption=caption, refiled=again)


def _worth(vote: Any) -> float:
    """Return what a vote is worth: as much as its least certain event, nothing when the thing was another one."""
    if vote.other_thing_moved == "yes" or vote.things_stay_what_they_are == "no":
        return 0.0
    return min(_WORTH[getattr(vote.events, name)] for name in EVENTS)


def _question(pictures: Sequence[bytes], instruction: Instruction, vote: int) -> Question:
    words = _WORDS[vote % len(_WORDS)]
    order = ", ".join(words[:-1]) + f" or {words[-1]}"
    parts: list[str | bytes] = [f"{len(pictures)} pictures of one video, first to last."]
    for number, picture in enumerate(pictures, start=1):
        parts += [f"Picture {number}:", picture]
    parts.append(
        f'The robot was told: "{instruction.text}" First say for each picture where the gripper is, whether it is '
        f"open, and where the {instruction.thing} is. Then answer {order} for the {instruction.thing} alone: was it "
        "reached; grasped; lifted clear of what it lay on; moved while held; released; and does it lie "
        f"{instruction.target} at the end, let go of? Was another thing picked up instead? Do all things stay what "
        "they are: none appears, vanishes, jumps or changes colour?"
    )
    return Question(kind=VERSION, system=_SYSTEM, parts=tuple(parts), answer=_answer(words), seed=vote)


class _Observation(BaseModel):
    model_config = ConfigDict(extra="forbid")
    picture: int
    gripper: str
    thing: str


@cache
def _answer(words: tuple[Word, ...]) -> type[BaseModel]:
    """Return the form of a vote, its permitted words in this order."""
    word: Any = Literal[words]  # type: ignore[valid-type]
    fields: dict[str, Any] = dict.fromkeys(EVENTS, (word, ...))
    events = create_model("Events", __config__=ConfigDict(extra="forbid"), **fields)
    return create_model(
        "Vote",
        __config__=ConfigDict(extra="forbid"),
        observations=(list[_Observation], ...),
        other_thing_moved=(word, ...),
        things_stay_what_they_are=(word, ...),
        events=(events, ...),
    )


class Seen(BaseModel):
    """The form of a caption."""

    model_config = ConfigDict(extra="forbid")
    observations: list[_Observation]
    moved: Word
    thing: str
    source: str
    target: str


def _caption_question(pictures: Iterable[bytes]) -> Question:
    parts: list[str | bytes] = ["Pictures of one video, first to last."]
    for number, picture in enumerate(pictures, start=1):
        parts += [f"Picture {number}:", picture]
    parts.append(
        "Say for each picture where the gripper is and what it holds. Then: was one thing picked up and put down "
        "somewhere else? If so name it by colour and kind (thing), where it was taken from, such as 'from the table' "
        "(source), and where it was put, such as 'on the green plate' (target)."
    )
    return Question(kind=VERSION + "/caption", system=_SYSTEM, parts=tuple(parts), answer=Seen)


def _jpeg(frame: NDArray[np.uint8], longer_px: int) -> bytes:
    picture = Image.fromarray(frame)
    scale = longer_px / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    buffer = io.BytesIO()
    picture.resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
