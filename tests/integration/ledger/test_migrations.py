"""The schema: made, taken back, made again; never guessed."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.engine import make_url

from tests.ledger_parts import execute, load
from workers.ledger.db import check_schema, current, downgrade, head, make_engine, upgrade
from workers.ledger.errors import LedgerError, LedgerUnavailableError
from workers.ledger.models_work import Base
from workers.ledger.repository import Ledger

ROOT = Path(__file__).resolve().parents[3]
TABLES = "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p', 'S') AND relnamespace = 'public'::regnamespace"


@pytest.fixture
def url(database_url: str) -> Iterator[str]:
    """An empty database of the test's own."""
    name = f"migrated_{uuid.uuid4().hex[:12]}"
    execute(database_url, f"CREATE DATABASE {name}")
    yield make_url(database_url).set(database=name).render_as_string(hide_password=False)
    execute(database_url, f"DROP DATABASE {name} WITH (FORCE)")


def differences(url: str) -> list[object]:
    """What the models say and the database does not, or the other way round; partitions aside."""
    engine = make_engine(url)
    with engine.connect() as connection:
        options = {
            "compare_server_default": True,
            "include_name": lambda name, kind, _: not (kind == "table" and "_r" in name and name[-1].isdigit()),
        }
        found = list(compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata))
    engine.dispose()
    return [each for each in found if "alembic_version" not in str(each)]


def test_schema_when_made_then_it_is_what_the_models_say_partitions_aside(url: str) -> None:
    upgrade(url)
    ledger = Ledger(url)
    load(ledger, 10)
    assert ledger.schema_is_ours()
    ledger.close()
    assert differences(url) == []


def test_schema_when_taken_back_then_nothing_is_left_and_it_can_be_made_again(url: str) -> None:
    upgrade(url)
    ledger = Ledger(url)
    load(ledger, 10)
    ledger.close()
    downgrade(url, "base")
    assert current(url) is None
    assert execute(url, TABLES) == [(1,)], "only Alembic's own is left"
    upgrade(url)
    assert current(url) == head()
    assert differences(url) == []


def test_schema_when_made_twice_then_the_second_changes_nothing(url: str) -> None:
    upgrade(url)
    upgrade(url)
    check_schema(url)


def test_schema_when_several_make_it_at_once_then_they_take_turns(url: str) -> None:
    program = "import sys; from workers.ledger.db import upgrade; upgrade(sys.argv[1])"
    others = [subprocess.Popen([sys.executable, "-c", program, url], cwd=ROOT) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(upgrade, url) for _ in range(2)]:
            future.result()
    assert [other.wait(timeout=120) for other in others] == [0, 0]
    check_schema(url)


def test_schema_when_there_are_no_tables_then_the_error_says_what_to_do(url: str) -> None:
    with pytest.raises(LedgerError, match=r"no tables yet, this version needs .*rsembed fleet db upgrade"):
        check_schema(url)
    with pytest.raises(LedgerError, match="rsembed fleet db upgrade"):
        Ledger(url).runs()


def test_schema_when_it_is_newer_than_the_code_then_the_error_says_what_to_do(url: str) -> None:
    upgrade(url)
    execute(url, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match="schema 9999, which this version does not know"):
        check_schema(url)


def test_schema_when_a_lock_cannot_be_had_then_nothing_is_changed_and_nobody_waits_behind_it(url: str) -> None:
    upgrade(url)
    engine = make_engine(url)
    with engine.connect() as reader:
        reader.exec_driver_sql("SELECT count(*) FROM runs")
        with pytest.raises(LedgerUnavailableError, match="lock timeout"):
            downgrade(url, "base")
        reader.rollback()
    engine.dispose()
    check_schema(url)


def test_database_when_it_is_not_there_then_the_error_hides_the_password() -> None:
    with pytest.raises(LedgerUnavailableError) as caught:
        current("postgresql://me:secret@127.0.0.1:1/nowhere")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1/nowhere did not answer" in str(caught.value)
