"""Laws of the client: what the network loses is asked for again, and nothing is done or received twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from api import answers, jobs, keys
from api.client import Client
from factory.durable import sha256_file
from factory.errors import ServiceError, StorageError
from tests.site import Site, on_a_port, open_site
from workers.generate import seeds_path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, str]]:
    with open_site(tmp_path_factory.mktemp("served")) as site, on_a_port(site.app) as url:
        yield site, url


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait as long as one would for a real network."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.05)))


class Unreliable(httpx.HTTPTransport):
    """A network that loses what it is told to, after it was carried out."""

    def __init__(self, loses: Callable[[httpx.Request], bool]) -> None:
        super().__init__()
        self._loses = loses

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if self._loses(request):
            response.read()
            raise httpx.ReadError("the answer was lost")
        return response


class Cut(httpx.SyncByteStream):
    """A stream that breaks after so many blocks."""

    def __init__(self, stream: Any, blocks: int) -> None:
        self._stream, self._blocks = stream, blocks

    def __iter__(self) -> Iterator[bytes]:
        for i, block in enumerate(self._stream):
            if i == self._blocks:
                raise httpx.ReadError("the connection broke")
            yield block

    def close(self) -> None:
        self._stream.close()


class Breaking(httpx.HTTPTransport):
    """A network whose answers break after so many blocks; the first `times` of them."""

    def __init__(self, times: int, *, blocks: int = 1, half: bool = False) -> None:
        super().__init__()
        self.left, self._blocks, self._half = times, blocks, half

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if self.left and request.url.path.endswith(("/stream", ".parquet", ".mp4")):
            self.left -= 1
            stream: Any = response.stream
            if self._half:
                body = b"".join(stream)
                stream.close()
                stream = _Blocks([body[: len(body) // 2], b""])
            response.stream = Cut(stream, self._blocks)
        return response


class _Blocks(httpx.SyncByteStream):
    def __init__(self, blocks: list[bytes]) -> None:
        self._blocks = blocks

    def __iter__(self) -> Iterator[bytes]:
        yield from self._blocks


def test_from_upload_to_job(served: tuple[Site, str]) -> None:
    site, url = served
    with Client(url) as client:
        assert {task.name for task in client.tasks()} >= {"stack", "lift"}
        file = client.files.upload(seeds_path("stack"), task="stack")
        site.settle(file.id)
        assert client.files.wait(file.id).status == "ready"
        assert client.files.cut(file.id, {"demo_0": {"right": [40]}}).revision == 1
        job = client.create_job(task="stack", files=[file.id], attempts=4, render=None, name="from the client")
        assert job.name == "from the client"
        assert client.pause(job.id).status == "paused"
        assert client.resume(job.id).status == "queued"
        site.work(job.id, "S..")
        assert [a.outcome for a in client.attempts(job.id, limit=2)] == ["success", "failure", "failure"]
        assert client.cancel(job.id).status == "finalizing"
        assert job.id in {j.id for j in client.jobs(limit=1)}
        pilot = client.estimate(task="stack", episodes=30, pilot=2, render=None)
        site.work(pilot.id, "SS")
        ended = client.wait(pilot.id)
        assert ended.estimate is not None
        assert ended.estimate.pilot_successes == 2


def test_a_lost_answer_makes_no_second_job(served: tuple[Site, str]) -> None:
    _, url = served
    lost = iter([True, True, False, False])
    with Client(url, transport=Unreliable(lambda _: next(lost, False))) as client:
        before = len(list(client.jobs(limit=100)))
        job = client.create_job(task="stack", attempts=2, render=None)
        there = list(client.jobs(limit=100))
        assert len(there) == before + 1
        assert there[0].id == job.id
        client.cancel(job.id)


def test_a_watcher_hears_everything_once_however_often_the_line_breaks(served: tuple[Site, str]) -> None:
    site, url = served
    job = site.job()

    def tell() -> None:
        for i in range(20):
            with site.database.transaction() as session:
                jobs.tell(session, jobs.get(session, job["id"], lock=True), "note", {"i": i})
            time.sleep(0.02)
        with site.database.transaction() as session:
            jobs.cancel(session, job["id"])

    teller = threading.Thread(target=tell)
    teller.start()
    progress: list[Any] = []
    with Client(url, transport=Breaking(12)) as client:
        seen: list[int] = []
        for item in client.watch(job["id"]):
            seen.append(item.seq) if isinstance(item, answers.Event) else progress.append(item)
        last = client.job(job["id"]).last_event
        assert seen == list(range(1, last + 1))
        assert [e.seq for e in client.watch(job["id"], after=last - 2) if isinstance(e, answers.Event)] == [
            last - 1,
            last,
        ]
    teller.join()


def test_a_dataset_arrives_whole_over_a_bad_line(served: tuple[Site, str], tmp_path: Path) -> None:
    site, url = served
    dataset = site.dataset(tmp_path / "made")
    told: list[tuple[int, int]] = []
    with Client(url, transport=Breaking(6, half=True)) as client:
        manifest = client.download(dataset, tmp_path / "here", progress=lambda *far: told.append(far))
    assert told[-1] == (manifest.bytes, manifest.bytes)
    there = sorted(p for p in (tmp_path / "here").rglob("*") if p.is_file())
    assert [p.relative_to(tmp_path / "here").as_posix() for p in there] == sorted(f.path for f in manifest.files)
    assert {p.relative_to(tmp_path / "here").as_posix(): sha256_file(p) for p in there} == {
        f.path: f.sha256 for f in manifest.files
    }
    damaged = there[0]
    damaged.write_bytes(b"x" + damaged.read_bytes()[1:])
    with Client(url) as client:
        client.download(dataset, tmp_path / "here")
    assert sha256_file(damaged) == next(f.sha256 for f in manifest.files if damaged.as_posix().endswith(f.path))


def test_a_manifest_cannot_lead_outside_the_folder(tmp_path: Path) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        files = [{"path": "../../evil", "sha256": "0", "bytes": 1, "url": "/"}]
        return httpx.Response(200, json={"dataset_id": "d", "manifest_sha256": "0", "bytes": 1, "files": files})

    with (
        Client("http://x", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(StorageError, match="outside"),
    ):
        client.download("d", tmp_path / "here")
    assert list(tmp_path.iterdir()) == []


def test_what_never_arrives_right_is_not_kept(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/files"):
            files = [{"path": "a", "sha256": "0" * 64, "bytes": 3, "url": "/"}]
            return httpx.Response(200, json={"dataset_id": "d", "manifest_sha256": "0", "bytes": 3, "files": files})
        return httpx.Response(200, content=b"abc")

    with (
        Client("http://x", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(StorageError, match="SHA-256"),
    ):
        client.download("d", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refusals_keep_the_services_words(served: tuple[Site, str], tmp_path: Path) -> None:
    _, url = served
    with Client(url) as client:
        with pytest.raises(ServiceError, match="Did you mean 'stack'") as refused:
            client.create_job(task="stak", attempts=1)
        assert (refused.value.status, refused.value.code, refused.value.field) == (422, "unknown_task", "task")
        with pytest.raises(ServiceError, match="no job"):
            client.wait("job_0")
        with pytest.raises(ServiceError, match="no dataset"):
            client.dataset("ds_0")
        with pytest.raises(StorageError, match="cannot be read"):
            client.files.upload(tmp_path / "none.hdf5")
    with Client("http://127.0.0.1:9") as client, pytest.raises(StorageError, match="cannot be reached"):
        client.tasks()
    odd = httpx.MockTransport(lambda _: httpx.Response(502, text="<html>"))
    with Client("http://x", transport=odd) as client, pytest.raises(ServiceError, match="HTTP 502"):
        client.tasks()
    strange = httpx.MockTransport(lambda _: httpx.Response(200, text="[]"))
    with Client("http://x", transport=strange) as client, pytest.raises(StorageError, match="something else"):
        client.tasks()


def test_a_key_is_sent(tmp_path: Path) -> None:
    with open_site(tmp_path) as site, on_a_port(site.app) as url:
        with site.database.transaction() as session:
            _, secret = keys.create_key(session, name="mine", scopes=["read"])
        with Client(url, secret) as client:
            assert client.tasks()
            with pytest.raises(ServiceError, match="scope write") as refused:
                client.create_job(task="stack", attempts=1)
            assert refused.value.status == 403
        with Client(url) as client, pytest.raises(ServiceError, match="API key"):
            client.tasks()
