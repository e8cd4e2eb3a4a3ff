"""Failed rows as the ledger keeps them: the traceback once for all rows that share it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from sqlalchemy import Connection

from rsembed.core.patch import Json
from rsembed.pipelines.checkpoint import FailureRecord
from workers.ledger.events import clean
from workers.ledger.records import RowOutcome
from workers.ledger.transactions import sql

TRACEBACKS_PER_RUN = 200
_TRACEBACK_CHARS = 8_000
_MESSAGE_CHARS = 10_000

_WRITE = """
    INSERT INTO failures
        (run_id, stage, entry_index, seq, input_row, row_id, error_class, message, trace_hash, attempts)
    SELECT :run, :stage, :index, f.* FROM unnest(
        CAST(:seqs AS bigint[]), CAST(:rows AS bigint[]), CAST(:ids AS text[]), CAST(:classes AS text[]),
        CAST(:messages AS text[]), CAST(:hashes AS text[]), CAST(:attempts AS int[])) AS f
    ON CONFLICT (run_id, stage, entry_index, seq) DO UPDATE SET error_class = excluded.error_class,
        message = excluded.message, trace_hash = excluded.trace_hash, attempts = excluded.attempts, at = excluded.at
"""

_TRACES = """
    INSERT INTO tracebacks (run_id, hash, text)
    SELECT :run, t.* FROM unnest(CAST(:hashes AS text[]), CAST(:texts AS text[])) AS t
    WHERE (SELECT count(*) FROM tracebacks WHERE run_id = :run) < :most
    ON CONFLICT (run_id, hash) DO NOTHING
"""


def write_failures(
    tx: Connection, place: Mapping[str, object], stage: Literal["fetch", "infer"], outcomes: Sequence[RowOutcome]
) -> None:
    """Write the failed ones among ``outcomes``; ``place`` names run and index (group or model)."""
    failed = [(outcome, outcome.failure) for outcome in outcomes if outcome.failure is not None]
    if not failed:
        return
    traces = {}
    hashes = []
    for _, failure in failed:
        hashes.append(_hash(failure.traceback))
        if failure.traceback is not None:
            traces[hashes[-1]] = clean(failure.traceback)[-_TRACEBACK_CHARS:]
    if traces:
        written = {"run": place["run"], "hashes": list(traces), "texts": list(traces.values())}
        tx.execute(sql(_TRACES), written | {"most": TRACEBACKS_PER_RUN})
    columns = {
        "seqs": [outcome.seq for outcome, _ in failed],
        "rows": [outcome.row for outcome, _ in failed],
        "ids": [outcome.id for outcome, _ in failed],
        "classes": [failure.error_class for _, failure in failed],
        "messages": [clean(failure.message)[:_MESSAGE_CHARS] for _, failure in failed],
        "hashes": hashes,
        "attempts": [failure.attempts for _, failure in failed],
    }
    tx.execute(sql(_WRITE), {"run": place["run"], "index": place["index"], "stage": stage} | columns)


def _hash(traceback: str | None) -> str | None:
    """Tells tracebacks apart by where they went, not by the message in their last line."""
    if traceback is None:
        return None
    frames = traceback.strip().rpartition("\n")[0]
    return hashlib.sha256(frames.encode("utf-8", "replace")).hexdigest()[:32]


def failures_json(failures: Iterable[FailureRecord]) -> list[Json]:
    """A file's failures as its record holds them."""
    return [[f.row, f.seq, f.id, f.stage, f.error_class, clean(f.message)] for f in failures]


def failures_from_json(value: Iterable[Sequence[object]]) -> tuple[FailureRecord, ...]:
    """The inverse of :func:`failures_json`."""
    return tuple(
        FailureRecord(int(str(row)), int(str(seq)), str(row_id), str(stage), str(kind), str(message))
        for row, seq, row_id, stage, kind, message in value
    )
