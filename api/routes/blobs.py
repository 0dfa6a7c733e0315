"""/v1/blobs: what machines that pull need for their units, and what they made: files by the hash of their content.

Only who holds a lease of a job reads or writes anything of it. A file is sent in parts (`Content-Range`), each at the
byte where the one before ended; `HEAD` says where that is.
"""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api import blobs, downloads, jobs, wire
from api.context import In, Service
from api.keys import Caller, Puller
from api.problems import not_found, responses
from api.routes.leases import holds_job, spoken
from api.sources import file_key
from factory.episodes import COLUMNS_FILE, EPISODE_FILE, STATES_FILE
from factory.errors import ServiceError

_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18})")

router = APIRouter(prefix="/v1/blobs", tags=["leases"], dependencies=[Depends(spoken)], responses=responses(409, 426))
JobId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", examples=["job_0123456789abcdef"])]
Sha256 = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$")]
Owner = Annotated[wire.Id, Query(description="Who holds the lease; see `join`.")]


@router.head("/{job_id}/{sha256}", operation_id="ask_blob", status_code=204)
def ask(job_id: JobId, sha256: Sha256, owner: Owner, service: In, caller: Puller) -> Response:
    """Say how much of a file is here: `Upload-Offset` in bytes, `Upload-Complete` whether that is all."""
    _check(service, caller, owner, job_id)
    offset, complete = blobs.arrived(blobs.area(service, job_id), sha256)
    return Response(status_code=204, headers={"Upload-Offset": str(offset), "Upload-Complete": f"?{complete:d}"})


@router.put(
    "/{job_id}/{sha256}",
    operation_id="send_blob",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    responses=responses(408, 413, 422, 507),
)
async def send(
    job_id: JobId,
    sha256: Sha256,
    owner: Owner,
    request: Request,
    service: In,
    caller: Puller,
    content_range: Annotated[str, Header(max_length=100, examples=["bytes 0-1048575/4194304"])],
) -> wire.Arrived:
    """Send a part of a file. With the last one its hash is checked; a file that has another hash is thrown away."""
    start, whole, length = _part(content_range)
    await run_in_threadpool(_check, service, caller, owner, job_id)
    try:
        content = await request.body()
    except ClientDisconnect as error:
        raise ServiceError("the part broke off on its way", status=408, code="broke_off") from error
    if len(content) != length:
        raise _bad_range(content_range, f"the part has {len(content)} bytes, its Content-Range says {length}")
    offset, complete = await run_in_threadpool(
        blobs.append, service, job_id, sha256, start=start, whole=whole, content=content
    )
    return wire.Arrived(offset=offset, complete=complete)


@router.get("/{job_id}/sources/{sha256}", operation_id="get_source", response_class=Response)
def source(job_id: JobId, sha256: Sha256, owner: Owner, request: Request, service: In, caller: Puller) -> Response:
    """Return a file of demonstrations that a job starts from, whole or in part."""
    _check(service, caller, owner, job_id)
    with service.database.reading() as session:
        spec = jobs.spec_of(jobs.get(session, job_id))
    if sha256 not in {file.sha256 for file in spec.sources}:
        raise not_found("source", sha256)
    return downloads.stored_file(service.store, file_key(sha256), request)


@router.get("/{job_id}/shards/{index}/{name}", operation_id="get_shard_file", response_class=Response)
def shard(
    job_id: JobId,
    index: Annotated[int, Path(ge=0, le=wire.MOST)],
    name: Annotated[str, Path(pattern=f"^({EPISODE_FILE}|{COLUMNS_FILE}|{STATES_FILE})$")],
    owner: Owner,
    request: Request,
    service: In,
    caller: Puller,
) -> Response:
    """Return a file of an episode that is to be drawn, whole or in part."""
    with service.database.reading() as session:
        held = holds_job(session, owner, caller, job_id)
    if not any(index in unit.payload.get("indices", ()) for unit in held):
        raise not_found("shard", str(index))
    key = f"{blobs.shard_key(job_id, index)}/{name}"
    if not service.store.exists(key):
        raise not_found("shard", str(index))
    return downloads.stored_file(service.store, key, request)


def _check(service: Service, caller: Caller, owner: str, job_id: str) -> None:
    with service.database.reading() as session:
        holds_job(session, owner, caller, job_id)


def _part(text: str) -> tuple[int, int, int]:
    """Return where a part begins, the bytes of the whole file, and those of the part."""
    found = _RANGE.fullmatch(text)
    start, last, whole = (int(number) for number in found.groups()) if found else (0, 0, 0)
    if found is None or not start <= last < whole:
        raise _bad_range(text, "the Content-Range names no part of a file")
    return start, whole, last + 1 - start


def _bad_range(text: str, message: str) -> ServiceError:
    allowed = "bytes FIRST-LAST/WHOLE"
    return ServiceError(message, status=422, code="bad_range", field="Content-Range", found=text, allowed=allowed)
