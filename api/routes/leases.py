"""/v1/leases: machines that pull take work, say that they live, and answer; see docs/pull-workers.md.

Everything may be sent again: a lease that nobody heard of is given to others at the next heartbeat, and an answer that
is in the book already, or comes under an older epoch, changes nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from sqlmodel import Session, col, delete

from api import blobs, jobs, leases, wire
from api.context import In, Service
from api.database import now
from api.keys import Caller, Puller
from api.leases import Work
from api.problems import responses
from api.tables import Attempt, Job, Unit, Worker
from factory.errors import ServiceError

_PART_BYTES = 1 << 20


def spoken(
    _: Puller,
    protocol: Annotated[int, Header(alias=wire.PROTOCOL_HEADER, ge=0, le=1_000_000)] = 0,
    version: Annotated[str, Header(alias=wire.VERSION_HEADER, max_length=50)] = "0",
) -> None:
    """Refuse a worker that this service does not understand. Raises ServiceError 426 that says what to upgrade."""
    own = (wire.PROTOCOL, wire.version())
    if sentence := wire.misfit(worker=(protocol, version), service=own):
        raise ServiceError(
            sentence,
            status=426,
            code="other_protocol",
            field=wire.PROTOCOL_HEADER,
            found=f"{protocol} (version {version})",
            allowed=f"{own[0]} (version {own[1]})",
        )


router = APIRouter(
    prefix="/v1/leases", tags=["leases"], dependencies=[Depends(spoken)], responses=responses(409, 422, 426)
)


@router.post(":join", operation_id="join")
def join(asked: wire.Joining, service: In, caller: Puller) -> wire.Joined:
    """Offer a machine's workers; the answer names the owner under which it holds leases."""
    owner = f"{_prefix(caller)}{secrets.token_hex(6)}"
    with service.database.transaction() as session:
        leases.enter(session, owner, host=asked.host)
    blobs.sweep(service)
    return wire.Joined(
        owner=owner,
        protocol=wire.PROTOCOL,
        version=wire.version(),
        lease_s=leases.LEASE_S,
        part_bytes=min(_PART_BYTES, service.settings.max_body_bytes),
    )


@router.post("", operation_id="lease")
def lease(asked: wire.Asking, service: In, caller: Puller) -> wire.Offer:
    """Take as many units as the workers named have room for, and as there are; none when there is nothing to do."""
    _check_owner(asked.owner, caller, [slot.worker for slot in asked.slots])
    with service.database.reading() as session:
        if not leases.anything(session):
            return wire.Offer(given=[])
    with service.database.transaction() as session:
        sharing = max(leases.working(session), len(asked.slots))
        given = [wire.given(slot.worker, work) for slot in asked.slots for work in _take(session, asked, slot, sharing)]
    return wire.Offer(given=given)


def _take(session: Session, asked: wire.Asking, slot: wire.Slot, sharing: int) -> Sequence[Work]:
    found: list[Work] = []

    def size(job: Job) -> int:
        return leases.range_size(job, wanted=asked.sizes.get(job.id, 1), workers=sharing)

    while len(found) < slot.room and not any(work.kind != "simulate" for work in found):
        work = leases.lease(
            session,
            owner=asked.owner,
            worker=slot.worker,
            capabilities=slot.capabilities,
            size=size,
            prefer=slot.prefer,
            avoid=frozenset(slot.avoid),
            attempts_only=slot.busy or bool(found),
            only=wire.KINDS,
        )
        if work is None:
            break
        found.append(work)
    return found


@router.post(":heartbeat", operation_id="heartbeat")
def heartbeat(asked: wire.Beat, service: In, caller: Puller) -> wire.Beaten:
    """Say what a machine holds and how its workers are; everything it holds lives on for another `lease_s` seconds."""
    _check_owner(asked.owner, caller, [worker.worker for worker in asked.workers])
    with service.database.transaction() as session:
        leases.enter(session, asked.owner, host=asked.host)
        mine = leases.leased(session, asked.owner)
        holds = {held.unit for held in asked.holds if held.unit in mine and mine[held.unit].epoch == held.epoch}
        lost = {held.unit for held in asked.holds} - holds
        lost |= {number for number in holds if _is_paused(session, mine[number])}
        leases.heartbeat(session, asked.owner, holds=holds - lost)
        leases.reclaim(session)
        leases.report(session, [_row(asked, state) for state in asked.workers])
    blobs.sweep(service)
    return wire.Beaten(lost=sorted(lost))


def _row(asked: wire.Beat, state: wire.State) -> dict[str, object]:
    return {
        **state.model_dump(exclude={"worker"}),
        "id": state.worker,
        "owner": asked.owner,
        "host": asked.host,
        "transport": leases.PULLED,
        "capabilities": list(state.capabilities),
        "state": "busy" if state.doing else "idle",
    }


def _is_paused(session: Session, unit: Unit) -> bool:
    """Tell whether a range in lock step is of a paused job: it would go on for minutes; others end theirs soon."""
    job = session.get(Job, unit.job_id) if unit.job_id else None
    return job is not None and job.status == "paused" and jobs.spec_of(job).environments > 1


@router.post(":commit", operation_id="commit", responses=responses(507))
def commit(asked: wire.Answers, service: In, caller: Puller) -> wire.Entered:
    """Enter what was done under leases; what refers to files that have not been sent is refused as a whole.

    Units that are no longer the owner's come back as `lost`; their answers changed nothing.
    """
    names = [answer.worker for answer in asked.answers if isinstance(answer, wire.AttemptAnswer)]
    _check_owner(asked.owner, caller, [*names, *(death.worker for death in asked.deaths)])
    with service.database.transaction() as session:
        mine = leases.leased(session, asked.owner)
        for unit in mine.values():  # putting shards into the store takes its time
            unit.until = now(session) + leases.LEASE_S
    ours = [answer for answer in asked.answers if _fits(mine.get(answer.unit), answer)]
    foreign = {answer.unit for answer in asked.answers} - {answer.unit for answer in ours}
    done = [answer.answer() for answer in ours if not isinstance(answer, wire.UnableAnswer)]
    for answer in ours:
        _keep_files(service, mine[answer.unit], asked.owner, answer)
    with service.database.transaction() as session:
        receipt = leases.commit(session, done)
        for answer in ours:
            if isinstance(answer, wire.UnableAnswer):
                leases.unable(session, answer.unit, answer.epoch, message=answer.message)
        for death in asked.deaths:
            unit = mine.get(death.unit)
            if unit is not None and unit.epoch == death.epoch:
                _bury(session, unit, death)
        session.exec(delete(Worker).where(col(Worker.id).in_([death.worker for death in asked.deaths])))
    return wire.Entered(
        committed=receipt.committed,
        lost=sorted(receipt.lost | foreign),
        unlike=sorted(receipt.unlike),
        ended=sorted(receipt.ended),
    )


def _fits(unit: Unit | None, answer: wire.WireAnswer) -> bool:
    """Tell whether an answer is one to a lease that its owner holds, of the kind that the unit asks for."""
    if unit is None or unit.epoch != answer.epoch:
        return False
    if isinstance(answer, wire.UnableAnswer):
        return True
    kind = "render" if isinstance(answer, wire.DrawnAnswer) else "simulate"
    inside = isinstance(answer, wire.OpenedAnswer | wire.DrawnAnswer) or unit.start <= answer.index < unit.stop
    return unit.kind == kind and unit.job_id == answer.job_id and inside


def _keep_files(service: Service, unit: Unit, owner: str, answer: wire.WireAnswer) -> None:
    """Put what an answer refers to into the store, unless the book says that it is there."""
    job_id = unit.job_id or ""

    def ours() -> bool:
        with service.database.reading() as session:
            found = session.get(Unit, unit.id)
            return found is not None and (found.owner, found.epoch, found.state) == (owner, unit.epoch, "leased")

    if isinstance(answer, wire.OpenedAnswer):
        blobs.place_model(service, job_id, answer.executor.get("model_sha", ""))
    elif isinstance(answer, wire.AttemptAnswer) and answer.shard_sha256:
        with service.database.reading() as session:
            there = session.get(Attempt, (job_id, answer.index))
        if there is None:
            success = answer.outcome == "success"
            blobs.place_shard(service, job_id, answer.index, answer.shard_sha256, success=success, ours=ours)
    elif isinstance(answer, wire.DrawnAnswer) and answer.index in unit.payload.get("indices", ()):
        with service.database.reading() as session:
            spec = jobs.spec_of(jobs.get(session, job_id))
        blobs.place_clips(service, job_id, answer.index, answer.clips_sha256, spec=spec, ours=ours)


def _bury(session: Session, unit: Unit, death: wire.Death) -> None:
    work = Work(unit=death.unit, epoch=death.epoch, kind=unit.kind, job_id=unit.job_id or "")  # type: ignore[arg-type]
    leases.died(session, work, at_index=death.at_index, how=death.how, began=death.began)


@router.post(":leave", operation_id="leave", status_code=204)
def leave(asked: wire.Leaving, service: In, caller: Puller) -> None:
    """Give back everything a machine holds, and forget it."""
    _check_owner(asked.owner, caller, ())
    with service.database.transaction() as session:
        leases.leave(session, asked.owner)


# --- who asks ---------------------------------------------------------------------------------------------------------


def _prefix(caller: Caller) -> str:
    return f"pull_{(caller.key_id or 'open').removeprefix('key_')}_"


def _check_owner(owner: str, caller: Caller, workers: Sequence[str]) -> None:
    """Refuse who speaks for another key's machine, or for another machine's workers. Raises ServiceError 403."""
    if not owner.startswith(_prefix(caller)):
        raise _foreign("owner", owner, f"{_prefix(caller)}...")
    if wrong := [worker for worker in workers if not worker.startswith(f"{owner}.")]:
        raise _foreign("worker", wrong[0], f"{owner}....")


def _foreign(what: str, found: str, allowed: str) -> ServiceError:
    return ServiceError(
        f"{what} {found!r} does not belong to this key; join with it and use the owner in the answer",
        status=403,
        code="foreign_owner",
        field=what,
        found=found,
        allowed=allowed,
    )


def holds_job(session: Session, owner: str, caller: Caller, job_id: str) -> list[Unit]:
    """Return the units of a job that an owner holds.

    Raises:
        ServiceError: 403 the owner is another key's, 409 it holds none of that job.
    """
    _check_owner(owner, caller, ())
    held = [unit for unit in leases.leased(session, owner).values() if unit.job_id == job_id]
    if not held:
        raise ServiceError(
            f"{owner} holds no lease of job {job_id}; its lease may have ended",
            status=409,
            code="not_held",
            field="job_id",
            found=job_id,
        )
    return held
