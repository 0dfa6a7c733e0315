"""Child processes that die with their parent and leave Ctrl-C to it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections import Counter
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess

from factory import failpoints

SPAWN: SpawnContext = multiprocessing.get_context("spawn")
"""Every worker starts fresh: simulators and GL contexts do not survive a fork."""

_PR_SET_PDEATHSIG = 1


def start_shielded(process: SpawnProcess) -> None:
    """Start a child that Ctrl-C does not reach while it is still importing; `become_worker` takes over from there."""
    resource_tracker.ensure_running()  # when first started it unblocks the signal again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def become_worker() -> None:
    """Call first in a child: ignore Ctrl-C (the parent handles it) and be killed when the parent goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    arm_failpoints()
    die_with_parent()


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it is gone."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between the two calls
            os._exit(1)


def arm_failpoints() -> None:
    """Let tests kill this process at named moments: FACTORY_FAILPOINT=NAME:COUNT:FILE,... in every process of a run.

    The COUNT-th passage of NAME in a process kills it, once for all processes: FILE is made first and then in the way.
    """
    passed: Counter[str] = Counter()
    wanted = [entry.split(":", 2) for entry in os.environ.get("FACTORY_FAILPOINT", "").split(",") if entry]

    def hook(here: str) -> None:
        passed[here] += 1
        for name, count, marker in wanted:
            if name == here and int(count) == passed[here]:
                try:
                    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    continue
                os.kill(os.getpid(), signal.SIGKILL)

    if wanted:
        failpoints.install(hook)


def single_threaded() -> None:
    """Call before numpy is imported in a child: one worker is one core, numerical libraries must not add threads."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
