"""Opening the job book: SQLite in a folder, or PostgreSQL by URL; the same statements for both."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError
from sqlmodel import Session, create_engine

from factory.errors import StorageError
from factory.failpoints import reached

_BUSY_S = 30.0
"""How long a writer waits for another one; commits take milliseconds, so this is only ever reached by a stuck disk."""

_PG_OPTIONS = "-c idle_in_transaction_session_timeout=10s -c lock_timeout=30s"
"""A process that is frozen in the middle of a transaction must not keep its rows locked; the server ends it."""


def sqlite_url(path: Path) -> str:
    """Return the URL of a database file."""
    return f"sqlite:///{path}"


class Database:
    """The open job book. One for each process; sessions are short and never held while anything else is waited for."""

    def __init__(self, url: str) -> None:
        """Open a database by URL: sqlite:///FILE or postgresql://...

        Raises:
            StorageError: the URL is neither, or names no file.
        """
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise StorageError(
                f"database {url!r} is not a URL; sqlite:///FILE and postgresql://... are known"
            ) from error
        self.kind = parsed.get_backend_name()
        if self.kind == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
            options = {"options": f"{_PG_OPTIONS} {parsed.query.get('options', '')}"}
            self.engine = create_engine(
                parsed, pool_pre_ping=True, pool_size=10, max_overflow=20, connect_args=options, json_serializer=_json
            )
        elif self.kind == "sqlite" and parsed.database:
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            self.engine = create_engine(
                parsed, connect_args={"check_same_thread": False, "timeout": _BUSY_S}, json_serializer=_json
            )
            _prepare_sqlite(self.engine)
        else:
            shown = parsed.render_as_string(hide_password=True)
            raise StorageError(f"database {shown!r}: sqlite:///FILE and postgresql://... are known")
        self.url = parsed

    @contextmanager
    def transaction(self) -> Generator[Session]:
        """Lend a session whose changes are all there afterwards, on the disk, or none of them.

        Raises:
            StorageError: the database is gone, its disk is full, or it is locked for too long.
        """
        with self._as_storage_error(), Session(self.engine, expire_on_commit=False) as session:
            session.connection(execution_options={"writes": True})
            yield session
            reached("book.before_commit")
            session.commit()
            reached("book.after_commit")

    @contextmanager
    def reading(self) -> Generator[Session]:
        """Lend a session that sees one consistent moment and changes nothing. Raises StorageError as `transaction`."""
        with self._as_storage_error(), Session(self.engine, expire_on_commit=False) as session:
            yield session

    def migrate(self) -> None:
        """Bring the tables to this version's form; two processes may try at once. Raises StorageError likewise."""
        with self._as_storage_error():
            with self.engine.connect() as connection:
                current = MigrationContext.configure(connection).get_current_revision()
            config = _alembic(self)
            if current != ScriptDirectory.from_config(config).get_current_head():
                command.upgrade(config, "head")

    def close(self) -> None:
        """Give back every connection."""
        self.engine.dispose()

    @contextmanager
    def _as_storage_error(self) -> Generator[None]:
        try:
            yield
        except (DatabaseError, InterfaceError) as error:
            # A plain DatabaseError is SQLite's file being damaged or none at all; other kinds of it are our mistakes.
            if type(error) not in (DatabaseError, OperationalError, InterfaceError):
                raise
            shown = self.url.render_as_string(hide_password=True)
            raise StorageError(f"the job book {shown} cannot be read or written: {error.orig}") from error


def head_revision(database: Database) -> str | None:
    """Return the schema that this version needs."""
    return ScriptDirectory.from_config(_alembic(database)).get_current_head()


def now(session: Session) -> float:
    """Return the database's time, seconds since 1970; hosts may disagree, their database does not."""
    if session.get_bind().dialect.name == "sqlite":
        return time.time()  # SQLite runs in this process; there is no other clock
    return float(session.connection().execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())


def _json(value: Any) -> str:
    """Return JSON without blanks; rows are read by programs."""
    return json.dumps(value, separators=(",", ":"))


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # The driver would begin transactions by itself, and too late; `_begin` does.
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={int(_BUSY_S * 1000)}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def _begin(connection: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        # A transaction that begins by reading and then writes fails at once when somebody wrote in between, whatever
        # the timeout; so writers say from the start that they will write.
        if not connection.get_execution_options().get("writes"):
            connection.exec_driver_sql("BEGIN")
            return
        end = time.monotonic() + _BUSY_S
        while True:
            try:
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            except OperationalError as error:  # waiters are not served in order; one may starve past the timeout
                if "locked" not in str(error) or time.monotonic() > end:
                    raise
            else:
                return


def _alembic(database: Database) -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("api") / "migrations"))
    config.attributes["database"] = database
    return config
