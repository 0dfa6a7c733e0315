"""Draws where objects start."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from factory import poses
from factory.errors import SpecError
from factory.specs import PlacementSpec, ResetSpec

Array = NDArray[np.float64]

_TRIES = 1000
"""Rejections before a reset is called impossible; the tightest shipped reset accepts more than one draw in three."""


def sample_placements(reset: ResetSpec, rng: np.random.Generator) -> dict[str, Array]:
    """Draw one start: object name -> ``(4, 4)`` world pose of its body.

    All objects are drawn afresh until none are closer than their radii plus the gap, so that the accepted starts are
    uniform over the allowed set.

    Raises:
        SpecError: the objects do not fit into their ranges.
    """
    for _ in range(_TRIES):
        drawn: dict[str, Array] = {}
        for spec in reset.placements:
            T = _draw(spec, rng)
            drawn[spec.object] = drawn[spec.on] @ T if spec.on else T
        if _apart(reset, drawn):
            return drawn
    names = ", ".join(spec.object for spec in reset.placements)
    raise SpecError(f"{_TRIES} draws found no start that keeps {names} {reset.min_gap_m} m apart; widen their ranges")


def _draw(spec: PlacementSpec, rng: np.random.Generator) -> Array:
    # Four draws whatever the ranges are, so that a fixed coordinate does not shift the stream of the others.
    x, y, z, yaw = (rng.uniform(*limits) for limits in (spec.x_m, spec.y_m, spec.z_m, spec.yaw_rad))
    rotation = poses.yaw_matrix(np.array(yaw)) @ poses.matrix_from_quat_wxyz(np.array(spec.quat_wxyz))
    return poses.pose(rotation, np.add(spec.reference_m, (x, y, z)))


def _apart(reset: ResetSpec, drawn: dict[str, Array]) -> bool:
    specs = reset.placements
    for i, a in enumerate(specs):
        for b in specs[:i]:
            if a.radius_m == 0.0 or b.radius_m == 0.0:
                continue
            distance = np.linalg.norm(drawn[a.object][:2, 3] - drawn[b.object][:2, 3])
            if distance < a.radius_m + b.radius_m + reset.min_gap_m:
                return False
    return True
