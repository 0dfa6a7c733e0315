"""What the embedded judge learns from and is measured on: played failures, counterfactual successes, spoilt clips."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreams.example_book import keep_examples, kept_examples, read_examples
from dreams.examples import Example
from dreams.instructions import read
from dreams.judge import EVENTS, Asks, Judgement, JudgeSpec, judge
from dreams.judge_card import JudgeCard, Judges, judge_card
from dreams.mixing import lessons, mixed
from dreams.timebase import TimeBase
from dreams.views import Frames, Grid
from factory.durable import sweep
from factory.errors import BackendError, SpecError
from factory.specs import RenderSpec
from sim_tasks.tasks import tabletop
from workers.dream_scenes import scene_words, seen_by_name, seen_in, task_told
from workers.dream_starts import first_start
from workers.dream_training import clips_of

if TYPE_CHECKING:
    from sim_tasks.backends.rendering import EpisodeRenderer
    from sim_tasks.demonstrators.tabletop_plays import Play

_TRAINED, _PARTS = 4, 5
"""Of so many examples the first ones are trained on, the rest calibrated on."""
_CALIBRATED = 1200
"""Clips mixed for calibration, at most."""


@dataclass(frozen=True, kw_only=True)
class PlaysRequest:
    """What is to be played.

    Attributes:
        tasks: of the tabletop family.
        each: plays of each outcome in each task.
        out: folder of the examples.
        grid: how pictures are laid out.
        time: the clips' clock.
        seed: of the starts.
        variant: which starts.
        outcomes: which; all that the script knows where none is named.
    """

    tasks: tuple[str, ...]
    each: int
    out: Path
    grid: Grid
    time: TimeBase
    seed: int
    variant: str = "D0"
    outcomes: tuple[str, ...] = ()


def make_plays(request: PlaysRequest, said: Callable[[int, int], None]) -> int:
    """Play every outcome in every task and keep what is seen of it; return how many examples there are.

    What came of a play is read from its states, not from what was wanted. A thing that went where the scene's own task
    did not want it is also a success, under the sentence that asks for just that. Tasks that are there are not played
    again.
    """
    request.out.mkdir(parents=True, exist_ok=True)
    sweep(request.out)
    done = kept_examples(request.out)
    for number, name in enumerate(request.tasks):
        place = name.replace("/", "--")
        if place not in done:
            keep_examples(request.out, place, _played(request, name), request.grid, request.time)
        said(number + 1, len(request.tasks))
    return len(read_examples(request.out)[0])


def _played(request: PlaysRequest, name: str) -> list[Example]:
    from sim_tasks.backends import open_backend  # noqa: PLC0415 - opens a simulator
    from sim_tasks.backends.rendering import EpisodeRenderer  # noqa: PLC0415
    from sim_tasks.catalog import find_task  # noqa: PLC0415
    from sim_tasks.demonstrators.tabletop_plays import PLAYS, play  # noqa: PLC0415

    task, grid = find_task(name), request.grid
    look = RenderSpec(cameras=grid.views, width=grid.width_px, height=grid.height_px, preset="fast")
    found: list[Example] = []
    backend = open_backend(task)
    try:
        with EpisodeRenderer(task, look) as renderer:
            for turn, wanted in enumerate(request.outcomes or tuple(PLAYS)):
                for number in range(request.each):
                    # Starts of their own for every play of every task: a judge should not know a failure by its start.
                    index = first_start(name) + turn * request.each + number
                    try:
                        played = play(task, backend, wanted, seed=request.seed, index=index, variant=request.variant)
                    except BackendError:
                        continue  # physics went astray: nothing that a video could be judged by
                    found += _examples(played, name, request, renderer)
    finally:
        backend.close()
    return found


def _examples(played: Play, name: str, request: PlaysRequest, renderer: EpisodeRenderer) -> list[Example]:
    from sim_tasks.demonstrators.tabletop_plays import PLAYS  # noqa: PLC0415

    result, steps = played.result, len(played.result)
    if played.outcome not in PLAYS or steps > request.time.steps:
        return []
    rows = request.time.rows(steps)
    states = {key: values[rows] for key, values in result.sim_states.items()}
    drawn = list(renderer.frames(states, result.start.overrides, visual_stream=None))
    frames = request.grid.joined({view: np.stack([each[view] for each in drawn]) for view in request.grid.views})

    things, targets = scene_words(name)

    def example(kind: str, events: Mapping[str, bool], **asked: str) -> Example:
        text = tabletop.instruction(name, **asked)
        return Example(
            frames=frames, instruction=text, follows=kind == "success", kind=kind, events=events,
            things=things, targets=targets,
        )  # fmt: skip

    known = {event: played.events[event] for event in EVENTS}
    found = [example(played.outcome, known)]
    elsewhere = {"wrong_object": {"thing": "distractor"}, "wrong_place": {"target": "other_target"}}
    if played.outcome in elsewhere:
        found.append(example("success", dict.fromkeys(EVENTS, True), **elsewhere[played.outcome]))
    return found


def examples_from(plays: Sequence[Path], datasets: Sequence[Path]) -> tuple[list[Example], Grid, TimeBase]:
    """Return the examples of plays, and the episodes of datasets as clips that follow their instruction.

    Raises SpecError where folders differ in layout or clock, or no plays are given.
    """
    if not plays:
        raise SpecError("a judge learns from failures too: name a folder of plays, which `factory dream play` makes")
    found: list[Example] = []
    shapes: dict[tuple[Grid, TimeBase], Path] = {}
    for folder in plays:
        examples, grid, time = read_examples(folder)
        found += examples
        shapes.setdefault((grid, time), folder)
    if len(shapes) > 1:
        raise SpecError(f"{' and '.join(map(str, shapes.values()))} have pictures of different layouts or clocks")
    grid, time = next(iter(shapes))
    return [*found, *(each for root in datasets for each in _films(root, grid, time))], grid, time


def _films(root: Path, grid: Grid, time: TimeBase) -> Iterator[Example]:
    """Yield a dataset's episodes as clips that follow their instruction."""
    happened: dict[str, bool] = dict.fromkeys(EVENTS, True)
    seen = seen_in(root, grid, time)
    for clip in clips_of([root], grid, frames=time.frames, stride=time.stride, time=time)[0]:
        told = Example(frames=clip.frames, instruction=clip.instruction, follows=True, kind="success", events=happened)
        task = task_told(clip.instruction)
        if task is not None:
            where = seen_by_name(task, seen.get(int(clip.name.rpartition("/")[2]), {}))
            things, targets = scene_words(task)
            told = replace(told, things=things, targets=targets, where=where)
        yield told


def train_judge(
    plays: Sequence[Path], datasets: Sequence[Path], out: Path, *, spoilt: int, steps: int, batch: int, rate: float,
    seed: int, max_s: float,
) -> dict[str, Any]:  # fmt: skip
    """Train the embedded judge, or go on with it; returns what there is to say of it.

    Of every five examples one is kept for calibration, where they are mixed as on the card; see `dreams.mixing`. So
    many good clips are spoilt in each way for training.
    """
    from dreams.classifier_training import train_classifier  # noqa: PLC0415 - brings torch
    from dreams.descent import Schedule  # noqa: PLC0415

    examples, grid, _ = examples_from(plays, datasets)
    parts = (
        [example for i, example in enumerate(examples) if (i % _PARTS < _TRAINED) == first] for first in (True, False)
    )
    taught, kept = parts
    train = lessons(taught, grid, spoilt=spoilt, seed=seed)
    calibration = mixed(kept, grid, size=_CALIBRATED, seed=seed + 1)
    data = {"plays": [each.name for each in plays], "datasets": [each.name for each in datasets], "spoilt": spoilt}
    data |= {"examples": len(train), "calibration": len(calibration)}
    schedule = Schedule(steps=steps, batch=batch, rate=rate, seed=seed)
    trained = train_classifier(
        train, calibration, out, name="tabletop", grid=grid, data=data, schedule=schedule, max_s=max_s
    )
    facts: dict[str, Any] = {"examples": len(train), "calibration": len(calibration), "model": None}
    if trained is not None:
        facts |= {"model": str(out), "version": trained.version}
        facts["calibrations"] = {str(count): asdict(each) for count, each in trained.calibrations.items()}
    return facts


def by_endpoint(asks: Asks, told: Collection[str]) -> Judges:
    """Return a multimodal model as a judge of clips with one of the given sentences: it gets another as contrast."""
    others = [read(text) for text in sorted(set(told))]

    def judged(frames: Frames, text: str, count: int) -> Judgement:
        asked = read(text)
        contrast = next((each for each in others if each.key != asked.key), asked)
        return judge(frames, asked, asks, JudgeSpec(frames=count), contrast=contrast)

    return judged


def card_of_judge(
    judges: Judges, examples: Sequence[Example], grid: Grid, *, size: int, seed: int
) -> tuple[JudgeCard, int]:
    """Return a judge's card on a mixture of examples, and of how many clips."""
    chosen = mixed(examples, grid, size=size, seed=seed)
    return judge_card(chosen, judges), len(chosen)
