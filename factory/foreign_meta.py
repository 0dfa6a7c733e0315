"""What a LeRobot set made elsewhere says of itself under `meta/`, v2.0 to v3.0. None of it is believed yet."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from factory import lerobot, lerobot_v21
from factory.errors import DatasetError

VERSIONS = ("v2.0", "v2.1", lerobot.VERSION)
COLUMNS_OF = {"state": "observation.state", "action": "action"}
"""Modality -> the column its keys are slices of, unless they name another."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """How a set describes a column or a camera.

    Attributes:
        dtype: as written; "video" and "image" are cameras.
        shape: of one row.
        names: one per element, empty where there are none or not as many.
        has_info: whether there is a block "info" about the video.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...]
    has_info: bool

    @property
    def is_camera(self) -> bool:
        """Whether it is about pictures."""
        return self.dtype in ("video", "image")


@dataclass(frozen=True, kw_only=True)
class Info:
    """`meta/info.json`.

    Attributes:
        version: one of `VERSIONS`.
        robot_type: "" where it is not said.
        fps: rows per second.
        chunk: episodes per chunk folder in v2.
        features: column or camera -> its description.
        splits: name -> span, such as "0:100".
        said: everything, as it is written.
    """

    version: str
    robot_type: str
    fps: int
    chunk: int
    features: Mapping[str, Feature]
    splits: Mapping[str, str]
    said: Mapping[str, Any]

    @property
    def is_v3(self) -> bool:
        """Whether files hold many episodes."""
        return self.version == lerobot.VERSION


@dataclass(frozen=True, kw_only=True)
class Modality:
    """`meta/modality.json`.

    Attributes:
        parts: "state.<key>" or "action.<key>" -> column, start and stop.
        videos: view -> feature.
        said: everything, as it is written; {} without the file.
    """

    parts: Mapping[str, tuple[str, int, int]]
    videos: Mapping[str, str]
    said: Mapping[str, Any]


@contextmanager
def parsing(path: Path) -> Generator[None]:
    """Turn whatever a stranger's file makes its reading raise into a DatasetError that names the file."""
    try:
        yield
    except KeyError as error:
        raise DatasetError(f"{path} cannot be read: it has no {error}") from error
    except (OSError, ValueError, TypeError, AttributeError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def read_info(root: Path) -> Info:
    """Return `info.json`. Raises DatasetError when it is missing or none that can be read."""
    path = root / lerobot.INFO_PATH
    if not path.is_file():
        raise DatasetError(f"{path} is missing; is {root} a LeRobot set?")
    with parsing(path):
        said = json.loads(path.read_bytes())
        version = said["codebase_version"]
        if version not in VERSIONS:
            raise DatasetError(f"{root}: codebase_version is {version!r}; {', '.join(VERSIONS)} can be read")
        rate = Fraction(str(said.get("fps", 0)))
        if rate.denominator != 1 or rate < 1:
            raise DatasetError(f"{root}: {said.get('fps')} rows per second; a whole number is needed")
        return Info(
            version=version,
            robot_type=str(said.get("robot_type") or ""),
            fps=int(rate),
            chunk=max(1, int(said.get("chunks_size") or lerobot_v21.CHUNK)),
            features={str(name): _feature(entry) for name, entry in said.get("features", {}).items()},
            splits={str(name): str(span) for name, span in said.get("splits", {}).items()},
            said=said,
        )


def _feature(entry: Mapping[str, Any]) -> Feature:
    shape = tuple(int(side) for side in entry["shape"])
    names: Any = entry.get("names")
    fits = isinstance(names, list) and bool(shape) and len(cast("list[Any]", names)) == shape[0]
    return Feature(
        dtype=str(entry["dtype"]),
        shape=shape,
        names=tuple(str(name) for name in names) if fits else (),
        has_info="info" in entry,
    )


def read_tasks(root: Path, info: Info) -> dict[int, str]:
    """Return texts by their number; {} where there is no table of them."""
    path = root / (lerobot.TASKS_PATH if info.is_v3 else lerobot_v21.TASKS_PATH)
    with parsing(path):
        if not info.is_v3:
            return {int(line["task_index"]): str(line["task"]) for line in read_lines(path)}
        table = read_parquet(path) if path.is_file() else None
        # pandas keeps its index under this name when it has none of its own.
        text = next((n for n in ("task", "__index_level_0__") if table and n in table.column_names), None)
        if table is None or text is None:
            return {}
        return dict(zip(table.column("task_index").to_pylist(), table.column(text).to_pylist(), strict=True))


def read_modality(root: Path) -> Modality:
    """Return `meta/modality.json`, an empty one where there is none."""
    path = root / lerobot_v21.MODALITY_PATH
    with parsing(path):
        said = json.loads(path.read_bytes()) if path.is_file() else {}
        return Modality(
            parts={
                f"{kind}.{key}": (str(entry.get("original_key") or usual), int(entry["start"]), int(entry["end"]))
                for kind, usual in COLUMNS_OF.items()
                for key, entry in said.get(kind, {}).items()
            },
            videos={
                str(key): str(entry.get("original_key") or lerobot.video_key(key))
                for key, entry in said.get("video", {}).items()
            },
            said=said,
        )


def read_stats(root: Path) -> set[str] | None:
    """Return which columns `meta/stats.json` describes; None without the file."""
    path = root / lerobot.STATS_PATH
    with parsing(path):
        return set(json.loads(path.read_bytes()).keys()) if path.is_file() else None


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the values of a file of JSON lines; none where there is no file."""
    with parsing(path):
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def read_parquet(path: Path) -> pa.Table:
    """Return a table. Raises DatasetError when it cannot be read."""
    with parsing(path):
        return pq.read_table(path)
