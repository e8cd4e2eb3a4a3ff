"""Rows of a run on their way into the ledger, and out of it as the shards that they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from rsembed.pipelines.rows.places import BOX
from rsembed.pipelines.rows.shard import RowShard
from rsembed.pipelines.rows.table import RowTable
from workers.carried import carried_texts, read_carried_texts
from workers.ledger.records import StoredRows

BATCH_ROWS = 4096
"""As lists of numbers and texts, rows take ten times the memory that they take as columns."""


def stored_batches(table: RowTable, batch_rows: int = BATCH_ROWS) -> Iterator[StoredRows]:
    """All rows of ``table`` in order, ``batch_rows`` at a time; no more than one batch is in memory."""
    for start in range(0, table.n_rows, batch_rows):
        yield stored_rows(table.slice(start, min(table.n_rows, start + batch_rows)))


def stored_rows(shard: RowShard) -> StoredRows:
    """Some rows as the ledger keeps them."""
    boxes: list[tuple[float, float, float, float] | None] = [None] * len(shard)
    for i in np.flatnonzero(shard.kind == BOX).tolist():
        minlon, minlat, maxlon, maxlat = shard.boxes[i].tolist()
        boxes[i] = (minlon, minlat, maxlon, maxlat)
    return StoredRows(
        seq=shard.seq.tolist(),
        row=shard.row.tolist(),
        start=shard.start.astype("datetime64[D]").astype(np.int64).tolist(),
        end=shard.end.astype("datetime64[D]").astype(np.int64).tolist(),
        kind=shard.kind.tolist(),
        lon=shard.lon.tolist(),
        lat=shard.lat.tolist(),
        boxes=boxes,
        ids=shard.ids.to_pylist(),
        carried=carried_texts(shard.carried),
    )


def row_shard(rows: StoredRows, schema: pa.Schema, index: int = 0) -> RowShard:
    """The shard that :func:`stored_rows` was made of; ``schema``: of the carried columns (``RunSpec.schema``).

    Raises SpecError when the carried columns do not fit the schema.
    """
    boxes = np.full((len(rows), 4), np.nan)
    for i, box in enumerate(rows.boxes):
        if box is not None:
            boxes[i] = box
    return RowShard(
        seq=np.asarray(rows.seq, np.int64),
        row=np.asarray(rows.row, np.int64),
        start=np.asarray(rows.start, np.int64).astype("datetime64[D]"),
        end=np.asarray(rows.end, np.int64).astype("datetime64[D]"),
        kind=np.asarray(rows.kind, np.int8),
        lon=np.asarray(rows.lon, np.float64),
        lat=np.asarray(rows.lat, np.float64),
        boxes=boxes,
        ids=pa.array(rows.ids, pa.string()),
        carried=read_carried_texts(rows.carried, schema),
        index=index,
    )
