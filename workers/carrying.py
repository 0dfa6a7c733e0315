"""Which files a unit needs before it begins, and which its answers refer to, for workers that do not see the store.

On such a machine workers have a store of their own, a folder with the same keys; what is named here is carried between
the two.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from api.messages import Answer, AttemptDone, Drawn, Opened, Work
from api.specs import job_from_json
from api.store import Store
from factory.durable import sha256_file
from factory.episodes import (
    CLIPS_FILE,
    COLUMNS_FILE,
    EPISODE_FILE,
    STATES_FILE,
    read_document,
    render_digest,
    shard_path,
)
from factory.errors import StorageError
from workers.render import render_info


@dataclass(frozen=True, kw_only=True)
class Need:
    """A file to fetch.

    Attributes:
        path: below the service's /v1/blobs.
        place: where it belongs here.
        sha256: what it must have; empty where another file says so.
    """

    path: str
    place: Path
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Load:
    """The files that an answer refers to.

    Attributes:
        files: hash -> file.
        folder: what may be removed once the answer is in the book; None for nothing.
        clips_sha256: of the document that names an episode's clips.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    clips_sha256: str = ""


def needs_of(store: Store, work: Work) -> list[Need]:
    """Return the files that must be here before a unit can begin and are not yet."""
    needs: list[Need] = []
    if work.kind == "simulate":
        for source in job_from_json(work.payload["spec"]).sources:
            place = _inside(store, f"files/{source.sha256}.hdf5")
            needs.append(Need(path=f"{work.job_id}/sources/{source.sha256}", place=place, sha256=source.sha256))
    elif work.kind == "render":
        for index in work.indices:
            shard = shard_of(store, work.job_id, index)
            needs += [
                Need(path=f"{work.job_id}/shards/{index}/{name}", place=shard / name)
                for name in (COLUMNS_FILE, STATES_FILE, EPISODE_FILE)
            ]
    return [need for need in needs if not need.place.exists()]


def load_of(store: Store, work: Work, answer: Answer) -> Load:
    """Return what an answer to a unit refers to. Raises EpisodeError when a file of it is damaged or missing."""
    if isinstance(answer, Opened) and (sha256 := answer.executor.get("model_sha")):
        return Load(files={sha256: _inside(store, f"jobs/{work.job_id}/models/{sha256}.xml")})
    if isinstance(answer, AttemptDone) and answer.shard_sha256:
        shard = shard_of(store, work.job_id, answer.record.index)
        names = read_document(shard)["files"]
        files = {answer.shard_sha256: shard / EPISODE_FILE, **{sha256: shard / name for name, sha256 in names.items()}}
        return Load(files=files, folder=shard)
    if isinstance(answer, Drawn):
        shard, spec = shard_of(store, work.job_id, answer.index), job_from_json(work.payload["spec"])
        if spec.render is None:
            raise StorageError(f"job {work.job_id} has no rendering to make")
        clips = shard / f"clips-{render_digest(render_info(spec.render))}"
        files = {sha256_file(path): path for path in sorted(clips.iterdir()) if path.is_file()}
        return Load(files=files, folder=shard, clips_sha256=sha256_file(clips / CLIPS_FILE))
    return Load()


def shard_of(store: Store, job_id: str, index: int) -> Path:
    """Return where an attempt's shard lies here."""
    return shard_path(_inside(store, f"jobs/{job_id}/shards"), index)


def forget_shards(store: Store, job_id: str) -> None:
    """Remove a job's shards from here; those that count are with the service."""
    shutil.rmtree(_inside(store, f"jobs/{job_id}/shards"), ignore_errors=True)


def _inside(store: Store, key: str) -> Path:
    place = store.path(key)
    if place is None:
        raise StorageError(f"{store.url} is not a folder of this machine")
    return place
