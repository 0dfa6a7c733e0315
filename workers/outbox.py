"""Answers on their way from this machine to its service, in their order; one leaves when its files are there."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factory.errors import ServiceError
from workers.carrying import Load, Need
from workers.uplink import Uplink

GROUP = 64
"""Answers that travel together at most."""
_GROUP_S = 0.3
"""Finished attempts wait so long for others to travel with them."""
_FILES = 4
"""Files on their way at once: with one, a slow answer to each would be waited for in turn."""


@dataclass(eq=False, kw_only=True)
class Pending:
    """An answer, or a death, that the service has not yet taken.

    Attributes:
        body: as it travels; one of an answer has "said", one of a death has not.
        job_id: whose it is; `unit` likewise.
        load: the files it refers to.
        sent: is over when they are there; None when none are sent unasked.
        at: when it was put in.
    """

    body: Mapping[str, Any]
    job_id: str
    unit: int
    load: Load = field(default_factory=Load)
    sent: Future[None] | None = None
    at: float = field(default_factory=time.monotonic)


class Outbox:
    """What has been answered and not yet been taken, and the threads that send and fetch files."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self._waiting: deque[Pending] = deque()
        self._ending = threading.Event()
        self._pool = ThreadPoolExecutor(_FILES, thread_name_prefix="send")
        # One after the other: units of one job need the same files, which are there for the second.
        self._fetcher = ThreadPoolExecutor(1, thread_name_prefix="fetch")

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, pending: Pending, *, send: bool = False) -> None:
        """Take an answer; with `send` its files go first."""
        if send and pending.load.files:
            pending.sent = self._pool.submit(self._send, pending.job_id, pending.load.files)
        self._waiting.append(pending)

    def leases(self) -> set[tuple[int, int]]:
        """Return the leases, unit and epoch, that answers here are given under."""
        return {(pending.unit, int(pending.body["epoch"])) for pending in self._waiting}

    def job_ids(self) -> set[str]:
        """Return the jobs that answers here belong to."""
        return {pending.job_id for pending in self._waiting}

    def due(self) -> list[Pending]:
        """Return the oldest answers, as far as their files are there, when it is time to send them."""
        batch: list[Pending] = []
        for pending in self._waiting:
            if (pending.sent is not None and not pending.sent.done()) or len(batch) == GROUP:
                break
            batch.append(pending)
        waits = bool(batch) and len(batch) < GROUP and time.monotonic() - batch[0].at < _GROUP_S
        return [] if waits else batch

    def refused(self, batch: Sequence[Pending]) -> set[int]:
        """Forget answers whose files the service does not take because their lease is over; return their units.

        Raises:
            AwayError: this machine is ending.
            ServiceError: files are refused for another reason.
            OSError: a file cannot be read.
        """
        gone: set[int] = set()
        for pending in batch:
            error = pending.sent.exception() if pending.sent is not None else None
            over = isinstance(error, ServiceError) and error.status in (404, 409)
            # A shard may be gone when its attempt was made again here under a newer lease, and taken.
            if over or isinstance(error, FileNotFoundError):
                gone.add(pending.unit)
            elif error is not None:
                raise error
        self._waiting = deque(pending for pending in self._waiting if pending.unit not in gone)
        return gone

    def send_again(self, batch: Sequence[Pending], hashes: object) -> bool:
        """Send files that the service says it lacks; false when they are none of ours."""
        missing = set(hashes) if isinstance(hashes, list) else set[str]()
        found = False
        for pending in batch:
            if files := {sha256: path for sha256, path in pending.load.files.items() if sha256 in missing}:
                pending.sent = self._pool.submit(self._send, pending.job_id, files)
                found = True
        return found

    def taken(self, batch: Sequence[Pending]) -> None:
        """Forget the oldest answers: the service has them."""
        for _ in batch:
            self._waiting.popleft()

    def fetch(self, needs: Sequence[Need]) -> Future[None] | None:
        """Have files fetched; None when there are none to fetch."""
        return self._fetcher.submit(self._fetch, needs) if needs else None

    def close(self) -> None:
        """Stop all that is on its way."""
        self._ending.set()
        for pool in (self._pool, self._fetcher):
            pool.shutdown(cancel_futures=True)

    def _send(self, job_id: str, files: Mapping[str, Path]) -> None:
        for sha256, path in files.items():
            self._uplink.send_file(job_id, path, sha256, self._ending)

    def _fetch(self, needs: Sequence[Need]) -> None:
        for need in needs:
            self._uplink.fetch(need.path, need.place, self._ending, sha256=need.sha256)
