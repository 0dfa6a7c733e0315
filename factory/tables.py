"""Named numpy arrays in parquet tables and back, bit for bit.

A column of shape ``(n,)`` is a plain column, ``(n, k)`` a list of fixed length k. What the table itself cannot say
(``(n, 1)`` or ``(n, k, l)``, an empty width) is said by the layout that travels beside it as JSON.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

Layout = dict[str, dict[str, Any]]
"""Column name -> {"dtype": "float32", "shape": [k]}: the type and the shape of one row."""


def layout_of(arrays: Mapping[str, NDArray[Any]]) -> Layout:
    """Return what `arrays_from` needs to rebuild the arrays."""
    return {name: {"dtype": array.dtype.name, "shape": list(array.shape[1:])} for name, array in sorted(arrays.items())}


def arrow_column(array: NDArray[Any]) -> pa.Array:
    """Return rows ``(n,)`` as a plain column, ``(n, ...)`` as lists of fixed length."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return flat if array.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))


def numpy_column(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return a plain column as ``(n,)``, a column of fixed lists as ``(n, k)``."""
    joined = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):  # a column without any chunk
        joined = pa.concat_arrays(joined.chunks) if joined.num_chunks else pa.array([], type=column.type)
    if pa.types.is_fixed_size_list(column.type):
        return joined.flatten().to_numpy(zero_copy_only=False).reshape(len(joined), column.type.list_size)
    return joined.to_numpy(zero_copy_only=False)


def table_from(arrays: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Return the table of named arrays with equal first axes; arrays without elements live in the layout alone."""
    kept = {name: array for name, array in sorted(arrays.items()) if 0 not in array.shape[1:]}
    return pa.table({name: arrow_column(array) for name, array in kept.items()})


def arrays_from(table: pa.Table, layout: Layout, rows: int) -> dict[str, NDArray[Any]]:
    """Return the arrays that `layout` names, each with `rows` rows. Raises KeyError when one is missing."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, entry in layout.items():
        shape = (rows, *entry["shape"])
        if 0 in shape[1:]:
            arrays[name] = np.empty(shape, entry["dtype"])
        else:
            values = numpy_column(table.column(name))
            arrays[name] = np.array(values.reshape(shape), dtype=entry["dtype"])
    return arrays


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as one row group; the same table gives the same bytes under one pyarrow version."""
    # A dictionary would be allowed to merge floats that compare equal (0.0 and -0.0).
    pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=max(1, table.num_rows))


def encode_array(array: NDArray[Any]) -> dict[str, Any]:
    """Return an array as JSON that reads back bit for bit."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "base64": base64.b64encode(little.tobytes()).decode(),
    }


def decode_array(entry: Mapping[str, Any]) -> NDArray[Any]:
    """Return the array that `encode_array` wrote."""
    dtype = np.dtype(entry["dtype"]).newbyteorder("<")
    return np.frombuffer(base64.b64decode(entry["base64"]), dtype).reshape(entry["shape"]).astype(entry["dtype"])
