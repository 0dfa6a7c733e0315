"""A stand-in for the bench, told by a unit's payload what to do; for tests of the Ray transport alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from api.leases import Answer, AttemptDone, Done, Work
from api.store import Store
from factory.statistics import AttemptRecord


class FakeBench:
    """Sleeps for an attempt; leaves a line in payload["log"] whenever one begins."""

    def __init__(self, store: Store, *, worker: str) -> None:
        self._worker = worker

    def run(self, work: Work, *, wanted: Callable[[], bool]) -> Iterator[Answer]:
        """Answer for every index, then say that the unit is done."""
        say = work.payload
        for index in work.indices:
            if not wanted():
                return
            if "log" in say:
                with Path(say["log"]).open("a") as log:
                    log.write(f"{index} {self._worker}\n")
            if say.get("die_at") == index:
                os.kill(os.getpid(), signal.SIGKILL)
            if say.get("raise_at") == index:
                raise KeyError("a defect of the bench")
            time.sleep(say.get("seconds", 0.0))
            record = AttemptRecord(index=index, outcome="failure", reason="unreachable")
            yield AttemptDone(unit=work.unit, epoch=work.epoch, job_id=work.job_id, record=record, worker=self._worker)
        yield Done(unit=work.unit, epoch=work.epoch, result={"pid": os.getpid()})


class BrokenBench:
    """Cannot be opened."""

    def __init__(self, store: Store, *, worker: str) -> None:
        raise RuntimeError("no simulator here")
