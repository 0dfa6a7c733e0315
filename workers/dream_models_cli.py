"""The commands of `factory dream` that make data and models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from factory.errors import SpecError, unknown_name
from factory.specs import GenerationSpec, RenderSpec
from workers.dream_options import (
    AsJson,
    Device,
    Frames,
    MaxS,
    Pixels,
    Rate,
    Seed,
    Share,
    Steps,
    Stride,
    Views,
    clips_of_datasets,
    known_tasks,
    lines_of,
    names_of,
    seconds,
    told,
    training_said,
)
from workers.speaking import progress_of, sentences

app = typer.Typer()
"""Part of `factory dream`."""


@app.command(epilog="Example: factory dream data tabletop --episodes 3000 --size 64 --out datasets/tabletop")
@sentences
def data(
    tasks: Annotated[list[str], typer.Argument(help="Tasks or families; a family's held-out tasks are left out.")],
    *,
    episodes: Annotated[int, typer.Option(min=1, help="How many, of all tasks together.")],
    out: Annotated[Path, typer.Option(help="Folder of the dataset.")],
    variant: Annotated[str, typer.Option(help="Which starts.")] = "D0",
    seed: Seed = 0,
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

    chosen = tasks_of(tasks, known_tasks())
    apart = set(tabletop.HELD_OUT)
    chosen = tuple(task for task in chosen if task in tasks or (task in apart) == held_out)
    request = DataRequest(
        tasks=chosen,
        episodes=episodes,
        out=out,
        generation=GenerationSpec(variant=variant, seed=seed, use_symmetry=True, paced_bridge=True),
        render=RenderSpec(cameras=names_of(views), width=size, height=size, preset="fast", every=every),
        workers=workers,
    )
    with progress_of("episodes", quiet=as_json) as said:
        make_data(request, said)
    told({"dataset": str(out), "episodes": episodes, "tasks": len(request.shares)}, f"dataset: {out}", as_json)


@app.command(epilog="Example: factory dream finetune datasets/tabletop --out models/video --steps 4000")
@sentences
def finetune(
    datasets: Annotated[list[Path], typer.Argument(help="LeRobot datasets.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the training; the model is its subfolder 'model'.")],
    model: Annotated[
        Path | None, typer.Option(help="Folder or shipped name of the video model to begin with. Default: a new one.")
    ] = None,
    new: Annotated[Literal["tiny", "small", "base"], typer.Option(help="Size of a new model.")] = "small",
    lora: Annotated[int | None, typer.Option(min=1, help="Rank of an adaptation. Default: all weights.")] = None,
    steps: Steps = 2000,
    batch: Annotated[int, typer.Option(min=1, help="Clips in a step.")] = 16,
    rate: Rate = 1e-3,
    codec_steps: Annotated[
        int, typer.Option(min=1, help="Steps of a new or grown model's autoencoder, which come first; tiny has none.")
    ] = 4500,
    episodes_fraction: Share = 1.0,
    sources_only: Annotated[
        bool, typer.Option("--sources-only", help="Only as many episodes as the dataset had source demonstrations.")
    ] = False,
    views: Annotated[
        str | None, typer.Option(help="Comma-separated cameras. Default: the model's; dream_view in a new one.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, help="Height and width of each view, pixels: a model grows to it. Default: its own; 64."),
    ] = None,
    frames: Frames = 33,
    stride: Stride = None,
    seed: Seed = 0,
    max_s: MaxS = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Teach a video model the episodes of datasets, or make a small one from nothing; draws its curve and samples."""
    from dreams.shipped import VIDEO, named
    from workers.dream_training import VideoTraining, train_video

    found = train_video(
        VideoTraining(
            datasets=tuple(datasets), out=out, base=named(model, VIDEO) if model else None,
            size=new, lora=lora, steps=steps, batch=batch, rate=rate,
            codec_steps=codec_steps, episodes_fraction=episodes_fraction, sources_only=sources_only,
            views=names_of(views) if views else None, size_px=size, frames=frames, stride=stride, seed=seed,
            max_s=max_s, device=device,
        )
    )  # fmt: skip
    told(found, training_said(found), as_json)


@app.command("train-idm", epilog="Example: factory dream train-idm datasets/tabletop --out models/idm --steps 3000")
@sentences
def train_idm(
    datasets: Annotated[list[Path], typer.Argument(help="LeRobot datasets whose columns name the hands.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    steps: Steps = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Windows in a step.")] = 16,
    rate: Rate = 6e-3,
    head: Annotated[Literal["regression", "flow"], typer.Option(help="How actions are said.")] = "regression",
    patch: Annotated[
        int | None,
        typer.Option(min=8, help="Side of the patch it sees as one, a multiple of 8. Default: an eighth of a view."),
    ] = None,
    episodes_fraction: Share = 1.0,
    through: Annotated[
        Path | None,
        typer.Option(help="Video model: its autoencoder shows each clip a second time, as soft as dreams are."),
    ] = None,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    seed: Seed = 0,
    max_s: MaxS = None,
    device: Device = "cpu",
    as_json: AsJson = False,
) -> None:
    """Train an inverse dynamics model: from pictures to how the hands moved."""
    from dreams.descent import Schedule
    from dreams.embodiments import starts_of
    from dreams.idm_net import IdmSpec
    from dreams.idm_training import train_idm as train
    from dreams.shipped import VIDEO, named
    from dreams.video import open_model
    from dreams.vision import EyeSpec, patch_of

    video = open_model(named(through, VIDEO), device=device) if through else None  # before minutes of reading
    clips = clips_of_datasets(datasets, views, size, frames, stride, episodes_fraction)
    starts = {name: hands for each in datasets for name, hands in starts_of(each).items()}
    schedule = Schedule(steps=steps, batch=batch, rate=rate, seed=seed)
    spec = IdmSpec(head=head, eye=EyeSpec(patch_px=patch or patch_of(size)))
    again = [video.seen_through(clip) for clip in clips] if video else []
    model = train(clips, out, spec, schedule, again=again, starts=starts, max_s=seconds(max_s), device=device)
    facts = {"model": str(out), "version": model.card.version, "errors": dict(model.card.errors), "clips": len(clips)}
    told(facts, f"inverse dynamics model: {out}\n{lines_of(dict(model.card.errors))}", as_json)


@app.command("train-latents", epilog="Example: factory dream train-latents videos/ --films --out models/latents")
@sentences
def train_latents(
    data: Annotated[list[Path], typer.Argument(help="LeRobot datasets, or folders of mp4 files with --films.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
    films: Annotated[bool, typer.Option("--films", help="The folders hold mp4 files without actions.")] = False,
    steps: Steps = 3000,
    batch: Annotated[int, typer.Option(min=1, help="Pairs of pictures in a step.")] = 32,
    rate: Rate = 1e-3,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    seed: Seed = 0,
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
        clips = clips_of_datasets(data, views, size, frames, stride)
    schedule = Schedule(steps=steps, batch=batch, rate=rate, seed=seed)
    model = train(clips, out, LatentSpec(), schedule, max_s=seconds(max_s), device=device)
    facts = {"model": str(out), "version": model.version, "clips": len(clips)}
    told(facts, f"latent action model: {out}", as_json)


@app.command(epilog="Example: factory dream play tabletop --each 2 --out plays/tabletop")
@sentences
def play(
    tasks: Annotated[list[str], typer.Argument(help="Tasks of the tabletop family; held-out ones are left out.")],
    *,
    each: Annotated[int, typer.Option(min=1, help="Plays of each outcome in each task.")] = 2,
    out: Annotated[Path, typer.Option(help="Folder of the examples.")],
    outcomes: Annotated[str, typer.Option(help="Comma-separated outcomes. Default: all.")] = "",
    variant: Annotated[str, typer.Option(help="Which starts.")] = "D0",
    seed: Seed = 0,
    views: Views = "dream_view",
    size: Pixels = 64,
    frames: Frames = 33,
    stride: Stride = None,
    held_out: Annotated[bool, typer.Option(help="Only the tasks that models are not trained on.")] = False,
    as_json: AsJson = False,
) -> None:
    """Play failures in the simulator, and successes, and film them: what the embedded judge learns from."""
    from dreams.timebase import TimeBase
    from dreams.views import Grid
    from sim_tasks.catalog import find_task
    from sim_tasks.demonstrators.tabletop_plays import PLAYS
    from sim_tasks.tasks import tabletop
    from workers.dream_data import tasks_of
    from workers.dream_judging import PlaysRequest, make_plays

    wanted = names_of(outcomes)
    for name in wanted:
        if name not in PLAYS:
            raise SpecError(unknown_name("outcome", name, PLAYS))
    chosen = tasks_of(tasks, known_tasks())
    chosen = tuple(task for task in chosen if task in tasks or (task in tabletop.HELD_OUT) == held_out)
    request = PlaysRequest(
        tasks=chosen,
        each=each,
        out=out,
        grid=Grid(views=names_of(views), height_px=size, width_px=size),
        time=TimeBase(control_hz=find_task(chosen[0]).robot.control_hz, stride=stride or 4, frames=frames),
        seed=seed,
        variant=variant,
        outcomes=wanted,
    )
    with progress_of("tasks", quiet=as_json) as said:
        count = make_plays(request, said)
    told({"examples": count, "folder": str(out)}, f"{count} examples in {out}", as_json)


@app.command(
    "train-judge", epilog="Example: factory dream train-judge plays/tabletop --dataset datasets/tabletop --out judge"
)
@sentences
def train_judge(
    plays: Annotated[list[Path], typer.Argument(help="Folders that `factory dream play` made.")],
    *,
    dataset: Annotated[list[Path] | None, typer.Option(help="LeRobot datasets whose episodes are successes.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the judge.")],
    spoilt: Annotated[int, typer.Option(min=1, help="Good clips that are spoilt in each way.")] = 150,
    steps: Steps = 3000,
    batch: Annotated[int, typer.Option(min=2, help="Clips in a step.")] = 12,
    rate: Rate = 2e-3,
    seed: Seed = 0,
    max_s: MaxS = None,
    as_json: AsJson = False,
) -> None:
    """Train the embedded judge: a small classifier that has seen successes, failures and spoilt clips."""
    from workers.dream_judging import train_judge as train

    found = train(
        plays, dataset or [], out, spoilt=spoilt, steps=steps, batch=batch, rate=rate, seed=seed, max_s=seconds(max_s)
    )
    text = f"judge: {out}" if found["model"] else "paused; call again to go on"
    told(found, text, as_json)
