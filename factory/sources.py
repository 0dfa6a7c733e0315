"""From demonstrations to sources: read by a backend, cut, and checked against the settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from factory.coordination import bonds, chains_of, end_together
from factory.demos import Demo
from factory.errors import DemoError
from factory.retargeting import Source, settled_row
from factory.segmentation import cut_at, split
from factory.selection import SourceSet, source_set
from factory.sim import SimBackend
from factory.specs import GenerationSpec, TaskSpec


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What became of a set of demos.

    Attributes:
        sources: the demos that can be carried, stacked for the job's settings.
        refused: one sentence for every demo that cannot.
    """

    sources: SourceSet
    refused: tuple[str, ...]


def source_name(demo: Demo) -> str:
    """Return what a demo is called among the sources of a job: its file's name and its own."""
    return f"{Path(demo.path).stem}/{demo.name}"


def prepare_sources(
    backend: SimBackend,
    task: TaskSpec,
    demos: Sequence[Demo],
    spec: GenerationSpec,
    cuts: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
) -> Preparation:
    """Annotate and cut demos; one that cannot be used is refused with a reason, the others go on.

    Args:
        backend: reads the demos' states.
        task: the task they show.
        demos: as stored.
        spec: settings; says how demos are cut.
        cuts: `source_name` -> boundaries that a person set, as `segmentation.cut_at` takes them; they win.

    Raises:
        DemoError: no demo can be used, or the settings do not fit the cuts.
    """
    sources: list[Source] = []
    refused: list[str] = []
    for demo in demos:
        try:
            annotated = backend.annotate(demo)
            name = source_name(demo)
            by_hand = (cuts or {}).get(name)
            segments = (
                split(annotated, task, spec.segmentation) if by_hand is None else cut_at(annotated, task, by_hand)
            )
            source = Source(
                demo=replace(annotated, name=name),
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
    return Preparation(sources=source_set(task, sources, spec), refused=tuple(refused))


def check_sources(task: TaskSpec, sources: Sequence[Source], spec: GenerationSpec) -> None:
    """Refuse sources whose segments could be left with no row: by jitter, or by ending together with another arm.

    Raises:
        DemoError: there are no sources, or a segment is shorter than the jitter of its two ends can take away, or
            than cutting it to the end of its partner's, when arms act as one.
        SpecError: the settings do not fit the task's constraints.
    """
    if not sources:
        raise DemoError(f"task {task.name!r}: no source demonstration could be used; at least one is needed")
    constraints = bonds(task, spec)
    chains = chains_of(task, spec, constraints)
    for source in sources:
        stops = end_together(
            {eef: np.array([[s.stop for s in source.segments[eef]]], np.int64) for eef in chains}, chains, constraints
        )
        for eef, chain in chains.items():
            start = moved_before = 0
            for k, (subtask, stop) in enumerate(zip(chain, stops[eef][0].tolist(), strict=True)):
                low, high = subtask.end_jitter_steps
                if stop + low - (start + moved_before) < 1 or stop + high > len(source.demo):
                    cut = "" if stop == source.segments[eef][k].stop else " once cut to where the arms end together"
                    raise DemoError(
                        f"demo {source.demo.name!r}: segment {subtask.name!r} of {eef} is [{start}, {stop}) of "
                        f"{len(source.demo)} steps{cut}, too short for end jitter {(low, high)} after {moved_before} "
                        "steps before it; allowed is less jitter or a longer segment"
                    )
                start, moved_before = stop, max(high, 0)
