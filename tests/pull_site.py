"""A service and machines that pull from it over a bad line, each in a network of its own where the system lets us."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from api import keys
from api.database import Database, sqlite_url
from api.store import Store
from tests import chaos
from tests.rough_wire import RoughWire, rough_wire
from workers.dispatcher import Dispatcher
from workers.local import LocalTransport

WRITER = (sys.executable, "-m", "tests.pull_site")


class PullSite(chaos.Site):
    """A site whose service is one process and whose machines are others, all of them replaced when they die."""

    def __init__(self, data: Path, **options: Any) -> None:
        super().__init__(data, sqlite_url(data / "book.db"), **options)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.server: subprocess.Popen[bytes] | None = None
        self.machines: list[_Machine] = []
        with self.book.transaction() as session:
            _, self.key = keys.create_key(session, name="machines", scopes=["worker"])

    def serve(self, *, writer: bool = True) -> None:
        """Start the service, without anybody who makes attempts."""
        self.server = self.run("serve", *self.place(), "--executor", "none", "--port", str(self.port))
        if writer:
            self.processes.append(self.run(*WRITER, str(self.data), self.url))

    def healthy(self) -> bool:
        """Tell whether the service answers."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://127.0.0.1:{self.port}/healthz", timeout=5).status_code == 200
        return False

    def lend(self, url: str, *, inside: Sequence[str] = (), options: Sequence[str] = (), slots: int = 1) -> None:
        """Start one more machine."""
        command = (*inside, *chaos.FACTORY, "worker", "--server", url, "--slots", str(slots), *options)
        machine = _Machine(command=command)
        self.machines.append(machine)
        self._begin(machine)

    def _begin(self, machine: _Machine) -> None:
        machine.process = self.run(*machine.command, FACTORY_API_KEY=self.key)

    def restart(self, **environment: str) -> int:
        """Do what a supervisor does, with the service and the machines as well."""
        dead = 0
        if self.server is not None and self.server.poll() is not None:
            dead += 1
            self.server = self.run("serve", *self.place(), "--executor", "none", "--port", str(self.port))
        for machine in self.machines:
            if machine.process is not None and machine.process.poll() is not None:
                dead += 1
                self._begin(machine)
        gone = [p for p in self.processes if p.poll() is not None]
        for process in gone:
            self.processes.remove(process)
            self.processes.append(self.run(*WRITER, str(self.data), self.url))
        return dead + len(gone)

    def victims(self, role: str) -> list[int]:
        """Return the processes of a role: "server", "machine", "worker" or "dispatcher"."""
        alive = [m.process.pid for m in self.machines if m.process is not None and m.process.poll() is None]
        if role == "server":
            return [self.server.pid] if self.server is not None and self.server.poll() is None else []
        if role == "machine":
            return alive
        if role == "worker":
            return [
                pid for machine in alive for pid in chaos.children_of(machine) if "spawn_main" in chaos.command_of(pid)
            ]
        return super().victims(role)

    def close(self) -> None:
        """End everything, and reap it."""
        super().close()
        for process in (self.server, *(machine.process for machine in self.machines)):
            if process is not None:
                process.wait(10)


@dataclass
class _Machine:
    command: tuple[str, ...]
    process: subprocess.Popen[bytes] | None = None


@contextlib.contextmanager
def opened(data: Path) -> Iterator[PullSite]:
    """A site of which nothing is left afterwards."""
    site = PullSite(data)
    try:
        yield site
    finally:
        site.close()


# --- networks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a machine stands: how a command is run there, and the line from there to the service."""

    inside: tuple[str, ...]
    wire: RoughWire
    url: str


@contextlib.contextmanager
def places(count: int, port: int, **line: Any) -> Iterator[list[Place]]:
    """Lend places for machines; networks of their own, from which nothing but the line's end can be reached."""
    with contextlib.ExitStack() as stack:
        found: list[Place] = []
        for number in range(count):
            inside, host = stack.enter_context(_network(number)) if has_networks() else ((), "127.0.0.1")
            wire = stack.enter_context(rough_wire(port, host=host, **{**line, "seed": line.get("seed", 0) + number}))
            found.append(Place(inside=inside, wire=wire, url=f"http://{host}:{wire.port}"))
        yield found


def has_networks() -> bool:
    """Tell whether this user may make network namespaces with a cable between."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    with contextlib.suppress(subprocess.CalledProcessError), _network(99):
        return True
    return False


@contextlib.contextmanager
def _network(number: int) -> Iterator[tuple[tuple[str, ...], str]]:
    """Lend a network with one cable to this one; yields how to run a command there, and our end's address."""
    tag = f"tf{os.getpid() % 100_000}n{number}"
    subnet = f"10.213.{(os.getpid() + number) % 250}"
    ip = str(shutil.which("ip"))
    _run(ip, "netns", "add", tag)
    try:
        _run(ip, "link", "add", tag, "type", "veth", "peer", "name", "eth0", "netns", tag)
        _run(ip, "addr", "add", f"{subnet}.1/30", "dev", tag)
        _run(ip, "link", "set", tag, "up")
        _run(ip, "-n", tag, "addr", "add", f"{subnet}.2/30", "dev", "eth0")
        _run(ip, "-n", tag, "link", "set", "eth0", "up")
        _run(ip, "-n", tag, "link", "set", "lo", "up")
        yield (ip, "netns", "exec", tag), f"{subnet}.1"
    finally:
        subprocess.run([ip, "link", "del", tag], check=False, capture_output=True)
        subprocess.run([ip, "netns", "del", tag], check=False, capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


# --- a dispatcher that only writes ------------------------------------------------------------------------------------


def write_datasets(data: Path, url: str) -> None:
    """Be a dispatcher whose one worker writes datasets and makes no attempts."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    book, store = Database(url), str(data / "store")
    writer = LocalTransport(store, workers=1, database_url=url, capabilities=("write",))
    dispatcher = Dispatcher(book, Store(store), [writer])
    try:
        dispatcher.run()
    finally:
        dispatcher.close()
        book.close()


if __name__ == "__main__":
    write_datasets(Path(sys.argv[1]), sys.argv[2])
