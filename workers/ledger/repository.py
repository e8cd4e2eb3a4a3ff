"""The ledger's two faces: :class:`Ledger` for everybody, :class:`Leadership` for the one dispatcher that leads."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, text

from workers.ledger import partitions
from workers.ledger.admission import Admission
from workers.ledger.blocking import Blocking
from workers.ledger.checking import Checking
from workers.ledger.db import head, make_engine, schema_version, session_scope, translated
from workers.ledger.errors import LedgerError, LedgerUnavailableError
from workers.ledger.events import Events, note
from workers.ledger.finishing import Finishing
from workers.ledger.loading import Loading
from workers.ledger.measures import Measures
from workers.ledger.rebuilding import Rebuilding
from workers.ledger.records import RunState
from workers.ledger.retrying import Retrying
from workers.ledger.runs import Runs, move_run
from workers.ledger.shards import Shards
from workers.ledger.statuses import Statuses
from workers.ledger.sweeping import Sweeping
from workers.ledger.transactions import transactional
from workers.ledger.units import Units
from workers.ledger.workforce import Workforce

logger = logging.getLogger(__name__)

_LEADER = 7_235_841_900  # any number: who holds its advisory lock leads
_FORGET = ("fetch_units", "infer_jobs")
_FORGET_LAST = ("parts", "failures", "tracebacks", "progress", "run_models")


class Ledger(
    Loading, Runs, Retrying, Finishing, Rebuilding, Units, Shards, Admission, Workforce, Statuses, Measures, Checking,
    Events,
):  # fmt: skip
    """Every query and transition, each in one short transaction; one object for a process, shared by its threads.

    ``direct``: the URL does not go through a transaction pooler, so that leading and dropping,
    which need a session of their own, are possible. No connection is opened before it is needed.
    """

    def __init__(self, database_url: str, *, direct: bool = False) -> None:
        self._engine = make_engine(database_url)
        self._direct = direct

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """See :class:`~workers.ledger.transactions.Transactions`."""
        with session_scope(self._engine) as tx:
            yield tx

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._engine.dispose()

    @transactional
    def ping(self, tx: Connection) -> None:
        """Raise LedgerUnavailableError unless the database answers."""
        tx.execute(text("SELECT 1"))

    def schema_is_ours(self) -> bool:
        """Whether the database has exactly the schema of this code."""
        return schema_version(self._engine) == head()

    def lead(self) -> Leadership | None:
        """Become the dispatcher that leads; None while somebody else does."""
        self._require_direct("leading")
        with translated(self._engine):
            connection = self._engine.connect()
            # The server, too, must notice soon that a leader's machine is gone: it holds the lock for it.
            for name, value in (("idle", 10), ("interval", 5), ("count", 3)):
                connection.execute(text(f"SET tcp_keepalives_{name} = {value}"))
            got = connection.execute(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LEADER}).scalar_one()
            connection.commit()
            if got:
                return Leadership(connection)
            connection.invalidate()  # its settings must not return to the pool
            connection.close()
        return None

    def drop(self, run_id: int, who: str) -> None:
        """Forget the run; its outputs stay. May be repeated when it did not come to its end."""
        self._require_direct("dropping a run")
        self._forget(run_id, who)
        partitions.drop(self._engine, run_id)
        self._forget_last(run_id)

    @transactional
    def _forget(self, tx: Connection, run_id: int, who: str) -> None:
        """Take the run's work away from whoever holds it."""
        move_run(tx, run_id, RunState.DROPPING, who)
        for table in _FORGET:
            tx.execute(text(f"DELETE FROM {table} WHERE run_id = :run"), {"run": run_id})

    @transactional
    def _forget_last(self, tx: Connection, run_id: int) -> None:
        for table in _FORGET_LAST:
            tx.execute(text(f"DELETE FROM {table} WHERE run_id = :run"), {"run": run_id})
        tx.execute(text("DELETE FROM runs WHERE id = :run AND state = 'dropping'"), {"run": run_id})
        note(tx, run_id, "run_dropped", "ledger")

    def _require_direct(self, what: str) -> None:
        if not self._direct:
            raise LedgerError(f"{what} needs a direct connection: set RSEMBED_DIRECT_DATABASE_URL")


class Leadership(Sweeping, Blocking, Admission):
    """The right to lead, held by one connection; everything a dispatcher writes goes through it.

    Once the connection is lost every call raises LedgerUnavailableError, and somebody else may
    lead: close it and ask again.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.since = time.monotonic()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """See :class:`~workers.ledger.transactions.Transactions`."""
        if self._connection.closed or self._connection.invalidated:
            raise LedgerUnavailableError("the connection that held the leadership is lost")
        with translated(self._connection.engine), self._connection.begin():
            yield self._connection

    def close(self) -> None:
        """Stop leading."""
        if not self._connection.closed:
            self._connection.invalidate()
            self._connection.close()
