"""An imported specification as Python text for a task file, and as JSON values."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from factory.isaac_import import Imported
from factory.specs import GenerationSpec, Selection, SubtaskSpec
from factory.suggestions import source_of


def facts(found: Imported) -> dict[str, Any]:
    """Return everything that was found as JSON values."""
    return {
        "name": found.name,
        "subtasks": {eef: [asdict(subtask) for subtask in chain] for eef, chain in found.subtasks.items()},
        "constraints": [source_of(constraint) for constraint in found.constraints],
        "generation": _changed(found.generation, GenerationSpec()),
        "job": dict(found.job),
        "remarks": list(found.remarks),
    }


def source(found: Imported) -> str:
    """Return Python text for a task file; settings that are as usual are left out."""
    lines = ["subtasks={"]
    for eef, chain in found.subtasks.items():
        lines.append(f'    "{eef}": (')
        lines += [f"        {_subtask(subtask)}," for subtask in chain]
        lines.append("    ),")
    lines.append("},")
    if found.constraints:
        lines += ["constraints=(", *(f"    {source_of(constraint)}," for constraint in found.constraints), "),"]
    settings = {**_changed(found.generation, GenerationSpec()), **found.job}
    said = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    return "\n".join([*lines, f"# A job: {said}"])


def _subtask(subtask: SubtaskSpec) -> str:
    usual = SubtaskSpec(name=subtask.name, object_ref=subtask.object_ref, selection=Selection(strategy="random"))
    changed = _changed(subtask, usual)
    said = [f"name={subtask.name!r}", f"object_ref={subtask.object_ref!r}"]
    if subtask.selection != Selection():
        chosen = _changed(subtask.selection, Selection())
        said.append(f"selection=Selection({', '.join(f'{k}={v!r}' for k, v in chosen.items())})")
    changed.pop("selection", None)
    return f"SubtaskSpec({', '.join([*said, *(f'{k}={v!r}' for k, v in changed.items())])})"


def _changed(value: Any, usual: Any) -> dict[str, Any]:
    """Return the fields of a value that differ from the usual one's."""
    pairs = {f.name: (getattr(value, f.name), getattr(usual, f.name)) for f in fields(value)}
    return {name: mine for name, (mine, other) in pairs.items() if mine != other}
