"""Takes files in: streamed to the disk under a cap, checked in the sandbox, kept under the hash of their content."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import anyio
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from sqlmodel import Session, col, select
from starlette.concurrency import run_in_threadpool

from api import jobs
from api.context import Service
from api.database import now
from api.keys import Caller
from api.quotas import check_stored
from api.sources import file_key
from api.tables import File, Job, Unit
from factory.errors import ServiceError

_FIELDS = ("name", "task")
_MOST_TEXT = 200
_PATIENCE_S = 30.0
"""A sender that is silent for so long is given up."""
_BLOCK = 1 << 20


@dataclass
class Upload:
    """A form as it arrives: at most one file, which goes to `place`, and a few short texts."""

    place: Path
    most: int
    filename: str = ""
    bytes: int = 0
    sha256: str = ""
    texts: dict[str, str] = field(default_factory=dict)


async def receive(chunks: AsyncIterator[bytes], content_type: str, place: Path, *, most: int) -> Upload:
    """Read a multipart form, writing its field `file` to `place`.

    Raises:
        ServiceError: 408 too slow, 413 too large, 415 no form, 422 a malformed form or no file in it.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise ServiceError(
            "a file is uploaded as multipart/form-data with the file in field `file`",
            status=415,
            code="not_a_form",
            field="Content-Type",
            found=content_type,
            allowed="multipart/form-data; boundary=...",
        )
    place.parent.mkdir(parents=True, exist_ok=True)
    upload = Upload(place=place, most=most)
    file = await run_in_threadpool(place.open, "wb")
    try:
        parts = _Parts(upload, file)
        try:
            parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
            block = b""
            async for chunk in _patiently(chunks):
                block += chunk
                if len(block) >= _BLOCK:
                    await run_in_threadpool(parser.write, block)
                    block = b""
            await run_in_threadpool(parser.write, block)
            parser.finalize()
        except FormParserError as error:
            raise _malformed(f"the form cannot be read: {error}") from error
    finally:
        file.close()
    if not parts.ended:
        raise _malformed("the form ends in the middle")
    if not parts.had_file:
        raise _malformed("the form has no file in field `file`")
    upload.sha256 = parts.hasher.hexdigest()
    return upload


async def _patiently(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while True:
        try:
            with anyio.fail_after(_PATIENCE_S):
                chunk = await anext(chunks, None)
        except TimeoutError as error:
            message = f"nothing arrived for {_PATIENCE_S:.0f} s"
            raise ServiceError(message, status=408, code="too_slow") from error
        if chunk is None:
            return
        yield chunk


class _Parts:
    """What the parser of forms calls."""

    def __init__(self, upload: Upload, file: BinaryIO) -> None:
        self.hasher = hashlib.sha256()
        self.ended = self.had_file = False
        self._upload, self._file = upload, file
        self._header = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        self._text = b""

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._all,
        }

    def _begin(self) -> None:
        self._headers, self._text, self._field = {}, b"", None

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._header = self._bounded(self._header + data[start:end])

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value = self._bounded(self._value + data[start:end])

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""
        if len(self._headers) > 16:
            raise _malformed("a part of the form has more than 16 headers")

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        if self._field == "file":
            if self.had_file:
                raise _malformed("the form has two files; upload them one by one")
            self.had_file = True
            self._upload.filename = options.get(b"filename", b"").decode("utf-8", "replace")
        elif self._field not in _FIELDS:
            raise _malformed("the form has an unknown field", found=self._field, allowed=["file", *_FIELDS])

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._field != "file":
            self._text += data[start:end]
            if len(self._text) > _MOST_TEXT:
                raise _malformed(f"field {self._field} is longer than {_MOST_TEXT} bytes", field=self._field or "")
            return
        self._upload.bytes += end - start
        if self._upload.bytes > self._upload.most:
            raise ServiceError(
                f"the file is larger than {self._upload.most} bytes",
                status=413,
                code="file_too_large",
                field="file",
                allowed=self._upload.most,
            )
        self.hasher.update(data[start:end])
        self._file.write(data[start:end])

    def _end(self) -> None:
        if self._field in _FIELDS:
            self._upload.texts[self._field] = self._text.decode("utf-8", "replace")

    def _all(self) -> None:
        self.ended = True

    def _bounded(self, header: bytes) -> bytes:
        if len(header) > 4096:
            raise _malformed("a part of the form has a header of more than 4096 bytes")
        return header


def _malformed(message: str, *, field: str = "file", found: Any = None, allowed: Any = None) -> ServiceError:
    return ServiceError(message, status=422, code="bad_form", field=field, found=found, allowed=allowed)


def new_place(service: Service) -> Path:
    """Return where the next upload goes."""
    return service.settings.incoming / f"upload_{secrets.token_hex(8)}"


def shown_name(name: str) -> str:
    """Return a file's name reduced to what may be part of a path and of a demo's name."""
    last = re.split(r"[/\\]", name)[-1]
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", last).strip("._-")[-80:].strip("._-")
    return kept or "demonstrations.hdf5"


# --- keeping ----------------------------------------------------------------------------------------------------------


def accept(service: Service, upload: Upload, caller: Caller, task: str | None) -> tuple[File, bool]:
    """Check an upload and keep it; return the file and whether it is new.

    The same content again is the same file. The upload is gone afterwards in any case.

    Raises:
        ServiceError: 403 the caller's quota is used up, 422 the file is not one of demonstrations.
    """
    name = shown_name(upload.texts.get("name") or upload.filename)
    canonical = upload.place.with_name(f"{upload.place.name}.hdf5")
    try:
        with service.database.reading() as session:
            if same := _same(session, upload.sha256):
                return same, False
            check_stored(session, caller, upload.bytes)
        verdict = service.sandbox.check(upload.place, canonical, name=name)
        if not verdict.ok:
            raise ServiceError(verdict.message, status=422, code=f"file_{verdict.code}", field="file", found=name)
        with service.files_lock:
            with service.database.transaction() as session:
                if same := _same(session, upload.sha256):
                    return same, False
            service.store.put(canonical, file_key(verdict.sha256))
            with service.database.transaction() as session:
                file = File(
                    id=jobs.new_id("file"),
                    sha256=upload.sha256,
                    name=name,
                    bytes=upload.bytes,
                    canonical_sha256=verdict.sha256,
                    task=task,
                    structure=dict(verdict.report),
                    key_id=caller.key_id,
                    created_at=now(session),
                )
                session.add(file)
                start_check(session, file)
            return file, True
    finally:
        upload.place.unlink(missing_ok=True)
        canonical.unlink(missing_ok=True)


def start_check(session: Session, file: File) -> None:
    """Have a worker look at a file: what it shows, and where its subtasks are."""
    file.status, file.error, file.checked_at = "checking", None, None
    session.add(file)
    session.flush()
    payload = {"sha256": file.canonical_sha256, "name": file.name, "task": file.task, "cuts": file.cuts}
    session.add(Unit(kind="check", file_id=file.id, remaining=1, payload=payload, created_at=now(session)))


def remove(service: Service, file_id: str) -> None:
    """Forget a file and remove its content, unless another file has the same.

    Raises:
        ServiceError: 404, 409 a job that has not ended uses it.
    """
    with service.files_lock:
        with service.database.transaction() as session:
            file = found(session, file_id)
            users = select(Job.id, Job.file_ids).where(col(Job.status).in_(jobs.ACTIVE))
            if using := [job_id for job_id, ids in session.exec(users).all() if file_id in ids]:
                raise ServiceError(
                    f"file {file.name} is used by {len(using)} job(s) that have not ended: {', '.join(using[:5])}",
                    status=409,
                    code="file_in_use",
                    field="file_id",
                    found=file_id,
                    allowed="a file that no active job uses; cancel the jobs first",
                )
            sha256 = file.canonical_sha256
            for unit in session.exec(select(Unit).where(Unit.file_id == file_id)):
                session.delete(unit)
            session.delete(file)
            session.flush()
            shared = session.exec(select(File.id).where(File.canonical_sha256 == sha256).limit(1)).first()
        if sha256 and shared is None:
            service.store.remove(file_key(sha256))


def found(session: Session, file_id: str, *, lock: bool = False) -> File:
    """Return a file. Raises ServiceError 404."""
    query = select(File).where(File.id == file_id)
    file = session.exec(query.with_for_update() if lock else query).first()
    if file is None:
        raise ServiceError(
            f"there is no file {file_id!r}", status=404, code="not_found", field="file_id", found=file_id
        )
    return file


def _same(session: Session, sha256: str) -> File | None:
    return session.exec(select(File).where(File.sha256 == sha256).limit(1)).first()
