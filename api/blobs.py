"""Files that workers send from afar: in parts, under the hash of their content, in the work area of one job.

    <data>/blobs/<job>/<sha256>.part     what has arrived of a file
    <data>/blobs/<job>/<sha256>          all of it, and it has that hash

A file means nothing by itself. A shard is put together when its attempt is committed: the hash in the answer is that of
the shard's document, and the document names the hashes of the other files. So what is in the store is, byte for byte,
what the worker said it had made, or nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlmodel import col, select

from api import jobs
from api.context import Service
from api.specs import JobSpec
from api.tables import Job
from factory.durable import rename_into_place, sha256_file, staging, unseal
from factory.episodes import CLIPS_FILE, COLUMNS_FILE, EPISODE_FILE, STATES_FILE, render_digest, shard_path
from factory.errors import ServiceError

_PART = ".part"
_MOST_DOCUMENT = 32 << 20
"""A shard's document is a few hundred kilobytes; a larger one is not read into memory."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}\.(mp4|parquet)")


def area(service: Service, job_id: str) -> Path:
    """Return where the files sent for a job are gathered."""
    return service.settings.data / "blobs" / job_id


def shard_key(job_id: str, index: int) -> str:
    """Return where an attempt's shard lies in the store."""
    return f"jobs/{job_id}/shards/{shard_path(Path(), index).name}"


def model_key(job_id: str, sha256: str) -> str:
    """Return where a scene that a job's executors compiled lies in the store."""
    return f"jobs/{job_id}/models/{sha256}.xml"


# --- parts ------------------------------------------------------------------------------------------------------------


def arrived(folder: Path, sha256: str) -> tuple[int, bool]:
    """Return how many bytes of a file are there, and whether that is all of it."""
    with suppress(FileNotFoundError):
        return (folder / sha256).stat().st_size, True
    with suppress(FileNotFoundError):
        return (folder / f"{sha256}{_PART}").stat().st_size, False
    return 0, False


def append(service: Service, job_id: str, sha256: str, *, start: int, whole: int, content: bytes) -> tuple[int, bool]:
    """Add a part to a file and return what `arrived` does; sending again what is there changes nothing.

    Args:
        service: the service.
        job_id: whose file it is.
        sha256: of the whole file.
        start: where in the file the part begins.
        whole: bytes of the whole file.
        content: the part.

    Raises:
        ServiceError: 409 the part does not begin where the file ends so far, 413 the file is too large, 422 it is
            whole and has another hash; it is gone then, 507 the disk is full.
    """
    if whole > service.settings.max_upload_bytes:
        limit = service.settings.max_upload_bytes
        raise _wrong(413, "file_too_large", f"the file has {whole} bytes; at most {limit} are taken", whole, limit)
    folder = area(service, job_id)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free - len(content) < service.settings.min_free_bytes:
        raise _wrong(507, "storage_low", "the service's disk has no room for more at the moment", free)
    part = folder / f"{sha256}{_PART}"
    with _locked(part) as file:
        there, complete = arrived(folder, sha256)
        if complete or (start + len(content) <= there < whole):
            return there, complete
        if start > there:
            message = f"{there} bytes of {sha256[:12]} are here; the next part begins there and not at {start}"
            raise _wrong(409, "wrong_offset", message, there, there)
        # A process that was killed may have written some of a part, or all of it and not come to the end.
        file.seek(there)
        file.write(content[there - start :])
        file.flush()
        if start + len(content) < whole:
            return start + len(content), False
        os.fsync(file.fileno())
        if (found := sha256_file(part)) != sha256:
            part.unlink()
            message = f"the file has SHA-256 {found} and not the {sha256} it was sent under; it was thrown away"
            raise _wrong(422, "wrong_hash", message, found, sha256)
        part.replace(folder / sha256)
        return whole, True


@contextmanager
def _locked(part: Path) -> Generator[Any]:
    """Lend a part alone: a request that was given up may still be writing when it is sent again."""
    while True:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file.fileno()), part.stat())
            except FileNotFoundError:
                same = False  # finished or thrown away while we waited
            if not same:
                continue
            try:
                yield file
            finally:
                if os.fstat(file.fileno()).st_size == 0:
                    part.unlink(missing_ok=True)
            return


def _wrong(status: int, code: str, message: str, found: object, allowed: object = None) -> ServiceError:
    return ServiceError(message, status=status, code=code, field="blob", found=found, allowed=allowed)


# --- into the store ---------------------------------------------------------------------------------------------------


def place_model(service: Service, job_id: str, sha256: str) -> None:
    """Put a scene into the store, once. Raises ServiceError 409 `missing_blobs` when it has not been sent."""
    key = model_key(job_id, _hash(sha256))
    if service.store.exists(key):
        return
    _all_there(service, job_id, [sha256])
    service.store.put(area(service, job_id) / sha256, key)


def place_shard(
    service: Service, job_id: str, index: int, sha256: str, *, success: bool, ours: Callable[[], bool]
) -> None:
    """Put an attempt's shard into the store; nothing happens when it is there.

    Args:
        service: the service.
        job_id: whose attempt it is.
        index: of the attempt.
        sha256: of the shard's document.
        success: how the attempt is said to have ended.
        ours: whether the lease still holds, asked before another shard in its place is removed.

    Raises:
        ServiceError: 409 `missing_blobs` names what has not been sent, 422 it is no shard of this attempt.
    """
    document = _document(service, job_id, sha256, shard_key(job_id, index), EPISODE_FILE)
    if document is None:
        return
    files = document.get("files")
    if not isinstance(files, dict) or set(files) != {COLUMNS_FILE, STATES_FILE}:
        raise _no_shard(f"shard {index} names other files than {COLUMNS_FILE} and {STATES_FILE}")
    if (document.get("index"), document.get("success")) != (index, success):
        said = f"attempt {document.get('index')}, success {document.get('success')}"
        raise _no_shard(f"the shard is that of {said}; the answer says attempt {index}, success {success}")
    _place(service, job_id, shard_key(job_id, index), {EPISODE_FILE: sha256, **files}, ours)


def place_clips(
    service: Service, job_id: str, index: int, sha256: str, *, spec: JobSpec, ours: Callable[[], bool]
) -> None:
    """Put the pictures of an episode into its shard; arguments and errors as of `place_shard`."""
    document = _document(service, job_id, sha256, "", CLIPS_FILE)
    if document is None:
        return
    asked: dict[str, Any] = json.loads(json.dumps(asdict(spec.render))) if spec.render is not None else {}
    render = document.get("render")
    if not isinstance(render, dict) or not render or any(asked.get(name) != said for name, said in render.items()):
        raise _no_shard(f"the pictures of episode {index} are not drawn as the job asks for")
    key = f"{shard_key(job_id, index)}/clips-{render_digest(render)}"
    entries = [*document.get("cameras", {}).values(), *document.get("extras", {}).get("files", [])]
    files = {str(entry["file"]): str(entry["sha256"]) for entry in entries}
    if wrong := [name for name in files if not _NAME.fullmatch(name)]:
        raise _no_shard(f"{wrong[0]!r} is not the name of a clip")
    if service.store.exists(f"{key}/{CLIPS_FILE}"):
        return
    _place(service, job_id, key, {CLIPS_FILE: sha256, **files}, ours)


def _document(service: Service, job_id: str, sha256: str, key: str, name: str) -> dict[str, Any] | None:
    """Return a sealed document that was sent; None when it is in the store already, under its key and name."""
    if key and _stored_hash(service, f"{key}/{name}") == sha256:
        return None
    _all_there(service, job_id, [sha256])
    blob = area(service, job_id) / sha256
    if blob.stat().st_size > _MOST_DOCUMENT:
        raise _no_shard(f"{name} has {blob.stat().st_size} bytes; at most {_MOST_DOCUMENT} are read")
    try:
        document = unseal(blob.read_bytes())
    except (ValueError, RecursionError) as error:
        raise _no_shard(f"{name} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise _no_shard(f"{name} is not an object")
    return document


def _stored_hash(service: Service, key: str) -> str:
    if not service.store.exists(key):
        return ""
    hasher = hashlib.sha256()
    for block in service.store.read(key):
        hasher.update(block)
    return hasher.hexdigest()


def _place(service: Service, job_id: str, key: str, files: Mapping[str, str], ours: Callable[[], bool]) -> None:
    _all_there(service, job_id, list(files.values()))
    folder, place = area(service, job_id), service.store.path(key)
    while True:
        with staging(place or folder / "shard") as staged:
            for name, sha256 in files.items():
                _copy(folder / sha256, staged / name)
            if place is None:
                service.store.put(staged, key)
            elif not rename_into_place(staged, place):
                # Another one of this index lies there without a row: its worker died, or was refused. While the lease
                # is ours nobody can have committed it.
                if not ours():
                    return
                shutil.rmtree(place, ignore_errors=True)
                continue
        break
    for sha256 in files.values():
        (folder / sha256).unlink(missing_ok=True)


def _copy(blob: Path, place: Path) -> None:
    try:
        os.link(blob, place)
    except FileNotFoundError as error:
        raise _missing([blob.name]) from error
    except OSError:  # the store is on another disk
        shutil.copyfile(blob, place)


def _all_there(service: Service, job_id: str, hashes: Sequence[str]) -> None:
    folder = area(service, job_id)
    if missing := [sha256 for sha256 in hashes if not arrived(folder, _hash(sha256))[1]]:
        raise _missing(missing)


def _hash(text: object) -> str:
    if not isinstance(text, str) or not re.fullmatch(r"[0-9a-f]{64}", text):
        raise _no_shard(f"{str(text)[:80]!r} is not a SHA-256")
    return text


def _missing(hashes: list[str]) -> ServiceError:
    message = f"{len(hashes)} file(s) that the answer refers to have not been sent: {hashes[0][:12]}, ..."
    return _wrong(409, "missing_blobs", message, hashes)


def _no_shard(message: str) -> ServiceError:
    return ServiceError(message, status=422, code="bad_shard", field="shard_sha256")


def sweep(service: Service) -> None:
    """Remove what was sent for jobs that have ended."""
    root = service.settings.data / "blobs"
    there = [path.name for path in root.iterdir()] if root.is_dir() else []
    if not there:
        return
    with service.database.reading() as session:
        alive = set(session.exec(select(Job.id).where(col(Job.id).in_(there), col(Job.status).not_in(jobs.FINAL))))
    for name in there:
        if name not in alive:
            shutil.rmtree(root / name, ignore_errors=True)
