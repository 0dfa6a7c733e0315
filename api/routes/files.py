"""/v1/files: demonstrations come in, are checked, and are cut by hand where a person knows better."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from sqlmodel import select
from starlette.concurrency import run_in_threadpool

from api import answers, tables, uploads
from api.context import In
from api.cuts import check_cuts
from api.keys import Reader, Writer
from api.problems import responses
from api.requests import CheckRequest, Cuts
from api.routes.paging import After, Limit, page_of
from factory.errors import ServiceError
from sim_tasks.catalog import find_task

router = APIRouter(prefix="/v1/files", tags=["files"])
FileId = Annotated[str, Path(max_length=64, examples=["file_0123456789abcdef"])]

_FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary", "description": "An HDF5 file."},
                        "name": {"type": "string", "maxLength": 200, "description": "Instead of the file's own name."},
                        "task": {"type": "string", "maxLength": 100, "description": "The task that it shows."},
                    },
                    "additionalProperties": False,
                }
            }
        },
    }
}


@router.post(
    "",
    operation_id="upload_file",
    status_code=201,
    openapi_extra=_FORM,
    responses={
        200: {"model": answers.File, "description": "The same content was here already; it is the same file."},
        **responses(415, 422),
    },
)
async def upload(request: Request, response: Response, service: In, caller: Writer) -> answers.File:
    """Upload a file of demonstrations: robosuite, robomimic or MimicGen, Isaac Lab Mimic, or this project's own HDF5.

    Its structure is checked at once, in a sandbox. The answer's status is `checking` while a worker annotates the
    demonstrations and cuts them into subtasks; jobs that use the file wait for it.
    """
    place = uploads.new_place(service)
    try:
        form = await uploads.receive(
            request.stream(), request.headers.get("content-type", ""), place, most=service.settings.max_upload_bytes
        )
        task = form.texts.get("task") or None
        if task is not None:
            find_task(task)
        file, new = await run_in_threadpool(uploads.accept, service, form, caller, task)
    finally:
        place.unlink(missing_ok=True)
    response.status_code = 201 if new else 200
    return answers.of_file(file)


@router.get("", operation_id="list_files")
def listing(
    service: In,
    _: Reader,
    after: After = None,
    limit: Limit = 20,
    status: Annotated[str | None, Query(pattern="^(checking|ready|refused)$")] = None,
) -> answers.Page[answers.File]:
    """List files, newest first."""
    query = select(tables.File)
    if status is not None:
        query = query.where(tables.File.status == status)
    with service.database.reading() as session:
        rows, more = page_of(session, tables.File, query, after, limit)
    return answers.Page(data=[answers.of_file(row) for row in rows], has_more=more)


@router.get("/{file_id}", operation_id="get_file")
def one(file_id: FileId, service: In, _: Reader) -> answers.File:
    """Return a file: what was found in it and where its subtasks were cut."""
    with service.database.reading() as session:
        return answers.of_file(uploads.found(session, file_id))


@router.delete("/{file_id}", operation_id="delete_file", status_code=204, responses=responses(409))
def delete(file_id: FileId, service: In, _: Writer) -> None:
    """Delete a file. Finished datasets carry their demonstrations themselves and do not need it."""
    uploads.remove(service, file_id)


@router.put("/{file_id}/cuts", operation_id="set_cuts", responses=responses(409))
def set_cuts(file_id: FileId, cuts: Cuts, service: In, _: Writer) -> answers.File:
    """Say where subtasks end, for some demos and end effectors; the others stay as they were found.

    What was set before is replaced. Jobs created from now on use it; their episodes' provenance says so.
    """
    return _cut(file_id, service, {demo: arms for demo, arms in cuts.root.items() if arms})


@router.delete("/{file_id}/cuts", operation_id="clear_cuts", responses=responses(409))
def clear_cuts(file_id: FileId, service: In, _: Writer) -> answers.File:
    """Go back to the boundaries that were found."""
    return _cut(file_id, service, {})


def _cut(file_id: str, service: Any, cuts: dict[str, dict[str, list[int]]]) -> answers.File:
    with service.database.transaction() as session:
        file = uploads.found(session, file_id, lock=True)
        if cuts:
            check_cuts(file, cuts)
        if cuts != file.cuts:
            file.cuts, file.revision = cuts, file.revision + 1
            session.add(file)
        session.flush()
        return answers.of_file(file)


@router.post("/{file_id}/check", operation_id="check_file", status_code=202, responses=responses(409))
def check(file_id: FileId, asked: CheckRequest, service: In, _: Writer) -> answers.File:
    """Check a file again, as another task for example. Boundaries set for another task are dropped."""
    if asked.task is not None:
        find_task(asked.task)
    with service.database.transaction() as session:
        file = uploads.found(session, file_id, lock=True)
        if file.status == "checking":
            raise ServiceError(
                f"file {file.name} is being checked already",
                status=409,
                code="wrong_state",
                field="status",
                found="checking",
                allowed="ready or refused",
            )
        if asked.task != file.task:
            file.task, file.cuts = asked.task, {}
        uploads.start_check(session, file)
        return answers.of_file(file)
