"""Machine code that is made once per machine and kept until anything it was made of changes."""

# pyright: basic
from __future__ import annotations

import fcntl
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_SOURCES = ("compiling.py", "control_laws.py", "compiled_path.py", "libmujoco.py")
_PACKAGES = ("numba", "llvmlite", "numpy", "mujoco", "robosuite")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function without Python objects and without holding the interpreter's lock; division as in C.

    numba keeps machine code per source file and does not notice when a function it calls has changed in another. So
    the folder it keeps code in is named by all files and packages that go into it.
    """
    import numba  # noqa: PLC0415 - who only asks whether there is machine code need not load a compiler
    from numba.core import config  # noqa: PLC0415

    settings: Any = config
    before, settings.CACHE_DIR = settings.CACHE_DIR, str(code_folder())
    try:
        return numba.njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        settings.CACHE_DIR = before


@contextmanager
def compiling_once() -> Iterator[None]:
    """Where nothing is compiled yet, let one process of this machine do it while the others wait and then read it."""
    if is_compiled():
        yield
        return
    try:
        code_folder().mkdir(parents=True, exist_ok=True)
        lock = (code_folder() / "lock").open("w")
    except OSError:  # nothing can be kept, so there is nothing to wait for
        yield
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back by the kernel however this process ends
        yield


def is_compiled() -> bool:
    """Whether the control path of this version has been compiled on this machine before."""
    return any(code_folder().glob("*/compiled_path.run_block-*.nbc"))


@functools.cache
def code_folder() -> Path:
    """Return where this version's machine code is kept: in `FACTORY_CACHE_DIR` or the user's cache folder."""
    here = Path(__file__).parent
    facts = [hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _SOURCES]
    facts += [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    return cache_folder() / "machine-code" / hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Return the folder for what can be made again: `FACTORY_CACHE_DIR`, else the user's cache folder."""
    chosen = os.environ.get("FACTORY_CACHE_DIR")
    if chosen:
        return Path(chosen)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trajectory-factory"
