"""What must hold in the ledger, whatever happened; every finding is a sentence."""

from __future__ import annotations

from sqlalchemy import Connection, text

from workers.ledger.partitions import TABLES, partition
from workers.ledger.records import RunState
from workers.ledger.run_rows import read_runs
from workers.ledger.transactions import Transactions, transactional

# Each gives one row for every violation, the columns filling the sentence's blanks.
_RULES: tuple[tuple[str, str], ...] = (
    (
        "{} rows are stored, numbered {} to {}, of {}",
        """
        SELECT c.n, c.low, c.high, r.n_rows FROM runs r,
            (SELECT count(*) AS n, min(seq) AS low, max(seq) AS high FROM rows WHERE run_id = :run) c
        WHERE r.id = :run AND (c.n <> r.n_rows OR (c.n > 0 AND (c.low <> 0 OR c.high <> c.n - 1)))
        """,
    ),
    (
        "fetch unit {}/{} counts {}, its rows are {} (done, no data, failed)",
        """
        SELECT u.group_index, u.shard, concat_ws(' ', u.done_rows, u.no_data_rows, u.failed_rows),
            concat_ws(' ', coalesce(c.done, 0), coalesce(c.no_data, 0), coalesce(c.failed, 0))
        FROM fetch_units u JOIN runs r ON r.id = u.run_id
        LEFT JOIN (
            SELECT j.group_index, j.seq / o.shard_size AS shard, count(*) FILTER (WHERE j.state = 'done') AS done,
                count(*) FILTER (WHERE j.state = 'no_data') AS no_data,
                count(*) FILTER (WHERE j.state = 'failed') AS failed
            FROM fetch_jobs j, runs o WHERE j.run_id = :run AND o.id = :run GROUP BY 1, 2
        ) c ON c.group_index = u.group_index AND c.shard = u.shard
        WHERE u.run_id = :run AND (u.done_rows, u.no_data_rows, u.failed_rows)
            <> (coalesce(c.done, 0), coalesce(c.no_data, 0), coalesce(c.failed, 0))
        """,
    ),
    (
        "fetch unit {}/{} is {} with {} open rows",
        """
        SELECT group_index, shard, state, open_rows FROM fetch_units
        WHERE run_id = :run AND (state = 'done') <> (open_rows = 0)
        """,
    ),
    (
        "fetch unit {}/{} is {} and its lease says otherwise",
        """
        SELECT group_index, shard, state FROM fetch_units
        WHERE run_id = :run AND ((state = 'leased') <> (token IS NOT NULL AND lease_until IS NOT NULL)
            AND state <> 'done')
        """,
    ),
    (
        "shard {}/{} is {} and its lease says otherwise",
        """
        SELECT model_index, shard, state FROM infer_jobs
        WHERE run_id = :run AND state IN ('waiting', 'ready', 'leased')
            AND (state = 'leased') <> (token IS NOT NULL AND lease_until IS NOT NULL)
        """,
    ),
    (
        "shard {}/{} is {} while its unit is {}",
        """
        SELECT j.model_index, j.shard, j.state, u.state FROM infer_jobs j
        JOIN fetch_units u ON u.run_id = :run AND u.group_index = j.group_index AND u.shard = j.shard
        WHERE j.run_id = :run AND j.state = 'waiting' AND u.state = 'done'
        """,
    ),
    (
        "shard {}/{} ended without a whole file: {} of {} rows, sha256 {}",
        """
        SELECT model_index, shard, file_rows, n_rows, sha256 FROM infer_jobs
        WHERE run_id = :run AND state IN ('done', 'failed') AND (name IS NULL OR sha256 IS NULL
            OR commit_no IS NULL OR file_rows IS DISTINCT FROM n_rows
            OR ok_rows + low_quality_rows + no_data_rows + failed_rows <> n_rows
            OR json_array_length(row_failures) <> failed_rows)
        """,
    ),
    (
        "the file {} belongs to {} shards",
        """
        SELECT name, count(*) FROM infer_jobs WHERE run_id = :run AND name IS NOT NULL GROUP BY name
        HAVING count(*) > 1
        """,
    ),
    (
        "fetch {} has {} failed rows, {} are described",
        """
        SELECT u.group_index, sum(u.failed_rows), (SELECT count(*) FROM failures f WHERE f.run_id = :run
            AND f.stage = 'fetch' AND f.entry_index = u.group_index) AS described
        FROM fetch_units u WHERE u.run_id = :run GROUP BY u.group_index HAVING sum(u.failed_rows) <> (
            SELECT count(*) FROM failures f
            WHERE f.run_id = :run AND f.stage = 'fetch' AND f.entry_index = u.group_index)
        """,
    ),
    (
        "model {} has {} rows that failed at inference in its files, {} are described",
        """
        SELECT m.model_index, c.n, d.n FROM run_models m
        CROSS JOIN LATERAL (
            SELECT count(*) AS n FROM infer_jobs j CROSS JOIN LATERAL json_array_elements(j.row_failures) f
            WHERE j.run_id = :run AND j.model_index = m.model_index AND j.state IN ('done', 'failed')
                AND f ->> 3 = 'infer'
        ) c CROSS JOIN LATERAL (
            SELECT count(*) AS n FROM failures f JOIN infer_jobs j ON j.run_id = :run
                AND j.model_index = m.model_index AND f.seq >= j.first_seq AND f.seq < j.first_seq + j.n_rows
            WHERE f.run_id = :run AND f.stage = 'infer' AND f.entry_index = m.model_index
                AND j.state IN ('done', 'failed')
        ) d WHERE m.run_id = :run AND c.n <> d.n
        """,
    ),
    (
        "a file of shard {}/{} says that the fetch of row {} failed, the ledger does not",
        """
        SELECT j.model_index, j.shard, f ->> 1
        FROM infer_jobs j CROSS JOIN LATERAL json_array_elements(j.row_failures) f
        WHERE j.run_id = :run AND j.state IN ('done', 'failed') AND f ->> 3 = 'fetch' AND NOT EXISTS (
            SELECT FROM failures d WHERE d.run_id = :run AND d.stage = 'fetch' AND d.entry_index = j.group_index
                AND d.seq = CAST(f ->> 1 AS bigint))
        """,
    ),
    (
        "fetch unit {}/{} reserves {} bytes that nobody needs",
        """
        SELECT u.group_index, u.shard, u.reserved_bytes FROM fetch_units u
        WHERE u.run_id = :run AND u.state = 'done' AND u.reserved_bytes > 0 AND NOT EXISTS (
            SELECT FROM infer_jobs j WHERE j.run_id = :run AND j.group_index = u.group_index AND j.shard = u.shard
                AND j.state IN ('waiting', 'ready', 'leased'))
        """,
    ),
)

_ENDED_RULES: tuple[tuple[str, str], ...] = (
    (
        "the run is done, shard {}/{} is {}",
        "SELECT model_index, shard, state FROM infer_jobs WHERE run_id = :run AND state NOT IN ('done', 'failed')",
    ),
    (
        "the run is done, the parts of model {} hold {} of {} rows",
        """
        SELECT m.model_index, coalesce(sum(p.file_rows), 0), r.n_rows FROM runs r
        JOIN run_models m ON m.run_id = r.id
        LEFT JOIN parts p ON p.run_id = r.id AND p.model_index = m.model_index
        WHERE r.id = :run GROUP BY m.model_index, r.n_rows HAVING coalesce(sum(p.file_rows), 0) <> r.n_rows
        """,
    ),
    (
        "the run is {}, {} rows failed",
        """
        SELECT r.state, sum(j.failed_rows) FROM runs r JOIN infer_jobs j ON j.run_id = r.id WHERE r.id = :run
        GROUP BY r.state HAVING (r.state = 'done_with_failures') <> (sum(j.failed_rows) > 0)
        """,
    ),
)

_STRAY_PARTITIONS = """
    SELECT c.relname FROM pg_class c
    WHERE c.relkind = 'r' AND c.relname ~ '^(rows|fetch_jobs)_r[0-9]+$' AND pg_table_is_visible(c.oid)
        AND NOT EXISTS (SELECT FROM runs r WHERE c.relname IN ('rows_r' || r.id, 'fetch_jobs_r' || r.id))
"""


class Checking(Transactions):
    """The ledger held against itself."""

    @transactional
    def check(self, tx: Connection, run_id: int | None = None) -> list[str]:
        """Everything that is not as it must be, of one run or of all; empty when all is well. Counts rows."""
        condition = "WHERE r.state NOT IN ('loading', 'dropping')" + ("" if run_id is None else " AND r.id = :run")
        found = []
        for run in read_runs(tx, condition + " ORDER BY r.id", {"run": run_id}):
            rules = _RULES
            if run.state in (RunState.DONE, RunState.DONE_WITH_FAILURES):
                rules += _ENDED_RULES
            here = {"run": run.id}
            for sentence, statement in rules:
                found += [f"run {run.id}: {sentence.format(*row)}" for row in tx.execute(text(statement), here)]
            for table in TABLES:
                name = partition(table, run.id)
                if tx.execute(text("SELECT to_regclass(:name)"), {"name": name}).scalar() is None:
                    found.append(f"run {run.id}: the table {name} is missing")
        if run_id is None:
            names = tx.execute(text(_STRAY_PARTITIONS)).scalars()
            found += [f"the table {name} belongs to no run; it may be dropped" for name in names]
        return found
