"""Laws of every answer: documented, a problem document where it refuses, and never a word about defects."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import jobs
from api.database import Database
from api.requests import JobRequest
from api.settings import Settings
from api.tables import Dispatcher, Worker
from factory.errors import SpecError
from tests.benchmarks.api_fuzz import fuzz
from tests.site import Site, open_site, problem


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with open_site(tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Site]:
    with open_site(tmp_path) as site:
        yield site


def raw(content: Any) -> dict[str, Any]:
    """Return what sends a body that need not be JSON as if it were."""
    return {"content": content, "headers": {"content-type": "application/json"}}


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("GET", "/v1/jobs/job_0", {}, 404),
        ("POST", "/v1/jobs", raw(b'{"task": "\xff"}'), 400),
        ("POST", "/v1/jobs", raw(b"{"), 400),
        ("POST", "/v1/jobs", raw(b"[" * 100_000), 400),
        ("POST", "/v1/jobs", raw(b'{"task":"stack","attempts":' + b"9" * 5000 + b"}"), 400),
        ("POST", "/v1/jobs", raw(b'{"task":"stack","attempts":NaN}'), 422),
        ("POST", "/v1/jobs", raw(b'{"task":"stack","attempts":3,"name":"\\ud800"}'), 422),
        ("POST", "/v1/jobs", raw(b'{"task":"stack","attempts":3,"\\ud800":1}'), 422),
        ("POST", "/v1/jobs", raw(b'{"task":"stack","attempts":3,"metadata":{"\\u0000":"x"}}'), 422),
        ("POST", "/v1/jobs", raw(b"x" * (2 << 20)), 413),
        ("POST", "/v1/jobs", raw(iter([b" " * (1 << 19)] * 4)), 413),
        ("GET", "/v1/jobs/%00", {}, 400),
        ("GET", "/v1/jobs?after=%00", {}, 400),
        ("GET", "/v1/jobs?limit=0", {}, 422),
        ("GET", "/v1/jobs?status=odd", {}, 422),
        ("GET", f"/v1/jobs/{'x' * 65}", {}, 422),
    ],
)  # fmt: skip
def test_every_refusal_is_a_problem(site: Site, method: str, path: str, options: dict[str, Any], status: int) -> None:
    problem(site.client.request(method, path, **options), status)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/v1/jobs", {"GET", "POST"}),
        ("/v1/files/file_0", {"GET", "DELETE"}),
        ("/v1/files/file_0/cuts", {"PUT", "DELETE"}),
        ("/v1/datasets/ds_0/files/meta/info.json", {"GET", "HEAD"}),
    ],
)
def test_a_refused_method_says_which_are_served(site: Site, path: str, methods: set[str]) -> None:
    answer = site.client.request("TRACE", path)
    assert set(problem(answer, 405)["allowed"]) == methods
    assert set(answer.headers["allow"].split(", ")) == methods


def test_a_defect_tells_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret plan")

    monkeypatch.setattr(jobs, "listed", fail)
    answer = site.client.get("/v1/jobs")
    assert problem(answer, 500, "defect")["detail"]
    assert "secret plan" not in answer.text


def test_a_failing_disk_is_told_without_its_place(fresh: Site, tmp_path: Path) -> None:
    dataset = fresh.dataset(tmp_path / "made")
    fresh.store.remove(f"datasets/{dataset}/meta/info.json")
    answer = fresh.client.get(f"/v1/datasets/{dataset}/files/meta/info.json")
    problem(answer, 503, "storage")
    assert str(tmp_path) not in answer.text
    assert fresh.client.get(f"/v1/datasets/{dataset}/files/meta/stats.json").status_code == 200


def test_health_is_told_apart_from_readiness(fresh: Site) -> None:
    ready = fresh.get("/readyz")
    assert ready["ready"]
    assert ready["facts"]["dispatchers"] == 0
    assert ready["facts"]["sandbox"]
    with fresh.database.transaction() as session:
        session.add(Dispatcher(id="disp", seen_at=time.time()))
        session.add(Worker(id="w", owner="disp", capabilities=["simulate"], seen_at=time.time()))
        session.add(Worker(id="old", owner="disp", seen_at=1.0))
    assert fresh.get("/readyz")["facts"]["dispatchers"] == 1
    assert {w["id"]: w["alive"] for w in fresh.get("/v1/workers")["data"]} == {"w": True, "old": False}
    fresh.work(fresh.job(attempts=3)["id"], "S.")
    figures = fresh.client.get("/metrics").text
    assert 'factory_attempts_total{outcome="success"} 1.0' in figures
    assert 'factory_jobs{status="running"} 1.0' in figures
    assert 'route="/v1/jobs"' in figures


def test_a_full_disk_and_a_foreign_schema_are_not_ready(tmp_path: Path) -> None:
    with open_site(tmp_path, min_free_bytes=1 << 60) as site:
        from sqlalchemy import text

        with site.database.transaction() as session:
            session.execute(text("UPDATE alembic_version SET version_num = 'other'"))
        answer = site.client.get("/readyz")
        assert answer.status_code == 503
        checks = answer.json()["checks"]
        assert "wanted" in checks["disk"]
        assert "other" in checks["schema"]


def test_settings_come_from_arguments_then_the_environment(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("p@ss/word\n")
    environment = {
        "FACTORY_PORT": "9",
        "FACTORY_DATA": str(tmp_path),
        "FACTORY_PUSH_SCHEMES": "hf, s3",
        "FACTORY_DATABASE_URL": "postgresql://factory@db/factory",
        "FACTORY_DATABASE_PASSWORD_FILE": str(secret),
    }
    settings = Settings.from_environment(environment, host="::1", port=None)
    assert (settings.host, settings.port, settings.push_schemes) == ("::1", 9, ("hf", "s3"))
    assert settings.is_loopback
    assert Database(settings.database_url).url.password == "p@ss/word"  # noqa: S105
    assert settings.store_url == str(tmp_path / "store")
    with pytest.raises(SpecError, match="FACTORY_PORT"):
        Settings.from_environment({"FACTORY_PORT": "many"})
    with pytest.raises(SpecError, match="webhook"):
        Settings(webhooks="on")  # type: ignore[arg-type]


def test_the_document_describes_every_route(site: Site) -> None:
    document = site.get("/openapi.json")
    names = [op["operationId"] for item in document["paths"].values() for op in item.values()]
    assert len(names) == len(set(names)) > 35
    assert JobRequest.model_config["json_schema_extra"]["examples"]  # type: ignore[index]
    for example in JobRequest.model_config["json_schema_extra"]["examples"]:  # type: ignore[index]
        JobRequest.model_validate(example)
    assert "HTTPValidationError" not in json.dumps(document)
    assert all(op["description"] for item in document["paths"].values() for op in item.values())


@pytest.mark.parametrize("cases", [1000, pytest.param(1500, marks=pytest.mark.slow)])
def test_nothing_that_fits_or_does_not_fit_the_document_breaks_the_service(cases: int, tmp_path: Path) -> None:
    found = fuzz(cases=cases, folder=tmp_path, seed=0)
    assert found["server_errors"] == []
    assert found["undocumented"] == []
    assert found["cases"] >= cases
