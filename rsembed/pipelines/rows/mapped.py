"""An Arrow file that is mapped, not read, and whose pages do not add up in memory."""

from __future__ import annotations

import mmap
from pathlib import Path

import pyarrow as pa

FORGET_ROWS = 1 << 17
"""After so many rows were used, the file's pages are given back; they come again when they are needed."""


class MappedBatches:
    """The record batches of the Arrow IPC file at ``path``."""

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        reader = pa.ipc.open_file(pa.py_buffer(self._map))
        self.schema: pa.Schema = reader.schema
        self.batches: tuple[pa.RecordBatch, ...] = tuple(reader.get_batch(i) for i in range(reader.num_record_batches))
        self._used_rows = 0

    def used(self, rows: int) -> None:
        """Tell that ``rows`` rows were looked at; views of them stay good whatever is given back."""
        self._used_rows += rows
        if self._used_rows >= FORGET_ROWS:
            self._used_rows = 0
            self._map.madvise(mmap.MADV_DONTNEED)
