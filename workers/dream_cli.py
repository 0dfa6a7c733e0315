"""The commands `factory dream ...`: parse, call, print, like the other commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from factory.errors import SpecError
from workers.dream_cards_cli import app as cards_app
from workers.dream_models_cli import app as models_app
from workers.dream_options import (
    AsJson,
    Budget,
    Device,
    Frames,
    Model,
    Pixels,
    Prices,
    RunFolder,
    Seed,
    Stride,
    Url,
    VideoFolder,
    Views,
    chosen_classifier,
    clips_of_datasets,
    endpoint_of,
    existing_run,
    known_tasks,
    lines_of,
    names_of,
    needed,
    tiers_said,
    told,
)
from workers.speaking import progress_of, say, sentences

if TYPE_CHECKING:
    pass

app = typer.Typer(
    help="Dream episodes: propose, imagine, judge, label, and carry them out in the simulator.", no_args_is_help=True
)
"""`factory dream`."""
app.add_typer(models_app)
app.add_typer(cards_app)


@app.callback()
def quietly() -> None:
    """Dream episodes: propose, imagine, judge, label, and carry them out in the simulator."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it misses packages that nothing here uses


@app.command(epilog="Example: factory dream frames runs/first tabletop --count 40 --held-out")
@sentences
def frames(
    run: RunFolder,
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks or families to draw starts of.")] = None,
    *,
    dataset: Annotated[Path | None, typer.Option(help="Or: the first pictures of this LeRobot dataset.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Starts, of all tasks together.")] = 20,
    held_out: Annotated[bool, typer.Option(help="Only tasks that models are not trained on.")] = False,
    variant: Annotated[str, typer.Option(help="Which starts.")] = "D0",
    seed: Annotated[int, typer.Option(min=0, help="Of the starts.")] = 0,
    views: Views = "dream_view",
    size: Pixels = 64,
    as_json: AsJson = False,
) -> None:
    """Make first frames: starts of tasks with their states, or the first pictures of a dataset."""
    from dreams.views import Grid
    from sim_tasks.tasks import tabletop
    from workers import dream_folder, dream_starts
    from workers.dream_data import tasks_of

    if (dataset is None) == (not tasks):
        raise SpecError("first frames come from tasks, or from --dataset DIR; give one of them")
    grid = Grid(views=names_of(views), height_px=size, width_px=size)
    where = dream_folder.Run(root=run)
    if dataset is not None:
        made = dream_starts.frames_of_dataset(where, dataset, grid)
    else:
        chosen = tasks_of(tasks or [], known_tasks())
        if held_out:
            chosen = tuple(task for task in chosen if task in tabletop.HELD_OUT)
        spread = chosen[:: max(1, len(chosen) // count)]
        with progress_of("tasks", quiet=as_json) as said:
            made = dream_starts.frames_of_task(where, spread, grid, count=count, seed=seed, variant=variant, said=said)
    told({"run": str(run), "new_frames": made}, f"{made} new first frames in {where.frames}", as_json)


@app.command(epilog="Example: factory dream vary runs/first --model models/sd-turbo --prompt 'a tidy laboratory'")
@sentences
def vary(
    run: RunFolder,
    *,
    model: Annotated[Path, typer.Option(help="Folder of a diffusers image-to-image pipeline.")],
    prompt: Annotated[str, typer.Option(help="What it is told to paint.")] = "a robot arm at a table, other light",
    count: Annotated[int, typer.Option(min=1, help="Variations of each frame.")] = 1,
    strength: Annotated[float, typer.Option(help="Above 0, to 1: how much is repainted.")] = 0.4,
    steps: Annotated[int, typer.Option(min=1, help="Of the whole noise schedule.")] = 30,
    guidance: Annotated[float, typer.Option(help="How strongly the prompt counts; 1 for not at all.")] = 5.0,
    seed: Seed = 0,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Repaint first frames with an image model; what comes of it can be dreamt from, but not carried out."""
    from dreams.variation import ImageModel, VariationSpec
    from workers import dream_starts

    where = existing_run(run)
    spec = VariationSpec(prompt=prompt, strength=strength, steps=steps, guidance=guidance)
    with progress_of("frames", quiet=as_json) as said:
        made = dream_starts.vary_frames(
            where, ImageModel(model, device=device), spec, count=count, seed=seed, said=said
        )
    told({"run": str(run), "new_frames": made}, f"{made} new first frames in {where.frames}", as_json)


@app.command(epilog="Example: factory dream propose runs/first --per-frame 2")
@sentences
def propose(
    run: RunFolder,
    *,
    per_frame: Annotated[int, typer.Option(min=1, help="Instructions for each first frame, at most.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Dreams of each instruction.")] = 1,
    rounds: Annotated[
        int, typer.Option(min=1, max=4, help="Instructions of a dream, one after the other; the first is verified.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the first dream; others count on.")] = 0,
    like: Annotated[Path | None, typer.Option(help="Or: the first frames and sentences of this run.")] = None,
    endpoint: Url = "",
    model: Model = "",
    budget_usd: Budget = None,
    prices: Prices = "",
    as_json: AsJson = False,
) -> None:
    """Propose what to do in each first frame: by what the simulator knows, or by a multimodal model."""
    from dreams.instructions import counted
    from workers import dream_controls, dream_folder, dream_starts

    if like is not None:
        where = dream_folder.Run(root=run)
        made = dream_controls.same(where, existing_run(like), seed=seed)
    else:
        where = existing_run(run)
        asks = endpoint_of(where.ledger, endpoint, model, budget_usd, prices)
        made = dream_starts.propose(where, per_frame=per_frame, seeds=seeds, seed=seed, rounds=rounds, asks=asks)
    found = counted(proposal.instruction for _, _, proposal in where.proposals())
    counts = [{"thing": thing, "target": target, "dreams": n} for (thing, target), n in sorted(found.items())]
    lines = "\n".join(f"  {each['dreams']:4d}  {each['thing']} -> {each['target']}" for each in counts)
    told({"dreams": made, "counts": counts}, f"{made} dreams to be dreamt\n{lines}", as_json)


@app.command(epilog="Example: factory dream generate runs/first --model models/video/training/model")
@sentences
def generate(
    run: RunFolder,
    *,
    model: VideoFolder = None,
    lora: Annotated[Path | None, typer.Option(help="Folder of an adaptation of it.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 12,
    guidance: Annotated[float, typer.Option(help="How strongly the sentence counts; above 1 costs twice.")] = 2.0,
    batch: Annotated[int, typer.Option(min=1, help="Dreams at a time.")] = 8,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Dream every proposal of a run. Stopped and called again it goes on, with the same pictures."""
    from dreams.shipped import VIDEO, named
    from dreams.video import Sampling, open_model
    from workers import dreaming

    opened = open_model(named(model, VIDEO), lora=lora, device=device)
    with progress_of("dreams", quiet=as_json) as said:
        made = dreaming.dream(
            existing_run(run), opened, Sampling(steps=steps, guidance=guidance), batch=batch, said=said
        )  # fmt: skip
    told({"run": str(run), "dreams": made}, f"{made} dreams in {run / 'dreams'}", as_json)


@app.command(epilog="Example: factory dream judge runs/first")
@sentences
def judge(
    run: RunFolder,
    *,
    classifier: Annotated[
        Path | None,
        typer.Option(help="Folder of an embedded classifier. Default, where no model is asked: the shipped."),
    ] = None,
    endpoint: Url = "",
    model: Model = "",
    votes: Annotated[int, typer.Option(min=1, help="How often a model is asked about each dream.")] = 3,
    pictures: Annotated[int, typer.Option(min=2, help="Pictures of a dream that a model is shown.")] = 8,
    budget_usd: Budget = None,
    prices: Prices = "",
    as_json: AsJson = False,
) -> None:
    """Judge whether dreams show what they were told to: by a classifier, or by a multimodal model."""
    from dreams.judge import JudgeSpec
    from workers import dream_folder, dreaming

    where = existing_run(run)
    asks = None if classifier else endpoint_of(where.ledger, endpoint, model, budget_usd, prices)
    with progress_of("dreams", quiet=as_json) as said:
        if asks is not None:
            dreaming.judge_by_model(where, asks, JudgeSpec(frames=pictures, votes=votes), said=said)
        else:
            from dreams.classifier import open_classifier
            from dreams.shipped import JUDGE, named

            dreaming.judge_by_classifier(where, open_classifier(named(classifier, JUDGE)), said=said)
    facts = dream_folder.summary(where)
    told(facts["verdicts"], lines_of(facts["verdicts"]), as_json)


@app.command(epilog="Example: factory dream label runs/first")
@sentences
def label(
    run: RunFolder,
    *,
    idm: Annotated[
        Path | None, typer.Option(help="Folder of an inverse dynamics model. Default: the shipped one.")
    ] = None,
    latents: Annotated[Path | None, typer.Option(help="Folder of a latent action model.")] = None,
    motion: Annotated[bool, typer.Option(help="Read motion at all.")] = True,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Read actions from the pictures of dreams: real ones, latent ones, or both."""
    from workers import dreaming

    if latents is None and not motion:
        raise SpecError("nothing to read: --no-motion needs --latents DIR")
    where, new = existing_run(run), {}
    with progress_of("dreams", quiet=as_json) as said:
        if motion:
            from dreams.idm import open_idm
            from dreams.shipped import IDM, named

            new["motion"] = dreaming.label(where, open_idm(named(idm, IDM), device=device), said=said)
        if latents is not None:
            from dreams.latents import open_latents

            new["latent"] = dreaming.latent(where, open_latents(latents, device=device), said=said)
    told(new, lines_of(new), as_json)


@app.command(epilog="Example: factory dream verify runs/first")
@sentences
def verify(
    run: RunFolder,
    *,
    mode: Annotated[
        Literal["tracked", "open_loop"], typer.Option(help="Send the hands after labelled poses, or play actions.")
    ] = "tracked",
    as_json: AsJson = False,
) -> None:
    """Carry dreams out in the simulator, from the state of their first frame, and see whether they come true."""
    from workers import dream_folder, dream_replays

    where = existing_run(run)
    with progress_of("dreams", quiet=as_json) as said:
        dream_replays.verify_all(where, mode=mode, said=said)
    facts = dream_folder.summary(where)
    told(facts, tiers_said(facts), as_json)


@app.command(epilog="Example: factory dream export runs/first --out datasets/dreams")
@sentences
def export(
    run: RunFolder,
    *,
    out: Annotated[Path, typer.Option(help="Folder; the datasets lie below it.")],
    only: Annotated[
        Literal["all", "accepted", "executed"], typer.Option(help="Which dreams: all, accepted, or come true.")
    ] = "all",
    as_json: AsJson = False,
) -> None:
    """Write LeRobot datasets: 'labelled', 'latent', and 'twin', the simulator's own pictures of what came true."""
    from workers.dream_export import export_run

    found = export_run(existing_run(run), out, only=only)
    lines = [f"{kind:10s} {facts['episodes']:5d} episodes  {facts['path']}" for kind, facts in found.items()]
    told(found, "\n".join(lines), as_json)


@app.command(epilog="Example: factory dream mixture datasets/stack --neural datasets/dreams/labelled --out mix.json")
@sentences
def mixture(
    real: Annotated[list[Path], typer.Argument(help="Datasets of recorded or simulated episodes.")],
    *,
    neural: Annotated[list[Path], typer.Option(help="Datasets of dreams; may be given several times.")],
    out: Annotated[Path, typer.Option(help="The manifest, a JSON file.")],
    ratio: Annotated[str, typer.Option(help="Samples of real to samples of neural ones.")] = "1:1",
    as_json: AsJson = False,
) -> None:
    """Write which datasets a policy is trained on together; examples/cotrain_mixture.py draws from it."""
    from dreams.mixture import mixture as mix
    from dreams.mixture import write_mixture

    try:
        a, b = (float(part) for part in ratio.split(":"))
    except ValueError:
        raise SpecError(f"the ratio is {ratio!r}; expected two numbers such as 1:1") from None
    made = mix(real, neural, beside=out.parent, ratio=(a, b))
    write_mixture(out, made)
    lines = "\n".join(f"  {part['share']:6.1%}  {part['kind']:6s} {part['path']}" for part in made["datasets"])
    told(made, f"{out}\n{lines}", as_json)


@app.command(epilog="Example: factory dream show runs/first --out strips.png")
@sentences
def show(
    run: RunFolder,
    *,
    out: Annotated[Path | None, typer.Option(help="Also draw dreams, verdicts and tiers into this PNG.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Dreams that are drawn, evenly spread.")] = 16,
    truth: Annotated[Path | None, typer.Option(help="A run of real videos to draw beside them.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what became of a run of dreams, and draw it."""
    from workers import dream_folder

    where = existing_run(run)
    facts = dream_folder.summary(where)
    if out is not None:
        from workers.dream_pictures import strips

        strips(where, out, count=count, truth=existing_run(truth) if truth else None)
        facts["picture"] = str(out)
    told(facts, tiers_said(facts) + (f"\npicture: {out}" if out else ""), as_json)


@app.command(epilog="Example: factory dream control runs/real real --dataset datasets/held-out --episodes 40")
@sentences
def control(
    run: RunFolder,
    kind: Annotated[
        Literal["real", "coded", "frozen", "shuffled", "nearest"],
        typer.Argument(
            help="Real videos; a run through the autoencoder; first picture only; another's sentence; nearest training "
            "motion."
        ),
    ],
    *,
    of: Annotated[Path | None, typer.Option(help="The run that it is a control of.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="For real videos and nearest motion.")] = None,
    model: Annotated[
        Path | None, typer.Option(help="For coded and shuffled: the video model. Default: as shipped.")
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Real videos, evenly spread. Default: all.")] = None,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    as_json: AsJson = False,
) -> None:
    """Fill a run with what dreams are compared with; then label and verify it like any other."""
    from workers import dream_controls, dream_folder, dreaming

    where = dream_folder.Run(root=run)
    if kind == "real":
        found = clips_of_datasets([needed(dataset, "--dataset")], views, size, frames, stride)
        step = max(1, len(found) // episodes) if episodes else 1
        made = dream_controls.real_videos(where, needed(dataset, "--dataset"), found[::step][:episodes])
    elif kind == "frozen":
        made = dream_controls.frozen(where, existing_run(needed(of, "--of")))
    elif kind == "nearest":
        found = clips_of_datasets([needed(dataset, "--dataset")], views, size, frames, stride)
        made = dream_controls.nearest(where, existing_run(needed(of, "--of")), found)
    else:
        from dreams.shipped import VIDEO, named
        from dreams.video import open_model

        other = existing_run(needed(of, "--of"))
        opened = open_model(named(model, VIDEO))
        if kind == "coded":
            made = dream_controls.coded(where, other, opened)
        else:
            dream_controls.shuffled(where, other)
            made = dreaming.dream(where, opened, next(dream_folder.each_dream(other))[3].sampling)
            dream_controls.own_sentences(where, other)
    told({"run": str(run), "dreams": made}, f"{made} dreams of the control {kind!r} in {run}", as_json)


@app.command(epilog="Example: factory dream card runs/first --beside frozen=runs/frozen --beside real=runs/real")
@sentences
def card(
    run: RunFolder,
    *,
    beside: Annotated[list[str] | None, typer.Option(help="A control, NAME=RUN; may be given several times.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the shares that came true into this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a run of dreams beside its controls: what came true, what vanished, what leaked."""
    from workers.dream_cards import dream_card

    controls = {}
    for given in beside or []:
        name, equals, folder = given.partition("=")
        if not equals:
            raise SpecError(f"a control is {given!r}; expected NAME=RUN, such as frozen=runs/frozen")
        controls[name] = existing_run(Path(folder))
    found = dream_card(existing_run(run), controls, out=picture)
    lines = {
        name: f"{true['value']:.1%} came true ({true['low']:.1%} to {true['high']:.1%}), "
        f"things kept in {each['things_kept']['value']:.0%}"
        + ("" if each["seam_change"] is None else f", change at borders of views {each['seam_change']:.3f}")
        for name, each in found.items()
        for true in (each["follows"],)
    }
    told(found, lines_of(lines), as_json)


@app.command("run", epilog="Example: factory dream run runs/first tabletop --video models/video/training/model")
@sentences
def run_all(
    run: RunFolder,
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks or families to draw starts of.")] = None,
    *,
    video: VideoFolder = None,
    idm: Annotated[
        Path | None, typer.Option(help="Folder of an inverse dynamics model. Default: the shipped one.")
    ] = None,
    latents: Annotated[Path | None, typer.Option(help="Folder of a latent action model.")] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(help="Folder of an embedded classifier, or none. Default: the shipped one for pictures it knows."),
    ] = None,
    dataset: Annotated[Path | None, typer.Option(help="First frames from this LeRobot dataset instead.")] = None,
    count: Annotated[int, typer.Option(min=1, help="First frames.")] = 20,
    per_frame: Annotated[int, typer.Option(min=1, help="Instructions for each.")] = 1,
    held_out: Annotated[bool, typer.Option(help="Only tasks that models are not trained on.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 12,
    guidance: Annotated[float, typer.Option(help="How strongly the sentence counts; above 1 costs twice.")] = 2.0,
    seed: Annotated[int, typer.Option(min=0, help="Of starts and dreams.")] = 0,
    endpoint: Url = "",
    model: Model = "",
    budget_usd: Budget = None,
    prices: Prices = "",
    out: Annotated[Path | None, typer.Option(help="Also export the datasets below this folder.")] = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Do every stage of a run; what was done before is not done again."""
    from dreams.model_folder import read_card
    from dreams.shipped import VIDEO, named
    from workers import dream_folder

    card = read_card(named(video, VIDEO))
    if card is None:
        raise SpecError(
            f"{video} does not say for which views and clock it was made; `factory dream finetune` adds that"
        )
    grid = card.grid
    asked = bool(endpoint or os.environ.get("FACTORY_LLM_URL"))
    stages: list[Callable[[], None]] = [
        lambda: frames(
            run, tasks, dataset=dataset, count=count, held_out=held_out, seed=seed, views=",".join(grid.views),
            size=grid.height_px,
        ),
        lambda: propose(
            run, per_frame=per_frame, seed=seed, endpoint=endpoint, model=model, budget_usd=budget_usd, prices=prices
        ),
        lambda: generate(run, model=video, steps=steps, guidance=guidance, device=device),
    ]  # fmt: skip
    chosen = None if asked and classifier is None else chosen_classifier(classifier, grid)
    if chosen is not None or asked:
        stages.append(
            lambda: judge(run, classifier=chosen, endpoint=endpoint, model=model, budget_usd=budget_usd, prices=prices)
        )
    stages += [lambda: label(run, idm=idm, latents=latents, device=device), lambda: verify(run)]
    if out is not None:
        stages.append(lambda: export(run, out=out))
    if as_json:
        import contextlib
        import io

        with contextlib.redirect_stdout(io.StringIO()):
            for stage in stages:
                stage()
        say(dream_folder.summary(dream_folder.Run(root=run)))
    else:
        for stage in stages:
            stage()
