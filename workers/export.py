"""Finished datasets in other forms, on the command line: a job without attempts in a job book of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlmodel import Session, select

from api import jobs
from api.database import Database, sqlite_url
from api.specs import JobSpec, job_from_json
from api.store import Store
from api.tables import Job
from factory.dataset_reading import open_dataset
from factory.errors import DatasetError
from factory.gr00t import HORIZON, export_gr00t
from factory.robomimic import export_robomimic
from factory.specs import RenderSpec
from workers.generate import Watcher, work_folder_of
from workers.local import LocalTransport
from workers.running import run_job
from workers.sharing import shared


def export_dataset(
    root: Path,
    *,
    to: str,
    out: Path,
    render: RenderSpec | None,
    workers: int,
    watcher: Watcher,
    command: str = "",
    horizon: int = HORIZON,
) -> Path:
    """Write the dataset at `root` in another form at `out` and return it.

    "robomimic" is one HDF5 file of states, actions and observations. "gr00t" is LeRobot v2.1 under GR00T's keys, with
    the pictures that are there and a fine-tuning kit; `horizon` actions are predicted at once. "lerobot" is the same
    dataset rendered anew from its recorded states: other cameras, sizes, quality or looks; the same command goes on
    where an interrupted one was.

    Raises:
        DatasetError: `root` is damaged or `out` exists.
    """
    work = work_folder_of(out)
    if out.exists() and not work.exists():
        raise DatasetError(f"{out} already exists; choose another --out or remove it")
    if to == "robomimic":
        return export_robomimic(root, out)
    if to == "gr00t":
        return export_gr00t(root, out, horizon=horizon)
    facts = open_dataset(root)
    spec = dataclasses.replace(_spec_of(facts.job), render=render)
    with shared(work) as remove:
        store = Store(work)
        parent = store.path("datasets/parent")
        if parent is not None and not parent.exists():
            parent.parent.mkdir(exist_ok=True)
            parent.symlink_to(root.absolute())
        database = Database(sqlite_url(work / "book.db"))
        try:
            database.migrate()
            with database.transaction() as session:
                job_id = _enter(session, spec, out, command)
            crew = LocalTransport(store.url, workers=workers, database_url=sqlite_url(work / "book.db"))
            job = run_job(database, store, job_id, crew, watcher)
            if job.dataset_id is None:
                raise DatasetError((job.error or {}).get("message", f"the export ended as {job.status}"))
        finally:
            database.close()
        remove()
    return out


def _enter(session: Session, spec: JobSpec, out: Path, command: str) -> str:
    there = session.exec(select(Job)).first()
    if there is None:
        there = jobs.export(session, "parent", spec, to="lerobot", name=out.name, command=command)
        there.out = str(out.absolute())
    elif job_from_json(there.spec) != spec:
        raise DatasetError(
            f"{work_folder_of(out)} holds an unfinished export with other settings; run that command again to finish "
            "it, choose another --out, or remove the folder"
        )
    there.paused_for = ""
    return there.id


def _spec_of(job: Mapping[str, Any]) -> JobSpec:
    """Return the specification of the job that made a dataset, from what the dataset says of it."""
    names = {field.name for field in dataclasses.fields(JobSpec)}
    return job_from_json({name: value for name, value in job.items() if name in names})
