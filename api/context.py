"""What every route works with: one value, made when the service starts."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from fastapi import Depends, Request

from api.database import Database
from api.settings import Settings
from api.store import Store

if TYPE_CHECKING:
    from api.browsing import Library
    from api.keys import Limits
    from api.live import Live
    from api.metrics import Metrics
    from api.sandbox import Sandbox


@dataclass(frozen=True, kw_only=True)
class Service:
    """An open service.

    Attributes:
        settings: of the installation.
        database: the job book.
        store: where artefacts lie.
        sandbox: checks uploads.
        live: who watches which job.
        limits: how many requests callers may still make.
        library: episodes of datasets that people look at.
        metrics: how long requests take.
        naming: requests with an Idempotency-Key that are in progress, by key and name.
        files_lock: held while a file's content and its row are brought into agreement.
    """

    settings: Settings
    database: Database
    store: Store
    sandbox: Sandbox
    live: Live
    limits: Limits
    library: Library
    metrics: Metrics
    naming: set[tuple[str, str]] = field(default_factory=set)
    files_lock: threading.Lock = field(default_factory=threading.Lock)


def service_of(request: Request) -> Service:
    """Return the service a request came to."""
    return request.app.state.service


In = Annotated[Service, Depends(service_of)]
