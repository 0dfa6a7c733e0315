"""Laws of jobs: how many workers, what killed them and how often one stopped makes no difference to the dataset."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from factory.dataset_checks import verify_dataset
from factory.dataset_reading import dataset_digest, open_dataset, read_episodes
from factory.errors import DatasetError, SpecError
from factory.provenance import read_attempts
from factory.statistics import AttemptRecord
from tests import tower
from workers import dispatcher, finish, jobs
from workers import generate as generating
from workers.dispatcher import prefix_end


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


@pytest.fixture
def committed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The indices in the records file when a job is finished, in the order of their commits."""
    seen: list[int] = []
    original = generating.finish_job

    def finish_job(out, work, *args, **kwargs):
        seen.extend(json.loads(line)["index"] for line in work.records_file.read_text().splitlines())
        return original(out, work, *args, **kwargs)

    monkeypatch.setattr(generating, "finish_job", finish_job)
    return seen


class _StoppedError(Exception):
    pass


def stop_after(count: int) -> tower.Watcher:
    """A watcher that ends the run in this process once so many attempts are committed."""

    def stop(done: int) -> None:
        if done >= count:
            raise _StoppedError

    return tower.Watcher(stop)


def interrupted(out: Path, demos: Path, count: int, **changes) -> jobs.WorkFolder:
    """Leave the work folder of a job that was stopped after `count` attempts."""
    with pytest.raises(_StoppedError):
        tower.make(out, demos, watcher=stop_after(count), **changes)
    return jobs.work_folder_of(out)


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.02)


def lines_of(work: jobs.WorkFolder) -> int:
    return work.records_file.read_bytes().count(b"\n") if work.records_file.exists() else 0


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
    assert not jobs.work_folder_of(reference.root).root.exists()


def test_two_workers_make_the_same_dataset(reference: Reference, tmp_path: Path) -> None:
    tower.make(tmp_path / "two", reference.demos, workers=2)
    assert dataset_digest(tmp_path / "two") == reference.digest


def test_another_seed_makes_another_dataset(reference: Reference, tmp_path: Path) -> None:
    tower.make(tmp_path / "other", reference.demos, generation={"seed": 1}, episodes=1)
    assert dataset_digest(tmp_path / "other") != reference.digest
    assert read_attempts(tmp_path / "other")[0].start_poses != reference.records[0].start_poses


def _records(outcomes: str, *, missing: tuple[int, ...] = ()) -> dict[int, AttemptRecord]:
    kinds = {"S": {"outcome": "success", "held": True}, ".": {"outcome": "failure", "reason": "dropped"}}
    return {i: AttemptRecord(index=i, **kinds[c]) for i, c in enumerate(outcomes) if i not in missing}


@pytest.mark.parametrize(
    ("job", "records", "expected"),
    [
        ({"episodes": 2, "max_attempts": 9}, _records(".SS.S"), (3, "target")),
        # A success that is there already waits for the gap before it: another run may find one in the gap.
        ({"episodes": 2, "max_attempts": 9}, _records("S..SS", missing=(1,)), (1, "")),
        ({"episodes": 2, "max_attempts": 4}, _records("S...S"), (4, "max_attempts")),
        ({"episodes": 1, "max_attempts": 9}, {}, (0, "")),
        ({"attempts": 4, "max_attempts": 9}, _records("SSSSSS"), (4, "attempts")),
        ({"attempts": 4, "max_attempts": 9}, _records("SSS"), (3, "")),
    ],
)
def test_only_the_contiguous_prefix_decides(job, records, expected) -> None:
    spec = jobs.JobSpec(task="stack_three", generation=tower.request(Path(), Path()).generation, **job)
    assert prefix_end(spec, records) == expected


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


def test_a_killed_run_goes_on_where_it_was(reference: Reference, tmp_path: Path, committed: list[int]) -> None:
    out = tmp_path / "towers"
    work = jobs.work_folder_of(out)
    with started(*tower.arguments(out, reference.demos)) as process:
        wait_for(lambda: lines_of(work) >= 2, "two committed attempts")
        workers = children_of(process.pid)
        process.kill()
        process.wait()
        wait_for(lambda: not any(runs(pid) for pid in workers), "the workers to die with their parent", 10)
    assert not out.exists()
    before = work.records_file.read_bytes()
    watcher = tower.Watcher()
    tower.make(out, reference.demos, watcher=watcher)
    assert dataset_digest(out) == reference.digest
    assert watcher.found == before.count(b"\n")
    assert len(committed) == len(set(committed)), "an attempt was committed twice"
    assert committed[: watcher.found] == [json.loads(line)["index"] for line in before.splitlines()[: watcher.found]]
    assert watcher.counts[0] == watcher.found + 1
    assert not work.root.exists()


def test_ctrl_c_ends_with_a_sentence_and_the_same_command_goes_on(reference: Reference, tmp_path: Path) -> None:
    out = tmp_path / "towers"
    work = jobs.work_folder_of(out)
    with started(*tower.arguments(out, reference.demos)) as process:
        wait_for(lambda: lines_of(work) >= 1, "a committed attempt")
        workers = children_of(process.pid)
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        _, said = process.communicate(timeout=30)
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
        wait_for(jobs.work_folder_of(out).records_file.exists, "the job to begin")
        wait_for(lambda: len(children_of(process.pid)) >= 2, "a worker beside multiprocessing's own helper")
        time.sleep(0.2)  # the worker is importing now, before it can ignore the signal itself
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_a_torn_last_line_is_work_to_be_done_again(reference: Reference, tmp_path: Path, committed: list[int]) -> None:
    work = interrupted(tmp_path / "torn", reference.demos, 3)
    whole = work.records_file.read_bytes()
    work.records_file.write_bytes(whole[:-20])
    watcher = tower.Watcher()
    tower.make(tmp_path / "torn", reference.demos, watcher=watcher)
    assert (watcher.found, watcher.counts[0]) == (2, 3)
    assert dataset_digest(tmp_path / "torn") == reference.digest
    assert committed == [record.index for record in reference.records]


def test_a_run_killed_before_it_could_clean_up_is_finished_by_the_next(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dataset is there; the dataset of failures, the report and the removal of the work folder are not."""

    def killed(root: Path) -> Path:
        raise _StoppedError

    out, count = tmp_path / "towers", len(reference.records)
    with monkeypatch.context() as patch:
        patch.setattr(finish, "write_report", killed)
        with pytest.raises(_StoppedError):
            tower.make(out, reference.demos, attempts=count, keep_failed=True)
    before = dataset_digest(out)
    (tmp_path / "towers-failed").rename(tmp_path / "gone")
    done = tower.make(out, reference.demos, attempts=count, keep_failed=True, command="typed otherwise")
    assert dataset_digest(out) == before
    assert done.report.exists()
    assert done.failed_root is not None
    assert done.failed_root.exists()
    assert not jobs.work_folder_of(out).root.exists()


def test_another_job_is_kept_out_of_unfinished_work(reference: Reference, tmp_path: Path) -> None:
    work = interrupted(tmp_path / "towers", reference.demos, 1)
    before = work.records_file.read_bytes()
    for changes, named in (
        ({"generation": {"seed": 5}}, "generation.seed"),
        ({"keep_failed": True}, "keep_failed"),
    ):
        with pytest.raises(SpecError, match=rf"unfinished work of another job \(differs in: {named}\)"):
            tower.make(tmp_path / "towers", reference.demos, **changes)
    other = tower.write_demonstrations(tmp_path / "other.hdf5", count=2)
    with pytest.raises(SpecError, match="sources_sha256"):
        tower.make(tmp_path / "towers", other)
    assert work.records_file.read_bytes() == before


def test_other_stop_rules_go_on_from_what_was_tried(reference: Reference, tmp_path: Path) -> None:
    work = interrupted(tmp_path / "towers", reference.demos, 1)
    committed = {path.name: path.stat().st_mtime_ns for path in work.shards.iterdir()}
    assert committed
    asked = jobs.JobSpec(**{**vars(work.read_job()), "episodes": None, "attempts": 3})
    again, job = jobs.open_work(tmp_path / "towers", asked, generating.load_demos("stack_three", [reference.demos]))
    assert again == work
    assert (job.episodes, job.attempts) == (None, 3)
    assert work.read_job() == job
    assert {path.name: path.stat().st_mtime_ns for path in work.shards.iterdir()} == committed


def test_a_finished_job_is_not_done_again(reference: Reference, tmp_path: Path) -> None:
    again = tower.make(reference.root, reference.demos)
    assert (again.rule, again.episodes, again.attempts) == ("already finished", 4, len(reference.records))
    with pytest.raises(DatasetError, match=r"another dataset \(differs in: generation.seed\)"):
        tower.make(reference.root, reference.demos, generation={"seed": 5})
    other = tower.write_demonstrations(tmp_path / "other.hdf5", count=2)
    with pytest.raises(DatasetError, match=r"another dataset \(differs in: sources_sha256\)"):
        tower.make(reference.root, other)
    assert dataset_digest(reference.root) == reference.digest


# --- workers that die -------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_loses_nothing(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: list[int]
) -> None:
    monkeypatch.setattr(dispatcher.simulate, "serve", tower.mortal_serve)
    tower.make(tmp_path / "towers", reference.demos)
    assert dataset_digest(tmp_path / "towers") == reference.digest
    assert sorted(committed) == [record.index for record in reference.records]


def test_an_attempt_that_kills_its_worker_three_times_is_poison(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaths: list[int] = []
    original = generating.finish_job

    def finish_job(out, work, *args, **kwargs):
        deaths.append(len((work.root / "died").read_text()))
        return original(out, work, *args, **kwargs)

    monkeypatch.setattr(generating, "finish_job", finish_job)
    monkeypatch.setattr(dispatcher.simulate, "serve", tower.deadly_serve)
    tower.make(tmp_path / "towers", reference.demos, attempts=5)
    assert deaths == [3]
    records = read_attempts(tmp_path / "towers")
    poison = records[tower.DEADLY_INDEX]
    assert (poison.outcome, poison.reason, poison.held) == ("failure", "infra_poison", False)
    others = [r for r in records if r.index != tower.DEADLY_INDEX]
    assert others == [r for r in reference.records[:5] if r.index != tower.DEADLY_INDEX]


# --- a disk that takes no more ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("demos", "bytes_per_file"), [pytest.param(1, 25_000, id="shards"), pytest.param(3, 90_000, id="dataset")]
)
def test_a_full_disk_is_a_sentence_and_leaves_no_half_dataset(tmp_path: Path, demos: int, bytes_per_file: int) -> None:
    """No file may grow beyond a size: a shard does not fit, or the finished dataset's tables do not."""
    given = tower.write_demonstrations(tmp_path / "given.hdf5", count=demos)
    out = tmp_path / "made" / "towers"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_per_file, bytes_per_file))

    with started(*tower.arguments(out, given), preexec_fn=limit) as process:
        _, said = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert "error: " in said
    assert "File too large" in said
    assert "Traceback" not in said
    assert {path.name for path in out.parent.iterdir()} <= {"towers.work"}
    assert not list(out.parent.rglob(".tmp-*"))
    assert tower.make(out, given).episodes == 4
