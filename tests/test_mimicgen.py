"""What this project and MimicGen have in common: tasks by name, and one way to reach an environment that has it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from factory.errors import BackendError
from sim_tasks.catalog import TASKS, find_task
from workers import mimicgen

_HALF_RANGE_M = {"Stack_D0": 0.08, "Stack_D1": 0.20, "StackThree_D0": 0.10, "StackThree_D1": 0.20}
"""As its paper's code draws cubes: uniform about the middle of the table, turned anyhow."""


@pytest.mark.parametrize("environment", mimicgen.TASKS)
def test_each_of_its_names_is_a_task_and_variant_that_says_so(environment: str) -> None:
    name, variant = mimicgen.our_task(environment)
    task = find_task(name)
    assert environment in task.environments
    assert variant in task.resets
    assert environment.endswith(variant)


@pytest.mark.parametrize("environment", _HALF_RANGE_M)
def test_starts_are_drawn_from_the_same_ranges(environment: str) -> None:
    name, variant = mimicgen.our_task(environment)
    half = _HALF_RANGE_M[environment]
    for placement in find_task(name).resets[variant].placements:
        assert placement.x_m == placement.y_m == (-half, half)
        np.testing.assert_allclose(np.diff(placement.yaw_rad), 2 * np.pi)


def test_every_task_that_claims_one_of_its_names_is_in_the_table() -> None:
    """Names with a variant at the end are MimicGen's; the table may leave out only scenes that differ."""
    named = {e for task in TASKS.values() for e in task.environments if e.rpartition("_")[2] in task.resets}
    assert set(mimicgen.TASKS) <= named
    assert {name.partition("_")[0] for name in named - set(mimicgen.TASKS)} <= {"Lift", "Can", "Door"}


def test_an_unknown_name_is_said() -> None:
    with pytest.raises(BackendError, match="Did you mean 'Stack_D"):
        mimicgen.our_task("Stack_D9")


def test_what_an_environment_lacks_is_said(tmp_path: Path) -> None:
    """This environment has no MimicGen, on purpose: a package of that name from an index would be a stranger's."""
    with pytest.raises(BackendError, match="(?s)has no MimicGen: .*No module named 'mimicgen'"):
        mimicgen.template_of(Path(sys.executable), "stack")
    with pytest.raises(BackendError, match="has no MimicGen: .*nowhere"):
        mimicgen.template_of(tmp_path / "nowhere", "stack")
    assert mimicgen.run(Path(sys.executable), ["-c", "print(7)"], "it failed") == "7\n"
    with pytest.raises(BackendError, match="it failed: no"):
        mimicgen.run(Path(sys.executable), ["-c", "raise SystemExit('no')"], "it failed")
