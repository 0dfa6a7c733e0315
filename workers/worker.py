"""A worker's bench: opens what a unit of work needs, carries it out, and answers as soon as something is done.

The same for every transport. What it opened stays open, a few things at a time, because opening a simulator takes
longer than several attempts. It knows nothing of the job book but the answers it gives; only a bench that may write
datasets is lent the book.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from api.messages import Answer, AttemptDone, Done, Drawn, Failed, Opened, Work
from api.specs import JobSpec, cuts_of, job_from_json
from api.store import NotStoredError, Store
from factory import poses
from factory.demos import Demo, read_demos
from factory.durable import sha256_file, sweep, sweep_place
from factory.episodes import (
    EPISODE_FILE,
    list_renders,
    read_document,
    read_shard,
    render_digest,
    shard_path,
    write_shard,
)
from factory.errors import EpisodeError, FactoryError, StorageError
from factory.failpoints import reached
from factory.recording import episode_of
from factory.replay import AttemptResult, run_attempts
from factory.retargeting import Source
from factory.sim import BlockResult, Commands, SimBackend
from factory.sources import prepare_sources
from factory.specs import RenderSpec, TaskSpec
from factory.statistics import AttemptRecord
from sim_tasks.backends import open_backend
from sim_tasks.backends.mjwarp.cpu_check import CpuRun, agreement_of, run_again
from sim_tasks.catalog import find_task
from workers.render import open_renderer, render_info, render_shard

if TYPE_CHECKING:
    from api.database import Database
    from sim_tasks.backends.rendering import EpisodeRenderer
    from workers.dream_jobs import Dreamer

_OPEN_AT_ONCE = 2
"""Simulators, and renderers, kept open by one worker; each holds a few hundred megabytes."""
_STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EROFS)


@dataclass(frozen=True, kw_only=True)
class _Workbench:
    """A simulator with a job's sources cut and ready."""

    task: TaskSpec
    backend: SimBackend
    sources: Sequence[Source]
    refused: tuple[str, ...]
    executor: Mapping[str, str]


def shards_key(job_id: str) -> str:
    """Return where a job's shards lie in the store."""
    return f"jobs/{job_id}/shards"


def source_key(sha256: str) -> str:
    """Return where a canonical file of demonstrations lies in the store."""
    return f"files/{sha256}.hdf5"


class _UnwantedError(Exception):
    """What is in progress is nobody's any more."""


class _LockStep:
    """A backend of many environments that asks before each block whether the unit is still wanted.

    An attempt alone is over in a second; thousands together take so long that nobody should wait for their end.
    """

    def __init__(self, backend: SimBackend, wanted: Callable[[], bool]) -> None:
        self._backend, self._wanted = backend, wanted

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def advance(self, commands: Mapping[int, Commands]) -> Mapping[int, BlockResult]:
        """Run the next blocks. Raises _UnwantedError when nobody wants them."""
        if not self._wanted():
            raise _UnwantedError
        return self._backend.advance(commands)


class Bench:
    """What one worker process has open."""

    def __init__(
        self, store: Store, *, worker: str, scratch: Path | None = None, database: Callable[[], Database] | None = None
    ) -> None:
        """Open a bench.

        Args:
            store: where demonstrations are read and shards are kept.
            worker: this worker's id.
            scratch: folder for temporary files; the system's by default.
            database: opens the job book, for units that write datasets; most workers never need it.
        """
        self._store, self._worker, self._database = store, worker, database
        self._scratch = scratch
        self._workbenches: OrderedDict[str, _Workbench] = OrderedDict()
        self._renderers: OrderedDict[str, EpisodeRenderer] = OrderedDict()
        self._introduced: set[str] = set()
        self._dreamer: Dreamer | None = None

    def run(self, work: Work, *, wanted: Callable[[], bool] = lambda: True) -> Iterator[Answer]:
        """Carry out a unit, yielding each answer when it is ready; whatever goes wrong is the last answer.

        Args:
            work: what to do.
            wanted: asked between attempts, episodes and the like; False stops there.
        """
        do = {
            "simulate": self._simulate,
            "render": self._render,
            "clip": self._clip,
            "check": self._check,
            "unpack": self._unpack,
            "verify": self._verify,
            "finalize": self._finalize,
            "push": self._push,
            "dream": self._dream,
        }[work.kind]
        try:
            yield from do(work, wanted)
        except MemoryError:
            raise  # the process is no longer worth much; its death is handled like any other
        except Exception as error:  # noqa: BLE001 - the outermost loop of a process: its dispatcher has to hear of anything
            yield _failure(work, error)

    def close(self) -> None:
        """Release simulators and contexts."""
        for workbench in self._workbenches.values():
            workbench.backend.close()
        for renderer in self._renderers.values():
            renderer.close()
        self._workbenches.clear()
        self._renderers.clear()
        if self._dreamer is not None:
            self._dreamer.close()

    # --- attempts -----------------------------------------------------------------------------------------------------

    def _simulate(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        spec = job_from_json(work.payload["spec"])
        bench = self._open(spec)
        if work.job_id not in self._introduced:
            self._keep_model(work.job_id, bench)
            self._introduced.add(work.job_id)
        # With every unit: what was said under a lease that was lost meanwhile has not been heard.
        yield Opened(
            unit=work.unit, epoch=work.epoch, job_id=work.job_id, executor=bench.executor, refused=bench.refused
        )
        indices = (index for index in work.indices if wanted())
        begun = time.perf_counter()
        # Failed episodes that are kept are wanted whole.
        early = spec.generation.early_ending and not spec.keep_failed
        recipe = replace(spec.generation, early_ending=early)
        backend = bench.backend if bench.backend.num_envs == 1 else cast("SimBackend", _LockStep(bench.backend, wanted))
        with suppress(_UnwantedError):
            for result in run_attempts(backend, bench.task, bench.sources, recipe, indices):
                sha256, size = "", 0
                if result.held or (spec.keep_failed and len(result)):
                    sha256, size = self._keep(work.job_id, spec, bench, result, wanted)
                ended = time.perf_counter()
                yield AttemptDone(
                    unit=work.unit,
                    epoch=work.epoch,
                    job_id=work.job_id,
                    record=record_of(result, bench.executor),
                    shard_sha256=sha256,
                    shard_bytes=size,
                    seconds=ended - begun,
                    worker=self._worker,
                )
                begun = time.perf_counter()

    def _open(self, spec: JobSpec) -> _Workbench:
        key = spec.workbench()
        if key in self._workbenches:
            self._workbenches.move_to_end(key)
            return self._workbenches[key]
        while len(self._workbenches) >= _OPEN_AT_ONCE:
            self._workbenches.popitem(last=False)[1].backend.close()
        task = find_task(spec.task, spec.robot)
        backend = open_backend(task, name=spec.backend, num_envs=spec.environments, device=spec.computes_on)
        try:
            demos = load_sources(self._store, spec)
            prepared = prepare_sources(backend, task, demos, spec.generation, cuts_of(spec.sources))
        except BaseException:
            backend.close()
            raise
        bench = _Workbench(
            task=task,
            backend=backend,
            sources=prepared.sources,
            refused=prepared.refused,
            executor=dict(backend.describe()),
        )
        self._workbenches[key] = bench
        return bench

    def _keep_model(self, job_id: str, bench: _Workbench) -> None:
        key = f"jobs/{job_id}/models/{bench.executor['model_sha']}.xml"
        if not self._store.exists(key):
            with tempfile.TemporaryDirectory(dir=self._folder()) as folder:
                path = Path(folder, "model.xml")
                path.write_text(bench.backend.model_source(), encoding="utf-8")
                self._store.put(path, key)

    def _keep(
        self, job_id: str, spec: JobSpec, bench: _Workbench, result: AttemptResult, wanted: Callable[[], bool]
    ) -> tuple[str, int]:
        """Write an attempt's shard; return the hash of its seal, which contains those of its files, and its size."""
        episode = episode_of(result, bench.task, spec.generation, bench.executor)
        place = self._store.path(shards_key(job_id))
        if place is not None:
            place.mkdir(parents=True, exist_ok=True)
            try:
                return _sealed(write_shard(place, episode))
            except EpisodeError:
                # Another episode of this index lies there without a row: an executor unlike this one died before it
                # could say so, or was refused. While the lease is ours nobody can have committed it.
                if not wanted():
                    raise
                shutil.rmtree(shard_path(place, episode.index), ignore_errors=True)
                return _sealed(write_shard(place, episode))
        with tempfile.TemporaryDirectory(dir=self._folder()) as folder:
            shard = write_shard(Path(folder), episode)
            sealed = _sealed(shard)
            self._store.put(shard, f"{shards_key(job_id)}/{shard.name}")
            return sealed

    # --- pictures -----------------------------------------------------------------------------------------------------

    def _render(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        spec = job_from_json(work.payload["spec"])
        if spec.render is None:
            raise StorageError(f"job {work.job_id} has no rendering to make")
        digest = render_digest(render_info(spec.render))
        for index in work.indices:
            if not wanted():
                return
            key = f"{shards_key(work.job_id)}/{shard_path(Path(), index).name}"
            with self._store.checkout(key) as shard:
                missing = digest not in list_renders(shard)
                if missing:
                    self._renderer(spec, spec.render)  # opening it is not part of what an episode costs
                begun = time.perf_counter()
                if missing:
                    sweep(shard)  # what a killed worker left
                    render_shard(self._renderer(spec, spec.render), shard)
                    if not self._store.is_local:
                        self._store.put(shard / f"clips-{digest}", f"{key}/clips-{digest}")
                rows = int(read_document(shard)["rows"])
                size = sum(f.stat().st_size for f in (shard / f"clips-{digest}").iterdir())
            yield Drawn(
                unit=work.unit,
                epoch=work.epoch,
                job_id=work.job_id,
                index=index,
                frames=rows,
                seconds=time.perf_counter() - begun,
                bytes=size,
            )

    def _renderer(self, job: JobSpec, spec: RenderSpec) -> EpisodeRenderer:
        key = f"{job.task} {job.robot} {render_digest(render_info(spec))}"
        if key not in self._renderers:
            while len(self._renderers) >= _OPEN_AT_ONCE:
                self._renderers.popitem(last=False)[1].close()
            self._renderers[key] = open_renderer(job.task, spec, job.robot)
        self._renderers.move_to_end(key)
        return self._renderers[key]

    def _clip(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        """Make one attempt again from its seed and draw it; for failures, whose states are not kept.

        One of a statistical backend would not come out again; it is made on the CPU, from the same start.
        """
        del wanted
        spec = job_from_json(work.payload["spec"])
        if spec.statistical:
            spec = replace(spec, backend="robosuite", worlds=None, device=None)
        bench, look = self._open(spec), replace(spec.render or RenderSpec(), extras=())
        (index,) = work.indices
        whole = replace(spec.generation, early_ending=False)
        (result,) = run_attempts(bench.backend, bench.task, bench.sources, whole, [index])
        episode = episode_of(result, bench.task, spec.generation, bench.executor)
        name = str(work.payload["name"])
        with tempfile.TemporaryDirectory(dir=self._folder()) as folder:
            shard = write_shard(Path(folder), episode)
            render_shard(self._renderer(spec, look), shard)
            cameras: dict[str, str] = {}
            for camera in look.cameras:
                cameras[camera] = f"jobs/{work.job_id}/clips/{name}/{camera}.mp4"
                (made,) = shard.glob(f"clips-*/*{camera}.mp4")
                self._store.put(made, cameras[camera])
        facts = {
            "cameras": cameras,
            "rows": len(episode),
            "fps": round(episode.control_hz),
            "subtasks": subtask_ranges(episode.subtasks, episode.columns["subtask_index"].values.tolist()),
            "outcome": "success" if result.held else "failure",
            "subtask": result.failure.subtask if result.failure else "",
            "reason": result.failure.reason if result.failure else "",
        }
        yield Done(unit=work.unit, epoch=work.epoch, result={name: facts})

    # --- files and datasets -------------------------------------------------------------------------------------------

    def _check(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        del wanted
        from workers.checks import report_on  # noqa: PLC0415 - only checks need it

        with self._store.checkout(source_key(work.payload["sha256"])) as path:
            demos = named_after(read_demos(path), work.payload["name"])
        yield Done(unit=work.unit, epoch=work.epoch, result=report_on(demos, work.payload.get("task")))

    def _unpack(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        del wanted
        from workers.finish import unpack  # noqa: PLC0415 - dataset code is only needed by those who write them

        yield Done(unit=work.unit, epoch=work.epoch, result=unpack(self._store, work.job_id, work.payload))

    def _verify(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        """Run some episodes of a statistical backend again on the CPU and say how often both come to the same end."""
        spec = job_from_json(work.payload["spec"])
        cpu = open_backend(find_task(spec.task, spec.robot))
        try:
            runs: list[CpuRun] = []
            for index in work.indices:
                if not wanted():
                    return
                with self._store.checkout(f"{shards_key(work.job_id)}/{shard_path(Path(), index).name}") as shard:
                    runs.append(run_again(read_shard(shard), cpu))
            found = agreement_of(runs, episodes=int(work.payload["of"])).summary()
        finally:
            cpu.close()
        yield Done(unit=work.unit, epoch=work.epoch, result={"run_again_on_cpu": found})

    def _finalize(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        del wanted
        from workers.finish import finalize  # noqa: PLC0415 - see above

        if self._database is None:
            raise StorageError("this worker has no job book and cannot write datasets")
        book = self._database()
        try:
            result = finalize(book, self._store, work.job_id)
        finally:
            book.close()
        yield Done(unit=work.unit, epoch=work.epoch, result=result)

    def _dream(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        """Carry out a batch of one stage of a job of dreams."""
        from workers.dream_jobs import Dreamer, UnwantedError  # noqa: PLC0415 - an extra, and slow to import

        self._dreamer = self._dreamer or Dreamer(self._store, scratch=self._folder())
        with suppress(UnwantedError):
            yield Done(unit=work.unit, epoch=work.epoch, result=self._dreamer.run(work, wanted))

    def _push(self, work: Work, wanted: Callable[[], bool]) -> Iterator[Answer]:
        del wanted
        from workers.push import push_dataset  # noqa: PLC0415 - see above

        result = push_dataset(self._store, work.payload)
        yield Done(unit=work.unit, epoch=work.epoch, result={str(work.payload["name"]): result})

    def _folder(self) -> Path | None:
        if self._scratch is not None:
            self._scratch.mkdir(parents=True, exist_ok=True)
        return self._scratch


def load_sources(store: Store, spec: JobSpec) -> tuple[Demo, ...]:
    """Return the demonstrations of a job, each known by the name of the file it came in."""
    demos: list[Demo] = []
    for source in spec.sources:
        with store.checkout(source_key(source.sha256)) as path:
            demos += named_after(read_demos(path), source.name)
    return tuple(demos)


def named_after(demos: tuple[Demo, ...], name: str) -> tuple[Demo, ...]:
    """Return the demos as of a file of this name, wherever they were read from."""
    return tuple(replace(demo, path=name) for demo in demos)


def record_of(result: AttemptResult, executor: Mapping[str, str]) -> AttemptRecord:
    """Return the few words every attempt leaves."""
    failure = result.failure
    return AttemptRecord(
        index=result.index,
        outcome="success" if result.held else "failure",
        held=result.held,
        touched=result.touched,
        subtask=failure.subtask if failure else "",
        eef=failure.eef if failure else "",
        reason=failure.reason if failure else "",
        sources=tuple(
            {
                "demo": u.demo_name,
                "eef": u.eef,
                "subtask": u.subtask,
                "start": u.start,
                "stop": u.stop,
                "boundary": u.boundary,
            }
            for u in result.sources
        ),
        start_poses={k: tuple(poses.xyz_quat_wxyz_from_pose(v).tolist()) for k, v in result.placements.items()},
        steps=len(result),
        executor=f"{executor['backend']}/{executor['control_mode']}",
    )


def subtask_ranges(names: tuple[str, ...], index: list[int]) -> list[list[Any]]:
    """Return [name, first row, one past the last] for each stretch of rows of one subtask."""
    found: list[list[Any]] = []
    for row, number in enumerate(index):
        if found and found[-1][0] == names[number]:
            found[-1][2] = row + 1
        else:
            found.append([names[number], row, row + 1])
    return found


def _sealed(shard: Path) -> tuple[str, int]:
    return sha256_file(shard / EPISODE_FILE), sum(f.stat().st_size for f in shard.iterdir() if f.is_file())


def _failure(work: Work, error: Exception) -> Failed:
    if isinstance(error, NotStoredError):  # gone for good, unlike a store that does not answer
        return Failed(unit=work.unit, epoch=work.epoch, cause="request", message=str(error))
    if isinstance(error, StorageError) or _is_storage(error):
        return Failed(unit=work.unit, epoch=work.epoch, cause="storage", message=str(error))
    if isinstance(error, FactoryError):
        return Failed(unit=work.unit, epoch=work.epoch, cause="request", message=str(error))
    text = "".join(traceback.format_exception(error))[-4000:]
    return Failed(unit=work.unit, epoch=work.epoch, cause="defect", message=text)


def _is_storage(error: BaseException | None) -> bool:
    """Tell whether a full or failing disk is behind an error, however it was worded."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS:
            return True
        error = error.__cause__
    return False


def remove_leftovers(store: Store, job_id: str) -> None:
    """Remove what a finished job no longer needs, and what its killed workers left; its clips and films stay."""
    with suppress(StorageError, OSError):
        for name in ("shards", "models", "run"):
            store.remove(f"jobs/{job_id}/{name}")
            reached("tidy.removed")
        for name in store.names("scratch"):
            if name.startswith(f"{job_id}-"):
                store.remove(f"scratch/{name}")
        if (datasets := store.path("datasets")) is not None:
            for suffix in ("", "-failed", "_robomimic", "_gr00t", "_latent", "_twin"):
                sweep_place(datasets / f"ds_{job_id.removeprefix('job_')}{suffix}")
        folder = store.path(f"jobs/{job_id}")
        if folder is not None and folder.is_dir() and not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)
