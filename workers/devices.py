"""Which GPUs this machine lends to workers, found without loading anything that would occupy one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""What CUDA reads to see some devices only, and in which order; a worker that has it set to one sees one."""


def cuda_devices(given: Mapping[str, str], root: Path = Path("/")) -> tuple[str, ...]:
    """Return how `CUDA_VISIBLE_DEVICES` names each CUDA device that this process may use; empty without any.

    Args:
        given: environment variables; devices that they hide are not among them.
        root: of the file system in which the driver announces devices.
    """
    there = [path for path in (root / "dev").glob("nvidia*") if path.name.removeprefix("nvidia").isdigit()]
    if not there:
        return ()
    if VISIBLE not in given:
        return tuple(str(number) for number in range(len(there)))
    named = [name.strip() for name in given[VISIBLE].split(",")]
    # CUDA itself stops at the first name that is none, and -1 is none.
    stop = next((i for i, name in enumerate(named) if not name or name == "-1"), len(named))
    return tuple(named[:stop])
