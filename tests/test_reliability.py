"""Laws of a service under fire: whatever is killed, stopped or full, nothing is lost, doubled or corrupt.

Short forms; `python -m tests.benchmarks.reliability` runs the long ones. A failing run prints its seed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from alembic import command as alembic
from sqlalchemy import inspect, update
from sqlmodel import select

from api import database as book
from api import jobs, leases
from api.database import sqlite_url
from api.tables import Attempt, Dispatcher
from factory.dataset_reading import dataset_digest
from factory.durable import sha256_file
from factory.episodes import EPISODE_FILE, read_shard, shard_path
from factory.provenance import read_attempts
from tests import chaos, faulty_disk, postgres, tower
from workers import generate as generating
from workers import local, worker

KINDS = ("sqlite", "postgresql")


@dataclass(frozen=True)
class Reference:
    """What an undisturbed job makes."""

    demos: Path
    digest: str
    attempts: int


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tower.write_demonstrations(tmp_path_factory.mktemp("demos") / "towers.hdf5")


def undisturbed(demos: Path, folder: Path, **changes: Any) -> Reference:
    finished = tower.make(folder / "undisturbed", demos, workers=2, **changes)
    return Reference(demos=demos, digest=dataset_digest(finished.root), attempts=finished.attempts)


@pytest.fixture(scope="module")
def small(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Four episodes."""
    return undisturbed(demos, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A job that lasts some seconds."""
    return undisturbed(demos, tmp_path_factory.mktemp("large"), episodes=40)


@contextmanager
def a_site(kind: str, folder: Path, request: pytest.FixtureRequest, **options: Any) -> Iterator[chaos.Site]:
    """A data folder and a job book of a kind."""
    if kind == "sqlite":
        with chaos.opened(folder / "site", sqlite_url(folder / "site" / "book.db"), **options) as site:
            yield site
        return
    name = f"chaos_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    with (
        postgres.fresh_database(request.getfixturevalue("postgres_url"), name) as url,
        chaos.opened(folder / "site", url, **options) as site,
    ):
        yield site


def seed_of(request: pytest.FixtureRequest) -> int:
    """Return a seed that FACTORY_TEST_SEED fixes, and that a failing test prints."""
    seed = int(os.environ.get("FACTORY_TEST_SEED", random.randrange(1 << 31)))  # noqa: S311
    print(f"FACTORY_TEST_SEED={seed} for {request.node.name}")  # noqa: T201
    return seed


# --- random kills -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_random_kills_make_no_difference(
    kind: str, large: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with a_site(kind, tmp_path, request) as site:
        job_id = site.enter(large.demos, episodes=40)
        site.start()
        toll = chaos.storm(site, job_id, kills=20, seed=seed_of(request))
        job = site.ended(job_id)
        assert toll.total == 20, f"the job was over before enough was killed: {toll.facts()}"
        assert job.attempted == large.attempts
        chaos.assert_sound(site, job_id, large.digest)
        chaos.assert_tidy(site)
        # The quickest, because a busy machine makes the others as slow as it likes; the long form shows all of them.
        assert min(toll.resumed_s, default=0.0) < 5.0, toll.facts()
        pids = site.victims("dispatcher") + site.victims("worker")
        assert len(pids) >= 3
        for pid in site.victims("dispatcher"):
            chaos.kill(pid)
        chaos.assert_all_gone(site, 2.0)


def test_ten_random_kills_make_no_difference_with_ray(
    large: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    roles = ("worker", "worker", "helper", "raylet", "gcs_server", "dispatcher")
    with a_site("sqlite", tmp_path, request, executor="ray") as site:
        job_id = site.enter(large.demos, episodes=40)
        site.start()
        seed = seed_of(request)
        toll = chaos.storm(
            site, job_id, kills=10, seed=seed, roles=roles, pause_s=(0.5, 3.0), patience_s=120.0, measured=0.0
        )
        site.ended(job_id, 240.0)
        assert toll.total == 10, f"the job was over before enough was killed: {toll.facts()}"
        chaos.assert_sound(site, job_id, large.digest)
        chaos.assert_tidy(site)
        for pid in site.victims("dispatcher"):
            chaos.kill(pid)
        chaos.assert_all_gone(site, 15.0)


@pytest.mark.parametrize("kind", KINDS)
def test_two_dispatchers_on_one_job_commit_nothing_twice(
    kind: str, large: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One of them is killed on the way; the other takes over what it held."""
    with a_site(kind, tmp_path, request, workers=1) as site:
        job_id = site.enter(large.demos, episodes=40)
        first, second = site.start(), site.start()
        chaos.wait_for(lambda: working(site) == {first.pid, second.pid}, "both to work")
        site.processes.remove(first)  # nobody starts it again
        chaos.kill(first.pid)
        job = site.ended(job_id)
        assert job.attempted == large.attempts
        chaos.assert_sound(site, job_id, large.digest)
        chaos.assert_tidy(site)
        site.stop()
        chaos.assert_all_gone(site)


def working(site: chaos.Site) -> set[int]:
    """The dispatchers that have committed something, by their processes; a local worker is named after its own."""
    with site.book.reading() as session:
        return {int(name.split("-")[1]) for name in session.exec(select(Attempt.worker).distinct()) if name}


# --- named moments ----------------------------------------------------------------------------------------------------

MOMENTS = {  # where somebody dies -> number of jobs, and at which of its passages in one process
    "durable.written": (1, (1, 2, 3)),
    "durable.synced": (1, (1, 2, 3)),
    "durable.renamed": (1, (1, 2, 3)),
    "book.before_commit": (1, (2, 3, 5)),
    "book.after_commit": (1, (2, 3, 5)),
    # Three deaths over one unit would make it poison, so the third comes with the next job.
    "store.staged": (2, (1, 1, 2)),
    "store.placed": (3, (1, 1, 1)),
    "finalize.before_report": (2, (1, 1, 2)),
    "finalize.written": (2, (1, 1, 2)),
    "tidy.removed": (2, (1, 1, 2)),
}


def armed(folder: Path, moment: str, counts: tuple[int, ...]) -> tuple[dict[str, str], list[Path]]:
    """Return the environment that kills at a moment, and the marks that the dead leave."""
    marks = [folder / f"dead-{moment}-{i}" for i in range(len(counts))]
    entries = [f"{moment}:{count}:{mark}" for count, mark in zip(counts, marks, strict=True)]
    return {"FACTORY_FAILPOINT": ",".join(entries)}, marks


def die_at(site: chaos.Site, reference: Reference, moment: str, **changes: Any) -> None:
    """Run jobs whose processes die at a moment, three of them."""
    number, counts = MOMENTS[moment]
    environment, marks = armed(site.data, moment, counts)
    site.workers = 1
    entered = [site.enter(reference.demos, **changes) for _ in range(number)]
    site.start(**environment)

    def over() -> bool:
        site.restart(**environment)
        return all(site.job(job_id).status in jobs.FINAL for job_id in entered) and not chaos.litter(site)

    try:
        chaos.wait_for(over, "the jobs to end in order", 90, every_s=0.05)
    except AssertionError as error:
        raise AssertionError(f"{error} {chaos.litter(site)} {site.story(entered[-1])}") from None
    assert [mark.name for mark in marks if not mark.exists()] == [], "not everybody died"
    for job_id in entered:
        chaos.assert_sound(site, job_id, reference.digest)
    site.stop()
    chaos.assert_all_gone(site)


@pytest.mark.parametrize("moment", MOMENTS)
def test_three_deaths_at_a_named_moment_make_no_difference(
    moment: str, small: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with a_site("sqlite", tmp_path, request) as site:
        die_at(site, small, moment)


CANCEL = """
import sys
from api import jobs
from api.database import Database
from workers import processes
processes.arm_failpoints()
database = Database(sys.argv[1])
with database.transaction() as session:
    jobs.cancel(session, sys.argv[2])
"""


MIGRATE = """
import sys
from api.database import Database
from workers import processes
processes.arm_failpoints()
Database(sys.argv[1]).migrate()
"""


def cancel_dying(site: chaos.Site, job_id: str, moment: str, mark: Path) -> bool:
    """Cancel a job in a process that dies at a moment; true when it was cancelled all the same."""
    process = site.run(sys.executable, "-c", CANCEL, site.url, job_id, FACTORY_FAILPOINT=f"{moment}:1:{mark}")
    assert process.wait(30) == -signal.SIGKILL
    return bool(site.job(job_id).ended_by)


def die_cancelling(site: chaos.Site, demos: Path, moments: tuple[str, ...]) -> None:
    """Cancel a running job with a caller that dies on the way, at one moment after the other."""
    job_id = site.enter(demos, episodes=1000)
    site.start()
    chaos.wait_for(lambda: site.attempted(job_id) >= 3, "some attempts")
    for i, moment in enumerate(moments):
        there = cancel_dying(site, job_id, moment, site.data / f"dead-{i}")
        assert there == (moment == "book.after_commit"), "all or nothing"
        if not there:
            before = site.attempted(job_id)
            chaos.wait_for(lambda: site.attempted(job_id) > before, "the job to go on")  # noqa: B023
    with site.book.transaction() as session:
        prefix = jobs.cancel(session, job_id).prefix
    job = site.ended(job_id)
    assert (job.status, job.ended_by, job.end_index, job.attempted) == ("cancelled", "cancelled", prefix, prefix)
    chaos.assert_sound(site, job_id)
    dataset = site.store.path(f"datasets/{job.dataset_id}")
    assert (dataset is not None and dataset.exists()) == (job.succeeded > 0)
    chaos.assert_tidy(site)
    site.stop()
    chaos.assert_all_gone(site)


def test_a_caller_that_dies_while_cancelling_has_cancelled_or_not(
    demos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with a_site("sqlite", tmp_path, request) as site:
        die_cancelling(site, demos, ("cancel.entered", "cancel.ended", "book.before_commit", "book.after_commit"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_death_in_the_middle_of_a_migration_leaves_the_book_as_it_was(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with a_site(kind, tmp_path, request) as site:
        die_migrating(site, tmp_path)


def die_migrating(site: chaos.Site, folder: Path) -> None:
    """Migrate an empty book in a process that dies on the way, three times, and then in one that does not."""
    folder.mkdir(exist_ok=True)
    alembic.downgrade(book._alembic(site.book), "base")
    for i in range(3):
        marked = {"FACTORY_FAILPOINT": f"migration.before_commit:1:{folder / f'dead-{i}'}"}
        assert site.run(sys.executable, "-c", MIGRATE, site.url, **marked).wait(60) == -signal.SIGKILL, site.said()
        assert set(inspect(site.book.engine).get_table_names()) <= {"alembic_version"}, "half a migration"
    assert site.run(sys.executable, "-c", MIGRATE, site.url).wait(60) == 0, site.said()
    with site.book.transaction() as session:
        assert jobs.listed(session) == ([], False)


# --- processes that are neither alive nor dead ------------------------------------------------------------------------


def test_a_dispatcher_that_is_stopped_beyond_its_lease_does_no_harm(
    small: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its workers go on meanwhile, and all they say is too late."""
    with a_site("sqlite", tmp_path, request, workers=1) as site:
        job_id = site.enter(small.demos)
        first = site.start()
        chaos.wait_for(lambda: site.attempted(job_id) >= 1, "the first attempt")
        stop_outside_a_transaction(site, first.pid)
        second = site.start()
        expire_leases(site)
        job = site.ended(job_id)
        chaos.kill(first.pid, signal.SIGCONT)
        chaos.assert_sound(site, job_id, small.digest)
        again = site.enter(small.demos)
        site.ended(again)
        chaos.assert_sound(site, again, small.digest)
        chaos.assert_sound(site, job_id, small.digest)
        assert job.status == "succeeded"
        assert {first.poll(), second.poll()} == {None}, "both go on serving"
        chaos.assert_tidy(site)
        site.stop()
        chaos.assert_all_gone(site)


def stop_outside_a_transaction(site: chaos.Site, pid: int) -> None:
    """Stop a process. One that holds SQLite's lock would stop everybody; nothing but its end helps against that."""

    def stopped() -> bool:
        chaos.kill(pid, signal.SIGSTOP)
        with contextlib.closing(sqlite3.connect(str(site.book.url.database), timeout=0.5)) as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                chaos.kill(pid, signal.SIGCONT)
                return False
            return True

    chaos.wait_for(stopped, "a moment without a transaction")


def expire_leases(site: chaos.Site) -> None:
    """Let time pass for everything that is leased now."""
    with site.book.transaction() as session:
        session.exec(update(leases.Unit).values(until=0.0))
        session.exec(update(Dispatcher).values(seen_at=0.0))


HANGING = 2


def hanging_serve(*arguments: Any) -> None:
    """A worker that never comes back from attempt `HANGING`."""
    original = worker.run_attempts

    def run_attempts(backend, task, sources, spec, indices):
        def hanging():
            for index in indices:
                while index == HANGING:
                    time.sleep(1.0)
                yield index

        return original(backend, task, sources, spec, hanging())

    worker.run_attempts = run_attempts
    local.serve(*arguments)


def test_an_attempt_that_never_ends_becomes_poison(
    small: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "serve", hanging_serve)
    monkeypatch.setattr(leases, "SILENCE_S", dict.fromkeys(leases.SILENCE_S, 1.5))
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.2)
    finished = tower.make(tmp_path / "towers", small.demos, attempts=4)
    assert [r.reason == "infra_poison" for r in read_attempts(finished.root)] == [False, False, True, False]


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty_disk.build(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def one_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tower.write_demonstrations(tmp_path_factory.mktemp("one") / "tower.hdf5", count=1)


ONE = ("--episodes", "1")


def a_disk(folder: Path, library: Path, **options: Any) -> faulty_disk.FaultyDisk:
    folder.mkdir(exist_ok=True)
    disk = faulty_disk.FaultyDisk(library, folder / "made", folder / "state", **options)
    disk.set()
    return disk


def generate_on(disk: faulty_disk.FaultyDisk, demos: Path) -> tuple[int, str]:
    """Run `factory generate` for one episode and return its exit code and what it said."""
    process = tower.start(*tower.arguments(disk.root / "towers", demos, *ONE), env=disk.environment())
    said = process.communicate(timeout=120)
    return process.returncode, said[1]


@pytest.fixture(scope="module")
def one_episode(one_demo: Path, library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """The dataset that faults must not change, and how many operations it takes."""
    disk = a_disk(tmp_path_factory.mktemp("whole"), library)
    code, said = generate_on(disk, one_demo)
    assert code == 0, said
    return dataset_digest(disk.root / "towers"), disk.seen


def fail_once(folder: Path, library: Path, demos: Path, digest: str, first: int, error: int, count: int = 1) -> str:
    """Let the n-th operation of a run fail, then run it again; return what became of the first run."""
    disk = a_disk(folder, library)
    disk.set(first, count, error)
    code, said = generate_on(disk, demos)
    what = f"operation {first} failed with {errno.errorcode[error]}: exit code {code}\n{said}"
    assert code in (0, 2), what
    assert ("error: " in said) == (code == 2), what
    assert "Traceback" not in said, what
    assert not list(disk.root.parent.rglob(".tmp-*")), what
    failed = disk.failed
    readable(disk.root / "towers")
    disk.set()
    if code == 2:
        code, said = generate_on(disk, demos)
        assert code == 0, f"{what}\nand afterwards: {said}"
    assert dataset_digest(disk.root / "towers") == digest, what
    assert {path.name for path in disk.root.iterdir()} == {"towers"}, what
    return "not reached" if not failed else "went on" if "error: " not in what else "stopped"


def readable(out: Path) -> None:
    """Everything that is committed in a work folder can be read."""
    work = generating.work_folder_of(out)
    if not (work / "book.db").exists():
        return
    with contextlib.closing(sqlite3.connect(work / "book.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempts'").fetchall():
            return
        rows = connection.execute("SELECT job_id, idx, shard_sha256 FROM attempts WHERE shard_sha256 != ''").fetchall()
    for job_id, index, sha256 in rows:
        shard = shard_path(work / "jobs" / job_id / "shards", index)
        assert sha256_file(shard / EPISODE_FILE) == sha256
        read_shard(shard)


SAMPLES = 8


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=["full", "broken"])
def test_any_write_may_fail(
    error: int,
    one_demo: Path,
    library: Path,
    one_episode: tuple[str, int],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """One operation of every `SAMPLES`-th part of a run; the long form lets each one fail."""
    digest, operations = one_episode
    rng = random.Random(seed_of(request))  # noqa: S311
    part = operations // (SAMPLES // 2)
    for i in range(SAMPLES // 2):
        first = i * part + rng.randrange(part) + 1
        fail_once(tmp_path / str(first), library, one_demo, digest, first, error)


def test_what_is_committed_was_on_the_disk_before(
    demos: Path, library: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Files are synced before the rename, the rename before the row; for every kept attempt."""
    disk = faulty_disk.FaultyDisk(library, tmp_path / "site", tmp_path / "state", tmp_path / "diary")
    disk.set()
    with a_site("sqlite", tmp_path, request, environment=disk.environment()) as site:
        job_id = site.enter(demos, episodes=1000)
        site.start()
        chaos.wait_for(lambda: site.attempted(job_id) >= 20, "twenty attempts")
        site.stop()
        with site.book.reading() as session:
            kept = select(Attempt.idx, Attempt.shard_sha256).where(Attempt.shard_sha256 != "")
            rows = dict(session.exec(kept).all())
    entries = disk.entries()
    assert len(rows) >= 5
    for index, sha256 in rows.items():
        assert_ordered(entries, index, sha256)


def assert_ordered(entries: list[tuple[str, str, str]], index: int, sha256: str) -> None:
    """In a diary: fsync of each file and of their folder < rename < fsync of the parent < row < fsync of the log."""

    def first(after: int, of: str, path: str = "", *, ending: str = "", saying: str = "") -> int:
        for i, (name, where, more) in enumerate(entries[after:], after):
            if name == of and where.startswith(path) and where.endswith(ending) and saying in more:
                return i
        raise AssertionError(f"no {of} of {path or ending} after operation {after + 1} of {len(entries)}")

    rename = first(0, "rename", saying=f"/episode_{index:08d}")
    _, staged, place = entries[rename]
    written = {path for name, path, _ in entries[:rename] if name == "write" and path.startswith(f"{staged}/")}
    assert {Path(path).name for path in written} == {"episode.json", "steps.parquet", "states.parquet"}
    for path in written:
        last = max(i for i, (name, where, _) in enumerate(entries) if (name, where) == ("write", path))
        assert first(last, "fsync", path) < rename
    assert any(entry[:2] == ("fsync", staged) for entry in entries[:rename])
    parent = str(Path(place).parent)
    durable = next(i for i in range(rename, len(entries)) if entries[i][:2] == ("fsync", parent))
    row = first(0, "write", ending="-wal", saying=sha256)
    assert rename < durable < row
    first(row, "fsync", ending="-wal")


def test_a_service_whose_disk_fails_for_a_while_goes_on_by_itself(
    small: Reference, library: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    disk = faulty_disk.FaultyDisk(library, tmp_path / "site", tmp_path / "state")
    disk.set()
    with a_site("sqlite", tmp_path, request, environment=disk.environment(), workers=1) as site:
        job_id = site.enter(small.demos)
        site.start()
        chaos.wait_for(lambda: site.attempted(job_id) >= 1, "an attempt")
        failing = disk.seen
        disk.set(1, 40, errno.ENOSPC)
        chaos.wait_for(lambda: disk.failed >= 40 or site.job(job_id).status in jobs.FINAL, f"faults after {failing}")
        site.ended(job_id)
        chaos.assert_sound(site, job_id, small.digest)
        assert disk.failed == 40
        chaos.assert_tidy(site)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of a few megabytes; a skip where nobody may mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_and_free(site: chaos.Site, job_id: str, rng: random.Random, times: int) -> None:
    """Fill the site's disk to the last byte at random moments, and give the room back a little later."""
    ballast = site.data / "ballast"
    for _ in range(times):
        time.sleep(rng.uniform(0.2, 1.5))
        if site.job(job_id).status in jobs.FINAL:
            return
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536 if rng.random() < 0.9 else 4096))
        site.restart()
        time.sleep(rng.uniform(0.5, 2.0))
        ballast.unlink()


def test_a_disk_that_is_full_and_freed_again_loses_nothing(
    small: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with (
        small_disk(tmp_path / "disk", 8) as folder,
        a_site("sqlite", folder, request, workers=1) as site,
    ):
        job_id = site.enter(small.demos)
        site.start()
        fill_and_free(site, job_id, random.Random(seed_of(request)), 4)  # noqa: S311
        site.ended(job_id)
        chaos.assert_sound(site, job_id, small.digest)
        chaos.assert_tidy(site)


# --- the command line -------------------------------------------------------------------------------------------------


def test_two_runs_of_one_command_at_once_make_one_dataset(small: Reference, tmp_path: Path) -> None:
    """Whichever is last clears up; neither pulls the folder from under the other."""
    out = tmp_path / "towers"
    runs = [tower.start(*tower.arguments(out, small.demos)) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    assert dataset_digest(out) == small.digest
    assert {path.name for path in tmp_path.iterdir()} == {"towers"}


# --- the service in one command ---------------------------------------------------------------------------------------


def test_a_service_that_is_killed_goes_on_where_it_was(
    large: Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with a_site("sqlite", tmp_path, request) as site:
        job_id = site.enter(large.demos, episodes=40)
        command = ["serve", *site.place(), "--port", "0", "--workers", "2"]
        for _ in range(2):
            before = site.attempted(job_id)
            process = site.run(*command)
            chaos.wait_for(lambda: site.attempted(job_id) > before + 5, f"attempts\n{site.said()}")  # noqa: B023
            chaos.kill(process.pid)
            process.wait()
            chaos.assert_all_gone(site, 2.0)
        process = site.run(*command)
        site.ended(job_id)
        chaos.assert_sound(site, job_id, large.digest)
        chaos.assert_tidy(site)
        process.terminate()
        assert process.wait(20) in (0, -signal.SIGTERM)
        chaos.assert_all_gone(site)
