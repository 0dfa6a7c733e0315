"""Runs that a run of dreams is compared with: what a number is worth that nothing stands beside.

"real": the simulator's own videos in place of dreams. What fails here is the labels' fault, not the dreams'.
"shuffled": the same first frames, each under another's sentence; success is judged by the right one.
"coded": a control of real videos: the same, as the video model's autoencoder leaves them. What fails here and not there
is the autoencoder's fault; no dream of that model can be read better.
"frozen": the first picture for the whole clip.
"nearest": the true motion of the training episode whose first picture looks most alike.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dreams.clips import Clip
from dreams.frame_book import keep_frames, read_frames
from dreams.frames import dataset_frames
from dreams.generate import Dream, keep_dream
from dreams.instructions import Instruction
from dreams.prompts import Proposal
from dreams.timebase import TimeBase
from dreams.video import DreamModel, Sampling
from factory.durable import staging
from factory.errors import SpecError
from sim_tasks.tasks import tabletop
from workers import dream_folder, dream_starts

REAL = "real video"
"""What stands for the model where a video was not dreamt."""


def real_videos(run: dream_folder.Run, dataset: Path, clips: Sequence[Clip]) -> int:
    """Fill a run with real episodes of a dataset in place of dreams; return how many there are.

    Their first frames have the episodes' own states, so they can be labelled and carried out like dreams.

    Raises:
        SpecError: an episode is not of a scene that has words.
    """
    numbers = [int(clip.name.rpartition("/")[2]) for clip in clips]
    keep_frames(run.frames, dataset_frames(dataset, clips[0].grid, episodes=set(numbers)))
    frames = {frame.name: frame for frame in read_frames(run.frames)}
    proposals: list[tuple[str, int, Proposal]] = []
    for number, clip in zip(numbers, clips, strict=True):
        frame = frames[clip.name]
        if not (frame.task or "").startswith(tabletop.NAME):
            raise SpecError(f"{clip.name} is of task {frame.task!r}; only {tabletop.NAME} can be told in words")
        what, source, where = tabletop.phrases(str(frame.task))
        instruction = Instruction(thing=what, source=source, target=where)
        proposal = Proposal(
            frame=clip.name, instruction=instruction, counterfactual=False, proposer="demonstration"
        )  # fmt: skip
        name = f"dream-{number:05d}"
        proposals.append((name, 0, proposal))
        _keep(run, name, clip.frames, clip.time, clip, instruction.text)
    dream_starts.keep_proposals(run, proposals)
    return len(clips)


def coded(run: dream_folder.Run, of: dream_folder.Run, model: DreamModel) -> int:
    """Make a control of a run: every video of it, seen through a model's autoencoder."""
    _same_starts(run, of)
    every = list(dream_folder.each_dream(of))
    for name, proposal, frame, shown in every:
        if not (run.root / "dreams" / name).exists():
            seen = model.seen_through(dream_folder.clip_of(shown, dream_folder.robot_of(frame)))
            _keep(run, name, seen.frames, shown.time, shown, proposal.instruction.text)
    dream_starts.keep_proposals(run, of.proposals())
    return len(every)


def frozen(run: dream_folder.Run, of: dream_folder.Run) -> int:
    """Make a control of a run of dreams: every dream shows its first picture and nothing else."""
    _same_starts(run, of)
    every = list(dream_folder.each_dream(of))
    for name, proposal, _, dreamt in every:
        still = np.repeat(dreamt.frames[:1], len(dreamt.frames), axis=0)
        _keep(run, name, still, dreamt.time, dreamt, proposal.instruction.text)
    dream_starts.keep_proposals(run, of.proposals())
    return len(every)


def shuffled(run: dream_folder.Run, of: dream_folder.Run) -> int:
    """Prepare a control: the same frames and seeds, each under the next one's sentence; return how many.

    It is dreamt like any run. Afterwards `own_sentences` puts the right ones back, by which success is judged.
    """
    _same_starts(run, of)
    every = of.proposals()
    told = [each[2].instruction for each in every]
    moved = [
        (name, seed, replace(proposal, instruction=another_sentence(told, number)))
        for number, (name, seed, proposal) in enumerate(every)
    ]
    dream_starts.keep_proposals(run, moved)
    return len(moved)


def another_sentence(told: Sequence[Instruction], number: int) -> Instruction:
    """Return the next sentence that names another thing and another place; or one of the two, where none names both.

    A sentence that shares the thing, and a word of the place, leads to success by what the two have in common.
    """
    ahead = [told[(number + k) % len(told)] for k in range(1, len(told))]
    own = told[number].key
    apart = [each for each in ahead if all(a != b for a, b in zip(each.key, own, strict=True))]
    return next(iter(apart), next((each for each in ahead if each.key != own), told[number]))


def same(run: dream_folder.Run, of: dream_folder.Run, *, seed: int) -> int:
    """Prepare a run from the starts and under the sentences of another, seeds counted on; return how many dreams."""
    _same_starts(run, of)
    every = [(name, seed + number, proposal) for number, (name, _, proposal) in enumerate(of.proposals())]
    dream_starts.keep_proposals(run, every)
    return len(every)


def own_sentences(run: dream_folder.Run, of: dream_folder.Run) -> None:
    """Judge a shuffled control by the sentences of the run it is a control of."""
    dream_starts.keep_proposals(run, of.proposals())


def nearest(run: dream_folder.Run, of: dream_folder.Run, clips: Sequence[Clip]) -> int:
    """Make a control: every dream is labelled with the true motion of the training clip that begins most like it.

    The distance is that of the first pictures, mean square over all pixels.
    """
    _same_starts(run, of)
    known = [clip for clip in clips if clip.motion is not None]
    if not known:
        raise SpecError("none of the training clips says how its hand moved")
    first = np.stack([clip.frames[0] for clip in known]).astype(np.float32)
    every = list(dream_folder.each_dream(of))
    for name, proposal, frame, dreamt in every:
        apart = ((first - frame.picture.astype(np.float32)) ** 2).mean(axis=(1, 2, 3))
        clip = known[int(np.argmin(apart))]
        assert clip.motion is not None  # noqa: S101 - chosen so
        still = np.zeros((clip.time.steps - clip.length, clip.motion.shape[1]))
        still[:, 6:] = clip.motion[-1:, 6:]
        motion = np.concatenate([clip.motion, still])
        _keep(run, name, dreamt.frames, dreamt.time, dreamt, proposal.instruction.text)
        run.keep("labels", name, {"motion": motion, "confidence": np.ones(len(motion))})
        run.keep("labels", name, {"version": f"nearest/{clip.name}", "model": "nearest training clip", "code": "1"})
    dream_starts.keep_proposals(run, of.proposals())
    return len(every)


def _same_starts(run: dream_folder.Run, of: dream_folder.Run) -> None:
    if not run.frames.exists():
        with staging(run.frames) as folder:
            shutil.copytree(of.frames, folder / "frames")
            (folder / "frames").rename(run.frames)


def _keep(run: dream_folder.Run, name: str, frames: Any, time: TimeBase, like: Clip | Dream, text: str) -> None:
    if (run.root / "dreams" / name).exists():
        return
    keep_dream(
        Dream(
            name=name, frames=frames, instructions=(text,), seams=(), seed=0, time=time, grid=like.grid,
            embodiment=like.embodiment, model=REAL, sampling=Sampling(), picture="",
        ),
        run.root / "dreams",
    )  # fmt: skip
