"""Which tiles a product has: its registry, a Parquet file of millions of rows, asked by year and place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.core.errors import ProviderError

Ints = NDArray[np.int64]
_WANTED = ("hash", "scales_hash", "file_size", "grid_size", "scales_size")
"""What a registry may say of a tile's files; the published ones differ."""


@dataclass(frozen=True, order=True)
class TileCell:
    """A tile of 0.1 degrees by its centre, in hundredths of a degree."""

    lat_i: int
    lon_i: int

    @property
    def name(self) -> str:
        """The name its files bear."""
        return f"grid_{self.lon_i / 100:.2f}_{self.lat_i / 100:.2f}"


@dataclass(frozen=True)
class TileEntry:
    """A row of the registry. ``position``: its number there; sums and sizes None where they are not stated."""

    cell: TileCell
    year: int
    position: int
    sha256: str | None = None
    scales_sha256: str | None = None
    size: int | None = None
    scales_size: int | None = None


class TileIndex:
    """The registry at ``path``; one without a column ``year`` (land masks) answers for year 0.

    Held in memory are eight bytes a tile; the rest is read when asked for. Raises ProviderError for a file that
    is no registry.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = pq.ParquetFile(path)
            names = set(self._file.schema_arrow.names)
            table = self._file.read(columns=[name for name in ("year", "lon", "lat") if name in names])
        except (pa.ArrowException, OSError) as exc:
            raise ProviderError(f"{path} is no registry of tiles: {exc}; remove it to have it fetched again") from exc
        if not {"lon", "lat"} <= names:
            raise ProviderError(f"{path} is no registry of tiles: it has no columns lon and lat")
        self._columns = tuple(name for name in _WANTED if name in names)
        year = _numbers(table, "year") if "year" in names else np.zeros(len(table))
        keys = _keys(_whole(year), _whole(_numbers(table, "lon") * 100), _whole(_numbers(table, "lat") * 100))
        self._order = np.argsort(keys, kind="stable")
        self._sorted = keys[self._order]
        groups = self._file.metadata
        self._ends = np.cumsum([groups.row_group(i).num_rows for i in range(groups.num_row_groups)])
        self._group = lru_cache(maxsize=8)(self._read_group)

    def find(self, year: int, cells: Sequence[TileCell]) -> list[TileEntry]:
        """Those of ``cells`` that the product has for ``year``, in the registry's order."""
        found = []
        for cell in cells:
            key = int(_keys(np.array([year]), np.array([cell.lon_i]), np.array([cell.lat_i]))[0])
            at = int(np.searchsorted(self._sorted, key))
            if at < len(self._sorted) and self._sorted[at] == key:
                found.append(self._entry(cell, year, int(self._order[at])))
        return sorted(found, key=lambda entry: entry.position)

    def _entry(self, cell: TileCell, year: int, position: int) -> TileEntry:
        group = int(np.searchsorted(self._ends, position, side="right"))
        first = int(self._ends[group - 1]) if group else 0
        row: dict[str, Any] = {}
        if self._columns:
            [row] = self._group(group).slice(position - first, 1).to_pylist()
        return TileEntry(
            cell,
            year,
            position,
            row.get("hash") or None,
            row.get("scales_hash") or None,
            row.get("file_size") or row.get("grid_size") or None,
            row.get("scales_size") or None,
        )

    def _read_group(self, group: int) -> pa.Table:
        # A file of its own for each read: one open file must not be shared between threads.
        return pq.ParquetFile(self._path).read_row_group(group, columns=list(self._columns))


def _numbers(table: pa.Table, name: str) -> NDArray[np.float64]:
    return np.asarray(table[name].to_numpy(), dtype=np.float64)


def _whole(values: NDArray[np.float64]) -> Ints:
    return np.rint(values).astype(np.int64)


def _keys(year: Ints, lon_i: Ints, lat_i: Ints) -> Ints:
    return np.asarray((year * 100_000 + lon_i + 20_000) * 100_000 + lat_i + 10_000, dtype=np.int64)
