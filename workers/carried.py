"""The user's own columns on their way through the ledger: one JSON text a row, and back to the last bit.

A row's text is a JSON list with one entry a column: null, true or false, a number, or text. What
JSON has no word for is written as text (NaN, the infinities, -0.0, decimals by their digits, bytes
in base64) or as a whole number (days or microseconds since 1970, microseconds of a day).
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

from rsembed.core.errors import SpecError

_types = pa.types
_TYPES: dict[str, pa.DataType] = {
    str(kind): kind
    for kind in (
        pa.int64(), pa.uint64(), pa.float64(), pa.bool_(), pa.string(), pa.binary(), pa.date32(), pa.time64("us"),
        pa.timestamp("us"), pa.timestamp("us", "UTC"),
    )
}  # fmt: skip
"""Canonical types of carried columns (``rsembed/pipelines/rows/columns.py``) but decimals, by name."""
_DECIMAL = re.compile(r"decimal(128|256)\((\d+), (-?\d+)\)")
_DOUBLE, _BITS = struct.Struct("<d"), struct.Struct("<Q")
_PLAIN_NAN = 0x7FF8000000000000

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=("\n", ":")).encode
"""A list of scalars, one a line: JSON escapes the line breaks of its own texts."""


# The columns themselves -----------------------------------------------------------------------


def schema_to_json(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """(name, type) of each column."""
    return tuple((name, str(kind)) for name, kind in zip(schema.names, schema.types, strict=True))


def schema_from_json(columns: Sequence[tuple[str, str]]) -> pa.Schema:
    """What :func:`schema_to_json` wrote; raises SpecError for a type that is not carried."""
    return pa.schema([(name, _type(text)) for name, text in columns])


def _type(text: str) -> pa.DataType:
    if text in _TYPES:
        return _TYPES[text]
    if found := _DECIMAL.fullmatch(text):
        width, precision, scale = (int(group) for group in found.groups())
        return (pa.decimal128 if width == 128 else pa.decimal256)(precision, scale)
    raise SpecError(f"no column is carried as {text!r}")


# Their values ---------------------------------------------------------------------------------


def carried_texts(batch: pa.RecordBatch) -> list[str | None]:
    """Each row of ``batch`` (columns of canonical types) as JSON text; None for all where there is no column."""
    if not batch.num_columns:
        return [None] * batch.num_rows
    if not batch.num_rows:
        return []
    # A column at a time: an encoder call for each row would take five times as long.
    columns = [_encode(_values(column))[1:-1].split("\n") for column in batch.columns]
    return [f"[{','.join(row)}]" for row in zip(*columns, strict=True)]


def read_carried_texts(texts: Sequence[str | None], schema: pa.Schema) -> pa.RecordBatch:
    """What :func:`carried_texts` wrote, with its ``schema``. Raises SpecError for texts that do not fit it."""
    if not len(schema):
        # The only way to a batch that has rows and no columns.
        return pa.RecordBatch.from_arrays([pa.nulls(len(texts))], ["rows"]).select([])
    try:
        rows = json.loads(f"[{','.join(text or 'null' for text in texts)}]")
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        arrays = [_array(column, kind) for column, kind in zip(columns, schema.types, strict=True)]
    except (ValueError, TypeError, ArithmeticError) as exc:
        raise SpecError(f"carried columns in the ledger do not fit their schema: {exc}") from exc
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _values(column: pa.Array) -> list[Any]:
    """A column as values that JSON can hold."""
    kind = column.type
    if _types.is_floating(kind):
        return _float_values(column)
    if _types.is_date32(kind):
        return list(column.cast(pa.int32()).to_pylist())
    if _types.is_time64(kind) or _types.is_timestamp(kind):
        return list(column.cast(pa.int64()).to_pylist())
    values: list[Any] = column.to_pylist()
    if _types.is_binary(kind):
        return [None if value is None else base64.b64encode(value).decode() for value in values]
    if _types.is_decimal(kind):
        return [None if value is None else str(value) for value in values]
    return values


def _float_values(column: pa.Array) -> list[Any]:
    filled = column.fill_null(1.0).to_numpy(zero_copy_only=False)
    values: list[Any] = column.to_pylist()
    for i in np.flatnonzero(~np.isfinite(filled) | ((filled == 0) & np.signbit(filled))).tolist():
        values[i] = _float_text(float(filled[i]))
    return values


def _float_text(value: float) -> str:
    (bits,) = _BITS.unpack(_DOUBLE.pack(value))
    # A NaN may carry bits of its own; parts must come out the same as from a local export.
    return f"nan:{bits:016x}" if value != value and bits != _PLAIN_NAN else repr(value)  # noqa: PLR0124 - NaN


def _float(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("nan:"):
        return _DOUBLE.unpack(_BITS.pack(int(value[4:], 16)))[0]
    return None if value is None else float(value)


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    if _types.is_floating(kind):
        return pa.array([_float(value) for value in values], kind, from_pandas=False)
    if _types.is_binary(kind):
        return pa.array([None if v is None else base64.b64decode(v, validate=True) for v in values], kind)
    if _types.is_decimal(kind):
        return pa.array([None if value is None else Decimal(value) for value in values], kind)
    return pa.array(values, _STORED.get(str(kind), lambda: kind)()).cast(kind)


_STORED: dict[str, Callable[[], pa.DataType]] = {
    str(pa.date32()): pa.int32,
    str(pa.time64("us")): pa.int64,
    str(pa.timestamp("us")): pa.int64,
    str(pa.timestamp("us", "UTC")): pa.int64,
}
"""What whole numbers in a text are read as before they are dates and times again."""
