"""docs/adding-a-task.md, followed literally: its files are made, named, recorded from and generated with."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from factory.demos import read_demos
from factory.replay import run_attempts
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from sim_tasks import catalog
from workers.recording import record_scripted

PAGE = Path(__file__).resolve().parents[1] / "docs/adding-a-task.md"


def modules_of(page: str) -> dict[str, str]:
    """Return module name -> text, for every file that the page shows."""
    shown = re.findall(r"`(sim_tasks/\S+)\.py`\n\n```python\n(.*?)```", page, flags=re.DOTALL)
    return {path.replace("/", "."): text for path, text in shown}


@pytest.mark.sim
def test_the_page_makes_a_task_that_generates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sim_tasks.demonstrators import recording

    made: dict[str, ModuleType] = {}
    for name, text in modules_of(PAGE.read_text(encoding="utf-8")).items():
        room, _, file = name.rpartition(".")
        made[name] = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, made[name])
        monkeypatch.setattr(sys.modules[room], file, made[name], raising=False)
        exec(compile(text, f"{name} of {PAGE.name}", "exec"), vars(made[name]))  # noqa: S102 - our own page
    task = made["sim_tasks.tasks.two_arm_plank"].TASK
    monkeypatch.setattr(catalog, "TASKS", {**catalog.TASKS, task.name: task})
    script = made["sim_tasks.demonstrators.two_arm_plank"].lay
    monkeypatch.setattr(recording, "DUETS", {**recording.DUETS, task.name: script})

    seeds = tmp_path / "two_arm_plank.hdf5"
    record_scripted(task.name, seeds, count=3, seed=2026)
    from sim_tasks.backends import open_backend

    backend = open_backend(task)
    spec = GenerationSpec(variant="D0", seed=1, use_symmetry=True, paced_bridge=True)
    sources = prepare_sources(backend, task, read_demos(seeds), spec)
    assert not sources.refused
    held = [result.held for result in run_attempts(backend, task, sources.sources, spec, range(4))]
    backend.close()
    assert sum(held) >= 3
