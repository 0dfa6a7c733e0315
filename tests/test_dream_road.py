"""The whole road of dreams on a small scene, every stage real: episodes, video model, dreams, judge, labels, replay.

The video model is trained for a few steps and shows noise; nothing it dreams can come true. What the labels and the
replay are worth is shown by real videos on the same road.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from dreams.clips import cameras_of, read_clips
from dreams.codec import psnr_db
from dreams.example_book import read_examples
from dreams.frame_book import read_frames
from dreams.idm import open_idm
from dreams.instructions import Instruction
from dreams.shipped import VIDEO, WIDE, shipped
from dreams.timebase import TimeBase
from dreams.video import open_model
from dreams.views import Grid
from factory.dataset_checks import verify_dataset
from factory.dataset_reading import read_episodes
from sim_tasks.tasks.tabletop import HELD_OUT, PLACE_COLOURS, THING_COLOURS, VIEW, colour_kind, labels
from sim_tasks.tasks.tabletop_events import MOVED
from tests.lerobot_runs import run_in_lerobot
from workers import dream_controls, dream_folder, dream_scenes, dream_starts
from workers.cli import app

pytestmark = pytest.mark.sim
TASKS = (HELD_OUT[0], HELD_OUT[-1])
GRID, TIME = Grid(views=(VIEW,), height_px=64, width_px=64), TimeBase(control_hz=20, stride=4, frames=33)


def factory(*words: object) -> dict[str, Any]:
    """Run a command with --json and return what it says."""
    said = CliRunner().invoke(app, [*(str(word) for word in words), "--json"])
    assert said.exit_code == 0, f"{words}: {said.output}{said.exception!r}"
    return json.loads(said.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("road")


@pytest.fixture(scope="module")
def episodes(folder: Path) -> Path:
    """Six verified episodes of scenes that the shipped labels' model never saw."""
    factory("dream", "data", *TASKS, "--episodes", 6, "--seed", 4, "--held-out", "--out", folder / "episodes")
    return folder / "episodes"


@pytest.fixture(scope="module")
def video(folder: Path, episodes: Path) -> Path:
    """A model that saw them for three steps."""
    options = ("--new", "tiny", "--steps", 3, "--batch", 2, "--stride", 4, "--out", folder / "video")
    made = factory("dream", "finetune", episodes, *options)
    assert made["steps"] == 3
    assert Path(made["curve"]).exists()
    return Path(made["model"])


def test_a_small_model_has_its_autoencoder_first_and_grows(folder: Path, episodes: Path) -> None:
    way = ("--codec-steps", 2, "--steps", 1, "--batch", 2)
    asked = (
        "dream",
        "finetune",
        episodes,
        "--new",
        "small",
        "--size",
        32,
        "--stride",
        4,
        *way,
        "--out",
        folder / "small",
    )
    assert factory(*asked, "--max-s", 0.0)["paused"] == "autoencoder"
    words = CliRunner().invoke(app, [*(str(word) for word in asked), "--max-s", "0"]).output
    assert "paused while the autoencoder is trained, which comes first; call again to go on" in words
    made = factory(*asked)
    assert made["steps"] == 1
    small = open_model(Path(made["model"]))
    assert (small.layout.codec, small.card.grid.shape) == ("SmallAutoencoder", (32, 32))
    grow = ("dream", "finetune", episodes, "--model", made["model"], *way, "--out", folder / "grown")
    assert factory(*grow, "--size", 64, "--max-s", 0.0)["paused"] == "autoencoder"
    more = open_model(Path(factory(*grow, "--size", 64)["model"]))
    assert (more.card.grid.shape, more.latent_shape, more.card.time) == ((64, 64), small.latent_shape, TIME)
    assert [part.get("begun_with") for part in more.card.training][-2:] == [small.digest, None]
    words = CliRunner().invoke(app, [*(str(word) for word in grow), "--size", "48", "--out", str(folder / "no")]).output
    assert "grows by a whole number of times" in " ".join(words.split())


def test_latent_actions_are_learned_and_measured(folder: Path, episodes: Path) -> None:
    way = ("--stride", 4)
    factory("dream", "train-latents", episodes, *way, "--steps", 2, "--batch", 2, "--out", folder / "latents")
    card = factory("dream", "latent-card", episodes, *way, "--latents", folder / "latents", "--probe", episodes)
    assert card["clips"] == 6
    assert 0.0 <= card["closer_to_future"]["value"] <= 1.0
    assert {"right_dx_m", "right_gripper"} <= set(card["probe_r2"])
    words = CliRunner().invoke(
        app, ["dream", "latent-card", str(episodes), "--stride", "4", "--latents", str(folder / "latents")]
    )
    assert "perplexity" in words.output


def test_an_inverse_model_learns_what_an_autoencoder_leaves_too(folder: Path, episodes: Path, video: Path) -> None:
    options = ("--through", video, "--steps", 2, "--batch", 2, "--out", folder / "idm")
    factory("dream", "train-idm", episodes, "--stride", 4, *options)
    asked = ["dream", "train-idm", str(episodes), "--stride", "5", *(str(word) for word in options)]
    other = CliRunner().invoke(app, asked)
    assert other.exit_code == 2
    assert "seen through" in other.output, "another clock than the video model's"
    said = open_idm(folder / "idm").card.trained_on
    assert said["again"] == len(said["clips"]) == 6


@pytest.fixture(scope="module")
def real(folder: Path, episodes: Path) -> Path:
    """A run of real videos in place of dreams."""
    where = folder / "real"
    factory("dream", "control", where, "real", "--dataset", episodes, "--stride", 4)
    return where


def test_real_videos_seen_through_the_shipped_autoencoder(folder: Path, real: Path) -> None:
    """The first picture is as good as given, the others lose a little."""
    factory("dream", "control", folder / "coded", "coded", "--of", real)
    pairs = [
        [dreamt.frames for *_, dreamt in dream_folder.each_dream(dream_folder.Run(root=each))]
        for each in (real, folder / "coded")
    ]
    for before, after in zip(*pairs, strict=True):
        assert 18.0 < psnr_db(after, before) < 35.0
        assert psnr_db(after[:1], before[:1]) > 25.0


@pytest.fixture(scope="module")
def run(folder: Path, video: Path) -> Path:
    """A run of dreams: two starts, two instructions each, labelled and carried out."""
    where = folder / "run"
    factory("dream", "run", where, *TASKS, "--video", video, "--count", 2, "--per-frame", 2, "--steps", 2)
    return where


def test_a_dataset_of_many_scenes_is_sound_and_made_once(episodes: Path) -> None:
    verify_dataset(episodes, decode=True)
    made = list(read_episodes(episodes))
    assert len(made) == 6
    assert {episode.task for episode in made} == set(TASKS)
    assert all(episode.success for episode in made)
    again = CliRunner().invoke(app, ["dream", "data", *TASKS, "--episodes", "10", "--out", str(episodes)])
    assert again.exit_code == 2
    assert "already exists" in again.output


def test_real_videos_come_true(folder: Path, episodes: Path, real: Path) -> None:
    """The ceiling: labels read from pictures alone, executed from the same starts, do what the episodes did."""
    factory("dream", "label", real)
    found = factory("dream", "verify", real)
    assert found["executed"] == 6
    assert found["tiers"]["executed_success"] >= 5, found
    judged = factory("dream", "judge", real)
    assert judged["error"] == 0
    assert judged["accept"] > judged["reject"], judged  # the shipped judge never saw these things either
    card = factory("dream", "label-card", episodes)
    assert 0.92 <= card["amplitude_ratio"]["value"] <= 1.05
    assert card["shift_steps"]["value"] == 0.0
    exported = factory("dream", "export", real, "--only", "executed", "--out", folder / "real-datasets")
    twins = list(read_episodes(Path(exported["twin"]["path"])))
    dreams = list(read_episodes(Path(exported["labelled"]["path"])))
    assert len(twins) == len(dreams) == found["tiers"]["executed_success"]
    for twin, dreamt in zip(twins, dreams, strict=True):
        assert np.array_equal(dreamt.columns["action"].values, twin.columns["action"].values[: len(dreamt)])
        assert dreamt.columns["annotation.state_source"].values[0] == 2


def test_a_run_says_what_became_of_every_dream_and_goes_on_without_doing_it_again(run: Path, video: Path) -> None:
    found = factory("dream", "show", run, "--out", run / "strips.png")
    assert found["verdicts"]["accept"] == found["verdicts"]["not_judged"] == 0  # a model of three steps shows noise
    assert found["dreams"] == found["dreamt"] == found["labelled"] == found["executed"] == 4
    assert Path(found["picture"]).stat().st_size > 10_000
    films = {path: path.stat().st_mtime_ns for path in run.glob("dreams/*/dream.mp4")}
    (run / "labels" / "dream-00001.npz").unlink()
    (run / "labels" / "dream-00001.json").unlink()
    assert factory("dream", "generate", run, "--model", video, "--steps", 2)["dreams"] == 4
    assert factory("dream", "label", run) == {"motion": 1}
    assert {path: path.stat().st_mtime_ns for path in films} == films


def test_tasks_of_a_family_share_a_seed_and_not_their_scenes(run: Path) -> None:
    frames = read_frames(run / "frames")
    assert len({frame.task for frame in frames}) == len(frames) > 1
    assert len({np.asarray(frame.placements["thing"]).tobytes() for frame in frames}) == len(frames)


def test_what_was_asked_decides_what_success_is(run: Path) -> None:
    """The same scene is judged for either thing and either place, by the words of the instruction."""
    where = dream_folder.Run(root=run)
    roles = {
        dream_starts.roles_of(str(frame.task), proposal.instruction)
        for _, proposal, frame, _ in dream_folder.each_dream(where)
    }
    assert ("thing", "target") in roles
    assert len(roles) > 1
    assert None not in roles


def test_a_dream_of_the_shipped_model_goes_on_with_other_things(folder: Path, run: Path) -> None:
    """Rounds: each begins with the last picture of the one before, and moves what was not moved yet."""
    longer = folder / "longer"
    factory("dream", "propose", longer, "--like", run)
    made = factory("dream", "propose", longer, "--rounds", 2)
    assert made["dreams"] == 2
    factory("dream", "generate", longer, "--steps", 1)
    for _, proposal, _, dreamt in dream_folder.each_dream(dream_folder.Run(root=longer)):
        (then,) = proposal.then
        assert dreamt.instructions == (proposal.instruction.text, then.text)
        assert (then.thing, then.target) != (proposal.instruction.thing, proposal.instruction.target)
        assert dreamt.frames.shape[0] == 65
        assert dreamt.seams == (32,)


def test_a_dream_of_two_cameras_is_read_judged_tried_and_comes_apart_again(folder: Path) -> None:
    """The shipped model of 128 pixels; labels and judge know one camera and 64."""
    wide = folder / "wide"
    asked = (TASKS[0], "--video", WIDE, "--count", 1, "--steps", 4)
    found = factory("dream", "run", wide, *asked, "--out", folder / "wide-datasets")
    assert found["executed"] == found["labelled"] == 1
    assert found["verdicts"]["error"] == found["verdicts"]["not_judged"] == 0
    [(_, _, frame, dreamt)] = dream_folder.each_dream(dream_folder.Run(root=wide))
    assert dreamt.grid == Grid(views=(VIEW, "sideview"), height_px=128, width_px=128)
    np.testing.assert_array_equal(dreamt.frames[0], frame.picture)
    made = folder / "wide-datasets" / "labelled"
    verify_dataset(made, decode=True)
    assert cameras_of(made) == (VIEW, "sideview")
    [clip] = read_clips(made, TIME, dreamt.grid)
    assert psnr_db(clip.frames, dreamt.frames) > 28.0, "each camera has its own film, in order"


def test_models_that_come_along_stay_small() -> None:
    weights = [path.stat().st_size for path in shipped(VIDEO).parent.rglob("*.safetensors")]
    assert sum(weights) < 40e6
    assert max(weights) < 15e6


def test_a_shuffled_sentence_has_neither_thing_nor_place_in_common_where_it_can() -> None:
    def asks(*keys: str) -> list[Instruction]:
        return [Instruction(thing=key[0], source="from the table", target=f"on the {key[1]}") for key in keys]

    def found(*keys: str) -> list[str]:
        told = asks(*keys)
        return [keys[told.index(dream_controls.another_sentence(told, number))] for number in range(len(keys))]

    assert found("Xp", "Xq", "Yp", "Yq") == ["Yq", "Yp", "Xq", "Xp"]
    assert found("Xp", "Xq", "Xp") == ["Xq", "Xp", "Xq"]
    assert found("Xp", "Xp") == ["Xp", "Xp"]


def test_standing_still_does_not_come_true_and_a_card_says_so(folder: Path, run: Path) -> None:
    still = folder / "still"
    factory("dream", "control", still, "frozen", "--of", run)
    factory("dream", "label", still)
    factory("dream", "verify", still)
    made = factory("dream", "card", run, "--beside", f"frozen={still}", "--picture", folder / "card.png")
    assert made["frozen"]["follows"]["value"] == 0.0
    assert made["frozen"]["things_kept"]["value"] == 1.0
    assert sum(each["value"] for each in made["dreams"]["tiers"].values()) == pytest.approx(1.0)
    assert (folder / "card.png").stat().st_size > 1000
    said = CliRunner().invoke(app, ["dream", "card", str(run), "--beside", "frozen"])
    assert said.exit_code == 2
    assert "NAME=RUN" in said.output


def test_a_judge_is_trained_on_plays_and_measured(folder: Path, episodes: Path, run: Path) -> None:
    """Played outcomes are what their states say; a judge of a few steps is worth little, and its card says so."""
    plays, judge = folder / "plays", folder / "judge"
    asked = ("dream", "play", TASKS[0], "--each", 1, "--outcomes", "wrong_object,missed", "--out", plays)
    made = factory(*asked)
    examples, _, _ = read_examples(plays)
    assert made["examples"] == len(examples) == 3
    assert [(each.kind, each.follows) for each in examples] == [
        ("wrong_object", False), ("success", True), ("missed", False),
    ]  # fmt: skip
    assert examples[0].instruction != examples[1].instruction
    np.testing.assert_array_equal(examples[0].frames, examples[1].frames)
    assert {examples[0].instruction, examples[1].instruction} <= {
        f"Pick up the {thing} from the table and place it {target}."
        for thing in examples[0].things
        for target in examples[0].targets
    }
    written = (plays / f"{TASKS[0].replace('/', '--')}.safetensors").stat().st_mtime_ns
    assert factory(*asked) == made
    assert (plays / f"{TASKS[0].replace('/', '--')}.safetensors").stat().st_mtime_ns == written
    options = ("--dataset", episodes, "--out", judge, "--spoilt", 1, "--steps", 2, "--batch", 4)
    found = factory("dream", "train-judge", plays, *options)
    assert Path(found["model"]) == judge
    card = factory(
        "dream", "judge-card", plays, "--dataset", episodes, "--classifier", judge, "--clips", 10,
        "--picture", folder / "judge.png",
    )  # fmt: skip
    assert [each["count"] for each in card["counts"]] == [4, 8, 16]
    assert card["judge"] == "classifier:tabletop"
    assert (folder / "judge.png").stat().st_size > 1000
    assert factory("dream", "judge", run, "--classifier", judge)["error"] == 0


def test_things_are_where_their_colours_are(episodes: Path) -> None:
    """What a film's dataset says of a thing's place in the world is where the thing is in the picture."""
    for number, seen in dream_scenes.seen_in(episodes, GRID, TIME).items():
        clip = next(read_clips(episodes, TIME, GRID, episodes={number}))
        task = dream_scenes.task_told(clip.instruction)
        for role, words in labels(str(task)).items():
            column, row = ((seen[role][0] + 1.0) * 32.0).astype(int)
            shown = clip.frames[0, row - 1 : row + 2, column - 1 : column + 2].reshape(-1, 3).mean(axis=0) / 255.0
            paints = THING_COLOURS if role in MOVED else PLACE_COLOURS
            away = {name: np.linalg.norm(_hue(shown) - _hue(np.array(paint[:3]))) for name, paint in paints.items()}
            assert min(away, key=lambda name: away[name]) == colour_kind(words)[0], (number, role, words, shown)
        assert (np.abs(seen["target"] - seen["target"][0]) < 0.01).all()
        assert (
            np.linalg.norm(seen["thing"][-1] - seen["target"][-1])
            < 0.15
            < np.linalg.norm(seen["thing"][0] - seen["target"][0])
        )


def _hue(colour: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a colour without its shade; black, which has no other, stays dark."""
    return colour / max(float(np.linalg.norm(colour)), 0.3)


@pytest.mark.lerobot
def test_lerobot_opens_the_dreams(folder: Path, run: Path, episodes: Path) -> None:
    exported = factory("dream", "export", run, "--out", folder / "datasets")
    assert exported["labelled"]["episodes"] == 4
    verify_dataset(Path(exported["labelled"]["path"]), decode=True)
    manifest = folder / "mixture.json"
    factory("dream", "mixture", episodes, "--neural", exported["labelled"]["path"], "--out", manifest)
    said = run_in_lerobot("lerobot_mixture.py", {"manifest": str(manifest)}, folder)
    assert set(said["samples"]) == {"real", "neural"}
    assert said["shapes"]["panda_dream"]["observation.images.dream_view"] == [3, 64, 64]


def test_missing_stages_are_sentences(folder: Path, run: Path) -> None:
    for words, sentence in (
        (("verify", folder / "nowhere"), "begins a run"),
        (("frames", folder / "x"), "come from tasks, or from --dataset"),
        (("frames", folder / "x", "tabletop/red_cub"), "unknown task or family"),
    ):
        said = CliRunner().invoke(app, ["dream", *(str(word) for word in words)])
        assert said.exit_code == 2
        assert sentence in said.output.replace("\n", " ")
