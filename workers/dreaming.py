"""Stages of a run of dreams that models do: pictures, verdicts, labels. Each may be stopped, and goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import numpy as np

from dreams.frame_book import read_frames
from dreams.frames import FirstFrame
from dreams.instructions import Instruction
from dreams.motion import Labels
from dreams.prompts import Proposal
from dreams.views import Grid, seen_as
from factory.errors import SpecError
from workers.dream_folder import Run, Said, clip_of, each_dream, robot_of, silent
from workers.dream_replays import hand_starts

if TYPE_CHECKING:
    from dreams.classifier import Classifier
    from dreams.generate import Dream, Wish
    from dreams.idm import Idm
    from dreams.judge import Asks, Judgement, JudgeSpec
    from dreams.latents import LatentModel
    from dreams.video import DreamModel, Sampling


def dream(
    run: Run,
    model: DreamModel,
    sampling: Sampling,
    *,
    batch: int = 8,
    names: Collection[str] | None = None,
    said: Said = silent,
) -> int:
    """Dream everything that was proposed, or those of these names; return how many dreams those are."""
    from dreams.generate import generate  # noqa: PLC0415 - brings torch

    wishes = [wish for wish in _wishes(run, model.card.grid) if names is None or wish.name in names]
    for done, _ in enumerate(generate(model, wishes, run.root / "dreams", sampling=sampling, batch=batch), start=1):
        said(done, len(wishes))
    return len(wishes)


def _wishes(run: Run, grid: Grid) -> Iterator[Wish]:
    from dreams.generate import Wish  # noqa: PLC0415

    frames = {frame.name: frame for frame in read_frames(run.frames)}
    for name, seed, proposal in run.proposals():
        frame = frames[proposal.frame]
        if frame.grid != grid:
            raise SpecError(
                f"frame {frame.name!r} shows {frame.grid}, the video model {grid}; make frames for its views"
            )
        told = tuple(each.text for each in (proposal.instruction, *proposal.then))
        yield Wish(name=name, picture=frame.picture, instructions=told, seed=seed)


def judge_by_classifier(
    run: Run, classifier: Classifier, *, names: Collection[str] | None = None, said: Said = silent
) -> int:
    """Judge every dream with the embedded classifier; return how many judgements are new."""
    from dreams.classifier import judge_embedded  # noqa: PLC0415 - brings torch

    def judged(proposal: Proposal, frame: FirstFrame, found: Dream) -> Judgement:
        shown, first = (
            seen_as(each, grid, classifier.grid)
            for each, grid in ((found.rounds()[0], found.grid), (frame.picture[None], frame.grid))
        )
        return judge_embedded(shown, proposal.instruction.text, classifier, first=first[0])

    return _judge(run, judged, f"classifier:{classifier.name}/{classifier.version}", names, said)


def judge_by_model(
    run: Run, asks: Asks, spec: JudgeSpec, *, names: Collection[str] | None = None, said: Said = silent
) -> int:
    """Have a multimodal model judge every dream; judgements that ended in an error are asked for again."""
    from dreams.judge import judge  # noqa: PLC0415

    def judged(proposal: Proposal, frame: FirstFrame, found: Dream) -> Judgement:
        other = _contrast(frame, proposal.instruction)
        return judge(found.rounds()[0], proposal.instruction, asks, spec, contrast=other)

    return _judge(run, judged, f"mllm:{asks.model}/{spec}", names, said)


def _judge(
    run: Run,
    judged: Callable[[Proposal, FirstFrame, Dream], Judgement],
    by: str,
    names: Collection[str] | None,
    said: Said,
) -> int:
    from dreams.export import judgement_document  # noqa: PLC0415

    new, every = 0, list(each_dream(run, names))
    for done, (name, proposal, frame, found) in enumerate(every, start=1):
        kept = run.record("judgements", name)
        if kept is None or kept["by"] != by or kept["judgement"]["verdict"] == "error":
            judgement = judged(proposal, frame, found)
            run.keep("judgements", name, {"by": by, "judgement": judgement_document(judgement)})
            new += 1
        said(done, len(every))
    return new


def _contrast(frame: FirstFrame, asked: Instruction) -> Instruction:
    """Return something else that could have been done: another thing of the scene, else a thing that is not there."""
    things = [thing.name for thing in frame.scene.things] if frame.scene else []
    other = next((name for name in things if name.lower() != asked.thing.lower()), "striped ball")
    return Instruction(thing=other, source=asked.source, target=asked.target)


def label(run: Run, idm: Idm, *, names: Collection[str] | None = None, said: Said = silent) -> int:
    """Read every dream's motion from its pictures; return how many labels are new."""
    from dreams.labelling import label as read  # noqa: PLC0415

    starts = hand_starts(run)
    new, every = 0, list(each_dream(run, names))
    for done, (name, _, frame, found) in enumerate(every, start=1):
        kept = run.record("labels", name)
        version = f"{idm.name}/{idm.card.version}"
        if kept is None or kept["version"] != version:
            robot = robot_of(frame)
            labels = read(clip_of(found, robot), idm, start=starts.get(frame.name) or None)
            _keep_labels(run, name, labels)
            run.keep("labels", name, {"version": version, "model": labels.model, "code": labels.version})
            new += 1
        said(done, len(every))
    return new


def _keep_labels(run: Run, name: str, labels: Labels) -> None:
    arrays = {"motion": labels.motion, "confidence": labels.confidence}
    arrays |= {f"T_base_eef/{eef}": T for eef, T in (labels.T_base_eef or {}).items()}
    run.keep("labels", name, arrays)


def latent(run: Run, model: LatentModel, *, names: Collection[str] | None = None, said: Said = silent) -> int:
    """Read every dream's latent actions; return how many are new."""
    from dreams.latents import latent_labels  # noqa: PLC0415 - brings torch

    new, every = 0, list(each_dream(run, names))
    for done, (name, _, _, found) in enumerate(every, start=1):
        kept = run.record("latents", name)
        if kept is None or kept["version"] != f"{model.name}/{model.version}":
            labels = latent_labels(clip_of(found, None), model)
            where = labels.where
            run.keep(
                "latents", name,
                {"embedding": labels.embedding, "codes": labels.codes, "first": where.first, "last": where.last,
                 "start": where.start, "horizon": np.array(where.horizon)},
            )  # fmt: skip
            run.keep(
                "latents",
                name,
                {"version": f"{model.name}/{model.version}", "model": labels.model, "code": labels.version},
            )
            new += 1
        said(done, len(every))
    return new
