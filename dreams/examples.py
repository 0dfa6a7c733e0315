"""A clip of which it is known what it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dreams.judge import EVENTS
from dreams.views import Frames
from factory.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Example:
    """A clip of which it is known what it shows.

    Attributes:
        frames: ``(t, h, w, 3)`` in the layout of the grid it is used with.
        instruction: what it was told to show.
        follows: whether it does.
        kind: "success", or the name of the failure: "dropped", "reversed", "told_other_thing".
        events: event -> whether it happened to the thing that the instruction names; what is not known is left out.
        things: all things of the scene in words, "red cube", where they are known.
        targets: all places of the scene, "on the blue plate", where they are known.
        where: thing or target -> ``(t, 2)``: where its middle is in each picture, x to the right and y down, the
            picture's borders at -1 and 1; what is not known is left out.
    """

    frames: Frames
    instruction: str
    follows: bool
    kind: str
    events: Mapping[str, bool] = field(default_factory=dict)
    things: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    where: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if unknown := set(self.events) - set(EVENTS):
            raise SpecError(f"example {self.kind!r} has events {sorted(unknown)}; known are {', '.join(EVENTS)}")
        for name, at in self.where.items():
            if at.shape != (len(self.frames), 2):
                raise SpecError(f"{name!r} is at {at.shape} places in {len(self.frames)} pictures; expected (t, 2)")
