"""One Zarr store of a whole dataset: its columns as arrays along ``row``, in flat memory."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.core.patch import Json
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
    {*_COLUMNS, "geometry", "footprint", "bbox", "frame_dates", "scene_ids", "embedding", "grid_shape",
     "grid_transform"}
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
_BATCH_ROWS = 8192
_BATCH_BYTES = 4 << 20


def write_zarr(store: BlobStore, parts: Sequence[str], put: Callable[[str, bytes], object]) -> None:
    """The dataset in ``parts`` of ``store`` as a Zarr v3 group; ``put(name, data)`` keeps its files, the group's last.

    Arrays along ``row``: ``embedding`` (row, dim), or (row, dim, y, x) for maps, smaller ones filled up with NaN to the
    largest, with ``grid_transform`` (row, 6), ``grid_height`` and ``grid_width``; the columns of the dataset that are
    numbers, dates or text, the user's own too. A row without an embedding is NaN. Memory holds a batch and a block of
    chunks.
    """
    dataset = _Parts(store, tuple(parts))
    with store.open(parts[0]) as handle:
        schema = pq.read_schema(handle)
    columns = [(name, schema.field(name).type) for name in _COLUMNS]
    carried = [field for field in schema if field.name not in _DATASET]
    kept = [field for field in carried if _is_kept(field)]
    columns += [(field.name, field.type) for field in kept]
    maps = "grid_shape" in schema.names
    group = ZarrGroup(put)
    for name, kind in columns:
        group.write(dataset.column(name, kind))
    beside = [name for name, _ in columns if name != "row"] + (
        ["grid_transform", "grid_height", "grid_width"] if maps else []
    )
    about: dict[str, Json] = {"coordinates": " ".join(name for name in beside if " " not in name)}
    if maps:
        for variable in dataset.grid_columns():
            group.write(variable)
        group.write(dataset.maps(schema.field("embedding").type, about))
    else:
        group.write(dataset.vectors(schema.field("embedding").type, about))
    facts = json.loads((schema.metadata or {}).get(b"rsembed", b"{}"))
    left_out = sorted({field.name for field in carried} - {field.name for field in kept})
    group.close({"Conventions": "CF-1.10", **facts, "order": ORDER, "columns_left_out": left_out or None})


@dataclass(frozen=True)
class _Parts:
    """The files of a dataset, read column by column."""

    store: BlobStore
    names: tuple[str, ...]

    def batches(self, *columns: str, rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """``columns`` of all rows, in order, at most ``rows`` at once."""
        for name in self.names:
            with self.store.open(name) as handle:
                # With pre_buffer, its default, pyarrow would hold the columns of the whole file.
                file = pq.ParquetFile(handle, pre_buffer=False)
                yield from file.iter_batches(batch_size=rows, columns=list(columns))

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        found = 0
        for name in self.names:
            with self.store.open(name) as handle:
                found += pq.read_metadata(handle).num_rows
        return found

    def column(self, name: str, kind: pa.DataType) -> Variable:
        """A short column as a variable along ``row``."""
        nulls = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        missing = nulls and any(batch.column(0).null_count for batch in self.batches(name))
        dtype = np.dtype(float) if missing else _dtype(kind)
        pieces = (_values(batch.column(0), kind, dtype) for batch in self.batches(name))
        return Variable(name, ("row",), Slices((self.n_rows,), dtype, pieces), _ATTRIBUTES.get(name, {}))

    def vectors(self, kind: pa.DataType, attributes: dict[str, Json]) -> Variable:
        """``embedding`` of pooled rows."""
        dtype, dim = _dtype(kind.value_type), kind.list_size
        rows = max(1, _BATCH_BYTES // (dim * dtype.itemsize))

        def pieces() -> Iterator[NDArray[Any]]:
            for batch in self.batches("embedding", rows=rows):
                column = batch.column(0)
                flat = np.full((len(column), dim), np.nan, dtype=dtype)
                there = ~column.is_null().to_numpy(zero_copy_only=False)
                flat[there] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
                yield flat

        return Variable("embedding", ("row", "dim"), Slices((self.n_rows, dim), dtype, pieces()), attributes)

    def largest(self) -> tuple[int, int, int]:
        """The shape that every map fits into; (0, 0, 0) where no row has one."""
        found = np.zeros(3, dtype=np.int64)
        for batch in self.batches("grid_shape"):
            shapes = batch.column(0).drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, 3)
            found = np.maximum(found, shapes.max(axis=0, initial=0))
        return int(found[0]), int(found[1]), int(found[2])

    def maps(self, kind: pa.DataType, attributes: dict[str, Json]) -> Variable:
        """``embedding`` of rows that are maps, each filled up to :meth:`largest`."""
        dtype, shape = _dtype(kind.value_type), self.largest()
        rows = max(1, _BATCH_BYTES // max(1, int(np.prod(shape)) * dtype.itemsize))

        def pieces() -> Iterator[NDArray[Any]]:
            for batch in self.batches("embedding", "grid_shape", rows=rows):
                filled = np.full((batch.num_rows, *shape), np.nan, dtype=dtype)
                shapes, column = batch.column("grid_shape").to_pylist(), batch.column("embedding")
                for i, own in enumerate(shapes):
                    if own is not None and column[i].is_valid:
                        d, h, w = own
                        filled[i, :d, :h, :w] = column[i].values.to_numpy(zero_copy_only=False).reshape(d, h, w)
                yield filled

        slices = Slices((self.n_rows, *shape), dtype, pieces())
        return Variable("embedding", ("row", "dim", "y", "x"), slices, attributes)

    def grid_columns(self) -> Iterator[Variable]:
        """``grid_transform``, ``grid_height`` and ``grid_width`` of the maps."""
        n_rows = self.n_rows
        transforms = (_fixed(batch.column(0), 6, np.nan) for batch in self.batches("grid_transform"))
        yield Variable(
            "grid_transform",
            ("row", "grid_affine"),
            Slices((n_rows, 6), "f8", transforms),
            _ATTRIBUTES["grid_transform"],
        )
        for name, axis in (("grid_height", 1), ("grid_width", 2)):
            sizes = (_fixed(batch.column(0), 3, 0)[:, axis].astype(np.int32) for batch in self.batches("grid_shape"))
            yield Variable(name, ("row",), Slices((n_rows,), "i4", sizes), _ATTRIBUTES[name])


def _fixed(column: pa.Array, size: int, missing: float) -> NDArray[np.float64]:
    """A column of lists of ``size`` numbers as (N, size); ``missing`` in the rows without one."""
    found = np.full((len(column), size), missing, dtype=np.float64)
    there = ~column.is_null().to_numpy(zero_copy_only=False)
    found[there] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    return found


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
