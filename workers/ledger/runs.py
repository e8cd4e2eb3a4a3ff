"""What operators do to runs, and what is read of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from workers.ledger.events import note
from workers.ledger.records import RunRecord, RunState, StoredRows
from workers.ledger.retrying import reopen_blocked
from workers.ledger.run_rows import lock_run, read_run, read_runs
from workers.ledger.states import ENDED_RUNS, require_run_move
from workers.ledger.transactions import Transactions, sql, transactional

_ROWS = """
    SELECT seq, input_row, start_date - DATE '1970-01-01', end_date - DATE '1970-01-01', kind, lon, lat,
        box_west, box_south, box_east, box_north, id, carried
    FROM rows WHERE run_id = :run AND seq >= :first AND seq < :first + :n ORDER BY seq
"""

_IN_USE = """
    SELECT DISTINCT g.input_key, j.shard FROM runs r
    CROSS JOIN LATERAL json_to_recordset(r.groups) AS g(index int, input_key text)
    JOIN infer_jobs j ON j.run_id = r.id AND j.group_index = g.index AND j.state IN ('waiting', 'ready', 'leased')
    WHERE r.ended_at IS NULL AND r.state NOT IN ('cancelling', 'dropping')
        AND (CAST(:keys AS text[]) IS NULL OR g.input_key = ANY(:keys))
"""


def move_run(
    tx: Connection, run_id: int, target: RunState, who: str, *, reason: str | None = None, blocked_by: str | None = None
) -> bool:
    """Bring the run to ``target``; False where it is there already, RunStateError where it may not go there."""
    state, _ = lock_run(tx, run_id)
    if state is target:
        return False
    require_run_move(run_id, state, target)
    tx.execute(
        sql(
            "UPDATE runs SET state = :target, reason = :reason, blocked_by = :blocked_by, probing = false, "
            "changed_at = clock_timestamp(), finish_token = NULL, finish_worker = NULL, finish_until = NULL, "
            "finish_after = NULL, ended_at = CASE WHEN :ended THEN clock_timestamp() END "
            "WHERE id = :run AND state = :old"
        ),
        {
            "run": run_id,
            "target": target.value,
            "old": state.value,
            "reason": reason,
            "blocked_by": blocked_by,
            "ended": target in ENDED_RUNS,
        },
    )
    note(tx, run_id, f"run_{target.value}", who, before=state.value, reason=reason)
    return True


class Runs(Transactions):
    """Runs: listed, paused, cancelled and the like; UnknownRunError where there is none of that number."""

    @transactional
    def run(self, tx: Connection, run_id: int) -> RunRecord:
        """The run of that number."""
        return read_run(tx, run_id)

    @transactional
    def runs(self, tx: Connection, active: bool = False, limit: int = 100) -> list[RunRecord]:
        """Runs, the newest first; ``active``: only those that have not ended."""
        condition = "WHERE r.ended_at IS NULL" if active else ""
        return read_runs(tx, f"{condition} ORDER BY r.id DESC LIMIT :limit", {"limit": limit})

    @transactional
    def pause(self, tx: Connection, run_id: int, reason: str | None, who: str) -> bool:
        """Let nothing of the run be claimed; leased work stops at its next heartbeat. False: it was paused already."""
        return move_run(tx, run_id, RunState.PAUSED, who, reason=reason)

    @transactional
    def resume(self, tx: Connection, run_id: int, who: str) -> bool:
        """Let a paused, blocked or cancelled run go on; False: it was running."""
        reopen_blocked(tx, run_id)
        return move_run(tx, run_id, RunState.RUNNING, who)

    @transactional
    def cancel(self, tx: Connection, run_id: int, who: str) -> bool:
        """Abort the run; False: it was being cancelled already, or is cancelled."""
        if lock_run(tx, run_id)[0] is RunState.CANCELLED:
            return False
        return move_run(tx, run_id, RunState.CANCELLING, who)

    @transactional
    def block(self, tx: Connection, run_id: int, reason: str) -> bool:
        """Stop the run until what hinders it is gone; it is probed now and then. False: it was blocked already."""
        return move_run(tx, run_id, RunState.BLOCKED, "fleet", reason=reason, blocked_by="reported")

    @transactional
    def unblock(self, tx: Connection, run_id: int) -> bool:
        """Let a blocked run go on; False where it is not blocked."""
        if lock_run(tx, run_id)[0] is not RunState.BLOCKED:
            return False
        reopen_blocked(tx, run_id)
        return move_run(tx, run_id, RunState.RUNNING, "fleet")

    @transactional
    def set_priority(self, tx: Connection, run_id: int, priority: int, who: str) -> None:
        """Higher goes first; 0 is what a run has unless asked otherwise."""
        lock_run(tx, run_id)
        tx.execute(sql("UPDATE runs SET priority = :priority WHERE id = :run"), {"run": run_id, "priority": priority})
        note(tx, run_id, "run_priority", who, priority=priority)

    @transactional
    def set_max_requests(self, tx: Connection, run_id: int, max_requests: int | None, who: str) -> None:
        """Another limit on provider requests, None for no limit; a run paused for it must be resumed."""
        lock_run(tx, run_id)
        values = {"run": run_id, "most": max_requests}
        tx.execute(sql("UPDATE runs SET max_requests = :most WHERE id = :run"), values)
        note(tx, run_id, "run_max_requests", who, max_requests=max_requests)

    @transactional
    def stored_rows(self, tx: Connection, run_id: int, first_seq: int, n: int) -> StoredRows:
        """The ``n`` rows from ``first_seq`` on, fewer at the end of the run."""
        found = tx.execute(sql(_ROWS), {"run": run_id, "first": first_seq, "n": n}).all()
        columns = [list(column) for column in zip(*found, strict=True)] or [[] for _ in range(13)]
        seq, row, start, end, kind, lon, lat, *sides, ids, carried = columns
        boxes = [None if box[0] is None else box for box in zip(*sides, strict=True)]
        return StoredRows(seq, row, start, end, kind, lon, lat, boxes, ids, carried)

    @transactional
    def inputs_in_use(self, tx: Connection, input_keys: Sequence[str] | None = None) -> frozenset[tuple[str, int]]:
        """``(input_key, shard)`` of all inputs that some shard of an unfinished run still needs.

        ``input_keys``: only those; None for all.
        """
        wanted: Mapping[str, object] = {"keys": None if input_keys is None else list(input_keys)}
        return frozenset((key, shard) for key, shard in tx.execute(sql(_IN_USE), wanted))
