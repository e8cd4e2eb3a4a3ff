"""The embedded Redis: real servers, killed in every way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from workers.servers import EmbeddedRedis, ServerError
from workers.servers.children import command_line, processes_in


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    redis = EmbeddedRedis(tmp_path / "redis")
    yield redis
    redis.remove()


def client(server: EmbeddedRedis) -> Redis:
    return Redis(unix_socket_path=str(server.socket), decode_responses=True)


def running_pid(server: EmbeddedRedis) -> int:
    pid = server.pid
    assert pid is not None
    return pid


def test_redis_when_started_then_it_refuses_to_evict_keeps_nothing_and_opens_no_port(server: EmbeddedRedis) -> None:
    assert server.start() == f"redis+socket://{server.socket}"
    with client(server) as redis:
        assert redis.ping()
        assert redis.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert redis.config_get("maxmemory")["maxmemory"] == str(256 * 2**20)
        assert redis.config_get("save")["save"] == ""
        assert redis.config_get("port")["port"] == "0"
    assert Path(f"/proc/{server.pid}").stat().st_uid != 0


def test_redis_when_stopped_then_no_process_is_left(server: EmbeddedRedis) -> None:
    server.start()
    pid = running_pid(server)
    server.stop()
    assert not command_line(pid)
    assert not list(processes_in(server.data))


def test_redis_when_killed_then_it_starts_again_at_the_same_place(server: EmbeddedRedis) -> None:
    url = server.start()
    os.kill(running_pid(server), signal.SIGKILL)
    assert server.start() == url
    with client(server) as redis:
        assert redis.ping()


def test_redis_when_its_pid_file_names_a_stranger_then_the_stranger_survives(server: EmbeddedRedis) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        (server.place.folder / "redis.pid").write_text(f"{stranger.pid}\n")
        server.start()
        server.stop()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_redis_when_another_holds_the_folder_then_it_says_who(server: EmbeddedRedis) -> None:
    server.start()
    with pytest.raises(ServerError, match=rf"in use by process {os.getpid()}"):
        EmbeddedRedis(server.place.asked).start()
