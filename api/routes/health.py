"""Whether the service is alive, whether it can work, and its figures."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal

from alembic.runtime.migration import MigrationContext
from fastapi import APIRouter, Response
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlmodel import col, func, select

from api import tables
from api.context import In, Service
from api.database import head_revision, now
from api.keys import Reader
from api.leases import LEASE_S
from api.metrics import MEDIA_TYPE
from factory.errors import StorageError

router = APIRouter(tags=["service"])


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """What the service needs, and whether it is there; `checks` says of each "ok" or what is wrong."""

    ready: bool
    checks: dict[str, str]
    facts: dict[str, Any]


@router.get("/healthz", operation_id="health")
def health() -> Health:
    """Tell that the process answers."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readiness",
    responses={503: {"model": Readiness, "description": "Something that the service needs is missing."}},
)
def readiness(service: In, response: Response) -> Readiness:
    """Tell whether requests can be served: job book, schema, store, disk, sandbox. Dispatchers are told, not needed."""
    checks, facts = _book(service)
    checks["store"] = _store(service)
    free = service.store.free_bytes()
    facts["free_bytes"] = free
    short = free is not None and free < service.settings.min_free_bytes
    checks["disk"] = f"{free} bytes are free; {service.settings.min_free_bytes} are wanted" if short else "ok"
    try:
        facts["sandbox"] = service.sandbox.level
        checks["sandbox"] = "ok"
    except (OSError, RuntimeError) as error:
        checks["sandbox"] = str(error)
    ready = all(state == "ok" for state in checks.values())
    response.status_code = 200 if ready else 503
    return Readiness(ready=ready, checks=checks, facts=facts)


def _book(service: Service) -> tuple[dict[str, str], dict[str, Any]]:
    try:
        with service.database.reading() as session:
            revision = MigrationContext.configure(session.connection()).get_current_revision()
            since = now(session) - LEASE_S
            alive = select(func.count()).select_from(tables.Dispatcher).where(col(tables.Dispatcher.seen_at) > since)
            dispatchers = int(session.exec(alive).one())
    except (DBAPIError, StorageError):
        return {"database": "the job book cannot be reached"}, {}
    head = head_revision(service.database)
    schema = "ok" if revision == head else f"the job book has schema {revision}, this version needs {head}"
    return {"database": "ok", "schema": schema}, {"schema": revision, "dispatchers": dispatchers}


def _store(service: Service) -> str:
    try:
        with tempfile.TemporaryDirectory() as folder:
            probe = Path(folder, "probe")
            probe.write_bytes(b"probe")
            service.store.put(probe, "probe")
        service.store.remove("probe")
    except (OSError, StorageError) as error:
        return f"the store cannot be written: {type(error).__name__}"
    return "ok"


@router.get(
    "/metrics",
    operation_id="metrics",
    response_class=Response,
    responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}},
)
def metrics(service: In, _: Reader) -> Response:
    """Return jobs by status, attempts by outcome, workers, and how long requests take."""
    return Response(service.metrics.text(), media_type=MEDIA_TYPE)
