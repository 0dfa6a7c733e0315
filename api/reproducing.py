"""How to ask for a job again: the command line and the HTTP request that say the same."""

from __future__ import annotations

import json
import shlex
from typing import Any

from pydantic import BaseModel

from api.dream_requests import request_of as dream_request_of
from api.requests import request_of
from api.specs import JobSpec
from api.tables import Job
from factory.specs import RenderSpec
from sim_tasks.catalog import views_of


class Reproduce(BaseModel):
    """How to ask for the same again.

    Attributes:
        command: on the command line.
        curl: over HTTP; this form has every setting.
        request: its body.
        note: what the command cannot say; empty when it says all.
    """

    command: str
    curl: str
    request: dict[str, Any]
    note: str


_FLAGS = {
    "variant": "--variant",
    "seed": "--seed",
    "select_per": "--select-per",
    "coordination": "--coordination",
    "coordination_noise": "--coordination-noise",
    "ordering": "--ordering",
    "transit": "--transit",
    "noise_normalised": "--noise",
    "interpolation_steps": "--interpolation-steps",
    "fixed_steps": "--fixed-steps",
    "keep": "--keep",
    "segmentation": "--segmentation",
}
_SWITCHES = {
    "paced_bridge": ("--paced-bridge", "--no-paced-bridge"),
    "use_symmetry": ("--symmetry", "--no-symmetry"),
    "paraphrases": ("--paraphrases", "--no-paraphrases"),
    "early_ending": ("--early-ending", "--no-early-ending"),
}


def reproduce(job: Job, spec: JobSpec, base_url: str) -> Reproduce:
    """Return how to ask for a job again at the service `base_url`."""
    if spec.dream is not None:
        return _of_dreams(spec, base_url)
    asked = request_of(spec, job.file_ids)
    body = shlex.quote(json.dumps(asked, ensure_ascii=False))
    url = f"{base_url.rstrip('/') or 'http://127.0.0.1:8000'}/v1/jobs"
    command, missing = (job.command, []) if job.command else _command(spec, asked, has_files=bool(job.file_ids))
    return Reproduce(
        command=command,
        curl=f"curl -X POST {url} -H 'Content-Type: application/json' -d {body}",
        request=asked,
        note=f"The command line has no option for {', '.join(missing)}." if missing else "",
    )


def _of_dreams(spec: JobSpec, base_url: str) -> Reproduce:
    asked = dream_request_of(spec.dream, max_wall_s=spec.max_wall_s) if spec.dream else {}
    body = shlex.quote(json.dumps(asked, ensure_ascii=False))
    curl = f"curl -X POST {base_url.rstrip('/')}/v1/dreams -H 'Content-Type: application/json' -d {body}"
    note = "On the command line `factory dream run` does the same stages in a folder of its own."
    return Reproduce(command=curl, curl=curl, request=asked, note=note)


def _command(spec: JobSpec, asked: dict[str, Any], *, has_files: bool) -> tuple[str, list[str]]:
    words, missing = ["factory", "generate", spec.task], []
    words += ["--robot", spec.robot] if spec.robot else []
    if has_files:
        for source in spec.sources:
            words += ["--demos", source.name]
    if cuts := {source.name: source.cuts for source in spec.sources if source.cuts}:
        words += ["--cuts", json.dumps(cuts)]
    for name in ("episodes", "attempts", "max_attempts", "max_wall_s", "min_success_rate"):
        if name in asked:
            words += [f"--{name.replace('_', '-')}", str(asked[name])]
    for name, value in asked.get("generation", {}).items():
        if name in _FLAGS:
            words += [_FLAGS[name], str(value)]
        elif name in _SWITCHES:
            words.append(_SWITCHES[name][not value])
        elif name == "selection" and value is not None and set(value) <= {"strategy", "top_k"}:
            words += ["--select", spec.generation.selection.strategy if spec.generation.selection else ""]
            words += ["--top-k", str(spec.generation.selection.top_k)] if spec.generation.selection else []
        else:
            missing.append(f"generation.{name}")
    words += _render(spec.render, views_of(spec.task, spec.robot), missing)
    words += ["--keep-failed"] if spec.keep_failed else []
    words += ["--backend", spec.backend] if spec.backend != "robosuite" else []
    words += ["--worlds", str(spec.worlds)] if spec.worlds is not None else []
    words += ["--device", spec.device] if spec.device is not None else []
    words += ["--out", f"datasets/{spec.task}-{spec.robot}" if spec.robot else f"datasets/{spec.task}"]
    missing += [name for name in ("min_success_after", "formats", "mixed") if name in asked]
    return shlex.join(words), missing


def _render(render: RenderSpec | None, cameras: tuple[str, ...], missing: list[str]) -> list[str]:
    if render is None:
        return ["--cameras", ""]
    usual, words = RenderSpec(), []
    if render.cameras != cameras:
        words += ["--cameras", ",".join(render.cameras)]
    if render.extras:
        words += ["--extras", ",".join(render.extras)]
    if render.width != render.height:
        missing.append("render.height")
    for flag, value, default in (
        ("--size", render.width, usual.width),
        ("--preset", render.preset, usual.preset),
        ("--codec", render.codec, usual.codec),
        ("--visual-seed", render.visual_seed, None),
        ("--camera-jitter", render.camera_jitter_m, 0.0),
    ):
        if value != default:
            words += [flag, str(value)]
    missing += [
        f"render.{name}" for name in ("camera_jitter_rad", "every") if getattr(render, name) != getattr(usual, name)
    ]
    return words
