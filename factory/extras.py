"""Segmentation and depth of an episode's frames, kept exactly: a parquet file per kind and camera, a row per frame.

A row holds the bytes of one frame, row by row from the top, little-endian. Frames follow each other in pages large
enough that the compressor sees what did not change since the last one; why not a video, see decision 0019.

Segmentation is uint8: which of the legend's names a pixel shows, 0 for the background. Depth is uint16: millimetres
along the camera's axis, rounded, so at most half a millimetre off; 0 where nothing is within 65.535 m.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from factory.errors import DatasetError
from factory.specs import Extra

Frames = NDArray[np.uint8] | NDArray[np.uint16]

EXTRAS_PATH = "extras/{kind}.{camera}/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
"""Where a dataset keeps them; the numbers are those of the data file with the same episodes."""
ABOUT_PATH = "meta/extras.json"

DTYPES: dict[Extra, str] = {"segmentation": "uint8", "depth": "uint16"}

FARTHEST_M = 65.535
"""What is farther away is stored like nothing."""

_GROUP_BYTES = 4 * 1024 * 1024
"""Frames held, compressed and read together; sixteen frames of 256 x 256 are already as good as all of them."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One finished file: all frames of one camera, of one kind.

    Attributes:
        path: the parquet file.
        kind: what its pixels mean.
        camera: whose they are.
        width: pixels; likewise height.
        height: see width.
        frames: how many.
    """

    path: Path
    kind: Extra
    camera: str
    width: int
    height: int
    frames: int

    @property
    def name(self) -> str:
        """How files of this kind and camera are called."""
        return f"{self.kind}.{self.camera}"


def to_millimetres(depth_m: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """Return distances in metres as they are stored; 0 for what is infinitely or too far away."""
    near = depth_m <= FARTHEST_M
    return np.where(near, np.rint(1000.0 * np.where(near, depth_m, 0.0)), 0.0).astype(np.uint16)


def to_metres(stored: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Return stored distances in metres, infinity where there was nothing."""
    return np.where(stored == 0, np.float32(np.inf), stored.astype(np.float32) / np.float32(1000.0))


class LayerWriter:
    """Writes frames one by one; `finish` (or leaving the `with` block) makes the file readable.

    When the block is left by an exception, the file is removed.
    """

    def __init__(self, path: Path, *, kind: Extra, camera: str, width: int, height: int) -> None:
        """Open `path` for frames of `width` x `height` pixels."""
        self.kind: Extra = kind
        self.path, self.camera, self.width, self.height = path, camera, width, height
        self.frames = 0
        self.layer: Layer | None = None
        self._held: list[bytes] = []
        self._dtype = np.dtype(DTYPES[kind]).newbyteorder("<")
        self._bytes = width * height * self._dtype.itemsize
        facts = {"kind": kind, "camera": camera, "width": str(width), "height": str(height)}
        self._schema = pa.schema([pa.field("frame", pa.binary(self._bytes), nullable=False)], metadata=facts)
        self._writer = _open(path, self._schema)

    def write(self, frame: Frames) -> None:
        """Append one frame ``(height, width)`` of the kind's type."""
        if frame.shape != (self.height, self.width) or frame.dtype != DTYPES[self.kind]:
            raise DatasetError(
                f"{self.path.name}: frame {self.frames} is {frame.dtype} {frame.shape}, "
                f"expected {DTYPES[self.kind]} {(self.height, self.width)}"
            )
        self._held.append(np.ascontiguousarray(frame, self._dtype).tobytes())
        self.frames += 1
        if len(self._held) * self._bytes >= _GROUP_BYTES:
            self._flush()

    def finish(self) -> Layer:
        """Close the file and return what it holds; calling it again returns the same."""
        if self.layer is None:
            if not self.frames:
                self.abandon()
                raise DatasetError(f"{self.path.name}: no frame was written")
            self._flush()
            self._writer.close()
            self.layer = Layer(
                path=self.path,
                kind=self.kind,
                camera=self.camera,
                width=self.width,
                height=self.height,
                frames=self.frames,
            )
        return self.layer

    def abandon(self) -> None:
        """Close and remove the file."""
        try:
            self._writer.close()
        finally:
            self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._held:
            content = [None, pa.py_buffer(b"".join(self._held))]
            column = pa.Array.from_buffers(pa.binary(self._bytes), len(self._held), content)
            self._held.clear()
            self._writer.write_table(pa.table([column], schema=self._schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        elif self.layer is None:
            self.abandon()


def read_frames(path: Path, *, start: int = 0, stop: int | None = None) -> Frames:
    """Return frames ``[start, stop)`` of a file as they are stored: ``(t, height, width)`` uint8 or uint16.

    Raises DatasetError when the file is damaged, is not one of these, or does not have those frames.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            total = file.metadata.num_rows
            stop = total if stop is None else stop
            if not 0 <= start <= stop <= total:
                raise DatasetError(f"{path} has {total} frames, asked for [{start}, {stop})")
            _, dtype, shape = _form(path, file)
            parts = [np.empty((0, *shape), dtype)]
            first = 0
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if first < stop and first + rows > start:
                    frames = _frames(file.read_row_group(group), dtype, shape)
                    parts.append(frames[max(0, start - first) : stop - first])
                first += rows
            return np.concatenate(parts).astype(dtype.newbyteorder("="), copy=False)
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def join_layers(paths: Sequence[Path], out: Path) -> int:
    """Write the frames of several files of one form as one file and return how many there are.

    Frames of two files never share a row group. Raises DatasetError when the files are of different form or damaged.
    """
    writer, schema, count = None, None, 0
    try:
        for path in paths:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                if writer is None:
                    schema = file.schema_arrow
                    writer = _open(out, schema)
                elif not file.schema_arrow.equals(schema, check_metadata=True):
                    raise DatasetError(f"{path} is {file.schema_arrow.metadata}, its predecessors are otherwise")
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group)
                    writer.write_table(table)
                    count += table.num_rows
    except pa.ArrowException as error:
        raise DatasetError(f"{out.name} cannot be joined: {error}") from error
    finally:
        if writer is not None:
            writer.close()
    return count


def check_layer(path: Path, *, kind: Extra, about: Mapping[str, Any], lengths: Sequence[int], decode: bool) -> None:
    """Raise DatasetError unless a file of a dataset is readable and holds the frames of its episodes.

    Args:
        path: the file.
        kind: what it should hold.
        about: what `meta/extras.json` says of all files.
        lengths: frames of the episodes in it, in order.
        decode: also read every pixel.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            found, dtype, shape = _form(path, file)
            if (found, shape) != (kind, (about["height"], about["width"])):
                raise DatasetError(
                    f"{path} is {found} of {shape}, expected {kind} of {(about['height'], about['width'])}"
                )
            ends = np.cumsum([file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)])
            if file.metadata.num_rows != sum(lengths) or not set(np.cumsum(lengths).tolist()) <= set(ends.tolist()):
                raise DatasetError(f"{path} has {file.metadata.num_rows} frames, its episodes have {sum(lengths)} rows")
            known = sorted(about["segmentation"]["legend"].values()) if kind == "segmentation" else []
            for group in range(file.num_row_groups) if decode else ():
                frames = _frames(file.read_row_group(group), dtype, shape)
                strange = np.setdiff1d(frames, known) if kind == "segmentation" else np.array([])
                if strange.size:
                    raise DatasetError(f"{path} has id {strange[0]}, which the legend of {ABOUT_PATH} does not name")
    except (OSError, pa.ArrowException) as error:
        raise DatasetError(f"{path} cannot be read: {error}") from error


def describe_layers(layers: Sequence[Layer], about: Mapping[str, Any]) -> dict[str, Any]:
    """Return `meta/extras.json`: what the files mean and where they are; `about` is what the renderer said."""
    kinds = {layer.kind: None for layer in layers}
    depth = {"dtype": DTYPES["depth"], "unit_m": 0.001, "nothing": 0, "measured": "along the optical axis"}
    return {
        "path": EXTRAS_PATH,
        "kinds": list(kinds),
        "cameras": {layer.camera: about["cameras"][layer.camera] for layer in layers},
        "width": layers[0].width,
        "height": layers[0].height,
        **({"depth": depth} if "depth" in kinds else {}),
        **({"segmentation": {"dtype": "uint8", "legend": about["legend"]}} if "segmentation" in kinds else {}),
    }


def layer_paths(about: Mapping[str, Any], place: Mapping[str, int]) -> Iterator[tuple[Extra, str, str]]:
    """Yield kind, camera and path of each file of extras at a place; `about` is `meta/extras.json`, or empty."""
    for kind in about.get("kinds", ()):
        for camera in about["cameras"]:
            yield kind, camera, EXTRAS_PATH.format(kind=kind, camera=camera, **place)


def _open(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    # Statistics would repeat a whole frame in the footer; a dictionary would hash every frame and find no two alike.
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        use_dictionary=False,
        write_statistics=False,
        data_page_size=_GROUP_BYTES,
        write_page_checksum=True,
    )


def _form(path: Path, file: pq.ParquetFile) -> tuple[str, np.dtype[Any], tuple[int, int]]:
    facts = {key.decode(): value.decode() for key, value in (file.schema_arrow.metadata or {}).items()}
    if facts.get("kind") not in DTYPES:
        raise DatasetError(f"{path} is not a file of segmentation or depth: it says {facts}")
    kind: Any = facts["kind"]
    return kind, np.dtype(DTYPES[kind]).newbyteorder("<"), (int(facts["height"]), int(facts["width"]))


def _frames(table: pa.Table, dtype: np.dtype[Any], shape: tuple[int, int]) -> Frames:
    size = dtype.itemsize * shape[0] * shape[1]
    parts: list[NDArray[Any]] = []
    for chunk in table.column("frame").chunks:
        content = np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * size : (chunk.offset + len(chunk)) * size]
        parts.append(content.view(dtype).reshape(-1, *shape))
    return np.concatenate(parts) if len(parts) != 1 else parts[0]
