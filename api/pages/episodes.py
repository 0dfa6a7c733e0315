"""The gallery of a job: its episodes and its failed attempts, one of them in the player."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import Form, Path, Request
from fastapi.responses import HTMLResponse, Response
from sqlmodel import Session

from api import jobs
from api.context import Service
from api.pages import films, overview, stills
from api.pages.door import In, Reader, Writer, go, missing, rooms
from api.pages.rendering import page
from api.routes.watching import make_clip
from api.tables import Attempt, Job

router = rooms()

_A_PAGE = 24


@router.get("/jobs/{job_id}/episodes")
def gallery(
    request: Request,
    service: In,
    _: Reader,
    job_id: str,
    outcome: str = "success",
    demo: str = "",
    subtask: str = "",
    reason: str = "",
    after: int = -1,
    show: int | None = None,
) -> HTMLResponse:
    """Show episodes, or failed attempts; `show` is the number of the one in the player."""
    with service.database.reading() as session:
        job = jobs.get(session, job_id)
        counted = jobs.failures(session, job)
        if outcome == "failure":
            shown = _failures(session, job, subtask, reason, demo, after, show)
        else:
            outcome, shown = "success", _episodes(service, session, job, demo, after, show)
    if not service.store.is_local:  # a picture is not worth fetching a whole video for
        for card in shown["cards"]:
            card["still"] = ""
    asked: dict[str, Any] = {"outcome": outcome, "demo": demo, "subtask": subtask, "reason": reason}
    kept = {name: value for name, value in asked.items() if value}
    return page(
        request,
        "episodes.html",
        **shown,
        **asked,
        job=job,
        title=overview.title(job, jobs.spec_of(job)),
        after=after,
        kept=kept,
        here_address=f"/jobs/{job_id}/episodes?{urlencode(kept)}",
        subtasks=sorted({row["subtask"] for row in counted if row["subtask"]}),
        reasons=sorted({row["reason"] for row in counted}),
    )


@router.post("/jobs/{job_id}/clips")
def draw_clip(service: In, caller: Writer, job_id: str, attempt: Annotated[int, Form()]) -> Response:
    """Have a failed attempt drawn and show it as soon as it is there."""
    make_clip(job_id, attempt, service, caller)
    return go(
        f"/jobs/{job_id}/episodes?{urlencode({'outcome': 'failure', 'show': attempt, 'after': attempt - 1})}#player"
    )


@router.get("/jobs/{job_id}/stills/{kind}/{number}.jpg")
def still(
    service: In, _: Reader, job_id: str, kind: Literal["episode", "attempt"], number: Annotated[int, Path(ge=0)]
) -> Response:
    """Return the first picture of an episode, or of a failed attempt that was drawn."""
    with service.database.reading() as session:
        job = jobs.get(session, job_id)
        dataset = films.main_dataset(session, job)
    key, at_s = "", 0.0
    if kind == "attempt":
        key = next(iter((films.clip_of(job, number) or {}).get("cameras", {}).values()), "")
    elif dataset is not None and (videos := service.library.episode(dataset, number).videos):
        first = next(iter(videos.values()))
        key, at_s = f"{dataset.key}/{first.url.partition('/files/')[2]}", first.from_s
    path = service.store.path(key) if key else None
    if path is None or not path.exists():
        raise missing("still of it on this machine")
    headers = {"Cache-Control": "private, max-age=86400"}
    return Response(stills.still(path, at_s), media_type="image/jpeg", headers=headers)


def _episodes(service: Service, session: Session, job: Job, demo: str, after: int, show: int | None) -> dict[str, Any]:
    dataset = films.main_dataset(session, job)
    if dataset is None:
        return {"cards": [], "more": False, "demos": [], "film": None, "waiting": None, "dataset": None}
    rows = service.library.episodes(dataset, after=after, limit=_A_PAGE + 1, source=demo or None)
    cards = [films.episode_card(row, job.id) for row in rows[:_A_PAGE]]
    number = show if show is not None else cards[0]["number"] if cards else None
    film = None if number is None else films.episode_film(service.library.episode(dataset, number))
    return {
        "cards": cards,
        "more": len(rows) > _A_PAGE,
        "demos": service.library.sources(dataset),
        "film": film,
        "shown": number,
        "waiting": None,
        "dataset": dataset,
    }


def _failures(
    session: Session, job: Job, subtask: str, reason: str, demo: str, after: int, show: int | None
) -> dict[str, Any]:
    rows, more = films.failures(session, job, subtask=subtask, reason=reason, demo=demo, after=after, limit=_A_PAGE)
    chosen = session.get(Attempt, (job.id, show)) if show is not None else None
    if show is not None and chosen is None:
        raise missing(f"attempt {show} of job {job.id}")
    clip = films.clip_of(job, chosen.idx) if chosen is not None else None
    film = films.failure_film(chosen, job) if chosen is not None else None
    return {
        "cards": [films.failure_card(row, job) for row in rows],
        "more": more,
        "demos": sorted({name for row in rows for name in films.demos_of(row)} | ({demo} if demo else set())),
        "film": film,
        "shown": show,
        "waiting": chosen if film is None else None,
        "problem": (clip or {}).get("error"),
        "drawing": chosen is not None and films.is_being_drawn(session, job, chosen.idx),
        "dataset": None,
    }
