"""Fetched patches on disk, so that nothing that was paid for is fetched twice.

One append-only pack file per fetch unit (a shard of one fetch group). A record
(``input_record``) is complete or ignored: after a crash the good records of a pack are found
again by reading it through.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Self

from rsembed.core.patch import Patch
from rsembed.pipelines.input_record import (
    PREFIX_BYTES,
    RecordHeader,
    decode,
    decode_header,
    encode,
    is_intact,
    record_length,
)

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
        self._index: dict[str, tuple[int, RecordHeader]] = {}
        self._waiting: deque[tuple[str, bytes, RecordHeader]] = deque()
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

    def lacks(self, key: str, bands: tuple[str, ...]) -> tuple[str, ...]:
        """Those of ``bands`` that are not there under ``key``."""
        place = self._index.get(key)
        return bands if place is None else tuple(band for band in bands if band not in place[1].bands)

    def put(self, key: str, patch: Patch) -> None:
        """Append ``patch`` under ``key``."""
        record, header = encode(key, patch)
        # Small writes from many threads cost more than the fetches they keep: records are gathered for a
        # fraction of a second, and whoever finds them due writes them while the others go on.
        self._waiting.append((key, record, header))
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
        places: dict[str, tuple[int, RecordHeader]] = {}
        while self._waiting:
            key, record, header = self._waiting.popleft()
            places[key] = (offset, header)
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
        offset, header = place
        found = decode(self._read(offset, header.length), header)
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
        while length := record_length(os.pread(self._file, PREFIX_BYTES, offset)):
            record = os.pread(self._file, length, offset) if offset + length <= size else b""
            if not is_intact(record):
                break
            key, header = decode_header(record)
            self._index[key] = (offset, header)
            offset += length
        return offset
