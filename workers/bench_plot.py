"""The benchmark as a picture: horizontal bars, one SVG file that opens in any browser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _RIGHT, _ROW, _HEAD = 760, 250, 140, 24, 34
_COLOURS = {"mj_step": "#9aa5b1", "compiled": "#2f6f8f", "exact": "#b0813f", "robosuite": "#8f4b3f"}
_PLAIN = "#2f6f8f"


def picture(facts: Mapping[str, Any]) -> str:
    """Return an SVG document: cost of a control step by scene and way, and episodes per CPU-second."""
    groups: list[tuple[str, list[tuple[str, float, str, str]]]] = []
    measured = {facts["task"]: facts["control"]} if "control" in facts else {}
    for name, control in (measured | facts.get("scenes", {})).items():
        cost = control["cpu_us_per_control_step"]
        bars: list[tuple[str, float, str, str]] = []
        for way, colour in _COLOURS.items():
            if way in cost:
                # Ratios are medians of ratios within a round, not ratios of the medians drawn.
                ratio = control["ratios"].get(f"{way}_to_mj_step")
                times = f", {ratio['median']:.2f} x mj_step" if ratio else ""
                bars.append((way, cost[way]["median"], f"{cost[way]['median']:.0f} us{times}", colour))
        groups.append((f"{name}: CPU time of a control step", bars))
    runs = {"states only": facts["generate"]} if "generate" in facts else {}
    runs |= {f"two cameras, {preset}": made for preset, made in facts.get("cameras", {}).items()}
    rates = [
        (name, made["successes_per_cpu_s"], f"{made['successes_per_cpu_s']:.2f}", _PLAIN) for name, made in runs.items()
    ]
    if "generate" in facts and "limit_successes_per_cpu_s" in facts["generate"]:
        limit = facts["generate"]["limit_successes_per_cpu_s"]
        rates.insert(0, ("bare mj_step would allow", limit, f"{limit:.2f}", _COLOURS["mj_step"]))
    if rates:
        groups.append((f"{facts['task']}: successful episodes per CPU-second, all in", rates))
    return _svg(groups)


def _svg(groups: Sequence[tuple[str, Sequence[tuple[str, float, str, str]]]]) -> str:
    height = sum(_HEAD + _ROW * len(bars) for _, bars in groups) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}">',
        "<style>text { font: 13px sans-serif; fill: #1f2933 }</style>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    y = 10.0
    for title, bars in groups:
        parts.append(f'<text x="12" y="{y + 20:.0f}" font-weight="bold">{escape(title)}</text>')
        y += _HEAD
        most = max(value for _, value, _, _ in bars)
        for name, value, label, colour in bars:
            width = (_WIDTH - _LEFT - _RIGHT) * value / most
            parts += [
                f'<text x="{_LEFT - 8}" y="{y + 14:.0f}" text-anchor="end">{escape(name)}</text>',
                f'<rect x="{_LEFT}" y="{y + 2:.0f}" width="{width:.1f}" height="{_ROW - 8}" fill="{colour}"/>',
                f'<text x="{_LEFT + width + 6:.1f}" y="{y + 14:.0f}">{escape(label)}</text>',
            ]
            y += _ROW
    return "\n".join([*parts, "</svg>\n"])
