"""What callers send to have episodes dreamt, and how it becomes a job."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from sqlmodel import Session

from api import dreams
from api.asking import Entered, check_limit, once
from api.context import Service
from api.dream_specs import (
    MODEL_NAME,
    MOST_AT_A_TIME,
    MOST_FRAMES,
    MOST_PER_FRAME,
    MOST_SEEDS,
    DreamSpec,
    JudgedBy,
    Only,
    Proposer,
    ReplayMode,
)
from api.keys import Caller
from api.quotas import check_jobs
from api.requests import WEIGHTS, Body, Id, Name, Priority, TaskName, Text
from api.specs import dream_job
from api.tables import Dataset, Job
from factory.durable import json_bytes
from factory.errors import ServiceError, unknown_name
from sim_tasks.catalog import FAMILIES, find_task

Model = Annotated[str, StringConstraints(max_length=400, pattern=rf"^({MODEL_NAME})?$")]
"""A folder below the installation's folder of models; empty for none."""


class DreamRequest(Body):
    """A request for dreams: from which first frames, how many, and what dreams, judges, reads and tries them."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"tasks": ["tabletop"], "held_out": True, "frames": 40},
                {"dataset": "ds_0123456789abcdef", "frames": 10, "seeds": 4, "video": "wan", "judge": "endpoint"},
            ]
        }
    )
    tasks: Annotated[tuple[TaskName, ...], Field(max_length=200)] = Field(
        default=(), description="Tasks or families whose starts are the first frames."
    )
    dataset: Annotated[str, StringConstraints(max_length=64, pattern=r"^[A-Za-z0-9_-]*$")] = Field(
        default="", description="Instead: a LeRobot dataset of this service; the first pictures of its first episodes."
    )
    held_out: bool = Field(default=False, description="Of the tasks only those that models are not trained on.")
    variant: Name = "D0"
    frames: Annotated[int, Field(ge=1, le=MOST_FRAMES, description="First frames, of all tasks together.")] = 20
    per_frame: Annotated[int, Field(ge=1, le=MOST_PER_FRAME, description="Instructions for each, at most.")] = 1
    seeds: Annotated[int, Field(ge=1, le=MOST_SEEDS, description="Dreams of each instruction.")] = 1
    seed: Annotated[int, Field(ge=0, le=(1 << 62) - 1)] = 0
    propose: Proposer = Field(
        default="state", description="Who proposes instructions: what the simulator knows, or the language model."
    )
    video: Model = Field(default="", description="The video model's folder; empty for the shipped one.")
    idm: Model = Field(default="", description="The inverse dynamics model's folder; empty for the shipped one.")
    latents: Model = Field(default="", description="A latent action model's folder; empty for none.")
    judge: JudgedBy = "nobody"
    classifier: Model = Field(default="", description="The classifier's folder, where it judges; empty as shipped.")
    votes: Annotated[int, Field(ge=1, le=99)] = 3
    pictures: Annotated[int, Field(ge=2, le=64)] = 8
    budget_usd: Annotated[float, Field(gt=0, le=1e6)] | None = None
    steps: Annotated[int, Field(ge=1, le=1000, description="Sampling steps of the video model.")] = 12
    guidance: Annotated[float, Field(ge=0, le=100)] = 2.0
    batch: Annotated[int, Field(ge=1, le=MOST_AT_A_TIME, description="Dreams that one worker makes together.")] = 8
    replay: ReplayMode = Field(default="tracked", description="How labels are carried out in the simulator.")
    only: Only = Field(default="all", description="Which dreams become a dataset.")
    max_wall_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    name: Text = ""
    metadata: Annotated[
        dict[Annotated[Text, StringConstraints(min_length=1, max_length=64)], Text], Field(max_length=16)
    ] = Field(default={})
    priority: Priority = "normal"

    @model_validator(mode="after")
    def _check(self) -> DreamRequest:
        if bool(self.tasks) == bool(self.dataset):
            raise ValueError("first frames come from tasks, or from a dataset; give one of them")
        if self.classifier and self.judge != "classifier":
            raise ValueError("a classifier's folder is given, but judge is not 'classifier'")
        return self

    def spec(self) -> DreamSpec:
        """Return what is asked for. Raises SpecError when settings contradict each other."""
        return DreamSpec(**{name: value for name, value in self if name in DreamSpec.__dataclass_fields__})


def request_of(asked: DreamSpec, *, max_wall_s: float | None = None) -> dict[str, Any]:
    """Return the body that asks for the same again, without what is as usual."""
    fields = {name: getattr(asked, name) for name in DreamSpec.__dataclass_fields__}
    return DreamRequest.model_validate({**fields, "max_wall_s": max_wall_s}).model_dump(
        mode="json", exclude_defaults=True
    )


def enter(service: Service, asked: DreamRequest, caller: Caller, *, name: str | None) -> Entered:
    """Enter the job of dreams that is asked for, or return the one that the same named request made before.

    Raises:
        ServiceError: as of `asking.once`; 422 a task, variant or dataset does not exist; 429 or 403 a quota is used up.
        SpecError: settings contradict each other.
    """
    body = hashlib.sha256(json_bytes(["dream", asked.model_dump(mode="json")])).hexdigest()

    def make(session: Session) -> Job:
        if asked.dataset:
            _check_dataset(session, asked.dataset)
        spec = asked.spec()
        job = dream_job(spec, max_wall_s=asked.max_wall_s)
        check_limit(service, job)
        check_jobs(session, caller, job.limit)
        return dreams.create(
            session,
            spec,
            max_wall_s=asked.max_wall_s,
            name=asked.name,
            labels=dict(asked.metadata),
            key_id=caller.key_id,
            weight=WEIGHTS[asked.priority],
        )

    _check_tasks(asked)
    return once(service, caller, name=name, body=body, begin=lambda: make)


def _check_tasks(asked: DreamRequest) -> None:
    for name in asked.tasks:
        task = find_task(next(iter(FAMILIES[name])) if name in FAMILIES else name)
        if asked.variant not in task.resets:
            raise ServiceError(
                f"{name}: {unknown_name('variant', asked.variant, task.resets)}",
                status=422,
                code="unknown_variant",
                field="variant",
                found=asked.variant,
                allowed=sorted(task.resets),
            )


def _check_dataset(session: Session, dataset_id: Id) -> None:
    found = session.get(Dataset, dataset_id)
    if found is None or found.kind != "lerobot":
        kind = "there is no such dataset" if found is None else f"it is of the form {found.kind}"
        raise ServiceError(
            f"first frames of dataset {dataset_id!r}: {kind}; give one in LeRobot's form",
            status=422,
            code="unknown_dataset",
            field="dataset",
            found=dataset_id,
        )
