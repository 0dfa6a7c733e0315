"""Files that are there entirely or not at all, also after a power cut.

A folder is prepared under a `.tmp-` name beside its place, every file and the folder are synced, and one rename makes
it exist. Whatever still carries a `.tmp-` name is garbage of an interrupted write.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from factory.failpoints import reached

TMP = ".tmp-"


def json_bytes(value: Any) -> bytes:
    """Return the one byte string of a JSON value: sorted keys, no blanks, floats that read back exactly.

    Raises ValueError on NaN or infinity and TypeError on what JSON cannot hold.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def seal(document: Any) -> bytes:
    """Return the bytes of a JSON file that knows its own hash: {"document": ..., "sha256": ...}."""
    return json_bytes({"document": document, "sha256": hashlib.sha256(json_bytes(document)).hexdigest()}) + b"\n"


def unseal(content: bytes) -> Any:
    """Return the document of a sealed file. Raises ValueError when a byte of it is not what was written."""
    try:
        sealed = json.loads(content)
        document = sealed["document"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"it is not a sealed JSON file ({error})") from error
    if seal(document) != content:
        raise ValueError("its content does not have the SHA-256 it carries")
    return document


def make_parent(path: Path) -> Path:
    """Make the folder that `path` lies in, and return `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people to read. Raises like `json_bytes`."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    make_parent(path).write_text(text + "\n", encoding="utf-8")


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(folder: Path) -> None:
    """Force every file and directory below `folder`, and `folder` itself, to the disk."""
    for parent, _, files in os.walk(folder, topdown=False):
        for name in files:
            _sync(Path(parent, name))
        _sync(Path(parent))


def rename_into_place(staged: Path, place: Path) -> bool:
    """Commit a staged folder; False, with the staged folder removed, when `place` already exists and is not empty."""
    reached("durable.written")
    sync_tree(staged)
    staged.chmod(0o755)  # mkdtemp makes folders that only their owner can read
    reached("durable.synced")
    try:
        staged.rename(place)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        shutil.rmtree(staged)
        return False
    reached("durable.renamed")
    sync_folder(place.parent)
    return True


@contextmanager
def staging(place: Path) -> Generator[Path]:
    """Lend an empty `.tmp-` folder beside `place`; it is gone afterwards unless it was renamed into place."""
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{TMP}{place.name}-", dir=place.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path, *, before: float = math.inf) -> list[str]:
    """Remove what interrupted writes left directly below `root` and in its folders; return the names removed.

    Call it when nobody is writing there, for a live writer's folder looks the same; or name a time `before` which
    every live writer has begun, seconds since 1970.
    """
    found = [*root.glob(f"{TMP}*"), *root.glob(f"*/{TMP}*")]
    garbage = [path for path in found if path.lstat().st_mtime < before]
    for path in garbage:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return sorted(str(path.relative_to(root)) for path in garbage)


def sweep_place(place: Path) -> None:
    """Remove what interrupted writes of one file or folder left beside it. Call it when nobody is writing it."""
    ours = re.compile(rf"{re.escape(TMP)}{re.escape(place.name)}-[a-z0-9_]{{8}}")  # as `mkdtemp` ends names
    for path in place.parent.glob(f"{TMP}*"):
        if ours.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Force a directory to the disk: which names it has, not what the files hold."""
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
