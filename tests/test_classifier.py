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
from dreams.classifier import Classifier, judge_embedded, open_classifier
from dreams.classifier_net import CELL_PX, ClassifierSpec, Network
from dreams.classifier_training import train_classifier
from dreams.corruption import CORRUPTIONS, corrupted
from dreams.descent import Schedule
from dreams.example_book import keep_examples, read_examples
from dreams.examples import Example
from dreams.instructions import read
from dreams.judge import EVENTS, Judgement
from dreams.judge_card import figures, judge_card, picture
from dreams.mixing import GOOD, WRONGLY_TOLD, lessons, mixed
from dreams.pixel_checks import PixelLimits, look
from dreams.telling import ELSEWHERE, OTHER_TARGET, TOLD, retold, told_otherwise
from dreams.timebase import TimeBase
from dreams.views import Frames, Grid
from dreams.words import SLOTS, numbers_of, unread, vocabulary
from factory.errors import DatasetError, SpecError

GRID = Grid(views=("a", "b"), height_px=16, width_px=32)
THINGS = ("red block", "blue block")
TARGETS = ("on the right", "on the left")
ASKED = tuple(f"Pick up the {thing} from the floor and place it {TARGETS[0]}." for thing in THINGS)
SPEC = ClassifierSpec(width=32, blocks=1, channels=8, landmarks=2, counts=(4, 8))
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
        Example(
            frames=clip(seed=seed + i, moved=name), instruction=told, follows=True, kind="success", events=done,
            things=THINGS, targets=TARGETS,
        )
        for i in range(count)
        for name, told in zip(("red", "blue"), ASKED, strict=True)
    ]  # fmt: skip
    short = [
        replace(
            each, frames=each.frames[np.minimum(np.arange(13), 6)], follows=False, kind="dropped",
            events={"placed": False},
        )
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
    assert look(frames, GRID).objection(limits) == look(frames, GRID).doubt(limits) == ""
    assert "nothing moves" in look(np.repeat(frames[:1], 13, axis=0), GRID).objection(limits)
    np.testing.assert_array_equal(corrupted(frames, GRID, "reversed", seed=0)[::-1], frames)
    shuffled = corrupted(frames, GRID, "shuffled", seed=0)
    assert Counter(map(bytes, shuffled)) == Counter(map(bytes, frames))
    np.testing.assert_array_equal(shuffled[0], frames[0])
    for seed in range(4):
        assert "vanishes" in look(corrupted(frames, GRID, "vanished", seed=seed), GRID).doubt(limits)
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


def test_the_first_frame_is_compared_where_it_is_given() -> None:
    frames = clip(seed=4)
    assert look(frames, GRID, first=frames[0]).first_error == 0.0
    other = look(frames, GRID, first=255 - frames[0])
    assert "first frame" in other.objection(PixelLimits())
    assert np.isnan(look(frames, GRID).first_error)


# --- other sentences, and words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["success", "dropped", "missed", "pushed"])
def test_under_another_sentence_the_law_says_what_happened(kind: str) -> None:
    happened = {name: i % 2 == 0 for i, name in enumerate(EVENTS)} | {"placed": True}
    base = replace(examples(2)[0], kind=kind, follows=kind == "success", events=happened)
    other = told_otherwise(base, thing=THINGS[1])
    assert other.events == dict.fromkeys(EVENTS, False)
    elsewhere = told_otherwise(base, target=TARGETS[1])
    assert elsewhere.events == {**happened, "placed": False}
    both = told_otherwise(base, thing="green ball", target=TARGETS[1])
    assert both.events == dict.fromkeys(EVENTS, False)
    assert read(both.instruction).key == ("green ball", TARGETS[1])
    for each in (other, elsewhere, both):
        assert not each.follows
        assert each.frames is base.frames
    assert told_otherwise(replace(base, events={}), thing=THINGS[1]).events == {}
    with pytest.raises(SpecError, match="asks for what"):
        told_otherwise(base, thing="Red block")


def test_what_may_be_true_is_not_called_wrong() -> None:
    """Another thing was moved, or the thing was brought elsewhere: then a sentence that says so may be right."""
    base = replace(examples(2)[0], follows=False, events=dict.fromkeys(EVENTS, False))
    with pytest.raises(SpecError, match="not known whether"):
        told_otherwise(replace(base, kind="wrong_object"), thing=THINGS[1])
    with pytest.raises(SpecError, match="not known whether"):
        told_otherwise(replace(base, kind="wrong_place"), target=TARGETS[1])
    rng = np.random.default_rng(0)
    for _ in range(20):
        for kind, part in (("wrong_object", 0), ("wrong_place", 1)):
            own = read(base.instruction).key[part]
            found = retold(replace(base, kind=kind), ["green ball"], rng)
            assert {read(each.instruction).key[part] for each in found} == {own}


def test_a_clip_is_shown_under_its_own_sentence_and_three_others() -> None:
    base = examples(2)[0]
    found = retold(base, [*THINGS, "green ball"], np.random.default_rng(1))
    assert found[0] is base
    assert [each.kind for each in found[1:]] == list(TOLD)
    asked = [read(each.instruction) for each in found[1:]]
    assert [each.thing for each in asked] == [THINGS[1], THINGS[0], "green ball"]
    assert [each.target for each in asked] == [TARGETS[0], TARGETS[1], TARGETS[0]]
    bare = replace(base, things=(), targets=())
    assert [e.kind for e in retold(bare, ["green ball"], np.random.default_rng(1))[1:]] == [ELSEWHERE] * 3
    assert all(each is bare for each in retold(bare, [], np.random.default_rng(1)))


def test_words_are_read_by_the_word() -> None:
    known = vocabulary([*THINGS, TARGETS[0]])
    assert known == ("block", "blue", "on", "red", "right")
    numbers = numbers_of(ASKED, known)
    assert numbers.shape == (2, 2, SLOTS)
    assert [known[i - 1] for i in numbers[0, 0].tolist() if i] == ["red", "block"]
    assert torch.equal(numbers[0, 1], numbers[1, 1])
    assert unread(ASKED[0], known) == ""
    assert unread(ASKED[0].replace("red", "striped"), known) == "it never learnt the word 'striped'"
    assert "not of the form" in unread("Do it.", known)
    with pytest.raises(SpecError, match="never learnt the word 'striped'"):
        numbers_of([ASKED[0].replace("red", "striped")], known)


def test_a_mixture_has_its_shares_and_no_good_clip_twice() -> None:
    given = examples(20)
    found = mixed(given, GRID, size=100, seed=1, things=("green ball",))
    kinds = Counter(each.kind for each in found)
    assert kinds["success"] == round(GOOD * 100)
    assert sum(kinds[kind] for kind in TOLD) == round(WRONGLY_TOLD * 100)
    assert max(kinds[kind] for kind in TOLD) - min(kinds[kind] for kind in TOLD) <= 1
    others = [kinds[kind] for kind in ("dropped", *CORRUPTIONS)]
    assert max(others) == min(others) > 0
    good = [bytes(each.frames) for each in found if each.follows]
    assert len(set(good)) == len(good)
    assert not any(each.events or each.where for each in found if each.kind in CORRUPTIONS)
    told = {bytes(each.frames): read(each.instruction).key for each in given if each.follows}
    for each in found:
        if each.kind in TOLD:
            changed = [a != b for a, b in zip(told[bytes(each.frames)], read(each.instruction).key, strict=True)]
            assert changed == [each.kind != OTHER_TARGET, each.kind == OTHER_TARGET]
            assert (read(each.instruction).thing in THINGS) == (each.kind != ELSEWHERE)
    again = mixed(given, GRID, size=100, seed=1, things=("green ball",))
    assert [(bytes(e.frames), e.instruction) for e in again] == [(bytes(e.frames), e.instruction) for e in found]
    alone = [replace(each, things=(), targets=()) for each in given if each.instruction == ASKED[0]]
    with pytest.raises(SpecError, match="no thing other than"):
        mixed(alone, GRID, size=20, seed=1)


def test_lessons_are_all_examples_and_as_many_spoilt_in_each_way() -> None:
    given = examples(3)
    found = lessons(given, GRID, spoilt=4, seed=0)
    assert found[: len(given)] == given
    assert Counter(each.kind for each in found[len(given) :]) == dict.fromkeys(CORRUPTIONS, 4)


def test_examples_are_read_back_as_they_were_kept(tmp_path: Path) -> None:
    at = {THINGS[0]: np.linspace(-1, 1, 26, dtype=np.float32).reshape(13, 2)}
    given = [replace(each, where=at) for each in examples(2)]
    time = TimeBase(control_hz=20, stride=4, frames=13)
    keep_examples(tmp_path, "scene", given, GRID, time)
    found, grid, clock = read_examples(tmp_path)
    assert (grid, clock) == (GRID, time)
    for one, two in zip(found, given, strict=True):
        np.testing.assert_array_equal(one.frames, two.frames)
        np.testing.assert_array_equal(one.where[THINGS[0]], at[THINGS[0]])
        assert replace(one, frames=two.frames, where=two.where) == two
    with pytest.raises(SpecError, match="places in 13 pictures"):
        replace(given[0], where={"x": np.zeros((5, 2), np.float32)})


# --- calibration ------------------------------------------------------------------------------------------------------


def test_calibrated_probabilities_mean_what_they_say() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(0.0, 1.5, 6000)
    follows = rng.random(6000) < 1 / (1 + np.exp(-true))
    found = calibrated(3.0 * true - 4.0, follows, doubted=np.zeros(6000, bool))
    assert found.doubt == pytest.approx(0.0, abs=1e-9)
    assert found.slope == pytest.approx(1 / 3, rel=0.1)
    assert found.offset == pytest.approx(4 / 3, rel=0.15)
    p = found.probability(3.0 * true - 4.0, np.zeros(6000, bool))
    for low in np.arange(0.1, 0.9, 0.2):
        inside = (p >= low) & (p < low + 0.2)
        assert follows[inside].mean() == pytest.approx(p[inside].mean(), abs=0.06)
    accepted = p >= found.accept
    assert follows[accepted].mean() >= 0.9
    assert follows[p <= found.reject].mean() <= 0.1
    assert [found.verdict(v) for v in (1.0, (found.accept + found.reject) / 2, 0.0)] == ["accept", "abstain", "reject"]


def test_a_classifier_that_knows_nothing_accepts_nothing() -> None:
    follows = np.arange(400) % 2 == 0
    for logits in (np.zeros(400), -4.0 * follows):
        found = calibrated(logits, follows, doubted=np.zeros(400, bool))
        assert found.accept == NEVER
        assert found.verdict(1.0) != "accept"
    with pytest.raises(SpecError, match="both kinds"):
        calibrated(np.zeros(3), np.ones(3, bool), doubted=np.zeros(3, bool))


def test_a_precision_is_shown_by_many_clips_and_not_undone_by_one() -> None:
    logits = np.concatenate([np.linspace(3.0, 5.0, 200), np.linspace(-5.0, -3.0, 200)])
    follows = np.arange(400) < 200
    doubted = np.zeros(400, bool)
    found = calibrated(np.append(logits, 9.0), np.append(follows, [False]), doubted=np.zeros(401, bool))
    p = found.probability(logits, doubted)
    assert (p[follows] >= found.accept).mean() > 0.9  # one that fools it more than any good clip convinces
    assert found.accept >= 0.9
    few = calibrated(logits[::20], follows[::20], doubted=doubted[::20])
    assert few.accept == NEVER  # ten right ones may be luck


def test_doubt_counts_as_much_as_it_turned_out_to_be_worth() -> None:
    rng = np.random.default_rng(2)
    logits, doubted = rng.normal(0.0, 1.5, 6000), rng.random(6000) < 0.3
    follows = rng.random(6000) < 1 / (1 + np.exp(-(logits - 2.0 * doubted)))
    found = calibrated(logits, follows, doubted=doubted)
    assert found.doubt == pytest.approx(2.0, rel=0.15)
    assert (found.probability(logits, np.ones(6000, bool)) < found.probability(logits, np.zeros(6000, bool))).all()
    praised = calibrated(logits, rng.random(6000) < 1 / (1 + np.exp(-(logits + doubted))), doubted=doubted)
    assert praised.doubt == 0.0  # what looks wrong never makes a clip more probable
    certain = calibrated(logits, follows & ~doubted, doubted=doubted)
    assert 4.0 < certain.doubt < 12.0  # no doubted clip was good: much, but not without bound
    far = calibrated(1e-4 * logits + 30.0, follows, doubted=doubted)
    assert far.slope == pytest.approx(1e4 * found.slope, rel=0.05)
    with pytest.raises(SpecError, match="0 or more"):
        replace(found, doubt=-1.0)


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
    one, two = (judge_embedded(clip(seed=9), ASKED[0], open_classifier(folder)) for _ in range(2))
    assert one == two
    assert one.judge == "classifier:small"
    assert "mllm" not in one.judge
    assert one.version.startswith("classifier/2+")
    assert set(one.events) == set(EVENTS)
    assert one.frames == (0, 4, 8, 12)
    assert judge_embedded(clip(seed=9), ASKED[0], open_classifier(folder), count=8).frames == (0, 2, 3, 5, 7, 9, 10, 12)
    with pytest.raises(SpecError, match="not calibrated for 6 pictures, only for 4, 8"):
        judge_embedded(clip(seed=9), ASKED[0], open_classifier(folder), count=6)


def test_words_learn_to_point_where_things_are(tmp_path: Path) -> None:
    """Told where the things are in single pictures, the network finds each by its name in clips it never saw."""

    def placed(example: Example) -> Example:
        where = {}
        for name, blob in zip(THINGS, blobs_of(GRID.split(example.frames)["a"]), strict=True):
            row, column = (blob.middle_px.T + 0.5) / np.array([[16], [64]]) * 2 - 1
            where[name] = np.stack([column, row], axis=1).astype(np.float32)
        return replace(example, where=where)

    given = [placed(example) for example in examples(8)]
    schedule = Schedule(steps=120, batch=8, rate=1e-2, warmup=4, keep_every=200)
    spec = replace(SPEC, counts=(4,))
    judge = train_classifier(
        [*given, *lessons(given, GRID, spoilt=1, seed=0)[len(given) :]], given, tmp_path, name="small", grid=GRID,
        data="", spec=spec, schedule=schedule,
    )  # fmt: skip
    assert judge is not None
    fresh = [placed(example) for example in examples(3, seed=50)]
    numbers = numbers_of(ASKED, judge.words)
    off = []
    for example in fresh:
        pictures = torch.from_numpy(example.frames[[0, 6, 12]]).movedim(-1, -3).float() / 127.5 - 1.0
        cells = judge.network(pictures[None], numbers[None])[1][0, :, :, 0].argmax(-1)
        for s, name in enumerate(THINGS):
            row, column = np.divmod(cells[s].numpy(), 64 // CELL_PX)
            x, y = (example.where[name][[0, 6, 12]].T + 1) / 2 * np.array([[64 // CELL_PX], [16 // CELL_PX]])
            off += [np.hypot(column + 0.5 - x, row + 0.5 - y)]
    assert np.median(np.concatenate(off)) < 1.5


def test_pictures_that_cannot_be_tiled_are_refused() -> None:
    with pytest.raises(SpecError, match="multiples of 16"):
        Network(SPEC, Grid(views=("a",), height_px=24, width_px=32), 5)


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
    sure = Calibration(slope=1.0, offset=50.0, doubt=0.0, accept=0.9, reject=0.1, clips=9)
    judge = replace(open_classifier(folder), calibrations={4: sure})
    frames = clip(seed=9)
    assert judge_embedded(frames, ASKED[0], judge).verdict == "accept"
    still = judge_embedded(np.repeat(frames[:1], 13, axis=0), ASKED[0], judge)
    assert (still.verdict, "nothing moves" in still.reason) == ("reject", True)
    elsewhere = judge_embedded(frames, ASKED[0], judge, first=255 - frames[0])
    assert elsewhere.verdict == "reject"
    torn = replace(judge, calibrations={4: replace(sure, slope=0.0, offset=0.0)})
    unsure = judge_embedded(frames, ASKED[0], torn)
    assert (unsure.verdict, unsure.score) == ("abstain", 0.5)
    assert "between" in unsure.reason
    plain = replace(judge, calibrations={4: replace(sure, offset=0.0)})
    unread_one = judge_embedded(frames, ASKED[0].replace("red", "striped"), plain)
    assert (unread_one.verdict, unread_one.reason) == ("abstain", "it never learnt the word 'striped'")
    hidden = corrupted(frames, GRID, "vanished", seed=0)
    doubting = replace(judge, calibrations={4: replace(sure, doubt=100.0)})
    assert judge_embedded(hidden, ASKED[0], judge).verdict == "accept"
    doubted = judge_embedded(hidden, ASKED[0], doubting)
    assert (doubted.verdict, "vanishes" in doubted.reason) == ("reject", True)
    scores = {judge_embedded(each, told, plain).score for told in ASKED for each in (frames, frames[::-1].copy())}
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
