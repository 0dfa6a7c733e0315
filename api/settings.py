"""What an installation can set: by arguments, else by environment variables FACTORY_..., else as written here."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from sqlalchemy import make_url
from sqlmodel import select

from api.database import Database, sqlite_url
from api.tables import Key
from factory.errors import SpecError, unknown_name

WebhookRule = Literal["off", "public", "loopback"]
_PREFIX = "FACTORY_"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one HTTP service.

    Attributes:
        host: address to listen on; beyond loopback only with API keys.
        port: likewise the port; 0 takes a free one.
        data: folder for everything that is not elsewhere.
        database_url: sqlite:///FILE or postgresql://...; empty for a file in `data`.
        store_url: where artefacts lie; empty for a folder in `data`.
        max_upload_bytes: of one file of demonstrations.
        max_body_bytes: of any other request.
        max_attempts: of one job; a request for more is refused.
        requests_per_s: of one key, in the long run; `burst` at once.
        burst: see requests_per_s.
        max_streams: live streams that one key may hold open.
        stream_poll_s: how often the job book is asked about a job that somebody watches.
        push_schemes: URL schemes that datasets may be pushed to; empty allows none.
        webhooks: "off"; "public" allows https to public addresses; "loopback" also this machine, for tests.
        hosts: names besides localhost under which a service without keys answers; a name that a stranger's web page
            resolves to this machine is not among them.
        min_free_bytes: below this the service reports itself as not ready.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    data: Path = Path("data")
    database_url: str = ""
    store_url: str = ""
    max_upload_bytes: int = 2 << 30
    max_body_bytes: int = 1 << 20
    max_attempts: int = 10_000_000
    requests_per_s: float = 50.0
    burst: int = 200
    max_streams: int = 16
    stream_poll_s: float = 0.5
    push_schemes: tuple[str, ...] = ("hf",)
    webhooks: WebhookRule = "off"
    hosts: tuple[str, ...] = ()
    min_free_bytes: int = 1 << 30

    def __post_init__(self) -> None:
        if self.webhooks not in get_args(WebhookRule):
            raise SpecError(unknown_name("webhook rule", self.webhooks, get_args(WebhookRule)))
        if not 0 <= self.port < 1 << 16:
            raise SpecError(f"port is {self.port}; it must lie between 0 and 65535")
        for name in ("max_upload_bytes", "max_body_bytes", "max_attempts", "requests_per_s", "burst", "stream_poll_s"):
            if not getattr(self, name) > 0:
                raise SpecError(f"{name} is {getattr(self, name)}; it must be more than 0")
        object.__setattr__(self, "database_url", self.database_url or sqlite_url(self.data / "factory.sqlite3"))
        object.__setattr__(self, "store_url", self.store_url or str(self.data / "store"))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], **given: Any) -> Self:
        """Return the settings: what is given and not None, else FACTORY_<NAME>, else the default.

        FACTORY_DATABASE_PASSWORD_FILE names a file whose content becomes the password of the database's URL. Lists are
        separated by commas.

        Raises:
            SpecError: a variable is not of the kind its setting needs.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            text = environment.get(_PREFIX + field.name.upper())
            if given.get(field.name) is not None:
                values[field.name] = given[field.name]
            elif text:
                values[field.name] = _parsed(field.name, text, field.default)
        if file := environment.get(f"{_PREFIX}DATABASE_PASSWORD_FILE"):
            values["database_url"] = _with_password(values.get("database_url", ""), Path(file))
        return cls(**values)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    @property
    def incoming(self) -> Path:
        """Folder of uploads that are not checked yet."""
        return self.data / "incoming"


def is_loopback(host: str) -> bool:
    """Tell whether an address or name means this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def refuse_open_bind(settings: Settings, database: Database) -> None:
    """Raise SpecError when strangers could reach a service that asks nobody for a key."""
    if settings.is_loopback:
        return
    with database.reading() as session:
        if session.exec(select(Key.id).limit(1)).first() is None:
            raise SpecError(
                f"host {settings.host} can be reached from other machines and there is no API key yet; make one with "
                "`factory keys create --name first --scopes read,write,admin`, or listen on 127.0.0.1"
            )


def _parsed(name: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, tuple):
            return tuple(part.strip() for part in text.split(",") if part.strip())
        return type(default)(text) if not isinstance(default, Path) else Path(text)
    except ValueError as error:
        raise SpecError(f"{_PREFIX}{name.upper()} is {text!r}; expected a {type(default).__name__}") from error


def _with_password(url: str, file: Path) -> str:
    try:
        password = file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SpecError(f"{_PREFIX}DATABASE_PASSWORD_FILE {file} cannot be read: {error}") from error
    if not url:
        raise SpecError(f"{_PREFIX}DATABASE_PASSWORD_FILE needs {_PREFIX}DATABASE_URL, which is not set")
    return make_url(url).set(password=password).render_as_string(hide_password=False)
