"""Draws the films of the docs: the first episode that `factory generate` keeps of some tasks, with faithful pictures.

    python -m tests.benchmarks.films [TASK ...]

Writes docs/images/TASK.webp, 256 x 256, every other control step at the speed of life.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import av
from PIL import Image

from factory.dataset_reading import open_dataset

IMAGES = Path("docs/images")
FILMED = {"two_arm_handover": "frontview", "two_arm_lift_tray": "frontview", "gr1_pick_place": "frontview"}
"""Task -> camera: one of two Pandas, one of dexterous hands, one of a humanoid."""
_SIZE_PX, _EVERY = 256, 2


def main() -> None:
    """Film all, or the tasks named."""
    for task in sys.argv[1:] or FILMED:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "one")
            command = [
                str(Path(sys.executable).with_name("factory")),
                "generate",
                task,
                "--episodes",
                "1",
                "--seed",
                "2026",
            ]
            command += ["--cameras", FILMED[task], "--size", str(_SIZE_PX), "--out", str(out)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            path = film(out, FILMED[task], IMAGES / f"{task}.webp")
            print(path, path.stat().st_size)


def film(dataset: Path, camera: str, path: Path) -> Path:
    """Write a dataset's first video as a film that pages show; returns where."""
    video = next(dataset.glob(f"videos/*{camera}/**/*.mp4"))
    with av.open(str(video)) as container:
        pictures = [frame.to_image() for frame in container.decode(video=0)][::_EVERY]
    first, *rest = pictures
    milliseconds = round(1000 * _EVERY / open_dataset(dataset).fps)
    first.save(path, "WEBP", save_all=True, append_images=rest, duration=milliseconds, loop=0, quality=55, method=6)
    with Image.open(path) as written:
        assert getattr(written, "n_frames", 1) == len(pictures)
    return path


if __name__ == "__main__":
    main()
