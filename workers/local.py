"""Workers as processes of this machine: spawned, one pipe each, gone when their dispatcher is gone.

A child is spawned, not forked: simulators and OpenGL contexts do not survive a fork, and forked siblings would hold
each other's pipes open. The kernel kills it with its parent.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from api.messages import Work
from api.store import Store
from factory.errors import BackendError
from workers.devices import VISIBLE
from workers.processes import SPAWN, become_worker, start_shielded
from workers.transport import Heard, Lost, News, Ready

if TYPE_CHECKING:
    from api.database import Database

_MOST_STILLBIRTHS = 5
"""So many workers that die in a row before they are ready mean that none ever will be."""
_BIRTH_S = 300.0
"""A worker that is not ready by then hangs in its imports."""
_PATIENCE_S = 0.5
"""After a stillbirth the next try waits, a little longer each time."""


@dataclass(eq=False, kw_only=True)
class _Child:
    """One worker process."""

    id: str
    process: SpawnProcess
    pipe: Connection
    ready: bool = False
    born_at: float = field(default_factory=time.monotonic)
    device: str | None = None


class LocalTransport:
    """A pool of worker processes; see `transport.Transport`."""

    name = "local"

    def __init__(
        self,
        store_url: str,
        *,
        workers: int,
        database_url: str | None = None,
        capabilities: Sequence[str] = ("simulate", "render", "write"),
        devices: Sequence[str] = (),
    ) -> None:
        """Start the processes; each is reported by `wait` once it has.

        Args:
            store_url: of the store, as `Store` takes it.
            workers: how many processes.
            database_url: of the job book, with its password; needed to write datasets.
            capabilities: what these workers do.
            devices: GPUs by their names for CUDA. Each goes to one process, which sees no other and can "gpu" as well;
                where there are any, those processes alone "dream".
        """
        self._store_url, self._database_url = store_url, database_url
        self._capabilities, self._devices = tuple(capabilities), tuple(devices)
        self._children: dict[str, _Child] = {}
        self._count = self._stillbirths = 0
        self._wanted = workers
        self._not_before = 0.0
        self._unsent: set[str] = set()
        for _ in range(workers):
            self._spawn()

    def submit(self, worker: str, work: Work) -> None:
        """Queue a unit at a worker."""
        self._send(worker, work)

    def drop(self, worker: str, unit: int) -> None:
        """Tell a worker to leave out what it has not begun of a unit."""
        self._send(worker, unit)

    def kill(self, worker: str) -> None:
        """End a worker that is stuck; `wait` reports it lost."""
        if child := self._children.get(worker):
            child.process.kill()

    def wait(self, timeout_s: float) -> Sequence[News]:
        """Return what happened; see `transport.Transport.wait`."""
        while len(self._children) < self._wanted and time.monotonic() >= self._not_before:
            self._spawn()
        for child in self._children.values():
            if not child.ready and time.monotonic() - child.born_at > _BIRTH_S:
                child.process.kill()
        sources = [c.pipe for c in self._children.values()] + [c.process.sentinel for c in self._children.values()]
        if not sources:
            time.sleep(min(timeout_s, _PATIENCE_S))
            return []
        ready = set(connection.wait(sources, timeout_s))
        news: list[News] = []
        for child in list(self._children.values()):
            if child.pipe in ready or child.process.sentinel in ready:
                news += self._hear(child)
        return news

    def close(self) -> None:
        """End all workers at once."""
        for child in self._children.values():
            child.process.kill()
        for child in self._children.values():
            child.process.join()
            child.pipe.close()
        self._children.clear()
        self._wanted = 0

    def _hear(self, child: _Child) -> list[News]:
        """Return everything a child has said; its death comes last."""
        news: list[News] = []
        try:
            while child.pipe.poll():
                message = child.pipe.recv()
                if isinstance(message, Ready):
                    child.ready, self._stillbirths = True, 0
                    news.append(message)
                else:
                    news.append(Heard(worker=child.id, answer=message))
        except (EOFError, OSError):  # OSError when it died in the middle of a message
            return [*news, *self._bury(child)]
        if not child.process.is_alive():
            return [*news, *self._bury(child)]
        return news

    def _bury(self, child: _Child) -> list[News]:
        del self._children[child.id]
        child.process.join()
        child.pipe.close()
        code = child.process.exitcode or 0
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if child.ready:
            return [Lost(worker=child.id, how=how)]
        self._stillbirths += 1
        if self._stillbirths >= _MOST_STILLBIRTHS:
            raise BackendError(f"{self._stillbirths} worker processes in a row {how} before they could start")
        self._not_before = time.monotonic() + _PATIENCE_S * self._stillbirths
        return []

    def _send(self, worker: str, message: Work | int) -> None:
        child = self._children.get(worker)
        if child is None:
            return
        try:
            child.pipe.send(message)
        except OSError:
            return  # it is dying; `wait` says so

    def _spawn(self) -> None:
        self._count += 1
        name = f"local-{os.getpid()}-{self._count}"
        ours, theirs = SPAWN.Pipe()
        taken = {child.device for child in self._children.values()}
        device = next((device for device in self._devices if device not in taken), None)
        able = tuple(name for name in self._capabilities if name != "dream" or device or not self._devices)
        capabilities = able if device is None else (*able, "gpu")
        arguments = (theirs, name, self._store_url, self._database_url, capabilities, device)
        process = SPAWN.Process(target=serve, args=arguments, daemon=True, name=name)
        start_shielded(process)
        theirs.close()
        self._children[name] = _Child(id=name, process=process, pipe=ours, device=device)


def serve(
    pipe: Connection,
    name: str,
    store_url: str,
    database_url: str | None,
    capabilities: tuple[str, ...],
    device: str | None = None,
) -> None:
    """Be a worker until the parent hangs up: the whole life of a child process."""
    become_worker()
    if device is not None:
        os.environ[VISIBLE] = device  # before anything asks CUDA
    from workers.worker import Bench  # noqa: PLC0415 - after the signal is ignored; it imports for half a second

    database = partial(_open_book, database_url) if database_url else None
    bench = Bench(Store(store_url), worker=name, database=database)
    desk = _Desk(pipe)
    try:
        pipe.send(Ready(worker=name, host=socket.gethostname(), pid=os.getpid(), capabilities=capabilities))
        while True:
            work = desk.next()
            for answer in bench.run(work, wanted=lambda work=work: desk.wants(work)):
                pipe.send(answer)
    except (EOFError, OSError):
        pass  # The parent is gone; what was committed stays.
    finally:
        bench.close()


def _open_book(url: str) -> Database:
    from api.database import Database  # noqa: PLC0415 - half a second, and most workers never write a dataset

    return Database(url)


class _Desk:
    """What a worker has been sent and not begun."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._waiting: deque[Work] = deque()
        self._dropped: set[int] = set()

    def next(self) -> Work:
        """Return the next unit, waiting for one. Raises EOFError when the parent is gone."""
        while True:
            self._read()
            while not self._waiting:
                self._take(self._pipe.recv())
            work = self._waiting.popleft()
            if work.unit not in self._dropped:
                return work

    def wants(self, work: Work) -> bool:
        """Tell whether a unit has not been dropped meanwhile."""
        self._read()
        return work.unit not in self._dropped

    def _read(self) -> None:
        while self._pipe.poll():
            self._take(self._pipe.recv())

    def _take(self, message: Work | int) -> None:
        if isinstance(message, Work):
            # The same unit again is a new lease of it.
            self._dropped.discard(message.unit)
            self._waiting.append(message)
        else:
            self._dropped.add(message)
