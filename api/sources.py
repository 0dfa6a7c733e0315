"""Where a job's demonstrations come from: uploaded files, or those that the project ships with a task."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path

from sqlmodel import Session

from api.specs import SourceFile, source_from_json
from api.store import Store
from api.tables import File
from factory.durable import sha256_file
from factory.errors import ServiceError
from sim_tasks.catalog import family_of


def file_key(sha256: str) -> str:
    """Return where a canonical file of demonstrations lies in the store."""
    return f"files/{sha256}.hdf5"


def has_shipped(task: str) -> bool:
    """Tell whether demonstrations are shipped with a task."""
    return _seeds(task).is_file()


def shipped_source(store: Store, task: str) -> SourceFile:
    """Return the demonstrations shipped with a task; they are in the store afterwards.

    Raises:
        ServiceError: 422, there are none.
    """
    seeds = _seeds(task)
    if not seeds.is_file():
        raise ServiceError(
            f"no demonstrations are shipped with task {task!r}; upload some and name them in `files`",
            status=422,
            code="no_demonstrations",
            field="files",
            found=[],
            allowed="ids of files",
        )
    sha256 = _sha256(str(seeds))
    if not store.exists(file_key(sha256)):
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, seeds.name)
            shutil.copyfile(seeds, copy)
            store.put(copy, file_key(sha256))
    return SourceFile(name=seeds.name, sha256=sha256)


def distinct(name: str, sha256: str, taken: Sequence[str]) -> str:
    """Return a file's name among others: demos are known by it, so a second of one name carries part of its hash."""
    path = Path(name)
    return f"{path.stem}-{sha256[:8]}{path.suffix}" if path.stem in {Path(other).stem for other in taken} else name


def uploaded_sources(session: Session, file_ids: Sequence[str], task: str) -> tuple[SourceFile, ...]:
    """Return the sources that uploaded files are for a task, with the boundaries people have set in them.

    Raises:
        ServiceError: 422, one of them does not exist, cannot be used, or shows another task.
    """
    sources: list[SourceFile] = []
    for i, file_id in enumerate(file_ids):
        file = session.get(File, file_id)
        if file is None:
            raise _unfit(i, file_id, "unknown_file", f"there is no file {file_id!r}", "ids that GET /v1/files lists")
        if file.status == "refused":
            why = (file.error or {}).get("message", "")
            raise _unfit(i, file_id, "file_refused", f"file {file.name} cannot be used: {why}", "files that are ready")
        if file.status == "ready" and file.task and file.task != task:
            message = f"file {file.name} shows task {file.task!r}, the job is {task!r}"
            raise _unfit(i, file_id, "other_task", message, f"files that show {task!r}")
        name = distinct(file.name, file.canonical_sha256, [source.name for source in sources])
        sources.append(source_from_json({"name": name, "sha256": file.canonical_sha256, "cuts": file.cuts}))
    return tuple(sources)


def _unfit(position: int, found: str, code: str, message: str, allowed: str) -> ServiceError:
    return ServiceError(message, status=422, code=code, field=f"files.{position}", found=found, allowed=allowed)


def _seeds(task: str) -> Path:
    return Path(str(resources.files("sim_tasks") / "seeds" / f"{family_of(task)}.hdf5"))


@cache
def _sha256(path: str) -> str:
    return sha256_file(Path(path))
