"""First stages of a run of dreams: first frames, and what is to be done in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreams.frame_book import keep_frames, kept_names, read_frames
from dreams.frames import FirstFrame, dataset_frames, reset_frames
from dreams.instructions import Instruction
from dreams.prompts import KnownScene, Place, Proposal, Thing, propose_by_model, propose_from_state
from dreams.views import Grid
from factory.durable import json_bytes, staging
from factory.scene import SceneState
from factory.specs import RenderSpec
from sim_tasks.backends import open_backend
from sim_tasks.catalog import find_task
from sim_tasks.tasks import tabletop, tabletop_events
from workers.dream_folder import Run, Said, silent

if TYPE_CHECKING:
    from dreams.judge import Asks
    from dreams.variation import ImageModel, VariationSpec

_MANY = 16
"""Instructions of a frame that further rounds are chosen from."""

_REACH_M = (0.3, 0.75)
"""Horizontal distances from a Panda's base that its hand comes to, pointing down at the table."""


def frames_of_task(
    run: Run, tasks: Sequence[str], grid: Grid, *, count: int, seed: int, variant: str = "D0", said: Said = silent
) -> int:
    """Draw starts of tasks, `count` in all, the state kept beside each; return how many were new."""
    return frames_of_shares(run, shares_of(tasks, count), grid, seed=seed, variant=variant, said=said)


def shares_of(tasks: Sequence[str], count: int) -> dict[str, int]:
    """Return how many of `count` starts each task gives; those that give none are left out."""
    whole, rest = divmod(count, len(tasks))
    shares = {name: whole + (number < rest) for number, name in enumerate(tasks)}
    return {name: share for name, share in shares.items() if share}


def look_of(grid: Grid) -> RenderSpec:
    """Return how the simulator draws what a model sees."""
    return RenderSpec(cameras=grid.views, width=grid.width_px, height=grid.height_px, preset="fast")


def first_start(task: str) -> int:
    """Return the number of a task's first start: tasks of a family that share a seed shall not share their scenes."""
    return int.from_bytes(hashlib.sha256(task.encode()).digest()[:3], "big")


def frames_of_shares(
    run: Run, shares: Mapping[str, int], grid: Grid, *, seed: int, variant: str = "D0", said: Said = silent
) -> int:
    """Draw so many starts of each task, the state kept beside each; return how many were new."""
    from sim_tasks.backends.rendering import EpisodeRenderer  # noqa: PLC0415 - opens OpenGL

    made = 0
    names = kept_names(run.frames) if run.frames.exists() else set[str]()
    for number, (name, share) in enumerate(shares.items()):
        task = find_task(name)
        with closing(open_backend(task)) as backend, EpisodeRenderer(task, look_of(grid)) as renderer:

            def drawn(
                states: Mapping[str, Any], overrides: Mapping[str, Any], draws: EpisodeRenderer = renderer
            ) -> Mapping[str, Any]:
                return next(draws.frames(states, overrides, visual_stream=None))

            def known(state: SceneState, name: str = name) -> KnownScene | None:
                return scene_of(name, state)

            found = reset_frames(
                backend, drawn, grid, count=share, seed=seed, variant=variant, known=known, skip=names,
                first=first_start(name),
            )  # fmt: skip
            made += keep_frames(run.frames, found)
        said(number + 1, len(shares))
    return made


def frames_of_dataset(run: Run, root: Path, grid: Grid, *, count: int | None = None) -> int:
    """Take the first picture of each episode of a LeRobot dataset, or of its first `count`; return how many are new."""
    names = kept_names(run.frames) if run.frames.exists() else set[str]()
    episodes = None if count is None else range(count)
    return keep_frames(run.frames, dataset_frames(root, grid, episodes=episodes, skip=names))


def vary_frames(run: Run, model: ImageModel, spec: VariationSpec, *, count: int, seed: int, said: Said = silent) -> int:
    """Repaint every frame that is not a variation itself, `count` times each; return how many are new."""
    from dreams.variation import variations  # noqa: PLC0415 - brings diffusers

    names, made = kept_names(run.frames), 0
    originals = [frame for frame in read_frames(run.frames) if not frame.source.startswith("img2img:")]
    for number, frame in enumerate(originals):
        if any(f"{frame.name}~{model.name}-{seed}-{i}" not in names for i in range(count)):
            made += keep_frames(run.frames, variations(frame, model, spec, count=count, seed=seed))
        said(number + 1, len(originals))
    return made


def scene_of(task: str, state: SceneState) -> KnownScene | None:
    """Return what may be known of a start; None where a task's objects have no words."""
    if not task.startswith(tabletop.NAME):
        return None
    called = tabletop.labels(task)

    def at(name: str) -> tuple[float, float, float]:
        x, y, z = (float(v) for v in state.position(name)[-1])
        return x, y, z

    places = tuple(
        Place(
            name=called[name],
            preposition=tabletop.PLACE_KINDS[tabletop.colour_kind(called[name])[1]],
            position_m=at(name),
            radius_m=tabletop.ROOM_M,
        )
        for name in tabletop_events.TARGETS
    )
    base = next(iter(state.T_world_base.values()))
    x, y = (float(v) for v in (base[-1] if base.ndim == 3 else base)[:2, 3])
    return KnownScene(
        things=tuple(Thing(name=called[name], position_m=at(name), radius_m=0.03) for name in tabletop_events.MOVED),
        places=places,
        base_m=(x, y),
        reach_m=_REACH_M,
        usual=(_instruction(task, "thing", "target"),),
    )


def _instruction(task: str, thing: str, target: str) -> Instruction:
    what, source, where = tabletop.phrases(task, thing=thing, target=target)
    return Instruction(thing=what, source=source, target=where)


def roles_of(task: str, instruction: Instruction) -> tuple[str, str] | None:
    """Return which object of a task's scene is to go to which, by its words; None for others."""
    if not task.startswith(tabletop.NAME):
        return None
    for thing in tabletop_events.MOVED:
        for target in tabletop_events.TARGETS:
            if _instruction(task, thing, target).key == instruction.key:
                return thing, target
    return None


def propose(
    run: Run, *, per_frame: int, seeds: int, seed: int, rounds: int = 1, asks: Asks | None = None
) -> int:  # fmt: skip
    """Propose instructions for every frame, `seeds` dreams of each; return how many dreams that makes.

    Asked again it proposes the same where the scene is known, and pays for nothing twice where a model is asked. With
    more rounds than one a dream goes on with the frame's next instructions, of other things than those it has moved.

    Raises:
        SpecError: nothing is known of a frame, and no model is asked.
    """
    found: list[tuple[str, int, Proposal]] = []
    for frame in read_frames(run.frames):
        if asks is None:
            proposed = propose_from_state(frame.name, frame.scene, count=per_frame if rounds == 1 else _MANY)
        else:
            proposed = propose_by_model(frame.name, _jpeg(frame), asks, count=max(per_frame, rounds))
        for each in proposed[:per_frame]:
            going_on = replace(each, then=_afterwards(each, proposed, rounds - 1))
            for _ in range(seeds):
                found.append((f"dream-{len(found):05d}", seed + len(found), going_on))
    keep_proposals(run, found)
    return len(found)


def _afterwards(first: Proposal, proposed: Sequence[Proposal], count: int) -> tuple[Instruction, ...]:
    """Return up to `count` instructions to go on with: no thing moved twice, no place filled twice."""
    told = [first.instruction]
    for each in proposed:
        new = each.instruction
        if len(told) <= count and all(new.thing != old.thing and new.target != old.target for old in told):
            told.append(new)
    return tuple(told[1:])


def keep_proposals(run: Run, proposals: Sequence[tuple[str, int, Proposal]]) -> None:
    """Write what is to be dreamt, name, seed and proposal each, in place of what was proposed before."""
    place = run.root / "proposals.jsonl"
    lines = [json_bytes({**asdict(each), "name": name, "seed": seed}) for name, seed, each in proposals]
    with staging(place) as folder:
        (folder / place.name).write_bytes(b"".join(line + b"\n" for line in lines))
        (folder / place.name).replace(place)


def _jpeg(frame: FirstFrame) -> bytes:
    import io  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    buffer = io.BytesIO()
    scale = max(1, 512 // max(frame.picture.shape[:2]))
    picture = Image.fromarray(frame.picture)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.BICUBIC)
    picture.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()
