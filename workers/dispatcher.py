"""Hands out work and enters what comes back: the only loop between the job book and the workers.

It keeps nothing that matters. What it knows beyond the job book is which worker was sent what, so that it can be killed
at any moment, and any number of dispatchers can work on the same book: leases and epochs decide what counts.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session, col, delete, select

from api import jobs, leases
from api.database import Database
from api.leases import Answer, AttemptDone, Done, Drawn, Failed, Opened, Work
from api.store import Store
from api.tables import Job, Unit, Worker
from factory.errors import StorageError
from workers.transport import Heard, Lost, News, Ready, Transport
from workers.worker import remove_leftovers

_log = logging.getLogger("factory.dispatcher")

_TICK_S = 0.2
"""How long an idle loop waits; new jobs are noticed within it."""
_LEASE_WORK_S = 2.0
"""Attempts are handed out in ranges of about so much work: a database write for each is a waste when they are quick.
Longer ranges would make people wait who want a clip, and save little."""
_GROUP_S = 0.5
"""Finished attempts of a range wait so long for others to be entered with them; a killed dispatcher costs no more."""
_GROUP = 512
"""... but not for more than so many."""
_ASK_S = 0.5
"""How often an idle `run` asks whether it is over."""
_MOST_AT_ONCE = 64
_FREE_BYTES = 256 << 20
"""Jobs that were paused for want of storage go on when there is this much room again, or a twentieth of the disk."""
_TIDY_S, _TIDY_OFTEN_S, _TIDY_OFTEN_FOR_S = 600.0, 2.0, 30.0
"""Leftovers of ended jobs are looked for seldom, and often just after one ended."""
_ABANDONED_S = 86400.0
"""Nobody takes a day to put a file of demonstrations into the store."""


@dataclass(eq=False, kw_only=True)
class _Member:
    """A worker as the dispatcher sees it."""

    id: str
    host: str
    pid: int
    transport: Transport
    capabilities: tuple[str, ...]
    held: list[Work] = field(default_factory=list)
    heard_at: float = field(default_factory=time.monotonic)
    answered: dict[int, set[int]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    avoid: set[str] = field(default_factory=set)
    job_id: str | None = None
    attempts: int = 0
    busy_s: float = 0.0
    started_at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _Death:
    """A worker that is gone, with what it held: unit, the attempt it was at, whether it had begun."""

    worker: str
    how: str
    held: tuple[tuple[Work, int | None, bool], ...]


class Dispatcher:
    """One dispatching process."""

    def __init__(
        self, database: Database, store: Store, transports: Sequence[Transport], *, patience_s: float | None = None
    ) -> None:
        """Enter the job book and take over what dead dispatchers of this host held.

        Args:
            database: the job book, migrated.
            store: where artefacts lie.
            transports: pools of workers.
            patience_s: how long storage may fail before `run` gives up with a sentence; None waits for ever.
        """
        self._database, self._store, self._transports = database, store, list(transports)
        self._patience_s = patience_s
        self._owner = jobs.new_id("disp")
        self._members: dict[str, _Member] = {}
        self._answers: list[Answer] = []
        self._oldest_at, self._urgent = math.inf, False
        self._news_at = self._nothing_until = -math.inf
        self._deaths: list[_Death] = []
        self._speed: dict[str, float] = {}
        self._working = 0
        self._tidy_often_until = 0.0
        self._storage_bad_since: float | None = None
        self._last: dict[str, float] = dict.fromkeys(("heartbeat", "storage", "tidy"), -math.inf)
        try:
            with database.transaction() as session:
                back = leases.register(session, self._owner, transport=", ".join(t.name for t in transports))
        except StorageError:
            for transport in transports:
                transport.close()
            raise
        if back:
            _log.info("took over %d units of dispatchers that are gone", back)

    def run(self, until: Callable[[Session], bool] | None = None) -> None:
        """Work until a condition holds, or for ever.

        Args:
            until: asked with a reading session, after every change this dispatcher makes and now and then.

        Raises:
            BackendError: no worker can be started.
            StorageError: storage failed longer than `patience_s`.
        """
        asked_at = -math.inf
        while True:
            self.step()
            at = time.monotonic()
            if until is not None and (self._news_at >= asked_at or at - asked_at > _ASK_S):
                asked_at = at
                with self._database.reading() as session:
                    if until(session):
                        return

    def step(self) -> None:
        """Do what is due, wait for news, and enter them; while the job book fails, what waits to be entered is kept."""
        self._when_possible(self._regular)
        self._when_possible(self._feed)
        for i, transport in enumerate(self._transports):
            # The first pool is where attempts run; the others are looked at in passing.
            for news in transport.wait(_TICK_S if i == 0 else 0.0):
                self._take(news, transport)
        if self._is_due():
            self._when_possible(self._commit)

    def refuses(self, job_id: str) -> bool:
        """Tell whether every worker there is has another runtime fingerprint than the one that began a job."""
        return bool(self._members) and all(job_id in member.avoid for member in self._members.values())

    def close(self) -> None:
        """End the workers, give back what they held, and leave the book."""
        for transport in self._transports:
            transport.close()
        with suppress(StorageError):  # what is not entered is tried again, as after a kill
            self._commit()
        with self._database.transaction() as session:
            leases.leave(session, self._owner)

    # --- news ---------------------------------------------------------------------------------------------------------

    def _take(self, news: News, transport: Transport) -> None:
        if isinstance(news, Ready):
            self._members[news.worker] = _Member(
                id=news.worker,
                host=news.host,
                pid=news.pid,
                transport=transport,
                capabilities=news.capabilities,
                started_at=time.time(),
            )
        elif isinstance(news, Lost):
            self._bury(news)
        else:
            self._hear(news)

    def _hear(self, heard: Heard) -> None:
        member, answer = self._members.get(heard.worker), heard.answer
        if member is None:
            return
        member.heard_at = time.monotonic()
        self._answers.append(answer)
        self._oldest_at = min(self._oldest_at, member.heard_at)
        # What others wait for is entered at once: only attempts in the middle of a range are not.
        first = isinstance(answer, Opened) and answer.job_id not in member.opened
        self._urgent |= first or not isinstance(answer, AttemptDone | Opened)
        work = next((w for w in member.held if (w.unit, w.epoch) == (answer.unit, answer.epoch)), None)
        if work is None:
            return
        if isinstance(answer, AttemptDone | Drawn):
            index = answer.record.index if isinstance(answer, AttemptDone) else answer.index
            member.answered.setdefault(work.unit, set()).add(index)
            member.busy_s += answer.seconds
            if isinstance(answer, AttemptDone):
                member.attempts += 1
                before = self._speed.get(work.job_id, answer.seconds)
                self._speed[work.job_id] = 0.8 * before + 0.2 * answer.seconds
        elif isinstance(answer, Opened):
            member.opened.add(work.job_id)
        if isinstance(answer, Done | Failed) or member.answered.get(work.unit, set()).issuperset(work.indices or {-1}):
            self._release(member, work)
        if isinstance(answer, Failed):
            _log.warning("%s of %s failed (%s): %s", work.kind, work.job_id or "a file", answer.cause, answer.message)

    def _release(self, member: _Member, work: Work) -> None:
        member.held.remove(work)
        member.answered.pop(work.unit, None)
        self._urgent = True

    def _bury(self, lost: Lost) -> None:
        member = self._members.pop(lost.worker, None)
        if member is None:
            return
        _log.warning("worker %s is gone: %s", lost.worker, lost.how)
        held: list[tuple[Work, int | None, bool]] = []
        for i, work in enumerate(member.held):
            left = [index for index in work.indices if index not in member.answered.get(work.unit, set())]
            opening = work.kind == "simulate" and work.job_id not in member.opened
            held.append((work, None if opening or not left else left[0], i == 0))
        self._deaths.append(_Death(worker=lost.worker, how=lost.how, held=tuple(held)))

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._oldest_at >= _GROUP_S
        return self._urgent or waited or bool(self._deaths) or len(self._answers) >= _GROUP

    def _commit(self) -> None:
        """Enter answers and deaths so far in one transaction; what a worker had finished comes before its death."""
        if not self._answers and not self._deaths:
            return
        answers = self._answers
        with self._database.transaction() as session:
            receipt = leases.commit(session, answers)
            for death in self._deaths:
                for work, at_index, began in death.held:
                    leases.died(session, work, at_index=at_index, how=death.how, began=began)
                session.exec(delete(Worker).where(col(Worker.id) == death.worker))
        self._answers, self._deaths = [], []
        self._oldest_at, self._urgent = math.inf, False
        self._storage_bad_since, self._news_at, self._nothing_until = None, time.monotonic(), -math.inf
        for member in self._members.values():
            for work in [w for w in member.held if w.unit in receipt.lost]:
                if work.unit in receipt.unlike:
                    member.avoid.add(work.job_id)
                self._drop(member, work)
        for job_id in receipt.ended:
            self._drop_job(job_id)
        if any(isinstance(answer, Done) for answer in answers):
            self._tidy_often_until = time.monotonic() + _TIDY_OFTEN_FOR_S
            self._last["tidy"] = -math.inf

    def _when_possible(self, do: Callable[[], None]) -> None:
        try:
            do()
        except StorageError as error:
            self._storage_failed(error)

    def _storage_failed(self, error: StorageError) -> None:
        began = self._storage_bad_since = self._storage_bad_since or time.monotonic()
        _log.warning("%s", error)
        if self._patience_s is not None and time.monotonic() - began > self._patience_s:
            raise error
        time.sleep(min(2.0, 0.1 + (time.monotonic() - began) / 4))

    def _drop_job(self, job_id: str) -> None:
        """Free workers from attempts that no longer count."""
        for member in self._members.values():
            for work in [w for w in member.held if w.job_id == job_id and w.kind == "simulate"]:
                self._drop(member, work)

    def _drop(self, member: _Member, work: Work) -> None:
        """Take a unit from a worker. A newer lease of it goes too, for the worker cannot tell one from the other."""
        member.transport.drop(member.id, work.unit)
        for same in [w for w in member.held if w.unit == work.unit]:
            self._release(member, same)

    # --- work ---------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Give every worker that has room something to do."""
        if self._storage_bad_since is not None:
            return
        hungry = [m for m in self._members.values() if len(m.held) < leases.AHEAD]
        if not hungry or time.monotonic() < self._nothing_until:
            return
        # Where there was nothing for somebody, there is nothing until something is entered, or somebody asks for it.
        self._nothing_until = time.monotonic() + _TICK_S
        if not self._anything():
            return
        with self._database.transaction() as session:
            given = [(member, work) for member in hungry for work in self._lease_for(session, member)]
        if len(given) == sum(leases.AHEAD - len(member.held) for member in hungry):
            self._nothing_until = -math.inf
        for member, work in given:
            if not member.held:
                member.heard_at = time.monotonic()
            member.held.append(work)
            member.job_id = work.job_id or member.job_id
            member.transport.submit(member.id, work)

    def _anything(self) -> bool:
        """Tell whether there may be work, without taking the writer's lock."""
        with self._database.reading() as session:
            return leases.anything(session)

    def _lease_for(self, session: Session, member: _Member) -> list[Work]:
        found: list[Work] = []
        while len(member.held) + len(found) < leases.AHEAD:
            # Only attempts are handed out in advance; a long unit must not wait behind another in one worker's queue.
            busy = [*member.held, *found]
            if any(work.kind != "simulate" for work in busy):
                break
            work = leases.lease(
                session,
                owner=self._owner,
                worker=member.id,
                capabilities=member.capabilities,
                size=self._size,
                prefer=member.job_id,
                avoid=frozenset(member.avoid),
                attempts_only=bool(busy),
            )
            if work is None:
                break
            found.append(work)
        return found

    def _size(self, job: Job) -> int:
        """Return how many attempts to hand out together; few while a job is new, slow, or nearly done."""
        seconds = self._speed.get(job.id)
        wanted = 1 if seconds is None else min(_MOST_AT_ONCE, max(1, round(_LEASE_WORK_S / max(seconds, 1e-6))))
        return leases.range_size(job, wanted=wanted, workers=max(len(self._members), self._working))

    # --- now and then -------------------------------------------------------------------------------------------------

    def _regular(self) -> None:
        for what, every_s, do in (
            ("heartbeat", leases.HEARTBEAT_S, self._heartbeat),
            ("storage", leases.STORAGE_WAIT_S, self._go_on_after_storage),
            ("tidy", _TIDY_OFTEN_S if time.monotonic() < self._tidy_often_until else _TIDY_S, self._tidy_up),
        ):
            # While the book fails, the heartbeat is what finds out that it can be written again.
            due = time.monotonic() - self._last[what] >= every_s
            if due or (what == "heartbeat" and self._storage_bad_since is not None):
                self._last[what] = self._news_at = time.monotonic()
                do()

    def _heartbeat(self) -> None:
        self._end_the_silent()
        self._drop_paused()
        waiting = {answer.unit for answer in self._answers}
        waiting |= {work.unit for death in self._deaths for work, _, _ in death.held}
        holds = waiting | {work.unit for member in self._members.values() for work in member.held}
        with self._database.transaction() as session:
            leases.heartbeat(session, self._owner, holds=holds)
            leases.reclaim(session)
            for job in session.exec(select(Job).where(Job.status == "running").with_for_update()).all():
                if jobs.overdue(session, job):
                    self._drop_job(job.id)
            leases.report(session, [self._row_of(member) for member in self._members.values()])
            self._working = leases.working(session)
        if not self._answers and not self._deaths:
            self._storage_bad_since = None
        self._drop_lost()

    def _row_of(self, member: _Member) -> dict[str, Any]:
        doing = member.held[0] if member.held else None
        return {
            "id": member.id,
            "owner": self._owner,
            "host": member.host,
            "pid": member.pid,
            "transport": member.transport.name,
            "capabilities": list(member.capabilities),
            "state": "busy" if doing else "idle",
            "doing": doing.kind if doing else "",
            "job_id": (doing.job_id or None) if doing else None,
            "attempts": member.attempts,
            "busy_s": member.busy_s,
            "started_at": member.started_at,
        }

    def _end_the_silent(self) -> None:
        """Kill workers that are stuck; their deaths are dealt with like any other."""
        for member in self._members.values():
            if member.held and time.monotonic() - member.heard_at > leases.silence_s(member.held[0]):
                _log.warning("worker %s has said nothing about its %s for too long", member.id, member.held[0].kind)
                member.heard_at = time.monotonic()
                member.transport.kill(member.id)

    def _drop_paused(self) -> None:
        """Take attempts in lock step from workers whose job was paused: such a range would go on for minutes.

        What is in progress is given back with it and begins anew. Others finish their short ranges.
        """
        held = {w.job_id for member in self._members.values() for w in member.held if w.kind == "simulate"}
        if not held:
            return
        with self._database.reading() as session:
            paused = session.exec(select(Job).where(col(Job.id).in_(held), Job.status == "paused")).all()
            found = [job.id for job in paused if jobs.spec_of(job).environments > 1]
        for job_id in found:
            self._drop_job(job_id)

    def _drop_lost(self) -> None:
        """Free workers from units that are no longer theirs: the job was cancelled, or the lease ran out."""
        held = {work.unit: work for member in self._members.values() for work in member.held}
        if not held:
            return
        with self._database.reading() as session:
            rows = session.exec(select(Unit.id, Unit.epoch, Unit.owner).where(col(Unit.id).in_(list(held)))).all()
        mine = {number: epoch for number, epoch, owner in rows if owner == self._owner}
        for member in self._members.values():
            for work in [w for w in member.held if mine.get(w.unit) != w.epoch]:
                self._drop(member, work)

    def _go_on_after_storage(self) -> None:
        free, whole = self._store.free_bytes(), self._store.whole_bytes()
        if free is not None and whole is not None and free < min(_FREE_BYTES, whole // 20):
            return
        with self._database.reading() as session:
            query = select(Job.id).where(Job.status == "paused", Job.paused_for == "storage")
            waiting = session.exec(query).all()
        if waiting and self._patience_s is None:
            with self._database.transaction() as session:
                for job_id in waiting:
                    jobs.resume(session, job_id)

    def _tidy_up(self) -> None:
        """Remove the leftovers of jobs that have ended, also of those whose dispatcher was killed before it could.

        And again a little later: a worker in the middle of an attempt that nobody needs stores it all the same.
        """
        self._store.sweep("files", older_s=_ABANDONED_S)
        there = set(self._store.names("jobs")) | {name.split("-")[0] for name in self._store.names("scratch")}
        if not there:
            return
        with self._database.reading() as session:
            # What the command line works on goes to a folder of its own, which it removes as a whole.
            ended = select(Job.id).where(col(Job.status).in_(jobs.FINAL), Job.out == "", col(Job.id).in_(there))
            found = session.exec(ended).all()
        for job_id in found:
            remove_leftovers(self._store, job_id)
