"""The long forms of `tests/test_reliability.py`: thousands of deaths, every write that can fail, and what it all costs.

    python -m tests.benchmarks.reliability kills --total 1000       {sqlite, postgresql} x {local, ray}, a quarter each
    python -m tests.benchmarks.reliability stack --total 40         the same on attempts with physics
    python -m tests.benchmarks.reliability moments --times 20       every named moment
    python -m tests.benchmarks.reliability faults                   every write of a run, ENOSPC and EIO
    python -m tests.benchmarks.reliability disk --times 40          a disk of 8 MB, filled and freed
    python -m tests.benchmarks.reliability api --times 50           the API alone, on both databases, while it is asked
    python -m tests.benchmarks.reliability overhead --pairs 5       CPU time beside a bare loop of attempts
    python -m tests.benchmarks.reliability render                   docs/reliability.md from the rows

Every run appends rows to docs/benchmarks/reliability.jsonl and leaves out what is there, so an interrupted command is
simply given again. Run them on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import random
import shutil
import statistics
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from api import jobs
from api.database import Database, sqlite_url
from api.leases import Work
from api.specs import JobSpec
from api.store import Store
from factory.dataset_reading import dataset_digest
from factory.durable import sha256_file
from factory.specs import GenerationSpec
from factory.statistics import wilson
from tests import api_storm, chaos, faulty_disk, postgres, test_disk, tower
from tests import test_reliability as short
from tests.benchmarks import estimates
from workers import generate as generating
from workers import processes
from workers.dispatcher import Dispatcher
from workers.generate import Request, generate
from workers.local import LocalTransport
from workers.worker import Bench, source_key

ROOT = Path(__file__).resolve().parents[2]
ROWS = ROOT / "docs" / "benchmarks" / "reliability.jsonl"
PAGE = ROOT / "docs" / "reliability.md"
KINDS = ("sqlite", "postgresql")
DATABASES = {"--database": ",".join(KINDS)}
ROLES = {
    "local": ("worker", "worker", "worker", "dispatcher"),
    "ray": ("worker", "worker", "worker", "helper", "raylet", "gcs_server", "dispatcher"),
}
GONE_S = {"local": 2.0, "ray": 15.0}


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
    print(json.dumps({k: v for k, v in row.items() if k not in ("what", "machine")}), flush=True)


@contextmanager
def site_of(kind: str, folder: Path, server: str | None, **options: Any) -> Iterator[chaos.Site]:
    """A fresh site."""
    if kind == "sqlite":
        with chaos.opened(folder / "site", sqlite_url(folder / "site" / "book.db"), **options) as site:
            yield site
        return
    assert server is not None
    with (
        postgres.fresh_database(server, f"chaos_{os.getpid()}") as url,
        chaos.opened(folder / "site", url, **options) as site,
    ):
        yield site


# --- random kills -----------------------------------------------------------------------------------------------------


def kill_rounds(
    what: str, combinations: Sequence[tuple[str, str]], total: int, request: Request, *, per_round: int, seed: int
) -> None:
    """Shoot at jobs until so many processes have died for every database and transport."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as made, postgres.server() as server:
        folder = Path(made)
        finished = generate(replace(request, out=folder / "undisturbed"), workers=2, watcher=tower.Watcher())
        digest = dataset_digest(finished.root)
        for kind, executor in combinations:
            mine = [r for r in rows(what) if (r["database"], r["executor"]) == (kind, executor)]
            done, number = sum(r["total"] for r in mine), len(mine)
            while done < total:
                number += 1
                facts = kill_round(
                    kind, executor, folder / f"{kind}-{executor}-{number}", server, request, digest,
                    kills=min(per_round, total - done), seed=seed + number,
                )  # fmt: skip
                put(what, database=kind, executor=executor, round=number, **facts)
                done += max(1, facts["total"])


def kill_round(
    kind: str, executor: str, folder: Path, server: str, request: Request, digest: str, *, kills: int, seed: int
) -> dict[str, Any]:
    """Shoot at one job and say what became of it; "" where nothing went wrong."""
    began, wrong = time.monotonic(), ""
    with site_of(kind, folder, server, executor=executor) as site:
        job_id = site.enter_request(request)
        site.start()
        toll = chaos.Toll(seed=seed)
        patience = 60.0 if executor == "local" else 240.0
        pause = (0.05, 0.7) if executor == "local" else (0.1, 4.0)
        try:
            toll = chaos.storm(
                site, job_id, kills=kills, seed=seed, roles=ROLES[executor], pause_s=pause, patience_s=patience
            )
            site.ended(job_id, 900.0)
            chaos.assert_sound(site, job_id, digest)
            chaos.assert_tidy(site)
            site.stop(60.0)
            chaos.assert_all_gone(site, GONE_S[executor])
        except Exception:  # noqa: BLE001 - a row says what went wrong
            wrong = traceback.format_exc()[-3000:]
        attempts = site.attempted(job_id)
    if not wrong:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        **toll.facts(),
        "total": toll.total,
        "resumed_s": [round(s, 2) for s in toll.resumed_s],
        "attempts": attempts,
        "wrong": wrong,
        "wall_s": round(time.monotonic() - began, 1),
    }


def kills(options: argparse.Namespace) -> None:
    """Random kills of everything, kinematic attempts."""
    combinations = [(k, e) for e in options.executor.split(",") for k in options.database.split(",")]
    with tempfile.TemporaryDirectory() as made:
        demos = tower.write_demonstrations(Path(made, "towers.hdf5"))
        request = tower.request(Path(made, "unused"), demos, episodes=options.episodes)
        total = -(-options.total // len(combinations))
        kill_rounds("kills", combinations, total, request, per_round=25, seed=options.seed)


def stack(options: argparse.Namespace) -> None:
    """Random kills while real physics runs."""
    request = Request(
        task="stack", out=Path("unused"), episodes=options.episodes, generation=GenerationSpec(), render=None
    )
    kill_rounds("stack", [("sqlite", "local")], options.total, request, per_round=options.total, seed=options.seed)


# --- named moments ----------------------------------------------------------------------------------------------------


def moments(options: argparse.Namespace) -> None:
    """Every named moment, three deaths a run, until there are `--times` of each."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as made, postgres.server() as server:
        folder = Path(made)
        demos = tower.write_demonstrations(folder / "towers.hdf5")
        reference = chaos.undisturbed(demos, folder)
        runs: dict[str, Callable[[chaos.Site], None]] = {
            moment: lambda site, moment=moment: short.die_at(site, reference, moment) for moment in short.MOMENTS
        }
        runs |= {
            moment: lambda site, moment=moment: short.die_cancelling(site, demos, (moment,) * 3)
            for moment in ("cancel.entered", "cancel.ended")
        }
        runs["migration.before_commit"] = lambda site: short.die_migrating(site, folder / f"m{time.monotonic_ns()}")
        for moment, run in runs.items():
            done = sum(r["deaths"] for r in rows("moments") if r["moment"] == moment and not r["wrong"])
            while done < options.times:
                kind = KINDS[(done // 3) % 2]
                wrong = ""
                with site_of(kind, folder / f"{moment}-{done}", server) as site:
                    try:
                        run(site)
                    except Exception:  # noqa: BLE001 - a row says what went wrong
                        wrong = traceback.format_exc()[-3000:]
                put("moments", moment=moment, database=kind, deaths=3, wrong=wrong)
                done += 3
                shutil.rmtree(folder / f"{moment}-{done - 3}", ignore_errors=True)


# --- the disk ---------------------------------------------------------------------------------------------------------


def faults(options: argparse.Namespace) -> None:
    """Let the n-th write of `factory generate` fail, for every n."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as made:
        folder = Path(made)
        demos = tower.write_demonstrations(folder / "tower.hdf5", count=1)
        library = faulty_disk.build(folder)
        whole = test_disk.a_disk(folder / "whole", library)
        code, said = test_disk.generate_on(whole, demos)
        assert code == 0, said
        digest, operations = dataset_digest(whole.root / "towers"), whole.seen
        there = {(r["operation"], r["error"], r["in_a_row"]) for r in rows("faults")}
        todo = [
            (n, error, count)
            for n in range(1, operations * 11 // 10, options.every)  # a run takes a few more or less
            for error in options.errors.split(",")
            for count in (1, *options.in_a_row)
            if (n, error, count) not in there
        ]
        print(f"{operations} operations, {len(todo)} runs to make")

        def one(case: tuple[int, str, int]) -> None:
            n, error, count = case
            place, wrong, became = folder / f"{error}-{n}-{count}", "", ""
            try:
                became = test_disk.fail_once(place, library, demos, digest, n, getattr(errno, error), count)
            except Exception:  # noqa: BLE001 - a row says what went wrong
                wrong = traceback.format_exc()[-3000:]
            put("faults", operation=n, error=error, in_a_row=count, became=became, wrong=wrong, operations=operations)
            shutil.rmtree(place, ignore_errors=True)

        with ThreadPoolExecutor(options.jobs) as pool:
            list(pool.map(one, todo))


def api(options: argparse.Namespace) -> None:
    """Kill the API while files are uploaded and jobs are asked for."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as made, postgres.server() as server:
        folder = Path(made)
        demos = tower.write_demonstrations(folder / "towers.hdf5")
        for kind in KINDS:
            for number in range(len([r for r in rows("api") if r["database"] == kind]), -(-options.times // 10)):
                wrong, facts = "", {}
                with site_of(kind, folder / f"api-{kind}-{number}", server, workers=1) as site:
                    try:
                        seen = api_storm.storm(site, demos, kills=10, seed=options.seed + number)
                        facts = {"deaths": seen.deaths, "cut_off": seen.cut_off, "answered": seen.statuses.total()}
                    except Exception:  # noqa: BLE001 - a row says what went wrong
                        wrong = traceback.format_exc()[-3000:]
                put("api", database=kind, seed=options.seed + number, **facts, wrong=wrong)


def disk(options: argparse.Namespace) -> None:
    """Fill a disk of a few megabytes at random moments and free it again."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as made:
        folder = Path(made)
        demos = tower.write_demonstrations(folder / "towers.hdf5")
        reference = chaos.undisturbed(demos, folder, episodes=12)
        for number in range(len(rows("disk")), -(-options.times // 4)):
            wrong = ""
            with (
                test_disk.small_disk(folder / f"disk-{number}", 12) as place,
                site_of("sqlite", place, None, workers=2) as site,
            ):
                job_id = site.enter(demos, episodes=12)
                site.start()
                try:
                    test_disk.fill_and_free(site, job_id, random.Random(options.seed + number), 4)  # noqa: S311
                    site.ended(job_id)
                    chaos.assert_sound(site, job_id, reference.digest)
                    chaos.assert_tidy(site)
                except Exception:  # noqa: BLE001 - a row says what went wrong
                    wrong = traceback.format_exc()[-3000:]
            put("disk", seed=options.seed + number, filled=4, wrong=wrong)


# --- what it costs ----------------------------------------------------------------------------------------------------


def request_of(task: str, attempts: int) -> Request:
    """Return what both sides of a pair do."""
    if task == "towers":
        demos = Path(tempfile.gettempdir(), f"towers-{os.getpid()}.hdf5")
        if not demos.exists():
            tower.write_demonstrations(demos)
        return replace(tower.request(Path("unused"), demos, attempts=attempts))
    return Request(task=task, out=Path("unused"), attempts=attempts, generation=GenerationSpec(), render=None)


def staged(request: Request, folder: Path) -> tuple[JobSpec, Store]:
    """Put a request's sources into a store of its own and return its specification."""
    store = Store(folder / "store")
    with tempfile.TemporaryDirectory() as place:
        sources = generating._canonical(request, Path(place))
        for source, path in sources:
            store.put(path, source_key(source.sha256))
    return generating.asked_for(request, [source for source, _ in sources]), store


def serve_attempts(spec: JobSpec, store_url: str, url: str, own: Path) -> None:
    """One side: job book, dispatcher and two workers, until the attempts are done.

    `own` then holds the CPU seconds of this process alone: book, dispatcher and transport, without the workers.
    """
    processes.die_with_parent()
    began = time.process_time()
    database, store = Database(url), Store(store_url)
    database.migrate()
    with database.transaction() as session:
        job_id = jobs.create(session, spec).id
    transport = LocalTransport(store.url, workers=2, database_url=url, capabilities=("simulate",))
    dispatcher = Dispatcher(database, store, [transport])
    dispatcher.run(lambda session: jobs.get(session, job_id).status not in (*jobs.TRYING, "validating"))
    dispatcher.close()
    own.write_text(str(time.process_time() - began))


def loop_attempts(spec: JobSpec, store_url: str, which: int) -> None:
    """The other side's workers: the same bench, every second attempt, nobody to tell."""
    processes.become_worker()
    bench = Bench(Store(store_url), worker=str(which))
    indices = tuple(range(which, spec.limit, 2))
    payload = {"spec": spec.to_json(), "purpose": "generate"}
    for answer in bench.run(
        Work(unit=1, epoch=1, kind="simulate", job_id="job_bare", indices=indices, payload=payload)
    ):
        assert not hasattr(answer, "message"), answer
    bench.close()


def loop(spec: JobSpec, store_url: str) -> None:
    """The other side: two workers in a bare loop."""
    processes.die_with_parent()
    both = [processes.SPAWN.Process(target=loop_attempts, args=(spec, store_url, which)) for which in (0, 1)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0


def cpu_of(target: Callable[..., None], *arguments: Any) -> float:
    """Return the CPU seconds of a process and everything it started."""
    process = processes.SPAWN.Process(target=target, args=arguments)
    before = os.times()
    process.start()
    process.join()
    after = os.times()
    assert process.exitcode == 0, f"{target.__name__} ended with exit code {process.exitcode}"
    return (after.children_user + after.children_system) - (before.children_user + before.children_system)


def side(name: str, task: str, attempts: int, kind: str, server: str | None) -> tuple[float, float]:
    """Return the CPU seconds of one side for so many attempts, and those of the dispatcher's process among them."""
    with tempfile.TemporaryDirectory(prefix="reliability-") as made:
        folder = Path(made)
        spec, store = staged(request_of(task, attempts), folder)
        if name == "bare":
            return cpu_of(loop, spec, store.url), 0.0
        own = folder / "own"
        if kind == "sqlite":
            spent = cpu_of(serve_attempts, spec, store.url, sqlite_url(folder / "book.db"), own)
        else:
            assert server is not None
            with postgres.fresh_database(server, f"cost_{os.getpid()}") as url:
                spent = cpu_of(serve_attempts, spec, store.url, url, own)
        return spent, float(own.read_text())


def overhead(options: argparse.Namespace) -> None:
    """CPU time of attempts with the service around them and without; what starting costs is subtracted on both sides.

    Each side runs the same attempts twice, few and many; the difference is what the many cost.
    """
    with postgres.server() as server:
        for task, few, many in (("lift", 10, 110), ("stack", 10, 90), ("towers", 20, 220)):
            if task not in options.task.split(","):
                continue
            for kind in KINDS if task == "towers" else KINDS[:1]:
                done = sum((r["task"], r["database"]) == (task, kind) for r in rows("overhead"))
                for pair in range(done, options.pairs):
                    seconds: dict[str, float] = {}
                    own_s = 0.0
                    # Which side comes first changes from pair to pair, so that a machine that warms up favours none.
                    for name in ("service", "bare") if pair % 2 else ("bare", "service"):
                        big, small = (side(name, task, n, kind, server) for n in (many, few))
                        seconds[name] = big[0] - small[0]
                        own_s += big[1] - small[1]
                    each = {name: value / (many - few) for name, value in seconds.items()}
                    put(
                        "overhead",
                        task=task,
                        database=kind,
                        pair=pair,
                        attempts=many - few,
                        service_s=round(each["service"], 5),
                        bare_s=round(each["bare"], 5),
                        percent=round(100 * (each["service"] / each["bare"] - 1), 2),
                        book_ms=round(1000 * (each["service"] - each["bare"]), 2),
                        own_ms=round(1000 * own_s / (many - few), 3),
                    )


# --- the page ---------------------------------------------------------------------------------------------------------


def render(_options: argparse.Namespace) -> None:
    """Write docs/reliability.md."""
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)} (rows: {sha256_file(ROWS)[:12]})")


def page() -> str:
    """Return the page."""
    parts = (_kills_part, _moments_part, _faults_part, _strangers_part, _answers_part, _estimates_part, _overhead_part)
    return "\n".join([HEAD, *(line for part in parts for line in part()), ""])


HEAD = """# What the service survives

Written from `benchmarks/reliability.jsonl` by `python -m tests.benchmarks.reliability render`. Short forms of
everything here run in `make test` (`tests/test_reliability.py`, `tests/test_book.py`).

After every run the same is asked: no attempt is missing, doubled or left over; every committed shard has the hash that
was committed and reads back; counters, events and rows agree; the database finds nothing wrong with itself; the dataset
verifies, and its digest is that of an undisturbed run; no unfinished file is left; no process is left (after 2 s, with
Ray after 15 s).
"""


def _kills_part() -> list[str]:
    lines = ["## Random SIGKILLs", "", "| attempts | database | executor | killed | jobs | went wrong | resumed, s |"]
    lines.append("|---|---|---|---|---|---|---|")
    for what, attempts in (("kills", "without physics"), ("stack", "stack, with physics")):
        found = rows(what)
        for kind, executor in sorted({(r["database"], r["executor"]) for r in found}):
            mine = [r for r in found if (r["database"], r["executor"]) == (kind, executor)]
            dead: Counter[str] = sum((Counter(r["kills"]) for r in mine), Counter())
            killed = f"{dead.total()} ({', '.join(f'{n} {role}' for role, n in dead.most_common())})"
            wrong = sum(bool(r["wrong"]) for r in mine)
            resumed = [s for r in mine for s in r["resumed_s"]]
            times = f"median {statistics.median(resumed):.1f}, most {max(resumed):.1f}" if resumed else "-"
            lines.append(f"| {attempts} | {kind} | {executor} | {killed} | {len(mine)} | {wrong} | {times} |")
    note = (
        "Resumed: from the death of the dispatcher to the next commit, its start and that of its workers included. An "
        "attempt whose worker was shot twice already is spared: a third time would make it `infra_poison`, by design."
    )
    told = [r for r in rows("api") if not r["wrong"]]
    lines += ["", note, ""]
    if rows("api"):
        lines.append(
            f"The API alone, killed {sum(r['deaths'] for r in told)} times (SQLite and PostgreSQL) while a caller "
            f"uploaded files and asked for jobs by name: {sum(r['cut_off'] for r in told)} requests were cut off and "
            f"repeated, {sum(r['answered'] for r in told)} were answered; jobs missing or doubled: 0, rounds that went "
            f"wrong: {len(rows('api')) - len(told)}."
        )
    return [*lines, ""]


def _moments_part() -> list[str]:
    lines = ["## Deaths at named moments", "", "| moment | deaths | went wrong |", "|---|---|---|"]
    found = rows("moments")
    for moment in dict.fromkeys(r["moment"] for r in found):
        mine = [r for r in found if r["moment"] == moment]
        lines.append(f"| `{moment}` | {sum(r['deaths'] for r in mine)} | {sum(bool(r['wrong']) for r in mine)} |")
    return [*lines, ""]


def _faults_part() -> list[str]:
    lines = ["## Writes that fail", ""]
    found = rows("faults")
    if found:
        lines += [
            "| error | in a row | runs | went on | stopped with a sentence | went wrong |",
            "|---|---|---|---|---|---|",
        ]
        for error, count in sorted({(r["error"], r["in_a_row"]) for r in found}):
            mine = [r for r in found if (r["error"], r["in_a_row"]) == (error, count)]
            became = Counter(r["became"] for r in mine)
            wrong = sum(bool(r["wrong"]) for r in mine)
            lines.append(f"| {error} | {count} | {len(mine)} | {became['went on']} | {became['stopped']} | {wrong} |")
        operations = max(r["operations"] for r in found)
        beyond = sum(r["became"] == "not reached" for r in found)
        lines += [
            "",
            f"One run of `factory generate` writes, syncs, creates or renames about {operations} times; {beyond} ",
        ]
        lines[-1] += "runs were over before their operation came."
    full = rows("disk")
    if full:
        wrong = sum(bool(r["wrong"]) for r in full)
        lines += [
            "",
            f"A disk of 12 MB was filled to the last byte and freed {4 * len(full)} times: {wrong} went wrong.",
        ]
    return [*lines, ""]


def _strangers_part() -> list[str]:
    uploads, requests = _measured("uploads"), _measured("api_fuzz")
    codes = ", ".join(f"{count:,} {code.replace('_', ' ')}" for code, count in uploads["by_code"].items())
    files = (
        f"Uploads (`{uploads['command']}`): {uploads['files']:,} crafted and mutated files, each read in the sandbox: "
        f"{codes}. Bytes of a canary file that came out: {len(uploads['leaks'])}. A crash or a loop stays in the "
        f"sandbox's process and is answered with a sentence. Most CPU time {uploads['max_cpu_s']:.2f} s, most wall "
        f"time {uploads['max_seconds']:.1f} s (with other work on the machine), most memory {uploads['max_rss_mib']} "
        f"MiB; under {uploads['level']}."
    )
    answers = (
        f"Requests (`python -m tests.benchmarks.api_fuzz --cases 20000`): {requests['cases']:,} over "
        f"{requests['operations']} operations; answers of 5xx: {len(requests['server_errors'])}, undocumented answers: "
        f"{len(requests['undocumented'])}."
    )
    return ["## What strangers send", "", files, "", answers, ""]


def _answers_part() -> list[str]:
    lines = ["## How fast it answers", "", "| database | while | GET job, median | GET job, 99 % | largest job, 99 % |"]
    lines.append("|---|---|---|---|---|")
    measured = _measured("api_latency")
    for kind, facts in measured.items():
        for state in ("quiet", "with 20 commits a second"):
            job, largest = facts[state]["GET job"], facts[state]["GET job, the largest"]
            lines.append(
                f"| {kind} | {state} | {job['p50_ms']:.1f} ms | {job['p99_ms']:.1f} ms | {largest['p99_ms']:.1f} ms |"
            )
    sizes = next(iter(measured.values()))
    note = f"{sizes['jobs']:,} jobs and {sizes['attempts']:,} attempts (`python -m tests.benchmarks.api_latency`)."
    return [*lines, "", note, ""]


def _estimates_part() -> list[str]:
    found = [json.loads(line) for line in estimates.ROWS.read_text(encoding="utf-8").splitlines()]
    lines = [
        "## Do estimates keep their word",
        "",
        "| jobs | estimated from | inside the interval | of jobs | 95 % |",
        "|---|---|---|---|---|",
    ]
    for kind, said in (("attempts", "60 attempts"), ("episodes", "20 episodes, at most 60 attempts")):
        inside = sum(estimates.judge(row)[kind]["inside"] for row in found)
        _, low, high = wilson(inside, len(found))
        lines.append(
            f"| {said} | the first {estimates.PILOT} | {inside} | {len(found)} | {100 * low:.0f}-{100 * high:.0f} % |"
        )
    note = (
        "Five tasks and variants at five levels of action noise, two seeds each, so that success rates from nearly "
        "none to nearly all occur (`python -m tests.benchmarks.estimates`)."
    )
    return [*lines, "", note, ""]


def _measured(name: str) -> dict[str, Any]:
    return json.loads((ROWS.parent / f"{name}.json").read_text(encoding="utf-8"))


def _overhead_part() -> list[str]:
    lines = [
        "## What it costs",
        "",
        "| attempts | database | pairs | bare, s | with the service, s | more (from to) | dispatcher alone | of bare |",
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    found = rows("overhead")
    for task, kind in dict.fromkeys((r["task"], r["database"]) for r in found):
        mine = [r for r in found if (r["task"], r["database"]) == (task, kind)]
        middle = {k: statistics.median(r[k] for r in mine) for k in ("bare_s", "service_s", "percent", "own_ms")}
        spread = [r["percent"] for r in mine]
        lines.append(
            f"| {task} | {kind} | {len(mine)} | {middle['bare_s']:.3f} | {middle['service_s']:.3f} | "
            f"{middle['percent']:.1f} % ({min(spread):.0f} to {max(spread):.0f}) | {middle['own_ms']:.2f} ms | "
            f"{middle['own_ms'] / middle['bare_s'] / 10:.1f} % |"
        )
    note = (
        "CPU seconds of an attempt: two workers in a bare loop, and two workers with dispatcher and job book around "
        "them; medians over pairs. Starting is subtracted on both sides. The difference of sums over two busy cores "
        "that share their arithmetic units is coarse; the dispatcher's process counted alone (job book, leases, "
        "commits, messages) is not. `towers` has no physics: nearly nothing but the book is left to see."
    )
    return [*lines, "", note]


def main() -> None:
    """Run one of the long forms."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, run, arguments in (
        ("kills", kills, {"--total": 1000, "--episodes": 40, "--seed": 1, "--executor": "local,ray", **DATABASES}),
        ("stack", stack, {"--total": 40, "--episodes": 60, "--seed": 1}),
        ("moments", moments, {"--times": 20}),
        ("faults", faults, {"--errors": "ENOSPC,EIO", "--every": 1, "--jobs": 2}),
        ("disk", disk, {"--times": 40, "--seed": 1}),
        ("api", api, {"--times": 50, "--seed": 1}),
        ("overhead", overhead, {"--pairs": 5, "--task": "lift,stack,towers"}),
        ("render", render, {}),
    ):  # fmt: skip
        command = commands.add_parser(name, help=run.__doc__)
        command.set_defaults(run=run)
        for option, value in arguments.items():
            command.add_argument(option, type=type(value), default=value)
        if name == "faults":
            command.add_argument("--in-a-row", type=int, nargs="*", default=[], help="also let so many fail in a row")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    sys.exit(main())
