"""Laws of estimates: the pilot is the job's own beginning, and the interval holds what the job ends with."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from api.estimates import final_rate, needed
from tests.site import Site, open_site


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as site:
        yield site


def test_an_estimate_tries_the_first_attempts_of_the_job(fresh: Site) -> None:
    asked = {"task": "stack", "episodes": 40, "seed": 3, "pilot": 6, "max_wall_s": 50, "render": None}
    answer = fresh.client.post("/v1/jobs:estimate", json=asked)
    assert answer.status_code == 202
    pilot = answer.json()
    assert (pilot["purpose"], pilot["spec"]["attempts"], pilot["spec"]["episodes"]) == ("estimate", 6, None)
    assert pilot["spec"]["generation"]["seed"] == 3
    fresh.work(pilot["id"], "SS.S.S", seconds=2.0)
    ended = fresh.get(f"/v1/jobs/{pilot['id']}")
    assert ended["status"] == "succeeded"
    estimate = ended["estimate"]
    assert (estimate["pilot_attempts"], estimate["pilot_successes"]) == (6, 4)
    assert 0 < estimate["success_rate"]["low"] < 4 / 6 < estimate["success_rate"]["high"] < 1
    assert estimate["attempts"]["low"] >= 40
    assert estimate["worker_s"]["expected"] == pytest.approx(2.0 * estimate["attempts"]["expected"])
    assert estimate["bytes"]["expected"] == pytest.approx(40_000)
    assert fresh.get("/v1/jobs")["data"] == []
    assert [j["id"] for j in fresh.get("/v1/jobs?purpose=estimate")["data"]] == [pilot["id"]]


@pytest.mark.parametrize(
    ("pilot", "episodes", "limit"), [(12, 100, 2000), (12, None, 200), (12, 20, 400), (30, 50, 1000), (5, None, 5000)]
)
@pytest.mark.parametrize("rate", [0.02, 0.1, 0.35, 0.5, 0.8, 0.95])
def test_the_interval_holds_the_final_rate(pilot: int, episodes: int | None, limit: int, rate: float) -> None:
    rng = np.random.default_rng(int(1000 * rate) + pilot)
    inside = 0
    for _ in range(120):
        outcomes = rng.random(limit) < rate
        made = np.cumsum(outcomes)
        end = limit if episodes is None else min(limit, int(np.searchsorted(made, episodes)) + 1)
        found = final_rate(outcomes[:pilot].tolist(), episodes=episodes, limit=limit)
        inside += found.low - 1e-12 <= made[end - 1] / end <= found.high + 1e-12
    # 95 % are promised on average; 120 trials of 0.9 fall below 0.85 once in twenty times, and seeds are fixed.
    assert inside / 120 >= 0.9


def test_a_job_that_its_pilot_has_finished_holds_no_surprise() -> None:
    outcomes = [True, False, True, True]
    ended = final_rate(outcomes, episodes=2, limit=50)
    assert (ended.low, ended.expected, ended.high) == (2 / 3, 2 / 3, 2 / 3)
    assert needed(outcomes, episodes=2, limit=50).high == 3
    assert final_rate(outcomes, episodes=None, limit=4).low == 0.75
    wide, narrow = (final_rate([True, False] * n, episodes=None, limit=10_000) for n in (5, 50))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert math.isclose(final_rate([True] * 4, episodes=None, limit=10**9).high, 1.0, abs_tol=1e-2)
