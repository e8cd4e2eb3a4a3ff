"""The fleet in figures, for Prometheus and for probes; reads active runs only."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection

from workers.ledger.finishing import FINISHABLE
from workers.ledger.records import Measure, WorkerRecord
from workers.ledger.transactions import Transactions, sql, transactional
from workers.ledger.workforce import LIVE_S, worker_record

_AGES = f"""
    SELECT 'io' AS queue, extract(epoch FROM clock_timestamp() - min(unit.ready_at)) AS age
    FROM runs r CROSS JOIN LATERAL (
        SELECT min(u.ready_at) AS ready_at FROM fetch_units u
        WHERE u.run_id = r.id AND u.state = 'pending' AND u.admitted
            AND (u.not_before IS NULL OR u.not_before <= clock_timestamp())
    ) unit WHERE r.ended_at IS NULL AND r.state = 'running' AND NOT (r.probing AND EXISTS (
        SELECT FROM fetch_units b WHERE b.run_id = r.id AND b.state = 'leased'))
    UNION ALL
    SELECT m.queue, extract(epoch FROM clock_timestamp() - min(job.ready_at))
    FROM runs r JOIN run_models m ON m.run_id = r.id CROSS JOIN LATERAL (
        SELECT j.ready_at FROM infer_jobs j WHERE j.run_id = r.id AND j.model_index = m.model_index
            AND j.state = 'ready' AND (j.not_before IS NULL OR j.not_before <= clock_timestamp())
        ORDER BY j.ready_at LIMIT 1
    ) job WHERE r.ended_at IS NULL AND r.state = 'running' GROUP BY m.queue
    UNION ALL
    SELECT 'control', extract(epoch FROM clock_timestamp() - min(greatest(r.changed_at, r.finish_after)))
    FROM runs r WHERE {FINISHABLE}
"""

# name, help aside, then the labels' names, then a statement that gives the labels' values and the value.
_MEASURES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("runs", ("state",), "SELECT state, count(*) FROM runs WHERE ended_at IS NULL GROUP BY state"),
    (
        "units",
        ("run", "stage", "label", "state"),
        """
        SELECT u.run_id, 'fetch', g.label, u.state, count(*) FROM runs r
        JOIN fetch_units u ON u.run_id = r.id JOIN LATERAL (
            SELECT string_agg(m.label, '+' ORDER BY m.model_index) AS label FROM run_models m
            WHERE m.run_id = r.id AND m.group_index = u.group_index) g ON true
        WHERE r.ended_at IS NULL GROUP BY 1, 3, 4
        UNION ALL
        SELECT j.run_id, 'embed', m.label, j.state, count(*) FROM runs r
        JOIN infer_jobs j ON j.run_id = r.id
        JOIN run_models m ON m.run_id = r.id AND m.model_index = j.model_index
        WHERE r.ended_at IS NULL GROUP BY 1, 3, 4
        """,
    ),
    (
        "settled_rows_per_second",
        ("run", "stage", "label"),
        """
        SELECT p.run_id, p.stage, e.label, sum(p.settled) / 60.0 FROM runs r
        JOIN progress p ON p.run_id = r.id JOIN LATERAL (
            SELECT string_agg(m.label, '+' ORDER BY m.model_index) AS label FROM run_models m WHERE m.run_id = r.id
            AND p.entry_index = CASE p.stage WHEN 'fetch' THEN m.group_index ELSE m.model_index END) e ON true
        WHERE r.ended_at IS NULL AND p.at > clock_timestamp() - interval '1 minute' GROUP BY 1, 2, 3
        """,
    ),
    (
        "failed_rows",
        ("run", "error_class"),
        """
        SELECT f.run_id, f.error_class, count(*) FROM runs r JOIN failures f ON f.run_id = r.id
        WHERE r.ended_at IS NULL GROUP BY 1, 2
        """,
    ),
    (
        "lease_expiries_total",
        ("run",),
        """
        SELECT r.id, count(e.id) FROM runs r LEFT JOIN events e ON e.run_id = r.id AND e.kind = 'lease_expired'
        WHERE r.ended_at IS NULL GROUP BY 1
        """,
    ),
    (
        "losses",
        ("run",),
        """
        SELECT r.id, (SELECT coalesce(sum(losses), 0) FROM fetch_units u WHERE u.run_id = r.id)
            + (SELECT coalesce(sum(losses), 0) FROM infer_jobs j WHERE j.run_id = r.id)
        FROM runs r WHERE r.ended_at IS NULL
        """,
    ),
    (
        "requests_total",
        ("run",),
        """
        SELECT r.id, (SELECT coalesce(sum(requests), 0) FROM fetch_units u WHERE u.run_id = r.id)
        FROM runs r WHERE r.ended_at IS NULL
        """,
    ),
    (
        "input_bytes_reserved",
        (),
        "SELECT coalesce(sum(reserved_bytes), 0) FROM fetch_units WHERE reserved_bytes > 0",
    ),
    (
        "output_bytes_total",
        ("run",),
        """
        SELECT r.id, (SELECT coalesce(sum(file_bytes), 0) FROM infer_jobs j WHERE j.run_id = r.id)
        FROM runs r WHERE r.ended_at IS NULL
        """,
    ),
    ("workers", ("kind", "state"), "SELECT kind, state, count(*) FROM workers GROUP BY 1, 2"),
    (
        "worker_heartbeat_age_seconds",
        ("worker", "kind", "host"),
        """
        SELECT id, kind, host, extract(epoch FROM clock_timestamp() - heartbeat_at) FROM workers
        WHERE state <> 'stopped'
        """,
    ),
    (
        "worker_degraded",
        ("worker", "kind", "model"),
        "SELECT id, kind, jsonb_object_keys(degraded), 1 FROM workers WHERE state <> 'stopped'",
    ),
)


class Measures(Transactions):
    """Figures over all active runs."""

    @transactional
    def queue_ages(self, tx: Connection) -> Mapping[str, float]:
        """Queue -> seconds for which its oldest ready work waits; queues without any are left out."""
        drained = set(tx.execute(sql("SELECT queue FROM drains")).scalars())
        return {
            queue: float(age) for queue, age in tx.execute(sql(_AGES)) if age is not None and not drained & {queue, "*"}
        }

    def metrics(self) -> list[Measure]:
        """Every figure, with its labels."""
        ages = self.queue_ages()
        found = self._measured()
        found += [Measure("oldest_ready_seconds", {"queue": queue}, age) for queue, age in sorted(ages.items())]
        for worker in self.idle_workers(0.0, ages):
            labels = {"worker": worker.info.id, "kind": worker.info.kind, "host": worker.info.host}
            found.append(Measure("worker_idle_seconds", labels, _idle_s(worker, ages)))
        return found

    @transactional
    def _measured(self, tx: Connection) -> list[Measure]:
        found = []
        for name, labels, statement in _MEASURES:
            for *values, value in tx.execute(sql(statement)):
                found.append(Measure(name, dict(zip(labels, map(str, values), strict=True)), float(value)))
        return found

    def idle_workers(self, after_s: float, ages: Mapping[str, float] | None = None) -> list[WorkerRecord]:
        """Workers that are alive, willing and able but claimed nothing for ``after_s`` while their queue had work.

        ``ages``: see :meth:`queue_ages`, asked for where None.
        """
        waits = self.queue_ages() if ages is None else ages
        return [worker for worker in self._free_workers() if _idle_s(worker, waits) > after_s]

    @transactional
    def _free_workers(self, tx: Connection) -> list[WorkerRecord]:
        found = tx.execute(
            sql(
                "SELECT w.*, extract(epoch FROM clock_timestamp() - heartbeat_at) AS heartbeat_age, "
                "extract(epoch FROM clock_timestamp() - coalesce(claimed_at, started_at)) AS claim_age FROM workers w "
                f"WHERE state = 'running' AND leased = 0 AND heartbeat_at > clock_timestamp() "
                f"- {LIVE_S} * interval '1 second' AND kind <> 'dispatcher' ORDER BY started_at"
            )
        ).mappings()
        return [worker_record(row) for row in found]


def _idle_s(worker: WorkerRecord, ages: Mapping[str, float]) -> float:
    """For how long work of the worker's queues has waited while it claimed nothing; 0 where it may not claim any."""
    able = [
        queue for queue in worker.info.queues
        if queue in ages and "io" not in worker.degraded and queue.removeprefix("gpu.") not in worker.degraded
    ]  # fmt: skip
    waited = max((ages[queue] for queue in able), default=0.0)
    return min(waited, worker.claim_age_s or 0.0)
