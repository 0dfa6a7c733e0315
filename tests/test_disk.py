"""Laws of a disk that fails, fills up, or loses its power: what is committed stays, and the rest can be made again.

The long form, `python -m tests.benchmarks.reliability faults`, lets every single write fail.
"""

from __future__ import annotations

import contextlib
import errno
import random
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from api import jobs
from api.tables import Attempt
from factory.dataset_reading import dataset_digest
from factory.durable import sha256_file
from factory.episodes import EPISODE_FILE, read_shard, shard_path
from tests import chaos, faulty_disk, tower
from workers import generate as generating


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tower.write_demonstrations(tmp_path_factory.mktemp("demos") / "towers.hdf5")


@pytest.fixture(scope="module")
def small(demos: Path, tmp_path_factory: pytest.TempPathFactory) -> chaos.Reference:
    """Four episodes."""
    return chaos.undisturbed(demos, tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty_disk.build(tmp_path_factory.mktemp("faulty"))


@pytest.fixture(scope="module")
def one_demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tower.write_demonstrations(tmp_path_factory.mktemp("one") / "tower.hdf5", count=1)


ONE = ("--episodes", "1")


def a_disk(folder: Path, library: Path, **options: Any) -> faulty_disk.FaultyDisk:
    folder.mkdir(exist_ok=True)
    disk = faulty_disk.FaultyDisk(library, folder / "made", folder / "state", **options)
    disk.set()
    return disk


def generate_on(disk: faulty_disk.FaultyDisk, demos: Path) -> tuple[int, str]:
    """Run `factory generate` for one episode and return its exit code and what it said."""
    process = tower.start(*tower.arguments(disk.root / "towers", demos, *ONE), env=disk.environment())
    said = process.communicate(timeout=120)
    return process.returncode, said[1]


@pytest.fixture(scope="module")
def one_episode(one_demo: Path, library: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, int]:
    """The dataset that faults must not change, and how many operations it takes."""
    disk = a_disk(tmp_path_factory.mktemp("whole"), library)
    code, said = generate_on(disk, one_demo)
    assert code == 0, said
    return dataset_digest(disk.root / "towers"), disk.seen


def fail_once(folder: Path, library: Path, demos: Path, digest: str, first: int, error: int, count: int = 1) -> str:
    """Let the n-th operation of a run fail, then run it again; return what became of the first run."""
    disk = a_disk(folder, library)
    disk.set(first, count, error)
    code, said = generate_on(disk, demos)
    what = f"operation {first} failed with {errno.errorcode[error]}: exit code {code}\n{said}"
    assert code in (0, 2), what
    assert ("error: " in said) == (code == 2), what
    assert "Traceback" not in said, what
    assert not list(disk.root.parent.rglob(".tmp-*")), what
    failed = disk.failed
    readable(disk.root / "towers")
    disk.set()
    if code == 2:
        code, said = generate_on(disk, demos)
        assert code == 0, f"{what}\nand afterwards: {said}"
    assert dataset_digest(disk.root / "towers") == digest, what
    assert {path.name for path in disk.root.iterdir()} == {"towers"}, what
    return "not reached" if not failed else "went on" if "error: " not in what else "stopped"


def readable(out: Path) -> None:
    """Everything that is committed in a work folder can be read."""
    work = generating.work_folder_of(out)
    if not (work / "book.db").exists():
        return
    with contextlib.closing(sqlite3.connect(work / "book.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'attempts'").fetchall():
            return
        rows = connection.execute("SELECT job_id, idx, shard_sha256 FROM attempts WHERE shard_sha256 != ''").fetchall()
    for job_id, index, sha256 in rows:
        shard = shard_path(work / "jobs" / job_id / "shards", index)
        assert sha256_file(shard / EPISODE_FILE) == sha256
        read_shard(shard)


SAMPLES = 2


@pytest.mark.parametrize(
    "error", [pytest.param(errno.ENOSPC, id="full"), pytest.param(errno.EIO, id="broken", marks=pytest.mark.slow)]
)
def test_any_write_may_fail(
    error: int,
    one_demo: Path,
    library: Path,
    one_episode: tuple[str, int],
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    """One operation of every `SAMPLES`-th part of a run; the long form lets each one fail."""
    digest, operations = one_episode
    rng = random.Random(chaos.seed_of(request))  # noqa: S311
    part = operations // SAMPLES
    for i in range(SAMPLES):
        first = i * part + rng.randrange(part) + 1
        fail_once(tmp_path / str(first), library, one_demo, digest, first, error)


def test_what_is_committed_was_on_the_disk_before(
    demos: Path, library: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Files are synced before the rename, the rename before the row; for every kept attempt."""
    disk = faulty_disk.FaultyDisk(library, tmp_path / "site", tmp_path / "state", tmp_path / "diary")
    disk.set()
    with chaos.a_site("sqlite", tmp_path, request, environment=disk.environment()) as site:
        job_id = site.enter(demos, episodes=1000)
        site.start()
        chaos.wait_for(lambda: site.attempted(job_id) >= 20, "twenty attempts")
        site.stop()
        with site.book.reading() as session:
            kept = select(Attempt.idx, Attempt.shard_sha256).where(Attempt.shard_sha256 != "")
            rows = dict(session.exec(kept).all())
    entries = disk.entries()
    assert len(rows) >= 5
    for index, sha256 in rows.items():
        assert_ordered(entries, index, sha256)


def assert_ordered(entries: list[tuple[str, str, str]], index: int, sha256: str) -> None:
    """In a diary: fsync of each file and of their folder < rename < fsync of the parent < row < fsync of the log."""

    def first(after: int, of: str, path: str = "", *, ending: str = "", saying: str = "") -> int:
        for i, (name, where, more) in enumerate(entries[after:], after):
            if name == of and where.startswith(path) and where.endswith(ending) and saying in more:
                return i
        raise AssertionError(f"no {of} of {path or ending} after operation {after + 1} of {len(entries)}")

    rename = first(0, "rename", saying=f"/episode_{index:08d}")
    _, staged, place = entries[rename]
    written = {path for name, path, _ in entries[:rename] if name == "write" and path.startswith(f"{staged}/")}
    assert {Path(path).name for path in written} == {"episode.json", "steps.parquet", "states.parquet"}
    for path in written:
        last = max(i for i, (name, where, _) in enumerate(entries) if (name, where) == ("write", path))
        assert first(last, "fsync", path) < rename
    assert any(entry[:2] == ("fsync", staged) for entry in entries[:rename])
    parent = str(Path(place).parent)
    durable = next(i for i in range(rename, len(entries)) if entries[i][:2] == ("fsync", parent))
    row = first(0, "write", ending="-wal", saying=sha256)
    assert rename < durable < row
    first(row, "fsync", ending="-wal")


@pytest.mark.slow
def test_a_service_whose_disk_fails_for_a_while_goes_on_by_itself(
    small: chaos.Reference, library: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    disk = faulty_disk.FaultyDisk(library, tmp_path / "site", tmp_path / "state")
    disk.set()
    with chaos.a_site("sqlite", tmp_path, request, environment=disk.environment(), workers=1) as site:
        job_id = site.enter(small.demos)
        site.start()
        chaos.wait_for(lambda: site.attempted(job_id) >= 1, "an attempt")
        failing = disk.seen
        disk.set(1, 40, errno.ENOSPC)
        chaos.wait_for(lambda: disk.failed >= 40 or site.job(job_id).status in jobs.FINAL, f"faults after {failing}")
        site.ended(job_id)
        chaos.assert_sound(site, job_id, small.digest)
        assert disk.failed == 40
        chaos.assert_tidy(site)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of a few megabytes; a skip where nobody may mount one."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_and_free(site: chaos.Site, job_id: str, rng: random.Random, times: int) -> None:
    """Fill the site's disk to the last byte at random moments, and give the room back a little later."""
    ballast = site.data / "ballast"
    for _ in range(times):
        time.sleep(rng.uniform(0.2, 1.5))
        if site.job(job_id).status in jobs.FINAL:
            return
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(65536 if rng.random() < 0.9 else 4096))
        site.restart()
        time.sleep(rng.uniform(0.5, 2.0))
        ballast.unlink()


def test_a_disk_that_is_full_and_freed_again_loses_nothing(
    small: chaos.Reference, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    with (
        small_disk(tmp_path / "disk", 8) as folder,
        chaos.a_site("sqlite", folder, request, workers=1) as site,
    ):
        job_id = site.enter(small.demos)
        site.start()
        fill_and_free(site, job_id, random.Random(chaos.seed_of(request)), 4)  # noqa: S311
        site.ended(job_id)
        chaos.assert_sound(site, job_id, small.digest)
        chaos.assert_tidy(site)
