"""The whole service as a user runs it: one command, real simulator, one road from upload to download."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from factory.dataset_checks import verify_dataset
from factory.dataset_reading import dataset_digest, open_dataset, read_episodes
from factory.provenance import read_attempts
from workers.generate import seeds_path

pytestmark = pytest.mark.sim

SMALL = {"cameras": ["agentview"], "width": 64, "height": 64, "preset": "fast"}


class Served:
    """A running `factory serve`."""

    def __init__(self, data: Path, options: Sequence[str] = ("--workers", "1")) -> None:
        self.options = options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.data = data
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=30.0)
        self.process: subprocess.Popen[bytes]
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "workers", "serve", "--port", str(self.port), "--data", str(self.data)]
        log = (self.data.parent / "serve.log").open("ab")
        self.process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log, start_new_session=True)
        self.until(self._healthy, "the service to answer")

    def _healthy(self) -> bool:
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/healthz").status_code == 200
        return False

    def until(self, done: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
        end = time.monotonic() + seconds
        while not (value := done()):
            assert time.monotonic() < end, f"waited {seconds:.0f} s in vain for {what}; {self.log()[-2000:]}"
            assert self.process.poll() is None or "end" in what or "die" in what, self.log()[-3000:]
            time.sleep(0.1)
        return value

    def log(self) -> str:
        return (self.data.parent / "serve.log").read_text()

    def get(self, path: str) -> dict[str, Any]:
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        answer = self.http.post(path, json=body)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def ended(self, job_id: str) -> dict[str, Any]:
        def done() -> dict[str, Any] | None:
            job = self.get(f"/v1/jobs/{job_id}")
            return job if job["finished_at"] else None

        return self.until(done, f"{job_id} to end")

    def tree(self) -> dict[int, str]:
        """Every process of the service: number -> what it is, so that a later one of its number is not taken for it."""
        found, todo = {}, [self.process.pid]
        while todo:
            pid = todo.pop()
            found[pid] = identity(pid)
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    todo += [int(child) for child in task.read_text().split()]
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        pids = self.tree()
        os.kill(self.process.pid, how)
        self.process.wait(timeout=30)
        end = time.monotonic() + 10
        while left := survivors(pids):
            assert time.monotonic() < end, f"these outlived their service: {left}"
            time.sleep(0.05)


def identity(pid: int) -> str:
    """When a process started and what it was told; empty when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else f"{fields[19]} {command}"


def survivors(pids: dict[int, str]) -> list[str]:
    """Those of a service's processes that still run."""
    return [what for pid, what in pids.items() if what and identity(pid) == what]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served") / "data")
    yield served
    served.stop()


@pytest.fixture(scope="module")
def file(served: Served) -> dict[str, Any]:
    """The shipped demonstrations of `lift`, uploaded, checked, and with one boundary dragged."""
    sent = served.http.post("/v1/files", files={"file": ("mine.hdf5", seeds_path("lift").read_bytes())})
    assert sent.status_code == 201, sent.text
    assert sent.json()["status"] == "checking"
    path = f"/v1/files/{sent.json()['id']}"
    served.until(lambda: served.get(path)["status"] != "checking", "the check")
    found = served.get(path)
    assert found["status"] == "ready", found
    assert found["task"] == "lift"
    demo = found["report"]["demos"][0]
    grasp, lift = demo["segments"]["right"]
    assert (grasp["name"], lift["name"], lift["stop"]) == ("grasp", "lift", demo["steps"])
    assert demo["timeline"]["gripper"]["right"]
    dragged = grasp["stop"] + 3
    answer = served.http.put(f"{path}/cuts", json={demo["name"]: {"right": [dragged]}})
    assert answer.status_code == 200, answer.text
    return {**answer.json(), "demo": demo["name"], "dragged": dragged}


@pytest.fixture(scope="module")
def job(served: Served, file: dict[str, Any]) -> dict[str, Any]:
    """A finished job from the uploaded file."""
    asked = {"task": "lift", "files": [file["id"]], "episodes": 3, "seed": 5, "render": SMALL}
    made = served.post("/v1/jobs", asked)
    done = served.ended(made["id"])
    assert (done["status"], done["ended_by"]) == ("succeeded", "target"), done
    assert done["request_counts"]["succeeded"] == 3
    return done


def downloaded(served: Served, dataset_id: str, folder: Path) -> Path:
    tar = served.http.get(f"/v1/datasets/{dataset_id}.tar")
    assert tar.status_code == 200
    assert int(tar.headers["content-length"]) == len(tar.content)
    with tarfile.open(fileobj=io.BytesIO(tar.content)) as archive:
        archive.extractall(folder, filter="data")
    (found,) = [path.parent.parent for path in folder.rglob("meta/info.json")]
    return found


def test_a_dataset_comes_out_whole_and_says_where_boundaries_came_from(
    served: Served, file: dict[str, Any], job: dict[str, Any], tmp_path: Path
) -> None:
    root = downloaded(served, job["dataset_id"], tmp_path)
    verify_dataset(root)
    facts = open_dataset(root)
    assert (facts.episodes, facts.cameras) == (3, ("agentview",))
    assert dataset_digest(root) == served.get(f"/v1/datasets/{job['dataset_id']}")["digest"]
    uses = [use for record in read_attempts(root) for use in record.sources]
    assert {use["boundary"] for use in uses} <= {"predicate", "person", "end", "stored"}
    mine = [use for use in uses if use["demo"] == f"mine/{file['demo']}" and use["boundary"] == "person"]
    assert all(use["stop"] == file["dragged"] for use in mine)
    assert facts.job["sources"][0]["cuts"] == {file["demo"]: {"right": [file["dragged"]]}}
    for episode in read_episodes(root):
        for use in episode.provenance["sources"]:
            if use["demo_name"] == f"mine/{file['demo']}" and use["subtask"] == 0:
                assert (use["boundary"], use["stop"]) == ("person", file["dragged"])


@pytest.mark.slow
def test_the_command_line_makes_the_same_dataset(served: Served, tmp_path: Path) -> None:
    made = served.ended(served.post("/v1/jobs", {"task": "lift", "episodes": 2, "seed": 9, "render": None})["id"])
    out = tmp_path / "lift"
    command = ["generate", "lift", "--episodes", "2", "--seed", "9", "--cameras", "", "--out", str(out)]
    subprocess.run([sys.executable, "-m", "workers", *command, "--workers", "2"], check=True, capture_output=True)
    assert dataset_digest(out) == served.get(f"/v1/datasets/{made['dataset_id']}")["digest"]


@pytest.mark.slow
def test_the_command_to_reproduce_makes_the_same_dataset(
    served: Served, file: dict[str, Any], job: dict[str, Any], tmp_path: Path
) -> None:
    """With the dragged boundary, from a file of the same name."""
    shutil.copy(seeds_path("lift"), tmp_path / "mine.hdf5")
    said = served.get(f"/v1/jobs/{job['id']}")["reproduce"]
    assert not said["note"]
    words = shlex.split(said["command"])
    assert words[:2] == ["factory", "generate"]
    assert "--cuts" in words
    subprocess.run([sys.executable, "-m", "workers", *words[1:]], check=True, capture_output=True, cwd=tmp_path)
    assert (
        dataset_digest(tmp_path / words[words.index("--out") + 1])
        == (served.get(f"/v1/datasets/{job['dataset_id']}")["digest"])
    )


def test_another_form_is_made_without_another_attempt(served: Served, job: dict[str, Any], tmp_path: Path) -> None:
    before = dict(job["request_counts"])
    asked = {"to": "lerobot", "render": {**SMALL, "width": 96, "height": 96, "cameras": ["robot0_eye_in_hand"]}}
    drawn = served.ended(served.post(f"/v1/datasets/{job['dataset_id']}/exports", asked)["id"])
    assert drawn["status"] == "succeeded", drawn
    root = downloaded(served, drawn["dataset_id"], tmp_path / "drawn")
    verify_dataset(root)
    assert open_dataset(root).cameras == ("robot0_eye_in_hand",)
    plain = served.ended(served.post(f"/v1/datasets/{job['dataset_id']}/exports", {"to": "robomimic"})["id"])
    assert plain["status"] == "succeeded", plain
    files = served.get(f"/v1/datasets/{plain['dataset_id']}/files")
    assert "dataset.hdf5" in json.dumps(files)
    assert served.get(f"/v1/jobs/{job['id']}")["request_counts"] == before


def test_an_attempt_is_drawn_on_demand(served: Served, job: dict[str, Any]) -> None:
    served.post(f"/v1/jobs/{job['id']}/attempts/0/clip")
    path = f"/v1/jobs/{job['id']}/attempts/0/clip?camera=agentview"
    clip = served.until(lambda: (a := served.http.get(path)).status_code == 200 and a, "the clip")
    assert clip.headers["content-type"] == "video/mp4"
    assert clip.content[4:8] == b"ftyp"
    part = served.http.get(path, headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, b"ftyp")


def test_an_estimate_says_what_a_job_would_cost(served: Served) -> None:
    asked = {"task": "lift", "episodes": 40, "seed": 3, "render": SMALL, "pilot": 5}
    answer = served.http.post("/v1/jobs:estimate", json=asked)
    assert answer.status_code == 202, answer.text
    estimate = served.ended(answer.json()["id"])["estimate"]
    text = json.dumps(estimate)
    assert estimate, "no estimate"
    assert "nan" not in text.lower()


def test_a_paused_job_waits_and_goes_on(served: Served) -> None:
    # Enough of them that the job is not over by what is in flight when the pause is asked for.
    job_id = served.post("/v1/jobs", {"task": "lift", "episodes": 40, "seed": 2, "render": None})["id"]
    served.until(lambda: served.get(f"/v1/jobs/{job_id}")["request_counts"]["attempted"] >= 1, "an attempt")
    served.post(f"/v1/jobs/{job_id}/pause")
    served.until(lambda: not served.get(f"/v1/jobs/{job_id}")["request_counts"]["in_flight"], "those in flight")
    waiting = served.get(f"/v1/jobs/{job_id}")
    assert waiting["status"] == "paused"
    time.sleep(1.0)
    assert served.get(f"/v1/jobs/{job_id}")["request_counts"] == waiting["request_counts"]
    served.post(f"/v1/jobs/{job_id}/resume")
    assert served.ended(job_id)["status"] == "succeeded"


def test_a_cancelled_job_keeps_what_it_had(served: Served) -> None:
    job_id = served.post("/v1/jobs", {"task": "lift", "episodes": 500, "seed": 2, "render": None})["id"]
    served.until(lambda: served.get(f"/v1/jobs/{job_id}")["request_counts"]["succeeded"] >= 2, "two successes")
    served.post(f"/v1/jobs/{job_id}/cancel")
    job = served.ended(job_id)
    assert (job["status"], job["ended_by"]) == ("cancelled", "cancelled")
    dataset = served.get(f"/v1/datasets/{job['dataset_id']}")
    assert dataset["episodes"] == job["request_counts"]["succeeded"] >= 2


@pytest.mark.slow
def test_killed_and_started_again_it_goes_on(tmp_path: Path) -> None:
    """The whole service dies in the middle of a job; nothing is lost, and the dataset is the same."""
    served = Served(tmp_path / "data")
    asked = {"task": "lift", "episodes": 8, "seed": 4, "render": None}
    try:
        reference = served.ended(served.post("/v1/jobs", asked)["id"])
        job_id = served.post("/v1/jobs", {**asked, "name": "again"})["id"]
        served.until(lambda: served.get(f"/v1/jobs/{job_id}")["request_counts"]["attempted"] >= 2, "two attempts")
        pids = served.tree()
        served.process.kill()
        served.process.wait()
        served.until(lambda: not survivors(pids), "its processes to die with it", 2)
        served.start()
        done = served.ended(job_id)
        assert done["status"] == "succeeded", done
        assert done["request_counts"] == reference["request_counts"]
        digests = [served.get(f"/v1/datasets/{job['dataset_id']}")["digest"] for job in (reference, done)]
        assert digests[0] == digests[1]
    finally:
        served.stop()
