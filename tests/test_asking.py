"""Laws of asking a language model: every failure has a name, nothing is paid for twice, a budget is a limit."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import BaseModel, ConfigDict

from dreams.endpoint import AskError, Endpoint, EndpointSpec, Question
from dreams.ledger import BudgetError, Ledger
from factory.errors import SpecError
from tests.llm_server import Server


class Grasp(BaseModel):
    model_config = ConfigDict(extra="forbid")
    because: str
    grasped: Literal["yes", "no", "unsure"]


GRASPED = Grasp(because="the fingers touch it", grasped="yes")


def _says(_: Mapping[str, Any]) -> dict[str, str]:
    return GRASPED.model_dump()


def _picture(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def _question(number: int = 0) -> Question:
    return Question(kind="test/1", system="Look.", parts=(f"Picture {number}", _picture()), answer=Grasp, seed=number)


class Desk:
    """A server, a ledger and an endpoint that notes its waits instead of waiting."""

    def __init__(
        self, folder: Path, *script: str, formats: tuple[str, ...] = ("json_schema",), **settings: Any
    ) -> None:
        self.server = Server(_says, script=script, formats=formats)
        self.ledger = Ledger(folder / "ledger.sqlite")
        self.waits: list[float] = []
        spec = EndpointSpec(base_url=self.server.base_url, model="watcher", usd_per_mtok_in=1.0, usd_per_mtok_out=10.0)
        self.endpoint = Endpoint(replace(spec, **settings), self.ledger, sleep=self.waits.append)

    def ask(self, number: int = 0) -> BaseModel:
        return self.endpoint.ask(_question(number))

    def close(self) -> None:
        self.endpoint.close()
        self.server.close()
        self.ledger.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Callable[..., Desk]]:
    desks: list[Desk] = []

    def make(*script: str, **settings: Any) -> Desk:
        desks.append(Desk(tmp_path, *script, **settings))
        return desks[-1]

    yield make
    for each in desks:
        each.close()


def test_an_answer_is_paid_for_once(desk: Callable[..., Desk]):
    here = desk()
    first, again = here.endpoint.ask(_question()), here.endpoint.ask(_question())
    assert first == again == GRASPED
    here.endpoint.ask(_question(1))
    totals = here.ledger.totals()
    assert len(here.server.requests) == totals.requests == totals.answers == 2
    assert totals.usd == pytest.approx(2 * (1000 * 1.0 + 100 * 10.0) / 1e6)
    assert here.server.pictures == [(64, 48)] * 2


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        ("429", "429"),
        ("500", "500"),
        ("truncated", "truncated"),
        ("broken_json", "invalid"),
        ("wrong_enum", "invalid"),
        ("not_a_completion", "invalid"),
        ("dropped", "connection"),
        ("slow", "timeout"),
    ],
)
def test_what_may_pass_is_tried_again(desk: Callable[..., Desk], failure: str, outcome: str):
    here = desk(failure, timeout_s=1.0)
    assert here.ask() == GRASPED
    totals = here.ledger.totals()
    assert totals.outcomes == {outcome: 1, "answered": 1}
    assert len(here.server.requests) == totals.requests == 2


def test_a_server_that_asks_for_time_gets_it(desk: Callable[..., Desk]):
    here = desk("429", "500")
    here.endpoint.ask(_question())
    assert here.waits[0] == 7.0
    assert 1.0 <= here.waits[1] <= 3.0


def test_a_truncated_answer_gets_more_room(desk: Callable[..., Desk]):
    here = desk("truncated", "truncated", "truncated", max_output_tokens=100)
    here.endpoint.ask(_question())
    assert [request["max_completion_tokens"] for request in here.server.requests] == [100, 200, 400, 400]


def test_a_model_is_told_what_was_wrong(desk: Callable[..., Desk]):
    here = desk("wrong_enum")
    here.endpoint.ask(_question())
    said, told = here.server.requests[1]["messages"][-2:]
    assert "perhaps" in said["content"]
    assert "grasped" in told["content"]


@pytest.mark.parametrize(
    ("failure", "reason", "requests"),
    [("refusal", "refused", 1), ("401", "rejected", 1), ("quota", "rejected", 1), ("500", "server", 3)],
)
def test_what_does_not_pass_is_named_and_never_an_answer(
    desk: Callable[..., Desk], failure: str, reason: str, requests: int
):
    here = desk(*[failure] * 5, tries=3)
    with pytest.raises(AskError) as caught:
        here.endpoint.ask(_question())
    assert (caught.value.reason, caught.value.requests) == (reason, requests)
    assert here.ledger.totals().answers == 0
    assert len(here.server.requests) == requests


@pytest.mark.parametrize(("formats", "refused"), [(("json_object",), 1), ((), 2)])
def test_what_a_server_does_not_know_is_found_out_once(
    desk: Callable[..., Desk], formats: tuple[str, ...], refused: int
):
    here = desk(*[*["answer"] * refused, "fenced"], formats=formats)
    assert here.ask() == GRASPED
    assert here.ask(1) == GRASPED
    assert len(here.server.refused) == refused
    assert "schema" in here.server.requests[-1]["messages"][0]["content"]


def test_a_hopeless_failure_ends_the_round_without_more_requests(desk: Callable[..., Desk]):
    here = desk(*["401"] * 9, concurrency=1)
    answers = [answer for _, answer in here.endpoint.ask_all([_question(i) for i in range(6)])]
    assert all(isinstance(answer, AskError) and answer.reason == "rejected" for answer in answers)
    assert len(here.server.requests) == 1


def test_answers_come_in_the_order_asked(desk: Callable[..., Desk]):
    here = desk("slow", "answer", "500", concurrency=4)
    questions = [_question(i) for i in range(8)]
    assert [question for question, _ in here.endpoint.ask_all(questions)] == questions
    assert here.ledger.totals().requests == 9


def test_a_budget_is_never_exceeded(desk: Callable[..., Desk]):
    here = desk(budget_usd=0.05, concurrency=3)
    answers = [answer for _, answer in here.endpoint.ask_all([_question(i) for i in range(60)])]
    broke = [answer for answer in answers if isinstance(answer, AskError)]
    assert broke
    assert {error.reason for error in broke} == {"budget"}
    assert "raise the budget" in str(broke[0])
    assert here.ledger.totals().usd <= 0.05
    assert len(here.server.requests) == here.ledger.totals().requests == 60 - len(broke)


def test_what_was_reserved_counts_until_it_is_settled(tmp_path: Path):
    ledger = Ledger(tmp_path / "ledger.sqlite")
    number = ledger.begin("a", "k", most_usd=0.6, budget_usd=1.0, now_s=0.0)
    with pytest.raises(BudgetError, match=r"0\.6"):
        ledger.begin("b", "k", most_usd=0.6, budget_usd=1.0, now_s=0.0)
    ledger.settle(number, "answered", usd=0.1, answer="{}")
    ledger.begin("b", "k", most_usd=0.6, budget_usd=1.0, now_s=0.0)
    assert ledger.totals().outcomes == {"answered": 1, "unknown": 1}
    assert ledger.totals().usd == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_url": "localhost:8000"}, "base URL"),
        ({"model": ""}, "no model"),
        ({"tries": 0}, "tries"),
        ({"budget_usd": 3.0}, "prices"),
        ({"usd_per_mtok_in": -1.0}, "usd_per_mtok_in"),
    ],
)
def test_settings_check_themselves(settings: dict[str, Any], said: str):
    with pytest.raises(SpecError, match=said):
        replace(EndpointSpec(base_url="http://localhost:8000/v1", model="m"), **settings)


def _ask_many(base_url: str, ledger: Path, count: int) -> None:
    endpoint = Endpoint(EndpointSpec(base_url=base_url, model="watcher", concurrency=2), Ledger(ledger))
    for _ in endpoint.ask_all([_question(i) for i in range(count)]):
        pass


def test_a_killed_run_goes_on_without_paying_twice(tmp_path: Path):
    def slowly(request: Mapping[str, Any]) -> dict[str, str]:
        time.sleep(0.02)
        return _says(request)

    server, path, spawn = Server(slowly), tmp_path / "ledger.sqlite", multiprocessing.get_context("spawn")
    for wanted in (5, 15):
        child = spawn.Process(target=_ask_many, args=(server.base_url, path, 30))
        child.start()
        while len(server.requests) < wanted and child.is_alive():
            time.sleep(0.005)
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    _ask_many(server.base_url, path, 30)
    ledger = Ledger(path)
    totals = ledger.totals()
    assert totals.answers == 30
    # Killed between the ledger's entry and the wire, a request is one the server never saw; at most those in flight.
    lost = totals.outcomes.get("unknown", 0)
    assert lost <= 4
    assert 0 <= totals.requests - len(server.requests) <= lost
    assert totals.outcomes["answered"] == 30
    server.close()
    ledger.close()
