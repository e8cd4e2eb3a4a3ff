"""The column ``embedding`` of a dataset: vectors or maps as float32, float16 or int8, and back.

int8 numbers are multiples of a step per dimension; the steps stand in the file's metadata (``rsembed.quantization``),
so a part can be read by itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsembed.core.embedding import CellGrid
from rsembed.core.errors import ExportError
from rsembed.core.patch import Json
from rsembed.tools.quantization import dequantize, quantize

Floats = NDArray[np.float32]
_TYPES = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}
MAP_FIELDS = (pa.field("grid_shape", pa.list_(pa.int32(), 3)), pa.field("grid_transform", pa.list_(pa.float64(), 6)))
"""Columns beside maps: ``(D, h, w)``, and the affine transform of the cells in the row's ``epsg``."""


def vector_fields(dim: int, dtype: str, *, maps: bool) -> tuple[pa.Field, ...]:
    """The column of vectors, or of maps with what belongs to them."""
    if maps:
        return (pa.field("embedding", pa.large_list(_TYPES[dtype])), *MAP_FIELDS)
    return (pa.field("embedding", pa.list_(_TYPES[dtype], dim)),)


def steps_of(schema: pa.Schema) -> Floats | None:
    """The step of each dimension, float32 (D,), of a dataset in int8; None for others."""
    facts: Mapping[str, Any] = json.loads((schema.metadata or {}).get(b"rsembed", b"{}"))
    found = facts.get("quantization")
    return None if found is None else np.asarray(found["step"], dtype=np.float32)


def quantization_json(steps: Floats) -> dict[str, Json]:
    """What a file's metadata says of its steps."""
    return {"dtype": "int8", "formula": "value = step[dimension] * number", "step": [float(step) for step in steps]}


def encode_vectors(vectors: Sequence[Floats | None], schema: pa.Schema) -> dict[str, pa.Array]:
    """Vectors (D,) as the column of ``schema``; null where there is none. ExportError for a number too large for it."""
    kind = schema.field("embedding").type
    pack = _Packer(schema)
    there = np.array([vector is not None for vector in vectors], dtype=bool)
    flat = np.zeros((len(vectors), kind.list_size), dtype=pack.dtype)
    if there.any():
        flat[there] = pack(np.stack([vector for vector in vectors if vector is not None], axis=1)).T
    numbers = pa.array(flat.reshape(-1), kind.value_type)
    return {"embedding": pa.FixedSizeListArray.from_arrays(numbers, type=kind, mask=pa.array(~there))}


def encode_maps(
    maps: Sequence[Floats | None], cells: Sequence[CellGrid | None], schema: pa.Schema
) -> dict[str, pa.Array]:
    """Maps (D, h, w) and where they lie as the columns of ``schema``."""
    kind = schema.field("embedding").type
    pack = _Packer(schema)
    flat = [pack(values).reshape(-1) for values in maps if values is not None]
    sizes = [0 if values is None else values.size for values in maps]
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))]), pa.int64())
    numbers = pa.array(np.concatenate([np.empty(0, pack.dtype), *flat]), kind.value_type)
    absent = pa.array([values is None for values in maps])
    shapes = [None if values is None else values.shape for values in maps]
    transforms = [None if each is None else each.transform for each in cells]
    return {
        "embedding": pa.LargeListArray.from_arrays(offsets, numbers, type=kind, mask=absent),
        "grid_shape": pa.array(shapes, schema.field("grid_shape").type),
        "grid_transform": pa.array(transforms, schema.field("grid_transform").type),
    }


class _Packer:
    """Numbers as ``schema`` stores them: a map (D, h, w) or vectors side by side (D, N)."""

    def __init__(self, schema: pa.Schema) -> None:
        value = schema.field("embedding").type.value_type
        self._steps = steps_of(schema) if pa.types.is_int8(value) else None
        self.dtype = np.dtype(value.to_pandas_dtype())
        self._limit = np.inf if self._steps is not None else float(np.finfo(self.dtype).max)

    def __call__(self, values: Floats) -> NDArray[Any]:
        if self._steps is not None:
            return quantize(values, self._steps)
        sizes = np.abs(values)
        if (beyond := sizes > self._limit).any():
            largest = float(sizes[beyond].max())
            raise ExportError(
                f"a vector holds {largest:g}, more than {self.dtype} can ({self._limit:g}); export with dtype='float32'"
            )
        return values.astype(self.dtype)


class VectorReader:
    """Vectors and maps out of a dataset of ``schema``, as numbers: float16 where it is stored so, else float32."""

    def __init__(self, schema: pa.Schema) -> None:
        kind = schema.field("embedding").type
        self._steps = steps_of(schema)
        self.dim: int | None = int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None
        """Length of a vector; None where the dataset holds maps."""
        self.dtype = np.dtype(np.float16 if pa.types.is_float16(kind.value_type) else np.float32)

    def vectors(self, column: pa.Array) -> NDArray[Any]:
        """(N, D); NaN in the rows without one."""
        assert self.dim is not None
        found = np.full((len(column), self.dim), np.nan, dtype=self.dtype)
        there = ~column.is_null().to_numpy(zero_copy_only=False)
        flat = column.drop_null().flatten().to_numpy(zero_copy_only=False).reshape(-1, self.dim)
        found[there] = flat if self._steps is None else dequantize(flat.T, self._steps).T
        return found

    def map(self, value: pa.Scalar, shape: Sequence[int]) -> NDArray[Any]:
        """One map (D, h, w)."""
        numbers = value.values.to_numpy(zero_copy_only=False).reshape(shape)
        return numbers.astype(self.dtype) if self._steps is None else dequantize(numbers, self._steps)
