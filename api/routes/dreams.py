"""/v1/dreams: have episodes dreamt; /v1/jobs/{id}/dreams: the dreams of a job and their films."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse

from api import answers, downloads, dream_requests, dreams, jobs
from api.context import In
from api.dream_requests import DreamRequest
from api.keys import Reader, Writer
from api.problems import not_found, responses
from api.routes.jobs import REPLAYED, Idempotency, JobId, entry
from api.tables import Dream
from factory.errors import ServiceError

router = APIRouter(tags=["dreams"])
Index = Annotated[int, Path(ge=0, le=1_000_000_000)]
Tier = Literal["executed_success", "executed_failure", "not_replayable", "not_tried"]
Verdict = Literal["accept", "reject", "abstain", "error", "not_judged"]
_FILM = {
    200: {"description": "The video or picture.", "content": {"video/mp4": {}, "image/png": {}}},
    206: {"description": "A part of it.", "content": {"video/mp4": {}}},
    304: {"description": "It is as the caller knows it."},
    **responses(416),
}


@router.post(
    "/v1/dreams",
    operation_id="create_dreams",
    status_code=201,
    responses={201: REPLAYED, **responses(409)},
)
def create(
    asked: DreamRequest,
    request: Request,
    response: Response,
    service: In,
    caller: Writer,
    idempotency_key: Idempotency = None,
) -> answers.Job:
    """Have episodes dreamt from first frames, judged, read back into actions, and tried in the simulator.

    The answer is a job of the purpose `dream`: it is followed, paused and cancelled under `/v1/jobs/{id}`, and its
    dreams are listed under `/v1/jobs/{id}/dreams`.
    """
    entered = dream_requests.enter(service, asked, caller, name=idempotency_key)
    return entry(entered, request, response, service)


@router.get("/v1/jobs/{job_id}/dreams", operation_id="list_dreams")
def listing(
    job_id: JobId,
    service: In,
    _: Reader,
    after: Annotated[int, Query(ge=-1, le=1_000_000_000, description="Number of the last dream seen.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    tier: Tier | None = None,
    verdict: Verdict | None = None,
) -> answers.Page[answers.Dream]:
    """List the dreams of a job by number; only those of a tier or verdict where one is given."""
    with service.database.reading() as session:
        jobs.get(session, job_id)
        rows = dreams.listed(session, job_id, after=after, limit=limit + 1, tier=tier, verdict=verdict)
    return answers.Page(data=[answers.of_dream(row) for row in rows[:limit]], has_more=len(rows) > limit)


@router.get("/v1/jobs/{job_id}/dreams/{index}", operation_id="get_dream")
def one(job_id: JobId, index: Index, service: In, _: Reader) -> answers.Dream:
    """Return a dream: what was asked, what was seen, what came of it."""
    return answers.of_dream(_found(job_id, index, service))


@router.get(
    "/v1/jobs/{job_id}/dreams/{index}/film",
    operation_id="get_dream_film",
    response_class=StreamingResponse,
    responses=_FILM,  # type: ignore[arg-type]
)
def film(
    job_id: JobId,
    index: Index,
    request: Request,
    service: In,
    _: Reader,
    show: Annotated[
        Literal["dream", "twin", "first"], Query(description="What was dreamt, what was done, or the first picture.")
    ] = "dream",
    camera: Annotated[str | None, Query(max_length=100, description="Of a twin; the first one by default.")] = None,
) -> object:
    """Return the film of a dream, of what the simulator did in its place, or its first picture."""
    row = _found(job_id, index, service)
    return downloads.stored_file(service.store, dreams.film_key(job_id, index, _name(row, show, camera)), request)


def _found(job_id: str, index: int, service: In) -> Dream:
    with service.database.reading() as session:
        jobs.get(session, job_id)
        row = session.get(Dream, (job_id, index))
    if row is None:
        raise not_found("dream", str(index))
    return row


def _name(row: Dream, show: str, camera: str | None) -> str:
    """Return the name of a dream's file. Raises ServiceError where there is none."""
    cameras: list[str] = row.record.get("twin", {}).get("cameras", [])
    if show == "twin" and cameras and (camera is None or camera in cameras):
        return f"twin-{camera or cameras[0]}.mp4"
    if show != "twin" and "film" in row.record:
        return "dream.mp4" if show == "dream" else "first.png"
    why = "it was not executed" if show == "twin" and not cameras else "it is not there yet"
    raise ServiceError(
        f"dream {row.idx} of job {row.job_id} has no {show} to show: {why}",
        status=404,
        code="not_found",
        field="show" if camera is None else "camera",
        found=show if camera is None else camera,
        allowed=cameras or None,
    )
