"""What the gallery shows: episodes of a finished dataset, failed attempts, and one of them in the player."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from sqlmodel import Session, col, select

from api import jobs
from api.answers import Episode
from api.leases import RESULTS
from api.tables import Attempt, Dataset, Job, Unit

_LOOKED_AT = 5000
"""Failed attempts that are searched for those of one demo; the rest is there through the API."""


def main_dataset(session: Session, job: Job) -> Dataset | None:
    """Return the dataset of a job's episodes, once there is one."""
    query = select(Dataset).where(Dataset.job_id == job.id, Dataset.kind == "lerobot")
    rows = list(session.exec(query))
    return next((row for row in rows if row.id == job.dataset_id), rows[0] if rows else None)


def episode_card(episode: Episode, job_id: str) -> dict[str, Any]:
    """Return a card of the gallery for an episode."""
    return {
        "number": episode.index,
        "title": f"Episode {episode.index}",
        "still": f"/jobs/{job_id}/stills/episode/{episode.index}.jpg" if episode.videos else "",
        "side": f"{episode.seconds:.1f} s",
        "text": ", ".join(episode.sources),
        "segments": _segments([(s.subtask, s.start, s.stop) for s in episode.subtasks], episode.length),
    }


def episode_film(episode: Episode) -> dict[str, Any]:
    """Return what the player needs for an episode: its part of every camera's video."""
    fps = episode.length / episode.seconds if episode.seconds else 20.0
    return {
        "title": f"Episode {episode.index}",
        "views": [(camera, clip.url, clip.from_s, clip.to_s) for camera, clip in episode.videos.items()],
        "rows": episode.length,
        "fps": fps,
        "segments": _segments([(s.subtask, s.start, s.stop) for s in episode.subtasks], episode.length),
        "facts": [
            ("outcome", "success"),
            ("from", ", ".join(episode.sources)),
            ("attempt", "" if episode.attempt_index is None else str(episode.attempt_index)),
            ("instruction", episode.instruction),
        ],
    }


def failures(
    session: Session, job: Job, *, subtask: str, reason: str, demo: str, after: int, limit: int
) -> tuple[list[Attempt], bool]:
    """Return failed attempts above an index, and whether there are more."""
    found: list[Attempt] = []
    at, seen = after, 0
    while len(found) <= limit and seen < _LOOKED_AT:
        rows = jobs.attempts(
            session, job.id, after=at, limit=200, outcome="failure", subtask=subtask or None, reason=reason or None
        )
        found += [row for row in rows if not demo or demo in demos_of(row)]
        seen += len(rows)
        if len(rows) < 200:
            break
        at = rows[-1].idx
    return found[:limit], len(found) > limit


def demos_of(row: Attempt) -> list[str]:
    """Return the demos an attempt was made from, sorted."""
    return sorted({str(source["demo"]) for source in row.record.get("sources", ())})


def failure_card(row: Attempt, job: Job) -> dict[str, Any]:
    """Return a card of the gallery for a failed attempt."""
    drawn = bool((clip_of(job, row.idx) or {}).get("cameras"))
    return {
        "number": row.idx,
        "title": f"Attempt {row.idx}",
        "drawn": drawn,
        "still": f"/jobs/{job.id}/stills/attempt/{row.idx}.jpg" if drawn else "",
        "side": "",
        "text": f"{row.subtask}: {row.reason.replace('_', ' ')}" if row.subtask else row.reason.replace("_", " "),
        "segments": [],
    }


def clip_of(job: Job, index: int) -> dict[str, Any] | None:
    """Return what is known about the clip of an attempt; None when nobody asked for it."""
    return (job.result or {}).get(RESULTS["clip"], {}).get(f"attempt_{index}")


def is_being_drawn(session: Session, job: Job, index: int) -> bool:
    """Tell whether somebody has asked for the clip of an attempt that is not there yet."""
    query = select(Unit.id).where(Unit.job_id == job.id, Unit.kind == "clip", col(Unit.start) == index)
    return session.exec(query.limit(1)).first() is not None


def clip_address(job_id: str, index: int, camera: str) -> str:
    """Return where a clip's video is."""
    return f"/v1/jobs/{job_id}/attempts/{index}/clip?camera={quote(camera)}"


def failure_film(row: Attempt, job: Job) -> dict[str, Any] | None:
    """Return what the player needs for an attempt that was drawn; None when it was not, or could not be."""
    clip = clip_of(job, row.idx)
    if clip is None or "cameras" not in clip:
        return None
    rows, fps = clip["rows"], clip["fps"]
    return {
        "title": f"Attempt {row.idx}",
        "views": [(camera, clip_address(job.id, row.idx, camera), 0.0, rows / fps) for camera in clip["cameras"]],
        "rows": rows,
        "fps": float(fps),
        "segments": _segments([(name, start, stop) for name, start, stop in clip["subtasks"]], rows),
        "facts": [
            ("outcome", "failure"),
            ("failed in", row.subtask),
            ("reason", row.reason.replace("_", " ")),
            ("from", ", ".join(demos_of(row))),
        ],
    }


def _segments(spans: Sequence[tuple[str, int, int]], rows: int) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "start": start,
            "stop": stop,
            "x": round(100 * start / max(rows, 1), 3),
            "width": round(100 * (stop - start) / max(rows, 1), 3),
        }
        for name, start, stop in spans
    ]
