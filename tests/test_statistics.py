"""Laws of the numbers: intervals, tables that add up, quantiles of all rows and not of averages."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import SpecError
from factory.statistics import (
    QUANTILES,
    AttemptRecord,
    failure_table,
    feature_statistics,
    image_statistics,
    merge_histograms,
    paired_difference,
    source_diversity,
    start_coverage,
    wilson,
)
from tests.synthetic import make_attempts


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe (1998), "Two-sided confidence intervals for the single proportion", table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_the_interval_is_the_published_one(successes: int, n: int, low: float, high: float) -> None:
    rate, found_low, found_high = wilson(successes, n)
    assert rate == successes / n
    assert (round(found_low, 4), round(found_high, 4)) == (low, high)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_mirrors_and_narrows(case: tuple[int, int]) -> None:
    successes, n = case
    rate, low, high = wilson(successes, n)
    assert 0 <= low <= rate <= high <= 1
    assert low < high
    _, mirrored_low, mirrored_high = wilson(n - successes, n)
    assert math.isclose(mirrored_low, 1 - high, abs_tol=1e-12)
    assert math.isclose(mirrored_high, 1 - low, abs_tol=1e-12)
    _, more_low, more_high = wilson(4 * successes, 4 * n)
    assert more_high - more_low < high - low


@pytest.mark.parametrize(("gains", "losses"), [(0.3, 0.05), (0.1, 0.1), (0.02, 0.0)])
def test_the_interval_of_a_paired_difference_covers_it(gains: float, losses: float) -> None:
    """Summed over all outcomes of 60 pairs, not sampled."""
    n, covered = 60, 0.0
    for gained in range(n + 1):
        for lost in range(n + 1 - gained):
            difference, low, high = paired_difference(gained, lost, n)
            assert low <= difference <= high
            mirrored = paired_difference(lost, gained, n)
            np.testing.assert_allclose((difference, low, high), (-mirrored[0], -mirrored[2], -mirrored[1]), atol=1e-15)
            if low <= gains - losses <= high:
                ways = math.comb(n, gained) * math.comb(n - gained, lost)
                covered += ways * gains**gained * losses**lost * (1 - gains - losses) ** (n - gained - lost)
    assert covered > 0.94


def test_nothing_tried_nothing_known() -> None:
    rate, low, high = wilson(0, 0)
    assert math.isnan(rate)
    assert (low, high) == (0.0, 1.0)
    with pytest.raises(SpecError, match="3 successes out of 2"):
        wilson(3, 2)


def test_an_attempt_cannot_both_succeed_and_fail() -> None:
    with pytest.raises(SpecError, match="success with reason"):
        AttemptRecord(index=0, outcome="success", reason="dropped")
    with pytest.raises(SpecError, match="failure with reason ''"):
        AttemptRecord(index=0, outcome="failure")
    with pytest.raises(SpecError, match="3 numbers, expected 7"):
        AttemptRecord(index=0, outcome="success", start_poses={"cube": (0.0, 0.0, 0.0)})


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("lr"), st.sampled_from("xyz"), st.booleans())))
def test_failures_add_up(cases: list[tuple[str, str, str, bool]]) -> None:
    attempts = [
        AttemptRecord(index=i, outcome="success")
        if good
        else AttemptRecord(index=i, outcome="failure", subtask=s, eef=e, reason=r)
        for i, (s, e, r, good) in enumerate(cases)
    ]
    table = failure_table(attempts)
    assert sum(row.count for row in table) == sum(not good for *_, good in cases)
    assert [row.count for row in table] == sorted((row.count for row in table), reverse=True)
    assert len({(row.subtask, row.eef, row.reason) for row in table}) == len(table)


def test_coverage_counts_every_start_once() -> None:
    attempts = make_attempts([0, 2, 4], [1, 3, 5, 6])
    coverage = start_coverage(attempts, bins=4)["cube"]
    assert coverage.requested.sum() == 7
    assert coverage.succeeded.sum() == 3
    assert (coverage.succeeded <= coverage.requested).all()
    assert 0 < coverage.covered < 1
    assert coverage.x_edges_m[0] == 0.0
    assert start_coverage(attempts[:1])["cube"].requested.sum() == 1


def test_diversity_is_the_number_of_evenly_used_demos() -> None:
    even = source_diversity(make_attempts([0, 1, 2, 3], []))
    assert even.counts == {"demo_0": 2, "demo_1": 2}
    assert math.isclose(even.effective, 2.0)
    assert math.isclose(even.entropy, 1.0)
    one = source_diversity(make_attempts([0, 2], []), available=["demo_0", "demo_1", "demo_2"])
    assert (one.effective, one.entropy) == (1.0, 0.0)
    assert one.counts["demo_2"] == 0
    assert source_diversity([]).effective == 0.0


def test_quantiles_are_those_of_all_rows() -> None:
    rng = np.random.default_rng(0)
    # Two modes that drift apart over the episodes: the case in which averages of episodes' quantiles go wrong.
    episodes = [rng.normal(np.where(rng.random(50) < 0.5, -1, 1) * (1 + i / 5), 0.05) for i in range(20)]
    rows = np.concatenate(episodes).astype(np.float32)
    stats = feature_statistics(rows[:, None])
    for name, q in QUANTILES.items():
        assert stats[name][0] == np.quantile(rows.astype(np.float64), q)
    average = np.mean([feature_statistics(e)["q99"] for e in episodes])
    assert abs(average - stats["q99"][0]) > 0.5
    assert stats["mean"].shape == (1,)
    assert stats["count"].tolist() == [1000]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_histograms_merge_into_the_statistics_of_all_pixels(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    images = [rng.integers(0, rng.integers(1, 257), (2, 4, 5, 3)).astype(np.uint8) for _ in range(parts)]
    counts = [np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]) for image in images]
    stats = image_statistics(merge_histograms(counts), frames=2 * parts)
    pixels = np.concatenate(images).reshape(-1, 3) / 255.0
    expected = {"min": pixels.min(0), "max": pixels.max(0), "mean": pixels.mean(0), "std": pixels.std(0)}
    expected |= {name: np.quantile(pixels, q, axis=0) for name, q in QUANTILES.items()}
    for name, value in expected.items():
        assert stats[name].shape == (3, 1, 1)
        assert np.allclose(stats[name].ravel(), value, atol=1e-9), name
