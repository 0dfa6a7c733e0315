"""The commands of `factory dream` that measure its models: report cards."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from workers.dream_options import (
    AsJson,
    Budget,
    Frames,
    Model,
    Pixels,
    Prices,
    Seed,
    Stride,
    Url,
    Views,
    clips_of_datasets,
    endpoint_of,
    lines_of,
    told,
)
from workers.speaking import sentences

app = typer.Typer()
"""Part of `factory dream`."""


@app.command("label-card", epilog="Example: factory dream label-card datasets/held-out --picture card.png")
@sentences
def label_card(
    datasets: Annotated[list[Path], typer.Argument(help="LeRobot datasets that the model was not trained on.")],
    *,
    idm: Annotated[
        Path | None, typer.Option(help="Folder of an inverse dynamics model. Default: the shipped one.")
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw paths, true and read, into this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure an inverse dynamics model on episodes whose motion is known."""
    from dreams.shipped import IDM, named
    from workers.dream_cards import label_card as measured

    found = measured(named(idm, IDM), datasets, out=picture)
    lines = {
        name: f"{value['value']:.3g}  ({value['low']:.3g} to {value['high']:.3g})"
        for name, value in found.items()
        if isinstance(value, dict) and "value" in value
    }
    told(found, lines_of(lines), as_json)


@app.command(
    "latent-card",
    epilog="Example: factory dream latent-card datasets/held-out --latents latents --probe datasets/seen",
)
@sentences
def latent_card(
    datasets: Annotated[list[Path], typer.Argument(help="LeRobot datasets that the model was not trained on.")],
    *,
    latents: Annotated[Path, typer.Option(help="Folder of a latent action model.")],
    probe: Annotated[
        list[Path] | None, typer.Option(help="Datasets on which a linear probe from latent to true motion is fitted.")
    ] = None,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    as_json: AsJson = False,
) -> None:
    """Measure a latent action model: are its codes used, do they say what comes, is the true motion in them?"""
    from dreams.latent_card import latent_card as measured
    from dreams.latents import open_latents

    clips = clips_of_datasets(datasets, views, size, frames, stride)
    fitted_on = clips_of_datasets(probe, views, size, frames, stride) if probe else []
    found = measured(clips, open_latents(latents), probe=fitted_on)
    known = {**found, **{f"probe R2, {name}": value for name, value in found.get("probe_r2", {}).items()}}
    lines = {
        name: f"{value['value']:.3g}  ({value['low']:.3g} to {value['high']:.3g})" if isinstance(value, dict) else value
        for name, value in known.items()
        if name != "probe_r2"
    }
    told(found, lines_of(lines), as_json)


@app.command("judge-card", epilog="Example: factory dream judge-card plays/held-out --picture judge.png")
@sentences
def judge_card(
    plays: Annotated[list[Path], typer.Argument(help="Folders that `factory dream play` made, of other episodes.")],
    *,
    dataset: Annotated[list[Path] | None, typer.Option(help="LeRobot datasets whose episodes are successes.")] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(help="Folder of an embedded judge. Default, where no model is asked: the shipped one."),
    ] = None,
    endpoint: Url = "",
    model: Model = "",
    ledger: Annotated[Path, typer.Option(help="What a language model was asked and what it cost.")] = Path("ledger.db"),
    budget_usd: Budget = None,
    prices: Prices = "",
    clips: Annotated[int, typer.Option(min=10, help="Clips in the mixture: 40 % good.")] = 400,
    seed: Seed = 1,
    picture: Annotated[Path | None, typer.Option(help="Also draw the card into this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a judge on clips of which the truth is known: precision, recall, calibration, and where it is blind."""
    from dreams.classifier import judge_embedded, open_classifier
    from dreams.judge_card import figures
    from dreams.judge_card import picture as drawn
    from dreams.shipped import JUDGE, named
    from workers.dream_judging import by_endpoint, card_of_judge, examples_from

    examples, grid, _ = examples_from(plays, dataset or [])
    asks = None if classifier else endpoint_of(ledger, endpoint, model, budget_usd, prices)
    if asks is None:
        opened = open_classifier(named(classifier, JUDGE))
        judges = lambda shown, text, number: judge_embedded(shown, text, opened, count=number)  # noqa: E731
    else:
        judges = by_endpoint(asks, [example.instruction for example in examples])
    card, count = card_of_judge(judges, examples, grid, size=clips, seed=seed)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        drawn(card).save(picture)
    found = {**figures(card), "clips": count}
    lines = {
        f"{each.count} pictures": f"precision {each.precision.value:.2f} ({each.precision.low:.2f}-"
        f"{each.precision.high:.2f}), recall {each.recall.value:.2f} ({each.recall.low:.2f}-{each.recall.high:.2f}), "
        f"calibration error {each.calibration_error.value:.2f}"
        for each in card.counts
    }
    told(found, f"{card.judge} on {count} clips, {card.good:.0%} good\n{lines_of(lines)}", as_json)
