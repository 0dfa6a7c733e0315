"""API keys: who may do what. A secret is shown once, when it is made; the job book keeps its SHA-256.

    fk_<id of the key>_<43 random characters>

A service that only its own machine can reach and that has no key yet is open. As soon as there is one, every route
under /v1 needs one that carries the route's scope: as `Authorization: Bearer`, or in the cookie that `/login` sets.
"""

from __future__ import annotations

import hashlib
import math
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer, SecurityScopes
from sqlmodel import Session, col, select

from api.context import In, Service
from api.database import now
from api.problems import TooManyError, not_found
from api.settings import is_loopback
from api.tables import Key
from factory.errors import ServiceError, SpecError, unknown_name

Scope = Literal["read", "write", "worker", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
Quota = Literal["stored_bytes", "active_jobs", "attempts_per_day", "requests_per_s"]
QUOTAS: tuple[Quota, ...] = get_args(Quota)
COOKIE = "factory_key"

_SECRET = re.compile(r"fk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_USED_EVERY_S = 60.0
"""How exact `last_used_at` is; writing it at every request would make every read a write."""
_WORKER_PACE = 40.0
"""A machine that works asks whenever something is finished: so many times as often as people may."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """Who asks. `key_id` is None on an open service."""

    key_id: str | None = None
    scopes: frozenset[str] = frozenset(SCOPES)
    quotas: Mapping[str, float] = field(default_factory=dict)


# --- keys -------------------------------------------------------------------------------------------------------------


def create_key(
    session: Session,
    *,
    name: str,
    scopes: Sequence[str],
    expires_at: float | None = None,
    quotas: Mapping[str, float] | None = None,
) -> tuple[Key, str]:
    """Enter a key and return it with its secret, which nobody can find out later.

    Raises:
        SpecError: a scope or quota does not exist, or a quota is negative.
    """
    for known, given in ((SCOPES, scopes), (QUOTAS, quotas or {})):
        for entry in given:
            if entry not in known:
                raise SpecError(unknown_name("scope" if known is SCOPES else "quota", entry, known))
    if not scopes:
        raise SpecError(f"a key needs at least one scope of {', '.join(SCOPES)}")
    for quota, value in (quotas or {}).items():
        if not value >= 0:
            raise SpecError(f"quota {quota} is {value}; it must not be negative")
    key_id = secrets.token_hex(6)
    secret = f"fk_{key_id}_{secrets.token_urlsafe(32)}"
    key = Key(
        id=f"key_{key_id}",
        name=name,
        sha256=_sha256(secret),
        scopes=[scope for scope in SCOPES if scope in scopes],
        quotas=dict(quotas or {}),
        created_at=now(session),
        expires_at=expires_at,
    )
    session.add(key)
    session.flush()
    return key, secret


def adopt_key(session: Session, secret: str, *, name: str, scopes: Sequence[str]) -> Key:
    """Enter a key whose secret is known already, as after the job book was made anew; nothing happens when it is there.

    Raises:
        SpecError: it does not have the form of a secret.
    """
    found = _SECRET.fullmatch(secret)
    if found is None:
        raise SpecError("the secret is not of the form fk_<12 hexadecimal digits>_<43 characters>")
    key = session.get(Key, f"key_{found[1]}")
    if key is None:
        made, _ = create_key(session, name=name, scopes=scopes)
        session.delete(made)
        session.flush()
        key = Key(id=f"key_{found[1]}", name=name, sha256=_sha256(secret), scopes=made.scopes, created_at=now(session))
        session.add(key)
    return key


def revoke_key(session: Session, key_id: str) -> Key:
    """Make a key useless from now on. Raises ServiceError 404."""
    key = session.get(Key, key_id)
    if key is None:
        raise not_found("key", key_id)
    key.revoked_at = key.revoked_at or now(session)
    session.add(key)
    return key


def listed_keys(session: Session) -> list[Key]:
    """Return all keys, oldest first."""
    return list(session.exec(select(Key).order_by(col(Key.created_at), col(Key.id))))


def key_of(session: Session, secret: str) -> Key:
    """Return the key a secret belongs to.

    Raises:
        ServiceError: 401: there is none, it has expired, or it was revoked.
    """
    found = _SECRET.fullmatch(secret)
    key = session.get(Key, f"key_{found[1]}") if found else None
    # One comparison in any case, so that the time it takes tells nothing.
    same = secrets.compare_digest(_sha256(secret), key.sha256 if key else _sha256(""))
    if key is None or not same:
        raise _refused("this API key is not known here", code="unknown_key")
    if key.revoked_at is not None:
        raise _refused(f"API key {key.id} was revoked", code="revoked_key")
    if key.expires_at is not None and key.expires_at <= now(session):
        raise _refused(f"API key {key.id} has expired", code="expired_key")
    return key


def _refused(message: str, *, code: str) -> ServiceError:
    return ServiceError(message, status=401, code=code, field="Authorization", allowed="Bearer fk_...")


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


# --- requests ---------------------------------------------------------------------------------------------------------

_bearer = HTTPBearer(auto_error=False, scheme_name="key", description="An API key, `fk_...`.")


def require(scope: Scope) -> Any:
    """Return a dependency that lends the `Caller`, or refuses with 401, 403 or 429."""
    return Security(_authorized, scopes=[scope])


def _authorized(
    request: Request,
    service: In,
    scopes: SecurityScopes,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
) -> Caller:
    secret = bearer.credentials if bearer is not None else request.cookies.get(COOKIE, "")
    if bearer is None:
        check_origin(request)
    caller = _caller(request, service, secret)
    for scope in scopes.scopes:
        if scope not in caller.scopes:
            raise ServiceError(
                f"this needs an API key with scope {scope}; {caller.key_id} has {', '.join(sorted(caller.scopes))}",
                status=403,
                code="missing_scope",
                field="Authorization",
                found=sorted(caller.scopes),
                allowed=scope,
            )
    pace = _WORKER_PACE if "worker" in scopes.scopes else 1.0
    service.limits.take(caller, pace * service.settings.requests_per_s, round(pace * service.settings.burst))
    return caller


Reader = Annotated[Caller, require("read")]
Writer = Annotated[Caller, require("write")]
Admin = Annotated[Caller, require("admin")]
Puller = Annotated[Caller, require("worker")]
"""What a route that needs a scope calls its caller."""


def _caller(request: Request, service: Service, secret: str) -> Caller:
    with service.database.reading() as session:
        if not secret:
            if service.settings.is_loopback and session.exec(select(Key.id).limit(1)).first() is None:
                _check_host(request, service)
                return Caller()
            raise _refused("this needs an API key: send `Authorization: Bearer fk_...`", code="missing_key")
        key = key_of(session, secret)
        at = now(session)
    if at - (key.last_used_at or 0.0) > _USED_EVERY_S:
        with service.database.transaction() as session:
            used = session.get(Key, key.id)
            if used is not None:
                used.last_used_at = at
                session.add(used)
    return Caller(key_id=key.id, scopes=frozenset(key.scopes), quotas=key.quotas)


def check_origin(request: Request) -> None:
    """Refuse a change that another site's page asks a browser for. Raises ServiceError 403.

    A browser says where a request comes from; who has no cookie and no browser is not concerned.
    """
    if request.method in _SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    if origin is None:
        if COOKIE not in request.cookies or request.headers.get("sec-fetch-site") == "same-origin":
            return
    elif origin.partition("://")[2] == request.headers.get("host"):
        return
    raise ServiceError(
        "a change that a browser asks for must come from a page of this service",
        status=403,
        code="foreign_origin",
        field="Origin",
        found=origin,
        allowed=request.headers.get("host"),
    )


def _check_host(request: Request, service: Service) -> None:
    """A stranger's page may make its own name mean this machine; an open service does not listen to that name."""
    name = re.sub(r":\d+$", "", request.headers.get("host", "")).lower()
    if is_loopback(name) or name in service.settings.hosts:
        return
    raise ServiceError(
        f"a service without API keys does not answer under the name {name!r}",
        status=403,
        code="foreign_host",
        field="Host",
        found=name,
        allowed=["localhost", "127.0.0.1", "[::1]", *service.settings.hosts],
    )


class Limits:
    """Token buckets: how many requests each caller may still make."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, caller: Caller, rate_per_s: float, burst: int) -> None:
        """Take one request from a caller's bucket. Raises TooManyError when it is empty."""
        rate_per_s = caller.quotas.get("requests_per_s", rate_per_s)
        at, name = time.monotonic(), caller.key_id or ""
        with self._lock:
            left, since = self._buckets.get(name, (float(burst), at))
            left = min(float(burst), left + (at - since) * rate_per_s)
            self._buckets[name] = (left - 1.0 if left >= 1.0 else left, at)
        if left < 1.0:
            wait = (1.0 - left) / rate_per_s if rate_per_s > 0 else math.inf
            raise TooManyError(
                f"too many requests; {rate_per_s:g} a second are allowed, {burst} at once",
                code="rate_limited",
                retry_after_s=min(wait, 3600.0),
            )
