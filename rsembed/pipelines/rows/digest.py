"""One checksum for all rows of a run, whatever file they came from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray


@dataclass(frozen=True)
class _ColumnHash:
    """Three streams a column (presence, lengths, values), so that batch borders leave no trace."""

    presence: hashlib._Hash = field(default_factory=hashlib.sha256)
    lengths: hashlib._Hash = field(default_factory=hashlib.sha256)
    values: hashlib._Hash = field(default_factory=hashlib.sha256)

    def update(self, column: pa.Array) -> None:
        self.presence.update(np.asarray(column.is_valid()).view(np.uint8).data)
        if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
            offsets, data = _text(column)
            self.lengths.update(np.diff(offsets).astype("<i4").data)
            self.values.update(data.data)
        else:
            self.values.update(_fixed(column).data)

    def digest(self) -> str:
        return ",".join(each.hexdigest() for each in (self.presence, self.lengths, self.values))


class RowsDigest:
    """sha256 over rows in ``seq`` order; columns of canonical types (see ``columns``)."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self._columns = [_ColumnHash() for _ in schema]
        self._n_rows = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Add the next rows, batches of any size."""
        self._n_rows += batch.num_rows
        for hashed, column in zip(self._columns, batch.columns, strict=True):
            hashed.update(column)

    def hexdigest(self) -> str:
        """The checksum of what was added so far, 64 hex digits. Carried columns count in any order."""
        columns = sorted(
            (name, str(kind), hashed.digest())
            for name, kind, hashed in zip(self._schema.names, self._schema.types, self._columns, strict=True)
        )
        return hashlib.sha256(json.dumps([self._n_rows, columns]).encode()).hexdigest()


def _text(column: pa.Array) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    if column.null_count:
        column = pc.fill_null(column, "" if pa.types.is_string(column.type) else b"")
    offsets = np.frombuffer(column.buffers()[1] or bytes(4), np.int32)[column.offset : column.offset + len(column) + 1]
    return offsets, np.frombuffer(column.buffers()[2] or b"", np.uint8)[offsets[0] : offsets[-1]]


def _fixed(column: pa.Array) -> NDArray[np.uint8]:
    """Bytes of a fixed-width column; nulls are zero bytes, NaN and -0.0 have one spelling each."""
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    width = column.type.bit_width // 8
    start = column.offset * width
    raw = np.frombuffer(column.buffers()[1] or b"", np.uint8)[start : start + len(column) * width].reshape(-1, width)
    if pa.types.is_floating(column.type):
        numbers = raw.reshape(-1).view(np.float64) + 0.0
        numbers[np.isnan(numbers)] = np.nan
        raw = numbers.view(np.uint8).reshape(-1, width)
    if column.null_count:
        raw = np.where(np.asarray(column.is_valid())[:, None], raw, np.uint8(0))
    return np.ascontiguousarray(raw)
