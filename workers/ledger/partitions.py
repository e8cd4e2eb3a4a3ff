"""The partitions of ``rows`` and ``fetch_jobs``: one of each for every run, made apart and attached when full."""

from __future__ import annotations

import time

from sqlalchemy import Connection, Engine, exc, text

from workers.ledger.db import translated
from workers.ledger.errors import LedgerUnavailableError

TABLES = ("rows", "fetch_jobs")
_KEYS = {"rows": "run_id, seq", "fetch_jobs": "run_id, group_index, seq"}
_DROPPING = 7_235_841_901  # any number: one run is dropped at a time
_LOCK_TIMEOUT = "2s"
_TRIES = 30
_NO_LOCK = {"55P03"}

_HALFWAY = """
    SELECT CAST(CAST(inhrelid AS regclass) AS text) FROM pg_inherits
    WHERE inhparent = to_regclass(:table) AND inhdetachpending AND inhrelid IS DISTINCT FROM to_regclass(:name)
"""


def partition(table: str, run_id: int) -> str:
    """Name of the partition of ``table`` that holds a run."""
    return f"{table}_r{int(run_id)}"


def create(tx: Connection, run_id: int) -> None:
    """Make the run's tables, standing alone; the key of ``rows`` comes with :func:`attach`, after the load."""
    for table in TABLES:
        name = partition(table, run_id)
        tx.execute(text(f"DROP TABLE IF EXISTS {name}"))
        # The check lets ATTACH believe without reading the table.
        tx.execute(
            text(
                f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS INCLUDING CONSTRAINTS, "
                f"CONSTRAINT ck_{name}_run CHECK (run_id = {int(run_id)}))"
            )
        )
        tx.execute(text(f"ALTER TABLE {name} ALTER COLUMN run_id SET DEFAULT {int(run_id)}"))


def attach(tx: Connection, run_id: int) -> None:
    """Build keys and statistics, then attach; only that last step takes a lock that others feel, so commit soon."""
    for table in TABLES:
        name = partition(table, run_id)
        tx.execute(text(f"ALTER TABLE {name} ADD CONSTRAINT pk_{name} PRIMARY KEY ({_KEYS[table]})"))
        tx.execute(text(f"ANALYZE {name}"))
    for left in reversed(range(_TRIES)):
        try:
            with tx.begin_nested():
                tx.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'"))
                for table in TABLES:
                    name = partition(table, run_id)
                    tx.execute(text(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES IN ({int(run_id)})"))
            return
        except exc.OperationalError as error:
            if not left or getattr(error.orig, "pgcode", None) not in _NO_LOCK:
                raise
            time.sleep(0.2)


def drop(engine: Engine, run_id: int) -> None:
    """Detach the run's partitions without stopping anybody, and drop them; may be repeated after a crash.

    Takes a connection of its own, not through a pooler. LedgerUnavailableError when the locks
    cannot be had.
    """
    with translated(engine), engine.connect().execution_options(isolation_level="AUTOCOMMIT") as own:
        try:
            own.execute(text(f"SET lock_timeout = '{_LOCK_TIMEOUT}'"))
            _retried(own, f"SELECT pg_advisory_lock({_DROPPING})")
            for table in TABLES:
                _drop_one(own, table, partition(table, run_id))
        finally:
            own.invalidate()  # its settings and its lock go with it


def _drop_one(own: Connection, table: str, name: str) -> None:
    for _ in range(_TRIES):
        # A table can have one half-detached partition at a time; somebody may have left one behind.
        halfway = own.execute(text(_HALFWAY), {"table": table, "name": name}).scalar()
        if halfway is not None:
            _retried(own, f"ALTER TABLE {table} DETACH PARTITION {halfway} FINALIZE", tries=1)
            continue
        pending = own.execute(
            text("SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = to_regclass(:name)"), {"name": name}
        ).scalar()
        if pending is None:  # detached already, or never attached
            _retried(own, f"DROP TABLE IF EXISTS {name}")
            return
        how = "FINALIZE" if pending else "CONCURRENTLY"
        _retried(own, f"ALTER TABLE {table} DETACH PARTITION {name} {how}", tries=1)
    raise LedgerUnavailableError(f"{name} is in use and cannot be detached; run the same command again later")


def _retried(own: Connection, statement: str, tries: int = _TRIES) -> None:
    for left in reversed(range(tries)):
        try:
            own.execute(text(statement))
            return
        except exc.OperationalError as error:
            if getattr(error.orig, "pgcode", None) not in _NO_LOCK:
                raise
            time.sleep(0.2)
            if not left and tries > 1:
                raise
