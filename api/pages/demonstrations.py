"""What the dashboard says about an uploaded file: its demos, what is suspicious, and where each is cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from api.pages import curves, words
from api.tables import File


def overview(file: File) -> dict[str, Any]:
    """Return what a list says about a file."""
    report = file.report or {}
    demos = report.get("demos", [])
    return {
        "id": file.id,
        "name": file.name,
        "status": file.status,
        "task": file.task or report.get("task"),
        "bytes": file.bytes,
        "created_at": file.created_at,
        "demos": len(demos) or len(file.structure.get("demos", [])),
        "usable": report.get("usable"),
        "findings": sum(f["severity"] != "note" for demo in demos for f in demo["findings"]),
        "edited": sum(1 for arms in file.cuts.values() if arms),
    }


def demos(file: File) -> list[dict[str, Any]]:
    """Return one line for each demo, all on one scale of steps, so that an unusual one is seen at once."""
    found = (file.report or {}).get("demos", [])
    longest = max((demo["steps"] for demo in found), default=1)
    return [
        {
            "name": demo["name"],
            "steps": demo["steps"],
            "problem": demo["problem"],
            "success": _success(demo),
            "worst": _worst(demo),
            "findings": sum(f["severity"] != "note" for f in demo["findings"]),
            "edited": bool(file.cuts.get(demo["name"])),
            "arms": {eef: _strip(demo, eef, file, longest) for eef in demo["segments"]},
        }
        for demo in found
    ]


def chosen(file: File, name: str) -> dict[str, Any] | None:
    """Return what is needed to look at one demo and to cut it anew; the first one that needs a look by default."""
    found = (file.report or {}).get("demos", [])
    if not found:
        return None
    suspicious = next((demo for demo in found if _worst(demo) in ("error", "warning") and demo["segments"]), None)
    cut = next((demo for demo in found if demo["segments"]), found[0])
    demo = next((demo for demo in found if demo["name"] == name), suspicious or cut)
    steps = demo["steps"]
    timeline = demo.get("timeline") or {}
    return {
        **demo,
        "success": _success(demo),
        "arms": {
            eef: {
                "segments": _segments(demo, eef, file),
                "bounds": _bounds(demo, eef, file),
                "edited": eef in file.cuts.get(demo["name"], {}),
                "gripper": curves.trace(timeline.get("gripper", {}).get(eef, []), low=-1.15, high=1.15),
                "height": curves.trace(timeline.get("height_m", {}).get(eef, [])),
                "height_range": _range(timeline.get("height_m", {}).get(eef, [])),
            }
            for eef in demo["segments"]
        },
        "signals": {
            name: [(round(100 * on / steps, 3), round(100 * (off - on) / steps, 3), on, off) for on, off in spans]
            for name, spans in timeline.get("signals", {}).items()
        },
        "findings": [{**f, "kind": words.SEVERITIES.get(f["severity"], "off")} for f in demo["findings"]],
    }


def cuts_from_form(file: File, demo: str, form: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the boundaries a form gives for one demo, by end effector: fields named "<eef>:<number>".

    Values that are no whole numbers are left for the service to refuse, as text.
    """
    arms: dict[str, list[Any]] = {}
    known = next((d for d in (file.report or {}).get("demos", []) if d["name"] == demo), {"segments": {}})
    for eef, segments in known["segments"].items():
        given = [str(form.get(f"{eef}:{i}", "")).strip() for i in range(len(segments) - 1)]
        arms[eef] = [int(text) if text.lstrip("-").isdigit() else text for text in given]
    return arms


def _segments(demo: Mapping[str, Any], eef: str, file: File) -> list[dict[str, Any]]:
    steps = demo["steps"]
    stops = [*stops_of(demo, eef, file.cuts), steps]
    starts = [0, *stops]
    return [
        {
            "name": segment["name"],
            "start": start,
            "stop": stop,
            "x": round(100 * start / steps, 3),
            "width": round(100 * (stop - start) / steps, 3),
            "confidence": segment["confidence"],
            "origin": segment["origin"],
        }
        for segment, start, stop in zip(demo["segments"][eef], starts, stops, strict=False)
    ]


def _bounds(demo: Mapping[str, Any], eef: str, file: File) -> list[dict[str, Any]]:
    """Return the boundaries between subtasks: where they are, and where the automatic cut put them."""
    segments = demo["segments"][eef]
    stops = stops_of(demo, eef, file.cuts)
    steps = demo["steps"]
    return [
        {
            "number": i,
            "at": stop,
            "x": round(100 * stop / steps, 3),
            "was": segments[i]["stop"],
            "was_x": round(100 * segments[i]["stop"] / steps, 3),
            "name": segments[i]["name"],
            "next": segments[i + 1]["name"],
            "origin": "set by hand" if eef in file.cuts.get(demo["name"], {}) else _origin(segments[i]),
        }
        for i, stop in enumerate(stops)
    ]


def stops_of(demo: Mapping[str, Any], eef: str, cuts: Mapping[str, Any]) -> Sequence[int]:
    """Return where an arm's subtasks stop, the demo's end excluded: as a person set it, or else as it was cut."""
    return cuts.get(demo["name"], {}).get(eef) or [segment["stop"] for segment in demo["segments"][eef][:-1]]


def _strip(demo: Mapping[str, Any], eef: str, file: File, longest: int) -> list[tuple[float, float, str]]:
    share = demo["steps"] / longest
    return [(round(s["x"] * share, 3), round(s["width"] * share, 3), s["name"]) for s in _segments(demo, eef, file)]


def _origin(segment: Mapping[str, Any]) -> str:
    names = {"stored": "from the file's signal", "predicate": "from the task's predicate"}
    if segment["origin"] in names:
        return names[segment["origin"]]
    return f"found automatically, confidence {segment['confidence']:.2f}"


def _success(demo: Mapping[str, Any]) -> bool | None:
    return demo["success_by_replay"] if demo["success_by_state"] is None else demo["success_by_state"]


def _worst(demo: Mapping[str, Any]) -> str:
    found = {finding["severity"] for finding in demo["findings"]}
    if demo["problem"]:
        return "error"
    return next((severity for severity in ("error", "warning", "note") if severity in found), "")


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f} m" if values else ""
