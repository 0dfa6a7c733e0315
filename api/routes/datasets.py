"""/v1/datasets: finished datasets, their files and episodes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from sqlmodel import Session, col, select

from api import answers, downloads, tables
from api.context import In
from api.keys import Reader
from api.problems import not_found, responses
from api.routes.paging import After, Limit, page_of

router = APIRouter(prefix="/v1/datasets", tags=["datasets"])
DatasetId = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]*$", examples=["ds_0123456789abcdef"])]
Number = Annotated[int, Path(ge=0, le=1_000_000_000)]

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_BYTES = {"application/octet-stream": _BINARY, "video/mp4": _BINARY}
_TAR = {"application/x-tar": _BINARY}
_TARS = {200: "A tar archive.", 206: "A part of it."}
_FILE = {
    200: {"description": "The file.", "content": _BYTES},
    206: {"description": "A part of it.", "content": _BYTES},
    304: {"description": "It is as the caller knows it."},
    **responses(416),
}


def found(session: Session, dataset_id: str) -> tables.Dataset:
    """Return a dataset. Raises ServiceError 404."""
    dataset = session.get(tables.Dataset, dataset_id)
    if dataset is None:
        raise not_found("dataset", dataset_id)
    return dataset


@router.get("", operation_id="list_datasets")
def listing(
    service: In,
    _: Reader,
    after: After = None,
    limit: Limit = 20,
    job_id: Annotated[str | None, Query(max_length=64)] = None,
) -> answers.Page[answers.Dataset]:
    """List datasets, newest first; with `job_id` those that a job made."""
    query = select(tables.Dataset)
    if job_id is not None:
        query = query.where(tables.Dataset.job_id == job_id)
    with service.database.reading() as session:
        rows, more = page_of(session, tables.Dataset, query, after, limit)
    return answers.Page(data=[answers.of_dataset(row) for row in rows], has_more=more)


@router.get(
    "/{dataset_id}.tar",
    operation_id="download_dataset",
    response_class=StreamingResponse,
    responses=_FILE | {status: {"description": what, "content": _TAR} for status, what in _TARS.items()},  # type: ignore[arg-type]
)
def tar(dataset_id: DatasetId, request: Request, service: In, _: Reader) -> object:
    """Return all files of a dataset as one archive; equal datasets give equal archives."""
    with service.database.reading() as session:
        dataset = found(session, dataset_id)
        files = downloads.files_of(session, dataset_id)
    return downloads.archive(service.store, dataset, files, request)


@router.get("/{dataset_id}", operation_id="get_dataset")
def one(dataset_id: DatasetId, service: In, _: Reader) -> answers.Dataset:
    """Return a dataset: its facts, and where it was pushed."""
    with service.database.reading() as session:
        dataset = found(session, dataset_id)
        return answers.of_dataset(dataset, downloads.pushes_of(session, dataset))


@router.get("/{dataset_id}/files", operation_id="get_manifest")
def manifest(dataset_id: DatasetId, service: In, _: Reader) -> answers.Manifest:
    """Return the names, sizes and SHA-256 of all files of a dataset."""
    with service.database.reading() as session:
        dataset = found(session, dataset_id)
        files = downloads.files_of(session, dataset_id)
    return downloads.manifest(dataset, files)


def _file(dataset_id: str, path: str, request: Request, service: In) -> object:
    with service.database.reading() as session:
        dataset = found(session, dataset_id)
        query = select(tables.DatasetFile).where(
            tables.DatasetFile.dataset_id == dataset_id, col(tables.DatasetFile.path) == path
        )
        file = session.exec(query).first()
    if file is None:
        raise not_found("file", path)
    return downloads.whole_or_part(service.store, f"{dataset.key}/{file.path}", file, request)


@router.get(
    "/{dataset_id}/files/{path:path}",
    operation_id="download_file",
    response_class=StreamingResponse,
    responses=_FILE,  # type: ignore[arg-type]
)
def download(dataset_id: DatasetId, path: str, request: Request, service: In, _: Reader) -> object:
    """Return one file of a dataset, or the part of it that `Range` names. Its ETag is its SHA-256."""
    return _file(dataset_id, path, request, service)


@router.head(
    "/{dataset_id}/files/{path:path}",
    operation_id="head_file",
    response_class=StreamingResponse,
    responses={status: {"description": entry["description"]} for status, entry in _FILE.items() if status != 416},
)
def head(dataset_id: DatasetId, path: str, request: Request, service: In, _: Reader) -> object:
    """Return what `GET` would say about a file, without its content."""
    return _file(dataset_id, path, request, service)


@router.get("/{dataset_id}/episodes", operation_id="list_episodes", responses=responses(409))
def episodes(
    dataset_id: DatasetId,
    service: In,
    _: Reader,
    after: Annotated[int, Query(ge=-1, le=1_000_000_000, description="Index of the last episode seen.")] = -1,
    limit: Limit = 20,
    source: Annotated[str | None, Query(max_length=200, description="Only those made from this demo.")] = None,
) -> answers.Page[answers.Episode]:
    """List the episodes of a dataset: length, instruction, source demos, subtask timeline, videos."""
    with service.database.reading() as session:
        dataset = found(session, dataset_id)
    chosen = service.library.episodes(dataset, after=after, limit=limit + 1, source=source)
    return answers.Page(data=chosen[:limit], has_more=len(chosen) > limit)


@router.get("/{dataset_id}/episodes/{index}", operation_id="get_episode", responses=responses(409))
def episode(dataset_id: DatasetId, index: Number, service: In, _: Reader) -> answers.Episode:
    """Return one episode."""
    with service.database.reading() as session:
        dataset = found(session, dataset_id)
    return service.library.episode(dataset, index)
