"""Runs a job on this machine: hands out attempt indices, commits records in order, decides when it is enough.

A job's result is the first N successes in index order, so the decision looks only at the contiguous prefix of finished
attempts: how many workers there were, and how fast each was, cannot change it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from factory.errors import BackendError
from factory.statistics import AttemptRecord
from workers import simulate
from workers.jobs import JobSpec, Records, WorkFolder
from workers.processes import SPAWN, start_shielded

_AHEAD = 2
"""Indices a worker holds: the one in progress and one more, so that it never waits for us."""
_STRIKES = 3
"""An index that was in progress when its worker died this often is poison and is not tried again."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended.

    Attributes:
        records: the attempts that count, index 0, 1, 2, ... without a gap.
        rule: which stop rule ended it: "target", "attempts" or "max_attempts".
        models: model hash -> source text, of the executors that ran here.
        executor: what the executors say about themselves.
        refused: one sentence for every demo that could not be a source.
    """

    records: tuple[AttemptRecord, ...]
    rule: str
    models: Mapping[str, str] = field(default_factory=dict)
    executor: Mapping[str, str] = field(default_factory=dict)
    refused: tuple[str, ...] = ()


def prefix_end(job: JobSpec, records: Mapping[int, AttemptRecord]) -> tuple[int, str]:
    """Return how many attempts of the contiguous prefix count, and the rule that ended it ("" when none did yet)."""
    successes = n = 0
    while n < job.limit and n in records:
        successes += records[n].outcome == "success"
        n += 1
        if job.episodes is not None and successes >= job.episodes:
            return n, "target"
    if n < job.limit:
        return n, ""
    return n, "attempts" if job.attempts is not None else "max_attempts"


def run_job(
    work: WorkFolder,
    job: JobSpec,
    *,
    workers: int,
    progress: Callable[[Mapping[int, AttemptRecord]], None] | None = None,
) -> Outcome:
    """Run or resume a job until a stop rule holds.

    Args:
        work: the job's folder, as `jobs.open_work` returned it.
        job: the job.
        workers: worker processes.
        progress: called with all records after each new one.

    Raises:
        BackendError: a worker could not open the simulator or its sources; the sentence is the worker's.
    """
    records = Records(work.records_file)
    pool = _Pool(work, workers)
    try:
        return _dispatch(job, records, pool, progress)
    finally:
        pool.close()
        records.close()


def _dispatch(
    job: JobSpec,
    records: Records,
    pool: _Pool,
    progress: Callable[[Mapping[int, AttemptRecord]], None] | None,
) -> Outcome:
    # Even a job that resumes with nothing left to do opens one worker: the dataset records who its executor is.
    pool.start()
    upcoming = 0
    while True:
        end, rule = prefix_end(job, records.by_index)
        if rule:
            chosen = tuple(records.by_index[i] for i in range(end))
            return Outcome(records=chosen, rule=rule, models=pool.models, executor=pool.executor, refused=pool.refused)
        for member in pool.members:
            while len(member.held) < _AHEAD and upcoming < job.limit:
                if upcoming not in records.by_index and upcoming not in pool.held():
                    pool.assign(member, upcoming)
                upcoming += 1
        for record in pool.wait():
            records.add(record)
            if progress is not None:
                progress(records.by_index)
        upcoming = min([upcoming, *pool.returned])
        pool.returned.clear()


@dataclass(eq=False, kw_only=True)
class _Member:
    """One worker process and the indices it holds, oldest first."""

    process: SpawnProcess
    pipe: Connection
    held: list[int] = field(default_factory=list)


class _Pool:
    """Worker processes that are replaced when they die."""

    def __init__(self, work: WorkFolder, size: int) -> None:
        self._work, self._size = work, size
        self.members: list[_Member] = []
        self.returned: list[int] = []
        self.models: dict[str, str] = {}
        self.executor: dict[str, str] = {}
        self.refused: tuple[str, ...] = ()
        self._strikes: dict[int, int] = {}

    def start(self) -> None:
        """Start the workers and hear from each that it can work."""
        for _ in range(self._size):
            self.members.append(self._spawn())
        for member in self.members:
            self._greet(member)

    def held(self) -> set[int]:
        """Return the indices some worker has."""
        return {index for member in self.members for index in member.held}

    def assign(self, member: _Member, index: int) -> None:
        """Hand an index to a worker; a worker that is gone gives it back at the next `wait`."""
        member.held.append(index)
        try:
            member.pipe.send(index)
        except (BrokenPipeError, ConnectionResetError):
            return

    def wait(self) -> list[AttemptRecord]:
        """Return the records that came in, replacing workers that died."""
        ready = set(connection.wait([m.pipe for m in self.members] + [m.process.sentinel for m in self.members]))
        came: list[AttemptRecord] = []
        for member in list(self.members):
            if member.pipe not in ready and member.process.sentinel not in ready:
                continue
            try:
                record = member.pipe.recv()
            except (EOFError, OSError):  # OSError when it died in the middle of a message
                came += self._bury(member)
                continue
            if isinstance(record, str):
                raise BackendError(record)
            member.held.remove(record.index)
            came.append(record)
        return came

    def close(self) -> None:
        """End every worker at once; what they committed stays."""
        for member in self.members:
            member.process.kill()
        for member in self.members:
            member.process.join()
            member.pipe.close()

    def _bury(self, member: _Member) -> list[AttemptRecord]:
        """Replace a dead worker; give back its indices, or declare the one it died on poison."""
        self.members.remove(member)
        member.process.join()
        poisoned: list[AttemptRecord] = []
        if member.held:
            culprit = member.held[0]
            self._strikes[culprit] = self._strikes.get(culprit, 0) + 1
            if self._strikes[culprit] >= _STRIKES:
                member.held.remove(culprit)
                poisoned.append(AttemptRecord(index=culprit, outcome="failure", reason="infra_poison"))
        self.returned += member.held
        self.members.append(self._spawn())
        self._greet(self.members[-1])
        return poisoned

    def _spawn(self) -> _Member:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=simulate.serve, args=(self._work, theirs), daemon=True)
        start_shielded(process)
        theirs.close()
        return _Member(process=process, pipe=ours)

    def _greet(self, member: _Member) -> None:
        try:
            hello = member.pipe.recv()
        except EOFError:
            member.process.join()
            raise BackendError(
                f"a worker process ended with exit code {member.process.exitcode} before it could start"
            ) from None
        if isinstance(hello, str):
            raise BackendError(hello)
        self.executor, self.refused = dict(hello.executor), hello.refused
        self.models[self.executor["model_sha"]] = hello.model
