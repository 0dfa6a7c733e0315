"""A service that is shot at: processes that a supervisor keeps alive, random kills, and what must be true afterwards.

Everything a site starts carries a mark in its environment, so that it can be found and ended whatever became of its
parents. A run is replayed by its seed as far as the machine's timing allows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func
from sqlmodel import col, select

from api import jobs
from api.database import Database, sqlite_url
from api.store import Store
from api.tables import Attempt, Dataset, DatasetFile, Event, FailureCount, Job, Strike, Unit
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import dataset_digest
from factory.durable import TMP, sha256_file
from factory.episodes import EPISODE_FILE, read_shard, shard_path
from tests import postgres, tower
from workers import generate as generating
from workers.worker import shards_key, source_key

_MARK = "FACTORY_TEST_MARK"
FACTORY = (sys.executable, "-c", "from workers.cli import main; main()")


def wait_for(condition: Callable[[], Any], what: str, seconds: float = 60.0, every_s: float = 0.02) -> Any:
    """Return the condition's first true answer."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(every_s)
    return answer


def state_of(pid: int) -> str:
    """Return "R", "S", "Z", ...; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def command_of(pid: int) -> str:
    """Return a process's command line; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children_of(pid: int) -> list[int]:
    """Return the children of all threads of a process."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def kill(pid: int, how: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)


class Site:
    """A data folder, a job book, and the processes that a supervisor keeps running on them."""

    def __init__(
        self,
        data: Path,
        url: str,
        *,
        executor: str = "local",
        workers: int = 2,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.data, self.url, self.executor, self.workers = data, url, executor, workers
        data.mkdir(parents=True, exist_ok=True)
        self.mark = uuid.uuid4().hex
        self._environment = {**os.environ, **(environment or {}), _MARK: self.mark}
        self.book = Database(url)
        self.book.migrate()
        self.store = Store(data / "store")
        self.processes: list[subprocess.Popen] = []
        self.log = (data / "log.txt").open("ab")

    # --- processes ----------------------------------------------------------------------------------------------------

    def run(self, *command: str, **environment: str) -> subprocess.Popen:
        """Start `factory ...` here, or another program when the command begins with a path."""
        words = command if command[0].startswith("/") else (*FACTORY, *command)
        return subprocess.Popen(
            words, stdout=self.log, stderr=self.log, env={**self._environment, **environment}, start_new_session=True
        )

    def place(self) -> list[str]:
        """Return the options that name this site's data and book."""
        return ["--data", str(self.data), "--database", self.url, "--store", str(self.data / "store")]

    def start(self, **environment: str) -> subprocess.Popen:
        """Start one more dispatcher with its workers."""
        options = ["--executor", self.executor, "--workers", str(self.workers)]
        self.processes.append(self.run("dispatch", *self.place(), *options, **environment))
        return self.processes[-1]

    def restart(self, **environment: str) -> int:
        """Do what a supervisor does: replace what has ended; return how many that were."""
        dead = [p for p in self.processes if p.poll() is not None]
        for process in dead:
            self.processes.remove(process)
            self.start(**environment)
        return len(dead)

    def marked(self) -> list[int]:
        """Return every living process of this site."""
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):
                pid = int(path.parent.name)
                if self.mark.encode() in path.read_bytes() and state_of(pid) not in ("Z", "X", ""):
                    found.append(pid)
        return found

    def victims(self, role: str) -> list[int]:
        """Return the processes of a role: "dispatcher", "worker", "helper", or a word of the command line."""
        alive = [p.pid for p in self.processes if p.poll() is None]
        if role == "dispatcher":
            return alive
        if role == "worker":
            of_dispatchers = [child for pid in alive for child in children_of(pid)]
            if self.executor == "local":
                return [pid for pid in of_dispatchers if "spawn_main" in command_of(pid)]
            role = "ray::"
        if role == "helper":  # with Ray: the process that drives it, and the one that writes datasets
            return [p for pid in alive for p in children_of(pid) if "spawn_main" in command_of(p)]
        return [pid for pid in self.marked() if role in command_of(pid)]

    def stop(self, seconds: float = 20.0) -> None:
        """End the service in order."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(seconds)
        self.processes.clear()

    def close(self) -> None:
        """End everything that is left, at once."""
        for _ in range(100):
            left = self.marked()
            for pid in left:
                kill(pid)
            if not left:
                break
            time.sleep(0.05)
        for process in self.processes:
            process.wait(10)
        self.processes.clear()
        self.book.close()
        self.log.close()

    def said(self) -> str:
        """Return what the processes wrote."""
        return (self.data / "log.txt").read_text(errors="replace")

    # --- the book -----------------------------------------------------------------------------------------------------

    def enter(self, demos: Path, **changes: Any) -> str:
        """Enter a job for towers and return its id."""
        request = tower.request(self.data / "unused", demos, **changes)
        return self.enter_request(request)

    def enter_request(self, request: generating.Request) -> str:
        """Enter what `factory generate` would do, and return the job's id."""
        with tempfile.TemporaryDirectory() as folder:
            staged = generating._canonical(request, Path(folder))
            for source, path in staged:
                if not self.store.exists(source_key(source.sha256)):
                    self.store.put(path, source_key(source.sha256))
        with self.book.transaction() as session:
            return jobs.create(session, generating.asked_for(request, [source for source, _ in staged])).id

    def job(self, job_id: str) -> Job:
        with self.book.reading() as session:
            return jobs.get(session, job_id)

    def attempted(self, job_id: str) -> int:
        with self.book.reading() as session:
            return session.exec(select(func.count()).where(Attempt.job_id == job_id)).one()

    def last_commit(self, job_id: str) -> float:
        with self.book.reading() as session:
            return session.exec(select(func.max(Attempt.committed_at)).where(Attempt.job_id == job_id)).one() or 0.0

    def moved(self, job_id: str) -> tuple[Any, ...]:
        """Return what changes whenever a job gets on."""
        job = self.job(job_id)
        return job.status, job.attempted, job.rendered, self.last_commit(job_id)

    def gets_on(self, job_id: str, before: tuple[Any, ...], seconds: float) -> None:
        """Wait until something has changed, replacing what dies."""

        def moved() -> bool:
            self.restart()
            return self.moved(job_id) != before

        try:
            wait_for(moved, "the job to get on", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.story(job_id)}") from None

    def wounded(self, job_id: str) -> bool:
        """Tell whether one more dead worker might make something poison, which is by design and no accident."""
        with self.book.reading() as session:
            struck = session.exec(select(Strike.idx).where(Strike.job_id == job_id, Strike.count >= 2)).all()
            there = set(session.exec(select(Attempt.idx).where(Attempt.job_id == job_id, col(Attempt.idx).in_(struck))))
            tried = session.exec(select(Unit.id).where(Unit.job_id == job_id, Unit.tries >= 2)).first()
        return tried is not None or bool(set(struck) - there)

    def ended(self, job_id: str, seconds: float = 120.0) -> Job:
        """Wait for a job's end, replacing what dies, and return the job."""

        def final() -> Job | None:
            self.restart()
            job = self.job(job_id)
            return job if job.status in jobs.FINAL else None

        try:
            return wait_for(final, f"the end of {job_id}", seconds, every_s=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.story(job_id)}") from None

    def story(self, job_id: str) -> str:
        """Return what is known about a job, for a person who has to find out why it hangs."""
        with self.book.reading() as session:
            job = jobs.get(session, job_id)
            units = [(u.id, u.kind, u.state, u.epoch, u.owner, u.start, u.stop) for u in session.exec(select(Unit))]
            told = [(e.seq, e.type, e.data) for e in jobs.events(session, job_id, limit=10_000)][-8:]
        facts = job.model_dump(
            include={"status", "prefix", "next_index", "attempted", "ended_by", "paused_for", "error"}
        )
        return f"{facts}\nunits {units}\nevents {told}\nlog {self.said()[-3000:]}"


@contextlib.contextmanager
def opened(data: Path, url: str, **options: Any) -> Iterator[Site]:
    """A site of which nothing is left afterwards."""
    site = Site(data, url, **options)
    try:
        yield site
    finally:
        site.close()


@dataclass(frozen=True)
class Reference:
    """What an undisturbed job makes."""

    demos: Path
    digest: str
    attempts: int


def undisturbed(demos: Path, folder: Path, **changes: Any) -> Reference:
    finished = tower.make(folder / "undisturbed", demos, workers=2, **changes)
    return Reference(demos=demos, digest=dataset_digest(finished.root), attempts=finished.attempts)


@contextlib.contextmanager
def a_site(kind: str, folder: Path, request: pytest.FixtureRequest, **options: Any) -> Iterator[Site]:
    """A data folder and a job book of a kind."""
    if kind == "sqlite":
        with opened(folder / "site", sqlite_url(folder / "site" / "book.db"), **options) as site:
            yield site
        return
    name = f"chaos_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    with (
        postgres.fresh_database(request.getfixturevalue("postgres_url"), name) as url,
        opened(folder / "site", url, **options) as site,
    ):
        yield site


def seed_of(request: pytest.FixtureRequest) -> int:
    """Return a seed that FACTORY_TEST_SEED fixes, and that a failing test prints."""
    seed = int(os.environ.get("FACTORY_TEST_SEED", random.randrange(1 << 31)))  # noqa: S311
    print(f"FACTORY_TEST_SEED={seed} for {request.node.name}")  # noqa: T201
    return seed


# --- shooting ---------------------------------------------------------------------------------------------------------


@dataclass
class Toll:
    """What was killed, and how long the service took to get on."""

    seed: int
    kills: Counter[str] = field(default_factory=Counter)
    resumed_s: list[float] = field(default_factory=list)
    checked_shards: int = 0

    @property
    def total(self) -> int:
        return self.kills.total()

    def facts(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "seed": self.seed,
            "kills": dict(self.kills),
            "resumed_s_median": round(statistics.median(self.resumed_s), 2) if self.resumed_s else None,
            "resumed_s_most": round(max(self.resumed_s), 2) if self.resumed_s else None,
            "shards_checked_on_the_way": self.checked_shards,
        }


def storm(
    site: Site,
    job_id: str,
    *,
    kills: int,
    seed: int,
    roles: Sequence[str] = ("worker", "worker", "worker", "dispatcher"),
    pause_s: tuple[float, float] = (0.05, 0.7),
    patience_s: float = 60.0,
    measured: float = 0.5,
) -> Toll:
    """Kill random processes at random moments until so many are dead or the job has ended.

    After a `measured` share of a dispatcher's deaths the next shot waits until the job got on, and the time is taken;
    the others are followed by the next shot whatever happens, also while the successor is starting.
    """
    rng, toll = random.Random(seed), Toll(seed=seed)  # noqa: S311
    while toll.total < kills and site.job(job_id).status not in jobs.FINAL:
        time.sleep(rng.uniform(*pause_s))
        role = rng.choice(roles)
        if role not in ("dispatcher", "raylet", "gcs_server") and site.wounded(job_id):
            role = "dispatcher"
        victims = site.victims(role)
        if not victims:
            site.restart()
            continue
        before, began = site.moved(job_id), time.monotonic()
        if before[0] in jobs.FINAL:
            break  # it ended while we slept, and would never move again
        kill(rng.choice(victims))
        toll.kills[role] += 1
        if role != "worker":
            time.sleep(0.02)
        site.restart()
        if role == "dispatcher" and rng.random() < measured:
            site.gets_on(job_id, before, patience_s)
            toll.resumed_s.append(time.monotonic() - began)
        elif rng.random() < 0.3:
            toll.checked_shards += check_shards(site, job_id)
    return toll


def check_shards(site: Site, job_id: str) -> int:
    """Read every shard that is committed while the job still makes attempts, and return how many those were."""
    with site.book.reading() as session:
        query = select(Attempt.idx, Attempt.shard_sha256).where(Attempt.job_id == job_id, Attempt.shard_sha256 != "")
        rows = session.exec(query).all()
    place = site.store.path(shards_key(job_id))
    assert place is not None
    found = 0
    for index, sha256 in rows:
        shard = shard_path(place, index)
        try:
            assert sha256_file(shard / EPISODE_FILE) == sha256, f"shard {index} is not what was committed"
            read_shard(shard)
        except FileNotFoundError:
            if site.job(job_id).status in jobs.FINAL:
                return found  # tidied up meanwhile
            with site.book.reading() as session:
                still = session.get(Attempt, (job_id, index))
            assert still is None, f"shard {index} is committed and not there"
        found += 1
    return found


# --- afterwards -------------------------------------------------------------------------------------------------------


def assert_sound(site: Site, job_id: str, digest: str | None = None) -> None:
    """Nothing is lost, doubled or corrupt, and the dataset is the one an undisturbed run makes."""
    with site.book.reading() as session:
        assert_counts_agree(site, job_id)
        job = jobs.get(session, job_id)
        assert job.status in jobs.FINAL, site.story(job_id)
        assert not session.exec(select(Unit).where(Unit.job_id == job_id)).all()
        indices = session.exec(select(Attempt.idx).where(Attempt.job_id == job_id).order_by(Attempt.idx)).all()
        assert list(indices) == list(range(job.end_index or 0)), "attempts are missing or left over"
        if digest is not None:
            assert job.status == "succeeded", site.story(job_id)
            dataset = session.get(Dataset, job.dataset_id)
            assert dataset is not None
            root = site.store.path(dataset.key)
            assert root is not None
            verify_dataset(root)
            assert dataset_digest(root) == dataset.digest == digest, "the dataset is another one"
            files = {f.path: f for f in session.exec(select(DatasetFile).where(DatasetFile.dataset_id == dataset.id))}
            there = {p.relative_to(root).as_posix(): p for p in root.rglob("*") if p.is_file()}
            assert files.keys() == there.keys()
            assert all(sha256_file(path) == files[name].sha256 for name, path in there.items())
    assert_book_whole(site)


def assert_counts_agree(site: Site, job_id: str) -> None:
    """What the job says about itself is what a recount of its rows says."""
    with site.book.reading() as session:
        job = jobs.get(session, job_id)
        rows = session.exec(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.idx)).all()
        counted = session.exec(select(FailureCount).where(FailureCount.job_id == job_id)).all()
        numbers = session.exec(select(Event.seq).where(Event.job_id == job_id).order_by(Event.seq)).all()
    outcomes = Counter(row.outcome for row in rows)
    assert (job.attempted, job.succeeded, job.failed) == (len(rows), outcomes["success"], outcomes["failure"])
    there = {row.idx: row.outcome for row in rows}
    prefix = 0
    while prefix in there and (job.end_index is None or prefix < job.end_index):
        prefix += 1
    assert job.prefix == prefix
    assert job.prefix_successes == sum(there[i] == "success" for i in range(prefix))
    failures = Counter((row.subtask, row.eef, row.reason) for row in rows if row.outcome == "failure")
    assert {(c.subtask, c.eef, c.reason): c.count for c in counted if c.count} == dict(failures)
    assert list(numbers) == list(range(1, job.last_event + 1)), "events are missing or doubled"


def assert_book_whole(site: Site) -> None:
    """The database finds nothing wrong with itself."""
    if site.book.kind == "sqlite":
        with contextlib.closing(sqlite3.connect(str(site.book.url.database))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def litter(site: Site) -> list[str]:
    """Return what should not be in the store once all jobs have ended: unfinished writes, shards, scratch folders."""
    root = site.store.path("jobs")
    assert root is not None
    store = root.parent
    try:
        wrong = [p for p in store.rglob("*") if p.name.startswith(TMP)]
    except FileNotFoundError as gone:  # it is being tidied up at this moment
        return [str(gone.filename)]
    wrong += [p for p in store.glob("jobs/*/*") if p.name in ("shards", "models")]
    wrong += list(store.glob("scratch/*"))
    return sorted(str(p.relative_to(store)) for p in wrong)


def assert_tidy(site: Site, seconds: float = 5.0) -> None:
    """Whatever the dead left behind is cleared away while the service runs."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not litter(site), "order", seconds)
    assert litter(site) == []


def assert_all_gone(site: Site, within_s: float = 2.0) -> None:
    """So soon after its end no process of a service is left."""
    with contextlib.suppress(AssertionError):
        wait_for(lambda: not site.marked(), "the end of all processes", within_s)
    left = site.marked()
    assert left == [], [command_of(pid) for pid in left]


def write_row(path: Path, row: dict[str, Any]) -> None:
    """Append one line of JSON, at once and whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row, sort_keys=True) + "\n")
        file.flush()
        os.fsync(file.fileno())
