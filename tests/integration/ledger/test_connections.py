"""Connections that break at the worst moment, and how few of them there are."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import event
from sqlalchemy.engine import make_url

from tests.ledger_parts import (
    admit_all,
    claim_shard,
    claim_unit,
    execute,
    fetch_all,
    load,
    outcomes,
    part_of,
    worker,
)
from workers.ledger.errors import LedgerUnavailableError
from workers.ledger.repository import Ledger


class Proxy:
    """Stands between ledger and server. Armed, it swallows the answer to the next COMMIT and cuts the line."""

    def __init__(self, url: str) -> None:
        target = make_url(url)
        folder = target.query.get("host")
        self._target = f"{folder}/.s.PGSQL.{target.port or 5432}" if folder else (target.host, target.port or 5432)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = target.set(
            host="127.0.0.1", port=self._server.getsockname()[1], query={"sslmode": "disable", "gssencmode": "disable"}
        ).render_as_string(hide_password=False)
        self.armed = threading.Event()
        self.cut = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.socket(socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET)
                server.connect(self._target)
                committing = threading.Event()
                threading.Thread(target=self._up, args=(client, server, committing), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server, committing), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, committing: threading.Event) -> None:
        with suppress(OSError), client, server:
            while data := client.recv(1 << 16):
                if self.armed.is_set() and b"COMMIT" in data:
                    self.armed.clear()
                    committing.set()
                server.sendall(data)

    def _down(self, client: socket.socket, server: socket.socket, committing: threading.Event) -> None:
        with suppress(OSError), client, server:
            while data := server.recv(1 << 16):
                if committing.is_set():
                    self.cut += 1
                    client.shutdown(socket.SHUT_RDWR)
                    return
                client.sendall(data)

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()


@pytest.fixture
def proxy(ledger_url: str) -> Iterator[Proxy]:
    between = Proxy(ledger_url)
    yield between
    between.close()


@pytest.fixture
def shaky(proxy: Proxy, ledger: Ledger) -> Iterator[Ledger]:
    """A ledger behind the proxy."""
    own = Ledger(proxy.url)
    try:
        own.ping()
    except LedgerUnavailableError as exc:
        pytest.skip(f"the server takes no password-less connection through a proxy: {exc}")
    yield own
    own.close()


def test_claim_when_the_answer_to_its_commit_is_lost_then_the_same_unit_is_given_all_the_same(
    proxy: Proxy, shaky: Ledger, ledger: Ledger
) -> None:
    run = load(ledger)
    admit_all(ledger)
    proxy.armed.set()
    unit = claim_unit(shaky)
    assert proxy.cut == 1
    assert unit is not None
    assert ledger.status(run.id).stages[0].leased_units == 1
    assert ledger.settle_rows(unit.token, outcomes(unit)).kept


def test_settle_when_the_answer_to_its_commit_is_lost_then_it_is_a_success_and_counted_once(
    proxy: Proxy, shaky: Ledger, ledger: Ledger
) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    unit = claim_unit(shaky)
    assert unit is not None
    proxy.armed.set()
    first = shaky.settle_rows(unit.token, outcomes(unit, range(5), failed=[2]), requests=5)
    proxy.armed.set()
    second = shaky.settle_rows(unit.token, outcomes(unit, range(5, 10)), requests=5)
    assert (first.kept, first.open_rows, second.kept, second.open_rows, proxy.cut) == (True, 5, True, 0, 2)
    assert ledger.status(run.id).requests == 10
    assert ledger.check() == []


def test_shard_when_the_answers_to_its_commits_are_lost_then_it_is_claimed_and_settled_once(
    proxy: Proxy, shaky: Ledger, ledger: Ledger
) -> None:
    run = load(ledger, 10)
    admit_all(ledger)
    fetch_all(ledger)
    proxy.armed.set()
    shard = claim_shard(shaky)
    assert shard is not None
    proxy.armed.set()
    assert shaky.settle_shard(shard.token, part_of(shard))
    assert proxy.cut == 2
    assert len(ledger.file_records(run.id)) == 1
    assert ledger.check() == []


def test_call_when_the_server_cut_idle_connections_then_it_is_made_on_a_new_one(
    ledger_url: str, ledger: Ledger
) -> None:
    ledger.ping()
    execute(
        ledger_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert ledger.runs() == []


def test_call_when_the_server_is_away_then_the_error_is_transient(ledger_url: str) -> None:
    away = make_url(ledger_url).set(host="127.0.0.1", port=1, query={}).render_as_string(hide_password=False)
    with pytest.raises(LedgerUnavailableError) as caught:
        Ledger(away).ping()
    assert caught.value.transient


def test_process_when_many_threads_use_the_ledger_then_it_has_two_connections_at_most(
    ledger_url: str, ledger: Ledger
) -> None:
    load(ledger, 300)
    admit_all(ledger)
    mine = worker(ledger)
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(claim_unit, ledger, mine) for _ in range(40)]
        open_now = execute(
            ledger_url,
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() "
            "AND application_name = 'rsembed'",
        )
        assert all(future.result() is not None for future in futures)
    ((count,),) = open_now
    assert int(str(count)) <= 2


@contextmanager
def statements(ledger: Ledger) -> Iterator[list[str]]:
    """What the ledger asks the server inside the block."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        seen.append(statement)

    event.listen(ledger._engine, "before_cursor_execute", note)  # noqa: SLF001 - there is no other way to listen
    yield seen
    event.remove(ledger._engine, "before_cursor_execute", note)  # noqa: SLF001


def test_statements_when_workers_make_them_then_they_leave_nothing_in_the_session(ledger: Ledger) -> None:
    """What a transaction pooler would mix up between clients."""
    with statements(ledger) as seen:
        load(ledger, 20)
        admit_all(ledger)
        fetch_all(ledger, failed=[1])
        mine = worker(ledger)
        while (shard := claim_shard(ledger, mine)) is not None:
            ledger.heartbeat(mine, [shard.token], lease_s=20)
            ledger.settle_shard(shard.token, part_of(shard))
    assert len(seen) > 50
    session = re.compile(r"^\s*(SET(?! LOCAL)|PREPARE|LISTEN|DECLARE|CREATE TEMP)|pg_advisory_lock|set_config")
    assert [statement for statement in seen if session.search(statement)] == []


def test_statements_when_they_open_a_run_table_then_one_partition_is_looked_at(ledger_url: str, ledger: Ledger) -> None:
    runs = [load(ledger, 10) for _ in range(3)]
    admit_all(ledger)
    fetch_all(ledger)
    plan = "\n".join(
        str(line)
        for (line,) in execute(
            ledger_url,
            f"EXPLAIN SELECT * FROM rows r JOIN fetch_jobs j ON j.run_id = {runs[1].id} AND j.seq = r.seq "
            f"WHERE r.run_id = {runs[1].id}",
        )
    )
    assert set(re.findall(r"(?:rows|fetch_jobs)_r\d+", plan)) == {f"rows_r{runs[1].id}", f"fetch_jobs_r{runs[1].id}"}
