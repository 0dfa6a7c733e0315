"""A PostgreSQL server for tests: the one that FACTORY_TEST_PG_URL names, else one of our own, else a skip."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import create_engine, make_url, text


@contextmanager
def server() -> Iterator[str]:
    """Lend a server's URL; one of our own is ended afterwards."""
    if given := os.environ.get("FACTORY_TEST_PG_URL"):
        yield given
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it complains about a folder it does not need
            import pgserver
    except ImportError:
        pytest.skip("no PostgreSQL: set FACTORY_TEST_PG_URL, or install pgserver")
    # Not pytest's folder: the server's socket lies in it, and a socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="factory-pg-", ignore_cleanup_errors=True) as folder:
        running = pgserver.get_server(folder, cleanup_mode="stop")
        try:
            yield running.get_uri()
        finally:
            running.cleanup()


@contextmanager
def fresh_database(server_url: str, name: str) -> Iterator[str]:
    """Lend the URL of an empty database, which is gone afterwards."""
    admin = create_engine(make_url(server_url).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        yield make_url(server_url).set(database=name).render_as_string(hide_password=False)
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)'))
    finally:
        admin.dispose()
