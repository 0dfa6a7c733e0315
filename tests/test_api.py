"""Laws of jobs behind HTTP: what a job says of itself makes it again, and asking twice makes it once."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from api import leases
from api.requests import GenerationSettings, RenderSettings
from factory.specs import GenerationSpec, RenderSpec
from tests.site import Site, open_site, problem


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as site:
        yield site


@pytest.mark.parametrize(("body", "spec"), [(GenerationSettings, GenerationSpec), (RenderSettings, RenderSpec)])
def test_every_setting_can_be_asked_for(body: Any, spec: Any) -> None:
    assert set(body.model_fields) == {field.name for field in dataclasses.fields(spec)}


@pytest.mark.parametrize(
    "asked",
    [
        {"episodes": 3},
        {"attempts": 7, "render": None, "priority": "high", "metadata": {"a": "b"}},
        {"episodes": 2, "max_attempts": 9, "min_success_rate": 0.5, "max_wall_s": 60, "keep_failed": True},
        {"episodes": 2, "seed": 5, "variant": "D1", "generation": {"selection": {"top_k": 1}, "fixed_steps": 3}},
        {"episodes": 2, "generation": {"seed": 3, "end_jitter_steps": [-2, 2], "use_symmetry": False}},
        {"episodes": 2, "render": {"cameras": ["agentview"], "width": 64, "visual_seed": 1, "camera_jitter_m": 0.1}},
    ],
)
def test_what_a_job_says_of_itself_makes_the_same_job(site: Site, asked: dict[str, Any]) -> None:
    job = site.job(**{"attempts": None, "render": {}, **asked})
    body = json.loads(shlex.split(job["reproduce"]["curl"])[-1])
    assert body == job["reproduce"]["request"]
    again = site.client.post("/v1/jobs", json=body).json()
    assert again["spec_sha256"] == job["spec_sha256"]
    assert again["id"] != job["id"]


@pytest.mark.parametrize(
    ("asked", "code", "field"),
    [
        ({"task": "stak"}, "unknown_task", "task"),
        ({"variant": "D7"}, "unknown_variant", "variant"),
        ({"episodes": 3}, "invalid_request", "body"),
        ({"attempts": None}, "invalid_request", "body"),
        ({"attempts": 0}, "invalid_request", "attempts"),
        ({"seed": 1, "generation": {"seed": 2}}, "invalid_request", "body"),
        ({"generation": {"nois": 1}}, "invalid_request", "generation.nois"),
        ({"files": ["file_0"]}, "unknown_file", "files.0"),
        ({"attempts": 1_000_000_000}, "too_many_attempts", "max_attempts"),
        ({"render": {"width": 33}}, "invalid_request", "render.width"),
        ({"render": {"camera_jitter_m": 0.1}}, "invalid_spec", ""),
        ({"attempts": None, "episodes": 5, "max_attempts": 2}, "invalid_spec", ""),
        ({"name": "a\nb"}, "invalid_request", "name"),
        ({"metadata": {str(i): "x" for i in range(17)}}, "invalid_request", "metadata"),
    ],
)
def test_a_request_that_cannot_be_says_which_part(site: Site, asked: dict[str, Any], code: str, field: str) -> None:
    answer = site.client.post("/v1/jobs", json={"task": "stack", "attempts": 5, **asked})
    assert problem(answer, 422, code).get("field", "") == field


def test_a_job_tells_its_whole_life(fresh: Site) -> None:
    job = fresh.job(attempts=None, episodes=3, min_success_rate=0.1, name="towers", metadata={"why": "test"})
    assert job["status"] == "queued"
    fresh.work(job["id"], "S..S.")
    seen = fresh.get(f"/v1/jobs/{job['id']}")
    assert (seen["status"], seen["started_at"] is not None, seen["name"]) == ("running", True, "towers")
    counts = seen["request_counts"]
    assert (counts["attempted"], counts["succeeded"], counts["failed"]) == (5, 2, 3)
    assert seen["success_rate"]["low"] < seen["success_rate"]["rate"] == 0.4 < seen["success_rate"]["high"]
    assert seen["eta_s"] > 0
    assert seen["failure_breakdown"][0]["count"] == 3
    assert fresh.get("/v1/jobs")["data"][0]["request_counts"] == counts
    fresh.work(job["id"], "S")
    ended = fresh.get(f"/v1/jobs/{job['id']}")
    assert (ended["status"], ended["ended_by"]) == ("finalizing", "target")
    times = [ended["state_times"][state] for state in ("validating", "queued", "running", "finalizing")]
    assert times == sorted(times)
    events = fresh.get(f"/v1/jobs/{job['id']}/events")["data"]
    assert [event["seq"] for event in events] == list(range(1, ended["last_event"] + 1))
    failures = fresh.get(f"/v1/jobs/{job['id']}/attempts?outcome=failure&reason=dropped&limit=2")
    assert ([a["index"] for a in failures["data"]], failures["has_more"]) == ([1, 2], True)
    rest = fresh.get(f"/v1/jobs/{job['id']}/attempts?outcome=failure&after=2")
    assert ([a["index"] for a in rest["data"]], rest["has_more"]) == ([4], False)


@pytest.mark.parametrize(
    ("before", "verb", "status"),
    [
        ("", "pause", 200), ("", "resume", 200), ("", "cancel", 200), ("pause", "pause", 200), ("pause", "resume", 200),
        ("pause", "cancel", 200), ("cancel", "pause", 409), ("cancel", "resume", 409), ("cancel", "cancel", 200),
    ],
)  # fmt: skip
def test_states_change_as_documented(site: Site, before: str, verb: str, status: int) -> None:
    job = site.job()
    if before:
        assert site.client.post(f"/v1/jobs/{job['id']}/{before}").status_code == 200
    answer = site.client.post(f"/v1/jobs/{job['id']}/{verb}")
    assert answer.status_code == status
    if status == 409:
        assert problem(answer, 409, "wrong_state")["found"] == "cancelled"
    site.client.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_named_request_makes_one_job(site: Site) -> None:
    body = {"task": "stack", "attempts": 2, "render": None}
    name = {"Idempotency-Key": "once"}
    first = site.client.post("/v1/jobs", json=body, headers=name)
    again = site.client.post("/v1/jobs", json=body, headers=name)
    assert first.status_code == again.status_code == 201
    assert first.json()["id"] == again.json()["id"]
    assert (first.headers.get("idempotency-replayed"), again.headers["idempotency-replayed"]) == (None, "true")
    problem(site.client.post("/v1/jobs", json={**body, "attempts": 3}, headers=name), 422, "idempotency_key_reused")
    problem(site.client.post("/v1/jobs:estimate", json=body, headers=name), 422, "idempotency_key_reused")
    for bad in ("", " ", "x" * 300, "a b"):
        problem(site.client.post("/v1/jobs", json=body, headers={"Idempotency-Key": bad}), 400, "bad_idempotency_key")


def test_many_at_once_with_one_name_make_one_job(fresh: Site) -> None:
    body = {"task": "stack", "attempts": 2, "render": None}
    with ThreadPoolExecutor(8) as pool:
        options = {"json": body, "headers": {"Idempotency-Key": "same"}}
        answers = list(pool.map(lambda _: fresh.client.post("/v1/jobs", **options), range(60)))
    assert {answer.status_code for answer in answers} <= {201, 409}
    assert len({answer.json()["id"] for answer in answers if answer.status_code == 201}) == 1
    assert len(fresh.get("/v1/jobs?limit=100")["data"]) == 1


def test_pages_hold_every_job_once_while_others_come_in(fresh: Site) -> None:
    there = {fresh.job()["id"] for _ in range(12)}
    seen: list[str] = []
    after = ""
    while True:
        page = fresh.get(f"/v1/jobs?limit=5{after}")
        seen += [job["id"] for job in page["data"]]
        if not page["has_more"]:
            break
        after = f"&after={seen[-1]}"
        fresh.job()
    assert len(seen) == len(set(seen))
    assert there <= set(seen)
    problem(fresh.client.get("/v1/jobs?after=job_0"), 422, "bad_cursor")
    assert fresh.get("/v1/jobs?status=running&status=paused")["data"] == []


def test_figures_are_the_same_in_every_form(fresh: Site) -> None:
    job = fresh.job(attempts=9)
    fresh.work(job["id"], "S..SS.S.")
    stats = fresh.get(f"/v1/jobs/{job['id']}/stats")
    assert stats["course"][-1]["attempts"] == stats["looked_at"] == 8
    assert sum(stats["diversity"]["counts"].values()) == 8
    assert np.sum(stats["coverage"]["cubeA"]["requested"]) == 8
    assert stats["worker_s"] == pytest.approx(4.0)
    for figure in ("course", "failures", "coverage", "sources"):
        path = f"/v1/jobs/{job['id']}/stats/{figure}"
        rows = fresh.get(path)
        table = list(csv.DictReader(io.StringIO(fresh.client.get(f"{path}?format=csv").text)))
        assert rows
        assert [[str(value) for value in row.values()] for row in rows] == [list(row.values()) for row in table]


def test_a_clip_is_asked_for_once_and_served_in_parts(fresh: Site) -> None:
    job = fresh.job(attempts=2)
    fresh.work(job["id"], ".S")
    url = f"/v1/jobs/{job['id']}/attempts/0/clip"
    problem(fresh.client.get(url), 404, "not_found")
    assert [fresh.client.post(url).status_code for _ in range(3)] == [202] * 3
    (unit,) = fresh.units("clip")
    assert unit.payload == {"indices": [0], "name": "attempt_0"}
    problem(fresh.client.post(f"/v1/jobs/{job['id']}/attempts/7/clip"), 404)
    key = f"jobs/{job['id']}/clips/attempt_0/agentview.mp4"
    made = fresh.settings.data / "clip.mp4"
    made.write_bytes(bytes(range(256)))
    fresh.store.put(made, key)
    with fresh.database.transaction() as session:
        work = leases.lease(session, owner="disp", worker="w0", capabilities=["render"])
        result = {"attempt_0": {"cameras": {"agentview": key}}}
        leases.commit(session, [leases.Done(unit=work.unit, epoch=work.epoch, result=result)])
    assert fresh.client.get(url).content == bytes(range(256))
    part = fresh.client.get(f"{url}?camera=agentview", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    problem(fresh.client.get(f"{url}?camera=other"), 404)
    fresh.client.post(url)
    assert fresh.units("clip") == []
    assert fresh.get(f"/v1/jobs/{job['id']}/attempts")["data"][0]["clip"]["cameras"] == {"agentview": key}
