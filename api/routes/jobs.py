"""/v1/jobs: ask for trajectories, follow and steer the work."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Path, Query, Request, Response

from api import answers, asking, jobs
from api.context import In
from api.keys import Reader, Writer
from api.problems import responses
from api.requests import EstimateRequest, JobRequest
from api.routes.paging import After, Limit

router = APIRouter(tags=["jobs"])
JobId = Annotated[str, Path(max_length=64, examples=["job_0123456789abcdef"])]
Idempotency = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="A name for this request: sent again, it makes no second job. 1 to 255 visible ASCII characters.",
    ),
]
REPLAYED = {
    "headers": {
        "Idempotency-Replayed": {"schema": {"type": "string"}, "description": "true: the job had been made before"}
    }
}


@router.post(
    "/v1/jobs",
    operation_id="create_job",
    status_code=201,
    responses={201: REPLAYED, **responses(409)},
)
def create(
    asked: JobRequest,
    request: Request,
    response: Response,
    service: In,
    caller: Writer,
    idempotency_key: Idempotency = None,
) -> answers.Job:
    """Ask for trajectories.

    The job ends by a rule: so many successes, so many attempts, too much time, too low a rate; `ended_by` says which.
    With an Idempotency-Key the same request may be sent again without harm.
    """
    entered = asking.enter(service, asked, caller, name=idempotency_key, purpose="generate")
    return entry(entered, request, response, service)


@router.post(
    "/v1/jobs:estimate",
    operation_id="estimate_job",
    status_code=202,
    responses={202: REPLAYED, **responses(409)},
)
def estimate(
    asked: EstimateRequest,
    request: Request,
    response: Response,
    service: In,
    caller: Writer,
    idempotency_key: Idempotency = None,
) -> answers.Job:
    """Try the first attempts of a job, to learn what the whole would bring and cost.

    The answer is a job of its own; when it has ended, `GET /v1/jobs/{id}` carries `estimate`.
    """
    entered = asking.enter(service, asked, caller, name=idempotency_key, purpose="estimate")
    return entry(entered, request, response, service)


def entry(entered: asking.Entered, request: Request, response: Response, service: In) -> answers.Job:
    """Return the answer to a request that made a job, or repeated one that had made it."""
    if entered.replayed:
        response.headers["Idempotency-Replayed"] = "true"
    response.headers["Location"] = f"/v1/jobs/{entered.job.id}"
    with service.database.reading() as session:
        return answers.of_job(session, entered.job, base_url=str(request.base_url))


@router.get("/v1/jobs", operation_id="list_jobs")
def listing(
    service: In,
    _: Reader,
    after: After = None,
    limit: Limit = 20,
    status: Annotated[list[jobs.State] | None, Query(description="Only these; repeatable.")] = None,
    purpose: Literal["generate", "estimate", "export", "dream", "all"] = "generate",
) -> answers.Page[answers.Job]:
    """List jobs, newest first, without their specification and failures."""
    wanted = None if purpose == "all" else purpose
    with service.database.reading() as session:
        rows, more = jobs.listed(session, after=after, limit=limit, status=status or (), purpose=wanted)
        return answers.Page(data=answers.of_jobs(session, rows), has_more=more)


@router.get("/v1/jobs/{job_id}", operation_id="get_job")
def one(job_id: JobId, request: Request, service: In, _: Reader) -> answers.Job:
    """Return a job: how far it is, how it ended and what to do about that, how to ask for it again."""
    with service.database.reading() as session:
        return answers.of_job(session, jobs.get(session, job_id), base_url=str(request.base_url))


@router.post("/v1/jobs/{job_id}/cancel", operation_id="cancel_job", responses=responses(409))
def cancel(job_id: JobId, request: Request, service: In, _: Writer) -> answers.Job:
    """Stop a job and keep what it has: a smaller dataset. Cancelling twice changes nothing."""
    with service.database.transaction() as session:
        job = jobs.cancel(session, job_id)
        session.flush()
        return answers.of_job(session, job, base_url=str(request.base_url))


@router.post("/v1/jobs/{job_id}/pause", operation_id="pause_job", responses=responses(409))
def pause(job_id: JobId, request: Request, service: In, _: Writer) -> answers.Job:
    """Hand out no more attempts; those in progress are kept. Pausing twice changes nothing."""
    with service.database.transaction() as session:
        job = jobs.pause(session, job_id)
        session.flush()
        return answers.of_job(session, job, base_url=str(request.base_url))


@router.post("/v1/jobs/{job_id}/resume", operation_id="resume_job", responses=responses(409))
def resume(job_id: JobId, request: Request, service: In, _: Writer) -> answers.Job:
    """Go on with a paused job. Resuming one that runs changes nothing."""
    with service.database.transaction() as session:
        job = jobs.resume(session, job_id)
        session.flush()
        return answers.of_job(session, job, base_url=str(request.base_url))
