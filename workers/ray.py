"""Workers as Ray actors, on a cluster of this machine's own or on one of many machines.

    dispatcher ── pipe ── driver process (workers/ray_driver.py) ── Ray ── actors

Ray is kept in a process of its own. It ends its driver when the cluster's head stays silent, it needs environment
variables that were set before it was imported, and the kernel ties a private cluster to the thread that started it;
none of that may happen to a dispatcher. Beside the driver stands a guard, a fork that does nothing but wait for the
driver's end and then kills what it started. So whichever of the three is killed, another one clears up.

Ray is compute and nothing else: it repeats nothing, stores nothing, and is believed nothing but answers.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path

from api.leases import Work
from factory.errors import BackendError
from workers.processes import SPAWN, become_worker, single_threaded, start_shielded
from workers.transport import Lost, News, Ready

PATIENCE_S = 120.0
"""Ray lets what fits nowhere wait for ever; without any worker for so long, somebody has to be told."""
_SILENCE_S = 15.0
"""... and a driver that does not even say that is stuck in Ray."""
_RESTART_S = (0.2, 1.0, 3.0, 10.0)
"""Pauses before the driver is started again, longer the more often it ended before it had a worker."""
_KNOCKS = 3
"""Tries, a second apart, before Ray itself takes a head for unreachable; we come back anyway."""
_REFUSED = "InvalidAuthToken"
"""What Ray logs, and only logs, when it is shown another cluster's token."""
_LAST_LINES = 2000
"""Characters of the driver's log that go into a sentence."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a driver has to know.

    Attributes:
        store_url: of the store, as every node can open it.
        address: HOST:PORT of an existing cluster's head, "auto" for this machine's node; None starts a private one.
        workers: actors that simulate; None for as many as the cluster has room for, also later.
        renderers: actors that only draw, where nodes offer "render"; None for as many as those have room for.
        capabilities: what all actors together do.
        bench: what carries units out, as "module:class".
        folder: for the driver's log, and for all of a private cluster's files.
        patience_s: say what is wrong when there is no worker for so long.
    """

    store_url: str
    address: str | None
    workers: int | None
    renderers: int | None
    capabilities: tuple[str, ...]
    bench: str
    folder: Path
    patience_s: float


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What the driver says before it gives up; `hopeless` when another try would end the same way."""

    sentence: str
    hopeless: bool


@dataclass(frozen=True, kw_only=True)
class Drop:
    """Leave out what has not begun of a unit."""

    unit: int


@dataclass(frozen=True, kw_only=True)
class Kill:
    """End an actor that is stuck."""


class RayTransport:
    """A pool of Ray actors; see `transport.Transport`."""

    name = "ray"

    def __init__(
        self,
        store_url: str,
        *,
        address: str | None = None,
        workers: int | None = None,
        renderers: int | None = None,
        capabilities: Sequence[str] = ("simulate", "render"),
        bench: str = "workers.worker:Bench",
        patience_s: float = PATIENCE_S,
    ) -> None:
        """Start the driver; actors are reported by `wait` as they become ready.

        Args:
            store_url: of the store; a folder must be the same on every node.
            address: HOST:PORT of an existing cluster, "auto" for the one this machine is a node of; None starts a
                private cluster that ends with this transport.
            workers: see `Cluster`; a private cluster has room for as many as are asked for, or one per usable core.
            renderers: see `Cluster`.
            capabilities: what the actors do; writing datasets needs the job book and stays with local workers.
            bench: see `Cluster`.
            patience_s: see `Cluster`.

        Raises:
            BackendError: Ray is not installed, or the address has a form that is not supported.
        """
        check_address(address)
        self._facts = {
            "store_url": store_url,
            "address": address,
            "workers": workers,
            "renderers": renderers,
            "capabilities": tuple(capabilities),
            "bench": bench,
        }
        self._patience_s = patience_s
        self._alive: set[str] = set()
        self._failures = 0
        self._trouble: Trouble | None = None
        self._lonely_since = time.monotonic()
        self._not_before = 0.0
        self._process: SpawnProcess | None = None
        self._start()

    def submit(self, worker: str, work: Work) -> None:
        """Queue a unit at a worker."""
        self._send(worker, work)

    def drop(self, worker: str, unit: int) -> None:
        """Tell a worker to leave out what it has not begun of a unit."""
        self._send(worker, Drop(unit=unit))

    def kill(self, worker: str) -> None:
        """End a worker that is stuck; `wait` reports it lost."""
        self._send(worker, Kill())

    def wait(self, timeout_s: float) -> Sequence[News]:
        """Return what happened; see `transport.Transport.wait`."""
        if self._process is None:
            if self._trouble is not None and self._is_over(self._trouble):
                raise BackendError(self._trouble.sentence)
            left = self._not_before - time.monotonic()
            if left > 0:
                time.sleep(min(timeout_s, left))
                return []
            self._start()
        news: list[News] = []
        try:
            if self._pipe.poll(timeout_s):
                while self._pipe.poll():
                    news += self._heard(self._pipe.recv())
        except (EOFError, OSError):  # OSError when it died in the middle of a message
            news += self._bury()
        if not self._alive and time.monotonic() - self._lonely_since > self._patience_s + _SILENCE_S:
            self.close()
            raise BackendError(f"Ray did not answer within {self._patience_s + _SILENCE_S:.0f} s")
        return news

    def close(self) -> None:
        """End all workers at once, and the private cluster with them."""
        if self._process is not None:
            self._end()
        self._alive.clear()

    @property
    def folder(self) -> Path:
        """Where the driver's log is, and a private cluster's token and files; gone after `close`."""
        return self._folder

    # --- the driver's life --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="factory-ray-"))
        waited = time.monotonic() - self._lonely_since
        patience = max(self._patience_s - waited, 0.0) if not self._alive else self._patience_s
        cluster = Cluster(**self._facts, folder=self._folder, patience_s=patience)  # type: ignore[arg-type]
        self._pipe, theirs = SPAWN.Pipe()
        self._process = SPAWN.Process(target=_drive, args=(theirs, cluster), daemon=True, name="ray-driver")
        start_shielded(self._process)
        theirs.close()

    def _heard(self, message: News | Trouble) -> list[News]:
        if isinstance(message, Trouble):
            self._trouble = message
            return []
        if isinstance(message, Ready):
            self._alive.add(message.worker)
            self._failures, self._trouble = 0, None
        elif isinstance(message, Lost):
            self._alive.discard(message.worker)
            if not self._alive:
                self._lonely_since = time.monotonic()
        return [message]

    def _bury(self) -> list[News]:
        """Clear up after a driver that ended, and report its workers' deaths."""
        log = _read(self._folder / "driver.log")
        code = self._end()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if self._trouble is None:
            words = "" if code == -signal.SIGKILL else f": {_tail(log)}"  # what Ray said has to do with it, or not
            self._trouble = Trouble(sentence=f"the Ray driver {how}{words}", hopeless=False)
        elif _REFUSED in log:
            sentence = f"{self._trouble.sentence}. It does not accept the token that RAY_AUTH_TOKEN_PATH names"
            self._trouble = Trouble(sentence=sentence, hopeless=True)
        if self._alive:
            self._lonely_since = time.monotonic()
        news: list[News] = [Lost(worker=worker, how=self._trouble.sentence) for worker in sorted(self._alive)]
        self._alive.clear()
        self._not_before = time.monotonic() + _RESTART_S[min(self._failures, len(_RESTART_S) - 1)]
        self._failures += 1
        return news

    def _end(self) -> int:
        """Kill the driver and everything it started; return its exit code."""
        process, self._process = self._process, None
        if process is None or process.pid is None:
            return 0
        # One that has ended by itself keeps its exit code; until it is joined nothing else gets its number.
        process.kill()
        end_session(process.pid)
        process.join()
        self._pipe.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return process.exitcode or 0

    def _is_over(self, trouble: Trouble) -> bool:
        return trouble.hopeless or time.monotonic() - self._lonely_since > self._patience_s

    def _send(self, worker: str, message: Work | Drop | Kill) -> None:
        if worker in self._alive and self._process is not None:
            with suppress(OSError):  # it is dying; `wait` says so
                self._pipe.send((worker, message))


def check_address(address: str | None) -> None:
    """Refuse what cannot become a cluster. Raises BackendError."""
    if address is not None and address.startswith("ray://"):
        raise BackendError(
            f"Ray address {address!r}: a worker pool needs a node on this machine, not Ray Client; start one with "
            "`ray start --address=HOST:6379` and give HOST:6379"
        )
    if address is not None and address != "auto" and not address.rpartition(":")[2].isdigit():
        raise BackendError(f"Ray address {address!r}: expected HOST:PORT, as in 10.0.0.5:6379, or auto")


def environment(address: str | None, folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return the variables Ray reads: token authentication always, everything that calls home never.

    A private cluster gets a token of its own in a file that only this user can read, because Ray listens on all of the
    machine's addresses whatever it is told.

    Raises:
        BackendError: an existing cluster is asked for and there is no token for it.
    """
    said = {name: value for name, value in given.items() if name not in ("RAY_ADDRESS", "RAY_NAMESPACE")}
    said |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_NUM_REDIS_GET_RETRIES": str(_KNOCKS)}
    if address is None:
        said.pop("RAY_AUTH_TOKEN", None)
        return said | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(_new_token(folder))}
    if said.get("RAY_AUTH_MODE") == "disabled":
        return said  # a decision somebody wrote down
    at_home = Path(said.get("HOME", "/"), ".ray", "auth_token")
    if "RAY_AUTH_TOKEN" not in said and not Path(said.get("RAY_AUTH_TOKEN_PATH", at_home)).is_file():
        raise BackendError(
            f"the Ray cluster at {address} needs its token: name the file that holds it in RAY_AUTH_TOKEN_PATH (found "
            f"{said.get('RAY_AUTH_TOKEN_PATH', 'nothing there')}), or set RAY_AUTH_MODE=disabled for a cluster without"
        )
    return said | {"RAY_AUTH_MODE": "token"}


def end_session(session: int) -> None:
    """Kill every process of a session but this one, until there is none."""
    while pids := [pid for pid in processes_of(session) if pid != os.getpid()]:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def processes_of(session: int) -> list[int]:
    """Return the living processes of a session; none where the system has no /proc."""
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found


# --- in the driver process, before Ray is imported --------------------------------------------------------------------


def _drive(pipe: Connection, cluster: Cluster) -> None:
    """Be the driver until the dispatcher hangs up: the whole life of a child process."""
    become_worker()
    os.setsid()  # all that Ray starts is in this session, and Ctrl-C is not
    _post_guard(pipe, cluster.folder)
    log = os.open(cluster.folder / "driver.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(log, stream.fileno())
    try:
        variables = environment(cluster.address, cluster.folder, os.environ)
    except BackendError as error:
        pipe.send(Trouble(sentence=str(error), hopeless=True))
        return
    os.environ.clear()
    os.environ.update(variables)
    single_threaded()
    try:
        from workers.ray_driver import Driver  # noqa: PLC0415 - imports Ray, which reads its environment then
    except ImportError as error:
        sentence = f"Ray cannot be imported ({error}); install it with: pip install 'trajectory-factory[ray]'"
        pipe.send(Trouble(sentence=sentence, hopeless=True))
        return
    Driver(pipe, cluster).run()
    os._exit(1)  # Ray's own way out asks the head once more, and the head may be what is gone


def _post_guard(pipe: Connection, folder: Path) -> None:
    """Fork a process that waits for this one's end and then clears up; forking is safe while there is one thread."""
    end, held = os.pipe()  # `held` is open in this process alone, for as long as it lives
    if os.fork():
        os.close(end)
        return
    os.close(held)
    pipe.close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.read(end, 1)
    end_session(os.getsid(0))
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)


def _new_token(folder: Path) -> Path:
    path = folder / "token"
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(32))
    return path


def _read(log: Path) -> str:
    try:
        return log.read_text(errors="replace")
    except OSError:
        return ""


def _tail(log: str) -> str:
    return " ".join(log[-_LAST_LINES:].split())
