"""A lost ledger refilled from what stands in the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import Connection, text

from rsembed.pipelines.checkpoint import PartRecord
from workers.ledger.errors import RunStateError
from workers.ledger.events import note
from workers.ledger.failure_rows import write_failures
from workers.ledger.finishing import write_file
from workers.ledger.records import FailureDetail, RowOutcome, RunState
from workers.ledger.run_rows import lock_run, read_run
from workers.ledger.transactions import Transactions, transactional

_ENDED = """
    SELECT u.group_index, u.shard FROM fetch_units u
    WHERE u.run_id = :run AND u.state = 'pending' AND NOT EXISTS (
        SELECT FROM run_models m JOIN infer_jobs j ON j.run_id = m.run_id AND j.model_index = m.model_index
        WHERE m.run_id = :run AND m.group_index = u.group_index AND j.shard = u.shard
            AND j.state IN ('waiting', 'ready', 'leased'))
"""

# Whether a row without an embedding had no imagery, its file says; for the fetch it is done either way.
_OUTCOMES = f"""
    INSERT INTO fetch_jobs (run_id, group_index, seq, state, error_class)
    SELECT :run, u.group_index, s.seq, CASE WHEN f.seq IS NULL THEN 'done' ELSE 'failed' END, f.error_class
    FROM fetch_units u JOIN ({_ENDED}) e ON e.group_index = u.group_index AND e.shard = u.shard
    CROSS JOIN LATERAL generate_series(u.first_seq, u.first_seq + u.n_rows - 1) AS s(seq)
    LEFT JOIN failures f ON f.run_id = :run AND f.stage = 'fetch' AND f.entry_index = u.group_index AND f.seq = s.seq
    WHERE u.run_id = :run
    ON CONFLICT (run_id, group_index, seq) DO NOTHING
"""

_CLOSE = f"""
    UPDATE fetch_units u SET state = 'done', ended_at = clock_timestamp(), open_rows = 0, no_data_rows = 0,
        done_rows = u.n_rows - c.failed, failed_rows = c.failed
    FROM ({_ENDED}) e CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE j.state = 'failed') AS failed FROM fetch_jobs j, fetch_units o
        WHERE j.run_id = :run AND j.group_index = e.group_index AND o.run_id = :run
            AND o.group_index = e.group_index AND o.shard = e.shard
            AND j.seq >= o.first_seq AND j.seq < o.first_seq + o.n_rows
    ) c
    WHERE u.run_id = :run AND u.group_index = e.group_index AND u.shard = e.shard
"""


class Rebuilding(Transactions):
    """Refilling a run that was loaded anew."""

    @transactional
    def rebuild(self, tx: Connection, run_id: int, records: Sequence[PartRecord]) -> int:
        """Take over files that stand in the output; how many shards are ended by them.

        ``records``: one for every shard whose rows are there (also inside a part), and the parts
        after the shards they hold. What is not among them is done again.
        """
        state, _ = lock_run(tx, run_id)
        if state not in (RunState.RUNNING, RunState.PAUSED):
            raise RunStateError(f"run {run_id} is {state.value}; only a running or paused run can be rebuilt")
        run = read_run(tx, run_id)
        shards = 0
        groups = {model.index: model.group for model in run.models}
        for record in records:
            model = write_file(tx, run, record)
            if record.kind == "shard":
                shards += 1
                outcomes = _outcomes(record)
                write_failures(tx, {"run": run_id, "index": model}, "infer", outcomes["infer"])
                write_failures(tx, {"run": run_id, "index": groups[model]}, "fetch", outcomes["fetch"])
        tx.execute(text(_OUTCOMES), {"run": run_id})
        tx.execute(text(_CLOSE), {"run": run_id})
        tx.execute(text(_STRAY), {"run": run_id})
        note(tx, run_id, "run_rebuilt", "operator", shards=shards)
        return shards


# Failed fetches of units that are fetched again after all.
_STRAY = """
    DELETE FROM failures f USING fetch_units u
    WHERE f.run_id = :run AND f.stage = 'fetch' AND u.run_id = :run AND u.group_index = f.entry_index
        AND u.state <> 'done' AND f.seq >= u.first_seq AND f.seq < u.first_seq + u.n_rows
"""


def _outcomes(record: PartRecord) -> dict[str, list[RowOutcome]]:
    """The failed rows of a file by stage, as far as a file tells."""
    found: dict[str, list[RowOutcome]] = {"fetch": [], "infer": []}
    for failure in record.failures:
        stage: Literal["fetch", "infer"] = "fetch" if failure.stage == "fetch" else "infer"
        detail = FailureDetail(stage, failure.error_class, failure.message)
        slot = failure.seq - record.first_seq
        found[stage].append(RowOutcome(slot, failure.seq, failure.row, failure.id, "failed", detail))
    return found
