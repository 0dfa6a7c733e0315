"""What travels between a service and workers that pull: the executor contract's values as bodies that check themselves.

A worker says with every request which protocol it speaks and which version it is; `misfit` decides for both sides
whether they understand each other.
"""

from __future__ import annotations

from importlib import metadata
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from api.messages import Answer, AttemptDone, Drawn, Failed, Kind, Opened, Work
from api.requests import MOST, Body, Id
from factory.errors import SpecError
from factory.statistics import AttemptRecord

PROTOCOL = 1
"""Counts changes after which a worker and a service of different ages would misunderstand each other."""
PROTOCOL_HEADER, VERSION_HEADER = "Factory-Protocol", "Factory-Version"
KINDS: tuple[Kind, ...] = ("simulate", "render")
"""Units that are handed out over HTTP. What people wait for in front of a screen, and datasets, stay with the service's
own workers, which see its store."""
CAPABILITIES = ("simulate", "render", "gpu", "isaac")
MOST_ANSWERS = 128
"""Answers in one request; each is a kilobyte or two."""

Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
WorkerId = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_.-]+$")]
HostName = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]
Line = Annotated[str, StringConstraints(max_length=500)]
_Short = Annotated[str, StringConstraints(max_length=200)]
_Number = Annotated[int, Field(ge=0, le=(1 << 63) - 1)]
_Index = Annotated[int, Field(ge=0, le=MOST)]
_Seconds = Annotated[float, Field(ge=0.0, le=1e7)]


def version() -> str:
    """Return the version of this installation."""
    return metadata.version("trajectory-factory")


def misfit(*, worker: tuple[int, str], service: tuple[int, str]) -> str:
    """Return what to upgrade so that a worker and a service understand each other; empty when they do.

    Versions that differ in their first two numbers do not: the words of a job's specification may mean something else.

    Args:
        worker: its protocol and version.
        service: likewise.
    """
    if worker[0] == service[0] and _release(worker[1]) == _release(service[1]):
        return ""
    found = (
        f"the worker speaks protocol {worker[0]} (version {worker[1]}) and the service protocol {service[0]} "
        f"(version {service[1]})"
    )
    if (worker[0], _release(worker[1])) < (service[0], _release(service[1])):
        return f"{found}: upgrade the worker with pip install 'trajectory-factory=={service[1]}'"
    return f"{found}: upgrade the service to {worker[1]}, or install trajectory-factory {service[1]} for the worker"


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])


# --- joining ----------------------------------------------------------------------------------------------------------


class Joining(Body):
    """A machine that offers its workers."""

    host: HostName


class Joined(BaseModel):
    """Under which name a machine holds leases, and what it has to keep to.

    Attributes:
        owner: its name, to be said with every request.
        protocol: of the service.
        version: likewise.
        lease_s: without a heartbeat for so long everything it holds is given to others.
        part_bytes: the largest part of a file that one request may carry.
    """

    owner: str
    protocol: int
    version: str
    lease_s: float
    part_bytes: int


# --- leases -----------------------------------------------------------------------------------------------------------


class Held(Body):
    """One lease: a unit, and the number of this lease of it."""

    unit: _Number
    epoch: _Number


class Slot(Body):
    """A worker that has room for units.

    Attributes:
        worker: its id, which begins with its owner's.
        capabilities: what it can do.
        room: how many units it wants.
        busy: whether it has some already, so that only attempts may be queued behind them.
        prefer: the job it is set up for.
        avoid: jobs whose runtime fingerprint differs from its own.
    """

    worker: WorkerId
    capabilities: Annotated[tuple[Literal["simulate", "render", "gpu", "isaac"], ...], Field(min_length=1)]
    room: Annotated[int, Field(ge=1, le=4)] = 1
    busy: bool = False
    prefer: Id | None = None
    avoid: Annotated[tuple[Id, ...], Field(max_length=1000)] = ()


class Asking(Body):
    """A machine that asks for work; `sizes` says how many attempts of a job it makes while a lease should last."""

    owner: Id
    slots: Annotated[tuple[Slot, ...], Field(min_length=1, max_length=256)]
    sizes: Annotated[dict[Id, Annotated[int, Field(ge=1, le=MOST)]], Field(max_length=256, default_factory=dict)]


class Given(BaseModel):
    """A unit for a worker; see `api.messages.Work`."""

    worker: str
    unit: int
    epoch: int
    kind: Kind
    job_id: str
    indices: list[int]
    payload: dict[str, Any]

    def work(self) -> Work:
        """Return the unit as workers know it."""
        return Work(
            unit=self.unit,
            epoch=self.epoch,
            kind=self.kind,
            job_id=self.job_id,
            indices=tuple(self.indices),
            payload=self.payload,
        )


class Offer(BaseModel):
    """What there is to do; nothing when the list is empty."""

    given: list[Given]


def given(worker: str, work: Work) -> Given:
    """Return a unit as it travels to a worker."""
    return Given(
        worker=worker,
        unit=work.unit,
        epoch=work.epoch,
        kind=work.kind,
        job_id=work.job_id,
        indices=list(work.indices),
        payload=dict(work.payload),
    )


class State(Body):
    """How a worker is."""

    worker: WorkerId
    pid: _Number
    capabilities: Annotated[tuple[_Short, ...], Field(max_length=8)]
    doing: Literal["", "simulate", "render"] = ""
    job_id: Id | None = None
    attempts: _Number = 0
    busy_s: _Seconds = 0.0
    started_at: Annotated[float, Field(ge=0.0, le=1e11)] = 0.0


class Beat(Body):
    """A sign of life. Units that are leased to the owner and not named in `holds` are given to others."""

    owner: Id
    host: HostName
    holds: Annotated[tuple[Held, ...], Field(max_length=4096)] = ()
    workers: Annotated[tuple[State, ...], Field(max_length=256)] = ()


class Beaten(BaseModel):
    """Units that are no longer the owner's, or that nobody needs: to be dropped."""

    lost: list[int]


class Leaving(Body):
    """A machine that goes, and gives back what it holds."""

    owner: Id


# --- answers ----------------------------------------------------------------------------------------------------------


class OpenedAnswer(Held):
    """See `api.messages.Opened`; the scene it compiled was sent under the hash that `model_sha` is."""

    said: Literal["opened"] = "opened"
    job_id: Id
    executor: Annotated[dict[_Short, _Short], Field(min_length=1, max_length=64)]
    refused: Annotated[tuple[Line, ...], Field(max_length=1000)] = ()

    def answer(self) -> Opened:
        """Return it as the executor contract knows it."""
        return Opened(
            unit=self.unit, epoch=self.epoch, job_id=self.job_id, executor=self.executor, refused=self.refused
        )


class AttemptAnswer(Held):
    """See `api.messages.AttemptDone`; `shard_sha256` is the hash of the document that names the shard's other files."""

    said: Literal["attempt"] = "attempt"
    job_id: Id
    index: _Index
    outcome: Literal["success", "failure"]
    held: bool = False
    touched: bool = False
    subtask: _Short = ""
    eef: _Short = ""
    reason: _Short = ""
    sources: Annotated[tuple[dict[_Short, _Short | int | float | None], ...], Field(max_length=1000)] = ()
    start_poses: Annotated[dict[_Short, tuple[float, ...]], Field(max_length=1000, default_factory=dict)]
    steps: _Index = 0
    executor: _Short = ""
    shard_sha256: Sha256 | Literal[""] = ""
    shard_bytes: _Number = 0
    seconds: _Seconds = 0.0
    worker: WorkerId

    def answer(self) -> AttemptDone:
        """Return it as the executor contract knows it. Raises SpecError when it contradicts itself."""
        if self.outcome == "success" and not self.shard_sha256:
            raise SpecError(f"attempt {self.index} is a success and names no shard")
        record = AttemptRecord(
            index=self.index,
            outcome=self.outcome,
            held=self.held,
            touched=self.touched,
            subtask=self.subtask,
            eef=self.eef,
            reason=self.reason,
            sources=self.sources,
            start_poses=self.start_poses,
            steps=self.steps,
            executor=self.executor,
        )
        return AttemptDone(
            unit=self.unit,
            epoch=self.epoch,
            job_id=self.job_id,
            record=record,
            shard_sha256=self.shard_sha256,
            shard_bytes=self.shard_bytes,
            seconds=self.seconds,
            worker=self.worker,
        )


class DrawnAnswer(Held):
    """See `api.messages.Drawn`; `clips_sha256` is the hash of the document that names the clips."""

    said: Literal["drawn"] = "drawn"
    job_id: Id
    index: _Index
    frames: _Index
    seconds: _Seconds = 0.0
    bytes: _Number = 0
    clips_sha256: Sha256

    def answer(self) -> Drawn:
        """Return it as the executor contract knows it."""
        return Drawn(
            unit=self.unit,
            epoch=self.epoch,
            job_id=self.job_id,
            index=self.index,
            frames=self.frames,
            seconds=self.seconds,
            bytes=self.bytes,
        )


class UnableAnswer(Held):
    """A worker cannot do a unit; see `api.messages.Failed`.

    It may lack what others have, so the job does not end by it: the unit goes to somebody else and the job tells of it.
    """

    said: Literal["unable"] = "unable"
    message: Annotated[str, StringConstraints(max_length=4000)]


class Death(Held):
    """A worker is gone in the middle of a unit; see `api.leases.died`."""

    worker: WorkerId
    at_index: _Index | None = None
    how: _Short
    began: bool = True


WireAnswer = Annotated[OpenedAnswer | AttemptAnswer | DrawnAnswer | UnableAnswer, Field(discriminator="said")]


class Answers(Body):
    """What a machine's workers have done since it last said so, in their order; deaths come after all of it."""

    owner: Id
    answers: Annotated[tuple[WireAnswer, ...], Field(max_length=MOST_ANSWERS)] = ()
    deaths: Annotated[tuple[Death, ...], Field(max_length=MOST_ANSWERS)] = ()


class Entered(BaseModel):
    """What became of answers; see `api.leases.Receipt`."""

    committed: int
    lost: list[int]
    unlike: list[int]
    ended: list[str]


class Arrived(BaseModel):
    """How much of a file has arrived; `complete` when it is all there and has its hash."""

    offset: int
    complete: bool


def wire_answer(answer: Answer, *, worker: str, clips_sha256: str = "") -> dict[str, Any]:
    """Return an answer of a worker as it travels; `worker` is the name under which its service knows it."""
    lease = {"unit": answer.unit, "epoch": answer.epoch}
    if isinstance(answer, Opened):
        about = {"job_id": answer.job_id, "executor": dict(answer.executor), "refused": list(answer.refused)}
        return {"said": "opened", **lease, **about}
    if isinstance(answer, Drawn):
        about = {name: getattr(answer, name) for name in ("job_id", "index", "frames", "seconds", "bytes")}
        return {"said": "drawn", **lease, **about, "clips_sha256": clips_sha256}
    if isinstance(answer, Failed):
        return {"said": "unable", **lease, "message": answer.message[-4000:]}
    if isinstance(answer, AttemptDone):
        about = {name: getattr(answer, name) for name in ("job_id", "shard_sha256", "shard_bytes", "seconds")}
        return {"said": "attempt", **lease, **about, **vars(answer.record), "worker": worker}
    raise SpecError(
        f"a worker that pulls answered with {type(answer).__name__}; it is only given attempts and pictures"
    )
