"""What callers send: bodies that check themselves, and how a request for a job becomes a `JobSpec`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel, StringConstraints, model_validator

from api.keys import Quota, Scope
from api.specs import MOST_WORLDS, Device, Format, JobSpec, SourceFile
from factory.specs import Extra, GenerationSpec, RenderSpec, Selection, SelectionStrategy, TaskSpec
from sim_tasks.catalog import find_task, views_of

MOST = 1_000_000_000
"""No count of a request is larger: what is computed from it stays within 64 bits."""


def _plain(text: str) -> str:
    if not text.isprintable():
        raise ValueError("control characters are not accepted")
    return text


Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
"""A name that may become part of a file's name."""
TaskName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9_-]{1,100}){0,3}$")]
"""A task's, that of one of a family with it: "stack", "stack/shelf"."""
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$"), AfterValidator(_plain)]
"""One line for people."""
Id = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Count = Annotated[int, Field(ge=1, le=MOST)]
Steps = Annotated[int, Field(ge=0, le=10_000)]
Sigma = Annotated[float, Field(ge=0.0, le=10.0)]

WEIGHTS = {"low": 0.25, "normal": 1.0, "high": 4.0}
Priority = Literal["low", "normal", "high"]


class Body(BaseModel):
    """A body with no fields but its own, and no NaN."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class SelectionSettings(Body):
    """How a source segment is chosen; see `factory.specs.Selection`."""

    strategy: SelectionStrategy = "nearest_object"
    top_k: Annotated[int, Field(ge=1, le=10_000)] = 3
    position_weight: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0
    rotation_weight: Annotated[float, Field(ge=0.0, le=1e6)] = 1.0


class GenerationSettings(Body):
    """The settings of the recipe; null means "as the task says". See `factory.specs.GenerationSpec`.

    Symmetries and paced bridges are on unless switched off, as on the command line.
    """

    variant: Name = "D0"
    seed: Annotated[int, Field(ge=0, le=(1 << 63) - 1)] = 0
    select_per: Literal["episode", "arm", "subtask"] = "episode"
    selection: SelectionSettings | None = None
    end_jitter_steps: tuple[int, int] | None = Field(default=None, examples=[[-5, 5]])
    noise_normalised: Sigma | None = None
    interpolation_steps: Steps | None = None
    fixed_steps: Steps | None = None
    transform_first_pose: bool = False
    paced_bridge: bool = True
    bridge_from: Literal["last_target", "current"] = "last_target"
    keep: Literal["hand", "object"] = "hand"
    use_symmetry: bool = True
    untransformed: bool = False
    coordination: Literal["task", "off", "transform", "translate", "replay"] = "task"
    coordination_noise: Annotated[float, Field(ge=0.0, le=1e3)] = 1.0
    ordering: Literal["task", "off"] = "task"
    transit: Literal["straight", "planned"] = "straight"
    segmentation: Literal["stored", "predicates", "automatic"] = "stored"
    paraphrases: bool = False
    max_steps: Annotated[int, Field(ge=1, le=100_000)] = 3000
    early_ending: bool = True

    @model_validator(mode="after")
    def _check(self) -> GenerationSettings:
        low, high = self.end_jitter_steps or (0, 0)
        if not -10_000 <= low <= high <= 10_000:
            raise ValueError(f"end_jitter_steps {[low, high]}: expected [low, high] within -10000 and 10000")
        return self

    def spec(self, *, variant: str | None = None, seed: int | None = None) -> GenerationSpec:
        """Return the specification, with another variant or seed where one is given."""
        fields: dict[str, Any] = self.model_dump()
        if self.selection is not None:
            fields["selection"] = Selection(**self.selection.model_dump())
        fields["variant"] = self.variant if variant is None else variant
        fields["seed"] = self.seed if seed is None else seed
        return GenerationSpec(**fields)


class RenderSettings(Body):
    """Cameras and quality of the videos; see `factory.specs.RenderSpec`."""

    cameras: Annotated[tuple[Name, ...], Field(min_length=1, max_length=16)] | None = Field(
        default=None, description="Omitted or null: the cameras that the task itself names."
    )
    width: Annotated[int, Field(ge=16, le=4096, multiple_of=2)] = 256
    height: Annotated[int, Field(ge=16, le=4096, multiple_of=2)] = 256
    preset: Literal["faithful", "fast"] = "faithful"
    visual_seed: Annotated[int, Field(ge=0, le=(1 << 63) - 1)] | None = None
    camera_jitter_m: Sigma = 0.0
    camera_jitter_rad: Sigma = 0.0
    codec: Literal["h264", "av1"] = "h264"
    extras: Annotated[tuple[Extra, ...], Field(max_length=2)] = Field(
        default=(), description="Also keep these of every picture, exactly."
    )
    every: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=1, description="Rows from one picture drawn to the next; rows between repeat it."
    )

    def spec(self, task: TaskSpec) -> RenderSpec:
        """Return the specification for a task."""
        fields: dict[str, Any] = {**self.model_dump(), "cameras": self.cameras or task.views}
        return RenderSpec(**fields)


class JobRequest(Body):
    """A request for trajectories: what, from which demonstrations, how many, and when to give up."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task": "stack", "episodes": 100, "seed": 7, "name": "a hundred towers"},
                {
                    "task": "lift",
                    "attempts": 50,
                    "variant": "D1",
                    "render": None,
                    "generation": {"noise_normalised": 0.02},
                    "metadata": {"experiment": "noise"},
                },
            ]
        }
    )
    task: TaskName = Field(description="A task's name; `GET /v1/tasks` lists them.")
    robot: Annotated[str, StringConstraints(pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$")] = Field(
        default="",
        description="Have another robot do it, such as `UR5e`; the demonstrations are still those of the task's own "
        "robot. `GET /v1/tasks` says which that is.",
    )
    files: Annotated[tuple[Id, ...], Field(max_length=100)] = Field(
        default=(), description="Files of demonstrations; empty for the demonstrations shipped with the task."
    )
    episodes: Count | None = Field(default=None, description="Stop after so many successes, in attempt order.")
    attempts: Count | None = Field(default=None, description="Instead: make exactly so many attempts.")
    max_attempts: Count | None = Field(default=None, description="Give up after so many; default 20 per episode.")
    max_wall_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    min_success_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    min_success_after: Count = 100
    seed: Annotated[int, Field(ge=0, le=(1 << 63) - 1)] | None = Field(
        default=None, description="Seed of the job; the same as `generation.seed`."
    )
    variant: Name | None = Field(default=None, description="Distribution of starts; `generation.variant`.")
    generation: GenerationSettings = GenerationSettings()
    render: RenderSettings | None = Field(default=RenderSettings(), description="Null makes a dataset without images.")
    formats: Annotated[tuple[Format, ...], Field(min_length=1, max_length=3)] = ("lerobot",)
    keep_failed: bool = False
    mixed: bool = Field(default=False, description="Let machines of different kinds work on it; see the guide.")
    backend: Literal["robosuite", "robosuite/exact", "mjwarp", "kinematic", "isaaclab"] = Field(
        default="robosuite",
        description="Simulator. `robosuite/exact` computes robosuite's controls bit for bit, four times as slowly; "
        "`mjwarp` runs many attempts in lock step on a GPU, and the same job again makes another dataset; `isaaclab` "
        "waits for pull workers that have Isaac Lab, and its datasets have no images.",
    )
    worlds: Annotated[int, Field(ge=1, le=MOST_WORLDS)] | None = Field(
        default=None,
        description="With `mjwarp` and `isaaclab`: attempts in lock step. Default 1024 and 1, on the device `cpu` 8.",
    )
    device: Device | None = Field(
        default=None, description="With `mjwarp`: `cuda:0`, a worker's own GPU, or `cpu`, the same kernels without one."
    )
    name: Text = ""
    metadata: Annotated[
        dict[Annotated[Text, StringConstraints(min_length=1, max_length=64)], Text], Field(max_length=16)
    ] = {}
    priority: Priority = "normal"

    @model_validator(mode="after")
    def _check(self) -> JobRequest:
        if (self.episodes is None) == (self.attempts is None):
            raise ValueError("give either episodes (successes wanted) or attempts (exactly that many tried)")
        for setting in ("seed", "variant"):
            top, nested = getattr(self, setting), getattr(self.generation, setting)
            if top is not None and setting in self.generation.model_fields_set and top != nested:
                raise ValueError(f"{setting} is {top!r} but generation.{setting} is {nested!r}; give it once")
        if len(set(self.files)) < len(self.files):
            raise ValueError("files names one file twice")
        return self

    def spec(self, sources: Sequence[SourceFile]) -> JobSpec:
        """Return the job that is asked for, made from these sources.

        Raises:
            SpecError: the settings contradict each other.
        """
        return JobSpec(
            task=self.task,
            robot=self.robot,
            sources=tuple(sources),
            generation=self.generation.spec(variant=self.variant, seed=self.seed),
            backend=self.backend,
            worlds=self.worlds,
            device=self.device,
            episodes=self.episodes,
            attempts=self.attempts,
            max_attempts=self.max_attempts or 0,
            max_wall_s=self.max_wall_s,
            min_success_rate=self.min_success_rate,
            min_success_after=self.min_success_after,
            keep_failed=self.keep_failed,
            render=None if self.render is None else self.render.spec(find_task(self.task, self.robot)),
            formats=tuple(dict.fromkeys(self.formats)),
            mixed=self.mixed,
        )


class EstimateRequest(JobRequest):
    """A job somebody thinks about, and how many of its first attempts to try."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"task": "stack", "episodes": 1000, "pilot": 12}]})
    pilot: Annotated[int, Field(ge=1, le=100)] = 12


def request_of(spec: JobSpec, file_ids: Sequence[str]) -> dict[str, Any]:
    """Return the body that asks for the same job again, without what is as usual."""
    fields = {field.name: getattr(spec, field.name) for field in dataclasses.fields(spec)}
    asked: dict[str, Any] = {"task": spec.task, "files": list(file_ids)}
    for name in JobRequest.model_fields:
        if name in fields and name not in ("task", "sources", "generation", "render"):
            asked[name] = fields[name]
    asked["generation"] = dataclasses.asdict(spec.generation)
    asked["render"] = None
    if spec.render is not None:
        usual = spec.render.cameras == views_of(spec.task, spec.robot)
        asked["render"] = {**dataclasses.asdict(spec.render), **({"cameras": None} if usual else {})}
    if spec.attempts is not None:
        del asked["max_attempts"]
    said = JobRequest.model_validate(asked).model_dump(mode="json", exclude_defaults=True)
    return said | ({"render": None} if spec.render is None else {})


class Cuts(
    RootModel[dict[Name, dict[Name, Annotated[list[Annotated[int, Field(ge=0, le=MOST)]], Field(max_length=100)]]]]
):
    """Boundaries a person set: demo -> end effector -> the step each subtask stops at, the demo's end excluded."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"demo_0": {"right": [41]}}]})


class CheckRequest(Body):
    """Which task a file's demonstrations show; null finds out by the environment's name."""

    task: Name | None = Field(default=None, examples=["stack"])


class ExportRequest(Body):
    """A further form of a dataset, without generating again."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "robomimic"}]})
    to: Format
    render: RenderSettings | None = Field(default=None, description="Cameras and quality, for lerobot.")
    name: Text = ""


class PushRequest(Body):
    """Where to send a dataset."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "hf://someone/stack", "private": True}]})
    to: Annotated[str, StringConstraints(min_length=4, max_length=500, pattern=r"^[a-z][a-z0-9+.-]*://[!-~]+$")]
    private: bool = True


class KeyRequest(Body):
    """A new API key."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "laptop", "scopes": ["read", "write"], "expires_in_s": 2592000}]}
    )
    name: Annotated[Text, StringConstraints(min_length=1)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1, max_length=4)]
    expires_in_s: Annotated[float, Field(gt=0, le=1e9)] | None = None
    quotas: dict[Quota, Annotated[float, Field(ge=0, le=1e18)]] = {}


WebhookEvent = Literal["job.succeeded", "job.failed", "job.cancelled", "job.expired", "job.paused"]


class WebhookRequest(Body):
    """An address that wants to hear how jobs go."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"url": "https://example.org/hooks/factory"}]})
    url: Annotated[str, StringConstraints(min_length=8, max_length=500, pattern=r"^https?://[!-~]+$")]
    events: Annotated[tuple[WebhookEvent, ...], Field(min_length=1, max_length=5)] = (
        "job.succeeded",
        "job.failed",
        "job.cancelled",
        "job.expired",
    )
