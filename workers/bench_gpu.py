"""Measures the GPU road on this machine: attempts in lock step, frames, and what the CPU road does on the same cores.

Throughput is counted in wall time, because a GPU's work is not CPU time: run it on an otherwise idle machine. Opening
backends, compiling kernels and capturing graphs are not counted; a service pays them once.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any

from api.specs import RUN_AGAIN
from factory.demos import read_demos
from factory.errors import BackendError
from factory.recording import episode_of
from factory.replay import run_attempts
from factory.sim import Hold
from factory.sources import prepare_sources
from factory.specs import GenerationSpec, RenderSpec
from sim_tasks.backends import open_backend
from sim_tasks.catalog import find_task
from workers.generate import seeds_path
from workers.processes import single_threaded, usable_cores

if TYPE_CHECKING:
    from factory.episodes import Episode

NO_CUDA = "unmeasured: no CUDA device"
NOT_INSTALLED = "unmeasured: trajectory-factory[sim,gpu] is not installed"

PRESETS = ("faithful", "fast")
FRAMES = 400
"""Pictures drawn per preset: enough for seconds on a GPU, where one takes milliseconds."""

_START_LIMIT_S = 600.0

CPU_ATTEMPTS = 12
"""Attempts per process of the scaling measurement: some ten seconds each."""


def measure(
    task: str,
    worlds: int = 4096,
    *,
    rounds: int = 3,
    seed: int = 2026,
    cores: int = 16,
    device: str | None = None,
    frames: int = FRAMES,
    cpu_attempts: int = CPU_ATTEMPTS,
) -> dict[str, Any]:
    """Return what this machine's GPU does with a task, JSON-ready; without a CUDA device it says so and does nothing.

    Args:
        task: name in the catalog; its shipped seeds are the sources.
        worlds: environments on the device.
        rounds: attempts per world, on average.
        seed: of the attempts.
        cores: most processes of the CPU road to scale to; never more than the machine has.
        device: Warp's name of a device; None means the first CUDA device, "cpu" measures Warp's CPU device instead.
        frames: pictures drawn per preset.
        cpu_attempts: attempts of each process of the CPU road.

    Raises:
        SpecError: no such task.
    """
    find_task(task)
    facts: dict[str, Any] = {"task": task, "worlds": worlds, "seed": seed, "cores": usable_cores()}
    try:
        import warp  # noqa: PLC0415 - an extra; without it there is nothing to measure
    except ImportError:
        return {**facts, "status": NOT_INSTALLED}
    if device is None and not warp.is_cuda_available():
        return {**facts, "status": NO_CUDA}
    attempts, episodes = measure_attempts(task, worlds, count=rounds * worlds, seed=seed, device=device)
    return {
        **facts,
        "status": "measured",
        "attempts": attempts,
        "frames_per_s": measure_frames(task, episodes[0], frames) if episodes else "unmeasured: no episode to draw",
        "cpu_road": measure_cpu_road(task, seed=seed, most=min(cores, usable_cores()), attempts=cpu_attempts),
    }


def measure_attempts(
    task_name: str, worlds: int, *, count: int, seed: int, device: str | None = None
) -> tuple[dict[str, Any], list[Episode]]:
    """Run attempts in lock step, and a share of the episodes again on the CPU; returns figures and the episodes."""
    from sim_tasks.backends.mjwarp.backend import MjwarpBackend  # noqa: PLC0415 - brings the simulator
    from sim_tasks.backends.mjwarp.cpu_check import verify_on_cpu  # noqa: PLC0415

    task, spec = find_task(task_name), _generation(seed)
    backend = MjwarpBackend(task, num_envs=worlds, device=device)
    cpu = open_backend(task)
    try:
        sources = prepare_sources(backend, task, read_demos(seeds_path(task_name)), spec).sources
        backend.reset_to(0, read_demos(seeds_path(task_name))[0])
        backend.advance({0: {eef: Hold(steps=1) for eef in task.robot.eefs}})  # compiles and captures
        before = (backend.world_steps, backend.device_steps, backend.simulator_seconds)
        executor, episodes, failures = backend.describe(), [], 0
        began = time.perf_counter()
        for result in run_attempts(backend, task, sources, spec, range(count)):
            failures += not result.held
            if result.held:
                episodes.append(episode_of(result, task, spec, executor))
        wall = time.perf_counter() - began
        used, spent = backend.world_steps - before[0], backend.device_steps - before[1]
        on_device = backend.simulator_seconds - before[2]
        agreement = verify_on_cpu(episodes, cpu, share=RUN_AGAIN)
    finally:
        backend.close()
        cpu.close()
    figures = {
        "device": executor["device"],
        "versions": {name: executor[name] for name in ("mujoco", "mujoco-warp", "warp-lang", "robosuite")},
        "attempts": count,
        "successes": len(episodes),
        "wall_s": wall,
        "attempts_per_s": count / wall,
        "successes_per_s": len(episodes) / wall,
        "control_steps_per_s": used / wall,
        "lock_step_share": used / max(1, spent),
        "simulator_share": on_device / wall,
        "stopped_worlds": dict(backend.losses),
        "run_again_on_cpu": agreement.summary(),
    }
    return figures, episodes


def measure_frames(task_name: str, episode: Episode, frames: int) -> dict[str, float | str]:
    """Return pictures a second by preset, one camera's 256 x 256 image each, drawn from an episode's states.

    "drawn_with" names the OpenGL platform and what it draws with: a rate of llvmpipe says nothing of a GPU.
    """
    from sim_tasks.backends import opengl  # noqa: PLC0415 - brings OpenGL
    from workers.render import open_renderer  # noqa: PLC0415 - brings the simulator

    rates: dict[str, float | str] = {}
    for preset in PRESETS:
        try:
            renderer = open_renderer(task_name, RenderSpec(preset=preset))
        except BackendError as error:
            rates[preset] = f"unmeasured: {error}"
            continue
        with renderer:
            overrides = episode.start.overrides if episode.start else {}
            drawn, began = 0, time.perf_counter()
            while drawn < frames:
                for images in renderer.frames(episode.sim_states, overrides, visual_stream=None):
                    drawn += len(images)
                    if drawn >= frames:
                        break
            rates[preset] = drawn / (time.perf_counter() - began)
            rates["drawn_with"] = f"{opengl.platform_name()}: {opengl.device_name()}"
    return rates


def measure_cpu_road(task: str, *, seed: int, most: int, attempts: int = CPU_ATTEMPTS) -> dict[str, dict[str, float]]:
    """Return what 1, 2, 4, ... processes of the CPU road do together, each on its own part of the attempts.

    "of_linear" is the rate divided by as many times that of one process.
    """
    counts = [1 << power for power in range(max(1, most).bit_length()) if 1 << power <= max(1, most)]
    rates = {count: _cpu_rates(task, seed, count, attempts) for count in counts}
    alone = rates[1]["attempts_per_s"]
    return {str(n): {**found, "of_linear": found["attempts_per_s"] / (n * alone)} for n, found in rates.items()}


def _cpu_rates(task: str, seed: int, processes: int, attempts: int) -> dict[str, float]:
    single_threaded()
    context = multiprocessing.get_context("spawn")
    together, results = context.Barrier(processes), context.Queue()
    children = [
        context.Process(target=_cpu_child, args=(task, seed, number, attempts, together, results))
        for number in range(processes)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join()
    if any(child.exitcode for child in children):
        raise BackendError(f"of {processes} processes of the CPU road some died: {[c.exitcode for c in children]}")
    walls, held = zip(*(results.get() for _ in children), strict=True)
    return {"attempts_per_s": processes * attempts / max(walls), "successes_per_s": sum(held) / max(walls)}


def _cpu_child(task_name: str, seed: int, number: int, attempts: int, together: Any, results: Any) -> None:
    task, spec = find_task(task_name), _generation(seed)
    backend = open_backend(task)
    sources = prepare_sources(backend, task, read_demos(seeds_path(task_name)), spec).sources
    indices = range(number * (attempts + 1), (number + 1) * (attempts + 1))
    list(run_attempts(backend, task, sources, spec, indices[:1]))  # compiles
    together.wait(_START_LIMIT_S)  # breaks, and ends all children, when one of them died on the way
    began = time.perf_counter()
    held = sum(result.held for result in run_attempts(backend, task, sources, spec, indices[1:]))
    results.put((time.perf_counter() - began, held))
    backend.close()


def _generation(seed: int) -> GenerationSpec:
    """What `factory generate` does by default."""
    return GenerationSpec(seed=seed, use_symmetry=True, paced_bridge=True)
