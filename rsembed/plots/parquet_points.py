"""Rows of a dataset's Parquet files, a batch of them in memory at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from rsembed.core.embedding import Embedding
from rsembed.core.errors import SpecError
from rsembed.plots.credits import model_credit
from rsembed.plots.point_source import BATCH_ROWS, NO_MAPS, PointBatch, mean_vectors
from rsembed.writers.vectors import VectorReader

_MAP_ROWS = 16
_COLUMNS = ("id", "row", "start", "end", "status", "lon", "lat")
_MAP_FACTS = ("id", "start", "end", "status", "epsg", "grid_transform")


class ParquetPoints:
    """Rows of the Parquet files that an export writes, read in order and in batches."""

    def __init__(self, parts: Sequence[Path], credit: tuple[str, ...] | None = None, title: str | None = None) -> None:
        self._parts = tuple(parts)
        try:
            files = [pq.ParquetFile(part) for part in parts]
        except (pa.ArrowInvalid, OSError) as exc:
            raise SpecError(f"{parts[0]} is no Parquet file that an export has written: {exc}") from exc
        schema = files[0].schema_arrow
        lacking = [name for name in (*_COLUMNS, "embedding") if name not in schema.names]
        if lacking:
            raise SpecError(f"{parts[0]} has no column {lacking[0]!r}: expected a file that an export has written")
        about = json.loads((schema.metadata or {}).get(b"rsembed", b"{}"))
        named = about.get("model")
        model = named.get("label", "") if isinstance(named, Mapping) else str(named or "")
        self.title = title or model or parts[0].stem
        phrase = model_credit({"name": about.get("licence"), "attribution": about.get("attribution")})
        self.credits = credit if credit is not None else tuple(filter(None, [phrase]))
        self.n_rows = sum(file.metadata.num_rows for file in files)
        self._reader = VectorReader(schema)

    def batches(self, *, vectors: bool = True) -> Iterator[PointBatch]:
        """See :class:`PointSource`; a row that holds a map gives the mean of its cells."""
        maps = self._reader.dim is None
        columns = [*_COLUMNS, *(["embedding", *(["grid_shape"] if maps else [])] if vectors else [])]
        for part in self._parts:
            for batch in pq.ParquetFile(part, pre_buffer=False).iter_batches(BATCH_ROWS, columns=columns):
                read = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in _COLUMNS}
                found = np.empty((batch.num_rows, 0), np.float32)
                if vectors and maps:
                    found = mean_vectors([self._map(batch, i) for i in range(batch.num_rows)])
                elif vectors:
                    found = self._reader.vectors(batch.column("embedding")).astype(np.float32, copy=False)
                windows = [f"{a}..{b}" for a, b in zip(read["start"], read["end"], strict=True)]
                yield PointBatch(
                    read["id"], read["row"], read["lon"], read["lat"], read["status"],
                    np.array(windows, dtype=object), found,
                )  # fmt: skip

    def map_at(self, position: int) -> Embedding:
        """See :class:`PointSource`."""
        if self._reader.dim is not None:
            raise SpecError(NO_MAPS)
        for part in self._parts:
            file = pq.ParquetFile(part, pre_buffer=False)
            if position >= file.metadata.num_rows:
                position -= file.metadata.num_rows
                continue
            columns = [*_MAP_FACTS, "embedding", "grid_shape"]
            for batch in file.iter_batches(_MAP_ROWS, columns=columns):
                if position < batch.num_rows:
                    return self._embedding(batch, position)
                position -= batch.num_rows
        raise SpecError(f"there is no row {position}")

    def _embedding(self, batch: pa.RecordBatch, i: int) -> Embedding:
        row = {name: batch.column(name)[i].as_py() for name in _MAP_FACTS}
        data = self._map(batch, i)
        if data is None:
            raise SpecError(f"row {row['id']} has no embedding: it is {row['status']}")
        meta = {
            "model": f"{self.title}, {row['id']}",
            "temporal": {"start": str(row["start"]), "end": str(row["end"])},
            "grid": {"epsg": row["epsg"], "transform": row["grid_transform"]} if row["grid_transform"] else None,
            "attribution": list(self.credits),
        }
        return Embedding(data, meta)

    def _map(self, batch: pa.RecordBatch, i: int) -> NDArray[np.float32] | None:
        shape = batch.column("grid_shape")[i].as_py()
        if not shape:
            return None
        return self._reader.map(batch.column("embedding")[i], shape).astype(np.float32, copy=False)
