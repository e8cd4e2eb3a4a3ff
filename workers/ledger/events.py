"""Who did what when: one line for each change of a unit or run, never for a row."""

from __future__ import annotations

import json
from collections.abc import Mapping

from sqlalchemy import Connection

from rsembed.core.patch import Json
from workers.ledger.records import Event
from workers.ledger.transactions import Transactions, sql, transactional


def note(tx: Connection, run_id: int | None, kind: str, who: str, **detail: Json) -> None:
    """Write an event as part of a transaction."""
    tx.execute(
        sql("INSERT INTO events (run_id, kind, who, detail) VALUES (:run, :kind, :who, :detail)"),
        {"run": run_id, "kind": kind, "who": who, "detail": to_text(detail)},
    )


def to_text(value: Json) -> str:
    """``value`` as the ledger's JSON columns keep it, to the letter."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


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
