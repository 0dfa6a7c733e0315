"""A service for tests: a job book in a folder, filled without dispatcher or workers, behind a test client or a port."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlmodel import select

from api import jobs, leases
from api.app import create_app
from api.database import Database
from api.settings import Settings
from api.store import Store
from api.tables import Dataset, DatasetFile, File, Job, Unit
from factory.datasets import write_dataset
from factory.durable import sha256_file
from factory.statistics import AttemptRecord
from tests.synthetic import make_attempts, make_shards

REPORT = {
    "format": "seeds",
    "environment": "stack",
    "task": "stack",
    "demos": [
        {
            "name": f"demo_{i}",
            "steps": 90 + i,
            "problem": None,
            "segments": {
                "right": [
                    {"start": 0, "stop": 41, "confidence": 1.0, "origin": "stored"},
                    {"start": 41, "stop": 90 + i, "confidence": 1.0, "origin": "stored"},
                ]
            },
            "findings": [],
        }
        for i in range(3)
    ],
}


@dataclass(frozen=True)
class Site:
    """An open service and what stands behind it."""

    settings: Settings
    database: Database
    store: Store
    app: FastAPI
    client: TestClient

    def job(self, **asked: Any) -> dict[str, Any]:
        """Ask for a job and return it."""
        usual = {} if "episodes" in asked else {"attempts": 8}
        body = {"task": "stack", "render": None, **usual, **asked}
        answer = self.client.post("/v1/jobs", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    def get(self, path: str, **options: Any) -> Any:
        """Return what a path answers with."""
        answer = self.client.get(path, **options)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def work(self, job_id: str, outcomes: str, *, seconds: float = 0.5) -> None:
        """Make the next attempts of a job: "S" succeeds, "." fails, in one lease each."""
        for outcome in outcomes:
            with self.database.transaction() as session:
                work = leases.lease(session, owner="disp", worker="w0", capabilities=["simulate"])
                assert work is not None
                assert work.job_id == job_id
                leases.commit(session, [attempt(work, work.indices[0], outcome, seconds)])

    def settle(self, file_id: str, *, usable: bool = True) -> None:
        """Answer the check of a file as a worker does."""
        with self.database.transaction() as session:
            work = leases.lease(session, owner="disp", worker="w0", capabilities=["simulate"])
            assert work is not None
            assert work.kind == "check"
            result = {"report": REPORT, "task": "stack", "usable": 3 if usable else 0, "problem": "nothing moves"}
            leases.commit(session, [leases.Done(unit=work.unit, epoch=work.epoch, result=result)])
        with self.database.reading() as session:
            assert session.get(File, file_id).status == ("ready" if usable else "refused")  # type: ignore[union-attr]

    def dataset(self, scratch: Path, lengths: Sequence[int] = (5, 8, 6)) -> str:
        """Put a small dataset with two cameras into the store, made by a job of its own; return its id."""
        job = self.job(episodes=len(lengths))
        name = f"ds_{job['id'].removeprefix('job_')}"
        root = write_dataset(
            scratch / name,
            make_shards(scratch / "shards", lengths),
            robot_type="panda",
            job={"task": "stack", "seed": 0},
            attempts=make_attempts([0, 2, 4], [1, 3]),
            models={"ab12": "<mujoco/>"},
        )
        files = sorted(p for p in root.rglob("*") if p.is_file())
        rows = [
            DatasetFile(
                dataset_id=name, path=p.relative_to(root).as_posix(), sha256=sha256_file(p), bytes=p.stat().st_size
            )
            for p in files
        ]
        total = sum(row.bytes for row in rows)
        self.store.put(root, f"datasets/{name}")
        with self.database.transaction() as session:
            row = session.get(Job, job["id"])
            assert row is not None
            row.prefix, row.prefix_successes, row.attempted, row.succeeded = 5, 3, 5, 3
            row.dataset_id, row.ended_by = name, "target"
            jobs.finish(session, row)
            session.add(
                Dataset(
                    id=name, job_id=row.id, name="towers", key=f"datasets/{name}", episodes=len(lengths),
                    frames=sum(lengths), bytes=total, digest="d" * 64, manifest_sha256="a" * 64, created_at=1.0,
                )
            )  # fmt: skip
            session.add_all(rows)
        return name

    def units(self, kind: str) -> list[Unit]:
        """Return the waiting and leased units of a kind."""
        with self.database.reading() as session:
            return list(session.exec(select(Unit).where(Unit.kind == kind)))


def attempt(work: leases.Work, index: int, outcome: str, seconds: float = 0.5) -> leases.AttemptDone:
    """Return the answer of a worker that made an attempt."""
    failed = {"outcome": "failure", "reason": "dropped", "subtask": "place", "eef": "right"}
    fields: dict[str, Any] = {"outcome": "success", "held": True} if outcome == "S" else failed
    record = AttemptRecord(
        index=index,
        sources=({"demo": f"stack/demo_{index % 3}"},),
        start_poses={"cubeA": (0.01 * index, 0.02, 0.8, 1.0, 0.0, 0.0, 0.0)},
        steps=100 + index,
        **fields,
    )
    return leases.AttemptDone(
        unit=work.unit,
        epoch=work.epoch,
        job_id=work.job_id,
        record=record,
        shard_sha256="f" * 64 if outcome == "S" else "",
        shard_bytes=1000 if outcome == "S" else 0,
        seconds=seconds,
        worker="w0",
    )


@contextmanager
def open_site(folder: Path, *, url: str = "", **changes: Any) -> Iterator[Site]:
    """Lend a service whose settings differ from the usual ones by `changes`."""
    usual: dict[str, Any] = {"burst": 100_000, "stream_poll_s": 0.03, "min_free_bytes": 1}
    settings = Settings(data=folder / "data", database_url=url, **{**usual, **changes})
    database = Database(settings.database_url)
    database.migrate()
    store = Store(settings.store_url)
    app = create_app(settings, database, store)
    try:
        with TestClient(app, base_url="http://127.0.0.1:8000", raise_server_exceptions=False) as client:
            yield Site(settings=settings, database=database, store=store, app=app, client=client)
    finally:
        database.close()


@contextmanager
def on_a_port(app: FastAPI) -> Iterator[str]:
    """Serve an application, whose lifespan somebody else opened, on a free port; lend its URL."""
    config = uvicorn.Config(app, port=0, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10.0)


def problem(answer: Any, status: int, code: str = "") -> dict[str, Any]:
    """Return the problem an answer is, after checking that it is one."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == status
    assert body["detail"]
    assert not code or body["code"] == code, body
    return body


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}
