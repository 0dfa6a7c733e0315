"""Clips under another sentence: what is true of them then is known, so that words can be learnt from any clip.

In a clip one thing is moved. Told that another thing is meant, nothing happened to that one; told another target, all
happened as before, only the end is wrong. That costs no new picture, and whoever does not read words cannot tell these
clips from good ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from dreams.examples import Example
from dreams.instructions import Instruction, read
from dreams.judge import EVENTS
from factory.errors import SpecError

OTHER_THING, OTHER_TARGET, ELSEWHERE = "told_other_thing", "told_other_target", "told_from_elsewhere"
"""Kinds of wrongly told clips: the scene's other thing, its other target, and a thing that another scene has."""
TOLD = (OTHER_THING, OTHER_TARGET, ELSEWHERE)
_MOVED_ANOTHER, _PLACED_ELSEWHERE = "wrong_object", "wrong_place"
"""Failures in which the other thing, or the other target, is what was moved, or moved to."""


def told_otherwise(example: Example, *, thing: str = "", target: str = "") -> Example:
    """Return a clip under the sentence that names another thing, or another target, or both.

    Its events are those that the law gives; where no event of the clip is known, none is.

    Args:
        example: in which, by its own sentence, another thing was moved, or the same one somewhere else.
        thing: what is named instead, without an article; empty for the same.
        target: likewise, with its preposition.

    Raises:
        SpecError: the sentence is the same, or the clip shows a failure in which what is named may be what was moved.
    """
    asked = read(example.instruction)
    new = Instruction(thing=thing or asked.thing, source=asked.source, target=target or asked.target)
    renamed, sent_elsewhere = (a.lower() != b.lower() for a, b in zip(new.key, asked.key, strict=True))
    if not renamed and not sent_elsewhere:
        raise SpecError(f"{new.text!r} asks for what {example.instruction!r} asks for")
    if (renamed and example.kind == _MOVED_ANOTHER) or (sent_elsewhere and example.kind == _PLACED_ELSEWHERE):
        raise SpecError(f"of a clip of kind {example.kind!r} it is not known whether it shows {new.text!r}")
    if not example.events:
        events: dict[str, bool] = {}
    elif renamed:
        events = dict.fromkeys(EVENTS, False)
    else:
        events = {**example.events, "placed": False}
    kind = example.kind if not example.follows else OTHER_THING if renamed else OTHER_TARGET
    return replace(example, instruction=new.text, follows=False, kind=kind, events=events)


def wrongly_told(example: Example, kind: str, things: Sequence[str], rng: np.random.Generator) -> Example | None:
    """Return a clip under a wrong sentence of a kind of `TOLD`; None where there is nothing else to name.

    Args:
        example: a good clip, or one of a failure.
        kind: one of `TOLD`.
        things: of all scenes, for `ELSEWHERE`.
        rng: of the draw.

    Raises:
        SpecError: as of `told_otherwise`.
    """
    asked = read(example.instruction)
    if kind == OTHER_TARGET:
        others = [each for each in example.targets if each.lower() != asked.target.lower()]
        return told_otherwise(example, target=_one(others, rng)) if others else None
    there = {each.lower() for each in (*example.things, asked.thing)}
    names = example.things if kind == OTHER_THING else [each for each in things if each.lower() not in there]
    others = [each for each in names if each.lower() != asked.thing.lower()]
    if not others:
        return None
    found = told_otherwise(example, thing=_one(others, rng))
    return replace(found, kind=kind) if example.follows else found


def retold(example: Example, things: Sequence[str], rng: np.random.Generator) -> list[Example]:
    """Return a clip under four sentences, its own first and one of each kind of `TOLD` behind, as far as is known.

    Where one cannot be told, or its truth is not known, another kind stands for it; where none can, the clip's own.
    """
    kinds = [
        kind for kind in TOLD
        if not (example.kind == _MOVED_ANOTHER and kind != OTHER_TARGET)
        and not (example.kind == _PLACED_ELSEWHERE and kind == OTHER_TARGET)
    ]  # fmt: skip
    found = [example]
    for number, kind in enumerate(TOLD):
        tried = [kind, *kinds[number:], *kinds[:number]] if kind in kinds else [*kinds[number:], *kinds[:number]]
        others = (wrongly_told(example, each, things, rng) for each in tried)
        found.append(next((each for each in others if each is not None), example))
    return found


def _one(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
