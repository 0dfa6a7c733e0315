"""Tells other services how jobs went: signed messages, tried again for hours, and never sent into our own network.

Messages are rows that the job book enters together with the event they are about; a thread of the API process delivers
what is due. Signatures are those of Standard Webhooks: HMAC-SHA256 over "id.timestamp.body".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx
from sqlalchemy.exc import DBAPIError
from sqlmodel import Session, col, select

from api import answers, jobs
from api.database import Database, now
from api.settings import WebhookRule
from api.tables import Delivery, Event, Webhook
from factory.errors import ServiceError, StorageError

_log = logging.getLogger(__name__)

_WAITS_S = (5.0, 30.0, 120.0, 600.0, 3600.0, 6 * 3600.0)
"""Pauses before the second, third, ... try; after the last one the message is given up."""
_TIMEOUT_S = 10.0
_CLAIM_S = 60.0
"""Nobody else takes a message up that long; longer than any try."""
_IDLE_S = 1.0
_TUNNELS = tuple(ipaddress.ip_network(net) for net in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
"""IPv6 addresses that carry an IPv4 address, which may be anybody's."""


def new_secret() -> str:
    """Return a secret to sign with."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header webhook-signature."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    mac = hmac.new(key, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v1,{base64.b64encode(mac.digest()).decode()}"


# --- where messages may go --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Target:
    """An address that was resolved once and is connected to as it was then."""

    url: httpx.URL
    host: str
    headers: Mapping[str, str]


def check_url(url: str, rule: WebhookRule) -> None:
    """Raise ServiceError unless a webhook may have this URL; its name is resolved again at every delivery."""
    if rule == "off":
        raise ServiceError(
            "webhooks are switched off here; set FACTORY_WEBHOOKS=public to allow them",
            status=403,
            code="webhooks_off",
            field="url",
            found=url,
        )
    resolved(url, rule)


def resolved(url: str, rule: WebhookRule) -> Target:
    """Return where to connect for a URL.

    Raises:
        ServiceError: 422, the URL is not https, its name does not resolve, or one of its addresses is not public.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise _unfit(url, str(error)) from error
    local = rule == "loopback"
    if parts.scheme != "https" and not (local and parts.scheme == "http"):
        raise _unfit(url, "it is not https")
    if not host or parts.username is not None:
        raise _unfit(url, "it has no host, or a user name")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise _unfit(url, f"{host} does not resolve") from error
    addresses = [ipaddress.ip_address(str(entry[4][0])) for entry in found]
    for address in addresses:
        if not (is_public(address) or (local and address.is_loopback)):
            raise _unfit(url, f"{host} resolves to an address that is not public")
    pinned = f"[{addresses[0]}]" if addresses[0].version == 6 else str(addresses[0])
    query = f"?{parts.query}" if parts.query else ""
    address_url = httpx.URL(f"{parts.scheme}://{pinned}:{port}{parts.path or '/'}{query}")
    return Target(url=address_url, host=host, headers={"Host": parts.netloc})


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Tell whether an address is one that anybody on the internet may have, and carries no other inside."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or any(address in tunnel for tunnel in _TUNNELS):
            return False
        return address.is_global and not address.is_multicast
    return address.is_global and not address.is_multicast and address not in ipaddress.ip_network("192.0.0.0/24")


def _unfit(url: str, why: str) -> ServiceError:
    return ServiceError(
        f"messages cannot be sent to this URL: {why}",
        status=422,
        code="unfit_url",
        field="url",
        found=url,
        allowed="https://, a name with public addresses only",
    )


# --- sending ----------------------------------------------------------------------------------------------------------


class Courier(threading.Thread):
    """Delivers what is due, while the service runs."""

    def __init__(self, database: Database, *, rule: WebhookRule) -> None:
        super().__init__(daemon=True, name="webhooks")
        self._database = database
        self._rule: WebhookRule = rule
        self._ending = threading.Event()

    def run(self) -> None:
        """Look for due messages until closed."""
        while not self._ending.is_set():
            try:
                busy = self.deliver_one()
            except (DBAPIError, StorageError) as error:
                _log.warning("webhooks wait for the job book: %s", error)
                busy = False
            if not busy:
                self._ending.wait(_IDLE_S)

    def close(self) -> None:
        """Stop after the message in progress."""
        self._ending.set()
        if self.is_alive():
            self.join(_TIMEOUT_S + 1.0)

    def deliver_one(self) -> bool:
        """Try the message that has been due longest; false when none is."""
        with self._database.reading() as session:  # most of the time, and then nobody's writing is held up
            if session.exec(_due(now(session))).first() is None:
                return False
        with self._database.transaction() as session:
            at = now(session)
            delivery = session.exec(_due(at).with_for_update(skip_locked=True)).first()
            if delivery is None:
                return False
            hook = session.get(Webhook, delivery.webhook_id)
            if hook is None or hook.disabled_at is not None:
                delivery.state, delivery.answer = "failed", "the webhook is gone"
                return True
            delivery.due_at, delivery.tries = at + _CLAIM_S, delivery.tries + 1
            session.add(delivery)
            body = _body(session, delivery)
        status, answer = self._send(hook, delivery.id, int(at), body)
        self._note(delivery.id, status, answer)
        return True

    def _send(self, hook: Webhook, message_id: str, timestamp: int, body: bytes) -> tuple[int, str]:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "trajectory-factory",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(hook.secret, message_id, timestamp, body),
        }
        try:
            target = resolved(hook.url, self._rule)
            with (
                httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
                client.stream(
                    "POST",
                    target.url,
                    content=body,
                    headers={**headers, **target.headers},
                    extensions={"sni_hostname": target.host},
                ) as response,
            ):
                return response.status_code, f"HTTP {response.status_code}"  # its body is nobody's business
        except ServiceError as error:
            return 0, str(error)
        except httpx.HTTPError as error:
            return 0, type(error).__name__

    def _note(self, delivery_id: str, status: int, answer: str) -> None:
        with self._database.transaction() as session:
            delivery = session.get(Delivery, delivery_id)
            if delivery is None:
                return
            delivery.answer = answer
            if 200 <= status < 300:
                delivery.state = "delivered"
            elif status == 410 or delivery.tries > len(_WAITS_S):
                delivery.state = "failed"
                hook = session.get(Webhook, delivery.webhook_id)
                if status == 410 and hook is not None:  # Gone: it asks for no more
                    hook.disabled_at = now(session)
                    session.add(hook)
            else:
                delivery.due_at = now(session) + _WAITS_S[delivery.tries - 1]
            session.add(delivery)


def _due(at: float) -> Any:
    query = select(Delivery).where(Delivery.state == "waiting", col(Delivery.due_at) <= at)
    return query.order_by(col(Delivery.due_at)).limit(1)


def _body(session: Session, delivery: Delivery) -> bytes:
    event = session.get(Event, (delivery.job_id, delivery.seq))
    job = jobs.get(session, delivery.job_id)
    (answer,) = answers.of_jobs(session, [job])
    message: dict[str, Any] = {
        "type": event.type if event else "job.changed",
        "timestamp": event.at if event else delivery.created_at,
        "data": answer.model_dump(mode="json", exclude_none=True),
    }
    return json.dumps(message).encode()
