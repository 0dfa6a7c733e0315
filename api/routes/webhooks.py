"""/v1/webhooks: addresses that hear how jobs go."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path
from sqlalchemy import delete as delete_rows
from sqlmodel import Session, col, select

from api import answers, tables
from api.context import In
from api.database import now
from api.jobs import new_id
from api.keys import Admin
from api.problems import not_found
from api.requests import WebhookRequest
from api.routes.paging import After, Limit, page_of
from api.webhooks import check_url, new_secret

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
WebhookId = Annotated[str, Path(max_length=64, examples=["hook_0123456789abcdef"])]


@router.post("", operation_id="create_webhook", status_code=201)
def create(asked: WebhookRequest, service: In, caller: Admin) -> answers.Webhook:
    """Add an address. Its secret, shown this once, signs every message to it."""
    check_url(asked.url, service.settings.webhooks)
    with service.database.transaction() as session:
        hook = tables.Webhook(
            id=new_id("hook"),
            url=asked.url,
            secret=new_secret(),
            events=list(asked.events),
            key_id=caller.key_id,
            created_at=now(session),
        )
        session.add(hook)
        session.flush()
        return answers.of_webhook(hook, hook.secret)


@router.get("", operation_id="list_webhooks")
def listing(service: In, _: Admin, after: After = None, limit: Limit = 20) -> answers.Page[answers.Webhook]:
    """List the addresses, newest first."""
    with service.database.reading() as session:
        rows, more = page_of(session, tables.Webhook, select(tables.Webhook), after, limit)
    return answers.Page(data=[answers.of_webhook(row) for row in rows], has_more=more)


@router.delete("/{webhook_id}", operation_id="delete_webhook", status_code=204)
def delete(webhook_id: WebhookId, service: In, _: Admin) -> None:
    """Remove an address and its messages."""
    with service.database.transaction() as session:
        session.delete(_found(session, webhook_id))
        session.exec(delete_rows(tables.Delivery).where(col(tables.Delivery.webhook_id) == webhook_id))


@router.get("/{webhook_id}/deliveries", operation_id="list_deliveries")
def deliveries(
    webhook_id: WebhookId, service: In, _: Admin, after: After = None, limit: Limit = 20
) -> answers.Page[answers.Delivery]:
    """List the messages to an address and how they were received, newest first."""
    with service.database.reading() as session:
        _found(session, webhook_id)
        query = select(tables.Delivery).where(tables.Delivery.webhook_id == webhook_id)
        rows, more = page_of(session, tables.Delivery, query, after, limit)
    return answers.Page(data=[answers.Delivery.model_validate(row.model_dump()) for row in rows], has_more=more)


def _found(session: Session, webhook_id: str) -> tables.Webhook:
    hook = session.get(tables.Webhook, webhook_id)
    if hook is None:
        raise not_found("webhook", webhook_id)
    return hook
