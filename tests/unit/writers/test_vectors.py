from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from rsembed.core.embedding import CellGrid
from rsembed.core.errors import ExportError
from rsembed.writers.vectors import VectorReader, encode_maps, encode_vectors, quantization_json, vector_fields

STEPS = np.array([1.0, 0.5, 2.0], np.float32)


def schema(dtype: str, *, maps: bool = False) -> pa.Schema:
    facts = {"quantization": quantization_json(STEPS)} if dtype == "int8" else {}
    return pa.schema(vector_fields(3, dtype, maps=maps), metadata={"rsembed": json.dumps(facts)})


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_vectors_when_written_and_read_then_the_same_and_nan_where_there_is_none(dtype: str) -> None:
    vectors = [np.array([1, 2.5, -8], np.float32), None, np.array([0, -1, 4], np.float32)]
    column = encode_vectors(vectors, schema(dtype))["embedding"]
    assert column.null_count == 1
    found = VectorReader(schema(dtype)).vectors(column)
    assert found.dtype == ("float16" if dtype == "float16" else "float32")
    np.testing.assert_array_equal(found, [[1, 2.5, -8], [np.nan] * 3, [0, -1, 4]])


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_maps_when_written_and_read_then_each_has_its_shape_and_place(dtype: str) -> None:
    maps = [np.ones((3, 2, 1), np.float32) * 4, None, np.arange(3, dtype=np.float32).reshape(3, 1, 1) * 2]
    cells = [CellGrid(32631, (10, 0, 5, 0, -10, 7), 2, 1), None, CellGrid(32631, (10, 0, 6, 0, -10, 8), 1, 1)]
    found = encode_maps(maps, cells, schema(dtype, maps=True))
    assert found["grid_shape"].to_pylist() == [[3, 2, 1], None, [3, 1, 1]]
    assert found["grid_transform"].to_pylist()[2] == [10, 0, 6, 0, -10, 8]
    reader = VectorReader(schema(dtype, maps=True))
    assert reader.dim is None
    for i in (0, 2):
        np.testing.assert_array_equal(reader.map(found["embedding"][i], found["grid_shape"][i].as_py()), maps[i])


def test_vectors_when_a_number_is_too_large_for_half_precision_then_it_says_what_to_do() -> None:
    with pytest.raises(ExportError, match=r"a vector holds 70000, more than float16 can .*dtype='float32'"):
        encode_vectors([np.array([70000, 0, 0], np.float32)], schema("float16"))
