"""The episode: the one currency of both roads, and its shard on disk.

A shard is one folder `episode_<attempt index>`:

    episode.json               everything that is not rows: names, start snapshot, provenance, hashes of the others
    steps.parquet              T rows: the columns to learn from
    states.parquet             T + 1 rows: simulator states, float64
    clips-<render digest>/     added later by rendering: observation.images.<camera>.mp4 and clips.json, and where asked
                               for depth.<camera>.parquet, segmentation.<camera>.parquet

Each JSON file is sealed: {"document": ..., "sha256": hash of the document's bytes}.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory.durable import json_bytes, rename_into_place, seal, sha256_file, staging, unseal
from factory.errors import EpisodeError
from factory.extras import Layer
from factory.sim import Snapshot
from factory.tables import arrays_from, decode_array, encode_array, layout_of, table_from, write_table
from factory.video import Clip


@dataclass(frozen=True, kw_only=True)
class Column:
    """One dataset column of an episode.

    Attributes:
        values: ``(T, ...)``; float32, float64, int64 or bool, as it will be stored.
        names: one name per element of a row, units included where not obvious; empty for scalars.
    """

    values: NDArray[Any]
    names: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One attempt worth keeping: T rows for learning, T + 1 states for replay and rendering, and where it came from.

    Attributes:
        index: attempt index within its job; the episode's identity.
        success: held to the end.
        task: task name.
        instruction: what the robot was told.
        control_hz: rows per second.
        columns: dataset column name ("observation.state", "action", "target.right_eef_pose", "subtask_index") ->
            values; everything but images, timestamps and indices, which the writer adds.
        subtasks: names that `subtask_index` counts.
        sim_states: named arrays ``(T + 1, ...)`` float64: "time", "qpos", "qvel"; empty for dreams.
        start: the snapshot the first row continues from; None for dreams.
        provenance: JSON-ready facts: seed, sources and segments, noise, placements, executor and versions, outcome.
    """

    index: int
    success: bool
    task: str
    instruction: str
    control_hz: float
    columns: Mapping[str, Column]
    subtasks: tuple[str, ...]
    sim_states: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    start: Snapshot | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())).values)


DTYPES = ("float32", "float64", "int64", "bool")
RESERVED = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that the dataset writer adds; an episode must not bring its own."""

COLUMNS_FILE, STATES_FILE, EPISODE_FILE, CLIPS_FILE = "steps.parquet", "states.parquet", "episode.json", "clips.json"
_ACCIDENTS = ("wall_s", "host", "pid", "worker", "workers", "command")


def check(episode: Episode) -> None:
    """Raise EpisodeError unless the episode can be written: equal lengths, storable types, one name per element."""
    where = f"episode {episode.index}: "
    if not episode.columns or len(episode) == 0:
        raise EpisodeError(f"{where}it has no rows; at least one is needed")
    for name, column in episode.columns.items():
        _check_column(f"{where}column {name!r}", name, column, rows=len(episode))
    for name, state in episode.sim_states.items():
        if state.dtype != np.float64 or len(state) != len(episode) + 1:
            raise EpisodeError(
                f"{where}sim_states[{name!r}] is {state.dtype} with {len(state)} rows, "
                f"expected float64 with {len(episode) + 1} (one more than there are actions)"
            )
    if len(set(episode.subtasks)) != len(episode.subtasks):
        raise EpisodeError(f"{where}subtasks {episode.subtasks} name one twice")
    if (number := episode.columns.get("subtask_index")) is not None and not (
        number.values.dtype == np.int64 and 0 <= number.values.min() <= number.values.max() < len(episode.subtasks)
    ):
        raise EpisodeError(
            f"{where}subtask_index must be int64 within [0, {len(episode.subtasks)}), the subtasks named"
        )
    try:
        json_bytes(episode.provenance)
    except (TypeError, ValueError) as error:
        raise EpisodeError(f"{where}provenance is not JSON: {error}") from error


def _check_column(where: str, name: str, column: Column, *, rows: int) -> None:
    values = column.values
    if name in RESERVED or "/" in name or name.startswith("observation.images."):
        raise EpisodeError(f"{where}: the name is taken; {', '.join(RESERVED)} and images are added by the writer")
    if values.ndim not in (1, 2) or len(values) != rows or values.shape[1:] == (0,):
        raise EpisodeError(f"{where} has shape {values.shape}, expected ({rows},) or ({rows}, n)")
    if values.dtype.name not in DTYPES:
        raise EpisodeError(f"{where} is {values.dtype}, expected one of {', '.join(DTYPES)}")
    if name == "action" and values.dtype != np.float32:
        raise EpisodeError(f"{where} is {values.dtype}, expected float32: what was executed")
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise EpisodeError(f"{where} is not finite in row {int(np.argwhere(~np.isfinite(values))[0][0])}")
    if column.names and len(column.names) != (1 if values.ndim == 1 else values.shape[1]):
        raise EpisodeError(f"{where} has {len(column.names)} names for rows of shape {values.shape[1:]}")


def to_document(episode: Episode) -> dict[str, Any]:
    """Return everything of an episode but its columns and states, as JSON that reads back bit for bit."""
    start = episode.start
    return {
        "index": episode.index,
        "success": episode.success,
        "task": episode.task,
        "instruction": episode.instruction,
        "control_hz": episode.control_hz,
        "rows": len(episode),
        "columns": layout_of({name: column.values for name, column in episode.columns.items()}),
        "names": {name: list(column.names) for name, column in episode.columns.items()},
        "subtasks": list(episode.subtasks),
        "sim_states": layout_of(episode.sim_states),
        "start": None
        if start is None
        else {
            "integration": encode_array(start.integration),
            "controller": {name: encode_array(array) for name, array in start.controller.items()},
            "overrides": {name: encode_array(array) for name, array in start.overrides.items()},
        },
        "provenance": dict(episode.provenance),
    }


def from_document(document: Mapping[str, Any], columns: Mapping[str, Any], states: Mapping[str, Any]) -> Episode:
    """Return the episode of a document, its columns' values and its states."""
    start = document["start"]
    return Episode(
        index=document["index"],
        success=document["success"],
        task=document["task"],
        instruction=document["instruction"],
        control_hz=document["control_hz"],
        columns={name: Column(values=columns[name], names=tuple(names)) for name, names in document["names"].items()},
        subtasks=tuple(document["subtasks"]),
        sim_states=dict(states),
        start=None
        if start is None
        else Snapshot(
            integration=decode_array(start["integration"]),
            controller={name: decode_array(entry) for name, entry in start["controller"].items()},
            overrides={name: decode_array(entry) for name, entry in start["overrides"].items()},
        ),
        provenance=document["provenance"],
    )


def lasting(value: Any) -> Any:
    """Return JSON without accidents of the run.

    Those are the keys `wall_s`, `host`, `pid`, `worker`, `workers` and `command` (how it was typed, with paths), and
    all that end in `_at` or `_wall_s`, at any depth.
    """
    if isinstance(value, Mapping):
        kept = {k: v for k, v in value.items() if k not in _ACCIDENTS and not k.endswith(("_at", "_wall_s"))}
        return {k: lasting(v) for k, v in kept.items()}
    return [lasting(v) for v in value] if isinstance(value, list | tuple) else value


def digest(episode: Episode) -> str:
    """Return the SHA-256 of an episode's content: columns, states, start and provenance without clock times.

    Equal episodes have equal digests on every machine; which keys count as clock times is said by `lasting`.
    """
    hasher = hashlib.sha256(json_bytes(lasting(to_document(episode))))
    arrays = [episode.columns[name].values for name in sorted(episode.columns)]
    for array in arrays + [episode.sim_states[name] for name in sorted(episode.sim_states)]:
        hasher.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return hasher.hexdigest()


def shard_path(root: Path, index: int) -> Path:
    """Return where the shard of an attempt index lies."""
    return root / f"episode_{index:08d}"


def list_shards(root: Path) -> list[Path]:
    """Return the committed shards below `root`, by attempt index."""
    return sorted(path for path in root.glob("episode_*") if path.is_dir())


def write_shard(root: Path, episode: Episode) -> Path:
    """Write an episode to its own folder below `root` and return that folder; the rename is the commit.

    The same episode gives the same bytes. Writing what is already there changes nothing. Raises EpisodeError when the
    episode contradicts itself, or when another episode is already stored under its index.
    """
    check(episode)
    place = shard_path(root, episode.index)
    with staging(place) as folder:
        columns = {name: column.values for name, column in episode.columns.items()}
        write_table(table_from(columns), folder / COLUMNS_FILE)
        write_table(table_from(episode.sim_states), folder / STATES_FILE)
        files = {name: sha256_file(folder / name) for name in (COLUMNS_FILE, STATES_FILE)}
        document = {**to_document(episode), "digest": digest(episode), "files": files}
        (folder / EPISODE_FILE).write_bytes(seal(document))
        if not rename_into_place(folder, place):
            stored, asked = str(read_document(place)["digest"]), str(document["digest"])
            if stored != asked:
                raise EpisodeError(f"shard {place} already holds another episode: {stored[:12]}, asked {asked[:12]}")
    return place


def read_document(shard: Path) -> dict[str, Any]:
    """Return a shard's `episode.json`, checked. Raises EpisodeError naming the file."""
    return _read_sealed(shard / EPISODE_FILE)


def read_shard(shard: Path) -> Episode:
    """Return the episode of a shard, every file checked against its hash.

    Raises EpisodeError saying which file is missing or damaged.
    """
    return read_rows(shard, read_document(shard))


def read_rows(shard: Path, document: Mapping[str, Any]) -> Episode:
    """Return the episode of a shard whose document has been read; see `read_shard`."""
    for name, expected in document["files"].items():
        _check_hash(shard / name, expected)
    rows = document["rows"]
    columns = arrays_from(pq.read_table(shard / COLUMNS_FILE), document["columns"], rows)
    states = arrays_from(pq.read_table(shard / STATES_FILE), document["sim_states"], rows + 1)
    return from_document(document, columns, states)


def add_clips(
    shard: Path,
    clips: Mapping[str, Clip],
    info: Mapping[str, Any],
    layers: Sequence[Layer] = (),
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Copy finished clips (camera -> clip) and layers into a shard, all or none, and return their folder.

    `info` is what was asked of the renderer (JSON); its hash names the folder, so that one episode can be rendered
    several ways. When that rendering is already there it stays as it is. `about` says what the layers mean (JSON).
    Raises EpisodeError when a number of frames is not the episode's number of rows.
    """
    rows = read_document(shard)["rows"]
    counts = {f"clip of camera {camera!r}": clip.frames for camera, clip in clips.items()}
    for what, frames in (counts | {layer.name: layer.frames for layer in layers}).items():
        if frames != rows:
            raise EpisodeError(f"{what} has {frames} frames, shard {shard} has {rows} rows")
    place = shard / f"clips-{render_digest(info)}"
    with staging(place) as folder:
        cameras: dict[str, Any] = {}
        for camera, clip in sorted(clips.items()):
            name = f"observation.images.{camera}.mp4"
            shutil.copyfile(clip.path, folder / name)
            cameras[camera] = {
                "file": name,
                "sha256": sha256_file(folder / name),
                **{key: getattr(clip, key) for key in ("width", "height", "fps", "codec", "frames")},
                "histogram": clip.histogram.tolist(),
            }
        document: dict[str, Any] = {"render": dict(info), "cameras": cameras}
        if layers:
            document["extras"] = {"about": dict(about or {}), "files": [_keep(layer, folder) for layer in layers]}
        (folder / CLIPS_FILE).write_bytes(seal(document))
        rename_into_place(folder, place)
    return place


def _keep(layer: Layer, folder: Path) -> dict[str, Any]:
    """Copy a layer into a folder and return what is to be remembered of it."""
    name = f"{layer.name}.parquet"
    shutil.copyfile(layer.path, folder / name)
    facts = {key: getattr(layer, key) for key in ("kind", "camera", "width", "height", "frames")}
    return {"file": name, "sha256": sha256_file(folder / name), **facts}


def render_digest(info: Mapping[str, Any]) -> str:
    """Return the short name of a rendering: 16 hexadecimal digits of its settings' SHA-256."""
    return hashlib.sha256(json_bytes(lasting(info))).hexdigest()[:16]


def list_renders(shard: Path) -> list[str]:
    """Return the digests of the renderings a shard holds."""
    return sorted(path.name.removeprefix("clips-") for path in shard.glob("clips-*") if path.is_dir())


def read_clips(shard: Path, render: str, *, check: bool = True) -> tuple[dict[str, Clip], dict[str, Any]]:
    """Return the clips by camera and the render settings of one rendering.

    Each file is checked against its hash unless `check` is off, for those who only want to know what there is.
    Raises EpisodeError when the rendering does not exist, or naming the file that is missing or damaged.
    """
    folder = shard / f"clips-{render}"
    if not folder.is_dir():
        raise EpisodeError(f"shard {shard} has no rendering {render!r}; it has {list_renders(shard) or 'none'}")
    document = _read_sealed(folder / CLIPS_FILE)
    clips: dict[str, Clip] = {}
    for camera, entry in document["cameras"].items():
        if check:
            _check_hash(folder / entry["file"], entry["sha256"])
        clips[camera] = Clip(
            path=folder / entry["file"],
            histogram=np.array(entry["histogram"], np.int64),
            **{key: entry[key] for key in ("width", "height", "fps", "codec", "frames")},
        )
    return clips, document["render"]


def read_layers(shard: Path, render: str, *, check: bool = True) -> tuple[list[Layer], dict[str, Any]]:
    """Return the layers of one rendering by name, and what they mean; none and {} where none were asked for.

    Checks and errors as in `read_clips`.
    """
    folder = shard / f"clips-{render}"
    extras = _read_sealed(folder / CLIPS_FILE).get("extras", {"files": [], "about": {}})
    layers: list[Layer] = []
    for entry in extras["files"]:
        if check:
            _check_hash(folder / entry["file"], entry["sha256"])
        facts = {key: entry[key] for key in ("kind", "camera", "width", "height", "frames")}
        layers.append(Layer(path=folder / entry["file"], **facts))
    return sorted(layers, key=lambda layer: layer.name), extras["about"]


def _check_hash(path: Path, expected: str) -> None:
    found = sha256_file(path) if path.is_file() else "no file"
    if found != expected:
        raise EpisodeError(f"{path} is damaged: SHA-256 is {found[:12]}, recorded was {expected[:12]}")


def _read_sealed(path: Path) -> dict[str, Any]:
    try:
        return unseal(path.read_bytes())
    except FileNotFoundError as error:
        raise EpisodeError(f"{path} is missing; the shard is incomplete") from error
    except ValueError as error:
        raise EpisodeError(f"{path} is damaged: {error}") from error
