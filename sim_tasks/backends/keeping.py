"""What takes long to make and can always be made again: kept on disk, sealed, and never trusted.

Things have names ("meshes/4f1c...") and are bytes. What is made goes to the cache folder. What is asked for is looked
for there, then in the warm folder, which `factory warm` has filled before and nobody writes to: an image carries one. A
file that is missing, damaged or cannot be written costs the time of making its content again, nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

_SEAL_BYTES = hashlib.sha256().digest_size


def cache_folder() -> Path:
    """Return the folder for what can be made again: `FACTORY_CACHE_DIR`, else the user's cache folder."""
    chosen = os.environ.get("FACTORY_CACHE_DIR")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trajectory-factory"


def warm_folder() -> Path | None:
    """Return the folder that is read and never written, `FACTORY_WARM_DIR`; None where there is none."""
    chosen = os.environ.get("FACTORY_WARM_DIR")
    return Path(chosen) if chosen else None


def folders() -> tuple[Path, ...]:
    """Return where things are looked for, in this order."""
    warm = warm_folder()
    return (cache_folder(),) if warm is None else (cache_folder(), warm)


def recall(name: str) -> bytes | None:
    """Return what was kept under a name, or None; what is not what was written counts as not there."""
    for folder in folders():
        with suppress(OSError):
            found = (folder / name).read_bytes()
            seal, content = found[:_SEAL_BYTES], found[_SEAL_BYTES:]
            if hashlib.sha256(content).digest() == seal:
                return content
    return None


def keep(name: str, content: bytes) -> bool:
    """Keep bytes under a name in the cache folder; False when the disk refuses, which is no obstacle."""
    place = cache_folder() / name
    mine = place.with_name(f"{place.name}.{os.getpid()}.tmp")  # others may write the same: the last rename wins
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        mine.write_bytes(hashlib.sha256(content).digest() + content)
        mine.replace(place)
    except OSError:
        with suppress(OSError):
            mine.unlink(missing_ok=True)
        return False
    return True


@contextmanager
def alone(name: str) -> Generator[None]:
    """Let one process of this machine at a time make what belongs below a name; where nothing can be kept, all may."""
    try:
        (cache_folder() / name).mkdir(parents=True, exist_ok=True)
        lock = (cache_folder() / name / "lock").open("w")
    except OSError:
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the kernel however this process ends
        yield
