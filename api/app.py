"""The HTTP service: routes, and what holds for all of them."""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.concurrency import run_in_threadpool
from starlette.routing import compile_path

from api import problems
from api.browsing import Library
from api.context import Service
from api.database import Database
from api.gate import Gate
from api.keys import Limits
from api.live import Live
from api.metrics import Metrics
from api.routes import blobs, datasets, dreams, files, health, keys, leases, sending, tasks, watching, webhooks, workers
from api.routes import jobs as job_routes
from api.sandbox import Sandbox
from api.settings import Settings
from api.store import Store
from api.webhooks import Courier

_PAGES = "api.pages.site"
_ABOUT = """Demonstrations in, thousands of verified, training-ready episodes out.

Upload a file of demonstrations (or use those shipped with a task), ask for episodes, watch them being made, download a
LeRobot dataset. Errors are problem documents (RFC 9457) that name what is wrong and what would be accepted.
"""


def create_app(settings: Settings, database: Database, store: Store) -> FastAPI:
    """Return the service; it holds a sandbox and threads while its lifespan lasts.

    The job book has to be migrated.
    """
    service = Service(
        settings=settings,
        database=database,
        store=store,
        sandbox=Sandbox(),
        live=Live(database, poll_s=settings.stream_poll_s),
        limits=Limits(),
        library=Library(store),
        metrics=Metrics(database),
    )

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncGenerator[None]:
        settings.incoming.mkdir(parents=True, exist_ok=True)
        for left in settings.incoming.iterdir():  # of uploads that a stop interrupted
            if left.is_file():
                left.unlink(missing_ok=True)
        courier = Courier(database, rule=settings.webhooks)
        if settings.webhooks != "off":
            courier.start()
        try:
            yield
        finally:
            service.live.close()
            service.sandbox.close()
            await run_in_threadpool(courier.close)

    app = FastAPI(
        title="Trajectory Factory",
        version="1",
        description=_ABOUT,
        docs_url=None,  # its pages fetch scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    for routes in (
        files,
        tasks,
        job_routes,
        dreams,
        watching,
        datasets,
        sending,
        workers,
        leases,
        blobs,
        keys,
        webhooks,
        health,
    ):
        app.include_router(routes.router)
    _add_pages(app)
    methods = _Methods(app)
    problems.install(app, methods)
    app.add_middleware(Gate, service=service)
    _describe(app)
    return app


def _add_pages(app: FastAPI) -> None:
    """Add the dashboard, where it is installed."""
    try:
        site = importlib.import_module(_PAGES)
    except ModuleNotFoundError as error:
        if not _PAGES.startswith(str(error.name)):
            raise
        return
    site.add_pages(app)


class _Methods:
    """Which methods a path knows, over all routes; a single route knows only its own."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._known: list[tuple[Any, set[str]]] | None = None

    def __call__(self, path: str) -> set[str]:
        if self._known is None:
            routes = list(iter_route_contexts(self._app.routes))
            self._known = [(compile_path(r.path)[0], r.methods) for r in routes if r.path and r.methods]
        return {method for pattern, methods in self._known if pattern.match(path) for method in methods}


def _describe(app: FastAPI) -> None:
    """Let the OpenAPI document say what every route may answer."""
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            problems.document(document)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def routes_of(app: FastAPI) -> Sequence[tuple[str, str]]:
    """Return (method, path) of every route, hidden ones included."""
    return sorted((m, str(r.path)) for r in iter_route_contexts(app.routes) for m in r.methods or ())
