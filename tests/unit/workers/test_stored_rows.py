"""Rows into the ledger's form and back, to the last bit."""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsembed.core.errors import SpecError
from rsembed.core.specs import BBox, PointBuffer
from rsembed.pipelines.rows.shard import RowShard
from tests.builders import places, row_table
from workers.carried import carried_texts, read_carried_texts, schema_from_json, schema_to_json
from workers.stored_rows import row_shard, stored_batches, stored_rows

_LAST = 2**63 - 1
_COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int": (pa.int64(), st.integers(-(2**63), _LAST)),
    "uint": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "float": (pa.float64(), st.floats(allow_nan=True, allow_infinity=True) | st.sampled_from([-0.0, 5e-324, 1e308])),
    "bool": (pa.bool_(), st.booleans()),
    "text": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    "binary": (pa.binary(), st.binary()),
    "date": (pa.date32(), st.integers(-(2**31), 2**31 - 1)),
    "time": (pa.time64("us"), st.integers(0, 86_400_000_000 - 1)),
    "local": (pa.timestamp("us"), st.integers(-(2**63) + 1, _LAST)),
    "utc": (pa.timestamp("us", "UTC"), st.integers(-(2**63) + 1, _LAST)),
    "decimal": (pa.decimal128(38, 6), st.decimals(-(10**30), 10**30, places=6)),
    "wide": (pa.decimal256(60, 3), st.decimals(-(10**50), 10**50, places=3)),
    "round": (pa.decimal128(5, -2), st.integers(-99999, 99999).map(lambda n: Decimal(n).scaleb(2))),
}  # fmt: skip


def column(kind: pa.DataType, values: list[Any]) -> pa.Array:
    if pa.types.is_date32(kind):
        return pa.array(values, pa.int32()).cast(kind)
    if pa.types.is_time64(kind) or pa.types.is_timestamp(kind):
        return pa.array(values, pa.int64()).cast(kind)
    return pa.array(values, kind)


@st.composite
def batches(draw: st.DrawFn) -> pa.RecordBatch:
    names = draw(st.lists(st.sampled_from(sorted(_COLUMNS)), unique=True, max_size=5))
    n = draw(st.integers(1, 6))
    columns = [
        column(_COLUMNS[name][0], draw(st.lists(st.none() | _COLUMNS[name][1], min_size=n, max_size=n)))
        for name in names
    ]
    schema = pa.schema([(name, _COLUMNS[name][0]) for name in names])
    if not names:
        return read_carried_texts([None] * n, schema)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def same_bits(a: pa.RecordBatch, b: pa.RecordBatch) -> bool:
    """Equal with every bit of a float counted."""
    if a.schema != b.schema or a.num_rows != b.num_rows:
        return False
    for left, right in zip(a.columns, b.columns, strict=True):
        if pa.types.is_floating(left.type):
            ours, theirs = ([None if v is None else struct.pack("<d", v) for v in each.to_pylist()]
                            for each in (left, right))  # fmt: skip
            if ours != theirs:
                return False
        elif not left.equals(right):
            return False
    return True


@given(batch=batches())
def test_carried_when_written_and_read_then_every_value_is_the_same(batch: pa.RecordBatch) -> None:
    texts = carried_texts(batch)
    schema = schema_from_json(json.loads(json.dumps(schema_to_json(batch.schema))))
    assert same_bits(read_carried_texts(texts, schema), batch)


def test_carried_when_a_nan_has_bits_of_its_own_then_they_are_kept() -> None:
    values = np.array([0x7FF8000000000000, 0xFFF8000000000001], np.uint64).view(np.float64)
    batch = pa.RecordBatch.from_arrays([pa.array(values)], ["x"])
    back = read_carried_texts(carried_texts(batch), batch.schema)
    assert back.column(0).to_numpy().tobytes() == values.tobytes()


def test_carried_when_there_are_no_columns_then_no_text_is_written(tmp_path: Path) -> None:
    batch = row_table(places(3), tmp_path).slice(0, 3).carried
    assert carried_texts(batch) == [None, None, None]


@pytest.mark.parametrize("text", ["[1]", '["a", 2]', "[", "[1, 2, 3]", "7"])
def test_carried_when_a_text_does_not_fit_then_a_spec_error_says_so(text: str) -> None:
    with pytest.raises(SpecError, match="do not fit"):
        read_carried_texts([text], pa.schema([("a", pa.int64()), ("b", pa.int64())]))


def test_schema_when_a_type_is_not_carried_then_it_is_refused() -> None:
    with pytest.raises(SpecError, match="float"):
        schema_from_json([("a", "float")])


def assert_same_shard(a: RowShard, b: RowShard) -> None:
    for name in ("seq", "row", "start", "end", "kind", "lon", "lat", "boxes"):
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype, name
        assert left.tobytes() == right.tobytes(), name
    assert a.ids.equals(b.ids)
    assert a.ids.type == b.ids.type
    assert same_bits(a.carried, b.carried)
    assert a.index == b.index
    assert a.geometry.equals(b.geometry)


_lon = st.floats(-179, 178).map(lambda x: round(x, 6)) | st.just(-0.0)
_lat = st.floats(-79, 83).map(lambda x: round(x, 6))
_place = st.builds(PointBuffer, _lon, _lat) | st.builds(
    lambda lon, lat: BBox(lon, lat, lon + 0.5, lat + 0.25), _lon, _lat
)


@given(spots=st.lists(_place, min_size=1, max_size=7), size=st.integers(1, 4))
def test_rows_when_stored_and_read_then_shards_are_those_of_the_table(spots: list[Any], size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = row_table(spots, Path(folder))
        for index in range(table.n_shards(size)):
            shard = table.shard(index, size)
            assert_same_shard(row_shard(stored_rows(shard), table.carried, index), shard)


def test_rows_when_they_carry_columns_then_shards_are_those_of_the_table(tmp_path: Path) -> None:
    extra = {"n": list(range(12)), "x": [math.nan, *[0.5] * 11], "day": [dt.date(2020, 1, 1)] * 12}
    table = row_table(places(12, extra=extra), tmp_path)
    shard = table.shard(1, 5)
    assert_same_shard(row_shard(stored_rows(shard), table.carried, 1), shard)


def test_batches_when_they_are_stored_then_all_rows_come_once_and_in_order(tmp_path: Path) -> None:
    table = row_table(places(12), tmp_path)
    found = list(stored_batches(table, 5))
    assert [len(batch) for batch in found] == [5, 5, 2]
    assert [seq for batch in found for seq in batch.seq] == list(range(12))
