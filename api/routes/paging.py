"""Lists by cursor: newest first, `after` is the id of the last object of the page before."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from fastapi import Query
from sqlmodel import Session, col

from factory.errors import ServiceError

After = Annotated[str | None, Query(max_length=64, description="Id of the last object of the page before.")]
Limit = Annotated[int, Query(ge=1, le=100)]
T = TypeVar("T")


def page_of(session: Session, table: type[T], query: Any, after: str | None, limit: int) -> tuple[list[T], bool]:
    """Return a page of a table that has `id` and `created_at`, and whether there is more.

    Raises:
        ServiceError: 422, `after` is no object of the table.
    """
    rows: Any = table
    query = query.order_by(col(rows.created_at).desc(), col(rows.id).desc()).limit(limit + 1)
    if after is not None:
        last: Any = session.get(table, after)
        if last is None:
            raise bad_cursor(after)
        same = (col(rows.created_at) == last.created_at) & (col(rows.id) < last.id)
        query = query.where((col(rows.created_at) < last.created_at) | same)
    found = list(session.exec(query))
    return found[:limit], len(found) > limit


def bad_cursor(after: str) -> ServiceError:
    """Return the error for a cursor that is no object."""
    return ServiceError(
        f"after={after!r} is not in this list; give the id of the last object of the page before",
        status=422,
        code="bad_cursor",
        field="after",
        found=after,
    )
