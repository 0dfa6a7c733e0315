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
from pathlib import Path
from typing import Any

from factory.errors import BackendError


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
    before, began = os.times(), time.time()
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "workers", *command, "--json"], capture_output=True, text=True, check=False
        )
        after, ended = os.times(), time.time()
        if done.returncode != 0:
            raise BackendError(f"factory {' '.join(command)} failed: {done.stderr.strip()[-500:]}")
        attempts, steps, first = _book(folder / f"{task}.work")
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
        "attempts": attempts,
        "control_steps": steps,
        "frames": int(info["total_frames"]),
        "cpu_s": spent,
        "wall_s": ended - began,
        "first_attempt_s": first - began,
        "attempts_per_cpu_s": attempts / spent,
        "successes_per_cpu_s": episodes / spent,
        "bytes_per_episode": size / episodes,
    }


def _book(work: Path) -> tuple[int, int, float]:
    """Return attempts made, their control steps, and when the first was committed."""
    book = sqlite3.connect(f"file:{work / 'book.db'}?mode=ro", uri=True)
    try:
        (row,) = book.execute("SELECT COUNT(*), SUM(steps), MIN(committed_at) FROM attempts")
    finally:
        book.close()
    return int(row[0]), int(row[1] or 0), float(row[2] or 0.0)
