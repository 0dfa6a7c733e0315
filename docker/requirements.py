"""Print what pip has to install before the sources come: `requirements.py PYPROJECT [EXTRA ...]`.

A layer that knows only pyproject.toml is built again when that file changes, not whenever a source file does. The build
backend is among the lines, because the sources are installed later without a build environment of their own.
"""

import sys
import tomllib
from pathlib import Path


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the dependencies and those of `extras`.

    Raises:
        SystemExit: pyproject.toml has no such extra.
    """
    content = tomllib.loads(pyproject.read_text())
    project = content["project"]
    known = project.get("optional-dependencies", {})
    if missing := [extra for extra in extras if extra not in known]:
        raise SystemExit(f"{pyproject}: no extra {', '.join(missing)}; there are {', '.join(sorted(known))}")
    lines = list(project["dependencies"])
    for extra in extras:
        lines += known[extra]
    return lines


def backend(pyproject: Path) -> list[str]:
    """Return what the sources are built with."""
    return tomllib.loads(pyproject.read_text())["build-system"]["requires"]


if __name__ == "__main__":
    given = Path(sys.argv[1])
    sys.stdout.write("\n".join([*backend(given), *requirements(given, sys.argv[2:])]) + "\n")
