"""What `factory generate` costs as a user runs it: a fresh process, its workers, its datasets; all CPU time counted."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from factory.errors import BackendError
from factory.provenance import read_attempts


def measure(task: str, *, episodes: int, workers: int, options: Sequence[str]) -> dict[str, Any]:
    """Generate a dataset and return what it took, JSON-ready.

    "cpu_s" is that of the command and of every process it started; "first_attempt_s" is wall time from the start of the
    command to the commit of the first attempt.

    Raises:
        BackendError: the command failed; its last words are in the message.
    """
    folder = Path(tempfile.mkdtemp(prefix="factory-bench-"))
    out = folder / task
    command = ["generate", task, "--episodes", str(episodes), "--workers", str(workers), "--out", str(out), *options]
    try:
        with (folder / "said").open("w+", encoding="utf-8") as said:
            before, began = os.times(), time.time()
            running = subprocess.Popen(  # noqa: S603 - our own command
                [sys.executable, "-m", "workers", *command, "--json"], stdout=subprocess.DEVNULL, stderr=said
            )
            first = _first_attempt(running, folder / f"{task}.work" / "book.db")
            running.wait()
            after, ended = os.times(), time.time()
            said.seek(0)
            if running.returncode != 0:
                raise BackendError(f"factory {' '.join(command)} failed: {said.read().strip()[-500:]}")
        attempts = read_attempts(out)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        info = json.loads((out / "meta" / "info.json").read_text(encoding="utf-8"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    # Children that were waited for, and theirs: the command waits for all its workers.
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return {
        "command": "factory " + " ".join(["generate", task, "--episodes", str(episodes), *options]),
        "workers": workers,
        "episodes": episodes,
        "attempts": len(attempts),
        "control_steps": sum(attempt.steps for attempt in attempts),
        "frames": int(info["total_frames"]),
        "cpu_s": spent,
        "wall_s": ended - began,
        "first_attempt_s": first - began,
        "attempts_per_cpu_s": len(attempts) / spent,
        "successes_per_cpu_s": episodes / spent,
        "bytes_per_episode": size / episodes,
    }


def _first_attempt(running: subprocess.Popen[bytes], book: Path) -> float:
    """Watch a job book until it has an attempt, or the command has ended; return when that attempt was committed."""
    while running.poll() is None:
        time.sleep(0.05)
        if not book.exists():
            continue
        with suppress(sqlite3.OperationalError), closing(sqlite3.connect(f"file:{book}?mode=ro", uri=True)) as reading:
            ((first,),) = reading.execute("SELECT MIN(committed_at) FROM attempts")
            if first:
                return float(first)
    return time.time()
