"""/v1/tasks: what can be asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api import answers
from api.keys import Reader
from api.sources import has_shipped
from factory.errors import ServiceError, unknown_name
from sim_tasks.catalog import all_tasks

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get("", operation_id="list_tasks")
def listing(_: Reader) -> answers.Page[answers.Task]:
    """List the tasks: what they are, their variants with ranges, subtasks and clearances."""
    tasks = [answers.of_task(task, shipped=has_shipped(task.name)) for task in all_tasks().values()]
    return answers.Page(data=tasks, has_more=False)


@router.get("/{name}", operation_id="get_task")
def one(name: Annotated[str, Path(max_length=100, examples=["stack"])], _: Reader) -> answers.Task:
    """Return one task."""
    tasks = all_tasks()
    if name not in tasks:
        message = unknown_name("task", name, tasks)
        raise ServiceError(message, status=404, code="not_found", field="name", found=name, allowed=sorted(tasks))
    return answers.of_task(tasks[name], shipped=has_shipped(name))
