"""Shared test settings: shapes are checked at run time, and outside demonstrations are found through one variable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

# Every public array function of the core is checked against its jaxtyping signature while the tests run.
install_import_hook(["factory.poses"], "beartype.beartype")

# One GL setting for the whole run, before anything imports MuJoCo.
os.environ.setdefault("MUJOCO_GL", "egl")


@pytest.fixture(scope="session")
def outside_demos() -> Path:
    """Folder of demonstrations recorded by others, or a skip that says how to provide it."""
    folder = os.environ.get("FACTORY_DEMOS_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set FACTORY_DEMOS_DIR to a folder with other people's demonstrations to run this test")
    return Path(folder)
