"""The long-running processes: the dispatcher, and API, dispatcher and workers together in one command."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from api.database import Database, sqlite_url
from api.store import Store
from factory.errors import SpecError, StorageError
from workers import processes
from workers.dispatcher import Dispatcher
from workers.local import LocalTransport
from workers.transport import Transport

_log = logging.getLogger("factory")

EXECUTORS = ("local", "ray", "none")
_RESTART_S = 1.0
_STOP_S = 10.0
"""How long a dispatcher may take to leave its job book in order before it is killed; being killed loses nothing."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a service keeps what it knows.

    Attributes:
        data: folder for uploads in progress, and for the job book and the store unless they are elsewhere.
        database_url: of the job book, with its password.
        store_url: of the artefact store.
    """

    data: Path
    database_url: str
    store_url: str


def place_of(data: Path, database: str | None, store: str | None) -> Place:
    """Return where things are, from what was given and FACTORY_DATABASE_PASSWORD_FILE.

    Raises:
        StorageError: the password file cannot be read.
    """
    data = data.absolute()
    url = database or sqlite_url(data / "factory.db")
    if file := os.environ.get("FACTORY_DATABASE_PASSWORD_FILE"):
        try:
            password = Path(file).read_text().strip()
        except OSError as error:
            raise StorageError(f"FACTORY_DATABASE_PASSWORD_FILE={file} cannot be read: {error}") from error
        url = make_url(url).set(password=password).render_as_string(hide_password=False)
    return Place(data=data, database_url=url, store_url=store or str(data / "store"))


def open_transports(
    place: Place, *, executor: str, workers: int, ray_address: str | None = None
) -> Sequence[Transport]:
    """Start the workers of an executor: "local" processes, or "ray" actors beside one local process that writes."""
    if executor == "local":
        return [LocalTransport(place.store_url, workers=workers, database_url=place.database_url)]
    if executor == "ray":
        from workers.ray import RayTransport  # noqa: PLC0415 - an extra, and slow to import

        writer = LocalTransport(place.store_url, workers=1, database_url=place.database_url, capabilities=("write",))
        return [RayTransport(place.store_url, address=ray_address, workers=workers), writer]
    raise SpecError(f"executor {executor!r}: known are local and ray")


def dispatch(place: Place, *, executor: str, workers: int, ray_address: str | None = None) -> None:
    """Be a dispatcher until SIGTERM or Ctrl-C; the book is migrated first."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    processes.arm_failpoints()
    signal.signal(signal.SIGTERM, _stop)
    database = Database(place.database_url)
    try:
        database.migrate()
        store = Store(place.store_url)
        transports = open_transports(place, executor=executor, workers=workers, ray_address=ray_address)
        dispatcher = Dispatcher(database, store, transports)
        _log.info("dispatching with %d %s workers", workers, executor)
        try:
            dispatcher.run()
        finally:
            dispatcher.close()
    finally:
        database.close()


def serve(
    place: Place,
    *,
    host: str,
    port: int,
    executor: str,
    workers: int,
    ray_address: str | None = None,
    settings: dict[str, Any] | None = None,
) -> None:
    """Be API and dashboard, and keep a dispatcher running beside unless the executor is "none".

    Raises:
        SpecError: the address is not a loopback one and there is no API key.
    """
    import uvicorn  # noqa: PLC0415 - an extra
    from api.app import check_exposure, create_app  # noqa: PLC0415 - likewise

    from api.settings import Settings  # noqa: PLC0415

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    processes.arm_failpoints()
    database = Database(place.database_url)
    database.migrate()
    store = Store(place.store_url)
    configured = Settings(data=place.data, host=host, port=port, **(settings or {}))
    check_exposure(database, host)
    app = create_app(configured, database, store)
    keeper = _Keeper(place, executor=executor, workers=workers, ray_address=ray_address)
    if executor != "none":
        keeper.start()
    _log.info("serving on http://%s:%d", host, port)
    try:
        uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=3)
    finally:
        keeper.stop()
        database.close()


class _Keeper(threading.Thread):
    """Keeps one dispatcher process running; it dies with this process."""

    def __init__(self, place: Place, **options: Any) -> None:
        super().__init__(daemon=True, name="dispatcher-keeper")
        self._place, self._options = place, options
        self._ending = threading.Event()

    def run(self) -> None:
        """Start it, and again when it died."""
        # The kernel ties a child to the thread that started it, so this thread starts all of them.
        while not self._ending.is_set():
            process = processes.SPAWN.Process(target=_dispatch_beside, args=(self._place, self._options))
            processes.start_shielded(process)
            while process.is_alive() and not self._ending.wait(0.1):
                pass
            if self._ending.is_set():
                process.terminate()
                process.join(_STOP_S)
                process.kill()
                process.join()
                return
            _log.warning("the dispatcher ended with exit code %s; starting another", process.exitcode)
            self._ending.wait(_RESTART_S)

    def stop(self) -> None:
        """End it and wait until it is gone."""
        self._ending.set()
        if self.is_alive():
            self.join(_STOP_S + 5.0)


def _dispatch_beside(place: Place, options: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.die_with_parent()
    dispatch(place, **options)


def _stop(_signal: int, _frame: Any) -> None:
    raise SystemExit(0)


def wait_for_database(url: str, *, seconds: float = 60.0) -> Database:
    """Open a database that may still be starting.

    Raises:
        StorageError: it did not answer in time.
    """
    end = time.monotonic() + seconds
    while True:
        database = Database(url)
        try:
            with database.reading() as session:
                session.connection()
        except StorageError as error:
            database.close()
            if time.monotonic() > end:
                raise StorageError(f"the database did not answer within {seconds:.0f} s: {error}") from error
            time.sleep(0.5)
        else:
            return database
