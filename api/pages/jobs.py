"""Pages of jobs: the list, and one job live."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from sqlmodel import Session

from api import jobs
from api.pages import dreams, overview
from api.pages.door import In, Reader, Writer, go, rooms
from api.pages.rendering import flat, page
from api.reproducing import reproduce
from api.specs import JobSpec
from api.tables import Job

router = rooms()

_A_PAGE = 20
_SPARK_POINTS = 24


@router.get("/")
def job_list(request: Request, service: In, _: Reader, state: str = "", after: str | None = None) -> HTMLResponse:
    """Show the jobs, newest first."""
    chosen = state if state in overview.FILTERS else ""
    with service.database.reading() as session:
        rows, more = jobs.listed(
            session, after=after, limit=_A_PAGE, status=overview.FILTERS[chosen][1], purpose=overview.LISTED
        )
        cards = overview.cards(session, rows, points=_SPARK_POINTS)
        counts = overview.counts(session)
    asked = {k: v for k, v in {"state": chosen, "after": after or ""}.items() if v}
    older = {**asked, "after": rows[-1].id} if more else {}
    return page(
        request,
        "jobs.html",
        cards=cards,
        counts=counts,
        filters=overview.FILTERS,
        chosen=chosen,
        more=more,
        active=any(card["active"] for card in cards),
        address=f"/?{urlencode(asked)}" if asked else "/",
        next_address=f"/?{urlencode(older)}",
        base=str(request.base_url).rstrip("/"),
    )


@router.get("/jobs/{job_id}")
def job_page(request: Request, service: In, _: Reader, job_id: str) -> HTMLResponse:
    """Show one job."""
    with service.database.reading() as session:
        job = jobs.get(session, job_id)
        values = overview.live(session, job) | _dreaming(session, job)
    spec: JobSpec = values["spec"]
    return page(
        request,
        "job.html",
        **values,
        title=values["job"]["title"],
        again=reproduce(job, spec, str(request.base_url)),
        asked=dreams.settings(job) if spec.dream else _asked(spec, job),
        settings=flat(
            job.spec["dream"]
            if spec.dream
            else {"generation": values["row"].spec["generation"], "render": job.spec.get("render") or {}}
        ),
        executor=list((job.executor or (job.result or {}).get("models", {})).items()),
        refused=job.refused,
    )


@router.get("/jobs/{job_id}/live")
def job_live(request: Request, service: In, _: Reader, job_id: str) -> HTMLResponse:
    """Return the part of a job's page that changes."""
    with service.database.reading() as session:
        job = jobs.get(session, job_id)
        values = overview.live(session, job) | _dreaming(session, job)
    return page(request, values["part"], **values)


@router.post("/jobs/{job_id}/{verb}")
def job_action(service: In, _: Writer, job_id: str, verb: Literal["cancel", "pause", "resume"]) -> Response:
    """Cancel, pause or resume a job and show it."""
    act = {"cancel": jobs.cancel, "pause": jobs.pause, "resume": jobs.resume}[verb]
    with service.database.transaction() as session:
        act(session, job_id)
    return go(f"/jobs/{job_id}")


def _dreaming(session: Session, job: Job) -> dict[str, Any]:
    """Return what a job's page is made of: which template its changing part has, and what that needs besides."""
    if job.purpose != "dream":
        return {"part": "_job_live.html"}
    found = dreams.live(session, job)
    return {"part": "_dream_live.html", "dreaming": found, "asked_judge": found["asked"].judge != "nobody"}


def _asked(spec: JobSpec, job: Job) -> list[tuple[str, str]]:
    """Return the settings people ask about first."""
    render = spec.render
    wanted = f"{spec.episodes:,} episodes" if spec.episodes is not None else f"{spec.attempts or 0:,} attempts"
    rules = [f"at most {spec.limit:,} attempts"] if spec.episodes is not None else []
    rules += [f"at most {spec.max_wall_s:g} s"] if spec.max_wall_s is not None else []
    if spec.min_success_rate is not None:
        rules.append(f"below {100 * spec.min_success_rate:g} % after {spec.min_success_after:,} attempts")
    found = [
        ("Task", f"{spec.task}{f' with {spec.robot}' if spec.robot else ''}, starts {spec.generation.variant}"),
        ("From", ", ".join(source.name for source in spec.sources) if job.file_ids else "the seeds of the task"),
        ("Wanted", wanted),
        ("Gives up", "; ".join(rules)),
        ("Seed", str(spec.generation.seed)),
        (
            "Pictures",
            f"{', '.join(render.cameras)}; {render.width} × {render.height}, {render.preset}" if render else "",
        ),
        ("Written as", ", ".join(spec.formats)),
        ("Failures", "kept beside the dataset" if spec.keep_failed else ""),
        *((f"label {name}", str(value)) for name, value in job.labels.items()),
    ]
    return [(name, value) for name, value in found if value]
