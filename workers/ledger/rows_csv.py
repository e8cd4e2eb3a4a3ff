"""Rows on their way into COPY: CSV made by Arrow, a buffer for each batch."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from workers.ledger.errors import LedgerError
from workers.ledger.records import StoredRows

COLUMNS = (
    "seq", "input_row", "start_date", "end_date", "kind", "lon", "lat",
    "box_west", "box_south", "box_east", "box_north", "id", "carried",
)  # fmt: skip
_FORMAT = csv.WriteOptions(include_header=False, quoting_style="needed")
# A line of its own that begins so ends the data, even inside quotes, for servers before Postgres 18.
_END_OF_DATA = r"[\r\n]\\\."


class RowStream(io.RawIOBase):
    """What ``COPY rows FROM STDIN`` reads: the batches as CSV, made one at a time.

    ``n_rows`` counts what was read so far; ``awkward`` collects the few rows that CSV cannot
    carry to every server, to be inserted one by one; ``error``: what the batches raised, which
    the driver only reports as text.
    """

    def __init__(self, batches: Iterable[StoredRows]) -> None:
        super().__init__()
        self.n_rows = 0
        self.awkward: list[dict[str, object]] = []
        self.error: Exception | None = None
        self._chunks = self._encode(batches)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; empty at the end."""
        while not self._rest:
            try:
                chunk = next(self._chunks, None)
            except Exception as exc:  # whatever the source of the rows raises, COPY must be ended with it
                self.error = exc
                raise
            if chunk is None:
                return b""
            self._rest = memoryview(chunk)
        taken = self._rest[: size if size > 0 else len(self._rest)]
        self._rest = self._rest[len(taken) :]
        return bytes(taken)

    def _encode(self, batches: Iterable[StoredRows]) -> Iterator[bytes]:
        for batch in batches:
            table = _table(batch)
            self.n_rows += table.num_rows
            awkward = pc.or_(
                pc.match_substring_regex(table["id"], _END_OF_DATA),
                pc.fill_null(pc.match_substring_regex(table["carried"], _END_OF_DATA), fill_value=False),
            )
            if pc.any(awkward).as_py():
                self.awkward += table.filter(awkward).to_pylist()
                table = table.filter(pc.invert(awkward))
            sink = pa.BufferOutputStream()
            csv.write_csv(table, sink, _FORMAT)
            yield sink.getvalue()


def _table(batch: StoredRows) -> pa.Table:
    days = [pa.array(column, pa.int32()).cast(pa.date32()) for column in (batch.start, batch.end)]
    table = pa.table(
        [
            pa.array(batch.seq, pa.int64()), pa.array(batch.row, pa.int64()), *days, pa.array(batch.kind, pa.int16()),
            pa.array(batch.lon, pa.float64()), pa.array(batch.lat, pa.float64()), *_sides(batch.boxes),
            pa.array(batch.ids, pa.string()), pa.array(batch.carried, pa.string()),
        ],
        names=COLUMNS,
    )  # fmt: skip
    for name in ("id", "carried"):
        if pc.any(pc.match_substring(table[name], "\0")).as_py():
            raise LedgerError(f"a row's {name} holds a NUL character, which Postgres cannot store; remove it")
    return table


def _sides(boxes: Sequence[tuple[float, float, float, float] | None]) -> list[pa.Array]:
    """West, south, east and north of every box, null where there is none."""
    if all(box is None for box in boxes):
        return [pa.nulls(len(boxes), pa.float64())] * 4
    return [pa.array([None if box is None else box[side] for box in boxes], pa.float64()) for side in range(4)]
