"""`factory worker`: lends this machine's processes to a service that is reached by HTTP alone.

    service  <── lease, heartbeat, commit, files ──  this process  ── pipes ──  workers (workers/local.py)

The workers are the same as anywhere, with a store of their own in a scratch folder; this process carries files between
that folder and the service, and answers when what they refer to is there. It keeps nothing that matters: when it is
killed its leases end and others do what it had not yet answered.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from api import leases, wire
from api.messages import Answer, AttemptDone, Done, Drawn, Failed, Opened, Work
from api.store import Store
from factory.errors import ServiceError, StorageError
from workers.carrying import forget_shards, load_of, needs_of
from workers.outbox import GROUP, Outbox, Pending
from workers.slots import Slot, deaths_of, is_worth_waiting_for, state_of, wish_of
from workers.transport import Lost, News, Ready, Transport
from workers.uplink import AwayError, Uplink, host_name, pause_s

_TICK_S = 0.1
_POLL_S = 1.0
"""How often a service that has nothing to do is asked again."""
_MOST_AT_ONCE = 512
_GRACE_S = 20.0
"""How long an orderly end waits for attempts in progress."""


@dataclass(kw_only=True)
class Totals:
    """What a machine did for its service.

    Attributes:
        attempts: committed by it; `kept` of them came with a shard.
        kept: see attempts.
        drawn: episodes.
        lost: units that were somebody else's, or nobody's, before they were done.
        deaths: workers that died.
        outages: times that the service was away; `away_s` is how long altogether.
        away_s: see outages.
        sent_bytes: of files; `received_bytes` likewise.
        received_bytes: see sent_bytes.
        owner: the name under which it worked.
    """

    attempts: int = 0
    kept: int = 0
    drawn: int = 0
    lost: int = 0
    deaths: int = 0
    outages: int = 0
    away_s: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0
    owner: str = ""


class Puller:
    """A machine at work."""

    def __init__(
        self,
        uplink: Uplink,
        transport: Transport,
        store: Store,
        *,
        lease_work_s: float,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Begin; the uplink has joined.

        Args:
            uplink: the way to the service.
            transport: the workers of this machine.
            store: the folder that they take for the store.
            lease_work_s: how much work a lease should hold.
            told: hears sentences for people.
        """
        self._uplink, self._transport, self._store = uplink, transport, store
        self._lease_work_s, self._told = lease_work_s, told
        self._outbox = Outbox(uplink)
        self._slots: dict[str, Slot] = {}
        self._avoid: set[str] = set()
        self._speed: dict[str, float] = {}
        self._told_to_stop = False
        self._stop_by: float | None = None
        self._beat_at = self._poll_at = self._retry_at = self._away_since = 0.0
        self._failures = 0
        self._busy_at = time.monotonic()
        self.totals = Totals(owner=uplink.owner)

    def run(self, *, idle_s: float | None = None, shown: Callable[[Totals], None] = lambda _: None) -> Totals:
        """Work until `stop` was called and what was in progress is answered, or nothing was to do for so long.

        Raises:
            ServiceError: the service does not want this worker any more; the sentence is its own.
            BackendError: no worker can be started here.
            StorageError: this machine's disk fails.
        """
        try:
            while not self._is_over(idle_s):
                for news in self._transport.wait(_TICK_S):
                    self._take(news)
                self._end_the_silent()
                if self._told_to_stop and self._stop_by is None:
                    self._let_go()
                self._submit()
                for do in (self._beat, self._commit, self._feed):
                    self._when_reached(do)
                shown(self._counted())
        finally:
            self._transport.close()
            self._outbox.close()
            with suppress(AwayError, ServiceError):
                self._uplink.leave()
        return self._counted()

    def stop(self) -> None:
        """Take no more work, and end as soon as the attempts in progress are answered; a signal may call it."""
        self._told_to_stop = True

    def _let_go(self) -> None:
        """Take from the workers what they have not begun."""
        self._told("finishing attempts in progress; once more to stop at once")
        self._stop_by = time.monotonic() + _GRACE_S
        for slot in self._slots.values():
            slot.finishing = is_worth_waiting_for(slot)
            for work in slot.held:
                self._transport.drop(slot.id, work.unit)
            slot.coming.clear()

    # --- news ---------------------------------------------------------------------------------------------------------

    def _take(self, news: News) -> None:
        if isinstance(news, Ready):
            name = f"{self._uplink.owner}.{news.worker.rpartition('-')[2]}"
            self._slots[news.worker] = Slot(id=news.worker, name=name, pid=news.pid, capabilities=news.capabilities)
        elif isinstance(news, Lost):
            self._bury(news)
        elif (slot := self._slots.get(news.worker)) is not None:
            self._hear(slot, news.answer)

    def _hear(self, slot: Slot, answer: Answer) -> None:
        slot.heard_at = self._busy_at = time.monotonic()
        if isinstance(answer, AttemptDone | Drawn):
            slot.finishing = False
        work = next((w for w in slot.held if (w.unit, w.epoch) == (answer.unit, answer.epoch)), None)
        if work is None or isinstance(answer, Done):
            return  # of a unit that was dropped
        if isinstance(answer, Failed):
            self._unable(slot, work, answer)
            return
        load = load_of(self._store, work, answer)
        body = wire.wire_answer(answer, worker=slot.name, clips_sha256=load.clips_sha256)
        pending = Pending(body=body, job_id=work.job_id, unit=work.unit, load=load)
        if isinstance(answer, Opened):
            slot.opened.add(work.job_id)
            self._outbox.put(pending)  # its scene is sent when the service says that it lacks it
            return
        self._outbox.put(pending, send=True)
        self._note(slot, work, answer)

    def _note(self, slot: Slot, work: Work, answer: AttemptDone | Drawn) -> None:
        """Note that an attempt or an episode is done, and how fast."""
        index = answer.record.index if isinstance(answer, AttemptDone) else answer.index
        slot.answered.setdefault(work.unit, set()).add(index)
        slot.busy_s += answer.seconds
        slot.opened.add(work.job_id)
        if isinstance(answer, AttemptDone):
            slot.attempts += 1
            self._speed[work.job_id] = 0.8 * self._speed.get(work.job_id, answer.seconds) + 0.2 * answer.seconds
        if not slot.left(work):
            slot.release(work)

    def _unable(self, slot: Slot, work: Work, failed: Failed) -> None:
        """Leave a job to others that cannot be done here; who has no disk to work on has to stop."""
        if failed.cause == "storage":
            raise StorageError(f"this machine cannot store what its workers make: {failed.message}")
        self._told(f"{work.job_id} cannot be done here, others may be able to: {failed.message}")
        self._avoid.add(work.job_id)
        body = wire.wire_answer(failed, worker=slot.name)
        self._outbox.put(Pending(body=body, job_id=work.job_id, unit=work.unit))
        slot.release(work)

    def _bury(self, lost: Lost) -> None:
        slot = self._slots.pop(lost.worker, None)
        if slot is None:
            return
        self.totals.deaths += 1
        self._told(f"worker {slot.name} {lost.how}; another one takes its place")
        for work, body in deaths_of(slot, how=lost.how):
            self._outbox.put(Pending(body=body, job_id=work.job_id, unit=work.unit))

    def _drop(self, unit: int) -> None:
        """Take a unit from whoever has it."""
        for slot in self._slots.values():
            for work in [w for w in slot.held if w.unit == unit]:
                self._transport.drop(slot.id, unit)
                slot.release(work)
                self.totals.lost += 1

    def _end_the_silent(self) -> None:
        for slot in self._slots.values():
            if slot.held and time.monotonic() - slot.heard_at > leases.silence_s(slot.held[0]):
                slot.heard_at = time.monotonic()
                self._transport.kill(slot.id)

    # --- with the service ---------------------------------------------------------------------------------------------

    def _when_reached(self, do: Callable[[], None]) -> None:
        """Do something unless the service is away and it is too early to try again."""
        if time.monotonic() < self._retry_at:
            return
        try:
            do()
        except AwayError as error:
            self._failures += 1
            self._retry_at = time.monotonic() + pause_s(self._failures)
            if not self._away_since:
                self._away_since = time.monotonic()
                self.totals.outages += 1
                self._told(f"{error}; trying again, nothing is lost")

    def _ask(self, verb: str, body: Mapping[str, Any], kind: type[Any]) -> Any:
        answer = self._uplink.ask(verb, {"owner": self._uplink.owner, **body}, kind)
        if self._away_since:
            self.totals.away_s += time.monotonic() - self._away_since
            self._told(f"{self._uplink.server} is there again")
            self._away_since = 0.0
        self._failures = 0
        return answer

    def _beat(self) -> None:
        if time.monotonic() - self._beat_at < leases.HEARTBEAT_S:
            return
        holds = self._outbox.leases() | {(w.unit, w.epoch) for slot in self._slots.values() for w in slot.held}
        body = {
            "host": host_name(),
            "holds": [{"unit": unit, "epoch": epoch} for unit, epoch in sorted(holds)],
            "workers": [state_of(slot) for slot in self._slots.values()],
        }
        beaten: wire.Beaten = self._ask(":heartbeat", body, wire.Beaten)
        self._beat_at = time.monotonic()
        for unit in beaten.lost:
            self._drop(unit)

    def _commit(self) -> None:
        batch = self._outbox.due()
        if not batch:
            return
        if gone := self._outbox.refused(batch):
            for unit in gone:
                self._drop(unit)
            return
        answers = [pending.body for pending in batch if "said" in pending.body]
        deaths = [pending.body for pending in batch if "said" not in pending.body]
        try:
            entered: wire.Entered = self._ask(":commit", {"answers": answers, "deaths": deaths}, wire.Entered)
        except ServiceError as error:
            if error.code != "missing_blobs" or not self._outbox.send_again(batch, error.found):
                raise
            return
        self._outbox.taken(batch)
        self._settle(batch, entered)

    def _settle(self, batch: Sequence[Pending], entered: wire.Entered) -> None:
        self.totals.attempts += entered.committed
        for pending in batch:
            if pending.unit in entered.unlike and pending.job_id not in self._avoid:
                self._avoid.add(pending.job_id)
                self._told(f"{pending.job_id} was begun by another installation; this one would not make the same")
            if pending.unit not in entered.lost and pending.load.folder is not None:
                self.totals.drawn += pending.body["said"] == "drawn"
                self.totals.kept += pending.body["said"] == "attempt"
                shutil.rmtree(pending.load.folder, ignore_errors=True)
        for unit in entered.lost:
            self._drop(unit)
        held = [work for slot in self._slots.values() for work in slot.held if work.kind == "simulate"]
        for work in held:
            if work.job_id in entered.ended:
                self._drop(work.unit)

    # --- work ---------------------------------------------------------------------------------------------------------

    def _feed(self) -> None:
        """Ask for work for every worker that has room."""
        hungry = [slot for slot in self._slots.values() if slot.room]
        behind = len(self._outbox) > 4 * GROUP
        if not hungry or behind or self._stop_by is not None or time.monotonic() < self._poll_at:
            return
        sizes = {
            job_id: min(_MOST_AT_ONCE, max(1, round(self._lease_work_s / max(seconds, 1e-6))))
            for job_id, seconds in list(self._speed.items())[-200:]
        }
        body = {"slots": [wish_of(slot, self._avoid) for slot in hungry], "sizes": sizes}
        offer: wire.Offer = self._ask("", body, wire.Offer)
        if len(offer.given) < sum(slot.room for slot in hungry):
            self._poll_at = time.monotonic() + _POLL_S
        named = {slot.name: slot for slot in hungry}
        for given in offer.given:
            self._give(named[given.worker], given.work())
        self._submit()
        self._tidy_up()

    def _give(self, slot: Slot, work: Work) -> None:
        self._busy_at = time.monotonic()
        if not slot.held:
            slot.heard_at = self._busy_at
        slot.held.append(work)
        slot.job_id = work.job_id
        slot.coming.append((work, self._outbox.fetch(needs_of(self._store, work))))

    def _submit(self) -> None:
        """Hand units to their workers whose files are here."""
        for slot in self._slots.values():
            while slot.coming and ((fetched := slot.coming[0][1]) is None or fetched.done()):
                work = slot.coming[0][0]
                error = fetched.exception() if fetched is not None else None
                if isinstance(error, ServiceError):
                    self._told(f"{work.job_id}: {error}")
                    self._drop(work.unit)
                    continue
                if error is not None:
                    raise error
                slot.coming.popleft()
                self._transport.submit(slot.id, work)

    def _tidy_up(self) -> None:
        """Remove what is left of jobs that nobody here works on."""
        needed = self._outbox.job_ids() | {work.job_id for slot in self._slots.values() for work in slot.held}
        for job_id in set(self._store.names("jobs")) - needed:
            forget_shards(self._store, job_id)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _is_over(self, idle_s: float | None) -> bool:
        at, waiting = time.monotonic(), len(self._outbox) > 0
        if self._stop_by is not None:
            return at > self._stop_by or not (waiting or any(slot.finishing for slot in self._slots.values()))
        if waiting or not self._slots or any(slot.held for slot in self._slots.values()):
            self._busy_at = at
        return idle_s is not None and not self._away_since and at - self._busy_at > idle_s

    def _counted(self) -> Totals:
        self.totals.sent_bytes, self.totals.received_bytes = self._uplink.sent_bytes, self._uplink.received_bytes
        return self.totals
