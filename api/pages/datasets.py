"""Pages of datasets: the list, and one with its figures, downloads, further forms and training commands."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from sqlmodel import col, select

from api import downloads, jobs
from api.pages import shelf
from api.pages.door import In, Reader, Writer, go, rooms, table
from api.pages.job_form import CAMERAS, SIZES
from api.pages.rendering import page
from api.requests import ExportRequest, PushRequest
from api.routes.datasets import found
from api.routes.paging import page_of
from api.routes.sending import export as export_dataset
from api.routes.sending import push as push_dataset
from api.tables import Dataset, DatasetFile, Job
from factory.specs import RenderSpec
from sim_tasks.catalog import views_of

router = rooms()

_A_PAGE = 30
_MOST_FILES = 500
"""Files listed on the page; the manifest has them all."""


@router.get("/datasets")
def dataset_list(request: Request, service: In, _: Reader, after: str | None = None) -> HTMLResponse:
    """Show datasets, newest first."""
    with service.database.reading() as session:
        rows, more = page_of(session, Dataset, select(Dataset), after, _A_PAGE)
        made = session.exec(select(Job).where(col(Job.id).in_([row.job_id for row in rows])))
        made_by = {job.id: shelf.made_by(job) for job in made}
    return page(request, "datasets.html", datasets=rows, more=more, made_by=made_by)


@router.get("/datasets/{dataset_id}")
def dataset_page(request: Request, service: In, _: Reader, dataset_id: str) -> HTMLResponse:
    """Show one dataset."""
    with service.database.reading() as session:
        row = found(session, dataset_id)
        job = jobs.get(session, row.job_id)
        query = select(DatasetFile).where(DatasetFile.dataset_id == row.id).order_by(col(DatasetFile.path))
        files = list(session.exec(query.limit(_MOST_FILES + 1)))
        source = jobs.get(session, job.parent_id) if job.parent_id and _is_job(job.parent_id) else job
        attempts = shelf.attempts_of(session, source)
        others = list(session.exec(select(Dataset).where(Dataset.job_id == row.job_id, Dataset.id != row.id)))
        exports = shelf.exports_of(session, row.id)
        pushes = downloads.pushes_of(session, row)
    spec = jobs.spec_of(job)
    drawn = spec.render.cameras if spec.render else views_of(spec.task, spec.robot)
    return page(
        request,
        "dataset.html",
        row=row,
        job=job,
        about=shelf.facts(service.store, row),
        made=shelf.made_by(source),
        starts=shelf.starts(attempts),
        demos=shelf.demos(attempts),
        lengths=shelf.lengths(attempts),
        files=files[:_MOST_FILES],
        left_out=len(files) > _MOST_FILES,
        others=others,
        exports=exports,
        pushes=pushes,
        push_schemes=service.settings.push_schemes,
        cameras=list(dict.fromkeys((*CAMERAS, *drawn))),
        sizes=SIZES,
        usual=RenderSpec(cameras=drawn),
        base=str(request.base_url).rstrip("/"),
    )


@router.post("/datasets/{dataset_id}/export")
async def export(request: Request, service: In, caller: Writer, dataset_id: str) -> Response:
    """Ask for another form and show the job that makes it."""
    form = await request.form()
    asked: dict[str, Any] = {"to": form.get("to")}
    if asked["to"] == "lerobot":
        size = form.get("size")
        look = {"cameras": form.getlist("cameras"), "width": size, "height": size, "preset": form.get("preset")}
        asked["render"] = look | ({"visual_seed": form["visual_seed"]} if form.get("visual_seed") else {})
    job = export_dataset(dataset_id, ExportRequest.model_validate(asked), request, service, caller)
    return go(f"/jobs/{job.id}")


@router.post("/datasets/{dataset_id}/push")
async def push(request: Request, service: In, caller: Writer, dataset_id: str) -> Response:
    """Send a dataset somewhere and show how that goes."""
    form = await request.form()
    asked = PushRequest.model_validate({"to": str(form.get("to", "")).strip(), "private": "private" in form})
    push_dataset(dataset_id, asked, service, caller)
    return go(f"/datasets/{dataset_id}#push")


@router.get("/datasets/{dataset_id}/figures/{name}.{form}")
def dataset_figure(service: In, _: Reader, dataset_id: str, name: str, form: str) -> Response:
    """Return the numbers behind a figure."""
    with service.database.reading() as session:
        row = found(session, dataset_id)
        columns, rows = shelf.figure(shelf.attempts_of(session, jobs.get(session, row.job_id)), name)
    return table(name, form, columns, rows)


def _is_job(name: str) -> bool:
    return name.startswith("job_")
