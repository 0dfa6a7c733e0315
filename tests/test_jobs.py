"""Laws of jobs: how many workers, what killed them and how often one stopped makes no difference to the dataset."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlmodel import select

from api import jobs
from api.database import Database, sqlite_url
from api.tables import Attempt, Event
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import dataset_digest, open_dataset, read_episodes
from factory.errors import BackendError, DatasetError, SpecError, StorageError
from factory.provenance import read_attempts
from factory.statistics import AttemptRecord
from tests import tower
from workers import generate as generating
from workers import local, worker
from workers.generate import work_folder_of


@dataclass(frozen=True)
class Reference:
    """A job run to its end by one worker without trouble: what every other way has to come to."""

    demos: Path
    root: Path
    digest: str
    records: tuple[AttemptRecord, ...]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    demos = tower.write_demonstrations(folder / "towers.hdf5")
    root = folder / "towers"
    tower.make(root, demos)
    return Reference(demos=demos, root=root, digest=dataset_digest(root), records=tuple(read_attempts(root)))


class _StoppedError(Exception):
    pass


def stop_after(count: int) -> tower.Watcher:
    """A watcher that ends the run in this process once so many attempts are committed."""

    def stop(done: int) -> None:
        if done >= count:
            raise _StoppedError

    return tower.Watcher(stop)


def interrupted(out: Path, demos: Path, count: int, **changes) -> Path:
    """Leave the work folder of a job that was stopped after `count` attempts."""
    with pytest.raises(_StoppedError):
        tower.make(out, demos, watcher=stop_after(count), **changes)
    return work_folder_of(out)


def book_of(work: Path) -> Database:
    return Database(sqlite_url(work / "book.db"))


def committed(work: Path) -> dict[int, str]:
    """The attempts in a folder's job book: index -> the shard's hash."""
    if not (work / "book.db").exists():
        return {}
    book = book_of(work)
    try:
        with book.reading() as session:
            return dict(session.exec(select(Attempt.idx, Attempt.shard_sha256).order_by(Attempt.idx)).all())
    except StorageError:  # the tables are not there yet
        return {}
    finally:
        book.close()


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def started(*command: str, **options):
    """A running `factory ...`; nothing of its group is left afterwards."""
    process = tower.start(*command, **options)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# --- what counts ------------------------------------------------------------------------------------------------------


def test_a_job_ends_at_its_nth_success_in_index_order(reference: Reference) -> None:
    outcomes = [record.outcome for record in reference.records]
    assert [record.index for record in reference.records] == list(range(len(outcomes)))
    assert outcomes.count("success") == 4
    assert outcomes[-1] == "success"
    assert "failure" in outcomes, "the job is too easy to show anything"
    episodes = [episode.index for episode in read_episodes(reference.root)]
    assert episodes == [record.index for record in reference.records if record.outcome == "success"]
    assert open_dataset(reference.root).job["stopped_by"] == "target"
    verify_dataset(reference.root)
    assert not work_folder_of(reference.root).exists()


def test_two_workers_make_the_same_dataset(reference: Reference, tmp_path: Path) -> None:
    tower.make(tmp_path / "two", reference.demos, workers=2)
    assert dataset_digest(tmp_path / "two") == reference.digest


def test_another_seed_makes_another_dataset(reference: Reference, tmp_path: Path) -> None:
    tower.make(tmp_path / "other", reference.demos, generation={"seed": 1}, episodes=1)
    assert dataset_digest(tmp_path / "other") != reference.digest
    assert read_attempts(tmp_path / "other")[0].start_poses != reference.records[0].start_poses


def test_attempts_asks_for_exactly_so_many_and_keep_failed_keeps_the_others(
    reference: Reference, tmp_path: Path
) -> None:
    """Twice as many workers as there are attempts left to hand out: none may run over."""
    count = len(reference.records)
    done = tower.make(tmp_path / "all", reference.demos, workers=2, attempts=count, keep_failed=True)
    assert (done.rule, done.attempts, done.episodes) == ("attempts", count, 4)
    assert [r.index for r in read_attempts(tmp_path / "all")] == list(range(count))
    assert done.failed_root == tmp_path / "all-failed"
    failed = list(read_episodes(tmp_path / "all-failed"))
    assert [e.index for e in failed] == [r.index for r in reference.records if r.outcome == "failure"]
    assert not any(episode.success for episode in failed)
    assert all(episode.provenance["failure"]["reason"] for episode in failed)
    verify_dataset(tmp_path / "all-failed")


def test_max_attempts_gives_up_with_what_there_is(reference: Reference, tmp_path: Path) -> None:
    done = tower.make(tmp_path / "few", reference.demos, episodes=4, max_attempts=4)
    assert (done.rule, done.attempts) == ("max_attempts", 4)
    assert 0 < done.episodes < 4
    assert open_dataset(tmp_path / "few").job["stopped_by"] == "max_attempts"


def test_no_success_is_a_sentence_with_reasons_and_no_dataset(reference: Reference, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"none of 2 attempts at stack_three D0 succeeded.*What went wrong: \d x"):
        tower.make(tmp_path / "none", reference.demos, attempts=2, generation={"noise_normalised": 3.0})
    assert not (tmp_path / "none").exists()


# --- stopped and resumed ----------------------------------------------------------------------------------------------


def test_a_killed_run_goes_on_where_it_was(reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "towers"
    work = work_folder_of(out)
    with started(*tower.arguments(out, reference.demos)) as process:
        wait_for(lambda: len(committed(work)) >= 2, "two committed attempts")
        workers = children_of(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: not any(runs(pid) for pid in workers), "the workers to die with their parent", 2)
    assert not out.exists()
    before = committed(work)
    watcher = tower.Watcher()
    tower.make(out, reference.demos, watcher=watcher)
    assert dataset_digest(out) == reference.digest
    assert watcher.found == len(before)
    assert watcher.counts[0] >= watcher.found
    assert not work.exists()


def test_ctrl_c_ends_with_a_sentence_and_the_same_command_goes_on(reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "towers"
    work = work_folder_of(out)
    with started(*tower.arguments(out, reference.demos)) as process:
        wait_for(lambda: committed(work), "a committed attempt")
        workers = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        _, said = process.communicate(timeout=90)
        assert process.returncode == 130
        assert "stopped. Finished work is kept; run the same command again to go on." in said
        assert "Traceback" not in said
        wait_for(lambda: not any(runs(pid) for pid in workers), "the workers to end", 10)
    with started(*tower.arguments(out, reference.demos)) as process:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
        assert "going on:" in said
    assert dataset_digest(out) == reference.digest


def test_ctrl_c_while_the_workers_start_is_quiet_too(reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "towers"
    with started(*tower.arguments(out, reference.demos)) as process:
        wait_for((work_folder_of(out) / "book.db").exists, "the job to begin")
        wait_for(lambda: len(children_of(process.pid)) >= 2, "a worker beside multiprocessing's own helper")
        time.sleep(0.2)  # the worker is importing now, before it can ignore the signal itself
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["finalize.written", "finalize.before_report"])
def test_a_run_killed_before_it_could_clean_up_is_finished_by_the_next(
    reference: Reference, tmp_path: Path, moment: str
) -> None:
    """The dataset is there; the row that makes it known, the report or the removal of the work folder are not.

    The worker that writes is killed at the moment; the dispatcher starts another one.
    """
    out, count = tmp_path / "towers", len(reference.records)
    marker = tmp_path / "killed"
    command = [
        word for word in tower.arguments(out, reference.demos, "--keep-failed") if word not in ("--episodes", "4")
    ]
    environment = {**os.environ, "FACTORY_FAILPOINT": f"{moment}:1:{marker}"}
    with started(*command, "--attempts", str(count), env=environment) as process:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert marker.exists(), "nothing was killed"
    whole = tmp_path / "whole"
    tower.make(whole, reference.demos, attempts=count, keep_failed=True)
    assert dataset_digest(out) == dataset_digest(whole)
    assert dataset_digest(tmp_path / "towers-failed") == dataset_digest(tmp_path / "whole-failed")
    assert (out / "report.html").exists()
    assert not work_folder_of(out).exists()


def test_another_job_is_kept_out_of_unfinished_work(reference: Reference, tmp_path: Path) -> None:
    work = interrupted(tmp_path / "towers", reference.demos, 1)
    before = committed(work)
    for changes, named in (
        ({"generation": {"seed": 5}}, "generation.seed"),
        ({"keep_failed": True}, "keep_failed"),
    ):
        with pytest.raises(SpecError, match=rf"unfinished work of another job \(differs in: {named}\)"):
            tower.make(tmp_path / "towers", reference.demos, **changes)
    other = tower.write_demonstrations(tmp_path / "other.hdf5", count=2)
    with pytest.raises(SpecError, match="differs in: sources"):
        tower.make(tmp_path / "towers", other)
    assert committed(work) == before


def test_other_stop_rules_go_on_from_what_was_tried(reference: Reference, tmp_path: Path) -> None:
    work = interrupted(tmp_path / "towers", reference.demos, 1)
    before = committed(work)
    assert before
    watcher = tower.Watcher()
    done = tower.make(tmp_path / "towers", reference.demos, watcher=watcher, attempts=5)
    assert watcher.found == len(before)
    assert (done.rule, done.attempts) == ("attempts", 5)
    assert list(read_attempts(tmp_path / "towers")) == list(reference.records[:5])


def test_fewer_episodes_than_are_there_end_the_job_where_it_had_so_many(reference: Reference, tmp_path: Path) -> None:
    interrupted(tmp_path / "towers", reference.demos, 5)
    done = tower.make(tmp_path / "towers", reference.demos, episodes=1)
    outcomes = [record.outcome for record in reference.records]
    assert (done.rule, done.episodes, done.attempts) == ("target", 1, outcomes.index("success") + 1)


def test_a_job_without_success_goes_on_with_a_larger_limit(reference: Reference, tmp_path: Path) -> None:
    first = [record.outcome for record in reference.records].index("success")
    failing = {"generation": {"noise_normalised": 3.0}} if first == 0 else {}
    with pytest.raises(DatasetError, match="a larger limit goes on from here"):
        tower.make(tmp_path / "none", reference.demos, attempts=max(1, first), **failing)
    watcher = tower.Watcher()
    with pytest.raises(DatasetError) if failing else contextlib.nullcontext():
        tower.make(tmp_path / "none", reference.demos, watcher=watcher, attempts=max(1, first) + 1, **failing)
    assert watcher.found == max(1, first)


def test_a_finished_job_is_not_done_again(reference: Reference, tmp_path: Path) -> None:
    again = tower.make(reference.root, reference.demos)
    assert (again.rule, again.episodes, again.attempts) == ("already finished", 4, len(reference.records))
    with pytest.raises(DatasetError, match=r"another dataset \(differs in: generation.seed\)"):
        tower.make(reference.root, reference.demos, generation={"seed": 5})
    other = tower.write_demonstrations(tmp_path / "other.hdf5", count=2)
    with pytest.raises(DatasetError, match=r"another dataset \(differs in: sources\)"):
        tower.make(reference.root, other)
    assert dataset_digest(reference.root) == reference.digest


# --- workers that die -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_loses_nothing(reference: Reference, tmp_path: Path) -> None:
    """It dies with a shard in its place and nobody told."""
    marker = tmp_path / "killed"
    environment = {**os.environ, "FACTORY_FAILPOINT": f"durable.renamed:2:{marker}"}
    with started(*tower.arguments(tmp_path / "towers", reference.demos), env=environment) as process:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said
    assert marker.exists(), "nothing was killed"
    assert dataset_digest(tmp_path / "towers") == reference.digest


DEADLY_INDEX = 3


def deadly_serve(*arguments) -> None:
    """A worker that is killed whenever it has attempt `DEADLY_INDEX`."""
    original = worker.run_attempts

    def run_attempts(backend, task, sources, spec, indices):
        def deadly():
            for index in indices:
                if index == DEADLY_INDEX:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield index

        return original(backend, task, sources, spec, deadly())

    worker.run_attempts = run_attempts
    local.serve(*arguments)


def test_an_attempt_that_kills_its_worker_three_times_is_poison(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Event] = []
    original = generating._finished

    def finished(request, job, database):
        with database.reading() as session:
            told.extend(jobs.events(session, job.id))
        return original(request, job, database)

    monkeypatch.setattr(generating, "_finished", finished)
    monkeypatch.setattr(local, "serve", deadly_serve)
    tower.make(tmp_path / "towers", reference.demos, attempts=5)
    deaths = [event.data for event in told if event.type == "worker.died"]
    assert [(d["attempt"], d["strike"]) for d in deaths] == [(DEADLY_INDEX, 1), (DEADLY_INDEX, 2), (DEADLY_INDEX, 3)]
    assert all(d["how"] == "killed by SIGKILL" for d in deaths)
    records = read_attempts(tmp_path / "towers")
    poison = records[DEADLY_INDEX]
    assert (poison.outcome, poison.reason, poison.held) == ("failure", "infra_poison", False)
    others = [r for r in records if r.index != DEADLY_INDEX]
    assert others == [r for r in reference.records[:5] if r.index != DEADLY_INDEX]


def defective_serve(*arguments) -> None:
    """A worker with a defect: an exception nobody foresaw."""

    def run_attempts(*_):
        raise ZeroDivisionError("a defect")
        yield

    worker.run_attempts = run_attempts
    local.serve(*arguments)


def test_a_defect_ends_the_job_and_says_where_it_was(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "serve", defective_serve)
    with pytest.raises(BackendError, match=r"(?s)Traceback.*ZeroDivisionError: a defect"):
        tower.make(tmp_path / "towers", reference.demos)


def stillborn_serve(*arguments) -> None:
    """A worker that cannot even start."""
    os._exit(7)


@pytest.mark.slow
def test_workers_that_cannot_start_are_a_sentence(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "serve", stillborn_serve)
    with pytest.raises(BackendError, match="in a row ended with exit code 7 before they could start"):
        tower.make(tmp_path / "towers", reference.demos)


# --- a disk that takes no more ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demos", "bytes_per_file"), [pytest.param(1, 25_000, id="book"), pytest.param(3, 330_000, id="later")]
)
def test_a_full_disk_is_a_sentence_and_leaves_no_half_dataset(tmp_path: Path, demos: int, bytes_per_file: int) -> None:
    """No file may grow beyond a size; the job book is the first to be in need of room."""
    given = tower.write_demonstrations(tmp_path / "given.hdf5", count=demos)
    out = tmp_path / "made" / "towers"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))

    with started(*tower.arguments(out, given), preexec_fn=limit) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "error: " in said
    assert "Traceback" not in said
    assert {path.name for path in out.parent.iterdir()} <= {"towers.work"}
    assert not list(out.parent.rglob(".tmp-*"))
    assert tower.make(out, given).episodes == 4
