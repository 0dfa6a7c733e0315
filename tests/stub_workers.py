"""Workers without physics: every attempt is answered at once, as a real worker would, so that only the book is left.

What they answer has the size and the words of `stack`: two pieces of demos, two start poses, failures of several
reasons. An attempt that is kept may have a shard on the disk: the rows and pictures of one recorded episode, linked,
under a sealed document of its own.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from api.leases import Answer, AttemptDone, Done, Drawn, Opened, Work
from factory.durable import seal
from factory.episodes import (
    EPISODE_FILE,
    Column,
    Episode,
    add_clips,
    digest,
    read_document,
    read_shard,
    shard_path,
    write_shard,
)
from factory.sim import Snapshot
from factory.specs import RenderSpec
from factory.statistics import AttemptRecord
from tests.synthetic import make_clip
from workers.render import render_info
from workers.transport import Heard, News, Ready

EXECUTOR = {"backend": "stub", "control_mode": "none", "model_sha": "0" * 64}
FAILURES = (("grasp", "missed_grasp"), ("grasp", "dropped"), ("place", "misplaced"), ("place", "success_lost"))


def record(index: int, *, kept: bool) -> AttemptRecord:
    """Return what an attempt at `stack` leaves; the same index gives the same words."""
    rng = np.random.default_rng(index)
    yaw = rng.uniform(-np.pi, np.pi, 2) / 2
    subtask, reason = ("", "") if kept else FAILURES[index % len(FAILURES)]
    return AttemptRecord(
        index=index,
        outcome="success" if kept else "failure",
        held=kept,
        touched=kept,
        subtask=subtask,
        eef="" if kept else "right",
        reason=reason,
        sources=tuple(
            {"demo": f"demo_{index % 10}", "eef": "right", "subtask": i, "start": start, "stop": stop, "boundary": None}
            for i, (start, stop) in enumerate(((0, 58), (58, 125)))
        ),
        start_poses={
            name: (*rng.uniform(-0.1, 0.1, 2).tolist(), 0.82, float(np.cos(a)), 0.0, 0.0, float(np.sin(a)))
            for name, a in zip(("cubeA", "cubeB"), yaw, strict=True)
        },
        steps=125 + index % 40,
        executor="stub/none",
    )


def every(nth: int) -> Callable[[int], bool]:
    """Return a rule by which every n-th attempt is kept."""
    return lambda index: index % nth == 0


def template(folder: Path, *, rows: int, cameras: Sequence[str] = (), render: RenderSpec | None = None) -> Path:
    """Write one shard as wide as those of `stack`, with clips whose pictures spell the number of their row."""
    rng = np.random.default_rng(0)

    def column(width: int) -> Column:
        return Column(
            values=rng.normal(size=(rows, width)).astype(np.float32), names=tuple(f"c{i}" for i in range(width))
        )

    widths = {"observation.state": 18, "action": 7, "target.right_eef_pose": 9, "target.right_next_joint_positions": 7}
    widths |= {"sim.object.cubeA": 7, "sim.object.cubeB": 7}
    episode = Episode(
        index=0,
        success=True,
        task="stack",
        instruction="Put the red cube on the green cube.",
        control_hz=20.0,
        columns={
            **{name: column(width) for name, width in widths.items()},
            "subtask_index": Column(values=(np.arange(rows) >= rows // 2).astype(np.int64)),
        },
        subtasks=("grasp", "place"),
        sim_states={
            "time": np.arange(rows + 1) / 20.0,
            "qpos": rng.normal(size=(rows + 1, 23)),
            "qvel": rng.normal(size=(rows + 1, 21)),
        },
        start=Snapshot(
            integration=rng.normal(size=200),
            controller={"right_goal": rng.normal(size=(4, 4)), "right_joints": rng.normal(size=7)},
            overrides={},
        ),
        provenance={"attempt": 0, "held": True, "sources": list(record(0, kept=True).sources), "executor": EXECUTOR},
    )
    shard = write_shard(folder, episode)
    clips = {
        camera: make_clip(folder / f"{camera}.mp4", range(rows), tint=60 * i, size=84)
        for i, camera in enumerate(cameras)
    }
    if clips:
        add_clips(shard, clips, render_info(render or RenderSpec(cameras=tuple(cameras), width=84, height=84)))
    return shard


class LinkedShards:
    """Writes shards that share one episode's rows and pictures by hard links; only the document is their own."""

    def __init__(self, template: Path, root: Path) -> None:
        self._template, self._root = template, root
        self._document, self._episode = read_document(template), read_shard(template)
        self._files = [path.relative_to(template) for path in sorted(template.rglob("*")) if path.name != EPISODE_FILE]
        root.mkdir(parents=True, exist_ok=True)

    def write(self, index: int) -> tuple[str, int]:
        """Write the shard of an attempt; return the hash of its document and its bytes."""
        place, size = shard_path(self._root, index), 0
        place.mkdir()
        for name in self._files:
            if (self._template / name).is_dir():
                (place / name).mkdir()
            else:
                os.link(self._template / name, place / name)
                size += (place / name).stat().st_size
        own = digest(replace(self._episode, index=index))
        content = seal({**self._document, "index": index, "digest": own})
        (place / EPISODE_FILE).write_bytes(content)
        return hashlib.sha256(content).hexdigest(), size + len(content)


class StubTransport:
    """A pool of such workers inside this process; see `workers.transport.Transport`."""

    name = "stub"

    def __init__(
        self,
        *,
        workers: int = 8,
        keeps: Callable[[int], bool] = lambda index: index % 2 == 0,
        shards: LinkedShards | None = None,
        seconds: float = 0.12,
        capabilities: Sequence[str] = ("simulate",),
    ) -> None:
        """Start.

        Args:
            workers: how many there seem to be.
            keeps: which attempts succeed.
            shards: where kept attempts are stored; None answers with a hash and stores nothing.
            seconds: what an attempt is said to have taken.
            capabilities: what they seem to do.
        """
        self._keeps, self._shards, self._seconds = keeps, shards, seconds
        self._queues: dict[str, deque[Work]] = {f"stub-{i}": deque() for i in range(workers)}
        self._news: list[News] = [
            Ready(worker=name, host="here", pid=0, capabilities=tuple(capabilities)) for name in self._queues
        ]

    def submit(self, worker: str, work: Work) -> None:
        self._queues[worker].append(work)

    def drop(self, worker: str, unit: int) -> None:
        self._queues[worker] = deque(work for work in self._queues[worker] if work.unit != unit)

    def kill(self, worker: str) -> None:
        del worker

    def wait(self, timeout_s: float) -> Sequence[News]:
        """Carry out the oldest unit of every worker."""
        del timeout_s
        news, self._news = self._news, []
        for worker, queue in self._queues.items():
            if queue:
                news += [Heard(worker=worker, answer=answer) for answer in self._answers(worker, queue.popleft())]
        return news

    def close(self) -> None:
        self._queues.clear()

    def _answers(self, worker: str, work: Work) -> list[Answer]:
        lease = {"unit": work.unit, "epoch": work.epoch}
        if work.kind not in ("simulate", "render"):
            return [Done(**lease)]
        if work.kind == "render":
            return [Drawn(**lease, job_id=work.job_id, index=i, frames=250, seconds=1.0) for i in work.indices]
        answers: list[Answer] = [Opened(**lease, job_id=work.job_id, executor=EXECUTOR)]
        for index in work.indices:
            kept = self._keeps(index)
            sha256, size = "", 0
            if kept:
                sha256, size = self._shards.write(index) if self._shards else (f"{index:064x}", 40_000)
            answers.append(
                AttemptDone(
                    **lease,
                    job_id=work.job_id,
                    record=record(index, kept=kept),
                    shard_sha256=sha256,
                    shard_bytes=size,
                    seconds=self._seconds,
                    worker=worker,
                )
            )
        return answers


PACE = "FACTORY_STUB_PACE_S"
"""Environment variable: how long a stubbed attempt takes."""


def stub_attempts() -> None:
    """Let attempts of this process sleep instead of moving anything: each is the first again, under its own index."""
    from workers import worker

    real, pace, first = worker.run_attempts, float(os.environ[PACE]), []

    def run(backend: Any, task: Any, sources: Any, spec: Any, indices: Iterable[int]) -> Iterator[Any]:
        for index in indices:
            if not first:
                first.extend(real(backend, task, sources, spec, [0]))
            time.sleep(pace)
            yield replace(first[0], index=index)

    worker.run_attempts = run


def serve_stubbed(pipe: Connection, *arguments: Any) -> None:
    """Be a local worker whose attempts sleep; takes the place of `workers.local.serve`."""
    from workers import local

    stub_attempts()
    local.serve(pipe, *arguments)
