"""The long-running processes: the dispatcher, and API, dispatcher and workers together in one command."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from api.database import Database
from api.settings import Settings, refuse_open_bind
from api.store import Store
from factory.errors import SpecError, StorageError
from workers import dream_models, processes
from workers.devices import cuda_devices
from workers.dispatcher import Dispatcher
from workers.local import LocalTransport
from workers.transport import Transport

_log = logging.getLogger("factory")

EXECUTORS = ("local", "ray", "none")
_RESTART_S = 1.0
_STOP_S = 10.0
"""How long a dispatcher may take to leave its job book in order before it is killed; being killed loses nothing."""


def open_transports(
    settings: Settings, *, executor: str, workers: int | None, ray_address: str | None = None
) -> Sequence[Transport]:
    """Start the workers of an executor: "local" processes, or "ray" actors beside one local process that writes.

    Without a number there are as many as this machine has cores or the cluster has room for.
    """
    if executor == "local":
        workers = workers or processes.usable_cores()
        able, devices = ("simulate", "render", "write", *dream_models.able()), cuda_devices(os.environ)
        url = settings.database_url
        return [
            LocalTransport(settings.store_url, workers=workers, database_url=url, capabilities=able, devices=devices)
        ]
    if executor == "ray":
        from workers.ray import RayTransport  # noqa: PLC0415 - an extra, and slow to import

        url = settings.database_url
        writer = LocalTransport(settings.store_url, workers=1, database_url=url, capabilities=("write",))
        able = ("simulate", "render", "dream", "replay")  # actors leave out what is not installed where they are
        return [RayTransport(settings.store_url, address=ray_address, workers=workers, capabilities=able), writer]
    raise SpecError(f"executor {executor!r}: known are local and ray")


def dispatch(settings: Settings, *, executor: str, workers: int | None, ray_address: str | None = None) -> None:
    """Be a dispatcher until SIGTERM or Ctrl-C; the book is migrated first."""
    _log_to_stderr()
    processes.arm_failpoints()
    signal.signal(signal.SIGTERM, _stop)
    database = Database(settings.database_url)
    try:
        database.migrate()
        store = Store(settings.store_url)
        transports = open_transports(settings, executor=executor, workers=workers, ray_address=ray_address)
        dispatcher = Dispatcher(database, store, transports)
        _log.info("dispatching to %s workers", executor)
        try:
            dispatcher.run()
        finally:
            dispatcher.close()
    finally:
        database.close()


def serve(settings: Settings, *, executor: str, workers: int | None, ray_address: str | None = None) -> None:
    """Be API and dashboard, and keep a dispatcher running beside them unless the executor is "none".

    Raises:
        SpecError: the address is not a loopback one and there is no API key.
    """
    import uvicorn  # noqa: PLC0415 - an extra

    from api.app import create_app  # noqa: PLC0415 - likewise

    _log_to_stderr()
    processes.arm_failpoints()
    database = Database(settings.database_url)
    database.migrate()
    refuse_open_bind(settings, database)
    app = create_app(settings, database, Store(settings.store_url))
    keeper = _Keeper(settings, executor=executor, workers=workers, ray_address=ray_address)
    if executor != "none":
        keeper.start()
    _log.info("serving on http://%s:%d", settings.host, settings.port)
    try:
        uvicorn.run(app, host=settings.host, port=settings.port, log_level="warning", timeout_graceful_shutdown=3)
    finally:
        keeper.stop()
        database.close()


class _Keeper(threading.Thread):
    """Keeps one dispatcher process running; it dies with this process."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(daemon=True, name="dispatcher-keeper")
        self._settings, self._options = settings, options
        self._ending = threading.Event()

    def run(self) -> None:
        """Start it, and again when it died."""
        # The kernel ties a child to the thread that started it, so this thread starts all of them.
        while not self._ending.is_set():
            process = processes.SPAWN.Process(target=_dispatch_beside, args=(self._settings, self._options))
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


def _dispatch_beside(settings: Settings, options: dict[str, Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    processes.die_with_parent()
    dispatch(settings, **options)


def _log_to_stderr() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)


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
