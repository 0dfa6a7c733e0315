"""The dashboard as a whole: its pages and its static files, added to an application."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles

from api.pages import datasets, dreams, episodes, files, jobs, new_job, people
from api.pages.rendering import STATIC


def add_pages(app: FastAPI) -> None:
    """Let an application whose state holds the service show the dashboard."""
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    # Addresses that are written out come before those with a part that varies: /jobs/new before /jobs/{job_id}.
    for rooms in (new_job, dreams, episodes, jobs, datasets, files, people):
        app.include_router(rooms.router)
