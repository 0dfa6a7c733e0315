"""Laws of finished datasets behind HTTP: what arrives is what the manifest says, and no path leads outside."""

from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api import leases
from tests.site import Site, open_site, problem


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def dataset(site: Site, tmp_path_factory: pytest.TempPathFactory) -> str:
    return site.dataset(tmp_path_factory.mktemp("made"))


def test_every_file_is_what_the_manifest_says(site: Site, dataset: str) -> None:
    manifest = site.get(f"/v1/datasets/{dataset}/files")
    assert len(manifest["files"]) > 8
    for file in manifest["files"]:
        answer = site.client.get(file["url"])
        assert hashlib.sha256(answer.content).hexdigest() == file["sha256"]
        assert answer.headers["etag"] == f'"{file["sha256"]}"'
        assert answer.headers["content-disposition"].startswith("attachment")
        head = site.client.head(file["url"])
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == file["bytes"]
        known = site.client.get(file["url"], headers={"If-None-Match": f'"{file["sha256"]}"'})
        assert (known.status_code, known.content) == (304, b"")


def test_parts_of_a_file_are_the_file(site: Site, dataset: str) -> None:
    url = f"/v1/datasets/{dataset}/files/meta/info.json"
    whole = site.client.get(url).content
    pieces = []
    for start in range(0, len(whole), 100):
        part = site.client.get(url, headers={"Range": f"bytes={start}-{start + 99}"})
        assert part.status_code == 206
        assert part.headers["content-range"].endswith(f"/{len(whole)}")
        pieces.append(part.content)
    assert b"".join(pieces) == whole
    assert site.client.get(url, headers={"Range": "bytes=-7"}).content == whole[-7:]
    for whole_again in ("bytes=0-3,5-7", "items=0-3", "bytes=5-2", "bytes=-"):
        assert site.client.get(url, headers={"Range": whole_again}).content == whole
    problem(site.client.get(url, headers={"Range": f"bytes={len(whole)}-"}), 416)
    changed = site.client.get(url, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, whole)


def test_the_archive_is_the_dataset_and_always_the_same(site: Site, dataset: str) -> None:
    url = f"/v1/datasets/{dataset}.tar"
    first, again = site.client.get(url), site.client.get(url)
    assert first.content == again.content
    assert int(first.headers["content-length"]) == len(first.content)
    cut = len(first.content) // 3 + 7
    rest = site.client.get(url, headers={"Range": f"bytes={cut}-"})
    assert first.content[:cut] + rest.content == first.content
    with tarfile.open(fileobj=io.BytesIO(first.content)) as archive:
        hashes = {m.name: hashlib.sha256(archive.extractfile(m).read()).hexdigest() for m in archive.getmembers()}
    manifest = site.get(f"/v1/datasets/{dataset}/files")
    assert hashes == {f"towers/{file['path']}": file["sha256"] for file in manifest["files"]}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    path=st.one_of(st.text(max_size=40), st.from_regex(r"\A(\.\./|%2e%2e/|/|\.){1,8}(etc/passwd|factory.sqlite3)\Z"))
)
def test_no_path_leads_outside(site: Site, dataset: str, path: str) -> None:
    known = {file["path"] for file in site.get(f"/v1/datasets/{dataset}/files")["files"]}
    answer = site.client.get(f"/v1/datasets/{dataset}/files/{quote(path, safe='')}", follow_redirects=False)
    assert answer.status_code in ((200,) if path in known else (400, 404))


def test_episodes_say_where_they_lie_and_come_from(site: Site, dataset: str) -> None:
    page = site.get(f"/v1/datasets/{dataset}/episodes?limit=2")
    assert page["has_more"]
    rest = site.get(f"/v1/datasets/{dataset}/episodes?after=1")
    episodes = page["data"] + rest["data"]
    assert [(e["index"], e["length"]) for e in episodes] == [(0, 5), (1, 8), (2, 6)]
    for episode in episodes:
        assert episode == site.get(f"/v1/datasets/{dataset}/episodes/{episode['index']}")
        spans = episode["subtasks"]
        assert spans[0]["start"] == 0
        assert spans[-1]["stop"] == episode["length"]
        assert all(a["stop"] == b["start"] for a, b in itertools.pairwise(spans))
        for clip in episode["videos"].values():
            assert clip["to_s"] - clip["from_s"] == pytest.approx(episode["seconds"])
            assert site.client.head(clip["url"]).headers["content-type"] == "video/mp4"
    assert len(episodes[0]["videos"]) == 2
    problem(site.client.get(f"/v1/datasets/{dataset}/episodes/3"), 404)


def test_a_dataset_goes_only_where_the_service_allows(site: Site, dataset: str) -> None:
    url = f"/v1/datasets/{dataset}/push"
    problem(site.client.post(url, json={"to": "s3://bucket/x"}), 403, "scheme_not_allowed")
    problem(site.client.post(url, json={"to": "file:///etc"}), 403, "scheme_not_allowed")
    problem(site.client.post(url, json={"to": "hf://a/b/../c"}), 422, "bad_url")
    sent = site.client.post(url, json={"to": "hf://someone/towers"})
    assert sent.status_code == 202
    problem(site.client.post(url, json={"to": "hf://someone/towers"}), 409, "in_progress")
    (unit,) = site.units("push")
    card = unit.payload["card"]
    assert card.startswith("---\nlicense:")
    assert "- LeRobot" in card
    assert "3 of 5 attempts" in card
    assert "| `action` |" in card
    assert sent.json()["pushes"][0]["state"] == "waiting"
    with site.database.transaction() as session:
        work = leases.lease(session, owner="disp", worker="w0", capabilities=["write"])
        done = {work.payload["name"]: {"url": "hf://someone/towers", "commit": "c0ffee"}}
        leases.commit(session, [leases.Done(unit=work.unit, epoch=work.epoch, result=done)])
    (push,) = site.get(f"/v1/datasets/{dataset}")["pushes"]
    assert (push["state"], push["commit"]) == ("done", "c0ffee")


def test_another_form_is_a_job_without_attempts(site: Site, dataset: str) -> None:
    made = site.client.post(f"/v1/datasets/{dataset}/exports", json={"to": "robomimic", "name": "for robomimic"})
    assert made.status_code == 202
    job = made.json()
    assert (job["purpose"], job["parent_id"], job["status"]) == ("export", dataset, "finalizing")
    drawn = site.client.post(f"/v1/datasets/{dataset}/exports", json={"to": "lerobot", "render": {"width": 64}}).json()
    assert drawn["spec"]["render"]["width"] == 64
    assert drawn["id"] in {j["id"] for j in site.get("/v1/jobs?purpose=export")["data"]}
    for job_id in (job["id"], drawn["id"]):
        assert site.client.post(f"/v1/jobs/{job_id}/cancel").status_code == 200
