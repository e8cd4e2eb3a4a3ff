"""An empty ledger for each test, on one server for all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ledger_parts import execute
from workers.ledger.db import upgrade
from workers.ledger.models_work import Base
from workers.ledger.repository import Leadership, Ledger


@pytest.fixture(scope="session")
def ledger_url(database_url: str) -> str:
    """URL of a database that has the ledger's tables."""
    upgrade(database_url)
    return database_url


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """A ledger without runs."""
    partitions = execute(ledger_url, "SELECT relname FROM pg_class WHERE relname ~ '^(rows|fetch_jobs)_r[0-9]+$'")
    for (name,) in partitions:
        execute(ledger_url, f"DROP TABLE {name}")
    execute(ledger_url, "TRUNCATE " + ", ".join(table.name for table in Base.metadata.sorted_tables))
    opened = Ledger(ledger_url, direct=True)
    yield opened
    opened.close()


@pytest.fixture
def leader(ledger: Ledger) -> Iterator[Leadership]:
    """The dispatcher's place."""
    leading = ledger.lead()
    assert leading is not None
    yield leading
    leading.close()
