"""The breakdown of an attempt's time adds up and changes nothing."""

from __future__ import annotations

from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from factory.episodes import list_shards, read_shard, write_shard
from factory.metering import Breakdown, break_down
from factory.replay import run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from sim_tasks.backends.kinematic import KinematicBackend
from tests import kinematic


def test_the_parts_add_up_and_the_attempts_are_the_same(tmp_path: Path):
    backend, task, spec = KinematicBackend(kinematic.TASK), kinematic.TASK, GenerationSpec(seed=3)
    sources = prepare_sources(backend, task, kinematic.demos(2), spec).sources
    ticks = count()
    found = break_down(
        backend, task, sources, spec, range(3), clock=lambda: float(next(ticks)), write=partial(write_shard, tmp_path)
    )
    last = next(ticks) - 1
    plain = list(run_attempts(backend, task, sources, spec, range(3)))
    assert (found.attempts, found.held, found.steps) == (3, sum(r.held for r in plain), sum(map(len, plain)))
    assert set(found.seconds) == {"reset", "advance", "snapshot", "recipe", "episode", "write"}
    assert min(found.seconds.values()) > 0
    # One tick passes outside all parts for each episode: between its being written and the next attempt.
    assert last - 2 * found.attempts <= sum(found.seconds.values()) <= last
    for shard, result in zip(list_shards(tmp_path), [r for r in plain if r.held], strict=True):
        np.testing.assert_array_equal(read_shard(shard).columns["action"].values, result.actions)


def test_the_engine_s_share_is_what_the_simulator_leaves():
    seconds = {"reset": 1.0, "advance": 6.0, "snapshot": 1.0, "recipe": 1.0, "episode": 0.5, "write": 0.5}
    assert Breakdown(attempts=1, held=1, steps=9, seconds=seconds).engine_share == pytest.approx(0.2)
    assert Breakdown(attempts=0, held=0, steps=0, seconds={}).engine_share == 0.0
