"""Flow matching of short vectors: how noise becomes an action, and what a network is taught for it.

Straight paths from noise to data and the velocity along them (Lipman et al. 2023, "Flow Matching for Generative
Modeling", equations 20-23; Liu et al. 2023, "Rectified Flow"). Times are drawn as GR00T N1 draws them (NVIDIA 2025,
section 2.1): more of them near the noise, where a path has to find its direction.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_LATEST = 0.999
"""Times are drawn from [0, this): at 1 there is nothing left to say."""


def drawn_times(count: int, generator: torch.Generator) -> Tensor:
    """Return ``(count,)`` times in [0, 1): 0.999 (1 - u) with u from Beta(3/2, 1), whose quantile at p is p^(2/3)."""
    return _LATEST * (1.0 - torch.rand(count, generator=generator) ** (2.0 / 3.0))


def on_path(data: Tensor, noise: Tensor, times: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the paths from noise to data ``(b, ...)`` are at `times` ``(b,)``, and their velocity."""
    t = times.reshape(-1, *[1] * (data.dim() - 1))
    return (1.0 - t) * noise + t * data, data - noise


def carried(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, *, steps: int) -> Tensor:
    """Return what noise ``(b, ...)`` becomes in `steps` Euler steps from time 0 to 1 under ``velocity(x, times)``."""
    x = noise
    for step in range(steps):
        x = x + velocity(x, torch.full((len(x),), step / steps, device=x.device)) / steps
    return x
