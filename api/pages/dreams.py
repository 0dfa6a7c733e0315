"""Pages of jobs of dreams: the form that asks for one, and a gallery with each dream beside its simulator twin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from fastapi import Request
from fastapi.datastructures import FormData
from fastapi.responses import HTMLResponse, Response
from pydantic import ValidationError
from sqlmodel import Session, col, select

from api import answers, dream_requests, dreams, jobs
from api.context import Service
from api.dream_requests import DreamRequest
from api.pages import overview, words
from api.pages.door import In, Reader, Writer, go, missing, rooms, wrong
from api.pages.rendering import page
from api.tables import Dataset, Dream, Job
from factory.errors import FactoryError

router = rooms()

_A_PAGE = 24
_MOST_DATASETS = 50
_BLANK: Mapping[str, str] = {
    "name": "", "tasks": "tabletop", "dataset": "", "held_out": "1", "variant": "D0", "frames": "20", "per_frame": "1",
    "seeds": "1", "seed": "0", "propose": "state", "video": "", "idm": "", "latents": "", "judge": "nobody",
    "classifier": "", "steps": "12", "replay": "tracked", "only": "all", "priority": "normal",
}  # fmt: skip
"""The form as it is first seen; a switch that is off is empty."""


@router.get("/dreams/new")
def form(request: Request, service: In, _: Reader, source: str = "") -> HTMLResponse:
    """Show the form, as it is at first, or as an earlier job asked for it."""
    values = dict(_BLANK)
    if source:
        with service.database.reading() as session:
            job = jobs.get(session, source)
            values |= _values_of(dream_requests.request_of(dreams.asked_of(job)))
            values["name"] = job.name
    return _form_page(request, service, values)


@router.post("/dreams/new")
async def create(request: Request, service: In, caller: Writer) -> Response:
    """Enter the job of dreams that the form asks for and show it."""
    values = _typed(await request.form())
    try:
        asked = DreamRequest.model_validate(_request_from(values))
        entered = dream_requests.enter(service, asked, caller, name=None)
    except (ValidationError, FactoryError) as error:
        problem = str(error) if isinstance(error, FactoryError) else wrong(error)
        return _form_page(request, service, values, problem=problem, status=422)
    return go(f"/jobs/{entered.job.id}")


@router.get("/jobs/{job_id}/dreams")
def gallery(
    request: Request,
    service: In,
    _: Reader,
    job_id: str,
    tier: str = "",
    verdict: str = "",
    after: int = -1,
    show: int | None = None,
) -> HTMLResponse:
    """Show the dreams of a job; `show` is the number of the one in the player."""
    with service.database.reading() as session:
        job = jobs.get(session, job_id)
        counts = dreams.counts(session, job_id)
        rows = dreams.listed(
            session, job_id, after=after, limit=_A_PAGE + 1, tier=tier or None, verdict=verdict or None
        )
        chosen = session.get(Dream, (job_id, show)) if show is not None else (rows[0] if rows else None)
    if show is not None and chosen is None:
        raise missing(f"dream {show} of job {job_id}")
    kept = {name: value for name, value in (("tier", tier), ("verdict", verdict)) if value}
    return page(
        request,
        "dreams.html",
        job=job,
        title=overview.title(job, jobs.spec_of(job)),
        cards=[card(row) for row in rows[:_A_PAGE]],
        more=len(rows) > _A_PAGE,
        after=after,
        shown=None if chosen is None else chosen.idx,
        waiting=None,
        film=None if chosen is None else film(chosen),
        evidence=None if chosen is None else evidence(chosen),
        filters=[
            (name, wanted, chips(name, counts[name], kept)) for name, wanted in (("tier", tier), ("verdict", verdict))
        ],
        here_address=f"/jobs/{job_id}/dreams?{urlencode(kept)}",
        base=f"/jobs/{job_id}/dreams",
        every=sum(counts["tier"].values()),
    )


def live(session: Session, job: Job) -> dict[str, Any]:
    """Return what the page of a job says about its dreams besides what it says about any job."""
    counts, asked, said = dreams.counts(session, job.id), dreams.asked_of(job), job.result or {}
    return {
        "asked": asked,
        "stage": dreams.stage_of(job),
        "steps": _steps(job),
        "stage_done": (said.get("done", 0), said.get("of", 1)),
        "tiers": [(name, words.DREAMS[name], counts["tier"][name]) for name in words.DREAMS if name in counts["tier"]],
        "verdicts": [(n, words.DREAMS[n], counts["verdict"][n]) for n in words.DREAMS if n in counts["verdict"]],
        "dreams": sum(counts["tier"].values()),
        "cards": [card(row) for row in dreams.listed(session, job.id, limit=8)],
    }


def settings(job: Job) -> list[tuple[str, str]]:
    """Return the settings of a job of dreams that people ask about first."""
    asked, spec = dreams.asked_of(job), jobs.spec_of(job)
    found = [
        ("First frames", f"{asked.frames:,} of {', '.join(asked.tasks) or f'dataset {asked.dataset}'}"),
        ("Starts", asked.variant + (", held-out tasks alone" if asked.held_out else "")),
        ("Dreams", f"{asked.per_frame} for each frame, {asked.seeds} of each instruction"),
        ("Proposed by", "what the simulator knows" if asked.propose == "state" else "the language model"),
        ("Video model", f"{asked.video or 'the shipped one'}, {asked.steps} steps"),
        ("Judged by", (asked.classifier or "the shipped classifier") if asked.judge == "classifier" else asked.judge),
        ("Read by", asked.idm or "the shipped inverse dynamics model"),
        ("Latent actions", asked.latents),
        ("Carried out", asked.replay.replace("_", " ")),
        ("Dataset of", {"all": "every dream"}.get(asked.only, f"dreams that are {asked.only}")),
        ("Gives up", f"after {spec.max_wall_s:g} s" if spec.max_wall_s is not None else ""),
        ("Seed", str(asked.seed)),
        *((f"label {name}", str(value)) for name, value in job.labels.items()),
    ]
    return [(name, value) for name, value in found if value]


def card(row: Dream) -> dict[str, Any]:
    """Return a card of the gallery for a dream."""
    answer = answers.of_dream(row)
    return {
        "number": row.idx,
        "title": f"Dream {row.idx}",
        "still": answer.first_frame or "",
        "text": row.instruction,
        "verdict": words.DREAMS[row.verdict] if row.verdict != "not_judged" else None,
        "tier": words.DREAMS[row.tier],
    }


def film(row: Dream) -> dict[str, Any] | None:
    """Return what the player needs for a dream and its twin; None until it was dreamt."""
    answer, shown = answers.of_dream(row), row.record.get("film")
    if shown is None or answer.film is None:
        return None
    seconds = shown["pictures"] / shown["hz"]
    twins = [(f"simulator, {camera}", url, 0.0, seconds) for camera, url in answer.twins.items()]
    return {
        "title": f"Dream {row.idx}",
        "views": [("dream", answer.film, 0.0, seconds), *twins],
        "rows": shown["pictures"],
        "fps": float(shown["hz"]),
        "segments": [],
        "facts": [
            ("instruction", row.instruction),
            ("came of it", words.DREAMS[row.tier][0]),
            ("judge", words.DREAMS[row.verdict][0]),
            ("confidence of its labels", "" if row.confidence is None else f"{row.confidence:.2f}"),
        ],
    }


def evidence(row: Dream) -> dict[str, Any]:
    """Return what is known about a dream: why it was judged so, what carrying it out showed, where it came from."""
    record = row.record
    judged, tried = record.get("judgement") or {}, record.get("verification") or {}
    came = [
        ("first frame", row.frame),
        ("proposed by", f"{record.get('proposer', '')} {record.get('prompt_version', '')}".strip()),
        ("seed", str(row.seed)),
        ("video model", record.get("model", "")),
        ("labelled by", record.get("labelled_by", "")),
    ]
    return {
        "row": row,
        "first": answers.of_dream(row).first_frame,
        "verdict": words.DREAMS[row.verdict],
        "tier": words.DREAMS[row.tier],
        "events": [(name.replace("_", " "), ", ".join(said)) for name, said in (judged.get("events") or {}).items()],
        "judged": [
            ("score", _number(judged.get("score"))),
            ("votes", ", ".join(_number(vote) for vote in judged.get("votes") or ())),
            ("a wrong sentence", _number(judged.get("contrast"))),
            ("really done", judged.get("caption") or ""),
            ("reason", judged.get("reason") or ""),
            ("by", record.get("judged_by", "")),
        ],
        "tried": [
            ("why", tried.get("reason") or ""),
            ("carried out", str(tried.get("mode", "")).replace("_", " ")),
            ("off its labels", "" if tried.get("off_m") is None else f"{1000 * tried['off_m']:.0f} mm"),
            ("touched success", "yes" if tried.get("touched") else ""),
        ],
        "came": [(name, value) for name, value in came if value],
    }


def chips(name: str, counts: Mapping[str, int], kept: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the links that narrow a gallery by a tier or verdict; the first takes the narrowing away."""
    others = {key: value for key, value in kept.items() if key != name}
    every = {"name": "", "words": "Any", "count": sum(counts.values()), "query": urlencode(others)}
    known = [value for value in words.DREAMS if value in counts]
    return [every] + [
        {"name": v, "words": words.DREAMS[v][0], "count": counts[v], "query": urlencode({**others, name: v})}
        for v in known
    ]


def _steps(job: Job) -> list[tuple[str, str, str]]:
    """Return each stage: its name, "done", "now" or "later", and what it does."""
    stages, now = list(dreams.asked_of(job).stages), dreams.stage_of(job)
    at = len(stages) if job.status in (*jobs.FINAL, "finalizing") and not job.error else stages.index(now)
    kinds = ["done" if i < at else "now" if i == at else "later" for i in range(len(stages))]
    return [(stage, kind, words.DREAM_STAGES[stage]) for stage, kind in zip(stages, kinds, strict=True)]


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.2f}"


# --- the form ---------------------------------------------------------------------------------------------------------


def _typed(form: FormData) -> dict[str, str]:
    values = {name: str(form.get(name, default)).strip() for name, default in _BLANK.items()}
    return values | {"held_out": "1" if "held_out" in form else ""}


def _request_from(values: Mapping[str, str]) -> dict[str, Any]:
    """Return the body of `POST /v1/dreams` that the form's values mean; what is no number stays text and is refused."""
    body: dict[str, Any] = {name: value for name, value in values.items() if value}
    body["tasks"] = [] if values["dataset"] else [part.strip() for part in values["tasks"].split(",") if part.strip()]
    body["held_out"] = bool(values["held_out"]) and not values["dataset"]
    if values["judge"] != "classifier":
        body.pop("classifier", None)
    return body


def _values_of(request: Mapping[str, Any]) -> dict[str, str]:
    values = {name: str(request[name]) for name in _BLANK if name in request and name not in ("tasks", "held_out")}
    values["tasks"] = ", ".join(request.get("tasks", ()))
    return values | {"held_out": "1" if request.get("held_out") else ""}


def _form_page(
    request: Request, service: Service, values: Mapping[str, str], *, problem: str = "", status: int = 200
) -> HTMLResponse:
    query = select(Dataset).where(Dataset.kind == "lerobot").order_by(col(Dataset.created_at).desc())
    with service.database.reading() as session:
        datasets = list(session.exec(query.limit(_MOST_DATASETS)))
        used = _models_used(session)
    return page(
        request, "new_dreams.html", status=status, v=values, problem=problem, datasets=datasets, used=used
    )  # fmt: skip


def _models_used(session: Session) -> Sequence[str]:
    """Return the video models of earlier jobs, newest first: what may be suggested."""
    rows = session.exec(select(Job.spec).where(Job.purpose == "dream").order_by(col(Job.created_at).desc()).limit(50))
    return [name for name in dict.fromkeys(str(spec["dream"]["video"]) for spec in rows) if name]
