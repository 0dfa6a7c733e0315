"""`factory generate --server`: the same request, carried out by a service, its dataset fetched when it is there."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from api.answers import Job
from api.client import Client
from api.requests import request_of
from factory.durable import json_bytes, rename_into_place
from factory.errors import DatasetError, DemoError
from workers.generate import FAILED_SUFFIX, REPORT, Finished, Request, Watcher, asked_for, work_folder_of


def generate_remotely(request: Request, *, server: str, key: str | None, watcher: Watcher) -> Finished:
    """Have a service make the dataset that was asked for and fetch it.

    The same command again finds the same job, running or finished, and goes on with a download that broke off. Ctrl-C
    leaves the job running.

    Raises:
        FactoryError: the service refuses the request or cannot be reached, or the job made no dataset.
    """
    if request.out.exists():
        raise DatasetError(f"{request.out} already exists; choose another --out or remove it")
    with Client(server, key) as client:
        files = [_uploaded(client, path, request) for path in request.demos]
        body = request_of(asked_for(request, ()), files)
        once = hashlib.sha256(json_bytes([str(request.out.absolute()), body])).hexdigest()
        job = client.create_job(name_once=once, name=request.out.name, **body)
        job = client.wait(job.id, progress=lambda facts: _tell(facts, watcher))
        if job.dataset_id is None:
            raise DatasetError(_why_nothing(job))
        _fetch(client, job.dataset_id, request.out)
        failed = request.out.with_name(request.out.name + FAILED_SUFFIX)
        if request.keep_failed and job.request_counts.failed:
            _fetch(client, f"{job.dataset_id}_failed", failed)
    return Finished(
        root=request.out,
        report=request.out / REPORT,
        failed_root=failed if failed.exists() else None,
        episodes=job.request_counts.succeeded,
        attempts=job.request_counts.attempted,
        rule=job.ended_by,
        advice=job.advice,
        refused=tuple(job.refused),
        run_again_on_cpu=job.run_again_on_cpu,
    )


def _uploaded(client: Client, path: Path, request: Request) -> str:
    file = client.files.wait(client.files.upload(path, task=request.task).id)
    if file.status != "ready":
        raise DemoError(f"{path}: {(file.error or {}).get('message', 'the service refused it')}")
    if cuts := request.cuts.get(path.name):
        stops = {demo: {eef: list(steps) for eef, steps in arms.items()} for demo, arms in cuts.items()}
        client.files.cut(file.id, stops)
    return file.id


def _tell(facts: Mapping[str, Any], watcher: Watcher) -> None:
    counts = facts["request_counts"]
    if counts["attempted"]:
        watcher.attempts(counts["attempted"], counts["succeeded"])
    if facts.get("to_render"):
        watcher.rendering(facts["rendered"], facts["to_render"])


def _fetch(client: Client, dataset_id: str, place: Path) -> None:
    work = work_folder_of(place)
    client.download(dataset_id, work)
    if not rename_into_place(work, place):
        raise DatasetError(f"{place} was made by someone else in the meantime; the download was removed")
    shutil.rmtree(work, ignore_errors=True)


def _why_nothing(job: Job) -> str:
    said = (job.error or {}).get("message") or job.advice
    return f"{job.id} ended as {job.status} without a dataset: {said}"
