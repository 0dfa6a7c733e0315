"""Models that come with the package: small, for one scene, and on no machine downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from factory.errors import DatasetError, unknown_name

IDM = "idm-tabletop-64"
"""Inverse dynamics of the tabletop scene seen by its `dream_view` at 64 px, stride 4."""
VIDEO = "video-tabletop-64"
"""A video model of the same pictures, 33 of them."""
WIDE = "video-tabletop-128"
"""A video model of `dream_view` and `sideview` at 128 px, grown out of that."""

JUDGE = "judge-tabletop-64"
"""A classifier of the same pictures, as clips of any number of them, and of that scene's words."""

USUAL: Mapping[str, str] = {"video": VIDEO, "idm": IDM, "classifier": JUDGE}
"""Kind of model -> the one that is taken where none is named."""


def shipped(name: str) -> Path:
    """Return the folder of a model that comes with the package. Raises DatasetError when there is none of that name."""
    if not is_shipped(name):
        raise DatasetError(unknown_name("shipped model", name, _names()))
    return _models() / name


def is_shipped(name: str) -> bool:
    """Return whether a model of that name comes with the package."""
    return name in _names()


def named(given: Path | None, usual: str) -> Path:
    """Return a model's folder: the given one, or a shipped one of that name; the usual shipped one without any."""
    if given is None:
        return shipped(usual)
    return shipped(str(given)) if is_shipped(str(given)) and not given.exists() else given


def _models() -> Path:
    return Path(str(resources.files("dreams") / "models"))


def _names() -> list[str]:
    models = _models()
    return sorted(path.name for path in models.iterdir() if path.is_dir()) if models.is_dir() else []
