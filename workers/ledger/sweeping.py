"""What the leading dispatcher does to leases, and what it sees of ready work."""

from __future__ import annotations

import time
from collections.abc import Mapping

from sqlalchemy import Connection

from workers.ledger.events import note
from workers.ledger.finishing import FINISHABLE
from workers.ledger.records import Expired
from workers.ledger.transactions import Transactions, sql, transactional

_EXPIRE_UNITS = """
    UPDATE fetch_units u SET state = 'pending', token = NULL, worker_id = NULL, lease_until = NULL, deadline = NULL,
        losses = u.losses + 1, ready_at = clock_timestamp()
    FROM (
        SELECT run_id, group_index, shard, worker_id FROM fetch_units
        WHERE state = 'leased' AND lease_until < clock_timestamp() FOR NO KEY UPDATE SKIP LOCKED
    ) p
    WHERE u.run_id = p.run_id AND u.group_index = p.group_index AND u.shard = p.shard
        AND u.state = 'leased' AND u.lease_until < clock_timestamp()
    RETURNING u.run_id, u.group_index, u.shard, p.worker_id, u.losses
"""

_EXPIRE_SHARDS = """
    UPDATE infer_jobs j SET token = NULL, worker_id = NULL, lease_until = NULL, deadline = NULL,
        losses = j.losses + 1, ready_at = clock_timestamp(),
        state = CASE WHEN p.unit_state = 'done' THEN 'ready' ELSE 'waiting' END
    FROM (
        SELECT i.run_id, i.model_index, i.shard, i.worker_id, u.state AS unit_state FROM infer_jobs i
        JOIN fetch_units u ON u.run_id = i.run_id AND u.group_index = i.group_index AND u.shard = i.shard
        WHERE i.state = 'leased' AND i.lease_until < clock_timestamp() FOR NO KEY UPDATE OF i SKIP LOCKED
    ) p
    WHERE j.run_id = p.run_id AND j.model_index = p.model_index AND j.shard = p.shard
        AND j.state = 'leased' AND j.lease_until < clock_timestamp()
    RETURNING j.run_id, j.model_index, j.shard, p.worker_id, j.losses
"""

_EXPIRE_FINISHING = """
    UPDATE runs SET state = 'running', finish_token = NULL, finish_worker = NULL, finish_until = NULL,
        changed_at = clock_timestamp()
    WHERE ended_at IS NULL AND state = 'finishing' AND finish_until < clock_timestamp()
    RETURNING id
"""

_END_CANCELLING = """
    UPDATE runs r SET state = 'cancelled', ended_at = clock_timestamp(), changed_at = clock_timestamp(),
        requests = (SELECT coalesce(sum(u.requests), 0) FROM fetch_units u WHERE u.run_id = r.id)
    WHERE r.ended_at IS NULL AND r.state = 'cancelling'
        AND NOT EXISTS (SELECT FROM fetch_units u WHERE u.run_id = r.id AND u.state = 'leased')
        AND NOT EXISTS (SELECT FROM infer_jobs j WHERE j.run_id = r.id AND j.state = 'leased')
    RETURNING r.id
"""

# A resumed run has its units admitted again.
_UNRESERVE = """
    UPDATE fetch_units SET reserved_bytes = 0, admitted = (state <> 'pending' AND admitted)
    WHERE run_id = :run AND (reserved_bytes > 0 OR admitted)
"""

_STOP_WORKERS = """
    UPDATE workers SET state = 'stopped', leased = 0
    WHERE state <> 'stopped' AND heartbeat_at < clock_timestamp() - :after * interval '1 second'
"""

# Also a unit that has nothing left to do but was never closed; neither should ever be found.
_CLOSE_UNITS = """
    UPDATE fetch_units u SET state = 'done', ended_at = clock_timestamp()
    FROM runs r WHERE r.ended_at IS NULL AND u.run_id = r.id AND u.state = 'pending' AND u.open_rows = 0
"""

_READY_SHARDS = """
    UPDATE infer_jobs j SET state = 'ready', ready_at = clock_timestamp()
    FROM runs r, fetch_units u
    WHERE r.ended_at IS NULL AND j.run_id = r.id AND j.state = 'waiting' AND u.run_id = r.id
        AND u.group_index = j.group_index AND u.shard = j.shard AND u.state = 'done'
    RETURNING j.run_id
"""

_READY_WORK = f"""
    SELECT 'io' AS queue, count(*) AS n FROM runs r CROSS JOIN LATERAL (
        SELECT FROM fetch_units u WHERE u.run_id = r.id AND u.state = 'pending' AND u.admitted
            AND (u.not_before IS NULL OR u.not_before <= clock_timestamp())
        LIMIT CASE WHEN r.probing THEN 1 ELSE :cap END
    ) unit WHERE r.ended_at IS NULL AND r.state = 'running'
    UNION ALL
    SELECT m.queue, count(*) FROM runs r JOIN run_models m ON m.run_id = r.id CROSS JOIN LATERAL (
        SELECT FROM infer_jobs j WHERE j.run_id = r.id AND j.model_index = m.model_index AND j.state = 'ready'
            AND (j.not_before IS NULL OR j.not_before <= clock_timestamp())
        LIMIT :cap
    ) job WHERE r.ended_at IS NULL AND r.state = 'running' GROUP BY m.queue
    UNION ALL
    SELECT 'control', count(*) FROM runs r WHERE {FINISHABLE}
"""

_COMPACT = """
    WITH old AS (
        DELETE FROM progress p USING runs r
        WHERE p.run_id = r.id AND p.at < date_trunc('hour', clock_timestamp() - interval '65 minutes')
            AND (r.ended_at IS NULL OR r.ended_at > clock_timestamp() - interval '1 day')
            AND p.at <> date_trunc('hour', p.at)
        RETURNING p.*
    )
    INSERT INTO progress (run_id, at, stage, entry_index, settled, failed, requests, bytes)
    SELECT run_id, date_trunc('hour', at), stage, entry_index, sum(settled), sum(failed), sum(requests), sum(bytes)
    FROM old GROUP BY 1, 2, 3, 4
"""

_FORGET_EVENTS = """
    DELETE FROM events e USING runs r
    WHERE e.run_id = r.id AND r.ended_at < clock_timestamp() - interval '30 days'
        AND e.kind IN ('unit_released', 'shard_released', 'unit_lost', 'shard_lost', 'lease_expired', 'inputs_lost')
"""

WORKER_SILENT_S = 120.0
_FORGET_WORKERS = "DELETE FROM workers WHERE state = 'stopped' AND heartbeat_at < clock_timestamp() - interval '1 day'"


class Sweeping(Transactions):
    """Leases that ran out, readiness, and what is ready."""

    since = 0.0
    """When this leadership began, on the process's monotonic clock."""

    def sweep(self, grace_s: float) -> Expired:
        """Take back what expired: a loss each. Nothing before this leadership is ``grace_s`` old.

        Workers whose database was away need that time to renew what they hold.
        """
        return Expired() if time.monotonic() - self.since < grace_s else self._sweep()

    @transactional
    def _sweep(self, tx: Connection) -> Expired:
        units = tx.execute(sql(_EXPIRE_UNITS)).all()
        for run, group, shard, worker, losses in units:
            note(tx, run, "lease_expired", "dispatcher",
                 stage="fetch", group=group, shard=shard, worker=str(worker), losses=losses)  # fmt: skip
        shards = tx.execute(sql(_EXPIRE_SHARDS)).all()
        for run, model, shard, worker, losses in shards:
            note(tx, run, "lease_expired", "dispatcher",
                 stage="embed", model=model, shard=shard, worker=str(worker), losses=losses)  # fmt: skip
        finishing = tx.execute(sql(_EXPIRE_FINISHING)).scalars().all()
        for run in finishing:
            note(tx, run, "lease_expired", "dispatcher", stage="finish")
        cancelled = tx.execute(sql(_END_CANCELLING)).scalars().all()
        for run in cancelled:
            tx.execute(sql(_UNRESERVE), {"run": run})
            note(tx, run, "run_cancelled", "dispatcher")
        workers = tx.execute(sql(_STOP_WORKERS), {"after": WORKER_SILENT_S}).rowcount
        tx.execute(sql(_FORGET_WORKERS))
        return Expired(len(units), len(shards), len(finishing), len(cancelled), workers)

    @transactional
    def audit(self, tx: Connection) -> int:
        """Ready the shards that wait although their unit is done; how many, normally none."""
        tx.execute(sql(_CLOSE_UNITS))
        found = tx.execute(sql(_READY_SHARDS)).scalars().all()
        for run in sorted(set(found)):
            note(tx, run, "shards_readied", "dispatcher", shards=found.count(run))
        return len(found)

    @transactional
    def ready(self, tx: Connection, cap: int = 1000) -> Mapping[str, int]:
        """Queue -> units that could be claimed now, counted up to ``cap``; drained queues have none.

        ``control`` counts the runs to be finished.
        """
        drained = set(tx.execute(sql("SELECT queue FROM drains")).scalars())
        counts: dict[str, int] = {}
        for queue, count in tx.execute(sql(_READY_WORK), {"cap": cap}):
            if count and not drained & {queue, "*"}:
                counts[queue] = min(cap, counts.get(queue, 0) + count)
        return counts

    @transactional
    def compact(self, tx: Connection) -> int:
        """Sum old progress up by the hour and forget what units went through a month ago; how many sums there are."""
        tx.execute(sql(_FORGET_EVENTS))
        return tx.execute(sql(_COMPACT)).rowcount
