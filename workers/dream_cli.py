"""The commands `factory dream ...`: parse, call, print, like the other commands."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from factory.errors import SpecError
from factory.specs import GenerationSpec, RenderSpec
from workers.speaking import progress_of, say, sentences

if TYPE_CHECKING:
    from dreams.clips import Clip
    from dreams.endpoint import Endpoint
    from workers.dreaming import Run

app = typer.Typer(
    help="Dream episodes: propose, imagine, judge, label, and carry them out in the simulator.", no_args_is_help=True
)
"""`factory dream`."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output, for machines.")]
RunFolder = Annotated[Path, typer.Argument(help="Folder of the run of dreams.")]
Views = Annotated[str, typer.Option(help="Comma-separated cameras; several become one picture.")]
Pixels = Annotated[int, typer.Option(help="Height and width of each view, pixels.")]
Frames = Annotated[int, typer.Option(help="Pictures of a clip, 4 k + 1.")]
Stride = Annotated[int | None, typer.Option(help="Control steps from picture to picture. Default: what fits.")]
MaxS = Annotated[float | None, typer.Option(help="Pause after so many seconds; the same command goes on.")]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1.")]
Url = Annotated[str, typer.Option(help="An OpenAI-compatible server, up to /v1. Default: FACTORY_LLM_URL.")]
Model = Annotated[str, typer.Option(help="The server's name of the model. Default: FACTORY_LLM_MODEL.")]
Budget = Annotated[float | None, typer.Option(help="Most that requests of this run may cost, USD; needs prices.")]
Prices = Annotated[str, typer.Option(help="USD per million tokens, in and out: 0.4,1.6.")]


@app.callback()
def quietly() -> None:
    """Dream episodes: propose, imagine, judge, label, and carry them out in the simulator."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it misses packages that nothing here uses


# --- data and models --------------------------------------------------------------------------------------------------


@app.command(epilog="Example: factory dream data tabletop --episodes 3000 --size 64 --out datasets/tabletop")
@sentences
def data(
    tasks: Annotated[list[str], typer.Argument(help="Tasks or families; a family's held-out tasks are left out.")],
    *,
    episodes: Annotated[int, typer.Option(min=1, help="How many, of all tasks together.")],
    out: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    variant: Annotated[str, typer.Option(help="Which starts.")] = "D0",
    seed: Annotated[int, typer.Option(min=0, help="Decides everything that is drawn.")] = 0,
    views: Views = "dream_view",
    size: Pixels = 64,
    every: Annotated[
        int, typer.Option(min=1, help="Rows from one picture drawn to the next; a video model's stride saves the rest.")
    ] = 1,
    held_out: Annotated[bool, typer.Option(help="Only the tasks that models are not trained on.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Make one dataset of many tasks, a few verified episodes of each: what models are trained on."""
    from sim_tasks.tasks import tabletop
    from workers.dream_data import DataRequest, make_data, tasks_of

    chosen = tasks_of(tasks, _known())
    apart = set(tabletop.HELD_OUT)
    chosen = tuple(task for task in chosen if task in tasks or (task in apart) == held_out)
    request = DataRequest(
        tasks=chosen,
        episodes=episodes,
        out=out,
        generation=GenerationSpec(variant=variant, seed=seed, use_symmetry=True, paced_bridge=True),
        render=RenderSpec(cameras=_names(views), width=size, height=size, preset="fast", every=every),
        workers=workers,
    )
    with progress_of("episodes", quiet=as_json) as said:
        make_data(request, said)
    _told({"dataset": str(out), "episodes": episodes, "tasks": len(request.shares)}, f"dataset: {out}", as_json)


@app.command(epilog="Example: factory dream finetune datasets/tabletop --out models/video --steps 4000")
@sentences
def finetune(
    datasets: Annotated[list[Path], typer.Argument(help="LeRobot datasets.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the training; the model is its subfolder 'model'.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder of the video model to begin with. Default: a new one.")
    ] = None,
    new: Annotated[Literal["tiny", "small", "base"], typer.Option(help="Size of a new model.")] = "small",
    lora: Annotated[int | None, typer.Option(min=1, help="Rank of an adaptation. Default: all weights.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps in all.")] = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Clips in a step.")] = 16,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    episodes_fraction: Annotated[float, typer.Option(help="Share of the episodes that is trained on.")] = 1.0,
    sources_only: Annotated[
        bool, typer.Option("--sources-only", help="Only as many episodes as the dataset had source demonstrations.")
    ] = False,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, noise and order.")] = 0,
    max_s: MaxS = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Teach a video model the episodes of datasets, or make a small one from nothing; draws its curve and samples."""
    from dreams.views import Grid
    from workers.dream_training import VideoTraining, train_video

    grid = Grid(views=_names(views), height_px=size, width_px=size)
    found = train_video(
        VideoTraining(
            datasets=tuple(datasets), out=out, base=model, size=new, lora=lora, steps=steps, batch=batch, rate=rate,
            episodes_fraction=episodes_fraction, sources_only=sources_only, grid=grid, frames=frames, stride=stride,
            seed=seed, max_s=max_s, device=device,
        )
    )  # fmt: skip
    _told(found, _training_said(found), as_json)


@app.command("train-idm", epilog="Example: factory dream train-idm datasets/tabletop --out models/idm --steps 3000")
@sentences
def train_idm(
    datasets: Annotated[list[Path], typer.Argument(help="LeRobot datasets whose columns name the hands.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps in all.")] = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a step.")] = 16,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 6e-3,
    head: Annotated[Literal["regression", "flow"], typer.Option(help="How actions are said.")] = "regression",
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and order.")] = 0,
    max_s: MaxS = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train an inverse dynamics model: from pictures to how the hands moved."""
    from dreams.descent import Schedule
    from dreams.embodiments import starts_of
    from dreams.idm_net import IdmSpec
    from dreams.idm_training import train_idm as train

    clips = _clips(datasets, views, size, frames, stride)
    starts = {name: hands for each in datasets for name, hands in starts_of(each).items()}
    schedule = Schedule(steps=steps, batch=batch, rate=rate, seed=seed)
    model = train(
        clips, out, IdmSpec(head=head), schedule, starts=starts, max_s=_seconds(max_s), device=device
    )  # fmt: skip
    facts = {"model": str(out), "version": model.card.version, "errors": dict(model.card.errors), "clips": len(clips)}
    _told(facts, f"inverse dynamics model: {out}\n{_lines(dict(model.card.errors))}", as_json)


@app.command("train-latents", epilog="Example: factory dream train-latents videos/ --films --out models/latents")
@sentences
def train_latents(
    data: Annotated[list[Path], typer.Argument(help="LeRobot datasets, or folders of mp4 files with --films.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    films: Annotated[bool, typer.Option("--films", help="The folders hold mp4 files without actions.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Gradient steps in all.")] = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Pairs of pictures in a step.")] = 32,
    rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 1e-3,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    seed: Annotated[int, typer.Option(min=0, help="Of weights and order.")] = 0,
    max_s: MaxS = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train a latent action model, on videos with or without actions."""
    from dreams.descent import Schedule
    from dreams.films import film_clips
    from dreams.latents import LatentSpec
    from dreams.latents import train_latents as train

    if films:
        step = stride or 4
        clips = [
            clip
            for folder in data
            for clip in film_clips(folder, stride=step, frames=frames, height_px=size, width_px=size)
        ]
    else:
        clips = _clips(data, views, size, frames, stride)
    schedule = Schedule(steps=steps, batch=batch, rate=rate, seed=seed)
    model = train(clips, out, LatentSpec(), schedule, max_s=_seconds(max_s), device=device)
    facts = {"model": str(out), "version": model.version, "clips": len(clips)}
    _told(facts, f"latent action model: {out}", as_json)


# --- a run ------------------------------------------------------------------------------------------------------------


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
    from workers import dreaming
    from workers.dream_data import tasks_of

    if (dataset is None) == (not tasks):
        raise SpecError("first frames come from tasks, or from --dataset DIR; give one of them")
    grid = Grid(views=_names(views), height_px=size, width_px=size)
    where = dreaming.Run(root=run)
    if dataset is not None:
        made = dreaming.frames_of_dataset(where, dataset, grid)
    else:
        chosen = tasks_of(tasks or [], _known())
        if held_out:
            chosen = tuple(task for task in chosen if task in tabletop.HELD_OUT)
        spread = chosen[:: max(1, len(chosen) // count)]
        with progress_of("tasks", quiet=as_json) as said:
            made = dreaming.frames_of_task(where, spread, grid, count=count, seed=seed, variant=variant, said=said)
    _told({"run": str(run), "new_frames": made}, f"{made} new first frames in {where.frames}", as_json)


@app.command(epilog="Example: factory dream propose runs/first --per-frame 2")
@sentences
def propose(
    run: RunFolder,
    *,
    per_frame: Annotated[int, typer.Option(min=1, help="Instructions for each first frame, at most.")] = 1,
    seeds: Annotated[int, typer.Option(min=1, help="Dreams of each instruction.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the first dream; others count on.")] = 0,
    endpoint: Url = "",
    model: Model = "",
    budget_usd: Budget = None,
    prices: Prices = "",
    as_json: AsJson = False,
) -> None:
    """Propose what to do in each first frame: by what the simulator knows, or by a multimodal model."""
    from dreams.instructions import counted
    from workers import dreaming

    where = _run(run)
    asks = _endpoint(where, endpoint, model, budget_usd, prices)
    made = dreaming.propose(where, per_frame=per_frame, seeds=seeds, seed=seed, asks=asks)
    found = counted(proposal.instruction for _, _, proposal in where.proposals())
    counts = [{"thing": thing, "target": target, "dreams": n} for (thing, target), n in sorted(found.items())]
    lines = "\n".join(f"  {each['dreams']:4d}  {each['thing']} -> {each['target']}" for each in counts)
    _told({"dreams": made, "counts": counts}, f"{made} dreams to be dreamt\n{lines}", as_json)


@app.command(epilog="Example: factory dream generate runs/first --model models/video/training/model")
@sentences
def generate(
    run: RunFolder,
    *,
    model: Annotated[Path, typer.Option(help="Folder of the video model.")],
    lora: Annotated[Path | None, typer.Option(help="Folder of an adaptation of it.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
    guidance: Annotated[float, typer.Option(help="How strongly the sentence counts; above 1 costs twice.")] = 1.0,
    batch: Annotated[int, typer.Option(min=1, help="Dreams at a time.")] = 8,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Dream every proposal of a run. Stopped and called again it goes on, with the same pictures."""
    from dreams.video import Sampling, open_model
    from workers import dreaming

    opened = open_model(model, lora=lora, device=device)
    with progress_of("dreams", quiet=as_json) as said:
        made = dreaming.dream(
            _run(run), opened, Sampling(steps=steps, guidance=guidance), batch=batch, said=said
        )  # fmt: skip
    _told({"run": str(run), "dreams": made}, f"{made} dreams in {run / 'dreams'}", as_json)


@app.command(epilog="Example: factory dream judge runs/first --classifier models/judge")
@sentences
def judge(
    run: RunFolder,
    *,
    classifier: Annotated[Path | None, typer.Option(help="Folder of an embedded classifier; asks nobody.")] = None,
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
    from workers import dreaming

    where = _run(run)
    asks = None if classifier else _endpoint(where, endpoint, model, budget_usd, prices)
    with progress_of("dreams", quiet=as_json) as said:
        if classifier is not None:
            from dreams.classifier import open_classifier

            dreaming.judge_by_classifier(where, open_classifier(classifier), said=said)
        elif asks is not None:
            dreaming.judge_by_model(where, asks, JudgeSpec(frames=pictures, votes=votes), said=said)
        else:
            raise SpecError("nobody judges: give --classifier DIR, or --endpoint URL --model NAME")
    facts = dreaming.summary(where)
    _told(facts["verdicts"], _lines(facts["verdicts"]), as_json)


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
    where, new = _run(run), {}
    with progress_of("dreams", quiet=as_json) as said:
        if motion:
            from dreams.idm import open_idm
            from dreams.shipped import IDM, shipped

            new["motion"] = dreaming.label(where, open_idm(idm or shipped(IDM), device=device), said=said)
        if latents is not None:
            from dreams.latents import open_latents

            new["latent"] = dreaming.latent(where, open_latents(latents, device=device), said=said)
    _told(new, _lines(new), as_json)


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
    from workers import dreaming

    where = _run(run)
    with progress_of("dreams", quiet=as_json) as said:
        dreaming.verify_all(where, mode=mode, said=said)
    facts = dreaming.summary(where)
    _told(facts, _tiers_said(facts), as_json)


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

    found = export_run(_run(run), out, only=only)
    lines = [f"{kind:10s} {facts['episodes']:5d} episodes  {facts['path']}" for kind, facts in found.items()]
    _told(found, "\n".join(lines), as_json)


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
    _told(made, f"{out}\n{lines}", as_json)


@app.command(epilog="Example: factory dream show runs/first --out strips.png")
@sentences
def show(
    run: RunFolder,
    *,
    out: Annotated[Path | None, typer.Option(help="Also draw dreams, verdicts and tiers into this PNG.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Dreams that are drawn.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Say what became of a run of dreams, and draw it."""
    from workers import dreaming

    where = _run(run)
    facts = dreaming.summary(where)
    if out is not None:
        from workers.dream_pictures import strips

        strips(where, out, count=count)
        facts["picture"] = str(out)
    _told(facts, _tiers_said(facts) + (f"\npicture: {out}" if out else ""), as_json)


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
    from dreams.shipped import IDM, shipped
    from workers.dream_cards import label_card as measured

    found = measured(idm or shipped(IDM), datasets, out=picture)
    lines = {
        name: f"{value['value']:.3g}  ({value['low']:.3g} to {value['high']:.3g})"
        for name, value in found.items()
        if isinstance(value, dict) and "value" in value
    }
    _told(found, _lines(lines), as_json)


@app.command(epilog="Example: factory dream control runs/real real --dataset datasets/held-out --episodes 40")
@sentences
def control(
    run: RunFolder,
    kind: Annotated[
        Literal["real", "frozen", "shuffled", "nearest"],
        typer.Argument(help="Real videos; first picture only; another's sentence; nearest training motion."),
    ],
    *,
    of: Annotated[Path | None, typer.Option(help="The run that it is a control of.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="For real videos and nearest motion.")] = None,
    model: Annotated[Path | None, typer.Option(help="For shuffled: the video model that dreamt the run.")] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Real videos, evenly spread. Default: all.")] = None,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    as_json: AsJson = False,
) -> None:
    """Fill a run with what dreams are compared with; then label and verify it like any other."""
    from workers import dream_controls, dreaming

    where = dreaming.Run(root=run)
    if kind == "real":
        found = _clips([_needed(dataset, "--dataset")], views, size, frames, stride)
        step = max(1, len(found) // episodes) if episodes else 1
        made = dream_controls.real_videos(where, _needed(dataset, "--dataset"), found[::step][:episodes])
    elif kind == "frozen":
        made = dream_controls.frozen(where, _run(_needed(of, "--of")))
    elif kind == "nearest":
        found = _clips([_needed(dataset, "--dataset")], views, size, frames, stride)
        made = dream_controls.nearest(where, _run(_needed(of, "--of")), found)
    else:
        from dreams.video import Sampling, open_model

        other = _run(_needed(of, "--of"))
        opened = open_model(_needed(model, "--model"))
        dream_controls.shuffled(where, other)
        made = dreaming.dream(where, opened, Sampling())
        dream_controls.own_sentences(where, other)
    _told({"run": str(run), "dreams": made}, f"{made} dreams of the control {kind!r} in {run}", as_json)


@app.command("run", epilog="Example: factory dream run runs/first tabletop --video models/video/training/model")
@sentences
def run_all(
    run: RunFolder,
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks or families to draw starts of.")] = None,
    *,
    video: Annotated[Path, typer.Option(help="Folder of the video model.")],
    idm: Annotated[
        Path | None, typer.Option(help="Folder of an inverse dynamics model. Default: the shipped one.")
    ] = None,
    latents: Annotated[Path | None, typer.Option(help="Folder of a latent action model.")] = None,
    classifier: Annotated[Path | None, typer.Option(help="Folder of an embedded classifier.")] = None,
    dataset: Annotated[Path | None, typer.Option(help="First frames from this LeRobot dataset instead.")] = None,
    count: Annotated[int, typer.Option(min=1, help="First frames.")] = 20,
    per_frame: Annotated[int, typer.Option(min=1, help="Instructions for each.")] = 1,
    held_out: Annotated[bool, typer.Option(help="Only tasks that models are not trained on.")] = False,
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 20,
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
    from dreams.video import open_model
    from workers import dreaming

    grid = open_model(video, device="cpu").card.grid
    asked = bool(endpoint or os.environ.get("FACTORY_LLM_URL"))
    stages: list[Callable[[], None]] = [
        lambda: frames(
            run, tasks, dataset=dataset, count=count, held_out=held_out, seed=seed, views=",".join(grid.views),
            size=grid.height_px,
        ),
        lambda: propose(
            run, per_frame=per_frame, seed=seed, endpoint=endpoint, model=model, budget_usd=budget_usd, prices=prices
        ),
        lambda: generate(run, model=video, steps=steps, device=device),
    ]  # fmt: skip
    if classifier is not None or asked:
        stages.append(
            lambda: judge(
                run, classifier=classifier, endpoint=endpoint, model=model, budget_usd=budget_usd, prices=prices
            )
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
        say(dreaming.summary(dreaming.Run(root=run)))
    else:
        for stage in stages:
            stage()


# --- shared -----------------------------------------------------------------------------------------------------------


def _known() -> dict[str, Any]:
    from sim_tasks.catalog import FAMILIES, TASKS

    return {**TASKS, **{name: task for family in FAMILIES.values() for name, task in family.items()}}


def _run(folder: Path) -> Run:
    from workers import dreaming

    where = dreaming.Run(root=folder)
    dreaming.check_exists(where)
    return where


def _needed(value: Path | None, option: str) -> Path:
    if value is None:
        raise SpecError(f"this control needs {option}")
    return value


def _names(views: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in views.split(",") if name.strip())


def _clips(datasets: list[Path], views: str, size: int, frames: int, stride: int | None) -> list[Clip]:
    """Return the episodes of datasets as clips on one clock."""
    from dreams.views import Grid
    from workers.dream_training import clips_of

    grid = Grid(views=_names(views), height_px=size, width_px=size)
    return clips_of(datasets, grid, frames=frames, stride=stride)[0]


def _endpoint(run: Run, url: str, model: str, budget_usd: float | None, prices: str) -> Endpoint | None:
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
    return Endpoint(spec, Ledger(run.root / "ledger.db"))


def _seconds(max_s: float | None) -> float:
    return float("inf") if max_s is None else max_s


def _told(facts: Any, text: str, as_json: bool) -> None:
    say(facts) if as_json else typer.echo(text)


def _lines(facts: dict[str, Any]) -> str:
    return "\n".join(
        f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}" for name, value in facts.items()
    )


def _tiers_said(facts: dict[str, Any]) -> str:
    share = facts["success"]
    came = (
        f"came true: {share['share']:.1%} of those executed (95 % interval {share['low']:.1%} to {share['high']:.1%})"
        if facts["executed"]
        else "none was executed"
    )
    return f"{facts['dreams']} dreams\nverdicts\n{_lines(facts['verdicts'])}\ntiers\n{_lines(facts['tiers'])}\n{came}"


def _training_said(facts: dict[str, Any]) -> str:
    folder = facts.get("model")
    return f"{facts['steps']} steps; " + (f"model: {folder}" if folder else "call again to go on") + (
        f"\ncurve: {facts['curve']}" if facts.get("curve") else ""
    )  # fmt: skip
