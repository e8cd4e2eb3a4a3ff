"""Shards of a model: claimed, settled with the file they became, released."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection, RowMapping

from rsembed.pipelines.checkpoint import PartRecord
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.events import note_seldom, to_text
from workers.ledger.failure_rows import write_failures
from workers.ledger.file_records import FILE_COLUMNS, file_parameters, read_file, row_counts
from workers.ledger.records import ClaimedShard, Marks, RowOutcome, ShardState
from workers.ledger.run_rows import model_entry
from workers.ledger.tokens import Token, new_key
from workers.ledger.transactions import Transactions, once, sql, transactional

_FREE = """
    j.run_id = {run} AND j.model_index = {model} AND j.state = 'ready' AND (:alone OR j.losses = 0)
        AND (j.not_before IS NULL OR j.not_before <= clock_timestamp())
    ORDER BY j.ready_at, j.shard LIMIT 1
"""

# What each model of each run would give. One that is not loaded goes first when its work waited too long and
# nobody has claimed of it meanwhile. As with units, only the shard that is taken gets locked.
_CLAIM = f"""
    WITH heads AS (
        SELECT h.* FROM (
            SELECT r.id AS run_id, r.priority, m.model_index, head.ready_at, coalesce(busy.n, 0) AS busy,
                m.label = ANY(:loaded) OR m.model = ANY(:loaded) AS warm,
                head.ready_at < clock_timestamp() - :patience * interval '1 second'
                    AND coalesce(m.claimed_at < clock_timestamp() - :patience * interval '1 second', true) AS starving
            FROM runs r
            JOIN run_models m ON m.run_id = r.id
            LEFT JOIN (SELECT run_id, count(*) AS n FROM infer_jobs WHERE state = 'leased' GROUP BY run_id) busy
                ON busy.run_id = r.id
            LEFT JOIN workers w ON w.id = :worker
            CROSS JOIN LATERAL (
                SELECT j.ready_at FROM infer_jobs j WHERE {_FREE.format(run="r.id", model="m.model_index")}
            ) head
            WHERE r.ended_at IS NULL AND r.state = 'running'
                AND (CAST(:models AS text[]) IS NULL OR m.model = ANY(:models))
                AND (CAST(:queues AS text[]) IS NULL OR m.queue = ANY(:queues))
                AND m.device_class IN ('', :device_class)
                AND coalesce(w.state, 'running') = 'running'
                AND NOT coalesce(jsonb_exists(w.degraded, m.model), false)
                AND NOT EXISTS (SELECT FROM drains d WHERE d.queue IN ('*', m.queue))
        ) h
        ORDER BY h.priority DESC, h.starving AND NOT h.warm DESC, h.warm DESC, h.busy, h.ready_at
    ), picked AS (
        SELECT job.* FROM heads h CROSS JOIN LATERAL (
            SELECT j.run_id, j.model_index, j.shard FROM infer_jobs j
            WHERE {_FREE.format(run="h.run_id", model="h.model_index")} FOR UPDATE SKIP LOCKED
        ) job LIMIT 1
    ), touched AS (
        UPDATE run_models m SET claimed_at = clock_timestamp() FROM picked p
        WHERE m.run_id = p.run_id AND m.model_index = p.model_index
            AND coalesce(m.claimed_at < clock_timestamp() - interval '1 second', true)
    )
    UPDATE infer_jobs j SET state = 'leased', token = :key, worker_id = :worker, not_before = NULL,
        claimed_at = clock_timestamp(), deadline = clock_timestamp() + :deadline * interval '1 second',
        lease_until = clock_timestamp() + least(:lease, :deadline) * interval '1 second'
    FROM picked p
    WHERE j.run_id = p.run_id AND j.model_index = p.model_index AND j.shard = p.shard
    RETURNING j.*
"""

_ABOUT = """
    SELECT m.*, u.requests, u.failed_rows,
        m.model_index = (SELECT min(o.model_index) FROM run_models o
                         WHERE o.run_id = m.run_id AND o.group_index = m.group_index) AS is_first
    FROM run_models m JOIN fetch_units u ON u.run_id = m.run_id AND u.group_index = m.group_index
    WHERE m.run_id = :run AND m.model_index = :index AND u.shard = :shard
"""

_FETCH_FAILURES = """
    SELECT seq, error_class, message FROM failures
    WHERE run_id = :run AND stage = 'fetch' AND entry_index = :group AND seq >= :first AND seq < :first + :rows
"""

_HERE = "run_id = :run AND model_index = :index AND shard = :shard AND token = :key"

# Settling and releasing first wait for whoever changes the shard's unit.
_UNIT = """
    SELECT u.group_index, u.state FROM infer_jobs j
    JOIN fetch_units u ON u.run_id = j.run_id AND u.group_index = j.group_index AND u.shard = j.shard
    WHERE j.run_id = :run AND j.model_index = :index AND j.shard = :shard FOR NO KEY UPDATE OF u
"""

_SETTLE = f"""
    WITH before AS (
        SELECT coalesce(cardinality(wanted), n_rows) AS asked FROM infer_jobs WHERE {_HERE}
    ), settled AS (
        UPDATE infer_jobs SET state = :state, ended_at = clock_timestamp(), wanted = NULL, marks = NULL,
            ok_rows = :ok, low_quality_rows = :low_quality, no_data_rows = :no_data, failed_rows = :failed,
            etag = :etag, {FILE_COLUMNS}
        WHERE {_HERE} AND state = 'leased'
        RETURNING shard
    ), noted AS (
        INSERT INTO progress (run_id, stage, entry_index, settled, failed, requests, bytes)
        SELECT :run, 'embed', :index, asked, :newly_failed, 0, :file_bytes FROM before, settled
    )
    SELECT count(*) FROM settled
"""

# What is left of the unit's bytes in the input store nobody needs any more.
_FREE_BYTES = """
    UPDATE fetch_units SET reserved_bytes = 0
    WHERE run_id = :run AND group_index = :group AND shard = :shard AND state = 'done' AND NOT EXISTS (
        SELECT FROM infer_jobs j JOIN run_models m ON m.run_id = j.run_id AND m.model_index = j.model_index
        WHERE m.run_id = :run AND m.group_index = :group AND j.shard = :shard
            AND j.state IN ('waiting', 'ready', 'leased'))
"""

_RELEASE = f"""
    UPDATE infer_jobs SET state = :state, token = NULL, worker_id = NULL, lease_until = NULL, deadline = NULL,
        losses = losses + :lost, errors = errors + :erred, ready_at = clock_timestamp(),
        not_before = CASE WHEN :wait > 0 THEN clock_timestamp() + :wait * interval '1 second' END
    WHERE {_HERE} AND state = 'leased'
"""


class Shards(Transactions):
    """What inference workers do to the ledger."""

    def claim_shard(
        self,
        worker_id: str,
        models: Sequence[str] | None,
        loaded: Sequence[str],
        patience_s: float,
        lease_s: float,
        deadline_s: float,
        device_class: str,
        *,
        alone: bool = True,
        queues: Sequence[str] | None = None,
    ) -> ClaimedShard | None:
        """Lease a ready shard: highest priority, then a model in memory, then the run with the fewest leases.

        ``models``: ids that may be given, None for all; ``queues`` likewise. ``loaded``: labels
        or ids in memory; another model goes first once its work waited ``patience_s`` and nobody
        has claimed of it for as long. ``alone``: as for units. None where nothing is to be had.
        """
        key = new_key()
        wish: dict[str, object] = {
            "worker": worker_id,
            "models": None if models is None else list(models),
            "queues": None if queues is None else list(queues),
            "loaded": list(loaded),
            "patience": patience_s,
            "lease": lease_s,
            "deadline": deadline_s,
            "device_class": device_class,
            "alone": alone,
            "key": key,
        }
        try:
            return self._claim_shard(wish, deadline_s)
        except LedgerUnavailableError:
            return self._shard_of(key, deadline_s) or self._claim_shard(wish, deadline_s)

    @once
    def _claim_shard(self, tx: Connection, wish: dict[str, object], deadline_s: float) -> ClaimedShard | None:
        found = tx.execute(sql(_CLAIM), wish).mappings().first()
        return None if found is None else _claimed(tx, found, deadline_s)

    @once
    def _shard_of(self, tx: Connection, key: str, deadline_s: float) -> ClaimedShard | None:
        """What a claim got whose answer was lost."""
        found = tx.execute(sql("SELECT * FROM infer_jobs WHERE state = 'leased' AND token = :key"), {"key": key})
        row = found.mappings().first()
        return None if row is None else _claimed(tx, row, deadline_s)

    @transactional
    def mark_shard(self, tx: Connection, token: str, marks: Marks) -> bool:
        """Write down what is about to be done with a suspect shard; False when the lease is gone."""
        place = Token.parse(token, "i").place() | {"marks": to_text(marks.to_json())}
        statement = sql(f"UPDATE infer_jobs SET marks = :marks WHERE {_HERE} AND state = 'leased'")
        return bool(tx.execute(statement, place).rowcount)

    @transactional
    def settle_shard(
        self,
        tx: Connection,
        token: str,
        record: PartRecord,
        *,
        etag: str | None = None,
        failures: Sequence[RowOutcome] = (),
        state: Literal[ShardState.DONE, ShardState.FAILED] = ShardState.DONE,
    ) -> bool:
        """The shard ended as the file ``record``; True also when this very call had succeeded before.

        ``failures``: details of the rows that failed at inference this time (a failed fetch is in
        the ledger already). False: the lease is lost, and the file must not be touched again.
        """
        place = Token.parse(token, "i").place()
        unit = tx.execute(sql(_UNIT), place).first()
        if unit is None:
            return False
        inferred = [o for o in failures if o.failure is not None and o.failure.stage == "infer"]
        values = file_parameters(record) | row_counts(record) | {"state": state.value, "etag": etag}
        if not tx.execute(sql(_SETTLE), place | values | {"newly_failed": len(failures)}).scalar_one():
            before = tx.execute(sql(f"SELECT state FROM infer_jobs WHERE {_HERE}"), place).scalar()
            return before in (ShardState.DONE.value, ShardState.FAILED.value)
        still = [failure.seq for failure in record.failures if failure.stage == "infer"]
        span = {"first": record.first_seq, "rows": record.rows, "still": still}
        tx.execute(
            sql(
                "DELETE FROM failures WHERE run_id = :run AND stage = 'infer' AND entry_index = :index "
                "AND seq >= :first AND seq < :first + :rows AND seq <> ALL(CAST(:still AS bigint[]))"
            ),
            place | span,
        )
        write_failures(tx, place, "infer", inferred)
        tx.execute(sql(_FREE_BYTES), place | {"group": unit.group_index})
        return True

    @transactional
    def release_shard(
        self,
        tx: Connection,
        token: str,
        *,
        reason: str | None = None,
        losses_refund: bool = True,
        not_before_s: float = 0,
    ) -> bool:
        """Give the shard back, to wait if its unit was reopened; False when the lease was lost already.

        ``reason``: what hindered, for the events; the other arguments as for units.
        """
        where = Token.parse(token, "i")
        unit = tx.execute(sql(_UNIT), where.place()).first()
        if unit is None:
            return False
        how = {"lost": int(not losses_refund), "erred": int(reason is not None), "wait": not_before_s}
        state = ShardState.READY if unit.state == "done" else ShardState.WAITING
        released = bool(tx.execute(sql(_RELEASE), where.place() | how | {"state": state.value}).rowcount)
        if released and (reason is not None or not losses_refund):
            kind = "shard_released" if losses_refund else "shard_lost"
            note_seldom(
                tx,
                where.run,
                kind,
                "worker",
                stage="embed",
                model=where.index,
                shard=where.shard,
                error=reason,
            )
        return released


def _claimed(tx: Connection, row: RowMapping, deadline_s: float) -> ClaimedShard:
    first, shard, wanted = row["first_seq"], row["shard"], row["wanted"]
    place = {"run": row["run_id"], "index": row["model_index"], "shard": shard}
    about = tx.execute(sql(_ABOUT), place).mappings().one()
    failures: dict[int, tuple[str, str]] = {}
    if about["failed_rows"]:
        span = {"run": row["run_id"], "group": row["group_index"], "first": first, "rows": row["n_rows"]}
        for seq, error_class, message in tx.execute(sql(_FETCH_FAILURES), span):
            failures[seq - first] = (error_class, message)
    model = model_entry(about)
    return ClaimedShard(
        run=row["run_id"],
        model=model,
        shard=shard,
        token=str(Token("i", row["run_id"], row["model_index"], shard, row["token"].hex)),
        generation=row["generation"],
        first_seq=first,
        n_rows=row["n_rows"],
        wanted=None if wanted is None else tuple(wanted),
        losses=row["losses"],
        marks=Marks.from_json(row["marks"]),
        deadline_s=deadline_s,
        part=read_file(row, "shard", model.label, shard),
        etag=row["etag"],
        fetch_failures=failures,
        requests=int(about["requests"]) if about["is_first"] else 0,
    )
