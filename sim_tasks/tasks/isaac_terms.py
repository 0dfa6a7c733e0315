"""What an Isaac Lab environment says of itself, as predicates: its subtask signals and its success term.

A `SceneState` has one place for truth values that only a simulator can know: contacts. An environment's terms stand
there as contacts with a group of their own. Success is such a term like any other, so the rule of this project holds
for it too: it counts when it lasts through the final hold, not when it was true once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factory.scene import Predicate, SceneState

ENVIRONMENT = "environment"
"""The contact group of what the environment says of itself."""


def terms(*names: str) -> tuple[tuple[str, str], ...]:
    """Return the pairs for a scene's list of contacts; a term the environment does not have is never true."""
    return tuple((ENVIRONMENT, name) for name in names)


def reports(name: str) -> Predicate:
    """True while the environment's own term of this name is."""

    def is_reported(state: SceneState) -> NDArray[np.bool_]:
        return state.touching(ENVIRONMENT, name)

    return is_reported
