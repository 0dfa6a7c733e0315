"""The job book's tables. Times are seconds since 1970, by the database's clock; ids are text; JSON is JSON.

What an executor does concerns `jobs`, `attempts` and `units`; the row in `attempts` is the moment an attempt exists.
"""

# SQLModel types its own `__tablename__` as something else than the text that it wants to be set to.
# pyright: reportAssignmentType=false

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, Column, Index, MetaData, UniqueConstraint
from sqlmodel import Field, SQLModel

NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints need names that both databases and every migration agree on."""


class Table(SQLModel):
    """What all tables share: one catalogue of names."""

    metadata = MetaData(naming_convention=NAMING)


def _json(default: type = dict) -> Any:
    return Field(default_factory=default, sa_column=Column(JSON, nullable=False))


def _maybe_json() -> Any:
    return Field(default=None, sa_column=Column(JSON(none_as_null=True), nullable=True))


def _big(*, key: bool = False, default: Any = 0) -> Any:
    return Field(default=default, sa_column=Column(BigInteger, primary_key=key, nullable=False, autoincrement=False))


class File(Table, table=True):
    """An uploaded file of demonstrations; the same content is the same file.

    Attributes:
        status: "checking" until a worker has read it, then "ready" or "refused".
        sha256: of the upload; `canonical_sha256` names what workers read.
        structure: what the sandbox found: format, environment, demos.
        report: what a worker found: lint, cuts, timelines.
        cuts: boundaries a person set, by demo and end effector; `revision` counts the changes.
    """

    __tablename__ = "files"
    id: str = Field(primary_key=True)
    sha256: str = Field(index=True)
    name: str
    bytes: int = _big()
    canonical_sha256: str = ""
    status: str = "checking"
    task: str | None = None
    structure: dict[str, Any] = _json()
    report: dict[str, Any] | None = _maybe_json()
    cuts: dict[str, Any] = _json()
    revision: int = 0
    error: dict[str, Any] | None = _maybe_json()
    key_id: str | None = None
    created_at: float = 0.0
    checked_at: float | None = None


class Job(Table, table=True):
    """One request for trajectories; see `api.jobs` for its states.

    Attributes:
        purpose: "generate", "estimate", "export" or "dream".
        spec: a `JobSpec` as JSON.
        labels: what the caller wants to remember about it.
        virtual_s: worker seconds it has had, divided by its weight; who has had least is served first.
        state_times: state -> when it was entered last.
        running_since: when the current stretch of running began; `ran_s` counts the stretches before it.
        next_index: attempt indices below it have been handed out.
        prefix: attempts 0 .. prefix - 1 are all there; `prefix_successes` of them succeeded.
        end_index: attempts that count, once a rule ended it; `ended_by` names the rule.
        paused_for: why it does not go on: "asked" or "storage"; empty when it does.
        out: where the dataset goes when it does not go into the store; only the command line sets it.
        to_render: episodes to draw; `rendered` of them are drawn.
        executor: what the executors say about themselves, fixed by the first one.
        refused: one sentence for every demo that cannot be a source.
        last_event: highest event number.
    """

    __tablename__ = "jobs"
    __table_args__ = (Index("ix_jobs_status_virtual_s", "status", "virtual_s"), Index("ix_jobs_created", "created_at"))
    id: str = Field(primary_key=True)
    purpose: str = "generate"
    name: str = ""
    status: str = "validating"
    spec: dict[str, Any] = _json()
    spec_sha256: str = ""
    labels: dict[str, Any] = _json()
    file_ids: list[str] = _json(list)
    parent_id: str | None = None
    key_id: str | None = None
    weight: float = 1.0
    virtual_s: float = 0.0
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
    state_times: dict[str, float] = _json()
    running_since: float | None = None
    ran_s: float = 0.0
    next_index: int = _big()
    prefix: int = _big()
    prefix_successes: int = _big()
    attempted: int = _big()
    succeeded: int = _big()
    failed: int = _big()
    touched: int = _big()
    worker_s: float = 0.0
    shard_bytes: int = _big()
    end_index: int | None = Field(default=None, sa_column=Column(BigInteger, nullable=True))
    ended_by: str = ""
    paused_for: str = ""
    out: str = ""
    advice: str = ""
    error: dict[str, Any] | None = _maybe_json()
    to_render: int = 0
    rendered: int = 0
    executor: dict[str, Any] | None = _maybe_json()
    refused: list[str] = _json(list)
    dataset_id: str | None = None
    result: dict[str, Any] | None = _maybe_json()
    command: str = ""
    last_event: int = 0


class Attempt(Table, table=True):
    """One finished attempt. The row is the commit."""

    __tablename__ = "attempts"
    __table_args__ = (Index("ix_attempts_outcome", "job_id", "outcome", "idx"),)
    job_id: str = Field(primary_key=True)
    idx: int = _big(key=True)
    outcome: str
    touched: bool = False
    subtask: str = ""
    eef: str = ""
    reason: str = ""
    steps: int = 0
    seconds: float = 0.0
    shard_sha256: str = ""
    shard_bytes: int = _big()
    worker: str = ""
    record: dict[str, Any] = _json()
    committed_at: float = 0.0


class Dream(Table, table=True):
    """One dream of a job, as far as its stages have come. A stage's result counts when it is entered here.

    Attributes:
        stage: the last one that it has passed.
        verdict: of its judge; "not_judged" without one.
        tier: what came of carrying it out; "not_tried" until then.
        confidence: mean confidence of its labels, 0 to 1; None until they were read.
        record: what else is known: frame, proposer, judgement, verification, films.
    """

    __tablename__ = "dreams"
    job_id: str = Field(primary_key=True)
    idx: int = _big(key=True)
    frame: str = ""
    task: str = ""
    instruction: str = ""
    seed: int = _big()
    stage: str = "propose"
    verdict: str = "not_judged"
    tier: str = "not_tried"
    confidence: float | None = None
    record: dict[str, Any] = _json()
    updated_at: float = 0.0


class FailureCount(Table, table=True):
    """How often attempts of a job failed in one subtask of one arm for one reason; kept so that asking is cheap."""

    __tablename__ = "failure_counts"
    job_id: str = Field(primary_key=True)
    subtask: str = Field(primary_key=True)
    eef: str = Field(primary_key=True)
    reason: str = Field(primary_key=True)
    count: int = _big()


class CoursePoint(Table, table=True):
    """How far a job was after so many attempts of its prefix; a few hundred a job, so that its course is never counted.

    Attributes:
        attempts: of the prefix; `successes` of them succeeded.
        at: when the last of them was committed; `worker_s` is what they took together.
    """

    __tablename__ = "course_points"
    job_id: str = Field(primary_key=True)
    attempts: int = _big(key=True)
    successes: int = _big()
    at: float = 0.0
    worker_s: float = 0.0


class Unit(Table, table=True):
    """A piece of work somebody holds or waits for: a range of attempts, episodes to draw, a file to check, ...

    Attributes:
        kind: what to do; see `api.leases`.
        start: first attempt index of a range; `stop` is one past the last, `remaining` are not committed yet.
        state: "waiting", "leased" or "failed"; a unit that is done is deleted.
        epoch: counts leases; a commit under an older number is refused.
        owner: dispatcher that answers for the worker; `until` is when its silence counts as death.
        tries: how often its worker died.
    """

    __tablename__ = "units"
    __table_args__ = (
        Index("ix_units_state_kind", "state", "kind", "id"),
        Index("ix_units_job", "job_id", "kind", "state", "start"),
        {
            "sqlite_autoincrement": True
        },  # else a deleted unit's number comes again, and a late answer names another unit
    )
    id: int | None = Field(default=None, primary_key=True)
    kind: str
    job_id: str | None = None
    file_id: str | None = None
    start: int = _big()
    stop: int = _big()
    remaining: int = 0
    payload: dict[str, Any] = _json()
    state: str = "waiting"
    epoch: int = 0
    owner: str | None = Field(default=None, index=True)
    worker: str | None = None
    until: float = 0.0
    tries: int = 0
    created_at: float = 0.0


class Strike(Table, table=True):
    """How often an attempt index killed its worker."""

    __tablename__ = "strikes"
    job_id: str = Field(primary_key=True)
    idx: int = _big(key=True)
    count: int = 0


class Event(Table, table=True):
    """Something worth telling about a job; numbered without gaps per job."""

    __tablename__ = "events"
    job_id: str = Field(primary_key=True)
    seq: int = Field(primary_key=True)
    at: float = 0.0
    type: str = ""
    data: dict[str, Any] = _json()


class Dispatcher(Table, table=True):
    """A process that hands out work."""

    __tablename__ = "dispatchers"
    id: str = Field(primary_key=True)
    host: str = ""
    pid: int = 0
    born: str = ""
    transport: str = ""
    started_at: float = 0.0
    seen_at: float = 0.0


class Worker(Table, table=True):
    """A process that carries work out, as its dispatcher last reported it."""

    __tablename__ = "workers"
    id: str = Field(primary_key=True)
    owner: str = Field(index=True)
    host: str = ""
    pid: int = 0
    transport: str = ""
    capabilities: list[str] = _json(list)
    state: str = "starting"
    doing: str = ""
    job_id: str | None = None
    attempts: int = 0
    busy_s: float = 0.0
    started_at: float = 0.0
    seen_at: float = 0.0


class Dataset(Table, table=True):
    """A finished dataset in one form.

    Attributes:
        kind: "lerobot", "robomimic" or "gr00t".
        key: its folder in the store.
        facts: what people want to know first: episodes, frames, cameras, success rate.
        digest: equal for equal rows and provenance, whatever machine, hour or number of workers made them.
        manifest_sha256: over the names and hashes of all files.
    """

    __tablename__ = "datasets"
    id: str = Field(primary_key=True)
    job_id: str = Field(index=True)
    kind: str = "lerobot"
    name: str = ""
    key: str = ""
    episodes: int = 0
    frames: int = _big()
    bytes: int = _big()
    digest: str = ""
    manifest_sha256: str = ""
    facts: dict[str, Any] = _json()
    parent_id: str | None = None
    created_at: float = Field(default=0.0, index=True)


class DatasetFile(Table, table=True):
    """One file of a dataset; downloads look names up here and never join a caller's path."""

    __tablename__ = "dataset_files"
    dataset_id: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    sha256: str = ""
    bytes: int = _big()


class Key(Table, table=True):
    """An API key; the secret itself is nowhere, only its SHA-256.

    Attributes:
        scopes: of "read", "write", "worker", "admin".
        quotas: name -> number; see `api.keys`.
    """

    __tablename__ = "keys"
    id: str = Field(primary_key=True)
    name: str = ""
    sha256: str = ""
    scopes: list[str] = _json(list)
    quotas: dict[str, Any] = _json()
    created_at: float = 0.0
    expires_at: float | None = None
    revoked_at: float | None = None
    last_used_at: float | None = None


class Idempotency(Table, table=True):
    """The answer a caller already got for a request it named."""

    __tablename__ = "idempotency"
    key_id: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    body_sha256: str = ""
    job_id: str = ""
    created_at: float = 0.0


class Webhook(Table, table=True):
    """An address that wants to hear how jobs end."""

    __tablename__ = "webhooks"
    id: str = Field(primary_key=True)
    url: str = ""
    secret: str = ""
    events: list[str] = _json(list)
    key_id: str | None = None
    disabled_at: float | None = None
    created_at: float = 0.0


class Delivery(Table, table=True):
    """One message to one webhook."""

    __tablename__ = "deliveries"
    __table_args__ = (
        Index("ix_deliveries_due", "state", "due_at"),
        UniqueConstraint("webhook_id", "job_id", "seq", name="uq_deliveries_message"),
    )
    id: str = Field(primary_key=True)
    webhook_id: str = ""
    job_id: str = ""
    seq: int = 0
    state: str = "waiting"
    tries: int = 0
    due_at: float = 0.0
    answer: str = ""
    created_at: float = 0.0
