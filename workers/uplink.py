"""A worker's way to a service that it reaches by HTTP: requests under one name, files that go on where they broke off.

Only outgoing requests are made. What fails because the service is away, or busy, is an `AwayError`, and may be asked
again as it is: the service takes everything twice without doing it twice.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from api import wire
from api.client import Client
from factory.durable import make_parent, sha256_file
from factory.errors import ServiceError, SpecError, StorageError

_LATER = (408, 425, 429, 500, 502, 503, 504, 507)
"""Statuses after which the same request may succeed: overload, a restart, a proxy without its service, a full disk."""
_CONTROL_S = 10.0
"""A request that is answered later than this would come too late for a lease anyway."""
_PART_S = 60.0
_MOST_PAUSE_S = 10.0
_WRONG_TWICE = 2
T = TypeVar("T", bound=BaseModel)


class AwayError(StorageError):
    """The service cannot be reached or cannot answer now."""


def pause_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row: a quarter of a second at first, ten at last."""
    return min(_MOST_PAUSE_S, 0.25 * 2 ** min(failures - 1, 10))


class Uplink:
    """An open way to a service; may be used by several threads."""

    def __init__(self, server: str, key: str | None) -> None:
        """Open it.

        Args:
            server: "https://factory.example.org".
            key: an API key with scope `worker`; None for a service that is open.
        """
        self.server = server
        self._client = Client(server, key)
        self._headers = {wire.PROTOCOL_HEADER: str(wire.PROTOCOL), wire.VERSION_HEADER: wire.version()}
        self._lock = threading.Lock()
        self._part_bytes = 1 << 20
        self.owner = ""
        self.sent_bytes = self.received_bytes = 0

    def join(self) -> wire.Joined:
        """Offer this machine's workers.

        Raises:
            AwayError: see `ask`.
            ServiceError: the key is not good, or the service does not understand this version.
            SpecError: this version does not understand the service.
        """
        try:
            joined = self.ask(":join", {"host": host_name()}, wire.Joined)
        except ServiceError as error:
            if error.status in (404, 405):
                raise SpecError(
                    f"{self.server} hands out no work over HTTP (it has no /v1/leases): upgrade that service to "
                    f"{wire.version()} or later, and check that the URL is its root"
                ) from error
            raise
        own = (wire.PROTOCOL, wire.version())
        if sentence := wire.misfit(worker=own, service=(joined.protocol, joined.version)):
            raise SpecError(sentence)
        self.owner, self._part_bytes = joined.owner, joined.part_bytes
        return joined

    def ask(self, verb: str, body: Mapping[str, Any], kind: type[T]) -> T:
        """Return the answer of `POST /v1/leases<verb>`.

        Raises:
            AwayError: the service is away; the same request may be made again.
            ServiceError: it refused, in its own words.
        """
        return _answered(
            lambda: self._client.post(
                f"/v1/leases{verb}", kind, json=dict(body), headers=self._headers, timeout=_CONTROL_S
            )
        )

    def leave(self) -> None:
        """Give back everything; a service that is away finds out by itself."""
        _answered(
            lambda: self._client.send(
                "/v1/leases:leave", json={"owner": self.owner}, headers=self._headers, timeout=_CONTROL_S
            )
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    # --- files --------------------------------------------------------------------------------------------------------

    def send_file(self, job_id: str, path: Path, sha256: str, ending: threading.Event) -> None:
        """Have a file at the service, trying until it is there or `ending` is set.

        Raises:
            AwayError: `ending` was set before.
            ServiceError: refused for good: the lease is over (`not_held`), or the file has another hash.
        """
        offset = failures = wrong = 0
        while not ending.is_set():
            try:
                if failures:
                    offset, complete = self._arrived(job_id, sha256)
                    if complete:
                        return
                arrived = self._send_part(job_id, path, sha256, offset)
                offset, failures = arrived.offset, 0
                if arrived.complete:
                    return
            except AwayError:
                failures += 1
                ending.wait(pause_s(failures))
            except ServiceError as error:
                wrong += error.code == "wrong_hash"
                if error.code not in ("wrong_offset", "wrong_hash") or wrong >= _WRONG_TWICE:
                    raise
                offset = int(str(error.found)) if error.code == "wrong_offset" else 0
        raise AwayError(f"{path.name} was not sent to the end")

    def _send_part(self, job_id: str, path: Path, sha256: str, offset: int) -> wire.Arrived:
        with path.open("rb") as file:
            whole = file.seek(0, 2)
            # Where all of it arrived and its end was not noticed, the last part is said again.
            offset = min(offset, max(0, whole - self._part_bytes)) if offset >= whole else offset
            file.seek(offset)
            part = file.read(self._part_bytes)
        headers = self._headers | {"Content-Range": f"bytes {offset}-{offset + len(part) - 1}/{whole}"}
        arrived = _answered(
            lambda: self._client.ask(
                "PUT", self._place(job_id, sha256), wire.Arrived, content=part, headers=headers, timeout=_PART_S
            )
        )
        with self._lock:
            self.sent_bytes += len(part)
        return arrived

    def _arrived(self, job_id: str, sha256: str) -> tuple[int, bool]:
        """Return how much of a file the service has, and whether that is all of it."""
        headers = _answered(
            lambda: self._client.head(self._place(job_id, sha256), headers=self._headers, timeout=_CONTROL_S)
        )
        return int(headers["Upload-Offset"]), headers["Upload-Complete"] == "?1"

    def fetch(self, path: str, place: Path, ending: threading.Event, *, sha256: str = "") -> None:
        """Have a file of the service here, whole, trying until it is there or `ending` is set.

        Args:
            path: below /v1/blobs.
            place: where to put it; what is there already stays.
            ending: see `send_file`.
            sha256: what it must have; empty where whoever reads it checks that.

        Raises:
            AwayError: `ending` was set before.
            ServiceError: refused for good.
            StorageError: what arrived, twice, was another file.
        """
        if place.exists():
            return
        begun = make_parent(place).with_name(f"{place.name}.part")
        failures = wrong = 0
        while not ending.is_set():
            try:
                _answered(
                    lambda: self._client.read_into(
                        f"/v1/blobs/{path}?owner={self.owner}", begun, headers=self._headers, timeout=_PART_S
                    )
                )
            except AwayError:
                failures += 1
                ending.wait(pause_s(failures))
                continue
            except ServiceError as error:
                if error.status != 416:  # all of it was there already
                    raise
            if not sha256 or sha256_file(begun) == sha256:
                with self._lock:
                    self.received_bytes += begun.stat().st_size
                begun.replace(place)
                return
            begun.unlink()
            wrong += 1
            if wrong >= _WRONG_TWICE:
                raise StorageError(f"{path} arrived with another SHA-256 than {sha256}, twice")
        raise AwayError(f"{path} was not fetched to the end")

    def _place(self, job_id: str, sha256: str) -> str:
        return f"/v1/blobs/{job_id}/{sha256}?owner={self.owner}"


def host_name() -> str:
    """Return this machine's name, as far as a service takes it."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:100] or "unknown"


def _answered(request: Any) -> Any:
    try:
        return request()
    except AwayError:
        raise
    except StorageError as error:  # no connection, a broken one, or an answer that is not the service's
        raise AwayError(str(error)) from error
    except ServiceError as error:
        if error.status in _LATER:
            raise AwayError(f"the service cannot answer now: {error}") from error
        raise


def wait_for_service(uplink: Uplink, *, told: Callable[[str], None], ending: threading.Event) -> wire.Joined | None:
    """Join as soon as the service can be reached; None when `ending` was set before.

    Args:
        uplink: the way to it.
        told: called with a sentence when it is away, now and then.
        ending: see above.
    """
    failures, told_at = 0, 0.0
    while not ending.is_set():
        try:
            return uplink.join()
        except AwayError as error:
            failures += 1
            if time.monotonic() - told_at > 30.0:
                told(f"{error}; trying again")
                told_at = time.monotonic()
            ending.wait(pause_s(failures))
    return None
