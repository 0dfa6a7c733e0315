"""Child processes that die with their parent and leave Ctrl-C to it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnContext, SpawnProcess

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
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died between the two calls
            os._exit(1)


def single_threaded() -> None:
    """Call before numpy is imported in a child: one worker is one core, numerical libraries must not add threads."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def usable_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
