"""Builds and loads `faulty_disk.c`: a disk that fails at its n-th operation, and a diary of what reached it."""

from __future__ import annotations

import errno
import os
import shutil
import struct
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("faulty_disk.c")
NEVER = 2**63


def build(folder: Path) -> Path:
    """Return the compiled library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler; docker/system-packages.sh installs one")
    library = folder / "faulty_disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


@dataclass(frozen=True)
class FaultyDisk:
    """A folder whose writes are counted, and fail where it was told."""

    library: Path
    root: Path
    state: Path
    diary: Path | None = None

    def set(self, first: int = NEVER, count: int = 1, error: int = errno.ENOSPC) -> None:
        """Count from zero, and fail so many operations from the `first` on."""
        self.state.write_bytes(struct.pack("5Q", 0, first, count, error, 0))

    @property
    def seen(self) -> int:
        """Operations so far."""
        return struct.unpack("5Q", self.state.read_bytes())[0]

    @property
    def failed(self) -> int:
        """Operations that failed."""
        return struct.unpack("5Q", self.state.read_bytes())[4]

    def environment(self) -> Mapping[str, str]:
        """Return the environment of a process that is to write to it."""
        found = {
            **os.environ,
            "LD_PRELOAD": str(self.library),
            "FAULTY_DISK_ROOT": str(self.root),
            "FAULTY_DISK_STATE": str(self.state),
        }
        if self.diary is not None:
            found["FAULTY_DISK_DIARY"] = str(self.diary)
        return found

    def entries(self) -> list[tuple[str, str, str]]:
        """Return the diary: operation, path, and what else is known of it, in order."""
        assert self.diary is not None
        rows = [line.split("\t") for line in self.diary.read_text(errors="replace").splitlines()]
        rows.sort(key=lambda row: int(row[0]))
        return [(name, path, more) for _, name, path, more in rows]
