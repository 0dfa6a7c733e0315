"""What every request passes before any route: sizes, patience, characters that no name has; and every answer after."""

from __future__ import annotations

import time

import anyio
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.context import Service
from api.problems import problem_response

_PATIENCE_S = 30.0
_UPLOADS = ("/v1/files", "/files")
"""Where files come in; `api.uploads` counts their bytes itself."""
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"content-security-policy": (
        b"default-src 'self'; frame-ancestors 'none'; form-action 'self'; base-uri 'none'; object-src 'none'"
    ),
}


class Gate:
    """Middleware around everything."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                there = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(h for h in _HEADERS.items() if h[0] not in there)]
                self._service.metrics.request(scope["method"], _route(scope), status, time.perf_counter() - begun)
            await send(message)

        if "\0" in scope["path"] or b"%00" in scope["query_string"]:
            refusal = problem_response(400, "a name has no NUL character", code="bad_character")
            await refusal(scope, receive, answer)
            return
        limited = receive
        if scope["path"] not in _UPLOADS:
            limited = _limited(receive, self._service.settings.max_body_bytes)
        await self._app(scope, limited, answer)


def _limited(receive: Receive, most: int) -> Receive:
    """Return the same request, which ends with an error when it is too long or takes too long."""
    seen, done = 0, False

    async def read() -> Message:
        nonlocal seen, done
        if done:
            return await receive()
        try:
            with anyio.fail_after(_PATIENCE_S):
                message = await receive()
        except TimeoutError as error:
            raise HTTPException(408, f"nothing arrived for {_PATIENCE_S:.0f} s") from error
        if message["type"] == "http.request":
            seen += len(message.get("body", b""))
            done = not message.get("more_body", False)
            if seen > most:
                raise HTTPException(413, f"the body is larger than {most} bytes")
        return message

    return read


def _route(scope: Scope) -> str:
    """Return the template of the route that took a request; one word for all that none took."""
    route = scope.get("route")
    return getattr(route, "path", "other") or "other"
