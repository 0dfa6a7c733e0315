"""What a caller is told when a request cannot be served: RFC 9457 problem documents, for every status and route.

A problem names the part of the request it is about, what was found there and what would have been accepted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from factory.errors import BackendError, DatasetError, DemoError, FactoryError, ServiceError, SpecError, StorageError

MEDIA_TYPE = "application/problem+json"
_log = logging.getLogger(__name__)
_LONGEST = 300
_UNAVAILABLE = "the service cannot read or write its job book or its files at the moment; its log says why"

_STATUS: Mapping[type[FactoryError], tuple[int, str]] = {
    SpecError: (422, "invalid_spec"),
    DemoError: (422, "invalid_demonstrations"),
    BackendError: (422, "invalid_spec"),
    DatasetError: (422, "invalid_dataset"),
}


class Problem(BaseModel):
    """Why a request was not served (RFC 9457).

    Attributes:
        type: URN of the kind of problem.
        title: the status in words.
        status: HTTP status.
        detail: a sentence for a person.
        code: short machine name, stable.
        field: dotted name of the part of the request it is about.
        found: what was found there.
        allowed: what would have been accepted.
        errors: every part that is wrong, when there are several.
    """

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "urn:trajectory-factory:not_found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "there is no job 'job_0000000000000000'",
                    "code": "not_found",
                    "field": "job_id",
                    "found": "job_0000000000000000",
                }
            ]
        }
    )
    type: str
    title: str
    status: int
    detail: str
    code: str
    field: str | None = None
    found: Any = None
    allowed: Any = None
    errors: list[dict[str, Any]] | None = Field(default=None)


class TooManyError(ServiceError):
    """A limit of the caller is reached; it may come again after `retry_after_s`."""

    def __init__(self, message: str, *, code: str, retry_after_s: float, **about: Any) -> None:
        super().__init__(message, status=429, code=code, **about)
        self.retry_after_s = retry_after_s


def not_found(kind: str, found: str) -> ServiceError:
    """Return the error for an id that nothing has."""
    return ServiceError(
        f"there is no {kind} {shown(found)!r}", status=404, code="not_found", field=f"{kind}_id", found=found
    )


def problem_response(
    status: int,
    detail: str,
    *,
    code: str = "",
    field: str = "",
    found: Any = None,
    allowed: Any = None,
    errors: Sequence[dict[str, Any]] = (),
    headers: Mapping[str, str] | None = None,
) -> JSONResponse:
    """Return a problem document; whatever `found` is, the document can be encoded."""
    title = HTTPStatus(status).phrase
    code = code or title.lower().replace(" ", "_").replace("-", "_")
    body: dict[str, Any] = {
        "type": f"urn:trajectory-factory:{code}",
        "title": title,
        "status": status,
        "detail": printable(detail, 2000),
        "code": code,
    }
    if field:
        body |= {"field": printable(field), "found": shown(found)}
    if allowed is not None:
        body["allowed"] = allowed
    if len(errors) > 1:
        body["errors"] = list(errors)
    return JSONResponse(body, status_code=status, headers=dict(headers or {}), media_type=MEDIA_TYPE)


def shown(value: Any) -> Any:
    """Return a value as it may stand in an answer: finite, short, encodable."""
    if value is None or isinstance(value, bool | int):
        return value if not isinstance(value, int) or abs(value) < 1 << 63 else printable(f"{value:.6e}")
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, bytes):
        return printable(value[:_LONGEST].decode("utf-8", "replace"))
    if isinstance(value, Mapping | Sequence | set | frozenset):
        flat = all(isinstance(item, str | int | float | bool | None) for item in value)
        if flat and len(value) <= 20 and not isinstance(value, Mapping):
            return [shown(item) for item in value]
        return f"{type(value).__name__} of {len(value)}"
    return printable(str(value))


def printable(text: str, most: int = _LONGEST) -> str:
    """Return text without control characters and half characters, at most so long."""
    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[: most + 1])
    return kept if len(kept) <= most else kept[: most - 1] + "…"


def of_error(error: FactoryError) -> JSONResponse:
    """Return the problem that an error of the project is to a caller."""
    if isinstance(error, ServiceError):
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
        if isinstance(error, TooManyError):
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
        return problem_response(
            error.status,
            str(error),
            code=error.code,
            field=error.field,
            found=error.found,
            allowed=error.allowed,
            headers=headers,
        )
    if isinstance(error, StorageError):
        _log.error("storage failed: %s", error)  # it names paths and hosts, which are no caller's business
        return problem_response(503, _UNAVAILABLE, code="storage")
    status, code = next((s for kind, s in _STATUS.items() if isinstance(error, kind)), (500, "defect"))
    return problem_response(status, str(error), code=code)


def install(app: FastAPI, allowed_methods: Any) -> None:
    """Make every error of `app` a problem document.

    Args:
        app: the application.
        allowed_methods: path -> methods that some route of it serves.
    """

    async def service(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, FactoryError):
            raise error
        return of_error(error)

    async def framework(request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, HTTPException):
            raise error
        headers = dict(error.headers or {})
        if error.status_code == 405:
            methods = sorted(allowed_methods(request.url.path))
            headers["Allow"] = ", ".join(methods)
            detail = f"{request.url.path} does not know {request.method}"
            return problem_response(405, detail, field="method", found=request.method, allowed=methods, headers=headers)
        detail = f"there is nothing at {request.url.path}" if error.status_code == 404 else str(error.detail)
        return problem_response(error.status_code, detail, headers=headers)

    async def validation(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, RequestValidationError):
            raise error
        return _of_validation(error)

    async def database(_request: Request, error: Exception) -> JSONResponse:
        _log.exception("the job book failed", exc_info=error)
        return problem_response(503, _UNAVAILABLE, code="storage")

    async def disk(_request: Request, error: Exception) -> JSONResponse:
        _log.exception("the disk failed", exc_info=error)
        return problem_response(503, _UNAVAILABLE, code="storage")

    async def defect(_request: Request, error: Exception) -> JSONResponse:
        _log.exception("a defect", exc_info=error)
        return problem_response(500, "the service made a mistake; its log says which", code="defect")

    app.add_exception_handler(FactoryError, service)
    app.add_exception_handler(HTTPException, framework)
    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(DBAPIError, database)
    app.add_exception_handler(OSError, disk)
    app.add_exception_handler(Exception, defect)


def _of_validation(error: RequestValidationError) -> JSONResponse:
    errors = [_part(entry) for entry in error.errors()[:20]]
    first = errors[0]
    if error.errors()[0]["type"] == "json_invalid":
        return problem_response(400, f"the body is not JSON: {first['message']}", code="invalid_json")
    where = f"{first['field']}: " if first["field"] else ""
    more = f" ({len(errors)} parts of the request are wrong)" if len(errors) > 1 else ""
    return problem_response(
        422,
        f"{where}{first['message']}{more}",
        code="invalid_request",
        field=first["field"],
        found=first["found"],
        allowed=first.get("allowed"),
        errors=errors,
    )


def _part(entry: Mapping[str, Any]) -> dict[str, Any]:
    place = [str(part) for part in entry["loc"] if part not in ("body", "query", "path", "header")]
    context = entry.get("ctx") or {}
    part = {
        "field": printable(".".join(place) or str(entry["loc"][0])),
        "message": printable(str(entry["msg"]).removeprefix("Value error, ")),
        "found": shown(entry.get("input")),
    }
    if "expected" in context:
        part["allowed"] = printable(str(context["expected"]))
    return part


# --- what the OpenAPI document says about it --------------------------------------------------------------------------


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the entries of a route's `responses` for these statuses."""
    return {status: _documented(status) for status in statuses}


def document(openapi: dict[str, Any]) -> None:
    """Add to an OpenAPI document the problems that any route may answer with, and take out the framework's own."""
    schemas = openapi.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas["Problem"] = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    for path, item in openapi["paths"].items():
        for method, operation in item.items():
            answers = operation.setdefault("responses", {})
            for status in _usual(path, method, operation):
                if str(status) not in answers or status == 422:
                    answers[str(status)] = _documented(status)


def _usual(path: str, method: str, operation: Mapping[str, Any]) -> Iterable[int]:
    yield from (400, 503)
    if operation.get("security"):
        yield from (401, 403, 429)
    if "{" in path:
        yield 404
    if operation.get("parameters") or "requestBody" in operation:
        yield 422
    if "requestBody" in operation or method == "post":
        yield from (408, 413)


def _documented(status: int) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Problem"}
    answer: dict[str, Any] = {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
    if status == 429:
        answer["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    return answer
