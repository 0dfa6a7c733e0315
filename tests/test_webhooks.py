"""Laws of webhooks: signed, tried until taken, and never sent to our own machines."""

from __future__ import annotations

import base64
import hmac
import http.server
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from api.tables import Delivery, Webhook
from api.webhooks import Courier, is_public, resolved, signature
from factory.errors import ServiceError
from tests.site import Site, open_site, problem


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1", True), ("127.0.0.1", False), ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False), ("0.0.0.1", False), ("224.0.0.1", False), ("::1", False), ("::ffff:8.8.8.8", False),
        ("64:ff9b::808:808", False), ("2002:7f00:1::", False), ("fe80::1", False), ("fc00::1", False),
    ],
)  # fmt: skip
def test_messages_go_to_public_addresses_only(address: str, public: bool) -> None:
    import ipaddress

    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/", "https://127.0.0.1/", "https://2130706433/", "https://0x7f.1/", "https://[::1]/",
        "https://localhost/", "https://user@8.8.8.8/", "https://[::ffff:127.0.0.1]/", "https:///x",
    ],
)  # fmt: skip
def test_no_spelling_of_our_own_machine_is_taken(url: str) -> None:
    with pytest.raises(ServiceError, match="cannot be sent"):
        resolved(url, "public")


def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(*_: Any, **__: Any) -> list[Any]:
        return [(2, 1, 6, "", (a, 443)) for a in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", answers)
    with pytest.raises(ServiceError, match="not public"):
        resolved("https://example.org/", "public")
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers()[:1])
    target = resolved("https://example.org/hook?x=1", "public")
    assert (str(target.url), target.host) == ("https://8.8.8.8/hook?x=1", "example.org")
    assert target.headers == {"Host": "example.org"}


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[tuple[dict[str, str], bytes]], list[int]]]:
    """An address on this machine, the messages it got, and the statuses it answers with, last one for ever."""
    got: list[tuple[dict[str, str], bytes]] = []
    statuses = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            got.append(({k.lower(): v for k, v in self.headers.items()}, body))
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.send_header("Location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", got, statuses
    server.shutdown()
    server.server_close()


def test_a_message_is_signed_and_tried_until_it_is_taken(tmp_path: Path, receiver: Any) -> None:
    url, got, statuses = receiver
    statuses[:] = [500, 302, 200]
    with open_site(tmp_path, webhooks="loopback") as site:
        hook = site.client.post("/v1/webhooks", json={"url": url, "events": ["job.cancelled"]}).json()
        job = site.job(name="told")
        site.client.post(f"/v1/jobs/{job['id']}/pause")
        site.client.post(f"/v1/jobs/{job['id']}/cancel")
        courier = Courier(site.database, rule="loopback")
        for tries in (1, 2, 3):
            _until(lambda: len(got) == tries, courier)  # noqa: B023
            with site.database.transaction() as session:
                (delivery,) = session.exec(select(Delivery)).all()
                assert delivery.tries == tries
                delivery.due_at = 0.0
        (told,) = site.get(f"/v1/webhooks/{hook['id']}/deliveries")["data"]
        assert (told["state"], told["answer"], told["tries"]) == ("delivered", "HTTP 200", 3)
        assert len({headers["webhook-id"] for headers, _ in got}) == 1
        headers, body = got[-1]
        message = json.loads(body)
        assert (message["type"], message["data"]["id"], message["data"]["name"]) == ("job.cancelled", job["id"], "told")
        stamp = int(headers["webhook-timestamp"])
        key = base64.b64decode(hook["secret"].removeprefix("whsec_"))
        mac = hmac.new(key, f"{headers['webhook-id']}.{stamp}.".encode() + body, "sha256").digest()
        assert headers["webhook-signature"] == f"v1,{base64.b64encode(mac).decode()}"
        assert headers["webhook-signature"] != signature(hook["secret"], headers["webhook-id"], stamp, body + b" ")
        assert (
            "secret" not in site.get("/v1/webhooks")["data"][0] or site.get("/v1/webhooks")["data"][0]["secret"] is None
        )
        assert site.client.delete(f"/v1/webhooks/{hook['id']}").status_code == 204


def _until(done: Any, courier: Courier) -> None:
    """The service's own courier may be at it as well; whoever is first."""
    end = time.monotonic() + 10
    while not done():
        courier.deliver_one()
        assert time.monotonic() < end
        time.sleep(0.02)
    time.sleep(0.1)


def test_a_webhook_that_is_gone_is_left_alone(tmp_path: Path, receiver: Any) -> None:
    url, got, statuses = receiver
    statuses[:] = [410]
    with open_site(tmp_path, webhooks="loopback") as site:
        site.client.post("/v1/webhooks", json={"url": url, "events": ["job.cancelled"]})
        for _ in range(2):
            site.client.post(f"/v1/jobs/{site.job()['id']}/cancel")
            time.sleep(0.1)
        _until(lambda: site.get("/v1/webhooks")["data"][0]["disabled_at"], Courier(site.database, rule="loopback"))
        site.client.post(f"/v1/jobs/{site.job()['id']}/cancel")
        with site.database.reading() as session:
            assert len(session.exec(select(Delivery)).all()) == 2
            assert session.exec(select(Webhook)).one().disabled_at
        assert len(got) <= 2


def test_webhooks_are_off_unless_switched_on(site: Site) -> None:
    problem(site.client.post("/v1/webhooks", json={"url": "https://example.org/"}), 403, "webhooks_off")
