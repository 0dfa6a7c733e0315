"""What a job of dreams asks for: from which first frames, how many, dreamt, judged, read and tried by what."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from factory.errors import SpecError

Proposer = Literal["state", "endpoint"]
"""Who says what is to be done in a first frame: what the simulator knows, or a multimodal model."""
JudgedBy = Literal["nobody", "classifier", "endpoint"]
ReplayMode = Literal["tracked", "open_loop"]
Only = Literal["all", "accepted", "executed"]
"""Which dreams become a dataset: every one, those that were accepted, or those that came true."""

Stage = Literal["prepare", "frames", "propose", "generate", "judge", "label", "verify", "export"]
STAGES: tuple[Stage, ...] = get_args(Stage)
"""One after the other; the dreams of one stage are shared among workers."""

MODEL_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99}){0,5}"
"""A folder below the installation's folder of models: nothing that is written so leads out of it."""
MOST_DREAMS = 100_000
MOST_FRAMES, MOST_PER_FRAME, MOST_SEEDS = 10_000, 16, 64
MOST_AT_A_TIME = 64


@dataclass(frozen=True, kw_only=True)
class DreamSpec:
    """What one job of dreams asks for.

    Attributes:
        tasks: tasks or families whose starts are the first frames; empty with `dataset`.
        dataset: a dataset of the service whose episodes' first pictures are the first frames; empty with `tasks`.
        held_out: of the tasks take only those that models are not trained on.
        variant: which starts.
        frames: first frames, of all tasks together; of a dataset the first so many episodes.
        per_frame: instructions for each, at most.
        seeds: dreams of each instruction.
        seed: of starts and dreams.
        propose: see `Proposer`.
        video: folder of the video model, below the installation's folder of models, or the name of one that comes with
            the package; empty for the usual one of these.
        idm: likewise of the inverse dynamics model.
        latents: likewise of a latent action model; empty for none.
        judge: who judges; "endpoint" asks the installation's language model.
        classifier: likewise of the classifier, when it judges.
        votes: how often a language model is asked about each dream; `pictures` it is shown.
        pictures: see votes.
        budget_usd: most that requests to it may cost; None for no limit.
        steps: sampling steps of the video model.
        guidance: how strongly the sentence counts; above 1 costs twice.
        batch: dreams that one worker has in progress together.
        replay: how labels are carried out.
        only: which dreams become a dataset.
    """

    tasks: tuple[str, ...] = ()
    dataset: str = ""
    held_out: bool = False
    variant: str = "D0"
    frames: int = 20
    per_frame: int = 1
    seeds: int = 1
    seed: int = 0
    propose: Proposer = "state"
    video: str = ""
    idm: str = ""
    latents: str = ""
    judge: JudgedBy = "nobody"
    classifier: str = ""
    votes: int = 3
    pictures: int = 8
    budget_usd: float | None = None
    steps: int = 12
    guidance: float = 2.0
    batch: int = 8
    replay: ReplayMode = "tracked"
    only: Only = "all"

    def __post_init__(self) -> None:
        if bool(self.tasks) == bool(self.dataset):
            raise SpecError("first frames come from tasks, or from a dataset; give one of them")
        for name, most in (
            ("frames", MOST_FRAMES), ("per_frame", MOST_PER_FRAME), ("seeds", MOST_SEEDS), ("steps", 1000),
            ("votes", 99), ("pictures", 64), ("batch", MOST_AT_A_TIME),
        ):  # fmt: skip
            if not 1 <= getattr(self, name) <= most:
                raise SpecError(f"{name} is {getattr(self, name)}; it must lie within 1 and {most}")
        if self.dreams > MOST_DREAMS:
            raise SpecError(
                f"{self.frames} frames x {self.per_frame} instructions x {self.seeds} seeds are {self.dreams} dreams; "
                f"one job dreams at most {MOST_DREAMS}"
            )
        for name in ("video", "idm", "latents", "classifier"):
            _check_model(name, getattr(self, name))
        if self.classifier and self.judge != "classifier":
            raise SpecError(f"classifier {self.classifier!r} judges nothing: judge is {self.judge!r}, not 'classifier'")
        if self.budget_usd is not None and not self.budget_usd > 0:
            raise SpecError(f"budget_usd is {self.budget_usd}; it must be more than 0")

    @property
    def dreams(self) -> int:
        """Dreams at most: some frames may give fewer instructions than asked for."""
        return self.frames * self.per_frame * self.seeds

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What it goes through, in order."""
        return tuple(stage for stage in STAGES if stage != "judge" or self.judge != "nobody")

    @property
    def asks_endpoint(self) -> bool:
        """Whether a language model is asked for anything."""
        return "endpoint" in (self.propose, self.judge)


def dream_spec_from_json(value: Mapping[str, Any]) -> DreamSpec:
    """Return a specification from its JSON form."""
    fields: dict[str, Any] = {**value, "tasks": tuple(value["tasks"])}
    return DreamSpec(**fields)


def _check_model(field: str, name: str) -> None:
    if name and not re.fullmatch(MODEL_NAME, name):
        raise SpecError(
            f"{field} is {name!r}; expected the name of a folder below the installation's folder of models, such as "
            "'video/training/model'"
        )
