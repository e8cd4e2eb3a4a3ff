"""What operators read: a run's status and failures. Reads units, shards and progress; never counts rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection, RowMapping

from workers.ledger.blocking import LIVE_WORKERS, SERVES
from workers.ledger.records import FailedRow, FailureDetail, RunRecord, RunStatus, StageStatus
from workers.ledger.run_rows import read_run
from workers.ledger.transactions import Transactions, sql, transactional

_FETCHES = """
    SELECT group_index AS entry, sum(done_rows) AS done, sum(no_data_rows) AS no_data, 0 AS low_quality,
        sum(failed_rows) AS failed, sum(open_rows) AS open,
        count(*) FILTER (WHERE state = 'pending' AND admitted) AS ready,
        count(*) FILTER (WHERE state = 'leased') AS leased,
        extract(epoch FROM clock_timestamp() - min(ready_at) FILTER (WHERE state = 'pending' AND admitted)) AS oldest,
        sum(losses) AS losses, count(*) FILTER (WHERE losses > 0 AND state <> 'done') AS suspects
    FROM fetch_units WHERE run_id = :run GROUP BY group_index
"""

# A shard that is done again counts with its file from before, but for the rows that are asked.
_EMBEDS = """
    SELECT model_index AS entry, sum(ok_rows) FILTER (WHERE counted) AS done,
        sum(no_data_rows) FILTER (WHERE counted) AS no_data,
        sum(low_quality_rows) FILTER (WHERE counted) AS low_quality,
        sum(failed_rows - CASE WHEN ended THEN 0 ELSE cardinality(wanted) END) FILTER (WHERE counted) AS failed,
        coalesce(sum(coalesce(cardinality(wanted), n_rows)) FILTER (WHERE NOT ended), 0) AS open,
        count(*) FILTER (WHERE state = 'ready') AS ready, count(*) FILTER (WHERE state = 'leased') AS leased,
        extract(epoch FROM clock_timestamp() - min(ready_at) FILTER (WHERE state = 'ready')) AS oldest,
        sum(losses) AS losses, count(*) FILTER (WHERE losses > 0 AND NOT ended) AS suspects
    FROM (
        SELECT *, state IN ('done', 'failed') AS ended, state IN ('done', 'failed') OR wanted IS NOT NULL AS counted
        FROM infer_jobs WHERE run_id = :run
    ) j GROUP BY model_index
"""

# Rows per second over the window, or since the first row where the run is younger.
_RATES = """
    SELECT stage, entry_index AS entry,
        sum(settled) FILTER (WHERE age <= 60) / greatest(1, least(60, max(age))) AS rate_1m,
        sum(settled) FILTER (WHERE age <= 300) / greatest(1, least(300, max(age))) AS rate_5m,
        sum(settled) FILTER (WHERE age <= 3600) / greatest(1, least(3600, max(age))) AS rate_60m
    FROM (
        SELECT *, extract(epoch FROM clock_timestamp() - at) AS age FROM progress
        WHERE run_id = :run AND at > clock_timestamp() - interval '65 minutes'
    ) p GROUP BY stage, entry_index
"""

_FAILURES = (
    "SELECT error_class, count(*) AS n FROM failures WHERE run_id = :run GROUP BY error_class ORDER BY 2 DESC, 1"
)

_UNSERVED = f"""
    WITH {LIVE_WORKERS}
    SELECT m.label FROM run_models m
    WHERE m.run_id = :run
        AND EXISTS (SELECT FROM infer_jobs j WHERE j.run_id = :run AND j.model_index = m.model_index
                    AND j.state IN ('waiting', 'ready', 'leased'))
        AND NOT EXISTS (SELECT FROM live w WHERE {SERVES} AND NOT jsonb_exists(w.degraded, m.model))
    ORDER BY m.model_index
"""

_DRAINED = """
    SELECT queue FROM drains WHERE queue IN ('*', 'io', 'control')
        OR queue IN (SELECT m.queue FROM run_models m WHERE m.run_id = :run)
    ORDER BY queue
"""

_FAILED_ROWS = """
    SELECT f.*, t.text AS traceback FROM failures f
    LEFT JOIN tracebacks t ON t.run_id = f.run_id AND t.hash = f.trace_hash
    WHERE f.run_id = :run AND (CAST(:class AS text) IS NULL OR f.error_class = :class)
    ORDER BY f.seq, f.stage, f.entry_index LIMIT :limit
"""


class Statuses(Transactions):
    """Reading runs in depth."""

    @transactional
    def status(self, tx: Connection, run_id: int) -> RunStatus:
        """Where the run stands, stage by stage: first its fetches, then its models."""
        run, here = read_run(tx, run_id), {"run": run_id}
        rates = {(row["stage"], row["entry"]): row for row in tx.execute(sql(_RATES), here).mappings()}
        fetches = tx.execute(sql(_FETCHES), here).mappings().all()
        embeds = tx.execute(sql(_EMBEDS), here).mappings().all()
        names: dict[str, dict[int, str]] = {"fetch": group_labels(run), "embed": {m.index: m.label for m in run.models}}
        stages = [
            _stage(stage, names[stage][row["entry"]], row, rates.get((stage, row["entry"])))
            for stage, rows in (("fetch", fetches), ("embed", embeds))
            for row in sorted(rows, key=lambda row: int(row["entry"]))
        ]
        expiries = tx.execute(
            sql("SELECT count(*) FROM events WHERE run_id = :run AND kind = 'lease_expired'"), here
        ).scalar_one()
        return RunStatus(
            run=run,
            stages=tuple(stages),
            failures={row.error_class: row.n for row in tx.execute(sql(_FAILURES), here)},
            losses=sum(int(row["losses"]) for row in (*fetches, *embeds)),
            expiries=expiries,
            suspects=sum(row["suspects"] for row in (*fetches, *embeds)),
            requests=run.requests,
            unserved=tuple(tx.execute(sql(_UNSERVED), here).scalars()) if run.ended_at is None else (),
            drained=tuple(tx.execute(sql(_DRAINED), here).scalars()) if run.ended_at is None else (),
        )

    @transactional
    def failures(
        self, tx: Connection, run_id: int, error_class: str | None = None, limit: int = 100
    ) -> list[FailedRow]:
        """Failed rows in their order, of one class or of all."""
        run = read_run(tx, run_id)
        labels = {"fetch": group_labels(run), "infer": {model.index: model.label for model in run.models}}
        found = tx.execute(sql(_FAILED_ROWS), {"run": run_id, "class": error_class, "limit": limit}).mappings()
        return [
            FailedRow(
                run=run_id,
                label=labels[row["stage"]][row["entry_index"]],
                seq=row["seq"],
                row=row["input_row"],
                id=row["row_id"],
                failure=FailureDetail(
                    row["stage"], row["error_class"], row["message"], row["traceback"], row["attempts"]
                ),
                at=row["at"],
            )
            for row in found
        ]


def group_labels(run: RunRecord) -> dict[int, str]:
    """Fetch group -> the labels of its models joined by ``+``."""
    return {
        group.index: "+".join(model.label for model in run.models if model.group == group.index) for group in run.groups
    }


def _stage(stage: str, label: str, row: RowMapping, rates: RowMapping | None) -> StageStatus:
    kind: Literal["fetch", "embed"] = "fetch" if stage == "fetch" else "embed"
    per_s: Sequence[float] = (0.0, 0.0, 0.0) if rates is None else [float(rates[f"rate_{n}m"] or 0) for n in (1, 5, 60)]
    lately = next((rate for rate in per_s if rate), 0.0)
    return StageStatus(
        stage=kind,
        label=label,
        done=int(row["done"] or 0),
        no_data=int(row["no_data"] or 0),
        low_quality=int(row["low_quality"] or 0),
        failed=int(row["failed"] or 0),
        open=int(row["open"]),
        ready_units=row["ready"],
        leased_units=row["leased"],
        oldest_ready_s=None if row["oldest"] is None else float(row["oldest"]),
        rate_1m=per_s[0],
        rate_5m=per_s[1],
        rate_60m=per_s[2],
        eta_s=0.0 if not row["open"] else (float(row["open"]) / lately if lately else None),
    )
