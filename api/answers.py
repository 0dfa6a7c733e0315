"""What callers get: the objects of the API, and how rows of the job book become them.

Times are seconds since 1970 by the job book's clock; durations are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, Field
from sqlalchemy import func
from sqlmodel import Session, col, select

from api import dreams, jobs, tables
from api.database import now
from api.estimates import Estimate, estimate
from api.leases import LEASE_S, next_need
from api.reproducing import Reproduce, reproduce
from factory.specs import TaskSpec
from factory.statistics import wilson
from factory.suggestions import source_of

T = TypeVar("T")


class Page(BaseModel, Generic[T]):
    """Some objects of a list; the last one's id, or number, is the next page's `after`."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool


class File(BaseModel):
    """A file of demonstrations. `report` says what was found and where its subtasks were cut."""

    object: Literal["file"] = "file"
    id: str
    name: str
    sha256: str
    bytes: int
    status: Literal["checking", "ready", "refused"]
    task: str | None
    structure: dict[str, Any]
    report: dict[str, Any] | None
    cuts: dict[str, dict[str, list[int]]] = Field(description="Boundaries a person set.")
    revision: int = Field(description="How often they were changed.")
    error: dict[str, Any] | None
    created_at: float
    checked_at: float | None


class RequestCounts(BaseModel):
    """Attempts so far."""

    attempted: int
    succeeded: int
    failed: int
    in_flight: int


class SuccessRate(BaseModel):
    """Share of attempts that succeeded, with the 95 % interval of Wilson; null before the first attempt."""

    rate: float | None
    low: float
    high: float


class Failure(BaseModel):
    """How often attempts failed in one subtask of one arm for one reason."""

    subtask: str
    eef: str
    reason: str
    count: int
    words: str


class DreamCounts(BaseModel):
    """How far a job of dreams is."""

    stage: str
    stages: list[str]
    share: float
    models: dict[str, str]
    exported: list[str]
    passed: dict[str, int]
    verdicts: dict[str, int]
    tiers: dict[str, int]


class Job(BaseModel):
    """A request for trajectories and what became of it.

    Attributes:
        status: validating, queued, running, paused, cancelling, rendering, finalizing; then succeeded, failed,
            cancelled or expired.
        state_times: when each state was entered last.
        target: successes wanted, or null when a number of attempts was asked for.
        touched: attempts in which success was true at least once, held or not.
        progress: share of the present stage that is done, 0 to 1.
        eta_s: seconds until it ends as it goes now; null when that cannot be said.
        waiting_for: what no worker that is alive can do and the job needs next, such as "isaac" or "gpu"; null where
            one can, and in lists.
        ended_by: the rule that did: target, attempts, max_attempts, min_success_rate, max_wall_s, cancelled, error.
        advice: what a person can do about it.
        executor: the runtime fingerprint of who ran it.
        refused: one sentence for each demo that cannot be a source.
        estimate: of a pilot that has ended.
        dreams: of a job of dreams: the stage it is in, what share of it is done, its models, how many dreams have
            passed which stage, and how many there are of each verdict and tier. Of such a job attempts are dreams that
            were carried out, and successes those that came true.
        run_again_on_cpu: of a job of a statistical backend: how many of its episodes were run again on the CPU, how
            many agreed, and the 95 % interval of that share.
    """

    object: Literal["job"] = "job"
    id: str
    purpose: Literal["generate", "estimate", "export", "dream"]
    name: str
    status: jobs.State
    task: str
    target: int | None
    max_attempts: int
    request_counts: RequestCounts
    touched: int
    success_rate: SuccessRate
    progress: float
    eta_s: float | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    state_times: dict[str, float]
    ran_s: float
    worker_s: float
    to_render: int
    rendered: int
    waiting_for: str | None = None
    ended_by: str
    paused_for: str
    advice: str
    error: dict[str, Any] | None
    dataset_id: str | None
    parent_id: str | None
    file_ids: list[str]
    metadata: dict[str, str]
    priority: float
    last_event: int
    spec_sha256: str
    failure_breakdown: list[Failure] | None = Field(default=None, description="Null in lists.")
    spec: dict[str, Any] | None = Field(default=None, description="Null in lists.")
    executor: dict[str, Any] | None = None
    refused: list[str] = []
    reproduce: Reproduce | None = Field(default=None, description="Null in lists.")
    estimate: Estimate | None = None
    run_again_on_cpu: dict[str, Any] | None = None
    dreams: DreamCounts | None = None


class Dream(BaseModel):
    """One dream of a job, as far as its stages have come.

    Attributes:
        stage: the last one that it has passed.
        verdict: accept, reject, abstain, error or not_judged; `judgement` has the evidence.
        tier: executed_success, executed_failure, not_replayable or not_tried; `verification` says why.
        confidence: mean confidence of its labels, 0 to 1.
        film: address of what was dreamt; null until then. Likewise first_frame.
        twins: camera -> address of what the simulator did in its place.
    """

    object: Literal["dream"] = "dream"
    index: int
    job_id: str
    instruction: str
    frame: str
    task: str
    seed: int
    stage: str
    verdict: str
    tier: str
    confidence: float | None
    judgement: dict[str, Any] | None
    verification: dict[str, Any] | None
    record: dict[str, Any]
    first_frame: str | None
    film: str | None
    twins: dict[str, str]
    updated_at: float


class Event(BaseModel):
    """Something that happened to a job; numbers have no gaps."""

    seq: int
    at: float
    type: str
    data: dict[str, Any]


class Attempt(BaseModel):
    """One attempt. `clip` is there once it was asked for."""

    index: int
    outcome: Literal["success", "failure"]
    touched: bool
    subtask: str
    eef: str
    reason: str
    steps: int
    seconds: float
    worker: str
    sources: list[dict[str, Any]]
    start_poses: dict[str, list[float]]
    committed_at: float
    clip: dict[str, Any] | None = None


class Dataset(BaseModel):
    """A finished dataset in one form."""

    object: Literal["dataset"] = "dataset"
    id: str
    job_id: str
    kind: Literal["lerobot", "robomimic", "gr00t"]
    name: str
    episodes: int
    frames: int
    bytes: int
    digest: str = Field(description="Equal for equal rows and provenance, whoever made them.")
    manifest_sha256: str
    facts: dict[str, Any]
    parent_id: str | None
    created_at: float
    pushes: list[dict[str, Any]] = []


class DatasetFile(BaseModel):
    """One file of a dataset."""

    path: str
    sha256: str
    bytes: int
    url: str


class Manifest(BaseModel):
    """All files of a dataset with their hashes."""

    object: Literal["manifest"] = "manifest"
    dataset_id: str
    manifest_sha256: str
    bytes: int
    files: list[DatasetFile]


class Clip(BaseModel):
    """Where in a video file an episode lies, seconds."""

    url: str
    from_s: float
    to_s: float


class Span(BaseModel):
    """Rows [start, stop) of an episode that belong to one subtask."""

    subtask: str
    start: int
    stop: int


class Episode(BaseModel):
    """One episode of a dataset. Several episodes share a video file: a player seeks to `from_s`."""

    index: int
    attempt_index: int | None
    length: int
    seconds: float
    instruction: str
    sources: list[str]
    subtasks: list[Span]
    videos: dict[str, Clip]


class Worker(BaseModel):
    """A process that carries work out, as its dispatcher last reported it."""

    id: str
    host: str
    transport: str
    capabilities: list[str]
    state: str
    doing: str
    job_id: str | None
    attempts: int
    busy_s: float
    started_at: float
    seen_at: float
    alive: bool


class Key(BaseModel):
    """An API key; `secret` is there once, in the answer to its creation."""

    object: Literal["key"] = "key"
    id: str
    name: str
    scopes: list[str]
    quotas: dict[str, float]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    last_used_at: float | None
    secret: str | None = None


class Webhook(BaseModel):
    """An address that hears how jobs go; `secret` is there once, in the answer to its creation."""

    object: Literal["webhook"] = "webhook"
    id: str
    url: str
    events: list[str]
    created_at: float
    disabled_at: float | None
    secret: str | None = None


class Delivery(BaseModel):
    """One message to one webhook."""

    id: str
    job_id: str
    seq: int
    state: Literal["waiting", "delivered", "failed"]
    tries: int
    due_at: float
    answer: str
    created_at: float


class Variant(BaseModel):
    """A distribution of starts: where each object may stand, metres and radians, world frame."""

    name: str
    min_gap_m: float
    placements: list[dict[str, Any]]


class Subtask(BaseModel):
    """One piece of one arm's work."""

    name: str
    object_ref: str | None
    end_signal: str | None


class Task(BaseModel):
    """What can be asked for."""

    object: Literal["task"] = "task"
    name: str
    description: str
    instruction: str
    paraphrases: list[str]
    robot: str
    control_hz: int
    subtasks: dict[str, list[Subtask]]
    variants: list[Variant]
    constraints: list[str]
    clearances_mm: dict[str, float]
    shipped_demonstrations: bool
    family: list[str] = Field(description="Names of further tasks that are done with the same demonstrations.")


# --- from rows --------------------------------------------------------------------------------------------------------


def of_file(row: tables.File) -> File:
    """Return a file."""
    return File.model_validate(row.model_dump())


def of_job(session: Session, row: tables.Job, *, base_url: str = "") -> Job:
    """Return a job with everything there is to say about it."""
    job = _job(row, in_flight=jobs.in_flight(session, row.id), at=now(session))
    spec = jobs.spec_of(row)
    job.failure_breakdown = [Failure(**failure) for failure in jobs.failures(session, row)]
    job.spec, job.executor, job.refused = row.spec, row.executor, row.refused
    job.reproduce = reproduce(row, spec, base_url)
    job.waiting_for = waiting_for(session, row)
    if row.purpose == "dream":
        job.dreams = _dream_counts(session, row)
    if row.purpose == "estimate" and row.status in jobs.FINAL and row.attempted:
        job.estimate = estimate_of(session, row)
    return job


def of_jobs(session: Session, rows: Sequence[tables.Job]) -> list[Job]:
    """Return jobs as lists have them, with three questions to the job book however many there are."""
    ids = [row.id for row in rows]
    query = select(tables.Unit.job_id, func.sum(tables.Unit.remaining)).where(
        col(tables.Unit.job_id).in_(ids), tables.Unit.kind == "simulate", tables.Unit.state == "leased"
    )
    held = dict(session.exec(query.group_by(col(tables.Unit.job_id))).all())
    at = now(session)
    return [_job(row, in_flight=int(held.get(row.id, 0)), at=at) for row in rows]


def _job(row: tables.Job, *, in_flight: int, at: float) -> Job:
    rate, low, high = wilson(row.succeeded, row.attempted)
    target, limit = row.spec.get("episodes"), row.spec.get("attempts") or row.spec["max_attempts"]
    ran_s = row.ran_s + (at - row.running_since if row.running_since is not None else 0.0)
    return Job.model_validate(
        {
            **row.model_dump(exclude={"spec", "executor", "refused"}),
            "task": row.spec["task"],
            "target": target,
            "max_attempts": limit,
            "request_counts": {
                "attempted": row.attempted,
                "succeeded": row.succeeded,
                "failed": row.failed,
                "in_flight": in_flight,
            },
            "success_rate": {"rate": None if math.isnan(rate) else rate, "low": low, "high": high},
            "progress": progress_of(row),
            "eta_s": _eta_s(row, ran_s, at),
            "ran_s": ran_s,
            "metadata": row.labels,
            "priority": row.weight,
            "run_again_on_cpu": (row.result or {}).get("run_again_on_cpu"),
        }
    )


def progress_of(row: tables.Job) -> float:
    """Return how much of its present stage a job has done, 0 to 1; 1 once it has ended."""
    if row.status in jobs.FINAL or row.status == "finalizing":
        return 1.0
    if row.purpose == "dream":
        return dreams.progress(row)
    if row.status == "rendering":
        return row.rendered / row.to_render if row.to_render else 0.0
    target, limit = row.spec.get("episodes"), row.spec.get("attempts") or row.spec["max_attempts"]
    return min(1.0, row.succeeded / target if target else row.attempted / limit)


def _eta_s(row: tables.Job, ran_s: float, at: float) -> float | None:
    if row.purpose == "dream":
        return None
    if row.status == "rendering" and row.rendered:
        return (row.to_render - row.rendered) * (at - row.state_times["rendering"]) / row.rendered
    if row.status != "running" or not row.attempted or ran_s <= 0:
        return None
    target, limit = row.spec.get("episodes"), row.spec.get("attempts") or row.spec["max_attempts"]
    left = limit - row.attempted
    if target and row.succeeded:
        left = min(left, (target - row.succeeded) * row.attempted / row.succeeded)
    return max(0.0, left) * ran_s / row.attempted


def estimate_of(session: Session, row: tables.Job) -> Estimate:
    """Return what a pilot that has ended says about the job that was wanted."""
    wanted = (row.result or {}).get("wanted") or row.spec
    query = select(tables.Attempt.outcome).where(tables.Attempt.job_id == row.id).order_by(col(tables.Attempt.idx))
    outcomes = [outcome == "success" for outcome in session.exec(query)]
    alive = sum("simulate" in w.capabilities for w in workers_alive(session))
    drawn = row.result or {}
    return estimate(
        outcomes,
        episodes=wanted.get("episodes"),
        limit=wanted.get("attempts") or wanted["max_attempts"],
        workers=alive,
        attempt_s=row.worker_s / row.attempted,
        episode_bytes=row.shard_bytes / row.succeeded if row.succeeded else None,
        drawing_s=drawn.get("drawn_s", 0.0) / row.rendered if row.rendered else None,
        drawing_bytes=drawn.get("drawn_bytes", 0) / row.rendered if row.rendered else None,
        draws=wanted.get("render") is not None,
    )


def of_event(row: tables.Event) -> Event:
    """Return an event."""
    return Event(seq=row.seq, at=row.at, type=row.type, data=row.data)


def of_attempt(row: tables.Attempt, clips: dict[str, Any]) -> Attempt:
    """Return an attempt, with what is known about its clip."""
    record = row.record
    return Attempt.model_validate(
        {
            **row.model_dump(exclude={"record"}),
            "index": row.idx,
            "sources": list(record.get("sources", ())),
            "start_poses": record.get("start_poses", {}),
            "clip": clips.get(f"attempt_{row.idx}"),
        }
    )


def _dream_counts(session: Session, row: tables.Job) -> DreamCounts:
    counts, said = dreams.counts(session, row.id), row.result or {}
    return DreamCounts(
        stage=dreams.stage_of(row),
        stages=list(dreams.asked_of(row).stages),
        share=min(1.0, said.get("done", 0) / max(1, said.get("of", 1))),
        models=said.get("models", {}),
        exported=sorted(said.get("exported", ())),
        passed=counts["stage"],
        verdicts=counts["verdict"],
        tiers=counts["tier"],
    )


def of_dream(row: tables.Dream) -> Dream:
    """Return a dream, with the addresses of its films."""
    record, address = row.record, f"/v1/jobs/{row.job_id}/dreams/{row.idx}/film"
    shown = "film" in record
    cameras: list[str] = record.get("twin", {}).get("cameras", [])
    return Dream(
        **row.model_dump(exclude={"idx", "record"}),
        index=row.idx,
        judgement=record.get("judgement"),
        verification=record.get("verification"),
        record={name: value for name, value in record.items() if name not in ("judgement", "verification")},
        first_frame=f"{address}?show=first" if shown else None,
        film=f"{address}?show=dream" if shown else None,
        twins={camera: f"{address}?show=twin&camera={quote(camera)}" for camera in cameras},
    )


def of_dataset(row: tables.Dataset, pushes: Iterable[dict[str, Any]] = ()) -> Dataset:
    """Return a dataset."""
    return Dataset.model_validate({**row.model_dump(), "pushes": list(pushes)})


def workers_alive(session: Session) -> list[tables.Worker]:
    """Return the workers whose dispatcher is not silent."""
    return list(session.exec(select(tables.Worker).where(col(tables.Worker.seen_at) > now(session) - LEASE_S)))


def waiting_for(session: Session, row: tables.Job) -> str | None:
    """Return what a job needs next and no worker that is alive can do; None where one can, or it waits for nobody."""
    needs = next_need(row)
    able = {name for worker in workers_alive(session) for name in worker.capabilities}
    return None if needs in able else needs


def of_worker(row: tables.Worker, at: float) -> Worker:
    """Return a worker as of a moment."""
    return Worker.model_validate({**row.model_dump(), "alive": row.seen_at > at - LEASE_S})


def of_key(row: tables.Key, secret: str | None = None) -> Key:
    """Return a key."""
    return Key.model_validate({**row.model_dump(), "secret": secret})


def of_webhook(row: tables.Webhook, secret: str | None = None) -> Webhook:
    """Return a webhook."""
    return Webhook.model_validate({**row.model_dump(), "secret": secret})


def of_task(task: TaskSpec, *, shipped: bool, family: Iterable[str] = ()) -> Task:
    """Return a task."""
    return Task(
        name=task.name,
        description=task.description,
        instruction=task.instruction,
        paraphrases=list(task.paraphrases),
        robot=task.robot.name,
        control_hz=task.robot.control_hz,
        subtasks={
            eef: [Subtask(name=s.name, object_ref=s.object_ref, end_signal=s.end_signal) for s in chain]
            for eef, chain in task.subtasks.items()
        },
        variants=[
            Variant(
                name=name,
                min_gap_m=reset.min_gap_m,
                placements=[
                    {
                        "object": p.object,
                        "on": p.on,
                        "reference_m": list(p.reference_m),
                        "x_m": list(p.x_m),
                        "y_m": list(p.y_m),
                        "z_m": list(p.z_m),
                        "yaw_rad": list(p.yaw_rad),
                    }
                    for p in reset.placements
                ],
            )
            for name, reset in task.resets.items()
        ],
        constraints=[source_of(constraint) for constraint in task.constraints],
        clearances_mm={what: round(mm, 1) for what, mm in task.scene.clearances_mm.items()},
        shipped_demonstrations=shipped,
        family=list(family),
    )
