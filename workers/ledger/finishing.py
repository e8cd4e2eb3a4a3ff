"""The end of a run: leased by one finisher, its files, its last state."""

from __future__ import annotations

from typing import Literal

from sqlalchemy import Connection

from rsembed.pipelines.checkpoint import PartRecord
from workers.ledger.errors import LedgerError, LedgerUnavailableError
from workers.ledger.events import note
from workers.ledger.file_records import FILE_COLUMNS, file_parameters, read_file, row_counts
from workers.ledger.records import RunRecord, RunState
from workers.ledger.run_rows import read_run
from workers.ledger.tokens import Token, new_key
from workers.ledger.transactions import Transactions, once, sql, transactional

FINISHABLE = """
    r.ended_at IS NULL AND r.state = 'running' AND (r.finish_after IS NULL OR r.finish_after <= clock_timestamp())
        AND NOT EXISTS (SELECT FROM infer_jobs j WHERE j.run_id = r.id AND j.state IN ('waiting', 'ready', 'leased'))
"""
"""Condition on ``runs r``: every shard ended, nobody is finishing it."""

_TAKE = f"""
    WITH picked AS (
        SELECT r.id FROM runs r WHERE {FINISHABLE} ORDER BY r.priority DESC, r.id LIMIT 1
        FOR NO KEY UPDATE SKIP LOCKED
    )
    UPDATE runs r SET state = 'finishing', finish_token = :key, finish_worker = :worker, finish_after = NULL,
        finish_until = clock_timestamp() + :lease * interval '1 second', changed_at = clock_timestamp()
    FROM picked p WHERE r.id = p.id AND r.state = 'running'
    RETURNING r.id
"""

_HERE = "id = :run AND finish_token = :key AND state = 'finishing'"

_END = f"""
    UPDATE runs r SET state = :state, ended_at = clock_timestamp(), changed_at = clock_timestamp(), reason = NULL,
        finish_worker = NULL, finish_until = NULL, probing = false,
        requests = (SELECT coalesce(sum(u.requests), 0) FROM fetch_units u WHERE u.run_id = r.id)
    WHERE {_HERE}
"""


class Finishing(Transactions):
    """What a finisher does to the ledger."""

    def take_finishing(self, worker_id: str, lease_s: float) -> tuple[RunRecord, str] | None:
        """Lease a run all of whose shards ended, to finish it; None where there is none."""
        key = new_key()
        try:
            return self._take_finishing(key, worker_id, lease_s)
        except LedgerUnavailableError:
            return self._finishing_of(key) or self._take_finishing(key, worker_id, lease_s)

    @once
    def _take_finishing(self, tx: Connection, key: str, worker_id: str, lease_s: float) -> tuple[RunRecord, str] | None:
        run_id = tx.execute(sql(_TAKE), {"key": key, "worker": worker_id, "lease": lease_s}).scalar()
        return None if run_id is None else (read_run(tx, run_id), str(Token("r", run_id, 0, 0, key)))

    @once
    def _finishing_of(self, tx: Connection, key: str) -> tuple[RunRecord, str] | None:
        """What a call took whose answer was lost."""
        run_id = tx.execute(
            sql("SELECT id FROM runs WHERE ended_at IS NULL AND finish_token = :key AND state = 'finishing'"),
            {"key": key},
        ).scalar()
        return None if run_id is None else (read_run(tx, run_id), str(Token("r", run_id, 0, 0, key)))

    @transactional
    def renew_finishing(self, tx: Connection, token: str, lease_s: float) -> bool:
        """Renew the lease (a heartbeat with the token does it as well); False when it is lost."""
        renewed = sql(f"UPDATE runs SET finish_until = clock_timestamp() + :lease * interval '1 second' WHERE {_HERE}")
        return bool(tx.execute(renewed, Token.parse(token, "r").place() | {"lease": lease_s}).rowcount)

    @transactional
    def end_run(self, tx: Connection, token: str, state: Literal[RunState.DONE, RunState.DONE_WITH_FAILURES]) -> bool:
        """The manifest stands: the run is done. True also when this very call had succeeded before."""
        place = Token.parse(token, "r").place()
        if tx.execute(sql(_END), place | {"state": state.value}).rowcount:
            note(tx, int(str(place["run"])), f"run_{state.value}", "finisher")
            return True
        found = tx.execute(sql("SELECT state FROM runs WHERE id = :run AND finish_token = :key"), place).scalar()
        return found in (RunState.DONE.value, RunState.DONE_WITH_FAILURES.value)

    @transactional
    def release_finishing(
        self, tx: Connection, token: str, *, not_before_s: float = 0, reason: str | None = None
    ) -> bool:
        """Leave the finishing to somebody else, not sooner than that; False when the lease is lost."""
        where = Token.parse(token, "r")
        released = tx.execute(
            sql(
                "UPDATE runs SET state = 'running', finish_token = NULL, finish_worker = NULL, finish_until = NULL, "
                "finish_after = clock_timestamp() + :wait * interval '1 second', changed_at = clock_timestamp() "
                f"WHERE {_HERE}"
            ),
            where.place() | {"wait": not_before_s},
        ).rowcount
        if released and reason is not None:
            note(tx, where.run, "finishing_released", "finisher", error=reason)
        return bool(released)

    # Files

    @transactional
    def file_records(self, tx: Connection, run_id: int) -> tuple[PartRecord, ...]:
        """The files of ended shards and the compacted parts, in the order they were committed."""
        labels = {model.index: model.label for model in read_run(tx, run_id).models}
        found: list[tuple[int, PartRecord]] = []
        shards = tx.execute(
            sql("SELECT * FROM infer_jobs WHERE run_id = :run AND state IN ('done', 'failed') AND name IS NOT NULL"),
            {"run": run_id},
        ).mappings()
        for row in shards:
            record = read_file(row, "shard", labels[row["model_index"]], row["shard"])
            assert record is not None
            found.append((row["commit_no"], record))
        for row in tx.execute(sql("SELECT * FROM parts WHERE run_id = :run"), {"run": run_id}).mappings():
            record = read_file(row, "part", labels[row["model_index"]], row["part_index"])
            assert record is not None
            found.append((row["commit_no"], record))
        return tuple(record for _, record in sorted(found, key=lambda pair: pair[0]))

    @transactional
    def commit_file(self, tx: Connection, run_id: int, record: PartRecord) -> None:
        """Record a file outside any lease: a compacted part, or a shard that was found in the output."""
        write_file(tx, read_run(tx, run_id), record)


_WRITE_PART = f"""
    INSERT INTO parts (run_id, model_index, part_index, first_seq, name, file_rows, file_bytes, sha256, counts,
        row_failures, requests, batch_size, commit_no)
    VALUES (:run, :model, :index, :first_seq, :name, :file_rows, :file_bytes, :sha256, :counts, :row_failures,
        :requests, :batch_size, nextval('commit_numbers'))
    ON CONFLICT (run_id, model_index, part_index) DO UPDATE SET {FILE_COLUMNS}, first_seq = :first_seq
"""

_WRITE_SHARD = f"""
    UPDATE infer_jobs SET {FILE_COLUMNS}, ok_rows = :ok, low_quality_rows = :low_quality, no_data_rows = :no_data,
        failed_rows = :failed, state = CASE WHEN :failed >= :file_rows THEN 'failed' ELSE 'done' END,
        ended_at = clock_timestamp(), token = NULL, worker_id = NULL, lease_until = NULL, deadline = NULL,
        wanted = NULL, marks = NULL
    WHERE run_id = :run AND model_index = :model AND shard = :index
"""


def write_file(tx: Connection, run: RunRecord, record: PartRecord) -> int:
    """Record a file of ``run``; the index of its model. LedgerError where the run has no such model or shard."""
    models = {model.label: model.index for model in run.models}
    if record.label not in models:
        raise LedgerError(f"run {run.id} has no model {record.label!r}; it has {', '.join(models)}")
    place = {"run": run.id, "model": models[record.label], "index": record.index}
    statement = _WRITE_PART if record.kind == "part" else _WRITE_SHARD
    if not tx.execute(sql(statement), place | file_parameters(record) | row_counts(record)).rowcount:
        raise LedgerError(f"run {run.id} has no shard {record.index} of {record.label}")
    return models[record.label]
