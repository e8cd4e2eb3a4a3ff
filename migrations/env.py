"""How a migration runs: on the connection it is handed, alone, and never waiting long for a lock.

Run by Alembic, through :mod:`workers.ledger.db`. A change that cannot get its lock in time
fails and is rolled back, rather than queue every worker's statements behind it.
"""

from __future__ import annotations

import re

from alembic import context
from sqlalchemy import Connection, text

from workers.ledger.models_work import Base

_LOCK = 7_235_841_902  # any number, the same for everybody who migrates
_LOCK_TIMEOUT = "5s"
_STATEMENT_TIMEOUT = "10min"
_TURN_TIMEOUT = "11min"
_PARTITION = re.compile(r"(rows|fetch_jobs)_r\d+")


def include_name(name: str | None, kind: str, _parents: object) -> bool:
    """Partitions come and go with runs; they are no part of the schema."""
    return not (kind == "table" and _PARTITION.fullmatch(name or ""))


def _settings(connection: Connection, *, lock_timeout: str) -> None:
    connection.execute(
        text("SELECT set_config('lock_timeout', :lock, false), set_config('statement_timeout', :statement, false)"),
        {"lock": lock_timeout, "statement": _TURN_TIMEOUT if lock_timeout == _TURN_TIMEOUT else _STATEMENT_TIMEOUT},
    )


def run(connection: Connection) -> None:
    """Migrate, once it is our turn."""
    _settings(connection, lock_timeout=_TURN_TIMEOUT)
    connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
    _settings(connection, lock_timeout=_LOCK_TIMEOUT)
    connection.commit()
    try:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_name=include_name,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})
        connection.commit()


run(context.config.attributes["connection"])
