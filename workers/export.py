"""Finished datasets in other forms, without simulating again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from factory.dataset_reading import open_dataset, read_episodes
from factory.datasets import write_dataset
from factory.episodes import list_shards, render_digest, write_shard
from factory.errors import DatasetError
from factory.provenance import SOURCES_PATH, read_attempts
from factory.robomimic import export_robomimic
from factory.specs import RenderSpec
from workers.render import render_info, render_shards
from workers.report import write_report


def export_dataset(
    root: Path, *, to: str, out: Path, render: RenderSpec | None, workers: int, command: str = ""
) -> Path:
    """Write the dataset at `root` in another form at `out` and return it.

    "robomimic" is one HDF5 file of states, actions and observations. "lerobot" is the same dataset rendered anew from
    its recorded states: other cameras, sizes, quality or looks.

    Raises:
        DatasetError: `root` is damaged or `out` exists.
    """
    if out.exists():
        raise DatasetError(f"{out} already exists; choose another --out or remove it")
    if to == "robomimic":
        return export_robomimic(root, out)
    return _render_anew(root, out, render, workers=workers, command=command)


def _render_anew(root: Path, out: Path, render: RenderSpec | None, *, workers: int, command: str) -> Path:
    facts = open_dataset(root)
    shards = out.with_name(out.name + ".work") / "shards"
    shards.mkdir(parents=True, exist_ok=True)
    for episode in read_episodes(root):
        write_shard(shards, episode)
    paths = list_shards(shards)
    if render is not None:
        render_shards(paths, facts.job["task"], render, workers=workers)
    job: Mapping[str, Any] = {**facts.job, "render": None if render is None else render_info(render)}
    write_dataset(
        out,
        paths,
        robot_type=facts.robot_type,
        job={**job, "exported_by": command} if command else job,
        attempts=read_attempts(root),
        source_demos=root / SOURCES_PATH if (root / SOURCES_PATH).exists() else None,
        models={p.stem: p.read_text() for p in sorted((root / "provenance/models").glob("*.xml"))},
        render=None if render is None else render_digest(render_info(render)),
    )
    write_report(out)
    shutil.rmtree(shards.parent)
    return out
