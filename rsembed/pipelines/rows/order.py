"""Order and uniqueness of many rows at <= 16 bytes a row; everything else stays in a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from rsembed.pipelines.rows.mapped import MappedBatches
from rsembed.pipelines.rows.source import BATCH_ROWS

Ints = NDArray[np.int64]
Keys = NDArray[np.uint64]

_IDENTITY = ("id", "start", "end")


class ScratchRows:
    """Rows in an Arrow IPC file that is mapped, not read; any rows can be gathered by position."""

    def __init__(self, path: Path) -> None:
        self._mapped = MappedBatches(path)
        self.schema = self._mapped.schema
        self._batches = self._mapped.batches
        self._starts = np.concatenate([[0], np.cumsum([batch.num_rows for batch in self._batches])]).astype(np.int64)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def gather(self, positions: Ints, columns: tuple[str, ...] | None = None) -> pa.RecordBatch:
        """Rows at ``positions`` (any order) as one batch; a copy of just these rows.

        Not ``Table.take``: that one copies the whole table's text first.
        """
        rank = np.argsort(positions, kind="stable")
        ordered = positions[rank]
        cuts = np.searchsorted(ordered, self._starts)
        parts = []
        for k in np.flatnonzero(np.diff(cuts)):
            batch = self._batches[k] if columns is None else self._batches[k].select(list(columns))
            parts.append(batch.take(pa.array(ordered[cuts[k] : cuts[k + 1]] - self._starts[k])))
            self._mapped.used(batch.num_rows)  # a few rows of a batch bring in most of its pages
        if not parts:
            schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
            return pa.RecordBatch.from_pylist([], schema=schema)
        whole = pa.concat_batches(parts)
        back = np.empty_like(rank)
        back[rank] = np.arange(len(rank))
        return whole.take(pa.array(back))


def identity_hashes(ids: pa.Array, start: Ints, end: Ints) -> Keys:
    """64-bit hashes of (id, start, end), shape (N,). ``ids``: pa.string without nulls or empty ones.

    A byte times a random odd number of its place, summed: unlike bytes collide by chance
    only, and equal hashes are verified against the ids anyway.
    """
    if not len(ids):
        return np.empty(0, np.uint64)
    offsets = np.frombuffer(ids.buffers()[1], np.int32)[ids.offset : ids.offset + len(ids) + 1].astype(np.int64)
    data = np.frombuffer(ids.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    offsets -= offsets[0]
    lengths = np.diff(offsets)
    place = np.arange(len(data)) - np.repeat(offsets[:-1], lengths)
    weights = _mixed(np.arange(int(lengths.max()), dtype=np.uint64)) | np.uint64(1)
    sums = np.add.reduceat((data.astype(np.uint64) + np.uint64(1)) * weights[place], offsets[:-1])
    days = (start.astype(np.uint64) << np.uint64(32)) ^ (end.astype(np.uint64) & np.uint64(0xFFFFFFFF))
    return _mixed(sums ^ _mixed(days))


def _mixed(values: Keys) -> Keys:
    """splitmix64 (S. Vigna, public domain): spreads every bit over all of them."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def find_duplicates(hashes: Path, rows: ScratchRows) -> list[tuple[int, int]]:
    """``(position, first position)`` of every row whose (id, start, end) came before, by position.

    ``hashes``: file of uint64, one a row, by position.
    """
    ordered = np.fromfile(hashes, np.uint64)
    ordered.sort()
    repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(repeated):
        return []
    mapped = np.memmap(hashes, np.uint64, mode="r")
    suspects = np.concatenate(
        [start + np.flatnonzero(np.isin(mapped[start : start + (1 << 20)], repeated))
         for start in range(0, len(mapped), 1 << 20)]
    )  # fmt: skip
    first: dict[tuple[object, ...], int] = {}
    found = []
    for start in range(0, len(suspects), BATCH_ROWS):
        block = suspects[start : start + BATCH_ROWS]
        batch = rows.gather(block, _IDENTITY)
        for position, *key in zip(block.tolist(), *(column.to_pylist() for column in batch.columns), strict=True):
            earlier = first.setdefault(tuple(key), position)
            if earlier != position:
                found.append((position, earlier))
    return found


def sorted_positions(keys: Path, rows: ScratchRows, dropped: Ints) -> Ints:
    """Positions in the order (key, id, start, end), without ``dropped``; ids compare as UTF-8 bytes.

    ``keys``: file of uint64, one a row, by position.
    """
    values = np.fromfile(keys, np.uint64)
    order = np.argsort(values)
    if len(dropped):
        keep = np.ones(len(order), dtype=bool)
        keep[dropped] = False
        order = order[keep[order]]
    tied = _tied_to_previous(values, order)
    del values
    for places, group in _tie_blocks(tied):
        batch = rows.gather(order[places], _IDENTITY)
        table = pa.table([pa.array(group), *batch.columns], names=["group", *_IDENTITY])
        rank = pc.sort_indices(table, [(name, "ascending") for name in table.schema.names]).to_numpy()
        order[places] = order[places][rank]
    return order


def _tied_to_previous(values: Keys, order: Ints) -> NDArray[np.bool_]:
    tied = np.zeros(len(order) + 1, dtype=bool)
    for start in range(1, len(order), 1 << 20):
        stop = min(len(order), start + (1 << 20))
        tied[start:stop] = values[order[start:stop]] == values[order[start - 1 : stop - 1]]
    return tied


def _tie_blocks(tied: NDArray[np.bool_]) -> Iterator[tuple[Ints, Ints]]:
    """Places in the order that take part in a tie, whole groups at a time, and each place's group."""
    n = len(tied) - 1
    start = 0
    while start < n:
        stop = min(n, start + BATCH_ROWS)
        while tied[stop]:  # the sentinel at n is False
            ahead = tied[stop : stop + BATCH_ROWS]
            stop += len(ahead) if ahead.all() else int(np.argmin(ahead))
        inside = tied[start:stop] | tied[start + 1 : stop + 1]
        places = start + np.flatnonzero(inside)
        if len(places):
            yield places, np.cumsum(~tied[places])
        start = stop
