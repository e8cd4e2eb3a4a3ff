"""Zarr v3 groups, chunk by chunk, into whatever keeps bytes under names; equal content gives equal bytes.

Written after the core specification 3.0 (zarr-specs.readthedocs.io/en/latest/v3/core) with the codecs ``bytes``,
``zstd`` and ``vlen-utf8`` of zarr-extensions: a few dozen lines, so that neither a worker of the fleet nor a bucket
needs a Zarr library. The tests open what is written with zarr-python and xarray.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsembed.core.patch import Json
from rsembed.writers.chunks import chunk_shape, row_blocks
from rsembed.writers.variables import Encoding, Variable, dimension_sizes, plain_attributes

CHUNK_BYTES = 4 << 20
"""Of a chunk before it is compressed: one request's worth for a reader far away."""
_TEXTS = 65_536  # in a chunk
_ZSTD: dict[str, Json] = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}


class ZarrGroup:
    """A group that is being written. ``put(name, data)`` keeps ``data`` under ``name``, relative to the group.

    Memory holds a block of chunks. The group's own metadata comes last, in :meth:`close`: before that there is no group
    for a reader.
    """

    def __init__(self, put: Callable[[str, bytes], object], *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._put = put
        self._chunk_bytes = chunk_bytes
        self._variables: list[Variable] = []
        self._arrays: dict[str, dict[str, Json]] = {}
        self._zstd = pa.Codec("zstd", compression_level=3)

    def write(self, variable: Variable) -> None:
        """Add an array. Raises ExportError for slices that do not add up, and for a dimension of two lengths.

        Chunks of nothing but the fill value are written, too (the format would allow to leave them out): so the files'
        names follow from the shape alone, and one written again leaves nothing of what stood there.
        """
        encoding, shape = variable.encoding(), variable.shape
        dimension_sizes([*self._variables, variable])
        chunk = (
            tuple(min(size, _TEXTS) or 1 for size in shape)
            if encoding.is_text
            else chunk_shape(shape, encoding.dtype.itemsize, self._chunk_bytes)
        )
        if shape:
            blocks = row_blocks(variable.name, variable.pieces(), shape, chunk[0])
        else:
            blocks = iter(np.asarray(piece) for piece in variable.pieces())
        for index, block in enumerate(blocks):
            self._write_block(variable.name, encoding, encoding(block), chunk, index)
        array = _array_metadata(variable, encoding, chunk)
        self._put(f"{variable.name}/zarr.json", _json(array))
        self._arrays[variable.name] = array
        self._variables.append(variable)

    def _write_block(
        self, name: str, encoding: Encoding, block: NDArray[Any], chunk: tuple[int, ...], index: int
    ) -> None:
        """The chunks of ``block``, which lies at chunk ``index`` of the first axis."""
        fill = _fill_of(encoding)
        counts = [range(-(-size // length)) for size, length in zip(block.shape[1:], chunk[1:], strict=True)]
        for rest in itertools.product(*counts):
            inner = tuple(slice(i * length, (i + 1) * length) for i, length in zip(rest, chunk[1:], strict=True))
            part = block[(slice(None), *inner)] if chunk else block
            if part.shape != chunk:
                whole = np.full(chunk, fill, dtype=part.dtype)
                whole[tuple(slice(length) for length in part.shape)] = part
                part = whole
            key = "/".join(["c", *([str(index), *map(str, rest)] if chunk else [])])
            self._put(f"{name}/{key}", self._zstd.compress(_chunk_bytes(part, encoding), asbytes=True))

    def close(self, attributes: Mapping[str, Json]) -> None:
        """Write the group's metadata, with that of its arrays beside it, so that one request opens all of it."""
        consolidated: dict[str, Json] = {"kind": "inline", "must_understand": False, "metadata": self._arrays}
        group: dict[str, Json] = {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": plain_attributes(attributes),
            "consolidated_metadata": consolidated,
        }
        self._put("zarr.json", _json(group))


def _array_metadata(variable: Variable, encoding: Encoding, chunk: tuple[int, ...]) -> dict[str, Json]:
    attributes = plain_attributes({**encoding.attributes, **variable.attributes})
    fill = _fill_of(encoding)
    if encoding.dtype.kind == "i" and encoding.fill is not None:
        attributes["_FillValue"] = int(encoding.fill)  # masks what is missing; Zarr's own only fills missing chunks
    serializer: dict[str, Json] = {"name": "bytes", "configuration": {"endian": "little"}}
    if encoding.is_text:
        serializer = {"name": "vlen-utf8"}
    elif encoding.dtype.itemsize == 1:
        serializer = {"name": "bytes"}
    value: Json = str(fill) if encoding.is_text else fill.item()
    if isinstance(value, float) and not np.isfinite(value):
        value = "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(variable.shape),
        "data_type": "string" if encoding.is_text else encoding.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": value,
        "codecs": [serializer, _ZSTD],
        "dimension_names": list(variable.dims),
        "attributes": attributes,
        "storage_transformers": [],
    }


def _fill_of(encoding: Encoding) -> Any:
    if encoding.is_text:
        return ""
    return encoding.dtype.type(0) if encoding.fill is None else encoding.fill


def _chunk_bytes(part: NDArray[Any], encoding: Encoding) -> bytes:
    if not encoding.is_text:
        return np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).tobytes()
    texts = [str(text).encode() for text in part.reshape(-1)]
    pieces = [struct.pack("<I", len(texts))]
    for text in texts:
        pieces += [struct.pack("<I", len(text)), text]
    return b"".join(pieces)


def _json(value: Mapping[str, Json]) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False).encode()
