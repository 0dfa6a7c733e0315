"""Words of instructions as numbers: what a judge is told is read word by word, never letter by letter.

A thing's words and a target's are read apart, so that "red cube" and "blue cylinder" teach what "red cylinder" means,
and a table of words says honestly which ones it never learnt.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dreams.instructions import Instruction, read
from factory.errors import SpecError

SLOTS = 6
"""Words of a thing, or of a target, that are read."""
_SILENT = frozenset({"a", "an", "the"})


def words_of(phrase: str) -> tuple[str, ...]:
    """Return the words of a thing or a target that mean something: "on the blue plate" -> on, blue, plate."""
    return tuple(word for word in phrase.lower().split() if word not in _SILENT)


def vocabulary(phrases: Iterable[str]) -> tuple[str, ...]:
    """Return every word of these things and targets, sorted."""
    return tuple(sorted({word for each in set(phrases) for word in words_of(each)}))


def unread(text: str, known: Sequence[str]) -> str:
    """Return why a sentence cannot be read with these words, in words; empty when it can."""
    try:
        asked = read(text)
    except SpecError as error:
        return str(error)
    for words in _both(asked):
        if new := [word for word in words if word not in known]:
            return f"it never learnt the word {new[0]!r}"
        if len(words) > SLOTS:
            return f"it reads {SLOTS} words of a thing or a target, not the {len(words)} of {' '.join(words)!r}"
    return ""


def numbers_of(texts: Sequence[str], known: Sequence[str]) -> Tensor:
    """Return ``(n, 2, SLOTS)`` int64: each sentence's thing and target as places in `known`, from 1; 0 is no word.

    Raises:
        SpecError: a sentence cannot be read; see `unread`.
    """
    at = {word: place for place, word in enumerate(known, start=1)}
    rows: list[list[list[int]]] = []
    for text in texts:
        if reason := unread(text, known):
            raise SpecError(f"{text!r} cannot be read: {reason}")
        rows.append([([at[word] for word in words] + [0] * SLOTS)[:SLOTS] for words in _both(read(text))])
    return torch.tensor(rows, dtype=torch.long).reshape(-1, 2, SLOTS)


def _both(asked: Instruction) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return words_of(asked.thing), words_of(asked.target)
