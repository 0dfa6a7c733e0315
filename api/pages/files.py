"""Pages of uploaded files: the list, and one file whose cuts can be moved."""

from __future__ import annotations

from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from pydantic import ValidationError
from sqlmodel import select

from api import uploads
from api.charts import Tick
from api.pages import curves, demonstrations
from api.pages.door import In, Reader, Writer, go, rooms, wrong
from api.pages.rendering import page
from api.requests import Cuts
from api.routes.files import set_cuts
from api.routes.files import upload as upload_file
from api.routes.paging import page_of
from api.tables import File
from factory.errors import ServiceError
from sim_tasks.catalog import all_tasks

router = rooms()

_A_PAGE = 30


@router.get("/files")
def file_list(request: Request, service: In, _: Reader, after: str | None = None) -> HTMLResponse:
    """Show uploaded files, newest first."""
    with service.database.reading() as session:
        rows, more = page_of(session, File, select(File), after, _A_PAGE)
    return page(
        request,
        "files.html",
        files=[demonstrations.overview(row) for row in rows],
        more=more,
        tasks=sorted(all_tasks()),
        most=service.settings.max_upload_bytes,
    )


@router.post("/files")
async def upload(request: Request, service: In, caller: Writer) -> Response:
    """Take a file in and show what becomes of it."""
    file = await upload_file(request, Response(), service, caller)
    return go(f"/files/{file.id}")


@router.get("/files/{file_id}")
def file_page(
    request: Request, service: In, _: Reader, file_id: str, demo: str = "", saved: bool = False
) -> HTMLResponse:
    """Show one file, and one of its demos to be cut."""
    with service.database.reading() as session:
        row = uploads.found(session, file_id)
    return _page(request, row, demo, saved=saved)


@router.post("/files/{file_id}/cuts")
async def save_cuts(request: Request, service: In, caller: Writer, file_id: str) -> Response:
    """Set the boundaries of one demo, or give it back to the automatic cut."""
    form = await request.form()
    demo = str(form.get("demo", ""))
    with service.database.reading() as session:
        row = uploads.found(session, file_id)
    arms = {} if "reset" in form else demonstrations.cuts_from_form(row, demo, form)
    try:
        cuts = Cuts.model_validate({**row.cuts, demo: arms})
        set_cuts(file_id, cuts, service, caller)
    except ValidationError as error:
        return _page(request, row, demo, problem=wrong(error), status=422)
    except ServiceError as error:
        return _page(request, row, demo, problem=str(error), status=error.status)
    return go(f"/files/{file_id}?{urlencode({'demo': demo, 'saved': 1})}#editor")


def _page(
    request: Request, row: File, demo: str, *, saved: bool = False, problem: str = "", status: int = 200
) -> HTMLResponse:
    chosen = demonstrations.chosen(row, demo)
    steps = chosen["steps"] if chosen else 1
    lines = demonstrations.demos(row)
    names = [s["name"] for arm in (chosen or {"arms": {}})["arms"].values() for s in arm["segments"]]
    return page(
        request,
        "file.html",
        status=status,
        row=row,
        file=demonstrations.overview(row),
        report=row.report or {},
        demos=lines,
        demo=chosen,
        subtasks=", ".join(dict.fromkeys(names)) or "subtasks",
        edited=bool(chosen and row.cuts.get(chosen["name"])),
        ticks=[
            Tick(at=round(100 * v / steps, 2), label=f"{v:,.0f}") for v in curves.round_values(steps, 6, whole=True)
        ],
        saved=saved,
        problem=problem,
    )
