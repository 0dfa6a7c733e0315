"""A typed client of the HTTP service.

with Client("http://127.0.0.1:8000") as client:
    file = client.files.upload(Path("demos.hdf5"))
    job = client.create_job(task="stack", files=[file.id], episodes=100)
    job = client.wait(job.id)
    client.download(job.dataset_id, Path("datasets/stack"))
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from api import answers
from api.problems import Problem
from factory.durable import make_parent, sha256_file
from factory.errors import ServiceError, StorageError

FINAL = ("succeeded", "failed", "cancelled", "expired")
_TIMEOUT = httpx.Timeout(30.0, read=120.0)
_TRIES = 5
_PART = ".part"
T = TypeVar("T", bound=BaseModel)
Numbered = TypeVar("Numbered", answers.Attempt, answers.Dream)


class Client:
    """A connection to a service; every method raises ServiceError with the service's own words when it is refused."""

    def __init__(self, server: str, key: str | None = None, *, transport: httpx.BaseTransport | None = None) -> None:
        """Open a client.

        Args:
            server: "http://127.0.0.1:8000".
            key: an API key; None for a service that is open.
            transport: how requests travel, for tests.
        """
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.server = server
        self._http = httpx.Client(base_url=server, headers=headers, timeout=_TIMEOUT, transport=transport)
        self.files = Files(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def tasks(self) -> list[answers.Task]:
        """Return the tasks that can be asked for."""
        return self.get("/v1/tasks", answers.Page[answers.Task]).data

    def create_job(self, *, name_once: str | None = None, **asked: Any) -> answers.Job:
        """Ask for trajectories; arguments are the fields of `api.requests.JobRequest`.

        A lost connection is tried again without making a second job: the request carries a name, `name_once` or one
        made for it.
        """
        return self._named("/v1/jobs", asked, name_once)

    def create_dreams(self, *, name_once: str | None = None, **asked: Any) -> answers.Job:
        """Have episodes dreamt; arguments are the fields of `api.dream_requests.DreamRequest`.

        The job that this returns is waited for, paused and cancelled like any other.
        """
        return self._named("/v1/dreams", asked, name_once)

    def dreams(self, job_id: str, **query: Any) -> Iterator[answers.Dream]:
        """Yield the dreams of a job by number; `tier` and `verdict` narrow them as of `GET /v1/jobs/{id}/dreams`."""
        return self._by_index(f"/v1/jobs/{_part(job_id)}/dreams", answers.Page[answers.Dream], query)

    def estimate(self, *, name_once: str | None = None, **asked: Any) -> answers.Job:
        """Try a job's first attempts; wait for the job that this returns, then read its `estimate`."""
        return self._named("/v1/jobs:estimate", asked, name_once)

    def job(self, job_id: str) -> answers.Job:
        """Return a job as it is now."""
        return self.get(f"/v1/jobs/{_part(job_id)}", answers.Job)

    def jobs(self, **query: Any) -> Iterator[answers.Job]:
        """Yield jobs, newest first, page by page."""
        after: str | None = None
        while True:
            page = self.get("/v1/jobs", answers.Page[answers.Job], params=_given({**query, "after": after}))
            yield from page.data
            if not page.has_more:
                return
            after = page.data[-1].id

    def cancel(self, job_id: str) -> answers.Job:
        """Stop a job and keep what it has."""
        return self.post(f"/v1/jobs/{_part(job_id)}/cancel", answers.Job)

    def pause(self, job_id: str) -> answers.Job:
        """Hand out no more attempts of a job."""
        return self.post(f"/v1/jobs/{_part(job_id)}/pause", answers.Job)

    def resume(self, job_id: str) -> answers.Job:
        """Go on with a paused job."""
        return self.post(f"/v1/jobs/{_part(job_id)}/resume", answers.Job)

    def attempts(self, job_id: str, **query: Any) -> Iterator[answers.Attempt]:
        """Yield the attempts of a job by index, page by page; arguments as of `GET /v1/jobs/{id}/attempts`."""
        return self._by_index(f"/v1/jobs/{_part(job_id)}/attempts", answers.Page[answers.Attempt], query)

    def wait(self, job_id: str, *, progress: Callable[[Mapping[str, Any]], None] | None = None) -> answers.Job:
        """Wait until a job has ended and return it; `progress` hears about it about once a second."""
        for item in self.watch(job_id):
            if progress is not None and not isinstance(item, answers.Event):
                progress(item)
        return self.job(job_id)

    def watch(self, job_id: str, *, after: int = 0) -> Iterator[answers.Event | Mapping[str, Any]]:
        """Yield the events of a job above number `after`, each once, and its progress, until it has ended.

        A lost connection is taken up again where it broke.

        Raises:
            StorageError: the service cannot be reached any more.
        """
        lost = 0
        while True:
            try:
                for item in self._stream(job_id, after):
                    lost = 0
                    if isinstance(item, answers.Event):
                        if item.seq <= after:
                            continue
                        after = item.seq
                    yield item
            except httpx.TransportError as error:
                lost += 1
                if lost > _TRIES:
                    raise StorageError(f"{self.server} cannot be reached any more: {error}") from error
                time.sleep(min(8.0, 0.25 * 2**lost))
                continue
            job = self.job(job_id)
            if job.status in FINAL and after >= job.last_event:
                return
            time.sleep(0.2)  # the service is stopping, or the job went on to tell something

    def _stream(self, job_id: str, after: int) -> Iterator[answers.Event | Mapping[str, Any]]:
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        timeout = httpx.Timeout(30.0, read=60.0)  # a sound service sends something every 15 s
        with self._http.stream(
            "GET", f"/v1/jobs/{_part(job_id)}/events/stream", headers=headers, timeout=timeout
        ) as response:
            _checked(response)
            kind, data = "", ""
            for line in response.iter_lines():
                if line.startswith("event:"):
                    kind = line[6:].strip()
                elif line.startswith("data:"):
                    data += line[5:].strip()
                elif not line and data:
                    value = json.loads(data)
                    yield value if kind == "progress" else answers.Event.model_validate(value)
                    kind, data = "", ""

    # --- datasets -----------------------------------------------------------------------------------------------------

    def dataset(self, dataset_id: str) -> answers.Dataset:
        """Return a dataset."""
        return self.get(f"/v1/datasets/{_part(dataset_id)}", answers.Dataset)

    def export(self, dataset_id: str, **asked: Any) -> answers.Job:
        """Ask for a dataset in another form; the job that this returns makes it."""
        return self.post(f"/v1/datasets/{_part(dataset_id)}/exports", answers.Job, json=asked)

    def push(self, dataset_id: str, to: str, *, private: bool = True) -> answers.Dataset:
        """Have a dataset sent to the Hugging Face hub or a URL."""
        return self.post(f"/v1/datasets/{_part(dataset_id)}/push", answers.Dataset, json={"to": to, "private": private})

    def download(
        self, dataset_id: str, folder: Path, *, progress: Callable[[int, int], None] | None = None
    ) -> answers.Manifest:
        """Fetch a dataset into a folder. Afterwards every file has the hash that the manifest says.

        What is there already is not fetched again, and a file that was begun is gone on with.

        Args:
            dataset_id: which one.
            folder: is made when it is not there.
            progress: called with the bytes that are there and those that will be.

        Raises:
            StorageError: a file does not become what it should, or the manifest names a place outside the folder.
        """
        manifest = self.get(f"/v1/datasets/{_part(dataset_id)}/files", answers.Manifest)
        there = 0
        for file in manifest.files:
            self._fetch(dataset_id, file, _inside(folder, file.path))
            there += file.bytes
            if progress is not None:
                progress(there, manifest.bytes)
        return manifest

    def _fetch(self, dataset_id: str, file: answers.DatasetFile, place: Path) -> None:
        if place.exists() and place.stat().st_size == file.bytes and sha256_file(place) == file.sha256:
            return
        begun = make_parent(place).with_name(place.name + _PART)
        url = f"/v1/datasets/{_part(dataset_id)}/files/{quote(file.path)}"
        lost = wrong = 0
        while wrong < 2:
            before = begun.stat().st_size if begun.exists() else 0
            try:
                self._continue(url, file, begun)
            except httpx.TransportError as error:
                lost = 0 if begun.exists() and begun.stat().st_size > before else lost + 1
                if lost > _TRIES:
                    raise StorageError(f"{file.path} could not be fetched: {error}") from error
                time.sleep(0.25 * 2**lost)
                continue
            if sha256_file(begun) == file.sha256:
                begun.replace(place)
                return
            begun.unlink()  # what was begun was another file
            wrong += 1
        raise StorageError(f"{file.path} does not have the SHA-256 that the manifest says, fetched twice")

    def _continue(self, url: str, file: answers.DatasetFile, begun: Path) -> None:
        size = begun.stat().st_size if begun.exists() else 0
        if size >= file.bytes:
            begun.touch()
            return
        headers = {"Range": f"bytes={size}-", "If-Range": f'"{file.sha256}"'} if size else {}
        with self._http.stream("GET", url, headers=headers) as response:
            _checked(response)
            with begun.open("ab" if response.status_code == 206 else "wb") as target:
                for block in response.iter_bytes():
                    target.write(block)

    # --- requests -----------------------------------------------------------------------------------------------------

    def get(self, path: str, kind: type[T], *, params: Mapping[str, Any] | None = None) -> T:
        """Return the object at a path; an answer that is lost on the way is asked for again."""
        for lost in range(_TRIES):
            try:
                return self.ask("GET", path, kind, params=params)
            except StorageError as error:
                if not isinstance(error.__cause__, httpx.ReadError | httpx.RemoteProtocolError):
                    raise
            time.sleep(0.25 * 2**lost)
        return self.ask("GET", path, kind, params=params)

    def post(self, path: str, kind: type[T], **options: Any) -> T:
        """Send something to a path and return the object that it answers with."""
        return self.ask("POST", path, kind, **options)

    def _by_index(self, path: str, kind: type[answers.Page[Numbered]], query: Mapping[str, Any]) -> Iterator[Numbered]:
        after = -1
        while True:
            page = self.get(path, kind, params=_given({**query, "after": after}))
            yield from page.data
            if not page.has_more:
                return
            after = page.data[-1].index

    def _named(self, path: str, asked: Mapping[str, Any], name: str | None) -> answers.Job:
        headers = {"Idempotency-Key": name or uuid.uuid4().hex}
        for lost in range(_TRIES + 1):
            try:
                return self.post(path, answers.Job, json=dict(asked), headers=headers)
            except (StorageError, ServiceError) as error:
                busy = isinstance(error, StorageError) or error.code == "in_progress"
                if not busy or lost == _TRIES:
                    raise
                time.sleep(0.25 * 2**lost)
        raise AssertionError("unreachable")

    def head(self, path: str, **options: Any) -> Mapping[str, str]:
        """Return the headers that a path answers with."""
        return self._answer("HEAD", path, **options).headers

    def send(self, path: str, **options: Any) -> None:
        """Send something to a path that answers with nothing."""
        self._answer("POST", path, **options)

    def read_into(self, path: str, place: Path, **options: Any) -> None:
        """Write what a path answers with to a file, from where the file ends."""
        size = place.stat().st_size if place.exists() else 0
        headers = {**options.pop("headers", {}), "Range": f"bytes={size}-"} if size else options.pop("headers", {})
        try:
            with self._http.stream("GET", path, headers=headers, **options) as response:
                _checked(response)
                with place.open("ab" if response.status_code == 206 else "wb") as target:
                    for block in response.iter_bytes():
                        target.write(block)
        except httpx.TransportError as error:
            raise StorageError(f"{self.server} cannot be reached: {error or type(error).__name__}") from error

    def _answer(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise StorageError(f"{self.server} cannot be reached: {error or type(error).__name__}") from error
        _checked(response)
        return response

    def ask(self, method: str, path: str, kind: type[T], **options: Any) -> T:
        """Return the object that a request is answered with."""
        response = self._answer(method, path, **options)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise StorageError(f"{self.server}{path} answered with something else than this version knows") from error


class Files:
    """Files of demonstrations at a service."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def upload(self, path: Path, *, name: str | None = None, task: str | None = None) -> answers.File:
        """Upload a file; the same content again is the same file."""
        data = _given({"name": name, "task": task})
        with _opened(path) as file:
            return self._client.post("/v1/files", answers.File, files={"file": (path.name, file)}, data=data)

    def get(self, file_id: str) -> answers.File:
        """Return a file."""
        return self._client.get(f"/v1/files/{_part(file_id)}", answers.File)

    def wait(self, file_id: str, *, seconds: float = 600.0) -> answers.File:
        """Wait until a worker has looked at a file. Raises StorageError when none does in time."""
        end = time.monotonic() + seconds
        while (file := self.get(file_id)).status == "checking":
            if time.monotonic() > end:
                raise StorageError(f"file {file_id} was not checked within {seconds:.0f} s; is a worker running?")
            time.sleep(0.5)
        return file

    def cut(self, file_id: str, cuts: Mapping[str, Mapping[str, list[int]]]) -> answers.File:
        """Say where subtasks end."""
        return self._client.ask("PUT", f"/v1/files/{_part(file_id)}/cuts", answers.File, json=cuts)


@contextmanager
def _opened(path: Path) -> Generator[Any]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    with file:
        yield file


def _checked(response: httpx.Response) -> None:
    """Raise ServiceError when the service refused."""
    if response.is_success:
        return
    response.read()
    try:
        problem = Problem.model_validate_json(response.content)
    except ValidationError:
        raise ServiceError(
            f"{response.request.url} answered with HTTP {response.status_code}", status=response.status_code
        ) from None
    raise ServiceError(
        problem.detail,
        status=problem.status,
        code=problem.code,
        field=problem.field or "",
        found=problem.found,
        allowed=problem.allowed,
    )


def _inside(folder: Path, path: str) -> Path:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise StorageError(f"the manifest names {path!r}, which lies outside the dataset")
    return folder / parts


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _part(name: str) -> str:
    return quote(name, safe="")
