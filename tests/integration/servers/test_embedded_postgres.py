"""The embedded Postgres: real servers, killed in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg2
import pytest

from workers.servers import EmbeddedPostgres, ServerError
from workers.servers.children import command_line, processes_in, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    postgres = EmbeddedPostgres(tmp_path / "pg", durable=False)
    yield postgres
    postgres.remove()


def ask(postgres: EmbeddedPostgres, statement: str) -> object:
    """First value of ``statement``'s answer; None where it has none."""
    connection = psycopg2.connect(postgres.url)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        connection.close()


def running_pid(postgres: EmbeddedPostgres) -> int:
    pid = postgres.pid
    assert pid is not None
    return pid


def test_postgres_when_started_then_it_answers_as_an_ordinary_user_without_a_port(server: EmbeddedPostgres) -> None:
    server.start()
    assert ask(server, "SELECT 1") == 1
    assert ask(server, "SELECT current_database()") == "rsembed"
    assert ask(server, "SHOW listen_addresses") == ""
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0
    assert server.place.socket_path().stat().st_mode & 0o777 == 0o700


def test_postgres_when_stopped_then_no_process_is_left_and_the_data_stay(server: EmbeddedPostgres) -> None:
    server.start()
    ask(server, "CREATE TABLE kept AS SELECT 7 AS x")
    pid = running_pid(server)
    server.stop()
    assert not command_line(pid)
    assert not list(processes_in(server.data))
    server.start()
    assert ask(server, "SELECT x FROM kept") == 7


def test_postgres_when_stopped_at_once_then_it_recovers_what_was_committed(server: EmbeddedPostgres) -> None:
    server.start()
    ask(server, "CREATE TABLE kept AS SELECT 8 AS x")
    server.stop("immediate")
    server.start()
    assert ask(server, "SELECT x FROM kept") == 8


def test_postgres_when_its_postmaster_is_killed_then_it_starts_again(server: EmbeddedPostgres) -> None:
    url = server.start()
    ask(server, "CREATE TABLE kept AS SELECT 9 AS x")
    busy = psycopg2.connect(server.url)  # a backend that outlives its postmaster for a moment
    os.kill(running_pid(server), signal.SIGKILL)
    assert server.start() == url
    assert ask(server, "SELECT x FROM kept") == 9
    busy.close()


def test_postgres_when_its_pid_file_names_a_stranger_then_the_stranger_survives(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        sockets = server.place.socket_folder()
        text = f"{stranger.pid}\n{server.data}\n{int(time.time())}\n5432\n{sockets}\n\n"
        (server.data / "postmaster.pid").write_text(text)
        (sockets / ".s.PGSQL.5432.lock").write_text(text)
        assert server.pid is None
        server.start()
        assert ask(server, "SELECT 1") == 1
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_postgres_when_two_folders_run_then_each_has_its_own_data(tmp_path: Path) -> None:
    first, second = (EmbeddedPostgres(tmp_path / name, durable=False) for name in ("a", "b"))
    try:
        first.start()
        second.start()
        ask(first, "CREATE TABLE only_here (x int)")
        assert ask(second, "SELECT to_regclass('only_here')") is None
        first.stop()
        assert ask(second, "SELECT 1") == 1
    finally:
        first.remove()
        second.remove()


def test_postgres_when_another_holds_the_folder_then_it_says_who(server: EmbeddedPostgres) -> None:
    server.start()
    with pytest.raises(ServerError, match=rf"in use by process {os.getpid()}"):
        EmbeddedPostgres(server.place.asked).start()
    assert ask(server, "SELECT 1") == 1


def test_postgres_when_the_process_that_started_it_is_killed_then_it_ends_and_can_be_started(
    server: EmbeddedPostgres,
) -> None:
    program = (
        "import pathlib, sys, time; from workers.servers import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False); server.start()\n"
        "print(server.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(server.place.asked)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    assert wait_until(lambda: not command_line(pid), 20.0)
    server.start()
    assert ask(server, "SELECT 1") == 1


def test_postgres_when_the_wheel_lacks_the_data_s_version_then_it_says_so(server: EmbeddedPostgres) -> None:
    server.start()
    server.stop()
    (server.data / "PG_VERSION").write_text("9\n")
    with pytest.raises(ServerError, match="made by Postgres 9"):
        server.start()
