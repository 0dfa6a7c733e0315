"""Laws of a service under fire: whatever is killed, stopped or full, nothing is lost, doubled or corrupt.

Short forms; `python -m tests.benchmarks.reliability` runs the long ones. A failing run prints its seed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command as alembic
from sqlalchemy import inspect, update
from sqlmodel import select

from api import database as book
from api import jobs, leases
from api.tables import Attempt, Dispatcher
from factory.dataset_reading import dataset_digest, read_episodes
from factory.episodes import EPISODE_FILE, shard_path, write_shard
from factory.errors import BackendError
from factory.provenance import read_attempts
from sim_tasks.backends.kinematic import KinematicBackend
from tests import api_storm, chaos, tower
from workers import local, worker
from workers.sharing import shared
from workers.worker import shards_key

KINDS = ("sqlite", "postgresql")
SQLITE_FIRST = ("sqlite", pytest.param("postgresql", marks=pytest.mark.slow))


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tower.write_demonstrations(tmp_path_factory.mktemp("demos") / "towers.hdf5")


@pytest.fixture(scope="module")
def small(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> chaos.Reference:
    """Four episodes."""
    return chaos.undisturbed(demos, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def large(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> chaos.Reference:
    """A job that lasts some seconds."""
    return chaos.undisturbed(demos, tmp_path_factory.mktemp("large"), episodes=80)


def test_a_killed_api_answers_every_repeated_request_once(
    demos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with chaos.a_site("sqlite", tmp_path, request) as site:
        seen = api_storm.storm(site, demos, kills=2, seed=chaos.seed_of(request))
    assert seen.deaths >= 2
    assert seen.cut_off >= 2
    assert seen.statuses.total() >= 2


# --- random kills -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SQLITE_FIRST)
def test_twenty_random_kills_make_no_difference(
    kind: str, large: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with chaos.a_site(kind, tmp_path, request) as site:
        killed, resumed_s, seed = 0, [], chaos.seed_of(request)
        first_s = 0.0
        while killed < 20:  # another job where one is over before enough was killed
            job_id = site.enter(large.demos, episodes=80)
            if not killed:
                began = time.monotonic()
                site.start()
                chaos.wait_for(lambda: site.attempted(job_id) > 0, "the first attempt", every_s=0.02)  # noqa: B023
                first_s = time.monotonic() - began
            site.restart()
            toll = chaos.storm(site, job_id, kills=20 - killed, seed=seed + killed)
            killed, resumed_s = killed + toll.total, [*resumed_s, *toll.resumed_s]
            assert site.ended(job_id).attempted == large.attempts
            chaos.assert_sound(site, job_id, large.digest)
        chaos.assert_tidy(site)
        # The quickest, because a busy machine makes the others as slow as it likes; the long form shows all of them.
        # Where even an undisturbed start takes long, the machine is slow and not the way back.
        assert min(resumed_s, default=0.0) < max(5.0, 1.5 * first_s), (first_s, resumed_s)
        pids = site.victims("dispatcher") + site.victims("worker")
        assert len(pids) >= 3
        for pid in site.victims("dispatcher"):
            chaos.kill(pid)
        chaos.assert_all_gone(site, 2.0)


@pytest.mark.parametrize("kind", SQLITE_FIRST)
def test_two_dispatchers_on_one_job_commit_nothing_twice(
    kind: str, large: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """One of them is killed on the way; the other takes over what it held."""
    with chaos.a_site(kind, tmp_path, request, workers=1) as site:
        job_id = site.enter(large.demos, episodes=80)
        first, second = site.start(), site.start()
        chaos.wait_for(lambda: working(site) == {first.pid, second.pid}, "both to work")
        site.processes.remove(first)  # nobody starts it again
        chaos.kill(first.pid)
        job = site.ended(job_id)
        assert job.attempted == large.attempts
        chaos.assert_sound(site, job_id, large.digest)
        chaos.assert_tidy(site)
        log = Path(f"{site.book.url.database}-wal")
        assert kind != "sqlite" or log.stat().st_size < 16 << 20, "nobody finds the time to shorten the log"
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


def die_at(site: chaos.Site, reference: chaos.Reference, moment: str, **changes: Any) -> None:
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
    moment: str, small: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with chaos.a_site("sqlite", tmp_path, request) as site:
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


@pytest.mark.slow
def test_a_caller_that_dies_while_cancelling_has_cancelled_or_not(
    demos: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with chaos.a_site("sqlite", tmp_path, request) as site:
        die_cancelling(site, demos, ("cancel.entered", "cancel.ended", "book.before_commit", "book.after_commit"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_death_in_the_middle_of_a_migration_leaves_the_book_as_it_was(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with chaos.a_site(kind, tmp_path, request) as site:
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
    small: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its workers go on meanwhile, and all they say is too late."""
    with chaos.a_site("sqlite", tmp_path, request, workers=1) as site:
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
    small: chaos.Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "serve", hanging_serve)
    monkeypatch.setattr(leases, "SILENCE_S", dict.fromkeys(leases.SILENCE_S, 1.5))
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.2)
    finished = tower.make(tmp_path / "towers", small.demos, workers=2, attempts=4, max_wall_s=45.0)
    assert [r.reason == "infra_poison" for r in read_attempts(finished.root)] == [False, False, True, False]


def test_a_shard_that_nobody_committed_is_in_nobodys_way(
    small: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """An executor unlike the others left one, and a broken disk another."""
    finished = tower.make(tmp_path / "whole", small.demos)
    episodes = list(read_episodes(finished.root))
    with chaos.a_site("sqlite", tmp_path, request) as site:
        job_id = site.enter(small.demos)
        place = site.store.path(shards_key(job_id))
        write_shard(place, dataclasses.replace(episodes[0], instruction="Something else."))
        write_shard(place, episodes[1])
        (shard_path(place, episodes[1].index) / EPISODE_FILE).write_bytes(b"damaged")
        site.start()
        site.ended(job_id)
        chaos.assert_sound(site, job_id, small.digest)


# --- the command line -------------------------------------------------------------------------------------------------


def unlike_serve(*arguments: Any) -> None:
    """A worker of another installation."""
    original = KinematicBackend.describe
    KinematicBackend.describe = lambda self: {**original(self), "numpy": "another"}
    local.serve(*arguments)


def test_unfinished_work_of_another_installation_is_a_sentence(
    small: chaos.Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tower.make(tmp_path / "towers", small.demos, watcher=tower.Watcher(stop))
    with monkeypatch.context() as patched:
        patched.setattr(local, "serve", unlike_serve)
        with pytest.raises(BackendError, match=r"another installation \(differs in: numpy\)"):
            tower.make(tmp_path / "towers", small.demos)
    tower.make(tmp_path / "towers", small.demos)
    assert dataset_digest(tmp_path / "towers") == small.digest


def test_a_folder_is_removed_by_the_last_who_holds_it(tmp_path: Path) -> None:
    folder = tmp_path / "towers.work"
    with shared(folder) as one:
        with shared(folder) as other:
            one()
            assert folder.exists()
            other()
            assert not folder.exists()
        with shared(folder) as again:
            assert folder.exists(), "whoever comes later begins anew"
            one()
            assert folder.exists(), "what is there now is not what was held"
            again()
    assert not folder.exists()


def test_two_runs_of_one_command_at_once_make_one_dataset(small: chaos.Reference, tmp_path: Path) -> None:
    """Whichever is last clears up; neither pulls the folder from under the other."""
    out = tmp_path / "towers"
    runs = [tower.start(*tower.arguments(out, small.demos)) for _ in range(2)]
    said = [process.communicate(timeout=120) for process in runs]
    assert [process.returncode for process in runs] == [0, 0], said
    assert dataset_digest(out) == small.digest
    assert {path.name for path in tmp_path.iterdir()} == {"towers"}


# --- the service in one command ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_service_that_is_killed_goes_on_where_it_was(
    large: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with chaos.a_site("sqlite", tmp_path, request) as site:
        job_id = site.enter(large.demos, episodes=80)
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
