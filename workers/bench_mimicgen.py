"""MimicGen's own generator beside ours, where the user has it: run as a subprocess, never imported.

MimicGen is distributed as source under a non-commercial licence; a package of that name on public indexes is something
else. `--mimicgen-python` names the interpreter of an environment in which its documented commands work.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from factory.errors import BackendError

_WHERE = "import mimicgen, pathlib; print(pathlib.Path(mimicgen.__path__[0]) / 'exps/templates/robosuite')"


def measure(python: Path, task: str, source: Path, *, attempts: int, seed: int) -> dict[str, Any]:
    """Run MimicGen's command on prepared source demonstrations and return what it took, JSON-ready.

    Args:
        python: interpreter of the environment that has MimicGen.
        task: its template's name, "stack" or "square".
        source: demonstrations prepared by MimicGen's `prepare_src_dataset`.
        attempts: how many trials.
        seed: of its random numbers.

    Raises:
        BackendError: that environment has no MimicGen, no such template, or its command failed.
    """
    templates = _run([str(python), "-c", _WHERE], f"{python} has no MimicGen").strip()
    template = Path(templates) / f"{task}.json"
    if not template.exists():
        known = sorted(file.stem for file in Path(templates).glob("*.json"))
        raise BackendError(f"MimicGen has no template {task!r}; it has {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="factory-bench-") as folder:
        config = json.loads(template.read_text(encoding="utf-8"))
        experiment = config["experiment"]
        experiment["source"]["dataset_path"] = str(source.resolve())
        experiment["generation"] |= {"path": folder, "guarantee": False, "num_trials": attempts, "keep_failed": False}
        experiment |= {"seed": seed, "render_video": False}
        config["obs"]["camera_names"] = []
        path = Path(folder, "config.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        before, began = os.times(), time.time()
        command = [str(python), "-m", "mimicgen.scripts.generate_dataset", "--config", str(path), "--auto-remove-exp"]
        _run(command, "MimicGen's generate_dataset failed")
        after, ended = os.times(), time.time()
        (stats,) = Path(folder).rglob("important_stats.json")
        facts = json.loads(stats.read_text(encoding="utf-8"))
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return {
        "command": " ".join(command[1:3]),
        "attempts": int(facts["num_attempts"]),
        "successes": int(facts["num_success"]),
        "cpu_s": spent,
        "wall_s": ended - began,
        "attempts_per_cpu_s": facts["num_attempts"] / spent,
        "successes_per_cpu_s": facts["num_success"] / spent,
    }


def _run(command: list[str], what: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - the user's choice
    except OSError as error:
        raise BackendError(f"{what}: {error}") from error
    if done.returncode != 0:
        raise BackendError(f"{what}: {done.stderr.strip()[-500:]}")
    return done.stdout
