"""The last part of a job: kept attempts are rendered, written as one dataset, and reported on."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from factory.dataset_reading import open_dataset
from factory.datasets import write_dataset
from factory.diagnosis import REASONS
from factory.episodes import lasting, list_shards, read_document, render_digest, shard_path
from factory.errors import DatasetError
from factory.statistics import AttemptRecord, failure_table, wilson
from sim_tasks.catalog import find_task
from workers.dispatcher import Outcome
from workers.jobs import JobSpec, WorkFolder
from workers.render import render_info, render_shards
from workers.report import write_report

FAILED_SUFFIX = "-failed"
"""The dataset of failed attempts lies beside the dataset, its name with this at the end."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a job left behind.

    Attributes:
        root: the dataset.
        report: its page.
        failed_root: the dataset of kept failures, when asked for and when there were any.
        episodes: successes kept.
        attempts: attempts that count.
        rule: the stop rule that ended the job.
        refused: one sentence for every demo that could not be a source.
    """

    root: Path
    report: Path
    failed_root: Path | None
    episodes: int
    attempts: int
    rule: str
    refused: tuple[str, ...] = ()


def finish_job(
    out: Path,
    work: WorkFolder,
    job: JobSpec,
    outcome: Outcome,
    *,
    command: str,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Finished:
    """Turn a job's shards into the dataset at `out`, then remove the work folder.

    Raises:
        DatasetError: no attempt succeeded (the sentence says what they failed at), the target already exists, or the
            result does not verify. The work folder then stays.
    """
    records = outcome.records
    kept = [shard_path(work.shards, r.index) for r in records if r.outcome == "success"]
    if not kept:
        raise DatasetError(_why_nothing(job, records))
    failed = _failed_shards(work, records) if job.keep_failed else []
    if job.render is not None:
        shards = [*kept, *failed]
        report = partial(_of, progress, len(shards)) if progress else None
        render_shards(shards, job.task, job.render, workers=workers, progress=report)
    facts = {**job.to_json(), "command": command, "stopped_by": outcome.rule, "executor": dict(outcome.executor)}
    _write(out, kept, work, job, outcome, facts)
    failed_root = out.with_name(out.name + FAILED_SUFFIX) if failed else None
    if failed_root is not None and not failed_root.exists():
        _write(failed_root, failed, work, job, outcome, {**facts, "episodes_are": "failed attempts"})
    report = write_report(out)
    shutil.rmtree(work.root)
    return Finished(
        root=out,
        report=report,
        failed_root=failed_root,
        episodes=len(kept),
        attempts=len(records),
        rule=outcome.rule,
        refused=outcome.refused,
    )


def _of(progress: Callable[[int, int], None], total: int, done: int) -> None:
    progress(done, total)


def _write(
    root: Path, shards: Sequence[Path], work: WorkFolder, job: JobSpec, outcome: Outcome, facts: Mapping[str, Any]
) -> None:
    if root.exists() and lasting(open_dataset(root).job) == lasting(facts):
        return  # A run that was killed between writing the dataset and cleaning up.
    models = {sha: text for sha, text in outcome.models.items() if sha in _models_used(shards)}
    write_dataset(
        root,
        shards,
        robot_type=find_task(job.task).robot.lerobot_type,
        job=facts,
        attempts=outcome.records,
        source_demos=work.sources_file,
        models=models or outcome.models,
        render=None if job.render is None else render_digest(render_info(job.render)),
    )


def _models_used(shards: Sequence[Path]) -> set[str]:
    return {read_document(shard)["provenance"]["executor"]["model_sha"] for shard in shards}


def _failed_shards(work: WorkFolder, records: Sequence[AttemptRecord]) -> list[Path]:
    there = set(list_shards(work.shards))
    wanted = [shard_path(work.shards, r.index) for r in records if r.outcome == "failure"]
    return [shard for shard in wanted if shard in there]


def _why_nothing(job: JobSpec, records: Sequence[AttemptRecord]) -> str:
    _, _, high = wilson(0, len(records))
    rows = failure_table(records)[:3]
    causes = "; ".join(f"{row.count} x {row.subtask or '-'}: {REASONS.get(row.reason, row.reason)}" for row in rows)
    return (
        f"none of {len(records)} attempts at {job.task} {job.generation.variant} succeeded (the true rate is below "
        f"{100 * high:.0f} %), so there is no dataset to write. What went wrong: {causes}. Try `factory demos check` "
        f"on your demonstrations, a narrower variant, or less noise. The attempts are "
        f"kept: a larger limit goes on from here."
    )


def describe(finished: Finished) -> dict[str, Any]:
    """Return the facts as JSON values."""
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(finished).items()}
