"""CSV tables: types that hold for the whole file, found without keeping it in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from rsembed.core.errors import SpecError
from rsembed.pipelines.rows.source import TableSource, find_column, reading

_BLOCK_BYTES = 8 << 20

# The order in which pyarrow itself tries types on one block; a later block that does not
# fit moves its column on, and the file is read again.
_LADDER = (pa.null(), pa.int64(), pa.float64(), pa.bool_(), pa.date32(), pa.timestamp("us"), pa.string())
_MISFIT = re.compile(r"In CSV column #(\d+): (?:Row #\d+: )?CSV conversion error to")


def csv_source(path: Path, *, id_column: str | None = None) -> TableSource:
    """``path`` (.csv, .tsv) as a table; ids stay text (``007``), an empty field is null.

    Reads the file once to settle the column types, so that they depend on its content
    and not on where a block ends. Raises SpecError naming the file.
    """
    name = path.name
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    with reading(name):
        schema = _settled_schema(path, delimiter, id_column)

    def read(columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with reading(name), _open(path, delimiter, dict(zip(schema.names, schema.types, strict=True))) as reader:
            for batch in reader:
                yield batch.select(list(columns))

    return TableSource(name, schema, read)


def _open(path: Path, delimiter: str, types: dict[str, pa.DataType]) -> csv.CSVStreamingReader:
    return csv.open_csv(
        path,
        read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        # "NA" is a country code and "null" a name: only an empty field is null.
        convert_options=csv.ConvertOptions(
            column_types=types, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def _settled_schema(path: Path, delimiter: str, id_column: str | None) -> pa.Schema:
    with _open(path, delimiter, {}) as reader:
        first: pa.Schema = reader.schema
    TableSource(path.name, first, lambda columns: ())  # refuses a column that appears twice
    types = {field.name: _plain(field.type) for field in first}
    ids = id_column if id_column in types else find_column(types, ("id",))
    if ids is not None:
        types[ids] = pa.string()
    while True:
        try:
            with _open(path, delimiter, types) as reader:
                for _ in reader:
                    pass
                return pa.schema(list(types.items()))
        except pa.ArrowInvalid as exc:
            misfit = _MISFIT.search(str(exc))
            if misfit is None:
                raise
            column = first.names[int(misfit[1])]
            if types[column] == pa.string():
                raise SpecError(f"cannot read {path.name}: column {column!r} is not UTF-8 text") from exc
            types[column] = _next_type(types[column])


def _plain(inferred: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(inferred):
        return pa.timestamp("us", inferred.tz)
    return inferred if inferred in _LADDER else pa.string()


def _next_type(misfit: pa.DataType) -> pa.DataType:
    return _LADDER[_LADDER.index(misfit) + 1] if misfit in _LADDER else pa.string()
