"""A fetched patch as bytes: complete and unaltered, or recognised as neither.

Record: ``magic, header length, payload length, crc32`` (little-endian), a header, then the pixel
values (as unsigned 16-bit numbers where that is exact) and the packed mask bits. Header: the grid and
the key, then JSON of what neighbours have in common, which is read once for all of them.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Json, Patch
from rsembed.core.specs import Window

_MAGIC = b"RSE2"
_PREFIX = struct.Struct("<4sIQI")
PREFIX_BYTES = _PREFIX.size
_PLACE = struct.Struct("<idddIIH")
"""EPSG code, x_min, y_max, scale_m, height, width, bytes of the key."""
_to_text = json.JSONEncoder(separators=(",", ":")).encode
_LARGEST_BITS = int(np.float32(65535).view(np.uint32))
"""No number from 0 to 65535 has larger bits; every negative one (-0.0 too), NaN and infinity has."""


class RecordHeader(NamedTuple):
    """What a record says of its patch. ``start``: where the pixels begin in it; ``length``: its bytes."""

    start: int
    length: int
    dtype: str
    all_valid: bool
    bands: tuple[str, ...]
    grid: Grid
    frames: tuple[Frame, ...]
    provenance: Mapping[str, Json]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W)."""
        return (len(self.frames), len(self.bands), self.grid.height, self.grid.width)


def record_length(prefix: bytes | memoryview) -> int | None:
    """Length in bytes of the record that begins with ``prefix``; None where no record begins."""
    if len(prefix) < PREFIX_BYTES:
        return None
    magic, header_bytes, payload_bytes, _ = _PREFIX.unpack_from(prefix)
    return PREFIX_BYTES + int(header_bytes) + int(payload_bytes) if magic == _MAGIC else None


def is_intact(record: bytes | memoryview) -> bool:
    """Whether ``record`` is complete and its checksum right."""
    if len(record) < PREFIX_BYTES:
        return False
    magic, header_bytes, payload_bytes, checksum = _PREFIX.unpack_from(record)
    complete = len(record) == PREFIX_BYTES + header_bytes + payload_bytes
    return bool(magic == _MAGIC and complete and zlib.crc32(memoryview(record)[PREFIX_BYTES:]) == checksum)


def encode(key: str, patch: Patch) -> tuple[bytes, RecordHeader]:
    """``patch`` under ``key`` as a record."""
    values, mask, grid = patch.values_tchw, patch.valid_tchw, patch.grid
    small = _smallest(values)
    all_valid = mask.tobytes().find(0) < 0  # of few pixels in a seventh of the time that mask.all() takes
    name = key.encode()
    common = _common_text(small.dtype.str, all_valid, patch.bands, patch.frames)
    text = _PLACE.pack(grid.epsg, grid.x_min, grid.y_max, grid.scale_m, grid.height, grid.width, len(name)) + name
    text += f"[{common},{_to_text(dict(patch.provenance))}]".encode()
    payload = small.tobytes() + (b"" if all_valid else np.packbits(mask).tobytes())
    record = _PREFIX.pack(_MAGIC, len(text), len(payload), zlib.crc32(payload, zlib.crc32(text))) + text + payload
    start = PREFIX_BYTES + len(text)
    header = RecordHeader(
        start, len(record), small.dtype.str, all_valid, patch.bands, grid, patch.frames, patch.provenance
    )
    return record, header


def decode_header(record: bytes | memoryview) -> tuple[str, RecordHeader]:
    """Key and header of an intact record; ValueError, struct.error and their like where no header stands."""
    _, header_bytes, _, _ = _PREFIX.unpack_from(record)
    start = PREFIX_BYTES + header_bytes
    epsg, x_min, y_max, scale_m, height, width, key_bytes = _PLACE.unpack_from(record, PREFIX_BYTES)
    name = PREFIX_BYTES + _PLACE.size
    dtype, all_valid, bands, frames, provenance = _common(str(record[name + key_bytes : start], "utf-8"))
    grid = Grid(epsg, x_min, y_max, scale_m, height, width)
    header = RecordHeader(start, len(record), dtype, all_valid, bands, grid, frames, dict(provenance))
    return str(record[name : name + key_bytes], "utf-8"), header


def decode(record: memoryview, header: RecordHeader) -> Patch | None:
    """The patch of ``record``; None when its bytes are not what was written."""
    if not is_intact(record):
        return None
    shape, dtype = header.shape, np.dtype(header.dtype)
    count = math.prod(shape)
    values = np.frombuffer(record, dtype, count, header.start).reshape(shape).astype(np.float32)
    if header.all_valid:
        valid = np.ones(shape, dtype=np.bool_)
    else:
        bits = np.frombuffer(record, np.uint8, -1, header.start + count * dtype.itemsize)
        valid = np.unpackbits(bits, count=count).astype(np.bool_).reshape(shape)
    return Patch(values, valid, header.bands, header.grid, header.frames, header.provenance)


def _smallest(values: NDArray[np.float32]) -> NDArray[np.uint16] | NDArray[np.float32]:
    """``values`` as unsigned 16-bit numbers where that loses nothing (half the bytes), else as they are."""
    if values.size and values.view(np.uint32).max() > _LARGEST_BITS:
        return values
    small = values.astype(np.uint16)
    return small if small.astype(np.float32).tobytes() == values.tobytes() else values


@lru_cache(maxsize=256)
def _common_text(dtype: str, all_valid: bool, bands: tuple[str, ...], frames: tuple[Frame, ...]) -> str:
    return _to_text([dtype, all_valid, bands, [_frame_to_json(frame) for frame in frames]])


@lru_cache(maxsize=256)
def _common(text: str) -> tuple[str, bool, tuple[str, ...], tuple[Frame, ...], Mapping[str, Json]]:
    (dtype, all_valid, bands, frames), provenance = json.loads(text)
    return dtype, all_valid, tuple(bands), tuple(_frame_from_json(frame) for frame in frames), provenance


def _frame_to_json(frame: Frame) -> list[Any]:
    days = (frame.window.start, frame.window.end, frame.date, frame.first_date, frame.last_date)
    return [frame.n_images, list(frame.scene_ids), *(None if day is None else day.toordinal() for day in days)]


def _frame_from_json(value: list[Any]) -> Frame:
    n_images, scenes, *ordinals = value
    return _frame(n_images, tuple(scenes), *ordinals)


@lru_cache(maxsize=4096)
def _frame(n_images: int, scenes: tuple[str, ...], *ordinals: int | None) -> Frame:
    # Neighbours were taken from the same scenes.
    start, end, day, first, last = (None if n is None else dt.date.fromordinal(n) for n in ordinals)
    if start is None or end is None:
        raise SpecError("a stored frame has no window")
    return Frame(Window(start, end), n_images, day, first, last, scenes)
