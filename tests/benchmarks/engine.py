"""Measures what is not a success rate: digests, replay, memory, overhead, and where automatic cuts fall.

    FACTORY_DEMOS_DIR=... python -m tests.benchmarks.engine [--only boundaries|memory|overhead|digest|replay]

Each part replaces its own entry in docs/benchmarks/engine.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workers.processes import single_threaded

RESULTS = Path("docs/benchmarks/engine.json")
MEMORY_ATTEMPTS = 1000


def main() -> None:
    """Measure all parts, or one."""
    single_threaded()
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", choices=["", *PARTS])
    wanted = parser.parse_args().only
    for name in PARTS if not wanted else [wanted]:
        facts = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"facts": {}, "boundaries": []}
        PARTS[name](facts)
        RESULTS.write_text(json.dumps(facts, indent=1) + "\n")
        print(name, "done", flush=True)


def boundaries(facts: dict[str, Any]) -> None:
    """Cut every demo file and all seeds twice and compare."""
    from factory.demos import read_demos
    from factory.errors import DemoError
    from factory.segmentation import boundary_errors, split
    from sim_tasks.backends import open_backend
    from sim_tasks.catalog import TASKS
    from workers.checks import match_task
    from workers.generate import seeds_path

    outside = Path(os.environ["FACTORY_DEMOS_DIR"])
    files = [*sorted(outside.glob("robosuite/*.hdf5")), *sorted(outside.glob("mimicgen_sources/*.hdf5"))]
    files += [seeds_path(name) for name in TASKS]
    rows: list[dict[str, Any]] = []
    for path in files:
        demos = read_demos(path)
        task = match_task(demos)
        if task is None:
            continue
        backend = open_backend(task)
        errors: list[int] = []
        for demo in demos:
            try:
                annotated = backend.annotate(demo)
                stored, automatic = split(annotated, task, "stored"), split(annotated, task, "automatic")
            except DemoError:
                continue
            errors += [e for each in boundary_errors(automatic, stored).values() for e in each]
        backend.close()
        counts = sorted(Counter(errors).items())
        near = sum(abs(e) <= 5 for e in errors)
        rows.append({"file": path.name, "boundaries": len(errors), "within": near, "errors": counts})
    facts["boundaries"] = rows
    total, near = sum(r["boundaries"] for r in rows), sum(r["within"] for r in rows)
    facts["facts"]["automatic boundaries within 5 steps"] = f"{near} of {total} ({100 * near / total:.1f} %)"


def memory(facts: dict[str, Any]) -> None:
    """Run many attempts in one process and watch its resident memory."""
    from factory.demos import read_demos
    from factory.replay import run_attempts
    from factory.sources import prepare_sources
    from factory.specs import GenerationSpec
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from sim_tasks.catalog import find_task
    from workers.generate import seeds_path

    task, spec = find_task("lift"), GenerationSpec(seed=1, use_symmetry=True, paced_bridge=True)
    backend = RobosuiteBackend(task)
    sources = prepare_sources(backend, task, read_demos(seeds_path("lift")), spec).sources
    seen: dict[int, float] = {}
    for result in run_attempts(backend, task, sources, spec, range(MEMORY_ATTEMPTS)):
        if (result.index + 1) % 100 == 0:
            seen[result.index + 1] = _resident_mib()
    first, last, most = seen[100], seen[MEMORY_ATTEMPTS], max(seen.values())
    facts["facts"][f"resident memory over {MEMORY_ATTEMPTS} attempts (lift)"] = (
        f"{first:.0f} MiB after 100, {last:.0f} MiB after {MEMORY_ATTEMPTS}, never above {most:.0f} MiB"
    )


def overhead(facts: dict[str, Any]) -> None:
    """Share of an attempt's wall time outside robosuite's control step, for both control modes, side by side."""
    import time

    from factory.demos import read_demos
    from factory.replay import run_attempts
    from factory.sources import prepare_sources
    from factory.specs import GenerationSpec
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from sim_tasks.catalog import find_task
    from workers.generate import seeds_path

    task, spec = find_task("stack"), GenerationSpec(seed=1, use_symmetry=True, paced_bridge=True)
    shares: dict[str, list[float]] = {"robosuite": [], "exact": []}
    paces: dict[str, list[float]] = {"robosuite": [], "exact": []}
    backends = {mode: RobosuiteBackend(task, control_mode=mode) for mode in shares}  # type: ignore[arg-type]
    sources = prepare_sources(backends["exact"], task, read_demos(seeds_path("stack")), spec).sources
    for index in range(10):
        for mode, backend in backends.items():
            began, inside = time.perf_counter(), backend.simulator_seconds
            result = next(run_attempts(backend, task, sources, spec, [index]))
            wall = time.perf_counter() - began
            if index:  # the first attempt compiles
                shares[mode].append(1.0 - (backend.simulator_seconds - inside) / wall)
                paces[mode].append(1e3 * wall / len(result))
    for mode, values in shares.items():
        values.sort()
        facts["facts"][f"time outside the control step, control mode {mode}"] = (
            f"median {100 * values[len(values) // 2]:.1f} % ({100 * values[0]:.1f}-{100 * values[-1]:.1f})"
        )
    ratios = sorted(a / b for a, b in zip(paces["robosuite"], paces["exact"], strict=True))
    facts["facts"]["wall time per control step, robosuite's step / exact path, paired"] = (
        f"median {ratios[len(ratios) // 2]:.2f} x ({ratios[0]:.2f}-{ratios[-1]:.2f})"
    )


def digest(facts: dict[str, Any]) -> None:
    """Make one dataset with one worker and with two, videos included."""
    digests: dict[int, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for workers in (1, 2):
            out = Path(folder, f"w{workers}")
            _factory("generate", "stack", "--episodes", "10", "--seed", "5", "--workers", str(workers), "--size", "64",
                     "--preset", "fast", "--out", str(out))  # fmt: skip
            from factory.dataset_reading import dataset_digest

            digests[workers] = dataset_digest(out, videos=True)
    equal = "equal" if digests[1] == digests[2] else "DIFFERENT"
    facts["facts"]["digest of 10 stack episodes with videos, 1 and 2 workers"] = f"{equal}: {digests[1][:16]}"


def replay(facts: dict[str, Any]) -> None:
    """Make 50 episodes and replay each in a fresh process, from actions and from the seed."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "fifty")
        _factory("generate", "stack", "--episodes", "50", "--seed", "9", "--cameras", "", "--out", str(out))
        results = json.loads(_factory("replay", str(out), "--json"))
        for way in ("actions", "seed"):
            chosen = [r for r in results if r["way"] == way]
            equal = sum(r["equal"] for r in chosen)
            facts["facts"][f"replay of 50 stack episodes from {way}"] = f"{equal} of {len(chosen)} bit-equal"
        facts["facts"]["one byte of an action flipped"] = _flip_and_replay(out)


def _flip_and_replay(out: Path) -> str:
    """Change one bit of one action in the parquet file and say what `factory replay` says."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = out / "data/chunk-000/file-000.parquet"
    table = pq.read_table(path)
    rows = table.column("action").to_pylist()
    rows[40][0] = float(np.nextafter(np.float32(rows[40][0]), np.float32(2)))
    field = table.schema.get_field_index("action")
    changed = table.set_column(field, table.schema.field(field), pa.array(rows, table.schema.field(field).type))
    lengths = [pq.ParquetFile(path).metadata.row_group(i).num_rows for i in range(pq.ParquetFile(path).num_row_groups)]
    with pq.ParquetWriter(path, changed.schema, use_dictionary=False) as writer:
        start = 0
        for length in lengths:
            writer.write_table(changed.slice(start, length), row_group_size=length)
            start += length
    done = subprocess.run([_command(), "replay", f"{out}:0"], capture_output=True, text=True, check=False)
    said = (done.stderr + done.stdout).strip().splitlines()[-1].replace(str(out.parent), "").replace("|", "/")
    return f"exit code {done.returncode}: {said}"


def _factory(*arguments: str) -> str:
    done = subprocess.run([_command(), *arguments], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stderr)
    return done.stdout


def _command() -> str:
    return shutil.which("factory", path=str(Path(sys.executable).parent)) or "factory"


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


PARTS: dict[str, Callable[[dict[str, Any]], None]] = {
    "boundaries": boundaries,
    "overhead": overhead,
    "digest": digest,
    "replay": replay,
    "memory": memory,
}

if __name__ == "__main__":
    main()
