"""Runs a script in lerobot's own environment; what it prints last is what it saw."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lerobot_links import link_ffmpeg

REPOSITORY = Path(__file__).parent.parent
PYTHON = REPOSITORY / ".venv-lerobot" / "bin" / "python"


def run_in_lerobot(script: str, request: Any, folder: Path) -> Any:
    """Run `tests/<script>` on a request, which becomes a JSON file in `folder`, and return its last line's JSON."""
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is missing; make an environment with lerobot 0.4.4 there to run this test")
    libraries = sorted((PYTHON.parent.parent / "lib").glob("python3*/site-packages/av.libs"))
    (folder / "request.json").write_text(json.dumps(request))
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": link_ffmpeg(libraries[0], folder / "links"),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [str(PYTHON), str(REPOSITORY / "tests" / script), str(folder / "request.json")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])
