"""Laws of dreams as datasets: pictures stay in order, what was guessed says so, and mixtures keep their shares."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dreams.clips import Clip, read_clips
from dreams.export import SOURCES, TIERS, Dream, action_names, labelled_episode, latent_episode, write_dreams
from dreams.instructions import Instruction
from dreams.judge import Judgement
from dreams.latents import LatentLabels
from dreams.mixture import mixture, read_mixture, write_mixture
from dreams.motion import Labels, hands_of, motion_of, poses_of
from dreams.timebase import TimeBase, windows
from dreams.views import Grid
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import read_episodes
from factory.errors import DatasetError, SpecError
from sim_tasks.robots import PANDA
from tests.lerobot_runs import run_in_lerobot
from tests.synthetic_pictures import frame_with_number, number_in_frame

TIME = TimeBase(control_hz=20, stride=4, frames=9)
GRID = Grid(views=("front", "wrist"), height_px=64, width_px=64)
HANDS = hands_of(PANDA)
ASKED = Instruction(thing="red cube", source="from the table", target="on the blue plate")
INSTEAD = Instruction(thing="green bar", source="from the table", target="on the blue plate")


def a_dream(index: int = 0, **changes: Any) -> Dream:
    """Return a dream whose pictures spell their numbers and whose hand draws a sine."""
    rng = np.random.default_rng(index)
    numbers = 100 * index + np.arange(TIME.frames)
    frames = {
        view: np.stack([frame_with_number(int(n) + 4096 * c) for n in numbers]) for c, view in enumerate(GRID.views)
    }
    T = np.repeat(np.eye(4)[None], TIME.steps + 1, axis=0)
    T[:, :3, 3] = [0.5, 0.0, 0.2]
    T[:, 0, 3] += 0.05 * np.sin(np.arange(TIME.steps + 1) / TIME.steps * np.pi)
    fingers = np.where(np.arange(TIME.steps) < 16, -1.0, 1.0)[:, None]
    labels = Labels(
        motion=motion_of({"right": T}, {"right": fingers}),
        T_base_eef={"right": T},
        confidence=rng.uniform(size=TIME.steps),
        model="oracle",
        version="1",
    )
    where = windows(TIME, horizon=16)
    latents = LatentLabels(
        where=where,
        embedding=rng.normal(size=(len(where.first), 6)).astype(np.float32),
        codes=np.zeros((len(where.first), 1), np.int64),
        model="latent",
        version="1",
    )
    clip = Clip(
        name=f"dream/{index}",
        frames=GRID.joined(frames),
        grid=GRID,
        time=TIME,
        instruction=ASKED.text,
        length=TIME.steps,
        embodiment="panda",
        hands=HANDS,
    )
    return replace(Dream(index=index, clip=clip, labels=labels, latents=latents, facts={"seed": index}), **changes)


def judged(verdict: str, **changes: Any) -> Judgement:
    return Judgement(verdict=verdict, score=0.5, events={}, judge="classifier:test", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dreams")
    dreams = [a_dream(i, judgement=judged("accept") if i else None) for i in range(3)]
    for kind, make in (("idm", lambda d: labelled_episode(d, PANDA)), ("latent", latent_episode)):
        write_dreams(folder / kind, [(d, make(d)) for d in dreams], robot_type=f"dream_{kind}", job={"kind": kind})
    return folder


@pytest.mark.parametrize("kind", ["idm", "latent"])
def test_every_row_shows_the_latest_picture_there_is(written: Path, kind: str) -> None:
    """The number burned into each picture survives joining, encoding, splitting and reading back, in order."""
    verify_dataset(written / kind, decode=True)
    every_step = TimeBase(control_hz=20, stride=1, frames=33)
    for index, clip in enumerate(read_clips(written / kind, every_step, GRID)):
        for c, frames in enumerate(GRID.split(clip.frames).values()):
            shown = [number_in_frame(frame) for frame in frames[: TIME.steps]]
            assert shown == [4096 * c + 100 * index + row // 4 for row in range(TIME.steps)]
    for episode in read_episodes(written / kind):
        assert episode.columns["annotation.picture_is_new"].values.tolist() == [r % 4 == 0 for r in range(TIME.steps)]


def test_the_dataset_says_what_was_labelled_and_what_is_absent(written: Path) -> None:
    first, second, _ = read_episodes(written / "idm")
    assert {SOURCES[int(n)] for n in first.columns["annotation.state_source"].values} == {"labelled"}
    assert {TIERS[int(n)] for n in first.columns["annotation.tier"].values} == {"not_tried"}
    assert (first.success, second.success) == (False, True)
    latent = next(iter(read_episodes(written / "latent")))
    assert {SOURCES[int(n)] for n in latent.columns["annotation.state_source"].values} == {"absent"}
    known = latent.columns["annotation.action_source"].values == 1
    assert known.tolist() == [row < 20 for row in range(TIME.steps)]  # five pairs of pictures, four steps each


def test_motion_comes_back_from_the_columns(written: Path) -> None:
    """What a reader of the dataset takes for achieved motion is what was labelled, to single precision."""
    clip = next(read_clips(written / "idm", replace(TIME, stride=1, frames=33), GRID))
    assert clip.hands == HANDS
    labels = a_dream().labels
    assert labels is not None
    assert clip.motion is not None
    assert np.allclose(clip.motion, labels.motion[:-1], atol=2e-6)


def test_actions_make_a_hand_of_the_model_follow_the_labels() -> None:
    """Executed by a hand that lags as the model says, the exported actions draw the labelled path."""
    from dreams.lag import OSC, between, followed, moved
    from factory import actions

    dream = a_dream()
    assert dream.labels is not None
    path = poses_of(dream.labels.motion, {"right": dream.labels.T_base_eef["right"][0]}, HANDS)["right"]  # type: ignore[index]
    rows = labelled_episode(dream, PANDA).columns["action"].values
    here, last, spec = path[0], np.zeros(6), PANDA.eefs["right"]
    for row, goal in zip(rows, path[1:], strict=True):
        asked = between(here, actions.target_of_action(here, row[:6].astype(float), np.eye(4), spec))
        last = followed(last, asked, OSC)
        here = moved(here, last)
        assert np.linalg.norm(here[:3, 3] - goal[:3, 3]) < 4e-3
    assert rows[:, 6].tolist() == [-1.0] * 16 + [1.0] * 16
    assert action_names(PANDA)[6] == "right_gripper"


def test_a_rejected_dream_is_filed_under_what_was_done() -> None:
    again = judged("accept")
    refiled = a_dream(judgement=judged("reject", caption=INSTEAD, refiled=again))
    assert refiled.instruction == INSTEAD.text
    assert refiled.worth_learning
    refused = a_dream(judgement=judged("reject", caption=INSTEAD, refiled=judged("reject")))
    assert refused.instruction == ASKED.text
    assert not refused.worth_learning
    assert not a_dream(judgement=judged("error")).worth_learning


def test_a_dream_without_labels_is_a_sentence() -> None:
    with pytest.raises(SpecError, match="label it before it is exported"):
        labelled_episode(a_dream(labels=None), PANDA)
    with pytest.raises(SpecError, match="no latent labels"):
        latent_episode(a_dream(latents=None))


# --- mixtures ---------------------------------------------------------------------------------------------------------


def test_a_mixture_keeps_its_ratio_whatever_the_sizes(written: Path, tmp_path: Path) -> None:
    made = mixture([written / "idm"], [written / "latent", written / "idm"], beside=written, ratio=(3, 1))
    parts = read_mixture(write_mixture(written / "mixture.json", made))
    assert sum(part.share for part in parts) == pytest.approx(1.0)
    assert sum(part.share for part in parts if part.kind == "real") == pytest.approx(0.75)
    assert [Path(part.path) for part in parts] == [written / "idm", written / "latent", written / "idm"]
    assert all(not Path(entry["path"]).is_absolute() for entry in made["datasets"])


def test_what_cannot_be_mixed_is_refused(written: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="needs real and neural"):
        mixture([], [written / "idm"], beside=tmp_path)
    with pytest.raises(SpecError, match="must be above 0"):
        mixture([written / "idm"], [written / "idm"], beside=tmp_path, ratio=(0, 1))
    (tmp_path / "m.json").write_text(json.dumps({"version": "other", "datasets": []}))
    with pytest.raises(DatasetError, match="can be read"):
        read_mixture(tmp_path / "m.json")


@pytest.mark.slow
@pytest.mark.lerobot
def test_lerobot_draws_the_mixture(written: Path, tmp_path: Path) -> None:
    """The example, run where lerobot is: one to one, each embodiment with its own widths."""
    path = write_mixture(written / "cotrain.json", mixture([written / "idm"], [written / "latent"], beside=written))
    said = run_in_lerobot("lerobot_mixture.py", {"manifest": str(path)}, tmp_path)
    real, neural = said["samples"]["real"], said["samples"]["neural"]
    assert real + neural == 160
    assert 55 <= real <= 105  # 80 expected, standard deviation 6.3
    assert said["shapes"]["dream_idm"]["action"] == [16, 7]
    assert said["shapes"]["dream_latent"]["action"] == [16, 6]
    assert said["shapes"]["dream_idm"]["observation.images.front"] == [3, 64, 64]
