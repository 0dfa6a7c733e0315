"""Laws of scale: what is done per attempt or episode does not depend on how many there are.

Short forms, in counts of statements, bytes and calls, which no busy machine changes;
`python -m tests.benchmarks.scale` measures seconds at a million attempts and ten thousand episodes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event
from sqlmodel import select

from api import jobs, leases
from api.database import Database, sqlite_url
from api.messages import AttemptDone
from api.records import from_row, records_of, to_row
from api.stats import stats_of
from api.store import Store
from api.tables import Attempt, CoursePoint, FailureCount, Job, Unit
from factory import video
from factory.dataset_reading import dataset_digest, read_episodes
from factory.datasets import write_dataset
from factory.episodes import read_shard
from factory.provenance import StoredAttempts
from factory.specs import RenderSpec
from factory.statistics import AttemptRecord, feature_statistics, streamed_statistics
from tests.benchmarks import scale
from tests.lerobot_runs import run_in_lerobot
from tests.stub_workers import LinkedShards, StubTransport, every, record, template
from tests.synthetic import make_attempts, make_shards
from workers.dispatcher import Dispatcher
from workers.finish import finalize

ROOT = Path(__file__).parent.parent
EPISODES = 100
SMALL = RenderSpec(cameras=("agentview",), width=84, height=84)


@contextmanager
def a_book(folder: Path) -> Iterator[Database]:
    """An open, empty job book."""
    database = Database(sqlite_url(folder / "book.db"))
    database.migrate()
    yield database
    database.close()


@contextmanager
def statements(database: Database) -> Iterator[Counter[str]]:
    """Count what is sent to the database, by the first word."""
    seen: Counter[str] = Counter()

    def note(_connection: Any, _cursor: Any, text: str, *_: Any) -> None:
        seen[text.split(maxsplit=1)[0]] += 1

    event.listen(database.engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine, "before_cursor_execute", note)


def run(database: Database, store: Store, attempts: int, **options: Any) -> str:
    """Send a job through dispatcher and book until its dataset can be written; return its id."""
    render = options.pop("render", None)
    job_id = scale.enter(database, store, attempts=attempts, render=render)
    can = ("simulate", "render") if render else ("simulate",)
    dispatcher = Dispatcher(database, store, [StubTransport(capabilities=can, **options)])
    going = (*jobs.TRYING, "validating", "rendering")
    dispatcher.run(lambda session: jobs.get(session, job_id).status not in going)
    dispatcher.close()
    return job_id


# --- attempts ---------------------------------------------------------------------------------------------------------


def test_statements_per_attempt_are_few_and_do_not_grow(tmp_path: Path) -> None:
    each: list[float] = []
    for number, attempts in enumerate((600, 1800)):
        (folder := tmp_path / str(number)).mkdir()
        with a_book(folder) as database, statements(database) as seen:
            run(database, Store(folder / "store"), attempts)
            each.append(seen.total() / attempts)
    assert max(each) < 1.0, f"{each} statements an attempt"
    assert each[1] < 1.1 * each[0], each


def test_a_batch_of_attempts_costs_the_same_statements_whatever_its_size_and_whatever_came_before(
    tmp_path: Path,
) -> None:
    with a_book(tmp_path) as database:
        with database.transaction() as session:
            job_id = jobs.create(session, replace(_spec(), attempts=100_000, max_attempts=100_000)).id
        counts: list[int] = []
        for size in (2, 60, 700, 60, 2):
            with database.transaction() as session:
                work = leases.lease(session, owner="A", worker="A1", capabilities=("simulate",), size=size)
            assert work is not None
            answers = [done(work, index) for index in work.indices]
            with statements(database) as seen, database.transaction() as session:
                assert leases.commit(session, answers).committed == size
            counts.append(seen.total())
        # Seven hundred also reach no point of the course, but more than one page of the prefix.
        assert max(counts) <= min(counts) + 3, counts
        with database.reading() as session:
            assert jobs.get(session, job_id).prefix == 824


def test_what_an_attempt_leaves_in_the_book_is_less_than_a_kilobyte(tmp_path: Path) -> None:
    with a_book(tmp_path) as database:
        run(database, Store(tmp_path / "store"), 1000)
    assert (tmp_path / "book.db").stat().st_size / 1000 < 1000


def test_counts_and_course_are_those_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept as attempts come; counted anew they are the same."""
    attempts = 600
    monkeypatch.setattr(jobs, "_STRIDE", 100)
    with a_book(tmp_path) as database:
        job_id = run(database, Store(tmp_path / "store"), attempts, keeps=every(3))
        with database.reading() as session:
            job = jobs.get(session, job_id)
            rows = session.exec(select(Attempt).where(Attempt.job_id == job_id).order_by(Attempt.idx)).all()
            kept = [row.outcome == "success" for row in rows]
            assert (job.attempted, job.succeeded, job.touched) == (attempts, sum(kept), sum(r.touched for r in rows))
            assert job.shard_bytes == sum(row.shard_bytes for row in rows)
            counted = Counter((r.subtask, r.eef, r.reason) for r in rows if r.outcome == "failure")
            assert {(f["subtask"], f["eef"], f["reason"]): f["count"] for f in jobs.failures(session, job)} == counted
            points = session.exec(select(CoursePoint.attempts).order_by(CoursePoint.attempts)).all()
            assert points == [100, 200, 300, 400, 500, 600]
            course = jobs.rate_over_time(session, job)
            assert [step["attempts"] for step in course] == points
            for step in course:
                first = rows[: step["attempts"]]
                assert step["successes"] == sum(kept[: len(first)])
                assert step["worker_s"] == pytest.approx(sum(row.seconds for row in first))
                assert step["elapsed_s"] == pytest.approx(max(r.committed_at for r in first) - job.started_at)


def test_marks_of_the_course_are_few_however_long_it_is() -> None:
    marks = list(jobs._marks(0, 1_000_000))
    assert marks[:3] == [1024, 2048, 3072]
    assert len(marks) < 300
    assert all(b - a <= max(1024, a / 16) for a, b in pairwise([0, *marks, 1_000_000])), "none is far from the last"
    for cut in (1, 1023, 1024, 1025, 70_000, 70_001):
        assert [*jobs._marks(0, cut), *jobs._marks(cut, 1_000_000)] == marks, "wherever a batch ends"


def test_other_rules_begin_the_course_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_STRIDE", 100)
    with a_book(tmp_path) as database:
        job_id = run(database, Store(tmp_path / "store"), 650)
        with database.transaction() as session:
            job = jobs.get(session, job_id)
            before = jobs.rate_over_time(session, job)
            jobs.revise(session, job, replace(jobs.spec_of(job), attempts=900, max_attempts=900))
            assert job.prefix == 650
            assert [step["attempts"] for step in before] == [100, 200, 300, 400, 500, 600, 650]
            assert jobs.rate_over_time(session, job) == before


def test_the_end_subtracts_what_is_too_much(tmp_path: Path) -> None:
    """A job that is cancelled with a gap forgets what lies behind it, and its counts with it."""
    with a_book(tmp_path) as database:
        with database.transaction() as session:
            job_id = jobs.create(session, _spec()).id
            first = leases.lease(session, owner="A", worker="A1", capabilities=("simulate",), size=10)
            second = leases.lease(session, owner="A", worker="A2", capabilities=("simulate",), size=10)
        assert first is not None
        assert second is not None
        with database.transaction() as session:
            leases.commit(session, [done(second, i) for i in second.indices] + [done(first, i) for i in range(6)])
        with database.transaction() as session:
            job = jobs.cancel(session, job_id)
            rows = session.exec(select(Attempt).where(Attempt.job_id == job_id)).all()
            counted = Counter(row.reason for row in rows if row.reason)
            assert {f.reason: f.count for f in session.exec(select(FailureCount))} == counted
            assert (job.attempted, job.touched) == (6, sum(row.touched for row in rows))
            assert job.shard_bytes == sum(row.shard_bytes for row in rows)


def test_asking_for_statistics_looks_at_a_bounded_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.stats._MOST", 50)
    monkeypatch.setattr(jobs, "_STRIDE", 100)
    with a_book(tmp_path) as database:
        job_id = run(database, Store(tmp_path / "store"), 600)
        with database.reading() as session:
            found = stats_of(session, jobs.get(session, job_id))
    assert found.looked_at == 50
    assert found.course[-1]["attempts"] == 600
    assert sum(sum(row) for row in found.coverage["cubeA"].requested) == 50


def test_the_picture_next_in_turn_is_found_by_an_index(tmp_path: Path) -> None:
    """However many episodes wait to be drawn, of this job or of others."""
    plans: list[str] = []
    with a_book(tmp_path) as database:
        with database.transaction() as session:
            for _ in range(2):
                job = jobs.create(session, replace(_spec(), render=SMALL))
                jobs.start_rendering(session, job, list(range(400)))
        with database.transaction() as session:

            def note(_connection: Any, cursor: Any, text: str, parameters: Any, *_: Any) -> None:
                if text.startswith("SELECT") and "FROM units" in text and "explain" not in text:
                    plan = session.connection().connection.cursor().execute(f"EXPLAIN QUERY PLAN {text}", parameters)
                    plans.append(" / ".join(row[3] for row in plan.fetchall()))

            event.listen(database.engine, "before_cursor_execute", note)
            for index in range(3):
                work = leases.lease(session, owner="A", worker=f"A{index}", capabilities=("render",))
                assert work is not None
                assert work.indices == tuple(range(4 * index, 4 * index + 4))
            event.remove(database.engine, "before_cursor_execute", note)
            assert session.exec(select(Unit).where(Unit.state == "leased")).all()
    assert plans
    assert all("SCAN" not in plan and "TEMP B-TREE" not in plan for plan in plans if "ix_units_job" in plan), plans
    assert all("SCAN" not in plan for plan in plans), plans


@settings(max_examples=30, deadline=None)
@given(index=st.integers(0, 10**9), held=st.booleans(), touched=st.booleans(), kept=st.booleans())
def test_a_record_comes_back_from_its_row(index: int, held: bool, touched: bool, kept: bool) -> None:
    whole = replace(record(index, kept=kept), held=held, touched=touched)
    row = to_row(whole)
    row["record"] = json.loads(json.dumps(row["record"]))
    assert from_row(Attempt(job_id="j", **row)) == whole


def test_rows_of_earlier_versions_are_read(tmp_path: Path) -> None:
    old = record(7, kept=False)
    text = json.loads(json.dumps({**vars(old), "start_poses": dict(old.start_poses)}))
    named = {name: getattr(old, name) for name in ("outcome", "touched", "subtask", "eef", "reason", "steps")}
    assert from_row(Attempt(job_id="j", idx=7, record=text, **named)) == old


# --- finalising -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of many short episodes, made by book, dispatcher and finalising."""
    folder = tmp_path_factory.mktemp("many")
    with a_book(folder) as database:
        store = Store(folder / "store")
        shard = template(folder / "template", rows=3, cameras=SMALL.cameras, render=SMALL)
        job_id = scale.enter(database, store, attempts=EPISODES, render=SMALL)
        place = store.path(f"jobs/{job_id}/shards")
        assert place is not None
        dispatcher = Dispatcher(
            database,
            store,
            [StubTransport(keeps=every(1), shards=LinkedShards(shard, place), capabilities=("simulate", "render"))],
        )
        dispatcher.run(lambda session: jobs.get(session, job_id).status == "finalizing")
        dispatcher.close()
        with forbidden_pictures(most_decoded=100) as seen:
            found = finalize(database, store, job_id)
        assert seen["decoded"], "the report shows a few frames, so that the count can be seen to work"
        root = store.path(found["datasets"][0]["key"])
        assert root is not None
        return root


@contextmanager
def forbidden_pictures(*, most_decoded: int) -> Iterator[Counter[str]]:
    """Let nobody open an encoder, and count the frames that are decoded."""
    seen: Counter[str] = Counter()
    real = av.open

    def open_counted(file: Any, mode: str = "r", **options: Any) -> Any:
        container = real(file, mode, **options)
        return _Counted(container, seen) if mode == "r" else _WithoutEncoder(container)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(av, "open", open_counted)
        patch.setattr(video, "ClipWriter", None)
        yield seen
    assert seen["decoded"] <= most_decoded, f"{seen['decoded']} frames were decoded"


class _Counted:
    """A container that counts the frames decoded from it."""

    def __init__(self, container: Any, seen: Counter[str]) -> None:
        self._container, self._seen = container, seen

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def decode(self, *streams: Any, **options: Any) -> Iterator[Any]:
        for frame in self._container.decode(*streams, **options):
            self._seen["decoded"] += 1
            yield frame


class _WithoutEncoder:
    """A container into which packets can be copied, but nothing encoded."""

    def __init__(self, container: Any) -> None:
        self._container = container

    def __enter__(self) -> _WithoutEncoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def __getattr__(self, name: str) -> Any:
        assert name != "add_stream", "an encoder was opened"
        return getattr(self._container, name)


def test_writing_a_dataset_encodes_and_decodes_nothing(tmp_path: Path) -> None:
    shards = make_shards(tmp_path / "shards", (5, 8, 6), cameras=("agentview", "wrist"))
    with forbidden_pictures(most_decoded=0):
        write_dataset(tmp_path / "set", shards, robot_type="panda", job={}, attempts=make_attempts([0, 2, 4], [1]))


def test_every_episode_is_the_one_of_its_attempt(finished: Path) -> None:
    one = read_shard(finished.parents[2] / "template" / "episode_00000000")
    count = 0
    for count, episode in enumerate(read_episodes(finished), start=1):
        assert episode.index == count - 1
        assert np.array_equal(episode.columns["action"].values, one.columns["action"].values)
    assert count == EPISODES


MEMORY = """
import json, resource, sys
from pathlib import Path
from factory.datasets import write_dataset
from tests.stub_workers import LinkedShards, record, template
from workers.report import write_report
folder, most = Path(sys.argv[1]), []
one = template(folder / "template", rows=3)
for n in (300, 900):
    shards = LinkedShards(one, folder / f"shards{n}")
    for index in range(n):
        shards.write(index)
    paths, attempts = (folder / f"shards{n}").iterdir(), (record(i, kept=True) for i in range(n))
    write_report(write_dataset(folder / f"set{n}", paths, robot_type="panda", job={}, attempts=attempts))
    most.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(json.dumps(most))
"""


@pytest.mark.slow
def test_memory_does_not_follow_the_number_of_episodes(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEMORY, str(tmp_path)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    most = json.loads(said.stdout)
    # Each episode's document alone, held as a dictionary, is twenty kilobytes and more, its statistics forty.
    assert (most[1] - most[0]) * 1024 / 600 < 20_000, f"{most} KiB"


@pytest.mark.slow
@pytest.mark.lerobot
def test_lerobot_reads_them(finished: Path, tmp_path: Path) -> None:
    episodes = list(read_episodes(finished))
    wanted = {
        "root": str(finished),
        "numbers": {"agentview": [row for episode in episodes for row in range(len(episode))]},
        "tasks": [episode.instruction for episode in episodes for _ in range(len(episode))],
        "subtasks": [e.subtasks[int(i)] for e in episodes for i in e.columns["subtask_index"].values],
        "actions": np.concatenate([e.columns["action"].values for e in episodes]).tolist(),
    }
    seen = run_in_lerobot("lerobot_judge.py", {"datasets": [wanted], "merged": "", "commands": {}}, tmp_path)
    assert seen["frames"] == 3 * EPISODES


def test_attempts_are_read_back_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("factory.provenance._ATTEMPTS_AT_ONCE", 7)
    shards = make_shards(tmp_path / "shards", (5,), cameras=())
    records = [record(i, kept=i == 0) for i in range(40)]
    root = write_dataset(tmp_path / "set", shards, robot_type="panda", job={}, attempts=iter(records))
    stored = StoredAttempts(root)
    assert len(stored) == 40
    assert list(stored) == list(stored) == records
    for step in (1, 2, 3, 7, 8, 50):
        assert list(stored.every(step)) == records[::step]


def test_a_job_of_thousands_is_read_from_the_book_in_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.records._PAGE", 50)
    with a_book(tmp_path) as database:
        job_id = run(database, Store(tmp_path / "store"), 170, keeps=every(2))
        with database.reading() as session:
            job: Job = jobs.get(session, job_id)
            assert list(records_of(session, job)) == [record(i, kept=i % 2 == 0) for i in range(170)]
            assert [r.index for r in records_of(session, job, after=150)] == list(range(151, 170))


# --- statistics -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["float32", "float64", "int64", "bool"]), width=st.integers(1, 3))
def test_statistics_of_blocks_are_those_of_all_rows(data: st.DataObject, kind: str, width: int) -> None:
    """Quantiles in every bit; mean and deviation up to the order of summing."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n = data.draw(st.integers(1, 300))
    few = rng.normal(size=(max(1, n // 3), width)) * 10.0 ** rng.integers(-6, 6)
    rows = few[rng.integers(0, len(few), n)].astype(kind)  # values that come again and again
    if kind.startswith("float"):
        rows[rng.random(rows.shape) < 0.1] = -0.0
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    whole = feature_statistics(rows)
    found = streamed_statistics(lambda: iter(np.split(rows, cuts)))
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        if name in ("mean", "std"):
            scale_of = np.abs(rows.astype(float)).max() + 1e-300
            assert np.allclose(found[name], values, rtol=0, atol=1e-9 * scale_of), name
        else:
            assert np.array_equal(found[name], values), name


# --- the start --------------------------------------------------------------------------------------------------------


def test_a_worker_and_a_command_begin_without_the_job_book() -> None:
    """Importing it takes a second of every worker, and keeps `factory generate` from starting them."""
    code = "import sys, workers.generate, workers.local, workers.worker; print('sqlalchemy' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"


def _spec() -> Any:
    return jobs.JobSpec(task="stack", attempts=1000, generation=scale.GenerationSpec(), render=None)


def done(work: Any, index: int) -> AttemptDone:
    kept = index % 3 == 0
    facts = {"unit": work.unit, "epoch": work.epoch, "job_id": work.job_id, "seconds": 0.5, "worker": "w"}
    given_record: AttemptRecord = record(index, kept=kept)
    return AttemptDone(**facts, record=given_record, shard_sha256="ab" * kept, shard_bytes=1000 * kept)


def test_digests_say_the_same_as_ever(tmp_path: Path) -> None:
    """The digest is of one JSON value and the episodes' digests, though neither is held whole."""
    from dataclasses import asdict
    from hashlib import sha256

    from factory.dataset_reading import open_dataset
    from factory.durable import json_bytes
    from factory.episodes import digest, lasting

    shards = make_shards(tmp_path / "shards", (5, 4), cameras=())
    root = write_dataset(
        tmp_path / "set", shards, robot_type="panda", job={"a": 1}, attempts=make_attempts([0, 2], [1, 3])
    )
    facts = open_dataset(root)
    head = {
        "fps": facts.fps,
        "robot_type": facts.robot_type,
        "features": facts.features,
        "tasks": facts.tasks,
        "subtasks": facts.subtasks,
        "job": lasting(facts.job),
        "attempts": [{k: v for k, v in asdict(r).items() if k != "executor"} for r in StoredAttempts(root)],
    }
    hasher = sha256(json_bytes(head))
    for episode in read_episodes(root):
        hasher.update(digest(episode).encode())
    assert dataset_digest(root) == hasher.hexdigest()
