"""The sandbox: every uploaded file is opened by a process that can do nothing else.

HDF5 follows links to any file of the server, loads code, and its library has memory errors, so this process reads of
an upload only the first eight bytes. The rest happens in a fork of a warm child (`api.zygote`) that holds nothing but
the upload, the canonical file to be written and a pipe. Whatever becomes of the fork becomes a `Verdict`.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import select
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypedDict

from factory.durable import sha256_file, staging, sync_tree

ACCEPTED = "an HDF5 file of demonstrations as robosuite, robomimic, MimicGen, Isaac Lab Mimic or this project write it"
CODES = ("ok", "refused", "unreadable", "too_slow", "too_large", "crashed")

_HDF5 = b"\x89HDF\r\n\x1a\n"
_KINDS = (
    (b"PK", "a zip archive (NumPy's .npz and PyTorch's .pt are such)"),
    (b"\x80", "a Python pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"PAR1", "a Parquet file"),
    (b"<", "XML"),
)
_REPORT_BYTES, _STATUS_BYTES = 1 << 20, 4096
_CPU_S, _CPU_BYTES_PER_S = 1.0, 16 << 20
"""A 61 MiB file of float64 took 2 s of the 4.8 s that it gets; a small file that spins ends after one."""
_GRACE_S = 5.0
"""Beyond the wall limit, which the child enforces: then the child itself is stuck."""
_START_S = 60.0
_NO_MEMORY = 71
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",  # a process that forks may have one thread only
    "HDF5_PLUGIN_PRELOAD": "::",  # HDF5's word for "load no plugins"
}
_ROOT = str(Path(__file__).resolve().parents[1])
_PROGRAM = "import sys; sys.path.append(sys.argv[1]); from api.zygote import main; main()"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What became of an upload.

    Attributes:
        ok: the canonical file has been written.
        code: one of `CODES`. "refused": not an accepted file; "unreadable": damaged; "too_slow" and "too_large":
            more time, memory or room than a check gets; "crashed": the process died of the file.
        message: a sentence for a person, printable; empty when ok.
        report: {"format", "environment", "control_hz" or None, "demos": [{"name", "steps", "states", "signals"}]},
            with texts as the file has them, made printable; empty unless ok.
        sha256: of the canonical file; equal uploads give equal files, whatever they are called.
        size_bytes: of the canonical file.
        seconds: from the fork to its end; `cpu_seconds` of them on a processor.
        peak_rss_bytes: most memory that the fork held.
    """

    ok: bool
    code: str
    message: str = ""
    report: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    sha256: str = ""
    size_bytes: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class _Zygote:
    """The warm child, and our end of the socket on which it takes orders."""

    process: subprocess.Popen[bytes]
    control: socket.socket
    landlock: int

    def stop(self) -> None:
        """End the child and every fork of it."""
        self.control.close()  # which is all that a sound child needs
        try:
            self.process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """How a fork ended, as the warm child saw it, and what the fork said."""

    signal: int
    exit: int
    late: bool
    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    said: bytes


_LOST = _Ending(signal=signal.SIGKILL, exit=0, late=False, seconds=0.0, cpu_seconds=0.0, peak_rss_bytes=0, said=b"")


class _Used(TypedDict):
    """What a check cost."""

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int


class _LostError(Exception):
    """The warm child is gone; nothing is known about the file."""


class Sandbox:
    """Checks uploads, a few at once; holds a warm child from the first check to `close`. Any thread may call it.

    Args:
        concurrency: checks at once; the others wait.
        timeout_s: wall time of one check.
    """

    def __init__(self, *, concurrency: int = 2, timeout_s: float = 10.0) -> None:
        self._turn = threading.BoundedSemaphore(concurrency)
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._zygote: _Zygote | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the child and every running check; calling it twice does no harm."""
        with self._lock:
            self._closed = True
            zygote, self._zygote = self._zygote, None
        if zygote:
            zygote.stop()

    @property
    def level(self) -> str:
        """What confines a check on this machine: tried out, not assumed. Starts the child if it is not running."""
        abi = self._warm().landlock
        return f"landlock abi {abi}" if abi else "no landlock: rlimits only"

    def check(self, upload: Path, canonical: Path, *, name: str) -> Verdict:
        """Check an upload; when it is good, `canonical` appears, whole, holding the same in the project's own format.

        The upload may hold anything. `name` is what messages call it; it may be anything too.

        Raises:
            OSError: the upload cannot be opened or the canonical file not be written: no fault of the file.
            RuntimeError: the sandbox is closed or its child does not start.
        """
        name = _shown_name(name)
        with self._turn:
            source = os.open(upload, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                refusal = _refusal(source, name)
                return refusal or self._checked(source, canonical, name)
            finally:
                os.close(source)

    def _checked(self, source: int, canonical: Path, name: str) -> Verdict:
        with staging(canonical) as folder:
            staged = folder / canonical.name
            target = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                ending = self._patiently_asked(source, target, name)
            finally:
                os.close(target)
            verdict = _verdict(ending, name)
            if verdict.ok:
                sync_tree(folder)
                sha256, size_bytes = sha256_file(staged), staged.stat().st_size
                staged.replace(canonical)
                _sync_folder(canonical.parent)
                return replace(verdict, sha256=sha256, size_bytes=size_bytes)
            return verdict

    # ---- talking to the child ----

    def _patiently_asked(self, source: int, target: int, name: str) -> _Ending:
        """Ask; when the child is lost on the way, ask a new one once."""
        for last in (False, True):
            zygote = self._warm()
            try:
                return self._asked(zygote, source, target, name)
            except _LostError:
                self._forget(zygote)
                if last:
                    return _LOST
                os.ftruncate(target, 0)
                os.lseek(target, 0, os.SEEK_SET)
        raise AssertionError("unreachable")

    def _asked(self, zygote: _Zygote, source: int, target: int, name: str) -> _Ending:
        job = {"name": name, "wall_s": self._timeout_s, "cpu_s": self._cpu_s(os.fstat(source).st_size)}
        report, report_end = os.pipe()
        status, status_end = os.pipe()
        try:
            try:
                fds = [source, target, report_end, status_end]
                socket.send_fds(zygote.control, [json.dumps(job).encode()], fds)
            except OSError as e:
                raise _LostError from e
            finally:
                os.close(report_end)
                os.close(status_end)
            until = time.monotonic() + self._timeout_s + _GRACE_S
            try:
                said = _read(report, _REPORT_BYTES, until)
            finally:
                os.close(report)  # a fork that still has something to say dies of it
            ended = _read(status, _STATUS_BYTES, until)
        finally:
            os.close(status)
        if not ended:
            raise _LostError
        return _Ending(**json.loads(ended), said=said)

    def _cpu_s(self, size_bytes: int) -> float:
        return min(self._timeout_s, _CPU_S + size_bytes / _CPU_BYTES_PER_S)

    def _warm(self) -> _Zygote:
        with self._lock:
            if self._closed:
                raise RuntimeError("the sandbox is closed")
            if self._zygote is None:
                self._zygote = _started()
            return self._zygote

    def _forget(self, zygote: _Zygote) -> None:
        with self._lock:
            if self._zygote is zygote:
                self._zygote = None
        zygote.stop()


def _started() -> _Zygote:
    """Start the warm child with nothing of ours: no environment, no working folder, no descriptor but its socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(  # noqa: S603  # our own interpreter and program
            [sys.executable, "-I", "-B", "-c", _PROGRAM, _ROOT],
            stdin=theirs.fileno(),
            stdout=subprocess.DEVNULL,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,  # Ctrl-C is for us; the child ends with its socket
        )
    ours.settimeout(_START_S)
    try:
        hello = ours.recv(_STATUS_BYTES)
        landlock = json.loads(hello)["landlock"]
    except (OSError, ValueError) as e:
        ours.close()
        process.kill()
        process.wait()
        raise RuntimeError("the process that checks uploads did not start; its own words are on standard error") from e
    return _Zygote(process=process, control=ours, landlock=landlock)


def _read(fd: int, most: int, until: float) -> bytes:
    """Return what comes until the other side closes; all after `most` bytes or the moment `until` is left unread."""
    content, poll = b"", select.poll()
    poll.register(fd, select.POLLIN)
    while len(content) <= most and poll.poll(max(0, (until - time.monotonic()) * 1000)):
        piece = os.read(fd, 1 << 16)
        if not piece:
            return content
        content += piece
    return b""


# ---- from endings to verdicts ---------------------------------------------------------------------------------------


def _refusal(source: int, name: str) -> Verdict | None:
    """Refuse by the first bytes what is plainly something else."""
    if not stat.S_ISREG(os.fstat(source).st_mode):
        raise OSError(errno.EINVAL, f"the upload stored for {name!r} is not a regular file")
    start = os.pread(source, len(_HDF5), 0)
    if start == _HDF5:
        return None
    what = (
        "empty" if not start else next((kind for magic, kind in _KINDS if start.startswith(magic)), "not an HDF5 file")
    )
    return Verdict(ok=False, code="refused", message=f"{name} is {what}; expected {ACCEPTED}.")


def _verdict(ending: _Ending, name: str) -> Verdict:
    """Turn how the fork ended and what it said into a verdict.

    Raises:
        OSError: the fork could not write the canonical file.
    """
    used = _Used(seconds=ending.seconds, cpu_seconds=ending.cpu_seconds, peak_rss_bytes=ending.peak_rss_bytes)
    if ending.late or ending.signal in (signal.SIGPROF, signal.SIGXCPU):
        code, message = "too_slow", f"{name} takes too long to read; a file of its size should take a fraction of that."
    elif ending.exit == _NO_MEMORY:
        code, message = "too_large", f"{name} needs more memory than reading one file may take."
    elif ending.signal or ending.exit:
        code, message = "crashed", f"{name} made the process that reads it fail, so it is damaged or not what it seems."
    else:
        try:
            return replace(_believable(json.loads(ending.said)), **used)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            code, message = "crashed", f"{name} made the process that reads it talk nonsense."
    return Verdict(ok=False, code=code, message=message, **used)


def _believable(said: Any) -> Verdict:
    """Return the verdict in a fork's words, rebuilt value by value: the fork may be under the file's control.

    Raises:
        OSError: the fork could not write.
        ValueError, TypeError, KeyError, AttributeError: it is not what a sound fork says.
    """
    code = said["code"]
    if code == "not_written":
        number = int(said["errno"])
        raise OSError(number, f"the canonical file cannot be written ({os.strerror(number)})")
    if code not in CODES:
        raise ValueError(code)
    if code != "ok":
        return Verdict(ok=False, code=code, message=_printable(_without_our_paths(str(said["message"])), 600))
    report, hz = said["report"], said["report"]["control_hz"]
    if hz is not None and not (isinstance(hz, float) and math.isfinite(hz)):
        raise ValueError(hz)
    return Verdict(
        ok=True,
        code="ok",
        report=MappingProxyType(
            {
                "format": _printable(report["format"]),
                "environment": _printable(report["environment"]),
                "control_hz": hz,
                "demos": [
                    {
                        "name": _printable(demo["name"]),
                        "steps": int(demo["steps"]),
                        "states": bool(demo["states"]),
                        "signals": [_printable(signal_name) for signal_name in demo["signals"]],
                    }
                    for demo in report["demos"]
                ],
            }
        ),
    )


def _without_our_paths(text: str) -> str:
    """Return a message that does not tell where things lie here; libraries like to say so."""
    places = sorted({_ROOT, sys.prefix, sys.base_prefix, "/proc/self/fd"}, key=len, reverse=True)
    return re.sub("|".join(rf"{re.escape(place)}[^\s'\"]*" for place in places), "(a file)", text)


def _printable(text: str, most: int = 200) -> str:
    """Return text that can be shown, logged and encoded: no control, direction or half characters, not endless."""
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def _shown_name(name: str) -> str:
    """Return the last part of a name as a person gave it, printable."""
    return _printable(re.split(r"[/\\]", name)[-1].strip(), 80) or "the upload"


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
