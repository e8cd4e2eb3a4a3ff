"""The rows of a run: numbered, validated, ordered; in a mapped file, not in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from rsembed.core.errors import SpecError
from rsembed.core.specs import Window
from rsembed.pipelines.rows.columns import carried_schema, id_column, read_carried, read_ids
from rsembed.pipelines.rows.digest import RowsDigest
from rsembed.pipelines.rows.formats import open_table
from rsembed.pipelines.rows.mapped import MappedBatches
from rsembed.pipelines.rows.order import ScratchRows, find_duplicates, identity_hashes, sorted_positions
from rsembed.pipelines.rows.places import PlaceColumns, place_columns, read_places
from rsembed.pipelines.rows.problems import BadRows, Problems
from rsembed.pipelines.rows.shard import RowShard
from rsembed.pipelines.rows.source import BATCH_ROWS, TableSource
from rsembed.pipelines.rows.windows import WindowColumns, WindowPolicy, read_windows
from rsembed.tools.hilbert import hilbert_keys

Ints = NDArray[np.int64]

# With a leading underscore, so that a user may carry a column `kind`.
_BOX_COLUMNS = ("_minlon", "_minlat", "_maxlon", "_maxlat")
_ROW_FIELDS = (
    ("id", pa.string()), ("row", pa.int64()), ("start", pa.date32()), ("end", pa.date32()), ("_kind", pa.int8()),
    ("lon", pa.float64()), ("lat", pa.float64()), *((name, pa.float64()) for name in _BOX_COLUMNS),
)  # fmt: skip


@dataclass(frozen=True)
class RowOptions:
    """How a table is read.

    ``id_column``: None takes ``id``, else the row number. ``skip_bad_rows``: leave them out
    instead of refusing the table. ``carry``: the user's columns to keep; None keeps all.
    """

    id_column: str | None = None
    skip_bad_rows: bool = False
    carry: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.carry is not None:
            object.__setattr__(self, "carry", tuple(self.carry))


@dataclass(frozen=True)
class RowTable:
    """All rows of a run, position = ``seq``; made by :func:`build_rows`.

    ``digest``: sha256 over the rows in order, row numbers and carried columns included, equal
    for every file format. ``carried``: schema of the user's columns. ``skipped``: columns row,
    id, reason of the input rows left out.
    """

    path: Path
    n_rows: int
    digest: str
    carried: pa.Schema
    skipped: pa.Table = field(repr=False)
    _mapped: MappedBatches = field(repr=False)

    def __len__(self) -> int:
        return self.n_rows

    def n_shards(self, shard_size: int) -> int:
        """How many shards of ``shard_size`` rows there are, the last one possibly shorter."""
        return -(-self.n_rows // shard_size)

    def shard(self, index: int, shard_size: int) -> RowShard:
        """Rows ``index * shard_size`` up to the next shard's first."""
        if shard_size < 1 or not 0 <= index < self.n_shards(shard_size):
            raise SpecError(f"there is no shard {index} of {shard_size} rows; the run has {self.n_rows} rows")
        return self.slice(index * shard_size, min(self.n_rows, (index + 1) * shard_size), index=index)

    def slice(self, start: int, stop: int, *, index: int = 0) -> RowShard:
        """Rows ``start <= seq < stop``; ``index`` numbers them as a shard."""
        if not 0 <= start <= stop <= self.n_rows:
            raise SpecError(f"rows {start}..{stop} are not all there; the run has {self.n_rows} rows")
        first, last = min(start, self.n_rows - 1) // BATCH_ROWS, max(start, stop - 1) // BATCH_ROWS
        parts = []
        for k in range(first, last + 1):
            low, high = max(start - k * BATCH_ROWS, 0), stop - k * BATCH_ROWS
            parts.append(self._mapped.batches[k].slice(low, max(0, high - low)))
        self._mapped.used(stop - start)
        # A slice of one batch stays a view of the mapped file; only across a border is copied.
        batch = parts[0] if len(parts) == 1 else pa.concat_batches(parts)
        column = {name: batch.column(name) for name, _ in _ROW_FIELDS}
        values = {name: each.to_numpy(zero_copy_only=False) for name, each in column.items() if name != "id"}
        return RowShard(
            seq=np.arange(start, stop),
            row=values["row"],
            start=values["start"],
            end=values["end"],
            kind=values["_kind"],
            lon=values["lon"],
            lat=values["lat"],
            boxes=np.stack([values[name] for name in _BOX_COLUMNS], axis=-1),
            ids=column["id"],
            carried=batch.select(self.carried.names),
            index=index,
        )

    @property
    def span(self) -> Window:
        """From the first day of any row's window to the end of the last one."""
        starts = [pc.min(batch.column("start")).as_py() for batch in self._mapped.batches]
        ends = [pc.max(batch.column("end")).as_py() for batch in self._mapped.batches]
        return Window(min(starts), max(ends))

    @property
    def scratch_dir(self) -> Path:
        """The folder that holds the mapped file."""
        return self.path.parent

    @property
    def skipped_count(self) -> int:
        """How many input rows were left out."""
        return int(self.skipped.num_rows)

    def close(self) -> None:
        """Delete the mapped file; shards in hand stay readable."""
        self.path.unlink(missing_ok=True)

    def write_skipped(self, path: Path) -> None:
        """Write the input rows left out as Parquet (columns row, id, reason)."""
        parquet.write_table(self.skipped, path)


@dataclass(frozen=True)
class _Reading:
    """What is read of the table, settled before the first row is."""

    source: TableSource
    id: str | None
    place: PlaceColumns
    window: WindowColumns
    carried: pa.Schema

    @property
    def columns(self) -> list[str]:
        wanted = {*self.place.names, *self.window.names, *self.carried.names, *filter(None, [self.id])}
        return [name for name in self.source.schema.names if name in wanted]


def build_rows(source: object, *, windows: WindowPolicy, scratch_dir: Path, options: RowOptions) -> RowTable:
    """Read, validate, order and number the rows of ``source``; they end up in ``scratch_dir/rows.arrow``.

    ``source``: a TableSource, or whatever :func:`open_table` takes. Raises SpecError for
    columns that are missing, clash or hold the wrong type, RowError (unless
    ``options.skip_bad_rows``) that names the first bad rows by number.
    """
    table = open_table(source, id_column=options.id_column)
    ids = id_column(table, options.id_column)
    place, window = place_columns(table), windows.columns(table.columns)
    consumed = {*place.names, *filter(None, [ids]), *(window.names if window.kind == "range" else ())}
    plan = _Reading(table, ids, place, window, carried_schema(table, consumed, options.carry))
    scratch_dir.mkdir(parents=True, exist_ok=True)
    bad = BadRows(keep_all=options.skip_bad_rows)
    with tempfile.TemporaryDirectory(dir=scratch_dir, prefix="rows-") as folder:
        work = Path(folder)
        n_read = _spill(plan, work, bad)
        unsorted = ScratchRows(work / "unsorted.arrow")
        dropped = _drop_duplicates(work / "hashes", unsorted, bad)
        if bad.count and not options.skip_bad_rows:
            raise bad.error(table.name)
        if len(unsorted) == len(dropped):
            raise SpecError(f"{table.name} has no rows" + (" left: all were skipped" if n_read else ""))
        order = sorted_positions(work / "keys", unsorted, dropped)
        digest = _write_ordered(unsorted, order, work / "rows.arrow")
        # Renamed, not overwritten: a table built here before may still be mapped.
        path = (work / "rows.arrow").replace(scratch_dir / "rows.arrow")
    return RowTable(path, len(order), digest, plan.carried, bad.table(), MappedBatches(path))


def _spill(plan: _Reading, work: Path, bad: BadRows) -> int:
    """Write the good rows in input order, with their keys and hashes; returns how many rows were read."""
    schema = pa.schema([*_ROW_FIELDS, *plan.carried])
    n_read = 0
    with (
        (work / "keys").open("wb") as keys,
        (work / "hashes").open("wb") as hashes,
        pa.ipc.new_file(str(work / "unsorted.arrow"), schema) as writer,
    ):
        for batch in plan.source.batches(plan.columns):
            rows = _read_batch(plan, batch, n_read, bad)
            n_read += batch.num_rows
            if not rows.num_rows:
                continue
            hilbert_keys(rows["lon"].to_numpy(), rows["lat"].to_numpy()).tofile(keys)
            start, end = (rows[name].cast(pa.int32()).to_numpy().astype(np.int64) for name in ("start", "end"))
            identity_hashes(rows["id"], start, end).tofile(hashes)
            writer.write_batch(rows)
    return n_read


def _read_batch(plan: _Reading, batch: pa.RecordBatch, first_row: int, bad: BadRows) -> pa.RecordBatch:
    """The good rows of ``batch``, one for each window; the others go to ``bad``."""
    problems = Problems(batch.num_rows)
    row = np.arange(first_row, first_row + batch.num_rows)
    ids = read_ids(pa.array(row) if plan.id is None else batch.column(plan.id), problems=problems)
    places = read_places(batch, plan.place, problems=problems)
    start, end = read_windows(batch, plan.window, problems=problems)
    wrong = np.flatnonzero(~problems.free)
    if len(wrong):
        bad.add(row[wrong], ids.take(pa.array(wrong)), problems.reasons[wrong])
    good = np.flatnonzero(problems.free)
    each = np.repeat(good, start.shape[1])
    days = (pa.array(bound[good].ravel().astype(np.int32)).cast(pa.date32()) for bound in (start, end))
    picked = (row, *days, places.kind, places.lon, places.lat, *places.boxes.T)
    columns = [pa.array(values[each]) if isinstance(values, np.ndarray) else values for values in picked]
    taken = pa.array(each)
    carried = [column.take(taken) for column in read_carried(batch, plan.carried)]
    return pa.RecordBatch.from_arrays(
        [ids.take(taken), *columns, *carried], schema=pa.schema([*_ROW_FIELDS, *plan.carried])
    )


def _drop_duplicates(hashes: Path, rows: ScratchRows, bad: BadRows) -> Ints:
    """Positions of rows whose (id, start, end) came before; each input row is reported once."""
    pairs = np.array(find_duplicates(hashes, rows), np.int64).reshape(-1, 2)
    bad.restart_kept()
    for start in range(0, len(pairs), BATCH_ROWS):
        block = pairs[start : start + BATCH_ROWS]
        batch = rows.gather(block[:, 0], ("id", "row", "start", "end"))
        number, first = batch["row"].to_numpy(), rows.gather(block[:, 1], ("row",))["row"].to_numpy()
        # The windows of one input row lie side by side.
        one = np.flatnonzero(np.diff(number, prepend=-1))
        reasons = [f"same id and window ({batch['start'][i]}..{batch['end'][i]}) as row {first[i]}" for i in one]
        bad.add(number[one], batch["id"].take(pa.array(one)), np.array(reasons, dtype=object))
    return pairs[:, 0]


def _write_ordered(rows: ScratchRows, order: Ints, path: Path) -> str:
    """Write the rows in order, ``BATCH_ROWS`` a batch; returns their digest."""
    digest = RowsDigest(rows.schema)
    with pa.ipc.new_file(str(path), rows.schema) as writer:
        for batch in _gathered(rows, order):
            digest.update(batch)
            writer.write_batch(batch)
    return digest.hexdigest()


def _gathered(rows: ScratchRows, order: Ints) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(order), BATCH_ROWS):
        yield rows.gather(order[start : start + BATCH_ROWS])


__all__ = ["RowOptions", "RowShard", "RowTable", "build_rows"]
