"""Fetched patches on disk, so that nothing that was paid for is fetched twice.

One append-only pack file per fetch unit (a shard of one fetch group). A record is complete
or ignored: after a crash the good records of a pack are found again by reading it through.

Record: ``magic, header length, payload length, crc32`` (little-endian), a JSON header, then
the pixel values (as unsigned 16-bit numbers where that is exact) and the packed mask bits.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import os
import struct
import threading
import time
import zlib
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rsembed.core.errors import SpecError
from rsembed.core.fetching import Grid
from rsembed.core.patch import Frame, Patch
from rsembed.core.specs import Window

_MAGIC = b"RSE1"
_HEAD = struct.Struct("<4sIQI")

FLUSH_BYTES = 1 << 20
FLUSH_S = 0.1
"""Records are written together once they are this many bytes or this old."""
READ_AHEAD_BYTES = 8 << 20
"""Packs up to this size are read in one piece."""


class InputPack:
    """The patches of one fetch unit, by key. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self._index: dict[str, tuple[int, int, int]] = {}
        self._waiting: deque[tuple[str, bytes, int, int]] = deque()
        self._waiting_bytes = 0
        self._flushed_at = 0.0
        self._image = memoryview(b"")
        self._end = self._recover()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __contains__(self, key: str) -> bool:
        return key in self._index

    def put(self, key: str, patch: Patch) -> None:
        """Append ``patch`` under ``key``."""
        record, header_bytes, payload_bytes = _encode(key, patch)
        # Small writes from many threads cost more than the fetches they keep: records are gathered for a
        # fraction of a second, and whoever finds them due writes them while the others go on.
        self._waiting.append((key, record, header_bytes, payload_bytes))
        self._waiting_bytes += len(record)
        due = self._waiting_bytes >= FLUSH_BYTES or time.monotonic() - self._flushed_at >= FLUSH_S
        if due and self._lock.acquire(blocking=False):
            try:
                self._flush()
            finally:
                self._lock.release()

    def flush(self) -> None:
        """Hand everything that was put to the operating system, so that a killed process loses none of it."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        self._flushed_at, self._waiting_bytes = time.monotonic(), 0
        block, offset = [], self._end
        places: dict[str, tuple[int, int, int]] = {}
        while self._waiting:
            key, record, header_bytes, payload_bytes = self._waiting.popleft()
            places[key] = (offset, header_bytes, payload_bytes)
            block.append(record)
            offset += len(record)
        rest = memoryview(b"".join(block))
        while rest:
            try:
                # A full disk may take a part first; only the next call says what is wrong.
                rest = rest[os.pwrite(self._file, rest, offset - len(rest)) :]
            except OSError as exc:
                raise OSError(exc.errno, exc.strerror, str(self.path)) from exc
        self._end = offset
        self._index.update(places)

    def get(self, key: str) -> Patch | None:
        """The patch under ``key``; None when it is absent or its bytes are damaged."""
        if self._waiting:
            self.flush()
        place = self._index.get(key)
        if place is None:
            return None
        offset, header_bytes, payload_bytes = place
        record = self._read(offset, _HEAD.size + header_bytes + payload_bytes)
        found = _decode(record)
        if found is None:
            with self._lock:
                self._index.pop(key, None)
        return found

    def _read(self, offset: int, length: int) -> memoryview:
        if offset + length > len(self._image):
            # A pack of small patches is read at once: a system call for each would cost more than the patch.
            if self._end <= READ_AHEAD_BYTES:
                self._image = memoryview(os.pread(self._file, self._end, 0))
            else:
                return memoryview(os.pread(self._file, length, offset))
        return self._image[offset : offset + length]

    def close(self) -> None:
        """Close the file; what it holds stays."""
        self._image = memoryview(b"")
        if self._file >= 0:
            self.flush()
            os.close(self._file)
            self._file = -1

    def delete(self) -> None:
        """Close and remove the file."""
        self.close()
        self.path.unlink(missing_ok=True)

    def _recover(self) -> int:
        """Index the complete records; returns where the next one goes."""
        size = os.fstat(self._file).st_size
        offset = 0
        while offset + _HEAD.size <= size:
            magic, header_bytes, payload_bytes, _ = _HEAD.unpack(os.pread(self._file, _HEAD.size, offset))
            length = _HEAD.size + header_bytes + payload_bytes
            if magic != _MAGIC or offset + length > size:
                break
            record = os.pread(self._file, length, offset)
            if not _checksum_ok(record):
                break
            header = json.loads(record[_HEAD.size : _HEAD.size + header_bytes])
            self._index[header["key"]] = (offset, header_bytes, payload_bytes)
            offset += length
        return offset


def _checksum_ok(record: bytes | memoryview) -> bool:
    if len(record) < _HEAD.size:
        return False
    magic, header_bytes, payload_bytes, checksum = _HEAD.unpack_from(record)
    complete = len(record) == _HEAD.size + header_bytes + payload_bytes
    return bool(magic == _MAGIC and complete and zlib.crc32(memoryview(record)[_HEAD.size :]) == checksum)


def _encode(key: str, patch: Patch) -> tuple[bytes, int, int]:
    values, mask = patch.values_tchw, patch.valid_tchw
    small = values.astype(np.uint16) if _fits_uint16(values) else values
    all_valid = bool(mask.all())
    grid = patch.grid
    header = json.dumps(
        {
            "key": key,
            "shape": values.shape,
            "dtype": small.dtype.str,
            "all_valid": all_valid,
            "bands": patch.bands,
            "grid": [grid.epsg, grid.x_min, grid.y_max, grid.scale_m, grid.height, grid.width],
            "frames": [_frame_to_json(frame) for frame in patch.frames],
            "provenance": dict(patch.provenance),
        },
        separators=(",", ":"),
    ).encode()
    payload = small.tobytes() + (b"" if all_valid else np.packbits(mask).tobytes())
    checksum = zlib.crc32(payload, zlib.crc32(header))
    return _HEAD.pack(_MAGIC, len(header), len(payload), checksum) + header + payload, len(header), len(payload)


def _fits_uint16(values: NDArray[np.float32]) -> bool:
    if values.size == 0 or not (values.min() >= 0 and values.max() <= 65535):
        return False
    return bool((values == np.floor(values)).all()) and not bool(np.signbit(values).any())


def _decode(record: memoryview) -> Patch | None:
    if not _checksum_ok(record):
        return None
    _, header_bytes, _, _ = _HEAD.unpack_from(record)
    header = json.loads(bytes(record[_HEAD.size : _HEAD.size + header_bytes]))
    shape = tuple(header["shape"])
    count = math.prod(shape)
    start = _HEAD.size + header_bytes
    dtype = np.dtype(header["dtype"])
    values = np.frombuffer(record, dtype, count, start).reshape(shape).astype(np.float32)
    if header["all_valid"]:
        valid = np.ones(shape, dtype=np.bool_)
    else:
        bits = np.frombuffer(record, np.uint8, -1, start + count * dtype.itemsize)
        valid = np.unpackbits(bits, count=count).astype(np.bool_).reshape(shape)
    return Patch(
        values,
        valid,
        tuple(header["bands"]),
        Grid(*header["grid"]),
        tuple(_frame_from_json(frame) for frame in header["frames"]),
        header["provenance"],
    )


def _frame_to_json(frame: Frame) -> list[Any]:
    days = (frame.window.start, frame.window.end, frame.date, frame.first_date, frame.last_date)
    return [frame.n_images, list(frame.scene_ids), *(None if day is None else day.toordinal() for day in days)]


def _frame_from_json(value: list[Any]) -> Frame:
    n_images, scenes, *ordinals = value
    start, end, day, first, last = (None if n is None else dt.date.fromordinal(n) for n in ordinals)
    if start is None or end is None:
        raise SpecError("a stored frame has no window")
    return Frame(Window(start, end), n_images, day, first, last, tuple(scenes))
