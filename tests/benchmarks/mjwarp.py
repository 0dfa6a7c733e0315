"""Measures what can be known of the mjwarp backend without a GPU: agreement with the CPU road, and the host's share.

    python -m tests.benchmarks.mjwarp [stack|lift|square ...] [--attempts 64] [--worlds 16]
    python -m tests.benchmarks.mjwarp --room     # most contacts and constraint rows along each task's demonstrations

Attempts run on Warp's CPU device, which computes what the GPU computes, in the same precision, one world after the
other. Times are CPU time. Each task replaces its own entry in docs/benchmarks/mjwarp.json.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from workers.processes import single_threaded

RESULTS = Path("docs/benchmarks/mjwarp.json")


def main() -> None:
    """Measure some tasks."""
    single_threaded()
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", nargs="*", default=["lift", "stack", "square"])
    parser.add_argument("--attempts", type=int, default=64)
    parser.add_argument("--worlds", type=int, default=16)
    parser.add_argument("--seed", type=int, default=2026)
    parser.add_argument("--room", action="store_true")
    asked = parser.parse_args()
    if asked.room:
        _keep("room", room())
        return
    for name in asked.tasks:
        _keep(name, measure(name, attempts=asked.attempts, worlds=asked.worlds, seed=asked.seed))


def _keep(name: str, entry: dict[str, Any]) -> None:
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    known[name] = entry
    RESULTS.write_text(json.dumps(known, indent=1) + "\n")
    print(name, json.dumps(entry), flush=True)


def room() -> dict[str, Any]:
    """Return, for every task, how full its scene gets at the states of its shipped demonstrations."""
    import mujoco

    from factory.demos import read_demos
    from sim_tasks.backends.robosuite import RobosuiteBackend
    from sim_tasks.catalog import TASKS
    from workers.generate import seeds_path

    most: dict[str, Any] = {}
    for name, task in TASKS.items():
        if not seeds_path(name).exists():
            continue
        backend = RobosuiteBackend(task, control_mode="exact")
        model, data = backend._model, backend._data
        contacts = rows = 0
        for demo in read_demos(seeds_path(name)):
            backend.reset_to(0, demo)
            for state in demo.states:
                data.qpos[:], data.qvel[:] = state[1 : 1 + model.nq], state[1 + model.nq :]
                mujoco.mj_fwdPosition(model, data)
                contacts, rows = max(contacts, data.ncon), max(rows, data.nefc)
        most[name] = {"contacts": contacts, "constraint rows": rows}
        backend.close()
    return most


def measure(name: str, *, attempts: int, worlds: int, seed: int) -> dict[str, Any]:
    """Run the same attempts on both roads, and every episode of the one again on the other."""
    from factory.demos import read_demos
    from factory.recording import episode_of
    from factory.replay import run_attempts
    from factory.sim import Hold
    from factory.sources import prepare_sources
    from factory.specs import GenerationSpec
    from factory.statistics import wilson
    from sim_tasks.backends import open_backend
    from sim_tasks.backends.mjwarp.backend import MjwarpBackend
    from sim_tasks.backends.mjwarp.cpu_check import verify_on_cpu
    from sim_tasks.catalog import find_task
    from workers.generate import seeds_path

    task, demos = find_task(name), read_demos(seeds_path(name))
    spec = GenerationSpec(seed=seed, use_symmetry=True, paced_bridge=True)
    backend, cpu = MjwarpBackend(task, num_envs=worlds, device="cpu"), open_backend(task)
    sources = prepare_sources(backend, task, demos, spec).sources
    backend.reset_to(0, demos[0])
    backend.advance({0: {eef: Hold(steps=1) for eef in task.robot.eefs}})  # compiles and captures

    on_device, run = 0.0, backend._worlds.run

    def timed(plan: Any) -> Any:
        nonlocal on_device
        began = time.process_time()
        ran = run(plan)
        on_device += time.process_time() - began
        return ran

    backend._worlds.run = timed
    used, spent, began = backend.world_steps, backend.device_steps, time.process_time()
    results = list(run_attempts(backend, task, sources, spec, range(attempts)))
    host = time.process_time() - began - on_device
    steps = backend.world_steps - used
    episodes = [episode_of(r, task, spec, backend.describe()) for r in results if r.held]
    agreement = verify_on_cpu(episodes, cpu, share=1.0) if episodes else None
    began = time.process_time()
    there = [r.held for r in run_attempts(cpu, task, sources, spec, range(attempts))]
    cpu_road = time.process_time() - began
    began = time.process_time()
    for _ in range(32):
        backend.reset_to(0, demos[0])
    reset = (time.process_time() - began) / 32
    entry = {
        "attempts": attempts,
        "worlds": worlds,
        "seed": seed,
        "held": wilson(len(episodes), attempts),
        "held on the CPU road": wilson(sum(there), attempts),
        "run again on the CPU": agreement.summary() if agreement else None,
        "stopped worlds": dict(backend.losses),
        "control steps per attempt": steps / attempts,
        "lock step share": steps / (backend.device_steps - spent),
        "host CPU ms per attempt": 1e3 * host / attempts,
        "of which a reset, ms": 1e3 * reset,
        "host CPU us per control step": 1e6 * host / steps,
        "CPU road, CPU ms per attempt": 1e3 * cpu_road / attempts,
        "Warp CPU device, CPU ms per attempt": 1e3 * on_device / attempts,
    }
    backend.close()
    cpu.close()
    return entry


if __name__ == "__main__":
    main()
