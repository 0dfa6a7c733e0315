"""/v1/datasets/{id}/exports and /push: a dataset in further forms and in other places."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Request

from api import answers, downloads, jobs
from api.cards import dataset_card, dream_card
from api.context import In
from api.database import now
from api.keys import Writer
from api.problems import responses
from api.quotas import check_stored
from api.requests import ExportRequest, PushRequest
from api.routes.datasets import DatasetId, found
from api.specs import JobSpec
from api.store import Store
from api.tables import Dataset, Unit
from factory.errors import ServiceError
from factory.lerobot import INFO_PATH
from factory.specs import RenderSpec
from sim_tasks.catalog import find_task

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])


@router.post("/{dataset_id}/exports", operation_id="export_dataset", status_code=202, responses=responses(409))
def export(dataset_id: DatasetId, asked: ExportRequest, request: Request, service: In, caller: Writer) -> answers.Job:
    """Ask for a dataset in another form, or drawn anew with other cameras, lights and textures.

    The answer is a job; nothing is generated again.
    """
    with service.database.transaction() as session:
        dataset = found(session, dataset_id)
        _check_lerobot(dataset)
        check_stored(session, caller, 0)
        spec = jobs.spec_of(jobs.get(session, dataset.job_id))
        _check_not_dreamt(dataset, spec)
        if asked.to == "lerobot":
            task = find_task(spec.task, spec.robot)
            usual = spec.render or RenderSpec(cameras=task.views)
            render = asked.render.spec(task) if asked.render is not None else usual
            spec = replace(spec, render=render, formats=("lerobot",))
        job = jobs.export(session, dataset_id, spec, to=asked.to, name=asked.name, key_id=caller.key_id)
        session.flush()
        return answers.of_job(session, job, base_url=str(request.base_url))


def _check_not_dreamt(dataset: Dataset, spec: JobSpec) -> None:
    if spec.dream is not None:
        raise ServiceError(
            f"dataset {dataset.id} holds dreams, whose pictures are not the simulator's: it cannot be drawn or written "
            "in another form",
            status=409,
            code="dreams",
            field="dataset_id",
            found=dataset.id,
        )


@router.post("/{dataset_id}/push", operation_id="push_dataset", status_code=202, responses=responses(409))
def push(dataset_id: DatasetId, asked: PushRequest, service: In, _: Writer) -> answers.Dataset:
    """Send a dataset with a generated card to the Hugging Face hub (`hf://OWNER/NAME`) or to a URL.

    Credentials are the server's own; it also decides which kinds of URLs it sends to. `pushes` of the dataset says how
    it went.
    """
    _check_target(asked.to, service.settings.push_schemes)
    with service.database.reading() as session:
        info = _info(service.store, found(session, dataset_id))
    with service.database.transaction() as session:
        dataset = found(session, dataset_id)
        job = jobs.get(session, dataset.job_id)
        spec = jobs.spec_of(job)
        if spec.dream is not None:
            card = dream_card(dataset, job, spec, info=info)
        else:
            task = find_task(spec.task, spec.robot)
            card = dataset_card(dataset, job, spec, task, info=info, failures=jobs.failures(session, job))
        name = f"{dataset_id}:{asked.to}"
        if any(
            entry["name"] == name and entry["state"] in ("waiting", "leased")
            for entry in downloads.pushes_of(session, dataset)
        ):
            raise ServiceError(
                f"dataset {dataset_id} is being sent to {asked.to} already",
                status=409,
                code="in_progress",
                field="to",
                found=asked.to,
            )
        payload = {"name": name, "key": dataset.key, "to": asked.to, "private": asked.private, "card": card}
        session.add(Unit(kind="push", job_id=job.id, remaining=1, payload=payload, created_at=now(session)))
        session.flush()
        return answers.of_dataset(dataset, downloads.pushes_of(session, dataset))


def _check_lerobot(dataset: Dataset) -> None:
    if dataset.kind != "lerobot":
        raise ServiceError(
            f"dataset {dataset.id} is {dataset.kind}; only a LeRobot dataset carries what other forms are made from",
            status=409,
            code="not_lerobot",
            field="dataset_id",
            found=dataset.kind,
            allowed="lerobot",
        )


def _check_target(url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ServiceError(f"{error}", status=422, code="bad_url", field="to", found=url) from error
    if parts.scheme not in schemes:
        raise ServiceError(
            f"this service does not send to {parts.scheme}://; FACTORY_PUSH_SCHEMES says what it sends to",
            status=403,
            code="scheme_not_allowed",
            field="to",
            found=url,
            allowed=list(schemes),
        )
    names = [parts.netloc, *parts.path.strip("/").split("/")]
    if ".." in names or (parts.scheme == "hf" and len(names) != 2):
        raise ServiceError(
            "the hub's datasets are named OWNER/NAME, and no part of a place is '..'",
            status=422,
            code="bad_url",
            field="to",
            found=url,
            allowed="hf://OWNER/NAME",
        )


def _info(store: Store, dataset: Dataset) -> dict[str, Any]:
    if dataset.kind != "lerobot":
        return {}
    return json.loads(b"".join(store.read(f"{dataset.key}/{INFO_PATH}")))
