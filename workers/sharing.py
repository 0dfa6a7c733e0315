"""A folder in which several runs of one command may work at once; whoever is last removes it."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

_LOCK = "lock"


@contextmanager
def shared(folder: Path) -> Generator[Callable[[], None]]:
    """Make a folder and hold it with others; lends a function that removes it unless somebody else holds it too.

    A process that dies lets go.
    """
    held = _hold(folder)

    def remove() -> None:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # this lets go of it too, so of two that try at once one succeeds
        if _is_there(held, folder):
            shutil.rmtree(folder, ignore_errors=True)

    try:
        yield remove
    finally:
        os.close(held)


def _hold(folder: Path) -> int:
    """Return an open lock in a folder that nobody has removed."""
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            held = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            continue  # removed this very moment
        fcntl.flock(held, fcntl.LOCK_SH)  # waits for somebody who removes it
        if _is_there(held, folder):
            return held
        os.close(held)


def _is_there(held: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(held), (folder / _LOCK).stat())
    except FileNotFoundError:
        return False
