"""Fills docs/benchmarks/bench.json and its picture by runs of `factory bench`; then run `tests.benchmarks.table`.

    FACTORY_DEMOS_DIR=... python -m tests.benchmarks.speed [--only stack]

A run replaces its own entry. Run it on a machine that does nothing else; it takes some twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from workers.bench import BenchRequest, bench, parts_without
from workers.bench_plot import picture

RESULTS = Path("docs/benchmarks/bench.json")
PLOT = Path("docs/images/bench.svg")


def runs() -> dict[str, BenchRequest]:
    """Return the runs by name: a task's shipped seeds, or MimicGen's own sources with its settings."""
    peer = Path(os.environ.get("FACTORY_DEMOS_DIR", "demos")) / "mimicgen_sources"
    no_pictures = parts_without(["scenes", "cameras", "render"])
    return {
        "stack": BenchRequest(task="stack"),
        "square": BenchRequest(task="square", parts=no_pictures),
        "stack, MimicGen's sources and settings": BenchRequest(
            task="stack", demos=(peer / "stack_src.hdf5",), mimicgen_settings=True, parts=parts_without(["scenes"])
        ),
    }


def main() -> None:
    """Run all, or one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="")
    only = parser.parse_args().only
    for name, request in runs().items():
        if only in ("", name):
            facts = bench(request, tell=lambda what: print(what, flush=True))
            kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            RESULTS.write_text(json.dumps(kept | {name: facts}, indent=1) + "\n")
            if name == "stack":
                PLOT.write_text(picture(facts), encoding="utf-8")
            print(name, "done", flush=True)


if __name__ == "__main__":
    main()
