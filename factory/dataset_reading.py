"""Getting out of a finished dataset what went in: its facts, its episodes bit for bit, its digest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory import lerobot
from factory.dataset_checks import files_of, read_episodes_table, read_json, read_parquet
from factory.durable import json_bytes, sha256_file
from factory.episodes import Episode, digest, from_document, lasting
from factory.errors import DatasetError, unknown_name
from factory.extras import ABOUT_PATH, EXTRAS_PATH, Frames, read_frames, to_metres
from factory.provenance import JOB_PATH, SOURCES_PATH, StoredAttempts, read_documents, states_path
from factory.tables import arrays_from


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The facts of a finished dataset; no rows were read.

    Attributes:
        root: its folder.
        robot_type: as in info.json.
        fps: rows and frames per second.
        episodes: how many; likewise frames.
        frames: rows of all episodes together.
        features: column name -> LeRobot's description, cameras and index columns included.
        cameras: names without the "observation.images." prefix.
        tasks: instructions by task_index; likewise subtasks.
        subtasks: see tasks.
        lengths: rows per episode.
        job: what was asked for.
    """

    root: Path
    robot_type: str
    fps: int
    episodes: int
    frames: int
    features: Mapping[str, Any]
    cameras: tuple[str, ...]
    tasks: tuple[str, ...]
    subtasks: tuple[str, ...]
    lengths: tuple[int, ...]
    job: Mapping[str, Any]


def open_dataset(root: Path) -> Dataset:
    """Return a dataset's facts. Raises DatasetError when `root` is not a dataset of ours."""
    info = read_json(root, lerobot.INFO_PATH)
    videos = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    return Dataset(
        root=root,
        robot_type=info["robot_type"],
        fps=info["fps"],
        episodes=info["total_episodes"],
        frames=info["total_frames"],
        features=info["features"],
        cameras=tuple(name.removeprefix(lerobot.video_key("")) for name in videos),
        tasks=_names(root, lerobot.TASKS_PATH, "task"),
        subtasks=_names(root, lerobot.SUBTASKS_PATH, "subtask"),
        lengths=tuple(read_episodes_table(root).column("length").tolist()),
        job=read_json(root, JOB_PATH),
    )


def read_episode(root: Path, episode_index: int) -> Episode:
    """Return one episode as it was in its shard, bit for bit.

    Raises DatasetError when it does not exist, or is not what was written.
    """
    total = len(read_episodes_table(root))
    if not 0 <= episode_index < total:
        raise DatasetError(f"{root} has no episode {episode_index}; it has 0 to {total - 1}")
    return next(_episodes(root, only=episode_index))


def read_episodes(root: Path) -> Iterator[Episode]:
    """Yield every episode in order, as `read_episode` does, opening each file once."""
    return _episodes(root, only=None)


def read_depth(root: Path, episode_index: int, camera: str) -> NDArray[np.float32]:
    """Return how far away each pixel of an episode's frames is: ``(t, h, w)``, metres along the camera's axis.

    Half a millimetre off at most; infinity where nothing is within 65.535 m. Raises DatasetError when the dataset has
    no depth of that camera, or no such episode.
    """
    return to_metres(_extra(root, episode_index, "depth", camera)[0].astype(np.uint16, copy=False))


def read_segmentation(root: Path, episode_index: int, camera: str) -> tuple[NDArray[np.uint8], dict[str, int]]:
    """Return what each pixel of an episode's frames shows, ``(t, h, w)`` ids, and the legend name -> id.

    0 is the background; ids mean the same in every episode. Raises like `read_depth`.
    """
    ids, about = _extra(root, episode_index, "segmentation", camera)
    return ids.astype(np.uint8, copy=False), about["segmentation"]["legend"]


def _extra(root: Path, episode_index: int, kind: str, camera: str) -> tuple[Frames, Mapping[str, Any]]:
    about = read_json(root, ABOUT_PATH) if (root / ABOUT_PATH).exists() else {"kinds": [], "cameras": {}}
    for what, asked, known in (("extra", kind, about["kinds"]), ("camera", camera, about["cameras"])):
        if asked not in known:
            raise DatasetError(f"{root}: " + unknown_name(what, asked, known))
    table = read_episodes_table(root)
    if not 0 <= episode_index < len(table):
        raise DatasetError(f"{root} has no episode {episode_index}; it has 0 to {len(table) - 1}")
    row = table[episode_index]
    place = {name: row[f"data/{name}"] for name in ("chunk_index", "file_index")}
    beside = files_of(table)[place["chunk_index"] * lerobot.CHUNKS_SIZE + place["file_index"]]
    start = row["dataset_from_index"] - int(beside.column("dataset_from_index")[0])
    path = root / EXTRAS_PATH.format(kind=kind, camera=camera, **place)
    return read_frames(path, start=start, stop=start + row["length"]), about


def _episodes(root: Path, only: int | None) -> Iterator[Episode]:
    subtasks = _names(root, lerobot.SUBTASKS_PATH, "subtask")
    documents = read_documents(root)
    for number, rows in files_of(read_episodes_table(root)).items():
        data = pq.ParquetFile(root / lerobot.DATA_PATH.format(**lerobot.place(number)))
        states = pq.ParquetFile(root / states_path(number)) if (root / states_path(number)).exists() else None
        with data:
            for group, (row, line) in enumerate(zip(rows, documents, strict=False)):
                if only is None or row["episode_index"] == only:
                    yield _rebuild(root, line, data, states, group, subtasks)
        if states is not None:
            states.close()


def _rebuild(
    root: Path, line: Mapping[str, Any], data: Any, states: Any, group: int, subtasks: tuple[str, ...]
) -> Episode:
    document, where = line["document"], f"{root}: episode {line['episode_index']}"
    after: Mapping[str, NDArray[Any]] = {}
    try:
        columns = arrays_from(data.read_row_group(group), document["columns"], document["rows"])
        if document["sim_states"]:
            after = arrays_from(states.read_row_group(group), document["sim_states"], document["rows"] + 1)
    except (OSError, ValueError, KeyError) as error:  # pyarrow's own errors are among these
        raise DatasetError(f"{where} cannot be read: {error}; verifying the dataset names the file") from error
    if "subtask_index" in columns:
        local = np.array([_position(document["subtasks"], name) for name in subtasks], np.int64)
        columns["subtask_index"] = local[columns["subtask_index"]]
    episode = from_document(document, columns, after)
    if digest(episode) != line["digest"]:
        raise DatasetError(f"{where} is not what was written; verifying the dataset names the file")
    return episode


def dataset_digest(root: Path, *, videos: bool = False) -> str:
    """Return the SHA-256 of a dataset's content: every row and state, tasks, job, attempts, sources and scenes.

    Left out are clock times and who ran what (see `episodes.lasting`; `executor` of attempts), how rows were cut into
    files, and, unless `videos`, the bytes of videos, segmentation and depth, which depend on the machine's OpenGL.
    """
    facts = open_dataset(root)
    head = {
        "fps": facts.fps,
        "robot_type": facts.robot_type,
        "features": facts.features,
        "tasks": facts.tasks,
        "subtasks": facts.subtasks,
        "job": lasting(facts.job),
    }
    hasher = hashlib.sha256(b'{"attempts":[')
    for number, record in enumerate(StoredAttempts(root)):
        said = {f.name: getattr(record, f.name) for f in fields(record) if f.name != "executor"}
        hasher.update(b"," * (number > 0) + json_bytes(said))
    # One JSON value, its keys sorted, though nobody holds it whole.
    hasher.update(b"]," + json_bytes(head).removeprefix(b"{"))
    for episode in read_episodes(root):
        hasher.update(digest(episode).encode())
    kept = [root / SOURCES_PATH, *sorted((root / "provenance/models").glob("*.xml"))]
    kept += sorted([*root.glob("videos/**/*.mp4"), *root.glob("extras/**/*.parquet")]) if videos else []
    for path in kept:
        if path.exists():
            hasher.update(f"{path.relative_to(root).as_posix()} {sha256_file(path)}\n".encode())
    return hasher.hexdigest()


def _names(root: Path, path: str, index: str) -> tuple[str, ...]:
    return tuple(read_parquet(root / path).column(index).to_pylist()) if (root / path).exists() else ()


def _position(names: list[str], name: str) -> int:
    return names.index(name) if name in names else -1
