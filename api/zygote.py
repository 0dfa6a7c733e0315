"""The child side of the sandbox: a process that holds h5py warm and forks once for every uploaded file.

Nothing of an upload is parsed here, only in the forks. A fork lives for one file: it keeps three descriptors (the
upload, the place for the canonical file, the pipe for its report), gives up every privilege, limits its memory and
time, shuts the file system with Landlock except for the one upload, and only then opens the file. What it says is
believed by nobody: `api.sandbox` checks the report's shape, and whoever reads the canonical file checks that again.
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import fcntl
import json
import math
import os
import resource
import select
import signal
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from h5py import h5pl  # pyright: ignore[reportAttributeAccessIssue]

from factory.demos import Demo, canonical_image, read_demos
from factory.errors import DemoError
from factory.hdf5 import DamagedError, Limits, TooLargeError

MEMORY_BYTES = 900 << 20
"""Address space of a fork beyond what the warm process has; with its 50 MiB it stays below 1 GiB."""
CANONICAL_BYTES = 256 << 20
"""Largest canonical file."""
REPORT_BYTES = 1 << 20
"""Largest report."""
LIMITS = Limits(read_bytes=256 << 20, chunk_bytes=64 << 20)
"""Read as float64 and written again, 256 MiB need some 700."""
CODE_BROKEN, CODE_NO_MEMORY = 70, 71
"""Exit codes of a fork that cannot even say what happened."""

_UPLOAD, _CANONICAL, _REPORT, _OPEN_FILES = 3, 4, 5, 256
_NAME_CHARACTERS = 200
_SLICE_S = 1.0
_LIBC = ctypes.CDLL(None, use_errno=True)
_PDEATHSIG, _NO_NEW_PRIVS = 1, 38
_CAPABILITIES_V3 = 0x20080522


@dataclass(kw_only=True)
class _Fork:
    """A running check."""

    pid: int
    status: int
    started: float
    wall_s: float
    late: bool = False


# ---- the warm process -----------------------------------------------------------------------------------------------


def main() -> NoReturn:
    """Serve checks that arrive on descriptor 0 until it is closed or the parent is gone; then nothing is left."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    null = os.open(os.devnull, os.O_RDWR)
    control = socket.socket(fileno=0)
    _warm_up()
    control.send(json.dumps({"landlock": _landlock_that_works(null)}).encode())
    _serve(control, null)
    os._exit(0)  # running forks get SIGKILL from the kernel: see `_die_with`


def _serve(control: socket.socket, null: int) -> None:
    parent, poll = os.getppid(), select.poll()
    running: dict[int, _Fork] = {}
    poll.register(control, select.POLLIN)
    while os.getppid() == parent:
        # One second at most: the parent's end of the socket may have been inherited by someone who outlives it.
        wait_s = min([_SLICE_S, *(f.started + f.wall_s - time.monotonic() for f in running.values() if not f.late)])
        for ready, _ in poll.poll(max(0, math.ceil(wait_s * 1000))):
            if ready == control.fileno():
                message, fds, _, _ = socket.recv_fds(control, 4096, 4)
                if not message:
                    return
                pidfd, fork = _start(json.loads(message), fds, null)
                running[pidfd] = fork
                poll.register(pidfd, select.POLLIN)
            else:
                poll.unregister(ready)
                _reap(ready, running.pop(ready))
        for fork in running.values():
            if not fork.late and time.monotonic() >= fork.started + fork.wall_s:
                fork.late = True
                os.kill(fork.pid, signal.SIGKILL)


def _start(job: dict[str, Any], fds: list[int], null: int) -> tuple[int, _Fork]:
    upload, canonical, report, status = fds
    zygote, started = os.getpid(), time.monotonic()
    pid = os.fork()
    if pid == 0:
        _examine(job, (upload, canonical, report), null, zygote)
    for fd in (upload, canonical, report):
        os.close(fd)
    return os.pidfd_open(pid), _Fork(pid=pid, status=status, started=started, wall_s=job["wall_s"])


def _reap(pidfd: int, fork: _Fork) -> None:
    """Tell how the fork ended and what it used."""
    _, status, usage = os.wait4(fork.pid, 0)
    os.close(pidfd)
    said = {
        "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
        "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
        "late": fork.late,
        "seconds": time.monotonic() - fork.started,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_rss_bytes": usage.ru_maxrss * 1024,
    }
    try:
        os.write(fork.status, json.dumps(said).encode())
    except BrokenPipeError:
        pass  # nobody waits any more
    finally:
        os.close(fork.status)


def _warm_up() -> None:
    """Take a small file through everything once, so that nothing is left to import when the lock is on."""
    for codec in ("ascii", "latin_1", "utf_8", "idna", "unicode_escape", "raw_unicode_escape"):
        codecs.lookup(codec)
    while h5pl.size():
        h5pl.remove(0)
    poses = np.tile(np.eye(4), (3, 1, 1))
    demo = Demo(
        name="demo_0",
        path="",
        format="seeds",
        environment="lift",
        actions=np.zeros((3, 2)),
        states=np.zeros((4, 5)),
        T_world_eef={"right": poses},
        signals={"grasp": np.ones(3, bool)},
        attributes={"date": "today"},
    )
    for image in (canonical_image([demo]), b"\x89HDF\r\n\x1a\n damaged"):
        fd = os.memfd_create("upload")
        os.write(fd, image)
        _answer(_examined(fd, "upload")[0])
        os.close(fd)


# ---- one fork, one file ---------------------------------------------------------------------------------------------


def _examine(job: dict[str, Any], fds: Sequence[int], null: int, zygote: int) -> NoReturn:
    """Check and rewrite one file, say so on the report pipe, and end; nothing leaves this function."""
    try:
        _die_with(zygote)
        _keep_only(null, fds)
        _limit(job["cpu_s"])
        lock(_UPLOAD)
        answer, image = _examined(_UPLOAD, job["name"])
        try:
            _write(_CANONICAL, image)
        except OSError as e:
            answer = {"code": "not_written", "errno": e.errno}
        _write(_REPORT, _answer(answer))
    except MemoryError:
        os._exit(CODE_NO_MEMORY)
    except BaseException:  # noqa: BLE001  # the outermost loop of the process
        os._exit(CODE_BROKEN)
    os._exit(0)


def _examined(upload: int, name: str) -> tuple[dict[str, Any], bytes]:
    """Return what is to be said about the file, and the canonical file (empty unless the code is "ok")."""
    try:
        # Without the name of the file it came from: equal uploads become equal files.
        demos = read_demos(f"/proc/self/fd/{upload}", name=name, limits=LIMITS)
        image = canonical_image(demos, name=name)
    except TooLargeError as e:
        return {"code": "too_large", "message": str(e)}, b""
    except DamagedError as e:
        return {"code": "unreadable", "message": str(e)}, b""
    except DemoError as e:
        return {"code": "refused", "message": str(e)}, b""
    except MemoryError:
        raise
    except Exception as e:  # noqa: BLE001  # libraries may raise anything on bytes that make no sense
        return {"code": "unreadable", "message": f"{name}: cannot be read (unexpected {type(e).__name__})"}, b""
    if len(image) > CANONICAL_BYTES:
        return {
            "code": "too_large",
            "message": f"{name}: its demonstrations take {len(image)} bytes; {CANONICAL_BYTES} are accepted",
        }, b""
    return {"code": "ok", "message": "", "report": _report(demos)}, image


def _report(demos: Sequence[Demo]) -> dict[str, Any]:
    first = demos[0]
    return {
        "format": _short(first.format),
        "environment": _short(first.environment),
        "control_hz": first.control_hz,
        "demos": [
            {
                "name": _short(demo.name),
                "steps": len(demo),
                "states": demo.states.size > 0,
                "signals": [_short(signal_name) for signal_name in demo.signals],
            }
            for demo in demos
        ],
    }


def _answer(answer: dict[str, Any]) -> bytes:
    said = json.dumps({**answer, "message": answer.get("message", "")[:2000]}).encode()
    if len(said) > REPORT_BYTES:
        return json.dumps({"code": "too_large", "message": f"the list of its demonstrations takes {len(said)} bytes; "
                           f"{REPORT_BYTES} are accepted"}).encode()  # fmt: skip
    return said


def _short(text: str) -> str:
    return text if len(text) <= _NAME_CHARACTERS else text[: _NAME_CHARACTERS - 1] + "…"


def _write(fd: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]


# ---- what a fork gives up -------------------------------------------------------------------------------------------


def _die_with(parent: int) -> None:
    # The warm process has one thread, so "the thread that forked has ended" means that the process has.
    _LIBC.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(CODE_BROKEN)


def _keep_only(null: int, fds: Sequence[int]) -> None:
    """Put the descriptors at 3, 4, 5, nothing at 0, 1, 2, and close all others: other people's uploads among them."""
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, _OPEN_FILES // 2) for fd in (null, null, null, *fds)]
    for place, fd in enumerate(high):
        os.dup2(fd, place)
    os.closerange(len(high), _OPEN_FILES)


def _limit(cpu_s: float) -> None:
    """Bound memory, time, written bytes, open files; the timer is exact, the limits behind it cannot be undone."""
    # The first number of statm is the size of the address space, in pages.
    with open("/proc/self/statm", "rb") as f:  # noqa: PTH123  # as cheap as it can be
        size = int(f.read().split()[0]) * resource.getpagesize()
    whole = math.floor(cpu_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (whole, whole + 1))
    for kind, limit in (
        (resource.RLIMIT_AS, size + MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, CANONICAL_BYTES),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
    signal.setitimer(signal.ITIMER_PROF, cpu_s)


def lock(readable: int) -> int:
    """Give up capabilities, new processes and sockets, then deny this process every file but `readable`.

    Returns:
        The version of Landlock in force: 1 files, 4 also TCP, 6 also signals and abstract sockets; 0 for none.
    """
    header, nothing = struct.pack("=Ii", _CAPABILITIES_V3, 0), bytes(24)
    _LIBC.capset(header, nothing)
    _LIBC.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    _deny_calls()
    abi = _landlock(_CREATE, None, 0, 1)
    if abi < 1:
        return 0
    # Rights known to each version: 13 on files, then rename across folders, truncate, device control; TCP bind and
    # connect; abstract sockets and signals. Asking for an unknown one is an error.
    files = (1 << (13 + (abi >= 2) + (abi >= 3) + (abi >= 5))) - 1
    attributes = struct.pack("=QQQ", files, 0b11 if abi >= 4 else 0, 0b11 if abi >= 6 else 0)
    attributes = attributes[: 24 if abi >= 6 else 16 if abi >= 4 else 8]
    rules = _landlock(_CREATE, attributes, len(attributes), 0)
    if rules < 0:
        return 0
    allowed = _landlock(_ADD, rules, _BENEATH, struct.pack("=Qi", _READ_FILE, readable), 0)
    shut = _landlock(_RESTRICT, rules, 0)
    os.close(rules)
    return abi if allowed == 0 and shut == 0 else 0


_ARCHITECTURES = {
    # clone, fork, vfork, clone3, execve, execveat, socket, socketpair, ptrace, process_vm_writev, io_uring_setup
    "x86_64": (0xC000003E, (56, 57, 58, 435, 59, 322, 41, 53, 101, 311, 425)),
    "aarch64": (0xC00000B7, (220, 435, 221, 281, 198, 199, 117, 271, 425)),
}
"""Machine -> its number in seccomp, and the system calls that a fork has no use for."""
_SECCOMP, _FILTER = 22, 2
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _KILL, _NOT_PERMITTED = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM


def _deny_calls() -> None:
    """Make starting a process, opening a socket and reaching into a process fail; elsewhere rlimits must do."""
    if os.uname().machine not in _ARCHITECTURES:
        return
    number, denied = _ARCHITECTURES[os.uname().machine]
    # Jumps count from the next instruction: a wrong architecture and x32 calls to the last, a denied call to the one
    # before it.
    n = len(denied)
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 0, n + 4, number), (_LOAD, 0, 0, 0), (_AT_LEAST, n + 2, 0, 0x40000000)]
    program += [(_EQUAL, n - i, 0, call) for i, call in enumerate(denied)]
    program += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _NOT_PERMITTED), (_RETURN, 0, 0, _KILL)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    _LIBC.prctl(_SECCOMP, _FILTER, struct.pack("@HP", len(program), ctypes.addressof(code)))


_CREATE, _ADD, _RESTRICT = 444, 445, 446
"""System calls of Landlock, the same number on every architecture."""
_BENEATH, _READ_FILE = 1, 1 << 2


def _landlock(call: int, *arguments: int | bytes | None) -> int:
    whole = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _LIBC.syscall(ctypes.c_long(call), *whole)


def _landlock_that_works(readable: int) -> int:
    """Return the version in force in a trial fork that then tries to read another file and fails; else 0."""
    pid = os.fork()
    if pid == 0:
        abi = lock(readable)
        try:
            os.open("/proc/self/status", os.O_RDONLY)
        except PermissionError:
            os._exit(abi)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
