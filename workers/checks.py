"""What is in a demonstration file, what is wrong with it, where its subtasks were cut, and whether it replays."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factory.demos import AnnotatedDemo, Demo, read_demos
from factory.errors import DemoError, FactoryError
from factory.lint import Finding, lint
from factory.segmentation import Segment, split
from factory.sim import SimBackend
from factory.specs import TaskSpec
from factory.suggestions import Suggestion, suggest
from sim_tasks.backends import open_backend
from sim_tasks.backends.isaac_poses import annotate_stored
from sim_tasks.catalog import ISAAC_TASKS, all_tasks, capability_of, find_task


@dataclass(frozen=True, kw_only=True)
class DemoCheck:
    """What was found in one demo.

    Attributes:
        name: the demo's key.
        steps: number of actions.
        success_by_state: the last stored state is a success; None when states could not be read.
        success_by_replay: playing the actions open loop ends in success; None when it could not be tried.
        segments: end effector -> cuts; empty when the demo cannot be cut.
        findings: what is suspicious.
        problem: why the demo cannot be used as a source; empty when it can.
        timeline: what a picture of the demo shows over its steps; empty when its states could not be read.
    """

    name: str
    steps: int
    success_by_state: bool | None
    success_by_replay: bool | None
    segments: dict[str, tuple[Segment, ...]]
    findings: tuple[Finding, ...]
    problem: str
    timeline: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FileCheck:
    """What was found in a file; `task` is empty when no task matches its environment.

    With several arms, `suggestions` are the constraints between them that the demos suggest.
    """

    path: str
    format: str
    environment: str
    task: str
    demos: tuple[DemoCheck, ...]
    suggestions: tuple[Suggestion, ...] = ()

    @property
    def usable(self) -> int:
        """How many demos can be sources."""
        return sum(not demo.problem for demo in self.demos)


def check_file(path: Path, *, task_name: str | None = None, method: str = "stored", replay: bool = True) -> FileCheck:
    """Read a file and look at every demo in it.

    Args:
        path: the file.
        task_name: which task it shows; None looks for the task whose environments include the file's.
        method: how to cut, see `specs.GenerationSpec.segmentation`.
        replay: also play the actions in the simulator.

    Raises:
        DemoError: the file cannot be read; the sentence says what and where.
        SpecError: the named task does not exist.
    """
    return check_demos(read_demos(path), path=str(path), task_name=task_name, method=method, replay=replay)


def check_demos(
    demos: Sequence[Demo], *, path: str, task_name: str | None = None, method: str = "stored", replay: bool = True
) -> FileCheck:
    """Look at every demo of a file that has been read; arguments and errors are those of `check_file`."""
    task = find_task(task_name) if task_name else match_task(demos)
    if task is None:
        plain = tuple(_unmatched(demo) for demo in demos)
        return FileCheck(path=path, format=demos[0].format, environment=demos[0].environment, task="", demos=plain)
    backend = _backend_of(task)
    cut: list[tuple[AnnotatedDemo, Mapping[str, tuple[Segment, ...]]]] = []
    try:
        checks = tuple(_check(demo, task, backend, method=method, replay=replay, cut=cut) for demo in demos)
    finally:
        if backend is not None:
            backend.close()
    return FileCheck(
        path=path,
        format=demos[0].format,
        environment=demos[0].environment,
        task=task.name,
        demos=checks,
        suggestions=suggest(task, cut),
    )


def report_on(demos: Sequence[Demo], task_name: str | None) -> dict[str, Any]:
    """Return what the service keeps of a check, JSON: "task", "usable", "problem" and "report".

    The report names the subtasks beside their cuts and carries what is needed to draw a timeline of each demo.
    """
    check = check_demos(demos, path=demos[0].path, task_name=task_name, replay=False)
    problems = [demo.problem for demo in check.demos if demo.problem]
    report = {
        "format": check.format,
        "environment": check.environment,
        "task": check.task or None,
        "usable": check.usable,
        "demos": [_demo_report(demo, find_task(check.task) if check.task else None) for demo in check.demos],
    }
    return {"task": check.task, "usable": check.usable, "problem": problems[0] if problems else "", "report": report}


def _demo_report(demo: DemoCheck, task: TaskSpec | None) -> dict[str, Any]:
    return {
        "name": demo.name,
        "steps": demo.steps,
        "success_by_state": demo.success_by_state,
        "success_by_replay": demo.success_by_replay,
        "problem": demo.problem,
        "segments": {
            eef: [
                {
                    "name": sub.name,
                    "start": s.start,
                    "stop": s.stop,
                    "confidence": s.confidence,
                    "origin": s.origin,
                }
                for s, sub in zip(cuts, task.subtasks[eef] if task else (), strict=True)
            ]
            for eef, cuts in demo.segments.items()
        },
        "findings": [
            {"severity": f.severity, "code": f.code, "subtask": f.subtask, "step": f.step, "message": f.message}
            for f in demo.findings
        ],
        "timeline": dict(demo.timeline),
    }


_POINTS = 200
"""Values kept of each curve of a timeline: a picture is not wider than that many steps of the eye."""


def timeline_of(demo: AnnotatedDemo, task: TaskSpec) -> dict[str, Any]:
    """Return curves over a demo's steps, evenly thinned (gripper command, hand height), and when signals are true."""
    signals: dict[str, list[list[int]]] = {}
    for name, predicate in task.signals.items():
        if name in demo.signals:
            truth = np.asarray(demo.signals[name], bool)
        elif demo.scene is not None:
            truth = np.asarray(predicate(demo.scene), bool)[: len(demo)]
        else:
            continue
        edges = np.flatnonzero(np.diff(np.concatenate([[False], truth, [False]]).astype(int)))
        signals[name] = edges.reshape(-1, 2).tolist()
    return {
        "gripper": {eef: _thinned(values[:, 0]) for eef, values in demo.gripper.items()},
        "height_m": {eef: _thinned(T[:, 2, 3]) for eef, T in demo.T_world_eef.items()},
        "signals": signals,
    }


def _thinned(values: NDArray[np.float64]) -> list[float]:
    rows = np.unique(np.linspace(0, len(values) - 1, min(len(values), _POINTS)).round().astype(int))
    return [round(float(v), 4) for v in values[rows]]


def _backend_of(task: TaskSpec) -> SimBackend | None:
    """Open a task's simulator; None for a task of Isaac Lab's where that is not installed."""
    if capability_of(task) != "isaac":
        return open_backend(task)
    here = ":" in task.scene.base or importlib.util.find_spec("isaaclab") is not None
    return open_backend(task, name="isaaclab") if here else None


def match_task(demos: Sequence[Demo]) -> TaskSpec | None:
    """Return the task that knows the demos' environment by name, or None."""
    name = demos[0].environment
    for task in (*all_tasks().values(), *ISAAC_TASKS.values()):
        if name == task.name or name in task.environments:
            return task
    return None


def _check(
    demo: Demo,
    task: TaskSpec,
    backend: SimBackend | None,
    *,
    method: str,
    replay: bool,
    cut: list[tuple[AnnotatedDemo, Mapping[str, tuple[Segment, ...]]]],
) -> DemoCheck:
    """Look at one demo; one that could be cut is added to `cut`."""
    try:
        annotated = annotate_stored(demo, task) if backend is None else backend.annotate(demo)
    except DemoError as error:
        return _unusable(demo, str(error))
    segments: dict[str, tuple[Segment, ...]] = {}
    problem = ""
    try:
        segments = dict(split(annotated, task, method))  # type: ignore[arg-type]
        cut.append((annotated, segments))
    except DemoError as error:
        problem = str(error)
    return DemoCheck(
        name=demo.name,
        steps=len(demo),
        success_by_state=annotated.success,
        success_by_replay=(
            _replays(demo, task, backend) if backend is not None and replay and len(demo.states) else None
        ),
        segments=segments,
        findings=lint(annotated, task, segments or None),
        problem=problem,
        timeline=timeline_of(annotated, task),
    )


def _replays(demo: Demo, task: TaskSpec, backend: SimBackend) -> bool | None:
    try:
        backend.reset_to(0, demo)
    except FactoryError:
        return None
    result = backend.play(0, np.asarray(demo.actions, np.float32))
    ended = np.asarray(task.success(result.scene), bool)
    return bool(result.stable and len(ended) and ended[-1])


def _unusable(demo: Demo, problem: str) -> DemoCheck:
    return DemoCheck(
        name=demo.name,
        steps=len(demo),
        success_by_state=None,
        success_by_replay=None,
        segments={},
        findings=(),
        problem=problem,
    )


def _unmatched(demo: Demo) -> DemoCheck:
    known = ", ".join(sorted(all_tasks()))
    return _unusable(demo, f"no task here is environment {demo.environment!r}; name one with --task ({known})")
