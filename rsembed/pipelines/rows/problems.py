"""What is wrong with single rows: collected batch by batch, told once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from rsembed.core.errors import RowError

SKIPPED_SCHEMA = pa.schema([("row", pa.int64()), ("id", pa.string()), ("reason", pa.string())])
_TOLD = 10


class Problems:
    """The first thing wrong with each row of one batch of ``n`` rows."""

    def __init__(self, n: int) -> None:
        self.reasons: NDArray[np.object_] = np.full(n, None, dtype=object)
        self.free: NDArray[np.bool_] = np.ones(n, dtype=bool)

    def add(self, bad: NDArray[np.bool_], reason: Callable[[int], str]) -> None:
        """Record ``reason(i)`` for the rows in mask ``bad`` that have no problem yet."""
        for i in np.flatnonzero(bad & self.free):
            self.reasons[i] = reason(int(i))
        self.free &= ~bad


class BadRows:
    """Bad rows of a whole table; keeps all of them (``keep_all``) or the first few and a count."""

    def __init__(self, *, keep_all: bool) -> None:
        self._keep_all = keep_all
        self._parts: list[pa.Table] = []
        self._kept = 0
        self.count = 0

    def add(self, rows: NDArray[np.int64], ids: pa.Array, reasons: NDArray[np.object_]) -> None:
        """Rows by number (0-based), the ids they were given (null: none) and what is wrong with each."""
        self.count += len(rows)
        wanted = len(rows) if self._keep_all else max(0, _TOLD - self._kept)
        if wanted and len(rows):
            columns = [pa.array(rows[:wanted]), ids[:wanted], pa.array(list(reasons[:wanted]), pa.string())]
            self._parts.append(pa.table(columns, schema=SKIPPED_SCHEMA))
            self._kept += self._parts[-1].num_rows

    def restart_kept(self) -> None:
        """Keep another few of what comes next: the next check has rows of its own to name."""
        self._kept = 0

    def table(self) -> pa.Table:
        """Columns row, id, reason; by row."""
        return pa.concat_tables([SKIPPED_SCHEMA.empty_table(), *self._parts]).combine_chunks().sort_by("row")

    def error(self, name: str) -> RowError:
        """An error that names the first bad rows of table ``name`` and counts them all."""
        lines = [
            f"  row {each['row']}" + (f" (id {each['id']!r})" if each["id"] is not None else "") + f": {each['reason']}"
            for each in self.table().slice(0, _TOLD).to_pylist()
        ]
        more = f"\n  and {self.count - len(lines)} more" if self.count > len(lines) else ""
        rows = "1 row" if self.count == 1 else f"{self.count} rows"
        return RowError(
            f"{name}: {rows} cannot be used (numbered from 0):\n"
            + "\n".join(lines)
            + more
            + "\ncorrect them, or leave them out with --skip-bad-rows (they are listed in skipped.parquet)"
        )
