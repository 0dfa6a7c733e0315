"""Laws of the job book and the executor contract, on SQLite and on PostgreSQL, without a single worker."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.util import CommandError
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, inspect
from sqlmodel import Session, select

from api import answers, jobs, leases, tables
from api import database as book
from api.database import Database, sqlite_url
from api.leases import AttemptDone, Done, Drawn, Failed, Opened, Work
from api.specs import JobSpec
from api.tables import Attempt, Event, FailureCount, Job, Strike, Table, Unit
from factory.errors import ServiceError, StorageError
from factory.specs import GenerationSpec, RenderSpec
from factory.statistics import AttemptRecord
from tests import postgres

KINDS = ("sqlite", "postgresql")
EXECUTOR = {"backend": "kinematic", "model_sha": "0" * 64}
CAN = ("simulate", "render", "write")


class Clock:
    """The database's clock, as far as these tests are concerned."""

    def __init__(self) -> None:
        self.at = 1e9

    def __call__(self, _session: Session) -> float:
        return self.at


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (jobs, leases):
        monkeypatch.setattr(module, "now", clock)
    return clock


@contextmanager
def migrated(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[Database]:
    """An open, empty job book."""
    if kind == "sqlite":
        database = Database(sqlite_url(folder / "book.db"))
        database.migrate()
        yield database
        database.close()
        return
    name = f"book_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    with postgres.fresh_database(request.getfixturevalue("postgres_url"), name) as url:
        database = Database(url)
        database.migrate()
        yield database
        database.close()


@pytest.fixture(scope="module", params=KINDS)
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with migrated(request.param, tmp_path_factory.mktemp("book"), request) as database:
        yield database


@pytest.fixture
def db(shared: Database) -> Database:
    """A job book without rows."""
    with shared.transaction() as session:
        for table in reversed(Table.metadata.sorted_tables):
            session.connection().execute(delete(table))
    return shared


def spec(**changes: Any) -> JobSpec:
    wanted = {} if "attempts" in changes else {"episodes": 5}
    return JobSpec(task="stack_three", generation=GenerationSpec(), render=None, **{**wanted, **changes})


def enter(db: Database, weight: float = 1.0, **changes: Any) -> str:
    with db.transaction() as session:
        return jobs.create(session, spec(**changes), weight=weight).id


def lease(db: Database, owner: str = "A", size: int = 1, **options: Any) -> Work | None:
    with db.transaction() as session:
        options = {"worker": f"{owner}1", "capabilities": CAN, **options}
        return leases.lease(session, owner=owner, size=size, **options)


def record(index: int, success: bool) -> AttemptRecord:
    if success:
        return AttemptRecord(index=index, outcome="success", held=True, touched=True)
    where = {"subtask": ("grasp", "place")[index % 2], "eef": "right", "reason": ("dropped", "timeout")[index % 3 == 0]}
    return AttemptRecord(index=index, outcome="failure", **where)


def done(work: Work, index: int, success: bool = True, **changes: Any) -> AttemptDone:
    facts = {"unit": work.unit, "epoch": work.epoch, "job_id": work.job_id, "seconds": 1.0, "worker": "w"}
    return AttemptDone(**{**facts, "record": record(index, success), "shard_sha256": "ab" * success, **changes})


def commit(db: Database, *answers: leases.Answer) -> leases.Receipt:
    with db.transaction() as session:
        return leases.commit(session, answers)


def job_of(db: Database, job_id: str) -> Job:
    with db.reading() as session:
        return jobs.get(session, job_id)


def rows_of(db: Database, job_id: str) -> dict[int, str]:
    with db.reading() as session:
        query = select(Attempt.idx, Attempt.outcome).where(Attempt.job_id == job_id).order_by(Attempt.idx)
        return dict(session.exec(query).all())


def finish(db: Database, job_id: str, succeeds: Any = lambda _index: True, size: int = 3) -> Job:
    """Work on a job until nothing is left to do."""
    for _ in range(10_000):
        work = lease(db, size=size)
        if work is None:
            return job_of(db, job_id)
        if work.kind == "simulate":
            commit(db, *(done(work, index, succeeds(index)) for index in work.indices))
        else:
            facts = {"dataset_id": f"ds_{job_id}", "datasets": [], "files": []}
            commit(db, Done(unit=work.unit, epoch=work.epoch, result=facts))
    raise AssertionError("the job does not end")


# --- leases and commits -----------------------------------------------------------------------------------------------


def test_ranges_tile_the_attempts(db: Database) -> None:
    job_id = enter(db, attempts=23)
    given: list[int] = []
    while work := lease(db, size=5, owner="AB"[len(given) % 2]):
        assert work.job_id == job_id
        given += work.indices
    assert given == list(range(23)), "every index is handed out once, in order, and none beyond the limit"


def test_a_job_ends_at_its_last_wanted_success_and_forgets_what_came_after(db: Database) -> None:
    job_id = enter(db, episodes=2)
    first, second = lease(db, size=3), lease(db, owner="B", size=3)
    commit(db, *(done(second, i) for i in second.indices))
    assert job_of(db, job_id).status == "running", "what lies behind a gap does not count yet"
    receipt = commit(db, done(first, 2), done(first, 0, success=False))
    assert (receipt.committed, receipt.ended) == (2, frozenset())
    receipt = commit(db, done(first, 1))
    assert receipt.ended == {job_id}
    job = job_of(db, job_id)
    assert (job.end_index, job.ended_by, job.attempted, job.succeeded, job.failed) == (3, "target", 3, 2, 1)
    assert rows_of(db, job_id) == {0: "failure", 1: "success", 2: "success"}
    assert finish(db, job_id).status == "succeeded"


def test_a_commit_under_an_old_epoch_is_refused_whatever_the_order(db: Database, clock: Clock) -> None:
    job_id = enter(db, attempts=10)
    old = lease(db, size=4)
    assert commit(db, done(old, 0)).committed == 1
    clock.at += leases.LEASE_S + 1
    with db.transaction() as session:
        assert leases.reclaim(session) == 1
    assert commit(db, done(old, 1)).lost == {old.unit}, "nobody holds it now"
    new = lease(db, owner="B", size=4)
    assert (new.unit, new.indices) == (old.unit, (1, 2, 3)), "what is there is not asked for again"
    assert new.epoch > old.epoch
    assert commit(db, done(old, 1), done(new, 2), done(old, 3)).lost == {old.unit}
    assert rows_of(db, job_id).keys() <= {0, 2}


def test_an_answer_that_comes_twice_counts_once(db: Database) -> None:
    job_id = enter(db, attempts=4)
    work = lease(db, size=2)
    assert commit(db, done(work, 0), done(work, 0, success=False)).committed == 1
    assert commit(db, done(work, 0)).committed == 0
    assert commit(db, done(work, 1)).committed == 1
    assert commit(db, done(work, 1)).lost == {work.unit}
    assert rows_of(db, job_id) == {0: "success", 1: "success"}


def test_a_late_answer_never_lands_in_another_job(db: Database) -> None:
    """The unit of a cancelled job is gone; whatever the next unit is called, the answer is not its."""
    old = enter(db)
    late = lease(db)
    with db.transaction() as session:
        jobs.cancel(session, old)
    new = enter(db)
    fresh = lease(db)
    assert commit(db, done(late, 0), done(late, 3)).lost == {late.unit}
    assert rows_of(db, new) == {}
    stranger = replace(done(fresh, 0), job_id=old)
    assert commit(db, stranger).lost == {fresh.unit}
    again = lease(db) or fresh
    assert commit(db, done(again, 4)).committed == 0, "an index that was not leased"
    assert rows_of(db, new) == {}


def test_what_somebody_waits_for_is_not_queued_behind_attempts(db: Database) -> None:
    """A busy worker is given no attempts in advance while a check waits, so that it is free for it next."""
    job_id = enter(db, attempts=1000)
    assert lease(db).kind == "simulate"
    assert lease(db, attempts_only=True).kind == "simulate"
    with db.transaction() as session:
        session.add(Unit(kind="clip", job_id=job_id, remaining=1, payload={"indices": [0], "name": "attempt_0"}))
    assert lease(db, attempts_only=True) is None
    assert lease(db).kind == "clip"
    assert lease(db, attempts_only=True).kind == "simulate"


def test_drawing_shares_workers_with_other_jobs_attempts(db: Database) -> None:
    """A job with many pictures to draw does not keep a small one from its attempts, nor the other way round."""
    first = enter(db, attempts=8)
    finish(db, first)
    with db.transaction() as session:
        drawing = jobs.get(session, first)
        drawing.spec = replace(spec(attempts=8), render=RenderSpec()).to_json()
        jobs.start_rendering(session, drawing, list(range(400)))
    second = enter(db, attempts=1000)
    kinds: Counter[str] = Counter()
    for _ in range(60):
        work = lease(db)
        kinds[work.kind] += 1
        answers = [replace(done(work, i), seconds=1.0) for i in work.indices]
        if work.kind == "render":
            named = {"unit": work.unit, "epoch": work.epoch, "job_id": first}
            answers = [Drawn(**named, index=i, frames=1, seconds=1.0) for i in work.indices]
        commit(db, *answers)
    assert min(kinds["render"] * 4, kinds["simulate"]) > 20, kinds
    assert job_of(db, second).attempted == kinds["simulate"]


def test_heartbeats_keep_a_lease_and_silence_loses_it(db: Database, clock: Clock) -> None:
    enter(db, attempts=10)
    a, b = lease(db, owner="A"), lease(db, owner="B")
    for _ in range(5):
        clock.at += leases.LEASE_S - 1
        with db.transaction() as session:
            leases.reclaim(session)
            leases.heartbeat(session, "A")
    assert commit(db, done(a, 0)).committed == 1
    assert commit(db, done(b, 1)).lost == {b.unit}


def test_what_an_owner_does_not_know_it_holds_is_given_back(db: Database) -> None:
    """Its lease was committed, but the connection broke before it heard so."""
    enter(db, attempts=10)
    known, unknown, foreign = lease(db), lease(db), lease(db, owner="B")
    with db.transaction() as session:
        assert leases.heartbeat(session, "A", holds={known.unit}) == 1
    again = lease(db, owner="B")
    assert (again.unit, again.indices) == (unknown.unit, unknown.indices)
    assert commit(db, done(known, 0), done(foreign, 2)).committed == 2
    assert commit(db, done(unknown, 1)).lost == {unknown.unit}


def test_a_dispatcher_that_is_dead_is_taken_over_at_once_and_a_living_one_is_not(db: Database) -> None:
    enter(db, attempts=10)
    with db.transaction() as session:
        leases.register(session, "A", transport="local")
    lease(db, owner="A", size=2)
    with db.transaction() as session:
        assert leases.register(session, "B", transport="local") == 0, "this process lives"
        session.get(leases.Dispatcher, "A").born = "another boot:0"
        session.flush()
        assert leases.register(session, "C", transport="local") == 1


def test_a_job_says_what_nobody_who_is_alive_can_do(
    db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "now", clock)

    def waits(job_id: str, *able: str) -> str | None:
        with db.transaction() as session:
            session.exec(delete(tables.Worker))
            session.add(tables.Worker(id="w", owner="A", capabilities=list(able), seen_at=clock.at))
        with db.reading() as session:
            return answers.waiting_for(session, jobs.get(session, job_id))

    ours, theirs = enter(db), enter(db, backend="isaaclab", worlds=4)
    assert (waits(ours), waits(ours, *CAN)) == ("simulate", None)
    assert (waits(theirs, *CAN), waits(theirs, *CAN, "isaac")) == ("isaac", None)
    with db.transaction() as session:
        jobs.pause(session, theirs)
    assert waits(theirs) is None, "it waits for a person"
    assert waits(ours, *CAN) is None
    clock.at += 2 * leases.LEASE_S
    with db.reading() as session:
        assert answers.waiting_for(session, jobs.get(session, ours)) == "simulate", "silent workers are no workers"


def test_strikes_make_poison_at_exactly_three(db: Database) -> None:
    job_id = enter(db, attempts=4)
    for strike in (1, 2, 3):
        work = lease(db, size=4)
        assert work.indices == (0, 1, 2, 3)
        with db.transaction() as session:
            leases.died(session, work, at_index=2, how="killed by SIGKILL")
            leases.died(session, work, at_index=2, how="told twice")
        assert (2 in rows_of(db, job_id)) == (strike == 3)
    with db.reading() as session:
        assert session.get(Strike, (job_id, 2)).count == 3
        assert session.get(Attempt, (job_id, 2)).reason == "infra_poison"
    work = lease(db, size=4)
    assert work.indices == (0, 1, 3)
    job = finish(db, job_id)
    commit(db, *(done(work, index) for index in work.indices))
    job = finish(db, job_id)
    assert (job.status, job.attempted, job.succeeded) == ("succeeded", 4, 3)


def test_units_that_only_waited_and_leases_that_were_lost_get_no_strike(db: Database, clock: Clock) -> None:
    job_id = enter(db, attempts=8)
    first, second = lease(db, size=2), lease(db, size=2)
    clock.at += leases.LEASE_S + 1
    with db.transaction() as session:
        leases.heartbeat(session, "A", holds={second.unit})
        leases.died(session, first, at_index=0, how="x")
        leases.died(session, second, at_index=2, how="x", began=False)
    with db.reading() as session:
        assert session.exec(select(Strike).where(Strike.job_id == job_id)).all() == []
    assert {lease(db, size=2).indices, lease(db, size=2).indices} == {(0, 1), (2, 3)}


def test_a_unit_that_kills_its_worker_three_times_ends_the_job_with_a_sentence(db: Database) -> None:
    job_id = enter(db, attempts=1)
    work = lease(db)
    commit(db, done(work, 0))
    for _ in range(3):
        work = lease(db)
        assert work.kind == "finalize"
        with db.transaction() as session:
            leases.died(session, work, at_index=None, how="killed by SIGSEGV")
    job = job_of(db, job_id)
    assert (job.status, job.error["code"]) == ("failed", "finalize_poison")
    assert "SIGSEGV" in job.error["message"]
    assert lease(db) is None


def test_units_that_are_given_back_are_next(db: Database) -> None:
    enter(db, attempts=30)
    first, second = lease(db, size=3), lease(db, size=3)
    with db.transaction() as session:
        leases.give_back(session, [(first.unit, first.epoch), (second.unit, second.epoch + 1)])
    assert lease(db, size=3, owner="B").indices == first.indices
    assert lease(db, size=3, owner="B").indices == (6, 7, 8)


def test_an_executor_unlike_the_first_is_sent_away_and_told_so(db: Database) -> None:
    job_id = enter(db, attempts=10)
    a, b = lease(db, owner="A"), lease(db, owner="B")
    ours = {"unit": a.unit, "epoch": a.epoch, "job_id": job_id}
    theirs = {"unit": b.unit, "epoch": b.epoch, "job_id": job_id}
    assert not commit(db, Opened(**ours, executor=EXECUTOR)).lost
    receipt = commit(db, Opened(**theirs, executor={**EXECUTOR, "numpy": "9"}), done(b, 1))
    assert (receipt.lost, receipt.unlike, receipt.committed) == ({b.unit}, {b.unit}, 0)
    with db.reading() as session:
        assert [e.data for e in jobs.events(session, job_id) if e.type == "worker.unlike"] == [
            {"differs_in": ["numpy"]}
        ]
    stale = commit(db, Opened(**{**theirs, "epoch": b.epoch}, executor=EXECUTOR))
    assert (stale.lost, stale.unlike) == ({b.unit}, frozenset()), "a late answer is no reason to avoid the job"
    assert lease(db, owner="B", avoid=frozenset({job_id})) is None
    assert job_of(db, job_id).executor == EXECUTOR


def test_a_failure_is_waited_for_or_ends_the_job(db: Database, clock: Clock) -> None:
    job_id = enter(db, attempts=10)
    work, other = lease(db, size=2), lease(db, size=2)
    commit(db, Failed(unit=work.unit, epoch=work.epoch, cause="storage", message="the disk is full"))
    job = job_of(db, job_id)
    assert (job.status, job.paused_for) == ("paused", "storage")
    assert lease(db) is None
    assert commit(db, done(other, 2)).committed == 1, "what is in progress is still welcome"
    with db.transaction() as session:
        jobs.resume(session, job_id)
    clock.at += leases.STORAGE_WAIT_S
    work = lease(db, size=2)
    assert work.indices == (0, 1)
    commit(db, Failed(unit=work.unit, epoch=work.epoch, cause="defect", message="ZeroDivisionError"))
    job = job_of(db, job_id)
    assert (job.status, job.ended_by, job.error["code"]) == ("failed", "error", "simulate_defect")


def test_a_job_that_failed_is_taken_up_again_without_a_gap(db: Database) -> None:
    job_id = enter(db, attempts=6)
    first, second = lease(db, size=2), lease(db, size=2)
    commit(db, done(first, 0), done(second, 3))
    commit(db, Failed(unit=first.unit, epoch=first.epoch, cause="defect", message="x"))
    with db.transaction() as session:
        jobs.revise(session, jobs.get(session, job_id, lock=True), spec(attempts=6))
    job = finish(db, job_id, size=4)
    assert (job.status, job.attempted) == ("succeeded", 6)


def test_new_rules_reopen_a_job_whose_attempts_had_ended(db: Database) -> None:
    job_id = enter(db, attempts=2)
    work = lease(db, size=2)
    commit(db, done(work, 0), done(work, 1))
    assert job_of(db, job_id).status == "finalizing"
    with db.transaction() as session:
        jobs.revise(session, jobs.get(session, job_id, lock=True), spec(attempts=4))
    job = finish(db, job_id)
    assert (job.status, job.attempted) == ("succeeded", 4)


# --- states and rules -------------------------------------------------------------------------------------------------

AT = {  # state -> what brings a fresh job there
    "queued": [],
    "running": ["lease"],
    "paused": ["lease", "pause"],
    "finalizing": ["lease", "commit"],
    "succeeded": ["lease", "commit", "finalize"],
    "cancelled": ["lease", "cancel"],
}
ALLOWED = {  # state -> verb -> state afterwards; what is missing is refused
    "queued": {"pause": "paused", "resume": "queued", "cancel": "cancelled"},
    "running": {"pause": "paused", "resume": "running", "cancel": "cancelled"},
    "paused": {"pause": "paused", "resume": "queued", "cancel": "cancelled"},
    "finalizing": {},
    "succeeded": {},
    "cancelled": {"cancel": "cancelled"},
}


@pytest.mark.parametrize("state", AT)
@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_every_state_knows_what_may_be_asked_of_it(db: Database, state: str, verb: str) -> None:
    job_id = enter(db, attempts=1)
    for step in AT[state]:
        if step == "lease":
            work = lease(db)
        elif step == "commit":
            commit(db, done(work, 0))
        elif step == "finalize":
            finish(db, job_id)
        else:
            with db.transaction() as session:
                getattr(jobs, step)(session, job_id)
    before = job_of(db, job_id)
    assert before.status == state
    if (expected := ALLOWED[state].get(verb)) is None:
        with db.transaction() as session, pytest.raises(ServiceError, match=f"is {state} and cannot be") as raised:
            getattr(jobs, verb)(session, job_id)
        assert raised.value.status == 409
        assert job_of(db, job_id) == before
    else:
        for _ in range(2):  # asking twice changes nothing more
            with db.transaction() as session:
                assert getattr(jobs, verb)(session, job_id).status == expected
        after = job_of(db, job_id)
        assert after.state_times.keys() >= before.state_times.keys()


def test_a_cancelled_job_keeps_its_prefix(db: Database) -> None:
    job_id = enter(db, episodes=50)
    first, second = lease(db, size=4), lease(db, size=4)
    commit(db, *(done(first, i, success=i > 0) for i in (0, 1, 2)), done(second, 5))
    with db.transaction() as session:
        jobs.cancel(session, job_id)
    assert commit(db, done(first, 3)).lost == {first.unit}
    job = finish(db, job_id)
    assert (job.status, job.ended_by, job.end_index, job.succeeded) == ("cancelled", "cancelled", 3, 2)
    assert rows_of(db, job_id) == {0: "failure", 1: "success", 2: "success"}
    assert job.dataset_id is not None


def test_time_that_passes_while_paused_does_not_count(db: Database, clock: Clock) -> None:
    job_id = enter(db, attempts=100, max_wall_s=10.0)
    assert lease(db)

    def overdue() -> bool:
        with db.transaction() as session:
            return jobs.overdue(session, jobs.get(session, job_id, lock=True))

    clock.at += 6
    with db.transaction() as session:
        jobs.pause(session, job_id)
    clock.at += 1000
    assert not overdue()
    with db.transaction() as session:
        jobs.resume(session, job_id)
    clock.at += 1000
    assert not overdue(), "nor does time in the queue"
    assert lease(db)
    clock.at += 3.9
    assert not overdue()
    clock.at += 0.2
    assert overdue()
    assert job_of(db, job_id).status == "expired"


@pytest.mark.parametrize(
    ("rules", "outcomes", "ends"),
    [
        ({"episodes": 2}, "1011", ("target", 3)),
        ({"episodes": 3, "max_attempts": 4}, "10101", ("max_attempts", 4)),
        ({"attempts": 3}, "0111", ("attempts", 3)),
        ({"episodes": 9, "min_success_rate": 0.5, "min_success_after": 4}, "0101001", ("min_success_rate", 5)),
        ({"episodes": 9, "min_success_rate": 0.5, "min_success_after": 2}, "00", ("min_success_rate", 2)),
        ({"episodes": 2, "max_attempts": 2}, "11", ("target", 2)),
    ],
)
def test_rules_look_at_the_prefix_alone(db: Database, rules: dict, outcomes: str, ends: tuple[str, int]) -> None:
    """Committed back to front in one unit, and front to back one by one: the same end."""
    for backwards in (True, False):
        job_id = enter(db, **{"max_attempts": 20, **rules} if "attempts" not in rules else rules)
        work = lease(db, size=len(outcomes))
        indices = sorted(work.indices, reverse=backwards)
        for index in indices:
            commit(db, done(work, index, outcomes[index] == "1"))
        job = job_of(db, job_id)
        assert (job.ended_by, job.end_index) == ends
        finish(db, job_id)


# --- fairness ---------------------------------------------------------------------------------------------------------


@dataclass
class Worker:
    """A worker in virtual time: every attempt takes a second."""

    name: str
    job_id: str | None = None
    busy_until: float = 0.0
    work: Work | None = None


def simulate(db: Database, clock: Clock, workers: int, until: Any, seconds: float, most: float = 4000.0) -> None:
    """Let workers work, one second a step and `seconds` for each attempt."""
    crew = [Worker(name=f"w{i}") for i in range(workers)]
    start = clock.at
    while not until():
        assert clock.at - start < most, "never"
        for worker in crew:
            if worker.work is not None and worker.busy_until <= clock.at:
                answers = [done(worker.work, i, seconds=seconds) for i in worker.work.indices]
                commit(db, *answers)
                worker.work = None
            if worker.work is None:
                worker.work = lease(db, worker=worker.name, size=4, prefer=worker.job_id, capabilities=("simulate",))
                if worker.work is not None:
                    worker.job_id = worker.work.job_id
                    worker.busy_until = clock.at + seconds * len(worker.work.indices)
        clock.at += 1.0


def test_a_small_job_beside_a_huge_one_gets_its_share(db: Database, clock: Clock) -> None:
    huge = enter(db, attempts=1_000_000)
    simulate(db, clock, 2, lambda: job_of(db, huge).attempted >= 200, 1.0)
    began = clock.at
    small = enter(db, attempts=50)
    simulate(db, clock, 2, lambda: job_of(db, small).status == "finalizing", 1.0)
    # Two workers, two jobs: a fair half is one worker, 50 s; a slice and a unit in progress may come on top.
    assert clock.at - began <= 50 + leases.SLICE_S + 2 * 4
    assert job_of(db, huge).status == "running"


@pytest.mark.parametrize("weights", [(1.0, 1.0), (3.0, 1.0)])
def test_running_jobs_share_by_weight(db: Database, clock: Clock, weights: tuple[float, float]) -> None:
    one, other = (enter(db, weight=weight, attempts=1_000_000) for weight in weights)
    end = clock.at + 250
    simulate(db, clock, 2, lambda: clock.at >= end, 1.0)
    shares = [job_of(db, job_id).worker_s for job_id in (one, other)]
    assert sum(shares) >= 0.95 * 500
    expected = weights[0] / sum(weights)
    assert abs(shares[0] / sum(shares) - expected) <= 2 * leases.SLICE_S / 250 + 0.02


def test_ranges_are_as_long_as_their_own_job_wants(db: Database) -> None:
    quick, slow = enter(db, attempts=500), enter(db, attempts=500)
    sizes = {quick: 64, slow: 1}
    works = [lease(db, size=lambda job: sizes[job.id], avoid=frozenset({other})) for other in sizes]
    assert {w.job_id: len(w.indices) for w in works} == sizes


# --- two dispatchers, any order ---------------------------------------------------------------------------------------


@dataclass
class Held:
    """A lease that was once given, as the model remembers it."""

    work: Work
    owner: str
    until: float


@dataclass
class Model:
    """What the book must say, kept in two dictionaries."""

    spec: JobSpec
    outcomes: list[bool]
    rows: dict[int, str] = field(default_factory=dict)
    strikes: Counter[int] = field(default_factory=Counter)
    units: dict[int, Held] = field(default_factory=dict)
    issued: list[Held] = field(default_factory=list)
    cancelled: bool = False

    def enter(self, index: int, outcome: str) -> None:
        if not self.end:
            self.rows.setdefault(index, outcome)

    @property
    def prefix(self) -> int:
        n = 0
        while n in self.rows:
            n += 1
        return n

    @property
    def end(self) -> tuple[str, int] | None:
        """The first index at which a rule holds, whenever it is noticed."""
        successes = 0
        for n in range(1, self.prefix + 1):
            successes += self.rows[n - 1] == "success"
            if named := jobs.rule_at(self.spec, n, successes):
                return named, n
        return None

    @property
    def valid(self) -> list[Held]:
        return list(self.units.values())


class TwoDispatchers(RuleBasedStateMachine):
    """Owners A and B lease, answer late, die, fall silent and are reclaimed, in any order."""

    db: Database
    clock: Clock

    @initialize(
        outcomes=st.lists(st.booleans(), min_size=24, max_size=24),
        rules=st.sampled_from(
            [
                {"episodes": 4, "max_attempts": 24},
                {"attempts": 9},
                {"episodes": 12, "max_attempts": 16},
                {"episodes": 9, "max_attempts": 24, "min_success_rate": 0.4, "min_success_after": 5},
            ]
        ),
    )
    def begin(self, outcomes: list[bool], rules: dict[str, Any]) -> None:
        self.model = Model(spec=spec(**rules), outcomes=outcomes)
        self.job_id = enter(self.db, **rules)
        self.paused = False

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            self.run_to_the_end()
        finally:
            with self.db.transaction() as session:
                for table in reversed(Table.metadata.sorted_tables):
                    session.connection().execute(delete(table))

    @property
    def trying(self) -> bool:
        return self.model.end is None and not self.model.cancelled

    # --- what can happen ----------------------------------------------------------------------------------------------

    @rule(owner=st.sampled_from("AB"), size=st.integers(1, 5))
    def take(self, owner: str, size: int) -> None:
        work = lease(self.db, owner=owner, size=size, capabilities=("simulate",))
        if not self.trying or self.paused:
            assert work is None
            return
        held = {i for h in self.model.valid for i in h.work.indices} | self.model.rows.keys()
        free = [i for i in range(self.model.spec.limit) if i not in held]
        if work is None:
            assert not free, "there was something to do"
            return
        assert work.indices
        assert work.indices[0] == free[0], "the lowest index that nobody holds comes first"
        assert set(work.indices) <= set(free), "nothing is handed out twice, nothing beyond the limit"
        new = Held(work=work, owner=owner, until=self.clock.at + leases.LEASE_S)
        self.model.units[work.unit] = new
        self.model.issued.append(new)

    @precondition(lambda self: self.model.issued)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        """Anything that was ever handed out is answered, in any order, in one batch."""
        batch, expected, lost = [], 0, set()
        for _ in range(data.draw(st.integers(1, 4))):
            held = data.draw(st.sampled_from(self.model.issued))
            index = data.draw(st.sampled_from(held.work.indices))
            batch.append(done(held.work, index, self.model.outcomes[index]))
        for message in batch:
            current = self.model.units.get(message.unit)
            if current is None or current.work.epoch != message.epoch or message.unit in lost:
                lost.add(message.unit)
                continue
            index = message.record.index
            if index not in self.model.rows:
                # Rules are applied once a batch is in, so a batch may go beyond the end.
                self.model.rows[index] = message.record.outcome
                expected += 1
            if set(current.work.indices) <= self.model.rows.keys():
                del self.model.units[message.unit]
        receipt = commit(self.db, *batch)
        assert receipt.committed == expected
        assert receipt.lost == lost
        self.settle()

    @precondition(lambda self: self.model.valid)
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        held = data.draw(st.sampled_from(self.model.issued))
        left = [i for i in held.work.indices if i not in self.model.rows]
        assume(left)
        at = data.draw(st.sampled_from(left[:1]))
        with self.db.transaction() as session:
            leases.died(session, held.work, at_index=at, how="killed by SIGKILL")
        current = self.model.units.get(held.work.unit)
        if current is None or current.work.epoch != held.work.epoch:
            return
        del self.model.units[held.work.unit]
        self.model.strikes[at] += 1
        if self.model.strikes[at] >= leases.STRIKES:
            self.model.enter(at, "failure")
        self.settle()

    @rule(owner=st.sampled_from("AB"))
    def beat(self, owner: str) -> None:
        with self.db.transaction() as session:
            leases.heartbeat(session, owner)
        for held in self.model.valid:
            if held.owner == owner:
                held.until = self.clock.at + leases.LEASE_S

    @rule(seconds=st.sampled_from([1.0, 7.0, leases.LEASE_S + 1]))
    def wait(self, seconds: float) -> None:
        self.clock.at += seconds

    @rule()
    def reclaim(self) -> None:
        late = [number for number, held in self.model.units.items() if held.until < self.clock.at]
        with self.db.transaction() as session:
            assert leases.reclaim(session) == len(late)
        for number in late:
            del self.model.units[number]

    @rule(owner=st.sampled_from("AB"))
    def restart(self, owner: str) -> None:
        """A dispatcher is killed and its successor takes over."""
        mine = [number for number, held in self.model.units.items() if held.owner == owner]
        with self.db.transaction() as session:
            assert jobs.release_owner(session, owner) == len(mine)
        for number in mine:
            del self.model.units[number]

    @precondition(lambda self: self.trying)
    @rule()
    def pause_or_resume(self) -> None:
        with self.db.transaction() as session:
            (jobs.resume if self.paused else jobs.pause)(session, self.job_id)
        self.paused = not self.paused

    def settle(self) -> None:
        """Once a rule holds, what lies beyond the end and who worked on it are forgotten."""
        if end := self.model.end:
            self.model.rows = {i: o for i, o in self.model.rows.items() if i < end[1]}
            self.model.units.clear()

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def book_and_model_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        with self.db.reading() as session:
            job = jobs.get(session, self.job_id)
            rows = session.exec(select(Attempt).where(Attempt.job_id == self.job_id)).all()
            units = session.exec(select(Unit).where(Unit.kind == "simulate")).all()
            counts = session.exec(select(FailureCount)).all()
            numbers = session.exec(select(Event.seq).where(Event.job_id == self.job_id).order_by(Event.seq)).all()
        assert {row.idx: row.outcome for row in rows} == self.model.rows
        assert len(rows) == len(self.model.rows)
        assert (job.prefix, job.attempted) == (self.model.prefix, len(rows))
        assert job.prefix_successes == sum(self.model.rows[i] == "success" for i in range(job.prefix))
        succeeded = sum(row.outcome == "success" for row in rows)
        assert (job.succeeded, job.failed) == (succeeded, len(rows) - succeeded)
        failures = Counter((r.subtask, r.eef, r.reason) for r in rows if r.outcome == "failure")
        assert {(c.subtask, c.eef, c.reason): c.count for c in counts if c.count} == dict(failures)
        assert list(numbers) == list(range(1, job.last_event + 1))
        leased = {u.id: (u.epoch, u.owner) for u in units if u.state == "leased"}
        assert leased == {n: (h.work.epoch, h.owner) for n, h in self.model.units.items()}
        for unit in units:
            assert unit.remaining == sum(i not in self.model.rows for i in range(unit.start, unit.stop))
        if end := self.model.end:
            assert (job.ended_by, job.end_index) == end
            assert job.status in ("finalizing", "failed")
        else:
            assert job.status == ("paused" if self.paused else job.status)
            assert job.status in ("queued", "running", "paused")

    def run_to_the_end(self) -> None:
        """Whatever happened, the job ends where an undisturbed one with these outcomes ends."""
        if self.paused and self.trying:
            self.pause_or_resume()
        for owner in "AB":
            self.restart(owner)
        for _ in range(200):
            if not self.trying:
                break
            work = lease(self.db, owner="C", size=4, capabilities=("simulate",))
            assert work is not None, "the job hangs"
            for index in work.indices:
                if self.trying:
                    self.model.enter(index, "success" if self.model.outcomes[index] else "failure")
                commit(self.db, done(work, index, self.model.outcomes[index]))
                self.settle()
        self.book_and_model_agree()
        poisoned = {i for i, count in self.model.strikes.items() if count >= leases.STRIKES}
        successes = 0
        for n in range(1, self.model.spec.limit + 1):
            with self.db.reading() as session:
                row = session.get(Attempt, (self.job_id, n - 1))
            assert row is not None
            made = self.model.outcomes[n - 1]
            assert (row.outcome == "success") == made or n - 1 in poisoned
            successes += row.outcome == "success"
            if named := jobs.rule_at(self.model.spec, n, successes):
                assert (job_of(self.db, self.job_id).ended_by, job_of(self.db, self.job_id).end_index) == (named, n)
                return
        raise AssertionError("no rule ended the job")


def test_two_dispatchers_in_any_order_agree_with_the_model(db: Database, clock: Clock) -> None:
    machine = type("Machine", (TwoDispatchers,), {"db": db, "clock": clock})
    examples = int(os.environ.get("FACTORY_TEST_EXAMPLES", "25"))
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- the same story in both databases ---------------------------------------------------------------------------------


def test_both_databases_tell_the_same_story(
    tmp_path: Path, clock: Clock, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    stories = []
    for kind in KINDS:
        clock.at = 1e9
        (tmp_path / kind).mkdir()
        monkeypatch.setattr(jobs, "new_id", lambda kind: f"{kind}_1")
        with migrated(kind, tmp_path / kind, request) as database:
            job_id = enter(database, episodes=3)
            first, second = lease(database, size=2), lease(database, owner="B", size=2)
            opened = Opened(unit=first.unit, epoch=first.epoch, job_id=job_id, executor=EXECUTOR, refused=("x",))
            commit(database, opened, done(first, 1), done(second, 3, success=False))
            clock.at += leases.LEASE_S + 1
            with database.transaction() as session:
                leases.reclaim(session)
                jobs.pause(session, job_id)
                jobs.resume(session, job_id)
            finish(database, job_id, lambda index: index % 2 == 0)
            with database.reading() as session:
                rows = [
                    row.model_dump()
                    for table in (Job, Attempt, Event, FailureCount, Unit)
                    for row in session.exec(select(table))
                ]
            stories.append(sorted(map(repr, rows)))
    assert stories[0] == stories[1]


# --- migrations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_tables_are_what_the_migrations_make(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with migrated(kind, tmp_path, request) as database:
        try:
            command.check(book._alembic(database))
        except CommandError as error:
            pytest.fail(f"tables.py and the migrations differ: {error}")
        job_id = enter(database, attempts=2)
        database.migrate()
        assert job_of(database, job_id).status == "queued", "migrating again changes nothing"
        command.downgrade(book._alembic(database), "base")
        assert set(inspect(database.engine).get_table_names()) <= {"alembic_version"}
        database.migrate()
        assert finish(database, enter(database, attempts=2)).status == "succeeded"


MIGRATE = "import sys; from api.database import Database; d = Database(sys.argv[1]); d.migrate(); d.close()"


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_may_migrate_at_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    with open_url(kind, tmp_path, request) as url:
        both = [
            subprocess.Popen([sys.executable, "-c", MIGRATE, url], stderr=subprocess.PIPE, text=True) for _ in range(3)
        ]
        said = [process.communicate(timeout=60)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0, 0], said
        database = Database(url)
        assert finish(database, enter(database, attempts=2)).status == "succeeded"
        database.close()


@contextmanager
def open_url(kind: str, folder: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    if kind == "sqlite":
        yield sqlite_url(folder / "book.db")
        return
    with postgres.fresh_database(request.getfixturevalue("postgres_url"), f"migrate_{os.getpid()}") as url:
        yield url


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite://"])
def test_a_database_that_is_none_is_a_sentence(url: str) -> None:
    with pytest.raises(StorageError, match="sqlite:///FILE and postgresql://"):
        Database(url)


def test_a_password_is_in_no_sentence() -> None:
    database = Database("postgresql://me:secret@127.0.0.1:1/none")
    with pytest.raises(StorageError) as raised, database.reading() as session:
        session.connection()
    assert "secret" not in str(raised.value)


def test_a_file_that_is_no_database_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "book.db").write_bytes(b"not a database at all, but long enough to look like one" * 100)
    database = Database(sqlite_url(tmp_path / "book.db"))
    with pytest.raises(StorageError, match="book.db"):
        database.migrate()
