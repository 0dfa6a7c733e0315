"""What is in a LeRobot set made elsewhere: every row read, every video asked, and what is sloppy in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from factory.errors import DatasetError
from factory.foreign import Picture, foreign_episodes, read_picture
from factory.foreign_findings import Columns, Findings, kinds_of
from factory.foreign_meta import read_info, read_tasks


@dataclass(frozen=True, kw_only=True)
class ForeignSet:
    """What was found in a set; counts are counted, not read from `info.json`.

    Attributes:
        root: its folder.
        version: "v2.0", "v2.1" or "v3.0".
        robot_type: as info.json says.
        fps: rows per second.
        lengths: rows of each episode.
        columns: column -> type and shape of one row, as stored.
        cameras: camera -> its pictures.
        tasks: texts by their number.
        findings: what is sloppy, one sentence each.
    """

    root: Path
    version: str
    robot_type: str
    fps: int
    lengths: tuple[int, ...]
    columns: Columns
    cameras: Mapping[str, Picture]
    tasks: Mapping[int, str]
    findings: tuple[str, ...]


def look(root: Path) -> ForeignSet:
    """Read every row of a set, and what its videos say of themselves.

    Raises DatasetError when `root` is no LeRobot set of a known version, or a file of it cannot be read.
    """
    info = read_info(root)
    tasks = read_tasks(root, info)
    findings = Findings(info, tasks)
    lengths: list[int] = []
    columns: dict[str, tuple[str, tuple[int, ...]]] = {}
    cameras: dict[str, Picture] = {}
    for episode in foreign_episodes(root):
        lengths.append(len(episode))
        for name, kind in kinds_of(episode).items():
            columns.setdefault(name, kind)
        for camera, film in episode.films.items():
            if camera not in cameras:
                cameras[camera] = read_picture(film.path)
        findings.of_episode(episode)
    if not lengths:
        raise DatasetError(f"{root} holds no episode; data/chunk-*/ has no parquet file of layout {info.version}")
    findings.of_set(root, lengths, columns, cameras)
    return ForeignSet(
        root=root,
        version=info.version,
        robot_type=info.robot_type,
        fps=info.fps,
        lengths=tuple(lengths),
        columns=columns,
        cameras=cameras,
        tasks=tasks,
        findings=tuple(findings.said),
    )
