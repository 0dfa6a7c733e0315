"""What a dream is told: take one thing from somewhere and place it somewhere else."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from factory.errors import SpecError

_ARTICLE = re.compile(r"^(the|a|an)(\s+|$)", re.IGNORECASE)
_MOST_LETTERS = 60
_SENTENCE = re.compile(r"^Pick up the (?P<thing>.+?) (?P<source>from .+?) and place it (?P<target>.+)\.$")


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One pick and place in words.

    Attributes:
        thing: what is moved, without an article: "red cube".
        source: where it is taken from, with its preposition: "from the table".
        target: where it goes: "on the green plate".
    """

    thing: str
    source: str
    target: str

    def __post_init__(self) -> None:
        for name in ("thing", "source", "target"):
            words = getattr(self, name)
            tidy = (
                _ARTICLE.sub("", " ".join(words.split())).strip(" .,;:!\"'") if name == "thing" else words.strip(" .")
            )
            if not tidy or len(tidy) > _MOST_LETTERS or any(ord(c) < 32 for c in tidy):
                raise SpecError(f"an instruction's {name} is {words!r}, expected 1 to {_MOST_LETTERS} letters")
            object.__setattr__(self, name, tidy)

    @property
    def text(self) -> str:
        """The sentence that the video model is given."""
        return f"Pick up the {self.thing} {self.source} and place it {self.target}."

    @property
    def key(self) -> tuple[str, str]:
        """What two instructions that ask for the same have in common: thing and target, in small letters."""
        return self.thing.lower(), self.target.lower()


def read(text: str) -> Instruction:
    """Return the instruction whose `text` this is. Raises SpecError for another sentence."""
    found = _SENTENCE.match(text)
    if found is None:
        raise SpecError(f"{text!r} is not of the form 'Pick up the THING from SOMEWHERE and place it SOMEWHERE.'")
    return Instruction(**found.groupdict())


def distinct(instructions: Iterable[Instruction]) -> list[Instruction]:
    """Return the first of each that ask for the same, in their order."""
    return list({each.key: each for each in reversed(list(instructions))}.values())[::-1]


def counted(instructions: Iterable[Instruction]) -> Counter[tuple[str, str]]:
    """Return how often each thing is sent to each target."""
    return Counter(each.key for each in instructions)
