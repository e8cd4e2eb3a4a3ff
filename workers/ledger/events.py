"""Who did what when: one line for each change of a unit or run, never for a row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from rsembed.core.patch import Json
from workers.ledger.records import Event
from workers.ledger.transactions import Transactions, sql, transactional


def note(tx: Connection, run_id: int | None, kind: str, who: str, **detail: Json) -> None:
    """Write an event as part of a transaction."""
    tx.execute(
        sql("INSERT INTO events (run_id, kind, who, detail) VALUES (:run, :kind, :who, :detail)"),
        {"run": run_id, "kind": kind, "who": who, "detail": to_text(_cleaned(detail))},
    )


def note_seldom(tx: Connection, run_id: int, kind: str, who: str, *, error: str | None, **detail: Json) -> None:
    """:func:`note`, unless the same was written of the run within the last minute: what hinders one hinders all."""
    values = {"run": run_id, "kind": kind, "who": who, "error": None if error is None else clean(error)}
    tx.execute(sql(_SELDOM), values | {"detail": to_text(_cleaned({**detail, "error": error}))})


_SELDOM = """
    INSERT INTO events (run_id, kind, who, detail)
    SELECT :run, :kind, :who, CAST(:detail AS json) WHERE NOT EXISTS (
        SELECT FROM (SELECT * FROM events WHERE run_id = :run ORDER BY id DESC LIMIT 20) e
        WHERE e.kind = :kind AND e.at > clock_timestamp() - interval '1 minute'
            AND e.detail ->> 'error' IS NOT DISTINCT FROM CAST(:error AS text))
"""


def to_text(value: Json) -> str:
    """``value`` as the ledger's JSON columns keep it, to the letter."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _cleaned(value: Json) -> Json:
    """``value`` with every text in it cleaned, so that statements can look into it."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(key): _cleaned(each) for key, each in value.items()}
    if isinstance(value, Sequence):
        return [_cleaned(each) for each in value]
    return value


def clean(value: str) -> str:
    """``value`` as text that Postgres takes."""
    return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


class Events(Transactions):
    """Reading and writing events."""

    @transactional
    def add_event(self, tx: Connection, run_id: int | None, kind: str, detail: Mapping[str, Json], who: str) -> None:
        """Record what an operator or a part of the fleet did."""
        note(tx, run_id, kind, who, **detail)

    @transactional
    def events(self, tx: Connection, run_id: int | None, limit: int = 100) -> list[Event]:
        """The latest events first; of every run where ``run_id`` is None."""
        found = tx.execute(
            sql(
                "SELECT id, run_id, at, who, kind, detail FROM events "
                "WHERE CAST(:run AS bigint) IS NULL OR run_id = :run ORDER BY id DESC LIMIT :limit"
            ),
            {"run": run_id, "limit": limit},
        )
        return [Event(*row) for row in found]
