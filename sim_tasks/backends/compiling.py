"""Machine code that is made once per machine and kept until anything it was made of changes."""

# pyright: basic
from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sim_tasks.backends import keeping
from sim_tasks.backends.fingerprint import runtime

_SOURCES = ("control_laws.py", "compiled_path.py", "libmujoco.py")
_OPTIONS = {"nogil": True, "error_model": "numpy"}
_PACKAGES = ("numba", "llvmlite", "numpy", "mujoco", "robosuite")
_WHOLE = "compiled_path.run_block"
"""The function that all others are part of."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function without Python objects and without holding the interpreter's lock; division as in C.

    numba's own cache keeps machine code per source file and does not notice when a function it calls has changed in
    another; it also wants a folder it can write to, and believes what it reads. `KeptCode` takes its place.
    """
    import numba  # noqa: PLC0415 - who only asks whether there is machine code need not load a compiler

    dispatcher: Any = numba.njit(**_OPTIONS)(function)
    dispatcher._cache = KeptCode(function)  # noqa: SLF001 - what `cache=True` sets, to a cache of numba's choice
    return dispatcher


class KeptCode:
    """What numba asks before it compiles a function, and tells afterwards.

    One sealed file per function with the file it is written in, signature and CPU, in the folder named by everything
    else that goes into it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        self._source = hashlib.sha256(Path(function.__code__.co_filename).read_bytes()).hexdigest()

    @property
    def cache_path(self) -> str:
        """Where code is kept; numba shows it in a function's `stats`."""
        return str(code_folder())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Return what was compiled for these types on this CPU, or None."""
        from numba.core.compiler import CompileResult  # noqa: PLC0415 - see `compiled`

        target_context.refresh()
        content = keeping.recall(self._place(sig, target_context.codegen()))
        if content is None:
            return None
        return CompileResult._rebuild(target_context, *pickle.loads(content))  # noqa: S301, SLF001 - sealed, and ours

    def save_overload(self, sig: Any, cres: Any) -> None:
        """Keep what was compiled, unless it holds addresses of this process."""
        from numba.core.serialize import dumps  # noqa: PLC0415 - see `compiled`

        if not cres.library.has_dynamic_globals and not cres.lifted:
            keeping.keep(self._place(sig, cres.codegen), dumps(cres._reduce()))  # noqa: SLF001

    def _place(self, sig: Any, codegen: Any) -> str:
        made_for = hashlib.sha256(repr((self._source, sig, codegen.magic_tuple())).encode()).hexdigest()[:16]
        return f"{_code()}/{self._name}-{made_for}"


@contextmanager
def compiling_once() -> Iterator[None]:
    """Where nothing is compiled yet, let one process of this machine do it while the others wait and then read it."""
    if is_compiled():
        yield
        return
    with keeping.alone(_code()):
        yield


def is_compiled() -> bool:
    """Whether the control path of this version has been compiled before, for a CPU with this one's features."""
    return any(
        place for folder in keeping.folders() for place in (folder / _code()).glob(f"{_WHOLE}-" + 16 * "[0-9a-f]")
    )


def code_folder() -> Path:
    """Return where this version's machine code for this kind of CPU is kept."""
    return keeping.cache_folder() / _code()


@functools.cache
def _code() -> str:
    here = Path(__file__).parent
    facts = [hashlib.sha256((here / name).read_bytes()).hexdigest() for name in _SOURCES]
    facts += [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    facts += [repr(_OPTIONS), runtime()["python"], runtime()["cpu_features"]]
    return "machine-code/" + hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]
