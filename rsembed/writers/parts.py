"""The files of a dataset, read back in flat memory: columns in batches, vectors and maps as arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.writers.store import BlobStore
from rsembed.writers.variables import Slices
from rsembed.writers.vectors import VectorReader

_BATCH_ROWS = 8192
_BATCH_BYTES = 4 << 20


@dataclass(frozen=True)
class Parts:
    """The files ``names`` of ``store``: one dataset, in order of ``seq``."""

    store: BlobStore
    names: tuple[str, ...]

    def schema(self) -> pa.Schema:
        """Schema and metadata of the dataset."""
        with self.store.open(self.names[0]) as handle:
            return pq.read_schema(handle)

    @property
    def n_rows(self) -> int:
        """Rows of all files."""
        found = 0
        for name in self.names:
            with self.store.open(name) as handle:
                found += pq.read_metadata(handle).num_rows
        return found

    def batches(self, *columns: str, rows: int = _BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """``columns`` of all rows, in order, at most ``rows`` at once."""
        for name in self.names:
            with self.store.open(name) as handle:
                # With pre_buffer, its default, pyarrow would hold the columns of the whole file.
                file = pq.ParquetFile(handle, pre_buffer=False)
                yield from file.iter_batches(batch_size=rows, columns=list(columns))

    def embedding(self) -> Slices:
        """The column ``embedding``: (N, D), or (N, D, H, W) of maps, each filled up with NaN to the largest.

        A row without an embedding is NaN. The largest of no maps at all has the shape (0, 0, 0).
        """
        schema = self.schema()
        reader = VectorReader(schema)
        shape = self.largest_map() if reader.dim is None else (reader.dim,)
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, int(np.prod(shape)) * reader.dtype.itemsize)))
        pieces = self._vectors(reader, rows) if len(shape) == 1 else self._maps(reader, shape, rows)
        return Slices((self.n_rows, *shape), reader.dtype, pieces)

    def largest_map(self) -> tuple[int, ...]:
        """The shape (D, H, W) that every map fits into."""
        found = np.zeros(3, dtype=np.int64)
        for batch in self.batches("grid_shape"):
            found = np.maximum(found, fixed_lists(batch.column(0), 0).max(axis=0, initial=0))
        return tuple(found.astype(int).tolist())

    def _vectors(self, reader: VectorReader, rows: int) -> Iterator[NDArray[Any]]:
        for batch in self.batches("embedding", rows=rows):
            yield reader.vectors(batch.column(0))

    def _maps(self, reader: VectorReader, shape: tuple[int, ...], rows: int) -> Iterator[NDArray[Any]]:
        for batch in self.batches("embedding", "grid_shape", rows=rows):
            filled = np.full((batch.num_rows, *shape), np.nan, dtype=reader.dtype)
            column = batch.column("embedding")
            for i, own in enumerate(batch.column("grid_shape").to_pylist()):
                if own is not None and column[i].is_valid:
                    d, h, w = own
                    filled[i, :d, :h, :w] = reader.map(column[i], own)
            yield filled


def fixed_lists(column: pa.Array, missing: float, dtype: np.dtype[Any] | None = None) -> NDArray[Any]:
    """A column of lists of M numbers as (N, M) of ``dtype`` (float64), ``missing`` in the rows without one."""
    size = column.type.list_size
    found = np.full((len(column), size), missing, dtype=dtype or np.float64)
    there = ~column.is_null().to_numpy(zero_copy_only=False)
    found[there] = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, size)
    return found
