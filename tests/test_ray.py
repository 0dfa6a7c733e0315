"""Laws of the Ray transport: nothing twice, nothing out of order, nothing left behind, nobody in without the token.

One cluster for the whole file, started as people start one; what needs a bench of its own gets a pool of its own.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from api.leases import AttemptDone, Done, Work
from factory.dataset_reading import dataset_digest
from factory.errors import BackendError
from tests import tower
from workers import generate as generating
from workers import running
from workers.dispatcher import Dispatcher
from workers.local import LocalTransport
from workers.ray import RayTransport, end_session, environment, processes_of
from workers.transport import Heard, Lost, News, Ready

pytest.importorskip("ray", reason="install the extra: pip install -e '.[ray]'")

FAKE = "tests.ray_bench:FakeBench"
ROOT = Path(__file__).resolve().parents[1]
START_S = 40.0


@dataclass(frozen=True)
class Cluster:
    """A running cluster of one node: 3 cores, 2 "sim", 1 "render"."""

    address: str
    token: Path
    session: int

    def pid_of(self, name: str) -> int:
        """Return one of its processes."""
        return next(p for p in processes_of(self.session) if Path(f"/proc/{p}/comm").read_text().strip() == name)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # socket paths must be short
    token = folder / "token"
    token.write_text(secrets.token_urlsafe(32))
    port = free_port()
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--include-dashboard=false"]
    ray += [f"--port={port}", "--num-cpus=3", '--resources={"sim": 2, "render": 1}']
    if importlib.util.find_spec("grpc") is not None:  # with it Ray also listens for clients, always on one port
        ray += [f"--ray-client-server-port={free_port()}"]
    ray += ["--object-store-memory=134217728", f"--temp-dir={folder / 'r'}"]
    variables = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    variables |= {"RAY_USAGE_STATS_ENABLED": "0", "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w") as log:
        head = subprocess.Popen(ray, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: "will now block" in (folder / "log").read_text() or head.poll() is not None, START_S)
        assert head.poll() is None, (folder / "log").read_text()
        yield Cluster(address=f"127.0.0.1:{port}", token=token, session=head.pid)
    finally:
        end_session(head.pid)
        head.wait()
        subprocess.run(["rm", "-rf", folder], check=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Pool:
    """A transport, and everything it has said."""

    transport: RayTransport
    news: list[News] = field(default_factory=list)
    _next_unit: int = 100

    def until(self, enough: Callable[[list[News]], bool], timeout_s: float = START_S) -> list[News]:
        """Return what is said until that is enough."""
        said: list[News] = []
        end = time.monotonic() + timeout_s
        while not enough(said):
            assert time.monotonic() < end, said
            said += self.transport.wait(0.2)
        self.news += said
        return said

    def quiet(self, seconds: float) -> list[News]:
        """Return what is said within a time."""
        end, said = time.monotonic() + seconds, []
        while time.monotonic() < end:
            said += self.transport.wait(0.1)
        self.news += said
        return said

    @property
    def workers(self) -> list[str]:
        """Who is alive, by name."""
        gone = {said.worker for said in self.news if isinstance(said, Lost)}
        return [said.worker for said in self.news if isinstance(said, Ready) and said.worker not in gone]

    def pid(self, worker: str) -> int:
        """Return a worker's process."""
        return next(said.pid for said in self.news if isinstance(said, Ready) and said.worker == worker)

    def unit(self, indices: range, **payload: object) -> Work:
        """Return a unit with a number of its own."""
        self._next_unit += 1
        return Work(
            unit=self._next_unit, epoch=1, kind="simulate", job_id="job", indices=tuple(indices), payload=payload
        )


@contextlib.contextmanager
def opened(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, store: Path, **options: object) -> Iterator[Pool]:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    settings = {"address": cluster.address, "bench": FAKE, "workers": 1, "renderers": 0} | options
    transport = RayTransport(str(store), **settings)  # type: ignore[arg-type]
    try:
        yield Pool(transport)
    finally:
        transport.close()


@pytest.fixture(scope="module")
def pool(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with pytest.MonkeyPatch.context() as patch, opened(cluster, patch, tmp_path_factory.mktemp("store")) as it:
        it.until(lambda said: any(isinstance(n, Ready) for n in said))
        yield it


def wait_until(true: Callable[[], bool], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def answers(said: list[News], work: Work) -> list[int | str]:
    """Attempt indices in the order they were answered, and "done" at the end of the unit."""
    heard = [n.answer for n in said if isinstance(n, Heard) and n.answer.unit == work.unit]
    return [a.record.index if isinstance(a, AttemptDone) else "done" for a in heard]


def is_done(work: Work) -> Callable[[list[News]], bool]:
    return lambda said: any(
        isinstance(n, Heard) and n.answer.unit == work.unit and isinstance(n.answer, Done) for n in said
    )


def is_lost(said: list[News]) -> bool:
    return any(isinstance(n, Lost) for n in said)


def is_ready(said: list[News]) -> bool:
    return any(isinstance(n, Ready) for n in said)


def executions(log: Path) -> Counter[int]:
    return Counter(int(line.split()[0]) for line in log.read_text().splitlines())


# --- order and granularity --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_units_and_their_answers_keep_their_order(pool: Pool) -> None:
    units = [pool.unit(range(3)), pool.unit(range(10, 12)), pool.unit(range(1))]
    for work in units:
        pool.transport.submit(pool.workers[0], work)
    said = pool.until(is_done(units[-1]))
    heard = [(n.answer.unit, answers([n], work)) for n in said for work in units if answers([n], work)]  # type: ignore[union-attr]
    assert heard == [(w.unit, [answer]) for w in units for answer in (*w.indices, "done")]


def test_an_answer_comes_when_its_attempt_is_done_not_when_its_unit_is(pool: Pool, tmp_path: Path) -> None:
    work = pool.unit(range(5), seconds=0.2, log=str(tmp_path / "log"))
    pool.transport.submit(pool.workers[0], work)
    said = pool.until(lambda said: len(answers(said, work)) == 1)
    assert answers(said, work) == [0]
    assert executions(tmp_path / "log").total() <= 2
    pool.until(is_done(work))


def test_a_worker_never_waits_for_its_answers_to_be_read(pool: Pool, tmp_path: Path) -> None:
    units = [pool.unit(range(20), log=str(tmp_path / "log")) for _ in range(2)]
    for work in units:
        pool.transport.submit(pool.workers[0], work)
    wait_until(lambda: (tmp_path / "log").exists() and executions(tmp_path / "log").total() == 40, 5.0)
    pool.until(is_done(units[1]))


# --- dropping ---------------------------------------------------------------------------------------------------------


def test_a_dropped_unit_stops_between_attempts_and_a_queued_one_never_begins(pool: Pool, tmp_path: Path) -> None:
    current, queued, after = (pool.unit(range(40), seconds=0.05, log=str(tmp_path / f"log{i}")) for i in range(3))
    after = pool.unit(range(2))
    pool.transport.submit(pool.workers[0], current)
    pool.transport.submit(pool.workers[0], queued)
    pool.until(lambda said: len(answers(said, current)) >= 2)
    for work in (current, queued):
        pool.transport.drop(pool.workers[0], work.unit)
    pool.transport.submit(pool.workers[0], after)
    said = pool.until(is_done(after))
    assert answers(said, after) == [0, 1, "done"]
    assert executions(tmp_path / "log0").total() < 10
    assert not (tmp_path / "log1").exists()


def test_the_same_unit_after_a_drop_is_a_new_lease(pool: Pool) -> None:
    work = pool.unit(range(2))
    pool.transport.drop(pool.workers[0], work.unit)
    pool.transport.submit(pool.workers[0], work)
    assert answers(pool.until(is_done(work)), work) == [0, 1, "done"]


# --- death ------------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_nothing_is_done_twice(pool: Pool, tmp_path: Path) -> None:
    (before,) = pool.workers
    log = tmp_path / "log"
    work, waiting = (pool.unit(range(5), seconds=0.05, log=str(log), die_at=2) for _ in range(2))
    pool.transport.submit(before, work)
    pool.transport.submit(before, waiting)
    said = pool.until(lambda said: is_lost(said) and is_ready(said))
    assert answers(said, work) == [0, 1]
    (lost,) = (n for n in said if isinstance(n, Lost))
    assert lost.worker == before
    assert "ended" in lost.how
    assert before not in pool.workers
    # The new one is given nothing that was the old one's, by us or by Ray.
    other = pool.unit(range(2))
    pool.transport.submit(pool.workers[0], other)
    assert answers(pool.until(is_done(other)), other) == [0, 1, "done"]
    assert pool.quiet(3.0) == []
    assert executions(log) == Counter({0: 1, 1: 1, 2: 1})


def test_answers_that_nobody_read_survive_the_worker(pool: Pool) -> None:
    work = pool.unit(range(20), seconds=0.05, die_at=19)
    pool.transport.submit(pool.workers[0], work)
    time.sleep(2.0)  # a dispatcher in the middle of a long transaction
    said = pool.until(lambda said: is_lost(said) and is_ready(said))
    assert answers(said, work) == list(range(19))


def test_a_bench_that_raises_is_a_lost_worker_with_its_reason(pool: Pool) -> None:
    (before,) = pool.workers
    pid = pool.pid(before)
    work = pool.unit(range(3), raise_at=1)
    pool.transport.submit(before, work)
    said = pool.until(lambda said: is_lost(said) and is_ready(said))
    assert answers(said, work) == [0]
    assert "KeyError" in next(n.how for n in said if isinstance(n, Lost))
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), 5.0)


def test_a_submit_to_the_dead_is_no_error(pool: Pool) -> None:
    pool.transport.submit("ray-nobody-1", pool.unit(range(1)))
    pool.transport.drop("ray-nobody-1", 1)
    assert pool.quiet(0.5) == []


def test_workers_that_cannot_start_end_in_a_sentence(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        opened(cluster, monkeypatch, tmp_path, bench="tests.ray_bench:BrokenBench") as pool,
        pytest.raises(BackendError, match="in a row ended before they could start .* no simulator here"),
    ):
        pool.until(lambda _: False)


# --- resources --------------------------------------------------------------------------------------------------------


def test_named_resources_part_simulation_from_rendering_and_what_does_not_fit_is_said(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, pool: Pool, tmp_path: Path
) -> None:
    """The module's pool holds one "sim" of two, so "as many as fit" is asked for two and gets one."""
    with opened(cluster, monkeypatch, tmp_path, workers=None, renderers=None) as both:
        said = both.until(lambda said: sum(isinstance(n, Ready) for n in said) == 2)
        able = sorted(n.capabilities for n in said if isinstance(n, Ready))
        assert able == [("render",), ("simulate",)]
        with (
            opened(cluster, monkeypatch, tmp_path, patience_s=2.0) as late,
            pytest.raises(BackendError, match=r"each needs 1 sim, .* offers 3 CPU, 1 render, 2 sim"),
        ):
            late.until(lambda _: False)


def test_task_events_are_off(cluster: Cluster, pool: Pool) -> None:
    """With them the head keeps about 3 kB a call, for ever."""
    statm = Path(f"/proc/{cluster.pid_of('gcs_server')}/statm")
    before = int(statm.read_text().split()[1]) * 4
    for _ in range(20):
        units = [pool.unit(range(1)) for _ in range(50)]
        for work in units:
            pool.transport.submit(pool.workers[0], work)
        pool.until(is_done(units[-1]))
    grown_kb = int(statm.read_text().split()[1]) * 4 - before
    assert grown_kb < 1000, f"{grown_kb} kB in 1000 units"


# --- who may come in --------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_refused(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wrong = tmp_path / "token"
    wrong.write_text(secrets.token_urlsafe(32))
    with (
        opened(Cluster(cluster.address, wrong, cluster.session), monkeypatch, tmp_path) as pool,
        pytest.raises(BackendError, match="does not accept the token"),
    ):
        pool.until(lambda _: False)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("10.0.0.5:6379", "needs its token: name the file"),
        ("ray://10.0.0.5:10001", "not Ray Client"),
        ("10.0.0.5", "expected HOST:PORT"),
    ],
)
def test_an_address_that_cannot_work_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, sentence: str
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(BackendError, match=sentence):  # noqa: PT012 - refused by the one or by the other
        transport = RayTransport(str(tmp_path), address=address)
        try:
            Pool(transport).until(lambda _: False)
        finally:
            transport.close()


def test_a_head_that_is_not_there_is_waited_for_and_then_named(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        opened(cluster, monkeypatch, tmp_path, address="127.0.0.1:9", patience_s=1.0) as pool,
        pytest.raises(BackendError, match="nothing listens at 127.0.0.1:9"),
    ):
        pool.until(lambda _: False)


def test_a_private_cluster_has_a_token_of_its_own_and_calls_nobody(tmp_path: Path) -> None:
    given = {"RAY_AUTH_TOKEN": "somebody's", "RAY_ADDRESS": "10.0.0.5:6379", "PATH": "/bin"}
    said = environment(None, tmp_path, given)
    token = Path(said["RAY_AUTH_TOKEN_PATH"])
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert len(token.read_text()) >= 40
    assert said["RAY_AUTH_MODE"] == "token"
    assert said["RAY_USAGE_STATS_ENABLED"] == "0"
    assert said["PATH"] == "/bin"
    assert not {"RAY_AUTH_TOKEN", "RAY_ADDRESS"} & set(said)


# --- the end ----------------------------------------------------------------------------------------------------------


def test_close_ends_the_workers_and_leaves_the_cluster(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with opened(cluster, monkeypatch, tmp_path) as pool:
        pool.until(is_ready)
        (worker,) = pool.workers
        pool.transport.submit(worker, pool.unit(range(1000), seconds=0.1))
        folder = pool.transport.folder
    assert not folder.exists()
    wait_until(lambda: not Path(f"/proc/{pool.pid(worker)}").exists(), 5.0)
    assert cluster.pid_of("raylet")


PRIVATE = """
import sys, time
from api.leases import Work
from workers.ray import RayTransport
from workers.transport import Ready

if __name__ == "__main__":
    pool = RayTransport(sys.argv[1], workers=2, bench="tests.ray_bench:FakeBench")
    print("session", pool._process.pid, pool.folder, flush=True)
    while True:
        for news in pool.wait(0.2):
            session = pool._process and pool._process.pid
            print(type(news).__name__, news.worker, session, flush=True)
            if isinstance(news, Ready):
                work = Work(unit=1, epoch=1, kind="simulate", indices=tuple(range(9999)), payload={"seconds": 1.0})
                pool.submit(news.worker, work)
"""


@pytest.mark.slow
def test_a_private_cluster_outlives_its_parts_and_not_its_dispatcher(tmp_path: Path) -> None:
    """Its node is killed and comes back; then the dispatcher is killed, and nothing is left."""
    script = tmp_path / "dispatcher.py"
    script.write_text(PRIVATE)
    variables = os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": "of another cluster"}
    command = [sys.executable, str(script), str(tmp_path / "store")]
    with subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True) as dispatcher:
        assert dispatcher.stdout is not None
        try:
            _, session, _ = dispatcher.stdout.readline().split()
            first = said_by(dispatcher, "Ready", 2)
            (raylet,) = (p for p in processes_of(int(session)) if comm(p) == "raylet")
            os.kill(raylet, signal.SIGKILL)
            assert {words[1] for words in said_by(dispatcher, "Lost", 2)} == {words[1] for words in first}
            again = said_by(dispatcher, "Ready", 2)
            assert not {words[1] for words in again} & {words[1] for words in first}
            assert processes_of(int(session)) == []
            now = int(again[0][2])
            (folder,) = {
                p.parent for p in (Path(tempfile.gettempdir()).glob("factory-ray-*/token")) if owned_by(p, now)
            }
            dispatcher.kill()
            wait_until(lambda: processes_of(now) == [] and not folder.exists(), 15.0)
        finally:
            dispatcher.kill()


def said_by(process: subprocess.Popen[str], kind: str, count: int) -> list[list[str]]:
    """Return the next lines of a kind; readline ends with the process at the latest."""
    found: list[list[str]] = []
    assert process.stdout is not None
    while len(found) < count:
        words = process.stdout.readline().split()
        assert words, "the dispatcher ended"
        if words[0] == kind:
            found.append(words)
    return found


def comm(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def owned_by(token: Path, session: int) -> bool:
    """Tell whether a private cluster's folder is that of a session."""
    lines = [Path(f"/proc/{p}/cmdline").read_text() for p in processes_of(session)]
    return any(str(token.parent) in line for line in lines)


# --- the real thing ---------------------------------------------------------------------------------------------------


def test_a_job_on_ray_gives_the_dataset_of_one_local_worker(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    demos = tower.write_demonstrations(tmp_path / "towers.hdf5")
    tower.make(tmp_path / "local", demos)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(cluster.token))
    hosts: list[RayTransport] = []

    def dispatcher(database, store, transports, **options):
        hosts.append(RayTransport(store.url, address=cluster.address, workers=2))
        return Dispatcher(database, store, [*hosts, *transports], **options)

    monkeypatch.setattr(running, "Dispatcher", dispatcher)
    monkeypatch.setattr(generating, "LocalTransport", functools.partial(LocalTransport, capabilities=("write",)))
    tower.make(tmp_path / "ray", demos)
    assert dataset_digest(tmp_path / "ray") == dataset_digest(tmp_path / "local")
