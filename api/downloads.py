"""Answers with bytes: files whole or in part, and whole datasets as one archive. Names are looked up, never joined."""

from __future__ import annotations

import hashlib
import itertools
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from sqlmodel import Session, col, select

from api import answers
from api.leases import RESULTS
from api.store import Store
from api.tables import Dataset, DatasetFile, Job, Unit
from factory.errors import ServiceError

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")
_KINDS: Mapping[str, str] = {"mp4": "video/mp4", "png": "image/png"}
"""What browsers show."""
_BLOCK = 512
"""Tar archives are made of blocks of this size."""


def files_of(session: Session, dataset_id: str) -> list[DatasetFile]:
    """Return the files of a dataset by path."""
    query = select(DatasetFile).where(DatasetFile.dataset_id == dataset_id).order_by(col(DatasetFile.path))
    return list(session.exec(query))


def manifest(dataset: Dataset, files: Sequence[DatasetFile]) -> answers.Manifest:
    """Return a dataset's files as the API shows them."""
    return answers.Manifest(
        dataset_id=dataset.id,
        manifest_sha256=dataset.manifest_sha256,
        bytes=sum(file.bytes for file in files),
        files=[
            answers.DatasetFile(
                path=file.path,
                sha256=file.sha256,
                bytes=file.bytes,
                url=f"/v1/datasets/{dataset.id}/files/{quote(file.path)}",
            )
            for file in files
        ],
    )


def pushes_of(session: Session, dataset: Dataset) -> list[dict[str, Any]]:
    """Return where a dataset was sent, or is being sent."""
    job = session.get(Job, dataset.job_id)
    done: Mapping[str, Any] = ((job.result or {}) if job else {}).get(RESULTS["push"], {})
    prefix = f"{dataset.id}:"
    found = [
        {"name": name, "state": "failed" if "error" in result else "done", **result}
        for name, result in done.items()
        if name.startswith(prefix)
    ]
    waiting = select(Unit).where(Unit.job_id == dataset.job_id, Unit.kind == "push")
    for unit in session.exec(waiting):
        name = str(unit.payload.get("name", ""))
        if name.startswith(prefix):
            found.append({"name": name, "state": unit.state, "to": unit.payload.get("to")})
    return found


def stored_file(store: Store, key: str, request: Request) -> Response:
    """Return a file of the store that is written once under its key; likewise in part.

    Raises:
        ServiceError: 416, there are no such bytes.
        StorageError: the file is not in the store.
    """
    known = DatasetFile(dataset_id="", path=key, sha256=hashlib.sha256(key.encode()).hexdigest(), bytes=store.size(key))
    return whole_or_part(store, key, known, request)


def whole_or_part(store: Store, key: str, file: DatasetFile, request: Request) -> Response:
    """Return a file, or the part of it that the request's Range names.

    Raises:
        ServiceError: 416, there are no such bytes.
        StorageError: the file is not in the store.
    """
    kind = _KINDS.get(file.path.rpartition(".")[2], "application/octet-stream")
    name = file.path.rsplit("/", 1)[-1]
    pieces: list[_Piece] = [_Stored(key=key, bytes=file.bytes)]
    return _answer(store, pieces, request, etag=file.sha256, name=name, media_type=kind)


def archive(store: Store, dataset: Dataset, files: Sequence[DatasetFile], request: Request) -> Response:
    """Return a dataset as a tar archive of known size, or a part of it; neither times nor owners are in it.

    Raises:
        ServiceError: 416, there are no such bytes.
        StorageError: a file is not in the store.
    """
    folder = re.sub(r"[^A-Za-z0-9._-]+", "_", dataset.name) or dataset.id
    pieces: list[_Piece] = []
    for file in files:
        pieces += [
            _tar_head(f"{folder}/{file.path}", file.bytes),
            _Stored(key=f"{dataset.key}/{file.path}", bytes=file.bytes),
            bytes(-file.bytes % _BLOCK),
        ]
    pieces.append(bytes(2 * _BLOCK))
    etag, name = f"{dataset.manifest_sha256}.tar", f"{dataset.id}.tar"
    return _answer(store, pieces, request, etag=etag, name=name, media_type="application/x-tar")


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """The content of a file in the store."""

    key: str
    bytes: int


_Piece = bytes | _Stored


def _answer(
    store: Store, pieces: Sequence[_Piece], request: Request, *, etag: str, name: str, media_type: str
) -> Response:
    """Return pieces one after another as one content that never changes."""
    size, tag = sum(_size(piece) for piece in pieces), f'"{etag}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}",
    }
    if _matches(request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    start, stop, status = 0, size, 200
    wanted = request.headers.get("range")
    unchanged = request.headers.get("if-range", tag) == tag
    if wanted and unchanged and (part := _part(wanted, size)):
        (start, stop), status = part, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    headers["Content-Length"] = str(stop - start)
    content = iter(()) if request.method == "HEAD" else _begun(_content(store, pieces, start, stop))
    return StreamingResponse(content, status_code=status, headers=headers, media_type=media_type)


def _content(store: Store, pieces: Sequence[_Piece], start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes [start, stop) of the pieces together."""
    for piece in pieces:
        size = _size(piece)
        low, high = max(0, start), min(size, stop)
        if low < high:
            if isinstance(piece, bytes):
                yield piece[low:high]
            else:
                yield from store.read(piece.key, start=low, stop=high)
        start, stop = start - size, stop - size


def _size(piece: _Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece.bytes


def _begun(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Return the same blocks, the first of them read already: what cannot be read is found out before the answer."""
    return itertools.chain([next(blocks, b"")], blocks)


def _tar_head(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.PAX_FORMAT)


def _matches(header: str | None, etag: str) -> bool:
    return header is not None and (
        header.strip() == "*" or etag in [e.strip().removeprefix("W/") for e in header.split(",")]
    )


def _part(header: str, size: int) -> tuple[int, int] | None:
    """Return the [start, stop) that a Range header names; None for what is answered with the whole file.

    Several ranges at once are such: a caller that needs them is better served by several requests.
    """
    found = _RANGE.fullmatch(header.replace(" ", ""))
    if found is None or found[0] == "bytes=-":
        return None
    if found[1]:
        start = int(found[1])
        stop = min(size, int(found[2]) + 1) if found[2] else size
    else:
        start, stop = max(0, size - int(found[2])), size
    if found[1] and found[2] and int(found[2]) < int(found[1]):
        return None
    if start >= size or stop <= start:
        raise ServiceError(
            f"the file has {size} bytes; there is nothing at {header}",
            status=416,
            code="no_such_range",
            field="Range",
            found=header,
            allowed=f"bytes=0-{size - 1}",
        )
    return start, stop
