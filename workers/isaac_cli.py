"""`factory isaac`: what works on this machine, and files to and from Isaac Lab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from factory.errors import SpecError
from workers.speaking import say, sentences

app = typer.Typer(help="Isaac Lab: test a machine, bring specifications in, take episodes out.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output, for machines.")]


@app.command("self-test", epilog="Example: factory isaac self-test --task isaac_stack --envs 4 --report self-test.json")
@sentences
def self_test(
    *,
    task: Annotated[str, typer.Option(help="A task of Isaac Lab's.")] = "isaac_stack",
    envs: Annotated[int, typer.Option(min=1, help="Environments in lock step.")] = 4,
    device: Annotated[str | None, typer.Option(help="cuda:0 or cpu. Default: as Isaac Lab chooses.")] = None,
    report: Annotated[Path | None, typer.Option(help="Also write the report to this JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Try everything that a worker needs of Isaac Lab, and print what works.

    Exit code 0 when all of it does, 1 when not; the report is written either way.
    """
    from sim_tasks.catalog import find_task  # noqa: PLC0415 - `factory --help` needs none of it
    from workers.isaac_self_test import Step  # noqa: PLC0415
    from workers.isaac_self_test import self_test as run  # noqa: PLC0415

    def heard(step: Step) -> None:
        word = {True: "ok", False: "FAILED", None: "-"}[step.ok]
        typer.echo(f"{word:>6}  {step.name:<14} {step.seconds:7.1f} s  {step.said}", err=as_json)

    found = run(find_task(task), num_envs=envs, device=device, say=heard)
    if report is not None:
        report.write_text(json.dumps(found.to_json(), indent=2) + "\n", encoding="utf-8")
    if as_json:
        say(found.to_json())
    if not found.ok:
        raise typer.Exit(1)


@app.command("import-spec", epilog="Example: factory isaac import-spec franka_cube_stack.yaml")
@sentences
def import_spec(
    file: Annotated[Path, typer.Argument(help="JSON or YAML: a dump of a MimicEnvCfg, or a task file of AutoData.")],
    *,
    as_json: AsJson = False,
) -> None:
    """Print how another generator was configured in this project's words, and what has no counterpart."""
    from factory.isaac_import import import_spec as read  # noqa: PLC0415 - `factory --help` needs none of it
    from workers.isaac_words import facts, source  # noqa: PLC0415

    found = read(_parsed(file))
    if as_json:
        say(facts(found))
    else:
        typer.echo(source(found))
        for remark in found.remarks:
            typer.echo(f"note: {remark}", err=True)


@app.command("export", epilog="Example: factory isaac export datasets/tower --out tower.hdf5")
@sentences
def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset made on the backend isaaclab.")],
    *,
    out: Annotated[Path, typer.Option(help="A new HDF5 file.")],
    lab: Annotated[
        Literal["2", "3"], typer.Option(help="For which Isaac Lab: the order of quaternions differs.")
    ] = "3",
) -> None:
    """Write episodes as Isaac Lab Mimic reads them: for its replay, its generator and robomimic's training."""
    from workers.isaac_export import export_isaaclab  # noqa: PLC0415 - `factory --help` needs none of it

    written = export_isaaclab(dataset, out, order="xyzw" if lab == "3" else "wxyz")
    typer.echo(f"{written}")


def _parsed(file: Path) -> dict[str, Any]:
    text = file.read_text(encoding="utf-8")
    try:
        value = json.loads(text)
    except ValueError:
        value = _yaml(text, file)
    if not isinstance(value, dict):
        raise SpecError(f"{file}: holds a {type(value).__name__}; one object with named settings is expected")
    return value


def _yaml(text: str, file: Path) -> Any:
    try:
        import yaml  # noqa: PLC0415 - no dependency of ours; most environments have it through others
    except ImportError as error:
        raise SpecError(f"{file}: is no JSON, and reading YAML needs PyYAML: `pip install pyyaml`") from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SpecError(f"{file}: is neither JSON nor YAML ({error})") from error
