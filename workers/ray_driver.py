# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUntypedFunctionDecorator=false, reportUntypedClassDecorator=false
# (Ray's actor handles and references are typed for its own plugin of another type checker.)
"""The only file that knows Ray: connects to a cluster, keeps a pool of actors, and passes answers on.

Each actor runs one method for all of its life, a stream of `Ready` and then answers. Units and drops reach it through
a second thread. Of the ways to get an answer out of an actor this one loses least at a kill: an answer leaves as soon
as its attempt is done, an actor never waits for a round trip, and because this process does nothing but read, an
answer that had arrived is passed on long before Ray has noticed the actor's death and throws unread ones away.

Ray repeats nothing: a lost actor is not restarted and a lost call not made again. The pool replaces actors itself,
under new names.
"""

from __future__ import annotations

import importlib
import os
import queue
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from api.leases import Answer, Work
from api.store import Store
from factory.errors import BackendError
from workers import dream_models, processes
from workers.devices import VISIBLE, cuda_devices
from workers.ray import Cluster, Drop, Kill, Trouble
from workers.transport import Heard, Lost, Ready

_TICK_S = 0.2
_LOOK_S = 1.0
"""How often the cluster is looked at: whether it lives, and whether it has grown."""
_MOST_UNREAD = 64
"""Answers an actor may be ahead of us; more would only be lost with it."""
_MOST_STILLBIRTHS = 3
"""So many actors in a row that die before they are ready mean that none ever will be."""
_PAUSE_S = 0.5
"""After a stillbirth the next try waits, longer each time but never so long as half a minute."""
_DEAD_AFTER = 3
"""Looks in a row at which the head or this machine's node did not answer."""
_STORE_BYTES = 128 << 20
"""Of Ray's object store, which sees only answers; its least is 75 MiB."""


class RayWorker:
    """An actor: a bench and what it has been sent."""

    def __init__(self, worker: str, store_url: str, bench: str, capabilities: tuple[str, ...]) -> None:
        processes.die_with_parent()  # actors of a node that was killed live on for minutes otherwise
        processes.single_threaded()
        processes.arm_failpoints()
        alone = "simulate" not in capabilities  # on a cluster that others train on, GPUs are not ours to take
        if alone and {"gpu", "dream"} & {*capabilities} and not os.environ.get(VISIBLE, "all"):
            del os.environ[VISIBLE]  # Ray hides all devices from an actor that takes none of those it counts itself
        self._worker, self._store_url, self._bench, self._capabilities = worker, store_url, bench, capabilities
        self._sent: queue.SimpleQueue[_Sent] = queue.SimpleQueue()
        self._all: list[_Sent] = []

    def live(self) -> Iterator[Ready | Answer]:
        """Say when ready, then carry out what is submitted, in order, for ever."""
        module, _, name = self._bench.partition(":")
        bench = getattr(importlib.import_module(module), name)(Store(self._store_url), worker=self._worker)
        dreams = {"dream", "replay"} - {*dream_models.able()}  # what is not installed here
        able = tuple(name for name in self._capabilities if name not in dreams)
        yield Ready(worker=self._worker, host=socket.gethostname(), pid=os.getpid(), capabilities=able)
        while True:
            sent = self._sent.get()
            if sent.wanted:
                yield from bench.run(sent.work, wanted=lambda sent=sent: sent.wanted)
            self._all.remove(sent)

    @ray.method(concurrency_group="desk")
    def submit(self, work: Work) -> None:
        """Queue a unit."""
        sent = _Sent(work=work)
        self._all.append(sent)
        self._sent.put(sent)

    @ray.method(concurrency_group="desk")
    def drop(self, unit: int) -> None:
        """Leave out what has not begun of a unit; the same unit submitted later is a new lease of it."""
        for sent in self._all.copy():
            if sent.work.unit == unit:
                sent.wanted = False


@dataclass(eq=False, kw_only=True)
class _Sent:
    """A unit in an actor's queue or in progress."""

    work: Work
    wanted: bool = True


@dataclass(frozen=True, kw_only=True)
class _Crew:
    """Equal actors: what they do, and of which resource each takes one; `counted` when Ray picks each one's GPU too."""

    capabilities: tuple[str, ...]
    needs: str
    size: int
    counted: bool = False


@dataclass(eq=False, kw_only=True)
class _Actor:
    """An actor as the driver sees it."""

    id: str
    crew: str
    needs: str
    handle: Any
    stream: Any
    ready: bool = False


@dataclass(kw_only=True)
class _Health:
    """Where the head and this machine's node listen, and how often in a row one of them did not."""

    head: tuple[str, int]
    node: str
    missed: int = 0
    looked: float = field(default_factory=time.monotonic)


class Driver:
    """A pool of actors on one cluster."""

    def __init__(self, pipe: Connection, cluster: Cluster) -> None:
        self._pipe, self._cluster = pipe, cluster
        self._speaking = threading.Lock()
        self._actors: dict[str, _Actor] = {}
        self._batch = secrets.token_hex(3)  # ids of an earlier driver never come back
        self._count = self._stillbirths = 0
        self._not_before = 0.0
        self._any_ready = False
        self._lonely_since = time.monotonic()
        self._crews: dict[str, _Crew] = {}
        never = {"max_restarts": 0, "max_task_retries": 0, "enable_task_events": False}
        make_class: Any = ray.remote
        self._actor_class = make_class(**never, concurrency_groups={"desk": 1})(RayWorker)

    def run(self) -> None:
        """Connect, and keep the pool until the dispatcher hangs up or nothing can be done."""
        threading.Thread(target=self._listen, daemon=True, name="orders").start()
        try:
            self._health = self._connect()
            self._look()
            while True:
                self._fill()
                self._hear()
                if time.monotonic() - self._health.looked >= _LOOK_S:
                    self._look()
        except BackendError as error:
            self._say(Trouble(sentence=str(error), hopeless=True))
        except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
            # What Ray raises when it is told to connect or is asked for anything while its head is going.
            hopeless = isinstance(error, ValueError) or (isinstance(error, RuntimeError) and not self._crews)
            self._say(Trouble(sentence=f"{self._where()}: {_first_words(error)}", hopeless=hopeless))

    # --- orders -------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Pass orders on; without a dispatcher there is nothing left to do."""
        try:
            while True:
                worker, order = self._pipe.recv()
                actor = self._actors.get(worker)
                if actor is None:
                    continue
                if isinstance(order, Drop):
                    actor.handle.drop.remote(order.unit)
                elif isinstance(order, Kill):
                    ray.kill(actor.handle)  # its stream ends, and with it what is known of it
                else:
                    actor.handle.submit.remote(order)
        except (EOFError, OSError):
            os._exit(0)  # the cluster ends our actors, and the guard a private cluster

    def _say(self, message: Any) -> None:
        with self._speaking:
            self._pipe.send(message)

    # --- the cluster --------------------------------------------------------------------------------------------------

    def _connect(self) -> _Health:
        cluster = self._cluster
        if cluster.address is None:
            workers = cluster.workers or processes.usable_cores()
            devices = len(cuda_devices(os.environ))
            context: Any = ray.init(
                address="local",
                num_cpus=workers,
                num_gpus=devices,
                resources={"gpu": devices} if devices else None,
                object_store_memory=_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=False,
                _temp_dir=str(cluster.folder),
                _node_ip_address="127.0.0.1",
            )
        else:
            if cluster.address != "auto" and not _listens(*_host_port(cluster.address)):
                raise ConnectionError(f"nothing listens at {cluster.address}")
            context = ray.init(address=cluster.address, log_to_driver=False)
        info = context.address_info
        return _Health(head=_host_port(info["gcs_address"]), node=info["raylet_socket_name"])

    def _look(self) -> None:
        """See whether the cluster lives and how much room it has."""
        health = self._health
        health.looked = time.monotonic()
        health.missed = 0 if _listens(*health.head) and _answers(health.node) else health.missed + 1
        if health.missed >= _DEAD_AFTER:
            raise ConnectionError("its head or this machine's node is gone")
        if health.missed:
            return  # asking now could take a minute
        self._crews = self._plan(ray.cluster_resources())
        if any(actor.ready for actor in self._actors.values()):
            self._lonely_since = time.monotonic()
        elif time.monotonic() - self._lonely_since > self._cluster.patience_s:
            raise BackendError(self._nothing_fits())

    def _plan(self, room: Mapping[str, float]) -> dict[str, _Crew]:
        """Return how many actors of which kind there should be; named resources go before processor cores."""
        cluster, able = self._cluster, self._cluster.capabilities
        apart = "render" in able and room.get("render", 0) >= 1
        dreamers = room.get("dream", 0) >= 1  # nodes set apart for video models
        cards = "simulate" in able and room.get("gpu", 0) >= 1
        needs = "sim" if room.get("sim", 0) >= 1 else "CPU"
        size = int(room.get(needs, 0)) if cluster.workers is None else cluster.workers
        elsewhere = {"render"} if apart else set[str]()
        elsewhere |= {"dream"} if dreamers or cards else set()
        able_here = tuple(name for name in able if name not in elsewhere)
        crews = {"sim": _Crew(capabilities=able_here, needs=needs, size=size)}
        if apart:
            size = int(room["render"]) if cluster.renderers is None else cluster.renderers
            crews["render"] = _Crew(capabilities=("render",), needs="render", size=size)
        # Named and not Ray's own "GPU": those of a cluster that others train on are not ours to fill.
        if cards:
            counted = room.get("GPU", 0) >= room["gpu"]
            able_there = ("gpu", "dream") if "dream" in able and not dreamers else ("gpu",)
            crews["gpu"] = _Crew(capabilities=able_there, needs="gpu", size=int(room["gpu"]), counted=counted)
        if "dream" in able and dreamers:
            counted = room.get("GPU", 0) >= room["dream"]
            able_there = ("dream", "replay")
            crews["dream"] = _Crew(capabilities=able_there, needs="dream", size=int(room["dream"]), counted=counted)
        return crews

    def _where(self) -> str:
        return "the private Ray cluster" if self._cluster.address is None else f"Ray at {self._cluster.address}"

    def _nothing_fits(self) -> str:
        needs = self._crews["sim"].needs
        room = sorted(ray.cluster_resources().items())
        named = {name: n for name, n in room if ":" not in name and "memory" not in name}
        found = ", ".join(f"{n:g} {name}" for name, n in named.items()) or "no room at all"
        return (
            f"{self._where()} started no worker within {self._cluster.patience_s:.0f} s: each needs 1 {needs}, and the "
            f"cluster offers {found}, which others may have taken. Add a node: ray start --address=HOST:PORT "
            """--resources='{"sim": 4}'"""
        )

    # --- actors -------------------------------------------------------------------------------------------------------

    def _fill(self) -> None:
        if time.monotonic() < self._not_before:
            return
        for name, crew in self._crews.items():
            for _ in range(crew.size - sum(actor.crew == name for actor in self._actors.values())):
                self._hire(name, crew)

    def _hire(self, name: str, crew: _Crew) -> None:
        self._count += 1
        worker = f"ray-{self._batch}-{self._count}"
        takes = {"num_cpus": 1} if crew.needs == "CPU" else {"num_cpus": 0, "resources": {crew.needs: 1}}
        takes |= {"num_gpus": 1} if crew.counted else {}
        handle = self._actor_class.options(**takes).remote(
            worker, self._cluster.store_url, self._cluster.bench, crew.capabilities
        )
        stream = handle.live.options(num_returns="streaming", _generator_backpressure_num_objects=_MOST_UNREAD).remote()
        self._actors[worker] = _Actor(id=worker, crew=name, needs=crew.needs, handle=handle, stream=stream)

    def _hear(self) -> None:
        """Pass on what has arrived; wait a little when nothing has."""
        actors = {actor.stream: actor for actor in self._actors.values()}
        if not actors:
            time.sleep(_TICK_S)
            return
        streams = list(actors)
        if ray.wait(streams, num_returns=1, timeout=_TICK_S)[0]:
            for stream in ray.wait(streams, num_returns=len(streams), timeout=0)[0]:
                self._read(actors[stream])

    def _read(self, actor: _Actor) -> None:
        try:
            message: Any = ray.get(next(actor.stream))
        except (RayError, StopIteration) as error:
            self._bury(actor, error)
            return
        if isinstance(message, Ready):
            actor.ready = self._any_ready = True
            self._stillbirths, self._lonely_since = 0, time.monotonic()
            self._say(message)
        else:
            self._say(Heard(worker=actor.id, answer=message))

    def _bury(self, actor: _Actor, error: Exception) -> None:
        del self._actors[actor.id]
        ray.kill(actor.handle)  # it may live: a method that raised, a network that failed for a moment
        how = _how(error)
        if actor.ready:
            self._say(Lost(worker=actor.id, how=how))
            return
        self._stillbirths += 1
        if self._stillbirths >= _MOST_STILLBIRTHS and not self._any_ready:
            sentence = f"{self._stillbirths} workers in a row ended before they could start on {self._where()}: {how}"
            raise BackendError(sentence)
        self._not_before = time.monotonic() + min(_PAUSE_S * self._stillbirths, 30.0)


def _how(error: Exception) -> str:
    if isinstance(error, RayTaskError):
        return f"raised {type(error.cause).__name__}: {_first_words(error.cause)}"
    return f"its process or node ended: {_first_words(error)}"


def _first_words(error: object) -> str:
    """Return what an error says on one line of bearable length; Ray's reasons come after its listings."""
    text = " ".join(str(error).split())
    _, found, reason = text.partition("The actor is dead because ")
    return (reason if found else text)[:300]


def _host_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _answers(path: str) -> bool:
    """Tell whether somebody listens on a socket file, which outlives its owner."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True
