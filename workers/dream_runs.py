"""Where the run of a job lies, jobs/JOB/run in the store, and how a worker works in it.

In a store that is a folder all workers share the run's folder itself. From any other store a worker fetches what its
stage reads, works on a copy, and puts what is new there before it answers; so what a killed worker had begun is done
again, as nothing counts before its unit is committed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from api.dream_specs import Stage
from api.store import Store
from workers.dream_folder import Run

_EVERYTHING = ("frames", "starts", "proposals.jsonl")
_A_DREAM = ("dreams/{name}", "judgements/{name}.json", "labels/{name}.npz", "labels/{name}.json",
            "latents/{name}.npz", "latents/{name}.json", "verified/{name}.json")  # fmt: skip
"""What belongs to one dream, in the order in which stages make it."""
_READS: dict[Stage, int] = {"generate": 0, "judge": 1, "label": 2, "verify": 4, "export": len(_A_DREAM)}
"""Stage -> how many of these it reads."""


def run_key(job_id: str) -> str:
    """Return where the run of a job lies in the store."""
    return f"jobs/{job_id}/run"


@contextmanager
def lent_run(store: Store, job_id: str, stage: Stage, names: Sequence[str], scratch: Path | None) -> Generator[Run]:
    """Lend the run of a job to one stage, for these dreams; what is new in it is in the store afterwards."""
    key = run_key(job_id)
    place = store.path(key)
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
        yield Run(root=place)
        return
    with tempfile.TemporaryDirectory(prefix="factory-", dir=scratch) as folder:
        root = Path(folder) / "run"
        root.mkdir()
        for part in _parts(stage, names):
            if store.exists(f"{key}/{part}"):
                (root / part).parent.mkdir(parents=True, exist_ok=True)
                store.fetch(f"{key}/{part}", root / part)
        before = {path: path.stat().st_mtime_ns for path in _files(root)}
        yield Run(root=root)
        for path in _files(root):
            if before.get(path) != path.stat().st_mtime_ns:
                store.put(path, f"{key}/{path.relative_to(root).as_posix()}")


def _files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file())


def _parts(stage: Stage, names: Sequence[str]) -> Iterator[str]:
    """Yield what a stage reads; nothing that a unit of its own stage may have left unfinished."""
    if stage in ("prepare", "frames"):
        return
    yield from _EVERYTHING
    for name in names:
        yield from (part.format(name=name) for part in _A_DREAM[: _READS.get(stage, 0)])
    if stage == "export":
        yield "shards"
