"""A service on Ray under fire; the laws are those of `test_reliability.py`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import chaos, tower


@pytest.mark.slow
def test_ten_random_kills_make_no_difference_with_ray(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    demos = tower.write_demonstrations(tmp_path / "towers.hdf5")
    large = chaos.undisturbed(demos, tmp_path, episodes=100)
    roles = ("worker", "worker", "helper", "raylet", "gcs_server", "dispatcher")
    with chaos.a_site("sqlite", tmp_path, request, executor="ray") as site:
        killed, seed = 0, chaos.seed_of(request)
        while killed < 10:  # another job where one is over before enough was killed
            job_id = site.enter(demos, episodes=100)
            site.start() if not killed else site.restart()
            options = {"roles": roles, "pause_s": (0.3, 2.0), "patience_s": 120.0, "measured": 0.0}
            killed += chaos.storm(site, job_id, kills=10 - killed, seed=seed + killed, **options).total
            site.ended(job_id, 240.0)
            chaos.assert_sound(site, job_id, large.digest)
        chaos.assert_tidy(site)
        for pid in site.victims("dispatcher"):
            chaos.kill(pid)
        chaos.assert_all_gone(site, 15.0)
