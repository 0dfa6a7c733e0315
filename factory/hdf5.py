"""Opening an HDF5 file that a stranger wrote: the whole structure is checked before the first number is read.

HDF5 can point outside the file (external and soft links, virtual datasets, external storage), load code (filter
plugins), hold pickled or referencing types, and declare arrays a million times larger than the bytes behind them.
h5py follows and allocates all of that without a question, so the walk below knows only an allowlist: hard links,
plain numbers and text, built-in filters, sizes that the stored bytes can explain. A sandboxed process calls the same
`check` on the same file.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z  # pyright: ignore[reportAttributeAccessIssue]
from numpy.typing import NDArray

from factory.errors import DemoError

_BROKEN = (OSError, RuntimeError, ValueError, TypeError, KeyError, OverflowError, MemoryError)
"""What h5py raises when a file's inner structure makes no sense."""

_PLAIN = {h5t.INTEGER: "integer", h5t.FLOAT: "float", h5t.ENUM: "enum", h5t.STRING: "string"}
_KINDS = {h5t.COMPOUND: "compound", h5t.OPAQUE: "opaque", h5t.REFERENCE: "reference", h5t.VLEN: "variable-length"}
_LINKS = {h5l.TYPE_SOFT: "a soft link", h5l.TYPE_EXTERNAL: "an external link"}
_FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32, h5z.FILTER_LZF)


class DamagedError(DemoError):
    """The file starts like HDF5, but its bytes make no sense."""


class TooLargeError(DemoError):
    """What is asked from the file is more than may be read from one."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a file may declare.

    Attributes:
        objects: groups and datasets in the file.
        depth: nesting of groups.
        attributes: per object.
        attribute_bytes: declared size of one attribute.
        dataset_bytes: declared size of one dataset, read or not (an image stack is not read).
        chunk_bytes: one chunk after decompression; the library allocates it whole.
        expansion: declared bytes per stored byte; deflate cannot exceed 1032.
        read_bytes: all arrays read from one file together.
    """

    objects: int = 200_000
    depth: int = 16
    attributes: int = 256
    attribute_bytes: int = 1 << 20
    dataset_bytes: int = 4 << 30
    chunk_bytes: int = 256 << 20
    expansion: int = 1100
    read_bytes: int = 2 << 30


class CheckedFile:
    """An open file whose structure has been checked; hands out arrays and text, and counts what it hands out."""

    def __init__(self, file: h5py.File, path: Path, limits: Limits) -> None:
        self._file = file
        self._left = limits.read_bytes
        self.path = path

    def error(self, key: str, found: str) -> DemoError:
        """Return the error that names this file, the key inside it and what was found."""
        return DemoError(f"{self.path}: {key!r} {found}")

    def has_group(self, key: str) -> bool:
        """Tell whether a group of this name exists."""
        return isinstance(self._node(key), h5py.Group)

    def has_array(self, key: str) -> bool:
        """Tell whether a dataset of this name exists."""
        return isinstance(self._node(key), h5py.Dataset)

    def children(self, key: str) -> list[str]:
        """Return the names in a group, in the file's order; an absent group has none."""
        node = self._node(key)
        return list(node) if isinstance(node, h5py.Group) else []

    def array(self, key: str) -> NDArray[Any]:
        """Return a dataset of numbers or truth values as it is stored.

        Raises:
            DemoError: it is missing, is text, would exceed the file's read budget, or its bytes are damaged.
        """
        node = self._node(key)
        if not isinstance(node, h5py.Dataset):
            raise self.error(key, f"is missing or is a group; its group holds {self.children(key.rpartition('/')[0])}")
        if node.dtype.kind not in "biuf":
            raise self.error(key, f"has type {node.dtype}; numbers are expected")
        self._left -= node.size * node.dtype.itemsize
        where = f"{self.path}: {key!r} of shape {node.shape}"
        if self._left < 0:
            raise TooLargeError(f"{where} is more than may be read from one file")
        try:
            return np.asarray(node[()])
        except MemoryError as e:
            raise TooLargeError(f"{where} needs more memory than there is") from e
        except _BROKEN as e:
            raise DamagedError(f"{where} cannot be read, its stored bytes are damaged ({e})") from e

    def attribute(self, key: str, name: str) -> str | float | bool | None:
        """Return a text, number or truth value attribute of an object, or None when it is absent.

        Raises:
            DemoError: the attribute is an array or cannot be read.
        """
        node = self._node(key)
        if node is None:
            return None
        try:
            if name not in node.attrs:
                return None
            # Asked before reading: each element of an array of texts may point at the same megabytes.
            shape = node.attrs.get_id(name).shape
            value = node.attrs[name] if shape is not None and math.prod(shape) == 1 else np.empty(0)
        except _BROKEN as e:
            raise DamagedError(f"{self.path}: {key!r} has an attribute {name!r} that cannot be read ({e})") from e
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, str):
            return value
        if isinstance(value, np.ndarray | np.generic) and value.size == 1:
            return value.reshape(-1)[0].item()
        raise self.error(
            key, f"has an attribute {name!r} of type {type(value).__name__}; one text or number is expected"
        )

    def _node(self, key: str) -> Any:
        try:
            return self._file.get(key)
        except _BROKEN as e:
            raise DamagedError(f"{self.path}: {key!r} cannot be opened, the file is damaged ({e})") from e


@contextmanager
def open_checked(path: Path | str, limits: Limits | None = None, *, name: str | None = None) -> Generator[CheckedFile]:
    """Open a file for reading after its structure has been checked; errors call it `name`, by default its path.

    Raises:
        DemoError: the path is not a readable, whole HDF5 file, or `check` refuses what is inside.
    """
    path, limits = Path(path), limits or Limits()
    shown = Path(path if name is None else name)
    _check_path(path, shown)
    try:
        file = h5py.File(path, "r", locking=False)
    except _BROKEN as e:
        raise DamagedError(f"{shown}: starts like HDF5 but is truncated or damaged ({e})") from e
    with file:
        check(file, shown, limits)
        yield CheckedFile(file, shown, limits)


def check(file: h5py.File, path: Path, limits: Limits) -> None:
    """Walk the whole file and refuse whatever is not on the allowlist; no dataset is read.

    Raises:
        DemoError: names the file, the object and the reason.
    """
    try:
        root = h5o.get_info(file.id)
        waiting: list[tuple[h5g.GroupID, str, int]] = [(h5g.open(file.id, b"/"), "", 0)]
    except _BROKEN as e:
        raise DamagedError(f"{path}: '/' cannot be opened, the file is damaged ({e})") from e
    seen: set[tuple[int, int]] = {(root.fileno, root.addr)}
    while waiting:
        group, where, depth = waiting.pop()
        try:
            _check_attributes(group, limits)
            names: list[bytes] = []
            group.links.iterate(lambda name, names=names: names.append(name) or (len(names) > limits.objects or None))
            for name in names:
                key = f"{where}/{name.decode('utf-8', 'backslashreplace')}".lstrip("/")
                _check_member(group, name, key, depth, waiting, seen, limits)
        except _RefusedError as e:
            kind = DamagedError if e.damaged else DemoError
            raise kind(f"{path}: {(e.key or where or '/')!r} {e}") from e
        except _BROKEN as e:
            raise DamagedError(f"{path}: {where or '/'!r} cannot be walked, the file is damaged ({e})") from e


class _RefusedError(Exception):
    """Why an object is refused; `key` is set where it is not the group being walked."""

    def __init__(self, reason: str, key: str = "", *, damaged: bool = False) -> None:
        super().__init__(reason)
        self.key, self.damaged = key, damaged


def _check_path(path: Path, shown: Path) -> None:
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as e:
        raise DemoError(f"{shown}: no such file; an HDF5 file of demonstrations is expected ({e})") from e
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise DemoError(f"{shown}: is {kind}; an HDF5 file of demonstrations is expected")
    try:
        with path.open("rb") as f:
            start = f.read(8)
    except OSError as e:
        raise DemoError(f"{shown}: cannot be read ({e.strerror})") from e
    if start != b"\x89HDF\r\n\x1a\n":
        raise DemoError(f"{shown}: is not an HDF5 file: it starts with {start!r}, expected b'\\x89HDF\\r\\n\\x1a\\n'")


def _check_member(
    group: h5g.GroupID,
    name: bytes,
    key: str,
    depth: int,
    waiting: list[tuple[h5g.GroupID, str, int]],
    seen: set[tuple[int, int]],
    limits: Limits,
) -> None:
    if name.decode("utf-8", "ignore").encode() != name:
        raise _RefusedError("is not a name in UTF-8", key)
    link = group.links.get_info(name).type
    if link != h5l.TYPE_HARD:
        raise _RefusedError(
            f"is {_LINKS.get(link, 'a user-defined link')}; only objects stored in the file are accepted", key
        )
    info = h5o.get_info(group, name)
    if (info.fileno, info.addr) in seen:
        raise _RefusedError("is an object that the file lists twice; each object may be linked once", key)
    seen.add((info.fileno, info.addr))
    if len(seen) > limits.objects:
        raise _RefusedError(f"is one object too many; at most {limits.objects} are accepted", key)
    if info.type == h5o.TYPE_GROUP:
        if depth + 1 > limits.depth:
            raise _RefusedError(f"lies deeper than {limits.depth} groups", key)
        waiting.append((h5g.open(group, name), key, depth + 1))
    elif info.type == h5o.TYPE_DATASET:
        try:
            _check_dataset(h5d.open(group, name), limits)
        except _RefusedError as e:
            raise _RefusedError(str(e), key, damaged=e.damaged) from e
        except _BROKEN as e:
            raise _RefusedError(f"cannot be examined, the file is damaged ({e})", key, damaged=True) from e
    else:
        raise _RefusedError("is neither a group nor a dataset", key)


def _check_dataset(dataset: h5d.DatasetID, limits: Limits) -> None:
    # The layout comes first: asking a virtual dataset for its extent may already open the files it points to.
    plist = dataset.get_create_plist()
    layout = plist.get_layout()
    if layout == h5d.VIRTUAL:
        raise _RefusedError("is a virtual dataset (it points to other files); only data stored in the file is accepted")
    if plist.get_external_count():
        raise _RefusedError("keeps its data in an external file; only data stored in the file is accepted")
    item = _check_type(dataset.get_type())
    space = dataset.get_space()
    shape = space.get_simple_extent_dims() if space.get_simple_extent_type() == h5s.SIMPLE else ()
    declared, stored = math.prod(shape) * item, dataset.get_storage_size()
    if declared > limits.dataset_bytes:
        raise _RefusedError(f"declares shape {shape} = {declared} bytes; at most {limits.dataset_bytes} are accepted")
    if declared > (1 << 20) and declared > limits.expansion * stored:
        raise _RefusedError(
            f"declares shape {shape} = {declared} bytes but stores {stored}; "
            f"at most {limits.expansion} declared bytes per stored byte are accepted"
        )
    if layout == h5d.CHUNKED:
        chunk = plist.get_chunk()
        if math.prod(chunk) * item > limits.chunk_bytes:
            raise _RefusedError(f"has chunks of shape {chunk}; at most {limits.chunk_bytes} bytes each are accepted")
        for i in range(plist.get_nfilters()):
            code = plist.get_filter(i)[0]
            if code not in _FILTERS:
                raise _RefusedError(f"uses HDF5 filter {code}; deflate, shuffle, fletcher32 and lzf are accepted")
    _check_attributes(dataset, limits)


def _check_type(kind: h5t.TypeID) -> int:
    """Return the bytes of one element of a plain type."""
    name = kind.get_class()
    if name not in _PLAIN:
        found = _KINDS.get(name, f"class {name}")
        raise _RefusedError(f"has an HDF5 {found} type; {', '.join(_PLAIN.values())} are accepted")
    if name in (h5t.INTEGER, h5t.FLOAT, h5t.ENUM) and kind.get_size() > 8:
        raise _RefusedError(f"has numbers of {kind.get_size()} bytes; at most 8 are accepted")
    try:
        _ = kind.dtype
    except _BROKEN as e:
        raise _RefusedError(f"has numbers of an unknown layout ({e})") from e
    return kind.get_size()


def _check_attributes(node: h5g.GroupID | h5d.DatasetID, limits: Limits) -> None:
    count = h5a.get_num_attrs(node)
    if count > limits.attributes:
        raise _RefusedError(f"has {count} attributes; at most {limits.attributes} are accepted")
    for i in range(count):
        attribute = h5a.open(node, index=i)
        name = attribute.name.decode("utf-8", "replace")
        try:
            item = _check_type(attribute.get_type())
        except _RefusedError as e:
            raise _RefusedError(f"attribute {name!r} {e}", damaged=e.damaged) from e
        if attribute.get_space().get_simple_extent_npoints() * item > limits.attribute_bytes:
            raise _RefusedError(f"attribute {name!r} is larger than {limits.attribute_bytes} bytes")
