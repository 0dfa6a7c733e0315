"""A finished run of dreams as datasets: with labelled actions, with latent ones, and the simulator's twins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from dreams.frame_book import read_frames
from dreams.instructions import Instruction
from dreams.judge import Judgement
from dreams.latents import LatentLabels
from dreams.timebase import Windows
from factory.datasets import write_dataset
from factory.episodes import read_shard
from factory.errors import SpecError
from factory.specs import RobotSpec
from sim_tasks.catalog import find_task
from workers import dream_folder, dream_replays, dream_starts

Only = Literal["all", "accepted", "executed"]


class NothingLeftError(SpecError):
    """No dream of a run is of the kind that was to be exported."""


def export_run(
    run: dream_folder.Run,
    out: Path,
    *,
    only: Only = "all",
    names: Collection[str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Write the datasets that a run's stages allow, below `out`, and return what each is.

    "labelled" has the robot's actions, "latent" latent ones: two clones of the same dreams, each an embodiment of its
    own. "twin" holds the dreams that came true, as the simulator saw them: every step drawn, true states and actions.

    Args:
        run: the run.
        out: folder of the datasets.
        only: which dreams.
        names: of those, only these; all by default.
        facts: what every dataset is to remember besides, JSON.

    Raises:
        NothingLeftError: no dream is left.
        SpecError: a stage is missing, or a dataset is there already.
    """
    from dreams.export import LATENT_TYPE, labelled_episode, latent_episode, write_dreams  # noqa: PLC0415 - torch

    dreams, robot = _dreams(run, only, names)
    if not dreams:
        raise NothingLeftError(f"{run.root}: no dream is {only}; --only all exports every one")
    job = {"kind": "dreams", "run": run.root.name, "only": only, **(facts or {})}
    found: dict[str, dict[str, Any]] = {}
    labelled = [each for each in dreams if each.labels is not None]
    if labelled and robot is not None:
        path = out / "labelled"
        episodes = [(each, labelled_episode(each, robot)) for each in labelled]
        write_dreams(path, episodes, robot_type=f"{robot.lerobot_type}_dream", job=job)
        found["labelled"] = {"path": str(path), "episodes": len(labelled)}
    latent = [each for each in dreams if each.latents is not None]
    if latent:
        path = out / "latent"
        write_dreams(path, [(each, latent_episode(each)) for each in latent], robot_type=LATENT_TYPE, job=job)
        found["latent"] = {"path": str(path), "episodes": len(latent)}
    twins = _twins(run, {each.index for each in dreams})
    if twins:
        found["twin"] = _write_twins(run, twins, out / "twin", job)
    if not found:
        raise SpecError(f"{run.root}: nothing is labelled; `factory dream label {run.root}` does it")
    return found


def _dreams(run: dream_folder.Run, only: Only, names: Collection[str] | None) -> tuple[list[Any], RobotSpec | None]:
    """Return the dreams to export, and the robot that all of them show."""
    from dreams.export import Dream  # noqa: PLC0415

    starts = dream_replays.hand_starts(run)
    every: list[Any] = []
    robots: dict[str, RobotSpec] = {}
    for name, proposal, frame, dreamt in dream_folder.each_dream(run, names):
        robot = find_task(frame.task).robot if frame.task else None
        if robot is not None:
            robots[robot.name] = robot
        judged, verified = run.record("judgements", name), run.record("verified", name)
        dream = Dream(
            index=dream_folder.number_of(name),
            clip=dream_folder.clip_of(dreamt, robot),
            labels=dream_folder.read_labels(run, name),
            latents=_latents(run, name),
            judgement=_judgement(judged["judgement"]) if judged else None,
            verification=verified["verification"] if verified else None,
            executed=read_shard(run.root / verified["shard"]) if verified and "shard" in verified else None,
            T_base_start=starts.get(frame.name, {}),
            facts={
                "name": name,
                "frame": frame.name,
                "frame_source": frame.source,
                "proposer": proposal.proposer,
                "prompt_version": proposal.version,
                "counterfactual": proposal.counterfactual,
                "video_model": dreamt.model,
                "seed": dreamt.seed,
                "seams": list(dreamt.seams),
            },
        )
        if (only == "all" or dream.worth_learning) and (only != "executed" or dream.tier == "executed_success"):
            every.append(dream)
    if len(robots) > 1:
        raise SpecError(f"{run.root} has dreams of {', '.join(robots)}; one dataset has one robot")
    return every, next(iter(robots.values()), None)


def _latents(run: dream_folder.Run, name: str) -> LatentLabels | None:
    arrays, said = run.arrays("latents", name), run.record("latents", name)
    if arrays is None or said is None:
        return None
    where = Windows(
        first=arrays["first"], last=arrays["last"], start=arrays["start"], horizon=int(arrays["horizon"])
    )  # fmt: skip
    return LatentLabels(
        where=where, embedding=arrays["embedding"], codes=arrays["codes"], model=said["model"], version=said["code"]
    )


def _judgement(said: dict[str, Any]) -> Judgement:
    """Return the judgement of a record."""
    caption = said["caption"]
    return Judgement(
        verdict=said["verdict"],
        score=float("nan") if said["score"] is None else said["score"],
        votes=tuple(said["votes"]),
        events={name: tuple(words) for name, words in said["events"].items()},
        contrast=said["contrast"],
        caption=_read_instruction(caption) if caption else None,
        refiled=_judgement(said["refiled"]) if said["refiled"] else None,
        reason=said["reason"],
        judge=said["judge"],
        version=said["version"],
        frames=tuple(said["frames"]),
    )


def _read_instruction(text: str) -> Instruction:
    """Return the instruction of its own sentence, "Pick up the THING from ... and place it ..."."""
    what, _, where = text.removeprefix("Pick up the ").rstrip(".").partition(" and place it ")
    thing, _, source = what.rpartition(" from ")
    return Instruction(thing=thing, source=f"from {source}", target=where)


def _twins(run: dream_folder.Run, numbers: set[int]) -> list[tuple[Path, str]]:
    """Return shard and task of every dream that came true, of those with these numbers."""
    frames = {frame.name: frame for frame in read_frames(run.frames)}
    found: list[tuple[Path, str]] = []
    for name, _, proposal in run.proposals():
        record = run.record("verified", name)
        task = frames[proposal.frame].task
        came_true = record is not None and record["verification"]["tier"] == "executed_success"
        if record and task and came_true and dream_folder.number_of(name) in numbers:
            found.append((run.root / record["shard"], task))
    return found


def _write_twins(
    run: dream_folder.Run, twins: list[tuple[Path, str]], out: Path, job: dict[str, Any]
) -> dict[str, Any]:
    from workers.render import open_renderer, render_shard  # noqa: PLC0415 - opens OpenGL

    grid = read_frames(run.frames)[0].grid
    look = dream_starts.look_of(grid)
    for task in Counter(task for _, task in twins):
        with open_renderer(task, look) as renderer:
            for shard, _ in (each for each in twins if each[1] == task):
                render_shard(renderer, shard)
    robot = find_task(twins[0][1]).robot
    write_dataset(out, [shard for shard, _ in twins], robot_type=robot.lerobot_type, job={**job, "kind": "twins"})
    return {"path": str(out), "episodes": len(twins)}
