"""Laws of access: no route without its scope, no secret anywhere, no stranger's page or name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from api import keys
from api.app import routes_of
from api.settings import refuse_open_bind
from api.tables import Key
from factory.errors import SpecError
from tests.site import Site, bearer, open_site, problem
from workers.generate import seeds_path

SCOPES = ("read", "write", "worker", "admin")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as site:
        yield site


@pytest.fixture
def guarded(fresh: Site) -> tuple[Site, dict[str, str]]:
    """A service with one key for each scope; returns their secrets."""
    secrets = {}
    with fresh.database.transaction() as session:
        for scope in SCOPES:
            _, secrets[scope] = keys.create_key(session, name=scope, scopes=[scope])
    return fresh, secrets


def test_every_route_needs_a_key_of_its_scope(guarded: tuple[Site, dict[str, str]]) -> None:
    site, secrets = guarded
    document = site.get("/openapi.json")
    seen = set()
    for path, item in document["paths"].items():
        url = (
            path.replace("{path}", "x")
            .replace("{index}", "0")
            .replace("{figure}", "course")
            .replace("{", "")
            .replace("}", "")
        )
        for method, operation in item.items():
            seen.add((method.upper(), path))
            if path in ("/healthz", "/readyz"):
                assert "security" not in operation
                continue
            (needed,) = operation["security"][0]["key"]
            assert site.client.request(method, url).status_code == 401, path
            for scope in SCOPES:
                status = site.client.request(method, url, headers=bearer(secrets[scope])).status_code
                assert (status == 403) == (scope != needed) or status in (413, 422), (method, path, scope, status)
                assert status != 401
    open_to_all = {("GET", "/openapi.json"), ("HEAD", "/openapi.json"), ("GET", "/login"), ("POST", "/login")}
    for method, path in routes_of(site.app):
        if (method, path.replace(":path", "")) not in seen | open_to_all and path != "/logout":
            status = site.client.request(
                method, path.replace("{", "").replace("}", ""), follow_redirects=False
            ).status_code
            assert status in (303, 401), (method, path, status)  # pages show the way to the door


@pytest.mark.parametrize("spoil", ["expire", "revoke", "change", "none", "form"])
def test_a_key_that_is_not_good_opens_nothing(guarded: tuple[Site, dict[str, str]], spoil: str) -> None:
    site, secrets = guarded
    secret = secrets["read"]
    assert site.client.get("/v1/jobs", headers=bearer(secret)).status_code == 200
    key_id = f"key_{secret.split('_')[1]}"
    if spoil == "expire":
        with site.database.transaction() as session:
            session.get(Key, key_id).expires_at = time.time() - 1
    elif spoil == "revoke":
        assert site.client.delete(f"/v1/keys/{key_id}", headers=bearer(secrets["admin"])).status_code == 200
    elif spoil == "change":
        secret = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    else:
        secret = {"none": "", "form": "x" * 60}[spoil]
    answer = site.client.get("/v1/jobs", headers=bearer(secret))
    problem(answer, 401)
    assert answer.headers["www-authenticate"] == "Bearer"


def test_nothing_stored_gives_a_key_away(guarded: tuple[Site, dict[str, str]]) -> None:
    site, secrets = guarded
    made = site.client.post("/v1/keys", json={"name": "new", "scopes": ["read"], "quotas": {"active_jobs": 2}},
                            headers=bearer(secrets["admin"])).json()  # fmt: skip
    assert site.client.get("/v1/jobs", headers=bearer(made["secret"])).status_code == 200
    listed = site.client.get("/v1/keys", headers=bearer(secrets["admin"])).text
    everything = b"".join(p.read_bytes() for p in site.settings.data.rglob("*") if p.is_file())
    for secret in (*secrets.values(), made["secret"]):
        assert secret.split("_", 2)[2] not in listed
        assert secret.split("_", 2)[2].encode() not in everything
    metrics = site.client.get("/metrics", headers=bearer(secrets["read"]))
    assert metrics.status_code == 200
    assert secrets["read"] not in metrics.text


def test_other_sites_and_names_are_not_listened_to(guarded: tuple[Site, dict[str, str]], tmp_path: Path) -> None:
    site, secrets = guarded
    body = {"task": "stack", "attempts": 1}
    cookie = {"Cookie": f"{keys.COOKIE}={secrets['write']}"}
    problem(site.client.post("/v1/jobs", json=body, headers=cookie), 403, "foreign_origin")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:9"):
        problem(site.client.post("/v1/jobs", json=body, headers={**cookie, "Origin": origin}), 403, "foreign_origin")
    own = {**cookie, "Origin": "http://127.0.0.1:8000"}
    assert site.client.post("/v1/jobs", json=body, headers=own).status_code == 201
    with open_site(tmp_path / "open", hosts=("box",)) as open_service:
        assert open_service.client.get("/v1/jobs", headers={"Host": "box:80"}).status_code == 200
        problem(open_service.client.get("/v1/jobs", headers={"Host": "evil.example"}), 403, "foreign_host")
        evil = {"Origin": "http://evil.example"}
        problem(open_service.client.post("/v1/jobs", json=body, headers=evil), 403, "foreign_origin")


def test_strangers_are_not_let_in_without_keys(fresh: Site) -> None:
    beyond = dataclasses.replace(fresh.settings, host="0.0.0.0")  # noqa: S104
    with pytest.raises(SpecError, match="factory keys create"):
        refuse_open_bind(beyond, fresh.database)
    refuse_open_bind(fresh.settings, fresh.database)
    with fresh.database.transaction() as session:
        key, _ = keys.create_key(session, name="first", scopes=["read"])
    refuse_open_bind(beyond, fresh.database)
    with fresh.database.transaction() as session:
        keys.revoke_key(session, key.id)
    problem(fresh.client.get("/v1/jobs"), 401)  # a service does not open because its last key was revoked


def test_a_known_secret_is_adopted_once(fresh: Site) -> None:
    secret = f"fk_{'a' * 12}_{'b' * 43}"
    for _ in range(2):
        with fresh.database.transaction() as session:
            keys.adopt_key(session, secret, name="first", scopes=["read"])
    assert len(fresh.client.get("/v1/jobs", headers=bearer(secret)).json()["data"]) == 0
    with fresh.database.transaction() as session, pytest.raises(SpecError, match="form"):
        keys.adopt_key(session, "fk_short", name="x", scopes=["read"])


def test_a_caller_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    with open_site(tmp_path, burst=5, requests_per_s=0.5) as site:
        answers = [site.client.get("/v1/jobs") for _ in range(7)]
        assert [a.status_code for a in answers] == [200] * 5 + [429] * 2
        problem(answers[-1], 429, "rate_limited")
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert site.client.get("/healthz").status_code == 200


def test_quotas_hold_however_many_ask_at_once(fresh: Site) -> None:
    quotas = {"active_jobs": 3, "attempts_per_day": 50, "stored_bytes": 1000}
    with fresh.database.transaction() as session:
        _, secret = keys.create_key(session, name="small", scopes=["read", "write"], quotas=quotas)
    head = bearer(secret)

    def ask(attempts: int) -> httpx.Response:
        return fresh.client.post("/v1/jobs", json={"task": "stack", "attempts": attempts, "render": None}, headers=head)

    with ThreadPoolExecutor(6) as pool:
        codes = [answer.status_code for answer in pool.map(ask, [10] * 12)]
    assert sorted(codes) == [201] * 3 + [429] * 9
    problem(ask(1), 429, "quota_active_jobs")
    first = fresh.client.get("/v1/jobs", headers=head).json()["data"][0]["id"]
    fresh.client.post(f"/v1/jobs/{first}/cancel", headers=head)
    problem(ask(31), 429, "quota_attempts_per_day")  # 20 are reserved by the other two
    assert ask(30).status_code == 201
    content = {"file": ("a.hdf5", seeds_path("lift").read_bytes())}
    problem(fresh.client.post("/v1/files", files=content, headers=head), 403, "quota_stored_bytes")
