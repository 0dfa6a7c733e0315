"""The folder of a run of dreams: every stage keeps there what it made, and goes on with what is there.

RUN/
  frames/              first frames, with the simulator's state where it is known
  proposals.jsonl      what is to be dreamt: frame, instruction, seed
  dreams/NAME/         pictures as they are, a film, a record
  judgements/NAME.json
  labels/NAME.npz      motion, poses, confidence; likewise latents/NAME.npz
  verified/NAME.json   the tier, and shards/ with what was executed
  ledger.db            what a language model was asked and what it cost
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreams.clips import Clip
from dreams.frame_book import read_frames
from dreams.frames import FirstFrame
from dreams.instructions import Instruction
from dreams.motion import Labels, hands_of
from dreams.prompts import Proposal
from factory.durable import json_bytes, staging
from factory.errors import DatasetError, SpecError
from factory.specs import RobotSpec
from sim_tasks.catalog import find_task

if TYPE_CHECKING:
    from dreams.generate import Dream

Said = Callable[[int, int], None]
"""Hears how much of a stage is done, of how much."""


def silent(done: int, of: int) -> None:
    """Hear nothing."""
    del done, of


@dataclass(frozen=True, kw_only=True)
class Run:
    """The folder of a run."""

    root: Path

    @property
    def frames(self) -> Path:
        """Where first frames lie."""
        return self.root / "frames"

    @property
    def ledger(self) -> Path:
        """What a language model was asked for this run."""
        return self.root / "ledger.db"

    def proposals(self) -> list[tuple[str, int, Proposal]]:
        """Return every dream's name, seed and proposal. Raises SpecError when nothing was proposed."""
        path = self.root / "proposals.jsonl"
        if not path.exists():
            raise SpecError(f"{self.root} has no proposals; `factory dream propose {self.root}` makes them")
        found: list[tuple[str, int, Proposal]] = []
        for line in path.read_text().splitlines():
            said: dict[str, Any] = json.loads(line)
            name, seed = said.pop("name"), said.pop("seed")
            said["instruction"] = Instruction(**said["instruction"])
            said["then"] = tuple(Instruction(**each) for each in said.get("then", ()))
            found.append((name, seed, Proposal(**said)))
        return found

    def dream(self, name: str) -> Dream | None:
        """Return a dream; None where it was not dreamt yet."""
        from dreams.generate import read_dream  # noqa: PLC0415 - brings torch

        folder = self.root / "dreams" / name
        return read_dream(folder) if folder.exists() else None

    def record(self, stage: str, name: str) -> dict[str, Any] | None:
        """Return what a stage recorded of a dream; None where it did not come to it."""
        path = self.root / stage / f"{name}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def arrays(self, stage: str, name: str) -> dict[str, np.ndarray[Any, Any]] | None:
        """Return the arrays that a stage kept of a dream; None where it did not come to it."""
        path = self.root / stage / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}

    def keep(self, stage: str, name: str, content: Mapping[str, Any]) -> None:
        """Keep a record, or arrays where all of it are, entirely or not at all."""
        arrays = all(isinstance(value, np.ndarray) for value in content.values())
        place = self.root / stage / (f"{name}.npz" if arrays else f"{name}.json")
        with staging(place) as folder:
            path = folder / place.name
            if arrays:
                np.savez(path, **content)
            else:
                path.write_bytes(json_bytes(dict(content)))
            path.replace(place)


def each_wish(run: Run, names: Collection[str] | None) -> Iterator[tuple[str, Proposal, FirstFrame]]:
    """Yield what is to be dreamt, or those of these names, with its first frame."""
    frames = {frame.name: frame for frame in read_frames(run.frames)}
    for name, _, proposal in run.proposals():
        if names is None or name in names:
            yield name, proposal, frames[proposal.frame]


def each_dream(run: Run, names: Collection[str] | None = None) -> Iterator[tuple[str, Proposal, FirstFrame, Dream]]:
    """Yield every dream, or those of these names, with what it was made from. Raises SpecError when one is missing."""
    for name, proposal, frame in each_wish(run, names):
        found = run.dream(name)
        if found is None:
            raise SpecError(f"{name} was not dreamt yet; `factory dream generate {run.root}` goes on with it")
        yield name, proposal, frame, found


def robot_of(frame: FirstFrame) -> RobotSpec | None:
    """Return the robot in a frame; None where the frame is of no task."""
    return find_task(frame.task).robot if frame.task else None


def clip_of(found: Dream, robot: RobotSpec | None) -> Clip:
    """Return the first round of a dream as a clip whose motion nobody knows yet."""
    return Clip(
        name=found.name,
        frames=found.rounds()[0],
        grid=found.grid,
        time=found.time,
        instruction=found.instructions[0],
        length=found.time.steps,
        embodiment=found.embodiment,
        hands=hands_of(robot) if robot else {},
    )


def read_labels(run: Run, name: str) -> Labels | None:
    """Return a dream's labels; None where nobody read it."""
    arrays, said = run.arrays("labels", name), run.record("labels", name)
    if arrays is None or said is None:
        return None
    hands = {key.removeprefix("T_base_eef/"): T for key, T in arrays.items() if key.startswith("T_base_eef/")}
    return Labels(
        motion=arrays["motion"],
        T_base_eef=hands or None,
        confidence=arrays["confidence"],
        model=said["model"],
        version=said["code"],
    )


def label_version(run: Run, name: str) -> str:
    """Return which model read a dream's motion; empty where none did."""
    said = run.record("labels", name)
    return str(said["version"]) if said else ""


def number_of(name: str) -> int:
    """Return a dream's number, by its name."""
    return int(name.rpartition("-")[2])


def file_name(name: str) -> str:
    """Return a name as one that a file may have."""
    return name.replace("/", "--")


def summary(run: Run) -> dict[str, Any]:
    """Return what became of a run, JSON: how many of each verdict and tier, and what share came true."""
    from dreams.export import TIERS, VERDICTS  # noqa: PLC0415
    from factory.statistics import wilson  # noqa: PLC0415

    names = [name for name, _, _ in run.proposals()]
    verdicts = dict.fromkeys(VERDICTS, 0)
    tiers = dict.fromkeys(TIERS, 0)
    for name in names:
        judged, verified = run.record("judgements", name), run.record("verified", name)
        verdict = judged["judgement"]["verdict"] if judged else "not_judged"
        tier = verified["verification"]["tier"] if verified else "not_tried"
        verdicts[verdict] += 1
        tiers[tier] += 1
    executed = tiers["executed_success"] + tiers["executed_failure"]
    share, low, high = wilson(tiers["executed_success"], executed)
    return {
        "dreams": len(names),
        "dreamt": sum((run.root / "dreams" / name).exists() for name in names),
        "labelled": sum(run.record("labels", name) is not None for name in names),
        "verdicts": verdicts,
        "tiers": tiers,
        "executed": executed,
        "success": {
            "share": share if executed else None,
            "low": low,
            "high": high,
        },
    }


def check_exists(run: Run) -> None:
    """Raise DatasetError unless the folder holds a run."""
    if not run.root.is_dir():
        raise DatasetError(f"{run.root} is no folder; `factory dream frames {run.root} ...` begins a run")
