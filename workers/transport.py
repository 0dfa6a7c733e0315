"""How work reaches workers and answers come back: the one thing local processes, Ray and HTTP do differently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from api.messages import Answer, Work


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A worker has started and can be given work.

    Attributes:
        worker: its id, never used again after its death.
        host: where it runs.
        pid: its process there.
        capabilities: of "simulate", "gpu", "render", "write", "dream", "replay".
    """

    worker: str
    host: str
    pid: int
    capabilities: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A worker answered."""

    worker: str
    answer: Answer


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A worker is gone, with whatever it was given; another one is on its way.

    Attributes:
        worker: its id.
        how: for people: "killed by signal 9".
    """

    worker: str
    how: str


News = Ready | Heard | Lost


class Transport(Protocol):
    """A pool of workers that keeps its size: it replaces workers that die, and says so.

    A worker carries out what it was submitted in order, one unit at a time, and answers from `workers.worker.Bench`
    arrive in the order it gave them. Nothing is ever repeated by the transport itself.
    """

    name: str

    def submit(self, worker: str, work: Work) -> None:
        """Queue a unit at a worker; one that is gone is reported by the next `wait`, never here."""
        ...

    def drop(self, worker: str, unit: int) -> None:
        """Tell a worker to leave out what it has not begun of a unit; answers may still come and are ignored."""
        ...

    def kill(self, worker: str) -> None:
        """End a worker that is stuck; `wait` reports it lost."""
        ...

    def wait(self, timeout_s: float) -> Sequence[News]:
        """Return what happened, at the latest after so many seconds; empty when nothing did.

        Raises:
            BackendError: no worker can be started at all; the sentence says why.
        """
        ...

    def close(self) -> None:
        """End all workers at once; what was committed stays."""
        ...
