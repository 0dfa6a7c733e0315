"""A job of dreams whose judge is a language model: asked once for each question, whoever is killed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from api.client import Client
from dreams.judge import EVENTS
from tests.llm_server import Server
from tests.test_dream_jobs import SMALL, Killed, models

pytest.importorskip("torch")

__all__ = ["models"]  # the fixture

VOTES = 2


def _unsure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Look at noise, which is what the model with random weights dreams, and say so."""
    del request
    return {
        "observations": [{"picture": 1, "gripper": "not to be seen", "thing": "not to be seen"}],
        "other_thing_moved": "unsure",
        "things_stay_what_they_are": "unsure",
        "events": dict.fromkeys(EVENTS, "unsure"),
    }


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server(_unsure, script=["500", "answer"])
    yield found
    found.close()


@pytest.mark.sim
@pytest.mark.slow
def test_no_question_is_paid_for_twice(
    server: Server, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORY_LLM_URL", server.base_url)
    monkeypatch.setenv("FACTORY_LLM_MODEL", "watcher")
    killed = Killed(tmp_path, models, {"dream.judge": 1}, "--workers", "1")
    try:
        made = killed.served.post("/v1/dreams", {**SMALL, "judge": "endpoint", "votes": VOTES})
        ended = killed.ended(made["id"])
        with Client(str(killed.served.http.base_url)) as client:
            dreams = list(client.dreams(made["id"]))
    finally:
        killed.served.stop()
    assert ended["status"] == "succeeded", ended["error"]
    assert all(marker.exists() for marker in killed.markers.values())
    assert ended["dreams"]["verdicts"] == {"abstain": len(dreams)}
    assert all(dream.judgement and "watcher" in dream.judgement["judge"] for dream in dreams)
    asked = [json.dumps(request, sort_keys=True) for request in server.requests]
    answered = asked[1:]  # the first was answered 500 and asked again
    assert asked[0] in answered
    assert len(set(answered)) == len(answered) >= VOTES * len(dreams)
    assert not server.refused
