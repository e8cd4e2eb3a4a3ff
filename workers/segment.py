"""One segment of a unit's inputs as an open file, and its records."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import BinaryIO

import numpy as np

from rsembed.core.errors import SpecError
from rsembed.core.patch import Patch
from rsembed.pipelines.input_record import (
    PREFIX_BYTES,
    RecordHeader,
    decode,
    decode_header,
    is_intact,
    record_length,
)

logger = logging.getLogger(__name__)

READ_AHEAD_BYTES = 8 << 20
"""Segments up to this size are read in one piece."""
_HEADER_BYTES = 4096
"""Most headers are shorter; longer ones cost a second call."""


class Segment:
    """An open segment; damaged parts of it are passed over."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self._size = os.fstat(handle.fileno()).st_size
        # A segment of small patches is read at once: a system call for each would cost more than the patch.
        whole = self._size <= READ_AHEAD_BYTES
        self._image = memoryview(os.pread(handle.fileno(), self._size, 0)) if whole else None

    def read(self, offset: int, length: int) -> memoryview:
        """Up to ``length`` bytes from ``offset`` on."""
        if self._image is not None:
            return self._image[offset : offset + length]
        return memoryview(os.pread(self._handle.fileno(), length, offset))

    def records(self) -> Iterator[tuple[str, StoredRecord]]:
        """``(key, record)`` of every record whose header can be read, in order."""
        offset = 0
        while offset < self._size:
            head = self.read(offset, _HEADER_BYTES)
            length = record_length(head)
            if length is None or offset + length > self._size:
                logger.warning("input_segment_damaged", extra={"offset": offset, "bytes": self._size})
                return
            try:
                key, header = self._header(offset, length, head)
                yield key, StoredRecord(self, offset, length, header)
            except (ValueError, KeyError, TypeError, IndexError, OverflowError, struct.error, SpecError) as exc:
                logger.warning("input_record_damaged", extra={"offset": offset, "error": str(exc)})
            offset += length

    def close(self) -> None:
        """Close the file."""
        self._image = memoryview(b"")
        self._handle.close()

    def _header(self, offset: int, length: int, head: memoryview) -> tuple[str, RecordHeader]:
        need = PREFIX_BYTES + struct.unpack_from("<I", head, 4)[0]
        if need > len(head):
            head = self.read(offset, min(need, length))
        return decode_header(head[:need])


class StoredRecord:
    """A record in a segment; whether its bytes are sound shows when it is read."""

    def __init__(self, segment: Segment, offset: int, length: int, header: RecordHeader) -> None:
        self._segment = segment
        self._offset = offset
        self._length = length
        self.header = header
        self._intact: bool | None = None

    def read(self) -> Patch | None:
        """The patch; None when its bytes are damaged."""
        return decode(self._bytes(), self.header)

    def is_intact(self) -> bool:
        """Whether :meth:`read` gives a patch."""
        if self._intact is None:
            self._intact = is_intact(self._bytes())
        return self._intact

    def fits(self, other: StoredRecord) -> bool:
        """Whether bands of both may stand in one patch."""
        return self.header.grid == other.header.grid and self.header.frames == other.header.frames

    def _bytes(self) -> memoryview:
        return self._segment.read(self._offset, self._length)


def merged(patches: Sequence[Patch], bands: Sequence[str]) -> Patch | None:
    """One patch of ``bands`` in that order, out of several of the same frames and grid; None when that cannot be."""
    if not patches or any((p.grid, p.frames) != (patches[0].grid, patches[0].frames) for p in patches):
        return None
    chosen = [next(((p, p.bands.index(band)) for p in patches if band in p.bands), None) for band in bands]
    found = [place for place in chosen if place is not None]
    if len(found) != len(bands):
        return None
    values = np.stack([patch.values_tchw[:, index] for patch, index in found], axis=1)
    valid = np.stack([patch.valid_tchw[:, index] for patch, index in found], axis=1)
    return replace(patches[0], values_tchw=values, valid_tchw=valid, bands=tuple(bands))
