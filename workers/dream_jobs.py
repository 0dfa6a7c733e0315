"""How a worker carries out the stages of a job of dreams, a batch of dreams at a time.

The stages are those of `workers.dreaming` and its neighbours, which do nothing twice: a batch that a killed worker had
begun is gone on with. Beside the run, which is removed when the job has ended, each dream leaves its first picture, its
film and its simulator twin for people to look at.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from api.dream_specs import DreamSpec, Stage
from api.dreams import film_key, name_of
from api.messages import Work
from api.specs import job_from_json
from api.store import Store
from dreams.frame_book import read_frames
from dreams.frames import FirstFrame
from dreams.model_folder import digest, read_card, read_layout
from dreams.views import Grid
from factory.episodes import read_document
from factory.errors import SpecError
from factory.failpoints import reached
from sim_tasks.catalog import FAMILIES, TASKS
from sim_tasks.tasks import tabletop
from workers import dream_folder, dream_replays, dream_starts, dreaming
from workers.dream_data import tasks_of
from workers.dream_folder import Run
from workers.dream_models import check_models, open_endpoint
from workers.dream_runs import lent_run, run_key

if TYPE_CHECKING:
    from dreams.endpoint import Endpoint

Wanted = Callable[[], bool]
Facts = dict[str, Any]
FIRST, FILM = "first.png", "dream.mp4"


class UnwantedError(Exception):
    """What is in progress is nobody's any more."""


class Dreamer:
    """What one worker has open for dreams: one model of each kind."""

    def __init__(self, store: Store, *, scratch: Path | None = None, given: Mapping[str, str] = os.environ) -> None:
        """Open nothing yet.

        Args:
            store: where runs, films and datasets lie.
            scratch: folder for temporary files; the system's by default.
            given: environment variables; see `dream_models`.
        """
        self._store, self._scratch, self._given = store, scratch, given
        self._models: dict[str, tuple[Path, Any]] = {}

    def run(self, work: Work, wanted: Wanted) -> Facts:
        """Carry out one unit and return its result for `api.dreams.done`.

        Raises:
            UnwantedError: nobody wants it any more.
            FactoryError: it cannot be done; the sentence says why.
        """
        begun = time.perf_counter()
        asked = job_from_json(work.payload["spec"]).dream
        if asked is None:
            raise SpecError(f"job {work.job_id} asks for no dreams")
        stage: Stage = work.payload["stage"]
        names = [name_of(index) for index in work.indices]
        do: Mapping[Stage, Callable[[Work, DreamSpec, Run, Sequence[str], Wanted], Facts]] = {
            "prepare": self._prepare,
            "frames": self._frames,
            "propose": self._propose,
            "generate": self._generate,
            "judge": self._judge,
            "label": self._label,
            "verify": self._verify,
            "export": self._export,
        }
        with lent_run(self._store, work.job_id, stage, names, self._scratch) as run:
            result = do[stage](work, asked, run, names, wanted)
        reached(f"dream.{stage}")
        return {**result, "seconds": time.perf_counter() - begun}

    def close(self) -> None:
        """Forget the models."""
        self._models.clear()

    # --- before anything is dreamt ------------------------------------------------------------------------------------

    def _prepare(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        """See that every model is there before anything is spent, and what pictures the video model wants."""
        del work, names, wanted
        folders = check_models(self._given, asked)
        if asked.asks_endpoint and not self._store.is_local:
            raise SpecError("what a language model is paid is kept in one file, which needs a store that is a folder")
        read_layout(folders["video"])
        card = read_card(folders["video"])
        if card is None:
            raise SpecError(
                f"video model {asked.video!r} has no dream.json, which says what its pictures show; "
                "`factory dream finetune DATASET --model FOLDER --lora RANK --out FOLDER` makes one that has"
            )
        shares = _shares(asked) if asked.tasks else {}
        models = {kind: f"{getattr(asked, kind) or folder.name} {digest(folder)}" for kind, folder in folders.items()}
        del run
        return {"facts": {"shares": shares, "grid": asdict(card.grid), "models": models}}

    def _frames(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        del names
        said: dict[str, Any] = dict(work.payload["grid"])
        grid = Grid(views=tuple(said.pop("views")), **said)
        shares: Mapping[str, int] = work.payload["shares"]
        if shares:
            dream_starts.frames_of_shares(run, shares, grid, seed=asked.seed, variant=asked.variant, said=_asks(wanted))
            dream_replays.hand_starts(run, of=set(shares))
        else:
            with self._store.checkout(f"datasets/{asked.dataset}") as root:
                dream_starts.frames_of_dataset(run, root, grid, count=asked.frames)
            dream_replays.hand_starts(run)
        return {}

    def _propose(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        del work, names, wanted
        asks = self._endpoint(run, asked) if asked.propose == "endpoint" else None
        dream_starts.propose(run, per_frame=asked.per_frame, seeds=asked.seeds, seed=asked.seed, asks=asks)
        frames = {frame.name: frame for frame in read_frames(run.frames)}
        rows: list[Facts] = []
        for name, seed, proposal in run.proposals():
            frame = frames[proposal.frame]
            record = {"source": frame.source, "replayable": frame.replayable, "proposer": proposal.proposer}
            record |= {"prompt_version": proposal.version, "counterfactual": proposal.counterfactual}
            rows.append(
                {"index": dream_folder.number_of(name), "frame": frame.name, "task": frame.task or "", "seed": seed,
                 "instruction": proposal.instruction.text, "record": record}
            )  # fmt: skip
        return {"dreams": rows}

    # --- models -------------------------------------------------------------------------------------------------------

    def _generate(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        from dreams.video import Sampling, open_model  # noqa: PLC0415 - brings torch

        folder, device = check_models(self._given, asked)["video"], _device()
        model = self._opened("video", folder, lambda: open_model(folder, device=device))
        sampling = Sampling(steps=asked.steps, guidance=asked.guidance)
        dreaming.dream(run, model, sampling, batch=asked.batch, names=set(names), said=_asks(wanted))
        rows: list[Facts] = []
        for name, _, frame, found in dream_folder.each_dream(run, set(names)):
            index = dream_folder.number_of(name)
            self._show(run.root / "dreams" / name / FILM, film_key(work.job_id, index, FILM))
            self._show_picture(frame, film_key(work.job_id, index, FIRST))
            shown = {"pictures": len(found.frames), "hz": max(round(found.time.video_hz), 1)}
            rows.append({"index": index, "record": {"model": found.model, "film": shown}})
        return {"dreams": rows}

    def _judge(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        from dreams.judge import JudgeSpec  # noqa: PLC0415

        del work
        if asked.judge == "classifier":
            from dreams.classifier import open_classifier  # noqa: PLC0415 - brings torch

            folder = check_models(self._given, asked)["classifier"]
            classifier = self._opened("classifier", folder, lambda: open_classifier(folder))
            dreaming.judge_by_classifier(run, classifier, names=set(names), said=_asks(wanted))
        else:
            spec = JudgeSpec(frames=asked.pictures, votes=asked.votes)
            endpoint = self._endpoint(run, asked)
            dreaming.judge_by_model(run, endpoint, spec, names=set(names), said=_asks(wanted))
        rows: list[Facts] = []
        for name in names:
            said = run.record("judgements", name) or {}
            judged = said["judgement"]
            record = {"judged_by": said["by"], "judgement": judged}
            rows.append({"index": dream_folder.number_of(name), "verdict": judged["verdict"], "record": record})
        return {"dreams": rows}

    def _label(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        from dreams.idm import open_idm  # noqa: PLC0415 - brings torch

        del work
        folders, device = check_models(self._given, asked), _device()
        folder = folders["idm"]
        idm = self._opened("idm", folder, lambda: open_idm(folder, device=device))
        dreaming.label(run, idm, names=set(names), said=_asks(wanted))
        if "latents" in folders:
            from dreams.latents import open_latents  # noqa: PLC0415 - brings torch

            place = folders["latents"]
            latents = self._opened("latents", place, lambda: open_latents(place, device=device))
            dreaming.latent(run, latents, names=set(names), said=_asks(wanted))
        rows: list[Facts] = []
        for name in names:
            labels = dream_folder.read_labels(run, name)
            if labels is None:
                raise SpecError(f"{name} has no labels after it was labelled")
            record = {"labelled_by": f"{labels.model}/{labels.version}"}
            confidence = float(labels.confidence.mean())
            rows.append({"index": dream_folder.number_of(name), "confidence": confidence, "record": record})
        return {"dreams": rows}

    # --- the simulator ------------------------------------------------------------------------------------------------

    def _verify(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        dream_replays.verify_all(run, mode=asked.replay, names=set(names), said=_asks(wanted))
        rows: list[Facts] = []
        for name in names:
            said = (run.record("verified", name) or {})["verification"]
            rows.append({"index": dream_folder.number_of(name), "tier": said["tier"], "record": {"verification": said}})
        twins = self._draw_twins(work, run, names)
        for row in rows:
            row["record"] |= {"twin": twins[row["index"]]} if row["index"] in twins else {}
        return {"dreams": rows}

    def _draw_twins(self, work: Work, run: Run, names: Collection[str]) -> dict[int, Facts]:
        """Draw what was executed, whatever came of it; return film facts by dream."""
        from workers.render import open_renderer, render_shard  # noqa: PLC0415 - opens OpenGL

        frames = {frame.name: frame for frame in read_frames(run.frames)}
        todo: list[tuple[str, str, Path]] = []
        for name, _, proposal in run.proposals():
            record, task = run.record("verified", name), frames[proposal.frame].task
            if name in names and task and record and "shard" in record:
                todo.append((task, name, run.root / record["shard"]))
        found: dict[int, Facts] = {}
        grid = next(iter(frames.values())).grid
        for task in Counter(task for task, _, _ in todo):
            with open_renderer(task, dream_starts.look_of(grid)) as renderer:
                for _, name, shard in (each for each in todo if each[0] == task):
                    index = dream_folder.number_of(name)
                    rows = render_shard(renderer, shard)
                    for camera in grid.views:
                        (made,) = shard.glob(f"clips-*/*{camera}.mp4")
                        self._show(made, film_key(work.job_id, index, f"twin-{camera}.mp4"))
                    found[index] = {
                        "cameras": list(grid.views),
                        "rows": rows,
                        "hz": round(read_document(shard)["control_hz"]),
                    }
        return found

    # --- datasets -----------------------------------------------------------------------------------------------------

    def _export(self, work: Work, asked: DreamSpec, run: Run, names: Sequence[str], wanted: Wanted) -> Facts:
        from workers.dream_export import NothingLeftError, export_run  # noqa: PLC0415 - brings torch

        del wanted
        # Another lease writes beside it: a worker that lost its own may still be at it.
        folder = f"export-{work.epoch}"
        shutil.rmtree(run.root / folder, ignore_errors=True)
        facts = {"asked": work.payload["spec"]["dream"]}
        try:
            made = export_run(run, run.root / folder, only=asked.only, names=set(names), facts=facts)
        except NothingLeftError:
            return {"facts": {"exported": {}}}
        keys = {kind: f"{run_key(work.job_id)}/{folder}/{Path(said['path']).name}" for kind, said in made.items()}
        return {"facts": {"exported": keys}}

    # --- shared -------------------------------------------------------------------------------------------------------

    def _endpoint(self, run: Run, asked: DreamSpec) -> Endpoint:
        return open_endpoint(self._given, run.ledger, budget_usd=asked.budget_usd)

    def _opened(self, kind: str, folder: Path, opens: Callable[[], Any]) -> Any:
        if kind not in self._models or self._models[kind][0] != folder:
            self._models.pop(kind, None)  # before the next one is in memory too
            self._models[kind] = (folder, opens())
        return self._models[kind][1]

    def _show(self, source: Path, key: str) -> None:
        """Put a copy of a film or picture where people look at it."""
        with tempfile.TemporaryDirectory(prefix="factory-", dir=self._scratch) as folder:
            copy = Path(folder) / source.name
            shutil.copyfile(source, copy)
            self._store.put(copy, key)

    def _show_picture(self, frame: FirstFrame, key: str) -> None:
        with tempfile.TemporaryDirectory(prefix="factory-", dir=self._scratch) as folder:
            path = Path(folder) / FIRST
            Image.fromarray(frame.picture).save(path)
            self._store.put(path, key)


def _shares(asked: DreamSpec) -> dict[str, int]:
    """Return how many first frames each task gives, tasks spread evenly over those asked for."""
    known = {**TASKS, **{name: task for family in FAMILIES.values() for name, task in family.items()}}
    chosen = tasks_of(asked.tasks, known)
    if asked.held_out:
        chosen = tuple(task for task in chosen if task in tabletop.HELD_OUT)
    if not chosen:
        raise SpecError(f"no task of {', '.join(asked.tasks)} is held out; held out are tasks of {tabletop.NAME}")
    return dream_starts.shares_of(chosen[:: max(1, len(chosen) // asked.frames)], asked.frames)


def _asks(wanted: Wanted) -> dream_folder.Said:
    def said(done: int, of: int) -> None:
        if done < of and not wanted():
            raise UnwantedError

    return said


def _device() -> str:
    import torch  # noqa: PLC0415

    return "cuda" if torch.cuda.is_available() else "cpu"
