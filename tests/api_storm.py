"""Kill the API at random moments while a caller uploads files and asks for jobs, repeating what was not answered."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import requests
from sqlmodel import select

from api.tables import File, Job
from tests import chaos

_ANSWER_S = 60.0
_PATIENCE_S = 300.0
"""For one request, over as many deaths as come in between."""


@dataclass(kw_only=True)
class Seen:
    """What a caller saw: answers by status, requests cut off by a death, and deaths."""

    statuses: Counter[int] = field(default_factory=Counter)
    cut_off: int = 0
    deaths: int = 0


def storm(site: chaos.Site, demos: Path, *, kills: int, seed: int) -> Seen:
    """Kill the API so often, and check that every request that was repeated until answered happened exactly once.

    No executor runs: what is asked for stays as it was asked for.
    """
    rng, seen = random.Random(seed), Seen()  # noqa: S311
    port = _free_port()
    url = f"http://127.0.0.1:{port}/v1"
    enough = threading.Event()

    def serve() -> None:
        while not enough.is_set():
            process = site.run("serve", *site.place(), "--executor", "none", "--port", str(port))
            try:
                _wait(lambda p=process: p.poll() is not None or _listens(port))
                assert process.poll() is None, f"the API ended by itself: {site.said()[-2000:]}"
                time.sleep(rng.uniform(0.0, 2.0))
            finally:
                chaos.kill(process.pid)
                process.wait()
            seen.deaths += 1
            if seen.deaths >= kills:
                enough.set()
        site.processes.append(site.run("serve", *site.place(), "--executor", "none", "--port", str(port)))

    killer = threading.Thread(target=serve)
    killer.start()
    jobs: dict[str, str] = {}
    files: set[str] = set()
    try:
        while not enough.is_set():
            name = f"request-{len(jobs)}"
            with demos.open("rb") as file:
                content = {"file": (f"{name}.hdf5", file.read())}
            made = _until_answered(seen, lambda c=content: requests.post(f"{url}/files", files=c, timeout=_ANSWER_S))
            files.add(made.json()["id"])
            body = {"task": "stack", "attempts": 1 + len(jobs), "render": None}
            named = {"json": body, "headers": {"Idempotency-Key": name}}
            made = _until_answered(seen, lambda n=named: requests.post(f"{url}/jobs", **n, timeout=_ANSWER_S))
            jobs[name] = made.json()["id"]
    finally:
        enough.set()
        killer.join()
    for number, job_id in enumerate(jobs.values()):
        told = _until_answered(seen, lambda i=job_id: requests.get(f"{url}/jobs/{i}", timeout=_ANSWER_S)).json()
        assert told["spec"]["attempts"] == 1 + number
    assert len(files) == 1, f"the same bytes became {len(files)} files"
    with site.book.reading() as session:
        assert sorted(job.id for job in session.exec(select(Job)) if job.purpose == "generate") == sorted(jobs.values())
        (kept,) = [file.id for file in session.exec(select(File))]
        assert {kept} == files
    site.stop()
    assert not site.marked(), "a process was left behind"
    return seen


def _until_answered(seen: Seen, ask: Callable[[], requests.Response]) -> requests.Response:
    """Repeat a request until it is answered; every answer must be a success, or say "ask again in a moment"."""
    ends = time.monotonic() + _PATIENCE_S
    while True:
        assert time.monotonic() < ends, f"no answer within {_PATIENCE_S:g} s"
        try:
            answer = ask()
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            seen.cut_off += 1
            time.sleep(0.05)
            continue
        seen.statuses[answer.status_code] += 1
        assert answer.status_code in (200, 201), answer.text
        return answer


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(until: Callable[[], bool], seconds: float = 60.0) -> None:
    ends = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < ends, f"not within {seconds:g} s"
        time.sleep(0.02)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
