"""Video clips: frames are encoded once, as they come, and joined later without touching a pixel.

Every second frame is a key frame of a closed group, so that training can jump anywhere; one thread, so that the same
frames give the same bytes. H.264 is the default because every loader reads it; AV1 fails in decord and OpenCV wheels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from factory.errors import DatasetError, unknown_name

GROUP = 2
"""Frames from key frame to key frame."""

CODECS: dict[str, dict[str, Any]] = {
    "h264": {
        "encoder": "libx264",
        # No B frames: packets leave in display order, and joining clips is then adding whole frames.
        "options": {"crf": "23", "preset": "veryfast", "bf": "0", "x264-params": "scenecut=0:open-gop=0:threads=1"},
    },
    "av1": {"encoder": "libsvtav1", "options": {"crf": "30", "preset": "12", "svtav1-params": "lp=1"}},
}

# The numbers ffmpeg uses for SMPTE 170M (BT.601), which is what decoders assume for pictures of this size.
_SMPTE170M = 6


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One finished video file and what is known about its pictures.

    Attributes:
        path: the mp4 file.
        width: pixels; likewise height.
        height: see width.
        fps: frames per second, whole.
        codec: "h264" or "av1".
        frames: how many.
        histogram: ``(3, 256)`` int64: how often each value of red, green and blue was given to the encoder.
    """

    path: Path
    width: int
    height: int
    fps: int
    codec: str
    frames: int
    histogram: NDArray[np.int64]

    @property
    def options(self) -> dict[str, Any]:
        """Encoder settings as LeRobot's info.json names them."""
        options = CODECS[self.codec]["options"]
        return {"video.g": GROUP, "video.crf": int(options["crf"]), "video.preset": options["preset"]}


class ClipWriter:
    """Encodes frames one by one into an mp4 file; `finish` (or leaving the `with` block) makes it readable.

    When the block is left by an exception, the file is removed.
    """

    def __init__(self, path: Path, *, width: int, height: int, fps: int, codec: str = "h264") -> None:
        """Open `path`. Width and height are pixels, both even (yuv420p); `codec` is a key of `CODECS`."""
        if codec not in CODECS:
            raise DatasetError(unknown_name("codec", codec, CODECS))
        if width % 2 or height % 2 or min(width, height) < 2 or fps < 1:
            raise DatasetError(f"clip {path.name}: {width}x{height} at {fps} fps; needs even sizes and at least 1 fps")
        self.path, self.width, self.height, self.fps, self.codec = path, width, height, fps, codec
        self.frames = 0
        self.histogram = np.zeros((3, 256), np.int64)
        self.clip: Clip | None = None
        self._container = av.open(str(path), "w", format="mp4")
        settings = CODECS[codec]
        options = {**settings["options"], "g": str(GROUP)}
        self._stream = cast("Any", self._container.add_stream(settings["encoder"], rate=fps, options=options))
        self._stream.width, self._stream.height, self._stream.pix_fmt = width, height, "yuv420p"
        self._stream.time_base = self._stream.codec_context.time_base = Fraction(1, fps)
        context = self._stream.codec_context
        context.thread_count = 1
        context.colorspace = context.color_primaries = context.color_trc = _SMPTE170M
        context.color_range = ColorRange.MPEG
        # One for the whole clip: a frame's own `reformat` sets up a converter with threads each time, which took longer
        # than encoding an 84-pixel frame.
        self._converter = VideoReformatter()

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Append one frame ``(height, width, 3)``, red green blue, 0..255."""
        if frame.shape != (self.height, self.width, 3) or frame.dtype != np.uint8:
            raise DatasetError(
                f"clip {self.path.name}: frame {self.frames} is {frame.dtype} {frame.shape}, "
                f"expected uint8 {(self.height, self.width, 3)}"
            )
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture = self._converter.reformat(
            picture, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, threads=1
        )
        picture.pts, picture.time_base = self.frames, Fraction(1, self.fps)
        self._container.mux(self._stream.encode(picture))
        for channel in range(3):
            self.histogram[channel] += np.bincount(frame[..., channel].ravel(), minlength=256)
        self.frames += 1

    def finish(self) -> Clip:
        """Close the file and return what it holds; calling it again returns the same."""
        if self.clip is None:
            if not self.frames:
                self.abandon()
                raise DatasetError(f"clip {self.path.name}: no frame was written")
            self._container.mux(self._stream.encode(None))
            self._container.close()
            self.clip = Clip(
                path=self.path,
                width=self.width,
                height=self.height,
                fps=self.fps,
                codec=self.codec,
                frames=self.frames,
                histogram=self.histogram,
            )
        return self.clip

    def abandon(self) -> None:
        """Close and remove the file."""
        try:
            self._container.close()
        finally:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif self.clip is None:
            self.abandon()


def decode(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield every frame as uint8 ``(h, w, 3)``, red green blue. Raises DatasetError when the file is damaged."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield cast("NDArray[np.uint8]", frame.to_ndarray(format="rgb24"))
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be decoded: {error}") from error


def count_frames(path: Path, *, fps: int) -> int:
    """Decode a whole file and return its number of frames.

    Raises DatasetError when decoding fails or a frame is not at exactly its number / fps.
    """
    count = 0
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                number = Fraction(frame.pts or 0) * (frame.time_base or Fraction(1, fps)) * fps
                if number != count:
                    raise DatasetError(f"video {path}: frame {count} is shown at {float(number / fps):.6f} s")
                count += 1
    except (FFmpegError, IndexError) as error:
        raise DatasetError(f"video {path} cannot be decoded after frame {count}: {error}") from error
    return count


def concatenate(paths: Sequence[Path], out: Path) -> int:
    """Join clips without encoding anything again; frame n of the result is shown at exactly n / fps.

    All clips must come from one `ClipWriter` setting. Returns the number of frames. Raises DatasetError otherwise.
    """
    offset = 0
    with av.open(str(out), "w", format="mp4") as target:
        stream: Any = None
        setting: tuple[Any, ...] = ()
        for path in paths:
            with av.open(str(path)) as source:
                video = source.streams.video[0]
                context = video.codec_context
                fps = Fraction(video.average_rate or 0)
                found = (context.name, context.width, context.height, context.pix_fmt, fps, context.extradata)
                if stream is None:
                    stream, setting = target.add_stream_from_template(video, opaque=True), found
                    stream.time_base = 1 / fps
                elif found != setting:
                    raise DatasetError(f"clip {path} is {found[:5]} where its predecessors are {setting[:5]}")
                offset += _append(target, stream, source.demux(video), fps=fps, offset=offset)
    return offset


def _append(target: Any, stream: Any, packets: Iterator[Any], *, fps: Fraction, offset: int) -> int:
    """Copy packets with whole-frame times shifted by `offset` frames; return how many there were."""
    count = 0
    for packet in packets:
        if packet.pts is None:  # the flush packet
            continue
        shown, decoded = (Fraction(time) * packet.time_base * fps for time in (packet.pts, packet.dts))
        if shown.denominator != 1 or decoded.denominator != 1:
            raise DatasetError(f"a packet is shown at frame {float(shown):.4f}; clips must have whole-frame times")
        packet.stream = stream
        packet.time_base = 1 / fps
        packet.pts, packet.dts, packet.duration = int(shown) + offset, int(decoded) + offset, 1
        target.mux(packet)
        count += 1
    return count


def excerpt(path: Path, out: Path, *, first: int, frames: int) -> None:
    """Copy `frames` frames of a video, from number `first` on, into a video of their own without encoding anything.

    Raises DatasetError when the file has no such frames, or `first` is not a key frame.
    """
    with av.open(str(path)) as source, av.open(str(out), "w", format="mp4") as target:
        video = source.streams.video[0]
        fps = Fraction(video.average_rate or 0)
        base = Fraction(video.time_base or 1)
        stream = target.add_stream_from_template(video, opaque=True)
        stream.time_base = 1 / fps
        source.seek(round(first / fps / base), stream=video)

        def wanted() -> Iterator[Any]:
            left = frames
            for packet in source.demux(video):
                if left and packet.pts is not None and packet.pts * base * fps >= first:
                    if left == frames and not packet.is_keyframe:
                        raise DatasetError(
                            f"video {path}: frame {first} is not a key frame, so nothing can begin there"
                        )
                    left -= 1
                    yield packet
                if not left:
                    break

        found = _append(target, stream, wanted(), fps=fps, offset=-first)
    if found != frames:
        raise DatasetError(f"video {path} has {found} frames from number {first} on, expected {frames}")
