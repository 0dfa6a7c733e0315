"""Laws of jobs whose workers have many attempts in progress together, as a GPU has; without one, and without kernels.

Where only the traffic matters the kinematic backend stands in, which makes the same attempts whatever their number.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlmodel import select
from typer.testing import CliRunner

from api import answers, jobs, leases
from api.database import Database, sqlite_url
from api.messages import AttemptDone, Done, Opened, Work
from api.reproducing import reproduce
from api.requests import JobRequest, request_of
from api.specs import JobSpec, SourceFile, job_from_json
from api.store import Store
from api.tables import Attempt, Unit
from factory.dataset_reading import open_dataset, read_episodes
from factory.demos import read_demos
from factory.durable import sha256_file
from factory.episodes import write_shard
from factory.errors import BackendError, SpecError
from factory.provenance import read_attempts
from factory.recording import episode_of
from factory.replay import run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from factory.statistics import AttemptRecord, evenly
from sim_tasks.backends import open_backend
from sim_tasks.backends.kinematic import KinematicBackend
from sim_tasks.catalog import TASKS
from tests import tower
from workers import generate as generating
from workers import local, worker
from workers.cli import app
from workers.devices import VISIBLE, cuda_devices
from workers.dispatcher import Dispatcher
from workers.generate import asked_for, generate, seeds_path
from workers.inspecting import inspect_dataset
from workers.replaying import replay_dataset
from workers.transport import Heard, Lost, News, Ready
from workers.worker import Bench, shards_key, source_key

EXECUTOR = {"backend": "mjwarp", "model_sha": "0" * 64}


def asked(**changes: Any) -> JobSpec:
    wanted = {} if "attempts" in changes else {"episodes": 5}
    usual: dict[str, Any] = {"task": "stack", "generation": GenerationSpec(), "render": None, "backend": "mjwarp"}
    return JobSpec(**{**usual, **wanted, **changes})


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Database]:
    database = Database(sqlite_url(tmp_path / "book.db"))
    database.migrate()
    yield database
    database.close()


def enter(book: Database, spec: JobSpec) -> str:
    with book.transaction() as session:
        return jobs.create(session, spec).id


def lease(book: Database, *can: str, worker: str = "A1", **options: Any) -> Work | None:
    def size(job: Any) -> int:
        spec = jobs.spec_of(job)
        return leases.lock_step_size(spec, spec.limit - job.attempted)

    with book.transaction() as session:
        options = {"size": size, **options}
        return leases.lease(session, owner="A", worker=worker, capabilities=can, **options)


def commit(book: Database, *said: leases.Answer) -> leases.Receipt:
    with book.transaction() as session:
        return leases.commit(session, said)


def done(work: Work, index: int, **changes: Any) -> AttemptDone:
    record = AttemptRecord(index=index, outcome="success", held=True, touched=True)
    facts = {"unit": work.unit, "epoch": work.epoch, "job_id": work.job_id, "seconds": 1.0, "worker": "w"}
    return AttemptDone(**{**facts, "record": record, "shard_sha256": "ab", **changes})


# --- what can be asked for --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"backend": "robosuite", "worlds": 2}, "robosuite runs one attempt at a time"),
        ({"backend": "kinematic", "device": "cpu"}, "kinematic knows none"),
        ({"device": "cuda:7"}, "known are cuda:0, cpu"),
        ({"worlds": 0}, "within 1 and 65536"),
    ],
)
def test_worlds_and_devices_that_mean_nothing_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SpecError, match=sentence):
        asked(**changes)


def test_the_same_job_is_asked_for_everywhere(tmp_path: Path) -> None:
    spec = asked(worlds=48, device="cpu")
    assert job_from_json(spec.to_json()) == spec
    assert JobRequest(**request_of(spec, ())).spec(()) == spec
    request = replace(tower.request(tmp_path, tmp_path), backend="mjwarp", worlds=48, device="cpu")
    assert (asked_for(request, ()).environments, asked_for(request, ()).computes_on) == (48, "cpu")
    row: Any = SimpleNamespace(command="", file_ids=[])
    assert "--backend mjwarp --worlds 48 --device cpu" in reproduce(row, spec, "").command


def test_what_a_worker_opens_depends_on_worlds_and_device_alone() -> None:
    specs = [asked(), asked(worlds=7), asked(device="cpu"), asked(backend="robosuite"), asked(backend="kinematic")]
    assert len({spec.workbench() for spec in specs}) == len(specs)
    assert asked(device="cuda:0", worlds=1024).workbench() == asked().workbench()
    assert [spec.environments for spec in specs] == [1024, 7, 8, 1, 1]
    assert [spec.needs for spec in specs] == ["gpu", "gpu", "simulate", "simulate", "simulate"]


# --- leases -----------------------------------------------------------------------------------------------------------


def test_a_lease_fills_the_worlds_a_whole_number_of_times() -> None:
    for worlds, wanted in itertools.product((2, 8, 1024), (1, 8, 9, 5000, 10**6)):
        size = leases.lock_step_size(asked(worlds=worlds), wanted)
        assert size % worlds == 0
        assert worlds <= size <= leases.ROUNDS * worlds
        assert min(wanted, leases.ROUNDS * worlds) <= size < wanted + worlds


def test_only_a_worker_with_a_gpu_gets_attempts_for_one(book: Database) -> None:
    enter(book, asked(attempts=64, worlds=16))
    assert lease(book, "simulate", "render", "write") is None
    work = lease(book, "gpu")
    assert work is not None
    assert work.indices == tuple(range(64))
    enter(book, asked(attempts=64, worlds=16, device="cpu"))
    assert lease(book, "gpu") is None
    assert lease(book, "simulate") is not None


def test_two_jobs_share_one_gpu(book: Database) -> None:
    """Whoever had least is next, also when its leases are long."""
    ids = [enter(book, asked(attempts=4096, worlds=16)) for _ in range(2)]
    had = dict.fromkeys(ids, 0)
    last = None
    for _ in range(20):
        work = lease(book, "gpu", prefer=last)
        assert work is not None
        commit(book, *(done(work, index) for index in work.indices))
        had[work.job_id] += len(work.indices)
        last = work.job_id
    assert abs(had[ids[0]] - had[ids[1]]) <= 2 * leases.ROUNDS * 16


@pytest.mark.parametrize("deadly", [0, 9, 31])
def test_an_attempt_that_kills_a_worker_of_many_is_found_by_halving(book: Database, deadly: int) -> None:
    """Nobody knows which of those in progress it was; all others are made, and the deaths are few."""
    job_id = enter(book, asked(attempts=32, worlds=32))
    deaths = 0
    while (work := lease(book, "gpu", "simulate")) is not None and work.kind == "simulate":
        if deadly not in work.indices:
            commit(book, *(done(work, index) for index in work.indices))
            continue
        deaths += 1
        assert deaths < 20, "the range never ends"
        with book.transaction() as session:
            leases.died(session, work, at_index=work.indices[0], how="killed by SIGKILL")
            leases.died(session, work, at_index=work.indices[0], how="told twice")
    assert deaths == leases.STRIKES + 5  # 32 = 2 ** 5
    with book.reading() as session:
        rows = session.exec(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.idx)).all()
        assert [row.idx for row in rows] == list(range(32))
        assert [row.idx for row in rows if row.reason == "infra_poison"] == [deadly]
        assert jobs.get(session, job_id).attempted == 32


def test_a_halved_range_leaves_out_what_is_done(book: Database) -> None:
    enter(book, asked(attempts=8, worlds=8))
    work = lease(book, "gpu")
    assert work is not None
    commit(book, done(work, 1), done(work, 6))
    for _ in range(leases.STRIKES):
        with book.transaction() as session:
            leases.died(session, work, at_index=0, how="x")
        work = lease(book, "gpu")
        assert work is not None
    other = lease(book, "gpu")
    assert other is not None
    assert {work.indices, other.indices} == {(0, 2, 3), (4, 5, 7)}


def test_worlds_on_a_processor_are_given_longer_before_a_worker_counts_as_stuck() -> None:
    def work(spec: JobSpec) -> Work:
        return Work(unit=1, epoch=1, kind="simulate", payload={"spec": spec.to_json()})

    usual = leases.SILENCE_S["simulate"]
    assert leases.silence_s(work(asked(backend="robosuite"))) == leases.silence_s(work(asked())) == usual
    few, many = (leases.silence_s(work(asked(device="cpu", worlds=n))) for n in (8, 80))
    assert usual < few < many


# --- a second opinion -------------------------------------------------------------------------------------------------


def test_a_share_is_spread_evenly_and_never_nothing() -> None:
    assert evenly(0, 0.02) == ()
    assert evenly(1, 0.02) == (0,)
    assert evenly(50, 0.02) == (25,)
    assert evenly(200, 0.02) == (25, 75, 125, 175)
    for total in (3, 50, 51, 1000):
        chosen = evenly(total, 0.02)
        assert len(chosen) == -(-total // 50)
        assert sorted(set(chosen)) == list(chosen)
        assert evenly(total, 1.0) == tuple(range(total))
    for share in (0.0, 1.1, -1.0):
        with pytest.raises(SpecError, match="above 0 and not above 1"):
            evenly(3, share)


AGAIN = {"episodes": 120, "run_again": 3, "agreed": 2, "differed": [70], "rate": 2 / 3, "low": 0.2, "high": 0.9}


def checked(book: Database) -> tuple[str, Work]:
    """Make all attempts of a job of a statistical backend; return it and what is handed out next."""
    job_id = enter(book, asked(attempts=120, worlds=120))
    work = lease(book, "gpu")
    assert work is not None
    commit(book, *(done(work, index) for index in work.indices))
    assert lease(book, "write", "gpu", "render") is None, "the dataset is written before it is known how good it is"
    work = lease(book, "simulate")
    assert work is not None
    return job_id, work


def test_before_the_dataset_is_written_some_episodes_are_run_again(book: Database) -> None:
    job_id, work = checked(book)
    assert (work.kind, work.indices, work.payload["of"]) == ("verify", (20, 60, 100), 120)
    commit(book, Done(unit=work.unit, epoch=work.epoch, result={"run_again_on_cpu": AGAIN}))
    last = lease(book, "write")
    assert last is not None
    assert last.kind == "finalize"
    with book.reading() as session:
        row = jobs.get(session, job_id)
        assert row.succeeded == 120, "a disagreement takes no episode away"
        assert answers.of_job(session, row).run_again_on_cpu == AGAIN
        assert [e.data for e in jobs.events(session, job_id) if e.type == "verify.done"] == [
            {"run_again_on_cpu": AGAIN}
        ]


def test_a_second_opinion_that_kills_its_worker_ends_the_job_with_a_sentence(book: Database) -> None:
    job_id, work = checked(book)
    for _ in range(leases.STRIKES):
        with book.transaction() as session:
            leases.died(session, work, at_index=work.indices[0], how="killed by SIGSEGV")
        again = lease(book, "simulate")
        work = again or work
    with book.reading() as session:
        row = jobs.get(session, job_id)
        assert row.status == "failed"
        assert (row.error or {})["code"] == "verify_poison"


def test_other_backends_need_no_second_opinion(book: Database) -> None:
    enter(book, asked(attempts=2, backend="robosuite"))
    work = lease(book, "simulate", size=2)
    assert work is not None
    commit(book, *(done(work, index) for index in work.indices))
    last = lease(book, "simulate", "write")
    assert last is not None
    assert last.kind == "finalize"


@pytest.mark.slow
@pytest.mark.sim
def test_the_bench_runs_stored_episodes_again_and_can_disagree(tmp_path: Path) -> None:
    """What robosuite made comes to the same end on robosuite; with another label it does not, and is named."""
    task, spec = TASKS["lift"], asked(task="lift", episodes=2, device="cpu")
    backend = open_backend(task)
    sources = prepare_sources(backend, task, read_demos(seeds_path("lift"))[:2], spec.generation).sources
    store = Store(tmp_path / "store")
    place = store.path(shards_key("job_1"))
    assert place is not None
    place.mkdir(parents=True)
    for result in run_attempts(backend, task, sources, spec.generation, range(2)):
        episode = episode_of(result, task, spec.generation, backend.describe())
        assert episode.success
        write_shard(place, replace(episode, success=episode.success and episode.index == 0))
    backend.close()
    bench = Bench(store, worker="w", scratch=tmp_path / "scratch")
    payload = {"spec": spec.to_json(), "purpose": "generate", "of": 2}
    work = Work(unit=1, epoch=1, kind="verify", job_id="job_1", indices=(0, 1), payload=payload)
    (answer,) = bench.run(work)
    assert isinstance(answer, Done), answer
    found = answer.result["run_again_on_cpu"]
    assert (found["episodes"], found["run_again"], found["agreed"], found["differed"]) == (2, 2, 1, [1])
    assert found["low"] < found["rate"] == 0.5 < found["high"]
    assert found["worst_apart_m"] < 1e-6  # columns are float32
    assert list(bench.run(work, wanted=lambda: False)) == []
    bench.close()


# --- whole jobs -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tower.write_demonstrations(tmp_path_factory.mktemp("demos") / "towers.hdf5")


def contents(root: Path) -> tuple[list[AttemptRecord], list[bytes]]:
    return read_attempts(root), [e.columns["action"].values.tobytes() for e in read_episodes(root)]


@pytest.mark.slow
def test_many_worlds_and_a_killed_worker_make_the_same_rows(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first successes in index order, whatever order they end in; a death loses its lease and nothing else."""
    tower.make(tmp_path / "one", demos)
    marker = tmp_path / "killed"
    monkeypatch.setenv("FACTORY_FAILPOINT", f"durable.renamed:2:{marker}")
    tower.make(tmp_path / "three", demos, worlds=3)
    assert contents(tmp_path / "three") == contents(tmp_path / "one")
    assert marker.exists(), "nothing was killed"


class Statistical(KinematicBackend):
    """Stands in for a GPU: what it says of itself, and attempts side by side."""

    determinism = "statistical"

    def describe(self) -> Mapping[str, str]:
        return {**super().describe(), "backend": "mjwarp", "control_mode": "warp"}


class Contrary(KinematicBackend):
    """Stands in for a CPU on which nothing comes to the same end."""

    def play(self, env: int, actions: Any) -> Any:
        return super().play(env, np.zeros_like(actions))


def statistical_serve(*arguments: Any) -> None:
    """A worker whose GPU and CPU are stand-ins."""

    def opened(task: Any, *, name: str = "robosuite", num_envs: int = 1, device: str | None = None) -> Any:
        if name == "mjwarp":
            assert (num_envs, device) == (3, "cpu")
            return Statistical(task, num_envs=num_envs)
        return Contrary(task)

    worker.open_backend = opened
    local.serve(*arguments)


def test_the_second_opinion_is_published_wherever_one_looks(
    demos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "serve", statistical_serve)
    root = tmp_path / "towers"
    request = replace(tower.request(root, demos), backend="mjwarp", device="cpu", worlds=3)
    finished = generate(request, workers=1, watcher=tower.Watcher())
    again = finished.run_again_on_cpu
    assert again is not None
    assert (again["episodes"], again["run_again"], again["agreed"]) == (4, 1, 0)
    assert open_dataset(root).job["run_again_on_cpu"] == again
    assert inspect_dataset(root)["run_again_on_cpu"] == again
    assert inspect_dataset(root)["made_by"] == {"mjwarp/warp": 4}, "an episode was dropped, or called another's"
    assert "<b>0</b> came to the same end" in (root / "report.html").read_text()
    assert generate(request, workers=1, watcher=tower.Watcher()).run_again_on_cpu == again
    said = CliRunner().invoke(app, ["inspect", str(root)])
    assert "1 of 4 episodes run again on the CPU: 0 came to the same end" in " ".join(said.output.split())
    with pytest.raises(BackendError, match="mjwarp, which never makes the same attempt twice.*--way actions"):
        list(replay_dataset(root))


def test_a_machine_without_cuda_refuses_a_job_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generating, "cuda_devices", lambda _: ())
    command = ["generate", "lift", "--backend", "mjwarp", "--out", str(tmp_path / "lift")]
    said = CliRunner().invoke(app, command)
    assert said.exit_code == 2
    assert "no CUDA device was found on this machine; --device cpu runs the same" in " ".join(said.output.split())
    assert list(tmp_path.iterdir()) == []


# --- stopping in the middle -------------------------------------------------------------------------------------------


def test_a_unit_nobody_wants_stops_between_two_blocks(demos: Path, tmp_path: Path) -> None:
    """One attempt of these takes several blocks; none is finished once the answer is no, and the next unit is whole."""
    store, sha256 = Store(tmp_path / "store"), sha256_file(demos)
    store.put(demos, source_key(sha256))
    spec = asked(
        task="stack_three", backend="kinematic", worlds=4, attempts=8, sources=(SourceFile(name="t", sha256=sha256),)
    )
    work = Work(
        unit=1, epoch=1, kind="simulate", job_id="job_1", indices=tuple(range(8)), payload={"spec": spec.to_json()}
    )
    bench = Bench(store, worker="w", scratch=tmp_path / "scratch")
    asked_times = itertools.count()
    said = list(bench.run(work, wanted=lambda: next(asked_times) < 6))  # four attempts begun, two blocks
    assert [type(answer) for answer in said] == [Opened]
    whole = [answer for answer in bench.run(work) if isinstance(answer, AttemptDone)]
    assert sorted(answer.record.index for answer in whole) == list(range(8))
    bench.close()


class Slow:
    """A transport with one worker that answers nothing until it is told to; remembers what was dropped."""

    name = "slow"

    def __init__(self) -> None:
        self.sent: list[Work] = []
        self.dropped: list[int] = []
        self._news: list[News] = [Ready(worker="s", host="here", pid=0, capabilities=("simulate", "gpu"))]

    def submit(self, worker: str, work: Work) -> None:
        self.sent.append(work)
        lease = {"unit": work.unit, "epoch": work.epoch}
        self._news.append(Heard(worker=worker, answer=Opened(**lease, job_id=work.job_id, executor=EXECUTOR)))

    def drop(self, worker: str, unit: int) -> None:
        self.dropped.append(unit)

    def kill(self, worker: str) -> None:
        raise AssertionError("killed")

    def wait(self, timeout_s: float) -> Sequence[News]:
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("worlds", "stops"), [(8, True), (None, False)])
@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_pause_or_cancel_takes_what_is_in_lock_step_from_its_worker(
    book: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, worlds: int | None, *, stops: bool
) -> None:
    """Short ranges of one attempt at a time are finished when a job is paused, as ever."""
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.0)
    backend = "mjwarp" if worlds else "kinematic"
    job_id = enter(book, asked(backend=backend, attempts=1000, worlds=worlds))
    crew = Slow()
    dispatcher = Dispatcher(book, Store(tmp_path / "store"), [crew])
    for _ in range(3):
        dispatcher.step()
    held = [work.unit for work in crew.sent]
    assert len(held) == 2, "one in progress and one ahead"
    with book.transaction() as session:
        getattr(jobs, verb)(session, job_id)
    for _ in range(3):
        dispatcher.step()
    assert crew.dropped == (held if stops or verb == "cancel" else [])
    with book.reading() as session:
        states = [unit.state for unit in session.exec(select(Unit).where(Unit.job_id == job_id))]
    expected = {"pause": ["waiting" if stops else "leased"] * 2, "cancel": []}
    assert states == expected[verb]
    dispatcher.close()


# --- who has a GPU ----------------------------------------------------------------------------------------------------


def test_devices_are_those_the_driver_shows_and_the_environment_leaves(tmp_path: Path) -> None:
    assert cuda_devices({}, tmp_path) == cuda_devices({VISIBLE: "0"}, tmp_path) == ()
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / "dev" / name).touch()
    assert cuda_devices({}, tmp_path) == ("0", "1", "2")
    assert cuda_devices({VISIBLE: "2, 0"}, tmp_path) == ("2", "0")
    assert cuda_devices({VISIBLE: "1,-1,0"}, tmp_path) == ("1",)
    assert cuda_devices({VISIBLE: ""}, tmp_path) == ()


def test_each_device_belongs_to_one_process_and_to_its_successor(tmp_path: Path) -> None:
    pool = local.LocalTransport(str(tmp_path), workers=2, capabilities=("simulate",), devices=("7",))
    try:
        ready = heard(pool, 2)
        assert sorted(news.capabilities for news in ready) == [("simulate",), ("simulate", "gpu")]
        (chosen,) = [news for news in ready if "gpu" in news.capabilities]
        os.kill(chosen.pid, signal.SIGKILL)
        (successor,) = heard(pool, 1)
        assert successor.capabilities == ("simulate", "gpu")
        assert successor.worker != chosen.worker
    finally:
        pool.close()


def heard(pool: local.LocalTransport, count: int) -> list[Ready]:
    found: list[Ready] = []
    end = time.monotonic() + 60.0
    while len(found) < count:
        assert time.monotonic() < end, "no worker"
        news = pool.wait(0.2)
        assert all(isinstance(n, Ready | Lost) for n in news)
        found += [n for n in news if isinstance(n, Ready)]
    return found


def test_ray_keeps_an_actor_for_every_gpu_that_a_node_offers_by_name() -> None:
    driver = pytest.importorskip("workers.ray_driver")
    cluster = SimpleNamespace(workers=None, renderers=None, capabilities=("simulate", "render"))
    plan = lambda **room: driver.Driver._plan(SimpleNamespace(_cluster=cluster), room)  # noqa: E731
    assert "gpu" not in plan(CPU=4.0, GPU=2.0), "GPUs that others train on are not ours"
    named = plan(CPU=4.0, gpu=1.0)
    assert (named["gpu"].capabilities, named["gpu"].size, named["gpu"].counted) == (("gpu",), 1, False)
    assert "gpu" not in named["sim"].capabilities
    counted = plan(CPU=4.0, sim=2.0, gpu=2.0, GPU=2.0)
    assert (counted["gpu"].size, counted["gpu"].counted, counted["sim"].size) == (2, True, 2)
