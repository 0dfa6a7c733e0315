"""Laws of uploaded files: taken in once, nothing left of what is refused, cut by hand within the demo."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.site import Site, open_site, problem
from workers.generate import seeds_path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as site:
        yield site


def upload(site: Site, content: bytes, name: str = "stack.hdf5", **more: Any) -> httpx.Response:
    return site.client.post("/v1/files", files={"file": (name, content)}, **more)


def test_a_file_comes_in_once_and_waits_for_its_check(fresh: Site) -> None:
    content = seeds_path("stack").read_bytes()
    first = upload(fresh, content, "../my demos.hdf5", data={"task": "stack"})
    assert first.status_code == 201
    file = first.json()
    assert (file["name"], file["status"], file["task"]) == ("my_demos.hdf5", "checking", "stack")
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(file["structure"]["demos"]) == 10
    again = upload(fresh, content, "other.hdf5")
    assert (again.status_code, again.json()["id"]) == (200, file["id"])
    (unit,) = fresh.units("check")
    assert fresh.store.exists(f"files/{unit.payload['sha256']}.hdf5")
    fresh.settle(file["id"])
    assert fresh.get(f"/v1/files/{file['id']}")["report"]["demos"][0]["segments"]["right"][0]["stop"] == 41
    assert [f["id"] for f in fresh.get("/v1/files?status=ready")["data"]] == [file["id"]]
    assert not list(fresh.settings.incoming.iterdir())


@pytest.mark.parametrize(
    ("form", "status", "code"),
    [
        ({"files": {"file": ("a.pt", b"PK\x03\x04")}}, 422, "file_refused"),
        ({"files": {"file": ("a.hdf5", b"\x89HDF\r\n\x1a\n" + bytes(500))}}, 422, "file_unreadable"),
        ({"files": {"file": ("a.hdf5", bytes(3 << 20))}}, 413, "file_too_large"),
        ({"files": {"other": ("a.hdf5", b"x")}}, 422, "bad_form"),
        ({"files": [("file", ("a", b"x")), ("file", ("b", b"x"))]}, 422, "bad_form"),
        ({"files": {"file": ("a", b"x")}, "data": {"task": "x" * 300}}, 422, "bad_form"),
        ({"files": {"file": ("a", b"x")}, "data": {"task": "stak"}}, 422, "invalid_spec"),
        ({"json": {}}, 415, "not_a_form"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422, "bad_form"),
        ({"content": b"--x\r\nno", "headers": {"content-type": "multipart/form-data; boundary=x"}}, 422, "bad_form"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_demonstrations_leaves_nothing_behind(
    tmp_path: Path, form: dict[str, Any], status: int, code: str
) -> None:
    with open_site(tmp_path, max_upload_bytes=2 << 20) as site:
        problem(site.client.post("/v1/files", **form), status, code)
        assert not list(site.settings.incoming.iterdir())
        assert site.get("/v1/files")["data"] == []


@pytest.fixture(scope="module")
def stack_file(site: Site) -> str:
    file = upload(site, seeds_path("stack").read_bytes(), "stack.hdf5").json()
    problem(site.client.put(f"/v1/files/{file['id']}/cuts", json={"demo_0": {"right": [40]}}), 409, "not_checked")
    site.settle(file["id"])
    return file["id"]


@pytest.mark.parametrize(
    ("cuts", "field"),
    [
        ({"demo_9": {"right": [40]}}, "demo_9"),
        ({"demo_0": {"left": [40]}}, "demo_0.left"),
        ({"demo_0": {"right": [40, 50]}}, "demo_0.right"),
        ({"demo_0": {"right": []}}, "demo_0.right"),
        ({"demo_0": {"right": [0]}}, "demo_0.right"),
        ({"demo_0": {"right": [90]}}, "demo_0.right"),
    ],
)
def test_boundaries_must_divide_the_demo(site: Site, stack_file: str, cuts: Any, field: str) -> None:
    before = site.get(f"/v1/files/{stack_file}")
    found = problem(site.client.put(f"/v1/files/{stack_file}/cuts", json=cuts), 422, "bad_cuts")
    assert found["field"] == field
    assert found["allowed"]
    assert site.get(f"/v1/files/{stack_file}") == before


def test_boundaries_go_into_jobs_created_afterwards(site: Site, stack_file: str) -> None:
    cuts = {"demo_1": {"right": [33]}}
    before = site.job(files=[stack_file])
    assert site.client.put(f"/v1/files/{stack_file}/cuts", json=cuts).json()["cuts"] == cuts
    after = site.job(files=[stack_file])
    assert before["spec"]["sources"][0]["cuts"] == {}
    assert after["spec"]["sources"][0]["cuts"] == cuts
    words = shlex.split(after["reproduce"]["command"])
    assert json.loads(words[words.index("--cuts") + 1]) == {"stack.hdf5": cuts}
    assert "--cuts" not in before["reproduce"]["command"]
    assert site.client.delete(f"/v1/files/{stack_file}/cuts").json()["cuts"] == {}
    assert site.get(f"/v1/files/{stack_file}")["revision"] == 2
    for job in (before, after):
        site.client.post(f"/v1/jobs/{job['id']}/cancel")


def test_a_file_lives_as_long_as_a_job_needs_it(fresh: Site) -> None:
    file = upload(fresh, seeds_path("stack").read_bytes()).json()
    job = fresh.job(files=[file["id"]])
    assert job["status"] == "validating"
    problem(fresh.client.delete(f"/v1/files/{file['id']}"), 409, "file_in_use")
    fresh.settle(file["id"], usable=False)
    ended = fresh.get(f"/v1/jobs/{job['id']}")
    assert (ended["status"], ended["error"]["code"]) == ("failed", "file_refused")
    problem(fresh.client.post("/v1/jobs", json={"task": "stack", "episodes": 1, "files": [file["id"]]}), 422)
    again = fresh.client.post(f"/v1/files/{file['id']}/check", json={"task": "stack"})
    assert (again.status_code, again.json()["status"]) == (202, "checking")
    sha256 = fresh.units("check")[0].payload["sha256"]
    assert fresh.client.delete(f"/v1/files/{file['id']}").status_code == 204
    assert not fresh.store.exists(f"files/{sha256}.hdf5")
    assert fresh.units("check") == []
    problem(fresh.client.get(f"/v1/files/{file['id']}"), 404, "not_found")
