"""What travels between a dispatcher and its workers: JSON values in frozen dataclasses; no database is needed for it.

A worker imports this and not the job book, which would cost it a second before it has begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from factory.statistics import AttemptRecord

Kind = Literal["simulate", "check", "render", "clip", "unpack", "verify", "finalize", "push", "dream"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """One leased unit, as it travels to a worker: JSON values only.

    Attributes:
        unit: its number; `epoch` the number of this lease of it.
        epoch: see unit.
        kind: what to do.
        job_id: whose it is; empty for a file's check.
        indices: attempt indices to try, for "simulate"; episodes to draw, for "render", or to run again, for "verify";
            dreams, for "dream".
        payload: what else is needed: the job's specification and the like.
    """

    unit: int
    epoch: int
    kind: Kind
    job_id: str = ""
    indices: tuple[int, ...] = ()
    payload: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A worker has opened what the unit needs; the first executor of a job fixes its runtime fingerprint."""

    unit: int
    epoch: int
    job_id: str
    executor: Mapping[str, str]
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AttemptDone:
    """An attempt is finished; when it was kept, its shard is in the store under its index and has this hash."""

    unit: int
    epoch: int
    job_id: str
    record: AttemptRecord
    shard_sha256: str = ""
    shard_bytes: int = 0
    seconds: float = 0.0
    worker: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One episode of a render unit has its clips."""

    unit: int
    epoch: int
    job_id: str
    index: int
    frames: int
    seconds: float = 0.0
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Done:
    """A unit is finished; `result` depends on its kind."""

    unit: int
    epoch: int
    result: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A unit cannot be done.

    Attributes:
        unit: its number.
        epoch: of the lease.
        cause: "request" when what was asked is at fault, "storage" when the disk or the store is, "defect" otherwise.
        message: a sentence for a person.
    """

    unit: int
    epoch: int
    cause: Literal["request", "storage", "defect"]
    message: str


Answer = Opened | AttemptDone | Drawn | Done | Failed
