"""MimicGen's own generator beside ours, where the user has it: run as a subprocess, never imported.

See `mimicgen` for how it is reached, and why so.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from workers import mimicgen


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
    template = mimicgen.template_of(python, task)
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
        words = ["-m", "mimicgen.scripts.generate_dataset", "--config", str(path), "--auto-remove-exp"]
        mimicgen.run(python, words, "MimicGen's generate_dataset failed")
        after, ended = os.times(), time.time()
        (stats,) = Path(folder).rglob("important_stats.json")
        facts = json.loads(stats.read_text(encoding="utf-8"))
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return {
        "command": " ".join(words[:2]),
        "attempts": int(facts["num_attempts"]),
        "successes": int(facts["num_success"]),
        "cpu_s": spent,
        "wall_s": ended - began,
        "attempts_per_cpu_s": facts["num_attempts"] / spent,
        "successes_per_cpu_s": facts["num_success"] / spent,
    }
