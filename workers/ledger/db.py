"""The database itself: engine, transactions, schema, and the driver's errors in our own words."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, exc, make_url

from rsembed.core.errors import SpecError
from workers.ledger.errors import LedgerError, LedgerUnavailableError

POOL_CONNECTIONS = 2
"""Connections of one process; a fleet of 200 workers has to fit into a modest server."""

_CONNECT = {
    "connect_timeout": 10,
    "application_name": "rsembed",
    # A server that went away without a word is noticed well before a lease ends twice.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
_GONE = (
    exc.OperationalError, exc.InterfaceError, exc.TimeoutError, psycopg2.OperationalError, psycopg2.InterfaceError
)  # fmt: skip
_UNDEFINED = {"42P01", "42703", "42704", "3F000"}  # table, column, object, schema


def make_engine(url: str) -> Engine:
    """An engine that opens at most ``POOL_CONNECTIONS`` connections, the first one on first use.

    ``url``: postgres:// or postgresql://, a socket as ``postgresql:///name?host=/folder``. SpecError when it is none.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise SpecError("DATABASE_URL is no URL; expected postgresql://user:password@host:5432/name") from error
    if parsed.get_backend_name() not in ("postgres", "postgresql"):
        raise SpecError(f"the ledger needs Postgres, DATABASE_URL names {parsed.get_backend_name()}")
    return create_engine(
        parsed.set(drivername="postgresql+psycopg2"),
        pool_size=POOL_CONNECTIONS,
        max_overflow=0,
        pool_timeout=30,
        pool_recycle=1800,
        connect_args=_CONNECT,
    )


_one_at_a_time = threading.Lock()  # Alembic keeps what it works on in globals of its modules


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """Raise the driver's errors as LedgerError, or LedgerUnavailableError where trying again makes sense."""
    try:
        yield
    except (exc.SQLAlchemyError, psycopg2.Error) as error:
        raise _in_our_words(error, engine) from error


def _in_our_words(error: exc.SQLAlchemyError | psycopg2.Error, engine: Engine) -> LedgerError:
    where = engine.url.set(drivername="postgresql").render_as_string(hide_password=True)
    cause = error.orig if isinstance(error, exc.DBAPIError) else error
    lines = str(cause).strip().splitlines() or [type(cause).__name__]
    if isinstance(error, _GONE) or (isinstance(error, exc.DBAPIError) and error.connection_invalidated):
        return LedgerUnavailableError(f"the database at {where} did not answer: {lines[0]}")
    if getattr(cause, "pgcode", None) in _UNDEFINED:
        return LedgerError(f"{where} has not the tables of this version ({lines[0]}); run: rsembed fleet db upgrade")
    return LedgerError(f"the database at {where} refused: {lines[0]}")


@contextmanager
def session_scope(engine: Engine) -> Iterator[Connection]:
    """One transaction: committed at the end of the block, rolled back when it raises."""
    with translated(engine), engine.begin() as connection:
        yield connection


# The schema


def _scripts() -> Config:
    # By name: the ledger may not import the migrations, which import its models.
    found = importlib.util.find_spec("migrations")
    if found is None or not found.submodule_search_locations:
        raise LedgerError("the package `migrations` is missing; install rsembed again")
    config = Config()
    config.set_main_option("script_location", str(Path(found.submodule_search_locations[0])).replace("%", "%%"))
    return config


def head() -> str:
    """The schema version this code was written for."""
    revision = ScriptDirectory.from_config(_scripts()).get_current_head()
    assert revision is not None
    return revision


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the schema to ``revision``; concurrent callers take turns. ``url`` must not go through a pooler."""
    _migrate(url, revision, command.upgrade)


def downgrade(url: str, revision: str) -> None:
    """Take the schema back to ``revision`` (``base``: no tables at all)."""
    _migrate(url, revision, command.downgrade)


def _migrate(url: str, revision: str, change: Callable[[Config, str], None]) -> None:
    engine = make_engine(url)
    try:
        with _one_at_a_time, translated(engine), engine.connect() as connection:
            config = _scripts()
            config.attributes["connection"] = connection
            change(config, revision)
    finally:
        engine.dispose()


def current(url: str) -> str | None:
    """The schema version of the database; None where there are no tables yet."""
    engine = make_engine(url)
    try:
        return schema_version(engine)
    finally:
        engine.dispose()


def schema_version(engine: Engine) -> str | None:
    """See :func:`current`."""
    with translated(engine), engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision()


def check_schema(url: str) -> None:
    """Raise LedgerError unless the schema is exactly the one of this code."""
    found, wanted = current(url), head()
    if found == wanted:
        return
    known = {script.revision for script in ScriptDirectory.from_config(_scripts()).walk_revisions()}
    if found is not None and found not in known:
        raise LedgerError(
            f"the database has schema {found}, which this version does not know (it has {wanted}); "
            "install the version of rsembed that the rest of the fleet runs"
        )
    have = "no tables yet" if found is None else f"schema {found}"
    raise LedgerError(f"the database has {have}, this version needs {wanted}; run: rsembed fleet db upgrade")
