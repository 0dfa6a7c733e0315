"""Who watches which job. However many watch one, the job book is asked about it once in a while, by one of us.

A watcher gets every event above the number it names, each exactly once and in order, and now and then an unnumbered
message of progress; it ends after the last event of a job that has ended. No session is held while anything is waited
for.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import DBAPIError
from starlette.concurrency import run_in_threadpool

from api import answers, jobs
from api.database import Database
from api.problems import TooManyError
from factory.errors import ServiceError, StorageError

_KEPT = 1000
"""Events of a job kept for watchers who are behind; who is further behind reads them from the job book."""
_PAGE = 200
_PROGRESS_S = 1.0


@dataclass(frozen=True, kw_only=True)
class News:
    """What a question to the job book brought: new events, how far the job is, and whether that was all."""

    events: tuple[answers.Event, ...]
    progress: dict[str, Any]
    ended: bool


class _Feed:
    """One job as its watchers see it."""

    def __init__(self, last: int) -> None:
        self.floor = self.last = last
        self.recent: deque[answers.Event] = deque()
        self.progress: dict[str, Any] = {}
        self.ended = False
        self.beats = 0
        self.changed = asyncio.Condition()
        self.watchers = 0
        self.task: asyncio.Task[None] | None = None

    def after(self, seq: int) -> list[answers.Event] | None:
        """Return the events above `seq` that are known; None when some of them are no longer kept."""
        return None if seq < self.floor else [event for event in self.recent if event.seq > seq]


class Live:
    """All watchers of one process."""

    def __init__(self, database: Database, *, poll_s: float) -> None:
        self._database, self._poll_s = database, poll_s
        self._feeds: dict[str, _Feed] = {}
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closing = False

    def enter(self, name: str, most: int) -> None:
        """Count one more stream of a caller. Raises TooManyError when it has `most` open."""
        with self._lock:
            if self._open[name] >= most:
                raise TooManyError(
                    f"{most} live streams are open; close one first", code="too_many_streams", retry_after_s=5.0
                )
            self._open[name] += 1

    def leave(self, name: str) -> None:
        """Count one stream less."""
        with self._lock:
            self._open[name] -= 1

    def close(self) -> None:
        """End every stream soon."""
        self._closing = True

    async def watch(self, job_id: str, after: int) -> AsyncGenerator[answers.Event | dict[str, Any]]:
        """Yield the events of a job above number `after`, and a dict of its progress about once a second."""
        feed = self._feeds.get(job_id)
        if feed is None:
            feed = self._feeds[job_id] = _Feed(after)
        feed.watchers += 1
        if feed.task is None:
            feed.task = asyncio.create_task(self._follow(job_id, feed))
        try:
            beat = -1
            while not self._closing:
                found = feed.after(after)
                if found is None:
                    found = await run_in_threadpool(self._page, job_id, after)
                for event in found:
                    after = event.seq
                    yield event
                if feed.ended and after >= feed.last:
                    return
                if found:
                    continue
                if beat != feed.beats:
                    beat = feed.beats
                    if feed.progress:
                        yield feed.progress
                async with feed.changed:
                    if feed.last <= after and beat == feed.beats and not feed.ended:
                        await feed.changed.wait()
        finally:
            feed.watchers -= 1
            if not feed.watchers:
                self._feeds.pop(job_id, None)
                feed.task.cancel()

    async def _follow(self, job_id: str, feed: _Feed) -> None:
        beaten = 0.0
        clock = asyncio.get_running_loop().time
        while not feed.ended:
            news = await run_in_threadpool(self._ask, job_id, feed.last)
            async with feed.changed:
                if news is not None:
                    for event in news.events:
                        feed.recent.append(event)
                        feed.last = event.seq
                    while len(feed.recent) > _KEPT:
                        feed.floor = feed.recent.popleft().seq
                    feed.progress, feed.ended = news.progress, news.ended
                    if clock() - beaten >= _PROGRESS_S:
                        feed.beats, beaten = feed.beats + 1, clock()
                feed.ended = feed.ended or self._closing
                feed.changed.notify_all()
            if news is None or len(news.events) < _PAGE:
                await asyncio.sleep(self._poll_s)

    def _ask(self, job_id: str, after: int) -> News | None:
        """Return what is new; None when the job book cannot be asked now."""
        try:
            with self._database.reading() as session:
                job = jobs.get(session, job_id)
                rows = jobs.events(session, job_id, after=after, limit=_PAGE)
                (answer,) = answers.of_jobs(session, [job])
        except (DBAPIError, StorageError):
            return None
        except ServiceError:  # the job is gone
            return News(events=(), progress={}, ended=True)
        last = rows[-1].seq if rows else after
        fields = {"status", "request_counts", "success_rate", "progress", "eta_s", "to_render", "rendered", "ran_s"}
        return News(
            events=tuple(answers.of_event(row) for row in rows),
            progress=answer.model_dump(mode="json", include=fields),
            ended=job.status in jobs.FINAL and last >= job.last_event,
        )

    def _page(self, job_id: str, after: int) -> list[answers.Event]:
        with self._database.reading() as session:
            return [answers.of_event(row) for row in jobs.events(session, job_id, after=after, limit=_PAGE)]
