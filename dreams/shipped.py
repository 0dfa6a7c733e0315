"""Models that come with the package: small, for one scene, and on no machine downloaded."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from factory.errors import DatasetError, unknown_name

IDM = "idm-tabletop-64"
"""Inverse dynamics of the tabletop scene seen by its `dream_view` at 64 px, stride 4."""
VIDEO = "video-tabletop-64"
"""A video model of the same pictures, 33 of them."""

JUDGE = "judge-tabletop-64"
"""A classifier of the same pictures, as clips of any number of them, and of that scene's words."""


def shipped(name: str) -> Path:
    """Return the folder of a model that comes with the package. Raises DatasetError when there is none of that name."""
    models = Path(str(resources.files("dreams") / "models"))
    if not (models / name).is_dir():
        known = [path.name for path in models.iterdir()] if models.is_dir() else []
        raise DatasetError(unknown_name("shipped model", name, known))
    return models / name
