"""Random requests, some that fit the OpenAPI document and some that do not; every answer must be a documented one.

    python -m tests.benchmarks.api_fuzz --cases 20000

Writes docs/benchmarks/api_fuzz.json. Half of the requests name things that exist: a job in each state, a file, a
dataset with episodes, a key, a webhook. schemathesis' own runner is not used: its coverage phase ends in a fault of
CPython 3.11.7's parser, and its threads would share one sandbox.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from api import keys
from api.tables import Webhook
from tests.site import Site, on_a_port, open_site
from workers.generate import seeds_path

OUT = Path(__file__).resolve().parents[2] / "docs/benchmarks/api_fuzz.json"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


def fuzz(*, cases: int, folder: Path, seed: int, database: str = "") -> dict[str, Any]:
    """Send at least so many requests to a fresh service and return what was wrong with its answers."""
    with open_site(folder, url=database, webhooks="loopback") as site, on_a_port(site.app) as url:
        known = _furnish(site, folder)
        with site.database.transaction() as session:
            _, secret = keys.create_key(session, name="fuzz", scopes=keys.SCOPES)
        site.client.headers["Authorization"] = f"Bearer {secret}"
        document = site.client.get("/openapi.json").json()
        for item in document["paths"].values():  # else a good part of the requests would just lack the key
            for operation in item.values():
                operation.pop("security", None)
        schema = schemathesis.openapi.from_dict(document)
        operations = [result.ok() for result in schema.get_all_operations()]
        tally = _Tally(url, secret, known, random.Random(seed))  # noqa: S311
        each = -(-cases // (2 * len(operations)))
        begun = time.perf_counter()
        for operation in operations:
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                tally.try_all(operation, mode, each, seed)
        while tally.cases < cases:  # some operations take nothing that could be wrong
            seed += 1
            for operation in operations:
                tally.try_all(operation, GenerationMode.POSITIVE, 5, seed)
        return {
            "database": site.database.kind,
            "cases": tally.cases,
            "seconds": round(time.perf_counter() - begun, 1),
            "operations": len(operations),
            "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
            "server_errors": tally.server_errors,
            "undocumented": tally.undocumented,
        }


class _Tally:
    """Sends requests and counts answers."""

    def __init__(self, url: str, secret: str, known: dict[str, list[Any]], rng: random.Random) -> None:
        self._url, self._secret, self._known, self._rng = url, secret, known, rng
        self._http = requests.Session()
        self.cases = 0
        self.statuses: Counter[int] = Counter()
        self.server_errors: list[str] = []
        self.undocumented: list[str] = []

    def try_all(self, operation: Any, mode: GenerationMode, count: int, seed: int) -> None:
        strategy = operation.as_strategy(generation_mode=mode)

        @seeded(seed)
        @settings(
            max_examples=count,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=strategy, real=st.booleans())
        def run(case: Any, *, real: bool) -> None:
            self._try(case, real=real)

        try:
            run()
        except Unsatisfiable:
            if mode is GenerationMode.POSITIVE:
                raise  # else nothing about this operation can be wrong

    def _try(self, case: Any, *, real: bool) -> None:
        if real:
            for name in case.path_parameters or {}:
                if name in self._known:
                    case.path_parameters[name] = self._rng.choice(self._known[name])
        where = f"{case.method} {case.operation.path}"
        if case.operation.path.endswith("/events/stream"):  # that of a job that goes on does not end
            case.path_parameters["job_id"] = self._rng.choice([*self._known["ended"], "job_0"])
        answer = case.call(session=self._http, base_url=self._url, headers={"Authorization": f"Bearer {self._secret}"})
        self.cases += 1
        self.statuses[answer.status_code] += 1
        if answer.status_code >= 500:
            self.server_errors.append(f"{where}: {answer.status_code}: {case.as_curl_command()[:500]}")
            return
        try:
            case.validate_response(answer, checks=CHECKS)
        except FailureGroup as group:
            for failure in group.exceptions:
                self.undocumented.append(f"{where}: {answer.status_code}: {failure}: {case.as_curl_command()[:300]}")
        except AssertionError as failure:
            self.undocumented.append(f"{where}: {answer.status_code}: {failure}")


def _furnish(site: Site, folder: Path) -> dict[str, list[Any]]:
    """Put something of everything into a service; return names by path parameter."""
    file = site.client.post("/v1/files", files={"file": ("stack.hdf5", seeds_path("stack").read_bytes())}).json()["id"]
    site.settle(file)
    dataset = site.dataset(folder / "made", (4, 5))
    ended = site.job(attempts=3)["id"]
    site.work(ended, "...")
    running = site.job(attempts=50)["id"]
    site.work(running, "S..S")
    paused, queued = site.job()["id"], site.job(files=[file])["id"]
    site.client.post(f"/v1/jobs/{paused}/pause")
    with site.database.transaction() as session:
        key, _ = keys.create_key(session, name="spare", scopes=["read"])
        session.add(Webhook(id="hook_0", url="https://example.org/", secret="whsec_eA==", events=[]))  # noqa: S106
        key_id = key.id
    return {
        "file_id": [file],
        "job_id": [ended, running, paused, queued],
        "ended": [ended],
        "dataset_id": [dataset],
        "path": ["meta/info.json"],
        "index": [0, 1],
        "key_id": [key_id],
        "webhook_id": ["hook_0"],
        "name": ["stack"],
    }


def main() -> None:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database", default="", help="an empty PostgreSQL database; else SQLite")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(cases=asked.cases, folder=Path(folder), seed=asked.seed, database=asked.database)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
