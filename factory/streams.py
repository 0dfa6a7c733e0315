"""Randomness as an argument: named streams of one attempt, spawned from the job's seed and the attempt's index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from factory.errors import SpecError


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Independent generators of one attempt; drawing from one never shifts another.

    Attributes:
        scene: object poses and the robot's start posture.
        selection: which source demo, where its segments end.
        noise: action noise.
        visual: lights, colours, cameras.
        coordination: noise on the transforms that arms share.
        transit: where a planner looks for a way.
    """

    scene: np.random.Generator
    selection: np.random.Generator
    noise: np.random.Generator
    visual: np.random.Generator
    coordination: np.random.Generator
    transit: np.random.Generator


_COORDINATION_KEY, _TRANSIT_KEY = 5, 6
"""The first four keys are spawned below; 4 words the instruction, see `recording`."""


def spawn_streams(seed: int, attempt: int) -> Streams:
    """Return the streams of one attempt; the same two numbers give the same draws on every machine.

    Raises:
        SpecError: seed or attempt is negative.
    """
    if seed < 0 or attempt < 0:
        raise SpecError(f"seed {seed} and attempt index {attempt} must not be negative")
    # A spawn key keeps (seed 1, attempt 23) and (seed 12, attempt 3) apart, which sums or concatenations would not.
    scene, selection, noise, visual = np.random.SeedSequence(entropy=seed, spawn_key=(attempt,)).spawn(4)
    return Streams(
        scene=np.random.default_rng(scene),
        selection=np.random.default_rng(selection),
        noise=np.random.default_rng(noise),
        visual=np.random.default_rng(visual),
        coordination=_stream(seed, attempt, _COORDINATION_KEY),
        transit=_stream(seed, attempt, _TRANSIT_KEY),
    )


def _stream(seed: int, attempt: int, key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(entropy=seed, spawn_key=(attempt, key)))
