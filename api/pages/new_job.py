"""The page that asks for a job, and the pilot that says what to expect of it."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from pydantic import ValidationError
from sqlmodel import col, select

from api import answers, asking, jobs
from api.context import Service
from api.pages import demonstrations, job_form, overview
from api.pages.door import In, Reader, Writer, go, rooms, wrong
from api.pages.rendering import page
from api.requests import EstimateRequest, JobRequest, request_of
from api.specs import job_from_json
from api.tables import File, Job
from factory.errors import FactoryError
from factory.specs import TaskSpec
from sim_tasks.catalog import all_tasks

router = rooms()

_PILOT = 12
_MOST_FILES = 50


@router.get("/jobs/new")
def form(
    request: Request, service: In, _: Reader, source: str = "", file: str = "", estimate: str = ""
) -> HTMLResponse:
    """Show the form, as it is at first, for one file, or as an earlier job or pilot asked for it."""
    values = dict(job_form.BLANK)
    with service.database.reading() as session:
        if estimate or source:
            values = _values_of(jobs.get(session, estimate or source))
        elif file and (row := session.get(File, file)) is not None:
            values |= {"files": (row.id,), "task": row.task or values["task"]}
    return _page(request, service, values, pilot=estimate)


@router.post("/jobs/new")
async def create(request: Request, service: In, caller: Writer) -> Response:
    """Enter the job that the form asks for and show it."""
    values = job_form.typed(await request.form())
    try:
        asked = JobRequest.model_validate(job_form.request_from(values))
        entered = asking.enter(service, asked, caller, name=None, purpose="generate")
    except (ValidationError, FactoryError) as error:
        return _page(request, service, values, problem=_said(error), status=422)
    return go(f"/jobs/{entered.job.id}")


@router.post("/jobs/new/estimate")
async def estimate(request: Request, service: In, caller: Writer) -> Response:
    """Try the first attempts of what the form asks for, and show the form with what comes of it."""
    values = job_form.typed(await request.form())
    try:
        asked = EstimateRequest.model_validate({**job_form.request_from(values), "pilot": _PILOT})
        entered = asking.enter(service, asked, caller, name=None, purpose="estimate")
    except (ValidationError, FactoryError) as error:
        return _page(request, service, values, problem=_said(error), status=422)
    return go(f"/jobs/new?estimate={entered.job.id}")


@router.get("/jobs/{job_id}/estimate")
def pilot_part(request: Request, service: In, _: Reader, job_id: str) -> HTMLResponse:
    """Return the part of the form that tells how a pilot goes."""
    return page(request, "_estimate.html", **_pilot(service, job_id))


def _page(
    request: Request, service: Service, values: dict[str, Any], *, pilot: str = "", problem: str = "", status: int = 200
) -> HTMLResponse:
    with service.database.reading() as session:
        query = select(File).where(File.status == "ready").order_by(col(File.created_at).desc()).limit(_MOST_FILES)
        files = [demonstrations.overview(row) for row in session.exec(query)]
    tasks = all_tasks()
    return page(
        request,
        "new_job.html",
        status=status,
        v=values,
        problem=problem,
        files=files,
        tasks=[{"name": t.name, "instruction": t.instruction, "variants": list(t.resets)} for t in tasks.values()],
        variants=_variants(tasks.get(values["task"])),
        cameras=list(dict.fromkeys((*job_form.CAMERAS, *values["cameras"]))),
        sizes=job_form.sizes(values["size"]),
        **_pilot(service, pilot),
    )


def _variants(chosen: TaskSpec | None) -> list[tuple[str, str]]:
    """Return every variant's name, and for how many tasks it is there when that is not all."""
    tasks = all_tasks().values()
    names = sorted({name for task in tasks for name in task.resets})
    known = set(chosen.resets) if chosen is not None else set(names)
    return [(name, "" if name in known else " (not for this task)") for name in names]


def _values_of(job: Job) -> dict[str, Any]:
    """Return the form's values for what a job asks for; a pilot stands for the job that was thought about."""
    wanted = (job.result or {}).get("wanted") if job.purpose == "estimate" else None
    spec = job_from_json(wanted) if wanted else jobs.spec_of(job)
    return {**job_form.values_from(request_of(spec, job.file_ids)), "name": job.name}


def _pilot(service: Service, job_id: str) -> dict[str, Any]:
    if not job_id:
        return {"pilot": None, "estimate": None}
    with service.database.reading() as session:
        job = jobs.get(session, job_id)
        return {
            "pilot": overview.cards(session, [job])[0],
            "estimate": answers.of_job(session, job).estimate,
        }


def _said(error: ValidationError | FactoryError) -> str:
    return str(error) if isinstance(error, FactoryError) else wrong(error)
