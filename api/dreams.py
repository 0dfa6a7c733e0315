"""Dreams in the job book: stages as units of work, one stage after the other, and what is known of each dream.

    prepare -> frames -> propose -> generate -> (judge) -> label -> verify -> export -> a dataset is written

The units of a stage are batches of dreams, shared by all workers that can do it; when the last of them is committed the
next stage begins. A worker that dies in the middle of a batch loses nothing: what it finished lies in the job's run and
is not done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, func
from sqlmodel import Session, col, select

from api import jobs
from api.database import now
from api.dream_specs import STAGES, DreamSpec, Stage
from api.specs import dream_job
from api.tables import Dream, Job, Unit
from factory.errors import SpecError

NEEDS: Mapping[Stage, str] = {
    "prepare": "dream",
    "frames": "replay",
    "propose": "dream",
    "generate": "dream",
    "judge": "dream",
    "label": "dream",
    "verify": "replay",
    "export": "dream",
}
"""What a worker must be able to do for each stage: run video models, or put robots into the simulator."""
TASKS_A_UNIT = 4
"""Tasks whose starts are drawn under one lease: a simulator and a renderer are opened for each."""
_COLUMNS = ("frame", "task", "instruction", "seed", "verdict", "tier", "confidence")


def create(
    session: Session,
    asked: DreamSpec,
    *,
    max_wall_s: float | None = None,
    name: str = "",
    labels: dict[str, Any] | None = None,
    key_id: str | None = None,
    weight: float = 1.0,
) -> Job:
    """Enter a job of dreams; its first stage waits for a worker."""
    job = jobs.create(
        session, dream_job(asked, max_wall_s=max_wall_s), purpose="dream", name=name, labels=labels, key_id=key_id,
        weight=weight,
    )  # fmt: skip
    _begin(session, job, "prepare", [{}])
    return job


def asked_of(job: Job) -> DreamSpec:
    """Return what a job of dreams asks for. Raises SpecError for a job of another kind."""
    found = jobs.spec_of(job).dream
    if found is None:
        raise SpecError(f"job {job.id} is no job of dreams")
    return found


def stage_of(job: Job) -> Stage:
    """Return the stage that a job is in."""
    return (job.result or {}).get("stage", STAGES[0])


def needs(job: Job) -> str:
    """Return what a worker must be able to do for the job's present stage."""
    return NEEDS[stage_of(job)]


def progress(job: Job) -> float:
    """Return which share of its stages a job has done, parts of the present one counted, 0 to 1."""
    stages, said = asked_of(job).stages, job.result or {}
    share = said.get("done", 0) / max(1, said.get("of", 1))
    return min(1.0, (stages.index(stage_of(job)) + min(1.0, share)) / len(stages))


def film_key(job_id: str, index: int, name: str) -> str:
    """Return where a film or picture of a dream lies in the store."""
    return f"jobs/{job_id}/films/{name_of(index)}/{name}"


def name_of(index: int) -> str:
    """Return the name of a dream in its run."""
    return f"dream-{index:05d}"


# --- stages -----------------------------------------------------------------------------------------------------------


def done(session: Session, job: Job, unit: Unit, result: Mapping[str, Any]) -> None:
    """Enter what a unit brought and, when it was the last one of its stage, begin the next.

    Args:
        session: of a writing transaction; the job is locked.
        job: whose unit it is.
        unit: is deleted.
        result: "seconds"; "dreams": rows to enter or change, by "index"; "facts": what is remembered of the job.
    """
    seconds, stage = float(result.get("seconds", 0.0)), unit.payload["stage"]
    job.worker_s, job.virtual_s = job.worker_s + seconds, job.virtual_s + seconds / job.weight
    job.paused_for = ""
    for said in result.get("dreams", ()):
        _enter(session, job, stage, said)
    before = job.result or {}
    parts = max(1, len(unit.payload.get("indices", ())))
    job.result = {**before, **result.get("facts", {}), "done": before.get("done", 0) + parts}
    session.delete(unit)
    session.flush()
    if stage == "verify":
        _count(session, job)
    more = select(Unit.id).where(Unit.job_id == job.id, Unit.kind == "dream").limit(1)
    if session.exec(more).first() is None:
        _go_on(session, job, stage)


def end(session: Session, job: Job, rule: str) -> None:
    """Stop a job that was cancelled or whose time is up; dreams whose actions were read become a smaller dataset."""
    job.end_index, job.ended_by = job.prefix, rule
    session.exec(delete(Unit).where(col(Unit.job_id) == job.id, col(Unit.kind) == "dream"))
    read = _indices(session, job, read=True)
    why = "It was cancelled" if rule == "cancelled" else "Its time was up"
    job.advice = f"{why} in the stage {stage_of(job)!r}." + (" The dataset holds what was there." if read else "")
    jobs.tell(session, job, "dream.ended", {"rule": rule, "stage": stage_of(job), "dreams": len(read)})
    session.flush()
    if read:
        _begin_export(session, job)
    else:
        jobs.finish(session, job)


def _go_on(session: Session, job: Job, stage: Stage) -> None:
    asked, said = asked_of(job), job.result or {}
    if stage == "export":
        _close(session, job)
        return
    following = asked.stages[asked.stages.index(stage) + 1]
    if following == "frames":
        shares: dict[str, int] = said.get("shares", {})
        tasks = list(shares.items())
        parts = [dict(tasks[i : i + TASKS_A_UNIT]) for i in range(0, len(tasks), TASKS_A_UNIT)]
        _begin(session, job, following, [{"shares": part, "grid": said["grid"]} for part in parts or [{}]])
    elif following == "propose":
        _begin(session, job, following, [{}])
    elif following == "export":
        _begin_export(session, job)
    else:
        indices = _indices(session, job)
        if not indices:
            _give_up(session, job, "No instruction was proposed for any first frame; try other tasks or more frames.")
            return
        batches = [indices[i : i + asked.batch] for i in range(0, len(indices), asked.batch)]
        _begin(session, job, following, [{"indices": batch} for batch in batches], of=len(indices))


def _begin(session: Session, job: Job, stage: Stage, parts: Sequence[Mapping[str, Any]], *, of: int = 0) -> None:
    at = now(session)
    job.result = {**(job.result or {}), "stage": stage, "of": of or len(parts), "done": 0}
    jobs.tell(session, job, "dream.stage", {"stage": stage, "units": len(parts)} | ({"dreams": of} if of else {}))
    for number, part in enumerate(parts):
        payload = {"stage": stage, **part}
        session.add(Unit(kind="dream", job_id=job.id, start=number, remaining=1, payload=payload, created_at=at))
    session.flush()


def _begin_export(session: Session, job: Job) -> None:
    jobs.start_exporting(session, job)
    _begin(session, job, "export", [{"indices": _indices(session, job, read=True)}])


def _close(session: Session, job: Job) -> None:
    if (job.result or {}).get("exported"):
        jobs.start_finalizing(session, job)
    else:
        _give_up(session, job, f"No dream is {asked_of(job).only}, so there is no dataset; ask for all of them.")


def _give_up(session: Session, job: Job, advice: str) -> None:
    job.ended_by, job.advice = job.ended_by or "attempts", job.advice or advice
    jobs.finish(session, job)


def _enter(session: Session, job: Job, stage: Stage, said: Mapping[str, Any]) -> None:
    row = session.get(Dream, (job.id, said["index"])) or Dream(job_id=job.id, idx=said["index"])
    for name in _COLUMNS:
        if name in said:
            setattr(row, name, said[name])
    row.record, row.stage, row.updated_at = {**row.record, **said.get("record", {})}, stage, now(session)
    session.add(row)


def _count(session: Session, job: Job) -> None:
    """Bring the job's counts up to date: attempts are dreams that were carried out, successes those that came true."""
    tiers = counts(session, job.id)["tier"]
    job.succeeded = job.prefix_successes = tiers.get("executed_success", 0)
    job.failed = tiers.get("executed_failure", 0)
    job.attempted = job.prefix = job.succeeded + job.failed


def _indices(session: Session, job: Job, *, read: bool = False) -> list[int]:
    query = select(Dream.idx).where(Dream.job_id == job.id).order_by(col(Dream.idx))
    return list(session.exec(query.where(col(Dream.confidence).is_not(None)) if read else query))


# --- questions --------------------------------------------------------------------------------------------------------


def listed(
    session: Session,
    job_id: str,
    *,
    after: int = -1,
    limit: int = 100,
    tier: str | None = None,
    verdict: str | None = None,
) -> list[Dream]:
    """Return dreams with a number above `after`, in order; only those of a tier or verdict where one is given."""
    query = select(Dream).where(Dream.job_id == job_id, col(Dream.idx) > after)
    for column, wanted in ((Dream.tier, tier), (Dream.verdict, verdict)):
        if wanted is not None:
            query = query.where(col(column) == wanted)
    return list(session.exec(query.order_by(col(Dream.idx)).limit(limit)))


def counts(session: Session, job_id: str) -> dict[str, dict[str, int]]:
    """Return how many dreams there are of each "stage" passed, "verdict" and "tier"."""
    found: dict[str, dict[str, int]] = {}
    for name in ("stage", "verdict", "tier"):
        column = col(getattr(Dream, name))
        query = select(column, func.count()).where(Dream.job_id == job_id).group_by(column)
        found[name] = {str(value): int(count) for value, count in session.exec(query).all()}
    return found
