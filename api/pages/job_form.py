"""The form that asks for a job: from what somebody typed to a request, and from a request back to the form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.datastructures import FormData

CAMERAS = ("agentview", "robot0_eye_in_hand", "frontview", "sideview", "birdview", "robot0_robotview")
"""Cameras of robosuite's scenes; others can be asked for through the API."""
SIZES = (128, 192, 256, 384, 512)

BLANK: Mapping[str, Any] = {
    "name": "",
    "task": "stack",
    "variant": "D0",
    "robot": "",
    "files": (),
    "goal": "episodes",
    "count": "50",
    "seed": "0",
    "max_attempts": "",
    "max_wall_s": "",
    "min_success_percent": "",
    "min_success_after": "100",
    "pictures": True,
    "cameras": (),
    "size": "256",
    "preset": "faithful",
    "codec": "h264",
    "visual_seed": "",
    "gr00t": False,
    "robomimic": False,
    "keep_failed": False,
    "priority": "normal",
}
"""The form as it is first seen."""

_LISTS = ("files", "cameras")
_FORMS = ("gr00t", "robomimic")
_SWITCHES = ("pictures", *_FORMS, "keep_failed")


def typed(form: FormData) -> dict[str, Any]:
    """Return what a submitted form holds, so that it can be shown again as it was."""
    values: dict[str, Any] = {name: str(form.get(name, default)).strip() for name, default in BLANK.items()}
    values |= {name: tuple(str(entry) for entry in form.getlist(name)) for name in _LISTS}
    return values | {name: name in form for name in _SWITCHES}


def request_from(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the body of `POST /v1/jobs` that the form's values mean; what is no number stays text and is refused."""
    body: dict[str, Any] = {
        "task": values["task"],
        "variant": values["variant"],
        "robot": values["robot"],
        "files": list(values["files"]),
        values["goal"] if values["goal"] == "attempts" else "episodes": values["count"],
        "seed": values["seed"] or "0",
        "name": values["name"],
        "formats": ["lerobot", *(form for form in _FORMS if values[form])],
        "keep_failed": values["keep_failed"],
        "priority": values["priority"],
        "render": _render(values) if values["pictures"] else None,
    }
    for name in ("max_attempts", "max_wall_s"):
        if values[name] and not (name == "max_attempts" and values["goal"] == "attempts"):
            body[name] = values[name]
    if values["min_success_percent"]:
        body["min_success_rate"] = _share(values["min_success_percent"])
        body["min_success_after"] = values["min_success_after"] or "100"
    return body


def values_from(request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the form's values for the body of a request (see `api.requests.request_of`)."""
    generation, render = request.get("generation", {}), request.get("render", {})
    values = {
        **BLANK,
        **{
            name: _text(request[name])
            for name in ("name", "task", "robot", "max_attempts", "max_wall_s")
            if request.get(name)
        },
        "priority": request.get("priority", "normal"),
        "variant": request.get("variant") or generation.get("variant", "D0"),
        "seed": _text(request.get("seed") or generation.get("seed", 0)),
        "files": tuple(request.get("files", ())),
        "goal": "attempts" if request.get("attempts") else "episodes",
        "count": _text(request.get("attempts") or request.get("episodes") or 50),
        "min_success_after": _text(request.get("min_success_after", 100)),
        **{form: form in request.get("formats", ()) for form in _FORMS},
        "keep_failed": request.get("keep_failed", False),
        "pictures": render is not None,
    }
    if request.get("min_success_rate"):
        values["min_success_percent"] = _text(round(100 * request["min_success_rate"], 4))
    if render:
        values |= {name: render[name] for name in ("cameras", "preset", "codec") if name in render}
        values["size"] = _text(render.get("width", 256))
        values["visual_seed"] = _text(render.get("visual_seed", ""))
    return values


def sizes(chosen: str) -> Sequence[int]:
    """Return the sizes to choose from, the chosen one among them."""
    return sorted({*SIZES, *([int(chosen)] if chosen.isdigit() else [])})


def _render(values: Mapping[str, Any]) -> dict[str, Any]:
    known = {"width": values["size"], "height": values["size"]}
    known |= {"cameras": list(values["cameras"])} if values["cameras"] else {}
    look = {"visual_seed": values["visual_seed"]} if values["visual_seed"] else {}
    return {**known, **look, "preset": values["preset"], "codec": values["codec"]}


def _share(percent: str) -> Any:
    try:
        return float(percent) / 100.0
    except ValueError:
        return percent


def _text(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
