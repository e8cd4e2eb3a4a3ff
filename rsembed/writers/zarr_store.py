"""One Zarr store of a whole dataset: its columns as arrays along ``row``, in flat memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsembed.core.patch import Json
from rsembed.writers.parts import Parts, fixed_lists
from rsembed.writers.store import BlobStore
from rsembed.writers.variables import Slices, Variable
from rsembed.writers.zarr_format import ZarrGroup

ORDER = (
    "rows follow each other by seq, along a Hilbert curve, so that neighbours share chunks; row is the place in the "
    "input: sortby(['row', 'seq']) restores its order"
)
_COLUMNS = (
    "row", "seq", "id", "start", "end", "status", "lon", "lat", "epsg", "n_images", "first_date", "last_date",
    "valid_fraction",
)  # fmt: skip
_DATASET = frozenset(
    {*_COLUMNS, "geometry", "footprint", "bbox", "footprint_bbox", "frame_dates", "scene_ids", "embedding",
     "grid_shape", "grid_transform"}
)  # fmt: skip
_TAKEN = frozenset({"grid_height", "grid_width", "dim", "x", "y", "grid_affine"})
_NAME = re.compile(r"(?!__)[^/\\.\x00-\x1f][^/\\\x00-\x1f]*")
_ATTRIBUTES: dict[str, dict[str, Json]] = {
    "row": {"long_name": "place in the input"},
    "seq": {"long_name": "place in the run"},
    "start": {"long_name": "first day of the window"},
    "end": {"long_name": "day after the window"},
    "lon": {"standard_name": "longitude", "units": "degrees_east"},
    "lat": {"standard_name": "latitude", "units": "degrees_north"},
    "epsg": {"long_name": "EPSG code of the pixels' reference system"},
    "n_images": {"long_name": "images that went into the pixels", "units": "1"},
    "valid_fraction": {"long_name": "part of the pixels that are valid", "units": "1"},
    "grid_transform": {"long_name": "affine a, b, c, d, e, f of a row's cells, in its EPSG; NaN without an embedding"},
    "grid_height": {"long_name": "rows of cells of a map; what lies beyond is NaN"},
    "grid_width": {"long_name": "columns of cells of a map; what lies beyond is NaN"},
}


def write_zarr(store: BlobStore, parts: Sequence[str], put: Callable[[str, bytes], object]) -> None:
    """The dataset in ``parts`` of ``store`` as a Zarr v3 group; ``put(name, data)`` keeps its files, the group's last.

    Arrays along ``row``: ``embedding`` (row, dim), or (row, dim, y, x) for maps, smaller ones filled up with NaN to the
    largest, with ``grid_transform`` (row, 6), ``grid_height`` and ``grid_width``; the columns of the dataset that are
    numbers, dates or text, the user's own too. A row without an embedding is NaN. Memory holds a batch and a block of
    chunks.
    """
    dataset = Parts(store, tuple(parts))
    schema = dataset.schema()
    columns = [(name, schema.field(name).type) for name in _COLUMNS]
    carried = [field for field in schema if field.name not in _DATASET]
    kept = [field for field in carried if _is_kept(field)]
    columns += [(field.name, field.type) for field in kept]
    maps = "grid_shape" in schema.names
    group = ZarrGroup(put)
    for name, kind in columns:
        group.write(_column(dataset, name, kind))
    beside = [name for name, _ in columns if name != "row"]
    if maps:
        for variable in _grid_columns(dataset):
            group.write(variable)
            beside.append(variable.name)
    about: dict[str, Json] = {"coordinates": " ".join(name for name in beside if " " not in name)}
    dims = ("row", "dim", "y", "x") if maps else ("row", "dim")
    group.write(Variable("embedding", dims, dataset.embedding(), about))
    facts = json.loads((schema.metadata or {}).get(b"rsembed", b"{}"))
    if facts.pop("quantization", None):
        facts["stored_as"] = "real numbers, from the steps of int8 that the dataset holds"
    left_out = sorted({field.name for field in carried} - {field.name for field in kept})
    group.close({"Conventions": "CF-1.10", **facts, "order": ORDER, "columns_left_out": left_out or None})


def _column(parts: Parts, name: str, kind: pa.DataType) -> Variable:
    """A short column as a variable along ``row``."""
    nulls = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
    missing = nulls and any(batch.column(0).null_count for batch in parts.batches(name))
    dtype = np.dtype(float) if missing else _dtype(kind)
    pieces = (_values(batch.column(0), kind, dtype) for batch in parts.batches(name))
    return Variable(name, ("row",), Slices((parts.n_rows,), dtype, pieces), _ATTRIBUTES.get(name, {}))


def _grid_columns(parts: Parts) -> Iterator[Variable]:
    """``grid_transform``, ``grid_height`` and ``grid_width`` of the maps."""
    n_rows = parts.n_rows
    transforms = (fixed_lists(batch.column(0), np.nan) for batch in parts.batches("grid_transform"))
    slices = Slices((n_rows, 6), "f8", transforms)
    yield Variable("grid_transform", ("row", "grid_affine"), slices, _ATTRIBUTES["grid_transform"])
    for name, axis in (("grid_height", 1), ("grid_width", 2)):
        sizes = (fixed_lists(batch.column(0), 0)[:, axis].astype(np.int32) for batch in parts.batches("grid_shape"))
        yield Variable(name, ("row",), Slices((n_rows,), "i4", sizes), _ATTRIBUTES[name])


def _is_kept(field: pa.Field) -> bool:
    """Whether a column of the user's can be an array: plain values, and a name that is free."""
    types, kind = pa.types, field.type
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_date, types.is_timestamp)
    plain = any(test(kind) for test in tests) or types.is_string(kind) or types.is_large_string(kind)
    return plain and field.name not in _TAKEN and _NAME.fullmatch(field.name) is not None


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    """The numpy type that holds ``kind``, where nothing is missing."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.dtype(object)
    if pa.types.is_date(kind):
        return np.dtype("datetime64[D]")
    if pa.types.is_timestamp(kind):
        return np.dtype("datetime64[s]")
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    return dtype


def _values(column: pa.Array, kind: pa.DataType, dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind == "O":
        return column.fill_null("").to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    if dtype.kind == "f" and not pa.types.is_floating(kind):
        column = column.cast(pa.float64())
    found: NDArray[Any] = column.to_numpy(zero_copy_only=False)
    return found.astype(dtype)
