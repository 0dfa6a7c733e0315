"""What the commands `factory dream ...` share: their options, and how they say what came of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factory.errors import SpecError
from workers.speaking import say

if TYPE_CHECKING:
    from dreams.clips import Clip
    from dreams.endpoint import Endpoint
    from dreams.views import Grid
    from workers.dream_folder import Run

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output, for machines.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of the run of dreams.")]
Views = Annotated[str, typer.Option(help="Comma-separated cameras; several become one picture.")]
Pixels = Annotated[int, typer.Option(help="Height and width of each view, pixels.")]
Frames = Annotated[int, typer.Option(help="Pictures of a clip, 4 k + 1.")]
Stride = Annotated[int | None, typer.Option(help="Control steps from picture to picture. Default: what fits.")]
MaxS = Annotated[float | None, typer.Option(help="Pause after so many seconds; the same command goes on.")]
VideoFolder = Annotated[
    Path | None,
    typer.Option(help="Folder of the video model, or the name of a shipped one. Default: video-tabletop-64."),
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Url = Annotated[str, typer.Option(help="An OpenAI-compatible server, up to /v1. Default: FACTORY_LLM_URL.")]
Model = Annotated[str, typer.Option(help="The server's name of the model. Default: FACTORY_LLM_MODEL.")]
Budget = Annotated[float | None, typer.Option(help="Most that requests of this run may cost, USD; needs prices.")]
Prices = Annotated[str, typer.Option(help="USD per million tokens, in and out: 0.4,1.6.")]
Steps = Annotated[int, typer.Option(min=1, help="Gradient steps in all.")]
Rate = Annotated[float, typer.Option(help="Highest learning rate.")]
Share = Annotated[float, typer.Option(help="Share of the episodes that is trained on, evenly spread.")]
Seed = Annotated[int, typer.Option(min=0, help="Decides everything that is drawn.")]


def known_tasks() -> dict[str, Any]:
    """Return every task by name, families' members too."""
    from sim_tasks.catalog import FAMILIES, TASKS

    return {**TASKS, **{name: task for family in FAMILIES.values() for name, task in family.items()}}


def existing_run(folder: Path) -> Run:
    """Return the run in a folder. Raises SpecError when there is none."""
    from workers import dream_folder

    where = dream_folder.Run(root=folder)
    dream_folder.check_exists(where)
    return where


def needed(value: Path | None, option: str) -> Path:
    """Return what an option gave. Raises SpecError when it was left out."""
    if value is None:
        raise SpecError(f"{option} FOLDER is left out and needed here; --help says what it is")
    return value


def names_of(views: str) -> tuple[str, ...]:
    """Return the names in a comma-separated list."""
    return tuple(name.strip() for name in views.split(",") if name.strip())


def clips_of_datasets(
    datasets: list[Path], views: str, size: int, frames: int, stride: int | None, share: float = 1.0
) -> list[Clip]:
    """Return the episodes of datasets, or an evenly spread share of them, as clips on one clock."""
    from dreams.views import Grid
    from workers.dream_training import clips_of

    grid = Grid(views=names_of(views), height_px=size, width_px=size)
    return clips_of(datasets, grid, frames=frames, stride=stride, share=share)[0]


def endpoint_of(ledger: Path, url: str, model: str, budget_usd: float | None, prices: str) -> Endpoint | None:
    """Open the endpoint that was named, here or in the environment; None where none was."""
    url, model = url or os.environ.get("FACTORY_LLM_URL", ""), model or os.environ.get("FACTORY_LLM_MODEL", "")
    if not url:
        return None
    from dreams.endpoint import Endpoint, EndpointSpec
    from dreams.ledger import Ledger

    try:
        cost_in, cost_out = (float(part) for part in prices.split(",")) if prices else (0.0, 0.0)
    except ValueError:
        raise SpecError(f"prices are {prices!r}; expected two numbers, in and out, such as 0.4,1.6") from None
    spec = EndpointSpec(
        base_url=url,
        model=model,
        api_key=os.environ.get("FACTORY_LLM_KEY", "EMPTY"),
        usd_per_mtok_in=cost_in,
        usd_per_mtok_out=cost_out,
        budget_usd=budget_usd,
    )
    return Endpoint(spec, Ledger(ledger))


def chosen_classifier(given: Path | None, grid: Grid) -> Path | None:
    """Return the classifier that judges pictures of a grid: the given one, else the shipped one where it can see them.

    "none" is nobody. The shipped one knows one robot and one camera; of other words it says itself that it cannot read.
    """
    if given is not None:
        return None if str(given) == "none" else given
    from dreams.classifier import open_classifier
    from dreams.shipped import JUDGE, shipped
    from dreams.views import holds

    folder = shipped(JUDGE)
    return folder if holds(grid, open_classifier(folder).grid) else None


def seconds(max_s: float | None) -> float:
    """Return a limit in seconds, infinite where none was given."""
    return float("inf") if max_s is None else max_s


def told(facts: Any, text: str, as_json: bool) -> None:
    """Print facts as JSON, or the text for people."""
    say(facts) if as_json else typer.echo(text)


def lines_of(facts: dict[str, Any]) -> str:
    """Return names and values, one a line."""
    return "\n".join(
        f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}" for name, value in facts.items()
    )


def tiers_said(facts: dict[str, Any]) -> str:
    """Return verdicts, tiers, and the share that came true, in words."""
    share = facts["success"]
    came = (
        f"came true: {share['share']:.1%} of those executed (95 % interval {share['low']:.1%} to {share['high']:.1%})"
        if facts["executed"]
        else "none was executed"
    )
    return (
        f"{facts['dreams']} dreams\nverdicts\n{lines_of(facts['verdicts'])}\ntiers\n{lines_of(facts['tiers'])}\n{came}"
    )


def training_said(facts: dict[str, Any]) -> str:
    """Return how far a training came, in words."""
    if paused := facts.get("paused"):
        return f"paused while the {paused} is trained, which comes first; call again to go on"
    folder = facts.get("model")
    loss = facts.get("held_out_loss")
    held = "" if loss is None else f"loss on held-out clips {loss:.3f}; "
    return f"{facts['steps']} steps; {held}" + (f"model: {folder}" if folder else "call again to go on") + (
        f"\ncurve: {facts['curve']}" if facts.get("curve") else ""
    )  # fmt: skip
