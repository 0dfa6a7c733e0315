"""A simulation worker: takes attempt indices, leaves shards, answers with records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

from factory import poses
from factory.episodes import write_shard
from factory.errors import FactoryError
from factory.recording import episode_of
from factory.replay import AttemptResult, run_attempts
from factory.sim import SimBackend
from factory.sources import prepare_sources
from factory.specs import TaskSpec
from factory.statistics import AttemptRecord
from sim_tasks.backends import open_backend
from sim_tasks.catalog import find_task
from workers import jobs
from workers.jobs import JobSpec, WorkFolder
from workers.processes import become_worker


@dataclass(frozen=True, kw_only=True)
class Hello:
    """What a worker says when it is ready.

    Attributes:
        executor: the backend's description of itself.
        model: the scene's source text.
        refused: one sentence for every demo that cannot be a source.
    """

    executor: Mapping[str, str]
    model: str
    refused: tuple[str, ...]


def serve(work: WorkFolder, connection: Connection) -> None:
    """Run in a child process: receive indices, answer each with its record, until None or the end of the pipe.

    The first answer is a `Hello`. A sentence in place of an answer says why
    there is none, and is the last.
    """
    become_worker()
    job = work.read_job()
    task = find_task(job.task)
    try:
        backend = open_backend(task, name=job.backend)
        prepared = prepare_sources(backend, task, jobs.read_sources(work), job.generation)
    except FactoryError as error:
        connection.send(str(error))
        return
    try:
        connection.send(Hello(executor=backend.describe(), model=backend.model_source(), refused=prepared.refused))
        for result in run_attempts(backend, task, prepared.sources, job.generation, _indices(connection)):
            connection.send(commit(work, job, task, backend, result))
    except (BrokenPipeError, EOFError, ConnectionResetError):
        pass  # The parent is gone; what was committed stays.
    except OSError as error:
        connection.send(
            f"an attempt could not be stored in {work.shards}: {error}; the same command goes on from there"
        )
    finally:
        backend.close()


def commit(work: WorkFolder, job: JobSpec, task: TaskSpec, backend: SimBackend, result: AttemptResult) -> AttemptRecord:
    """Write an attempt's shard when it is kept, and return its record."""
    if result.held or (job.keep_failed and len(result)):
        write_shard(work.shards, episode_of(result, task, job.generation, backend.describe()))
    return record_of(result, backend)


def record_of(result: AttemptResult, backend: SimBackend) -> AttemptRecord:
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
            {"demo": u.demo_name, "eef": u.eef, "subtask": u.subtask, "start": u.start, "stop": u.stop}
            for u in result.sources
        ),
        start_poses={k: tuple(poses.xyz_quat_wxyz_from_pose(v).tolist()) for k, v in result.placements.items()},
        steps=len(result),
        executor=f"{backend.describe()['backend']}/{backend.describe()['control_mode']}",
    )


def _indices(connection: Connection) -> Iterator[int]:
    while True:
        index = connection.recv()
        if index is None:
            return
        yield index
