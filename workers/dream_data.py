"""Episodes of many tasks of a family as one dataset: what video models, labellers and judges learn from.

A job of the service makes one task. Here each task, with its own scene and cast, gives a few episodes, and all of them
become one dataset of one camera. A task that is finished is not made again, so the command may be stopped at any time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from itertools import count as counting
from pathlib import Path
from typing import Any

from factory.datasets import write_dataset
from factory.demos import read_demos
from factory.durable import json_bytes, staging, sweep, write_json
from factory.episodes import list_shards, write_shard
from factory.errors import BackendError, SpecError, unknown_name
from factory.recording import episode_of
from factory.replay import run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, RenderSpec
from factory.statistics import AttemptRecord
from workers.generate import seeds_path
from workers.processes import SPAWN, become_worker, single_threaded

_INDICES = 100_000
"""Attempt indices set apart for each task, so that episodes of all of them have one numbering."""
_PATIENCE = 5
"""A task that needs more attempts than this times the episodes asked for, and 20, is not the scene it should be."""


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What is asked for.

    Attributes:
        tasks: names of tasks of one family, whose robot, cameras and columns are alike.
        episodes: of all of them together; the first ones give one more where it does not divide.
        out: the dataset's folder.
        generation: settings of every attempt.
        render: settings of the pictures.
        workers: processes.
    """

    tasks: tuple[str, ...]
    episodes: int
    out: Path
    generation: GenerationSpec
    render: RenderSpec
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.tasks or self.episodes < 1 or self.workers < 1:
            raise SpecError(
                f"{len(self.tasks)} tasks, {self.episodes} episodes, {self.workers} workers: each must be at least 1"
            )

    @property
    def shares(self) -> dict[str, int]:
        """Return how many episodes each task gives; those that give none are left out."""
        whole, rest = divmod(self.episodes, len(self.tasks))
        shares = {task: whole + (i < rest) for i, task in enumerate(self.tasks)}
        return {task: share for task, share in shares.items() if share}


def _silent(done: int, of: int) -> None:
    del done, of


def make_data(request: DataRequest, progress: Callable[[int, int], None] = _silent) -> Path:
    """Make the dataset and return its folder; `progress` hears how many episodes there are, of how many.

    Work lies in a folder beside it until it is whole; the same call goes on with what is there.

    Raises:
        SpecError: the folder exists, holds other work, or a task is not known.
        BackendError: a task's attempts keep failing.
        DatasetError: the tasks' episodes do not fit together.
    """
    if request.out.exists():
        raise SpecError(f"{request.out} already exists; choose another folder or remove it first")
    work = request.out.with_name(request.out.name + ".work")
    settings = {"generation": asdict(request.generation), "render": asdict(request.render)}
    _claim(work, {**settings, "shares": request.shares})
    sweep(work)
    done = {task: _read(_record_path(work, task)) for task in request.shares if _record_path(work, task).exists()}
    made = sum(request.shares[task] for task in done)
    progress(made, request.episodes)
    todo = [task for task in request.shares if task not in done]
    with ProcessPoolExecutor(min(request.workers, max(len(todo), 1)), mp_context=SPAWN, initializer=_begin) as pool:
        running = {
            pool.submit(_make_task, task, list(request.shares).index(task), request, work): task for task in todo
        }
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    done[task] = future.result()
                    made += request.shares[task]
                    progress(made, request.episodes)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    shards = [shard for task in request.shares for shard in list_shards(_folder(work, task))]
    attempts = [AttemptRecord(**record) for task in request.shares for record in done[task]["attempts"]]
    models = {done[task]["model_sha"]: Path(_folder(work, task), "model.xml").read_text() for task in request.shares}
    job = {"kind": "data", "tasks": list(request.shares), "episodes": request.episodes, **settings}
    robot = str(next(iter(done.values()))["robot_type"])
    write_dataset(
        request.out, shards, robot_type=robot, job=_plain(job), models=models,
        attempts=sorted(attempts, key=lambda record: record.index),
    )  # fmt: skip
    shutil.rmtree(work)
    return request.out


def _begin() -> None:
    single_threaded()
    become_worker()


def _make_task(task_name: str, number: int, request: DataRequest, work: Path) -> dict[str, Any]:
    """Make one task's episodes with their pictures and return what is recorded of it."""
    from sim_tasks.backends import open_backend  # noqa: PLC0415 - only children open simulators
    from sim_tasks.catalog import find_task  # noqa: PLC0415
    from workers.render import open_renderer, render_shard  # noqa: PLC0415
    from workers.worker import record_of  # noqa: PLC0415

    task, wanted, folder = find_task(task_name), request.shares[task_name], _folder(work, task_name)
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    records: list[AttemptRecord] = []
    backend = open_backend(task)
    try:
        sources = prepare_sources(backend, task, read_demos(seeds_path(task_name)), request.generation).sources
        executor = dict(backend.describe())
        (folder / "model.xml").write_text(backend.model_source())
        kept = 0
        indices = (number * _INDICES + i for i in counting())
        for result in run_attempts(backend, task, sources, request.generation, indices):
            records.append(record_of(result, executor))
            if result.held:
                write_shard(folder, episode_of(result, task, request.generation, executor))
                kept += 1
            if kept == wanted:
                break
            if len(records) >= _PATIENCE * wanted + 20:
                raise BackendError(f"task {task_name!r}: {kept} of {len(records)} attempts succeeded; {wanted} wanted")
    finally:
        backend.close()
    with open_renderer(task_name, request.render) as renderer:
        for shard in list_shards(folder):
            render_shard(renderer, shard)
    found = {
        "attempts": [asdict(record) for record in records],
        "model_sha": executor["model_sha"],
        "robot_type": task.robot.lerobot_type,
    }
    write_json(_record_path(work, task_name), _plain(found))
    return _plain(found)


def _claim(work: Path, settings: Mapping[str, Any]) -> None:
    """Make the work folder for these settings, or see that it is for them."""
    said = hashlib.sha256(json_bytes(_plain(settings))).hexdigest()
    mark = work / "settings"
    if not mark.exists():
        with staging(mark) as folder:
            (folder / mark.name).write_text(said)
            (folder / mark.name).replace(mark)
    if mark.read_text() != said:
        raise SpecError(f"{work} holds the work of another request; finish that, or remove the folder")


def _folder(work: Path, task: str) -> Path:
    return work / task.replace("/", "--")


def _record_path(work: Path, task: str) -> Path:
    return _folder(work, task) / "done.json"


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_bytes())


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def tasks_of(names: Sequence[str], known: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the tasks of names and families among known ones: "tabletop" is all of "tabletop/...".

    Raises SpecError for a name that is neither.
    """
    found: list[str] = []
    for name in names:
        family = [each for each in known if each.startswith(f"{name}/")]
        if not family and name not in known:
            raise SpecError(unknown_name("task or family", name, known))
        found += family or [name]
    return tuple(dict.fromkeys(found))
