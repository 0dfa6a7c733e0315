"""Where artefacts lie: a folder on this machine, or any place fsspec can write to (s3://bucket/prefix).

    files/<sha256>.hdf5                     canonical demonstrations
    jobs/<job>/shards/episode_<index>/      kept attempts, with their clips
    jobs/<job>/models/<sha256>.xml          scenes the executors compiled
    jobs/<job>/clips/<name>.mp4             failures drawn on demand
    datasets/<dataset>/                     finished datasets

A file is there entirely or not at all. A folder is so on a disk only: an interrupted upload to a remote store leaves a
part of it, and no listing tells. So nothing in the store counts because it is there: a shard counts when its attempt's
row exists, a dataset when its own does, and both rows are written after `put` has returned.
"""

from __future__ import annotations

import errno
import re
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from factory.durable import TMP, staging, sweep, sync_folder, sync_tree
from factory.errors import StorageError
from factory.failpoints import reached

_BLOCK = 1 << 20
_PART = re.compile(r"[^\x00-\x1f\x7f\\*?\[\]{}/]{1,240}")
"""What may stand between two slashes: fsspec takes *?[]{} for patterns, and would remove all that match.
The length leaves room for the name under which a file is prepared."""


class NotStoredError(StorageError):
    """The store works and has no such key; waiting will not help."""


class Store:
    """An open store. Keys are relative POSIX paths made by the service, never by callers."""

    def __init__(self, url: str | Path) -> None:
        """Open a store by URL or path; a missing local folder is made.

        Raises:
            StorageError: the protocol is unknown or not installed, or the folder cannot be made.
        """
        text = str(url)
        self.url = text
        self._root: Path | None = None
        self._remote: Any = None
        with _as_storage_error(f"opening store {text!r}"):
            if "://" not in text or text.startswith("file://"):
                self._root = Path(text.removeprefix("file://")).resolve()
                self._root.mkdir(parents=True, exist_ok=True)
                return
            import fsspec  # noqa: PLC0415 - a folder needs none of it

            self._remote, self._prefix = fsspec.core.url_to_fs(text, use_listings_cache=False)

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder that every worker of this machine sees."""
        return self._root is not None

    def path(self, key: str) -> Path | None:
        """Return where a key lies on this machine; None when the store is elsewhere."""
        return None if self._root is None else self._place(key)

    def exists(self, key: str) -> bool:
        """Tell whether there is a file or folder of this key.

        Raises:
            StorageError: the store does not answer.
        """
        with _as_storage_error(f"looking for {key} in {self.url}"):
            return self._place(key).exists() if self._root is not None else bool(self._remote.exists(self._key(key)))

    def size(self, key: str) -> int:
        """Return the bytes of a file.

        Raises:
            StorageError: there is no such file, or the store does not answer.
        """
        with _as_storage_error(f"looking for {key} in {self.url}"):
            if self._root is not None:
                place = self._place(key)
                size = place.stat().st_size if place.is_file() else None
            else:
                info = self._remote.info(self._key(key))
                size = int(info["size"]) if info["type"] == "file" else None
            if size is None:
                raise StorageError(f"{key} is not a file in the store {self.url}")
            return size

    def put(self, source: Path, key: str) -> None:
        """Move or upload a file or folder; complete and on the disk when this returns.

        What is there already is replaced: a file at once, a folder within a moment in which it is not there.

        Raises:
            StorageError: the store took it only in part or not at all.
        """
        with _as_storage_error(f"writing {key} to {self.url}"):
            if self._root is not None:
                place = self._place(key)
                if source.resolve() != place:
                    _move(source, place)
            elif source.is_file():
                self._remote.put_file(str(source), self._key(key))
            else:
                self._upload(source, self._key(key))

    def _upload(self, source: Path, remote: str) -> None:
        surplus = set(cast("list[str]", self._remote.find(remote)))
        for file in sorted(p for p in source.rglob("*") if p.is_file()):
            name = f"{remote}/{_checked(file.relative_to(source).as_posix())}"
            self._remote.put_file(str(file), name)
            surplus.discard(name)
        if surplus:
            self._remote.rm(sorted(surplus))

    @contextmanager
    def checkout(self, key: str) -> Generator[Path]:
        """Lend a local path with the content of a file or folder; read only, and gone afterwards where it was copied.

        Raises:
            StorageError: there is no such key, or it cannot be read.
        """
        if self._root is not None:
            place = self._place(key)
            if not place.exists():
                raise NotStoredError(f"{key} is not in the store {self.url}")
            yield place
            return
        with tempfile.TemporaryDirectory(prefix="factory-") as folder:
            place = Path(folder) / PurePosixPath(_checked(key)).name
            self.fetch(key, place)
            yield place

    def fetch(self, key: str, place: Path) -> None:
        """Copy a file or folder to a local path that does not exist yet; it exists when all of it is there.

        Raises:
            StorageError: there is no such key, or it cannot be read.
        """
        with _as_storage_error(f"reading {key} from {self.url}"), staging(place) as folder:
            staged = folder / place.name
            if self._root is not None:
                source = self._place(key)
                if not source.exists():
                    raise NotStoredError(f"{key} is not in the store {self.url}")
                shutil.copytree(source, staged) if source.is_dir() else shutil.copy2(source, staged)
            else:
                self._download(key, staged)
            staged.rename(place)

    def _download(self, key: str, place: Path) -> None:
        remote = self._key(key)
        if self._remote.isfile(remote):
            self._remote.get_file(remote, str(place))
            return
        names = cast("list[str]", self._remote.find(remote))
        if not names:
            raise NotStoredError(f"{key} is not in the store {self.url}")
        for name in names:
            # Others may write to the bucket: a name must not lead out of the folder.
            local = place / _checked(name.removeprefix(f"{remote}/"))
            local.parent.mkdir(parents=True, exist_ok=True)
            self._remote.get_file(name, str(local))

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of a file in blocks; as many as there are.

        Raises:
            StorageError: there is no such file, or it cannot be read to the end.
        """
        with _as_storage_error(f"reading {key} from {self.url}"):
            file: BinaryIO = (
                self._place(key).open("rb") if self._root is not None else self._remote.open(self._key(key), "rb")
            )
            with file:
                if getattr(file, "details", {}).get("type") == "directory":
                    raise StorageError(f"{key} is a folder in the store {self.url}, not a file")
                file.seek(start)
                left = None if stop is None else stop - start
                while left is None or left > 0:
                    block = file.read(_BLOCK if left is None else min(_BLOCK, left))
                    if not block:
                        return
                    left = None if left is None else left - len(block)
                    yield block

    def names(self, key: str) -> list[str]:
        """Return what lies directly in a folder, sorted; nothing when there is no such folder.

        Raises:
            StorageError: the store does not answer.
        """
        with _as_storage_error(f"listing {key} in {self.url}"):
            if self._root is not None:
                folder = self._place(key)
                return sorted(p.name for p in folder.iterdir() if not p.name.startswith(TMP)) if folder.is_dir() else []
            try:
                found = cast("list[str]", self._remote.ls(self._key(key), detail=False))
            except FileNotFoundError:
                return []
            # A file is listed as itself, and some tools leave an empty object in place of a folder.
            return sorted({PurePosixPath(name).name for name in found if name.rstrip("/") != self._key(key)})

    def remove(self, key: str) -> None:
        """Remove a file or folder; nothing happens when there is none.

        Raises:
            StorageError: some of it is still there.
        """
        with _as_storage_error(f"removing {key} from {self.url}"):
            if self._root is not None:
                place = self._place(key)
                shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
            elif self._remote.exists(self._key(key)):
                self._remote.rm(self._key(key), recursive=True)

    def sweep(self, key: str, *, older_s: float = 0.0) -> None:
        """Remove what writes left in a folder that were interrupted longer ago than anybody takes to write."""
        if self._root is not None and self._place(key).is_dir():
            sweep(self._place(key), before=time.time() - older_s)

    def free_bytes(self) -> int | None:
        """Return the room left on the disk; None for a remote store."""
        return shutil.disk_usage(self._root).free if self._root is not None else None

    def whole_bytes(self) -> int | None:
        """Return the size of the disk; None for a remote store."""
        return shutil.disk_usage(self._root).total if self._root is not None else None

    def _place(self, key: str) -> Path:
        return cast("Path", self._root) / _checked(key)

    def _key(self, key: str) -> str:
        return f"{str(self._prefix).rstrip('/')}/{_checked(key)}"


def _checked(key: str) -> str:
    """Return a key that means the same everywhere. Raises StorageError for any other."""
    for part in key.split("/"):
        if part in (".", "..") or not _PART.fullmatch(part):
            raise StorageError(f"{key!r} is not a key of the store; expected names parted by single slashes")
    return key


def _move(source: Path, place: Path) -> None:
    """Bring a file or folder to its place and to the disk, from another disk too."""
    with staging(place) as folder:
        staged = folder / place.name
        try:
            source.rename(staged)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            shutil.copytree(source, staged) if source.is_dir() else shutil.copy2(source, staged)
        sync_tree(folder)
        reached("store.staged")
        if place.is_dir() or (place.exists() and staged.is_dir()):
            place.rename(folder / f"{TMP}before")
        staged.replace(place)
        reached("store.placed")
        sync_folder(place.parent)


@contextmanager
def _as_storage_error(what: str) -> Generator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # each of fsspec's implementations raises what its service's client raises
        raise StorageError(f"{what} failed: {error}") from error
