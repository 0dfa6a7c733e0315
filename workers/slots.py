"""One worker process as a machine that pulls sees it, and what is said of it to the service."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from api import leases
from api.messages import Work
from api.specs import job_from_json


@dataclass(eq=False, kw_only=True)
class Slot:
    """A worker process.

    Attributes:
        id: of its transport; `name` is how the service knows it.
        name: see id.
        pid: of the process.
        capabilities: what it can do.
        held: units it was given, oldest first.
        coming: those of them that it has not been sent, because their files are still coming.
        answered: unit -> what of it was answered.
        opened: jobs that it has opened the simulator for.
        job_id: the job it is set up for.
        attempts: it has made, in `busy_s` seconds.
        busy_s: see attempts.
        finishing: it is to end, and is in the middle of something worth waiting for.
        heard_at: when it last said something, or was given something.
        started_at: seconds since 1970.
    """

    id: str
    name: str
    pid: int
    capabilities: tuple[str, ...]
    held: list[Work] = field(default_factory=list)
    coming: deque[tuple[Work, Future[None] | None]] = field(default_factory=deque)
    answered: dict[int, set[int]] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)
    job_id: str | None = None
    attempts: int = 0
    busy_s: float = 0.0
    finishing: bool = False
    heard_at: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)

    @property
    def room(self) -> int:
        """How many units it wants; nothing is queued behind pictures."""
        drawing = any(work.kind != "simulate" for work in self.held)
        return 0 if drawing else max(0, leases.AHEAD - len(self.held))

    def left(self, work: Work) -> list[int]:
        """Return what of a unit it has not answered."""
        return [index for index in work.indices if index not in self.answered.get(work.unit, set())]

    def release(self, work: Work) -> None:
        """Forget a unit."""
        self.held.remove(work)
        self.answered.pop(work.unit, None)
        self.coming = deque(entry for entry in self.coming if entry[0] is not work)


def wish_of(slot: Slot, avoid: Collection[str]) -> dict[str, Any]:
    """Return what a worker asks its service for."""
    return {
        "worker": slot.name,
        "capabilities": list(slot.capabilities),
        "room": slot.room,
        "busy": bool(slot.held),
        "prefer": slot.job_id,
        "avoid": sorted(avoid)[-1000:],
    }


def deaths_of(slot: Slot, *, how: str) -> Iterator[tuple[Work, dict[str, Any]]]:
    """Yield what a worker held that died, each with what is said of it."""
    waiting = {work.unit for work, _ in slot.coming}
    for i, work in enumerate(slot.held):
        left = slot.left(work)
        opening = work.kind == "simulate" and work.job_id not in slot.opened
        yield (
            work,
            {
                "unit": work.unit,
                "epoch": work.epoch,
                "worker": slot.name,
                "at_index": None if opening or not left else left[0],
                "how": how[:200],
                "began": i == 0 and work.unit not in waiting,
            },
        )


def is_worth_waiting_for(slot: Slot) -> bool:
    """Tell whether a worker is at an attempt or an episode; opening a simulator is not, nor are a thousand worlds."""
    begun = [work for work in slot.held if all(waits is not work for waits, _ in slot.coming)][:1]
    return any(work.job_id in slot.opened and not _in_lock_step(work) for work in begun)


def state_of(slot: Slot) -> dict[str, Any]:
    """Return how a worker is."""
    doing = slot.held[0] if slot.held else None
    return {
        "worker": slot.name,
        "pid": slot.pid,
        "capabilities": list(slot.capabilities),
        "doing": doing.kind if doing else "",
        "job_id": doing.job_id if doing else None,
        "attempts": slot.attempts,
        "busy_s": slot.busy_s,
        "started_at": slot.started_at,
    }


def _in_lock_step(work: Work) -> bool:
    return work.kind == "simulate" and job_from_json(work.payload["spec"]).environments > 1
