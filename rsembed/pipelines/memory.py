"""Memory of a run that does not look as if it grew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pyarrow as pa


@contextlib.contextmanager
def returned_memory() -> Iterator[None]:
    """Let Arrow take memory from the system's allocator while the block runs.

    Arrow's own allocator is a little faster but keeps what it once had, so that one large step
    (reading the table, gathering a part) would stay in the process for the rest of a long run.
    """
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)
