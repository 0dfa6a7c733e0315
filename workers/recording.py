"""Records demonstrations: with a task's scripted demonstrator, or by a person with a keyboard or SpaceMouse."""

from __future__ import annotations

from pathlib import Path

from factory.demos import Demo, write_demos
from factory.errors import SpecError
from factory.placements import sample_placements
from factory.streams import spawn_streams
from sim_tasks.backends import open_backend
from sim_tasks.catalog import find_task


def record_scripted(task_name: str, path: Path, *, count: int, seed: int) -> tuple[Path, tuple[Demo, ...]]:
    """Record successful demonstrations with the scripted demonstrator and write them.

    Raises:
        SpecError: the task is unknown or has no demonstrator.
    """
    from sim_tasks.demonstrators.recording import record  # noqa: PLC0415 - needs the simulator

    _refuse_existing(path)
    task = find_task(task_name)
    backend = open_backend(task)
    try:
        demos = record(task, backend, count=count, seed=seed)
    finally:
        backend.close()
    write_demos(path, demos)
    return path, demos


def record_by_hand(task_name: str, path: Path, *, device: str, count: int, seed: int) -> tuple[Path, tuple[Demo, ...]]:
    """Let a person record demonstrations in robosuite's viewer; only successful ones are kept.

    Each demonstration is written as soon as it is done, so that stopping loses at most the one in progress.

    Raises:
        BackendError: there is no screen, or the device cannot be opened.
    """
    from sim_tasks.backends.teleoperation import Teleoperation  # noqa: PLC0415 - needs the simulator

    _refuse_existing(path)
    task = find_task(task_name)
    reset = next(iter(task.resets.values()))
    demos: list[Demo] = []
    with Teleoperation(task, device=device) as hand:
        attempt = 0
        while len(demos) < count:
            streams = spawn_streams(seed, attempt)
            demo = hand.record(sample_placements(reset, streams.scene), streams.scene, name=f"demo_{len(demos)}")
            attempt += 1
            if demo is not None:
                demos.append(demo)
                write_demos(path, demos)
    return path, tuple(demos)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise SpecError(f"{path} already exists; choose another --out")
