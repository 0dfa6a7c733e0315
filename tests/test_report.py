"""The page says the right numbers, needs nothing but itself, and shows text as text."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO

import av
import numpy as np
import pytest

from api import charts
from factory.datasets import write_dataset
from factory.episodes import list_renders
from factory.statistics import AttemptRecord
from factory.training import Training
from tests.synthetic import burned, make_shards
from tests.synthetic_pictures import number_in_frame
from workers.pictures import Thumbnail, encode_jpeg, frames_at
from workers.report import Report, render_page, write_report

HOSTILE = '<script>alert("1")</script>'


def attempt(index: int, **changes) -> AttemptRecord:
    good = AttemptRecord(
        index=index,
        outcome="success",
        held=True,
        touched=True,
        sources=({"demo": f"demo_{index % 3}", "eef": "right", "subtask": 0, "start": 0, "stop": 40 + index},),
        start_poses={"cube": (0.1 * (index % 4), 0.05 * index, 0.8, 1.0, 0.0, 0.0, 0.0)},
        steps=100,
        executor="robosuite/robosuite-step",
    )
    return replace(good, **changes)


def failure(index: int, reason: str, *, touched: bool = False, subtask: str = "grasp") -> AttemptRecord:
    return attempt(index, outcome="failure", held=False, touched=touched, subtask=subtask, eef="right", reason=reason)


@pytest.fixture
def report() -> Report:
    attempts = [attempt(i) for i in range(15)]
    attempts += [failure(15 + i, "missed_grasp") for i in range(4)] + [failure(19, "success_lost", touched=True)]
    picture = Thumbnail(
        episode=3, camera="agentview", moment="first", row=0, jpeg=encode_jpeg(np.zeros((64, 64, 3), np.uint8))
    )
    return Report(
        name="lift-d0",
        instructions=("Lift the cube.",),
        attempts=attempts,
        lengths=[90, 100, 110] * 5,
        fps=20,
        frames=1500,
        robot="panda",
        cameras={"agentview": "64 × 64"},
        subtasks=("grasp",),
        job={"task": "lift", "generation": {"variant": "D0", "seed": 0}, "command": "factory generate lift --seed 0"},
        thumbnails=[picture],
        training=Training(
            inputs={"observation.state": (18,)}, outputs={"action": (7,)}, ignored=(), commands={"act": "lerobot-train"}
        ),
    )


def text_of(page: str) -> str:
    """Return what a reader sees, blanks folded."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.parts: list[str] = []
            self.hidden = 0

        def handle_starttag(self, tag, attrs):
            self.hidden += tag == "style"

        def handle_endtag(self, tag):
            self.hidden -= tag == "style"
            self.parts.append(" " if tag in ("td", "p", "li", "dd", "dt", "h2") else "")

        def handle_data(self, data):
            if not self.hidden:
                self.parts.append(data)

    reader = Reader()
    reader.feed(page)
    return re.sub(r"\s+", " ", "".join(reader.parts))


def test_numbers_are_those_of_the_attempts(report):
    text = text_of(render_page(report))
    assert "75.0%" in text
    assert "53.1 to 88.8 %" in text  # Wilson's interval of 15 out of 20
    assert "held success to the end, of 20 attempts 15" in text
    assert "touched success at least once 16" in text
    assert "grasp: missed grasp" in text
    assert "the hand closed without holding the object 4" in text
    assert "success lost" in text
    assert "15 episodes" in text
    assert "1,500 frames at 20 Hz" in text
    assert "Median 100 control steps, 5.0 s; from 90 to 110." in text
    assert "15 of 20 starts succeeded" in text
    assert "factory generate lift --seed 0" in text


def test_failures_come_most_frequent_first(report):
    text = text_of(render_page(report))
    assert text.index("missed grasp", text.index("Where attempts fail")) < text.index("grasp: success lost")


def test_the_page_needs_nothing_else(report):
    page = render_page(report)
    assert not re.search(r"https?://", page)
    assert not re.search(r"<(script|link|iframe|object|embed)\b|@import|url\(", page)
    assert all(source.startswith("data:image/jpeg;base64,") for source in re.findall(r'\bsrc="([^"]*)"', page))
    assert "prefers-color-scheme: dark" in page
    assert all(re.search(r'\balt="[^"]+"', tag) for tag in re.findall(r"<img[^>]*>", page))
    assert all("aria-" in tag for tag in re.findall(r"<svg[^>]*>", page))


def test_text_stays_text(report):
    hostile = replace(
        report,
        name=HOSTILE,
        instructions=(HOSTILE,),
        robot=HOSTILE,
        cameras={HOSTILE: HOSTILE},
        attempts=[
            attempt(0, sources=({"demo": HOSTILE},), start_poses={HOSTILE: (0.0,) * 7}, executor=HOSTILE),
            replace(failure(1, HOSTILE, subtask=HOSTILE), eef=HOSTILE),
        ],
        job={"command": f"factory {HOSTILE}", HOSTILE: {HOSTILE: HOSTILE}, "task": HOSTILE},
        thumbnails=[replace(report.thumbnails[0], camera=HOSTILE)],
        training=Training(
            inputs={HOSTILE: (1,)}, outputs={HOSTILE: (1,)}, ignored=(HOSTILE,), commands={HOSTILE: HOSTILE}
        ),
    )
    page = render_page(hostile)
    assert "<script" not in page
    assert text_of(page).count("<script>") >= 12


def test_a_long_command_is_folded_and_stays_the_same_command(report):
    command = (
        "factory generate stack --demos 'my demos.hdf5' --variant D1 --episodes 1000 --seed 0 --out /data/stack-d1-1000"
    )
    page = text_of(render_page(replace(report, job={"command": command})))
    shown = page[page.index("factory generate stack") : page.index("One click")]
    assert "\\ --variant D1 \\" in shown
    assert shlex.split(shown.replace("\\ ", "")) == shlex.split(command)


@pytest.mark.parametrize("count", [0, 1])
def test_few_attempts_make_a_page_too(report, count):
    bare = replace(report, attempts=report.attempts[:count], lengths=(), thumbnails=(), training=None, job={})
    text = text_of(render_page(bare))
    assert ("No attempts are recorded" in text) == (count == 0)
    assert ("100.0%" in text) == (count == 1)


def test_a_finished_dataset_gets_its_page(tmp_path):
    shards = make_shards(tmp_path / "shards")
    root = tmp_path / "dataset"
    attempts = [attempt(i) for i in range(3)] + [failure(3, "dropped")]
    job = {"task": "lift", "command": "factory generate lift"}
    write_dataset(root, shards, robot_type="panda", job=job, attempts=attempts, render=list_renders(shards[0])[0])
    page = write_report(root).read_text(encoding="utf-8")
    assert "held success to the end, of 4 attempts 3" in text_of(page)
    assert len(re.findall(r"<img ", page)) == 3 * 2 * 3  # episodes, cameras, moments
    assert "lerobot-train" in page
    (video,) = root.glob("videos/observation.images.wrist/*/*.mp4")
    numbers = [number_in_frame(image) for image in frames_at(video, [0, 4, 5, 12, 18], fps=20)]
    assert numbers == [burned(e, row, 1) for e, row in ((0, 0), (0, 4), (1, 0), (1, 7), (2, 5))]
    assert write_report(root).read_text(encoding="utf-8") == page


def test_scatter_keeps_one_scale_on_both_axes():
    figure = charts.scatter([(0.0, 0.0), (0.4, 0.0), (0.0, 0.1)], [True, False, True])
    right = next(p for p in figure.points if not p.good)
    origin, up = (p for p in figure.points if p.good)
    assert right.x - origin.x == pytest.approx(4.0 * (origin.y - up.y), abs=0.5)
    assert not figure.points[0].good  # failures below, successes on top


def test_histogram_counts_everything_once():
    values = np.random.default_rng(0).integers(80, 300, 500).tolist()
    figure = charts.histogram(values)
    assert sum(bar.count for bar in figure.bars) == 500
    assert all(a.high == b.low for a, b in zip(figure.bars, figure.bars[1:], strict=False))
    assert max(bar.height for bar in figure.bars) == figure.height
    assert charts.histogram([7]).bars[0].count == 1


def test_jpeg_is_the_picture_made_small():
    ramp = np.broadcast_to(np.linspace(0, 255, 100, dtype=np.uint8)[:, None, None], (100, 200, 3))
    with av.open(BytesIO(encode_jpeg(ramp, max_px=50)), format="mjpeg") as container:
        small = next(container.decode(video=0)).to_ndarray(format="rgb24")
    assert small.shape in ((24, 50, 3), (26, 50, 3))
    assert small[0].mean() < 12
    assert small[-1].mean() > 243
