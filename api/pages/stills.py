"""Small pictures out of videos, so that a gallery need not open two dozen films at once."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from factory.errors import DatasetError

_WIDEST_PX = 256
_QUALITY = 4
"""Of MJPEG, 2 (best) to 31: at this size nobody sees a difference to 2."""


def still(path: Path, at_s: float) -> bytes:
    """Return the frame that is shown at `at_s` seconds as a JPEG file.

    Raises:
        DatasetError: the video cannot be read, or is shorter.
    """
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            base = stream.time_base or Fraction(1, 1000)
            container.seek(int(at_s / base), stream=stream)
            for frame in container.decode(stream):
                shown_until = float(frame.pts or 0) * float(base) + 1.0 / float(stream.average_rate or 20)
                if shown_until > at_s + 1e-4:
                    return _jpeg(frame)
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path.name} cannot be decoded: {error}") from error
    raise DatasetError(f"video {path.name} has no frame at {at_s:.2f} s")


def _jpeg(frame: Any) -> bytes:
    scale = min(1.0, _WIDEST_PX / max(frame.width, frame.height))
    encoder: Any = av.CodecContext.create("mjpeg", "w")
    # Even sizes, as colour is stored for two by two pixels.
    encoder.width, encoder.height = (max(2, round(side * scale / 2) * 2) for side in (frame.width, frame.height))
    encoder.pix_fmt, encoder.time_base = "yuvj420p", Fraction(1, 1)
    encoder.qmin = encoder.qmax = _QUALITY
    small = frame.reformat(width=encoder.width, height=encoder.height, format="yuvj420p", interpolation="AREA")
    small.pts = None
    return b"".join(bytes(packet) for packet in [*encoder.encode(small), *encoder.encode(None)])
