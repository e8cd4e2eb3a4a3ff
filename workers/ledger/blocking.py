"""Runs that cannot go on as things are: blocked with the reason, probed, and let go again."""

from __future__ import annotations

from sqlalchemy import Connection

from workers.ledger.records import RunState
from workers.ledger.retrying import reopen_blocked, reopen_failures
from workers.ledger.run_rows import lock_run
from workers.ledger.runs import move_run
from workers.ledger.transactions import Transactions, sql, transactional
from workers.ledger.workforce import LIVE_S

HOPELESS_ROWS, HOPELESS_SHARE = 200, 0.9
"""So many first rows, so large a part of them failed with one class: the run is at fault, or its source."""

PROBED_ROWS = 20
"""So many tell when the run was blocked before."""

LIVE_WORKERS = f"""
    live AS (
        SELECT w.*, split_part(w.device, ':', 1) AS device_class FROM workers w
        WHERE w.state <> 'stopped' AND w.heartbeat_at > clock_timestamp() - {LIVE_S} * interval '1 second'
    )
"""

SERVES = """
    m.queue = ANY(w.queues) AND (cardinality(w.models) = 0 OR m.model = ANY(w.models))
        AND m.device_class IN ('', w.device_class)
"""
"""Whether worker ``w`` of ``live`` is one for model ``m`` of a run."""

# Crashes are settled by running suspects alone, and a known hole is an answer; neither says anything about the source.
# A probe is judged by itself.
_HOPELESS = """
    SELECT r.id, f.error_class, f.n, s.settled FROM runs r
    CROSS JOIN LATERAL (
        SELECT error_class, count(*) AS n FROM failures
        WHERE run_id = r.id AND stage = 'fetch' AND error_class NOT IN ('crash', 'out_of_memory', 'collection_gap')
            AND (NOT r.probing OR at > r.changed_at)
        GROUP BY error_class ORDER BY n DESC LIMIT 1
    ) f
    CROSS JOIN LATERAL (
        SELECT sum(n_rows - open_rows) AS settled FROM fetch_units u WHERE u.run_id = r.id AND NOT r.probing
        UNION ALL
        SELECT sum(settled) FROM progress p
        WHERE p.run_id = r.id AND p.stage = 'fetch' AND r.probing AND p.at > r.changed_at
    ) s
    WHERE r.ended_at IS NULL AND r.state = 'running' AND f.n >= s.settled * :share
        AND s.settled >= CASE WHEN r.probing THEN :probed ELSE :rows END
"""

_RECOVERED = """
    UPDATE runs r SET probing = false
    WHERE r.ended_at IS NULL AND r.state = 'running' AND r.probing AND EXISTS (
        SELECT FROM progress p WHERE p.run_id = r.id AND p.at > r.changed_at AND p.settled > p.failed)
"""

# Runs with work left of which every kind waits for workers that say they cannot do it. Where there is no worker at
# all a run is not blocked: it waits for one, and an autoscaler starts one only for what runs.
_STUCK = f"""
    WITH {LIVE_WORKERS}, work AS (
        SELECT m.run_id, m.model AS needs,
            coalesce(bool_or(jsonb_exists(w.degraded, m.model)), false) AS hindered,
            coalesce(bool_or(NOT jsonb_exists(w.degraded, m.model)), false) AS served,
            min(w.degraded ->> m.model) AS reason
        FROM runs r JOIN run_models m ON m.run_id = r.id LEFT JOIN live w ON {SERVES}
        WHERE r.ended_at IS NULL AND r.state = :state AND EXISTS (
            SELECT FROM infer_jobs j WHERE j.run_id = m.run_id AND j.model_index = m.model_index
                AND j.state IN ('ready', 'leased', 'waiting'))
        GROUP BY m.run_id, m.model
        UNION ALL
        SELECT r.id, 'io', coalesce(bool_or(jsonb_exists(w.degraded, 'io')), false),
            coalesce(bool_or(NOT jsonb_exists(w.degraded, 'io')), false), min(w.degraded ->> 'io')
        FROM runs r LEFT JOIN live w ON 'io' = ANY(w.queues)
        WHERE r.ended_at IS NULL AND r.state = :state AND EXISTS (
            SELECT FROM fetch_units u WHERE u.run_id = r.id AND u.state <> 'done')
        GROUP BY r.id
    )
    SELECT run_id, bool_or(needs = 'io' AND hindered AND NOT served) AS no_io,
        bool_and((hindered AND NOT served) OR needs = 'io') AND bool_or(needs <> 'io') AS no_models,
        string_agg(DISTINCT needs || ': ' || reason, '; ') FILTER (WHERE hindered AND NOT served) AS reason
    FROM work GROUP BY run_id
"""

_SPENT = """
    SELECT r.id, r.max_requests FROM runs r
    WHERE r.ended_at IS NULL AND r.state = 'running' AND r.max_requests IS NOT NULL
        AND r.max_requests <= (SELECT sum(u.requests) FROM fetch_units u WHERE u.run_id = r.id)
        AND EXISTS (SELECT FROM fetch_units u WHERE u.run_id = r.id AND u.state <> 'done')
"""


class Blocking(Transactions):
    """What the leading dispatcher decides about whole runs; each answers with the runs concerned."""

    @transactional
    def served_models(self, tx: Connection) -> list[str]:
        """Ids of the models of unfinished runs that a live worker serves and is not degraded for."""
        return list(
            tx.execute(
                sql(
                    f"WITH {LIVE_WORKERS} SELECT DISTINCT m.model FROM runs r JOIN run_models m ON m.run_id = r.id "
                    f"JOIN live w ON {SERVES} WHERE r.ended_at IS NULL AND NOT jsonb_exists(w.degraded, m.model) "
                    "ORDER BY 1"
                )
            ).scalars()
        )

    @transactional
    def block_hopeless(self, tx: Connection) -> list[int]:
        """Block runs nearly all of whose first fetches failed with one class, and reopen those rows."""
        limits = {"share": HOPELESS_SHARE, "rows": HOPELESS_ROWS, "probed": PROBED_ROWS}
        blocked = []
        for run_id, error_class, failed, settled in tx.execute(sql(_HOPELESS), limits).all():
            state, run = lock_run(tx, run_id)
            if state is not RunState.RUNNING:
                continue
            example = tx.execute(
                sql("SELECT message FROM failures WHERE run_id = :run AND error_class = :class ORDER BY seq LIMIT 1"),
                {"run": run_id, "class": error_class},
            ).scalar()
            reason = f"{failed} of {settled} fetches failed as {error_class}: {example}"
            move_run(tx, run_id, RunState.BLOCKED, "dispatcher", reason=reason, blocked_by=f"failures:{error_class}")
            reopen_failures(tx, run_id, classes=[error_class], stage="fetch", generation=run["generation"])
            blocked.append(run_id)
        tx.execute(sql(_RECOVERED))
        return blocked

    @transactional
    def block_unserved(self, tx: Connection) -> list[int]:
        """Block runs all of whose work waits for workers that report they cannot do it."""
        blocked = []
        for stuck in tx.execute(sql(_STUCK), {"state": "running"}).all():
            if (stuck.no_io or stuck.no_models) and lock_run(tx, stuck.run_id)[0] is RunState.RUNNING:
                move_run(tx, stuck.run_id, RunState.BLOCKED, "dispatcher", reason=stuck.reason, blocked_by="workers")
                blocked.append(stuck.run_id)
        return blocked

    @transactional
    def unblock_due(self, tx: Connection, probe_s: float) -> list[int]:
        """Let blocked runs go on: at once when workers recovered, else as a probe after ``probe_s`` seconds."""
        stuck = {row.run_id for row in tx.execute(sql(_STUCK), {"state": "blocked"}) if row.no_io or row.no_models}
        found = tx.execute(
            sql(
                "SELECT id, blocked_by, changed_at < clock_timestamp() - :probe * interval '1 second' AS due "
                "FROM runs WHERE ended_at IS NULL AND state = 'blocked' ORDER BY id"
            ),
            {"probe": probe_s},
        ).all()
        freed = []
        for run_id, blocked_by, due in found:
            by_workers = blocked_by == "workers"
            if (run_id in stuck) if by_workers else not due:
                continue
            if lock_run(tx, run_id)[0] is not RunState.BLOCKED:
                continue
            reopen_blocked(tx, run_id)
            move_run(tx, run_id, RunState.RUNNING, "dispatcher", reason=None)
            if not by_workers:
                tx.execute(sql("UPDATE runs SET probing = true WHERE id = :run"), {"run": run_id})
            freed.append(run_id)
        return freed

    @transactional
    def pause_spent(self, tx: Connection) -> list[int]:
        """Pause runs that used up the requests they may make while rows are still to be fetched."""
        paused = []
        for run_id, most in tx.execute(sql(_SPENT)).all():
            if lock_run(tx, run_id)[0] is RunState.RUNNING:
                move_run(tx, run_id, RunState.PAUSED, "dispatcher", reason=f"all {most} requests are spent")
                paused.append(run_id)
        return paused
