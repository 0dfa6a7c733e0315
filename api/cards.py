"""The card of a dataset: the README.md that the Hugging Face hub shows, made from what the dataset says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from api.specs import JobSpec
from api.tables import Dataset, Job
from factory.specs import TaskSpec
from factory.statistics import wilson

_LICENCE = """## Licence

The licence above covers the generated data. Whoever publishes it answers for the rights in the demonstrations and in
the scene's models and textures, which may be under other terms.
"""


def dataset_card(
    dataset: Dataset,
    job: Job,
    spec: JobSpec,
    task: TaskSpec,
    *,
    info: Mapping[str, Any],
    failures: Sequence[Mapping[str, Any]],
) -> str:
    """Return the text of a card.

    Args:
        dataset: what it is about.
        job: that made it.
        spec: what was asked for.
        task: that it shows.
        info: the dataset's meta/info.json; empty for other forms than LeRobot.
        failures: as `api.jobs.failures` has them.
    """
    parts = [
        _front(dataset, task.name),
        f"# {dataset.name or task.name}\n\n{task.instruction[:1].upper()}{task.instruction[1:]}\n",
        _origin(dataset, spec, task),
        _facts(dataset, job, spec, info),
        _features(info),
        _failures(failures, job),
        _provenance(dataset, job, spec),
        _LICENCE,
        _use(info),
    ]
    return "\n".join(part for part in parts if part)


_DREAMT = {
    "labelled": "Pictures were imagined by a video model; actions were read from them, or are true where the simulator "
    "carried the dream out and it came true.",
    "latent": "Pictures were imagined by a video model; actions are latent ones, read from them.",
    "twin": "Dreams that came true, as the simulator drew them: true states, true actions.",
}
"""What a dataset of dreams holds, by its kind."""


def dream_card(dataset: Dataset, job: Job, spec: JobSpec, *, info: Mapping[str, Any]) -> str:
    """Return the text of the card of a dataset of dreams; arguments as of `dataset_card`."""
    models: Mapping[str, str] = (job.result or {}).get("models", {})
    origin = [f"| {kind} model | `{name}` |" for kind, name in sorted(models.items())]
    about = (
        f"# {dataset.name}\n\n{dataset.episodes} dreams. {_DREAMT[dataset.facts['dreams']]} The columns "
        "`annotation.state_source`, `annotation.action_source`, `annotation.tier` and `annotation.verdict` say of each "
        "row what is known.\n"
    )
    parts = [
        _front(dataset, str(dataset.facts["task"])),
        about,
        _facts(dataset, job, spec, info),
        "\n".join(["## Models", "", "| | |", "|---|---|", *origin, ""]),
        _features(info),
        _provenance(dataset, job, spec),
        _LICENCE,
        _use(info),
    ]
    return "\n".join(part for part in parts if part)


def _origin(dataset: Dataset, spec: JobSpec, task: TaskSpec) -> str:
    return (
        f"{dataset.episodes} episodes of the task *{task.name}* with {task.robot.name}, made from {_sources(spec)} by "
        "Trajectory Factory: demonstrations are cut into object-centred subtasks, carried to new scenes, replayed in "
        "simulation, and kept when the task was done and stayed done.\n"
    )


def _front(dataset: Dataset, task: str) -> str:
    lines = ["---", "license: apache-2.0", "task_categories:", "- robotics", "tags:"]
    tags = [*(["LeRobot"] if dataset.kind == "lerobot" else []), "robotics", "simulation", "synthetic", task]
    lines += [f"- {tag}" for tag in tags]
    if dataset.kind == "lerobot":
        lines += ["configs:", "- config_name: default", "  data_files: data/*/*.parquet"]
    return "\n".join([*lines, "---", ""])


def _facts(dataset: Dataset, job: Job, spec: JobSpec, info: Mapping[str, Any]) -> str:
    rate, low, high = wilson(job.prefix_successes, job.prefix)
    rows = [
        ("episodes", f"{dataset.episodes:,}"),
        ("frames", f"{dataset.frames:,}"),
        ("rate", f"{info.get('fps', '')} Hz" if info else ""),
        ("size", f"{dataset.bytes / 1e6:,.1f} MB"),
        ("distribution of starts", spec.generation.variant),
        ("seed", str(spec.generation.seed)),
    ]
    if job.prefix:
        interval = f"{100 * low:.1f}-{100 * high:.1f} %"
        kept = f"{job.prefix_successes:,} of {job.prefix:,} attempts, {100 * rate:.1f} % (95 % interval {interval})"
        rows.append(("success rate of generation", kept))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows if value), ""])


def _features(info: Mapping[str, Any]) -> str:
    if not info:
        return ""
    lines = ["## Features", "", "| column | type | shape |", "|---|---|---|"]
    for name, feature in info["features"].items():
        shape = " x ".join(str(n) for n in feature["shape"])
        lines.append(f"| `{name}` | {feature['dtype']} | {shape} |")
    return "\n".join([*lines, ""])


def _failures(failures: Sequence[Mapping[str, Any]], job: Job) -> str:
    if not failures:
        return ""
    lines = ["## Where attempts failed", "", "| subtask | arm | reason | attempts |", "|---|---|---|---|"]
    lines += [f"| {row['subtask']} | {row['eef']} | {row['reason']} | {row['count']} |" for row in failures[:20]]
    return "\n".join([*lines, "", f"The other {job.prefix_successes:,} succeeded and are the episodes here.", ""])


def _provenance(dataset: Dataset, job: Job, spec: JobSpec) -> str:
    executor = job.executor or {}
    rows = [
        ("content digest", f"`{dataset.digest}`"),
        ("manifest SHA-256", f"`{dataset.manifest_sha256}`"),
        ("request SHA-256", f"`{job.spec_sha256}`"),
        *((str(name), f"`{value}`") for name, value in sorted(executor.items())),
        *_run_again(dataset.facts.get("run_again_on_cpu")),
        *((f"source {source.name}", f"`{source.sha256}`") for source in spec.sources),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    return (
        "## Provenance\n\nThe folder `provenance/` holds the demonstrations, every attempt with its outcome, the "
        f"simulator's states and the scenes, enough to play each episode again.\n\n{table}\n"
    )


def _run_again(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """Return what running a share of a statistical backend's episodes again showed; nothing for other backends."""
    if found is None:
        return []
    share = f"{100 * found['rate']:.1f} %, 95 % interval {100 * found['low']:.1f}-{100 * found['high']:.1f} %"
    return [("run again on the CPU", f"{found['agreed']} of {found['run_again']} came to the same end ({share})")]


def _use(info: Mapping[str, Any]) -> str:
    if not info:
        return ""
    split = json.dumps(info.get("splits", {}))
    return (
        "## Use\n\n```python\nfrom lerobot.datasets.lerobot_dataset import LeRobotDataset\n\n"
        f'dataset = LeRobotDataset("OWNER/NAME")  # splits: {split}\n```\n\nLeRobot {info["codebase_version"]} format, '
        f"robot type `{info['robot_type']}`.\n"
    )


def _sources(spec: JobSpec) -> str:
    names = ", ".join(f"`{source.name}`" for source in spec.sources)
    return f"the demonstrations in {names}" if names else "demonstrations"
