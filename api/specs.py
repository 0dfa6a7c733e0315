"""What a job asks for: one frozen value, the same for the command line, the HTTP service and every worker."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from api.dream_specs import DreamSpec, dream_spec_from_json
from factory.durable import json_bytes
from factory.errors import SpecError
from factory.specs import GenerationSpec, RenderSpec, Selection

Cuts = Mapping[str, Mapping[str, tuple[int, ...]]]
"""Demo name -> end effector -> the step each of its subtasks stops at, the demo's end excluded."""
Purpose = Literal["generate", "estimate", "export", "dream"]
Format = Literal["lerobot", "robomimic", "gr00t"]
FORMATS: tuple[Format, ...] = ("lerobot", "robomimic", "gr00t")
Device = Literal["cuda:0", "cpu"]
DEVICES: tuple[Device, ...] = ("cuda:0", "cpu")
"""Workers see one GPU each, so it is always their first; which one that is, is the pool's business."""
_WORLDS: Mapping[Device, int] = {"cuda:0": 1024, "cpu": 8}
"""A GPU is not filled by fewer; a processor computes worlds one after the other and gains nothing from more."""
MOST_WORLDS = 65536
RUN_AGAIN = 0.02
"""Share of a statistical backend's episodes that is run again on the CPU, to publish how often both agree."""

_PATIENCE = 20
"""Attempts allowed per wanted success by default: below a rate of 5 % something is wrong, and waiting does not help."""
_LEAST_ATTEMPTS = 100
"""... but never fewer than this, so that small jobs are not ended by bad luck."""


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One file of demonstrations a job starts from.

    Attributes:
        name: what people call the file; a demo is known as "name/demo_0".
        sha256: of the canonical file in the store.
        cuts: boundaries that a person set; they win over whatever the segmentation finds.
    """

    name: str
    sha256: str
    cuts: Cuts = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """What one job asks for; equal jobs make equal datasets.

    Attributes:
        task: task name.
        robot: who does it, by a robot's name; empty for the task's own robot. The demonstrations are the own robot's.
        sources: where the demonstrations come from, in order.
        generation: variant, seed and every setting of the recipe.
        episodes: stop after this many successes in index order; None with `attempts`.
        attempts: run exactly this many attempts; None with `episodes`.
        max_attempts: give up after this many.
        max_wall_s: give up after so many seconds of running, pauses not counted; what is there then depends on the
            machine's speed, so a job that this rule ended is not reproducible by its seed alone.
        min_success_rate: give up when, after `min_success_after` attempts or more, fewer than this share succeeded.
        min_success_after: see min_success_rate.
        keep_failed: keep failed attempts too, as negatives beside the dataset.
        render: cameras and quality; None makes a dataset without images.
        formats: forms of the finished dataset; "lerobot" is always among them.
        backend: which simulator runs it.
        worlds: attempts that one worker has in progress together, in lock step; only for "mjwarp",
            "isaaclab" and "kinematic". None is `environments`' usual number.
        device: what "mjwarp" computes on: "cuda:0", the worker's first GPU, as None means too, or "cpu".
        mixed: let executors of different runtime fingerprints work on it; rows are then not reproducible bit for bit.
        dream: of a job of dreams, what it asks for; see `dream_job`.
    """

    task: str
    sources: tuple[SourceFile, ...] = ()
    generation: GenerationSpec
    backend: str = "robosuite"
    worlds: int | None = None
    device: Device | None = None
    robot: str = ""
    episodes: int | None = None
    attempts: int | None = None
    max_attempts: int = 0
    max_wall_s: float | None = None
    min_success_rate: float | None = None
    min_success_after: int = 100
    keep_failed: bool = False
    render: RenderSpec | None = field(default_factory=RenderSpec)
    formats: tuple[Format, ...] = ("lerobot",)
    mixed: bool = False
    dream: DreamSpec | None = None

    def __post_init__(self) -> None:
        if (self.episodes is None) == (self.attempts is None):
            raise SpecError("give either episodes (successes wanted) or attempts (exactly that many tried)")
        if not self.max_attempts:
            limit = self.attempts or max(_LEAST_ATTEMPTS, _PATIENCE * (self.episodes or 0))
            object.__setattr__(self, "max_attempts", limit)
        for name in ("episodes", "attempts", "max_attempts", "min_success_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SpecError(f"{name} is {value}; it must be at least 1")
        if self.episodes is not None and self.max_attempts < self.episodes:
            raise SpecError(
                f"max_attempts {self.max_attempts} cannot give episodes {self.episodes}; it must be at least as large"
            )
        if self.max_wall_s is not None and not self.max_wall_s > 0:
            raise SpecError(f"max_wall_s is {self.max_wall_s}; it must be more than 0 seconds")
        if self.min_success_rate is not None and not 0.0 < self.min_success_rate <= 1.0:
            raise SpecError(f"min_success_rate is {self.min_success_rate}; it must lie above 0 and not above 1")
        self._check_device()
        if self.generation.transit == "planned" and not self.backend.startswith("robosuite"):
            raise SpecError(
                f"transit is planned on the backend robosuite; {self.backend} cannot say what is in the way"
            )
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or "lerobot" not in self.formats:
            raise SpecError(f"formats {list(self.formats)}; known are {', '.join(FORMATS)}, and lerobot is always made")
        if "gr00t" in self.formats and (self.render is None or self.render.codec != "h264"):
            found = "there are none" if self.render is None else f"their codec is {self.render.codec}"
            raise SpecError(f"formats {list(self.formats)}: gr00t needs pictures as H.264; {found}")

    def _check_device(self) -> None:
        if self.worlds is not None and self.backend not in ("mjwarp", "isaaclab", "kinematic"):
            raise SpecError(
                f"worlds are for the backends mjwarp, isaaclab and kinematic; {self.backend} runs one attempt at a time"
            )
        if self.backend == "isaaclab" and self.render is not None:
            raise SpecError("the backend isaaclab makes datasets without images: leave render out (null)")
        if self.worlds is not None and not 1 <= self.worlds <= MOST_WORLDS:
            raise SpecError(f"worlds is {self.worlds}; it must lie within 1 and {MOST_WORLDS}")
        if self.device is not None and self.backend != "mjwarp":
            raise SpecError(f"device is for the backend mjwarp; {self.backend} knows none")
        if self.device is not None and self.device not in DEVICES:
            raise SpecError(f"device {self.device!r}; known are {', '.join(DEVICES)}")

    @property
    def limit(self) -> int:
        """Attempts never exceed this."""
        return self.attempts if self.attempts is not None else self.max_attempts

    @property
    def environments(self) -> int:
        """Attempts that one worker has in progress together."""
        if self.worlds is not None:
            return self.worlds
        return _WORLDS[self.computes_on] if self.backend == "mjwarp" else 1

    @property
    def computes_on(self) -> Device:
        """The device of a backend that has a choice."""
        return self.device or "cuda:0"

    @property
    def needs(self) -> Literal["simulate", "gpu"]:
        """What a worker must be able to do to run its attempts."""
        return "gpu" if self.backend == "mjwarp" and self.computes_on != "cpu" else "simulate"

    @property
    def statistical(self) -> bool:
        """Whether running it again gives another dataset, and a share of its episodes is run again on the CPU."""
        return self.backend == "mjwarp"

    def to_json(self) -> dict[str, Any]:
        """Return the job as JSON values."""
        value: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        if self.dream is None:
            del value["dream"]  # a job that dreams nothing is called what it was before there were any
        return value

    def digest(self) -> str:
        """Return the SHA-256 of what was asked."""
        return hashlib.sha256(json_bytes(self.to_json())).hexdigest()

    def workbench(self) -> str:
        """Return a digest of what a worker opens for it: equal for jobs that differ in when to stop or in form."""
        asked = {"task": self.task, "backend": self.backend, "generation": dataclasses.asdict(self.generation)}
        if self.robot:
            asked |= {"robot": self.robot}
        if self.environments > 1:
            asked |= {"worlds": self.environments, "device": self.computes_on}
        sources = [dataclasses.asdict(source) for source in self.sources]
        return hashlib.sha256(json_bytes(json.loads(json.dumps({**asked, "sources": sources})))).hexdigest()


def cuts_of(sources: Sequence[SourceFile]) -> dict[str, Mapping[str, tuple[int, ...]]]:
    """Return the boundaries people set, by the names that `factory.sources.source_name` gives to demos."""
    return {f"{Path(s.name).stem}/{demo}": arms for s in sources for demo, arms in s.cuts.items()}


def job_from_json(value: Mapping[str, Any]) -> JobSpec:
    """Return the job that `JobSpec.to_json` wrote."""
    fields: dict[str, Any] = {**value, "generation": generation_from_json(value["generation"])}
    fields["render"] = render_from_json(value["render"])
    fields["sources"] = tuple(source_from_json(source) for source in value["sources"])
    fields["formats"] = tuple(value["formats"])
    fields["dream"] = dream_spec_from_json(value["dream"]) if value.get("dream") else None
    return JobSpec(**fields)


def dream_job(asked: DreamSpec, *, max_wall_s: float | None = None) -> JobSpec:
    """Return the job that dreams what is asked for; each dream counts as an attempt."""
    return JobSpec(
        task=asked.tasks[0] if len(asked.tasks) == 1 else "dreams",
        generation=GenerationSpec(variant=asked.variant, seed=asked.seed),
        attempts=asked.dreams,
        max_wall_s=max_wall_s,
        render=None,
        dream=asked,
    )


def source_from_json(value: Mapping[str, Any]) -> SourceFile:
    """Return a source from its JSON form."""
    cuts = {demo: {eef: tuple(stops) for eef, stops in arms.items()} for demo, arms in value["cuts"].items()}
    return SourceFile(name=value["name"], sha256=value["sha256"], cuts=cuts)


def render_from_json(value: Mapping[str, Any] | None) -> RenderSpec | None:
    """Return rendering settings from their JSON form."""
    if value is None:
        return None
    fields: dict[str, Any] = {**value, "cameras": tuple(value["cameras"]), "extras": tuple(value.get("extras", ()))}
    return RenderSpec(**fields)


def generation_from_json(value: Mapping[str, Any]) -> GenerationSpec:
    """Return generation settings from their JSON form."""
    fields = dict(value)
    if fields.get("end_jitter_steps") is not None:
        fields["end_jitter_steps"] = tuple(fields["end_jitter_steps"])
    if fields.get("selection") is not None:
        fields["selection"] = Selection(**fields["selection"])
    return GenerationSpec(**fields)


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of the settings that differ between two jobs as JSON, sorted."""
    found: list[str] = []
    for key in a.keys() | b.keys():
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            found += differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found.append(prefix + key)
    return sorted(found)
