"""The executor contract: lease a piece of work, send heartbeats, commit what was done under the lease's epoch.

Transports (local processes, Ray, HTTP) differ in how a unit travels to a worker and how an answer comes back; what is
allowed is decided here, in one transaction of the job book at a time. Whatever a worker does, and however often it is
killed, an attempt exists exactly when its row does.

    lease()      -> Work, valid until it expires; heartbeat() prolongs everything its owner holds
    commit()     <- answers; one whose epoch is no longer the unit's is refused and its worker told to drop the unit
    died()       <- a worker is gone; the index it was at gets a strike, the third makes it poison
    reclaim()       gives back what silent owners held
"""

from __future__ import annotations

import os
import socket
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from sqlalchemy import case, delete, exists, func, insert, or_, update
from sqlalchemy import select as sa_select
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from api import dreams, jobs
from api.database import now
from api.messages import Answer, AttemptDone, Done, Drawn, Failed, Kind, Opened, Work
from api.records import to_row
from api.specs import JobSpec, job_from_json
from api.tables import Attempt, Dataset, DatasetFile, Dispatcher, FailureCount, File, Job, Strike, Unit, Worker
from factory.statistics import AttemptRecord

CAPABILITIES: Mapping[Kind, str] = {
    "simulate": "simulate",
    "check": "simulate",
    "clip": "render",
    "render": "render",
    "verify": "simulate",
    "unpack": "write",
    "finalize": "write",
    "push": "write",
    "dream": "dream",
}
"""What a worker must be able to do for each kind of unit; attempts may need something else, see `needed`, and stages of
dreams too, see `dreams.NEEDS`."""

PULLED = "http"
"""Transport of owners that are no processes of ours: machines that pull."""

RESULTS = {"clip": "clips", "push": "pushes"}
"""Where in a job's result what was made for it later is kept, by name."""

LEASE_S = 15.0
"""An owner that is silent for so long is taken for dead."""
HEARTBEAT_S = 3.0
SILENCE_S: Mapping[Kind, float] = {
    "simulate": 900.0,
    "check": 900.0,
    "clip": 1800.0,
    "render": 1800.0,
    "verify": 86400.0,
    "unpack": 86400.0,
    "finalize": 86400.0,
    "push": 86400.0,
    "dream": 86400.0,
}
"""A worker that says nothing for so long is stuck and killed. Opening a simulator counts, compiling it included;
attempts and episodes are answered one by one, the others at their end."""
_WORLD_S = 15.0
"""... but worlds in lock step all begin before the first of them ends, and a processor computes one after the other."""
_FIRST = {"check": 0, "clip": 0, "unpack": 1, "verify": 1, "finalize": 1, "push": 1}
"""What is handed out before attempts and pictures, and in which order."""
STRIKES = 3
"""An index, or a unit, that was in progress when its worker died this often is not tried again."""
STORAGE_WAIT_S = 5.0
"""What failed for want of storage is tried again after this time."""
ROUNDS = 4
"""Attempts a world makes under one lease. At its end worlds stand still one after the other: short leases waste them,
long ones keep other jobs waiting."""
SLICE_S = 10.0
"""A worker changes to a more neglected job after this many seconds of work; changing costs opening a simulator."""
AHEAD = 2
"""Units a worker holds: the one in progress and one more, so that it never waits for us."""

_ANYTHING = sa_select(
    or_(
        exists().where(col(Job.status).in_(jobs.TRYING)),
        exists().where(col(Unit.state) == "waiting"),
    )
)

_INSERT: Mapping[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Database -> an insert that may add to a row that is there."""


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of a batch of answers.

    Attributes:
        committed: attempts that exist now and did not before.
        lost: units whose lease is no longer the worker's, or whose job needs nothing more; drop them.
        unlike: of those, units of jobs that an executor with another runtime fingerprint began.
        ended: jobs whose attempts ended with this batch.
    """

    committed: int = 0
    lost: frozenset[int] = frozenset()
    unlike: frozenset[int] = frozenset()
    ended: frozenset[str] = frozenset()


# --- leasing ----------------------------------------------------------------------------------------------------------


def lease(
    session: Session,
    *,
    owner: str,
    worker: str,
    capabilities: Sequence[str],
    size: int | Callable[[Job], int] = 1,
    prefer: str | None = None,
    avoid: frozenset[str] = frozenset(),
    attempts_only: bool = False,
    only: Collection[Kind] = get_args(Kind),
    lease_s: float = LEASE_S,
) -> Work | None:
    """Return the most urgent piece of work for a worker, or None when there is none.

    What people wait for in front of a screen comes first (checks, clips), then finishing, then attempts or pictures of
    the job that has had least.

    Args:
        session: of a writing transaction.
        owner: the dispatcher that answers for the worker.
        worker: its id.
        capabilities: what it can do.
        size: attempt indices to hand out together; it may depend on the job.
        prefer: the job it is set up for; kept unless another one is `SLICE_S` worker seconds behind.
        avoid: jobs it cannot work on, because its runtime fingerprint differs from theirs.
        attempts_only: the worker is in the middle of something, so only attempts may be handed out in advance; none
            are while something else comes first, which would wait behind them.
        only: kinds of units that may be handed out to it at all.
        lease_s: how long the lease lives without a heartbeat.
    """
    at = now(session)
    kinds: list[Kind] = [kind for kind, able in CAPABILITIES.items() if able in capabilities and kind in only]
    first = [kind for kind in kinds if kind in _FIRST]
    if first and (unit := _waiting(session, first, avoid)):
        return None if attempts_only else _hand_out(session, unit, owner, worker, at + lease_s)
    for job in _hungry(session, prefer, avoid):
        unit = None
        if job.purpose == "dream":
            fit = dreams.needs(job) in capabilities and "dream" in only and not attempts_only
            unit = _waiting(session, ["dream"], avoid, job) if fit else None
        elif job.status == "rendering":
            unit = _waiting(session, ["render"], avoid, job) if "render" in kinds else None
            if unit is not None and attempts_only:
                return None
        elif needed(jobs.spec_of(job)) in capabilities:
            unit = _range(session, job, size if isinstance(size, int) else size(job), at)
        if unit is not None:
            jobs.started(session, job)
            return _hand_out(session, unit, owner, worker, at + lease_s, job)
    return None


def _waiting(session: Session, kinds: Sequence[str], avoid: frozenset[str], job: Job | None = None) -> Unit | None:
    due = col(Unit.until) <= now(session)
    query = select(Unit).where(Unit.state == "waiting", col(Unit.kind).in_(kinds), due).limit(1)
    if avoid:
        query = query.where(col(Unit.job_id).is_(None) | col(Unit.job_id).not_in(avoid))
    if job is not None:
        query = query.where(Unit.job_id == job.id).order_by(col(Unit.start))
    else:
        query = query.order_by(case(_FIRST, value=col(Unit.kind)), col(Unit.id))
    return session.exec(query.with_for_update(skip_locked=True)).first()


def _hungry(session: Session, prefer: str | None, avoid: frozenset[str]) -> list[Job]:
    """Return jobs that want attempts or pictures, whose turn it is first."""
    trying = col(Job.status).in_(jobs.TRYING) & (col(Job.purpose) != "export")
    wanting = (trying | (col(Job.status) == "rendering")) & col(Job.id).not_in(avoid)
    query = select(Job).where(wanting).order_by(col(Job.virtual_s), col(Job.created_at))
    ready = list(session.exec(query.limit(50).with_for_update()))
    least = min((job.virtual_s for job in ready if job.status != "queued"), default=0.0)
    preferred = next((job for job in ready if job.id == prefer), None)
    fresh = any(job.status == "queued" for job in ready)
    if preferred is not None and not fresh and preferred.virtual_s < least + SLICE_S / preferred.weight:
        ready.remove(preferred)
        ready.insert(0, preferred)
    return ready


def _range(session: Session, job: Job, size: int, at: float) -> Unit | None:
    """Return a range of attempts nobody holds: one that was given back, or the next ones."""
    query = select(Unit).where(Unit.job_id == job.id, Unit.kind == "simulate", Unit.state == "waiting")
    if back := session.exec(query.order_by(col(Unit.start)).limit(1)).first():
        return back
    limit = jobs.spec_of(job).limit
    if job.next_index >= limit:
        return None
    stop = min(job.next_index + size, limit)
    unit = Unit(
        kind="simulate", job_id=job.id, start=job.next_index, stop=stop, remaining=stop - job.next_index, created_at=at
    )
    job.next_index = stop
    return unit


def anything(session: Session) -> bool:
    """Tell whether there may be work; asked while reading, so that who finds none takes no writer's lock."""
    return bool(session.connection().execute(_ANYTHING).scalar())


def needed(spec: JobSpec) -> str:
    """Return what a worker must be able to do to make a job's attempts: "simulate", "gpu" or "isaac"."""
    return "isaac" if spec.backend.partition("/")[0] == "isaaclab" else spec.needs


def next_need(job: Job) -> str | None:
    """Return what a worker must be able to do for a job to go on; None where it does not wait for workers."""
    if job.purpose == "dream" and job.status in (*jobs.TRYING, "rendering"):
        return dreams.needs(job)
    if job.status in jobs.TRYING:
        return needed(jobs.spec_of(job))
    kinds: Mapping[str, Kind] = {"validating": "check", "rendering": "render", "finalizing": "finalize"}
    return CAPABILITIES[kinds[job.status]] if job.status in kinds else None


def range_size(job: Job, *, wanted: int, workers: int) -> int:
    """Return how many attempts to hand out together; few when the job is nearly done, so that all workers get some.

    Environments in lock step are filled from the start: one alone takes as long as all of them.

    Args:
        job: whose attempts they are.
        wanted: as many as its worker makes in the time a lease should last.
        workers: that share what is left.
    """
    spec = jobs.spec_of(job)
    left = (spec.episodes - job.succeeded) if spec.episodes is not None else spec.limit - job.attempted
    if spec.environments > 1:
        return lock_step_size(spec, left)
    return max(1, min(wanted, left // (AHEAD * max(1, workers))))


def working(session: Session) -> int:
    """Return how many workers have been heard of lately, whoever answers for them."""
    alive = select(func.count()).select_from(Worker).where(col(Worker.seen_at) > now(session) - LEASE_S)
    return int(session.exec(alive).one())


def lock_step_size(spec: JobSpec, wanted: int) -> int:
    """Return how many attempts to hand out together to a worker with several environments: a multiple of them.

    Args:
        spec: of the job.
        wanted: successes, or attempts, that the job still waits for; fewer rounds do for few.
    """
    return spec.environments * max(1, min(ROUNDS, -(-wanted // spec.environments)))


def silence_s(work: Work) -> float:
    """Return how long a worker may say nothing about a unit before it is taken for stuck."""
    asked = work.payload.get("spec", {})
    if work.kind != "simulate" or asked.get("device") != "cpu":
        return SILENCE_S[work.kind]
    return SILENCE_S[work.kind] + _WORLD_S * job_from_json(asked).environments


def _hand_out(session: Session, unit: Unit, owner: str, worker: str, until: float, job: Job | None = None) -> Work:
    unit.state, unit.owner, unit.worker, unit.until = "leased", owner, worker, until
    unit.epoch += 1
    indices: tuple[int, ...] = tuple(unit.payload.get("indices", ()))
    if unit.kind == "simulate":
        indices = tuple(range(unit.start, unit.stop))
    if unit.kind == "simulate" and unit.epoch > 1:  # somebody had it before
        query = select(Attempt.idx).where(
            Attempt.job_id == unit.job_id, col(Attempt.idx) >= unit.start, col(Attempt.idx) < unit.stop
        )
        there = set(session.exec(query))
        indices = tuple(i for i in indices if i not in there)
    payload = {k: v for k, v in unit.payload.items() if k != "indices"}
    job = job or (session.get(Job, unit.job_id) if unit.job_id else None)
    if job is not None:
        payload |= {"spec": job.spec, "purpose": job.purpose}
    session.add(unit)
    session.flush()
    return Work(
        unit=unit.id or 0,
        epoch=unit.epoch,
        kind=unit.kind,  # type: ignore[arg-type]
        job_id=unit.job_id or "",
        indices=indices,
        payload=payload,
    )


def heartbeat(session: Session, owner: str, *, holds: Collection[int] | None = None, lease_s: float = LEASE_S) -> int:
    """Prolong what an owner holds; return how many units it held without knowing.

    Args:
        session: of a writing transaction.
        owner: the dispatcher.
        holds: the units it knows of. Others are given back: it was told that its lease had failed when it had not, as
            happens when a connection breaks in the middle of a commit. None prolongs everything.
        lease_s: see `lease`.
    """
    at = now(session)
    mine = (col(Unit.owner) == owner) & (col(Unit.state) == "leased")
    forgotten = 0
    if holds is not None:
        lost = update(Unit).where(mine, col(Unit.id).not_in(holds))
        back = {"state": "waiting", "owner": None, "worker": None, "until": 0.0, "epoch": Unit.epoch + 1}
        forgotten = session.exec(lost.values(**back)).rowcount
    session.exec(update(Unit).where(mine).values(until=at + lease_s))
    session.exec(update(Dispatcher).where(col(Dispatcher.id) == owner).values(seen_at=at))
    return forgotten


def report(session: Session, workers: Sequence[Mapping[str, Any]]) -> None:
    """Enter how an owner's workers are, columns of `Worker` but for `seen_at`; workers not known yet are new."""
    at = now(session)
    rows = [{**worker, "seen_at": at} for worker in workers]
    if rows:
        new = _INSERT[session.get_bind().dialect.name](Worker)
        said = {name: new.excluded[name] for name in rows[0] if name != "id"}
        session.connection().execute(new.on_conflict_do_update(index_elements=["id"], set_=said), rows)


def reclaim(session: Session) -> int:
    """Give back what owners held that have been silent too long; return how many units those were."""
    late = update(Unit).where(col(Unit.state) == "leased", col(Unit.until) < now(session))
    count = session.exec(
        late.values(state="waiting", owner=None, worker=None, until=0.0, epoch=Unit.epoch + 1)
    ).rowcount
    count += _take_over(session, certain=True)
    silent = select(Dispatcher.id).where(col(Dispatcher.seen_at) < now(session) - 4 * LEASE_S)
    for owner in session.exec(silent).all():
        _forget(session, owner)
    return count


def register(session: Session, owner: str, *, transport: str) -> int:
    """Enter a dispatcher, and give back at once what dead ones of this host held; return how many units those were."""
    back = _take_over(session, certain=False)
    at, host = now(session), socket.gethostname()
    me = Dispatcher(
        id=owner, host=host, pid=os.getpid(), born=_born(os.getpid()), transport=transport, started_at=at, seen_at=at
    )
    session.add(me)
    return back


def enter(session: Session, owner: str, *, host: str) -> None:
    """Enter an owner that pulls, on whatever machine it is, or say that it still lives."""
    row = session.get(Dispatcher, owner)
    if row is None:
        row = Dispatcher(id=owner, host=host, transport=PULLED, started_at=now(session))
    row.seen_at = now(session)
    session.add(row)


def leased(session: Session, owner: str) -> dict[int, Unit]:
    """Return the units that an owner holds, by number."""
    query = select(Unit).where(col(Unit.owner) == owner, col(Unit.state) == "leased")
    return {unit.id or 0: unit for unit in session.exec(query)}


def _take_over(session: Session, *, certain: bool) -> int:
    """Give back what dead dispatchers of this host held; return how many units those were.

    Containers may share a host's name and see none of each other's processes. A dispatcher of another container is
    taken for dead when one starts in its place, but not by its peers again and again: `certain` leaves it out.
    """
    back, boot = 0, _boot()
    ours = (col(Dispatcher.host) == socket.gethostname()) & (col(Dispatcher.transport) != PULLED)
    for other in session.exec(select(Dispatcher).where(ours)).all():
        known = other.born.startswith(boot) or not certain
        if known and not _alive(other.pid, other.born):
            back += jobs.release_owner(session, other.id)
            _forget(session, other.id)
    return back


def leave(session: Session, owner: str) -> None:
    """Give back everything an owner holds and forget it."""
    jobs.release_owner(session, owner)
    _forget(session, owner)


def _forget(session: Session, owner: str) -> None:
    session.exec(delete(Worker).where(col(Worker.owner) == owner))
    session.exec(delete(Dispatcher).where(col(Dispatcher.id) == owner))


def _alive(pid: int, born: str) -> bool:
    return bool(born) and _born(pid) == born


def _born(pid: int) -> str:
    """Return what tells a process from a later one of the same number: when it started, and where it is visible."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if ticks[0] == "Z" else f"{_boot()}:{ticks[19]}"


def _boot() -> str:
    """Return what names this run of the kernel, and of the container."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + f"/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return "unknown"


# --- answers ----------------------------------------------------------------------------------------------------------


def commit(session: Session, answers: Sequence[Answer]) -> Receipt:
    """Enter a batch of answers, all or none; what came too late is refused and reported as lost."""
    batch = _Batch(session, answers)
    for answer in answers:
        batch.take(answer)
    return batch.close()


class _Batch:
    """The locked rows that a batch of answers is about.

    Finished attempts, nearly all there ever is, are entered together and not one by one; before anything else is
    entered, they are.
    """

    def __init__(self, session: Session, answers: Sequence[Answer]) -> None:
        self._session, self._at = session, now(session)
        ids = {answer.unit for answer in answers}
        # Jobs are locked before their units, in one order, by everybody; else dispatchers could wait for each other.
        named = select(Unit.job_id).where(col(Unit.id).in_(ids))
        query = select(Job).where(col(Job.id).in_(named)).order_by(col(Job.id)).with_for_update()
        self._jobs = {job.id: job for job in session.exec(query)}
        self._before = {job.id: job.attempted for job in self._jobs.values()}
        self._units: dict[int, Unit | None] = dict.fromkeys(ids)
        for unit in session.exec(select(Unit).where(col(Unit.id).in_(ids)).order_by(col(Unit.id)).with_for_update()):
            self._units[unit.id or 0] = unit
        self._tally = _Tally(session, self._at)
        self._there = self._entered(answers)
        self._lost: set[int] = set()
        self._unlike: set[int] = set()

    def take(self, answer: Answer) -> None:
        """Enter one answer, or note that its worker has to drop the unit."""
        together = isinstance(answer, AttemptDone | Opened)
        if not together:
            self._tally.flush()
            self._units.clear()  # what other answers change may be any unit
        if answer.unit not in self._units:
            self._units[answer.unit] = self._session.get(Unit, answer.unit, with_for_update=True)
        unit = self._units[answer.unit]
        stale = unit is None or answer.unit in self._lost or not _answers(unit, answer)
        if unit is None or stale or not self._enter(self._jobs.get(unit.job_id or ""), unit, answer):
            self._lost.add(answer.unit)
            if not stale and isinstance(answer, Opened):
                self._unlike.add(answer.unit)
        if not together:
            self._units.clear()

    def close(self) -> Receipt:
        """Move the jobs on and say what became of the answers."""
        self._tally.flush()
        self._session.flush()
        committed = sum(job.attempted - self._before[job.id] for job in self._jobs.values())
        ended = frozenset(job.id for job in self._jobs.values() if jobs.advance(self._session, job))
        return Receipt(committed=committed, lost=frozenset(self._lost), unlike=frozenset(self._unlike), ended=ended)

    def _entered(self, answers: Sequence[Answer]) -> set[tuple[str, int]]:
        """Return which of the attempts answered are in the book already."""
        found: set[tuple[str, int]] = set()
        for job_id in self._jobs:
            done = [a.record.index for a in answers if isinstance(a, AttemptDone) and a.job_id == job_id]
            if done:
                query = select(Attempt.idx).where(Attempt.job_id == job_id, col(Attempt.idx).in_(done))
                found |= {(job_id, index) for index in self._session.exec(query)}
        return found

    def _enter(self, job: Job | None, unit: Unit, answer: Answer) -> bool:
        """Enter one answer; False when the worker has to drop the unit."""
        session = self._session
        if isinstance(answer, AttemptDone) and job is not None:
            self._attempt(job, unit, answer)
        elif isinstance(answer, Drawn) and job is not None:
            _drawn(session, job, unit, answer)
        elif isinstance(answer, Opened) and job is not None:
            return _opened(session, job, answer)
        elif isinstance(answer, Done):
            _done(session, unit, answer)
        elif isinstance(answer, Failed):
            _failed(session, unit, answer)
            return False
        return True

    def _attempt(self, job: Job, unit: Unit, done: AttemptDone) -> None:
        where = (job.id, done.record.index)
        if where in self._there:
            return
        self._there.add(where)
        self._tally.add(job, done.record, done)
        unit.remaining -= 1
        if unit.remaining <= 0:
            self._session.delete(unit)
            self._units[done.unit] = None


class _Tally:
    """Finished attempts on their way into the book: their rows, and what they add to the counts of their jobs."""

    def __init__(self, session: Session, at: float) -> None:
        self._session, self._at = session, at
        self._rows: list[dict[str, Any]] = []
        self._sums: dict[str, tuple[Job, dict[str, float]]] = {}
        self._failures: Counter[tuple[str, str, str, str]] = Counter()

    def add(self, job: Job, record: AttemptRecord, done: AttemptDone | None) -> None:
        """Note an attempt; None for `done` when no worker finished it."""
        seconds = done.seconds if done else 0.0
        self._rows.append(
            {
                "job_id": job.id,
                **to_row(record),
                "seconds": seconds,
                "shard_sha256": done.shard_sha256 if done else "",
                "shard_bytes": done.shard_bytes if done else 0,
                "worker": done.worker if done else "",
                "committed_at": self._at,
            }
        )
        _, sums = self._sums.setdefault(job.id, (job, defaultdict(int)))
        sums["attempted"] += 1
        sums["touched"] += record.touched or record.held
        sums["shard_bytes"] += done.shard_bytes if done else 0
        sums["succeeded" if record.outcome == "success" else "failed"] += 1
        sums["worker_s"] += seconds
        sums["virtual_s"] += seconds / job.weight
        if record.outcome != "success":
            self._failures[job.id, record.subtask, record.eef, record.reason] += 1

    def flush(self) -> None:
        """Enter what was noted; statements without objects, for this is done a million times."""
        if self._rows:
            self._session.connection().execute(insert(Attempt), self._rows)
        for job, sums in self._sums.values():
            for name, more in sums.items():
                setattr(job, name, getattr(job, name) + more)
        if self._failures:
            names = ("job_id", "subtask", "eef", "reason", "count")
            rows = [dict(zip(names, (*where, n), strict=True)) for where, n in sorted(self._failures.items())]
            add = _INSERT[self._session.get_bind().dialect.name](FailureCount)
            total = {"count": col(FailureCount.count) + add.excluded["count"]}
            statement = add.on_conflict_do_update(index_elements=names[:4], set_=total)
            self._session.connection().execute(statement, cast("list[dict[str, Any]]", rows))
        self._rows, self._sums, self._failures = [], {}, Counter()


def _answers(unit: Unit, answer: Answer) -> bool:
    """Tell whether an answer is one to this lease of this unit, by everything it says of itself."""
    if unit.epoch != answer.epoch or unit.state != "leased":
        return False
    if isinstance(answer, AttemptDone | Drawn | Opened) and answer.job_id != unit.job_id:
        return False
    return not isinstance(answer, AttemptDone) or unit.start <= answer.record.index < unit.stop


def _drawn(session: Session, job: Job, unit: Unit, drawn: Drawn) -> None:
    left = [i for i in unit.payload.get("indices", []) if i != drawn.index]
    if len(left) == len(unit.payload.get("indices", [])):
        return
    unit.payload, unit.remaining = {**unit.payload, "indices": left}, len(left)
    job.rendered, job.paused_for = job.rendered + 1, ""
    job.virtual_s += drawn.seconds / job.weight
    spent = {"drawn_frames": drawn.frames, "drawn_s": drawn.seconds, "drawn_bytes": drawn.bytes}
    before = job.result or {}
    job.result = {**before, **{name: before.get(name, 0) + value for name, value in spent.items()}}
    if left:
        session.add(unit)
        return
    session.delete(unit)
    session.flush()
    more = session.exec(select(Unit.id).where(Unit.job_id == job.id, Unit.kind == "render").limit(1)).first()
    if more is None and job.status == "rendering":
        jobs.drawn(session, job)


def _opened(session: Session, job: Job, opened: Opened) -> bool:
    if job.executor is None:
        job.executor, job.refused = dict(opened.executor), list(opened.refused)
        jobs.tell(session, job, "job.executor", {"executor": job.executor, "refused": job.refused})
        return True
    if dict(opened.executor) == job.executor or jobs.spec_of(job).mixed:
        return True
    differing = sorted(k for k in {*opened.executor, *job.executor} if opened.executor.get(k) != job.executor.get(k))
    jobs.tell(session, job, "worker.unlike", {"differs_in": differing})
    _give_back(session, opened.unit)
    return False


def _done(session: Session, unit: Unit, done: Done) -> None:
    result = dict(done.result)
    if unit.kind == "check" and unit.file_id:
        file = session.get(File, unit.file_id)
        if file is not None:
            file.report, file.task = result.get("report"), result.get("task") or file.task
            file.status, file.checked_at = "ready" if result.get("usable") else "refused", now(session)
            if file.status == "refused":
                file.error = {"code": "no_usable_demo", "message": result.get("problem", "no demo can be used")}
            session.add(file)
            session.flush()
            jobs.file_settled(session, file)
    elif unit.job_id:
        job = jobs.get(session, unit.job_id, lock=True)
        if unit.kind == "dream":
            dreams.done(session, job, unit, result)
            return
        if unit.kind == "unpack":
            job.executor = result.get("executor") or job.executor
            job.attempted = job.succeeded = len(result["indices"])  # episodes taken over; nothing is tried
            job.started_at = job.started_at or now(session)
            if jobs.spec_of(job).render is None:
                jobs.start_finalizing(session, job)
            else:
                jobs.start_rendering(session, job, result["indices"])
        elif unit.kind == "verify":
            job.result = {**(job.result or {}), **result}
            jobs.tell(session, job, "verify.done", result)
            jobs.start_writing(session, job)
        elif unit.kind == "finalize":
            for row in result.pop("datasets"):
                session.merge(Dataset(**row, created_at=now(session)))
            for row in result.pop("files"):
                session.merge(DatasetFile(**row))
            job.dataset_id = result["dataset_id"]
            job.result = {**(job.result or {}), **result}
            jobs.finish(session, job)
            return
        else:
            key = RESULTS[unit.kind]
            job.result = {**(job.result or {}), key: {**(job.result or {}).get(key, {}), **result}}
            jobs.tell(session, job, f"{unit.kind}.done", result)
    session.delete(unit)


def _failed(session: Session, unit: Unit, failed: Failed) -> None:
    """Decide what a failure means: storage is waited for, anything else ends what it belongs to."""
    if failed.cause == "storage":
        _give_back(session, unit.id or 0, later_s=STORAGE_WAIT_S)
        if unit.job_id:
            job = jobs.get(session, unit.job_id, lock=True)
            if job.status in jobs.TRYING:
                jobs.pause(session, job.id, reason="storage")
            job.paused_for = "storage"
            jobs.tell(session, job, "storage.failed", {"message": failed.message})
        return
    _abandon(session, unit, {"code": f"{unit.kind}_{failed.cause}", "message": failed.message})


def _abandon(session: Session, unit: Unit, error: dict[str, Any]) -> None:
    """Give up a unit for good, and with it the file or job that cannot do without it."""
    session.delete(unit)
    session.flush()
    if unit.file_id and (file := session.get(File, unit.file_id)):
        file.status, file.error, file.checked_at = "refused", error, now(session)
        session.add(file)
        jobs.file_settled(session, file)
    elif unit.job_id:
        job = jobs.get(session, unit.job_id, lock=True)
        if unit.kind in ("clip", "push"):
            key = RESULTS[unit.kind]
            name = str(unit.payload.get("name", unit.id))
            job.result = {**(job.result or {}), key: {**(job.result or {}).get(key, {}), name: {"error": error}}}
            jobs.tell(session, job, f"{unit.kind}.failed", error)
            return
        jobs.finish(session, job, error=error)


def _give_back(session: Session, unit_id: int, *, later_s: float = 0.0) -> None:
    unit = session.get(Unit, unit_id)
    if unit is not None:
        unit.state, unit.owner, unit.worker, unit.epoch = "waiting", None, None, unit.epoch + 1
        unit.until = now(session) + later_s if later_s else 0.0
        session.add(unit)


def give_back(session: Session, units: Sequence[tuple[int, int]]) -> None:
    """Return leased units (number, epoch) that were not begun or not finished."""
    for number, epoch in units:
        unit = session.get(Unit, number, with_for_update=True)
        if unit is not None and unit.epoch == epoch and unit.state == "leased":
            _give_back(session, number)


def unable(session: Session, unit_id: int, epoch: int, *, message: str) -> None:
    """Give back a unit that one machine cannot do and others may be able to, and tell so."""
    unit = session.get(Unit, unit_id, with_for_update=True)
    if unit is None or unit.epoch != epoch or unit.state != "leased":
        return
    if unit.job_id:
        jobs.tell(session, jobs.get(session, unit.job_id, lock=True), "worker.unable", {"message": message})
    _give_back(session, unit_id)


def died(session: Session, work: Work, *, at_index: int | None, how: str, began: bool = True) -> None:
    """A worker is gone in the middle of a unit.

    Args:
        session: of a writing transaction.
        work: what it held.
        at_index: the attempt it was at; None when the unit has none, or when it died opening the simulator.
        how: for people: "killed by signal 9", "exit code 1".
        began: whether it had begun with the unit; one that was only waiting gets no strike.
    """
    job = jobs.get(session, work.job_id, lock=True) if work.job_id else None  # before its units, as everywhere
    unit = session.get(Unit, work.unit, with_for_update=True)
    if unit is None or unit.epoch != work.epoch or unit.state != "leased":
        return
    _give_back(session, work.unit)
    if not began:
        return
    if work.kind != "simulate" or at_index is None:
        unit.tries += 1
        if work.kind == "dream" and job is not None:
            jobs.tell(session, job, "worker.died", {"stage": work.payload["stage"], "strike": unit.tries, "how": how})
        if unit.tries >= STRIKES:
            message = f"the worker died {unit.tries} times in the middle of it, the last time {how}"
            _abandon(session, unit, {"code": f"{unit.kind}_poison", "message": message})
        return
    if job is None:
        return
    if jobs.spec_of(job).environments > 1:
        _halve(session, job, unit, how)
        return
    strike = session.get(Strike, (job.id, at_index)) or Strike(job_id=job.id, idx=at_index)
    strike.count += 1
    session.add(strike)
    jobs.tell(session, job, "worker.died", {"attempt": at_index, "strike": strike.count, "how": how})
    if strike.count >= STRIKES and session.get(Attempt, (job.id, at_index)) is None:
        _poison(session, job, unit, at_index)


def _halve(session: Session, job: Job, unit: Unit, how: str) -> None:
    """Note that a worker died with many attempts in progress, any of which may have been the reason.

    A range that has done so three times is parted in two, and so on, until it holds a single attempt, which is poison.
    """
    within = (col(Attempt.idx) >= unit.start) & (col(Attempt.idx) < unit.stop)
    there = set(session.exec(select(Attempt.idx).where(Attempt.job_id == job.id, within)))
    left = [index for index in range(unit.start, unit.stop) if index not in there]
    unit.tries += 1
    jobs.tell(session, job, "worker.died", {"attempts": len(left), "strike": unit.tries, "how": how})
    if unit.tries < STRIKES:
        return
    if len(left) == 1:
        _poison(session, job, unit, left[0])
        return
    half, tries = len(left) // 2, STRIKES - 1
    # An epoch above 0: some of it may be done already, and is left out when it is handed out.
    rest = Unit(kind="simulate", job_id=job.id, start=left[half], stop=unit.stop, remaining=len(left) - half)
    rest.epoch, rest.tries, rest.created_at = 1, tries, now(session)
    session.add(rest)
    unit.stop, unit.remaining, unit.tries = left[half], half, tries


def _poison(session: Session, job: Job, unit: Unit, index: int) -> None:
    """Enter an attempt that kills its workers as a failure, so that the job can go on without it."""
    tally = _Tally(session, now(session))
    tally.add(job, AttemptRecord(index=index, outcome="failure", reason="infra_poison"), None)
    tally.flush()
    unit.remaining -= 1
    if unit.remaining <= 0:
        session.delete(unit)
    session.flush()
    jobs.advance(session, job)
