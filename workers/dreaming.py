"""The stages of a run of dreams, one folder: every one may be stopped at any time, and goes on with what is there.

RUN/
  frames/              first frames, with the simulator's state where it is known
  proposals.jsonl      what is to be dreamt: frame, instruction, seed
  dreams/NAME/         pictures as they are, a film, a record
  judgements/NAME.json
  labels/NAME.npz      motion, poses, confidence; likewise latents/NAME.npz
  verified/NAME.json   the tier, and shards/ with what was executed
  ledger.db            what a language model was asked and what it cost
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreams.clips import Clip
from dreams.frame_book import keep_frames, kept_names, read_frames
from dreams.frames import FirstFrame, dataset_frames, reset_frames
from dreams.instructions import Instruction
from dreams.motion import Labels, hands_of
from dreams.prompts import KnownScene, Place, Proposal, Thing, propose_by_model, propose_from_state
from dreams.views import Grid
from factory import poses
from factory.durable import json_bytes, staging
from factory.errors import DatasetError, SpecError
from factory.scene import SceneState
from factory.sim import SimBackend
from factory.specs import RenderSpec, RobotSpec
from sim_tasks.backends import open_backend
from sim_tasks.catalog import find_task
from sim_tasks.tasks import tabletop, tabletop_events

if TYPE_CHECKING:
    from dreams.classifier import Classifier
    from dreams.generate import Dream, Wish
    from dreams.idm import Idm
    from dreams.judge import Asks, Judgement, JudgeSpec
    from dreams.latents import LatentModel
    from dreams.variation import ImageModel, VariationSpec
    from dreams.verify import Mode
    from dreams.video import DreamModel, Sampling

Said = Callable[[int, int], None]
"""Hears how much of a stage is done, of how much."""
_MANY = 16
"""Instructions of a frame that further rounds are chosen from."""
_REACH_M = (0.3, 0.75)
"""Horizontal distances from a Panda's base that its hand comes to, pointing down at the table."""


def _silent(done: int, of: int) -> None:
    del done, of


@dataclass(frozen=True, kw_only=True)
class Run:
    """The folder of a run."""

    root: Path

    @property
    def frames(self) -> Path:
        """Where first frames lie."""
        return self.root / "frames"

    @property
    def ledger(self) -> Path:
        """What a language model was asked for this run."""
        return self.root / "ledger.db"

    def proposals(self) -> list[tuple[str, int, Proposal]]:
        """Return every dream's name, seed and proposal. Raises SpecError when nothing was proposed."""
        path = self.root / "proposals.jsonl"
        if not path.exists():
            raise SpecError(f"{self.root} has no proposals; `factory dream propose {self.root}` makes them")
        found: list[tuple[str, int, Proposal]] = []
        for line in path.read_text().splitlines():
            said: dict[str, Any] = json.loads(line)
            name, seed = said.pop("name"), said.pop("seed")
            said["instruction"] = Instruction(**said["instruction"])
            said["then"] = tuple(Instruction(**each) for each in said.get("then", ()))
            found.append((name, seed, Proposal(**said)))
        return found

    def dream(self, name: str) -> Dream | None:
        """Return a dream; None where it was not dreamt yet."""
        from dreams.generate import read_dream  # noqa: PLC0415 - brings torch

        folder = self.root / "dreams" / name
        return read_dream(folder) if folder.exists() else None

    def record(self, stage: str, name: str) -> dict[str, Any] | None:
        """Return what a stage recorded of a dream; None where it did not come to it."""
        path = self.root / stage / f"{name}.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def arrays(self, stage: str, name: str) -> dict[str, np.ndarray[Any, Any]] | None:
        """Return the arrays that a stage kept of a dream; None where it did not come to it."""
        path = self.root / stage / f"{name}.npz"
        if not path.exists():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return {key: kept[key] for key in kept.files}

    def keep(self, stage: str, name: str, content: Mapping[str, Any]) -> None:
        """Keep a record, or arrays where all of it are, entirely or not at all."""
        arrays = all(isinstance(value, np.ndarray) for value in content.values())
        place = self.root / stage / (f"{name}.npz" if arrays else f"{name}.json")
        with staging(place) as folder:
            path = folder / place.name
            if arrays:
                np.savez(path, **content)
            else:
                path.write_bytes(json_bytes(dict(content)))
            path.replace(place)


# --- first frames -----------------------------------------------------------------------------------------------------


def frames_of_task(
    run: Run, tasks: Sequence[str], grid: Grid, *, count: int, seed: int, variant: str = "D0", said: Said = _silent
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


def frames_of_shares(
    run: Run, shares: Mapping[str, int], grid: Grid, *, seed: int, variant: str = "D0", said: Said = _silent
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
                backend, drawn, grid, count=share, seed=seed, variant=variant, known=known, skip=names
            )  # fmt: skip
            made += keep_frames(run.frames, found)
        said(number + 1, len(shares))
    return made


def frames_of_dataset(run: Run, root: Path, grid: Grid, *, count: int | None = None) -> int:
    """Take the first picture of each episode of a LeRobot dataset, or of its first `count`; return how many are new."""
    names = kept_names(run.frames) if run.frames.exists() else set[str]()
    episodes = None if count is None else range(count)
    return keep_frames(run.frames, dataset_frames(root, grid, episodes=episodes, skip=names))


def vary_frames(
    run: Run, model: ImageModel, spec: VariationSpec, *, count: int, seed: int, said: Said = _silent
) -> int:
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


# --- what is to be dreamt ---------------------------------------------------------------------------------------------


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


def dream(
    run: Run,
    model: DreamModel,
    sampling: Sampling,
    *,
    batch: int = 8,
    names: Collection[str] | None = None,
    said: Said = _silent,
) -> int:
    """Dream everything that was proposed, or those of these names; return how many dreams those are."""
    from dreams.generate import generate  # noqa: PLC0415 - brings torch

    wishes = [wish for wish in _wishes(run, model.card.grid) if names is None or wish.name in names]
    for done, _ in enumerate(generate(model, wishes, run.root / "dreams", sampling=sampling, batch=batch), start=1):
        said(done, len(wishes))
    return len(wishes)


def _wishes(run: Run, grid: Grid) -> Iterator[Wish]:
    from dreams.generate import Wish  # noqa: PLC0415

    frames = {frame.name: frame for frame in read_frames(run.frames)}
    for name, seed, proposal in run.proposals():
        frame = frames[proposal.frame]
        if frame.grid != grid:
            raise SpecError(
                f"frame {frame.name!r} shows {frame.grid}, the video model {grid}; make frames for its views"
            )
        told = tuple(each.text for each in (proposal.instruction, *proposal.then))
        yield Wish(name=name, picture=frame.picture, instructions=told, seed=seed)


def clip_of(found: Dream, robot: RobotSpec | None) -> Clip:
    """Return the first round of a dream as a clip whose motion nobody knows yet."""
    return Clip(
        name=found.name,
        frames=found.rounds()[0],
        grid=found.grid,
        time=found.time,
        instruction=found.instructions[0],
        length=found.time.steps,
        embodiment=found.embodiment,
        hands=hands_of(robot) if robot else {},
    )


# --- what became of it ------------------------------------------------------------------------------------------------


def each_dream(run: Run, names: Collection[str] | None = None) -> Iterator[tuple[str, Proposal, FirstFrame, Dream]]:
    """Yield every dream, or those of these names, with what it was made from. Raises SpecError when one is missing."""
    for name, proposal, frame in _each_wish(run, names):
        found = run.dream(name)
        if found is None:
            raise SpecError(f"{name} was not dreamt yet; `factory dream generate {run.root}` goes on with it")
        yield name, proposal, frame, found


def _each_wish(run: Run, names: Collection[str] | None) -> Iterator[tuple[str, Proposal, FirstFrame]]:
    frames = {frame.name: frame for frame in read_frames(run.frames)}
    for name, _, proposal in run.proposals():
        if names is None or name in names:
            yield name, proposal, frames[proposal.frame]


def judge_by_classifier(
    run: Run, classifier: Classifier, *, names: Collection[str] | None = None, said: Said = _silent
) -> int:
    """Judge every dream with the embedded classifier; return how many judgements are new."""
    from dreams.classifier import judge_embedded  # noqa: PLC0415 - brings torch

    def judged(proposal: Proposal, frame: FirstFrame, found: Dream) -> Judgement:
        return judge_embedded(found.rounds()[0], proposal.instruction.text, classifier, first=frame.picture)

    return _judge(run, judged, f"classifier:{classifier.name}/{classifier.version}", names, said)


def judge_by_model(
    run: Run, asks: Asks, spec: JudgeSpec, *, names: Collection[str] | None = None, said: Said = _silent
) -> int:
    """Have a multimodal model judge every dream; judgements that ended in an error are asked for again."""
    from dreams.judge import judge  # noqa: PLC0415

    def judged(proposal: Proposal, frame: FirstFrame, found: Dream) -> Judgement:
        other = _contrast(frame, proposal.instruction)
        return judge(found.rounds()[0], proposal.instruction, asks, spec, contrast=other)

    return _judge(run, judged, f"mllm:{asks.model}/{spec}", names, said)


def _judge(
    run: Run,
    judged: Callable[[Proposal, FirstFrame, Dream], Judgement],
    by: str,
    names: Collection[str] | None,
    said: Said,
) -> int:
    from dreams.export import judgement_document  # noqa: PLC0415

    new, every = 0, list(each_dream(run, names))
    for done, (name, proposal, frame, found) in enumerate(every, start=1):
        kept = run.record("judgements", name)
        if kept is None or kept["by"] != by or kept["judgement"]["verdict"] == "error":
            judgement = judged(proposal, frame, found)
            run.keep("judgements", name, {"by": by, "judgement": judgement_document(judgement)})
            new += 1
        said(done, len(every))
    return new


def _contrast(frame: FirstFrame, asked: Instruction) -> Instruction:
    """Return something else that could have been done: another thing of the scene, else a thing that is not there."""
    things = [thing.name for thing in frame.scene.things] if frame.scene else []
    other = next((name for name in things if name.lower() != asked.thing.lower()), "striped ball")
    return Instruction(thing=other, source=asked.source, target=asked.target)


def label(run: Run, idm: Idm, *, names: Collection[str] | None = None, said: Said = _silent) -> int:
    """Read every dream's motion from its pictures; return how many labels are new."""
    from dreams.labelling import label as read  # noqa: PLC0415

    starts = hand_starts(run)
    new, every = 0, list(each_dream(run, names))
    for done, (name, _, frame, found) in enumerate(every, start=1):
        kept = run.record("labels", name)
        version = f"{idm.name}/{idm.card.version}"
        if kept is None or kept["version"] != version:
            robot = _robot(frame)
            labels = read(clip_of(found, robot), idm, start=starts.get(frame.name) or None)
            _keep_labels(run, name, labels)
            run.keep("labels", name, {"version": version, "model": labels.model, "code": labels.version})
            new += 1
        said(done, len(every))
    return new


def _keep_labels(run: Run, name: str, labels: Labels) -> None:
    arrays = {"motion": labels.motion, "confidence": labels.confidence}
    arrays |= {f"T_base_eef/{eef}": T for eef, T in (labels.T_base_eef or {}).items()}
    run.keep("labels", name, arrays)


def read_labels(run: Run, name: str) -> Labels | None:
    """Return a dream's labels; None where nobody read it."""
    arrays, said = run.arrays("labels", name), run.record("labels", name)
    if arrays is None or said is None:
        return None
    hands = {key.removeprefix("T_base_eef/"): T for key, T in arrays.items() if key.startswith("T_base_eef/")}
    return Labels(
        motion=arrays["motion"],
        T_base_eef=hands or None,
        confidence=arrays["confidence"],
        model=said["model"],
        version=said["code"],
    )


def latent(run: Run, model: LatentModel, *, names: Collection[str] | None = None, said: Said = _silent) -> int:
    """Read every dream's latent actions; return how many are new."""
    from dreams.latents import latent_labels  # noqa: PLC0415 - brings torch

    new, every = 0, list(each_dream(run, names))
    for done, (name, _, _, found) in enumerate(every, start=1):
        kept = run.record("latents", name)
        if kept is None or kept["version"] != f"{model.name}/{model.version}":
            labels = latent_labels(clip_of(found, None), model)
            where = labels.where
            run.keep(
                "latents", name,
                {"embedding": labels.embedding, "codes": labels.codes, "first": where.first, "last": where.last,
                 "start": where.start, "horizon": np.array(where.horizon)},
            )  # fmt: skip
            run.keep(
                "latents",
                name,
                {"version": f"{model.name}/{model.version}", "model": labels.model, "code": labels.version},
            )
            new += 1
        said(done, len(every))
    return new


def hand_starts(run: Run, *, of: Collection[str] | None = None) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Return where the hands are in each first frame whose state is known, hand -> pose in its base frame.

    Only frames of the tasks `of`, where those are given.
    """
    found: dict[str, dict[str, np.ndarray[Any, Any]]] = {}
    todo: dict[str, list[FirstFrame]] = {}
    for frame in read_frames(run.frames):
        if not frame.replayable or frame.task is None or (of is not None and frame.task not in of):
            continue
        kept = run.arrays("starts", _file_name(frame.name))
        if kept is None:
            todo.setdefault(frame.task, []).append(frame)
        else:
            found[frame.name] = kept
    for task, frames in todo.items():
        with closing(open_backend(find_task(task))) as backend:
            for frame in frames:
                if frame.state is None or backend.describe()["model_sha"] != frame.model_sha:
                    continue
                scene = backend.restore(0, frame.state)
                hands = {
                    eef: (poses.inverse(scene.T_world_base[eef]) @ scene.T_world_eef[eef])[0]
                    for eef in backend.task.robot.eefs
                }
                run.keep("starts", _file_name(frame.name), hands)
                found[frame.name] = hands
    return found


def verify_all(run: Run, *, mode: Mode, names: Collection[str] | None = None, said: Said = _silent) -> int:
    """Carry every dream's labels out from its first frame's state; return how many verifications are new.

    What a dream was told decides what success is; one whose words the task does not know is tried against the task's
    own goal only if it was asked for that.
    """
    every = [(name, proposal, frame, read_labels(run, name)) for name, proposal, frame in _each_wish(run, names)]
    if missing := [name for name, _, _, labels in every if labels is None]:
        raise SpecError(f"{missing[0]} has no labels; `factory dream label {run.root}` reads them")
    new = done = 0
    tasks: dict[str | None, list[tuple[str, Proposal, FirstFrame, Labels]]] = {}
    for name, proposal, frame, labels in every:
        kept = run.record("verified", name)
        if kept is not None and kept["mode"] == mode and kept["labels"] == _label_version(run, name):
            done += 1
        elif labels is not None:
            tasks.setdefault(frame.task if frame.replayable else None, []).append((name, proposal, frame, labels))
    for task, waiting in tasks.items():
        backend = open_backend(find_task(task)) if task else None
        try:
            for name, proposal, frame, labels in waiting:
                _verify_one(run, name, proposal, frame, labels, backend, mode)
                new, done = new + 1, done + 1
                said(done, len(every))
        finally:
            if backend is not None:
                backend.close()
    return new


def _verify_one(
    run: Run, name: str, proposal: Proposal, frame: FirstFrame, labels: Labels, backend: SimBackend | None, mode: Mode
) -> None:
    from dreams import verify as verifying  # noqa: PLC0415
    from factory.episodes import write_shard  # noqa: PLC0415

    document: dict[str, Any] = {"mode": mode, "labels": _label_version(run, name)}
    roles = roles_of(frame.task, proposal.instruction) if frame.task else None
    if backend is None or frame.state is None:
        found = _not_replayable("its start is not known: the first frame has no simulator state", mode)
    elif roles is None:
        found = _not_replayable(f"task {frame.task!r} cannot say whether {proposal.instruction.text!r} was done", mode)
    else:
        found = verifying.verify(
            labels,
            frame.state,
            backend,
            model_sha=frame.model_sha,
            mode=mode,
            success=tabletop_events.goal(*roles),
        )
    if found.execution is not None and backend is not None:
        episode = verifying.episode_of_verification(
            found, backend.task, index=number_of(name), instruction=proposal.instruction.text,
            provenance={"dream": name, "frame": frame.name}, executor=backend.describe(),
        )  # fmt: skip
        folder = run.root / "shards" / mode / _file_name(str(document["labels"]))
        document["shard"] = str(write_shard(folder, episode).relative_to(run.root))
    run.keep("verified", name, {**document, "verification": verifying.record_of(found)})


def _not_replayable(why: str, mode: Mode) -> Any:
    from dreams.verify import Verification  # noqa: PLC0415

    return Verification(tier="not_replayable", reason=why, mode=mode)


def _label_version(run: Run, name: str) -> str:
    said = run.record("labels", name)
    return str(said["version"]) if said else ""


def number_of(name: str) -> int:
    """Return a dream's number, by its name."""
    return int(name.rpartition("-")[2])


def _robot(frame: FirstFrame) -> RobotSpec | None:
    return find_task(frame.task).robot if frame.task else None


def _file_name(name: str) -> str:
    return name.replace("/", "--")


# --- all in all -------------------------------------------------------------------------------------------------------


def summary(run: Run) -> dict[str, Any]:
    """Return what became of a run, JSON: how many of each verdict and tier, and what share came true."""
    from dreams.export import TIERS, VERDICTS  # noqa: PLC0415
    from factory.statistics import wilson  # noqa: PLC0415

    names = [name for name, _, _ in run.proposals()]
    verdicts = dict.fromkeys(VERDICTS, 0)
    tiers = dict.fromkeys(TIERS, 0)
    for name in names:
        judged, verified = run.record("judgements", name), run.record("verified", name)
        verdict = judged["judgement"]["verdict"] if judged else "not_judged"
        tier = verified["verification"]["tier"] if verified else "not_tried"
        verdicts[verdict] += 1
        tiers[tier] += 1
    executed = tiers["executed_success"] + tiers["executed_failure"]
    share, low, high = wilson(tiers["executed_success"], executed)
    return {
        "dreams": len(names),
        "dreamt": sum((run.root / "dreams" / name).exists() for name in names),
        "labelled": sum(run.record("labels", name) is not None for name in names),
        "verdicts": verdicts,
        "tiers": tiers,
        "executed": executed,
        "success": {
            "share": share if executed else None,
            "low": low,
            "high": high,
        },
    }


def check_exists(run: Run) -> None:
    """Raise DatasetError unless the folder holds a run."""
    if not run.root.is_dir():
        raise DatasetError(f"{run.root} is no folder; `factory dream frames {run.root} ...` begins a run")
