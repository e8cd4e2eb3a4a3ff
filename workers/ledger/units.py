"""Fetch units: claimed, settled row by row, released."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping

from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.events import note_seldom, to_text
from workers.ledger.failure_rows import write_failures
from workers.ledger.records import ClaimedUnit, Marks, RowOutcome, SettleAnswer
from workers.ledger.tokens import Token, new_key
from workers.ledger.transactions import Transactions, once, sql, transactional

# The lateral join tries one run after another and locks the first unit that is free, no more; being locked, it needs
# no second look at its state (which would lead the planner through all that is pending).
_CLAIM = """
    WITH candidates AS (
        SELECT r.id FROM runs r
        LEFT JOIN (SELECT run_id, count(*) AS n FROM fetch_units WHERE state = 'leased' GROUP BY run_id) busy
            ON busy.run_id = r.id
        WHERE r.ended_at IS NULL AND r.state = 'running' AND NOT (r.probing AND coalesce(busy.n, 0) > 0)
            AND (r.max_requests IS NULL OR r.max_requests >
                 (SELECT coalesce(sum(requests), 0) FROM fetch_units u WHERE u.run_id = r.id))
            AND NOT EXISTS (SELECT FROM drains WHERE queue IN ('*', 'io'))
            AND NOT EXISTS (SELECT FROM workers WHERE id = :worker AND state <> 'running')
        ORDER BY r.priority DESC, coalesce(busy.n, 0), random()
    ), picked AS (
        SELECT unit.* FROM candidates c CROSS JOIN LATERAL (
            SELECT u.run_id, u.group_index, u.shard FROM fetch_units u
            WHERE u.run_id = c.id AND u.state = 'pending' AND u.admitted AND (:alone OR u.losses = 0)
                AND (u.not_before IS NULL OR u.not_before <= clock_timestamp())
            ORDER BY u.shard, u.group_index LIMIT 1 FOR UPDATE SKIP LOCKED
        ) unit LIMIT 1
    )
    UPDATE fetch_units u SET state = 'leased', token = :key, worker_id = :worker, not_before = NULL,
        claimed_at = clock_timestamp(), deadline = clock_timestamp() + :deadline * interval '1 second',
        lease_until = clock_timestamp() + least(:lease, :deadline) * interval '1 second'
    FROM picked p
    WHERE u.run_id = p.run_id AND u.group_index = p.group_index AND u.shard = p.shard
    RETURNING u.*
"""

_SETTLED = """
    SELECT seq FROM fetch_jobs
    WHERE run_id = :run AND group_index = :index AND seq >= :first AND seq < :first + :rows
"""

# The first outcome of a row stands; one that comes again (an ambiguous commit) changes nothing. The lock on the unit
# keeps others away, and asking first costs a third of ON CONFLICT.
_OUTCOMES = """
    WITH came AS (
        INSERT INTO fetch_jobs (run_id, group_index, seq, state, error_class)
        SELECT :run, :index, o.seq, o.state, o.error_class
        FROM unnest(CAST(:seqs AS bigint[]), CAST(:states AS text[]), CAST(:classes AS text[]))
            AS o(seq, state, error_class)
        WHERE o.seq NOT IN (
            SELECT seq FROM fetch_jobs
            WHERE run_id = :run AND group_index = :index AND seq >= :first AND seq < :first + :rows)
        RETURNING seq, state
    )
    SELECT state, count(*), array_agg(seq) FILTER (WHERE state = 'failed') FROM came GROUP BY state
"""

_SETTLE = """
    WITH unit AS (
        UPDATE fetch_units SET
            open_rows = open_rows - :done - :no_data - :failed, done_rows = done_rows + :done,
            no_data_rows = no_data_rows + :no_data, failed_rows = failed_rows + :failed,
            requests = requests + :requests, stored_bytes = stored_bytes + :bytes,
            reserved_bytes = CASE WHEN open_rows = :done + :no_data + :failed THEN stored_bytes + :bytes
                ELSE greatest(reserved_bytes, stored_bytes + :bytes) END,
            state = CASE WHEN open_rows = :done + :no_data + :failed THEN 'done' ELSE state END,
            ended_at = CASE WHEN open_rows = :done + :no_data + :failed THEN clock_timestamp() END,
            marks = CASE WHEN open_rows = :done + :no_data + :failed THEN NULL ELSE marks END
        WHERE run_id = :run AND group_index = :index AND shard = :shard AND token = :key AND state = 'leased'
        RETURNING open_rows
    ), readied AS (
        UPDATE infer_jobs j SET state = 'ready', ready_at = clock_timestamp()
        FROM unit, run_models m
        WHERE unit.open_rows = 0 AND m.run_id = :run AND m.group_index = :index
            AND j.run_id = :run AND j.model_index = m.model_index AND j.shard = :shard AND j.state = 'waiting'
    ), noted AS (
        INSERT INTO progress (run_id, stage, entry_index, settled, failed, requests, bytes)
        SELECT :run, 'fetch', :index, :done + :no_data + :failed, :failed, :requests, :bytes FROM unit
    )
    SELECT open_rows FROM unit
"""

_RELEASE = """
    UPDATE fetch_units SET state = 'pending', token = NULL, worker_id = NULL, lease_until = NULL, deadline = NULL,
        losses = losses + :lost, errors = errors + :erred, ready_at = clock_timestamp(),
        not_before = CASE WHEN :wait > 0 THEN clock_timestamp() + :wait * interval '1 second' END
    WHERE run_id = :run AND group_index = :index AND shard = :shard AND token = :key AND state = 'leased'
"""

_HERE = "run_id = :run AND group_index = :index AND shard = :shard AND token = :key"


class Units(Transactions):
    """What IO workers do to the ledger."""

    def claim_unit(
        self, worker_id: str, lease_s: float, deadline_s: float, *, alone: bool = True
    ) -> ClaimedUnit | None:
        """Lease the next admitted unit: highest priority, then the run with the fewest leases, then the lowest shard.

        ``alone``: the process has no other work, so a suspect unit may be given. None where
        nothing is to be had, or this worker or the queue is draining.
        """
        key = new_key()
        wish = {"worker": worker_id, "lease": lease_s, "deadline": deadline_s, "alone": alone, "key": key}
        try:
            return self._claim_unit(wish)
        except LedgerUnavailableError:
            return self._unit_of(key, deadline_s) or self._claim_unit(wish)

    @once
    def _claim_unit(self, tx: Connection, wish: dict[str, object]) -> ClaimedUnit | None:
        found = tx.execute(sql(_CLAIM), wish).mappings().first()
        return None if found is None else _claimed(tx, found, float(str(wish["deadline"])))

    @once
    def _unit_of(self, tx: Connection, key: str, deadline_s: float) -> ClaimedUnit | None:
        """What a claim got whose answer was lost."""
        found = tx.execute(
            sql("SELECT * FROM fetch_units WHERE state = 'leased' AND token = :key"), {"key": key}
        ).mappings()
        row = found.first()
        return None if row is None else _claimed(tx, row, deadline_s)

    @transactional
    def mark_unit(self, tx: Connection, token: str, marks: Marks) -> bool:
        """Write down what is about to be done with a suspect unit; False when the lease is gone."""
        place = Token.parse(token, "f").place() | {"marks": to_text(marks.to_json())}
        return bool(
            tx.execute(sql(f"UPDATE fetch_units SET marks = :marks WHERE {_HERE} AND state = 'leased'"), place).rowcount
        )

    @transactional
    def settle_rows(
        self,
        tx: Connection,
        token: str,
        outcomes: Sequence[RowOutcome],
        *,
        requests: int = 0,
        stored_bytes: int = 0,
    ) -> SettleAnswer:
        """Record outcomes of the unit's rows; the last one readies its shards in the same transaction.

        ``requests``, ``stored_bytes``: spent and stored for these rows. Repeating a call is
        harmless. Not ``kept``: the lease is lost and nothing was written. When rows are open
        after all that was wanted is settled, a retry came in between: release the unit.
        """
        place = Token.parse(token, "f").place()
        unit = tx.execute(
            sql(f"SELECT state, open_rows, first_seq, n_rows FROM fetch_units WHERE {_HERE} FOR NO KEY UPDATE"), place
        ).first()
        if unit is None:
            return SettleAnswer(kept=False, open_rows=0)
        if unit.state == "done":
            return SettleAnswer(kept=True, open_rows=unit.open_rows)
        first, stop = unit.first_seq, unit.first_seq + unit.n_rows
        named = {outcome.seq: outcome for outcome in reversed(outcomes)}
        outcomes = [outcome for seq, outcome in named.items() if first <= seq < stop]
        columns = {
            "seqs": [outcome.seq for outcome in outcomes],
            "states": [outcome.state for outcome in outcomes],
            "first": unit.first_seq,
            "rows": unit.n_rows,
            "classes": [outcome.failure.error_class if outcome.failure else None for outcome in outcomes],
        }
        counts, failed = {"done": 0, "no_data": 0, "failed": 0}, set[int]()
        for state, count, seqs in tx.execute(sql(_OUTCOMES), place | columns) if outcomes else ():
            counts[state] = count
            failed.update(seqs or ())
        if outcomes and not any(counts.values()):
            return SettleAnswer(kept=True, open_rows=unit.open_rows)
        write_failures(tx, place, "fetch", [outcome for outcome in outcomes if outcome.seq in failed])
        spent = {"requests": requests, "bytes": stored_bytes}
        return SettleAnswer(kept=True, open_rows=tx.execute(sql(_SETTLE), place | counts | spent).scalar_one())

    @transactional
    def release_unit(
        self,
        tx: Connection,
        token: str,
        *,
        losses_refund: bool = True,
        not_before_s: float = 0,
        error: str | None = None,
    ) -> bool:
        """Give the unit back, its settled rows kept; False when the lease was lost already.

        ``losses_refund`` False counts it as a loss (the process is about to die of this unit);
        ``not_before_s``: nobody claims it sooner; ``error``: why, for the events.
        """
        where = Token.parse(token, "f")
        how = {"lost": int(not losses_refund), "erred": int(error is not None), "wait": not_before_s}
        released = bool(tx.execute(sql(_RELEASE), where.place() | how).rowcount)
        if released and (error is not None or not losses_refund):
            kind = "unit_released" if losses_refund else "unit_lost"
            note_seldom(
                tx,
                where.run,
                kind,
                "worker",
                stage="fetch",
                group=where.index,
                shard=where.shard,
                error=error,
            )
        return released


def _claimed(tx: Connection, row: RowMapping, deadline_s: float) -> ClaimedUnit:
    first, wanted = row["first_seq"], row["wanted"]
    settled: frozenset[int] = frozenset()
    if row["open_rows"] < row["n_rows"]:
        place = {"run": row["run_id"], "index": row["group_index"], "first": first, "rows": row["n_rows"]}
        settled = frozenset(seq - first for seq in tx.execute(sql(_SETTLED), place).scalars())
    return ClaimedUnit(
        run=row["run_id"],
        group=row["group_index"],
        shard=row["shard"],
        token=str(Token("f", row["run_id"], row["group_index"], row["shard"], row["token"].hex)),
        generation=row["generation"],
        first_seq=first,
        n_rows=row["n_rows"],
        wanted=None if wanted is None else tuple(wanted),
        settled=settled,
        losses=row["losses"],
        marks=Marks.from_json(row["marks"]),
        deadline_s=deadline_s,
    )
