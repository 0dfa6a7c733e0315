"""The long form of the laws of two arms, without physics; also draws the picture of `docs/two-arms.md`.

    python -m tests.benchmarks.two_arms --attempts 40
    python -m tests.benchmarks.two_arms --picture docs/images/two-arms.svg

Prints, for each setting, how many attempts succeed, how far the hands' targets ever are from the pose to each other
that they have in the source, and whether ending early changes a result. These boxes have no dynamics: the counts show
that settings do what they say, not how well a robot would do.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np

from factory import poses
from factory.replay import AttemptResult, run_attempts
from factory.selection import SourceSet
from factory.sources import prepare_sources
from factory.specs import GenerationSpec
from sim_tasks.backends.kinematic import KinematicBackend
from tests import two_arms
from tests.two_arms import TASK

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "as the task says": {},
    "scheme translate": {"coordination": "translate"},
    "scheme replay": {"coordination": "replay"},
    "no noise on the shared transform": {"coordination_noise": 0.0},
    "each arm alone": {"coordination": "off"},
    "each arm alone, from a demo of its own": {"coordination": "off", "select_per": "arm"},
    "no order": {"ordering": "off"},
    "a source for each arm": {"select_per": "arm"},
    "a source for each subtask": {"select_per": "subtask"},
    "variant D1": {"variant": "D1"},
    "variant D1, action noise 0.35": {"variant": "D1", "noise_normalised": 0.35},
    "untransformed": {"untransformed": True},
}

_WIDE, _ROW, _LEFT, _TOP = 760, 34, 64, 26
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756")


def main() -> None:
    """Measure, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attempts", type=int, default=40)
    parser.add_argument("--picture", type=Path, default=None)
    asked = parser.parse_args()
    demos = two_arms.demos(4)
    if asked.picture is not None:
        results, _ = run(demos, 1, {})
        asked.picture.write_text(picture(results[0]))
        return
    print("| setting | succeed | hands off by at most | ended early, other result |")
    print("|---|---|---|---|")
    for name, settings in SETTINGS.items():
        whole, sources = run(demos, asked.attempts, {**settings, "early_ending": False})
        ended, _ = run(demos, asked.attempts, settings)
        off = max((deviation(result, sources) for result in whole), default=0.0)
        other = sum((a.held, said(a)) != (b.held, said(b)) for a, b in zip(whole, ended, strict=True))
        early = sum(result.steps_saved > 0 for result in ended)
        share = f"{sum(r.held for r in whole)} of {len(whole)}"
        print(f"| {name} | {share} | {off:.1e} | {early}, {other} |")


def run(demos, attempts: int, settings: Mapping[str, object]) -> tuple[list[AttemptResult], SourceSet]:
    """Run the first attempts of seed 2026 with some settings changed."""
    spec = GenerationSpec(**{"seed": 2026, "paced_bridge": True, **settings})  # type: ignore[arg-type]
    backend = KinematicBackend(TASK)
    sources = prepare_sources(backend, TASK, demos, spec).sources
    return list(run_attempts(backend, TASK, sources, spec, range(attempts))), sources


def said(result: AttemptResult) -> tuple[str, str, str] | None:
    """Return what a failure is called."""
    return None if result.failure is None else (result.failure.eef, result.failure.subtask, result.failure.reason)


def deviation(result: AttemptResult, sources: SourceSet) -> float:
    """Return the largest entry by which the hands' poses to each other differ from the source's, while they are one."""
    worst = 0.0
    for use in result.constraints:
        if use.kind != "coordination" or use.together_step is None:
            continue
        pieces = [
            next(u for u in result.sources if u.eef == eef and TASK.subtasks[eef][u.subtask].name == name)
            for eef, name in use.subtasks.items()
        ]
        first, stop = max(p.start for p in pieces), pieces[0].stop
        right, left = use.subtasks
        source = sources[pieces[0].demo].demo.T_world_eef_target
        # A failed attempt may have been cut in the middle.
        n = min(stop - first, len(result) - use.together_step)
        now = slice(use.together_step, use.together_step + n)
        made = poses.inverse(result.T_world_eef_target[right][now]) @ result.T_world_eef_target[left][now]
        shown = poses.inverse(source[right][first : first + n]) @ source[left][first : first + n]
        worst = max(worst, float(np.abs(made - shown).max(initial=0.0)))
    return worst


def picture(result: AttemptResult) -> str:
    """Return an SVG: for each arm, over the steps of an attempt, its subtasks, and where it waits."""
    scale = (_WIDE - _LEFT - 10) / len(result)
    names = list(dict.fromkeys(s.name for chain in TASK.subtasks.values() for s in chain))
    parts: list[str] = []
    for row, (eef, numbers) in enumerate(result.subtask.items()):
        y = _TOP + row * (_ROW + 10)
        parts.append(f'<text x="8" y="{y + 22}">{eef}</text>')
        label = numbers * 2 + result.waiting[eef]
        edges = [0, *(np.flatnonzero(np.diff(label)) + 1).tolist(), len(label)]
        for a, b in pairwise(edges):
            name, waits = TASK.subtasks[eef][int(numbers[a])].name, bool(result.waiting[eef][a])
            fill = "#ddd" if waits else _COLOURS[names.index(name)]
            x, wide = _LEFT + a * scale, (b - a) * scale
            parts.append(f'<rect x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{_ROW}" fill="{fill}"/>')
            ink = "#333" if waits else "#fff"
            parts.append(
                f'<text x="{x + wide / 2:.1f}" y="{y + 22}" text-anchor="middle" fill="{ink}">'
                f"{'waits' if waits else name}</text>"
            )
    low = _TOP + 2 * (_ROW + 10)
    for use in result.constraints:
        step = use.first_step if use.together_step is None else use.together_step
        x = _LEFT + step * scale
        text = "left has put a down: right begins" if use.kind == "ordering" else "as one from here"
        parts.append(f'<line x1="{x:.1f}" y1="{_TOP - 6}" x2="{x:.1f}" y2="{low}" stroke="#000" stroke-dasharray="3"/>')
        parts.append(f'<text x="{x:.1f}" y="{_TOP - 10}" text-anchor="middle">{text}</text>')
    parts.append(f'<text x="{_LEFT}" y="{low + 14}">0</text>')
    parts.append(f'<text x="{_WIDE - 10}" y="{low + 14}" text-anchor="end">{len(result)} control steps</text>')
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {low + 22}" font-family="sans-serif" '
        f'font-size="13">\n<rect width="{_WIDE}" height="{low + 22}" fill="#fff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
