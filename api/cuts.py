"""Boundaries that a person sets by hand, checked against what is known about the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from api.tables import File
from factory.errors import ServiceError, unknown_name
from sim_tasks.catalog import find_task


def check_cuts(file: File, cuts: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
    """Raise ServiceError unless every demo exists and its boundaries divide it into the task's subtasks.

    Boundaries of an end effector: one fewer than it has subtasks, strictly increasing, within the demo.
    """
    if file.status == "checking" or not file.task:
        state = "is still being checked" if file.status == "checking" else "has no task; check it again with one"
        raise ServiceError(
            f"file {file.name} {state}, so that its subtasks are not known",
            status=409,
            code="not_checked",
            field="file_id",
            found=file.status,
            allowed="a file that was checked as some task",
        )
    demos: Mapping[str, Any] = {demo["name"]: demo for demo in (file.report or file.structure).get("demos", ())}
    subtasks = {eef: [s.name for s in chain] for eef, chain in find_task(file.task).subtasks.items()}
    for demo, arms in cuts.items():
        if demo not in demos:
            raise _wrong(demo, unknown_name("demo", demo, demos), demo, sorted(demos)[:50])
        for eef, stops in arms.items():
            if eef not in subtasks:
                raise _wrong(f"{demo}.{eef}", unknown_name("end effector", eef, subtasks), eef, sorted(subtasks))
            _check_stops(f"{demo}.{eef}", list(stops), int(demos[demo]["steps"]), subtasks[eef])


def _check_stops(where: str, stops: list[int], steps: int, subtasks: list[str]) -> None:
    names = ", ".join(subtasks)
    if len(stops) != len(subtasks) - 1:
        message = f"{where}: {len(stops)} boundaries for the subtasks {names}; {len(subtasks) - 1} are needed"
        raise _wrong(where, message, stops, f"{len(subtasks) - 1} boundaries")
    rising = all(a < b for a, b in zip([0, *stops], [*stops, steps], strict=True))
    if not rising:
        message = f"{where}: boundaries {stops} must increase strictly within 1 and {steps - 1}"
        raise _wrong(where, message, stops, f"1 to {steps - 1}, increasing")


def _wrong(field: str, message: str, found: object, allowed: object) -> ServiceError:
    return ServiceError(message, status=422, code="bad_cuts", field=field, found=found, allowed=allowed)
