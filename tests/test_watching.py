"""Laws of live streams: every event once and in order, however often the line breaks and however many listen."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from api import jobs
from tests.site import Site, on_a_port, open_site, problem


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as site:
        yield site


def _messages(response: httpx.Response) -> Iterator[dict[str, str]]:
    message: dict[str, str] = {}
    for line in response.iter_lines():
        if line:
            name, _, value = line.partition(":")
            message[name] = value.strip()
        elif message:
            yield message
            message = {}


@pytest.mark.parametrize("drops", [25])
def test_a_stream_that_breaks_again_and_again_misses_nothing(fresh: Site, drops: int) -> None:
    job = fresh.job(attempts=drops + 1)
    writer = threading.Thread(target=_tell_slowly, args=(fresh, job["id"], drops))
    seen: list[int] = []
    progress = 0
    with on_a_port(fresh.app) as url, httpx.Client(base_url=url) as http:
        writer.start()
        for turn in itertools.count():
            after = str(seen[-1] if seen else 0)
            path = f"/v1/jobs/{job['id']}/events/stream"
            with http.stream("GET", path, headers={"Last-Event-ID": after}) as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                for message in _messages(response):
                    if message.get("event") == "progress":
                        assert "id" not in message
                        progress += 1
                    elif "id" in message:
                        seen.append(int(message["id"]))
                        if turn < drops:
                            break
                else:
                    if turn >= drops:
                        break
        problem(http.get(f"/v1/jobs/{job['id']}/events/stream", headers={"Last-Event-ID": "x"}), 400, "bad_event_id")
        problem(http.get("/v1/jobs/job_0/events/stream"), 404)
    writer.join()
    ended = fresh.get(f"/v1/jobs/{job['id']}")
    assert ended["status"] == "cancelled"
    assert seen == list(range(1, ended["last_event"] + 1))
    assert progress


def _tell_slowly(site: Site, job_id: str, count: int) -> None:
    for i in range(count):
        with site.database.transaction() as session:
            jobs.tell(session, jobs.get(session, job_id, lock=True), "note", {"i": i})
        time.sleep(0.02)
    with site.database.transaction() as session:
        jobs.cancel(session, job_id)


def test_many_watchers_share_one_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_site(tmp_path, max_streams=6, stream_poll_s=0.1) as site, on_a_port(site.app) as url:
        job = site.job()
        asked: list[float] = []
        live = site.app.state.service.live
        ask = live._ask
        monkeypatch.setattr(live, "_ask", lambda *args: (asked.append(time.monotonic()), ask(*args))[1])
        seen: list[list[int]] = []

        def watch() -> None:
            with httpx.stream("GET", f"{url}/v1/jobs/{job['id']}/events/stream", timeout=20) as response:
                seen.append([int(m["id"]) for m in _messages(response) if "id" in m])

        watchers = [threading.Thread(target=watch) for _ in range(6)]
        for watcher in watchers:
            watcher.start()
        end = time.monotonic() + 20
        while live._open[""] < 6:
            assert time.monotonic() < end, "not all streams were opened"
            time.sleep(0.02)
        problem(httpx.get(f"{url}/v1/jobs/{job['id']}/events/stream"), 429, "too_many_streams")
        begun, before = time.monotonic(), len(asked)
        time.sleep(0.6)
        assert len(asked) - before <= (time.monotonic() - begun) / 0.1 + 1
        site.client.post(f"/v1/jobs/{job['id']}/cancel")
        for watcher in watchers:
            watcher.join(10)
        last = site.get(f"/v1/jobs/{job['id']}")["last_event"]
        assert seen == [list(range(1, last + 1))] * 6
        end = time.monotonic() + 5
        while live._open[""]:
            assert time.monotonic() < end, "streams are not given back"
            time.sleep(0.02)
