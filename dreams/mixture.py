"""Which datasets a policy is trained on together, and in what proportion: a small file that a loader reads.

GR00T N1 mixes real and neural trajectories one to one, the neural ones as an embodiment of their own. Proportions are
of samples drawn, not of episodes there are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from factory.durable import json_bytes
from factory.errors import DatasetError, SpecError
from factory.foreign_meta import read_info

Kind = Literal["real", "neural"]
KINDS: tuple[Kind, ...] = ("real", "neural")
VERSION = "mixture/1"


@dataclass(frozen=True, kw_only=True)
class Part:
    """One dataset of a mixture.

    Attributes:
        path: its folder, absolute, or relative to the manifest's.
        kind: "real" for recorded and simulated episodes, "neural" for dreams.
        embodiment: its `robot_type`; a policy with several heads gives each its own.
        rows: how many it has.
        share: of all samples drawn, in (0, 1]; a mixture's shares add up to 1.
    """

    path: str
    kind: Kind
    embodiment: str
    rows: int
    share: float


def mixture(
    real: Sequence[Path], neural: Sequence[Path], *, beside: Path, ratio: tuple[float, float] = (1.0, 1.0)
) -> dict[str, Any]:
    """Return the manifest of a mixture, JSON; within a kind, datasets share by their rows.

    Args:
        real: folders of LeRobot datasets; at least one.
        neural: likewise, of dreams.
        beside: the folder that the manifest will lie in; paths below it are written relative to it.
        ratio: samples of real ones to samples of neural ones.

    Raises:
        SpecError: nothing to mix, or a ratio that is not positive.
        DatasetError: a folder is no LeRobot dataset, or datasets have different rates.
    """
    if not real or not neural:
        raise SpecError(f"a mixture needs real and neural datasets; found {len(real)} and {len(neural)}")
    if min(ratio) <= 0:
        raise SpecError(f"the ratio of real to neural samples is {ratio[0]:g}:{ratio[1]:g}; both must be above 0")
    parts: list[Part] = []
    rates: dict[Path, int] = {}
    for kind, folders, weight in zip(KINDS, (real, neural), ratio, strict=True):
        infos = {folder: read_info(folder) for folder in folders}
        rows = {folder: int(info.said.get("total_frames") or 0) for folder, info in infos.items()}
        if empty := [str(folder) for folder, count in rows.items() if count < 1]:
            raise DatasetError(f"{', '.join(empty)}: no rows to learn from")
        rates |= {folder: info.fps for folder, info in infos.items()}
        share = weight / sum(ratio)
        parts += [
            Part(
                path=_written(folder, beside),
                kind=kind,
                embodiment=infos[folder].robot_type or "unknown",
                rows=rows[folder],
                share=share * rows[folder] / sum(rows.values()),
            )
            for folder in folders
        ]
    if len(set(rates.values())) > 1:
        said = ", ".join(f"{folder} has {rate}" for folder, rate in rates.items())
        raise DatasetError(f"datasets of one mixture need one rate; rows per second: {said}")
    return {
        "version": VERSION,
        "ratio": {"real": ratio[0], "neural": ratio[1]},
        "fps": next(iter(rates.values())),
        "datasets": [vars(part) for part in parts],
    }


def write_mixture(path: Path, manifest: dict[str, Any]) -> Path:
    """Write a manifest and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json_bytes(manifest))
    return path


def read_mixture(path: Path) -> tuple[Part, ...]:
    """Return the parts of a mixture, their paths absolute. Raises DatasetError when the file is not a manifest."""
    try:
        said: dict[str, Any] = json.loads(path.read_bytes())
        parts = tuple(_part(entry, path.parent) for entry in said["datasets"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{path} is no mixture of datasets: {error}") from error
    if said.get("version") != VERSION:
        raise DatasetError(f"{path} is {said.get('version')!r}; {VERSION!r} can be read")
    return parts


def _part(entry: Any, folder: Path) -> Part:
    return Part(
        path=str((folder / entry["path"]).resolve()),
        kind=entry["kind"],
        embodiment=entry["embodiment"],
        rows=int(entry["rows"]),
        share=float(entry["share"]),
    )


def _written(folder: Path, beside: Path) -> str:
    whole = folder.resolve()
    return str(whole.relative_to(beside.resolve())) if whole.is_relative_to(beside.resolve()) else str(whole)
