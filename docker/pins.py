"""Print the exact versions the images install: `pins.py PYPROJECT EXTRA ... > docker/constraints.txt`.

Run it in the environment the tests passed in: the images then hold what was tested, not what was newest on the day of
the build.
"""

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from requirements import requirements


def closure(wanted: list[Requirement]) -> dict[str, str]:
    """Return name -> installed version of everything `wanted` brings along.

    Raises:
        PackageNotFoundError: the environment lacks one of them.
    """
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    while wanted:
        asked = wanted.pop()
        name = re.sub(r"[-_.]+", "-", asked.name).lower()
        if (name, frozenset(asked.extras)) in seen:
            continue
        seen.add((name, frozenset(asked.extras)))
        package = metadata.distribution(asked.name)
        found[name] = package.version.partition("+")[0]  # a CPU build of torch says so; another machine has another
        for line in package.requires or ():
            needed = Requirement(line)
            if any(needed.marker is None or needed.marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                wanted.append(needed)
    return found


if __name__ == "__main__":
    lines = requirements(Path(sys.argv[1]), sys.argv[2:])
    pins = closure([Requirement(line) for line in lines])
    sys.stdout.write("# Exact versions for the images; written by docker/pins.py, read by pip as constraints.\n")
    sys.stdout.write("".join(f"{name}=={version}\n" for name, version in sorted(pins.items())))
