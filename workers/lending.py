"""What `factory worker` does around a `Puller`: key, scratch folder, processes, signals, and what is shown."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TextIO

from api import wire
from api.store import Store
from factory.errors import SpecError, StorageError, unknown_name
from workers.devices import cuda_devices
from workers.local import LocalTransport
from workers.pull import Puller, Totals
from workers.sharing import shared
from workers.uplink import Uplink, wait_for_service

_SHOW_S, _LOG_S = 0.25, 30.0
"""How often progress is shown on a screen, and written where there is none."""


@dataclass(frozen=True, kw_only=True)
class Lending:
    """What a person lends.

    Attributes:
        server: URL of the service.
        key: its API key; None for an open one.
        capabilities: of `wire.CAPABILITIES`.
        slots: worker processes.
        lease_work_s: how much work a lease should hold.
        idle_s: end when there was nothing to do for so long; None works until told to stop.
    """

    server: str
    key: str | None
    capabilities: tuple[str, ...]
    slots: int
    lease_work_s: float
    idle_s: float | None = None

    def __post_init__(self) -> None:
        for name in self.capabilities:
            if name not in wire.CAPABILITIES:
                raise SpecError(unknown_name("capability", name, wire.CAPABILITIES))
        if not self.capabilities:
            raise SpecError(f"a worker needs at least one capability of {', '.join(wire.CAPABILITIES)}")
        if not self.server.startswith(("http://", "https://")):
            raise SpecError(f"server {self.server!r} is not a URL; expected http://HOST:PORT or https://HOST")


def lend(asked: Lending, board: Board) -> Totals:
    """Work for a service until Ctrl-C or SIGTERM, or until there was nothing to do for long enough.

    The first signal lets attempts in progress finish and gives the rest back, the second ends at once.

    Raises:
        FactoryError: the service refuses this worker, or no worker can be started here.
        KeyboardInterrupt: at the second signal.
    """
    ending = threading.Event()
    uplink, pullers = Uplink(asked.server, asked.key), list[Puller]()

    def stop(_signal: int, _frame: FrameType | None) -> None:
        if ending.is_set():
            raise KeyboardInterrupt
        ending.set()
        for puller in pullers:
            puller.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    # Whoever is last on this machine also clears up after those that were killed.
    place = Path(tempfile.gettempdir()) / f"factory-worker-{os.getuid()}"
    try:
        with shared(place) as remove:
            totals = _lend(asked, board, place, uplink, ending, pullers)
            remove()
        return totals
    finally:
        uplink.close()
        board.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _lend(
    asked: Lending, board: Board, place: Path, uplink: Uplink, ending: threading.Event, pullers: list[Puller]
) -> Totals:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        joined = wait_for_service(uplink, told=board.say, ending=ending)
        if joined is None:
            return Totals()
        board.say(f"joined {asked.server} as {joined.owner} with {asked.slots} x {', '.join(asked.capabilities)}")
        store = Store(folder)
        puller = Puller(uplink, _transport(asked, store), store, lease_work_s=asked.lease_work_s, told=board.say)
        pullers.append(puller)
        if ending.is_set():  # it was told to stop meanwhile
            puller.stop()
        return puller.run(idle_s=asked.idle_s, shown=board.show)


def _transport(asked: Lending, store: Store) -> LocalTransport:
    devices = cuda_devices(os.environ) if "gpu" in asked.capabilities else ()
    if "gpu" in asked.capabilities and not devices:
        raise SpecError("capability gpu: no CUDA device was found on this machine")
    able = tuple(name for name in asked.capabilities if name != "gpu")
    return LocalTransport(store.url, workers=asked.slots, capabilities=able, devices=devices)


def key_from(key: str | None, key_file: Path | None) -> str | None:
    """Return the API key given, from its file before any other. Raises StorageError where that cannot be read."""
    if key_file is None:
        return key or None
    try:
        return key_file.read_text(encoding="utf-8").strip() or None
    except OSError as error:
        raise StorageError(f"the API key cannot be read: {error}") from error


class Board:
    """Shows on standard error what a machine does: one line that changes on a screen, lines now and then in a log."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet, self._screen = quiet, self._stream.isatty()
        self._began = self._shown_at = time.monotonic()
        self._line = ""

    def say(self, sentence: str) -> None:
        """Show something that happened."""
        if not self._quiet:
            self._clear()
            self._stream.write(f"{sentence}\n")
            self._stream.flush()

    def show(self, totals: Totals) -> None:
        """Show how far it is, unless that was shown just now."""
        at = time.monotonic()
        if self._quiet or at - self._shown_at < (_SHOW_S if self._screen else _LOG_S):
            return
        self._shown_at = at
        line = progress_line(totals, at - self._began)
        if self._screen:
            self._clear()
            self._stream.write(line)
            self._stream.flush()
            self._line = line
        elif line != self._line:
            self.say(line)
            self._line = line

    def close(self) -> None:
        """Leave the screen as it should be."""
        self._clear()

    def _clear(self) -> None:
        if self._screen and self._line:
            self._stream.write("\r" + " " * len(self._line) + "\r")
            self._line = ""


def progress_line(totals: Totals, seconds: float) -> str:
    """Return a machine's figures on one line."""
    parts: Sequence[str] = (
        f"{totals.attempts} attempts ({totals.attempts / max(seconds, 1e-9):.1f}/s)",
        f"{totals.kept} kept",
        *([f"{totals.drawn} drawn"] if totals.drawn else []),
        f"sent {totals.sent_bytes / 1e6:.1f} MB",
        *([f"{totals.lost} leases lost"] if totals.lost else []),
        *([f"{totals.deaths} workers died"] if totals.deaths else []),
        *([f"away {totals.outages} times"] if totals.outages else []),
    )
    return ", ".join(parts)
