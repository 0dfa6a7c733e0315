"""The dashboard's pages, read as a browser without script reads them."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from fastapi.testclient import TestClient

from api import jobs
from api.keys import COOKIE, create_key
from api.pages import curves, job_form
from api.pages.door import table
from api.pages.rendering import POLICY, duration, size
from api.requests import JobRequest, request_of
from api.specs import job_from_json
from api.tables import File
from tests.site import Site, open_site
from tests.synthetic import burned
from tests.synthetic_pictures import number_in_frame

WICKED = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as opened:
        yield opened


def page(site: Site, path: str, status: int = 200) -> str:
    answer = site.client.get(path)
    assert answer.status_code == status, answer.text[:2000]
    assert answer.headers["content-security-policy"] == POLICY
    assert "text/html" in answer.headers["content-type"]
    text = answer.text
    assert not re.search(r"<[^>]*\sstyle=", text), "the policy forbids styles in elements"
    assert not re.search(r"<script(?![^>]*\ssrc=)", text), "the policy forbids scripts in pages"
    assert not re.search(r"<[^>]*\son[a-z]+=", text), "the policy forbids handlers in elements"
    return text


def checked_file(site: Site, *, name: str = "pilot.hdf5") -> str:
    """Enter a file as a worker's check leaves it: two demos, one boundary each."""
    segments = {
        "right": [
            {"name": "grasp", "start": 0, "stop": 41, "confidence": 1.0, "origin": "stored"},
            {"name": "place", "start": 41, "stop": 100, "confidence": 1.0, "origin": "end"},
        ]
    }
    finding = {"severity": "warning", "code": "pushed", "subtask": "grasp", "step": 3, "message": WICKED}
    curve = [round(math.sin(i / 9), 4) for i in range(100)]
    demos = [
        {
            "name": f"demo_{i}",
            "steps": 100,
            "success_by_state": True,
            "success_by_replay": None,
            "problem": "",
            "segments": segments,
            "findings": [finding] * i,
            "timeline": {
                "gripper": {"right": curve},
                "height_m": {"right": curve},
                "signals": {"cubeA_grasped": [[41, 90]], "never": []},
            },
        }
        for i in range(2)
    ]
    report = {"format": "seeds", "environment": "stack", "task": "stack", "usable": 2, "demos": demos}
    with site.database.transaction() as session:
        file = File(
            id=jobs.new_id("file"), sha256="ab" * 32, canonical_sha256="ab" * 32, name=name, bytes=1234,
            status="ready", task="stack", report=report, created_at=1.0, checked_at=2.0,
        )  # fmt: skip
        session.add(file)
        session.flush()
        return file.id


# --- every page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/jobs/new", "/datasets", "/files", "/workers", "/keys", "/login"])
def test_an_empty_service_teaches(site: Site, path: str) -> None:
    text = page(site, path)
    assert "<h1>" in text
    assert 'lang="en"' in text


def test_the_first_page_leads_from_upload_to_job(site: Site) -> None:
    text = page(site, "/")
    assert 'href="/files"' in text
    assert 'href="/jobs/new"' in text
    assert "curl -F file=@demos.hdf5" in text


def test_a_job_from_queue_to_failure_table(site: Site) -> None:
    job = site.job(episodes=5, name=WICKED, metadata={"note": WICKED})
    waiting = page(site, f"/jobs/{job['id']}")
    assert "No attempt has ended yet" in waiting
    site.work(job["id"], "S.S..S")
    text = page(site, f"/jobs/{job['id']}")
    assert "<script>alert" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text
    assert "50.0<span>%" in text
    assert "dropped" in text
    assert f"/jobs/{job['id']}/episodes?outcome=failure&amp;subtask=place&amp;reason=dropped" in text
    assert f"/v1/jobs/{job['id']}/stats/course?format=csv" in text
    assert "&lt;script&gt;" in page(site, "/")


def test_only_a_job_that_goes_on_is_asked_about_again(site: Site) -> None:
    job = site.job(attempts=4)
    assert 'hx-trigger="every 2s"' in page(site, f"/jobs/{job['id']}/live")
    site.work(job["id"], "....")
    ended = page(site, f"/jobs/{job['id']}/live")
    assert "hx-trigger" not in ended
    assert "so there is no dataset" in ended


def test_pause_resume_cancel_are_plain_forms(site: Site) -> None:
    job = site.job(episodes=5)
    for verb, state in (("pause", "paused"), ("resume", "queued"), ("cancel", "cancelled")):
        answer = site.client.post(f"/jobs/{job['id']}/{verb}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/jobs/{job['id']}")
        assert site.get(f"/v1/jobs/{job['id']}")["status"] == state
    refused = site.client.post(f"/jobs/{job['id']}/pause")
    assert refused.status_code == 409
    assert "Not in this state" in refused.text
    assert site.client.post(f"/jobs/{job['id']}/explode").status_code == 422


def test_an_address_that_leads_nowhere_is_a_page(site: Site) -> None:
    for path in ("/jobs/job_0", "/datasets/ds_0", "/files/file_0", "/jobs/job_0/episodes"):
        assert "There is nothing here" in page(site, path, 404)


def test_the_list_narrows(site: Site) -> None:
    one, two = site.job(attempts=2, name="one"), site.job(attempts=2, name="two")
    site.client.post(f"/jobs/{one['id']}/cancel")
    assert ">one<" in page(site, "/?state=cancelled")
    assert ">one<" not in page(site, "/?state=active")
    assert f"/jobs/{two['id']}" in page(site, "/?state=active")


# --- asking -----------------------------------------------------------------------------------------------------------


def test_a_form_becomes_the_job_it_says(site: Site) -> None:
    form = {"task": "lift", "variant": "D0", "goal": "episodes", "count": "7", "seed": "3", "name": "seven"}
    form |= {"pictures": "1", "cameras": "agentview", "size": "128", "preset": "fast", "codec": "h264"}
    form |= {"min_success_percent": "12.5", "min_success_after": "40", "priority": "high"}
    answer = site.client.post("/jobs/new", data=form, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    spec = site.get("/v1" + answer.headers["location"])["spec"]
    assert (spec["task"], spec["episodes"], spec["generation"]["seed"]) == ("lift", 7, 3)
    assert (spec["min_success_rate"], spec["min_success_after"]) == (0.125, 40)
    assert (spec["render"]["cameras"], spec["render"]["width"]) == (["agentview"], 128)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"count": "none"}, "episodes"),
        ({"variant": "D9"}, "D9"),
        ({"task": "juggle"}, "juggle"),
        ({"size": "127"}, "width"),
    ],
)
def test_a_wrong_form_comes_back_as_it_was(site: Site, wrong: dict[str, str], told: str) -> None:
    form = {"task": "stack", "variant": "D0", "goal": "episodes", "count": "7", "seed": "0", "name": WICKED}
    form |= {"pictures": "1", "cameras": "agentview", "size": "256", "preset": "fast", "codec": "h264", **wrong}
    answer = site.client.post("/jobs/new", data=form)
    assert answer.status_code == 422
    assert 'role="alert"' in answer.text
    assert told in answer.text
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text


def test_an_estimate_keeps_the_form(site: Site) -> None:
    form = {"task": "stack", "variant": "D1", "goal": "episodes", "count": "700", "seed": "0", "name": "towers"}
    answer = site.client.post("/jobs/new/estimate", data=form, follow_redirects=False)
    assert answer.status_code == 303, answer.text
    text = page(site, answer.headers["location"])
    assert 'value="700"' in text
    pilot = answer.headers["location"].rpartition("=")[2]
    assert 'hx-trigger="every 1s"' in page(site, f"/jobs/{pilot}/estimate")
    site.work(pilot, "SSS.SSSS.SSS")
    told = page(site, f"/jobs/{pilot}/estimate")
    assert "hx-trigger" not in told
    assert "From 10 of 12 attempts" in told


@pytest.mark.parametrize(
    "asked",
    [
        {"task": "stack", "episodes": 50},
        {"task": "stack", "episodes": 50, "formats": ["lerobot", "gr00t", "robomimic"]},
        {"task": "lift", "attempts": 9, "render": None, "keep_failed": True, "name": "x"},
        {"task": "door", "episodes": 5, "variant": "D1", "seed": 4, "max_wall_s": 90.5, "min_success_rate": 0.3},
        {
            "task": "can",
            "episodes": 5,
            "render": {"cameras": ["birdview"], "width": 64, "height": 64, "visual_seed": 2},
        },
    ],
)
def test_a_job_opens_in_the_form_as_it_was_asked_for(asked: dict[str, Any]) -> None:
    spec = JobRequest.model_validate(asked).spec([])
    values = {**job_form.values_from(request_of(spec, [])), "name": ""}
    again = JobRequest.model_validate(job_form.request_from(values)).spec([])
    assert job_from_json(again.to_json()) == spec


# --- files ------------------------------------------------------------------------------------------------------------


def test_cuts_are_set_refused_and_given_back(site: Site) -> None:
    file_id = checked_file(site)
    text = page(site, f"/files/{file_id}?demo=demo_0")
    assert 'name="right:0"' in text
    assert 'aria-valuenow="41"' in text
    saved = site.client.post(f"/files/{file_id}/cuts", data={"demo": "demo_0", "right:0": "37"})
    assert saved.status_code == 200
    assert "Saved as revision 1." in saved.text
    assert site.get(f"/v1/files/{file_id}")["cuts"] == {"demo_0": {"right": [37]}}
    refused = site.client.post(f"/files/{file_id}/cuts", data={"demo": "demo_0", "right:0": "100"})
    assert refused.status_code == 422
    assert "must increase strictly" in refused.text
    for wrong in ("", "a", "1.5"):
        assert site.client.post(f"/files/{file_id}/cuts", data={"demo": "demo_0", "right:0": wrong}).status_code == 422
    site.client.post(f"/files/{file_id}/cuts", data={"demo": "demo_0", "reset": "1"})
    assert site.get(f"/v1/files/{file_id}")["cuts"] == {}
    assert site.get(f"/v1/files/{file_id}")["revision"] == 2


def test_a_file_shows_first_what_needs_a_look(site: Site) -> None:
    text = page(site, f"/files/{checked_file(site)}")
    assert 'id="editor">demo_1<' in text
    assert "<script>alert" not in text


# --- datasets and films -----------------------------------------------------------------------------------------------


def test_a_dataset_its_figures_and_its_episodes(site: Site, tmp_path: Path) -> None:
    dataset_id = site.dataset(tmp_path)
    assert dataset_id in page(site, "/datasets")
    text = page(site, f"/datasets/{dataset_id}")
    assert f"/v1/datasets/{dataset_id}.tar" in text
    for name in ("starts", "lengths", "demos"):
        figure = site.get(f"/datasets/{dataset_id}/figures/{name}.json")
        assert set(figure) == {"figure", "columns", "rows"}
        assert site.client.get(f"/datasets/{dataset_id}/figures/{name}.csv").text.startswith(figure["columns"][0])
    assert site.client.get(f"/datasets/{dataset_id}/figures/secrets.json").status_code == 404
    job_id = site.get(f"/v1/datasets/{dataset_id}")["job_id"]
    films = page(site, f"/jobs/{job_id}/episodes?show=1")
    assert films.count("<video") == 2
    stills = re.findall(r'src="(/jobs/[^"]*[.]jpg)"', films)
    assert len(stills) == 3
    for i, address in enumerate(stills):
        answer = site.client.get(address)
        assert answer.headers["content-type"] == "image/jpeg"
        with av.open(io.BytesIO(answer.content)) as jpeg:
            shown = next(jpeg.decode(video=0)).to_ndarray(format="rgb24")
        assert number_in_frame(shown) == burned(i, 0, 0)
    assert site.client.get(stills[0].replace("/0.jpg", "/9.jpg")).status_code == 404
    assert 'data-rows="8"' in films
    assert 'data-from="0.25"' in films  # the second episode begins where the first one's five frames end
    assert "/v1/datasets/" in films
    assert "Episode 2" not in page(site, f"/jobs/{job_id}/episodes?show=0&after=2").partition('id="player"')[2][:50]


def test_a_failure_is_drawn_on_demand(site: Site) -> None:
    job = site.job(attempts=8)
    site.work(job["id"], ".S.")
    text = page(site, f"/jobs/{job['id']}/episodes?outcome=failure&show=2")
    assert "Draw it" in text
    assert "hx-trigger" not in text
    answer = site.client.post(f"/jobs/{job['id']}/clips", data={"attempt": "2"})
    assert 'hx-trigger="every 1s"' in answer.text
    assert len(site.units("clip")) == 1
    assert "No attempt failed like that" in page(site, f"/jobs/{job['id']}/episodes?outcome=failure&reason=timeout")


# --- keys -------------------------------------------------------------------------------------------------------------


def test_a_secret_is_seen_once_and_then_asked_for(site: Site) -> None:
    made = site.client.post("/keys", data={"name": WICKED, "scopes": ["read", "write", "admin"]})
    assert made.status_code == 201
    secret = re.search(r"fk_[0-9a-f]{12}_[\w-]{43}", made.text)
    assert secret is not None
    assert "<script>alert" not in made.text
    asked = site.client.get("/jobs/new", follow_redirects=False)
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?then=%2Fjobs%2Fnew")
    part = site.client.get("/workers", headers={"HX-Request": "true"})
    assert (part.status_code, part.headers["hx-refresh"]) == (204, "true")
    wrong = site.client.post("/login", data={"key": "fk_nonsense", "then": "/"})
    assert wrong.status_code == 401
    entered = site.client.post("/login", data={"key": secret[0], "then": "//evil.example"}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    listed = page(site, "/keys")
    assert secret[0] not in listed
    site.client.post("/logout", headers={"Origin": str(site.client.base_url)})
    assert site.client.get("/", follow_redirects=False).status_code == 303


def test_pages_ask_for_the_scope_that_their_routes_do(site: Site) -> None:
    job = site.job(attempts=8)
    with site.database.transaction() as session:
        _, secret = create_key(session, name="reader", scopes=["read"])
    reader = TestClient(site.app, base_url=str(site.client.base_url), cookies={COOKIE: secret})
    assert reader.get(f"/jobs/{job['id']}").status_code == 200
    refused = reader.post(f"/jobs/{job['id']}/cancel", headers={"Origin": str(site.client.base_url)})
    assert refused.status_code == 403
    assert "This is not allowed" in refused.text
    assert reader.get("/keys").status_code == 403
    foreign = reader.post(f"/jobs/{job['id']}/cancel", headers={"Origin": "https://evil.example"})
    assert foreign.status_code == 403


# --- figures ----------------------------------------------------------------------------------------------------------


def test_a_course_stays_in_its_frame_and_ends_at_the_rate() -> None:
    rows = [
        {"attempts": 5 * i, "rate": 0.5, "low": max(0.0, 0.5 - 1 / i), "high": 0.5 + 1 / (2 * i), "elapsed_s": 2.0 * i}
        for i in range(1, 9)
    ]
    found = curves.course(rows)
    assert found is not None
    for path in (found.line, found.band):
        numbers = [float(n) for n in re.findall(r"[\d.]+", path)]
        assert min(numbers) >= 0.0
        assert max(numbers) <= curves.UNIT
    assert found.last_y == 50.0
    assert curves.course([]) is None


def test_speeds_add_up_to_the_attempts() -> None:
    rows = [{"attempts": 10 * i, "elapsed_s": 3.0 * i * i} for i in range(1, 20)]
    found = curves.speed(rows)
    assert found is not None
    spoken = [float(re.findall(r"([\d.]+) attempts", step.words)[0]) for step in found.steps]
    span = rows[-1]["elapsed_s"] / len(found.steps)
    assert sum(spoken) * span == pytest.approx(rows[-1]["attempts"], rel=0.02)
    assert all(0 <= step.y <= 100 and step.y + step.height <= 100.01 for step in found.steps)


def test_words_for_numbers() -> None:
    assert [duration(s) for s in (None, 0.0, 4.26, 59.6, 60, 3725, 90061)] == [
        "–", "0 s", "4.3 s", "1 min", "1 min", "1 h 2 min", "1 d 1 h",
    ]  # fmt: skip
    assert [size(n) for n in (0, 999, 1500, 2_100_000_000)] == ["0 B", "999 B", "1.5 kB", "2.1 GB"]


def test_a_cell_is_no_formula() -> None:
    answer = table("t", "csv", ("a", "b"), [{"a": "=cmd()", "b": -1.5}])
    assert bytes(answer.body) == b"a,b\r\n'=cmd(),-1.5\r\n"
