"""Thousands of damaged uploads: what becomes of each.

    python -m tests.benchmarks.uploads --mutations 20000

Every crafted file once, then copies with a few bytes changed: of a shipped seed file, of a small file without
compression (where more of the bytes are structure), and of files that point at the canary. One row is appended for
each, so an interrupted run goes on where it stopped; the summary comes at the end.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py

from api.sandbox import CODES, Sandbox
from factory.durable import write_json
from tests.hostile import CRAFTED, Canary, craft, good_bytes, leaks, mutated, place_canary

ROOT = Path(__file__).resolve().parents[2]
POINTING = ("external link: actions", "external link: data", "external storage: actions", "virtual: actions")


def uploads(mutations: int, folder: Path, canary: Canary) -> Iterator[tuple[str, bytes]]:
    """Yield a name and the bytes of every file of the run, in a fixed order."""
    for name in CRAFTED:
        craft(name, folder / "crafted", canary)
        yield f"crafted {name}", (folder / "crafted").read_bytes()
    pointing = []
    for name in POINTING:
        craft(name, folder / "crafted", canary)
        pointing.append((folder / "crafted").read_bytes())
    sources = [("seed", (ROOT / "sim_tasks" / "seeds" / "lift.hdf5").read_bytes()), ("small", good_bytes())]
    # Five, because `mutated` chooses its way by the index modulo eight.
    sources += [sources[0], ("pointing", b""), sources[0]]
    for i in range(mutations):
        kind, good = sources[i % len(sources)]
        yield f"{kind} {i}", mutated(good or pointing[i // len(sources) % len(pointing)], i)


def check_all(mutations: int, rows_path: Path) -> None:
    """Append a row for every file that has none."""
    rows_path.parent.mkdir(parents=True, exist_ok=True)
    done = {row["name"] for row in read_rows(rows_path)}
    with tempfile.TemporaryDirectory() as made, Sandbox() as sandbox, rows_path.open("a") as out:
        folder = Path(made)
        canary = place_canary(folder / "outside")
        upload, canonical = folder / "upload", folder / "out" / "canonical.hdf5"
        for number, (name, content) in enumerate(uploads(mutations, folder, canary)):
            if name in done:
                continue
            upload.write_bytes(content)
            canonical.unlink(missing_ok=True)
            started = time.monotonic()
            verdict = sandbox.check(upload, canonical, name="upload.hdf5")
            row = {
                "name": name,
                "code": verdict.code,
                "seconds": round(verdict.seconds, 4),
                "cpu_s": round(verdict.cpu_seconds, 4),
                "wall_s": round(time.monotonic() - started, 4),
                "rss_mib": verdict.peak_rss_bytes >> 20,
                "leak": leaks(verdict, canonical),
                "unexpected": "unexpected" in verdict.message or "Errno" in verdict.message,
                "message": "" if verdict.code in ("ok", "refused", "unreadable") else verdict.message,
                "level": sandbox.level,
            }
            out.write(json.dumps(row) + "\n")
            out.flush()
            if number % 1000 == 0:
                print(f"{number} files, last: {name} {verdict.code}", flush=True)


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows written so far; half a last line is dropped."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    whole = [line for line in lines if line.endswith("\n")]
    if whole != lines:
        path.write_text("".join(whole))
    return [json.loads(line) for line in whole]


def summary(rows: list[dict[str, Any]], mutations: int) -> dict[str, Any]:
    """Return the figures that are published."""
    groups = {
        kind: [r for r in rows if r["name"].split()[0] == kind] for kind in ("crafted", "seed", "small", "pointing")
    }
    counted = {kind: Counter(r["code"] for r in group) for kind, group in groups.items()}
    slowest, largest = max(rows, key=lambda r: r["seconds"]), max(rows, key=lambda r: r["rss_mib"])
    wall_s = sum(r["wall_s"] for r in rows)
    return {
        "command": f"python -m tests.benchmarks.uploads --mutations {mutations}",
        "files": len(rows),
        "by_code": {code: sum(c[code] for c in counted.values()) for code in CODES},
        "by_kind": {kind: dict(sorted(c.items())) for kind, c in counted.items()},
        "crashes": [r["name"] for r in rows if r["code"] == "crashed"],
        "too_slow": [r["name"] for r in rows if r["code"] == "too_slow"],
        "leaks": [r["name"] for r in rows if r["leak"]],
        "unexpected_exceptions": [r["name"] for r in rows if r["unexpected"]],
        "max_seconds": slowest["seconds"],
        "max_seconds_at": slowest["name"],
        "max_cpu_s": max(r["cpu_s"] for r in rows),
        "max_rss_mib": largest["rss_mib"],
        "max_rss_at": largest["name"],
        "wall_s": round(wall_s, 1),
        "files_per_s": round(len(rows) / wall_s, 1),
        "level": rows[-1]["level"],
        "python": platform.python_version(),
        "h5py": h5py.version.version,
        "hdf5": h5py.version.hdf5_version,
    }


def main() -> int:
    """Run, write the summary, and return 1 when the canary was heard or an exception was not foreseen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutations", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "uploads.json")
    parser.add_argument("--rows", type=Path, default=ROOT / "work" / "uploads.jsonl", help="one line per file")
    options = parser.parse_args()
    check_all(options.mutations, options.rows)
    said = summary(read_rows(options.rows), options.mutations)
    write_json(options.out, said)
    print(json.dumps(said, indent=2))
    return 1 if said["leaks"] or said["unexpected_exceptions"] else 0


if __name__ == "__main__":
    sys.exit(main())
