"""/v1/keys: who may ask."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from api import answers, keys
from api.context import In
from api.database import now
from api.keys import Admin
from api.requests import KeyRequest

router = APIRouter(prefix="/v1/keys", tags=["keys"])


@router.post("", operation_id="create_key", status_code=201)
def create(asked: KeyRequest, service: In, _: Admin) -> answers.Key:
    """Make a key. Its secret is in this answer and nowhere else."""
    with service.database.transaction() as session:
        expires = None if asked.expires_in_s is None else now(session) + asked.expires_in_s
        quotas = {str(quota): value for quota, value in asked.quotas.items()}
        key, secret = keys.create_key(session, name=asked.name, scopes=asked.scopes, expires_at=expires, quotas=quotas)
        return answers.of_key(key, secret)


@router.get("", operation_id="list_keys")
def listing(service: In, _: Admin) -> answers.Page[answers.Key]:
    """List all keys, revoked ones included, oldest first."""
    with service.database.reading() as session:
        rows = keys.listed_keys(session)
    return answers.Page(data=[answers.of_key(row) for row in rows], has_more=False)


@router.delete("/{key_id}", operation_id="revoke_key")
def revoke(
    key_id: Annotated[str, Path(max_length=64, examples=["key_0123456789ab"])], service: In, _: Admin
) -> answers.Key:
    """Make a key useless from now on. The row stays, so that what it did can be told."""
    with service.database.transaction() as session:
        return answers.of_key(keys.revoke_key(session, key_id))
