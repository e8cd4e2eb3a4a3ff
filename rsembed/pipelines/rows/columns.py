"""The user's own columns and the ids: one canonical type each, whatever the input's format.

=====================================  ==========================
input                                  carried as
=====================================  ==========================
(u)int8..32, int64                     int64 (uint64 stays)
float16, 32, 64                        float64
string, large_string, views            string
binary of any kind                     binary
date32, date64                         date32
timestamp of any unit                  timestamp[us], UTC if zoned; nanoseconds are cut off
time32, time64                         time64[us]
decimal                                decimal128 or 256
bool                                   bool
dictionary, extension                  as its values, its storage
null (a column without a value)        string
list, struct, map, interval, duration  refused
=====================================  ==========================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rsembed.core.errors import SpecError
from rsembed.pipelines.rows.problems import Problems
from rsembed.pipelines.rows.source import TableSource, find_column, plain

RESERVED = (
    "id", "row", "seq", "start", "end", "status", "lon", "lat", "geometry", "footprint", "bbox", "footprint_bbox",
    "epsg", "n_images", "first_date", "last_date", "valid_fraction", "frame_dates", "scene_ids", "embedding",
    "_kind", "_minlon", "_minlat", "_maxlon", "_maxlat",
)  # fmt: skip
"""Columns of rows and outputs; the user's table may not carry them."""

_types = pa.types
_CANONICAL: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType], ...] = (
    (_types.is_uint64, pa.uint64()),
    (_types.is_integer, pa.int64()),
    (_types.is_floating, pa.float64()),
    (_types.is_boolean, pa.bool_()),
    (lambda t: _types.is_string(t) or _types.is_large_string(t) or _types.is_string_view(t), pa.string()),
    (
        lambda t: _types.is_binary(t) or _types.is_large_binary(t) or _types.is_binary_view(t)
        or _types.is_fixed_size_binary(t),
        pa.binary(),
    ),
    (_types.is_date, pa.date32()),
    (_types.is_time, pa.time64("us")),
    (_types.is_null, pa.string()),
)  # fmt: skip


def canonical_type(name: str, given: pa.DataType) -> pa.DataType:
    """The type that column ``name`` is carried as. Raises SpecError for one that is not carried."""
    if isinstance(given, pa.BaseExtensionType):
        return canonical_type(name, given.storage_type)
    if _types.is_dictionary(given):
        return canonical_type(name, given.value_type)
    if _types.is_timestamp(given):
        return pa.timestamp("us", "UTC" if given.tz else None)
    if _types.is_decimal(given):
        return given if given.bit_width >= 128 else pa.decimal128(given.precision, given.scale)
    for is_kind, canonical in _CANONICAL:
        if is_kind(given):
            return canonical
    raise SpecError(
        f"column {name!r} is {given}, which is not carried to the output; turn it into text, drop it, or name the "
        "columns to carry"
    )


def carried_schema(source: TableSource, consumed: set[str], carry: Sequence[str] | None) -> pa.Schema:
    """Schema of the carried columns: ``carry``, or all that are not ``consumed``, in the table's order.

    ``lon`` and ``lat`` beside a geometry are left out (the output has the centre's). Raises
    SpecError for unknown columns and for names that the output uses itself.
    """
    own = [name for name in source.columns if name not in consumed]
    if carry is None:
        names = [name for name in own if name not in ("lon", "lat")]
    else:
        unknown = [name for name in carry if name not in source.columns]
        if unknown:
            raise SpecError(f"{source.name}: no column {', '.join(map(repr, unknown))} to carry; {_available(source)}")
        names = [name for name in own if name in set(carry)]
    clash = [name for name in names if name in RESERVED]
    if clash:
        raise SpecError(
            f"{source.name}: column {', '.join(map(repr, clash))} would clash with the output's own; rename or drop it"
        )
    return pa.schema([(name, canonical_type(name, source.schema.field(name).type)) for name in names])


def id_column(source: TableSource, asked: str | None) -> str | None:
    """The id column: ``asked``, else ``id``, else the format's feature numbers; None: row numbers."""
    if asked is None:
        return find_column(source.columns, ("id",)) or source.fallback_id
    if asked not in source.columns:
        raise SpecError(f"{source.name}: no id column {asked!r}; {_available(source)}")
    return asked


def _available(source: TableSource) -> str:
    return f"the columns are {', '.join(source.columns)}"


def read_ids(column: pa.Array, *, problems: Problems) -> pa.Array:
    """Ids as text (pa.string); whole numbers become their decimal digits. Null, empty and odd ids are problems."""
    column = plain(column)
    kind = column.type
    ids = column
    if _types.is_floating(kind):
        # pandas turns whole numbers with gaps into floats.
        values = column.cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        with np.errstate(invalid="ignore"):
            odd = ~np.isnan(values) & ~((values == np.floor(values)) & (np.abs(values) < 2**53))
        problems.add(odd, lambda i: f"the id must be text or a whole number, got {float(values[i])!r}")
        whole = np.where(odd | np.isnan(values), 0, values).astype(np.int64)
        ids = pa.array(whole, mask=odd | np.isnan(values))
    elif not (_types.is_integer(kind) or _types.is_null(kind) or canonical_type("id", kind) == pa.string()):
        raise SpecError(f"the id column must hold text or whole numbers, it is {kind}")
    text = ids.cast(pa.string())
    text.validate(full=True)
    problems.add(np.asarray(text.is_null()), lambda i: "the id is missing")
    problems.add(np.asarray(pc.equal(text.fill_null("x"), "")), lambda i: "the id is empty")
    # Neither databases nor file names take one.
    problems.add(np.asarray(pc.match_substring(text.fill_null(""), "\0")), lambda i: "the id holds a NUL character")
    return text


def read_carried(batch: pa.RecordBatch, schema: pa.Schema) -> list[pa.Array]:
    """The columns of ``schema`` in their canonical types. Raises SpecError naming the column that does not fit."""
    columns = []
    for field in schema:
        column = plain(batch.column(field.name))
        # Only nanoseconds are cut; every other cast that would lose something fails.
        cut = _types.is_timestamp(column.type) and column.type.unit == "ns"
        try:
            column = column.cast(field.type, safe=not cut)
            column.validate(full=True)
        except pa.ArrowInvalid as exc:
            raise SpecError(f"column {field.name!r} cannot be carried as {field.type}: {exc}") from exc
        columns.append(column)
    return columns
