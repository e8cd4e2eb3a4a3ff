"""Worker processes: known by their heartbeat, which also renews every lease they hold."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, RowMapping

from workers.ledger.errors import LedgerError
from workers.ledger.events import clean, note
from workers.ledger.records import HeartbeatAnswer, RunState, WorkerInfo, WorkerRecord
from workers.ledger.tokens import Token
from workers.ledger.transactions import Transactions, sql, transactional

LIVE_S = 60
"""A worker that was heard of within so many seconds counts as alive."""

# What was settled a moment ago with this very token is not lost; there is nothing to renew.
_RENEWED = (
    "lease_until = CASE t.state WHEN 'leased' THEN least(clock_timestamp() + :lease * interval '1 second', t.deadline) "
    "ELSE t.lease_until END"
)

_HEARTBEAT = f"""
    WITH given AS (
        SELECT * FROM unnest(CAST(:kinds AS text[]), CAST(:runs AS bigint[]), CAST(:indexes AS int[]),
            CAST(:shards AS int[]), CAST(:keys AS uuid[])) AS g(kind, run_id, index, shard, key)
    ), units AS (
        UPDATE fetch_units t SET {_RENEWED} FROM given g
        WHERE g.kind = 'f' AND t.run_id = g.run_id AND t.group_index = g.index AND t.shard = g.shard
            AND t.token = g.key
        RETURNING g.key, t.run_id
    ), jobs AS (
        UPDATE infer_jobs t SET {_RENEWED} FROM given g
        WHERE g.kind = 'i' AND t.run_id = g.run_id AND t.model_index = g.index AND t.shard = g.shard
            AND t.token = g.key
        RETURNING g.key, t.run_id
    ), finishing AS (
        UPDATE runs t SET finish_until = clock_timestamp() + :lease * interval '1 second' FROM given g
        WHERE g.kind = 'r' AND t.id = g.run_id AND t.finish_token = g.key
        RETURNING g.key, t.id
    ), beat AS (
        UPDATE workers SET heartbeat_at = clock_timestamp(), rss_bytes = :rss, leased = (SELECT count(*) FROM given),
            claimed_at = CASE WHEN claims < :claims THEN clock_timestamp() ELSE claimed_at END, claims = :claims,
            state = CASE WHEN state = 'stopped' THEN 'running' ELSE state END
        WHERE id = :worker
        RETURNING state = 'draining' OR EXISTS (SELECT FROM drains WHERE queue = '*') OR (cardinality(queues) > 0
            AND NOT EXISTS (SELECT FROM unnest(queues) q WHERE q NOT IN (SELECT queue FROM drains))) AS draining
    )
    SELECT held.key, held.run_id, r.state, NULL AS draining
    FROM (SELECT * FROM units UNION ALL SELECT * FROM jobs UNION ALL SELECT * FROM finishing) held
    JOIN runs r ON r.id = held.run_id
    UNION ALL SELECT NULL, NULL, NULL, draining FROM beat
"""


_DEGRADE = """
    UPDATE workers SET degraded = degraded || jsonb_build_object(CAST(:model AS text), CAST(:reason AS text))
    WHERE id = :worker AND degraded ->> :model IS DISTINCT FROM CAST(:reason AS text)
"""

_RECOVER = """
    UPDATE workers SET degraded = degraded - CAST(:model AS text) WHERE id = :worker AND jsonb_exists(degraded, :model)
"""


class Workforce(Transactions):
    """What is known of worker processes."""

    @transactional
    def register(self, tx: Connection, worker: WorkerInfo) -> None:
        """Make the process known; again after the ledger has forgotten it."""
        tx.execute(
            sql(
                "INSERT INTO workers (id, kind, host, pid, queues, models, device, version, state) VALUES "
                "(:id, :kind, :host, :pid, CAST(:queues AS text[]), CAST(:models AS text[]), :device, :version, "
                "'running') ON CONFLICT (id) DO UPDATE SET heartbeat_at = clock_timestamp()"
            ),
            {
                "id": worker.id,
                "kind": worker.kind,
                "host": worker.host,
                "pid": worker.pid,
                "queues": list(worker.queues),
                "models": list(worker.models),
                "device": worker.device,
                "version": worker.version,
            },
        )

    @transactional
    def heartbeat(
        self,
        tx: Connection,
        worker_id: str,
        tokens: Sequence[str],
        *,
        lease_s: float,
        rss_bytes: int = 0,
        claims: int = 0,
    ) -> HeartbeatAnswer:
        """Renew the leases behind ``tokens`` (units, shards, runs being finished), but not beyond their deadlines.

        ``claims``: how many this process has made since it started. One statement.
        """
        given = {Token.parse(token).key: (token, Token.parse(token)) for token in tokens}
        leases = [lease for _, lease in given.values()]
        found = tx.execute(
            sql(_HEARTBEAT),
            {
                "worker": worker_id,
                "lease": lease_s,
                "rss": rss_bytes,
                "claims": claims,
                "kinds": [lease.kind for lease in leases],
                "runs": [lease.run for lease in leases],
                "indexes": [lease.index for lease in leases],
                "shards": [lease.shard for lease in leases],
                "keys": [lease.key for lease in leases],
            },
        )
        lost = dict(given)
        runs: dict[int, RunState] = {}
        draining: bool | None = None
        for key, run_id, state, is_draining in found:
            if key is None:
                draining = is_draining
                continue
            lost.pop(key.hex, None)
            runs[run_id] = RunState(state)
        gone = frozenset(token for token, _ in lost.values())
        return HeartbeatAnswer(gone, runs, draining=bool(draining), known=draining is not None)

    @transactional
    def degrade(self, tx: Connection, worker_id: str, model: str, reason: str | None) -> None:
        """Say that the worker cannot serve ``model`` (``io``: fetch at all), or with None that it can again."""
        named = {"worker": worker_id, "model": model, "reason": None if reason is None else clean(reason)}
        if tx.execute(sql(_RECOVER if reason is None else _DEGRADE), named).rowcount:
            note(tx, None, "worker_recovered" if reason is None else "worker_degraded", "worker", **named)

    @transactional
    def drain(self, tx: Connection, target: str | None, on: bool, who: str) -> int:
        """Let a worker (its id), a queue (its name) or everything (None) claim no more, or again.

        Returns how many workers it matches; LedgerError when it is neither worker nor queue.
        """
        by_id = tx.execute(
            sql("UPDATE workers SET state = :state WHERE CAST(id AS text) = :target AND state <> 'stopped'"),
            {"state": "draining" if on else "running", "target": target},
        ).rowcount
        if not by_id:
            queue = target or "*"
            if queue != "*" and queue not in ("io", "cpu", "control") and not queue.startswith("gpu."):
                raise LedgerError(f"{target!r} is neither a worker nor a queue; `rsembed fleet workers` lists them")
            statement = (
                "INSERT INTO drains (queue, who) VALUES (:queue, :who) ON CONFLICT (queue) DO NOTHING"
                if on else "DELETE FROM drains WHERE queue = :queue OR :queue = '*'"
            )  # fmt: skip
            tx.execute(sql(statement), {"queue": queue, "who": who})
            matching = (
                "SELECT count(*) FROM workers WHERE state <> 'stopped' AND (:queue = '*' OR :queue = ANY(queues))"
            )
            by_id = int(tx.execute(sql(matching), {"queue": queue}).scalar_one())
        note(tx, None, "drained" if on else "undrained", who, target=target)
        return by_id

    @transactional
    def drained(self, tx: Connection) -> list[str]:
        """The queues from which nobody claims; ``*`` is all of them."""
        return list(tx.execute(sql("SELECT queue FROM drains ORDER BY queue")).scalars())

    @transactional
    def retire(self, tx: Connection, worker_id: str) -> None:
        """The process ends, by itself; its leases are given back one by one before."""
        tx.execute(sql("UPDATE workers SET state = 'stopped', leased = 0 WHERE id = :worker"), {"worker": worker_id})

    @transactional
    def workers(self, tx: Connection, live_only: bool = True) -> list[WorkerRecord]:
        """Worker processes, those that serve the same thing together."""
        found = tx.execute(
            sql(
                "SELECT w.*, extract(epoch FROM clock_timestamp() - heartbeat_at) AS heartbeat_age, "
                "extract(epoch FROM clock_timestamp() - claimed_at) AS claim_age FROM workers w "
                "WHERE NOT :live OR (state <> 'stopped' AND heartbeat_at > clock_timestamp() "
                "- :live_s * interval '1 second') ORDER BY kind, host, started_at"
            ),
            {"live": live_only, "live_s": LIVE_S},
        ).mappings()
        return [worker_record(row) for row in found]


def worker_record(row: RowMapping) -> WorkerRecord:
    """A row of ``workers`` with its ages."""
    info = WorkerInfo(
        id=str(row["id"]),
        kind=row["kind"],
        host=row["host"],
        pid=row["pid"],
        queues=tuple(row["queues"]),
        models=tuple(row["models"]),
        device=row["device"],
        version=row["version"],
    )
    return WorkerRecord(
        info=info,
        state=row["state"],
        started_at=row["started_at"],
        heartbeat_age_s=float(row["heartbeat_age"]),
        claim_age_s=None if row["claim_age"] is None else float(row["claim_age"]),
        degraded=row["degraded"],
        rss_bytes=row["rss_bytes"],
        leased=row["leased"],
    )
