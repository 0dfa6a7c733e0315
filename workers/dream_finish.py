"""A job's finished datasets of dreams become datasets of the service: rows, files, a place of their own.

They were written and verified where the models are; here they are put in place, which needs neither torch nor a
simulator. Doing it again, after a kill at any moment, gives the same rows.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from api.dreams import asked_of
from api.store import Store
from api.tables import Job
from factory.dataset_checks import read_json
from factory.dataset_reading import dataset_digest, open_dataset
from factory.durable import json_bytes, sha256_file, sync_tree
from factory.errors import DatasetError
from factory.failpoints import reached
from factory.provenance import MANIFEST_PATH
from workers.report import write_report

KINDS = ("labelled", "latent", "twin")
"""What a job may leave, the first one that is there is its main dataset."""


def finalize_dreams(store: Store, job: Job) -> dict[str, Any]:
    """Put a job's datasets in place and return the rows that make them known, as `finish.finalize` does.

    Raises:
        DatasetError: nothing was exported.
        StorageError: the store failed; what is in place already stays.
    """
    exported: dict[str, str] = (job.result or {}).get("exported", {})
    kinds = [kind for kind in KINDS if kind in exported]
    if not kinds:
        raise DatasetError(f"job {job.id} has exported no dreams")
    main = f"ds_{job.id.removeprefix('job_')}"
    found: dict[str, Any] = {"dataset_id": main, "datasets": [], "files": []}
    for number, kind in enumerate(kinds):
        name = main if number == 0 else f"{main}_{kind}"
        with ExitStack() as stack:
            root = _placed(store, exported[kind], f"datasets/{name}", stack)
            rows = _rows(name, kind, root, job)
            if not store.is_local:
                store.put(root, f"datasets/{name}")
        found["datasets"].append(rows["dataset"])
        found["files"] += rows["files"]
        reached("finalize.written")
    return found


def _placed(store: Store, source: str, key: str, stack: ExitStack) -> Path:
    """Return the folder of a dataset with its report: in its place, or a copy where the store is no folder."""
    place = store.path(key)
    if place is None:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="factory-"))) / Path(key).name
        store.fetch(source, root)
    else:
        root, made = place, store.path(source)
        if made is not None and made.exists():  # else it was moved before, by one who was killed then
            store.put(made, key)
    if not root.is_dir():
        raise DatasetError(f"{source} is not in the store {store.url}")
    write_report(root)
    sync_tree(root)
    return root


def _rows(name: str, kind: str, root: Path, job: Job) -> dict[str, Any]:
    known: dict[str, str] = read_json(root, MANIFEST_PATH)["files"]
    files: list[dict[str, Any]] = []
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        relative = path.relative_to(root).as_posix()
        sha = known.get(relative) or sha256_file(path)
        files.append({"dataset_id": name, "path": relative, "sha256": sha, "bytes": path.stat().st_size})
    dataset, asked = open_dataset(root), asked_of(job)
    row = {
        "id": name,
        "job_id": job.id,
        "kind": "lerobot",
        "name": job.name or f"dreams of {', '.join(asked.tasks) or asked.dataset}",
        "key": f"datasets/{name}",
        "episodes": dataset.episodes,
        "frames": dataset.frames,
        "bytes": sum(file["bytes"] for file in files),
        "digest": dataset_digest(root),
        "manifest_sha256": hashlib.sha256(json_bytes([[f["path"], f["sha256"]] for f in files])).hexdigest(),
        "facts": {
            "dreams": kind,
            "task": ", ".join(asked.tasks) or "dreams",
            "variant": asked.variant,
            "fps": dataset.fps,
            "robot_type": dataset.robot_type,
            "cameras": list(dataset.cameras),
            "instructions": list(dataset.tasks),
            "subtasks": list(dataset.subtasks),
            "hours": dataset.frames / dataset.fps / 3600.0,
        },
        "parent_id": None,
    }
    return {"dataset": row, "files": files}
