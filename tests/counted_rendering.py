"""Workers that write down every picture they are asked to draw, and draw none: what counts is how often."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from factory.specs import RenderSpec

JOURNAL = "FACTORY_COUNTED_JOURNAL"
"""Environment variable: the file that pictures are written down in, one line each: its shard and camera."""
DEADLY = "FACTORY_COUNTED_DEADLY"
"""Environment variable: at which picture the worker that draws it is killed; empty for none."""


def drawn(journal: Path) -> Counter[tuple[str, str]]:
    """Return how many pictures of each shard and camera were drawn."""
    lines = journal.read_text().splitlines() if journal.exists() else []
    return Counter((shard, camera) for shard, camera in map(str.split, lines))


class CountingRenderer:
    """Stands in for `EpisodeRenderer`: black pictures, each written down; needs no scene and no OpenGL."""

    def __init__(self, task: str, spec: RenderSpec, robot: str = "") -> None:
        del task, robot
        self.spec, self.shard, self.about = spec, "", {}
        self._journal, self._deadly = Path(os.environ[JOURNAL]), os.environ.get(DEADLY)

    def pictures(self, states: Mapping[str, Any], overrides: Mapping[str, Any], **_: Any) -> Iterator[tuple[Any, Any]]:
        """Yield a picture of each camera for every state."""
        del overrides
        for _ in next(iter(states.values())):
            yield {camera: self._picture(camera) for camera in self.spec.cameras}, {}

    def close(self) -> None:
        """Hold nothing open."""

    def _picture(self, camera: str) -> Any:
        with self._journal.open("a") as file:
            file.write(f"{self.shard} {camera}\n")
        if self._deadly and drawn(self._journal).total() == int(self._deadly):
            os.kill(os.getpid(), signal.SIGKILL)
        return np.zeros((self.spec.height, self.spec.width, 3), np.uint8)


def serve_counted(pipe: Connection, *arguments: Any) -> None:
    """Be such a worker; takes the place of `workers.local.serve`."""
    from workers import local, worker

    real = worker.render_shard

    def render_counted(renderer: Any, shard: Path) -> int:
        renderer.shard = shard.name
        return real(renderer, shard)

    worker.render_shard, worker.open_renderer = render_counted, CountingRenderer
    local.serve(pipe, *arguments)
