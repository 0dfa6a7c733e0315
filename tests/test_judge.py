"""Laws of the judge: it looks at pictures in order, computes the verdict itself, and an error is no verdict."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dreams.endpoint import Endpoint, EndpointSpec
from dreams.instructions import Instruction, counted, distinct
from dreams.judge import EVENTS, Judgement, JudgeSpec, judge, judge_all, sampled
from dreams.ledger import Ledger
from dreams.prompts import KnownScene, Place, Thing, propose_by_model, propose_from_state
from factory.errors import SpecError
from tests.llm_server import Server

RED = Instruction(thing="the red cube", source="from the table", target="on the plate")
BLUE = Instruction(thing="blue cube", source="from the table", target="on the plate")
Start = Callable[..., tuple[Server, Endpoint]]
Saw = Callable[[str], str]
"""What a model sees: an event's or question's name -> yes, no or unsure."""


def _frames(count: int = 24) -> np.ndarray:
    """Return pictures that get brighter, so that each tells its place in time."""
    return np.broadcast_to((np.arange(count, dtype=np.uint8) * 10)[:, None, None, None], (count, 32, 48, 3)).copy()


def _vote(said: Saw) -> dict[str, Any]:
    return {
        "observations": [{"picture": 1, "gripper": "open", "thing": "on the table"}],
        "other_thing_moved": said("other_thing_moved"),
        "things_stay_what_they_are": said("things_stay_what_they_are"),
        "events": {name: said(name) for name in EVENTS},
    }


def _told(request: Mapping[str, Any]) -> str:
    return request["messages"][-1]["content"][-1]["text"]


def _all_yes(name: str) -> str:
    return "no" if name == "other_thing_moved" else "yes"


def _none(name: str) -> str:
    return "no" if name != "things_stay_what_they_are" else "yes"


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def start(answer: Callable[[Mapping[str, Any]], Mapping[str, Any]], **settings: Any) -> tuple[Server, Endpoint]:
        script = settings.pop("script", ())
        server = Server(answer, script=script)
        servers.append(server)
        spec = EndpointSpec(base_url=server.base_url, model="watcher", **settings)
        return server, Endpoint(spec, Ledger(tmp_path / f"{len(servers)}.sqlite"), sleep=lambda _: None)

    yield start
    for each in servers:
        each.close()


def _saw(red: Saw, blue: Saw = _none) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    return lambda request: _vote(red if "red cube" in _told(request).split('"')[1] else blue)


def test_the_verdict_is_computed_from_events(ask: Start):
    def but(wrong: str, word: str) -> Saw:
        return lambda name: word if name == wrong else _all_yes(name)

    cases = [(_all_yes, "accept", 1.0)]
    cases += [(but(event, "no"), "reject", 0.0) for event in EVENTS]
    cases += [(but(event, "unsure"), "abstain", 0.5) for event in EVENTS]
    cases += [(but("other_thing_moved", "yes"), "reject", 0.0), (but("things_stay_what_they_are", "no"), "reject", 0.0)]
    for said, verdict, score in cases:
        _, endpoint = ask(_saw(said))
        spec = JudgeSpec(votes=2)
        judgement = judge(_frames(), RED, endpoint, spec, contrast=BLUE, recaption=False)
        assert (judgement.verdict, judgement.score) == (verdict, score)


def test_pictures_are_shown_in_the_order_of_time(ask: Start):
    server, endpoint = ask(_saw(_all_yes))
    judgement = judge(_frames(), RED, endpoint, JudgeSpec(), contrast=BLUE)
    assert judgement.frames == (0, 3, 7, 10, 13, 16, 20, 23)
    for request in server.requests:
        parts = [p for p in request["messages"][1]["content"] if p["type"] == "image_url"]
        data = [base64.b64decode(p["image_url"]["url"].split(",")[1]) for p in parts]
        shown = [float(np.asarray(Image.open(io.BytesIO(each))).mean()) for each in data]
        np.testing.assert_allclose(shown, [10 * i for i in judgement.frames], atol=2)


def test_words_change_their_order_from_vote_to_vote(ask: Start):
    server, endpoint = ask(_saw(_all_yes))
    judge(_frames(), RED, endpoint, JudgeSpec(votes=3), contrast=BLUE)
    orders = [
        tuple(r["response_format"]["json_schema"]["schema"]["properties"]["other_thing_moved"]["enum"])
        for r in server.requests
    ]
    assert len(set(orders[:3])) == 3
    first = [list(r["response_format"]["json_schema"]["schema"]["properties"]) for r in server.requests]
    assert {names[0] for names in first} == {"observations"}, "evidence is generated before what follows from it"


def test_whoever_says_yes_to_everything_has_not_looked(ask: Start):
    _, endpoint = ask(_saw(_all_yes, _all_yes))
    judgement = judge(_frames(), RED, endpoint, JudgeSpec(), contrast=BLUE)
    assert judgement.verdict == "abstain"
    assert "blue cube" in judgement.reason


def test_an_error_is_no_verdict_and_is_tried_again_for_the_rest_only(ask: Start):
    server, endpoint = ask(_saw(_all_yes), script=["answer", "refusal"])
    failed = judge(_frames(), RED, endpoint, JudgeSpec(), contrast=BLUE)
    assert failed.verdict == "error"
    assert math.isnan(failed.score)
    assert failed.reason.startswith("refused")
    assert len(server.requests) == 2
    assert judge(_frames(), RED, endpoint, JudgeSpec(), contrast=BLUE).verdict == "accept"
    assert len(server.requests) == 2 + 3


def test_what_was_done_instead_gets_its_own_name(ask: Start):
    def model(request: Mapping[str, Any]) -> Mapping[str, Any]:
        if "was one thing picked up" in _told(request):
            seen = {"moved": "yes", "thing": "the blue cube", "source": "from the table", "target": "on the plate"}
            return {"observations": [], **seen}
        return _saw(_none, _all_yes)(request)

    _, endpoint = ask(model)
    judgement = judge(_frames(), RED, endpoint, JudgeSpec(), contrast=BLUE)
    # The contrast was done, so it says yes there; that spoils nothing, for the instruction itself is rejected.
    assert judgement.verdict == "reject"
    assert judgement.caption == BLUE
    assert isinstance(judgement.refiled, Judgement)
    assert judgement.refiled.verdict == "accept"


def test_judgements_come_in_the_order_of_the_clips(ask: Start):
    _, endpoint = ask(_saw(_all_yes))
    clips = [(_frames(10 + i), RED if i % 2 else BLUE, BLUE if i % 2 else RED) for i in range(6)]
    verdicts = [each.verdict for each in judge_all(clips, endpoint, JudgeSpec(votes=1), concurrency=3)]
    assert verdicts == ["reject", "accept"] * 3


@given(st.integers(1, 200), st.integers(1, 49))
def test_sampled_pictures_span_the_clip(total: int, count: int):
    chosen = sampled(total, count)
    assert chosen[0] == 0
    assert count == 1 or chosen[-1] == total - 1
    assert list(chosen) == sorted(set(chosen))
    assert len(chosen) <= count
    if count > 1 and total >= count:
        assert max(np.diff(chosen)) <= math.ceil((total - 1) / (count - 1))


@pytest.mark.parametrize(
    "settings", [{"frames": 1}, {"votes": 0}, {"accept": 0.3, "reject": 0.3}, {"reject": -0.1}, {"accept": 1.1}]
)
def test_a_judge_checks_its_settings(settings: dict[str, Any]):
    with pytest.raises(SpecError):
        JudgeSpec(**settings)


def test_instructions_that_ask_for_the_same_are_one():
    again = Instruction(thing="a  Red cube.", source="from the shelf", target="on the plate")
    assert distinct([RED, again, BLUE]) == [RED, BLUE]
    assert counted([RED, again, BLUE])["red cube", "on the plate"] == 2
    assert RED.text == "Pick up the red cube from the table and place it on the plate."
    with pytest.raises(SpecError):
        Instruction(thing=" the ", source="from the table", target="on the plate")


SCENE = KnownScene(
    things=(
        Thing(name="red cube", position_m=(0.1, 0.1, 0.8), radius_m=0.03),
        Thing(name="blue cube", position_m=(0.1, -0.1, 0.8), radius_m=0.03, on="green plate"),
        Thing(name="far can", position_m=(1.5, 0.0, 0.8), radius_m=0.03),
    ),
    places=(
        Place(name="green plate", preposition="on", position_m=(0.1, -0.1, 0.8), radius_m=0.08),
        Place(name="basket", preposition="in", position_m=(0.3, 0.2, 0.8), radius_m=0.08),
        Place(name="thimble", preposition="in", position_m=(0.2, 0.0, 0.8), radius_m=0.01),
    ),
    base_m=(-0.5, 0.0),
    reach_m=(0.3, 0.9),
    usual=(Instruction(thing="red cube", source="from the table", target="in the basket"),),
)


def test_only_what_the_scene_allows_is_proposed():
    proposals = propose_from_state("f", SCENE, count=9)
    said = {(p.instruction.thing, p.instruction.target): p.counterfactual for p in proposals}
    # The plate is taken by the blue cube, the thimble too small, the can too far, and nothing goes where it is.
    assert said == {("red cube", "in the basket"): False, ("blue cube", "in the basket"): True}
    assert {p.proposer for p in proposals} == {"state"}
    assert proposals == propose_from_state("f", SCENE, count=9)
    assert len(propose_from_state("f", SCENE, count=1)) == 1


def test_a_frame_that_nothing_is_known_about_is_refused():
    with pytest.raises(SpecError, match="endpoint"):
        propose_from_state("photo", None, count=3)


def test_things_of_one_name_cannot_be_told_apart():
    with pytest.raises(SpecError, match="red cube"):
        KnownScene(things=(SCENE.things[0],) * 2, places=(), base_m=(0, 0), reach_m=(0, 1))


def test_a_model_proposes_what_it_has_seen(ask: Start):
    def task(thing: str, source: str, target: str) -> dict[str, str]:
        return {"why_possible": "near", "thing": thing, "source": source, "target": target}

    def model(_: Mapping[str, Any]) -> Mapping[str, Any]:
        return {
            "objects": [
                {"name": "red cube", "where": "left", "can_be_held": True},
                {"name": "table", "where": "below", "can_be_held": False},
            ],
            "tasks": [
                task("The red cube", "from the table", "on the plate"),
                task("red cube", "from the left", "on the plate"),
                task("unicorn", "from the table", "on the plate"),
                task("table", "from the floor", "on the plate"),
                task("red cube", "the table", "plate"),
                task("", "from the table", "on the plate"),
            ],
        }

    server, endpoint = ask(model)
    proposals = propose_by_model("f", _jpeg(), endpoint, count=4, usual=[RED])
    assert [p.instruction for p in proposals] == [RED]
    assert proposals[0].proposer == "mllm:watcher"
    assert not proposals[0].counterfactual
    names = list(server.requests[0]["response_format"]["json_schema"]["schema"]["properties"])
    assert names == ["objects", "tasks"]
    json.dumps([p.instruction.text for p in proposals])


def _jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(_frames(1)[0]).save(buffer, "JPEG")
    return buffer.getvalue()
