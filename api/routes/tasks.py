"""/v1/tasks: what can be asked for."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api import answers
from api.keys import Reader
from api.sources import has_shipped
from factory.errors import ServiceError, SpecError
from sim_tasks.catalog import FAMILIES, all_tasks, find_task

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])


@router.get("", operation_id="list_tasks")
def listing(_: Reader) -> answers.Page[answers.Task]:
    """List the tasks: what they are, their variants with ranges, subtasks and clearances."""
    tasks = [
        answers.of_task(task, shipped=has_shipped(task.name), family=FAMILIES.get(task.name, ()))
        for task in all_tasks().values()
    ]
    return answers.Page(data=tasks, has_more=False)


@router.get("/{name:path}", operation_id="get_task")
def one(name: Annotated[str, Path(max_length=100, examples=["stack"])], _: Reader) -> answers.Task:
    """Return one task."""
    try:
        task = find_task(name)
    except SpecError as error:
        allowed = sorted(all_tasks())
        raise ServiceError(
            str(error), status=404, code="not_found", field="name", found=name, allowed=allowed
        ) from None
    return answers.of_task(task, shipped=has_shipped(name), family=FAMILIES.get(name, ()))
