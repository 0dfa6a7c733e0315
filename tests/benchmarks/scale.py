"""A million attempts, ten thousand episodes, one worker more: what grows, and how.

    python -m tests.benchmarks.scale attempts     10 000, 100 000 and a million attempts through book and finalising
    python -m tests.benchmarks.scale finalise     datasets of 1 000, 3 000 and 10 000 episodes with two cameras
    python -m tests.benchmarks.scale book         what dispatcher and job book add to an attempt, processes and all
    python -m tests.benchmarks.scale workers      CPU time and memory of `stack` attempts with one worker and two
    python -m tests.benchmarks.scale startup      from the command to the first finished attempt
    python -m tests.benchmarks.scale render       docs/scale.md from the rows

Every run appends rows to docs/benchmarks/scale.jsonl and leaves out what is there, so an interrupted command is simply
given again. Attempts and pictures are stubs (see tests/stub_workers.py) except where physics is named.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from api import jobs
from api.database import Database, sqlite_url
from api.specs import JobSpec, SourceFile
from api.stats import stats_of
from api.store import Store
from factory.durable import sha256_file
from factory.specs import GenerationSpec, RenderSpec
from tests import chaos, postgres, stub_workers, tower
from tests.stub_workers import LinkedShards, StubTransport, every, template
from workers import local, processes
from workers.dispatcher import Dispatcher
from workers.finish import finalize
from workers.generate import Request, asked_for, seeds_path
from workers.local import LocalTransport
from workers.worker import shards_key, source_key

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "docs" / "benchmarks" / "scale.jsonl"
PAGE = ROOT / "docs" / "scale.md"
MB = 1 << 20
RENDER = RenderSpec(cameras=("agentview", "wrist"), width=84, height=84)
KEEP = 100
"""Of a million attempts one in so many is kept: ten thousand episodes."""


def rows(what: str) -> list[dict[str, Any]]:
    """Return the rows there are of a kind."""
    if not ROWS.exists():
        return []
    found = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    return [row for row in found if row["what"] == what]


def put(what: str, **facts: Any) -> None:
    """Append a row and show it."""
    row = {"what": what, "machine": f"{platform.machine()}, {os.cpu_count()} cores", **facts}
    chaos.write_row(ROWS, row)
    print(json.dumps({k: v for k, v in row.items() if k != "machine"}), flush=True)


def resident_mb(pid: int | str = "self", what: str = "VmRSS") -> float:
    """Return the memory of a process in MiB; "VmHWM" is the most it ever had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _call(pipe: Any, target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    processes.die_with_parent()
    pipe.send(target(*arguments))


def apart(target: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return what a function returns in a process of its own, whose memory is nobody else's."""
    ours, theirs = processes.SPAWN.Pipe()
    process = processes.SPAWN.Process(target=_call, args=(theirs, target, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise RuntimeError(f"{target.__name__}{arguments} ended with exit code {process.exitcode}") from None
    finally:
        process.join()


# --- attempts ---------------------------------------------------------------------------------------------------------


def enter(database: Database, store: Store, *, attempts: int, render: RenderSpec | None = None) -> str:
    """Enter a job at `stack` whose demonstrations and scene are in the store."""
    if not store.exists(source_key("0" * 64)):
        with tempfile.TemporaryDirectory() as folder:
            (model := Path(folder, "model.xml")).write_text("<mujoco/>")
            store.put(tower.write_demonstrations(Path(folder, "demos.hdf5"), count=1), source_key("0" * 64))
            store.put(model, "model.xml")
    spec = JobSpec(
        task="stack",
        sources=(SourceFile(name="demos.hdf5", sha256="0" * 64),),
        attempts=attempts,
        generation=GenerationSpec(),
        render=render,
    )
    with database.transaction() as session:
        job_id = jobs.create(session, spec).id
    with store.checkout("model.xml") as path, tempfile.TemporaryDirectory() as folder:
        (copy := Path(folder, "model.xml")).write_bytes(path.read_bytes())
        store.put(copy, f"jobs/{job_id}/models/{stub_workers.EXECUTOR['model_sha']}.xml")
    return job_id


def pass_through(
    folder: Path, url: str, attempts: int, keep: int, shard: Path | None, render: RenderSpec | None
) -> dict[str, Any]:
    """Send a job through dispatcher and book up to its finalising; what it took."""
    database, store = Database(url), Store(folder / "store")
    database.migrate()
    job_id = enter(database, store, attempts=attempts, render=render)
    place = store.path(shards_key(job_id))
    assert place is not None
    transport = StubTransport(
        keeps=every(keep),
        shards=LinkedShards(shard, place) if shard else None,
        capabilities=("simulate", "render") if render else ("simulate",),
    )
    dispatcher = Dispatcher(database, store, [transport])
    marks = {attempts // 10: 0.0, attempts: 0.0}
    cpu, begun = time.process_time(), time.monotonic()

    def over(session: Any) -> bool:
        job = jobs.get(session, job_id)
        for mark, seen in marks.items():
            if job.attempted >= mark and not seen:
                marks[mark] = resident_mb()
        return job.status not in (*jobs.TRYING, "validating", "rendering")

    dispatcher.run(over)
    cpu, wall = time.process_time() - cpu, time.monotonic() - begun
    dispatcher.close()
    with database.reading() as session:
        job = jobs.get(session, job_id)
        asked = time.process_time()
        stats_of(session, job)
        asked = time.process_time() - asked
    database.close()
    return {
        "job": job_id,
        "attempts": job.attempted,
        "kept": job.succeeded,
        "cpu_ms": round(1000 * cpu / attempts, 3),
        "wall_ms": round(1000 * wall / attempts, 3),
        "rss_at_a_tenth_mb": round(marks[attempts // 10], 1),
        "rss_mb": round(marks[attempts], 1),
        "most_rss_mb": round(resident_mb(what="VmHWM"), 1),
        "stats_s": round(asked, 3),
    }


def finish(folder: Path, url: str, job_id: str) -> dict[str, Any]:
    """Finalise a job as a worker would; what it took."""
    database = Database(url)
    before = resident_mb()
    cpu, begun = time.process_time(), time.monotonic()
    found = finalize(database, Store(folder / "store"), job_id)
    database.close()
    return {
        "episodes": found["datasets"][0]["episodes"],
        "cpu_s": round(time.process_time() - cpu, 2),
        "wall_s": round(time.monotonic() - begun, 1),
        "rss_before_mb": round(before, 1),
        "most_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "dataset_mb": round(found["datasets"][0]["bytes"] / MB, 1),
        "root": str(folder / "store" / found["datasets"][0]["key"]),
    }


@contextmanager
def book_of(kind: str, folder: Path, server: str | None) -> Iterator[str]:
    """Lend the URL of an empty job book."""
    if kind == "sqlite":
        yield sqlite_url(folder / "book.db")
        return
    assert server is not None
    with postgres.fresh_database(server, f"scale_{os.getpid()}") as url:
        yield url


def book_bytes(kind: str, folder: Path, url: str) -> int:
    """Return what the book takes on the disk."""
    if kind == "sqlite":
        return (folder / "book.db").stat().st_size
    database = Database(url)
    with database.reading() as session:
        size = session.connection().exec_driver_sql("SELECT pg_total_relation_size('attempts')").scalar_one()
    database.close()
    return int(size)


def attempts(options: argparse.Namespace) -> None:
    """Attempts through dispatcher, book and finalising, one in a hundred kept."""
    cases = [("sqlite", n) for n in options.sizes] + [("postgresql", n) for n in options.postgresql]
    for kind, n in cases:
        there, whole = ({(r["database"], r["asked"]) for r in rows(what)} for what in ("attempts", "attempts_dataset"))
        if (kind, n) in there & whole:
            continue
        with tempfile.TemporaryDirectory(prefix="scale-") as made, _server(kind) as server:
            folder = Path(made)
            shard = template(folder / "template", rows=150)
            with book_of(kind, folder, server) as url:
                facts = apart(pass_through, folder, url, n, KEEP, shard, None)
                if (kind, n) not in there:
                    each = round(book_bytes(kind, folder, url) / n)
                    said = {k: v for k, v in facts.items() if k != "job"}
                    put("attempts", database=kind, asked=n, **said, bytes_per_attempt=each)
                made_of = apart(finish, folder, url, facts["job"])
                put("attempts_dataset", database=kind, asked=n, **{k: v for k, v in made_of.items() if k != "root"})


@contextmanager
def _server(kind: str) -> Iterator[str | None]:
    if kind == "sqlite":
        yield None
        return
    with postgres.server() as url:
        yield url


def finalise(options: argparse.Namespace) -> None:
    """Datasets of many episodes with pictures, from shards that share one episode's files."""
    there = {r["asked"] for r in rows("finalise")}
    for n in options.sizes:
        if n in there:
            continue
        with tempfile.TemporaryDirectory(prefix="scale-") as made:
            folder = Path(made)
            shard = template(folder / "template", rows=150, cameras=RENDER.cameras, render=RENDER)
            url = sqlite_url(folder / "book.db")
            facts = apart(pass_through, folder, url, n, 1, shard, RENDER)
            made_of = apart(finish, folder, url, facts["job"])
            put("finalise", asked=n, **{k: v for k, v in made_of.items() if k != "root"})


# --- what the book adds -----------------------------------------------------------------------------------------------


def cpu_of(target: Callable[..., None], *arguments: Any) -> float:
    """Return the CPU seconds of a process and everything it started."""
    before = os.times()
    apart(_nothing_but, target, arguments)
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system)


def _nothing_but(target: Callable[..., None], arguments: tuple[Any, ...]) -> dict[str, Any]:
    target(*arguments)
    return {}


def with_book(spec: JobSpec, store_url: str, url: str, workers: int, stubbed: bool) -> dict[str, Any]:
    """Run attempts with job book, dispatcher and workers; return what the workers held, in MiB."""
    database, store = Database(url), Store(store_url)
    database.migrate()
    if stubbed:
        local.serve = stub_workers.serve_stubbed
    with database.transaction() as session:
        job_id = jobs.create(session, spec).id
    transport = LocalTransport(store.url, workers=workers, database_url=url, capabilities=("simulate",))
    dispatcher = Dispatcher(database, store, [transport])
    dispatcher.run(lambda session: jobs.get(session, job_id).status not in (*jobs.TRYING, "validating"))
    held = [resident_mb(child.process.pid or 0, "VmHWM") for child in transport._children.values()]
    dispatcher.close()
    database.close()
    return {"worker_mb": [round(mb, 1) for mb in held]}


def without_book(spec: JobSpec, store_url: str, workers: int, stubbed: bool) -> None:
    """Run the same attempts by the same number of workers in a bare loop."""
    arguments = [(spec, store_url, which, workers, stubbed) for which in range(workers)]
    both = [processes.SPAWN.Process(target=bare_worker, args=a) for a in arguments]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0


def bare_worker(spec: JobSpec, store_url: str, which: int, workers: int, stubbed: bool) -> None:
    """One worker of a bare loop: the same bench, nobody to tell."""
    processes.become_worker()
    if stubbed:
        stub_workers.stub_attempts()
    from api.leases import Work
    from workers.worker import Bench

    bench = Bench(Store(store_url), worker=str(which))
    work = Work(
        unit=1,
        epoch=1,
        kind="simulate",
        job_id="job_bare",
        indices=tuple(range(which, spec.limit, workers)),
        payload={"spec": spec.to_json(), "purpose": "generate"},
    )
    for answer in bench.run(work):
        assert not hasattr(answer, "message"), answer
    bench.close()


def staged(task: str, attempts: int, folder: Path) -> tuple[JobSpec, Store]:
    """Put the demonstrations of a task into a store of its own; return what to ask for."""
    store = Store(folder / "store")
    if task == "towers":
        demos = tower.write_demonstrations(folder / "towers.hdf5")
        request = tower.request(Path("unused"), demos, attempts=attempts)
    else:
        demos = seeds_path(task)
        request = Request(
            task=task, out=Path("unused"), attempts=attempts, generation=GenerationSpec(seed=2026), render=None
        )
    (copy := folder / "copy.hdf5").write_bytes(demos.read_bytes())
    sha256 = sha256_file(copy)
    store.put(copy, source_key(sha256))
    return asked_for(request, [SourceFile(name=demos.name, sha256=sha256)]), store


def side(name: str, attempts: int, workers: int, pace_s: float) -> float:
    """Return the CPU seconds of stubbed attempts with the book or without."""
    with tempfile.TemporaryDirectory(prefix="scale-") as made:
        folder = Path(made)
        spec, store = staged("towers", attempts, folder)
        os.environ[stub_workers.PACE] = str(pace_s)
        if name == "bare":
            return cpu_of(without_book, spec, store.url, workers, True)
        return cpu_of(with_book, spec, store.url, sqlite_url(folder / "book.db"), workers, True)


def book(options: argparse.Namespace) -> None:
    """What dispatcher and book add to an attempt: CPU of all processes, stubbed attempts at a steady pace.

    Each side runs few and many attempts; the difference is what the many cost, and starting is in neither.
    """
    few, many = options.few, options.many
    for pace_s in options.paces:
        done = sum(r["pace_s"] == pace_s for r in rows("book"))
        for pair in range(done, options.pairs):
            seconds: dict[str, float] = {}
            for name in ("book", "bare") if pair % 2 else ("bare", "book"):
                seconds[name] = side(name, many, 2, pace_s) - side(name, few, 2, pace_s)
            each = {name: 1000 * value / (many - few) for name, value in seconds.items()}
            put(
                "book",
                pace_s=pace_s,
                pair=pair,
                attempts=many - few,
                with_book_ms=round(each["book"], 3),
                bare_ms=round(each["bare"], 3),
                book_ms=round(each["book"] - each["bare"], 3),
            )


# --- one worker more --------------------------------------------------------------------------------------------------


def crew(task: str, attempts: int, workers: int) -> tuple[float, list[float]]:
    """Return the CPU seconds of real attempts by so many workers, and what each worker held."""
    with tempfile.TemporaryDirectory(prefix="scale-") as made:
        folder = Path(made)
        spec, store = staged(task, attempts, folder)
        before = os.times()
        found = apart(with_book, spec, store.url, sqlite_url(folder / "book.db"), workers, False)
        after = os.times()
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return spent, found["worker_mb"]


def workers(options: argparse.Namespace) -> None:
    """CPU seconds and memory of real attempts with one worker and with two, in turn."""
    few, many = options.few, options.many
    done = sum(r["task"] == options.task for r in rows("workers"))
    for pair in range(done, options.pairs):
        each: dict[int, float] = {}
        memory: dict[int, list[float]] = {}
        grown: dict[int, float] = {}
        for count in (1, 2) if pair % 2 else (2, 1):
            # Each worker has its own few attempts to become warm, so that starting is subtracted for all of them.
            short, before = crew(options.task, few * count, count)
            long, memory[count] = crew(options.task, few * count + many, count)
            each[count] = (long - short) / many
            grown[count] = max(memory[count]) - max(before)
        put(
            "workers",
            task=options.task,
            pair=pair,
            attempts=many,
            one_s=round(each[1], 4),
            two_s=round(each[2], 4),
            percent=round(100 * (each[2] / each[1] - 1), 1),
            one_worker_mb=memory[1],
            two_workers_mb=memory[2],
            grown_mb={str(count): round(mb, 1) for count, mb in grown.items()},
        )


# --- the start --------------------------------------------------------------------------------------------------------


def first_attempt(task: str, folder: Path) -> dict[str, Any]:
    """Return the seconds from the command to the first row, and the CPU seconds of all processes until it ended."""
    out = folder / "dataset"
    command = [sys.executable, "-m", "workers", "generate", task, "--attempts", "2", "--cameras", "", "--workers", "1"]
    before, begun = os.times(), time.monotonic()
    process = subprocess.Popen([*command, "--out", str(out)], stdout=subprocess.DEVNULL, cwd=ROOT)
    book_file, seen = out.with_name(out.name + ".work") / "book.db", 0.0
    while not seen and process.poll() is None:
        time.sleep(0.01)
        if book_file.exists():
            try:
                with sqlite3.connect(f"file:{book_file}?mode=ro", uri=True) as book:
                    if book.execute("SELECT count(*) FROM attempts").fetchone()[0]:
                        seen = time.monotonic() - begun
            except sqlite3.OperationalError:
                continue
    process.wait()
    after = os.times()
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return {"first_attempt_s": round(seen, 2), "cpu_s": round(spent, 2)}


def startup(options: argparse.Namespace) -> None:
    """From the command to the first finished attempt; the first run warms the caches and is not kept."""
    done = sum(r["task"] == options.task for r in rows("startup"))
    for number in range(done or -1, options.times):
        with tempfile.TemporaryDirectory(prefix="scale-") as made:
            facts = first_attempt(options.task, Path(made))
        if number >= 0:
            put("startup", task=options.task, load=round(os.getloadavg()[0], 1), **facts)


# --- the page ---------------------------------------------------------------------------------------------------------

HEAD = """# Scale

Written from `benchmarks/scale.jsonl` by `python -m tests.benchmarks.scale render`. Short forms of what can be held by
a test run in `make test` (`tests/test_scale.py`). Attempts and pictures are stubs except where physics is named: one
recorded episode's files, linked, under documents of their own. CPU time is that of the processes named; the machine is
shared, so wall time is not shown where CPU time says it.
"""


def render(_options: argparse.Namespace) -> None:
    """Write docs/scale.md."""
    known = {
        "attempts": _attempts_part,
        "finalise": _finalise_part,
        "book": _book_part,
        "workers": _workers_part,
        "startup": _startup_part,
    }
    parts = [part() for what, part in known.items() if rows(what)]
    PAGE.write_text("\n".join([HEAD, *(line for part in parts for line in part)]).rstrip() + "\n", encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


def _table(heads: list[str], lines: list[list[Any]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        "|" + "---|" * len(heads),
        *(f"| {' | '.join(map(str, c))} |" for c in lines),
        "",
    ]


def _attempts_part() -> list[str]:
    datasets = {(r["database"], r["asked"]): r for r in rows("attempts_dataset")}
    lines = [
        [
            r["database"],
            f"{r['attempts']:,}",
            f"{r['kept']:,}",
            f"{r['cpu_ms']:.2f} ms",
            f"{r['rss_at_a_tenth_mb']:.0f} / {r['rss_mb']:.0f} MiB",
            f"{r['bytes_per_attempt']:,}",
            f"{r['stats_s']:.2f} s",
            *_made(datasets.get((r["database"], r["asked"]))),
        ]
        for r in rows("attempts")
    ]
    heads = [
        "database",
        "attempts",
        "kept",
        "CPU per attempt",
        "dispatcher at a tenth / at the end",
        "bytes per attempt",
    ]
    heads += ["asking for statistics", "finalising, CPU", "finalising, most memory"]
    return ["## Attempts", "", *_table(heads, lines)]


def _made(row: dict[str, Any] | None) -> list[str]:
    return [f"{row['cpu_s']:.0f} s", f"{row['most_rss_mb']:.0f} MiB"] if row else ["not measured"] * 2


def _finalise_part() -> list[str]:
    lines = [
        [
            f"{r['episodes']:,}",
            f"{r['cpu_s']:.0f} s",
            f"{1000 * r['cpu_s'] / r['episodes']:.1f} ms",
            f"{r['rss_before_mb']:.0f} MiB",
            f"{r['most_rss_mb']:.0f} MiB",
            f"{r['dataset_mb']:.0f} MiB",
        ]
        for r in sorted(rows("finalise"), key=lambda r: r["asked"])
    ]
    heads = ["episodes", "CPU", "CPU per episode", "memory before", "most memory", "dataset"]
    note = "Two cameras of 84 x 84, 150 rows an episode. No picture is encoded or decoded while a dataset is written."
    return ["## Finalising", "", *_table(heads, lines), note, ""]


def _book_part() -> list[str]:
    found = rows("book")
    lines = []
    for pace in sorted({r["pace_s"] for r in found}):
        mine = [r for r in found if r["pace_s"] == pace]
        extra = [r["book_ms"] for r in mine]
        bare, served = (statistics.median(r[k] for r in mine) for k in ("bare_ms", "with_book_ms"))
        spread = f"{statistics.median(extra):.2f} ms ({min(extra):.2f} to {max(extra):.2f})"
        lines.append([f"{pace} s", len(mine), f"{bare:.2f} ms", f"{served:.2f} ms", spread])
    heads = ["an attempt takes", "pairs", "bare loop", "with dispatcher and book", "they add: median (least to most)"]
    note = "CPU time per attempt of all processes, two workers, SQLite; attempts sleep, kept ones are stored."
    return ["## What the job book adds", "", *_table(heads, lines), note, ""]


def _workers_part() -> list[str]:
    found = rows("workers")
    lines = []
    for task in dict.fromkeys(r["task"] for r in found):
        mine = [r for r in found if r["task"] == task]
        one, two = (statistics.median(r[k] for r in mine) for k in ("one_s", "two_s"))
        percent = [r["percent"] for r in mine]
        more = f"{statistics.median(percent):+.1f} % ({min(percent):+.1f} to {max(percent):+.1f})"
        memory = [f"{max(max(r[k]) for r in mine):.0f} MiB" for k in ("one_worker_mb", "two_workers_mb")]
        lines.append([task, len(mine), f"{one:.3f} s", f"{two:.3f} s", more, *memory])
    heads = [
        "task",
        "alternations",
        "one worker",
        "two workers",
        "more: median (least to most)",
        "most memory, one",
        "of each of two",
    ]
    return ["## One worker more", "", *_table(heads, lines)]


def _startup_part() -> list[str]:
    lines = []
    for task in dict.fromkeys(r["task"] for r in rows("startup")):
        mine = [r for r in rows("startup") if r["task"] == task]
        seconds = [r["first_attempt_s"] for r in mine]
        load = f"{min(r['load'] for r in mine)} to {max(r['load'] for r in mine)}"
        spread = f"{statistics.median(seconds):.1f} s ({min(seconds):.1f} to {max(seconds):.1f})"
        lines.append([task, len(mine), spread, f"{statistics.median(r['cpu_s'] for r in mine):.1f} s", load])
    heads = [
        "task",
        "runs",
        "wall time: median (least to most)",
        "CPU of the whole run of 2 attempts",
        "load of the machine",
    ]
    return ["## From the command to the first finished attempt", "", *_table(heads, lines)]


def main() -> None:
    """Run one of the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    whole: dict[str, Any] = {"type": int, "nargs": "*"}
    for name, run, arguments in (
        ("attempts", attempts, {"--sizes": [10_000, 100_000, 1_000_000], "--postgresql": [100_000]}),
        ("finalise", finalise, {"--sizes": [1_000, 3_000, 10_000]}),
        ("book", book, {"--pairs": 5, "--few": 40, "--many": 440, "--paces": [0.12, 0.5]}),
        ("workers", workers, {"--pairs": 5, "--task": "stack", "--few": 5, "--many": 60}),
        ("startup", startup, {"--times": 5, "--task": "stack"}),
        ("render", render, {}),
    ):  # fmt: skip
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(run=run)
        for option, value in arguments.items():
            many = {**whole, "type": type(value[0])} if isinstance(value, list) else {"type": type(value)}
            command.add_argument(option, default=value, **many)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    sys.exit(main())
