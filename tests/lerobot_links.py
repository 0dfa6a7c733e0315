"""Lend torchcodec the FFmpeg that PyAV brings along, so that no system FFmpeg is needed.

PyAV's wheel names its libraries `libavcodec-<hash>.so.62.x.y` and keeps the plain sonames to itself;
torchcodec asks the loader for `libavcodec.so.62`. A folder of links under the plain names, on
LD_LIBRARY_PATH, joins the two.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_BUNDLED = re.compile(r"(?P<name>lib(?:av|sw)[a-z]+)-[0-9a-f]{8}\.so\.(?P<major>\d+)(?:\.\d+)*")


def link_ffmpeg(bundled: Path, folder: Path) -> str:
    """Link the libraries of `<site-packages>/av.libs` into `folder`; return the LD_LIBRARY_PATH that finds both."""
    folder.mkdir(parents=True, exist_ok=True)
    for library in sorted(bundled.iterdir()):
        if match := _BUNDLED.fullmatch(library.name):
            link = folder / f"{match['name']}.so.{match['major']}"
            link.unlink(missing_ok=True)
            link.symlink_to(library.resolve())
    return f"{folder}:{bundled}"


if __name__ == "__main__":
    sys.stdout.write(link_ffmpeg(Path(sys.argv[1]), Path(sys.argv[2])) + "\n")
