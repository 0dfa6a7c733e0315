"""Shared test settings: shapes are checked at run time, and outside demonstrations are found through one variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

from tests import postgres

# Every public array function of the core is checked against its jaxtyping signature while the tests run.
install_import_hook(["factory.poses"], "beartype.beartype")

# Laws are about results; how long an example takes says most about what else the machine does.
settings.register_profile("laws", deadline=None)
settings.load_profile("laws")

# One GL setting for the whole run, before anything imports MuJoCo.
os.environ.setdefault("MUJOCO_GL", "egl")


LONGEST_FIRST = (
    "reliability", "service", "jobs", "dream_road", "dream_jobs", "ray", "ray_kills", "demonstrators", "disk",
    "browser", "rendering", "pull",
)  # fmt: skip
"""Files that take long. A worker that got one last would be alone with it at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first, all others in their order."""
    rank = {f"test_{name}": number for number, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def outside_demos() -> Path:
    """Folder of demonstrations recorded by others, or a skip that says how to provide it."""
    folder = os.environ.get("FACTORY_DEMOS_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("set FACTORY_DEMOS_DIR to a folder with other people's demonstrations to run this test")
    return Path(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server; `tests.postgres.fresh_database` makes databases in it."""
    with postgres.server() as url:
        yield url


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread: many are slower on small networks, and other workers want the cores."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
