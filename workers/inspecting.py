"""What a finished dataset holds: counts, ranges, failures, executors."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from factory import lerobot
from factory.dataset_checks import read_json, verify_dataset
from factory.dataset_reading import dataset_digest, open_dataset
from factory.provenance import read_attempts
from factory.statistics import failure_table, wilson


def inspect_dataset(root: Path, *, verify: bool = False) -> dict[str, Any]:
    """Return a dataset's facts as JSON values.

    Args:
        root: the dataset.
        verify: also check every file, decode every video, and digest every row.

    Raises:
        DatasetError: `root` is not a dataset, or does not verify.
    """
    facts = open_dataset(root)
    if verify:
        verify_dataset(root)
    attempts = read_attempts(root)
    held, touched = sum(a.held for a in attempts), sum(a.touched for a in attempts)
    rate, low, high = wilson(held, len(attempts))
    stats = read_json(root, lerobot.STATS_PATH)
    columns = [
        {"name": name, "dtype": feature["dtype"], "shape": list(feature["shape"])}
        | {key: stats[name][key] for key in ("min", "mean", "max") if name in stats and key in stats[name]}
        for name, feature in facts.features.items()
    ]
    return {
        "root": str(root),
        "task": facts.job.get("task", ""),
        "variant": facts.job.get("generation", {}).get("variant", ""),
        "robot_type": facts.robot_type,
        "fps": facts.fps,
        "episodes": facts.episodes,
        "frames": facts.frames,
        "hours": facts.frames / facts.fps / 3600.0,
        "lengths": {"min": min(facts.lengths), "max": max(facts.lengths), "mean": facts.frames / facts.episodes},
        "cameras": list(facts.cameras),
        "instructions": list(facts.tasks),
        "subtasks": list(facts.subtasks),
        "success_rate": {
            "held": rate,
            "low": low,
            "high": high,
            "touched": touched / max(len(attempts), 1),
            "attempts": len(attempts),
        },
        "failures": [asdict(row) for row in failure_table(attempts)],
        "columns": columns,
        "executor": {k: v for k, v in facts.job.get("executor", {}).items() if k != "model_sha"},
        "made_by": dict(Counter(a.executor for a in attempts if a.held)),
        "run_again_on_cpu": facts.job.get("run_again_on_cpu"),
        "command": facts.job.get("command", ""),
        "verified": verify,
        "digest": dataset_digest(root) if verify else None,
    }
