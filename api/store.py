"""Where artefacts lie: a folder on this machine, or any place fsspec can write to (s3://bucket/prefix).

    files/<sha256>.hdf5                     canonical demonstrations
    jobs/<job>/shards/episode_<index>/      kept attempts, with their clips
    jobs/<job>/models/<sha256>.xml          scenes the executors compiled
    jobs/<job>/clips/<name>.mp4             failures drawn on demand
    datasets/<dataset>/                     finished datasets

A folder in the store is written once and then only added to; whether it counts is decided by the job book.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from factory.durable import TMP, sweep
from factory.errors import StorageError

_BLOCK = 1 << 20


class Store:
    """An open store. Keys are relative POSIX paths made by the service, never by callers."""

    def __init__(self, url: str | Path) -> None:
        """Open a store by URL or path; a missing local folder is made.

        Raises:
            StorageError: the protocol is unknown or not installed.
        """
        text = str(url)
        self.url = text
        self._root: Path | None = None
        self._remote: Any = None
        if "://" not in text or text.startswith("file://"):
            self._root = Path(text.removeprefix("file://")).resolve()
            self._root.mkdir(parents=True, exist_ok=True)
            return
        import fsspec  # noqa: PLC0415 - a folder needs none of it

        try:
            self._remote, self._prefix = fsspec.core.url_to_fs(text, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise StorageError(f"store {text!r} cannot be opened: {error}") from error

    @property
    def is_local(self) -> bool:
        """Whether the store is a folder that every worker of this machine sees."""
        return self._root is not None

    def path(self, key: str) -> Path | None:
        """Return where a key lies on this machine; None when the store is elsewhere."""
        return None if self._root is None else self._root / _checked(key)

    def exists(self, key: str) -> bool:
        """Tell whether there is a file or folder of this key."""
        if self._root is not None:
            return (self._root / _checked(key)).exists()
        return bool(self._remote.exists(self._key(key)))

    def put(self, source: Path, key: str) -> None:
        """Move or upload a file or folder; complete when this returns. What is there already is replaced.

        Raises:
            StorageError: the store took it only in part or not at all.
        """
        if self._root is not None:
            place = self._root / _checked(key)
            if source.resolve() == place:
                return
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place) if place.is_dir() else place.unlink(missing_ok=True)
            try:
                source.rename(place)
            except OSError:  # on another disk
                staged = place.with_name(f"{TMP}{place.name}")
                shutil.copytree(source, staged) if source.is_dir() else shutil.copy2(source, staged)
                staged.rename(place)
            return
        with _as_storage_error(f"writing {key} to {self.url}"):
            if source.is_file():
                self._remote.put_file(str(source), self._key(key))
                return
            for file in sorted(p for p in source.rglob("*") if p.is_file()):
                self._remote.put_file(str(file), f"{self._key(key)}/{file.relative_to(source).as_posix()}")

    @contextmanager
    def checkout(self, key: str) -> Generator[Path]:
        """Lend a local path with the content of a file or folder; read only, and gone afterwards where it was copied.

        Raises:
            StorageError: there is no such key, or it cannot be read.
        """
        if self._root is not None:
            place = self._root / _checked(key)
            if not place.exists():
                raise StorageError(f"{key} is not in the store {self.url}")
            yield place
            return
        with tempfile.TemporaryDirectory(prefix="factory-") as folder:
            place = Path(folder) / PurePosixPath(key).name
            self.fetch(key, place)
            yield place

    def fetch(self, key: str, place: Path) -> None:
        """Copy a file or folder to a local path that does not exist yet.

        Raises:
            StorageError: there is no such key, or it cannot be read.
        """
        if self._root is not None:
            source = self._root / _checked(key)
            if not source.exists():
                raise StorageError(f"{key} is not in the store {self.url}")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, place) if source.is_dir() else shutil.copy2(source, place)
            return
        with _as_storage_error(f"reading {key} from {self.url}"):
            remote = self._key(key)
            if self._remote.isfile(remote):
                place.parent.mkdir(parents=True, exist_ok=True)
                self._remote.get_file(remote, str(place))
                return
            names = cast("list[str]", self._remote.find(remote))
            if not names:
                raise StorageError(f"{key} is not in the store {self.url}")
            for name in names:
                local = place / PurePosixPath(name).relative_to(PurePosixPath(remote))
                local.parent.mkdir(parents=True, exist_ok=True)
                self._remote.get_file(name, str(local))

    def read(self, key: str, *, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes [start, stop) of a file in blocks.

        Raises:
            StorageError: there is no such file.
        """
        try:
            file: BinaryIO = (
                (self._root / _checked(key)).open("rb")
                if self._root is not None
                else self._remote.open(self._key(key), "rb")
            )
        except OSError as error:
            raise StorageError(f"{key} is not in the store {self.url} ({error})") from error
        with file:
            file.seek(start)
            left = None if stop is None else stop - start
            while left is None or left > 0:
                block = file.read(_BLOCK if left is None else min(_BLOCK, left))
                if not block:
                    return
                left = None if left is None else left - len(block)
                yield block

    def names(self, key: str) -> list[str]:
        """Return what lies directly in a folder, sorted; nothing when there is no such folder."""
        if self._root is not None:
            folder = self._root / _checked(key)
            return sorted(p.name for p in folder.iterdir() if not p.name.startswith(TMP)) if folder.is_dir() else []
        if not self._remote.exists(self._key(key)):
            return []
        return sorted(PurePosixPath(name).name for name in self._remote.ls(self._key(key), detail=False))

    def remove(self, key: str) -> None:
        """Remove a file or folder; nothing happens when there is none."""
        if self._root is not None:
            place = self._root / _checked(key)
            shutil.rmtree(place, ignore_errors=True) if place.is_dir() else place.unlink(missing_ok=True)
        elif self._remote.exists(self._key(key)):
            self._remote.rm(self._key(key), recursive=True)

    def sweep(self, key: str) -> None:
        """Remove what interrupted writes left in a folder that nobody writes to now."""
        if self._root is not None and (self._root / _checked(key)).is_dir():
            sweep(self._root / _checked(key))

    def free_bytes(self) -> int | None:
        """Return the room left on the disk; None for a remote store."""
        return shutil.disk_usage(self._root).free if self._root is not None else None

    def _key(self, key: str) -> str:
        return f"{str(self._prefix).rstrip('/')}/{_checked(key)}"


def _checked(key: str) -> str:
    parts = PurePosixPath(key).parts
    if not parts or key.startswith("/") or ".." in parts:
        raise StorageError(f"{key!r} is not a key of the store")
    return key


@contextmanager
def _as_storage_error(what: str) -> Generator[None]:
    try:
        yield
    except StorageError:
        raise
    except Exception as error:  # each of fsspec's implementations raises what its service's client raises
        raise StorageError(f"{what} failed: {error}") from error
