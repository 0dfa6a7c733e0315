"""`factory bench`: what this machine makes of a task, against what its physics would allow, measured in one run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from factory.demos import read_demos
from factory.errors import SpecError
from factory.specs import GenerationSpec
from sim_tasks.catalog import find_task
from workers import bench_control, bench_generate, bench_mimicgen, bench_physics
from workers.generate import seeds_path
from workers.processes import usable_cores

PARTS = ("control", "engine", "scenes", "generate", "cameras", "render")
"""What is measured, in this order; every part can be left out."""

REFERENCE = {
    "states": 0.57,
    "cameras": 0.03,
    "what": "successful Stack episodes per CPU-second by MimicGen 72bd767 on one Xeon core, without and with two 84x84 "
    "cameras; measured once on another day, so a scale, not a race. --mimicgen-python runs it side by side.",
}

_CAMERAS = ("agentview", "robot0_eye_in_hand")


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """What to measure.

    Attributes:
        task: name in the catalog.
        variant: distribution of starts.
        demos: source files; empty for the shipped seeds.
        mimicgen_settings: plain MimicGen: no symmetry, no paced bridges.
        parts: of `PARTS`.
        rounds: alternations of the control path, and of the renderer's presets.
        attempts: recorded attempts the control path is measured along.
        episodes: successes generated without pictures; many, because starting is counted too.
        camera_episodes: successes generated with two cameras.
        workers: worker processes.
        seed: of all attempts.
        mimicgen_python: an interpreter that has MimicGen; see `bench_mimicgen`.
        gpu: measure the GPU road.
    """

    task: str
    variant: str = "D0"
    demos: tuple[Path, ...] = ()
    mimicgen_settings: bool = False
    parts: tuple[str, ...] = PARTS
    rounds: int = 7
    attempts: int = 3
    episodes: int = 400
    camera_episodes: int = 40
    workers: int = field(default_factory=usable_cores)
    seed: int = 2026
    mimicgen_python: Path | None = None
    gpu: bool = False

    def __post_init__(self) -> None:
        for part in self.parts:
            if part not in PARTS:
                raise SpecError(f"unknown part {part!r} of the benchmark; there are {', '.join(PARTS)}")
        if self.rounds < 1 or self.attempts < 1 or self.episodes < 1 or self.camera_episodes < 1:
            raise SpecError("rounds, attempts and episodes of the benchmark must be at least 1")
        if self.mimicgen_python is not None and len(self.demos) != 1:
            raise SpecError("--mimicgen-python needs one --demos file, prepared by MimicGen, that both can read")


def bench(request: BenchRequest, *, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Measure and return everything as JSON values; `tell` hears what is being measured.

    Raises:
        FactoryError: something asked for cannot be measured; what was measured before is lost.
    """
    task = find_task(request.task)
    settings = not request.mimicgen_settings
    spec = GenerationSpec(variant=request.variant, seed=request.seed, use_symmetry=settings, paced_bridge=settings)
    files = request.demos or (seeds_path(request.task),)
    demos = [demo for path in files for demo in read_demos(path)]
    facts: dict[str, Any] = {"task": request.task, "variant": request.variant, "machine": machine(), "ratios": {}}
    if "control" in request.parts:
        tell(f"control path along {request.attempts} attempts of {request.task}")
        measured = bench_control.measure_task(task, demos, spec, attempts=request.attempts, rounds=request.rounds)
        facts |= {"control": measured, "ratios": measured["ratios"]}
    if "engine" in request.parts:
        tell("where the time of whole attempts goes")
        facts["engine"] = bench_control.measure_engine(task, demos, spec, attempts=30)
    if "scenes" in request.parts:
        facts["scenes"] = {}
        for name in bench_control.SCENES:
            tell(f"control path in {name}")
            facts["scenes"][name] = bench_control.measure_scene(name, rounds=request.rounds)
    options = _options(request)
    if "generate" in request.parts:
        physics_us: list[float] = []

        def physics() -> None:
            tell(f"bare physics in {request.workers} processes")
            physics_us.append(
                bench_physics.mj_step_us(
                    request.task, files, spec, attempts=request.attempts, processes=request.workers
                )
            )

        physics()
        tell(f"generating {request.episodes} episodes without pictures")
        states = bench_generate.measure(
            request.task, episodes=request.episodes, workers=request.workers, options=[*options, "--cameras", ""]
        )
        physics()
        facts["generate"] = states | _against_limit(physics_us, states)
        tell("the first attempt of a short run, everything warm")
        short = bench_generate.measure(
            request.task, episodes=2, workers=request.workers, options=[*options, "--cameras", ""]
        )
        facts["generate"]["first_attempt_s"] = short["first_attempt_s"]
    if "cameras" in request.parts:
        facts["cameras"] = {}
        for preset in ("fast", "faithful"):
            tell(f"generating {request.camera_episodes} episodes with two 84x84 cameras, preset {preset}")
            drawn = [*options, "--cameras", ",".join(_CAMERAS), "--size", "84", "--preset", preset]
            facts["cameras"][preset] = bench_generate.measure(
                request.task, episodes=request.camera_episodes, workers=request.workers, options=drawn
            )
    if "render" in request.parts:
        tell("frames by preset, and encoding")
        from workers import bench_render  # noqa: PLC0415 - brings the renderer

        facts["render"] = bench_render.measure(request.task, "faithful,fast", 84, _CAMERAS, frames=60)
    if request.mimicgen_python is not None:
        tell("MimicGen's own generator")
        facts["mimicgen"] = bench_mimicgen.measure(
            request.mimicgen_python, request.task, request.demos[0], attempts=10, seed=request.seed
        )
    if request.gpu:
        tell("the GPU road")
        from workers import bench_gpu  # noqa: PLC0415 - brings Warp

        facts["gpu"] = bench_gpu.measure(request.task)
    return facts | _against_mimicgen(facts)


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    versions = {
        name: metadata.version(name) for name in ("mujoco", "robosuite", "numba", "numpy", "trajectory-factory")
    }
    return {"cpu": model, "cores": str(usable_cores()), "python": platform.python_version(), **versions}


def _options(request: BenchRequest) -> list[str]:
    options = ["--variant", request.variant, "--seed", str(request.seed)]
    for path in request.demos:
        options += ["--demos", str(path)]
    return [*options, "--mimicgen"] if request.mimicgen_settings else options


def _against_limit(physics_us: Sequence[float], made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what bare physics would allow: the same control steps by `mj_step` in as many processes, nothing else.

    `physics_us` was measured right before and right after; the limit is that of their mean.
    """
    physics_s = 1e-6 * sum(physics_us) / len(physics_us) * made["control_steps"]
    return {
        "mj_step_us_before_after": list(physics_us),
        "limit_successes_per_cpu_s": made["episodes"] / physics_s,
        "share_of_limit": physics_s / made["cpu_s"],
    }


def _against_mimicgen(facts: Mapping[str, Any]) -> dict[str, Any]:
    if facts["task"] != "stack":
        return {}
    beside = facts.get("mimicgen")
    found: dict[str, Any] = {"reference": REFERENCE if beside is None else "measured in this run"}
    if "generate" in facts:
        theirs = REFERENCE["states"] if beside is None else beside["successes_per_cpu_s"]
        found["states"] = facts["generate"]["successes_per_cpu_s"] / float(theirs)
    for preset, made in facts.get("cameras", {}).items():
        found[preset] = made["successes_per_cpu_s"] / float(REFERENCE["cameras"])
    return {"over_mimicgen": found}


def parts_without(left_out: Sequence[str]) -> tuple[str, ...]:
    """Return all parts but some.

    Raises:
        SpecError: one of them is no part.
    """
    for part in left_out:
        if part not in PARTS:
            raise SpecError(f"unknown part {part!r} of the benchmark; there are {', '.join(PARTS)}")
    return tuple(part for part in PARTS if part not in left_out)
