"""Failed rows made open again, and only those: their units are pending, the shards they belong to wait."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection

from workers.ledger.errors import RunStateError
from workers.ledger.events import note
from workers.ledger.records import RunState, ShardState, UnitState
from workers.ledger.run_rows import lock_run
from workers.ledger.tokens import Token
from workers.ledger.transactions import Transactions, sql, transactional

_UNION = "ARRAY(SELECT DISTINCT e FROM unnest(t.wanted || a.slots) e ORDER BY e)"

_NEEDED = """EXISTS (
            SELECT FROM infer_jobs j WHERE j.run_id = t.run_id AND j.shard = t.shard
                AND j.group_index = t.group_index AND j.state IN ('waiting', 'ready', 'leased'))"""

# The failures asked for, with the fetch group of each. Once their units are locked, only of those: what fails in
# another unit meanwhile is for the next retry.
_FAILURES_ASKED = """
    asked AS (
        SELECT x.* FROM (
            SELECT f.stage, f.entry_index, f.seq, CAST(f.seq / r.shard_size AS int) AS shard,
                CAST(f.seq % r.shard_size AS int) AS slot,
                CASE WHEN f.stage = 'fetch' THEN f.entry_index ELSE m.group_index END AS group_index
            FROM runs r JOIN failures f ON f.run_id = r.id
            LEFT JOIN run_models m ON f.stage = 'infer' AND m.run_id = f.run_id AND m.model_index = f.entry_index
            WHERE r.id = :run AND f.run_id = :run
                AND (CAST(:classes AS text[]) IS NULL OR f.error_class = ANY(:classes))
                AND (CAST(:stage AS text) IS NULL OR f.stage = :stage)
        ) x {among}
    )
"""
_LOCKED = "WHERE (x.group_index, x.shard) IN (SELECT * FROM unnest(CAST(:groups AS int[]), CAST(:shards AS int[])))"

_LOCK_UNITS = f"""
    WITH {_FAILURES_ASKED.format(among="")}
    SELECT u.group_index, u.shard FROM fetch_units u
    WHERE u.run_id = :run AND (u.group_index, u.shard) IN (SELECT group_index, shard FROM asked)
    ORDER BY u.shard, u.group_index FOR NO KEY UPDATE
"""

_ASKED = _FAILURES_ASKED.format(among=_LOCKED)

# A unit whose models all ended starts afresh; one whose inputs are still wanted by another model stays admitted.
_REOPEN_UNITS = f"""
    WITH {_ASKED}, gone AS (
        DELETE FROM fetch_jobs j USING (SELECT DISTINCT group_index, seq, shard, slot FROM asked) a
        WHERE j.run_id = :run AND j.group_index = a.group_index AND j.seq = a.seq
        RETURNING a.group_index, a.shard, a.slot, j.state
    ), a AS (
        SELECT group_index, shard, array_agg(slot ORDER BY slot) AS slots, count(*) AS n,
            count(*) FILTER (WHERE state = 'done') AS done, count(*) FILTER (WHERE state = 'failed') AS failed
        FROM gone GROUP BY group_index, shard
    )
    UPDATE fetch_units t SET
        state = CASE t.state WHEN 'leased' THEN 'leased' ELSE 'pending' END,
        open_rows = t.open_rows + a.n, done_rows = t.done_rows - a.done, failed_rows = t.failed_rows - a.failed,
        no_data_rows = t.no_data_rows - (a.n - a.done - a.failed),
        wanted = CASE WHEN t.state = 'done' THEN a.slots WHEN t.wanted IS NULL THEN NULL ELSE {_UNION} END,
        admitted = t.admitted AND (t.state <> 'done' OR {_NEEDED}),
        stored_bytes = CASE WHEN t.state <> 'done' OR {_NEEDED} THEN t.stored_bytes ELSE 0 END,
        token = CASE t.state WHEN 'leased' THEN t.token END,
        losses = CASE t.state WHEN 'done' THEN 0 ELSE t.losses END,
        marks = CASE t.state WHEN 'done' THEN NULL ELSE t.marks END,
        ready_at = CASE t.state WHEN 'done' THEN clock_timestamp() ELSE t.ready_at END,
        not_before = NULL, ended_at = NULL, generation = :generation
    FROM a WHERE t.run_id = :run AND t.group_index = a.group_index AND t.shard = a.shard
"""

# A failed fetch concerns every model of its group. A shard in somebody's hands is taken away: it has to wait.
_REOPEN_SHARDS = f"""
    WITH {_ASKED}, a AS (
        SELECT m.model_index, k.shard, array_agg(DISTINCT k.slot ORDER BY k.slot) AS slots
        FROM asked k JOIN run_models m ON m.run_id = :run AND CASE WHEN k.stage = 'fetch'
            THEN m.group_index = k.entry_index ELSE m.model_index = k.entry_index END
        GROUP BY m.model_index, k.shard
    )
    UPDATE infer_jobs t SET state = 'waiting', token = NULL, worker_id = NULL, lease_until = NULL, deadline = NULL,
        wanted = CASE WHEN t.state IN ('done', 'failed') THEN a.slots WHEN t.wanted IS NULL THEN NULL ELSE {_UNION} END,
        losses = 0, marks = NULL, not_before = NULL, ended_at = NULL, generation = :generation
    FROM a WHERE t.run_id = :run AND t.model_index = a.model_index AND t.shard = a.shard
"""

_FORGET = f"""
    WITH {_ASKED}
    DELETE FROM failures f USING asked a
    WHERE f.run_id = :run AND f.stage = a.stage AND f.entry_index = a.entry_index AND f.seq = a.seq
"""

# A row whose fetch failed never had an input; files of other models tell of that failure already.
_LOST_ROWS = """
    WITH gone AS (
        DELETE FROM fetch_jobs WHERE run_id = :run AND group_index = :group AND seq = ANY(CAST(:seqs AS bigint[]))
            AND state <> 'failed'
        RETURNING seq, state
    ), a AS (
        SELECT array_agg(CAST(seq - :first AS int) ORDER BY seq) AS slots, count(*) AS n,
            count(*) FILTER (WHERE state = 'done') AS done
        FROM gone HAVING count(*) > 0
    )
    UPDATE fetch_units t SET
        state = CASE t.state WHEN 'leased' THEN 'leased' ELSE 'pending' END,
        open_rows = t.open_rows + a.n, done_rows = t.done_rows - a.done,
        no_data_rows = t.no_data_rows - (a.n - a.done),
        wanted = CASE WHEN t.state = 'done' THEN a.slots WHEN t.wanted IS NULL THEN NULL ELSE {union} END,
        admitted = true, reserved_bytes = greatest(t.reserved_bytes, t.stored_bytes + a.n * t.row_bytes),
        token = CASE t.state WHEN 'leased' THEN t.token END,
        ready_at = CASE t.state WHEN 'done' THEN clock_timestamp() ELSE t.ready_at END, ended_at = NULL
    FROM a WHERE t.run_id = :run AND t.group_index = :group AND t.shard = :shard
""".replace("{union}", _UNION)


_RETRIED = (
    RunState.RUNNING, RunState.PAUSED, RunState.BLOCKED, RunState.DONE, RunState.DONE_WITH_FAILURES
)  # fmt: skip


def reopen_failures(
    tx: Connection, run_id: int, *, classes: Sequence[str] | None, stage: str | None, generation: int
) -> int:
    """Make failed rows of a locked run open again; how many failures there were. None: of any class or stage."""
    asked: dict[str, object] = {
        "run": run_id,
        "classes": None if classes is None else list(classes),
        "stage": stage,
        "generation": generation,
    }
    locked = tx.execute(sql(_LOCK_UNITS), asked).all()
    asked |= {"groups": [group for group, _ in locked], "shards": [shard for _, shard in locked]}
    tx.execute(sql(_REOPEN_UNITS), asked)
    tx.execute(sql(_REOPEN_SHARDS), asked)
    return tx.execute(sql(_FORGET), asked).rowcount


def reopen_blocked(tx: Connection, run_id: int) -> None:
    """Reopen what failed for the reason that a run was blocked for, if that is why it is."""
    _, run = lock_run(tx, run_id)
    kind, _, error_class = (run["blocked_by"] or "").partition(":")
    if run["state"] == RunState.BLOCKED.value and kind == "failures":
        reopen_failures(tx, run_id, classes=[error_class], stage="fetch", generation=run["generation"])


class Retrying(Transactions):
    """Rows done again."""

    @transactional
    def retry(self, tx: Connection, run_id: int, error_classes: Sequence[str] | None, who: str) -> int:
        """Make the failed rows of these classes (None: of all) open again; how many failures that were.

        An ended run goes back to running. RunStateError while it is loaded, finished, cancelled
        or dropped: what is being compacted must not change.
        """
        state, run = lock_run(tx, run_id)
        if state not in _RETRIED:
            raise RunStateError(f"run {run_id} is {state.value}; retry it when it is running, paused, blocked or done")
        generation = run["generation"] + 1
        count = reopen_failures(tx, run_id, classes=error_classes, stage=None, generation=generation)
        if count:
            done = state in (RunState.DONE, RunState.DONE_WITH_FAILURES)
            tx.execute(
                sql(
                    "UPDATE runs SET generation = :generation, state = CASE WHEN :done THEN 'running' ELSE state END, "
                    "ended_at = NULL, changed_at = CASE WHEN :done THEN clock_timestamp() ELSE changed_at END "
                    "WHERE id = :run"
                ),
                {"run": run_id, "generation": generation, "done": done},
            )
            classes = None if error_classes is None else list(error_classes)
            note(tx, run_id, "run_retried", who, classes=classes, failures=count)
        return count

    @transactional
    def reopen_rows(
        self, tx: Connection, run_id: int, group: int, shard: int, slots: Sequence[int], *, token: str | None = None
    ) -> bool:
        """Have rows fetched again whose inputs are gone; nothing is counted against anybody.

        Shards of the unit that are ready, and the caller's own behind ``token``, wait for it.
        Returns whether the unit has open rows now.
        """
        place = {"run": run_id, "group": group, "shard": shard}
        unit = tx.execute(
            sql(
                "SELECT first_seq FROM fetch_units WHERE run_id = :run AND group_index = :group AND shard = :shard "
                "FOR NO KEY UPDATE"
            ),
            place,
        ).scalar()
        if unit is None:
            return False
        tx.execute(sql(_LOST_ROWS), place | {"first": unit, "seqs": [unit + slot for slot in slots]})
        still_open = tx.execute(
            sql("SELECT open_rows FROM fetch_units WHERE run_id = :run AND group_index = :group AND shard = :shard"),
            place,
        ).scalar_one()
        if still_open:
            tx.execute(
                sql(
                    "UPDATE infer_jobs j SET state = 'waiting', token = NULL, worker_id = NULL, lease_until = NULL, "
                    "deadline = NULL FROM run_models m WHERE m.run_id = :run AND m.group_index = :group "
                    "AND j.run_id = :run AND j.model_index = m.model_index AND j.shard = :shard "
                    "AND (j.state = 'ready' OR (j.state = 'leased' AND j.token = CAST(:key AS uuid)))"
                ),
                place | {"key": None if token is None else Token.parse(token, "i").key},
            )
            note(tx, run_id, "inputs_lost", "worker", group=group, shard=shard, rows=len(slots))
        return bool(still_open)

    @transactional
    def reopen_shard(self, tx: Connection, run_id: int, label: str, shard: int) -> bool:
        """Have a whole shard embedded again whose file is gone; whoever claims it finds out which inputs are left.

        False where it had not ended.
        """
        place = {"run": run_id, "label": label, "shard": shard}
        unit = tx.execute(sql(_UNIT_OF), place).scalar()
        if unit is None:
            return False
        state = ShardState.READY if unit == UnitState.DONE.value else ShardState.WAITING
        reopened = bool(tx.execute(sql(_REOPEN_SHARD), place | {"state": state.value}).rowcount)
        if reopened:
            note(tx, run_id, "file_lost", "worker", label=label, shard=shard)
        return reopened


_UNIT_OF = """
    SELECT u.state FROM run_models m
    JOIN fetch_units u ON u.run_id = m.run_id AND u.group_index = m.group_index
    WHERE m.run_id = :run AND m.label = :label AND u.shard = :shard FOR NO KEY UPDATE OF u
"""

_REOPEN_SHARD = """
    UPDATE infer_jobs j SET state = :state, wanted = NULL, token = NULL, worker_id = NULL, lease_until = NULL,
        deadline = NULL, losses = 0, marks = NULL, not_before = NULL, ended_at = NULL, ready_at = clock_timestamp(),
        name = NULL, etag = NULL, ok_rows = 0, low_quality_rows = 0, no_data_rows = 0, failed_rows = 0
    FROM run_models m
    WHERE m.run_id = :run AND m.label = :label AND j.run_id = :run AND j.model_index = m.model_index
        AND j.shard = :shard AND j.state IN ('done', 'failed')
"""
