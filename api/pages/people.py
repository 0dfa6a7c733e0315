"""Pages of who works here and who may: workers, API keys, signing in and out."""

from __future__ import annotations

from typing import Any

from fastapi import Request
from fastapi.responses import HTMLResponse, Response
from pydantic import ValidationError
from sqlmodel import col, select

from api import keys
from api.answers import of_worker
from api.database import now
from api.pages.door import Admin, In, Reader, go, rooms, wrong
from api.pages.rendering import page
from api.requests import KeyRequest
from api.tables import Dispatcher, Job, Key, Worker
from factory.errors import ServiceError

router = rooms()

_DAY_S = 86400.0


@router.get("/workers")
def workers(request: Request, service: In, _: Reader) -> HTMLResponse:
    """Show who carries work out."""
    with service.database.reading() as session:
        at = now(session)
        rows = session.exec(select(Worker).order_by(col(Worker.owner), col(Worker.id))).all()
        held = [row.job_id for row in rows if row.job_id]
        names = {job.id: job.name or job.id for job in session.exec(select(Job).where(col(Job.id).in_(held)))}
        dispatchers = session.exec(select(Dispatcher).order_by(col(Dispatcher.started_at))).all()
    lines = [
        {
            **row.model_dump(),
            **of_worker(row, at).model_dump(),
            "busy": min(1.0, row.busy_s / max(1.0, at - row.started_at)),
            "at": at,
        }
        for row in rows
    ]
    return page(request, "workers.html", workers=lines, dispatchers=dispatchers, names=names, at=at)


@router.get("/keys")
def key_list(request: Request, service: In, _: Admin) -> HTMLResponse:
    """Show who may ask."""
    return _keys(request, service)


@router.post("/keys")
async def create_key(request: Request, service: In, _: Admin) -> Response:
    """Make a key and show its secret, this once."""
    form = await request.form()
    days = str(form.get("days", "")).strip()
    asked: dict[str, Any] = {"name": str(form.get("name", "")).strip(), "scopes": form.getlist("scopes")}
    try:
        if days:
            asked["expires_in_s"] = float(days) * _DAY_S
        body = KeyRequest.model_validate(asked)
    except ValidationError as error:
        return _keys(request, service, problem=wrong(error), status=422)
    except ValueError:
        return _keys(request, service, problem=f"days is {days!r}; a number is expected", status=422)
    with service.database.transaction() as session:
        expires = None if body.expires_in_s is None else now(session) + body.expires_in_s
        key, secret = keys.create_key(session, name=body.name, scopes=body.scopes, expires_at=expires)
    return _keys(request, service, made=key, secret=secret, status=201)


@router.post("/keys/{key_id}/revoke")
def revoke_key(service: In, _: Admin, key_id: str) -> Response:
    """Make a key useless and show the others."""
    with service.database.transaction() as session:
        keys.revoke_key(session, key_id)
    return go("/keys")


def _keys(
    request: Request,
    service: In,
    *,
    made: Key | None = None,
    secret: str = "",
    problem: str = "",
    status: int = 200,
) -> HTMLResponse:
    with service.database.reading() as session:
        rows, at = keys.listed_keys(session), now(session)
    lines = [{"key": row, "state": _state(row, at)} for row in rows]
    return page(
        request,
        "keys.html",
        status=status,
        keys=lines,
        scopes=keys.SCOPES,
        made=made,
        secret=secret,
        problem=problem,
    )


def _state(key: Key, at: float) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= at else "valid"


@router.get("/login")
def login_form(request: Request, then: str = "/") -> HTMLResponse:
    """Ask for a key."""
    return page(request, "login.html", then=then, problem="")


@router.post("/login")
async def login(request: Request, service: In) -> Response:
    """Take a key for as long as the browser is open, and go where somebody wanted to go."""
    keys.check_origin(request)
    form = await request.form()
    secret, then = str(form.get("key", "")).strip(), str(form.get("then", "/"))
    try:
        with service.database.reading() as session:
            keys.key_of(session, secret)
    except ServiceError as error:
        return page(request, "login.html", status=401, then=then, problem=str(error))
    answer = go(then if then.startswith("/") and not then.startswith(("//", "/\\")) else "/")
    answer.set_cookie(
        keys.COOKIE, secret, httponly=True, samesite="strict", secure=request.url.scheme == "https", path="/"
    )
    return answer


@router.post("/logout")
def logout(request: Request) -> Response:
    """Forget the key."""
    keys.check_origin(request)
    answer = go("/login")
    answer.delete_cookie(keys.COOKIE, path="/")
    return answer
