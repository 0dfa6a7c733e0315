"""The rules of the house, checked on the house."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("factory", "sim_tasks", "api", "workers")

HEAVY = {"mujoco", "robosuite", "torch", "ray", "numba", "OpenGL", "glfw", "cv2"}
"""Seconds to import, or a display to open."""


def _project_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so what belongs to the project is not known")
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def test_import_contracts_hold() -> None:
    tool = Path(sys.executable).with_name("lint-imports")
    said = subprocess.run([tool], cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "0 broken" in said.stdout


@pytest.mark.parametrize(
    "module",
    ["workers.cli", "workers.generate", "workers.service", "workers.report", "sim_tasks.catalog", "sim_tasks.backends"],
)
def test_what_everyone_imports_is_light(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(said.stdout))


def test_package_files_import_nothing() -> None:
    """But the list of backends, which may use core and catalogue and imports a simulator only when it is opened."""
    for package in PACKAGES:
        for path in (ROOT / package).rglob("__init__.py"):
            body = ast.parse(path.read_text()).body
            imports = [node for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {getattr(node, "module", None) or "" for node in imports} - {"__future__", "typing"}
            allowed = {"factory.errors", "sim_tasks.catalog"} if path.parent.name == "backends" else set()
            assert names <= allowed, path


def test_nothing_reaches_outside_the_project() -> None:
    """A clone has no neighbours; only the project's own CI looks for the shared folder beside it."""
    needle = b"../" + b"shared"
    found = [path for path in _project_files() if needle in path.read_bytes()]
    assert [path.relative_to(ROOT).as_posix() for path in found] in ([], [".ci/run"])


def test_the_installed_version_is_the_projects() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert importlib.metadata.version(project["name"]) == project["version"]
