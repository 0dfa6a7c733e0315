"""The way in and out of every page: who may ask, where a form leads, how a refusal looks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

from api.context import In
from api.keys import Caller, require
from api.pages.rendering import page
from factory.errors import FactoryError, ServiceError

Reader = Annotated[Caller, require("read")]
Writer = Annotated[Caller, require("write")]
Admin = Annotated[Caller, require("admin")]

__all__ = ["Admin", "In", "Reader", "Writer", "go", "missing", "rooms", "table", "wrong"]


class _PageRoute(APIRoute):
    """A route whose refusals are pages, as a person at a browser expects."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except ServiceError as error:
                if error.status == 401:
                    return _ask_for_key(request)
                return page(request, "refused.html", status=error.status, said=str(error), about=error)
            except RequestValidationError as error:
                said = "; ".join(f"{'.'.join(str(p) for p in e['loc'][1:])}: {e['msg']}" for e in error.errors()[:5])
                return page(request, "refused.html", status=422, said=said, about=None)
            except ValidationError as error:
                return page(request, "refused.html", status=422, said=wrong(error), about=None)
            except FactoryError as error:
                return page(request, "refused.html", status=422, said=str(error), about=None)

        return answer


def rooms() -> APIRouter:
    """Return a router for pages."""
    return APIRouter(include_in_schema=False, route_class=_PageRoute)


def wrong(error: ValidationError) -> str:
    """Return what is wrong with a form, for people."""
    parts: list[str] = []
    for entry in error.errors()[:5]:
        where = ".".join(str(part) for part in entry["loc"])
        parts.append(f"{where}: {entry['msg']}" if where else str(entry["msg"]).removeprefix("Value error, "))
    return "; ".join(parts)


def _ask_for_key(request: Request) -> Response:
    if request.headers.get("hx-request"):  # a part of a page that is open already: load the whole page anew
        return Response(status_code=204, headers={"HX-Refresh": "true"})
    wanted = request.url.path if request.method == "GET" else "/"
    return go(f"/login?{urlencode({'then': wanted})}")


def go(address: str) -> RedirectResponse:
    """Return the answer to a form that did what it was asked: look there, and a reload sends nothing again."""
    return RedirectResponse(address, status_code=303)


def missing(what: str) -> ServiceError:
    """Return the error of an address that leads nowhere."""
    return ServiceError(f"there is no {what}", status=404, code="not_found")


def table(name: str, form: str, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> Response:
    """Return a figure's numbers as JSON or CSV.

    Raises:
        ServiceError: 404, the figure or the form is unknown.
    """
    if not columns or form not in ("json", "csv"):
        raise missing(f"figure {name}.{form}")
    if form == "json":
        text = json.dumps({"figure": name, "columns": list(columns), "rows": [dict(row) for row in rows]})
        return Response(text, media_type="application/json")
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(columns)
    writer.writerows([[_cell(row.get(column)) for column in columns] for row in rows])
    return Response(
        out.getvalue(),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}.csv"'},
    )


def _cell(value: Any) -> Any:
    """Return a value as a cell; text that a spreadsheet would take for a formula is kept text."""
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@"):
        return "'" + value
    return value
