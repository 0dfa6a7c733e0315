"""From demonstrations to sources: read by a backend, cut, and checked against the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from factory.demos import Demo
from factory.errors import DemoError
from factory.retargeting import Source, check_sources, settled_row
from factory.segmentation import split
from factory.sim import SimBackend
from factory.specs import GenerationSpec, TaskSpec


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What became of a set of demos.

    Attributes:
        sources: the demos that can be carried.
        refused: one sentence for every demo that cannot.
    """

    sources: tuple[Source, ...]
    refused: tuple[str, ...]


def prepare_sources(backend: SimBackend, task: TaskSpec, demos: Sequence[Demo], spec: GenerationSpec) -> Preparation:
    """Annotate and cut demos; one that cannot be used is refused with a reason, the others go on.

    Raises:
        DemoError: no demo can be used, or the settings do not fit the cuts.
    """
    sources: list[Source] = []
    refused: list[str] = []
    for demo in demos:
        try:
            annotated = backend.annotate(demo)
            segments = split(annotated, task, spec.segmentation)
            source = Source(
                demo=replace(annotated, name=f"{Path(demo.path).stem}/{demo.name}"),
                segments=segments,
                settled=settled_row(annotated),
            )
            check_sources(task, [source], spec)
        except DemoError as error:
            refused.append(str(error))
            continue
        sources.append(source)
    if not sources:
        raise DemoError(refused[0] if refused else f"task {task.name!r}: no demonstrations were given")
    return Preparation(sources=tuple(sources), refused=tuple(refused))
