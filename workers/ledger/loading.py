"""Loading a run: its identity first, then rows, units and shards in one go, visible all at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import psycopg2
from sqlalchemy import Connection, text

from workers.ledger import partitions
from workers.ledger.errors import LedgerError, RunStateError
from workers.ledger.events import note, to_text
from workers.ledger.records import NewRun, RunRecord, RunState, StoredRows
from workers.ledger.rows_csv import COLUMNS, RowStream
from workers.ledger.run_rows import group_json, read_run, read_runs
from workers.ledger.transactions import Transactions, once, transactional

_COPY_BYTES = 1 << 18

_UNITS = """
    INSERT INTO fetch_units (run_id, group_index, shard, state, first_seq, n_rows, open_rows, row_bytes)
    SELECT :run, g.index, s, 'pending', s * :size, least(:size, :rows - s * :size), least(:size, :rows - s * :size),
           g.bytes_per_row
    FROM json_to_recordset(CAST(:groups AS json)) AS g(index int, bytes_per_row bigint),
         generate_series(CAST(0 AS bigint), :shards - 1) AS s
    ORDER BY g.index, s
"""

_SHARDS = """
    INSERT INTO infer_jobs (run_id, model_index, group_index, shard, state, first_seq, n_rows)
    SELECT :run, m.model_index, m.group_index, s, 'waiting', s * :size, least(:size, :rows - s * :size)
    FROM run_models m, generate_series(CAST(0 AS bigint), :shards - 1) AS s
    WHERE m.run_id = :run
    ORDER BY m.model_index, s
"""


_LOADED = """
    UPDATE runs SET state = 'running', changed_at = clock_timestamp() WHERE id = :run AND state = 'loading'
"""


class Loading(Transactions):
    """How runs come into the ledger."""

    @transactional
    def find_run(self, tx: Connection, fingerprint: str, output: str) -> RunRecord | None:
        """The run of that identity, whatever its state."""
        found = read_runs(tx, "WHERE r.fingerprint = :f AND r.output = :o", {"f": fingerprint, "o": output})
        return found[0] if found else None

    def load_run(self, new: NewRun, batches: Iterable[StoredRows]) -> RunRecord:
        """The run of ``new``'s identity, loaded from ``batches`` (rows in order of ``seq``) unless it is there already.

        Two callers with the same run get the same one: the second waits for the first. A load
        that did not come to its end left no rows, and is done again. LedgerError when the rows
        are not ``new.n_rows`` in number, RunStateError when the run is dropped meanwhile.
        """
        run_id, state = self._announce(new)
        if state is RunState.LOADING:
            self._load(run_id, new, batches)
            self._analyze()
        return self._loaded(run_id)

    @transactional
    def _announce(self, tx: Connection, new: NewRun) -> tuple[int, RunState]:
        """Number and state of the run, a new one if need be."""
        tx.execute(
            text(
                "INSERT INTO runs (fingerprint, output, state, priority, max_requests, n_rows, shard_size, "
                "shards_per_part, groups, spec) VALUES (:fingerprint, :output, 'loading', :priority, :max_requests, "
                ":n_rows, :shard_size, :shards_per_part, :groups, :spec) ON CONFLICT (fingerprint, output) DO NOTHING"
            ),
            {
                "fingerprint": new.fingerprint,
                "output": new.output,
                "priority": new.priority,
                "max_requests": new.max_requests,
                "n_rows": new.n_rows,
                "shard_size": new.shard_size,
                "shards_per_part": new.shards_per_part,
                "groups": to_text([group_json(group) for group in new.groups]),
                "spec": to_text(new.spec),
            },
        )
        identity = {"fingerprint": new.fingerprint, "output": new.output}
        found = tx.execute(
            text("SELECT id, state FROM runs WHERE fingerprint = :fingerprint AND output = :output"), identity
        ).one()
        return found.id, RunState(found.state)

    @transactional
    def _loaded(self, tx: Connection, run_id: int) -> RunRecord:
        return read_run(tx, run_id)

    @transactional
    def _analyze(self, tx: Connection) -> None:
        """Let the planner know the new run's size at once; autovacuum would tell it a minute later."""
        tx.execute(text("ANALYZE fetch_units, infer_jobs, run_models"))

    @once
    def _load(self, tx: Connection, run_id: int, new: NewRun, batches: Iterable[StoredRows]) -> None:
        tx.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:lock, 0))"), {"lock": f"rsembed run {run_id}"})
        before = read_run(tx, run_id)
        if before.state is not RunState.LOADING:  # another submit was faster
            return
        if before.n_rows != new.n_rows or before.shard_size != new.shard_size:
            raise LedgerError(f"run {run_id} has the same fingerprint but another shape; the fingerprint is at fault")
        partitions.create(tx, run_id)
        _copy_rows(tx, run_id, new.n_rows, batches)
        _write_entries(tx, run_id, new)
        partitions.attach(tx, run_id)
        loaded = tx.execute(text(_LOADED), {"run": run_id})
        if not loaded.rowcount:
            raise RunStateError(f"run {run_id} was dropped while it was loaded")
        note(tx, run_id, "submitted", new.who, rows=new.n_rows, models=[model.label for model in new.models])


def _copy_rows(tx: Connection, run_id: int, n_rows: int, batches: Iterable[StoredRows]) -> None:
    stream = RowStream(batches)
    name, columns = partitions.partition("rows", run_id), ", ".join(COLUMNS)
    with cast("Any", tx.connection).cursor() as cursor:
        # Frozen, because the table is of this transaction: nothing will ever rewrite its pages.
        try:
            cursor.copy_expert(f"COPY {name} ({columns}) FROM STDIN WITH (FORMAT csv, FREEZE)", stream, _COPY_BYTES)
        except psycopg2.Error:
            if stream.error is not None:
                raise stream.error from None
            raise
        copied = cursor.rowcount
    if stream.awkward:
        values = ", ".join(f":{column}" for column in COLUMNS)
        tx.execute(text(f"INSERT INTO {name} ({columns}) VALUES ({values})"), stream.awkward)
    bounds = tx.execute(text(f"SELECT min(seq), max(seq) FROM {name} WHERE run_id = :run"), {"run": run_id}).one()
    if copied + len(stream.awkward) != n_rows or (n_rows and tuple(bounds) != (0, n_rows - 1)):
        raise LedgerError(
            f"run {run_id}: {n_rows} rows were announced, {copied + len(stream.awkward)} came, "
            f"numbered {bounds[0]} to {bounds[1]}"
        )


def _write_entries(tx: Connection, run_id: int, new: NewRun) -> None:
    """The run's models, units and shards."""
    tx.execute(
        text(
            "INSERT INTO run_models (run_id, model_index, label, model, group_index, queue, device_class) "
            "VALUES (:run, :index, :label, :model, :group, :queue, :device_class)"
        ),
        [
            {
                "run": run_id,
                "index": model.index,
                "label": model.label,
                "model": model.model,
                "group": model.group,
                "queue": model.queue,
                "device_class": model.device_class,
            }
            for model in new.models
        ],
    )
    shape = {
        "run": run_id,
        "size": new.shard_size,
        "rows": new.n_rows,
        "shards": -(-new.n_rows // new.shard_size),
        "groups": to_text([group_json(group) for group in new.groups]),
    }
    tx.execute(text(_UNITS), shape)
    tx.execute(text(_SHARDS), shape)
