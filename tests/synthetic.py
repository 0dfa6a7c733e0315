"""Made-up episodes and pictures for tests: nothing in them was simulated, everything in them can be checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factory.episodes import Column, Episode, add_clips, write_shard
from factory.extras import Layer, LayerWriter
from factory.sim import Snapshot
from factory.specs import Extra
from factory.statistics import AttemptRecord
from factory.video import Clip, ClipWriter
from tests.synthetic_pictures import frame_with_number

RENDER = {"cameras": ["agentview", "wrist"], "preset": "fast"}


def make_episode(index: int = 0, *, rows: int = 6, instruction: str = "lift the cube", seed: int = 0) -> Episode:
    """Return an episode whose numbers are random but fixed by (seed, index)."""
    rng = np.random.default_rng([seed, index])

    def pose_rows() -> NDArray[np.float32]:
        return rng.normal(size=(rows, 9)).astype(np.float32)

    return Episode(
        index=index,
        success=True,
        task="lift",
        instruction=instruction,
        control_hz=20.0,
        columns={
            "observation.state": Column(
                values=rng.normal(size=(rows, 3)).astype(np.float32), names=("joint_1", "joint_2", "gripper")
            ),
            "action": Column(values=rng.uniform(-1, 1, (rows, 4)).astype(np.float32), names=("x", "y", "z", "gripper")),
            "target.right_eef_pose": Column(values=pose_rows(), names=tuple(f"p{i}" for i in range(9))),
            "sim.cube_pose": Column(values=rng.normal(size=(rows, 7))),
            "sim.grasped": Column(values=np.arange(rows) > rows // 2),
            "sim.height_m": Column(values=rng.normal(size=(rows, 1)).astype(np.float32), names=("height_m",)),
            "subtask_index": Column(values=(np.arange(rows) >= rows // 2).astype(np.int64)),
        },
        subtasks=("reach", "lift") if index % 2 == 0 else ("approach", "lift"),
        sim_states={
            "time": np.arange(rows + 1) / 20.0,
            "qpos": rng.normal(size=(rows + 1, 5)) * np.pi,
            "qvel": np.concatenate([np.full((1, 4), -0.0), rng.normal(size=(rows, 4))]),
            "act": np.empty((rows + 1, 0)),
        },
        start=Snapshot(
            integration=rng.normal(size=13) * 1e-7,
            controller={"right_goal": rng.normal(size=(4, 4)), "closed": np.array(1.0)},
            overrides={"peg_pos": rng.normal(size=3)},
        ),
        provenance={
            "seed": seed,
            "finished_at": "2026-01-01T00:00:00Z",
            "sources": [{"demo": "demo_0", "start": 0, "stop": rows}],
            "describe": {"model_sha": "ab12", "backend": "synthetic"},
        },
    )


def make_clip(path: Path, numbers: Sequence[int], *, tint: int = 0, size: int = 64, codec: str = "h264") -> Clip:
    """Encode one picture per number."""
    with ClipWriter(path, width=size, height=size, fps=20, codec=codec) as writer:
        for number in numbers:
            writer.write(frame_with_number(number, size=size, tint=tint))
    return writer.finish()


def burned(episode: int, row: int, camera: int) -> int:
    """Return the number burned into one frame: unlike in every episode, row and camera of a small dataset."""
    return camera * 8192 + episode * 256 + row


LEGEND = {"background": 0, "table": 1, "cube": 16}


def make_layer(path: Path, kind: Extra, camera: str, numbers: Sequence[int], *, size: int = 64) -> Layer:
    """Write one frame per number, as `layer_frame` makes them."""
    with LayerWriter(path, kind=kind, camera=camera, width=size, height=size) as writer:
        for number in numbers:
            writer.write(layer_frame(kind, number, size=size))
    return writer.finish()


def layer_frame(kind: Extra, number: int, *, size: int = 64) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return a frame of noise fixed by its number: ids of `LEGEND`, or distances from nothing to the farthest."""
    rng = np.random.default_rng(number)
    if kind == "segmentation":
        return rng.choice(np.array(list(LEGEND.values()), np.uint8), (size, size))
    return rng.integers(0, 1 << 16, (size, size), np.uint16)


def make_shards(
    root: Path,
    lengths: Sequence[int] = (5, 8, 6),
    *,
    cameras: Sequence[str] = ("agentview", "wrist"),
    seed: int = 0,
    extras: Sequence[Extra] = (),
) -> list[Path]:
    """Write one shard per length, at attempt indices 0, 2, 4, ..., with clips when there are cameras."""
    shards = []
    for number, rows in enumerate(lengths):
        instruction = "lift the cube" if number % 2 == 0 else "pick up the cube"
        shard = write_shard(root, make_episode(2 * number, rows=rows, instruction=instruction, seed=seed))
        clips = {
            camera: make_clip(root / f"{camera}.mp4", [burned(number, row, c) for row in range(rows)], tint=60 * c)
            for c, camera in enumerate(cameras)
        }
        layers = [
            make_layer(root / f"{kind}.{camera}", kind, camera, [burned(number, row, c) for row in range(rows)])
            for kind in extras
            for c, camera in enumerate(cameras)
        ]
        if clips:
            info = {**RENDER, "cameras": list(cameras), **({"extras": list(extras)} if extras else {})}
            about = {"legend": LEGEND, "cameras": {camera: {"fovy_deg": 45.0} for camera in cameras}}
            add_clips(shard, clips, info, layers, about)
        for made in (*clips.values(), *layers):
            made.path.unlink()
        shards.append(shard)
    return shards


def make_attempts(successes: Sequence[int], failures: Sequence[int]) -> list[AttemptRecord]:
    """Return records of attempts with the given indices."""
    records = []
    for index in sorted([*successes, *failures]):
        good = index in successes
        records.append(
            AttemptRecord(
                index=index,
                outcome="success" if good else "failure",
                held=good,
                touched=True,
                subtask="" if good else "lift",
                eef="" if good else "right",
                reason="" if good else "dropped",
                sources=({"demo": f"demo_{index % 2}", "eef": "right", "subtask": 0, "start": 0, "stop": 5},),
                start_poses={"cube": (0.01 * index, -0.02 * index, 0.8, 1.0, 0.0, 0.0, 0.0)},
                steps=6,
                executor="test",
            )
        )
    return records
