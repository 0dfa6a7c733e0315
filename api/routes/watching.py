"""/v1/jobs/{id}/...: what happens to a job while it happens, its attempts, and what they add up to."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from sqlmodel import col, select

from api import answers, downloads, jobs, stats
from api.context import In
from api.database import now
from api.keys import Reader, Writer
from api.leases import RESULTS
from api.live import Live
from api.problems import not_found, responses
from api.routes.jobs import JobId
from api.tables import Attempt, Unit
from factory.errors import ServiceError

router = APIRouter(prefix="/v1/jobs", tags=["jobs"])
Word = Annotated[str | None, Query(max_length=100)]


@router.get("/{job_id}/events", operation_id="list_events")
def events(
    job_id: JobId,
    service: In,
    _: Reader,
    after: Annotated[int, Query(ge=0, le=1_000_000_000, description="Number of the last event seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> answers.Page[answers.Event]:
    """List what happened to a job, oldest first; numbers have no gaps."""
    with service.database.reading() as session:
        jobs.get(session, job_id)
        rows = jobs.events(session, job_id, after=after, limit=limit + 1)
    return answers.Page(data=[answers.of_event(row) for row in rows[:limit]], has_more=len(rows) > limit)


class _Seat:
    """A stream that may begin: whose job, after which event."""

    def __init__(self, job_id: str, after: int) -> None:
        self.job_id, self.after = job_id, after


def _seat(
    job_id: JobId,
    service: In,
    caller: Reader,
    last_event_id: Annotated[
        str | None, Header(alias="Last-Event-ID", description="Number of the last event received.")
    ] = None,
    after: Annotated[int, Query(ge=0, le=1_000_000_000, description="The same, for a first connection.")] = 0,
) -> Generator[_Seat]:
    if last_event_id is not None:
        if not (last_event_id.isascii() and last_event_id.isdigit() and len(last_event_id) < 12):
            raise ServiceError(
                "Last-Event-ID is not the number of an event",
                status=400,
                code="bad_event_id",
                field="Last-Event-ID",
                found=last_event_id,
                allowed="a number, as the ids of the stream are",
            )
        after = int(last_event_id)
    with service.database.reading() as session:
        last = jobs.get(session, job_id).last_event
    name = caller.key_id or ""
    service.live.enter(name, service.settings.max_streams)
    try:
        yield _Seat(job_id, min(after, last))
    finally:
        service.live.leave(name)


@router.get(
    "/{job_id}/events/stream",
    operation_id="stream_events",
    response_class=StreamingResponse,
    responses={200: {"description": "Server-sent events.", "content": {"text/event-stream": {}}}},
)
async def stream(service: In, seat: Annotated[_Seat, Depends(_seat)]) -> object:
    """Stream the events of a job as they happen, each with its number as id, until the job has ended.

    After a lost connection, `Last-Event-ID` goes on where it stopped: no event is missing, none comes twice. About once
    a second comes an unnumbered message `progress` with the counts.
    """
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_told(service.live, seat), media_type="text/event-stream", headers=headers)


async def _told(live: Live, seat: _Seat) -> AsyncGenerator[bytes]:
    # Not FastAPI's own event streams: theirs report an error whenever a listener leaves while something is sent.
    async with aclosing(live.watch(seat.job_id, seat.after)) as items:
        async for item in items:
            if isinstance(item, answers.Event):
                yield format_sse_event(data_str=item.model_dump_json(), event=item.type, id=str(item.seq))
            else:
                yield format_sse_event(data_str=json.dumps(item), event="progress")


@router.get("/{job_id}/attempts", operation_id="list_attempts")
def attempts(
    job_id: JobId,
    service: In,
    _: Reader,
    after: Annotated[int, Query(ge=-1, le=1_000_000_000, description="Index of the last attempt seen.")] = -1,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    outcome: Literal["success", "failure"] | None = None,
    subtask: Word = None,
    reason: Word = None,
) -> answers.Page[answers.Attempt]:
    """List the attempts of a job by index; only those of an outcome, subtask or reason where one is given."""
    with service.database.reading() as session:
        job = jobs.get(session, job_id)
        rows = jobs.attempts(
            session, job_id, after=after, limit=limit + 1, outcome=outcome, subtask=subtask, reason=reason
        )
    clips = (job.result or {}).get(RESULTS["clip"], {})
    return answers.Page(data=[answers.of_attempt(row, clips) for row in rows[:limit]], has_more=len(rows) > limit)


@router.post("/{job_id}/attempts/{index}/clip", operation_id="make_clip", status_code=202, responses=responses(409))
def make_clip(job_id: JobId, index: stats.AttemptIndex, service: In, _: Writer) -> answers.Attempt:
    """Have an attempt drawn, a failed one for example. Asking again while it is drawn changes nothing."""
    with service.database.transaction() as session:
        job = jobs.get(session, job_id, lock=True)
        attempt = session.get(Attempt, (job_id, index))
        if attempt is None:
            raise not_found("attempt", str(index))
        if attempt.reason == "infra_poison":
            raise ServiceError(
                f"attempt {index} killed its worker three times and is not made again",
                status=409,
                code="poison",
                field="index",
                found=index,
            )
        name = f"attempt_{index}"
        clips: dict[str, Any] = (job.result or {}).get(RESULTS["clip"], {})
        waiting = select(Unit).where(Unit.job_id == job_id, Unit.kind == "clip", col(Unit.start) == index)
        if "cameras" not in clips.get(name, {}) and session.exec(waiting).first() is None:
            payload = {"indices": [index], "name": name}
            session.add(
                Unit(
                    kind="clip",
                    job_id=job_id,
                    start=index,
                    stop=index + 1,
                    remaining=1,
                    payload=payload,
                    created_at=now(session),
                )
            )
        return answers.of_attempt(attempt, clips)


@router.get(
    "/{job_id}/attempts/{index}/clip",
    operation_id="get_clip",
    response_class=StreamingResponse,
    responses={
        200: {"description": "The video.", "content": {"video/mp4": {}}},
        206: {"description": "A part of it.", "content": {"video/mp4": {}}},
        304: {"description": "It is as the caller knows it."},
        **responses(416),
    },
)
def get_clip(
    job_id: JobId, index: stats.AttemptIndex, request: Request, service: In, _: Reader, camera: Word = None
) -> object:
    """Return the video of an attempt that was drawn, from one camera; the first one unless it is named."""
    with service.database.reading() as session:
        clip: dict[str, Any] = (jobs.get(session, job_id).result or {}).get(RESULTS["clip"], {})
    cameras: dict[str, str] = clip.get(f"attempt_{index}", {}).get("cameras", {})
    chosen = camera if camera is not None else next(iter(cameras), "")
    if chosen not in cameras:
        raise ServiceError(
            f"attempt {index} of job {job_id} has no clip of camera {chosen!r}",
            status=404,
            code="not_found",
            field="camera",
            found=chosen,
            allowed=sorted(cameras),
        )
    return downloads.stored_file(service.store, cameras[chosen], request)


Form = Annotated[Literal["json", "csv"], Query(alias="format")]
_CSV = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "The figures."}}


@router.get("/{job_id}/stats", operation_id="get_stats")
def statistics(job_id: JobId, service: In, _: Reader) -> stats.Stats:
    """Return what the attempts of a job add up to: its course, failures, coverage of starts, use of demos, speed."""
    with service.database.reading() as session:
        return stats.stats_of(session, jobs.get(session, job_id))


@router.get("/{job_id}/stats/{figure}", operation_id="get_figure", responses=_CSV)  # type: ignore[arg-type]
def figure(job_id: JobId, figure: stats.Figure, service: In, _: Reader, form: Form = "json") -> list[dict[str, Any]]:
    """Return the rows of one figure, as JSON or CSV."""
    with service.database.reading() as session:
        rows = stats.rows_of(session, jobs.get(session, job_id), figure)
    if form == "json":
        return rows
    return Response(_csv(rows), media_type="text/csv; charset=utf-8")  # type: ignore[return-value]


def _csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
