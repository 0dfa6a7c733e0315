"""The command `factory`. Thin: it parses, calls, and prints; everything it does is a function elsewhere.

Exit codes: 0 done, 1 done but not what was wanted (fewer episodes than asked, a replay that differs), 2 bad input,
130 stopped with Ctrl-C.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, cast

import typer

from factory.specs import GenerationSpec, RenderSpec, Selection, SelectionStrategy
from workers import processes
from workers.dream_cli import app as dream_app
from workers.isaac_cli import app as isaac_app
from workers.speaking import say, sentences

processes.single_threaded()

app = typer.Typer(
    name="factory",
    help="Turn ten robot demonstrations into thousands of verified LeRobot episodes.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
demos_app = typer.Typer(help="Look into demonstration files.", no_args_is_help=True)
app.add_typer(demos_app, name="demos")
app.add_typer(dream_app, name="dream")
app.add_typer(isaac_app, name="isaac")

P = ParamSpec("P")
R = TypeVar("R")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON value on standard output, for machines.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes. Default: one per usable core.")]


def main() -> None:
    """Run the command line."""
    app()


# --- tasks ------------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: factory tasks --pictures tasks.png")
@sentences
def tasks(
    *,
    pictures: Annotated[Path | None, typer.Option(help="Also write a contact sheet of all tasks to this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the tasks: what they are, their variants, subtasks and clearances."""
    from sim_tasks.catalog import ISAAC_TASKS, all_tasks, plugin_problems
    from workers import printing

    drawn = all_tasks()
    known = {**drawn, **ISAAC_TASKS}
    if pictures is not None:
        from workers.pictures import contact_sheet

        contact_sheet(list(drawn.values()), pictures)
    if as_json:
        say([printing.task_facts(task) for task in known.values()])
    else:
        printing.print_tasks(known, plugin_problems())
        if pictures is not None:
            typer.echo(f"contact sheet: {pictures}")


# --- demos ------------------------------------------------------------------------------------------------------------


@demos_app.command("check", epilog="Example: factory demos check my_demos.hdf5 --task stack")
@sentences
def demos_check(
    file: Annotated[
        Path, typer.Argument(help="HDF5 file: robosuite, robomimic/MimicGen, Isaac Lab Mimic, or our seeds.")
    ],
    *,
    task: Annotated[str | None, typer.Option(help="Which task it shows. Default: by the file's environment.")] = None,
    segmentation: Annotated[
        Literal["stored", "predicates", "automatic"], typer.Option(help="Where subtask boundaries come from.")
    ] = "stored",
    replay: Annotated[bool, typer.Option(help="Also play the actions in the simulator.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what is in a file, what is wrong with it, where the subtasks were cut, and whether it replays.

    Exit code 0 when the file can be read, warnings included; 2 when it cannot.
    """
    from workers import printing
    from workers.checks import check_file

    check = check_file(file, task_name=task, method=segmentation, replay=replay)
    if as_json:
        say(printing.check_facts(check))
    else:
        printing.print_check(check)


# --- generate ---------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: factory generate stack --demos my.hdf5 --episodes 1000 --seed 7 --out datasets/stack")
@sentences
def generate(
    task: Annotated[str, typer.Argument(help="A task's name; see `factory tasks`.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(help="LeRobot dataset folder to make. Default: datasets/TASK, with --robot TASK-ROBOT."),
    ] = None,
    robot: Annotated[
        str, typer.Option(help="Have another robot do it, e.g. UR5e; the demonstrations are the task's own robot's.")
    ] = "",
    demos: Annotated[
        list[Path] | None, typer.Option(help="Demonstration file; repeatable. Default: shipped seeds.")
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option(
            help="Subtask boundaries set by hand, as JSON or a file of it: "
            """'{"my.hdf5": {"demo_0": {"right": [41]}}}'."""
        ),
    ] = None,
    episodes: Annotated[int | None, typer.Option(min=1, help="Stop after N successes (in attempt order).")] = None,
    attempts: Annotated[int | None, typer.Option(min=1, help="Instead: exactly N attempts.")] = None,
    max_attempts: Annotated[
        int | None, typer.Option(min=1, help="Give up after N attempts. Default: 20 per episode.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the job.")] = 0,
    variant: Annotated[str, typer.Option(help="Distribution of starts: D0, D1, D2.")] = "D0",
    workers: Workers = None,
    cameras: Annotated[
        str | None, typer.Option(help="Comma-separated camera names; empty for no images. Default: the task's own.")
    ] = None,
    size: Annotated[int, typer.Option(help="Image width and height in pixels.")] = 256,
    preset: Annotated[Literal["faithful", "fast"], typer.Option(help="Image quality.")] = "faithful",
    codec: Annotated[Literal["h264", "av1"], typer.Option(help="Video codec.")] = "h264",
    visual_seed: Annotated[
        int | None, typer.Option(help="Randomise lights and textures per episode with this seed.")
    ] = None,
    camera_jitter: Annotated[
        float, typer.Option(help="Camera displacement in metres (std), with --visual-seed.")
    ] = 0.0,
    extras: Annotated[
        str, typer.Option(help="Comma-separated, of segmentation, depth: kept exactly, for every camera.")
    ] = "",
    keep_failed: Annotated[
        bool, typer.Option(help="Also keep failed attempts, as a second dataset OUT-failed.")
    ] = False,
    noise: Annotated[
        float | None, typer.Option(help="Action noise, normalised (MimicGen: 0.05). Default: the task's.")
    ] = None,
    select: Annotated[SelectionStrategy | None, typer.Option(help="How source segments are chosen.")] = None,
    top_k: Annotated[int, typer.Option(help="With --select: draw among this many nearest.")] = 3,
    select_per: Annotated[
        Literal["episode", "arm", "subtask"],
        typer.Option(help="Choose a source once for all arms, once for each arm, or for each subtask."),
    ] = "episode",
    interpolation_steps: Annotated[
        int | None, typer.Option(min=0, help="Bridge length. Default: the task's (5).")
    ] = None,
    paced_bridge: Annotated[bool, typer.Option(help="Lengthen bridges that would be too fast to follow.")] = True,
    fixed_steps: Annotated[int | None, typer.Option(min=0, help="Steps to wait at a segment's start.")] = None,
    keep: Annotated[
        Literal["hand", "object"], typer.Option(help="What keeps its source motion once something is held.")
    ] = "hand",
    symmetry: Annotated[bool, typer.Option(help="Use the objects' symmetries to carry with the smallest turn.")] = True,
    coordination: Annotated[
        Literal["task", "off", "transform", "translate", "replay"],
        typer.Option(help="Arms that act as one: as the task says, each alone, or all moved by this scheme."),
    ] = "task",
    coordination_noise: Annotated[
        float, typer.Option(min=0, help="Factor on the task's noise of what such arms share; 0 for none.")
    ] = 1.0,
    ordering: Annotated[
        Literal["task", "off"], typer.Option(help="Arms that wait for another: as the task says, or never.")
    ] = "task",
    transit: Annotated[
        Literal["straight", "planned"],
        typer.Option(help="Bridges between segments: straight, or around what a straight one would hit."),
    ] = "straight",
    mimicgen: Annotated[
        bool, typer.Option("--mimicgen", help="Plain MimicGen: --keep hand --no-symmetry --no-paced-bridge.")
    ] = False,
    segmentation: Annotated[
        Literal["stored", "predicates", "automatic"], typer.Option(help="Where subtask boundaries come from.")
    ] = "stored",
    paraphrases: Annotated[bool, typer.Option(help="Vary the wording of the instruction.")] = False,
    early_ending: Annotated[bool, typer.Option(help="End attempts as soon as they can be proved hopeless.")] = True,
    backend: Annotated[
        Literal["robosuite", "robosuite/exact", "mjwarp", "kinematic", "isaaclab"],
        typer.Option(
            help="Simulator: robosuite with compiled control, or with its own controls bit for bit; mjwarp runs many "
            "attempts in lock step on a GPU and never twice the same; kinematic has no physics; isaaclab is for Isaac "
            "Lab's tasks, where it is installed."
        ),
    ] = "robosuite",
    worlds: Annotated[
        int | None,
        typer.Option(min=1, help="With --backend mjwarp: attempts in lock step. Default: 1024, on --device cpu 8."),
    ] = None,
    device: Annotated[
        Literal["cuda:0", "cpu"] | None,
        typer.Option(help="With --backend mjwarp: the GPU (default), or the same kernels on the CPU."),
    ] = None,
    max_wall_s: Annotated[
        float | None, typer.Option(min=0.001, help="Give up after so many seconds, with what is there.")
    ] = None,
    min_success_rate: Annotated[
        float | None, typer.Option(min=0, max=1, help="Give up when, after 100 attempts or more, fewer succeed.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(envvar="FACTORY_SERVER", help="Have this service do it, e.g. http://127.0.0.1:8000.")
    ] = None,
    key: Annotated[str | None, typer.Option(envvar="FACTORY_KEY", help="API key for --server.")] = None,
    as_json: AsJson = False,
) -> None:
    """Generate verified episodes and write them as one LeRobot v3.0 dataset with a report.

    The same command again goes on where it was interrupted. Results depend on the seed alone, not on the number of
    workers. With --server a service does the work and the dataset is fetched when it is there.
    """
    from sim_tasks.backends.compiling import is_compiled
    from workers import printing
    from workers.generate import Request, describe
    from workers.generate import generate as run

    if server is None and backend == "robosuite" and not is_compiled():
        typer.secho("compiling the control path, once on this machine: about a minute", err=True, dim=True)

    request = Request(
        task=task,
        robot=robot,
        out=out or Path("datasets") / (f"{task}-{robot}" if robot else task),
        demos=tuple(demos or ()),
        cuts=_cuts(cuts),
        episodes=episodes if episodes is not None or attempts is not None else 20,
        attempts=attempts,
        max_attempts=max_attempts,
        max_wall_s=max_wall_s,
        min_success_rate=min_success_rate,
        keep_failed=keep_failed,
        generation=GenerationSpec(
            variant=variant,
            seed=seed,
            select_per=select_per,
            selection=None if select is None else Selection(strategy=select, top_k=top_k),
            noise_normalised=noise,
            interpolation_steps=interpolation_steps,
            fixed_steps=fixed_steps,
            paced_bridge=paced_bridge and not mimicgen,
            keep="hand" if mimicgen else keep,
            use_symmetry=symmetry and not mimicgen,
            coordination=coordination,
            coordination_noise=coordination_noise,
            ordering=ordering,
            transit=transit,
            segmentation=segmentation,
            paraphrases=paraphrases,
            early_ending=early_ending,
        ),
        render=_render_spec(_cameras(cameras, task, robot), size, preset, codec, visual_seed, camera_jitter, extras),
        backend=backend,
        worlds=worlds,
        device=device,
        command=_command_line(),
    )
    with printing.Progress(
        f"{task} {variant}",
        wanted=request.episodes or request.attempts,
        count_attempts=request.episodes is None,
        quiet=as_json,
    ) as progress:
        if server is None:
            finished = run(request, workers=workers or processes.usable_cores(), watcher=progress)
        else:
            from workers.remote import generate_remotely

            finished = generate_remotely(request, server=server, key=key, watcher=progress)
    if as_json:
        say(describe(finished))
    else:
        printing.print_finished(finished)
    if episodes is not None and finished.episodes < episodes:
        raise typer.Exit(1)


# --- bench ------------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: factory bench --task stack --json > stack.json")
@sentences
def bench(
    *,
    task: Annotated[str, typer.Option(help="A task's name; see `factory tasks`.")] = "stack",
    variant: Annotated[str, typer.Option(help="Distribution of starts: D0, D1, D2.")] = "D0",
    demos: Annotated[
        list[Path] | None, typer.Option(help="Demonstration file; repeatable. Default: shipped seeds.")
    ] = None,
    mimicgen: Annotated[bool, typer.Option("--mimicgen", help="Generate with plain MimicGen's settings.")] = False,
    without: Annotated[
        str,
        typer.Option(help="Comma-separated parts to leave out: control, engine, scenes, generate, cameras, render."),
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Alternations of what is compared.")] = 7,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes generated without pictures.")] = 400,
    camera_episodes: Annotated[int, typer.Option(min=1, help="Episodes generated with two cameras.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all attempts.")] = 2026,
    workers: Workers = None,
    mimicgen_python: Annotated[
        Path | None,
        typer.Option(help="Interpreter of an environment with MimicGen from its source; runs it beside, on --demos."),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Also measure the GPU road; needs a CUDA device.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Write the figures as an SVG picture.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure what control, engine and rendering add to what the physics costs, as ratios within one run.

    Takes a few minutes. Nothing is kept but what is printed; CPU time is counted, so other work on the machine blurs
    the figures only a little.
    """
    from workers import bench as benching
    from workers import printing

    request = benching.BenchRequest(
        task=task,
        variant=variant,
        demos=tuple(demos or ()),
        mimicgen_settings=mimicgen,
        parts=benching.parts_without([part for part in without.split(",") if part]),
        rounds=rounds,
        episodes=episodes,
        camera_episodes=camera_episodes,
        workers=workers or processes.usable_cores(),
        seed=seed,
        mimicgen_python=mimicgen_python,
        gpu=gpu,
    )
    facts = benching.bench(request, tell=lambda what: typer.secho(f"measuring {what} ...", err=True, dim=True))
    if plot is not None:
        from workers.bench_plot import picture

        plot.write_text(picture(facts), encoding="utf-8")
    if as_json:
        say(facts)
    else:
        printing.print_bench(facts)


# --- warm -------------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: factory warm --task stack --task square")
@sentences
def warm(
    *,
    task: Annotated[list[str] | None, typer.Option(help="A task's name; repeatable. Default: all.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compile the control path and simplify meshes now, so that nobody's first attempt or picture waits for it.

    What is made is kept in FACTORY_CACHE_DIR, else in the user's cache folder. Machines that read it as
    FACTORY_WARM_DIR need no folder to write to; another kind of CPU or another version makes its own.
    """
    from dataclasses import asdict

    from sim_tasks.catalog import all_tasks
    from workers.warm import warm as make

    done = []
    for warmed in make(task or list(all_tasks())):
        done.append(asdict(warmed))
        if not as_json:
            meshes = f"meshes {warmed.meshes_made} made, {warmed.meshes_there} there"
            typer.echo(f"{warmed.task}: machine code {warmed.machine_code}, {meshes}, {warmed.cpu_s} s")
    if as_json:
        say(done)
    elif done:
        typer.echo(f"kept in {done[-1]['folder']}")


# --- service ----------------------------------------------------------------------------------------------------------

Data = Annotated[
    Path | None, typer.Option(help="Folder for everything the service keeps. Default: FACTORY_DATA, else ./data.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database",
        help="Job book: postgresql://USER@HOST/NAME or sqlite:///FILE. Default: FACTORY_DATABASE_URL, else SQLite in "
        "the data folder. A password is read from the file that FACTORY_DATABASE_PASSWORD_FILE names.",
    ),
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Artefacts: a folder or a URL such as s3://bucket/prefix. Default: FACTORY_STORE_URL, else DATA/store.",
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(envvar="FACTORY_RAY_ADDRESS", help="With --executor ray: a running cluster. Default: start one here."),
]


@app.command(epilog="Example: factory serve --port 8000 --data ./data")
@sentences
def serve(
    *,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Default: FACTORY_HOST, else 127.0.0.1.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port to listen on. Default: FACTORY_PORT, else 8000.")
    ] = None,
    data: Data = None,
    database: DatabaseUrl = None,
    store: StoreUrl = None,
    executor: Annotated[
        Literal["local", "ray", "none"], typer.Option(help="Who does the work; none: only API and dashboard.")
    ] = "local",
    ray_address: RayAddress = None,
    workers: Workers = None,
) -> None:
    """Serve the job API and the dashboard, with a dispatcher and its workers beside them.

    Nothing else has to run. Everything can be killed at any moment and started again: no committed work is lost. An
    address that other machines can reach needs an API key first: factory keys create.
    """
    from workers import service

    service.serve(
        _settings(data, database, store_url=store, host=host, port=port),
        executor=executor,
        workers=workers,
        ray_address=ray_address,
    )


@app.command(epilog="Example: factory dispatch --data ./data --executor ray --ray-address ray-head:6379")
@sentences
def dispatch(
    *,
    data: Data = None,
    database: DatabaseUrl = None,
    store: StoreUrl = None,
    executor: Annotated[Literal["local", "ray"], typer.Option(help="Who does the work.")] = "local",
    ray_address: RayAddress = None,
    workers: Workers = None,
) -> None:
    """Hand out work without serving the API; any number of dispatchers may share a job book."""
    from workers import service

    service.dispatch(
        _settings(data, database, store_url=store),
        executor=executor,
        workers=workers,
        ray_address=ray_address,
    )


@app.command(epilog="Example: factory worker --server https://factory.example.org --key-file ~/.factory-key --slots 8")
@sentences
def worker(
    *,
    server: Annotated[
        str, typer.Option(envvar="FACTORY_SERVER", help="URL of the service, e.g. https://factory.example.org.")
    ],
    key: Annotated[
        str | None,
        typer.Option(
            envvar="FACTORY_API_KEY",
            help="API key with scope worker. Others may read a command line: rather use the variable or --key-file.",
        ),
    ] = None,
    key_file: Annotated[Path | None, typer.Option(help="File that holds the API key.")] = None,
    capability: Annotated[
        list[str] | None,
        typer.Option(help="What this machine does, of simulate, render, gpu, isaac; repeatable. Default: simulate."),
    ] = None,
    slots: Annotated[int | None, typer.Option(min=1, help="Worker processes. Default: one per usable core.")] = None,
    batch_s: Annotated[
        float, typer.Option(min=0.0, help="Take about so many seconds of work at a time, by measured speed.")
    ] = 5.0,
    idle_s: Annotated[
        float | None, typer.Option(min=0.0, help="End when there was nothing to do for so long. Default: never.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Lend this machine to a service that it reaches over HTTP: take attempts, make them, send what was kept.

    Only outgoing connections are made. Ctrl-C finishes the attempts in progress and gives the rest back; killed or cut
    off at any moment, nothing is lost. The service has to be of the same version.
    """
    from dataclasses import asdict

    from workers.lending import Board, Lending, key_from, lend, progress_line

    asked = Lending(
        server=server.rstrip("/"),
        key=key_from(key, key_file),
        capabilities=tuple(dict.fromkeys(capability or ("simulate",))),
        slots=slots or processes.usable_cores(),
        lease_work_s=batch_s,
        idle_s=idle_s,
    )
    begun = time.monotonic()
    totals = lend(asked, Board(quiet=as_json))
    if as_json:
        say(asdict(totals))
    else:
        typer.echo(progress_line(totals, time.monotonic() - begun))


@app.command(epilog="Example: factory migrate --database postgresql://factory@localhost/factory")
@sentences
def migrate(
    *,
    data: Data = None,
    database: DatabaseUrl = None,
    wait_s: Annotated[float, typer.Option(min=0, help="Wait so long for a database that is still starting.")] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Bring the job book's tables to this version's form; `serve` and `dispatch` do it by themselves."""
    from workers import service

    book = service.wait_for_database(_settings(data, database).database_url, seconds=wait_s)
    book.migrate()
    shown = book.url.render_as_string(hide_password=True)
    book.close()
    if as_json:
        say({"database": shown, "revision": "head"})
    else:
        typer.echo(f"{shown} is up to date")


keys_app = typer.Typer(help="API keys of a service.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")


@keys_app.command("create", epilog="Example: factory keys create --name laptop --scopes read,write")
@sentences
def keys_create(
    *,
    name: Annotated[str, typer.Option(help="What the key is for.")],
    scopes: Annotated[str, typer.Option(help="Comma-separated, of read, write, worker, admin.")] = "read,write",
    days: Annotated[float | None, typer.Option(min=0, help="Days until it expires. Default: never.")] = None,
    secret_file: Annotated[
        Path | None, typer.Option(help="Register the key written in this file instead of making one; once is enough.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the key to this file, readable by its owner only.")] = None,
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Make an API key and show it once; only its hash is kept."""
    from api import keys
    from api.database import now
    from workers import service

    book = service.wait_for_database(_settings(data, database).database_url)
    book.migrate()
    asked = [scope.strip() for scope in scopes.split(",") if scope.strip()]
    secret = ""
    with book.transaction() as session:
        if secret_file is not None:
            key = keys.adopt_key(session, secret_file.read_text().strip(), name=name, scopes=asked)
        else:
            expires_at = None if days is None else now(session) + days * 86400.0
            key, secret = keys.create_key(session, name=name, scopes=asked, expires_at=expires_at)
    book.close()
    if out is not None and secret:
        out.touch(mode=0o600)
        out.write_text(secret + "\n")
    shown = secret if secret and out is None else None
    if as_json:
        say({"id": key.id, "name": key.name, "scopes": key.scopes, "key": shown})
    else:
        typer.echo(shown or f"key {key.id} ({', '.join(key.scopes)})")


@keys_app.command("list", epilog="Example: factory keys list")
@sentences
def keys_list(*, data: Data = None, database: DatabaseUrl = None, as_json: AsJson = False) -> None:
    """List the API keys, without their secrets."""
    from api import keys
    from workers import service

    book = service.wait_for_database(_settings(data, database).database_url)
    book.migrate()
    with book.reading() as session:
        rows = keys.listed_keys(session)
    book.close()
    if as_json:
        say([{"id": k.id, "name": k.name, "scopes": k.scopes, "revoked_at": k.revoked_at} for k in rows])
    else:
        for key in rows:
            typer.echo(f"{key.id}  {key.name}  {','.join(key.scopes)}{'  revoked' if key.revoked_at else ''}")


@keys_app.command("revoke", epilog="Example: factory keys revoke key_1f0c2d3e4f5a6b7c")
@sentences
def keys_revoke(
    key: Annotated[str, typer.Argument(help="The key's id; see `factory keys list`.")],
    *,
    data: Data = None,
    database: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """End an API key at once."""
    from api import keys
    from workers import service

    book = service.wait_for_database(_settings(data, database).database_url)
    with book.transaction() as session:
        keys.revoke_key(session, key)
    book.close()
    if as_json:
        say({"id": key, "revoked": True})
    else:
        typer.echo(f"revoked {key}")


# --- datasets ---------------------------------------------------------------------------------------------------------


@app.command(epilog="Example: factory export datasets/stack --to robomimic --out stack.hdf5")
@sentences
def export(
    dataset: Annotated[Path, typer.Argument(help="A dataset made by `factory generate`.")],
    *,
    to: Annotated[
        Literal["robomimic", "gr00t", "lerobot"],
        typer.Option(help="robomimic HDF5, LeRobot v2.1 for GR00T with a fine-tuning kit, or LeRobot rendered anew."),
    ],
    out: Annotated[Path, typer.Option(help="File or folder to make.")],
    cameras: Annotated[
        str | None,
        typer.Option(help="For lerobot: comma-separated camera names; empty for none. Default: the task's own."),
    ] = None,
    size: Annotated[int, typer.Option(help="For lerobot: image width and height in pixels.")] = 256,
    preset: Annotated[Literal["faithful", "fast"], typer.Option(help="For lerobot: image quality.")] = "faithful",
    codec: Annotated[Literal["h264", "av1"], typer.Option(help="For lerobot: video codec.")] = "h264",
    visual_seed: Annotated[int | None, typer.Option(help="For lerobot: seed of lights and textures.")] = None,
    camera_jitter: Annotated[float, typer.Option(help="For lerobot: camera displacement in metres (std).")] = 0.0,
    extras: Annotated[str, typer.Option(help="For lerobot: comma-separated, of segmentation, depth.")] = "",
    horizon: Annotated[
        int, typer.Option(min=1, help="For gr00t: actions predicted at once; relative actions are described for each.")
    ] = 16,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write a finished dataset in another form, without simulating again."""
    from factory.dataset_reading import open_dataset
    from workers import printing
    from workers.export import export_dataset

    job, render = open_dataset(dataset).job, None
    if to == "lerobot":
        names = _cameras(cameras, str(job.get("task")), str(job.get("robot", "")))
        render = _render_spec(names, size, preset, codec, visual_seed, camera_jitter, extras)
    with printing.Progress("export", quiet=as_json) as progress:
        made = export_dataset(
            dataset,
            to=to,
            out=out,
            render=render,
            horizon=horizon,
            workers=workers or processes.usable_cores(),
            watcher=progress,
            command=_command_line(),
        )
    if as_json:
        say({"path": str(made)})
    else:
        typer.echo(f"wrote {made}")


@app.command(epilog="Example: factory inspect datasets/stack --verify")
@sentences
def inspect(
    dataset: Annotated[Path, typer.Argument(help="A dataset, or a LeRobot set (v2.0 to v3.0) made elsewhere.")],
    *,
    verify: Annotated[bool, typer.Option("--verify", help="Also decode every video and check every index.")] = False,
    pictures: Annotated[
        Path | None, typer.Option(help="Of a set made elsewhere: also write a contact sheet to this PNG or JPEG.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show counts, ranges, statistics, failures, and which executor made the episodes.

    Of a set made elsewhere: counts, columns, cameras, and what is sloppy in it.
    """
    from factory.errors import DatasetError
    from factory.foreign import is_foreign
    from workers import printing
    from workers.inspecting import inspect_dataset

    if is_foreign(dataset):
        if verify:
            raise DatasetError(f"{dataset} has no provenance to verify it against; leave out --verify")
        _inspect_foreign(dataset, pictures, as_json=as_json)
        return
    if pictures is not None:
        raise DatasetError(f"{dataset} was made here, and its report.html has the pictures; leave out --pictures")
    facts = inspect_dataset(dataset, verify=verify)
    if as_json:
        say(facts)
    else:
        printing.print_inspection(facts)


def _inspect_foreign(root: Path, pictures: Path | None, *, as_json: bool) -> None:
    from factory.foreign_set import look
    from workers.foreign import foreign_facts, foreign_sentences, foreign_sheet

    found = look(root)
    facts = foreign_facts(found)
    if pictures is not None:
        facts["pictures"] = str(pictures)
        foreign_sheet(found, pictures)
    if as_json:
        say(facts)
        return
    for line in foreign_sentences(facts):
        typer.echo(line)
    if pictures is not None:
        typer.echo(f"contact sheet: {pictures}")


@app.command("import", epilog="Example: factory import others/pick_place --out datasets/pick_place")
@sentences
def import_dataset(
    dataset: Annotated[Path, typer.Argument(help="A LeRobot set (v2.0, v2.1 or v3.0) made elsewhere.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to make: a clean LeRobot v2.1 set.")],
    as_json: AsJson = False,
) -> None:
    """Copy a LeRobot set made elsewhere, counted, numbered, timed and described anew.

    Frames are not encoded again. Episodes that cannot be copied, such as those lacking frames, are left out and named.
    """
    from factory.foreign_import import import_set
    from workers.foreign import foreign_facts

    found, left_out = import_set(dataset, out)
    if as_json:
        say({"path": str(out), "left_out": left_out, "from": foreign_facts(found)})
        return
    for finding in found.findings:
        typer.echo(f"  - {finding}")
    for index, why in left_out.items():
        typer.echo(f"episode {index} was left out: {why}")
    typer.echo(f"wrote {len(found.lengths) - len(left_out)} episodes to {out}")


@app.command(epilog="Example: factory replay datasets/stack:3")
@sentences
def replay(
    episode: Annotated[str, typer.Argument(help="DATASET:INDEX for one episode, DATASET for all.")],
    *,
    way: Annotated[
        Literal["actions", "seed", "both"], typer.Option(help="From stored actions, made again from the seed, or both.")
    ] = "both",
    as_json: AsJson = False,
) -> None:
    """Play episodes again in a fresh simulator and compare every bit with what is stored.

    Exit code 1 when something differs.
    """
    from dataclasses import asdict

    from workers import printing
    from workers.replaying import replay_dataset

    named = re.fullmatch(r"(.+):([0-9]+)", episode)
    root, index = named.groups() if named else (episode, "")
    ways = ("actions", "seed") if way == "both" else (way,)
    results = []
    for result in replay_dataset(Path(root), episode=int(index) if index else None, ways=ways):
        results.append(result)
        if not as_json:
            printing.print_replay(result)
    if as_json:
        say([asdict(result) for result in results])
    if not all(result.equal for result in results):
        raise typer.Exit(1)


# --- recording --------------------------------------------------------------------------------------------------------


@app.command("record-seeds", epilog="Example: factory record-seeds stack --count 10 --seed 1 --out my_seeds.hdf5")
@sentences
def record_seeds(
    task: Annotated[str, typer.Argument(help="A task's name; see `factory tasks`.")],
    *,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: TASK_seeds.hdf5.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Successful demonstrations to record.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of starts and of the demonstrator's variation.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Record demonstrations with the task's scripted demonstrator."""
    from workers.recording import record_scripted

    path, demos = record_scripted(task, out or Path(f"{task}_seeds.hdf5"), count=count, seed=seed)
    if as_json:
        say({"path": str(path), "demos": len(demos), "steps": [len(demo) for demo in demos]})
    else:
        typer.echo(f"wrote {len(demos)} demonstrations to {path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command(epilog="Example: factory record stack --device keyboard --out mine.hdf5")
@sentences
def record(
    task: Annotated[str, typer.Argument(help="A task's name; see `factory tasks`.")],
    *,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: TASK_demos.hdf5.")] = None,
    device: Annotated[Literal["keyboard", "spacemouse"], typer.Option(help="What moves the hand.")] = "keyboard",
    count: Annotated[int, typer.Option(min=1, help="Successful demonstrations to record.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the starts.")] = 0,
) -> None:
    """Record your own demonstrations by hand; needs a screen."""
    from workers.recording import record_by_hand

    path, demos = record_by_hand(task, out or Path(f"{task}_demos.hdf5"), device=device, count=count, seed=seed)
    typer.echo(f"wrote {len(demos)} demonstrations to {path}; look at them with: factory demos check {path}")


def _cuts(given: str | None) -> Any:
    """Return boundaries from JSON or a file of it; raises SpecError where it is not of their form."""
    from factory.errors import SpecError

    if not given:
        return {}
    text = given if given.lstrip().startswith("{") else Path(given).read_text()
    try:
        files = json.loads(text)
        return {
            str(file): {
                str(demo): {str(eef): tuple(int(stop) for stop in stops) for eef, stops in arms.items()}
                for demo, arms in demos.items()
            }
            for file, demos in files.items()
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise SpecError(
            f"--cuts {given!r} is not of the form {{FILE: {{DEMO: {{END EFFECTOR: [STEP, ...]}}}}}} ({error})"
        ) from error


def _settings(data: Path | None, database: str | None, **more: Any) -> Any:
    import os

    from api.settings import Settings

    return Settings.from_environment(os.environ, data=data, database_url=database, **more)


def _render_spec(
    cameras: str, size: int, preset: Any, codec: Any, visual_seed: int | None, camera_jitter: float, extras: str
) -> RenderSpec | None:
    names = _listed(cameras)
    if not names:
        return None
    return RenderSpec(
        cameras=names,
        width=size,
        height=size,
        preset=preset,
        codec=codec,
        visual_seed=visual_seed,
        camera_jitter_m=camera_jitter,
        extras=cast("Any", _listed(extras)),
    )


def _cameras(asked: str | None, task: str, robot: str = "") -> str:
    if asked is not None:
        return asked
    from sim_tasks.catalog import find_task

    return ",".join(find_task(task, robot).views)


def _listed(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _command_line() -> str:
    return shlex.join(["factory", *sys.argv[1:]])
