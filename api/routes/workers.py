"""/v1/workers: who carries work out."""

from __future__ import annotations

from fastapi import APIRouter
from sqlmodel import col, select

from api import answers, tables
from api.context import In
from api.database import now
from api.keys import Reader

router = APIRouter(prefix="/v1/workers", tags=["workers"])


@router.get("", operation_id="list_workers")
def listing(service: In, _: Reader) -> answers.Page[answers.Worker]:
    """List the workers as their dispatchers last reported them: what they can do, and what they are doing."""
    with service.database.reading() as session:
        at = now(session)
        rows = session.exec(select(tables.Worker).order_by(col(tables.Worker.owner), col(tables.Worker.id))).all()
    return answers.Page(data=[answers.of_worker(row, at) for row in rows], has_more=False)
