"""The embedded judge, the clips that it learns from, and the card that says what it is worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dreams.blobs import blobs_of
from dreams.calibration import NEVER, Calibration, calibrated
from dreams.classifier import Classifier, judge_embedded, open_classifier, train_classifier
from dreams.classifier_net import ClassifierSpec
from dreams.corruption import CORRUPTIONS, WRONG_INSTRUCTION, corrupted, wrong_instruction
from dreams.descent import Schedule
from dreams.examples import GOOD, WRONGLY_TOLD, Example, mixed
from dreams.judge import EVENTS, Judgement
from dreams.judge_card import figures, judge_card, picture
from dreams.pixel_checks import PixelLimits, look
from dreams.views import Frames, Grid
from factory.errors import DatasetError, SpecError

GRID = Grid(views=("a", "b"), height_px=16, width_px=32)
TOLD = ("Move red.", "Move blue.")
SPEC = ClassifierSpec(width=32, blocks=1, points=8, counts=(4, 8))
SCHEDULE = Schedule(steps=24, batch=8, rate=3e-3, warmup=4, keep_every=8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def clip(*, seed: int, moved: str = "red", length: int = 13) -> Frames:
    """Return a small world in two views: a grey hand comes down to a thing of one colour and carries it aside."""
    rng = np.random.default_rng(seed)
    top, things = int(rng.integers(2, 5)), {"red": (200, 20, 20), "blue": (20, 30, 200)}
    out = np.full((length, 16, 32, 3), 235, np.uint8)
    out += rng.integers(0, 12, out.shape, dtype=np.uint8)
    for t in range(length):
        carried = round(max(t - length // 3, 0) / (length - 1 - length // 3) * 14)
        hand = min(t * 3, length)
        for name, colour in things.items():
            row, column = (top + 2, 4) if name == "red" else (top + 7, 4)
            column += carried if name == moved else 0
            out[t, row : row + 3, column : column + 3] = colour
            if name == moved:
                out[t, max(row - 4 - max(10 - hand, 0), 0) : max(row - max(10 - hand, 0), 1), column : column + 3] = 110
    return GRID.joined({"a": out, "b": out[:, ::-1].copy()})


def examples(count: int, *, seed: int = 0) -> list[Example]:
    done = dict.fromkeys(EVENTS, True)
    good = [
        Example(frames=clip(seed=seed + i, moved=name), instruction=told, follows=True, kind="success", events=done)
        for i in range(count)
        for name, told in zip(("red", "blue"), TOLD, strict=True)
    ]
    short = [
        Example(frames=each.frames[np.minimum(np.arange(13), 6)], instruction=each.instruction, follows=False,
                kind="dropped", events={"placed": False})
        for each in good[: count // 2]
    ]  # fmt: skip
    return [*good, *short]


# --- things by colour, pixel checks, corruptions ----------------------------------------------------------------------


def test_coloured_things_are_found_where_they_are() -> None:
    red, blue = blobs_of(GRID.split(clip(seed=3))["a"])
    assert (red.hue, blue.hue) == (0, 8)
    np.testing.assert_array_equal(red.area_px, 9)
    assert (np.diff(red.middle_px[:, 1]) >= 0).all()
    assert red.middle_px[-1, 1] - red.middle_px[0, 1] == 14
    np.testing.assert_array_equal(blue.middle_px, np.repeat(blue.middle_px[:1], 13, axis=0))
    assert blobs_of(np.full((3, 16, 16, 3), 128, np.uint8)) == ()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_is_its_seeds_alone_keeps_the_form_and_leaves_the_original(kind: str) -> None:
    frames = clip(seed=1)
    before = frames.copy()
    found = [corrupted(frames, GRID, kind, seed=seed) for seed in (5, 5, 6, 7, 8)]
    np.testing.assert_array_equal(frames, before)
    np.testing.assert_array_equal(found[0], found[1])
    assert all(each.shape == frames.shape and each.dtype == np.uint8 for each in found)
    assert all((each != frames).any() for each in found)
    if kind not in ("reversed", "frozen"):
        assert any((found[0] != each).any() for each in found[2:])


def test_corruptions_do_what_they_are_called() -> None:
    frames = clip(seed=2)
    limits = PixelLimits()
    assert look(frames, GRID).objection(limits) == ""
    assert "nothing moves" in look(np.repeat(frames[:1], 13, axis=0), GRID).objection(limits)
    np.testing.assert_array_equal(corrupted(frames, GRID, "reversed", seed=0)[::-1], frames)
    shuffled = corrupted(frames, GRID, "shuffled", seed=0)
    assert Counter(map(bytes, shuffled)) == Counter(map(bytes, frames))
    np.testing.assert_array_equal(shuffled[0], frames[0])
    for seed in range(4):
        assert "vanishes" in look(corrupted(frames, GRID, "vanished", seed=seed), GRID).objection(limits)
        far = corrupted(frames, GRID, "teleported", seed=seed)
        assert look(far, GRID).jump > limits.most_jump
        for view, was in zip(GRID.split(far).values(), GRID.split(frames).values(), strict=True):
            # Nothing is lost on the way: what left its place is somewhere else, and the rest of the picture stays.
            assert [blob.area_px[-1] for blob in blobs_of(view)] == [blob.area_px[-1] for blob in blobs_of(was)]
        new = corrupted(frames, GRID, "recoloured", seed=seed)
        hues = [{blob.hue for blob in blobs_of(GRID.split(each[-1:])["a"])} for each in (new, frames)]
        assert hues[0] != hues[1]


def test_what_cannot_be_spoilt_is_refused() -> None:
    grey = np.full((5, *GRID.shape, 3), 128, np.uint8)
    with pytest.raises(SpecError, match="clear colour"):
        corrupted(grey, GRID, "vanished", seed=0)
    with pytest.raises(SpecError, match="Did you mean 'frozen'"):
        corrupted(clip(seed=0), GRID, "frozn", seed=0)
    with pytest.raises(SpecError, match="too short"):
        corrupted(grey[:2], GRID, "reversed", seed=0)
    assert wrong_instruction(TOLD[0], TOLD, seed=0) == TOLD[1]
    with pytest.raises(SpecError, match="no instruction other"):
        wrong_instruction("x", ["x"], seed=0)


def test_the_first_frame_is_compared_where_it_is_given() -> None:
    frames = clip(seed=4)
    assert look(frames, GRID, first=frames[0]).first_error == 0.0
    other = look(frames, GRID, first=255 - frames[0])
    assert "first frame" in other.objection(PixelLimits())
    assert np.isnan(look(frames, GRID).first_error)


def test_a_mixture_has_its_shares_and_no_good_clip_twice() -> None:
    given = examples(20)
    found = mixed(given, GRID, size=100, seed=1)
    kinds = Counter(each.kind for each in found)
    assert kinds["success"] == round(GOOD * 100)
    assert kinds[WRONG_INSTRUCTION] == round(WRONGLY_TOLD * 100)
    others = [kinds[kind] for kind in ("dropped", *CORRUPTIONS)]
    assert max(others) == min(others) > 0
    good = [bytes(each.frames) for each in found if each.follows]
    assert len(set(good)) == len(good)
    assert not any(each.events for each in found if each.kind in (*CORRUPTIONS, WRONG_INSTRUCTION))
    told = {bytes(each.frames): each.instruction for each in given if each.follows}
    assert all(told[bytes(e.frames)] != e.instruction for e in found if e.kind == WRONG_INSTRUCTION)
    again = mixed(given, GRID, size=100, seed=1)
    assert [bytes(each.frames) for each in again] == [bytes(each.frames) for each in found]


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibrated_probabilities_mean_what_they_say() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0.0, 1.5, 6000)
    follows = rng.random(6000) < 1 / (1 + np.exp(-true))
    found = calibrated(3.0 * true - 4.0, follows)
    assert found.slope == pytest.approx(1 / 3, rel=0.1)
    assert found.offset == pytest.approx(4 / 3, rel=0.15)
    p = found.probability(3.0 * true - 4.0)
    for low in np.arange(0.1, 0.9, 0.2):
        inside = (p >= low) & (p < low + 0.2)
        assert follows[inside].mean() == pytest.approx(p[inside].mean(), abs=0.06)
    accepted = p >= found.accept
    assert follows[accepted].mean() >= 0.9
    assert follows[p <= found.reject].mean() <= 0.1
    assert [found.verdict(v) for v in (1.0, (found.accept + found.reject) / 2, 0.0)] == ["accept", "abstain", "reject"]


def test_a_classifier_that_knows_nothing_accepts_nothing() -> None:
    rng = np.random.default_rng(1)
    follows = np.arange(400) % 2 == 0
    for logits in (np.zeros(400), -4.0 * follows):
        found = calibrated(logits + 1e-3 * rng.normal(size=400) * 0, follows)
        assert found.accept == NEVER
        assert found.verdict(1.0) != "accept"
    with pytest.raises(SpecError, match="both kinds"):
        calibrated(np.zeros(3), np.ones(3, bool))


# --- the network ------------------------------------------------------------------------------------------------------


def train(folder: Path, *, max_s: float = float("inf"), data: str = "made") -> Classifier | None:
    given, others = examples(6), examples(5, seed=100)
    return train_classifier(
        mixed(given, GRID, size=30, seed=0), mixed(others, GRID, size=25, seed=1), folder, name="small", grid=GRID,
        data=data, spec=SPEC, schedule=SCHEDULE, max_s=max_s,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("judge")
    assert train(made) is not None
    return made


def test_training_learns_and_what_is_opened_is_what_was_trained(folder: Path) -> None:
    losses = [json.loads(line)["follows"] for line in (folder / "training" / "loss.jsonl").read_text().splitlines()]
    assert len(losses) == SCHEDULE.steps
    assert np.mean(losses[-6:]) < np.mean(losses[:6])
    assert not [
        path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".safetensors", ".json", ".jsonl")
    ]
    one, two = (judge_embedded(clip(seed=9), TOLD[0], open_classifier(folder)) for _ in range(2))
    assert one == two
    assert one.judge == "classifier:small"
    assert "mllm" not in one.judge
    assert one.version.startswith("classifier/1+")
    assert set(one.events) == set(EVENTS)
    assert one.frames == (0, 4, 8, 12)
    assert judge_embedded(clip(seed=9), TOLD[0], open_classifier(folder), count=8).frames == (0, 2, 3, 5, 7, 9, 10, 12)
    with pytest.raises(SpecError, match="not calibrated for 6 pictures, only for 4, 8"):
        judge_embedded(clip(seed=9), TOLD[0], open_classifier(folder), count=6)


def test_training_that_was_stopped_ends_in_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    pieces = 0
    while train(tmp_path, max_s=0.0 if pieces == 0 else 0.2) is None:
        pieces += 1
        assert pieces < 200
    assert pieces > 1
    assert (tmp_path / "classifier.json").read_bytes() == (folder / "classifier.json").read_bytes()
    (weights,), (others,) = (list(each.glob("weights-*.safetensors")) for each in (tmp_path, folder))
    assert weights.read_bytes() == others.read_bytes()
    with pytest.raises(DatasetError, match="another training: data"):
        train(tmp_path, data="other")


def test_a_folder_without_a_judge_is_refused(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(DatasetError, match="holds no classifier"):
        open_classifier(tmp_path)
    (tmp_path / "classifier.json").write_bytes((folder / "classifier.json").read_bytes())
    with pytest.raises(DatasetError, match="holds no classifier"):
        open_classifier(tmp_path)


def test_the_judge_heeds_pixels_calibration_and_words(folder: Path) -> None:
    sure = Calibration(slope=1.0, offset=50.0, accept=0.9, reject=0.1, clips=9)
    judge = replace(open_classifier(folder), calibrations={4: sure})
    frames = clip(seed=9)
    assert judge_embedded(frames, TOLD[0], judge).verdict == "accept"
    still = judge_embedded(np.repeat(frames[:1], 13, axis=0), TOLD[0], judge)
    assert (still.verdict, "nothing moves" in still.reason) == ("reject", True)
    elsewhere = judge_embedded(frames, TOLD[0], judge, first=255 - frames[0])
    assert elsewhere.verdict == "reject"
    torn = replace(judge, calibrations={4: replace(sure, slope=0.0, offset=0.0)})
    unsure = judge_embedded(frames, TOLD[0], torn)
    assert (unsure.verdict, unsure.score) == ("abstain", 0.5)
    assert "between" in unsure.reason
    plain = replace(judge, calibrations={4: replace(sure, offset=0.0)})
    scores = {judge_embedded(each, told, plain).score for told in TOLD for each in (frames, frames[::-1].copy())}
    assert len(scores) == 4  # both the pictures' order and the words reach the network


# --- the card ---------------------------------------------------------------------------------------------------------


def judgement(verdict: str, score: float) -> Judgement:
    return Judgement(verdict=verdict, score=score, events={}, judge="mllm:test", version="1")


def test_the_card_counts_what_was_judged() -> None:
    given = mixed(examples(20), GRID, size=100, seed=1)
    truth = {(bytes(each.frames), each.instruction): each for each in given}

    def judges(frames: Frames, instruction: str, count: int) -> Judgement:
        """Right about everything but reversed clips; with 4 pictures it fails on good ones."""
        true = truth[bytes(frames), instruction]
        if count == 4 and true.follows:
            return judgement("error", float("nan"))
        fooled = true.kind == "reversed"
        return judgement("accept", 0.95) if true.follows or fooled else judgement("reject", 0.05)

    card = judge_card(given, judges, counts=(4, 8))
    four, eight = card.counts
    reversed_ones = next(kind for kind in eight.kinds if kind.kind == "reversed")
    good = sum(each.follows for each in given)
    assert card.good == good / len(given)
    assert eight.precision.value == good / (good + reversed_ones.accepted.n)
    assert (eight.recall.value, reversed_ones.accepted.value) == (1.0, 1.0)
    assert {kind.accepted.value for kind in eight.kinds if not kind.good and kind.kind != "reversed"} == {0.0}
    assert (four.recall.value, four.precision.value) == (0.0, 0.0)
    assert four.answered == four.clips - good
    accepted = good + reversed_ones.accepted.n
    error = (abs(0.95 * accepted - good) + 0.05 * (len(given) - accepted)) / len(given)
    assert eight.calibration_error.value == pytest.approx(error)
    for figure in (eight.precision, eight.recall, eight.calibration_error):
        assert figure.low <= figure.value <= figure.high
    assert json.loads(json.dumps(figures(card)))["counts"][1]["recall"]["value"] == 1.0
    image = picture(card)
    assert image.mode == "RGB"
    assert (np.asarray(image) != 255).any()
    assert picture(replace(card, counts=(eight,))).height < image.height
    assert Image.frombytes("RGB", image.size, picture(card).tobytes()).tobytes() == image.tobytes()


def test_scores_that_are_right_as_often_as_they_say_have_no_calibration_error() -> None:
    base = examples(1)[0]
    given = [replace(base, follows=i % 10 < 7, kind="success" if i % 10 < 7 else "dropped") for i in range(200)]
    honest = judge_card(given, lambda *_: judgement("abstain", 0.7), counts=(8,)).counts[0]
    assert honest.calibration_error.value == pytest.approx(0.0, abs=1e-9)
    assert honest.abstained.value == 1.0
    assert np.isnan(honest.precision.value)
    assert (
        figures(judge_card(given, lambda *_: judgement("abstain", 0.7), counts=(8,)))["counts"][0]["precision"]["value"]
        is None
    )
    boastful = judge_card(given, lambda *_: judgement("accept", 1.0), counts=(8,)).counts[0]
    assert boastful.calibration_error.value == pytest.approx(0.3)
    with pytest.raises(SpecError, match="needs clips"):
        judge_card([], lambda *_: judgement("accept", 1.0))
